"""Scorers that compare a candidate with its context: dot product, cosine and bilinear form.

All three are `<candidate, context + prior>` in some space, where the prior is learned, so that the
empty context of K=0 ranks too; beside it stand a weighted sum of the extra columns and a bias. What
they see is x, the contexts and the extras side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from metarec.engines import Dual
from metarec.errors import LearnerError
from metarec.inputs import Inputs
from metarec.torch.scorer import Parameters
from metarec.weights import (
    LAST_OF_SIMILARITY,
    SOFTENING,
    initial_bilinear,
    initial_cosine,
    initial_dot,
)


@dataclass(frozen=True)
class Dot:
    """Dot product in a learned space, `<x P_0, sum_ch c_ch P_ch + q> / sqrt(S)`, plus `w e + b`.

    Candidates and the context of shots share the projection P_0; the new item's text in item tasks
    has its own, which starts as half of it. In user tasks at K=0 `<x P_0, q>` ranks.

    Args:
        embedding_size: S, of the learned space.
    """

    embedding_size: int = 64

    context: ClassVar[bool] = True
    dual: ClassVar[Dual | None] = None

    def __post_init__(self) -> None:
        _check_size(self.embedding_size)

    def initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws `projection` [C, D, S], `prior` [S], `extra` [E] where E > 0, and `bias` [1]."""
        return initial_dot(inputs, self.embedding_size, rng)

    def assemble(self, vectors: Tensor, context: Tensor, extra: Tensor) -> Tensor:
        """[..., D + C D + E] the vectors, contexts and extras side by side."""
        return assemble(vectors, context, extra)

    def embed(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """The inputs as they are."""
        return inputs

    def forward(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """[..., N] scores of [..., N, in] inputs."""
        projection = parameters["projection"]
        vectors, context, extra = _split(inputs, *projection.shape[-3:-1])
        candidates = vectors @ projection[..., 0, :, :]
        wanted = _wanted(projection, parameters["prior"], context)
        scores = (candidates * wanted).sum(-1) / candidates.shape[-1] ** 0.5
        return scores + _terms(parameters, extra)

    def score_catalogue(
        self, parameters: Parameters, context: Tensor, vectors: Tensor, extra: Tensor
    ) -> Tensor:
        """[T, N] scores; the catalogue is projected once where the projection is shared."""
        projection = parameters["projection"]
        wanted = _wanted(projection, parameters["prior"], context.flatten(1).unsqueeze(1))
        size = wanted.shape[-1]
        if projection.ndim == 3:
            similarity = wanted @ (vectors @ projection[0]).mT
        else:
            similarity = (wanted @ projection[:, 0].mT) @ vectors.mT
        return similarity.squeeze(1) / size**0.5 + _terms(parameters, extra)

    def last(self, parameters: Parameters) -> frozenset[str]:
        """The prior, the weights of the extras and the bias: all but the projection."""
        return LAST_OF_SIMILARITY & frozenset(parameters)


@dataclass(frozen=True)
class Cosine:
    """Cosine in a learned space, `exp(t) cos(x P_0, sum_ch c_ch P_ch + q)`, plus `w e + b`.

    The projections are those of `Dot`. A squared length counts as `S SOFTENING` more than it is, so
    that the cosine with a zero vector is 0, with finite derivatives of any order.

    Args:
        embedding_size: S, of the learned space.
    """

    embedding_size: int = 64

    context: ClassVar[bool] = True
    dual: ClassVar[Dual | None] = None

    def __post_init__(self) -> None:
        _check_size(self.embedding_size)

    def initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws what `Dot` draws and `log_temperature` [1]."""
        return initial_cosine(inputs, self.embedding_size, rng)

    def assemble(self, vectors: Tensor, context: Tensor, extra: Tensor) -> Tensor:
        """[..., D + C D + E] the vectors, contexts and extras side by side."""
        return assemble(vectors, context, extra)

    def embed(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """The inputs as they are."""
        return inputs

    def forward(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """[..., N] scores of [..., N, in] inputs."""
        projection = parameters["projection"]
        vectors, context, extra = _split(inputs, *projection.shape[-3:-1])
        candidates = _unit(vectors @ projection[..., 0, :, :])
        wanted = _unit(_wanted(projection, parameters["prior"], context))
        cosine = (candidates * wanted).mean(-1)
        return parameters["log_temperature"].exp() * cosine + _terms(parameters, extra)

    def score_catalogue(
        self, parameters: Parameters, context: Tensor, vectors: Tensor, extra: Tensor
    ) -> Tensor:
        """[T, N] scores; the catalogue is projected once where the projection is shared."""
        projection = parameters["projection"]
        candidates = _unit(vectors @ projection[..., 0, :, :])
        wanted = _wanted(projection, parameters["prior"], context.flatten(1).unsqueeze(1))
        cosine = (_unit(wanted) @ candidates.mT).squeeze(1) / wanted.shape[-1]
        return parameters["log_temperature"].exp() * cosine + _terms(parameters, extra)

    def last(self, parameters: Parameters) -> frozenset[str]:
        """The prior, the temperature, the weights of the extras and the bias."""
        return LAST_OF_SIMILARITY & frozenset(parameters)


@dataclass(frozen=True)
class Bilinear:
    """Bilinear form `<x, sum_ch c_ch M_ch / sqrt(D) + q> / sqrt(D)`, plus `w e + b`.

    M_ch is [D, D] and begins as `INITIAL_FORM` times the identity, so that the first scores are
    means of products of the vectors themselves. Its second root of D keeps a step of the outer
    loop, which moves all D² weights at once, as small as those of the other scorers.
    """

    context: ClassVar[bool] = True
    dual: ClassVar[Dual | None] = "linear"

    def initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws `interaction` [C, D, D], `prior` [D], `extra` [E] where E > 0, and `bias` [1]."""
        return initial_bilinear(inputs, rng)

    def assemble(self, vectors: Tensor, context: Tensor, extra: Tensor) -> Tensor:
        """[..., D + C D + E] the vectors, contexts and extras side by side."""
        return assemble(vectors, context, extra)

    def embed(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """The inputs as they are."""
        return inputs

    def forward(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """[..., N] scores of [..., N, in] inputs."""
        interaction = parameters["interaction"]
        vectors, context, extra = _split(inputs, *interaction.shape[-3:-1])
        wanted = _wanted(interaction, parameters["prior"], context / vectors.shape[-1] ** 0.5)
        scores = (vectors * wanted).sum(-1) / vectors.shape[-1] ** 0.5
        return scores + _terms(parameters, extra)

    def score_catalogue(
        self, parameters: Parameters, context: Tensor, vectors: Tensor, extra: Tensor
    ) -> Tensor:
        """[T, N] scores: one product of the tasks' wanted vectors with the catalogue."""
        root = vectors.shape[-1] ** 0.5
        context = context.flatten(1).unsqueeze(1) / root
        wanted = _wanted(parameters["interaction"], parameters["prior"], context)
        similarity = (wanted @ vectors.mT).squeeze(1) / root
        return similarity + _terms(parameters, extra)

    def kernel(self, parameters: Parameters, rows: Tensor, support: Tensor) -> Tensor:
        """[T, N, K] `(<c, c'> / D + 1) <x, x'> / D + <e, e'> + 1`; see `LinearScorer.kernel`."""
        channels, size = parameters["interaction"].shape[-3:-1]
        vectors, context, extra = _split(rows, channels, size)
        shots, contexts, extras = _split(support, channels, size)
        alike = 1 + context @ contexts.mT / size
        return 1 + alike * (vectors @ shots.mT) / size + extra @ extras.mT

    def moves(self, parameters: Parameters, inputs: Tensor, amounts: Tensor) -> dict[str, Tensor]:
        """[T, ...] of each weight; see `LinearScorer.moves`."""
        interaction = parameters["interaction"]
        vectors, context, extra = _split(inputs, *interaction.shape[-3:-1])
        root = vectors.shape[-1] ** 0.5
        moved = amounts.unsqueeze(-1) * vectors / root
        found = {
            "interaction": (context.mT @ moved / root).unflatten(1, interaction.shape[-3:-1]),
            "prior": moved.sum(1),
            "bias": amounts.sum(1, keepdim=True),
        }
        if "extra" in parameters:
            found["extra"] = (amounts.unsqueeze(-1) * extra).sum(1)
        return found

    def last(self, parameters: Parameters) -> frozenset[str]:
        """The prior, the weights of the extras and the bias: all but the bilinear form."""
        return LAST_OF_SIMILARITY & frozenset(parameters)


def assemble(vectors: Tensor, context: Tensor, extra: Tensor) -> Tensor:
    """Puts vectors [..., D], contexts [..., C, D] and extras [..., E] side by side."""
    return torch.cat([vectors, context.flatten(-2), extra], dim=-1)


def _split(inputs: Tensor, channels: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors [..., D], contexts [..., C D] and extras [..., E] of assembled inputs."""
    rest = inputs.shape[-1] - size * (1 + channels)
    vectors, context, extra = inputs.split([size, channels * size, rest], dim=-1)
    return vectors, context, extra


def _wanted(weight: Tensor, prior: Tensor, context: Tensor) -> Tensor:
    """What the context asks for, [..., N, S]: contexts [..., N, C D] through [C, D, S], plus q."""
    return context @ weight.flatten(-3, -2) + prior.unsqueeze(-2)


def _terms(parameters: Parameters, extra: Tensor) -> Tensor:
    """What does not depend on the context: weighted extras [..., N, E] and the bias."""
    if "extra" not in parameters:
        return parameters["bias"]
    return (extra @ parameters["extra"].unsqueeze(-1)).squeeze(-1) + parameters["bias"]


def _unit(values: Tensor) -> Tensor:
    """Vectors [..., S] of length sqrt(S), softened: 0 stays 0."""
    return values * (values.square().mean(-1, keepdim=True) + SOFTENING).rsqrt()


def _check_size(embedding_size: int) -> None:
    if embedding_size < 1:
        raise LearnerError(f"learner.embedding_size={embedding_size} must be at least 1")
