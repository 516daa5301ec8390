"""What a user's shots add to the hybrid learner's order of new items, paired by user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from metarec.evaluation.significance import holm
from metarec.report.cells import HOW_TESTED, TEST_HEADS, Column, difference_cell, test_cells
from metarec.report.collect import Results
from metarec.report.labels import Variant, label_of
from metarec.report.notes import source_notes
from metarec.report.selection import RESAMPLES, difference_of
from metarec.report.table import (
    BETTER,
    WORSE,
    Estimate,
    Row,
    Section,
    Table,
)

HYBRID = Variant("hybrid")
REFERENCES = (Variant("hybrid", adapted=False), Variant("predicted_popularity"))
"""The same learner knowing nothing of a user, which is its own prediction of popularity; and the
learner that predicts nothing else."""
REGIMES = ("item_cold", "both_cold")


def margin_table(results: Results, columns: Sequence[Column]) -> Table | None:
    """Hybrid minus predictions of popularity, paired over users.

    Args:
        results: the runs of the test.
        columns: of the table of the test; those of new items are taken.

    Returns:
        The table; None where there are no new items, or no reference was measured.
    """
    shown = [column for column in columns if column.regime in REGIMES]
    lines: list[tuple[Variant, Column, Estimate]] = []
    for column in shown:
        values = results.select(column.metric, "test", column.regime, column.k_shot)
        for reference in REFERENCES:
            found = difference_of(values, HYBRID, reference, column.metric)
            if found is not None:
                lines.append((reference, column, found))
    if not lines:
        return None
    p_holm = holm(np.array([estimate.p for *_, estimate in lines], np.float64))
    preliminary = any(estimate.few for *_, estimate in lines)
    rows: dict[str, list[Row]] = {column.head: [] for column in shown}
    for (reference, column, estimate), p in zip(lines, p_holm, strict=True):
        tested = replace(estimate, p=float(p))
        cell = difference_cell(HYBRID, reference, column, tested, bold=not preliminary)
        label = f"Minus {label_of(reference)}"
        rows[column.head].append(Row(label, (cell, *test_cells(tested))))
    return Table(
        name="hybrid_margin",
        title="The hybrid learner on new items minus what is the same for all users, nDCG@10",
        columns=("Hybrid", "Difference", *TEST_HEADS),
        sections=tuple(Section(head, tuple(own)) for head, own in rows.items() if own),
        notes=(
            "Without support, the learner ranks new items in one order for every user: its own "
            "prediction of popularity.",
            f"Mean difference over users with its 95 % bootstrap interval ({RESAMPLES:,} "
            "resamples of users, each with all its seeds; BCa); p of Wilcoxon’s signed-rank test "
            f"after Holm’s correction over the {len(lines)} rows; {BETTER} and {WORSE}: p < .05, "
            f"where mean and ranks point the same way. {HOW_TESTED} Other cold items would differ "
            "by more than other users: `hybrid_items.md`.",
            *source_notes([(results, shown)]),
        ),
        preliminary=preliminary,
    )
