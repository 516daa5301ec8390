"""Timing and memory: who has a turn when, what is left out, what a call needs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from metarec.errors import RunError
from metarec.speed.measure import Contender, interleaved
from metarec.speed.memory import peak_mebibytes, resident_peak_bytes
from metarec.speed.work import StepWork, step_arrays


def test_contenders_take_turns_after_a_warm_up() -> None:
    turns: list[str] = []
    contenders = {
        name: Contender(lambda name=name: turns.append(name), items=items)
        for name, items in (("a", 1), ("b", 4))
    }
    advanced: list[int] = []
    measured = interleaved(contenders, repeats=3, advance=lambda: advanced.append(1))
    assert turns == ["a", "b"] * (1 + 3)
    assert len(advanced) == len(turns)
    assert {name: len(seconds) for name, seconds in measured.seconds.items()} == {"a": 3, "b": 3}
    measured.seconds = {"a": [0.003, 0.001, 0.5], "b": [0.2, 0.2, 0.2]}
    assert measured.milliseconds("a") == pytest.approx(3)
    assert measured.milliseconds("b") == pytest.approx(200 / 4)


def test_a_short_call_is_repeated_and_its_mean_counts() -> None:
    calls: list[int] = []
    measured = interleaved({"a": Contender(lambda: calls.append(1))}, 1, least_seconds=0.02)
    assert len(calls) > 10
    assert measured.seconds["a"][0] == pytest.approx(0.02 / (len(calls) - 1), rel=0.5)


def test_what_is_optional_and_fails_is_left_out_with_its_reason() -> None:
    def fail() -> None:
        raise ValueError("no compiler\nand a long trace")

    contenders = {"a": Contender(lambda: None), "b": Contender(fail, optional=True)}
    measured = interleaved(contenders, repeats=2)
    assert measured.left_out == {"b": "ValueError: no compiler"}
    assert list(measured.seconds) == ["a"]
    assert measured.details()["b"] == {"left_out": "ValueError: no compiler"}
    with pytest.raises(ValueError, match="no compiler"):
        interleaved({"b": Contender(fail)}, repeats=2)


@pytest.mark.skipif(sys.platform != "linux", reason="the mark can be set back on Linux only")
def test_the_peak_is_that_of_the_call_alone() -> None:
    count = 8 * 2**20

    def call() -> float:
        return float(np.ones(count).sum())

    np.ones(3 * count)  # a larger peak before must not hide that of the call
    peak = resident_peak_bytes(call)
    assert peak == pytest.approx(8 * count, rel=0.1)


def test_the_memory_of_a_step_is_measured_in_a_process_of_its_own() -> None:
    work = StepWork(tasks=256, feature_size=8)
    peak = peak_mebibytes("torch", "vmap", "cpu", work)
    # the upper layer alone is a fast weight of every task after every step, each kept for the way
    # back; a process with PyTorch in it, or one that forks this one, is far larger than a step
    fast_weights = work.tasks * 64 * 64 * 4 * work.inner_steps / 2**20
    if peak is not None:
        assert fast_weights < peak < 10 * fast_weights


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RunError, match="unknown engine 'gramm'"):
        peak_mebibytes("torch", "gramm", "cpu", StepWork(tasks=2))


def test_ragged_episodes_have_all_numbers_of_shots_and_nothing_where_there_is_none() -> None:
    arrays = step_arrays(StepWork(tasks=12, k_shot=10), np.float64, ragged=True)
    assert sorted(arrays.support_mask.sum(1)) == sorted([*range(11), 0])
    assert np.all(arrays.support[arrays.support_mask == 0] == 0)
    assert np.all(arrays.query_mask.sum(1) == 9)
    full = step_arrays(StepWork(tasks=12))
    assert full.support_mask.min() == full.query_mask.min() == 1
    assert full.support.dtype == np.float32
