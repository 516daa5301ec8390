"""The inner loop in dual form: all tasks at once, without a fast weight of the widest layer.

Within an episode the input Z of the first adapted layer is fixed, so after any number of gradient
steps its output is `Z W0 + b0 - (Z Zs' + 1) A`, where Zs is the support input and A the sum of the
gradients at the layer's output, each times its step's learning rate. The loop works with [K, K]
and [Q, K] Gram matrices. Exact, second order included: XLA differentiates the equations of
`metarec.torch.gram` and joins all that is not a product. The steps are unrolled: as a `lax.scan` of
five they take a fifth longer on a CPU and hardly less to compile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from metarec.jax.scorer import affine


class DualWeights(NamedTuple):
    """Adapted layers of T tasks after some number of steps.

    Args:
        output: A, [T, K, H]: the first adapted layer's output on Z is `Z W0 + b0 - (Z Zs' + 1) A`.
        weights: [T, in, out] fast weights of each layer above.
        biases: [T, out] likewise.
    """

    output: Array
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]


def dual_steps(
    preactivation: Array,
    gram: Array,
    weights: Sequence[Array],
    biases: Sequence[Array],
    labels: Array,
    mask: Array,
    rates: Array,
    *,
    logistic: bool,
    first_order: bool = False,
    every_step: bool = False,
) -> list[DualWeights]:
    """Gradient steps on the support sets, for the mean over each task's shots of the loss.

    Writing h for a layer's input, d for the gradient at its output, and u = d W' for that at its
    input, a step is

        a_0 = P - G A,  h_1 = relu(a_0),  a_l = h_l W_l + b_l,  h_(l+1) = relu(a_l)
        d_last = (sigma(a_last) - y) / n,  d_(l-1) = u_l * [h_l > 0]
        A += rate_0 d_0,  W_l -= rate_l h_l' d_l,  b_l -= rate_l sum_k d_l

    Args:
        preactivation: [T, K, H] output of the first adapted layer on the shots, before any step.
        gram: [T, K, K] products of the shots' inputs, plus 1 for the bias.
        weights: [in, out] of each layer above, shared by the tasks.
        biases: [out] likewise.
        labels: [T, K].
        mask: [T, K] 1 where there is a shot, else 0.
        rates: [steps, layers] learning rate of each step and layer, the first adapted one first.
        logistic: whether the loss is the cross-entropy of logits, or half the squared error.
        first_order: do not differentiate through the gradients.
        every_step: return the state after each step, or after the last only.

    Returns:
        The adapted layers.
    """
    share = (mask / jnp.maximum(mask.sum(-1, keepdims=True), 1))[..., None]
    labels = labels[..., None]
    above = range(len(weights))
    output, fast, bias = jnp.zeros_like(preactivation), list(weights), list(biases)
    states = []
    for step in range(len(rates)):
        values = preactivation if step == 0 else preactivation - gram @ output
        inputs = []
        for layer in above:
            inputs.append(jax.nn.relu(values))
            values = affine(inputs[-1], fast[layer], bias[layer])
        delta = ((jax.nn.sigmoid(values) if logistic else values) - labels) * share
        deltas = [delta]
        for layer in reversed(above):
            back = _through(deltas[-1], fast[layer])
            deltas.append(jnp.where(inputs[layer] > 0, back, 0))
        deltas.reverse()
        if first_order:
            inputs, deltas = lax.stop_gradient((inputs, deltas))
        output = output + rates[step, 0] * deltas[0]
        for layer in above:
            rate = rates[step, layer + 1]
            fast[layer] = fast[layer] - rate * _outer(inputs[layer], deltas[layer + 1])
            bias[layer] = bias[layer] - rate * deltas[layer + 1].sum(-2)
        if every_step or step + 1 == len(rates):
            states.append(DualWeights(output, tuple(fast), tuple(bias)))
    return states


def _through(delta: Array, weight: Array) -> Array:
    """`d W'`, with a weight that is shared or of each task."""
    turned = jnp.swapaxes(weight, -1, -2)
    if weight.shape[-1] == 1:
        return delta * turned
    if weight.ndim == 2:
        return (delta.reshape(-1, delta.shape[-1]) @ turned).reshape(*delta.shape[:-1], -1)
    return delta @ turned


def _outer(left: Array, right: Array) -> Array:
    """`left' right` of each task: [T, K, in] and [T, K, out] to [T, in, out]."""
    if right.shape[-1] == 1:
        return (left * right).sum(-2)[..., None]
    return jnp.swapaxes(left, -1, -2) @ right
