"""What `make paper-full` shows: the whole family of learners, and the scorers."""

from __future__ import annotations

from collections.abc import Sequence

from metarec.report.adaptation import Gain, gain_note
from metarec.report.cells import PRIMARY, Column, column_cells, curve_shots, grouped
from metarec.report.collect import Results
from metarec.report.labels import SCORERS, Variant, metric_label
from metarec.report.notes import notes_of
from metarec.report.table import Table
from metarec.report.tables import table_by_regime

BASE = Variant("maml")
"""What scorers and representations are compared with."""


def family_table(results: Results, gains: Sequence[Gain]) -> Table:
    """Learners by regimes, nDCG@10 over the catalogue, with who does not gain from adapting."""
    return table_by_regime(
        results,
        "family",
        "The family of learners, {metric} of the whole catalogue of each regime",
        notes=(gain_note(results, gains),),
    )


def scorers_table(results: Results, gains: Sequence[Gain]) -> Table:
    """The same for scorers and representations, against MAML with the MLP over text."""
    return table_by_regime(
        results,
        "scorers",
        "Scorers and representations, {metric} of the whole catalogue of each regime",
        reference=BASE,
        sections=SCORERS,
        notes=(gain_note(results, gains),),
    )


def family_items_tables(results: Results, gains: Sequence[Gain]) -> list[Table]:
    """Learners on item tasks at each K of the curve: nDCG@10, and AUC.

    Returns:
        `family_items` and `family_items_auc`; none without a curve.
    """
    regime = "item_cold"
    shots = curve_shots(results, regime)
    tables = []
    for name, metric in (("family_items", PRIMARY), ("family_items_auc", "catalogue/auc")):
        columns = [Column(f"K = {k}", metric, regime, k, "curve") for k in shots]
        cells, preliminary = column_cells(results, columns)
        table = Table(
            name=name,
            title=(
                f"The family of learners on item tasks, {metric_label(metric)} of known users, "
                "ranked for a new item after the feedback of K of them"
            ),
            columns=("Learner", *(column.head for column in columns)),
            sections=grouped(results, cells),
            notes=(
                *([gain_note(results, gains)] if metric == PRIMARY else []),
                *notes_of(results, columns, preliminary),
            ),
            preliminary=preliminary,
        )
        tables.append(table)
    return tables if shots else []
