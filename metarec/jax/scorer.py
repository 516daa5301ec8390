"""Scorers: from (context, candidate) to a score, pure functions of shared or fast weights.

Here are what every scorer promises, and the MLP. Cosine, dot product and bilinear are in
`metarec.jax.similarity`, fusion in `metarec.jax.fusion`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metarec.engines import Dual
from metarec.errors import LearnerError, did_you_mean
from metarec.inputs import Inputs
from metarec.weights import PRODUCT_SCALE, SIMILARITY_SCALE, depth, initial_mlp_scorer, last_layer

Parameters = Mapping[str, Array]


@runtime_checkable
class Scorer(Protocol):
    """What learners need of a scorer; hashable, so that a compiled program knows it again.

    The methods are those of `metarec.torch.scorer.Scorer`, on JAX arrays: each weight may be shared
    by all tasks, or fast, with a leading task axis.

    Attributes:
        context: whether scores depend on the context.
        dual: the dual form, for which the engine `gram` is exact; None for none. `mlp`: the score
            is an MLP of `layer<i>.weight` [in, out] and `layer<i>.bias` [out] on `embed(...)`, of
            which only layers adapt. `linear`: the score is linear in all weights, which all adapt
            (`LinearScorer`).
    """

    @property
    def context(self) -> bool:
        """See above."""
        ...

    @property
    def dual(self) -> Dual | None:
        """See above."""
        ...

    def initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws the initial weights, float32; the same as in PyTorch."""
        ...

    def assemble(self, vectors: Array, context: Array, extra: Array) -> Array:
        """[..., in] what the scorer sees of [..., D] vectors, [..., C, D] contexts, [..., E]."""
        ...

    def embed(self, parameters: Parameters, inputs: Array) -> Array:
        """[..., N, features] what the first layer sees of [..., N, in] inputs."""
        ...

    def forward(self, parameters: Parameters, inputs: Array) -> Array:
        """[..., N] scores of [..., N, in] inputs; with fast weights [T, N, in]."""
        ...

    def score_catalogue(
        self, parameters: Parameters, context: Array, vectors: Array, extra: Array
    ) -> Array:
        """[T, N] scores of a catalogue [N, D], [N, E] in contexts [T, C, D], with no [T, N, in]."""
        ...

    def last(self, parameters: Parameters) -> frozenset[str]:
        """The weights of the last layer: what ANIL adapts."""
        ...


@runtime_checkable
class LinearScorer(Scorer, Protocol):
    """A scorer whose `dual` is `linear`: steps move its weights along its own gradients."""

    def kernel(self, parameters: Parameters, rows: Array, support: Array) -> Array:
        """Products of the scores' gradients by all weights.

        Args:
            parameters: whose shapes are read.
            rows: [T, N, in] inputs.
            support: [T, K, in] inputs.

        Returns:
            [T, N, K].
        """
        ...

    def moves(self, parameters: Parameters, inputs: Array, amounts: Array) -> dict[str, Array]:
        """The gradients of [T, K, in] inputs' scores times [T, K] amounts, summed by task.

        Returns:
            [T, ...] of the shape of each weight.
        """
        ...


def build_scorer(
    name: str, hidden_sizes: tuple[int, ...] = (64, 64), embedding_size: int = 64
) -> Scorer:
    """Makes a scorer by its name in the configurations; see `metarec.torch.scorer.build_scorer`.

    Raises:
        LearnerError: if there is no such scorer.
    """
    from metarec.jax.fusion import Fusion
    from metarec.jax.similarity import Bilinear, Cosine, Dot

    made: dict[str, Callable[[], Scorer]] = {
        "mlp": lambda: MLP(tuple(hidden_sizes)),
        "mlp_item": lambda: MLP(tuple(hidden_sizes), context=False),
        "cosine": lambda: Cosine(embedding_size),
        "dot": lambda: Dot(embedding_size),
        "bilinear": Bilinear,
        "fusion_fixed": lambda: Fusion(tuple(hidden_sizes), "fixed"),
        "fusion_learned": lambda: Fusion(tuple(hidden_sizes), "learned"),
        "fusion_attention": lambda: Fusion(tuple(hidden_sizes), "attention"),
    }
    if name not in made:
        raise LearnerError(
            f"learner.scorer={name!r}{did_you_mean(name, made)}; known: {', '.join(made)}"
        )
    return made[name]()


