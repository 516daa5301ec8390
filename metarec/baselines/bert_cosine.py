"""Zero-shot BERT cosine: candidates whose text feature is near that of the liked ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int32

from metarec.baselines._shared import (
    ANY_FEEDBACK,
    BOTH,
    CENTRES,
    clean,
    fit_weights,
    require,
    require_choice,
    unit_rows,
    weigh,
)
from metarec.features import Features
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training, require_features


@dataclass(kw_only=True)
class BertCosine:
    """Scores by the cosine of a candidate's feature with the weighted mean of the support's.

    In item tasks candidates are users with the profile of their history, and the new item's own
    text feature is part of the task's profile: `text_weight * feature + mean of the shots`. All
    features count at length 1. Without a shot of weight, user tasks have all candidates tied.

    Args:
        dislike_weight: weight of label 0 in binary feedback.
        centre: what is taken off ratings: nothing, the `global` mean, or the mean of the `task`.
        text_weight: weight of the new item's own feature in item tasks.
    """

    dislike_weight: float = 0.0
    centre: str = "global"
    text_weight: float = 1.0

    serves: ClassVar[frozenset[str]] = BOTH
    accepts: ClassVar[frozenset[str]] = ANY_FEEDBACK
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = False

    _features: Features | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require("BertCosine", "dislike_weight", self.dislike_weight, -1)
        require("BertCosine", "text_weight", self.text_weight, 0)
        require_choice("BertCosine", "centre", self.centre, CENTRES)

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Keeps the features at hand; only the mean rating, where it is asked for, is learned."""
        self._features = require_features("BertCosine", training)
        return {"weights": fit_weights(training, self.centre, self.dislike_weight)}

    def adapt(
        self, meta_parameters: MetaParameters, support: Support
    ) -> Float64[np.ndarray, "tasks d"]:
        """Returns the profile of each task, at length 1, or 0 where nothing is known."""
        features = self._at_hand()
        support = clean(support)
        weights = weigh(meta_parameters["weights"], support)
        total = np.abs(weights).sum(axis=1, keepdims=True)
        share = weights / np.where(total > 0, total, 1)
        tasks, k_shot = support.candidates.shape
        rows = unit_rows(features.candidates[support.candidates.ravel()])
        profile = (share[:, None, :] @ rows.reshape(tasks, k_shot, features.size))[:, 0]
        if features.tasks is not None and support.tasks is not None:
            profile = profile + self.text_weight * unit_rows(features.tasks[support.tasks])
        return unit_rows(profile)

    def score(
        self, fast_weights: Float64[np.ndarray, "tasks d"], candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] cosines."""
        rows = unit_rows(self._at_hand().candidates[candidates])
        return np.asarray(fast_weights @ rows.T, dtype=np.float32)

    def _at_hand(self) -> Features:
        assert self._features is not None, "fit comes before adapt and score"
        return self._features
