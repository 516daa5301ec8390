"""Quality over K: the same test tasks with nested supports."""

from __future__ import annotations

import math
from dataclasses import dataclass

from metarec.report.cells import PRIMARY, curve_regime, curve_shots, row_label
from metarec.report.collect import Results
from metarec.report.labels import JAX, ONE_SEED, Variant, group_of, metric_label, regime_label
from metarec.report.selection import chance_of, interval_of
from metarec.report.table import Estimate


@dataclass(frozen=True)
class Line:
    """One learner over K.

    Args:
        variant: the learner; None for chance.
        label: how the legend calls it.
        group: its group of learners.
        estimates: one for each K of the curve.
    """

    variant: Variant | None
    label: str
    group: str
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class Curve:
    """A metric over K for every learner.

    Args:
        name: its file name.
        title: what it shows.
        y_label: the metric in words.
        metric: column of the per-task results.
        regime: where the queries lie.
        shots: the K, ascending.
        lines: chance first, then the learners in the order of the tables.
        preliminary: whether there are too few seeds or episodes.
        note: tasks, seeds and records in one sentence.
    """

    name: str
    title: str
    y_label: str
    metric: str
    regime: str
    shots: tuple[int, ...]
    lines: tuple[Line, ...]
    preliminary: bool
    note: str


def curve_of(results: Results) -> Curve | None:
    """The curve of nDCG@10 over K; None without curve episodes."""
    regime = curve_regime(results)
    shots = curve_shots(results, regime) if regime else []
    if not shots:
        return None
    by_shots = [results.select(PRIMARY, "test", regime, k, "curve") for k in shots]
    nothing = Estimate(math.nan, math.nan, math.nan, 0, 0, 0)
    shortlist = results.config.evaluation.shortlist
    levels = tuple(chance_of(values, PRIMARY, shortlist) or nothing for values in by_shots)
    lines = [Line(None, "Chance", "Chance", levels)]
    preliminary = False
    targets = results.targets
    for variant in results.variants:
        if variant.learner.endswith(JAX):
            continue  # its line would lie on its twin's
        estimates = []
        for values in by_shots:
            found = interval_of(values, variant)
            if found is None:
                estimates.append(nothing)
                continue
            if variant.learner not in ONE_SEED:
                preliminary |= found.preliminary
            estimates.append(
                Estimate(
                    found.mean, found.low, found.high, found.tasks, found.seeds, found.episodes
                )
            )
        group = group_of(variant.learner, targets[variant.learner])
        lines.append(Line(variant, row_label(results, variant), group, tuple(estimates)))
    seeds = {record.seed for record in results.records}
    tasks = by_shots[0]["task"].nunique()
    return Curve(
        name="k_shot",
        title=f"Quality against the number of shots, {regime_label(regime).lower()}",
        y_label=f"{metric_label(PRIMARY)}, whole catalogue",
        metric=PRIMARY,
        regime=regime,
        shots=tuple(shots),
        lines=tuple(lines),
        preliminary=preliminary,
        note=(
            f"{tasks} test tasks, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}, nested "
            "supports; bands: 95 % bootstrap intervals over tasks"
        ),
    )
