"""Many runs at once, in shared processes or each in its own."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from metarec.errors import ConfigError, RunError
from metarec.runs import Record, RunConfig, parallel
from metarec.runs.parallel import Outcome, run_all, run_many

Make = Callable[..., RunConfig]

SMALL = {"parts": ["test"], "regimes": ["user_cold"], "k_curve": [], "curve_regimes": []}


@pytest.fixture
def telling(make_config: Make) -> Callable[..., RunConfig]:
    def make(seed: int = 0, mebibytes: int = 0, **given: object) -> RunConfig:
        arguments = {"mebibytes": mebibytes}
        return make_config("Telling", seed=seed, arguments=arguments, evaluation=SMALL, **given)

    return make


def ordered(outcomes: list[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: outcome.number)


def told(record: Record | None) -> tuple[int, int]:
    """The process and the threads of a run."""
    assert record is not None
    return int(record.log[0]["process"]), int(record.log[0]["threads"])


def test_with_one_worker_everything_runs_in_this_process(
    telling: Callable[..., RunConfig], tmp_path: Path
) -> None:
    outcomes = list(run_many([telling(seed=seed) for seed in (0, 1)], tmp_path, workers=1))
    assert [outcome.number for outcome in outcomes] == [0, 1]
    assert [told(outcome.record)[0] for outcome in outcomes] == [os.getpid()] * 2


def test_a_fresh_process_each_of_one_thread_and_finished_runs_are_skipped(
    telling: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    configs = [telling(seed=seed) for seed in range(3)]
    outcomes = ordered(list(run_many(configs, tmp_path, workers=2, fresh=True)))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    found = [told(outcome.record) for outcome in outcomes]
    assert len({os.getpid(), *(process for process, _ in found)}) == 4
    assert {threads for _, threads in found} == {1}
    assert os.environ["OMP_NUM_THREADS"] == "2"
    # one at a time, with all threads; what is finished starts no process
    started: list[int] = []
    alone = parallel._alone

    def counted(number: int, *others: Any) -> Outcome:
        started.append(number)
        return alone(number, *others)

    monkeypatch.setattr(parallel, "_alone", counted)
    more = [configs[0], telling(seed=3)]
    skipped, new = ordered(list(run_many(more, tmp_path, workers=1, fresh=True)))
    assert told(skipped.record) == found[0]
    assert told(new.record)[0] != os.getpid()
    assert told(new.record)[1] == 2
    assert started == [1]


def test_the_peak_memory_of_a_fresh_process_is_that_of_its_run(
    telling: Callable[..., RunConfig], tmp_path: Path
) -> None:
    configs = [telling(mebibytes=600), telling(seed=1)]
    large, small = ordered(list(run_many(configs, tmp_path, workers=1, fresh=True)))
    peaks = [one.record.content["peak_memory_bytes"] for one in (large, small) if one.record]
    assert peaks[0] - peaks[1] > 500 * 2**20


def test_a_fresh_process_that_is_killed_fails_alone(make_config: Make, tmp_path: Path) -> None:
    configs = [make_config("Killed"), make_config(evaluation=SMALL)]
    killed, other = ordered(list(run_many(configs, tmp_path, workers=1, fresh=True)))
    assert killed.record is None
    assert killed.failure is None
    assert killed.error == (
        "BrokenProcessPool: the process of the run was killed; is memory short?"
    )
    assert other.error is None
    assert other.record is not None


def test_a_process_that_is_killed_takes_no_other_run_of_its_pool_along(
    make_config: Make, tmp_path: Path
) -> None:
    seeds = [make_config(evaluation=SMALL, seed=seed) for seed in range(3)]
    killed, *others = ordered(list(run_many([make_config("Killed"), *seeds], tmp_path, workers=2)))
    assert killed.error == (
        "BrokenProcessPool: the process of the run was killed; is memory short?"
    )
    assert [one.error for one in others] == [None] * 3
    assert [one.record.seed for one in others if one.record] == [0, 1, 2]


def test_a_record_that_cannot_be_read_hides_no_failure(make_config: Make, tmp_path: Path) -> None:
    (fine,) = run_many([make_config(evaluation=SMALL)], tmp_path, workers=1)
    assert fine.record is not None
    config = fine.record.path / "config.yaml"
    config.write_text(config.read_text() + "no_such_key: 1\n")
    (outcome,) = run_many([make_config("Broken")], tmp_path, workers=1)
    assert outcome.failure is not None
    assert outcome.failure.error == "RuntimeError: the loss is NaN at step 3"


def test_a_run_that_fails_in_a_fresh_process_leaves_its_record(
    make_config: Make, tmp_path: Path
) -> None:
    (outcome,) = run_many([make_config("Broken")], tmp_path, workers=1, fresh=True)
    assert outcome.error == "RuntimeError: the loss is NaN at step 3"
    assert outcome.failure is not None
    assert outcome.failure.error == outcome.error
    assert outcome.trace is not None


def test_of_all_runs_failures_are_told_and_the_others_are_done(
    make_config: Make, tmp_path: Path
) -> None:
    told = io.StringIO()
    configs = [make_config("Broken"), *(make_config(evaluation=SMALL, seed=n) for n in (4, 2))]
    ran = run_all(
        configs, tmp_path, 1, Console(file=told), lambda one: f"seed {one.seed}", progress=False
    )  # fmt: skip
    assert [record.seed for record in ran.records] == [4, 2]
    assert [record.error for record in ran.failed] == ["RuntimeError: the loss is NaN at step 3"]
    assert ran.failures == ["seed 0: RuntimeError: the loss is NaN at step 3"]
    assert "failed seed 0: RuntimeError" in told.getvalue()
    with pytest.raises(RunError, match="1 of 3 trials failed; first seed 0: RuntimeError"):
        ran.all("trials")
    fine = run_all(configs[1:], tmp_path, 1, Console(file=told), str, progress=False)
    assert fine.all("trials") == fine.records


def test_no_workers_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers=0"):
        list(run_many([], tmp_path, workers=0))
