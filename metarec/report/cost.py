"""The table of what runs cost: time, weights and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from metarec.report.cells import PRIMARY, Column, fewer_seeds, regimes_of
from metarec.report.collect import Results
from metarec.report.labels import Variant, group_of, label_of, sort_key
from metarec.report.notes import machine_text, source_notes
from metarec.report.table import (
    MISSING,
    Cell,
    Estimate,
    Row,
    Section,
    Source,
    Table,
    count_text,
    duration,
)
from metarec.runs.store import Record

PARAMETERS, FIT, EVALUATE = "parameters", "seconds/fit", "seconds/evaluate"
ADAPT, SCORE = "milliseconds_per_task/adapt", "milliseconds_per_task/score"
EVERYWHERE = "all"
"""Stands in the small record where others have a regime."""

_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    PARAMETERS: ("Weights", count_text),
    FIT: ("Fit, s", duration),
    EVALUATE: ("Evaluate, s", duration),
    ADAPT: ("Adapt, ms", duration),
    SCORE: ("Score, ms", duration),
}


def cost_table(results: Results, name: str = "cost") -> Table | None:
    """What a run of each learner costs, mean over seeds.

    Args:
        results: the runs of a table of learners.
        name: of the file.

    Returns:
        The table; None where the records say nothing of it.
    """
    own: dict[str, list[Record]] = {}
    for record in results.records:
        own.setdefault(record.learner, []).append(record)
    order = sorted(own, key=lambda learner: sort_key(Variant(learner), results.targets[learner]))
    sections: dict[str, list[Row]] = {}
    for learner in order:
        variant = Variant(learner)
        label = label_of(variant, results.config.episode.task) + fewer_seeds(results, learner)
        group = group_of(learner, results.targets[learner])
        sections.setdefault(group, []).append(Row(label, _cells(results, learner, own[learner])))
    if not any(cell.estimate for rows in sections.values() for row in rows for cell in row.cells):
        return None
    return Table(
        name=name,
        title=f"What a run costs, K = {results.config.episode.k_shot}",
        columns=("Learner", *(head for head, _ in _COLUMNS.values())),
        sections=tuple(Section(title, tuple(rows)) for title, rows in sections.items()),
        notes=tuple(_notes(results)),
        shown=False,
    )


def _cells(results: Results, learner: str, records: Sequence[Record]) -> tuple[Cell, ...]:
    cells = []
    for measure, (_, shown) in _COLUMNS.items():
        values = [value for one in records if (value := _value(one, measure)) is not None]
        if not values:
            cells.append(Cell())
            continue
        mean = math.fsum(values) / len(values)
        estimate = Estimate(mean, math.nan, math.nan, 0, len(values), 0)
        source = Source(learner, EVERYWHERE, results.config.episode.k_shot, measure)
        cells.append(Cell(shown(mean), estimate=estimate, source=source))
    return tuple(cells)


def _value(record: Record, measure: str) -> float | None:
    """What a record says of one cost; None if nothing."""
    if measure == PARAMETERS:
        # what a baseline keeps of meta-train is no weight that is trained
        found = record.content.get("parameters") if record.log else None
        return None if found is None else float(found)
    family, _, name = measure.partition("/")
    if family == "seconds":
        return record.seconds.get(name)
    found = record.seconds_per_task.get(name)
    return None if found is None else 1000 * float(found)


def _notes(results: Results) -> list[str]:
    regimes = [
        Column("", PRIMARY, regime, results.config.episode.k_shot) for regime in regimes_of(results)
    ]
    totals = [record.seconds["total"] for record in results.records if "total" in record.seconds]
    peaks = [one for record in results.records if (one := record.content.get("peak_memory_bytes"))]
    most = []
    if totals:
        most.append(f"the longest run took {max(totals) / 60:.1f} minutes")
    if peaks:
        most.append(
            f"the process that needed most memory had {max(peaks) / 2**30:.1f} GiB at its peak, "
            "all runs that it made included"
        )
    measured = " and ".join(results.config.evaluation.parts)
    of_all = f"; {'; '.join(most)}" if most else ""
    shortlist = results.config.evaluation.shortlist
    ranked = f"the {shortlist} candidates that are reranked" if shortlist else "its whole catalogue"
    return [
        f"Wall seconds of a run, mean over seeds, {machine_text(results.records)}, whatever else "
        f"ran on the machine{of_all}. Weights: the numbers that a learner trained by gradients "
        f"keeps, of Hybrid its neighbours and contents too. Evaluate: {measured} in all "
        "regimes and the curve, where a learner that adapts also without adapting. Adapt and "
        f"score: milliseconds of a test task in {ranked}, of many at once. {MISSING}: nothing is "
        "trained by gradients, or nothing is known.",
        *source_notes([(results, regimes)], of_quality=False),
    ]
