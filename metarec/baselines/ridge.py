"""Ridge regression on BERT features, one for each task, over the biases of candidate and task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int32

from metarec.baselines._shared import (
    ANY_FEEDBACK,
    BOTH,
    clean,
    popularity,
    require,
    require_choice,
    shrunk_means,
)
from metarec.baselines.item_mean import task_bias
from metarec.features import Features
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training, require_features


@dataclass(frozen=True)
class RidgeTasks:
    """Coefficients of T tasks.

    Args:
        coefficients: [T, D] of the centred features.
        bias: [T] bias of each task.
        meta_parameters: what `fit` learned.
    """

    coefficients: Float64[np.ndarray, "tasks d"]
    bias: Float64[np.ndarray, " tasks"]
    meta_parameters: MetaParameters


@dataclass(kw_only=True)
class Ridge:
    """Predicts `bias of the candidate + bias of the task + w . (feature - mean feature)`.

    For each task w minimises `sum (residual - w . x)^2 + regularisation |w|^2` over its shots,
    solved in the dual form, K by K. The mean feature is that of the known candidates. Serves user
    tasks (text features of items) and item tasks (profiles of users).

    With `bias=mean` the biases are those of `ItemMean`, which says what the rated are rated, not
    what is picked from a catalogue. With `bias=popularity` the candidate's bias is
    `popularity_weight` times the standardised log(1 + positives), 0 for unknown candidates; tasks
    have none, and w is fitted to the labels themselves, so that the average candidate stands as the
    negative. Implicit feedback, where all means are 1, always takes this way.

    Args:
        regularisation: weight of the squared norm of the coefficients.
        shrinkage: number of labels at the global mean that each candidate is given.
        task_shrinkage: number of residuals of 0 that each task is given.
        bias: `mean` or `popularity`; ratings always take `mean`.
        popularity_weight: weight of popularity with `bias=popularity`, in units of a label.
    """

    regularisation: float = 3.0
    shrinkage: float = 5.0
    task_shrinkage: float = 2.0
    bias: str = "mean"
    popularity_weight: float = 0.1

    serves: ClassVar[frozenset[str]] = BOTH
    accepts: ClassVar[frozenset[str]] = ANY_FEEDBACK
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = False

    _features: Features | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require("Ridge", "regularisation", self.regularisation, 0, strict=True)
        require("Ridge", "shrinkage", self.shrinkage, 0)
        require("Ridge", "task_shrinkage", self.task_shrinkage, 0)
        require("Ridge", "popularity_weight", self.popularity_weight, 0)
        require_choice("Ridge", "bias", self.bias, ("mean", "popularity"))

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings where ratings are given, else only an order."""
        return "rating" if feedback == "rating" else "order"

    def fit(self, training: Training) -> MetaParameters:
        """Takes the biases of the candidates and the mean feature of the known ones."""
        self._features = require_features("Ridge", training)
        training.note("normaliser")
        mean = self._features.candidates[training.known].mean(axis=0, dtype=np.float64)
        by_mean = training.feedback == "rating" or (
            training.feedback == "binary" and self.bias == "mean"
        )
        if by_mean:
            bias, _ = shrunk_means(training, self.shrinkage)
        else:
            log_count = np.log1p(
                popularity(training, "positives")[training.known], dtype=np.float64
            )
            spread = log_count.std()
            bias = np.zeros(training.n_candidates)
            bias[training.known] = self.popularity_weight * (
                (log_count - log_count.mean()) / (spread if spread > 0 else 1)
            )
        return {"bias": bias, "mean_feature": mean, "by_mean": np.array([by_mean])}

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> RidgeTasks:
        """Returns coefficients and bias of each task; both are 0 without shots."""
        features = self._at_hand()
        support = clean(support)
        if meta_parameters["by_mean"][0]:
            bias = task_bias(meta_parameters["bias"], support, self.task_shrinkage)
            expected = meta_parameters["bias"][support.candidates] + bias[:, None]
        else:
            bias = np.zeros(len(support))
            expected = np.zeros(support.labels.shape)
        residual = np.where(support.mask, support.labels - expected, 0)
        rows = features.candidates[support.candidates] - meta_parameters["mean_feature"]
        rows = rows * support.mask[:, :, None]
        # Rows of zeros where there is no shot: they get the coefficient 0 in the dual.
        gram = rows @ rows.transpose(0, 2, 1)
        gram = gram + self.regularisation * np.eye(rows.shape[1])
        dual = np.linalg.solve(gram, residual[:, :, None])
        coefficients = (dual.transpose(0, 2, 1) @ rows)[:, 0]
        return RidgeTasks(coefficients, bias, meta_parameters)

    def score(
        self, fast_weights: RidgeTasks, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] predictions, in the unit of the labels; not clipped to their scale."""
        meta = fast_weights.meta_parameters
        rows = self._at_hand().candidates[candidates] - meta["mean_feature"]
        scores = fast_weights.coefficients @ rows.T
        scores += fast_weights.bias[:, None] + meta["bias"][candidates][None, :]
        return np.asarray(scores, dtype=np.float32)

    def _at_hand(self) -> Features:
        assert self._features is not None, "fit comes before adapt and score"
        return self._features
