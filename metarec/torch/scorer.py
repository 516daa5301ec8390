"""The MLP scorer over (context, candidate): functional, with shared or per-task (fast) weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


PRODUCT_SCALE = 3.0
SIMILARITY_SCALE = 10.0


def assemble(vectors: Tensor, context: Tensor, extra: Tensor) -> Tensor:
    """Puts together the scorer's input: vector, contexts, their products and similarities, extras.

    Nothing in it depends on adapted weights, so it is computed once an episode.

    Args:
        vectors: [..., D] candidates.
        context: [..., C, D] context of each candidate.
        extra: [..., E] columns beside the vector.

    Returns:
        [..., D + C D + C D + C + E]: x, c, 3 x * c, 10 mean(x * c), extras. The scales bring the
        columns to about the same size.
    """
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


def depth(parameters: Parameters) -> int:
    """Number of layers; fast weights may lack the first one."""
    return 1 + max(
        int(name.removeprefix("layer").removesuffix(".weight"))
        for name in parameters
        if name.endswith(".weight")
    )


def forward(parameters: Parameters, inputs: Tensor) -> Tensor:
    """Scores of candidates.

    Args:
        parameters: shared weights, or fast weights with a leading task axis.
        inputs: [..., N, in]; with fast weights [T, N, in].

    Returns:
        [..., N] scores.
    """
    return upper(parameters, linear(parameters, 0, inputs))


def linear(parameters: Parameters, layer: int, values: Tensor) -> Tensor:
    """One linear layer, with shared or fast weights."""
    weight, bias = parameters[f"layer{layer}.weight"], parameters[f"layer{layer}.bias"]
    return values @ weight + bias.unsqueeze(-2)


def upper(parameters: Parameters, preactivation: Tensor) -> Tensor:
    """All that follows the first linear layer.

    Args:
        parameters: of the scorer.
        preactivation: [..., N, H] output of the first linear layer.

    Returns:
        [..., N] scores.
    """
    values = preactivation
    for layer in range(1, depth(parameters)):
        values = linear(parameters, layer, torch.relu(values))
    return values.squeeze(-1)


def score_catalogue(
    parameters: Parameters, context: Tensor, vectors: Tensor, extra: Tensor
) -> Tensor:
    """Scores a whole catalogue for T tasks without assembling [T, C, in] inputs.

    For one task the context is fixed, so the first layer on `assemble(x, c, e)` is an affine map of
    x, and the maps of all tasks are one matrix product with the catalogue.

    Args:
        parameters: shared weights, or fast weights with a leading task axis.
        context: [T, C, D] context of each task.
        vectors: [N, D] the catalogue.
        extra: [N, E] columns beside the vectors.

    Returns:
        [T, N] scores.
    """
    tasks, channels, size = context.shape
    weight = parameters["layer0.weight"]
    weight = weight.expand(tasks, *weight.shape[-2:])
    bias = parameters["layer0.bias"].expand(tasks, weight.shape[-1])
    parts = weight.split([size, channels * size, channels * size, channels, extra.shape[-1]], dim=1)
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
