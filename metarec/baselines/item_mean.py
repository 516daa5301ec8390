"""Mean label of the candidate plus the bias of the task, both shrunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int32

from metarec.baselines._shared import BOTH, clean, require, shrunk_means
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training


@dataclass(kw_only=True)
class ItemMean:
    """Predicts `mean of the candidate + bias of the task`: the baseline estimate of Koren (2010).

    The candidate's mean is drawn to the global mean, and is the global mean where the candidate is
    unknown. The task's bias is the sum of its shots' residuals over `K + task_shrinkage`, 0 without
    shots. Serves user tasks (mean of the item, bias of the user) and item tasks (the converse).

    Args:
        shrinkage: number of ratings at the global mean that each candidate is given.
        task_shrinkage: number of residuals of 0 that each task is given.
    """

    shrinkage: float = 5.0
    task_shrinkage: float = 2.0

    serves: ClassVar[frozenset[str]] = BOTH
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary"})
    needs_features: ClassVar[bool] = False
    trained: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("ItemMean", "shrinkage", self.shrinkage, 0)
        require("ItemMean", "task_shrinkage", self.task_shrinkage, 0)

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings where ratings are given, else only an order."""
        return "rating" if feedback == "rating" else "order"

    def fit(self, training: Training) -> MetaParameters:
        """Takes the shrunk mean label of each candidate."""
        means, _ = shrunk_means(training, self.shrinkage)
        return {"means": means}

    def adapt(
        self, meta_parameters: MetaParameters, support: Support
    ) -> tuple[Float64[np.ndarray, " tasks"], Float64[np.ndarray, " n_candidates"]]:
        """Returns the bias of each task, and the means."""
        support = clean(support)
        means = meta_parameters["means"]
        return task_bias(means, support, self.task_shrinkage), means

    def score(
        self,
        fast_weights: tuple[Float64[np.ndarray, " tasks"], Float64[np.ndarray, " n_candidates"]],
        candidates: Int32[np.ndarray, " c"],
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] predictions, in the unit of the labels; not clipped to their scale."""
        bias, means = fast_weights
        return np.asarray(means[candidates][None, :] + bias[:, None], dtype=np.float32)


def task_bias(
    means: Float64[np.ndarray, " n_candidates"], support: Support, shrinkage: float
) -> Float64[np.ndarray, " tasks"]:
    """Returns the shrunk mean of each task's residuals from the candidates' means, 0 without shots.

    Args:
        means: [n_candidates] mean label of each candidate.
        support: cleaned shots.
        shrinkage: number of residuals of 0 that each task is given.
    """
    residuals = np.where(support.mask, support.labels - means[support.candidates], 0)
    number = support.mask.sum(axis=1) + shrinkage
    return np.asarray(residuals.sum(axis=1) / np.where(number > 0, number, 1))
