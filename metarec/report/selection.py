"""Which baseline is the reference, what a cell is worth, and what is significant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from metarec.evaluation.metrics import LOWER_IS_BETTER, Rankings, measure
from metarec.evaluation.protocols import PREDICTION_METRICS
from metarec.evaluation.significance import Interval, compare, holm, interval
from metarec.report.collect import Results
from metarec.report.labels import BASELINE_GROUPS, Variant, group_of
from metarec.report.table import Estimate

RESAMPLES = 10_000
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Difference:
    """A paired difference of two learners over tasks.

    Args:
        estimate: mean difference with its interval; `p` is not corrected.
        p_holm: p value after Holm's correction; NaN without a test.
    """

    estimate: Estimate
    p_holm: float = math.nan


def higher_is_better(column: str) -> bool:
    """Whether more of the metric in a per-task column is better."""
    return column.rpartition("/")[2] not in LOWER_IS_BETTER


def reference_of(results: Results, column: str, regime: str, k_shot: int) -> Variant | None:
    """The baseline that is best on validation: who is to be beaten.

    Eligible are floor, collaborative and content learners. The test part plays no role.

    Args:
        results: the runs of a table.
        column: the metric, such as `catalogue/ndcg@10`.
        regime: the regime of the validation tasks.
        k_shot: their shots.

    Returns:
        The best, of equal ones the first in the table; None if no baseline has a value.
    """
    targets = results.targets
    values = results.select(column, "validation", regime, k_shot)
    sign = 1 if higher_is_better(column) else -1
    best: tuple[float, Variant] | None = None
    for variant in results.variants:
        if not variant.adapted:
            continue
        if group_of(variant.learner, targets[variant.learner]) not in BASELINE_GROUPS:
            continue
        mean = mean_of(values, variant)
        if not math.isnan(mean) and (best is None or sign * mean > best[0]):
            best = sign * mean, variant
    return None if best is None else best[1]


def mean_of(values: pd.DataFrame, variant: Variant) -> float:
    """Mean over tasks of the mean over seeds; NaN without a value."""
    return interval(_of(values, variant), resamples=1).mean


def interval_of(values: pd.DataFrame, variant: Variant) -> Interval | None:
    """Mean with its 95 % interval over tasks; None where the learner has no value at all."""
    own = _of(values, variant)
    if own["value"].isna().all():
        return None
    return interval(own, resamples=RESAMPLES)


def chance_of(values: pd.DataFrame, column: str) -> Estimate | None:
    """The exact level of a constant score on the same episodes; None for errors of predictions.

    Args:
        values: as `Results.select` gives them.
        column: the metric, such as `catalogue/ndcg@10` or `rated/auc`.
    """
    candidates, _, metric = column.partition("/")
    if metric in PREDICTION_METRICS or values.empty:
        return None
    episodes = values.drop_duplicates(["task", "seed"])
    n = episodes["n_candidates" if candidates == "catalogue" else "n_query"].to_numpy(np.int64)
    relevant = episodes["n_relevant"].to_numpy(np.int64)
    levels = measure(metric, Rankings.of_constant_score(n, relevant))
    found = interval(episodes.assign(value=levels), resamples=1)
    return Estimate(
        found.mean, math.nan, math.nan, found.tasks, found.seeds, found.episodes
    )


def difference_of(
    values: pd.DataFrame, learner: Variant, reference: Variant, column: str, resamples: int
) -> Difference | None:
    """Learner minus reference, paired over tasks, on the seeds that both have.

    Args:
        values: as `Results.select` gives them.
        learner: the one.
        reference: the other.
        column: the metric.
        resamples: bootstrap samples of the interval.

    Returns:
        The difference with its uncorrected p value; None where either has no value.
    """
    one, other = _of(values, learner), _of(values, reference)
    seeds = set(one["seed"]) & set(other["seed"])
    pair = pd.concat([one, other])
    pair = pair[pair["seed"].isin(seeds)]
    for variant in (learner, reference):
        if _of(pair, variant)["value"].isna().all():
            return None
    row = compare(
        pair,
        reference.key,
        higher_is_better=higher_is_better(column),
        resamples=resamples,
    ).loc[learner.key]
    episodes = int(_of(pair, learner)["value"].notna().sum())
    return Difference(
        Estimate(
            mean=float(row["difference"]),
            low=float(row["low"]),
            high=float(row["high"]),
            tasks=int(row["tasks"]),
            seeds=int(row["seeds"]),
            episodes=episodes,
            p=float(row["p"]),
        )
    )


def tests_of(
    values: pd.DataFrame, variants: Sequence[Variant], reference: Variant, column: str
) -> Mapping[Variant, Difference]:
    """The paired test of every learner against the reference, corrected by Holm over all of them."""
    found: dict[Variant, Difference] = {}
    for variant in variants:
        if variant == reference:
            continue
        # Only the test is wanted here, so one resample does.
        difference = difference_of(values, variant, reference, column, resamples=1)
        if difference is not None:
            found[variant] = difference
    return corrected(found)


def corrected(found: Mapping[Variant, Difference]) -> dict[Variant, Difference]:
    """The same differences with Holm's correction over all of them."""
    p = holm(np.array([difference.estimate.p for difference in found.values()], np.float64))
    return {
        variant: Difference(difference.estimate, float(value))
        for (variant, difference), value in zip(found.items(), p, strict=True)
    }


def _of(values: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    return values[values["learner"] == variant.key]
