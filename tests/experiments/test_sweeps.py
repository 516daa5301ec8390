"""`experiments/sweeps.py` from end to end, with a quick learner over a BERT of a few words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from small_checkpoint import small_encoder

from metarec.baselines.random import Random
from metarec.data.dataset import Dataset
from metarec.errors import LearnerError
from metarec.runs import load_records

Script = Callable[..., int]

WORDS = ("the", "silent", "golden", "last", "harbour", "winter", "garden", "case", "liked", "drama")
LEARNER = """name: {name}
_target_: metarec.torch.prototypical.Prototypical
representation: {representation}
embedding_size: 4
steps: 1
validate_every: 1
search: {{}}
"""


@pytest.fixture
def sweeps(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """`experiments/sweeps.py` with a quick learner over text and over both, new users, one seed."""
    monkeypatch.setenv("METAREC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "more" / "learner"
    folder.mkdir(parents=True)
    for name, representation in (("quick", "text"), ("quick_both", "both")):
        text = LEARNER.format(name=name, representation=representation)
        (folder / f"{name}.yaml").write_text(text)

    def call(*overrides: str) -> int:
        return script(
            "sweeps",
            f"hydra.searchpath=[file://{tmp_path / 'more'}]",
            f"text.checkpoint={small_encoder(WORDS).checkpoint.folder}",
            "text.max_length=8",
            "episode.query_size=4",
            "episode.task_batch=2",
            "evaluation.look_tasks=2",
            "evaluation.regimes=[user_cold]",
            "plan.workers=1",
            "plan.seeds=[0]",
            "plan.learners=[quick]",
            "plan.signal=[quick,quick_both]",
            "plan.shares=[0.2,0.4]",
            "plan.by_seed=0.2",
            *overrides,
        )

    return call


@pytest.fixture
def with_times(tiny_dataset: Dataset, tmp_path: Path) -> list[str]:
    """Overrides by which the tiny data have their times."""
    data = tiny_dataset
    frame = pd.DataFrame({"user": data.user_ids[data.users], "item": data.item_ids[data.items]})
    file = tmp_path / "timed.csv"
    frame.assign(rating=data.ratings, time=data.times).to_csv(file, index=False)
    return [f"data.options.interactions={file}", "data.options.time=time"]


@pytest.mark.filterwarnings("ignore:the split of")
def test_all_sweeps_run_and_report_and_what_is_finished_is_skipped(
    sweeps: Script, with_times: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweeps(*with_times) == 0
    records = load_records(tmp_path / "results", "sweeps")
    splits = {
        (one.learner, split.method, split.users[2], split.items[2])
        for one in records
        for split in (one.config.split,)
    }
    # what two sweeps have in common is run once
    assert len(records) == 5
    usual, equal = ("seed", 0.2, 0.1), [("seed", share, share) for share in (0.2, 0.4)]
    assert splits == {
        *(("quick", *one) for one in (usual, *equal, ("time", 0.2, 0.1))),
        ("quick_both", *usual),
    }
    printed = capsys.readouterr().out
    assert "5 runs, 1 at a time" in printed
    assert "5 runs finished, 0 failed" in printed
    for name in (
        *("sweep_shots", "sweep_cold_share", "sweep_cold_share_common", "sweep_seed_time"),
        *("sweep_signal", "sweep_signal_pairs", "sweep_adaptation"),
    ):
        table = (tmp_path / "paper" / "tables" / f"{name}.md").read_text()
        assert "Warning: preliminary" in table
        assert table.splitlines()[0].strip("*") in printed
        assert json.loads((tmp_path / "paper" / "records" / f"{name}.json").read_text())["rows"]
    for name in ("sweep_shots", "sweep_cold_share"):
        assert (tmp_path / "paper" / "figures" / f"{name}.png").stat().st_size > 1000

    files = [record.path / "record.json" for record in records]
    times = [file.stat().st_mtime_ns for file in files]
    assert sweeps(*with_times, "plan.sweeps=[time]") == 0
    assert "2 runs finished" in capsys.readouterr().out
    assert [file.stat().st_mtime_ns for file in files] == times


def test_data_without_times_are_not_split_by_time(
    sweeps: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweeps("plan.sweeps=[shots,time]", "plan.learners=[ease]") == 0
    assert "left out: 1 runs by time" in capsys.readouterr().out
    assert not (tmp_path / "paper" / "tables" / "sweep_seed_time.md").exists()
    assert len(load_records(tmp_path / "results", "sweeps")) == 2


def test_a_run_that_fails_is_named_and_the_tables_are_made(
    sweeps: Script,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fit(self: Random, training: object) -> None:
        raise LearnerError("out of luck")

    monkeypatch.setattr(Random, "fit", fit)
    assert sweeps("plan.sweeps=[cold_share]", "plan.learners=[ease,random]") == 1
    lines = capsys.readouterr().out.splitlines()
    name = "random, users (0.5, 0.1, 0.4), seed 0"
    assert lines[-1] == f"failed {name}: LearnerError: out of luck"
    assert "out of luck" in (tmp_path / "paper" / "tables" / "sweep_cold_share.md").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.sweeps=[shot]", "did you mean 'shots'"),
        ("experiment=paper", "choose experiment=sweeps"),
        ("plan.learners=[eas]", "learner/eas"),
        ("plan.shares=[0.95]", "plan.shares"),
    ],
)
def test_a_wrong_plan_ends_before_anything_runs(
    sweeps: Script,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    message: str,
) -> None:
    assert sweeps(override) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
