"""The one definition of every metric, with what it does with ties and with degenerate tasks.

Ranking metrics are pure functions of a `Rankings`: for each task how many candidates were ranked,
and where its relevant candidates lie. Tied scores stand in every order with the same probability,
and a metric is its exact expectation over these orders (McSherry and Najork, "Computing information
retrieval performance measures efficiently in the presence of tied scores", ECIR 2008), so a
constant score has exactly the chance level and the order of a file never matters.

Words of the formulas: a task ranks `n` candidates of which `R` are relevant; the cutoff is
`k' = min(k, n)`; `h` is the number of relevant candidates among the first `k'`; ranks start at 1. A
task without a relevant candidate has no value (NaN): it is left out of means, and counted.

Infinite scores are scores: `inf` ranks first, `-inf` last, equal infinities are tied. A NaN score
is an error. Predicted ratings and logits (MAE, RMSE, log loss) must be finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer

from metarec.errors import ConfigError, EpisodeError, ScoreError, did_you_mean
from metarec.evaluation.rankings import Rankings, sums

# --- ranking metrics -----------------------------------------------------------------------------


def auc(rankings: Rankings) -> Float64[np.ndarray, " tasks"]:
    """AUC = P(score of a relevant candidate > score of another one) + P(they are equal) / 2.

    Source: Hanley and McNeil, Radiology 143, 1982 (the Mann-Whitney form).
    Ties: 1/2 each, which is their expectation. Degenerate: NaN if no candidate is relevant, or all
    are.

    Returns:
        [T] in [0, 1].
    """
    others = rankings.n - rankings.relevant
    others_above = rankings.above - rankings.relevant_above
    others_tied = rankings.size - rankings.block_relevant
    below = others[rankings.task] - others_above - others_tied
    won = rankings.per_task(rankings.block_relevant * (below + 0.5 * others_tied))
    pairs = (rankings.relevant * others).astype(np.float64)
    return won / np.where(pairs > 0, pairs, np.nan)


def precision(rankings: Rankings, k: int | None) -> Float64[np.ndarray, " tasks"]:
    """Precision@k = h / k', the relevant share of the list that is shown.

    Source: Herlocker et al., "Evaluating collaborative filtering recommender systems", TOIS 22,
    2004. Ties: E[h], which is linear. Degenerate: NaN if nothing is relevant; with fewer candidates
    than k the list is n long. The best value is min(R, k') / k'.

    Returns:
        [T] in [0, 1].
    """
    cutoff = rankings.cutoff(k)
    return rankings.hits(cutoff) / np.maximum(cutoff, 1)


def recall(rankings: Rankings, k: int | None) -> Float64[np.ndarray, " tasks"]:
    """Recall@k = h / R, the share of the relevant candidates that is shown.

    Source: Herlocker et al., TOIS 22, 2004.
    Ties: E[h], which is linear. Degenerate: NaN if nothing is relevant; 1 if n <= k. The
    denominator is R, not min(R, k), so the best value is min(R, k') / R.

    Returns:
        [T] in [0, 1].
    """
    return rankings.hits(rankings.cutoff(k)) / np.maximum(rankings.relevant, 1)


def f1(rankings: Rankings, k: int | None) -> Float64[np.ndarray, " tasks"]:
    """F1@k = 2 P R / (P + R) of Precision@k and Recall@k = 2 h / (k' + R), 0 where h = 0.

    Source: van Rijsbergen, "Information Retrieval", 1979; Herlocker et al., TOIS 22, 2004.
    Ties: E[h], in which it is linear. Degenerate: NaN if nothing is relevant; the list is
    k' = min(k, n) long.

    Returns:
        [T] in [0, 1].
    """
    cutoff = rankings.cutoff(k)
    return 2 * rankings.hits(cutoff) / np.maximum(cutoff + rankings.relevant, 1)


def hr(rankings: Rankings, k: int | None) -> Float64[np.ndarray, " tasks"]:
    """HR@k (hit rate) = 1 if h > 0, else 0.

    Source: Deshpande and Karypis, "Item-based top-N recommendation algorithms", TOIS 22, 2004; for
    more than one relevant candidate, at least one hit.
    Ties: if the first block with a relevant candidate (m candidates, r relevant) has t places above
    the cutoff, 1 - C(m - r, t) / C(m, t). Degenerate: NaN if nothing is relevant; 1 if n <= k.

    Returns:
        [T] in [0, 1].
    """
    first = rankings.first_blocks()
    m, r = rankings.size[first], rankings.block_relevant[first]
    places = np.clip(rankings.cutoff(k)[rankings.task[first]] - rankings.above[first], 0, m)
    # C(m-r, t)/C(m, t) is symmetric in r and t: the shorter of the two products.
    steps, other = np.minimum(r, places), np.maximum(r, places)
    missed = np.ones(len(first))
    for i in range(int(steps.max(initial=0))):
        factor = np.maximum(m - other - i, 0) / np.maximum(m - i, 1)
        missed = np.where(i < steps, missed * factor, missed)
    return rankings.scatter(first, 1 - missed)


def mrr(rankings: Rankings, k: int | None) -> Float64[np.ndarray, " tasks"]:
    """MRR@k = 1 / rank of the first relevant candidate, 0 if that rank is above k'.

    Source: Voorhees, "The TREC-8 question answering track report", 1999.
    Ties: in the first block with a relevant candidate (m candidates, r relevant, a above it) the
    first relevant one has offset j with probability C(m - 1 - j, r - 1) / C(m, r), and rank
    a + j + 1. Degenerate: NaN if nothing is relevant; with fewer candidates than k the cutoff is n.

    Returns:
        [T] in [0, 1].
    """
    first = rankings.first_blocks()
    a, m, r = rankings.above[first], rankings.size[first], rankings.block_relevant[first]
    last = np.minimum(m - r, rankings.cutoff(k)[rankings.task[first]] - a - 1)
    value = np.zeros(len(first))
    active = np.flatnonzero(last >= 0)
    probability = r[active] / m[active]
    j = 0
    while len(active):
        value[active] += probability / (a[active] + j + 1)
        going = j < last[active]
        active, probability = active[going], probability[going]
        probability = probability * (m[active] - r[active] - j) / (m[active] - 1 - j)
        j += 1
    return rankings.scatter(first, value)


def average_precision(rankings: Rankings, k: int | None) -> Float64[np.ndarray, " tasks"]:
    """MAP@k, of one task: AP@k = sum over ranks p <= k' of rel_p Precision@p, over min(R, k').

    Source: Buckley and Voorhees, "Evaluating evaluation measure stability", SIGIR 2000; the
    denominator min(R, k') lets a perfect ranking have 1 (there are others in use).
    Ties: in a block of m candidates, r relevant, with a candidates and b relevant ones above it,
    E[rel_p Precision@p] at offset j is (r/m) (b + 1 + j (r-1)/(m-1)) / (a + j + 1), and the sum
    over j is closed with harmonic numbers. Degenerate: NaN if nothing is relevant; with fewer
    candidates than k the cutoff is n.

    Returns:
        [T] in [0, 1].
    """
    cutoff = rankings.cutoff(k)
    a, m, r = rankings.above, rankings.size, rankings.block_relevant
    end = np.clip(cutoff[rankings.task], a, a + m)
    harmonic = _cumulative(1 / np.arange(1, int(end.max(initial=0)) + 1))
    slope = (r - 1) / np.maximum(m - 1, 1)
    level = rankings.relevant_above + 1 - slope * (a + 1)
    total = (r / m) * (level * (harmonic[end] - harmonic[a.clip(max=end)]) + slope * (end - a))
    return _unit(rankings.per_task(total) / np.maximum(np.minimum(rankings.relevant, cutoff), 1))


def ndcg(rankings: Rankings, k: int | None) -> Float64[np.ndarray, " tasks"]:
    """nDCG@k = DCG@k / DCG@k of the best order; DCG@k = sum over p <= k' of gain_p / log2(p + 1).

    Source: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 20,
    2002, with the discount of Burges et al., ICML 2005. Gains are true gains, 1 unless the rankings
    were built with others; the best order is that of all relevant candidates, shown or not.
    Ties: the mean discount of the block's ranks, since DCG is linear. Degenerate: NaN if nothing is
    relevant; with fewer candidates than k the cutoff is n.

    Returns:
        [T] in [0, 1].
    """
    cutoff = rankings.cutoff(k)
    discount = _cumulative(1 / np.log2(np.arange(2, int(cutoff.max(initial=0)) + 2)))
    low = np.minimum(rankings.above, cutoff[rankings.task])
    high = np.minimum(rankings.above + rankings.size, cutoff[rankings.task])
    mean = (discount[high] - discount[low]) / rankings.size
    dcg = rankings.per_task(rankings.block_gain * mean)

    owner = np.repeat(np.arange(len(rankings)), rankings.relevant)
    start = np.cumsum(rankings.relevant) - rankings.relevant
    place = np.arange(len(owner)) - start[owner]
    high = np.minimum(place + 1, cutoff[owner])
    low = np.minimum(place, cutoff[owner])
    ideal = sums(owner, rankings.gains * (discount[high] - discount[low]), len(rankings))
    return _unit(dcg / np.where(ideal > 0, ideal, np.nan))


CUTOFF_METRICS: Mapping[str, Callable[[Rankings, int | None], np.ndarray]] = {
    "ndcg": ndcg,
    "recall": recall,
    "precision": precision,
    "f1": f1,
    "hr": hr,
    "mrr": mrr,
    "map": average_precision,
}
"""The metrics that take a cutoff, by the name that stands before `@`."""

PREDICTION_METRICS = ("mae", "rmse", "log_loss")
"""The metrics of predicted ratings and of logits, for what a task rated alone."""

LOWER_IS_BETTER = frozenset(PREDICTION_METRICS)


def ranking_metrics(cutoffs: Sequence[int]) -> tuple[str, ...]:
    """The names of all ranking metrics at these cutoffs: `auc`, then `ndcg@5`, `ndcg@10`, ..."""
    return ("auc", *(f"{name}@{k}" for name in CUTOFF_METRICS for k in cutoffs))


def measure(metric: str, rankings: Rankings) -> Float64[np.ndarray, " tasks"]:
    """The value of a ranking metric for each task.

    Args:
        metric: `auc`, or one of `CUTOFF_METRICS` with its cutoff, such as `ndcg@10`; without a
            cutoff (`mrr`) the whole ranking counts.
        rankings: where the relevant candidates lie.

    Raises:
        ConfigError: if the metric is unknown or its cutoff is not a positive whole number.
    """
    name, at, cutoff = metric.partition("@")
    if metric == "auc":
        return auc(rankings)
    if name not in CUTOFF_METRICS:
        raise ConfigError(
            f"unknown ranking metric {metric!r}{did_you_mean(name, ['auc', *CUTOFF_METRICS])}"
        )
    if at and not (cutoff.isdecimal() and int(cutoff) > 0):
        raise ConfigError(f"the cutoff of {metric!r} must be a positive whole number, as {name}@10")
    return np.asarray(CUTOFF_METRICS[name](rankings, int(cutoff) if at else None))


def chance_level(metric: str, n: int, relevant: int) -> float:
    """The exact value of a ranking metric for a constant score, and so for a random one.

    Args:
        metric: as in `measure`, with binary gains.
        n: number of ranked candidates.
        relevant: number of relevant ones.
    """
    constant = Rankings.of_constant_score(np.array([n]), np.array([relevant]))
    return float(measure(metric, constant)[0])


# --- metrics of predictions ----------------------------------------------------------------------


def mae(
    predictions: Float[np.ndarray, " n"],
    ratings: Float[np.ndarray, " n"],
    rows: Integer[np.ndarray, " n"],
    n_tasks: int,
) -> Float64[np.ndarray, " tasks"]:
    """MAE = mean over a task's query of |prediction - rating|, in units of the rating.

    Source: Herlocker et al., TOIS 22, 2004. Predictions are taken as they are, not clipped to the
    scale. Degenerate: NaN for a task without query. A mean over tasks weighs tasks equally;
    `pooled` gives the error over all interactions that many papers print.

    Args:
        predictions: [n] predicted rating of each query interaction.
        ratings: [n] its rating.
        rows: [n] its task row.
        n_tasks: number of tasks.

    Returns:
        [n_tasks] at least 0.

    Raises:
        ScoreError: if a prediction is not finite.
    """
    _check_finite(predictions, rows, "a predicted rating")
    return _mean_by_task(np.abs(predictions.astype(np.float64) - ratings), rows, n_tasks)


def rmse(
    predictions: Float[np.ndarray, " n"],
    ratings: Float[np.ndarray, " n"],
    rows: Integer[np.ndarray, " n"],
    n_tasks: int,
) -> Float64[np.ndarray, " tasks"]:
    """RMSE = root of the mean over a task's query of (prediction - rating)^2.

    Source: Herlocker et al., TOIS 22, 2004. Arguments, degenerate cases and errors as `mae`.

    Returns:
        [n_tasks] at least 0.
    """
    _check_finite(predictions, rows, "a predicted rating")
    return np.sqrt(_mean_by_task((predictions.astype(np.float64) - ratings) ** 2, rows, n_tasks))


def log_loss(
    logits: Float[np.ndarray, " n"],
    labels: Float[np.ndarray, " n"],
    rows: Integer[np.ndarray, " n"],
    n_tasks: int,
) -> Float64[np.ndarray, " tasks"]:
    """Log loss = mean over a task's query of -log p(label), p(1) = 1 / (1 + exp(-logit)), in nats.

    Source: Good, "Rational decisions", JRSS B 14, 1952; computed as log(1 + exp(-+logit)), which
    does not overflow. Degenerate: NaN for a task without query.

    Args:
        logits: [n] logit of a positive label of each query interaction.
        labels: [n] its label, 1 or 0.
        rows: [n] its task row.
        n_tasks: number of tasks.

    Returns:
        [n_tasks] at least 0.

    Raises:
        ScoreError: if a logit is not finite.
        EpisodeError: if a label is neither 0 nor 1.
    """
    _check_finite(logits, rows, "a logit")
    if not ((labels == 0) | (labels == 1)).all():
        raise EpisodeError("log loss takes labels that are 0 or 1")
    z = logits.astype(np.float64)
    return _mean_by_task(np.logaddexp(0, np.where(labels == 1, -z, z)), rows, n_tasks)


def pooled(
    metric: str, per_task: Float64[np.ndarray, " tasks"], n_query: Integer[np.ndarray, " tasks"]
) -> float:
    """MAE, RMSE or log loss over all interactions together, from its values per task.

    Args:
        metric: `mae`, `rmse` or `log_loss`.
        per_task: [T] its value for each task, NaN for a task without query.
        n_query: [T] number of query interactions of each task.

    Returns:
        The pooled value; NaN if no task has one.
    """
    seen = ~np.isnan(per_task)
    total = int(n_query[seen].sum())
    if total == 0:
        return float("nan")
    power = 2 if metric == "rmse" else 1
    mean = math.fsum(per_task[seen] ** power * n_query[seen]) / total
    return float(mean ** (1 / power))


# --- metrics of recommendation lists -------------------------------------------------------------


class Coverage:
    """Catalogue coverage: the share of the candidates that stand in at least one task's list.

    Source: Ge, Delgado-Battenfeld and Jannach, "Beyond accuracy", RecSys 2010, eq. 1.
    Ties: if p_tc is the probability that candidate c is in the list of task t, and tasks break ties
    independently, the expectation is the mean over c of 1 - prod over t of (1 - p_tc). Degenerate:
    NaN without candidates, 0 without tasks; with fewer candidates than k the whole ranking is
    shown. Lists are added chunk by chunk, and their order does not change a bit of the result.

    Args:
        n_candidates: size of the catalogue.
    """

    # Fixed-point logarithms: sums of integers do not depend on their order.
    _unit = 2.0**40

    def __init__(self, n_candidates: int) -> None:
        self._shown = np.zeros(n_candidates, bool)
        self._log_missed = np.zeros(n_candidates, np.int64)

    def add(
        self,
        candidates: Integer[np.ndarray, " pairs"],
        probability: Float64[np.ndarray, " pairs"] | None = None,
    ) -> None:
        """Adds lists.

        Args:
            candidates: candidates in the lists, of one or of many tasks.
            probability: how probably each is there, in (0, 1]; certainly if None.
        """
        if probability is None:
            self._shown[candidates] = True
            return
        certain = probability >= 1
        self._shown[candidates[certain]] = True
        logs = np.rint(np.log1p(-probability[~certain]) * self._unit).astype(np.int64)
        np.add.at(self._log_missed, candidates[~certain], logs)

    def value(self) -> float:
        """The coverage of what was added, in [0, 1]."""
        if len(self._shown) == 0:
            return float("nan")
        return float(np.where(self._shown, 1.0, -np.expm1(self._log_missed / self._unit)).mean())


def click_rate(
    shown: Float[np.ndarray, " n"],
    clicked: Bool[np.ndarray, " n"],
    rows: Integer[np.ndarray, " n"],
    n_tasks: int,
) -> Float64[np.ndarray, " tasks"]:
    """Click rate = clicks in the list / logged candidates in the list.

    Source: Li et al., "Unbiased offline evaluation of contextual-bandit-based news article
    recommendation algorithms", WSDM 2011 (replay). Candidates of the list that were never logged
    are not counted. Unbiased only where the log was shown at random.
    Ties: expected clicks over expected logged candidates. Degenerate: NaN for a task none of whose
    list was logged.

    Args:
        shown: [n] for each log entry, the probability that its candidate is in its task's list.
        clicked: [n] whether it was clicked.
        rows: [n] its task row.
        n_tasks: number of tasks.

    Returns:
        [n_tasks] in [0, 1].
    """
    return _ratio(shown * clicked, shown.astype(np.float64), rows, n_tasks)


def conversion_rate(
    shown: Float[np.ndarray, " n"],
    clicked: Bool[np.ndarray, " n"],
    converted: Bool[np.ndarray, " n"],
    rows: Integer[np.ndarray, " n"],
    n_tasks: int,
    per: Literal["click", "impression"] = "click",
) -> Float64[np.ndarray, " tasks"]:
    """Conversion rate = conversions in the list / clicks in the list, or / logged candidates in it.

    Source: Ma et al., "Entire space multi-task model", SIGIR 2018: CVR is per click (of the
    clicked, how many convert), CTCVR per impression. Logging, ties and arguments as `click_rate`.
    Degenerate: NaN where the denominator is 0.

    Args:
        shown: [n] for each log entry, the probability that its candidate is in its task's list.
        clicked: [n] whether it was clicked.
        converted: [n] whether it was converted (bought).
        rows: [n] its task row.
        n_tasks: number of tasks.
        per: `click` counts conversions among the clicked, `impression` among all that were logged.

    Returns:
        [n_tasks] in [0, 1].

    Raises:
        ConfigError: if `per` is unknown.
    """
    if per == "click":
        return _ratio(shown * (clicked & converted), shown * clicked, rows, n_tasks)
    if per == "impression":
        return _ratio(shown * converted, shown.astype(np.float64), rows, n_tasks)
    raise ConfigError(f"unknown per={per!r}{did_you_mean(per, ['click', 'impression'])}")


# --- helpers -------------------------------------------------------------------------------------


def _check_finite(
    values: Float[np.ndarray, " n"], rows: Integer[np.ndarray, " n"], what: str
) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise ScoreError(
            f"{what} of task row {int(rows[wrong[0]])} is {values[wrong[0]]}; predictions must be "
            f"finite"
        )


def _cumulative(terms: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n_plus_1"]:
    return np.concatenate([[0.0], np.cumsum(terms)])


def _unit(values: Float64[np.ndarray, " tasks"]) -> Float64[np.ndarray, " tasks"]:
    # Differences of cumulative sums round; NaN stays.
    return np.clip(values, 0.0, 1.0)


def _mean_by_task(
    values: Float64[np.ndarray, " n"], rows: Integer[np.ndarray, " n"], n_tasks: int
) -> Float64[np.ndarray, " tasks"]:
    return _ratio(values, np.ones(len(values)), rows, n_tasks)


def _ratio(
    numerator: Float[np.ndarray, " n"],
    denominator: Float[np.ndarray, " n"],
    rows: Integer[np.ndarray, " n"],
    n_tasks: int,
) -> Float64[np.ndarray, " tasks"]:
    below = sums(rows, denominator, n_tasks)
    return sums(rows, numerator, n_tasks) / np.where(below > 0, below, np.nan)
