"""The tables of sweeps that compare learners: over K, how much is cold, by seed and by time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from metarec.report.cells import (
    CHANCE,
    PRIMARY,
    Column,
    column_cells,
    curve_shots,
    grouped,
    row_label,
)
from metarec.report.collect import Results, error_of, run_name, subset
from metarec.report.labels import REGIME_LABELS, metric_label, regime_label
from metarec.report.notes import joined_versions, notes_of, source_notes, tuned_notes
from metarec.report.sweeps_points import Point, common, provenances, regimes_in, variants_in
from metarec.report.table import Cell, Row, Section, Table

FEW_TASKS = 30
"""Fewer test tasks than these are worth a warning of their own."""

_OTHER_TASKS = (
    "Columns are not one test: another split means other test tasks, other candidates and another "
    "training set. Compare a learner with chance and with the others of its column first."
)
_NESTED = (
    "The draws are nested: what is cold at one share is cold at each larger one. The same share of "
    "users and of items is held out, and that much less is left to train on and to be known of a "
    "new user."
)


def shots_tables(point: Point) -> list[Table]:
    """Learners by K, on the same test tasks with nested supports: a table for each regime.

    Args:
        point: the setting that was measured at several K.

    Returns:
        `sweep_shots` for new users (or else the first regime), `sweep_shots_<regime>` for others.
    """
    results = with_curve(point.results)
    if results is None:
        return []
    tables: list[Table] = []
    for regime in sorted(_curve_regimes(results), key=list(REGIME_LABELS).index):
        shots = curve_shots(results, regime)
        columns = [Column(f"K = {k}", PRIMARY, regime, k, "curve") for k in shots]
        cells, preliminary = column_cells(results, columns)
        of_items = results.config.episode.task == "item"
        about = "item tasks" if of_items else regime_label(regime).lower()
        table = Table(
            name=f"sweep_shots_{regime}" if tables else "sweep_shots",
            title=f"Sweep over the number of shots, {about}, {metric_label(PRIMARY)}",
            columns=("Learner", *(column.head for column in columns)),
            sections=grouped(results, cells),
            notes=(
                "All columns have the same tasks, queries and candidates, and each support holds "
                "that of the column before; at K = 0 it is empty.",
                *notes_of(results, columns, preliminary),
            ),
            preliminary=preliminary,
        )
        tables.append(table)
    return tables


def with_curve(results: Results) -> Results | None:
    """The runs of the learners that were measured over K; None without any."""
    frame = results.per_task
    names = set(frame.loc[frame["evaluation"] == "curve", "name"].astype(str))
    return subset(results, names)


def shares_tables(points: Sequence[Point]) -> list[Table]:
    """Learners by the share that is cold, in every regime; and on the tasks that all shares have.

    Args:
        points: `Sweeps.shares`.
    """
    if not points:
        return []
    tables = [
        across(
            points,
            "sweep_cold_share",
            "Sweep over the share of users and of items that is held out",
            (_OTHER_TASKS, _NESTED),
        )
    ]
    shared = common(points)
    regimes = [regime for regime in regimes_in(points) if shared[0].tasks(regime)]
    if regimes:
        tables.append(
            across(
                shared,
                "sweep_cold_share_common",
                "Sweep over the share of users and of items that is held out, on the tasks that "
                "all shares have",
                (
                    "The tasks of a regime are the same in all columns, but not what they hold: "
                    "supports, queries and candidates are drawn from what is known, or new, at "
                    "that share.",
                    _NESTED,
                ),
            )
        )
    return tables


def seed_and_time_table(points: Sequence[Point]) -> Table | None:
    """Learners by seed and by time, in every regime; None unless there are both.

    Args:
        points: `Sweeps.splits`.
    """
    if not points:
        return None
    return across(
        points,
        "sweep_seed_time",
        "Split by seed against by time",
        (
            _OTHER_TASKS,
            "By seed, train holds interactions of others that are later than those of a test "
            "task; by time, nothing of the future is in train, and test tasks are those that first "
            "appear last. Of the splits by seed, the one that has about as many cold test tasks "
            "stands beside it.",
        ),
    )


def across(points: Sequence[Point], name: str, title: str, about: Sequence[str]) -> Table:
    """Learners by settings: a section for each regime, with its own chance row.

    Args:
        points: the columns.
        name: file name of the table.
        title: what it shows.
        about: sentences that come first under it.
    """
    variants = variants_in(points)
    sections, preliminary = [], False
    regimes = [regime for regime in regimes_in(points) if any(one.tasks(regime) for one in points)]
    for regime in regimes:
        rows: list[list[Cell]] = [[] for _ in range(len(variants) + 1)]
        for point in points:
            results = point.results
            column = Column(point.label, PRIMARY, regime, results.config.episode.k_shot)
            cells, few = column_cells(results, [column])
            preliminary |= few
            for row, variant in zip(rows, [None, *variants], strict=True):
                known = variant is None or variant in results.variants
                row.append(at_point(cells(variant)[0], point) if known else Cell())
        labels = [CHANCE, *(row_label(own, variant) for variant, own in variants.items())]
        named = (Row(label, tuple(row)) for label, row in zip(labels, rows, strict=True))
        sections.append(Section(regime_label(regime), tuple(named)))
    first = points[0].results
    # how to read it is what a table of one setting says, where it comes from is not
    reading = notes_of(first, (), preliminary)[: -len(source_notes([(first, ())]))]
    return Table(
        name=name,
        title=f"{title}, {metric_label(PRIMARY)}, K = {first.config.episode.k_shot}",
        columns=("Learner", *(point.label for point in points)),
        sections=tuple(sections),
        notes=(*about, *reading, *sources_of(points, regimes)),
        preliminary=preliminary,
        cautions=cautions_of(points, regimes),
    )


def sources_of(points: Sequence[Point], regimes: Sequence[str]) -> list[str]:
    """The sentences that say where a table of several settings comes from.

    Args:
        points: the settings.
        regimes: those of the table.
    """
    sources = provenances(points)
    records = [record for point in points for record in point.results.records]
    failed = [record for point in points for record in point.results.failed]
    seeds = sorted({record.seed for record in records})
    code = sorted({version for source in sources for version in source.code})
    commit = sorted({version for source in sources for version in source.commit})
    commands = dict.fromkeys(source.command for source in sources)
    tasks = "; ".join(
        f"{point.label}: "
        + ", ".join(
            f"{regime_label(regime).lower()} {point.tasks(regime)} ({_count(point, regime)})"
            for regime in regimes
        )
        for point in points
    )
    notes = [
        f"Data: {sources[0].data}. Test tasks, and mean candidates of one: {tasks}. "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}), which "
        "share each split: the intervals are those of other tasks, not of other cold items.",
        *tuned_notes(records),
        f"{len(records)} records, code {joined_versions(code)}, commit {joined_versions(commit)}, "
        f"by {' and '.join(commands)}.",
    ]
    if failed:
        listed = "; ".join(f"{run_name(record)}: {error_of(record)}" for record in failed)
        notes.append(f"Failed runs, left out: {listed}.")
    return notes


def cautions_of(points: Sequence[Point], regimes: Sequence[str]) -> tuple[str, ...]:
    """What else speaks against comparing settings: next to no tasks, and other seeds.

    Args:
        points: the settings.
        regimes: those of the table.
    """
    found = []
    for point in points:
        few = [
            f"{count} ({regime_label(regime).lower()})"
            for regime in regimes
            if 0 < (count := point.tasks(regime)) < FEW_TASKS
        ]
        if few:
            found.append(f"{point.label}: only {', '.join(few)} test tasks.")
    seeds = {point.label: sorted({one.seed for one in point.results.records}) for point in points}
    if len({tuple(own) for own in seeds.values()}) > 1:
        listed = "; ".join(f"{label}: {', '.join(map(str, own))}" for label, own in seeds.items())
        found.append(f"the settings have other seeds ({listed}); finish the runs.")
    return tuple(found)


def at_point(cell: Cell, point: Point) -> Cell:
    """The cell with its setting in its source, which tells it from those of other columns."""
    if cell.source is None:
        return cell
    regime = f"{cell.source.regime}, {point.label}".replace("\N{NO-BREAK SPACE}", " ")
    versus = None if cell.versus is None else at_point(cell.versus, point)
    return replace(cell, source=replace(cell.source, regime=regime), versus=versus)


def _count(point: Point, regime: str) -> str:
    mean = point.candidates(regime)
    return "0" if math.isnan(mean) else f"{mean:,.0f}"


def _curve_regimes(results: Results) -> set[str]:
    frame = results.per_task
    here = (frame["evaluation"] == "curve") & (frame["part"] == "test")
    return set(frame.loc[here, "regime"].astype(str))
