"""What is the same of a catalogue for all tasks, kept between them, whatever computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

Catalogue = TypeVar("Catalogue")


@dataclass
class Kept(Generic[Catalogue]):
    """What was made of the last catalogue, for the next tasks with the same meta-parameters."""

    _weights: tuple[np.ndarray, ...] = ()
    _candidates: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    _features: object = None
    _catalogue: Catalogue | None = None

    def get(
        self,
        meta_parameters: Mapping[str, np.ndarray],
        features: object,
        candidates: np.ndarray,
        make: Callable[[], Catalogue],
    ) -> Catalogue:
        """The kept catalogue, or a new one if weights, features or candidates are others."""
        weights = tuple(meta_parameters.values())
        same = (
            self._features is features
            and len(weights) == len(self._weights)
            and all(mine is theirs for mine, theirs in zip(self._weights, weights, strict=True))
        )
        if self._catalogue is None or not same or not np.array_equal(candidates, self._candidates):
            self._catalogue = make()
            self._weights, self._candidates = weights, candidates.copy()
            self._features = features
        return self._catalogue
