"""`experiments/protocols.py` from end to end on small data, with files that it writes itself."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from metarec.data.dataset import Dataset
from metarec.runs import RunConfig, load_records

Script = Callable[..., int]
ROOT = Path(__file__).resolve().parents[2]
TUNED = yaml.safe_load((ROOT / "configs/learner/best/rating/item_mean.yaml").read_text())


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("selection", "notes"):
        monkeypatch.setattr(f"metarec.report.{module}.RESAMPLES", 200)


@pytest.fixture
def files(tiny_dataset: Dataset, tmp_path: Path, states: Path) -> list[str]:
    """Overrides that name the published files: tasks of 3 queries, and states."""
    data = tiny_dataset
    lines = ["part,user_id,query_item_ids"]
    for user in range(data.n_users):
        part = ("train", "train", "train", "valid", "test")[user % 5]
        asked = data.item_ids[data.items[data.users == user][:3]]
        lines.append(f"{part},{data.user_ids[user]},{' '.join(asked)}")
    (tmp_path / "tasks.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [
        f"plan.files.recbole_metarec={tmp_path / 'tasks.csv'}",
        f"plan.files.melu={states}",
    ]


@pytest.fixture
def protocols(script: Script, files: list[str], tmp_path: Path) -> Script:
    """`experiments/protocols.py` with two quick learners, few seeds and two random splits."""

    def call(*overrides: str) -> int:
        return script(
            "protocols",
            *files,
            "protocol.history=[5,100]",
            "protocol.query=3",
            "plan.workers=1",
            "plan.learners=[random,item_mean]",
            "plan.stages.melu.learners=[item_mean,random]",
            "plan.stages.recbole_metarec_published.seeds=[0]",
            "plan.stages.recbole_metarec_splits.splits=2",
            "plan.stages.melu.seeds=[0]",
            f"plan.paper={tmp_path / 'paper'}",
            *overrides,
        )

    return call


def test_it_runs_all_stages_and_puts_the_figures_side_by_side(
    protocols: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert protocols() == 0
    records = load_records(tmp_path / "results", "protocols")
    runs = {
        (one.config.protocol.name, one.config.split.method, one.learner, one.config.split.seed)
        for one in records
        if one.config.protocol is not None
    }
    own, drawn = ("recbole_metarec", "recbole_metarec"), ("recbole_metarec", "seed")
    assert runs == {
        *((*own, learner, 0) for learner in ("random", "item_mean")),
        *((*drawn, learner, split) for learner in ("random", "item_mean") for split in (0, 1)),
        *(("melu", "melu", learner, 0) for learner in ("item_mean", "random")),
    }
    # a random split has queries and a training of its own
    assert all(
        one.seed == one.config.split.seed for one in records if one.config.split.method == "seed"
    )
    assert {
        name: set(one.metrics["test"])
        for one in records
        if one.config.protocol and (name := one.config.protocol.name)
    } == {"recbole_metarec": {"user_cold"}, "melu": {"warm", "user_cold", "item_cold", "both_cold"}}
    printed = capsys.readouterr().out
    assert "8 runs finished, 0 failed" in printed
    assert "FOMeLU" in printed
    tables = tmp_path / "paper" / "tables"
    for name in ("recbole_metarec", "recbole_metarec_splits", "melu", "melu_ndcg_1"):
        assert (tables / f"protocol_{name}.tex").stat().st_size > 0
        assert json.loads((tmp_path / "paper/records" / f"protocol_{name}.json").read_text())
    melu = (tables / "protocol_melu.md").read_text()
    assert "| MeLU, best reproduction | .680 | .740 | .900 | .890 |" in melu
    assert "| Item mean |" in melu
    assert "P@5, minus item mean" in (tables / "protocol_recbole_metarec_splits.md").read_text()

    # what is finished is not run again
    times = {one.path: (one.path / "record.json").stat().st_mtime_ns for one in records}
    assert protocols("plan.protocols=[melu]") == 0
    assert "2 runs finished" in capsys.readouterr().out
    again = load_records(tmp_path / "results", "protocols")
    assert {one.path: (one.path / "record.json").stat().st_mtime_ns for one in again} == times


def test_on_validation_nothing_is_tested_and_no_table_is_made(
    protocols: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["split.validation_users=0.3", "evaluation.parts=[validation]"]
    regimes = "evaluation.regimes=[warm,user_cold]"
    assert protocols("plan.protocols=[melu]", *given, regimes) == 0
    records = load_records(tmp_path / "results", "protocols")
    assert all(one.metrics.keys() == {"validation"} for one in records)
    printed = capsys.readouterr().out
    (one,) = [one for one in records if one.learner == "item_mean"]
    found = {regime: metrics["rated/mae"] for regime, metrics in one.metrics["validation"].items()}
    means = f"warm {found['warm']:.4f}, user_cold {found['user_cold']:.4f}"
    assert f"melu, rated/mae on validation: item_mean {means}" in printed
    # a random order predicts no ratings
    assert "melu, rated/mae on validation: random –" in printed
    assert not (tmp_path / "paper").exists()


def test_a_run_that_fails_is_named_and_the_others_stand_in_the_table(
    protocols: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = ["plan.protocols=[recbole_metarec]", "plan.stages.recbole_metarec_splits.splits=1"]
    # the data have no times
    wrong = "plan.stages.recbole_metarec_splits.set=['split.method=time']"
    assert protocols(*stages, wrong) == 1
    printed = capsys.readouterr().out
    assert "2 runs finished, 2 failed" in printed
    assert "failed recbole_metarec: item_mean, split 0, seed 0: SplitError" in printed
    assert (tmp_path / "paper" / "tables" / "protocol_recbole_metarec.md").is_file()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.protocols=[melo]", "no stage of 'melo'; did you mean 'melu'?"),
        ("plan.files.melu=null", "plan.files.melu=… (melu)"),
        ("plan.files.melu=nowhere", "plan.files.melu=nowhere (melu)"),
        ("+plan.stages.melu.seed=1", "unknown key 'plan.stages.melu.seed'; did you mean 'seeds'?"),
        ("experiment=paper", "choose experiment=protocols"),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_anything_runs(
    protocols: Script,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    message: str,
) -> None:
    assert protocols(override) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_the_plan_names_the_files_of_each_protocol(tmp_path: Path) -> None:
    for name in ("states", "ml-1m", "ml-100k", "tasks"):
        (tmp_path / name).mkdir()
    given = {"melu": "states", "ml_1m": "ml-1m", "ml_100k": "ml-100k", "recbole_metarec": "tasks"}
    made: Any = runpy.run_path(str(ROOT / "experiments" / "protocols.py"), run_name="plan")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        plan = made["Plan"](
            [
                "experiment=protocols",
                *(f"plan.files.{key}={tmp_path / name}" for key, name in given.items()),
                "plan.learners=[item_mean,als]",
                "plan.stages.melu.learners=[item_mean]",
                "plan.protocols=[recbole_metarec,recbole_metarec_ml_1m,melu,tanp,mamo,mamo_ml_100k]",
            ]
        )
        runs = plan.runs()
    # ALS takes no ratings; each split is complete before the next
    assert {name: len(own) for name, own in runs.items()} == {
        "recbole_metarec_published": 11,
        "recbole_metarec_splits": 20,
        "recbole_metarec_ml_1m": 5,
        "melu": 5,
        "tanp": 5,
        "mamo": 5,
        "mamo_ml_100k": 10,
    }
    assert [(one.split.seed, one.seed) for one in runs["recbole_metarec_splits"]] == [
        (seed, seed) for seed in range(20)
    ]
    first = {name: own[0] for name, own in runs.items()}
    assert {name: (one.data.folder, one.split.source) for name, one in first.items()} == {
        "recbole_metarec_published": (str(tmp_path / "ml-100k"), str(tmp_path / "tasks")),
        "recbole_metarec_splits": (str(tmp_path / "ml-100k"), None),
        "recbole_metarec_ml_1m": (str(tmp_path / "ml-1m"), None),
        "melu": (str(tmp_path / "ml-1m"), str(tmp_path / "states")),
        "tanp": (str(tmp_path / "ml-1m"), None),
        "mamo": (str(tmp_path / "ml-1m"), None),
        "mamo_ml_100k": (str(tmp_path / "ml-100k"), None),
    }
    assert first["recbole_metarec_published"].split.method == "recbole_metarec"
    assert first["mamo"].episode.order == "time"
    assert first["melu"].data.options == {"extra": True}
    assert first["tanp"].data.options == {}
    # tuned values where there are any
    assert first["melu"].learner.arguments["shrinkage"] == TUNED["shrinkage"]


def test_a_data_set_of_ones_own_takes_the_place_of_the_files_of_a_stage(tmp_path: Path) -> None:
    made: Any = runpy.run_path(str(ROOT / "experiments" / "protocols.py"), run_name="plan")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        own = ["data=ml-100k", f"data.folder={tmp_path}", "plan.learners=[item_mean]"]
        plan = made["Plan"](["experiment=protocols", *own, "plan.protocols=[mamo_ml_100k]"])
        (runs,) = plan.runs().values()
    assert {(one.data.name, one.data.folder) for one in runs} == {("ml-100k", str(tmp_path))}
    assert [one.split.seed for one in runs] == list(range(10))


@pytest.mark.parametrize("times", [None, np.arange(3)])
def test_shots_are_random_where_the_data_have_no_times_to_order_them_by(
    times: np.ndarray | None, capsys: pytest.CaptureFixture[str]
) -> None:
    made: Any = runpy.run_path(str(ROOT / "experiments" / "protocols.py"), run_name="plan")
    materials = SimpleNamespace(dataset=SimpleNamespace(times=times))
    made["in_some_order"].__globals__["prepare"] = lambda *_, **__: materials
    learner = {"name": "random", "_target_": "metarec.baselines.Random"}
    runs = [RunConfig.from_dict({"episode": {"order": "time"}, "learner": learner})] * 2
    orders = [one.episode.order for one in made["in_some_order"]("mamo", runs)]
    said = "mamo: shots are drawn at random" in capsys.readouterr().out
    assert (orders, said) == ((["random"] * 2, True) if times is None else (["time"] * 2, False))


def test_values_that_were_tuned_under_the_protocol_are_taken_before_those_for_ratings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("states", "ml-1m"):
        (tmp_path / name).mkdir()
    configs = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", configs)
    best = configs / "learner" / "best" / "melu" / "item_mean.yaml"
    best.parent.mkdir()
    best.write_text("defaults: [/learner/item_mean@_here_, _self_]\nshrinkage: 7.0\n")
    made: Any = runpy.run_path(str(ROOT / "experiments" / "protocols.py"), run_name="plan")
    monkeypatch.setitem(made["Plan"]._run.__globals__, "CONFIGS", configs)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(configs), version_base="1.3"):
        files = f"plan.files.ml_1m={tmp_path / 'ml-1m'}", f"plan.files.melu={tmp_path / 'states'}"
        learners = "plan.stages.melu.learners=[item_mean]", "plan.learners=[item_mean]"
        own = ("experiment=protocols", *files, *learners, "plan.protocols=[melu,tanp]")
        runs = made["Plan"](own).runs()
    found = {name: one[0].learner.arguments["shrinkage"] for name, one in runs.items()}
    assert found == {"melu": 7.0, "tanp": TUNED["shrinkage"]}


def test_the_data_set_of_a_stage_keeps_its_options_when_the_call_names_it_itself(
    tmp_path: Path,
) -> None:
    """MeLU's movies have certificates and people, of which data of one's own know nothing."""
    made: Any = runpy.run_path(str(ROOT / "experiments" / "protocols.py"), run_name="plan")
    (tmp_path / "states").mkdir()
    call = ("experiment=protocols", "plan.protocols=[melu]", f"data.folder={tmp_path}")
    call += (f"plan.files.melu={tmp_path / 'states'}", "plan.stages.melu.learners=[random]")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        found = {
            name: made["Plan"]((*call, f"data={name}")).runs()["melu"][0].data.options
            for name in ("ml-1m", "ml-100k")
        }
    assert found["ml-1m"]["extra"] is True
    assert "extra" not in found["ml-100k"]
