"""Scorers: from (context, candidate) to a score, functional, with shared or fast weights.

Here are what every scorer promises, and the MLP. Cosine, dot product and bilinear are in
`metarec.torch.similarity`, fusion in `metarec.torch.fusion`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from metarec.engines import Dual
from metarec.errors import LearnerError, did_you_mean
from metarec.inputs import Inputs
from metarec.weights import PRODUCT_SCALE, SIMILARITY_SCALE, depth, initial_mlp_scorer, last_layer

Parameters = Mapping[str, Tensor]


@runtime_checkable
class Scorer(Protocol):
    """What learners need of a scorer. Its weights are named arrays, held by whoever calls it.

    In `forward` and `score_catalogue` each weight may be shared by all tasks, or fast: with a
    leading task axis.

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
        """Draws the initial weights, float32."""
        ...

    def assemble(self, vectors: Tensor, context: Tensor, extra: Tensor) -> Tensor:
        """Puts together what the scorer sees: once an episode, since it depends on no weight.

        Args:
            vectors: [..., D] candidates.
            context: [..., C, D] context of each candidate.
            extra: [..., E] columns beside the vector.

        Returns:
            [..., in].
        """
        ...

    def embed(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """[..., N, features] what the first layer sees of [..., N, in] inputs."""
        ...

    def forward(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """[..., N] scores of [..., N, in] inputs; with fast weights [T, N, in]."""
        ...

    def score_catalogue(
        self, parameters: Parameters, context: Tensor, vectors: Tensor, extra: Tensor
    ) -> Tensor:
        """Scores a whole catalogue for T tasks without assembling [T, N, in] inputs.

        Args:
            parameters: shared or fast weights.
            context: [T, C, D] context of each task.
            vectors: [N, D] the catalogue.
            extra: [N, E] columns beside the vectors.

        Returns:
            [T, N] scores.
        """
        ...

    def last(self, parameters: Parameters) -> frozenset[str]:
        """The weights of the last layer: what ANIL adapts."""
        ...


@runtime_checkable
class LinearScorer(Scorer, Protocol):
    """A scorer whose `dual` is `linear`: steps move its weights along its own gradients."""

    def kernel(self, parameters: Parameters, rows: Tensor, support: Tensor) -> Tensor:
        """Products of the scores' gradients by all weights.

        Args:
            parameters: whose shapes are read.
            rows: [T, N, in] inputs.
            support: [T, K, in] inputs.

        Returns:
            [T, N, K].
        """
        ...

    def moves(self, parameters: Parameters, inputs: Tensor, amounts: Tensor) -> dict[str, Tensor]:
        """The gradients of [T, K, in] inputs' scores times [T, K] amounts, summed by task.

        Returns:
            [T, ...] of the shape of each weight.
        """
        ...


def build_scorer(
    name: str, hidden_sizes: tuple[int, ...] = (64, 64), embedding_size: int = 64
) -> Scorer:
    """Makes a scorer by its name in the configurations.

    Args:
        name: `mlp` (vector, context and their products), `mlp_item` (the candidate alone, so that
            adaptation alone can tell users apart), `cosine`, `dot`, `bilinear`, or
            `fusion_<fixed|learned|attention>`.
        hidden_sizes: of the MLP and of fusion's.
        embedding_size: of the projections of cosine and dot.

    Raises:
        LearnerError: if there is no such scorer.
    """
    from metarec.torch.fusion import Fusion
    from metarec.torch.similarity import Bilinear, Cosine, Dot

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

    def assemble(self, vectors: Tensor, context: Tensor, extra: Tensor) -> Tensor:
        """[..., D + C D + C D + C + E]: x, c, 3 x * c, 10 mean(x * c), extras.

        The scales bring the columns to about the same size. Without context [..., D + E].
        """
        if not self.context:
            return torch.cat([vectors, extra], dim=-1) if extra.shape[-1] else vectors
        products = vectors.unsqueeze(-2) * context
        return torch.cat(
            [
                vectors,
                context.flatten(-2),
                PRODUCT_SCALE * products.flatten(-2),
                SIMILARITY_SCALE * products.mean(-1),
                extra,
            ],
            dim=-1,
        )

    def embed(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """The inputs themselves."""
        return inputs

    def forward(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """[..., N] scores of [..., N, in] inputs."""
        return upper(parameters, linear(parameters, 0, inputs))

    def last(self, parameters: Parameters) -> frozenset[str]:
        """Weight and bias of the last layer."""
        return last_layer(parameters)

    def score_catalogue(
        self, parameters: Parameters, context: Tensor, vectors: Tensor, extra: Tensor
    ) -> Tensor:
        """[T, N] scores; see `Scorer.score_catalogue`.

        For one task the context is fixed, so the first layer is an affine map of the vector, and
        the maps of all tasks are one matrix product with the catalogue.
        """
        tasks, channels, size = context.shape
        weight = parameters["layer0.weight"]
        if not self.context:
            inputs = self.assemble(vectors, context, extra)
            hidden = inputs @ weight + parameters["layer0.bias"].unsqueeze(-2)
            return upper(parameters, hidden.expand(tasks, *hidden.shape[-2:]))
        weight = weight.expand(tasks, *weight.shape[-2:])
        bias = parameters["layer0.bias"].expand(tasks, weight.shape[-1])
        parts = weight.split(
            [size, channels * size, channels * size, channels, extra.shape[-1]], dim=1
        )
        own, of_context, products, similarity, of_extra = parts
        products = products.unflatten(1, (channels, size))
        of_vector = own + (PRODUCT_SCALE * context.unsqueeze(-1) * products).sum(1)
        of_vector = of_vector + SIMILARITY_SCALE / size * torch.einsum(
            "tcd,tch->tdh", context, similarity
        )
        bias = bias + torch.einsum("ti,tih->th", context.flatten(1), of_context)
        hidden = torch.einsum("nd,tdh->tnh", vectors, of_vector) + bias.unsqueeze(1)
        if extra.shape[-1]:
            hidden = hidden + torch.einsum("ne,teh->tnh", extra, of_extra)
        return upper(parameters, hidden)


def linear(parameters: Parameters, layer: int, values: Tensor) -> Tensor:
    """One linear layer, with shared or fast weights."""
    weight, bias = parameters[f"layer{layer}.weight"], parameters[f"layer{layer}.bias"]
    return values @ weight + bias.unsqueeze(-2)


def upper(parameters: Parameters, preactivation: Tensor, above: int = 1) -> Tensor:
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
        values = linear(parameters, layer, torch.relu(values))
    return values.squeeze(-1)
