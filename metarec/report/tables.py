"""The tables of learners, from checked results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metarec.report.cells import (
    PRIMARY,
    Column,
    column_cells,
    curve_shots,
    grouped,
    regimes_of,
)
from metarec.report.collect import Results
from metarec.report.labels import Variant, metric_label, regime_label
from metarec.report.notes import notes_of
from metarec.report.table import Section, Table


def main_table(results: Results) -> Table:
    """Learners by regimes, nDCG@10 over the catalogue, in the groups of learners."""
    return table_by_regime(results, "main", "{metric} of the whole catalogue of each regime")


def table_by_regime(
    results: Results,
    name: str,
    title: str,
    reference: Variant | None = None,
    sections: Mapping[str, Sequence[str]] | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Learners by regimes, nDCG@10 over the catalogue at the shots of the runs.

    Args:
        results: the runs of the table.
        name: its file name.
        title: what it shows, where `{metric}` stands for the metric.
        reference: whom all are compared with; the best baseline of each column if None.
        sections: title to learners, in place of their groups.
        notes: sentences before the others.
    """
    k_shot = results.config.episode.k_shot
    columns = [
        Column(regime_label(regime), PRIMARY, regime, k_shot) for regime in regimes_of(results)
    ]
    cells, preliminary = column_cells(results, columns, reference)
    return Table(
        name=name,
        title=f"{title.format(metric=metric_label(PRIMARY))}, K = {k_shot}",
        columns=("Learner", *(column.head for column in columns)),
        sections=grouped(results, cells, sections),
        notes=(*notes, *notes_of(results, columns, preliminary, reference)),
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
            "AUC and nDCG@5 rank only what each task has rated itself, which no recommender can "
            "know beforehand: compare them with chance, not with figures of the whole catalogue. "
            "Learners that only rank were tuned on the catalogue, the others on RMSE."
        )
        notes = notes_of(results, columns, preliminary)
        tables.append(
            Table(
                name="rated" if regime == first else f"rated_{regime}",
                title=(
                    "Errors of predicted ratings and the ranking of what was rated, learners "
                    f"trained on ratings, {regime_label(regime).lower()}, K = {k_shot}"
                ),
                columns=("Learner", *(column.head for column in columns)),
                sections=grouped(results, cells),
                notes=(legacy, *notes),
                preliminary=preliminary,
            )
        )
    return tables


def item_tasks_table(results: Results) -> Table | None:
    """New items, for which known users are ranked: AUC and nDCG@10 at each K of the curve."""
    regime = "item_cold"
    shots = curve_shots(results, regime)
    if not shots:
        return None
    metrics = ("catalogue/auc", PRIMARY)
    sections, every, preliminary = [], [], False
    for metric in metrics:
        columns = [Column(f"K = {k}", metric, regime, k, "curve") for k in shots]
        cells, few = column_cells(results, columns)
        rows = [row for section in grouped(results, cells) for row in section.rows]
        sections.append(Section(metric_label(metric), tuple(rows)))
        every += columns
        preliminary |= few
    return Table(
        name="item_tasks",
        title="Item tasks, known users ranked for a new item after the feedback of K of them",
        columns=("Learner", *(f"K = {k}" for k in shots)),
        sections=tuple(sections),
        notes=notes_of(results, every, preliminary),
        preliminary=preliminary,
    )
