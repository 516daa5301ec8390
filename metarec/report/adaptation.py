"""Who gains from adapting: each learner against itself without it, on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from metarec.evaluation.significance import holm
from metarec.report.cells import PRIMARY, Column, difference_cell, regimes_of, row_label
from metarec.report.collect import Results
from metarec.report.labels import Variant, group_of, metric_label, regime_label, sort_key
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
    number,
)

_NAME = "adaptation"


@dataclass(frozen=True)
class Gain:
    """What adapting gives a learner in one regime of validation.

    Args:
        kind: of task.
        variant: the adapted learner.
        label: how its row is called.
        column: the episodes.
        estimate: adapted minus unadapted, paired over tasks; p after Holm's correction over the
            learners of the column.
    """

    kind: str
    variant: Variant
    label: str
    column: Column
    estimate: Estimate

    @property
    def significant(self) -> bool:
        """Whether the difference is, and mean and ranks point the same way."""
        return self.estimate.p < SIGNIFICANT and self.estimate.agrees()

    @property
    def beats(self) -> bool:
        """Whether the learner beats its own unadapted row: on average, and significantly."""
        return self.significant and self.estimate.mean > 0


def gains_of(results: Results, part: str = "validation") -> list[Gain]:
    """The gain of every learner that was measured without adaptation too, regime by regime.

    The tasks are those of validation by default, so that looking at them costs the test nothing.
    """
    kind, k_shot = results.config.episode.task, results.config.episode.k_shot
    pairs = [
        (variant, Variant(variant.learner, adapted=False))
        for variant in results.variants
        if variant.adapted and Variant(variant.learner, adapted=False) in results.variants
    ]
    gains = []
    for regime in regimes_of(results):
        head = "Item tasks" if kind == "item" else regime_label(regime)
        column = Column(head, PRIMARY, regime, k_shot)
        values = results.select(PRIMARY, part, regime, k_shot)
        found = {
            variant: difference
            for variant, unadapted in pairs
            if (difference := difference_of(values, variant, unadapted, PRIMARY)) is not None
        }
        p_holm = holm(np.array([estimate.p for estimate in found.values()], np.float64))
        gains += [
            Gain(kind, variant, row_label(results, variant), column, replace(estimate, p=float(p)))
            for (variant, estimate), p in zip(found.items(), p_holm, strict=True)
        ]
    return gains


def gain_note(results: Results, gains: Sequence[Gain]) -> str:
    """The sentence that names, regime by regime, who does not beat its own unadapted row.

    Args:
        results: the runs of the table above it.
        gains: of these and perhaps of others.
    """
    kind = results.config.episode.task
    gains = [gain for gain in gains if gain.kind == kind and gain.variant in results.variants]
    if not gains:
        return "No learner was measured without its adaptation."
    first = "On validation (table adaptation), each learner against its own unadapted row: "
    parts = []
    for what, chosen in (
        ("not better", [gain for gain in gains if not gain.estimate.mean > 0]),
        (
            "better, but not significantly so,",
            [gain for gain in gains if gain.estimate.mean > 0 and not gain.beats],
        ),
    ):
        by_column = [
            f"{head.lower()}: "
            + ", ".join(f"{one.label} ({number(one.estimate.mean, signed=True)})" for one in group)
            for head, group in groupby(chosen, key=lambda gain: gain.column.head)
        ]
        if by_column:
            parts.append(f"{what} in {'; '.join(by_column)}")
    return first + (" – ".join(parts) or "all are significantly better in every regime") + "."


def adaptation_table(parts: Sequence[tuple[Results, Sequence[Gain]]]) -> Table | None:
    """Adapted minus unadapted on validation: learners by regimes, and by kind of task.

    Args:
        parts: results with their gains.

    Returns:
        The table; None if no learner was measured without adaptation.
    """
    gains = [gain for _, own in parts for gain in own]
    if not gains:
        return None
    heads = list(dict.fromkeys(gain.column.head for gain in gains))
    targets = {name: target for results, _ in parts for name, target in results.targets.items()}
    labels = {gain.variant: gain.label for gain in reversed(gains)}
    found = {(gain.variant, gain.column.head): gain for gain in gains}
    preliminary = any(gain.estimate.few for gain in gains)
    order = sorted(labels, key=lambda variant: sort_key(variant, targets[variant.learner]))
    sections = [
        Section(
            title,
            tuple(
                Row(labels[variant], tuple(_cell(found.get((variant, head))) for head in heads))
                for variant in group
            ),
        )
        for title, group in groupby(order, key=lambda v: group_of(v.learner, targets[v.learner]))
    ]
    k_shot = gains[0].column.k_shot
    notes = [
        f"Mean difference over validation tasks with its 95 % bootstrap interval ({RESAMPLES:,} "
        "resamples of tasks, each with all its seeds; BCa), of a learner and the same weights "
        "without adaptation (0 steps, no support, or no warm-up, as the main tables call it). "
        f"{BETTER} and {WORSE}: p < .05 of Wilcoxon’s signed-rank test after Holm’s correction "
        "over the learners of a column, where mean and ranks point the same way. "
        f"{MISSING}: not measured. {effects_note(_NAME)}",
    ]
    columns = [
        (results, list(dict.fromkeys(gain.column for gain in own))) for results, own in parts
    ]
    return Table(
        name=_NAME,
        title=f"What adapting gives on validation, {metric_label(PRIMARY)} minus the own "
        f"unadapted row, K = {k_shot}",
        columns=("Learner", *heads),
        sections=tuple(sections),
        notes=(*notes, *source_notes(columns, part="validation")),
        preliminary=preliminary,
        part="validation",
    )


def _cell(gain: Gain | None) -> Cell:
    if gain is None:
        return Cell()
    unadapted = Variant(gain.variant.learner, adapted=False)
    return difference_cell(gain.variant, unadapted, gain.column, gain.estimate)
