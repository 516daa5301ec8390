"""The tables of the paper, from checked results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from metarec.evaluation.metrics import ranking_metrics
from metarec.evaluation.significance import MIN_EPISODES, MIN_SEEDS, Interval, holm
from metarec.report.collect import Results, error_of, run_name
from metarec.report.labels import (
    ONE_SEED,
    REGIME_LABELS,
    Variant,
    group_of,
    label_of,
    metric_label,
    regime_label,
    sort_key,
)
from metarec.report.provenance import provenance_of
from metarec.report.selection import (
    RESAMPLES,
    SIGNIFICANT,
    chance_of,
    difference_of,
    higher_is_better,
    interval_of,
    reference_of,
    tests_of,
)
from metarec.report.table import (
    BETTER,
    MISSING,
    REFERENCE,
    WORSE,
    Cell,
    Estimate,
    Row,
    Section,
    Source,
    Table,
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


def main_table(results: Results) -> Table:
    """Learners by regimes, nDCG@10 over the catalogue, in the groups of learners."""
    k_shot = results.config.episode.k_shot
    columns = [
        Column(regime_label(regime), PRIMARY, regime, k_shot) for regime in regimes_of(results)
    ]
    cells, preliminary = column_cells(results, columns)
    return Table(
        name="main",
        title=f"{metric_label(PRIMARY)} of the whole catalogue of each regime, K = {k_shot}",
        columns=("Learner", *(column.head for column in columns)),
        sections=_grouped(results, cells),
        notes=_notes(results, columns, preliminary, "the learners of a column"),
        preliminary=preliminary,
    )


def rated_tables(results: Results) -> list[Table]:
    """For learners trained on ratings: MAE, RMSE, and the legacy ranking of what was rated.

    Returns:
        `rated` for `user_cold` (or the first regime there is), and `rated_<regime>` for the others.
    """
    k_shot = results.config.episode.k_shot
    regimes = regimes_of(results)
    first = "user_cold" if "user_cold" in regimes else regimes[0]
    tables = []
    for regime in sorted(regimes, key=lambda name: name != first):
        columns = [
            Column(metric_label(metric), metric, regime, k_shot)
            for metric in ("rated/mae", "rated/rmse", "rated/auc", "rated/ndcg@5")
        ]
        cells, preliminary = column_cells(results, columns)
        legacy = (
            "AUC and nDCG@5 rank only what each task has rated itself, which no recommender can know "
            "beforehand: compare them with chance, not with other papers' catalogue figures."
        )
        notes = _notes(results, columns, preliminary, "the learners of a column")
        tables.append(
            Table(
                name="rated" if regime == first else f"rated_{regime}",
                title=(
                    f"Learners trained on ratings, {regime_label(regime).lower()}, K = {k_shot}: "
                    "errors of predicted ratings and the ranking of rated items"
                ),
                columns=("Learner", *(column.head for column in columns)),
                sections=_grouped(results, cells),
                notes=(legacy, *notes),
                preliminary=preliminary,
            )
        )
    return tables


def item_tasks_table(results: Results) -> Table | None:
    """New items: known users are ranked; AUC and nDCG@10 at each K of the curve, nested supports."""
    regime = "item_cold"
    shots = curve_shots(results, regime)
    if not shots:
        return None
    metrics = ("catalogue/auc", PRIMARY)
    sections, every, preliminary = [], [], False
    for metric in metrics:
        columns = [Column(f"K = {k}", metric, regime, k, "curve") for k in shots]
        cells, few = column_cells(results, columns)
        rows = [row for section in _grouped(results, cells) for row in section.rows]
        sections.append(Section(metric_label(metric), tuple(rows)))
        every += columns
        preliminary |= few
    return Table(
        name="item_tasks",
        title="Item tasks: the known users ranked for a new item after the feedback of K of them",
        columns=("Learner", *(f"K = {k}" for k in shots)),
        sections=tuple(sections),
        notes=_notes(results, every, preliminary, "the learners of a column"),
        preliminary=preliminary,
    )


def meta_minus_transfer_table(user: Results | None, item: Results | None) -> Table | None:
    """MAML minus transfer: same scorer, same episodes, paired over tasks.

    Returns:
        Rows for the regimes, for K of the curve, and for item tasks; None if one of the two learners
        is missing everywhere.
    """
    meta, transfer = Variant("maml"), Variant("transfer")
    plan: list[tuple[str, Results, Column]] = []
    if user is not None:
        k_shot = user.config.episode.k_shot
        title = f"User tasks, K = {k_shot}"
        for regime in regimes_of(user):
            plan.append((title, user, Column(regime_label(regime), PRIMARY, regime, k_shot)))
        regime = curve_regime(user)
        for k in curve_shots(user, regime) if regime else []:
            title = f"User tasks, {regime_label(regime).lower()}, nested supports"
            plan.append((title, user, Column(f"K = {k}", PRIMARY, regime, k, "curve")))
    if item is not None:
        for k in curve_shots(item, "item_cold"):
            column = Column(f"K = {k}", PRIMARY, "item_cold", k, "curve")
            plan.append(("Item tasks, nested supports", item, column))

    lines: list[tuple[str, Column, tuple[Cell, Cell], Estimate]] = []
    for title, results, column in plan:
        values = results.select(
            column.metric, "test", column.regime, column.k_shot, column.evaluation
        )
        found = difference_of(values, meta, transfer, column.metric, RESAMPLES)
        if found is None:
            continue
        pair = (_mean_cell(values, meta, column), _mean_cell(values, transfer, column))
        lines.append((title, column, pair, found.estimate))
    if not lines:
        return None

    import numpy as np

    p_holm = holm(np.array([estimate.p for *_, estimate in lines], np.float64))
    preliminary = any(
        estimate.seeds < MIN_SEEDS or estimate.episodes < MIN_EPISODES for *_, estimate in lines
    )
    rows: list[tuple[str, Row]] = []
    for (title, column, pair, estimate), p in zip(lines, p_holm, strict=True):
        estimate = replace(estimate, p=float(p))
        significant = p < SIGNIFICANT
        mark = (BETTER if estimate.mean > 0 else WORSE) if significant else ""
        source = Source("maml - transfer", column.regime, column.k_shot, column.metric)
        difference = Cell(
            value=number(estimate.mean, signed=True),
            interval=interval_text(estimate.low, estimate.high, signed=True),
            mark=mark,
            bold=significant and not preliminary,
            estimate=estimate,
            source=source,
        )
        rows.append((title, Row(column.head, (*pair, difference, Cell(p_text(float(p)))))))
    used = [results for results in (user, item) if results is not None]
    sections = [
        Section(title, tuple(row for _, row in group))
        for title, group in groupby(rows, key=lambda entry: entry[0])
    ]
    notes = [
        "MAML and transfer share scorer, episodes and number of steps; both are adapted to the "
        "support set.",
        f"Difference of each test task, mean over seeds, with its 95 % bootstrap interval ({RESAMPLES:,} "
        "resamples of tasks with all their seeds, BCa); p of Wilcoxon’s signed-rank test over tasks "
        f"after Holm’s correction over the {len(rows)} rows; {BETTER} and {WORSE}: p < "
        f"{number(SIGNIFICANT)[:3]}.",
    ]
    if preliminary:
        notes.append(_few())
    for results in used:
        notes += _source_notes(results, [column for _, own, column in plan if own is results])
    return Table(
        name="meta_minus_transfer",
        title=f"Meta minus transfer: paired difference in {metric_label(PRIMARY)}",
        columns=("Episodes", "MAML", "Transfer", "Difference", "p (Holm)"),
        sections=tuple(sections),
        notes=tuple(notes),
        preliminary=preliminary,
    )


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
    results: Results, columns: Sequence[Column]
) -> tuple[Callable[[Variant | None], tuple[Cell, ...]], bool]:
    """The cells of every row, column by column, since tests and bold belong to a column.

    Returns:
        A function from a row (None for chance) to its cells, and whether the table is preliminary.
    """
    measured: list[dict[Variant, Interval]] = []
    chances: list[Cell] = []
    marked: list[dict[Variant, tuple[str, float]]] = []
    for column in columns:
        values = results.select(
            column.metric, "test", column.regime, column.k_shot, column.evaluation
        )
        found = {variant: interval_of(values, variant) for variant in results.variants}
        own = {variant: value for variant, value in found.items() if value is not None}
        measured.append(own)
        level = chance_of(values, column.metric)
        source = Source("chance", column.regime, column.k_shot, column.metric)
        chances.append(Cell(number(level.mean), estimate=level, source=source) if level else Cell())
        marked.append(_marks(results, column, own))
    preliminary = any(
        value.preliminary
        for own in measured
        for variant, value in own.items()
        if variant.learner not in ONE_SEED
    )
    rows: dict[Variant | None, tuple[Cell, ...]] = {None: tuple(chances)}
    for variant in results.variants:
        cells = []
        for column, own, marks in zip(columns, measured, marked, strict=True):
            if variant not in own:
                cells.append(Cell())
                continue
            mark, p = marks.get(variant, ("", math.nan))
            cells.append(
                _cell(
                    own[variant],
                    Source(variant.key, column.regime, column.k_shot, column.metric),
                    mark=mark,
                    p=p,
                    bold=not preliminary
                    and mark == BETTER
                    and not own[variant].preliminary
                    and variant == _best(own, column.metric),
                )
            )
        rows[variant] = tuple(cells)
    return rows.__getitem__, preliminary


def _marks(
    results: Results, column: Column, own: dict[Variant, Interval]
) -> dict[Variant, tuple[str, float]]:
    validated = results.config.episode.k_shot
    reference = reference_of(results, column.metric, column.regime, validated)
    if reference is None or reference not in own:
        return {}
    values = results.select(column.metric, "test", column.regime, column.k_shot, column.evaluation)
    marks = {reference: (REFERENCE, math.nan)}
    for variant, found in tests_of(values, list(own), reference, column.metric).items():
        better = (found.estimate.mean > 0) == higher_is_better(column.metric)
        significant = found.p_holm < SIGNIFICANT
        marks[variant] = ((BETTER if better else WORSE) if significant else "", found.p_holm)
    return marks


def _best(own: dict[Variant, Interval], metric: str) -> Variant:
    sign = 1 if higher_is_better(metric) else -1
    return max(own, key=lambda variant: sign * own[variant].mean)


def _cell(found: Interval, source: Source, mark: str, p: float, bold: bool) -> Cell:
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


def _mean_cell(values: object, variant: Variant, column: Column) -> Cell:
    import pandas as pd

    assert isinstance(values, pd.DataFrame)
    found = interval_of(values, variant)
    assert found is not None
    source = Source(variant.key, column.regime, column.k_shot, column.metric)
    return _cell(found, source, mark="", p=math.nan, bold=False)


def row_label(results: Results, variant: Variant) -> str:
    """The label of a row, with its seeds where it has fewer than the others."""
    seeds = {
        name: {record.seed for record in results.records if record.learner == name}
        for name in {record.learner for record in results.records}
    }
    own, most = len(seeds[variant.learner]), max(map(len, seeds.values()))
    label = label_of(variant)
    return label if own == most else f"{label} ({own} seed{'s' if own > 1 else ''})"


def _grouped(
    results: Results, cells: Callable[[Variant | None], tuple[Cell, ...]]
) -> tuple[Section, ...]:
    targets = dict(results.targets)
    failed = {
        record.learner: record.config.learner.target
        for record in results.failed
        if record.learner not in targets
    }
    targets |= failed
    every = [*results.variants, *(Variant(learner) for learner in failed)]
    every.sort(key=lambda variant: sort_key(variant, targets[variant.learner]))
    empty = tuple(Cell() for _ in cells(None))
    sections = [Section("", (Row(CHANCE, cells(None)),))]
    for title, group in groupby(every, key=lambda v: group_of(v.learner, targets[v.learner])):
        rows = [
            Row(f"{label_of(variant)} (failed)", empty)
            if variant.learner in failed
            else Row(row_label(results, variant), cells(variant))
            for variant in group
        ]
        sections.append(Section(title, tuple(rows)))
    return tuple(sections)


def _notes(
    results: Results, columns: Sequence[Column], preliminary: bool, family: str
) -> tuple[str, ...]:
    k_shot = results.config.episode.k_shot
    notes = [
        f"Mean over test tasks with its 95 % bootstrap interval ({RESAMPLES:,} resamples of tasks, each "
        "with all its seeds; BCa).",
        f"{REFERENCE}: the baseline (floor, collaborative or content) that is best on validation at "
        f"K = {k_shot} in that metric and regime. {BETTER} and {WORSE}: significantly better and "
        f"worse than it (Wilcoxon’s signed-rank test paired over tasks, p < .05 after Holm’s correction over {family}).",
        _few()
        if preliminary
        else "Bold: the best of its column, if it is significantly better than the reference.",
        f"Chance is the exact expectation of a constant score. {MISSING}: the metric does not apply.",
    ]
    return (*notes, *_source_notes(results, columns))


def _few() -> str:
    return (
        f"Preliminary, since there are fewer than {MIN_SEEDS} seeds or {MIN_EPISODES} test episodes: "
        "nothing is bold."
    )


def _source_notes(results: Results, columns: Sequence[Column]) -> list[str]:
    frame = results.per_task
    tasks = []
    for regime in dict.fromkeys(column.regime for column in columns):
        own = [column for column in columns if column.regime == regime]
        for evaluation in dict.fromkeys(column.evaluation for column in own):
            here = frame[
                (frame["part"] == "test")
                & (frame["regime"] == regime)
                & (frame["evaluation"] == evaluation)
            ]
            nested = " (nested supports)" if evaluation == "curve" else ""
            tasks.append(f"{regime_label(regime).lower()}{nested} {here['task'].nunique()}")
    seeds = sorted({record.seed for record in results.records})
    source = provenance_of(results)
    notes = [
        f"Data: {source.data}, {source.split}. Test tasks: {', '.join(tasks)}; "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}).",
        f"{len(results.records)} records, code {_joined(source.code, 12)}, "
        f"commit {_joined(source.commit, 12)}, by {source.command}.",
    ]
    if results.failed:
        listed = "; ".join(f"{run_name(record)}: {error_of(record)}" for record in results.failed)
        notes.append(f"Failed runs, left out: {listed}.")
    return notes


def _joined(names: Sequence[str], length: int) -> str:
    return " and ".join(_short(name, length) for name in names)


def _short(name: str, length: int) -> str:
    core, dirty, _ = name.partition("+")
    return core[:length] + (f"{dirty}dirty" if dirty else "")


assert PRIMARY.partition("/")[2] in ranking_metrics((10,))
