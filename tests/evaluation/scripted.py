"""A learner that scores as it is told, and small episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from metarec.episodes import Ragged
from metarec.evaluation.episodes import EvaluationEpisodes
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training

N_ITEMS = 30


class Scripted:
    """Scores by a function of (the candidates of a task's support, the candidates)."""

    serves: ClassVar[frozenset[str]] = frozenset({"user"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = False
    trained: ClassVar[bool] = False

    def __init__(
        self, function: Callable[[np.ndarray, np.ndarray], np.ndarray], predicts: Predicts
    ) -> None:
        self.function, self.kind = function, predicts
        self.batches: list[int] = []

    def predicts(self, feedback: Feedback) -> Predicts:
        return self.kind

    def fit(self, training: Training) -> MetaParameters:
        return {}

    def adapt(self, meta_parameters: Mapping[str, np.ndarray], support: Support) -> Any:
        self.batches.append(len(support))
        return support.candidates

    def score(self, fast_weights: Any, candidates: np.ndarray) -> np.ndarray:
        return np.stack([self.function(row, candidates) for row in fast_weights]).astype(np.float32)


def ragged(lists: Sequence[Sequence[float]], dtype: type) -> Ragged:
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Ragged(offsets, np.array([x for row in lists for x in row], dtype))


def episodes_of(
    query: Sequence[Sequence[int]],
    ratings: Sequence[Sequence[float]],
    excluded: Sequence[Sequence[int]],
    feedback: Feedback = "binary",
) -> EvaluationEpisodes:
    """Episodes over the items 10, 11, ... as candidates; liked from a rating of 4."""
    n = len(query)
    labels = [[float(r >= 4 or feedback == "implicit") for r in row] for row in ratings]
    # The support of a task is its own number, which lets a scripted learner know it.
    support = np.arange(n, dtype=np.int32)[:, None]
    return EvaluationEpisodes(
        kind="user",
        part="test",
        regime="user_cold",
        k_shot=1,
        feedback=feedback,
        threshold=None if feedback == "implicit" else 4.0,
        tasks=np.arange(100, 100 + n, dtype=np.int32),
        support=Support(support, np.ones((n, 1), np.float32), np.ones((n, 1), bool)),
        candidates=np.arange(10, 10 + N_ITEMS, dtype=np.int32),
        excluded=ragged(excluded, np.int32),
        query=ragged(query, np.int32),
        query_ratings=ragged(ratings, np.float32),
        query_labels=ragged(labels, np.float32),
    )


def random_episodes(n: int = 9, feedback: Feedback = "binary") -> EvaluationEpisodes:
    rng = np.random.default_rng(3)
    query, ratings, excluded = [], [], []
    for _ in range(n):
        positions = rng.permutation(N_ITEMS)
        size = int(rng.integers(1, 9))
        query.append(np.sort(positions[:size]).tolist())
        ratings.append(rng.integers(1, 6, size).astype(float).tolist())
        excluded.append(positions[size : size + 3].tolist())
    return episodes_of(query, ratings, excluded, feedback)


def noise(support: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Scores with ties that depend on the task, whatever else is scored with it."""
    rng = np.random.default_rng(int(support[0]))
    return np.round(rng.normal(size=100)[candidates], 1)


def constant(support: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    return np.full(len(candidates), 3.5)


def by_position(support: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    return -candidates.astype(float)


def take(episodes: EvaluationEpisodes, order: np.ndarray) -> EvaluationEpisodes:
    def reordered(lists: Ragged) -> Ragged:
        return ragged([lists[int(t)].tolist() for t in order], lists.values.dtype.type)

    names = ("excluded", "query", "query_ratings", "query_labels")
    return replace(
        episodes,
        tasks=episodes.tasks[order],
        support=episodes.support[order],
        **{name: reordered(getattr(episodes, name)) for name in names},
    )
