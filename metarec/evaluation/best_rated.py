"""Metrics of a task's own rated queries: the best rated of them are relevant, or all by degrees.

Papers that rank only what a task has rated call the k best rated of its queries relevant, whatever
their ratings. Where ratings tie at that cut, every choice of k is equally probable here, and where
scores tie, every order is; a metric is its exact expectation over both. The order of a file never
matters, and a constant score has the chance level.

Words of the formulas: a task has `n` queries; `k' = min(k, n)` of them are relevant; `h` is the
number of relevant ones among the first `k'` by score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from metarec.errors import ConfigError, ScoreError

METRICS = ("precision", "ndcg", "mrr", "map")


@dataclass(frozen=True, eq=False)
class RatedList:
    """The queries of one task, the best score first, with their ties.

    Args:
        ratings: [n] ratings in the order of the scores.
        start: [n] number of queries with a greater score.
        size: [n] number of queries with the same score.
    """

    ratings: Float64[np.ndarray, " n"]
    start: Int64[np.ndarray, " n"]
    size: Int64[np.ndarray, " n"]

    @classmethod
    def of(cls, scores: Float[np.ndarray, " n"], ratings: Float[np.ndarray, " n"]) -> RatedList:
        """Sorts the queries of a task by score.

        Raises:
            ScoreError: if a score is NaN, or there is no query.
        """
        if len(scores) == 0 or np.isnan(scores).any():
            raise ScoreError("a task needs a query, and a number as the score of each")
        order = np.argsort(-scores.astype(np.float64), kind="stable")
        ordered = -scores.astype(np.float64)[order]
        start = np.searchsorted(ordered, ordered, side="left")
        size = np.searchsorted(ordered, ordered, side="right") - start
        return cls(ratings[order].astype(np.float64), start, size)

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.ratings)


def precision(ranked: RatedList, k: int) -> float:
    """Precision@k = h / k', where the k' best rated are relevant, and so is Recall@k.

    Ties: E[h], linear in what is relevant and in what is shown. A random order has k' / n.
    """
    cutoff = _cutoff(ranked, k)
    shown = np.clip(cutoff - ranked.start, 0, ranked.size) / ranked.size
    certain, tied, share = _relevance(ranked, cutoff)
    return float((shown * (certain + tied * share)).sum() / cutoff)


def ndcg(ranked: RatedList, k: int) -> float:
    """nDCG@k with gain 1 for the k' best rated (Järvelin and Kekäläinen, TOIS 20, 2002).

    Ties: the mean discount of the ranks that a score shares, times the probability of relevance.
    """
    cutoff = _cutoff(ranked, k)
    certain, tied, share = _relevance(ranked, cutoff)
    gained = (_discounts(ranked, cutoff) * (certain + tied * share)).sum()
    return float(gained / _discount(np.arange(cutoff)).sum())


def graded_ndcg(ranked: RatedList, k: int) -> float:
    """nDCG@k with the gains 2^rating - 1 of all queries (MeLU, KDD 2019, eq. 10).

    Source: Burges et al., ICML 2005. Ties: the mean discount of the ranks that a score shares.
    """
    cutoff = _cutoff(ranked, k)
    gains = 2.0**ranked.ratings - 1
    ideal = (np.sort(gains)[::-1][:cutoff] * _discount(np.arange(cutoff))).sum()
    if ideal <= 0:
        return float("nan")
    return float((gains * _discounts(ranked, cutoff)).sum() / ideal)


def mrr(ranked: RatedList, k: int) -> float:
    """MRR@k = 1 / rank of the first relevant query, 0 if that rank is above k'.

    Ties: with S(r) the probability that none of the first r is relevant, the sum over r <= k' of
    (S(r - 1) - S(r)) / r. Of the m queries that tie at the cut c are relevant, so that x of them
    are all irrelevant with probability C(m - x, c) / C(m, c); how many of them stand among the
    first places of a shared score is hypergeometric.
    """
    cutoff = _cutoff(ranked, k)
    certain, tied, _ = _relevance(ranked, cutoff)
    m, c = int(tied.sum()), cutoff - int(certain.sum())
    none_of = [math.comb(m - x, c) / math.comb(m, c) for x in range(m + 1)]
    value, before, seen = 0.0, 1.0, 0
    for rank in range(1, cutoff + 1):
        start, size = int(ranked.start[rank - 1]), int(ranked.size[rank - 1])
        block = slice(start, start + size)
        others = size - int(certain[block].sum())
        own = int(tied[block].sum())
        drawn = rank - start
        now = 0.0
        if others >= drawn:
            # `drawn` places of the block without a certain one, `x` of them with a tied one
            ways = math.comb(size, drawn)
            for x in range(max(0, drawn - (others - own)), min(own, drawn) + 1):
                share = math.comb(own, x) * math.comb(others - own, drawn - x) / ways
                now += share * none_of[seen + x]
        value += (before - now) / rank
        before = now
        if now == 0:
            break
        if rank == start + size:
            seen += own
    return value


def average_precision(ranked: RatedList, k: int) -> float:
    """MAP@k of one task = sum over ranks p <= k' of rel_p Precision@p, over k'.

    Ties: E[rel_p rel_q] of two ranks is the mean over the pairs of queries that can stand there;
    two that tie at the cut are both relevant with probability c (c - 1) / (m (m - 1)).
    """
    cutoff = _cutoff(ranked, k)
    certain, tied, share = _relevance(ranked, cutoff)
    m, c = int(tied.sum()), cutoff - int(certain.sum())
    both = c * (c - 1) / (m * (m - 1)) if m > 1 else 0.0
    single = certain + tied * share
    total = 0.0
    for p in range(cutoff):
        block_p = slice(int(ranked.start[p]), int(ranked.start[p] + ranked.size[p]))
        hits = single[block_p].mean()
        for q in range(p):
            block_q = slice(int(ranked.start[q]), int(ranked.start[q] + ranked.size[q]))
            hits += _both_relevant(certain, tied, share, both, block_p, block_q)
        total += hits / (p + 1)
    return float(total / cutoff)


def measure(ranked: RatedList, cutoffs: Sequence[int], graded: bool = True) -> dict[str, float]:
    """All metrics of a task.

    Args:
        ranked: its queries.
        cutoffs: the k of the metrics.
        graded: whether ratings have degrees (not implicit feedback).

    Returns:
        `best_rated/precision@k`, `…/ndcg@k`, `…/mrr@k`, `…/map@k` and `graded/ndcg@k`.
    """
    functions = (precision, ndcg, mrr, average_precision)
    values = {
        f"best_rated/{name}@{k}": function(ranked, k)
        for name, function in zip(METRICS, functions, strict=True)
        for k in cutoffs
    }
    if graded:
        values |= {f"graded/ndcg@{k}": graded_ndcg(ranked, k) for k in cutoffs}
    return values


def _both_relevant(
    certain: Bool[np.ndarray, " n"],
    tied: Bool[np.ndarray, " n"],
    share: float,
    both: float,
    first: slice,
    second: slice,
) -> float:
    """Mean over pairs of different queries of two blocks of P(both are relevant)."""
    a, b = certain[first].sum(), tied[first].sum()
    if first == second:
        size = first.stop - first.start
        pairs = a * (a - 1) + 2 * a * b * share + b * (b - 1) * both
        return float(pairs / (size * (size - 1)))
    a_too, b_too = certain[second].sum(), tied[second].sum()
    sizes = (first.stop - first.start) * (second.stop - second.start)
    return float((a * a_too + (a * b_too + b * a_too) * share + b * b_too * both) / sizes)


def _relevance(
    ranked: RatedList, count: int
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"], float]:
    """Which queries are certainly among the `count` best, which tie at the cut, and their share."""
    cut = np.sort(ranked.ratings)[::-1][count - 1]
    certain, tied = ranked.ratings > cut, ranked.ratings == cut
    return certain, tied, float((count - certain.sum()) / tied.sum())


def _discounts(ranked: RatedList, cutoff: int) -> Float64[np.ndarray, " n"]:
    """[n] the mean discount of the ranks that the score of each query shares."""
    sums = np.concatenate([[0.0], np.cumsum(_discount(np.arange(cutoff)))])
    low = np.minimum(ranked.start, cutoff)
    high = np.minimum(ranked.start + ranked.size, cutoff)
    return np.asarray((sums[high] - sums[low]) / ranked.size)


def _discount(places: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.asarray(1 / np.log2(places + 2.0))


def _cutoff(ranked: RatedList, k: int) -> int:
    if k < 1:
        raise ConfigError(f"a cutoff must be at least 1, not {k}")
    return min(k, len(ranked))
