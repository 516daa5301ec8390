"""Rows and their bounds: ratios, rates, and the share of memory."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from metarec.speed import parity as parities
from metarec.speed.measure import Contender, Measured
from metarec.speed.parity import parity
from metarec.speed.rows import Bound, Published, reached, row_of, share_of_memory
from metarec.speed.show import limits, table_of_contenders, table_of_rows
from metarec.speed.work import StepArrays, StepWork

BOUND = Bound("a step", "step", "torch", "fast", "slow", 4.0)


def nothing() -> None:
    """Contenders here are never called."""


def measured(**seconds: list[float]) -> Measured:
    items = {"fast": 2, "slow": 1}
    return Measured(
        contenders={
            name: Contender(nothing, items.get(name, 1), gflop=0.5 if name == "fast" else None)
            for name in seconds
        },
        first_seconds=dict.fromkeys(seconds, 1.0),
        seconds=seconds,
    )


def test_a_ratio_is_one_of_medians_of_an_item_each() -> None:
    row = row_of(BOUND, measured(fast=[9.0, 0.2, 0.4], slow=[1.0, 9.0, 0.1]), {"torch": 50.0})
    assert row is not None
    assert row.milliseconds == pytest.approx(1000 * 0.4 / 2)
    assert row.reference_milliseconds == pytest.approx(1000 * 1.0)
    assert row.ratio == pytest.approx(1.0 / (0.4 / 2))
    assert row.gflop == pytest.approx(0.5 / 2)
    assert row.gflop_per_second == pytest.approx(0.5 / 0.4)
    assert row.peak_gflop_per_second == 50.0


def test_a_rate_counts_items_a_second_and_a_published_figure_is_no_divisor() -> None:
    bound = replace(BOUND, reference=Published("theirs", 8.0), at_least=100.0)
    row = row_of(bound, measured(fast=[0.01]), {"torch": 50.0})
    assert row is not None
    assert row.ratio == pytest.approx(2 / 0.01)
    assert (row.reference, row.reference_milliseconds) == ("theirs", 1000 / 8)
    assert reached(bound, row, measured(fast=[0.01])) is True
    assert reached(replace(bound, at_least=201.0), replace(row, ratio=200.0), Measured()) is False


def test_a_row_without_its_reference_is_neither_reached_nor_missed() -> None:
    alone = measured(fast=[0.2])
    row = row_of(BOUND, alone, {"torch": 50.0})
    assert row is not None
    assert (row.reference, row.ratio, reached(BOUND, row, alone)) == (None, None, None)
    assert row_of(BOUND, measured(slow=[1.0]), {"torch": 50.0}) is None


@pytest.mark.parametrize(
    ("mebibytes", "verdict"),
    [
        ({"fast": [30.0, 20.0, 25.0], "slow": [100.0, 90.0, 110.0]}, True),
        ({"fast": [30.0, 20.0, 26.0], "slow": [100.0, 90.0, 110.0]}, False),
        ({"fast": [25.0]}, None),
    ],
)
def test_a_bound_on_memory_must_be_kept_too(
    mebibytes: dict[str, list[float]], verdict: bool | None
) -> None:
    bound = replace(BOUND, memory_at_most=0.25)
    both = measured(fast=[0.2], slow=[1.0])
    both.mebibytes = mebibytes
    row = row_of(bound, both, {"torch": 50.0})
    assert row is not None
    assert row.peak_mebibytes == sorted(mebibytes["fast"])[len(mebibytes["fast"]) // 2]
    assert reached(bound, row, both) is verdict
    assert (share_of_memory(bound, both) is None) == (verdict is None)
    assert reached(bound, replace(row, ratio=3.9), both) is (None if verdict is None else False)


def test_the_printed_table_says_what_was_missed_and_what_limits_it() -> None:
    both = measured(fast=[0.4], slow=[0.6])
    both.operators = {"fast": {"aten::mm": 0.6, "between operators": 0.4}}
    row = row_of(BOUND, both, {"torch": 50.0})
    assert row is not None
    console = Console(file=io.StringIO(), width=160)
    console.print(
        table_of_rows([(BOUND, row)], {"step": both}), table_of_contenders({"step": both})
    )
    printed = console.file.getvalue()
    assert "3×" in printed
    assert "no" in printed.split("4×")[1].split()[0]
    said = limits(BOUND, row, both, {"sampling": 0.25})
    assert "2% of the machine's rate" in said
    assert "aten::mm 60%" in said
    assert "sampling 0.250" in said


def test_parity_is_the_largest_relative_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twins:
        def solve(
            self, work: StepWork, arrays: StepArrays, engine: str
        ) -> tuple[float, dict[str, np.ndarray]]:
            off = {"learn2learn": 0.0, "gram": 1e-3}[engine] * work.inner_steps
            return 2.0 + 2 * off, {"a": np.ones(3), "b": np.array([3.0, 4.0 + 5 * off])}

    monkeypatch.setattr(parities, "backend_of", lambda name: Twins())
    rows = parity([("torch", "learn2learn"), ("torch", "gram")], StepWork(tasks=2), (1, 5))
    assert [(row.order, row.inner_steps) for row in rows] == [
        ("first order", 1), ("first order", 5), ("second order", 1), ("second order", 5)
    ]  # fmt: skip
    assert {(row.engine, row.reference) for row in rows} == {("torch gram", "learn2learn")}
    for row in rows:
        assert row.loss == pytest.approx(1e-3 * row.inner_steps)
        assert row.meta_gradient == pytest.approx(1e-3 * row.inner_steps)


def test_memory_of_the_whole_process_is_held_against_a_bound_of_its_own() -> None:
    bound = replace(BOUND, mebibytes_at_most=100.0)
    both = measured(fast=[0.02], slow=[1.0])
    row = row_of(bound, both, {"torch": 50.0})
    assert row is not None
    assert reached(bound, row, both) is None
    assert reached(bound, replace(row, peak_mebibytes=99.0), both) is True
    assert reached(bound, replace(row, peak_mebibytes=101.0), both) is False
