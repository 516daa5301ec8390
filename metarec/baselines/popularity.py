"""Popularity: how often a candidate occurs in meta-train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int32

from metarec.baselines._shared import ANY_FEEDBACK, BOTH, COUNTS, popularity, require_choice
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training


@dataclass(kw_only=True)
class Popularity:
    """Scores every task alike, by the number of a candidate's meta-train interactions.

    Serves user tasks (popular items) and item tasks (active users). Unknown candidates score 0.

    Args:
        of: `positives` counts labels 1 of binary feedback only, `all` counts every interaction.
            With ratings and implicit feedback both count every interaction.
    """

    of: str = "positives"

    serves: ClassVar[frozenset[str]] = BOTH
    accepts: ClassVar[frozenset[str]] = ANY_FEEDBACK
    needs_features: ClassVar[bool] = False
    trained: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_choice("Popularity", "of", self.of, COUNTS)

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Counts the interactions of each candidate."""
        return {"count": popularity(training, self.of)}

    def adapt(
        self, meta_parameters: MetaParameters, support: Support
    ) -> tuple[int, Float32[np.ndarray, " n_candidates"]]:
        """Returns the number of tasks and the counts: nothing is adapted."""
        return len(support), meta_parameters["count"]

    def score(
        self,
        fast_weights: tuple[int, Float32[np.ndarray, " n_candidates"]],
        candidates: Int32[np.ndarray, " c"],
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] counts."""
        n_tasks, count = fast_weights
        return np.tile(count[candidates], (n_tasks, 1))
