"""Weighted ALS for implicit feedback, with new tasks folded in by one closed-form solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32

from metarec.baselines._shared import (
    BOTH,
    PRIORS,
    clean,
    fit_prior,
    interactions,
    require,
    require_choice,
    with_prior,
)
from metarec.errors import LearnerError
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training


@dataclass(frozen=True)
class ALSTasks:
    """Factors of T tasks.

    Args:
        factors: [T, F] factors of each task.
        informed: [T] whether any shot of the task counts.
        meta_parameters: what `fit` learned.
    """

    factors: Float64[np.ndarray, "tasks factors"]
    informed: Bool[np.ndarray, " tasks"]
    meta_parameters: MetaParameters


@dataclass(kw_only=True)
class ALS:
    """Matrix factorisation of implicit feedback (Hu, Koren and Volinsky, 2008).

    Meta-train is fitted by the `implicit` library. A new task's factors solve
    `(Y'Y + Y'(C - I)Y + regularisation I) x = Y'C p` (their eq. 4) with confidence
    `c = 1 + alpha` and preference `p = 1` for a positive, and for a label 0
    `c = 1 + alpha * |dislike_weight|` and `p = 1` where `dislike_weight` is above 0 (what was
    chosen to be rated is of interest), `p = 0` where it is below. Serves user tasks and item
    tasks. The score of a support candidate rests on itself, so it must not be ranked.

    Args:
        factors: number of factors.
        regularisation: weight of the squared norms of the factors.
        alpha: how much more a positive counts than an unobserved pair.
        iterations: number of alternations.
        dislike_weight: weight of a label 0 beside that of a positive, from -1 to 1: above 0 it
            counts for a candidate, below 0 against it, and at 0 it is as an unobserved pair.
        prior: what a task without a shot of weight is scored with: `popularity` or `none` (ties).
        prior_weight: of the prior beside the scores of a task with such shots, in their standard
            deviations.
    """

    factors: int = 16
    regularisation: float = 1.0
    alpha: float = 10.0
    iterations: int = 15
    dislike_weight: float = 0.0
    prior: str = "popularity"
    prior_weight: float = 0.0

    serves: ClassVar[frozenset[str]] = BOTH
    accepts: ClassVar[frozenset[str]] = frozenset({"binary", "implicit"})
    needs_features: ClassVar[bool] = False
    trained: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("ALS", "factors", self.factors, 1)
        require("ALS", "regularisation", self.regularisation, 0, strict=True)
        require("ALS", "alpha", self.alpha, 0, strict=True)
        require("ALS", "iterations", self.iterations, 1)
        require("ALS", "dislike_weight", self.dislike_weight, -1)
        require_choice("ALS", "prior", self.prior, PRIORS)
        require("ALS", "prior_weight", self.prior_weight, 0)

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Factorises meta-train, one thread and one seed, so that the same bits come out."""
        try:
            from implicit.cpu.als import AlternatingLeastSquares
        except ImportError as error:
            raise LearnerError(
                "ALS needs the package implicit, which is not installed: pip install implicit"
            ) from error
        from scipy.sparse import csr_matrix
        from threadpoolctl import threadpool_limits

        # `implicit` reads a positive value as the confidence of a preference 1, and a negative one
        # as that of a preference 0.
        signed = np.array([2.0, -1.0, 0.0])
        matrix = interactions(training, signed)
        sign = np.sign(self.dislike_weight)
        disliked = sign * (1 + self.alpha * abs(self.dislike_weight))
        matrix.data = np.where(matrix.data > 0, 1 + self.alpha, disliked)
        matrix.eliminate_zeros()
        with threadpool_limits(1):
            model = AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularisation,
                alpha=1.0,
                iterations=self.iterations,
                num_threads=1,
                random_state=training.seed,
                dtype=np.float32,
            )
            model.fit(csr_matrix(matrix, dtype=np.float32), show_progress=training.progress)
        # A candidate that nobody liked gets zeros, as a cold one, whatever the library drew for it.
        factors = np.zeros((training.n_candidates, self.factors), dtype=np.float32)
        liked = np.unique(matrix.indices[matrix.data > 0])
        factors[liked] = model.item_factors[liked]
        if not np.isfinite(factors).all():
            raise LearnerError(
                "ALS diverged: its factors are not finite; raise regularisation or lower alpha"
            )
        exact = factors.astype(np.float64)
        return {
            "factors": factors,
            "gram": exact.T @ exact,
            "prior": fit_prior(training, self.prior),
        }

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> ALSTasks:
        """Returns the factors of each task, solved for with the candidates' factors fixed."""
        support = clean(support)
        liked = support.mask & (support.labels > 0)
        of_disliked = self.alpha * abs(self.dislike_weight)
        extra = np.where(liked, self.alpha, of_disliked) * support.mask
        preferred = support.mask if self.dislike_weight > 0 else liked
        rows = meta_parameters["factors"][support.candidates].astype(np.float64)
        system = (
            meta_parameters["gram"]
            + self.regularisation * np.eye(rows.shape[2])
            + np.matmul(rows.transpose(0, 2, 1), rows * extra[:, :, None])
        )
        right = ((1 + extra) * preferred)[:, None, :] @ rows
        solved = np.linalg.solve(system, right.transpose(0, 2, 1))[:, :, 0]
        return ALSTasks(solved, np.asarray(preferred.any(axis=1)), meta_parameters)

    def score(
        self, fast_weights: ALSTasks, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] products of factors; unknown candidates score 0."""
        meta = fast_weights.meta_parameters
        scores = fast_weights.factors @ meta["factors"].astype(np.float64).T
        informed, prior = fast_weights.informed, meta["prior"]
        return with_prior(scores, informed, prior, self.prior_weight, candidates)
