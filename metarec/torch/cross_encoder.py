"""A BERT that reads a user and an item in one sequence: the third of its three depths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec.pairs import UserItemPairs
from metarec.torch.prefix_cache import PairCache
from metarec.torch.text_batches import Texts
from metarec.torch.text_head import TextHead


@dataclass(frozen=True)
class CrossEncoder(TextHead):
    """Scores of one user's candidates, each from one sequence with all that is known of the user.

    The first state, [CLS], is standardised and scored by the head alone (Nogueira & Cho 2019, arXiv
    1901.04085, with a user for the query). A shot is read beside the other shots.

    Args:
        bert: reads the pairs.
        scorer: on the state of [CLS]; it sees no context, which BERT has seen.
        inputs: statistics of that state; of user tasks, over text.
        pairs: writes them.
        cache: what is frozen of them.

    Raises:
        LearnerError: if the inputs are not of user tasks over text.
    """

    pooling: str = "cls"
    normalise: bool = False
    pairs: UserItemPairs = field(kw_only=True)
    cache: PairCache = field(kw_only=True)

    def texts_of_shots(
        self, shots: Int32[np.ndarray, " k"], labels: Float32[np.ndarray, " k"]
    ) -> Texts:
        """What is frozen of each shot beside the others."""
        return self.cache(self.pairs.of_shots(shots, labels))

    def texts_of_candidates(
        self,
        shots: Int32[np.ndarray, " k"],
        labels: Float32[np.ndarray, " k"],
        candidates: Int32[np.ndarray, " n"],
    ) -> Texts:
        """What is frozen of each candidate beside all shots."""
        return self.cache(self.pairs.of_candidates(shots, labels, candidates))

    def support_scores(
        self,
        weights: Mapping[str, Tensor],
        shots: Texts,
        context_weights: Float32[Tensor, " k"],
    ) -> Float32[Tensor, " k"]:
        """Scores of a user's shots.

        Args:
            weights: of BERT and head.
            shots: the K shots, each beside the others.
            context_weights: not needed: the labels are in the texts.
        """
        return self._scores(weights, shots)

    def query_scores(
        self,
        weights: Mapping[str, Tensor],
        shots: Texts | None,
        context_weights: Float32[Tensor, " k"],
        candidates: Texts,
    ) -> Float32[Tensor, " n"]:
        """Scores of candidates for a user.

        Args:
            weights: of BERT and head.
            shots: not needed: what they say is in the texts of the candidates.
            context_weights: not needed.
            candidates: N candidates, each beside the shots.
        """
        return self._scores(weights, candidates)

    def _scores(self, weights: Mapping[str, Tensor], texts: Texts) -> Tensor:
        vectors = self.vectors(weights, texts)
        return self.head(weights, vectors, torch.zeros_like(vectors))
