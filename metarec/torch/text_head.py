"""What stands on a BERT that adapts: standardised vectors, and a scorer's weights beside BERT's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from metarec.errors import LearnerError
from metarec.inputs import Inputs
from metarec.torch.adapted_bert import AdaptedBert
from metarec.torch.scorer import Scorer
from metarec.torch.text_batches import Texts

BERT, HEAD = "bert.", "head."
"""Prefixes of the names of weights: those of the BERT that adapt, and the scorer's."""


@dataclass(frozen=True)
class TextHead:
    """A scorer on the vectors of a BERT; the bi-encoder and the cross-encoder have it in common.

    Args:
        bert: makes the vectors.
        scorer: on them.
        inputs: statistics by which vectors and labels are standardised; of user tasks, over text.
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
    _standard: tuple[Tensor, Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.inputs.representation != "text" or self.inputs.extras:
            raise LearnerError(
                "a BERT that adapts serves user tasks over text: choose episode.task=user"
            )
        arrays: Any = tuple(
            torch.tensor(np.asarray(self.inputs.statistics[f"inputs.{name}"]), device=self.device)
            for name in ("mean", "scale")
        )
        object.__setattr__(self, "_standard", arrays)

    @property
    def device(self) -> torch.device:
        """Where the BERT computes."""
        return self.bert.device

    @property
    def loss_scale(self) -> float:
        """What losses are multiplied by, so that half precision does not lose small gradients."""
        return 1024.0 if self.bert.compute.precision == "fp16" else 1.0

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The first weights: what is pretrained of the BERT, and the scorer's as it draws them."""
        of_bert = {
            f"{BERT}{name}": value.cpu().numpy() for name, value in self.bert.initial.items()
        }
        drawn = self.scorer.initial(self.inputs, rng)
        return of_bert | {f"{HEAD}{name}": value for name, value in drawn.items()}

    def vectors(self, weights: Mapping[str, Tensor], texts: Texts) -> Float32[Tensor, "n d"]:
        """Standardised vectors of texts.

        Args:
            weights: of BERT and head.
            texts: n texts.
        """
        pooled = self.bert.pooled(_of(weights, BERT), texts, self.pooling)
        if self.normalise:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        mean, scale = self._standard
        return (pooled - mean) / scale

    def head(
        self, weights: Mapping[str, Tensor], vectors: Tensor, context: Tensor
    ) -> Float32[Tensor, " n"]:
        """Scores of vectors, each in its context.

        Args:
            weights: of BERT and head.
            vectors: [n, D].
            context: [n, D].
        """
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
