"""The fusion scorer: an MLP on a weighted sum of the candidate and its contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metarec.engines import Dual
from metarec.errors import LearnerError, did_you_mean
from metarec.inputs import Inputs
from metarec.jax.scorer import Parameters, linear, upper
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

    def assemble(self, vectors: Array, context: Array, extra: Array) -> Array:
        """[..., D + C D + E] side by side; with fixed weights already [..., D + E] z and extras."""
        if self.weights == "fixed":
            fused = (vectors + context.sum(-2)) / (1 + context.shape[-2])
            return jnp.concatenate([fused, extra], axis=-1)
        flat = context.reshape(*context.shape[:-2], -1)
        return jnp.concatenate([vectors, flat, extra], axis=-1)

    def embed(self, parameters: Parameters, inputs: Array) -> Array:
        """[..., N, D + E] z and the extras, of which the rest is an MLP."""
        if self.weights == "fixed":
            return inputs
        channels = parameters["fusion.logits"].shape[-1] - 1
        width = parameters["layer0.weight"].shape[-2]
        size = (inputs.shape[-1] - width) // channels
        sources, extra = jnp.split(inputs, [size * (1 + channels)], axis=-1)
        sources = sources.reshape(*sources.shape[:-1], 1 + channels, size)
        shares = self._shares(parameters, sources)
        return jnp.concatenate([(shares[..., None] * sources).sum(-2), extra], axis=-1)

    def forward(self, parameters: Parameters, inputs: Array) -> Array:
        """[..., N] scores of [..., N, in] inputs."""
        return upper(parameters, linear(parameters, 0, self.embed(parameters, inputs)))

    def score_catalogue(
        self, parameters: Parameters, context: Array, vectors: Array, extra: Array
    ) -> Array:
        """[T, N] scores; no [T, N, D]: the first layer is applied to x and to c, not to z."""
        of_fused, of_extra = jnp.split(parameters["layer0.weight"], [vectors.shape[-1]], axis=-2)
        shares = self._shares_of_catalogue(parameters, context, vectors)
        hidden = shares[..., :1] * (vectors @ of_fused) + shares[..., 1:] @ (context @ of_fused)
        if extra.shape[-1]:
            hidden += extra @ of_extra
        return upper(parameters, hidden + parameters["layer0.bias"][..., None, :])

    def last(self, parameters: Parameters) -> frozenset[str]:
        """Weight and bias of the MLP's last layer."""
        return last_layer(parameters)

    def _shares(self, parameters: Parameters, sources: Array) -> Array:
        """Weights of the sources [..., N, 1 + C, D], which broadcast to [..., N, 1 + C]."""
        logits = parameters["fusion.logits"][..., None, :]
        if self.weights == "attention":
            queries = sources[..., 0, :] @ parameters["fusion.query"]
            flat = sources.reshape(*sources.shape[:-3], -1, sources.shape[-1])
            keys = (flat @ parameters["fusion.key"]).reshape(*sources.shape[:-1], -1)
            logits = logits + _attention(queries[..., None, :], keys).squeeze(-2)
        return jax.nn.softmax(logits, axis=-1)

    def _shares_of_catalogue(self, parameters: Parameters, context: Array, vectors: Array) -> Array:
        """Weights of x and each c which broadcast to [T, N, 1 + C]."""
        tasks, channels = context.shape[:2]
        if self.weights == "fixed":
            return jnp.full((tasks, 1, 1 + channels), 1 / (1 + channels), context.dtype)
        logits = jnp.broadcast_to(
            parameters["fusion.logits"][..., None, :], (tasks, 1, 1 + channels)
        )
        if self.weights == "attention":
            key = parameters["fusion.key"]
            queries = vectors @ parameters["fusion.query"]
            own = _attention(queries[..., None, :], (vectors @ key)[..., None, :]).squeeze(-2)
            others = _attention(queries, context @ key)
            own = jnp.broadcast_to(own, (*others.shape[:2], 1))
            logits = logits + jnp.concatenate([own, others], axis=-1)
        return jax.nn.softmax(logits, axis=-1)


def _attention(queries: Array, keys: Array) -> Array:
    """Logits [..., n, m] of queries [..., n, A] for keys [..., m, A]."""
    return queries @ jnp.swapaxes(keys, -1, -2) / queries.shape[-1] ** 0.5
