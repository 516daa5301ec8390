"""Training curves: what meta-validation said of each trained learner, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from metarec.report.cells import PRIMARY
from metarec.report.collect import Results
from metarec.report.labels import Variant, label_of, metric_label, sort_key

if TYPE_CHECKING:
    from metarec.runs.store import Record

_COLD = ("user_cold", "item_cold", "both_cold")


@dataclass(frozen=True)
class Panel:
    """The training of one learner.

    Args:
        label: how it is called.
        seeds: steps and validation scores of each seed, on some tasks of validation.
        adapted: score of what training chose, on all tasks of validation, mean over seeds; NaN
            where there is none.
        unadapted: likewise without adaptation.
    """

    label: str
    seeds: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    adapted: float
    unadapted: float


@dataclass(frozen=True)
class TrainingCurves:
    """The training of every trained learner.

    Args:
        name: its file name.
        title: what it shows.
        y_label: the score in words.
        panels: one for each learner, in the order of the tables.
        note: how to read it.
    """

    name: str
    title: str
    y_label: str
    panels: tuple[Panel, ...]
    note: str


def training_curves(parts: Sequence[Results]) -> TrainingCurves | None:
    """The curves of all learners whose records have them; None if there are none.

    Args:
        parts: results; a learner is shown on the first that have it, as on user tasks before item
            tasks.
    """
    panels: dict[str, Panel] = {}
    for results in parts:
        targets, kind = results.targets, results.config.episode.task
        records = sorted(
            results.records,
            key=lambda one: (
                sort_key(Variant(one.learner), targets[one.learner]),
                one.seed,
            ),
        )
        for learner, own in groupby(records, key=lambda record: record.learner):
            panel = _panel(learner, kind, list(own))
            if panel is not None:
                panels.setdefault(learner, panel)
    if not panels:
        return None
    return TrainingCurves(
        name="training",
        title="Meta-validation against outer steps",
        y_label=f"{metric_label(PRIMARY)} on validation, mean over cold regimes",
        panels=tuple(panels.values()),
        note=(
            "Blue: seeds, on at most 64 validation tasks a regime. Horizontal: what training "
            "chose, on all validation tasks, adapted (solid) and not (dashed), mean over seeds."
        ),
    )


def _panel(learner: str, kind: str, records: Sequence[Record]) -> Panel | None:
    seeds = []
    for record in records:
        looks = [
            (float(entry["step"]), float(entry["validation"]))
            for entry in record.log
            if entry.get("validation") is not None and entry.get("step") is not None
        ]
        if looks:
            steps, values = zip(*looks, strict=True)
            seeds.append((steps, values))
    if not seeds:
        return None
    label = label_of(Variant(learner), kind)
    return Panel(
        label=f"{label}, item tasks" if kind == "item" else label,
        seeds=tuple(seeds),
        adapted=_mean([_selection(record, adapted=True) for record in records]),
        unadapted=_mean([_selection(record, adapted=False) for record in records]),
    )


def _selection(record: Record, adapted: bool) -> float:
    """Mean over the cold regimes, as early stopping and tuning have it; NaN without a value."""
    measured = record.metrics if adapted else record.without_adaptation
    regimes = measured.get("validation", {})
    values = [regimes[regime].get(PRIMARY) for regime in _COLD if regime in regimes]
    return _mean([value for value in values if value is not None])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
