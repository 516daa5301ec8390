"""The table that answers the framework's question: meta minus transfer."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby

import numpy as np
import pandas as pd

from metarec.evaluation.significance import holm
from metarec.report.cells import (
    HOW_TESTED,
    PRIMARY,
    TEST_HEADS,
    Column,
    curve_regime,
    curve_shots,
    difference_cell,
    interval_cell,
    regimes_of,
    test_cells,
)
from metarec.report.collect import Results, check_one_setting, subset
from metarec.report.labels import Variant, metric_label, regime_label
from metarec.report.notes import source_notes
from metarec.report.selection import RESAMPLES, difference_of, interval_of, on_shared_seeds
from metarec.report.table import (
    BETTER,
    WORSE,
    Cell,
    Estimate,
    Row,
    Section,
    Source,
    Table,
)

META, TRANSFER = Variant("maml"), Variant("transfer")


def of_the_pair(results: Results | None) -> Results | None:
    """The part of the results that the table is about; None if there is nothing."""
    return subset(results, (META.learner, TRANSFER.learner))


def meta_minus_transfer_table(
    user: Results | None, item: Results | None, name: str = "meta_minus_transfer"
) -> Table | None:
    """MAML minus transfer: same scorer, same episodes, paired over tasks.

    Args:
        user: results of user tasks.
        item: those of item tasks.
        name: file name of the table.

    Returns:
        Rows for the regimes, for K of the curve, and for item tasks; None if one of the two
        learners is missing everywhere.
    """
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
        found = difference_of(values, META, TRANSFER, column.metric)
        if found is None:
            continue
        # the means are those of the difference: of the seeds that both have
        own = on_shared_seeds(values, META, TRANSFER)
        pair = (_mean_cell(own, META, column), _mean_cell(own, TRANSFER, column))
        lines.append((title, column, pair, found))
    if not lines:
        return None
    used = [results for results in (user, item) if results is not None]
    check_one_setting(
        [record for results in used for record in results.records], "meta minus transfer"
    )

    p_holm = holm(np.array([estimate.p for *_, estimate in lines], np.float64))
    preliminary = any(estimate.few for *_, estimate in lines)
    rows: list[tuple[str, Row]] = []
    for (title, column, pair, estimate), p in zip(lines, p_holm, strict=True):
        estimate = replace(estimate, p=float(p))
        difference = difference_cell(META, TRANSFER, column, estimate, bold=not preliminary)
        rows.append((title, Row(column.head, (*pair, difference, *test_cells(estimate)))))
    sections = [
        Section(title, tuple(row for _, row in group))
        for title, group in groupby(rows, key=lambda entry: entry[0])
    ]
    named = [(kind, own) for kind, own in (("user", user), ("item", item)) if own is not None]
    notes = [
        "MAML and transfer share scorer, episodes and the most outer steps, stop early on "
        "validation, and both adapt to the support set; each has values of its own: "
        + "; ".join(f"{kind} tasks, {_settings(own)}" for kind, own in named)
        + ".",
        f"Mean difference over test tasks with its 95 % bootstrap interval ({RESAMPLES:,} "
        "resamples of tasks, each with all its seeds; BCa); p of Wilcoxon’s signed-rank test over "
        f"tasks after Holm’s correction over the {len(rows)} rows; {BETTER} and {WORSE}: p < .05, "
        f"where mean and ranks point the same way. {HOW_TESTED}",
    ]
    notes += source_notes(
        [(own, [column for _, other, column in plan if other is own]) for own in used]
    )
    return Table(
        name=name,
        title=f"Meta minus transfer, paired difference in {metric_label(PRIMARY)}",
        columns=("Episodes", "MAML", "Transfer", "Difference", *TEST_HEADS),
        sections=tuple(sections),
        notes=tuple(notes),
        preliminary=preliminary,
    )


_CHOSEN = (
    *("inner_steps", "inner_learning_rate", "fine_tune_steps", "fine_tune_learning_rate"),
    *("learning_rate", "weight_decay", "outer_loss", "steps"),
)


def _settings(results: Results) -> str:
    """The settings of the two learners, as their records have them."""
    parts = []
    for variant in (META, TRANSFER):
        own = [one.config for one in results.records if one.learner == variant.learner]
        if not own:
            continue
        arguments = own[0].learner.arguments
        chosen = [f"{name} {arguments[name]}" for name in _CHOSEN if name in arguments]
        parts.append(f"{variant.learner} ({', '.join(chosen)})")
    return " and ".join(parts)


def _mean_cell(values: pd.DataFrame, variant: Variant, column: Column) -> Cell:
    found = interval_of(values, variant)
    assert found is not None
    source = Source(variant.key, column.regime, column.k_shot, column.metric)
    return interval_cell(found, source, mark="", p=math.nan, bold=False)
