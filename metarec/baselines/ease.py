"""EASE^R: a linear item-item model in closed form, in the smaller of its two forms."""

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
from metarec.neighbours import pack, unpack


@dataclass(frozen=True)
class EASETasks:
    """The shots of T tasks folded in.

    Args:
        shots: [T, n_candidates] sparse weights of the shots.
        meta_parameters: what `fit` learned.
    """

    shots: csr_array
    meta_parameters: MetaParameters


@dataclass(kw_only=True)
class EASE:
    """Scores `s B` for the support row s, with the closed form of Steck (2019), eq. 8.

    With X of meta-train and `P = (X'X + regularisation I)^-1`, `B = I - P diag(1 / diag P)`, so the
    diagonal of B is 0 and no candidate speaks for itself. With fewer tasks than candidates,
    `P = (I - X' (X X' + regularisation I)^-1 X) / regularisation` (Woodbury) needs a matrix of
    tasks by tasks only, and B is never made. Serves user tasks and item tasks.

    Args:
        regularisation: weight of the squared norm of B, in units of interactions.
        dislike_weight: weight of label 0 in binary feedback, in meta-train and support.
        centre: what is taken off ratings: nothing, the `global` mean, or the mean of the `task`.
        prior: what a task without a shot of weight is scored with: `popularity` or `none` (ties).
        prior_weight: of the prior beside the scores of a task with such shots, in their standard
            deviations.
    """

    regularisation: float = 500.0
    dislike_weight: float = 0.0
    centre: str = "none"
    prior: str = "popularity"
    prior_weight: float = 0.0

    serves: ClassVar[frozenset[str]] = BOTH
    accepts: ClassVar[frozenset[str]] = ANY_FEEDBACK
    needs_features: ClassVar[bool] = False
    trained: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("EASE", "regularisation", self.regularisation, 0, strict=True)
        require("EASE", "dislike_weight", self.dislike_weight, -1)
        require_choice("EASE", "centre", self.centre, CENTRES)
        require_choice("EASE", "prior", self.prior, PRIORS)
        require("EASE", "prior_weight", self.prior_weight, 0)

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Inverts the regularised Gram matrix of tasks or of candidates, whichever is smaller."""
        from scipy.linalg import inv

        weights = fit_weights(training, self.centre, self.dislike_weight)
        matrix = interactions(training, weights)
        n_tasks, n_known = matrix.shape[0], len(training.known)
        meta = {
            "weights": weights,
            "prior": fit_prior(training, self.prior),
            "regularisation": np.array([self.regularisation]),
        }
        # An unknown candidate has a column of zeros: it is left out of B and scores 0.
        known = matrix[:, training.known].tocsr()
        if n_tasks < n_known:
            gram = (known @ known.T).toarray()
            gram[np.diag_indices(n_tasks)] += self.regularisation
            inverse = inv(gram, overwrite_a=True, check_finite=False)
            diagonal = np.ones(n_known)
            for start in range(0, n_known, 4096):
                columns = known[:, start : start + 4096].toarray()
                diagonal[start : start + 4096] -= (columns * (inverse @ columns)).sum(axis=0)
            meta |= {"dual": inverse, "diagonal": diagonal / self.regularisation}
            meta |= pack("by_task", known)
        else:
            gram = (known.T @ known).toarray()
            gram[np.diag_indices(n_known)] += self.regularisation
            inverse = inv(gram, overwrite_a=True, check_finite=False)
            meta |= {"primal": inverse, "diagonal": np.diag(inverse).copy()}
        return meta | {"known": training.known.astype(np.int32)}

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> EASETasks:
        """Returns the weighted shots of each task."""
        support = clean(support)
        values = weigh(meta_parameters["weights"], support)
        n_candidates = len(meta_parameters["prior"])
        return EASETasks(shots(support, values, n_candidates), meta_parameters)

    def score(
        self, fast_weights: EASETasks, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] scores `s B`; unknown candidates score 0."""
        folded, meta = fast_weights.shots, fast_weights.meta_parameters
        shot_rows = folded[:, meta["known"]].tocsr()
        own = shot_rows.toarray()
        if "dual" in meta:
            matrix = unpack("by_task", meta)
            through = (shot_rows @ matrix.T).toarray() @ meta["dual"]
            product = (own - (matrix.T @ through.T).T) / meta["regularisation"][0]
        else:
            product = shot_rows @ meta["primal"]
        of_known = own - product / meta["diagonal"]
        scores = np.zeros(folded.shape)
        scores[:, meta["known"]] = of_known
        informed = np.diff(folded.indptr) > 0
        return with_prior(scores, informed, meta["prior"], self.prior_weight, candidates)
