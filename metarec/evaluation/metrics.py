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
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Integer, Shaped

from metarec.errors import ConfigError, EpisodeError, ScoreError, did_you_mean

Gain = Literal["binary", "linear", "exponential"]
GAINS: tuple[Gain, ...] = ("binary", "linear", "exponential")

Pairs = tuple[Integer[np.ndarray, " _"], Integer[np.ndarray, " _"]]
"""(task row, candidate position) of each pair, as `np.nonzero` gives them of a [tasks, c] mask."""


# --- where the relevant candidates lie -----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rankings:
    """Where the relevant candidates of T tasks lie: all that a ranking metric depends on.

    Candidates with the same score form a block. Only blocks with a relevant candidate are kept, by
    task and from the top down.

    Args:
        n: [T] number of ranked candidates.
        relevant: [T] number of relevant ones.
        gains: gain of each relevant candidate, task by task, descending within a task.
        task: [b] task row of each block, ascending.
        above: [b] candidates with a strictly greater score.
        size: [b] candidates in the block.
        block_relevant: [b] relevant candidates in the block.
        relevant_above: [b] relevant candidates with a strictly greater score.
        block_gain: [b] sum of the gains in the block.
    """

    n: Int64[np.ndarray, " tasks"]
    relevant: Int64[np.ndarray, " tasks"]
    gains: Float64[np.ndarray, " relevant"]
    task: Int64[np.ndarray, " blocks"]
    above: Int64[np.ndarray, " blocks"]
    size: Int64[np.ndarray, " blocks"]
    block_relevant: Int64[np.ndarray, " blocks"]
    relevant_above: Int64[np.ndarray, " blocks"]
    block_gain: Float64[np.ndarray, " blocks"]

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.n)

    @classmethod
    def from_scores(
        cls,
        scores: Float[np.ndarray, "tasks c"],
        relevant: Pairs,
        excluded: Pairs | None = None,
        gains: Float[np.ndarray, " relevant"] | None = None,
    ) -> Rankings:
        """Ranks the candidates of each task by score, the highest first.

        Args:
            scores: [T, C] score of each candidate for each task.
            relevant: the relevant (task row, candidate) pairs, each once.
            excluded: the pairs that are not ranked; they may repeat.
            gains: positive gain of each relevant pair; 1 if None. Every candidate of positive gain
                is relevant: there is no other place to give a gain.

        Raises:
            ScoreError: if a score is NaN.
            EpisodeError: if a pair is out of range, or a relevant one repeats or is excluded.
        """
        return SortedScores.from_scores(scores, excluded).rankings(relevant, gains)

    @classmethod
    def of_constant_score(
        cls, n: Integer[np.ndarray, " tasks"], relevant: Integer[np.ndarray, " tasks"]
    ) -> Rankings:
        """The rankings of a constant score, with binary gains: all `n` candidates in one block."""
        if ((relevant < 0) | (relevant > n)).any():
            raise EpisodeError(
                "every task must have 0 to n relevant candidates of its n candidates"
            )
        r = relevant.astype(np.int64)
        return cls._one_block(n.astype(np.int64), r, np.ones(int(r.sum())))

    def constant(self) -> Rankings:
        """The rankings that a constant score gives the same tasks: their chance level."""
        return self._one_block(self.n, self.relevant, self.gains)

    @classmethod
    def _one_block(
        cls,
        n: Int64[np.ndarray, " tasks"],
        relevant: Int64[np.ndarray, " tasks"],
        gains: Float64[np.ndarray, " relevant"],
    ) -> Rankings:
        task = np.flatnonzero(relevant)
        owner = np.repeat(np.arange(len(n)), relevant)
        none_above = np.zeros(len(task), np.int64)
        return cls(
            n=n,
            relevant=relevant,
            gains=gains,
            task=task,
            above=none_above,
            size=n[task],
            block_relevant=relevant[task],
            relevant_above=none_above,
            block_gain=_sums(owner, gains, len(n))[task],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Rankings]) -> Rankings:
        """The rankings of all tasks of the parts, in their order."""
        starts = np.cumsum([0, *(len(part) for part in parts)])
        return cls(
            n=_joined([part.n for part in parts], np.int64),
            relevant=_joined([part.relevant for part in parts], np.int64),
            gains=_joined([part.gains for part in parts], np.float64),
            task=_joined([p.task + s for p, s in zip(parts, starts, strict=False)], np.int64),
            above=_joined([part.above for part in parts], np.int64),
            size=_joined([part.size for part in parts], np.int64),
            block_relevant=_joined([part.block_relevant for part in parts], np.int64),
            relevant_above=_joined([part.relevant_above for part in parts], np.int64),
            block_gain=_joined([part.block_gain for part in parts], np.float64),
        )

    def cutoff(self, k: int | None) -> Int64[np.ndarray, " tasks"]:
        """[T] the cutoff min(k, n); n if `k` is None."""
        if k is None:
            return self.n
        if k < 1:
            raise ConfigError(f"a cutoff must be at least 1, not {k}")
        return np.minimum(self.n, k)


