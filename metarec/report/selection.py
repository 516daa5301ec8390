"""Which baseline is the reference, what a cell is worth, and what is significant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from metarec.evaluation.metrics import LOWER_IS_BETTER, PREDICTION_METRICS, measure
from metarec.evaluation.rankings import Rankings
from metarec.evaluation.significance import Interval, compare, holm, interval
from metarec.report.collect import Results
from metarec.report.labels import BASELINE_GROUPS, Variant, group_of
from metarec.report.table import Estimate

RESAMPLES = 10_000
SIGNIFICANT = 0.05


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
    # As everywhere: the mean over tasks of the mean over seeds.
    by_task = values.groupby(["learner", "task"])["value"].mean()
    means = by_task.groupby("learner").mean()
    sign = 1 if higher_is_better(column) else -1
    best: tuple[float, Variant] | None = None
    for variant in results.variants:
        if not variant.adapted:
            continue
        if group_of(variant.learner, targets[variant.learner]) not in BASELINE_GROUPS:
            continue
        mean = float(means.get(variant.key, math.nan))
        if not math.isnan(mean) and (best is None or sign * mean > best[0]):
            best = sign * mean, variant
    return None if best is None else best[1]


def interval_of(values: pd.DataFrame, variant: Variant) -> Interval | None:
    """Mean with its 95 % interval over tasks; None where the learner has no value at all."""
    own = _of(values, variant)
    if own["value"].isna().all():
        return None
    return interval(own, resamples=RESAMPLES)


def chance_of(values: pd.DataFrame, column: str, shortlist: int = 0) -> Estimate | None:
    """The exact level of a constant score on the same episodes.

    With a shortlist, what was drawn is reranked by chance, and all others stay behind it.

    Args:
        values: as `Results.select` gives them.
        column: the metric, such as `catalogue/ndcg@10` or `rated/auc`.
        shortlist: candidates that were drawn for a task, `evaluation.shortlist`.

    Returns:
        The level; None for errors of predictions, and for what depends on the order behind the
        shortlist, which the per-task results do not hold.
    """
    candidates, _, metric = column.partition("/")
    if metric in PREDICTION_METRICS or values.empty:
        return None
    episodes = values.drop_duplicates(["task", "seed"])
    n = episodes["n_candidates" if candidates == "catalogue" else "n_query"].to_numpy(np.int64)
    relevant = episodes["n_relevant"].to_numpy(np.int64)
    if shortlist and candidates == "catalogue":
        cutoff = metric.partition("@")[2]
        if not cutoff or int(cutoff) > shortlist or episodes["recall"].isna().all():
            return None
        recall = episodes["recall"].fillna(0).to_numpy(np.float64)
        drawn = np.rint(recall * relevant).astype(np.int64)
        rankings = _constant_within(np.minimum(n, shortlist), relevant, drawn)
    else:
        rankings = Rankings.of_constant_score(n, relevant)
    levels = measure(metric, rankings)
    found = interval(episodes.assign(value=levels), resamples=1)
    return Estimate(found.mean, math.nan, math.nan, found.tasks, found.seeds, found.episodes)


def _constant_within(n: np.ndarray, relevant: np.ndarray, drawn: np.ndarray) -> Rankings:
    """The rankings of a constant score of a shortlist, as far down as the shortlist goes.

    Args:
        n: [T] candidates that were drawn.
        relevant: [T] relevant candidates.
        drawn: [T] those of them that were drawn.
    """
    # Behind the shortlist only what is relevant is kept: it counts in the best order.
    size = n + relevant - drawn
    place = np.arange(int(size.max(initial=0)))
    among = place < n[:, None]
    beyond = place >= size[:, None]
    hits = np.where(among, place < drawn[:, None], ~beyond).nonzero()
    behind = beyond.nonzero()
    return Rankings.from_scores(
        among.astype(np.float64), (hits[0], hits[1]), (behind[0], behind[1])
    )


def difference_of(
    values: pd.DataFrame, learner: Variant, reference: Variant, column: str
) -> Estimate | None:
    """Learner minus reference with its interval, paired over tasks, on the seeds that both have.

    Args:
        values: as `Results.select` gives them.
        learner: the one.
        reference: the other.
        column: the metric.

    Returns:
        The difference with its uncorrected p value; None where either has no value.
    """
    return _differences(values, [learner], reference, column).get(learner)


def on_shared_seeds(values: pd.DataFrame, *variants: Variant) -> pd.DataFrame:
    """The values of the seeds that all of some learners have, as `difference_of` pairs them.

    Args:
        values: as `Results.select` gives them.
        variants: the learners.
    """
    shared = set(values["seed"]).intersection(*(_of(values, one)["seed"] for one in variants))
    return values[values["seed"].isin(shared)]


def significance_of(
    values: pd.DataFrame, variants: Sequence[Variant], reference: Variant, column: str
) -> dict[Variant, Estimate]:
    """The paired test of every learner against the reference, with Holm over all of them.

    Args:
        values: as `Results.select` gives them.
        variants: the learners; the reference may be among them.
        reference: whom they are compared with.
        column: the metric.

    Returns:
        The difference of each learner that has a value, with its corrected p value.
    """
    others = [variant for variant in variants if variant != reference]
    found = _differences(values, others, reference, column)
    p = holm(np.array([estimate.p for estimate in found.values()], np.float64))
    return {
        variant: replace(estimate, p=float(value))
        for (variant, estimate), value in zip(found.items(), p, strict=True)
    }


def _differences(
    values: pd.DataFrame,
    variants: Sequence[Variant],
    reference: Variant,
    column: str,
) -> dict[Variant, Estimate]:
    """Differences with uncorrected p values, each learner on the seeds that it shares."""
    base = _of(values, reference)
    parts = {variant: _of(values, variant) for variant in variants}
    by_seeds: dict[frozenset[int], list[Variant]] = {}
    for variant, part in parts.items():
        shared = frozenset(part["seed"]) & frozenset(base["seed"])
        by_seeds.setdefault(shared, []).append(variant)
    better = higher_is_better(column)
    found: dict[Variant, Estimate] = {}
    for seeds, group in by_seeds.items():
        own = base[base["seed"].isin(seeds)]
        if own["value"].isna().all():
            continue
        family = [own]
        for variant in group:
            part = parts[variant]
            part = part[part["seed"].isin(seeds)]
            if not part["value"].isna().all():
                family.append(part)
        if len(family) == 1:
            continue
        compared = compare(
            pd.concat(family), reference.key, higher_is_better=better, resamples=RESAMPLES
        ).to_dict(orient="index")
        episodes = int(own["value"].notna().sum())
        for variant in group:
            if variant.key in compared:
                row = compared[variant.key]
                found[variant] = Estimate(
                    mean=float(row["difference"]),
                    low=float(row["low"]),
                    high=float(row["high"]),
                    tasks=int(row["tasks"]),
                    seeds=int(row["seeds"]),
                    episodes=episodes,
                    p=float(row["p"]),
                    effect=float(row["effect_size"]),
                    wins=int(row["wins"]),
                    ties=int(row["ties"]),
                    losses=int(row["losses"]),
                )
    return found


def _of(values: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    return values[values["learner"] == variant.key]
