"""Small networks as pure functions over named parameters, for the learners without inner loop."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


def mlp(parameters: Parameters, name: str, values: Tensor, first: int = 0) -> Tensor:
    """Applies the MLP of this name: linear layers with ReLU between them.

    Args:
        parameters: `<name><i>.weight` and `<name><i>.bias` among others.
        name: of the network.
        values: [..., in], or what the layer before `first` gave.
        first: the layer to begin with.

    Returns:
        [..., out].
    """
    layer = first
    while f"{name}{layer}.weight" in parameters:
        if layer:
            values = torch.relu(values)
        values = values @ parameters[f"{name}{layer}.weight"] + parameters[f"{name}{layer}.bias"]
        layer += 1
    return values


def task_vector(parameters: Parameters, name: str, context: Tensor) -> Tensor:
    """What a task is expected to be before its first shot: learned, moved by a new item's text.

    Args:
        parameters: `<name>` [E] and, in item tasks, `<name>.task` [D, E].
        name: of the vector.
        context: [T, C, D]; its second channel is the new item's vector in item tasks.

    Returns:
        [T, E].
    """
    vector = parameters[name].expand(len(context), -1)
    if f"{name}.task" in parameters:
        vector = vector + context[:, 1] @ parameters[f"{name}.task"]
    return vector


def label_values(parameters: Parameters, labels: Tensor) -> Tensor:
    """[T, K] what a label counts for: a learned affine map, so two free values for 1 and 0."""
    return parameters["values"][0] * labels + parameters["values"][1]


def with_extra(vectors: Tensor, extra: Tensor) -> Tensor:
    """[..., D + E] the vectors with the columns beside them."""
    return torch.cat([vectors, extra], dim=-1) if extra.shape[-1] else vectors


def per_task(values: Tensor, weights: Tensor) -> Tensor:
    """[T, N] products of each task's vector with its candidates or with those that all share.

    Args:
        values: [T, N, E], or [N, E].
        weights: [T, E].
    """
    if values.ndim == 2:
        return weights @ values.mT
    return (values @ weights.unsqueeze(-1)).squeeze(-1)