@dataclass(frozen=True)
class MLP:
    """An MLP with ReLU on the candidate, the context, their products and similarities, and extras.

    Args:
        hidden_sizes: width of each hidden layer.
        context: whether the scorer sees the context; without it, what a user's shots say can only
            come in by adaptation, and the first layer of a catalogue is the same for all users.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    context: bool = True
    dual: ClassVar[Dual | None] = "mlp"

    def initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws the initial weights (He et al. 2015, fan-in; a small last layer)."""
        return initial_mlp_scorer(inputs, self.hidden_sizes, self.context, rng)

    def assemble(self, vectors: Array, context: Array, extra: Array) -> Array:
        """[..., D + C D + C D + C + E]: x, c, 3 x * c, 10 mean(x * c), extras.

        The scales bring the columns to about the same size. Without context [..., D + E].
        """
        if not self.context:
            return jnp.concatenate([vectors, extra], -1) if extra.shape[-1] else vectors
        products = vectors[..., None, :] * context
        return jnp.concatenate(
            [
                vectors,
                _flat(context),
                PRODUCT_SCALE * _flat(products),
                SIMILARITY_SCALE * products.mean(-1),
                extra,
            ],
            axis=-1,
        )

    def embed(self, parameters: Parameters, inputs: Array) -> Array:
        """The inputs themselves."""
        return inputs

    def forward(self, parameters: Parameters, inputs: Array) -> Array:
        """[..., N] scores of [..., N, in] inputs."""
        return upper(parameters, linear(parameters, 0, inputs))

    def last(self, parameters: Parameters) -> frozenset[str]:
        """Weight and bias of the last layer."""
        return last_layer(parameters)

    def score_catalogue(
        self, parameters: Parameters, context: Array, vectors: Array, extra: Array
    ) -> Array:
        """[T, N] scores; see `Scorer.score_catalogue`.

        For one task the context is fixed, so the first layer is an affine map of the vector.
        """
        tasks, channels, size = context.shape
        weight, bias = parameters["layer0.weight"], parameters["layer0.bias"]
        if not self.context:
            inputs = self.assemble(vectors, context, extra)
            hidden = inputs @ weight + bias[..., None, :]
            return upper(parameters, jnp.broadcast_to(hidden, (tasks, *hidden.shape[-2:])))
        weight = jnp.broadcast_to(weight, (tasks, *weight.shape[-2:]))
        ends = np.cumsum([size, channels * size, channels * size, channels])
        own, of_context, products, similarity, of_extra = jnp.split(weight, ends, axis=1)
        products = products.reshape(tasks, channels, size, -1)
        of_vector = own + (PRODUCT_SCALE * context[..., None] * products).sum(1)
        of_vector += SIMILARITY_SCALE / size * jnp.einsum("tcd,tch->tdh", context, similarity)
        shift = bias + jnp.einsum("ti,tih->th", context.reshape(tasks, -1), of_context)
        hidden = jnp.einsum("nd,tdh->tnh", vectors, of_vector) + shift[:, None]
        if extra.shape[-1]:
            hidden += jnp.einsum("ne,teh->tnh", extra, of_extra)
        return upper(parameters, hidden)


def linear(parameters: Parameters, layer: int, values: Array) -> Array:
    """One linear layer on [..., N, in], with shared or fast weights."""
    return affine(values, parameters[f"layer{layer}.weight"], parameters[f"layer{layer}.bias"])


def affine(values: Array, weight: Array, bias: Array) -> Array:
    """`values W + b`, with a weight that is shared [in, out] or of each task [T, in, out].

    A single output is a sum, which XLA joins with what stands beside it, and not a product.
    """
    if weight.shape[-1] == 1:
        row = jnp.swapaxes(weight, -1, -2)
        return (values * row).sum(-1, keepdims=True) + bias[..., None, :]
    return product(values, weight) + bias[..., None, :]


def product(values: Array, weight: Array) -> Array:
    """`values W`; a shared weight takes all rows in one product, a CPU's fastest way."""
    if weight.ndim == 2 and values.ndim > 2:
        flat = values.reshape(-1, values.shape[-1]) @ weight
        return flat.reshape(*values.shape[:-1], weight.shape[-1])
    return values @ weight


def upper(parameters: Parameters, preactivation: Array, above: int = 1) -> Array:
    """All that follows a linear layer.

    Args:
        parameters: of the MLP.
        preactivation: [..., N, H] output of the layer.
        above: number of the layer after it.

    Returns:
        [..., N] scores.
    """
    values = preactivation
    for layer in range(above, depth(parameters)):
        values = linear(parameters, layer, jax.nn.relu(values))
    return values[..., 0]


def _flat(context: Array) -> Array:
    """[..., C D] of [..., C, D]."""
    return context.reshape(*context.shape[:-2], -1)
