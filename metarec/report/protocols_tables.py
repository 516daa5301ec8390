"""The tables of a protocol: chance, figures of others, and all learners with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from metarec.evaluation.significance import MIN_EPISODES, interval
from metarec.report.cells import Column, column_cells, grouped
from metarec.report.collect import Results
from metarec.report.differences import with_differences
from metarec.report.labels import Variant, label_of
from metarec.report.notes import effects_note, notes_of, source_notes
from metarec.report.protocols_figures import KINDS, TABLES, Figures, Shown
from metarec.report.protocols_results import Study
from metarec.report.selection import higher_is_better
from metarec.report.table import (
    Cell,
    Estimate,
    Row,
    Section,
    Source,
    Table,
    number,
)

REFERENCE = Variant("item_mean")
"""Whom all learners are compared with: the simplest that knows ratings."""

BEATS = "‡"
"""Marks a cell whose whole interval is better than the figure to beat of its column."""

GIVES_QUERIES = ("recbole_metarec",)
"""Methods of splitting that say what each task is asked, whatever the seed."""

_IN_TIME = ("mamo",)
"""Protocols whose shots are the first in time."""

Cells = Callable[[Variant | None], tuple[Cell, ...]]


def tables_of(study: Study) -> list[Table]:
    """The tables of a protocol; differences that a table has no columns for stand in one beside it.

    Args:
        study: its runs.
    """
    tables = []
    for shown in TABLES[study.key]:
        table = _table(study, shown)
        about_others = _notes_on_others(study, shown)
        tables += [table] if shown.differences else with_differences(table, about_others)
    return tables


def _table(study: Study, shown: Shown) -> Table:
    results = study.results
    columns = [Column(*given, study.k_shot) for given in shown.columns]
    differing = [Column(*given, study.k_shot) for given in shown.differences]
    if REFERENCE not in results.variants:
        differing = []
    measured, preliminary = column_cells(results, columns, REFERENCE)
    distinct = [distinct_episodes(results, column.regime) for column in columns]
    preliminary |= min(distinct) < MIN_EPISODES
    chance = (*chance_cells(results, columns), *(Cell() for _ in differing))
    to_beat = [_to_beat(shown.figures, column) for column in columns]

    def cells(variant: Variant | None) -> tuple[Cell, ...]:
        if variant is None:
            return chance
        counted = [
            _of_distinct(cell, most) for cell, most in zip(measured(variant), distinct, strict=True)
        ]
        means = dict(zip(columns, counted, strict=True))
        own = [
            _marked(cell, figure, column.metric)
            for (column, cell), figure in zip(means.items(), to_beat, strict=True)
        ]
        return (*own, *(_difference(means[column]) for column in differing))

    first, *groups = grouped(results, cells)
    named = label_of(REFERENCE).lower()
    return Table(
        name=shown.name,
        title=shown.title,
        columns=(
            "Learner",
            *(column.head for column in columns),
            *(f"{column.head}, minus {named}" for column in differing),
        ),
        sections=(first, *_others(shown.figures, columns, len(differing)), *groups),
        notes=(
            *_own_notes(study, shown, bool(differing)),
            *_notes(study, columns, preliminary),
        ),
        preliminary=preliminary,
    )


def chance_cells(results: Results, columns: Sequence[Column]) -> tuple[Cell, ...]:
    """The mean over tasks of the exact level of a constant score, as the runs measured it.

    Args:
        results: the runs of a protocol.
        columns: of the table; errors of predictions have no such level.
    """
    cells = []
    for column in columns:
        family, _, metric = column.metric.partition("/")
        values = results.select(
            f"{family}/chance/{metric}", "test", column.regime, column.k_shot, column.evaluation
        ).drop_duplicates(["task", "seed"])
        if values["value"].isna().all():
            cells.append(Cell())
            continue
        found = interval(values, resamples=1)
        level = Estimate(found.mean, math.nan, math.nan, found.tasks, found.seeds, found.episodes)
        source = Source("chance", column.regime, column.k_shot, column.metric)
        cells.append(Cell(number(level.mean), estimate=level, source=source))
    return tuple(cells)


def distinct_episodes(results: Results, regime: str) -> float:
    """The test episodes of a regime that are not the same at every seed.

    Returns:
        The number of tasks where one split or the order in time gives shots and queries, so that
        more seeds do not make more episodes; infinity elsewhere. In a warm cell whose queries are
        held out, all else that a task rated is its shots.
    """
    config = results.config
    given = config.split.method in GIVES_QUERIES or config.episode.order == "time"
    if config.protocol is not None and config.protocol.support is None:
        given |= regime == "warm"
    if not given or len({record.config.split.seed for record in results.records}) > 1:
        return math.inf
    frame = results.per_task
    here = (frame["part"] == "test") & (frame["regime"] == regime)
    return float(frame.loc[here, "task"].nunique())


def _of_distinct(cell: Cell, distinct: float) -> Cell:
    """A cell whose episodes are counted once each, and so are those of its difference."""

    def counted(estimate: Estimate | None) -> Estimate | None:
        if estimate is None or estimate.episodes <= distinct:
            return estimate
        return replace(estimate, episodes=int(distinct))

    versus = cell.versus
    if versus is not None:
        versus = replace(versus, estimate=counted(versus.estimate))
    return replace(cell, estimate=counted(cell.estimate), versus=versus)


def _difference(mean: Cell) -> Cell:
    """That of a learner to the reference; none of the reference to itself."""
    versus = mean.versus
    return Cell() if versus is None or versus.estimate is None else versus


def _others(figures: Sequence[Figures], columns: Sequence[Column], more: int) -> list[Section]:
    """The figures of others, which stand on no tasks that are known here."""
    sections = []
    for kind in KINDS:
        rows = [
            Row(
                one.label,
                (*(_figure(one, column) for column in columns), *(Cell() for _ in range(more))),
            )
            for one in figures
            if one.kind == kind
        ]
        if rows:
            sections.append(Section(kind, tuple(rows)))
    return sections


def _figure(figures: Figures, column: Column) -> Cell:
    value = figures.values.get((column.metric, column.regime), math.nan)
    if math.isnan(value):
        return Cell()
    return Cell(
        value=number(value),
        estimate=Estimate(value, math.nan, math.nan, 0, 0, 0),
        source=Source(figures.key, column.regime, column.k_shot, column.metric),
    )


def _to_beat(figures: Sequence[Figures], column: Column) -> float:
    """The best figure that a cell of the column may beat; NaN where there is none."""
    values = [
        one.values[column.metric, column.regime]
        for one in figures
        if one.to_beat and (column.metric, column.regime) in one.values
    ]
    best = max if higher_is_better(column.metric) else min
    return best(values, default=math.nan)


def _marked(cell: Cell, figure: float, metric: str) -> Cell:
    if cell.estimate is None or math.isnan(figure):
        return cell
    higher = higher_is_better(metric)
    beats = cell.estimate.low > figure if higher else cell.estimate.high < figure
    return replace(cell, mark=cell.mark + BEATS) if beats else cell


def _notes_on_others(study: Study, shown: Shown) -> list[str]:
    """What is to be said of the rows that are not ours, and of what beats them."""
    notes = []
    spreads = [f"{one.label} {one.spread}" for one in shown.figures if one.spread]
    if shown.figures:
        given = f" ({'; '.join(spreads)})" if spreads else ""
        notes.append(
            "Figures of others as they were given, without intervals"
            f"{given}: paper/protocols/{study.protocol}.md says on what."
        )
    if any(one.to_beat for one in shown.figures):
        notes.append(f"{BEATS}: the whole interval is better than the best reproduction.")
    return notes


def _own_notes(study: Study, shown: Shown, tested: bool) -> list[str]:
    """What only tables of protocols have to say."""
    notes = _notes_on_others(study, shown)
    if study.pooled:
        notes.append(
            f"Pooled over {len(study.splits)} splits: a task is a user, with all splits that test "
            "it; a user’s value is its mean over these, and users are resampled as a whole. Seeds "
            "are splits, each with its own queries and training."
        )
    if study.protocol in _IN_TIME and study.results.config.episode.order == "random":
        notes.append(
            "The data have no times: shots and queries are drawn at random, where the protocol "
            "takes the first in time."
        )
    if tested:
        notes.append(effects_note(shown.name))
    return notes


def _notes(study: Study, columns: Sequence[Column], preliminary: bool) -> tuple[str, ...]:
    """The sentences of all tables; several splits are no single one."""
    results = study.results
    notes = notes_of(results, columns, preliminary, REFERENCE)
    if not study.pooled:
        return notes
    sources = source_notes([(results, columns)])
    shared = notes[: len(notes) - len(sources)]
    frame = results.per_task
    pairs = frame.loc[frame["part"] == "test", ["task", "seed"]].drop_duplicates()
    data = (
        f"Data: {study.provenance.data}, {study.provenance.split}. Test tasks: "
        f"{pairs['task'].nunique():,} users, {len(pairs):,} pairs of a user and a split."
    )
    return (*shared, data, *sources[2:])
