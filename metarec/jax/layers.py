"""Small networks as pure functions over named parameters, for the learners without inner loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from metarec.jax.scorer import Parameters, affine


def mlp(parameters: Parameters, name: str, values: Array, first: int = 0) -> Array:
    """Applies the MLP of this name: linear layers with ReLU between them.

    Args:
        parameters: `<name><i>.weight` and `<name><i>.bias` among others.
        name: of the network.
        values: [..., N, in], or what the layer before `first` gave.
        first: the layer to begin with.

    Returns:
        [..., N, out].
    """
    layer = first
    while f"{name}{layer}.weight" in parameters:
        if layer:
            values = jax.nn.relu(values)
        values = affine(
            values, parameters[f"{name}{layer}.weight"], parameters[f"{name}{layer}.bias"]
        )
        layer += 1
    return values


def task_vector(parameters: Parameters, name: str, context: Array) -> Array:
    """What a task is expected to be before its first shot: learned, moved by a new item's text.

    Args:
        parameters: `<name>` [E] and, in item tasks, `<name>.task` [D, E].
        name: of the vector.
        context: [T, C, D]; its second channel is the new item's vector in item tasks.

    Returns:
        [T, E].
    """
    vector = jnp.broadcast_to(parameters[name], (len(context), *parameters[name].shape))
    if f"{name}.task" in parameters:
        vector = vector + context[:, 1] @ parameters[f"{name}.task"]
    return vector


def label_values(parameters: Parameters, labels: Array) -> Array:
    """[T, K] what a label counts for: a learned affine map, so two free values for 1 and 0."""
    return parameters["values"][0] * labels + parameters["values"][1]


def with_extra(vectors: Array, extra: Array) -> Array:
    """[..., D + E] the vectors with the columns beside them."""
    return jnp.concatenate([vectors, extra], axis=-1) if extra.shape[-1] else vectors


def per_task(values: Array, weights: Array) -> Array:
    """[T, N] products of each task's vector with its candidates or with those that all share.

    Args:
        values: [T, N, E], or [N, E].
        weights: [T, E].
    """
    if values.ndim == 2:
        return weights @ values.T
    return (values * weights[:, None]).sum(-1)


def normalized(vectors: Array) -> Array:
    """[..., E] vectors of length 1; 0 stays 0, and its gradient is finite."""
    squares = (vectors**2).sum(-1, keepdims=True)
    length = jnp.sqrt(jnp.where(squares > 0, squares, 1))
    return vectors / jnp.where(squares > 0, jnp.maximum(length, 1e-12), 1e-12)
