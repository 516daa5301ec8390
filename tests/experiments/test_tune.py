from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from metarec.runs import load_records

Script = Callable[..., int]


def test_tuning_writes_the_best_values_the_record_that_chose_them_and_a_table(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = (
        "tune",
        "-m",
        "learner=random,popularity,item_knn",
        "tuning.trials=3",
        f"tuning.configs={tmp_path / 'configs'}",
        f"tuning.paper={tmp_path / 'paper'}",
    )
    assert script(*call) == 0
    folder = tmp_path / "configs/learner/best/binary"
    best = yaml.safe_load((folder / "item_knn.yaml").read_text())
    assert best.pop("defaults") == ["/learner/item_knn@_here_", "_self_"]
    tuned = best.pop("tuned")
    assert best.keys() == {"neighbours", "shrinkage", "dislike_weight", "prior_weight"}
    assert tuned == {"data": "interactions", "kind": "binary", "values": best}
    file = tmp_path / "paper/records/tuning/binary/item_knn.json"
    first = json.loads(file.read_text())
    assert len(first["trials"]) == 3
    # popularity has two values to choose from, and random none
    records = load_records(tmp_path / "results", "tuning")
    names = sorted(record.learner for record in records)
    assert names == ["item_knn"] * 3 + ["popularity"] * 2 + ["random"]
    assert all(record.metrics.keys() == {"validation"} for record in records)
    assert sorted(one.name for one in folder.iterdir()) == ["item_knn.yaml", "popularity.yaml"]
    out = capsys.readouterr().out
    assert "Trials of item_knn" in out
    assert "random has nothing to tune, so that only its defaults were run" in out
    assert "popularity has 2 trials, not 3: its search has no more values" in out
    table = (tmp_path / "paper/tables/tuning_binary.md").read_text()
    assert all(f"| {name} |" in table for name in ("Random", "Popularity", "Item-kNN"))

    # a second call runs nothing, and ends in the same
    assert script(*call) == 0
    assert json.loads(file.read_text()) == first
    assert len(load_records(tmp_path / "results", "tuning")) == 6


def test_a_learner_that_cannot_be_tuned_is_an_error_and_the_next_is_tuned(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = script(
        "tune",
        "-m",
        "learner=tfidf_cosine,popularity",
        "episode=item",
        f"tuning.configs={tmp_path / 'configs'}",
        f"tuning.paper={tmp_path / 'paper'}",
    )
    assert status == 1
    assert "tfidf_cosine (item)" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "configs/learner/best/item/popularity.yaml").exists()


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("episode.feedback=rating", "rating"),
        ("episode.task=item", "item"),
        # a set-up of ratings that is no publication's
        ("protocol=legacy", "rating"),
    ],
)
def test_values_go_where_the_tasks_and_the_feedback_say_whatever_episode_was_chosen(
    given: str, kind: str, script: Script, tmp_path: Path
) -> None:
    assert tuned(script, tmp_path, given) == 0
    assert written(tmp_path) == [f"best/{kind}/popularity.yaml"]
    small = json.loads((tmp_path / f"paper/records/tuning/{kind}/popularity.json").read_text())
    assert small["command"].startswith("python experiments/tune.py learner=popularity ")
    assert given in small["command"].split()
    # neither the folders of the call nor its settings, which change nothing of what is written
    assert str(tmp_path) not in small["command"]
    assert small["protocol"] is None


def test_values_that_were_tuned_on_other_data_are_not_replaced(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuned(script, tmp_path) == 0
    file = tmp_path / "paper/records/tuning/binary/popularity.json"
    before = file.read_text()
    checksum = json.loads(before)["data_checksum"]
    file.write_text(before.replace(checksum, "0" * 64))
    assert tuned(script, tmp_path) == 1
    told = "".join(capsys.readouterr().out.splitlines())
    assert re.search(
        rf"has the trials on \w+ \(checksum 0{{12}}\), which those on \w+ \(checksum "
        rf"{checksum[:12]}\) would replace; remove it",
        told,
    )
    assert "0" * 64 in file.read_text()


def test_values_for_a_protocol_have_its_name_and_its_own_score(
    script: Script, states: Path, tmp_path: Path
) -> None:
    given = (
        "protocol=melu",
        f"split.source={states}",
        "split.validation_users=0.3",
        "protocol.history=[5,100]",
        "protocol.query=3",
        "evaluation.regimes=[warm,user_cold]",
    )
    assert tuned(script, tmp_path, *given, learner="item_mean") == 0
    assert written(tmp_path) == ["best/melu/item_mean.yaml"]
    small = json.loads((tmp_path / "paper/records/tuning/melu/item_mean.json").read_text())
    assert small["command"].startswith("python experiments/tune.py learner=item_mean ")
    assert {*given} - {given[1]} <= {*small["command"].split()}
    assert "split.source=…" in small["command"]
    assert small["protocol"]["name"] == "melu"
    assert small["selection"] == (
        "mean over all regimes of minus validation rated/mae, by protocol=melu"
    )
    for trial in small["trials"]:
        assert trial["mae"].keys() == {"warm", "user_cold"}
        assert trial["selection"] == pytest.approx(-sum(trial["mae"].values()) / 2)
    table = (tmp_path / "paper/tables/tuning_melu.md").read_text()
    assert "protocol=melu" in table.splitlines()[0]


def tuned(script: Script, tmp_path: Path, *given: str, learner: str = "popularity") -> int:
    """Two trials of a quick learner."""
    folders = f"tuning.configs={tmp_path / 'configs'}", f"tuning.paper={tmp_path / 'paper'}"
    return script("tune", f"learner={learner}", "tuning.trials=2", *folders, *given)


def written(tmp_path: Path) -> list[str]:
    """The configurations with best values."""
    folder = tmp_path / "configs/learner"
    return [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.yaml"))]


def test_an_unknown_setting_is_an_error_that_names_the_nearest(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("tune", "learner=popularity", "tuning.trial=3") == 1
    assert "'tuning.trial'; did you mean 'trials'" in capsys.readouterr().out