@dataclass(frozen=True, eq=False)
class SortedScores:
    """Scores of T tasks, each row sorted once, for everything that depends on the order.

    Args:
        scores: [T, C] scores, NaN where a candidate is not ranked.
        ascending: [T, C] each row sorted, what is not ranked at the end.
        n: [T] number of ranked candidates.
    """

    scores: Float[np.ndarray, "tasks c"]
    ascending: Float[np.ndarray, "tasks c"]
    n: Int64[np.ndarray, " tasks"]

    @classmethod
    def from_scores(
        cls, scores: Float[np.ndarray, "tasks c"], excluded: Pairs | None = None
    ) -> SortedScores:
        """Sorts each row of the scores, without the excluded (task row, candidate) pairs.

        Raises:
            ScoreError: if a score is NaN.
            EpisodeError: if an excluded pair is out of range.
        """
        check_not_nan(scores)
        n_tasks, n_candidates = scores.shape
        n = np.full(n_tasks, n_candidates, np.int64)
        ranked = scores
        if excluded is not None and len(excluded[0]):
            rows, columns = excluded
            _check_range(excluded, scores.shape, "an excluded candidate")
            pairs = np.unique(rows.astype(np.int64) * n_candidates + columns)
            n -= np.bincount(pairs // n_candidates, minlength=n_tasks)
            ranked = scores.copy()
            ranked[rows, columns] = np.nan
        return cls(ranked, np.sort(ranked, axis=1), n)

    def rankings(
        self, relevant: Pairs, gains: Float[np.ndarray, " relevant"] | None = None
    ) -> Rankings:
        """Where the relevant pairs lie; arguments and errors as `Rankings.from_scores`."""
        rows, columns = (np.asarray(part, np.int64) for part in relevant)
        n_tasks = len(self.n)
        _check_range((rows, columns), self.scores.shape, "a relevant candidate")
        gain = np.ones(len(rows)) if gains is None else gains.astype(np.float64)
        if not (np.isfinite(gain) & (gain > 0)).all():
            raise EpisodeError("the gain of a relevant candidate must be positive and finite")

        order = np.lexsort((columns, rows))
        rows, columns, gain = rows[order], columns[order], gain[order]
        repeats = (rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1])
        if repeats.any():
            at = int(np.flatnonzero(repeats)[0])
            raise EpisodeError(
                f"candidate {columns[at]} is relevant twice for task row {rows[at]}; query items "
                f"of a task must be distinct"
            )
        values = self.scores[rows, columns]
        if np.isnan(values).any():
            at = int(np.flatnonzero(np.isnan(values))[0])
            raise EpisodeError(
                f"candidate {columns[at]} of task row {rows[at]} is both relevant and excluded; "
                f"support and query must not overlap"
            )

        count = np.bincount(rows, minlength=n_tasks)
        offsets = np.concatenate([[0], np.cumsum(count)])
        above, size = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        for t in np.flatnonzero(count):
            part = slice(offsets[t], offsets[t + 1])
            line = self.ascending[t, : self.n[t]]
            right = line.searchsorted(values[part], "right")
            above[part] = len(line) - right
            size[part] = right - line.searchsorted(values[part], "left")

        # Stable, so that the gains of a block are added in the order of the candidates.
        order = np.lexsort((above, rows))
        rows, above, size = rows[order], above[order], size[order]
        first = np.ones(len(rows), bool)
        first[1:] = (rows[1:] != rows[:-1]) | (above[1:] != above[:-1])
        start = np.flatnonzero(first)
        task = rows[start]
        return Rankings(
            n=self.n,
            relevant=count.astype(np.int64),
            gains=gain[np.lexsort((-gain, np.repeat(np.arange(n_tasks), count)))],
            task=task,
            above=above[start],
            size=size[start],
            block_relevant=np.diff(start, append=len(rows)).astype(np.int64),
            relevant_above=start - offsets[task],
            block_gain=_sums(np.cumsum(first) - 1, gain[order], len(start)),
        )

    def top(
        self, k: int
    ) -> tuple[
        Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"], Float64[np.ndarray, " pairs"]
    ]:
        """Who may stand among the first k, and how probably.

        Returns:
            Task rows, candidates and the probability, over random orders of tied scores, that the
            candidate is among the first min(k, n) of the task; only where it is above 0.
        """
        if k < 1:
            raise ConfigError(f"a cutoff must be at least 1, not {k}")
        n_tasks, n_candidates = self.scores.shape
        if n_candidates == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        cutoff = np.minimum(self.n, k)
        # A task that ranks nobody has a NaN here, which nothing reaches.
        last = np.take_along_axis(self.ascending, (self.n - cutoff)[:, None], axis=1)
        rows, columns = np.nonzero(self.scores >= last)
        tied = self.scores[rows, columns] == last[rows, 0]
        n_tied = np.bincount(rows[tied], minlength=n_tasks)
        n_above = np.bincount(rows[~tied], minlength=n_tasks)
        share = (cutoff - n_above) / np.maximum(n_tied, 1)
        return rows, columns, np.where(tied, share[rows], 1.0)


