"""Random scores: the chance level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int32, UInt64

from metarec.baselines._shared import ANY_FEEDBACK, BOTH, clean
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(kw_only=True)
class Random:
    """Scores by a hash of the seed, the content of the support set and the candidate.

    The same support gives the same scores, whoever the task is. All candidates of an empty support
    are tied, which is chance exactly; a hash would give every task the same random order there.

    Args:
        seed: seed of the hash, beside the seed of the training.
    """

    seed: int = 0

    serves: ClassVar[frozenset[str]] = BOTH
    accepts: ClassVar[frozenset[str]] = ANY_FEEDBACK
    needs_features: ClassVar[bool] = False
    trained: ClassVar[bool] = False

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Keeps the two seeds."""
        return {"seed": np.array([self.seed, training.seed], dtype=np.int64)}

    def adapt(
        self, meta_parameters: MetaParameters, support: Support
    ) -> tuple[UInt64[np.ndarray, " tasks"], Int32[np.ndarray, " tasks"]]:
        """Returns the hash of each task's shots, whatever their order, and their number."""
        support = clean(support)
        key = _mix(meta_parameters["seed"].astype(np.uint64))
        label = support.labels.view(np.uint32).astype(np.uint64) << np.uint64(32)
        shot = _mix(_mix(label | support.candidates.astype(np.uint64)) ^ key[0])
        with np.errstate(over="ignore"):
            content = np.where(support.mask, shot, np.uint64(0)).sum(axis=1, dtype=np.uint64)
            return _mix(content ^ (key[1] + _GOLDEN)), support.mask.sum(axis=1, dtype=np.int32)

    def score(
        self,
        fast_weights: tuple[UInt64[np.ndarray, " tasks"], Int32[np.ndarray, " tasks"]],
        candidates: Int32[np.ndarray, " c"],
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] scores, uniform in [0, 1)."""
        key, n_shots = fast_weights
        mixed = _mix(key[:, None] ^ _mix(candidates.astype(np.uint64))[None, :])
        # 24 bits are what a float32 holds exactly.
        uniform = (mixed >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
        return np.where(n_shots[:, None] > 0, uniform, 0).astype(np.float32)


def _mix(values: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        values = values + _GOLDEN
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(values ^ (values >> np.uint64(31)))
