"""The table of the twins: the same learner in JAX and in PyTorch, on the same episodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from metarec.evaluation.significance import holm
from metarec.report.cells import PRIMARY, Column, difference_cell, regimes_of
from metarec.report.collect import Results, subset
from metarec.report.labels import JAX, Variant, label_of, metric_label, regime_label, sort_key
from metarec.report.notes import effects_note, source_notes
from metarec.report.selection import RESAMPLES, SIGNIFICANT, difference_of
from metarec.report.table import (
    BETTER,
    MISSING,
    WORSE,
    Cell,
    Estimate,
    Row,
    Section,
    Table,
)

_NAME = "backends"


def of_both(results: Results | None) -> Results | None:
    """The part of the results that the table is about; None if there is nothing."""
    if results is None:
        return None
    names = {record.learner for record in results.records}
    twins = {name for name in names if name + JAX in names}
    return subset(results, twins | {name + JAX for name in twins})


def backends_table(user: Results | None, item: Results | None) -> Table | None:
    """JAX minus PyTorch, paired over tasks: learners by regimes, for each kind of task.

    Args:
        user: what `of_both` gives of user tasks.
        item: likewise of item tasks.

    Returns:
        The table; None if no learner was run on both backends.
    """
    parts = [(kind, own) for kind, own in (("User", user), ("Item", item)) if own is not None]
    found: dict[tuple[str, Variant, str], tuple[Column, Estimate]] = {}
    by_seeds: list[bool] = []
    for kind, results in parts:
        for regime in regimes_of(results):
            column = Column(regime_label(regime), PRIMARY, regime, results.config.episode.k_shot)
            values = results.select(PRIMARY, "test", regime, column.k_shot)
            for variant in _twins(results):
                torch = Variant(variant.learner.removesuffix(JAX), variant.adapted)
                if (estimate := difference_of(values, variant, torch, PRIMARY)) is not None:
                    found[kind, variant, column.head] = column, estimate
                    by_seeds += _differs_by_seeds(values, variant, torch)
    if not found:
        return None
    p_holm = holm(np.array([estimate.p for _, estimate in found.values()], np.float64))
    cells = {
        key: _cell(key[1], column, replace(estimate, p=float(p)))
        for (key, (column, estimate)), p in zip(found.items(), p_holm, strict=True)
    }
    heads = list(dict.fromkeys(head for _, _, head in found))
    sections = tuple(
        Section(
            f"{kind} tasks",
            tuple(
                Row(
                    label_of(variant, kind.lower()).replace(", JAX", ""),
                    tuple(cells.get((kind, variant, head), Cell()) for head in heads),
                )
                for variant in _twins(results)
            ),
        )
        for kind, results in parts
    )
    estimates = [estimate for _, estimate in found.values()]
    preliminary = any(one.few for one in estimates)
    notes = [
        "The same learner with the same settings, seeds, first weights and episodes, computed by "
        "JAX (backend=jax) minus computed by PyTorch. In float64 both follow the same path "
        "(tests/jax); in float32 a thousand steps drift apart like two seeds.",
        f"Mean difference over test tasks with its 95 % bootstrap interval ({RESAMPLES:,} "
        f"resamples of tasks, each with all its seeds; BCa); {BETTER} and {WORSE}: p < .05 of "
        "Wilcoxon’s signed-rank test over tasks after Holm’s correction over the "
        f"{len(estimates)} cells, where mean and ranks point the same way. "
        f"{MISSING}: not measured. {effects_note(_NAME)}",
        *_seeds_note(by_seeds),
    ]
    columns = [
        (
            results,
            list(dict.fromkeys(column for (of, _, _), (column, _) in found.items() if of == kind)),
        )
        for kind, results in parts
    ]
    return Table(
        name=_NAME,
        title=f"JAX minus PyTorch, paired difference in {metric_label(PRIMARY)}",
        columns=("Learner", *heads),
        sections=sections,
        notes=(*notes, *source_notes(columns)),
        preliminary=preliminary,
    )


def _differs_by_seeds(values: pd.DataFrame, jax: Variant, torch: Variant) -> list[bool]:
    """Whether 0 lies outside the t interval over seeds; empty with fewer than two seeds."""
    means = values.groupby(["learner", "seed"])["value"].mean().unstack("seed")
    differences = (means.loc[jax.key] - means.loc[torch.key]).dropna().to_numpy(np.float64)
    if len(differences) < 2:
        return []
    return [bool(stats.ttest_1samp(differences, 0).pvalue < SIGNIFICANT)]


def _seeds_note(differs: list[bool]) -> list[str]:
    if not differs:
        return []
    return [
        "These intervals hold the seeds fixed, and single seeds differ by more. With the seeds as "
        f"the unit, {sum(differs)} of the {len(differs)} differences lie outside a 95 % t interval "
        "(paired, uncorrected)."
    ]


def _twins(results: Results) -> list[Variant]:
    """The variants of JAX, in the order of the tables."""
    own = [variant for variant in results.variants if variant.learner.endswith(JAX)]
    return sorted(own, key=sort_key)


def _cell(variant: Variant, column: Column, estimate: Estimate) -> Cell:
    torch = Variant(variant.learner.removesuffix(JAX), variant.adapted)
    return difference_cell(variant, torch, column, estimate)
