"""Texts in batches of similar length, before or after what is frozen of a BERT has read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from torch import Tensor

Change = Callable[[Tensor], Tensor]
"""What is done to each tensor, such as to move it to another device."""


@dataclass(frozen=True)
class Prefix:
    """What is known of a batch of n texts before anything adapts.

    Args:
        values: [n, L, D] token states below the lowest adapted layer; [n, L] token numbers where
            the embeddings adapt, or nothing was computed yet.
        mask: [n, L] 1 where there is a token, 0 on padding.
        types: [n, L] which of two texts each token is of; None where there is one.
    """

    values: Tensor
    mask: Int64[Tensor, "n length"]
    types: Int64[Tensor, "n length"] | None = None

    def map(self, change: Change) -> Prefix:
        """The same with each tensor changed."""
        types = None if self.types is None else change(self.types)
        return Prefix(change(self.values), change(self.mask), types)


@dataclass(frozen=True)
class Texts:
    """N texts in batches of similar length, so that little is padded.

    Args:
        batches: of the texts, the longest first.
        order: [N] the place of each text among those of the batches, one after another.
    """

    batches: tuple[Prefix, ...]
    order: Int64[Tensor, " n"]

    def __len__(self) -> int:
        """N."""
        return len(self.order)

    def map(self, change: Change) -> Texts:
        """The same with each tensor changed."""
        return Texts(tuple(batch.map(change) for batch in self.batches), change(self.order))


def by_length(lengths: Int64[np.ndarray, " n"], size: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows of texts in batches of similar length, the longest first.

    Args:
        lengths: [n] tokens of each text.
        size: texts of a batch; the last may have fewer.

    Returns:
        The rows of each batch, and [n] the place of each text among them.
    """
    rows = np.argsort(-lengths, kind="stable")
    place = np.empty(len(rows), np.int64)
    place[rows] = np.arange(len(rows))
    return [rows[start : start + size] for start in range(0, len(rows), size)], place
