"""The cells of a table: a mean, its interval and its mark, column by column."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from metarec.evaluation.significance import Interval
from metarec.report.collect import Results
from metarec.report.labels import (
    ONE_SEED,
    REGIME_LABELS,
    Variant,
    group_of,
    label_of,
    sort_key,
)
from metarec.report.selection import (
    SIGNIFICANT,
    chance_of,
    higher_is_better,
    interval_of,
    reference_of,
    significance_of,
)
from metarec.report.table import (
    BETTER,
    REFERENCE,
    WORSE,
    Cell,
    Estimate,
    Row,
    Section,
    Source,
    interval_text,
    number,
    p_text,
)

PRIMARY = "catalogue/ndcg@10"
CHANCE = "Chance"


@dataclass(frozen=True)
class Column:
    """One column of numbers: a metric on some test episodes.

    Args:
        head: its heading.
        metric: column of the per-task results.
        regime: where the queries lie.
        k_shot: shots.
        evaluation: `main`, or `curve` for nested supports.
    """

    head: str
    metric: str
    regime: str
    k_shot: int
    evaluation: str = "main"


def regimes_of(results: Results) -> list[str]:
    """The regimes that were tested, in the order of the tables."""
    frame = results.per_task
    here = frame[(frame["part"] == "test") & (frame["evaluation"] == "main")]
    found = set(here["regime"].astype(str))
    order = list(REGIME_LABELS)
    return sorted(found, key=lambda name: (order.index(name) if name in order else 99, name))


def curve_regime(results: Results) -> str:
    """The regime of the curve over K: `user_cold`, or else the first that has one, or nothing."""
    frame = results.per_task
    found = set(frame.loc[frame["evaluation"] == "curve", "regime"].astype(str))
    return "user_cold" if "user_cold" in found else min(found, default="")


def curve_shots(results: Results, regime: str) -> list[int]:
    """The K of the curve in a regime, ascending."""
    frame = results.per_task
    here = (frame["evaluation"] == "curve") & (frame["part"] == "test")
    return sorted({int(k) for k in frame.loc[here & (frame["regime"] == regime), "k_shot"]})


def column_cells(
    results: Results, columns: Sequence[Column], reference: Variant | None = None
) -> tuple[Callable[[Variant | None], tuple[Cell, ...]], bool]:
    """The cells of every row, column by column, since tests and bold belong to a column.

    Args:
        results: the runs of the table.
        columns: its columns.
        reference: whom all are compared with; the best baseline of each column if None.

    Returns:
        A function from a row (None for chance) to its cells, and whether the table is preliminary.
    """
    measured: list[dict[Variant, Interval]] = []
    chances: list[Cell] = []
    tested: list[dict[Variant, Cell]] = []
    for column in columns:
        values = results.select(
            column.metric, "test", column.regime, column.k_shot, column.evaluation
        )
        found = {variant: interval_of(values, variant) for variant in results.variants}
        own = {variant: value for variant, value in found.items() if value is not None}
        measured.append(own)
        level = chance_of(values, column.metric, results.config.evaluation.shortlist)
        source = Source("chance", column.regime, column.k_shot, column.metric)
        chances.append(Cell(number(level.mean), estimate=level, source=source) if level else Cell())
        tested.append(_differences(results, column, own, reference))
    preliminary = any(
        value.preliminary
        for own in measured
        for variant, value in own.items()
        if variant.learner not in ONE_SEED
    )
    rows: dict[Variant | None, tuple[Cell, ...]] = {None: tuple(chances)}
    for variant in results.variants:
        cells = []
        for column, own, differences in zip(columns, measured, tested, strict=True):
            if variant not in own:
                cells.append(Cell())
                continue
            versus = differences.get(variant)
            mark = versus.mark if versus else ""
            # a single row of too few seeds says nothing in a table that makes claims
            if own[variant].preliminary and not preliminary and mark != REFERENCE:
                mark = ""
                versus = replace(versus, mark="") if versus else None
            cell = interval_cell(
                own[variant],
                Source(variant.key, column.regime, column.k_shot, column.metric),
                mark=mark,
                p=versus.estimate.p if versus and versus.estimate else math.nan,
                bold=not preliminary and mark == BETTER and variant == _best(own, column.metric),
            )
            cells.append(replace(cell, versus=versus))
        rows[variant] = tuple(cells)
    return rows.__getitem__, preliminary


def _differences(
    results: Results, column: Column, own: dict[Variant, Interval], reference: Variant | None
) -> dict[Variant, Cell]:
    """Each learner minus the reference of the column, which has its mark and no number."""
    validated = results.config.episode.k_shot
    reference = reference or reference_of(results, column.metric, column.regime, validated)
    if reference is None or reference not in own:
        return {}
    values = results.select(column.metric, "test", column.regime, column.k_shot, column.evaluation)
    found = significance_of(values, list(own), reference, column.metric)
    cells = {
        variant: difference_cell(variant, reference, column, estimate)
        for variant, estimate in found.items()
    }
    return {reference: Cell(mark=REFERENCE), **cells}


def _best(own: dict[Variant, Interval], metric: str) -> Variant:
    sign = 1 if higher_is_better(metric) else -1
    return max(own, key=lambda variant: sign * own[variant].mean)


def interval_cell(found: Interval, source: Source, mark: str, p: float, bold: bool) -> Cell:
    """The cell of a mean with its interval."""
    return Cell(
        value=number(found.mean),
        interval=interval_text(found.low, found.high),
        mark=mark,
        bold=bold,
        estimate=Estimate(
            found.mean, found.low, found.high, found.tasks, found.seeds, found.episodes, p
        ),
        source=source,
    )


def difference_cell(
    one: Variant, other: Variant, column: Column, estimate: Estimate, bold: bool = False
) -> Cell:
    """The cell of a paired difference, with the mark of its test.

    Args:
        one: whose mean is the first.
        other: whose mean is taken from it.
        column: where it was measured.
        estimate: of the difference, with its corrected p value.
        bold: whether a significant one is bold; not in a preliminary table.
    """
    significant = estimate.p < SIGNIFICANT and estimate.agrees()
    better = (estimate.mean > 0) == higher_is_better(column.metric)
    return Cell(
        value=number(estimate.mean, signed=True),
        interval=interval_text(estimate.low, estimate.high, signed=True),
        mark=(BETTER if better else WORSE) if significant else "",
        bold=bold and significant,
        estimate=estimate,
        source=Source(f"{one.key} - {other.key}", column.regime, column.k_shot, column.metric),
    )


TEST_HEADS = ("p (Holm)", "Effect", "Won/tied/lost")
"""Headings of the cells of a paired test."""

HOW_TESTED = (
    "Effect: the matched-pairs rank-biserial correlation of that test, from −1 to 1; won, tied and "
    "lost: tasks in which the first is better, equal and worse."
)


def test_cells(estimate: Estimate) -> tuple[Cell, Cell, Cell]:
    """The cells of a paired test, below `TEST_HEADS`.

    Args:
        estimate: of the difference, with its corrected p value.
    """
    counts = f"{estimate.wins}/{estimate.ties}/{estimate.losses}"
    return Cell(p_text(estimate.p)), Cell(number(estimate.effect, signed=True)), Cell(counts)


def row_label(results: Results, variant: Variant) -> str:
    """The label of a row, with its seeds where it has fewer than the others."""
    label = label_of(variant, results.config.episode.task)
    return label + fewer_seeds(results, variant.learner)


def fewer_seeds(results: Results, learner: str) -> str:
    """` (1 seed)` for a learner that has fewer seeds than others, or else nothing."""
    seeds = {
        name: {record.seed for record in results.records if record.learner == name}
        for name in {record.learner for record in results.records}
    }
    own, most = len(seeds[learner]), max(map(len, seeds.values()))
    return "" if own == most else f" ({own} seed{'s' if own > 1 else ''})"


def grouped(
    results: Results,
    cells: Callable[[Variant | None], tuple[Cell, ...]],
    sections: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Section, ...]:
    """The rows under the groups of learners, chance first.

    A learner all of whose runs failed keeps an empty row, which says so.

    Args:
        results: the runs of the table.
        cells: as `column_cells` gives it.
        sections: title to learners, in place of their groups.
    """
    targets = dict(results.targets)
    failed = {
        record.learner: record.config.learner.target
        for record in results.failed
        if record.learner not in targets
    }
    targets |= failed
    every = [*results.variants, *(Variant(learner) for learner in failed)]
    titles = {name: title for title, names in (sections or {}).items() for name in names}

    def order(variant: Variant) -> tuple[Any, ...]:
        if sections is None:
            return sort_key(variant, targets[variant.learner])
        return list(titles).index(variant.learner), variant.adapted

    def title_of(variant: Variant) -> str:
        name = variant.learner
        return group_of(name, targets[name]) if sections is None else titles[name]

    every.sort(key=order)
    empty = tuple(Cell() for _ in cells(None))
    made = [Section("", (Row(CHANCE, cells(None)),))]
    for title, group in groupby(every, key=title_of):
        rows = [
            Row(f"{label_of(variant)} (failed)", empty)
            if variant.learner in failed
            else Row(row_label(results, variant), cells(variant))
            for variant in group
        ]
        made.append(Section(title, tuple(rows)))
    return tuple(made)