def check_not_nan(
    scores: Float[np.ndarray, "tasks c"],
    tasks: Integer[np.ndarray, " tasks"] | None = None,
    learner: str | None = None,
) -> None:
    """Raises ScoreError if a score is NaN, naming the first such task, and the learner if given."""
    # The least score is NaN where any is, and makes no mask of the size of the scores.
    if scores.size == 0 or not np.isnan(scores.min()):
        return
    wrong = np.isnan(scores)
    row, column = (int(index) for index in np.argwhere(wrong)[0])
    who = "the learner" if learner is None else learner
    which = f"row {row}" if tasks is None else str(int(tasks[row]))
    raise ScoreError(
        f"{who} gave NaN as the score of candidate {column} of task {which} "
        f"({int(wrong.sum())} NaN of {scores.size} scores); NaN cannot be "
        f"ranked: look for a diverged training or a division by 0"
    )


def gains_of(
    ratings: Float[np.ndarray, " n"], gain: Gain, lowest: float | int = 0
) -> Float64[np.ndarray, " n"]:
    """Gains of relevant candidates for nDCG, from their ratings.

    Args:
        ratings: [n] rating of each.
        gain: `binary` 1; `linear` g; `exponential` 2^g - 1 (Burges et al., ICML 2005), where
            g = rating - lowest.
        lowest: the rating that gives no gain.

    Raises:
        ConfigError: if `gain` is unknown.
    """
    if gain == "binary":
        return np.ones(len(ratings))
    grade = ratings.astype(np.float64) - lowest
    if gain == "linear":
        return grade
    if gain == "exponential":
        return np.asarray(np.exp2(grade) - 1)
    raise ConfigError(f"unknown gain {gain!r}{did_you_mean(gain, GAINS)}")


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
    won = _per_task(rankings, rankings.block_relevant * (below + 0.5 * others_tied))
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
    return _hits(rankings, cutoff) / np.maximum(cutoff, 1)


def recall(rankings: Rankings, k: int | None) -> Float64[np.ndarray, " tasks"]:
    """Recall@k = h / R, the share of the relevant candidates that is shown.

    Source: Herlocker et al., TOIS 22, 2004.
    Ties: E[h], which is linear. Degenerate: NaN if nothing is relevant; 1 if n <= k. The
    denominator is R, not min(R, k), so the best value is min(R, k') / R.

    Returns:
        [T] in [0, 1].
    """
    return _hits(rankings, rankings.cutoff(k)) / np.maximum(rankings.relevant, 1)


def f1(rankings: Rankings, k: int | None) -> Float64[np.ndarray, " tasks"]:
    """F1@k = 2 P R / (P + R) of Precision@k and Recall@k = 2 h / (k' + R), 0 where h = 0.

    Source: van Rijsbergen, "Information Retrieval", 1979; Herlocker et al., TOIS 22, 2004.
    Ties: E[h], in which it is linear. Degenerate: NaN if nothing is relevant; the list is
    k' = min(k, n) long.

    Returns:
        [T] in [0, 1].
    """
    cutoff = rankings.cutoff(k)
    return 2 * _hits(rankings, cutoff) / np.maximum(cutoff + rankings.relevant, 1)


