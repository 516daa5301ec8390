from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metarec.baselines.random import Random
from metarec.errors import LearnerError
from metarec.runs import load_records

Script = Callable[..., int]


@pytest.fixture
def paper(script: Script, tmp_path: Path) -> Script:
    """`experiments/paper.py` with three quick learners and one seed."""

    def call(*overrides: str) -> int:
        return script(
            "paper",
            "plan.workers=1",
            "plan.seeds=[0]",
            "plan.learners=[popularity,item_mean,als]",
            "plan.groups.reference.learners=[random]",
            f"plan.paper={tmp_path / 'paper'}",
            *overrides,
        )

    return call


def test_the_paper_runs_everything_and_makes_its_tables(
    paper: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paper("plan.groups.reference.needs=null") == 0
    runs = {
        (record.learner, record.config.episode.task, record.config.episode.feedback)
        for record in load_records(tmp_path / "results", "paper")
    }
    # ALS takes no ratings, and is left out there
    assert runs == {
        *((name, "user", "binary") for name in ("popularity", "item_mean", "als", "random")),
        *((name, "user", "rating") for name in ("popularity", "item_mean")),
        *((name, "item", "binary") for name in ("popularity", "item_mean", "als")),
    }
    for name in ("main", "rated", "item_tasks"):
        assert (tmp_path / "paper" / "tables" / f"{name}.tex").stat().st_size > 0
    assert (tmp_path / "paper" / "figures" / "k_shot.pdf").stat().st_size > 0
    output = capsys.readouterr().out
    assert "9 runs finished, 0 failed" in output
    assert "Popularity" in output


def test_a_second_call_runs_nothing_again_and_makes_the_same_tables(
    paper: Script, tmp_path: Path
) -> None:
    only_main = [f"plan.groups.{group}=null" for group in ("reference", "rated", "item_tasks")]
    assert paper(*only_main) == 0
    table = (tmp_path / "paper" / "tables" / "main.tex").read_bytes()
    files = list((tmp_path / "results").rglob("record.json"))
    times = [file.stat().st_mtime_ns for file in files]
    assert paper(*only_main) == 0
    assert [file.stat().st_mtime_ns for file in files] == times
    assert (tmp_path / "paper" / "tables" / "main.tex").read_bytes() == table


@pytest.fixture
def broken_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner `random` fails to fit."""

    def fit(self: Random, training: object) -> None:
        raise LearnerError("out of luck")

    monkeypatch.setattr(Random, "fit", fit)


@pytest.mark.usefixtures("broken_random")
def test_what_a_missing_library_makes_fail_is_left_out_and_its_row_says_so(
    paper: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paper("plan.learners=[popularity]", "plan.groups.reference.needs=not_there") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "left out: reference: random, seed 0, for want of not_there" in output
    assert "0 failed" in output
    table = (tmp_path / "paper" / "tables" / "main.md").read_text()
    assert "Random (failed)" in table
    assert "LearnerError: out of luck" in table


@pytest.mark.usefixtures("broken_random")
def test_a_failed_run_is_told_at_the_end_and_the_tables_are_made(
    paper: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = paper("plan.groups.reference.needs=null", "plan.groups.item_tasks=null")
    assert status == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("5 runs finished, 1 failed" in line for line in lines)
    assert lines[-1] == "failed reference: random, seed 0: LearnerError: out of luck"
    assert "out of luck" in (tmp_path / "paper" / "tables" / "main.tex").read_text()
    failed = [one for one in load_records(tmp_path / "results") if one.status == "failed"]
    assert [one.error for one in failed] == ["LearnerError: out of luck"]


def test_runs_at_the_same_time_have_the_results_of_runs_one_after_another(
    paper: Script, tmp_path: Path
) -> None:
    only = [f"plan.groups.{group}=null" for group in ("reference", "rated", "item_tasks")]
    assert paper(*only, "plan.learners=[popularity,als]") == 0
    parallel = ["plan.workers=2", f"results={tmp_path / 'parallel'}"]
    assert paper(*only, "plan.learners=[popularity,als]", *parallel) == 0
    alone, together = load_records(tmp_path / "results"), load_records(tmp_path / "parallel")
    assert [one.metrics for one in alone] == [one.metrics for one in together]
    assert len(alone) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.groups.main.episodes=[]", "plan.groups.main.episodes"),
        ("plan.learners=[populrity]", "learner/populrity"),
        ("episode.kshot=3", "did you mean 'k_shot'"),
    ],
)
def test_a_wrong_plan_ends_before_anything_runs(
    paper: Script,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    message: str,
) -> None:
    assert paper("plan.groups.reference.needs=null", override) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
