"""Recommendation lists from scores (top N, threshold), and what logged feedback says of them.

Lists break ties by the position of the candidate, the lower first, so that they are the same
everywhere; rates and coverage that are computed from scores take the expectation over ties instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64, Integer

from metarec.errors import ConfigError, DataError
from metarec.evaluation.metrics import Coverage, click_rate, conversion_rate
from metarec.evaluation.rankings import Pairs, SortedScores


@dataclass(frozen=True, eq=False)
class RecommendationLists:
    """One list of candidates a task, the best first.

    Args:
        offsets: [T + 1] where each list starts, and the end of the last.
        candidates: positions in the catalogue, list after list.
        scores: their scores.
    """

    offsets: Int64[np.ndarray, " tasks_plus_1"]
    candidates: Int64[np.ndarray, " shown"]
    scores: Float[np.ndarray, " shown"]

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.offsets) - 1

    def __getitem__(self, task: int) -> Int64[np.ndarray, " list"]:
        """The list of one task."""
        return self.candidates[self.offsets[task] : self.offsets[task + 1]]

    @property
    def rows(self) -> Int64[np.ndarray, " shown"]:
        """Task row of each recommended candidate."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def coverage(self, n_candidates: int) -> float:
        """Share of a catalogue of `n_candidates` that stands in at least one list."""
        covered = Coverage(n_candidates)
        covered.add(self.candidates)
        return covered.value()


def top_n(
    scores: Float[np.ndarray, "tasks c"], n: int, excluded: Pairs | None = None
) -> RecommendationLists:
    """The N best candidates of each task.

    Args:
        scores: [T, C] score of each candidate, higher is better; infinities are scores.
        n: length of a list; it is shorter where fewer candidates are ranked.
        excluded: (task row, candidate) pairs that are not recommended, such as the support.

    Raises:
        ScoreError: if a score is NaN.
        ConfigError: if `n` is below 1.
    """
    rows, candidates, _ = SortedScores.from_scores(scores, excluded).top(n)
    return _lists(scores, rows, candidates, n)


def above_threshold(
    scores: Float[np.ndarray, "tasks c"],
    tau: float | int,
    excluded: Pairs | None = None,
    n: int | None = None,
) -> RecommendationLists:
    """All candidates whose score is at least tau; the list of a task may be empty.

    Args:
        scores: [T, C] score of each candidate, in the units of tau (a rating, a logit).
        tau: threshold; a candidate at it is recommended.
        excluded: (task row, candidate) pairs that are not recommended.
        n: greatest length of a list, None for no limit.

    Raises:
        ScoreError: if a score is NaN.
        ConfigError: if tau is NaN or `n` is below 1.
    """
    if np.isnan(tau) or (n is not None and n < 1):
        raise ConfigError(f"a threshold list needs a number as tau, not {tau}, and n >= 1, not {n}")
    ranked = SortedScores.from_scores(scores, excluded).scores
    rows, candidates = np.nonzero(ranked >= tau)
    return _lists(scores, rows, candidates, n)


