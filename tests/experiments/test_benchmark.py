from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metarec.runs import load_records

Script = Callable[..., int]


def test_one_run_leaves_one_record_and_nothing_else(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(tmp_path.iterdir())
    assert script("benchmark", "learner=popularity", "seed=1") == 0
    (record,) = load_records(tmp_path / "results", "benchmark")
    assert (record.learner, record.seed, record.status) == ("popularity", 1, "finished")
    output = capsys.readouterr().out
    assert record.path.name in output
    assert "test catalogue/ndcg@10: warm" in output
    assert set(tmp_path.iterdir()) - before == {tmp_path / "results"}


def test_a_sweep_makes_a_record_each_and_skips_what_is_finished(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("benchmark", "learner=popularity", "seed=0") == 0
    capsys.readouterr()
    assert script("benchmark", "-m", "learner=popularity,random", "seed=0,1") == 0
    output = capsys.readouterr().out
    assert output.count("finished before:") == 1
    assert "4 runs finished, 0 failed" in output
    records = load_records(tmp_path / "results")
    assert sorted((record.learner, record.seed) for record in records) == [
        ("popularity", 0),
        ("popularity", 1),
        ("random", 0),
        ("random", 1),
    ]


def test_a_failed_run_leaves_its_error_and_the_sweep_goes_on_and_says_so(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = script(
        "benchmark",
        "-m",
        "learner=random",
        "~learner.seed",
        "learner._target_=fake_learners.Broken,fake_learners.Walk",
    )
    assert status == 1
    output = capsys.readouterr().out
    assert "RuntimeError: the loss is NaN at step 3" in output
    assert "1 runs finished, 1 failed" in output
    assert "learner._target_=fake_learners.Broken" in output.splitlines()[-1]
    records = load_records(tmp_path / "results")
    assert sorted(record.status for record in records) == ["failed", "finished"]
    (failed,) = (record for record in records if record.status == "failed")
    assert failed.error == "RuntimeError: the loss is NaN at step 3"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeed=1", "'seeed'; did you mean 'seed'?"),
        ("episode.kshot=1", "'episode.kshot'; did you mean 'k_shot'?"),
        ("learner.off=all", "no argument 'off'; did you mean 'of'?"),
        ("episode.k_shot=1000", "k_shot"),
        ("data.options.interactions=nowhere.csv", "nowhere.csv"),
    ],
)
def test_a_wrong_key_or_value_ends_in_one_clear_error(
    script: Script, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert script("benchmark", "learner=popularity", override) == 1
    captured = capsys.readouterr()
    assert message in captured.out
    assert "Traceback" not in captured.out + captured.err


def test_an_unknown_learner_name_is_an_error_that_lists_the_known_ones(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("benchmark", "learner=popularty") == 1
    error = capsys.readouterr().err
    assert "learner/popularty" in error
    assert "\tpopularity" in error


def test_jax_computes_what_pytorch_does_and_its_record_says_so(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("benchmark", "learner=maml", "backend=jax", "learner.steps=2") == 0
    (record,) = load_records(tmp_path / "results")
    assert record.config.backend.name == "jax"
    assert record.config.learner.target == "metarec.jax.maml.MAML"
    assert record.content["device"] == "cpu"


def test_the_legacy_ranking_is_printed_with_its_chance_level(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("benchmark", "protocol=legacy", "episode.k_shot=3", "learner=item_mean") == 0
    lines = [line.split(":")[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[-2:] == ["test rated/ndcg@10", "test rated/chance/ndcg@10"]


def test_a_run_that_reranks_is_printed_with_what_was_drawn(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["learner=popularity", "evaluation=rerank", "evaluation.shortlist=5"]
    assert script("benchmark", *overrides, "episode.k_shot=3") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    (record,) = load_records(tmp_path / "results")
    recall = record.content["counts"]["test"]["user_cold"]["recall"]
    assert lines[-2].startswith("test catalogue/ndcg@10: user_cold")
    assert lines[-1] == f"test shortlist/recall: user_cold {recall:.4f} (5 drawn by item_knn)"
    ease = "learner/best/binary@evaluation.retriever=ease"
    assert script("benchmark", *overrides, ease) == 0
    assert "(5 drawn by ease)" in capsys.readouterr().out
    assert script("benchmark", *overrides, "evaluation.shortlist=0") == 1
    assert "evaluation.retriever=item_knn has nothing to draw" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["recbole_metarec", "tanp", "mamo"])
def test_a_published_protocol_measures_what_a_task_rated_itself(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shots = ["protocol.history=[8,100]", "protocol.support=5", "protocol.query=3"]
    given = ["learner=item_mean", f"protocol={name}", "episode.order=random", *shots]
    assert script("benchmark", *given) == 0
    (record,) = load_records(tmp_path / "results", "benchmark")
    assert record.config.protocol is not None
    assert record.config.protocol.name == name
    frame = record.per_task
    assert (frame["n_query"] == 3).all()
    assert not [column for column in frame if column.startswith("catalogue/")]
    precision = f"best_rated/chance/precision@{record.config.evaluation.cutoffs[0]}"
    for part in ("validation", "test"):
        found, level = record.metrics[part]["user_cold"], record.chance[part]["user_cold"]
        assert level[precision] == 1.0  # of three queries
        own = frame[(frame["part"] == part) & frame["adapted"]]
        assert found["rated/mae"] == pytest.approx(own["rated/mae"].mean())
    selection = record.config.protocol.selection
    sign = -1 if selection == "rated/mae" else 1
    assert record.selection == sign * record.metrics["validation"]["user_cold"][selection]
    printed = capsys.readouterr().out
    assert f"test {selection}: user_cold" in printed
    assert "catalogue" not in printed


def test_a_published_protocol_trains_a_learner_and_stops_it_by_its_own_metric(
    script: Script, tmp_path: Path
) -> None:
    given = ["learner=maml", "protocol=recbole_metarec", "protocol.history=[8,100]"]
    small = ["learner.steps=4", "learner.validate_every=2", "learner.hidden_sizes=[4]"]
    bert = ["text.checkpoint=minilm"]
    assert script("benchmark", *given, *small, *bert, "protocol.query=3") == 0
    (record,) = load_records(tmp_path / "results", "benchmark")
    looks = [entry["validation"] for entry in record.log if "validation" in entry]
    assert len(looks) == 3
    assert all(0 <= look <= 1 for look in looks)
    assert record.without_adaptation["test"]["user_cold"]["rated/mae"] is not None


def test_a_protocol_without_its_published_files_says_what_is_missing(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("benchmark", "learner=item_mean", "protocol=melu") == 1
    assert "give split.source=" in capsys.readouterr().out


def test_a_part_that_the_split_lacks_is_an_error_that_says_which_key_to_change(
    script: Script, tmp_path: Path, states: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MeLU's states hold nothing out for validation, unless years or users are asked for."""
    melu = ("split=melu", f"split.source={states}", "learner=popularity")
    assert script("benchmark", *melu) == 1
    shown = " ".join("".join(capsys.readouterr()).split())
    assert "the split has no interactions in validation/warm" in shown
    assert "leave validation out of evaluation.parts" in shown
    assert script("benchmark", *melu, "evaluation.parts=[test]") == 0
    (record,) = [one for one in load_records(tmp_path / "results") if one.status == "finished"]
    assert set(record.metrics) == {"test"}