def hr(rankings: Rankings, k: int | None) -> Float64[np.ndarray, " tasks"]:
    """HR@k (hit rate) = 1 if h > 0, else 0.

    Source: Deshpande and Karypis, "Item-based top-N recommendation algorithms", TOIS 22, 2004; for
    more than one relevant candidate, at least one hit.
    Ties: if the first block with a relevant candidate (m candidates, r relevant) has t places above
    the cutoff, 1 - C(m - r, t) / C(m, t). Degenerate: NaN if nothing is relevant; 1 if n <= k.

    Returns:
        [T] in [0, 1].
    """
    first = _first_block(rankings)
    m, r = rankings.size[first], rankings.block_relevant[first]
    places = np.clip(rankings.cutoff(k)[rankings.task[first]] - rankings.above[first], 0, m)
    # C(m-r, t)/C(m, t) is symmetric in r and t: the shorter of the two products.
    steps, other = np.minimum(r, places), np.maximum(r, places)
    missed = np.ones(len(first))
    for i in range(int(steps.max(initial=0))):
        factor = np.maximum(m - other - i, 0) / np.maximum(m - i, 1)
        missed = np.where(i < steps, missed * factor, missed)
    return _scatter(rankings, first, 1 - missed)


def mrr(rankings: Rankings, k: int | None) -> Float64[np.ndarray, " tasks"]:
    """MRR@k = 1 / rank of the first relevant candidate, 0 if that rank is above k'.

    Source: Voorhees, "The TREC-8 question answering track report", 1999.
    Ties: in the first block with a relevant candidate (m candidates, r relevant, a above it) the
    first relevant one has offset j with probability C(m - 1 - j, r - 1) / C(m, r), and rank
    a + j + 1. Degenerate: NaN if nothing is relevant; with fewer candidates than k the cutoff is n.

    Returns:
        [T] in [0, 1].
    """
    first = _first_block(rankings)
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
    return _scatter(rankings, first, value)


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
    return _unit(_per_task(rankings, total) / np.maximum(np.minimum(rankings.relevant, cutoff), 1))


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
    dcg = _per_task(rankings, rankings.block_gain * mean)

    owner = np.repeat(np.arange(len(rankings)), rankings.relevant)
    start = np.cumsum(rankings.relevant) - rankings.relevant
    place = np.arange(len(owner)) - start[owner]
    high = np.minimum(place + 1, cutoff[owner])
    low = np.minimum(place, cutoff[owner])
    ideal = _sums(owner, rankings.gains * (discount[high] - discount[low]), len(rankings))
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

LOWER_IS_BETTER = frozenset({"mae", "rmse", "log_loss"})


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


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _check_range(pairs: Pairs, shape: tuple[int, ...], what: str) -> None:
    rows, columns = pairs
    if len(rows) != len(columns):
        raise EpisodeError(f"{what}: {len(rows)} task rows for {len(columns)} candidates")
    for axis, index, size in (("task row", rows, shape[0]), ("position", columns, shape[1])):
        if len(index) and (index.min() < 0 or index.max() >= size):
            raise EpisodeError(
                f"{axis} of {what} out of range: {index.min()} to {index.max()} with {size}"
            )


def _check_finite(
    values: Float[np.ndarray, " n"], rows: Integer[np.ndarray, " n"], what: str
) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise ScoreError(
            f"{what} of task row {int(rows[wrong[0]])} is {values[wrong[0]]}; predictions must be "
            f"finite"
        )


def _per_task(
    rankings: Rankings, block_values: Shaped[np.ndarray, " blocks"]
) -> Float64[np.ndarray, " tasks"]:
    total = _sums(rankings.task, block_values, len(rankings))
    return np.where(rankings.relevant > 0, total, np.nan)


def _hits(rankings: Rankings, cutoff: Int64[np.ndarray, " tasks"]) -> Float64[np.ndarray, " tasks"]:
    places = np.clip(cutoff[rankings.task] - rankings.above, 0, rankings.size)
    return _per_task(rankings, rankings.block_relevant * places / rankings.size)


def _first_block(rankings: Rankings) -> Int64[np.ndarray, " with_relevant"]:
    return np.flatnonzero(np.diff(rankings.task, prepend=-1))


def _scatter(
    rankings: Rankings,
    blocks: Int64[np.ndarray, " with_relevant"],
    values: Float64[np.ndarray, " with_relevant"],
) -> Float64[np.ndarray, " tasks"]:
    result = np.full(len(rankings), np.nan)
    result[rankings.task[blocks]] = values
    return result


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
    below = _sums(rows, denominator, n_tasks)
    return _sums(rows, numerator, n_tasks) / np.where(below > 0, below, np.nan)


def _sums(
    index: Integer[np.ndarray, " n"], values: Shaped[np.ndarray, " n"], size: int
) -> Float64[np.ndarray, " size"]:
    # Each sum runs in the order of its values, whatever stands between them. Of no values, bincount
    # makes integers.
    return np.bincount(index, values, size).astype(np.float64, copy=False)
