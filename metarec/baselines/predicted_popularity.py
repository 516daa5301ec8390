"""Popularity as predicted from text: the non-personal floor for new items."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int32

from metarec.baselines._shared import (
    ANY_FEEDBACK,
    BOTH,
    COUNTS,
    popularity,
    require,
    require_choice,
)
from metarec.features import Features
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training, require_features


@dataclass(kw_only=True)
class PredictedPopularity:
    """Scores every task alike, by a ridge regression from features to log(1 + popularity).

    Fitted on the known candidates; scores known and new ones by the prediction only. Serves user
    tasks (items by their text) and item tasks (users by their profile).

    Args:
        regularisation: weight of the squared norm of the coefficients.
        of: `positives` counts labels 1 of binary feedback only, `all` counts every interaction.
    """

    regularisation: float = 1.0
    of: str = "positives"

    serves: ClassVar[frozenset[str]] = BOTH
    accepts: ClassVar[frozenset[str]] = ANY_FEEDBACK
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = False

    _features: Features | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require("PredictedPopularity", "regularisation", self.regularisation, 0, strict=True)
        require_choice("PredictedPopularity", "of", self.of, COUNTS)

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Fits the regression on the known candidates."""
        from sklearn.linear_model import Ridge

        self._features = require_features("PredictedPopularity", training)
        count = popularity(training, self.of)[training.known]
        training.note("normaliser")
        rows = self._features.candidates[training.known].astype(np.float64)
        model = Ridge(alpha=self.regularisation, solver="cholesky")
        model.fit(rows, np.log1p(count.astype(np.float64)))
        return {
            "coefficients": np.asarray(model.coef_, dtype=np.float64),
            "intercept": np.array([model.intercept_], dtype=np.float64),
        }

    def adapt(
        self, meta_parameters: MetaParameters, support: Support
    ) -> tuple[int, Float64[np.ndarray, " d"], float]:
        """Returns the number of tasks and the regression: nothing is adapted."""
        intercept = float(meta_parameters["intercept"][0])
        return len(support), meta_parameters["coefficients"], intercept

    def score(
        self,
        fast_weights: tuple[int, Float64[np.ndarray, " d"], float],
        candidates: Int32[np.ndarray, " c"],
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] predicted log(1 + popularity)."""
        n_tasks, coefficients, intercept = fast_weights
        assert self._features is not None, "fit comes before adapt and score"
        rows = self._features.candidates[candidates].astype(np.float64)
        return np.tile((rows @ coefficients + intercept).astype(np.float32), (n_tasks, 1))
