"""Item-kNN: candidates near the liked ones, by who interacted with both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int32
from scipy.sparse import csr_array

from metarec.baselines._shared import (
    ANY_FEEDBACK,
    BOTH,
    CENTRES,
    PRIORS,
    clean,
    fit_prior,
    fit_weights,
    interactions,
    require,
    require_choice,
    shots,
    weigh,
    with_prior,
)
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.neighbours import pack, similarities, unpack

_BLOCK = 256
"""Support candidates whose similarities to the whole catalogue are held in memory at once."""


@dataclass(frozen=True)
class KNNTasks:
    """The shots of T tasks folded in.

    Args:
        shots: [T, n_candidates] sparse weights of the shots.
        meta_parameters: what `fit` learned.
    """

    shots: csr_array
    meta_parameters: MetaParameters


@dataclass(kw_only=True)
class ItemKNN:
    """Scores a candidate by the sum over shots of weight times similarity.

    The similarity of two candidates is the shrunk cosine of their columns in meta-train,
    `x_i . x_j / (|x_i| |x_j| + shrinkage)`, that of a candidate with itself counts 0, and each shot
    votes for its nearest `neighbours` only (Deshpande and Karypis, 2004). Serves user tasks
    (item-based) and item tasks (user-based: known users near those who gave feedback).

    Args:
        neighbours: candidates that each shot votes for (more on a tie at the edge); None for all.
        shrinkage: added to the denominator; draws similarities on few interactions to 0.
        dislike_weight: weight of label 0 in binary feedback, in meta-train and support.
        centre: what is taken off ratings: nothing, the `global` mean, or the mean of the `task`.
        prior: what a task without a shot of weight is scored with: `popularity` or `none` (ties).
        prior_weight: of the prior beside the scores of a task with such shots, in their standard
            deviations.
    """

    neighbours: int | None = 200
    shrinkage: float = 10.0
    dislike_weight: float = 0.0
    centre: str = "none"
    prior: str = "popularity"
    prior_weight: float = 0.0

    serves: ClassVar[frozenset[str]] = BOTH
    accepts: ClassVar[frozenset[str]] = ANY_FEEDBACK
    needs_features: ClassVar[bool] = False
    trained: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.neighbours is not None:
            require("ItemKNN", "neighbours", self.neighbours, 1)
        require("ItemKNN", "shrinkage", self.shrinkage, 0)
        require("ItemKNN", "dislike_weight", self.dislike_weight, -1)
        require_choice("ItemKNN", "centre", self.centre, CENTRES)
        require_choice("ItemKNN", "prior", self.prior, PRIORS)
        require("ItemKNN", "prior_weight", self.prior_weight, 0)

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Keeps meta-train as a sparse matrix and its transpose; similarities come on demand."""
        weights = fit_weights(training, self.centre, self.dislike_weight)
        matrix = interactions(training, weights)
        return {
            "weights": weights,
            "prior": fit_prior(training, self.prior),
            **pack("by_task", matrix),
            **pack("by_candidate", matrix.T.tocsr()),
        }

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> KNNTasks:
        """Returns the weighted shots of each task."""
        support = clean(support)
        values = weigh(meta_parameters["weights"], support)
        n_candidates = len(meta_parameters["prior"])
        return KNNTasks(shots(support, values, n_candidates), meta_parameters)

    def score(
        self, fast_weights: KNNTasks, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] weighted sums of similarities; unknown candidates score 0."""
        folded, meta = fast_weights.shots, fast_weights.meta_parameters
        by_task, by_candidate = unpack("by_task", meta), unpack("by_candidate", meta)
        voters = np.unique(folded.indices).astype(np.int32)
        scores = np.zeros(folded.shape)
        votes = folded.tocsc()
        for start in range(0, len(voters), _BLOCK):
            block = voters[start : start + _BLOCK]
            similarity = similarities(by_task, by_candidate, block, self.neighbours, self.shrinkage)
            scores += votes[:, block].tocsr() @ similarity
        informed = np.diff(folded.indptr) > 0
        return with_prior(scores, informed, meta["prior"], self.prior_weight, candidates)
