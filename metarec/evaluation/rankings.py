"""Where the relevant candidates of a task lie in its ranking, tied scores included.

A `Rankings` is all that a ranking metric depends on: for each task how many candidates were ranked,
and the blocks of equal scores in which its relevant candidates lie. `SortedScores` makes it, and
gives the probability with which a candidate stands among the first k.

Infinite scores are scores: `inf` ranks first, `-inf` last, equal infinities are tied. A NaN score
is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, Integer, Shaped

from metarec.errors import ConfigError, EpisodeError, ScoreError, did_you_mean

Gain = Literal["binary", "linear", "exponential"]
GAINS: tuple[Gain, ...] = ("binary", "linear", "exponential")

Pairs = tuple[Integer[np.ndarray, " _"], Integer[np.ndarray, " _"]]
"""(task row, candidate position) of each pair, as `np.nonzero` gives them of a [tasks, c] mask."""


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
            block_gain=sums(owner, gains, len(n))[task],
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

    def per_task(
        self, block_values: Shaped[np.ndarray, " blocks"]
    ) -> Float64[np.ndarray, " tasks"]:
        """[T] the sum of a value over the blocks of each task; NaN if nothing is relevant."""
        total = sums(self.task, block_values, len(self))
        return np.where(self.relevant > 0, total, np.nan)

    def hits(self, cutoff: Int64[np.ndarray, " tasks"]) -> Float64[np.ndarray, " tasks"]:
        """[T] the expected number of relevant candidates above a cutoff of each task."""
        places = np.clip(cutoff[self.task] - self.above, 0, self.size)
        return self.per_task(self.block_relevant * places / self.size)

    def first_blocks(self) -> Int64[np.ndarray, " with_relevant"]:
        """The first block of each task that has one."""
        return np.flatnonzero(np.diff(self.task, prepend=-1))

    def scatter(
        self,
        blocks: Int64[np.ndarray, " with_relevant"],
        values: Float64[np.ndarray, " with_relevant"],
    ) -> Float64[np.ndarray, " tasks"]:
        """[T] the values of some blocks, one a task, at their tasks; NaN for all other tasks."""
        result = np.full(len(self), np.nan)
        result[self.task[blocks]] = values
        return result


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
            block_gain=sums(np.cumsum(first) - 1, gain[order], len(start)),
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


def check_scores(
    scores: Any, tasks: Integer[np.ndarray, " tasks"], n_candidates: int, learner: str
) -> Float32[np.ndarray, "tasks c"]:
    """Returns what a learner's `score` gave if it is [T, C] float32 without NaN.

    Args:
        scores: what it gave.
        tasks: [T] the tasks that were scored, for the message.
        n_candidates: C, the candidates that were scored.
        learner: its name, for the message.

    Raises:
        ScoreError: if it is anything else.
    """
    expected = (len(tasks), n_candidates)
    shape, dtype = getattr(scores, "shape", None), getattr(scores, "dtype", None)
    if not isinstance(scores, np.ndarray) or dtype != np.float32 or shape != expected:
        raise ScoreError(
            f"{learner}.score must return a float32 NumPy array [tasks, candidates] = "
            f"{list(expected)}, not {type(scores).__name__} of dtype {dtype} and shape {shape}"
        )
    check_not_nan(scores, tasks, learner)
    return scores


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


def sums(
    index: Integer[np.ndarray, " n"], values: Shaped[np.ndarray, " n"], size: int
) -> Float64[np.ndarray, " size"]:
    """The sum of the values of each index, in the order of the values.

    Args:
        index: [n] index of each value, from 0 to size - 1.
        values: [n] what is added up.
        size: number of sums.

    Returns:
        [size] sums, 0 where there is no value.
    """
    # Of no values, bincount makes integers.
    return np.bincount(index, values, size).astype(np.float64, copy=False)


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
