"""A BERT that encodes each text on its own, and a scorer on the vectors; both may adapt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec.torch.prefix_cache import TextCache
from metarec.torch.text_batches import Texts
from metarec.torch.text_head import TextHead


@dataclass(frozen=True)
class BiEncoder(TextHead):
    """Scores of one user's candidates, from their texts and those of the shots.

    With nothing of the BERT adapting it is the scorer on frozen features: the same vectors,
    standardised by the same statistics, and the same contexts as `metarec.inputs.Inputs` makes.

    Args:
        bert: the encoder.
        scorer: on its vectors.
        inputs: statistics of the frozen features; of user tasks, over text.
        pooling: as in `metarec.torch.encoder.pool`.
        normalise: whether vectors are scaled to length 1 before they are standardised.
        cache: what is frozen of the text of each item.

    Raises:
        LearnerError: if the inputs are not of user tasks over text.
    """

    cache: TextCache = field(kw_only=True)

    def texts_of_shots(
        self, shots: Int32[np.ndarray, " k"], labels: Float32[np.ndarray, " k"]
    ) -> Texts:
        """What is frozen of the texts of shots."""
        return self.cache(shots)

    def texts_of_candidates(
        self,
        shots: Int32[np.ndarray, " k"],
        labels: Float32[np.ndarray, " k"],
        candidates: Int32[np.ndarray, " n"],
    ) -> Texts:
        """What is frozen of the texts of candidates, the same for every user."""
        return self.cache(candidates)

    def support_scores(
        self,
        weights: Mapping[str, Tensor],
        shots: Texts,
        context_weights: Float32[Tensor, " k"],
    ) -> Float32[Tensor, " k"]:
        """Scores of a user's shots, each left out of its own context.

        Args:
            weights: of BERT and head.
            shots: texts of the K shots, at least one.
            context_weights: of the shots.
        """
        vectors = self.vectors(weights, shots)
        weighted = context_weights[:, None] * vectors
        each = (weighted.sum(0) - weighted) / len(weighted)
        return self.head(weights, vectors, each)

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
            shots: texts of the K shots; None at K=0.
            context_weights: of the shots.
            candidates: texts of N candidates.
        """
        vectors = self.vectors(weights, candidates)
        context = torch.zeros_like(vectors[0])
        if shots is not None:
            weighted = context_weights[:, None] * self.vectors(weights, shots)
            context = weighted.sum(0) / (len(weighted) + 1)
        return self.head(weights, vectors, context.expand_as(vectors))
