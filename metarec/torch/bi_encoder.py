"""A BERT that encodes each text on its own, and a scorer on the vectors; both may adapt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from metarec.errors import LearnerError
from metarec.inputs import Inputs
from metarec.torch.adapted_bert import AdaptedBert, Prefix
from metarec.torch.encoder import pool
from metarec.torch.scorer import Scorer

BERT, HEAD = "bert.", "head."
"""Prefixes of the names of weights: those of the BERT that adapt, and the scorer's."""


@dataclass(frozen=True)
class BiEncoder:
    """Scores of one user's candidates, from their texts and those of the shots.

    With nothing of the BERT adapting it is the scorer on frozen features: the same vectors,
    standardised by the same statistics, and the same contexts as `metarec.inputs.Inputs` makes.

    Args:
        bert: the encoder.
        scorer: on its vectors.
        inputs: statistics of the frozen features; of user tasks, over text.
        pooling: as in `metarec.torch.encoder.pool`.
        normalise: whether vectors are scaled to length 1 before they are standardised.

    Raises:
        LearnerError: if the inputs are not of user tasks over text.
    """

    bert: AdaptedBert
    scorer: Scorer
    inputs: Inputs
    pooling: str = "mean"
    normalise: bool = True

    def __post_init__(self) -> None:
        if self.inputs.representation != "text" or self.inputs.extras:
            raise LearnerError(
                "a BERT that adapts serves user tasks over text: choose episode.task=user and "
                "learner.representation=text"
            )

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The first weights: what is pretrained of the BERT, and the scorer's as it draws them."""
        of_bert = {f"{BERT}{name}": value.numpy() for name, value in self.bert.initial.items()}
        drawn = self.scorer.initial(self.inputs, rng)
        return of_bert | {f"{HEAD}{name}": value for name, value in drawn.items()}

    def vectors(self, weights: Mapping[str, Tensor], texts: Prefix) -> Float32[Tensor, "n d"]:
        """Standardised vectors of texts.

        Args:
            weights: of BERT and head.
            texts: n texts.
        """
        pooled = pool(self.bert.states(_of(weights, BERT), texts), texts.mask, self.pooling)
        if self.normalise:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        mean, scale = (
            torch.from_numpy(np.asarray(self.inputs.statistics[f"inputs.{name}"])).to(pooled)
            for name in ("mean", "scale")
        )
        return (pooled - mean) / scale

    def support_scores(
        self, weights: Mapping[str, Tensor], shots: Prefix, labels: Float32[np.ndarray, " k"]
    ) -> Float32[Tensor, " k"]:
        """Scores of a user's shots, each left out of its own context.

        Args:
            weights: of BERT and head.
            shots: texts of the K shots, at least one.
            labels: their labels.
        """
        vectors = self.vectors(weights, shots)
        weighted = self._weighted(vectors, labels)
        each = (weighted.sum(0) - weighted) / len(weighted)
        return self._scores(weights, vectors, each)

    def query_scores(
        self,
        weights: Mapping[str, Tensor],
        shots: Prefix | None,
        labels: Float32[np.ndarray, " k"],
        candidates: Prefix,
    ) -> Float32[Tensor, " n"]:
        """Scores of candidates for a user.

        Args:
            weights: of BERT and head.
            shots: texts of the K shots; None at K=0.
            labels: their labels.
            candidates: texts of N candidates.
        """
        vectors = self.vectors(weights, candidates)
        context = torch.zeros_like(vectors[0])
        if shots is not None:
            weighted = self._weighted(self.vectors(weights, shots), labels)
            context = weighted.sum(0) / (len(weighted) + 1)
        return self._scores(weights, vectors, context.expand_as(vectors))

    def _weighted(self, vectors: Tensor, labels: np.ndarray) -> Tensor:
        weights = self.inputs.weights(labels[None])[0]
        return torch.from_numpy(np.asarray(weights, np.float32)).to(vectors)[:, None] * vectors

    def _scores(self, weights: Mapping[str, Tensor], vectors: Tensor, context: Tensor) -> Tensor:
        assembled = self.scorer.assemble(
            vectors, context[:, None], vectors.new_zeros(len(vectors), 0)
        )
        return self.scorer.forward(_of(weights, HEAD), assembled)


def _of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names start so, without that."""
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
