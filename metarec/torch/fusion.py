"""The fusion scorer: an MLP on a weighted sum of the candidate and its contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from metarec.engines import Dual
from metarec.errors import LearnerError, did_you_mean
from metarec.inputs import Inputs
from metarec.torch.scorer import Parameters, linear, upper
from metarec.weights import FusionWeights, initial_fusion, last_layer


@dataclass(frozen=True)
class Fusion:
    """An MLP on `z = alpha x + sum_ch beta_ch c_ch` and the extra columns.

    The weights alpha and beta are positive and sum to 1. At K=0 the context of the shots is 0 and
    the score depends on the candidate (and in item tasks on the new item's text) alone.

    Args:
        hidden_sizes: width of each hidden layer.
        weights: `fixed`: 1 / (1 + C) each; `learned`: the softmax of learned logits, the same for
            all examples; `attention`: the softmax of `<x Q, s_i R> / sqrt(A) + b_i` over the
            sources s = (x, c_1, ..., c_C), which differs from example to example.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    weights: FusionWeights = "learned"

    context: ClassVar[bool] = True
    dual: ClassVar[Dual | None] = "mlp"

    def __post_init__(self) -> None:
        known = ("fixed", "learned", "attention")
        if self.weights not in known:
            raise LearnerError(
                f"unknown fusion {self.weights!r}{did_you_mean(self.weights, known)}"
            )

    def initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws the MLP and what weighs the sources; see `weights.initial_fusion`."""
        return initial_fusion(inputs, self.hidden_sizes, self.weights, rng)

    def assemble(self, vectors: Tensor, context: Tensor, extra: Tensor) -> Tensor:
        """[..., D + C D + E] side by side; with fixed weights already [..., D + E] z and extras."""
        if self.weights == "fixed":
            fused = (vectors + context.sum(-2)) / (1 + context.shape[-2])
            return torch.cat([fused, extra], dim=-1)
        return torch.cat([vectors, context.flatten(-2), extra], dim=-1)

    def embed(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """[..., N, D + E] z and the extras, of which the rest is an MLP."""
        if self.weights == "fixed":
            return inputs
        channels = parameters["fusion.logits"].shape[-1] - 1
        width = parameters["layer0.weight"].shape[-2]
        size = (inputs.shape[-1] - width) // channels
        sources, extra = inputs.split([size * (1 + channels), width - size], dim=-1)
        sources = sources.unflatten(-1, (1 + channels, size))
        shares = self._shares(parameters, sources)
        return torch.cat([(shares.unsqueeze(-1) * sources).sum(-2), extra], dim=-1)

    def forward(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """[..., N] scores of [..., N, in] inputs."""
        return upper(parameters, linear(parameters, 0, self.embed(parameters, inputs)))

    def score_catalogue(
        self, parameters: Parameters, context: Tensor, vectors: Tensor, extra: Tensor
    ) -> Tensor:
        """[T, N] scores; no [T, N, D]: the first layer is applied to x and to c, not to z."""
        weight = parameters["layer0.weight"]
        of_fused, of_extra = weight.split([vectors.shape[-1], extra.shape[-1]], dim=-2)
        shares = self._shares_of_catalogue(parameters, context, vectors)
        hidden = shares[..., :1] * (vectors @ of_fused) + shares[..., 1:] @ (context @ of_fused)
        if extra.shape[-1]:
            hidden = hidden + extra @ of_extra
        return upper(parameters, hidden + parameters["layer0.bias"].unsqueeze(-2))

    def last(self, parameters: Parameters) -> frozenset[str]:
        """Weight and bias of the MLP's last layer."""
        return last_layer(parameters)

    def _shares(self, parameters: Parameters, sources: Tensor) -> Tensor:
        """Weights of the sources [..., N, 1 + C, D], which broadcast to [..., N, 1 + C]."""
        logits = parameters["fusion.logits"].unsqueeze(-2)
        if self.weights == "attention":
            queries = sources[..., 0, :] @ parameters["fusion.query"]
            keys = sources.flatten(-3, -2) @ parameters["fusion.key"]
            keys = keys.unflatten(-2, sources.shape[-3:-1])
            logits = logits + _attention(queries.unsqueeze(-2), keys).squeeze(-2)
        return logits.softmax(-1)

    def _shares_of_catalogue(
        self, parameters: Parameters, context: Tensor, vectors: Tensor
    ) -> Tensor:
        """Weights of x and each c which broadcast to [T, N, 1 + C]."""
        tasks, channels = context.shape[:2]
        if self.weights == "fixed":
            return context.new_full((tasks, 1, 1 + channels), 1 / (1 + channels))
        logits = parameters["fusion.logits"].unsqueeze(-2).expand(tasks, 1, 1 + channels)
        if self.weights == "attention":
            key = parameters["fusion.key"]
            queries = vectors @ parameters["fusion.query"]
            own = _attention(queries.unsqueeze(-2), (vectors @ key).unsqueeze(-2)).squeeze(-2)
            others = _attention(queries, context @ key)
            logits = logits + torch.cat([own.expand(*others.shape[:2], 1), others], dim=-1)
        return logits.softmax(-1)


def _attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Logits [..., n, m] of queries [..., n, A] for keys [..., m, A]."""
    return queries @ keys.mT / queries.shape[-1] ** 0.5