def _lists(
    scores: Float[np.ndarray, "tasks c"],
    rows: Integer[np.ndarray, " pairs"],
    candidates: Integer[np.ndarray, " pairs"],
    n: int | None,
) -> RecommendationLists:
    values = scores[rows, candidates]
    order = np.lexsort((candidates, -values, rows))
    rows, candidates, values = rows[order], candidates[order], values[order]
    lengths = np.bincount(rows, minlength=len(scores))
    place = np.arange(len(rows)) - (np.cumsum(lengths) - lengths)[rows]
    if n is not None:
        kept = place < n
        candidates, values, lengths = candidates[kept], values[kept], np.minimum(lengths, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return RecommendationLists(offsets, candidates.astype(np.int64), values)


@dataclass(frozen=True, eq=False)
class FeedbackLog:
    """What happened when candidates were shown: one entry for each shown (task, candidate).

    Args:
        rows: [n] task row.
        candidates: [n] position in the catalogue.
        clicked: [n] whether it was clicked.
        converted: [n] whether it was converted (bought).

    Raises:
        DataError: if the columns differ in length or a (task, candidate) occurs twice.
    """

    rows: Integer[np.ndarray, " n"]
    candidates: Integer[np.ndarray, " n"]
    clicked: Bool[np.ndarray, " n"]
    converted: Bool[np.ndarray, " n"]

    def __post_init__(self) -> None:
        if len({len(self.rows), len(self.candidates), len(self.clicked), len(self.converted)}) > 1:
            raise DataError("the columns of the feedback log differ in length")
        pairs = np.stack([self.rows, self.candidates])
        if np.unique(pairs, axis=1).shape[1] < len(self.rows):
            raise DataError(
                "the feedback log has a (task, candidate) twice; join its entries first, such as "
                "by any click"
            )


def rates_of_top_n(
    scores: Float[np.ndarray, "tasks c"],
    log: FeedbackLog,
    n: int,
    excluded: Pairs | None = None,
    per: Literal["click", "impression"] = "click",
) -> pd.DataFrame:
    """Click and conversion rate of the top N for logged feedback, in expectation over ties.

    Candidates of the list without a log entry are not counted (replay), and log entries outside the
    list neither.

    Args:
        scores: [T, C] score of each candidate.
        log: the logged feedback, its rows and candidates those of `scores`.
        n: length of a list.
        excluded: (task row, candidate) pairs that are not recommended.
        per: denominator of the conversion rate, see `metrics.conversion_rate`.

    Returns:
        One row a task: `click_rate@N`, `conversion_rate@N` and `logged@N`, the expected number of
        logged candidates in the list; rates are NaN where there is nothing to count.

    Raises:
        ScoreError: if a score is NaN.
        DataError: if the log points outside the scores.
    """
    n_tasks, n_candidates = scores.shape
    _check_log(log, n_tasks, n_candidates)
    rows, candidates, probability = SortedScores.from_scores(scores, excluded).top(n)
    return _rates(log, rows, candidates, probability, n_tasks, n_candidates, per, f"@{n}")


def rates_of_lists(
    lists: RecommendationLists, log: FeedbackLog, per: Literal["click", "impression"] = "click"
) -> pd.DataFrame:
    """Click and conversion rate of given lists for logged feedback; see `rates_of_top_n`.

    Returns:
        One row a task: `click_rate`, `conversion_rate` and `logged`.

    Raises:
        DataError: if the log has a task without list.
    """
    n_candidates = 1 + max(
        int(lists.candidates.max(initial=-1)), int(log.candidates.max(initial=-1))
    )
    _check_log(log, len(lists), n_candidates)
    certain = np.ones(len(lists.candidates))
    return _rates(log, lists.rows, lists.candidates, certain, len(lists), n_candidates, per, "")


def _rates(
    log: FeedbackLog,
    rows: Integer[np.ndarray, " pairs"],
    candidates: Integer[np.ndarray, " pairs"],
    probability: Float[np.ndarray, " pairs"],
    n_tasks: int,
    n_candidates: int,
    per: Literal["click", "impression"],
    suffix: str,
) -> pd.DataFrame:
    listed = rows.astype(np.int64) * n_candidates + candidates
    logged = log.rows.astype(np.int64) * n_candidates + log.candidates
    order = np.argsort(listed)
    place = np.searchsorted(listed, logged, sorter=order)
    shown = np.zeros(len(logged))
    inside = np.flatnonzero(place < len(listed))
    match = order[place[inside]]
    same = listed[match] == logged[inside]
    shown[inside[same]] = probability[match[same]]
    return pd.DataFrame(
        {
            f"click_rate{suffix}": click_rate(shown, log.clicked, log.rows, n_tasks),
            f"conversion_rate{suffix}": conversion_rate(
                shown, log.clicked, log.converted, log.rows, n_tasks, per
            ),
            f"logged{suffix}": np.bincount(log.rows, shown, n_tasks).astype(np.float64),
        }
    )


def _check_log(log: FeedbackLog, n_tasks: int, n_candidates: int) -> None:
    for name, index, size in (
        ("task row", log.rows, n_tasks),
        ("candidate", log.candidates, n_candidates),
    ):
        if len(index) and (index.min() < 0 or index.max() >= size):
            raise DataError(
                f"feedback log: {name} out of range: {index.min()} to {index.max()} with {size}"
            )
