"""The inner loop in dual form: all tasks at once, with both passes written out.

Within an episode the input Z of the first adapted layer is fixed, so after any number of gradient
steps its output is `Z W0 + b0 - (Z Zs' + 1) A`, where Zs is the support input and A the sum of the
gradients at the layer's output, each times its step's learning rate. The loop works with [K, K]
and [Q, K] Gram matrices and never makes a fast weight of the size of W0. Exact, second order
included. Only the layers above, which are small, have fast weights.

The gradient of the loop itself is written out too (`_Steps.backward`, reverse mode through the
equations above it): torch would get the same from several times as many operations, and on small
matrices it is their number that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Rate = float | Tensor
"""A learning rate; a tensor where only the device knows it."""


@dataclass(frozen=True)
class DualWeights:
    """Adapted layers of T tasks after some number of steps.

    Args:
        output: A, [T, K, H]: the first adapted layer's output on Z is `Z W0 + b0 - (Z Zs' + 1) A`.
        weights: [T, in, out] fast weights of each layer above.
        biases: [T, out] likewise.
    """

    output: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]


def dual_steps(
    preactivation: Tensor,
    gram: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    labels: Tensor,
    mask: Tensor,
    rates: Tensor,
    *,
    logistic: bool,
    first_order: bool = False,
    every_step: bool = False,
) -> list[DualWeights]:
    """Gradient steps on the support sets, for the mean over each task's shots of the loss.

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
        The adapted layers, differentiable in `preactivation`, `gram`, `weights`, `biases`, `rates`.
    """
    flat = _Steps.apply(
        logistic, first_order, every_step, preactivation, gram, labels, mask, rates,
        *weights, *biases,
    )  # fmt: skip
    return _unflatten(flat, len(weights))


def _unflatten(flat: Sequence[Tensor], above: int) -> list[DualWeights]:
    size = 1 + 2 * above
    return [
        DualWeights(state[0], tuple(state[1 : 1 + above]), tuple(state[1 + above :]))
        for state in (flat[at : at + size] for at in range(0, len(flat), size))
    ]


class _Forward:
    """The steps, keeping what the way back needs.

    Writing h for a layer's input, d for the gradient at its output, and u = d W' for that at its
    input, a step is

        a_0 = P - G A,  h_1 = relu(a_0),  a_l = h_l W_l + b_l,  h_(l+1) = relu(a_l)
        d_last = (sigma(a_last) - y) / n,  d_(l-1) = u_l * [h_l > 0]
        A += rate_0 d_0,  W_l -= rate_l h_l' d_l,  b_l -= rate_l sum_k d_l
    """

    def __init__(self, above: int, logistic: bool, in_place: bool, every_step: bool) -> None:
        self.above, self.logistic, self.every_step = above, logistic, every_step
        self.in_place = in_place and not every_step
        self.saved: list[tuple[Any, ...]] = []

    def run(
        self,
        preactivation: Tensor,
        gram: Tensor,
        labels: Tensor,
        mask: Tensor,
        rates: Sequence[Sequence[Rate]],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
    ) -> list[Tensor]:
        """The states after the last step, or after each, flat: A, weights, biases."""
        share = (mask / mask.sum(-1, keepdim=True).clamp(min=1)).unsqueeze(-1)
        labels = labels.unsqueeze(-1)
        fast, bias = list(weights), list(biases)
        output: Tensor | None = None
        states: list[Tensor] = []
        for step, rate in enumerate(rates):
            before = preactivation
            if output is not None:
                before = torch.baddbmm(preactivation, gram, output, alpha=-1)
            inputs = []
            for layer in range(self.above):
                inputs.append(torch.relu(before))
                before = _linear(inputs[-1], fast[layer], bias[layer])
            slope = share
            if self.logistic:
                probability = torch.sigmoid(before)
                slope = probability * (1 - probability) * share
                before = probability
            delta = (before - labels) * share
            deltas = [delta]
            for layer in range(self.above - 1, -1, -1):
                deltas.append(_masked(_through(deltas[-1], fast[layer]), inputs[layer]))
            deltas.reverse()
            self.saved.append((output, inputs, deltas, slope, fast))
            output = rate[0] * deltas[0] if output is None else output + rate[0] * deltas[0]
            stepped = []
            for layer in range(self.above):
                size = rate[layer + 1]
                stepped.append(
                    _add_outer(fast[layer], inputs[layer], deltas[layer + 1], -size, self.in_place)
                )
                bias[layer] = bias[layer] - size * deltas[layer + 1].sum(1)
            fast = stepped
            if self.every_step or step + 1 == len(rates):
                # aliases: what becomes an output and is kept here too would keep itself alive
                states += [value.detach() for value in (output, *fast, *bias)]
        return states


class _Steps(torch.autograd.Function):
    """The steps with their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        logistic: bool,
        first_order: bool,
        every_step: bool,
        preactivation: Tensor,
        gram: Tensor,
        labels: Tensor,
        mask: Tensor,
        rates: Tensor,
        *shared: Tensor,
    ) -> tuple[Tensor, ...]:
        above = len(shared) // 2
        # the way back in first order needs no weights
        ctx.forward_pass = _Forward(above, logistic, first_order, every_step)
        ctx.by_step = _by_step(rates)
        ctx.gram, ctx.rates, ctx.first_order = gram, rates, first_order
        states = ctx.forward_pass.run(
            preactivation, gram, labels, mask, ctx.by_step, shared[:above], shared[above:]
        )
        return tuple(states)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *state_bars: Tensor) -> tuple[Tensor | None, ...]:
        """Reverse mode; `x_bar` is the derivative of the outer loss by x."""
        forward, gram = ctx.forward_pass, ctx.gram
        above, saved = forward.above, forward.saved
        gram_bar = torch.zeros_like(gram) if ctx.needs_input_grad[4] else None
        rates_bar = torch.zeros_like(ctx.rates) if ctx.needs_input_grad[7] else None
        output_bar, *layer_bars = (bar.clone() for bar in state_bars[-(1 + 2 * above) :])
        weight_bars, bias_bars = layer_bars[:above], layer_bars[above:]
        preactivation_bar = torch.zeros_like(output_bar)
        for step in range(len(saved) - 1, -1, -1):
            if forward.every_step and step + 1 < len(saved):
                given = state_bars[step * (1 + 2 * above) :][: 1 + 2 * above]
                output_bar += given[0]
                for bar, more in zip((*weight_bars, *bias_bars), given[1:], strict=True):
                    bar += more
            output, inputs, deltas, slope, fast = saved[step]
            rate = ctx.by_step[step]
            if rates_bar is not None:
                rates_bar[step, 0] = (deltas[0] * output_bar).sum()
            if ctx.first_order:
                if rates_bar is not None:
                    for layer in range(above):
                        moved = affine(inputs[layer], weight_bars[layer], bias_bars[layer])
                        rates_bar[step, layer + 1] = -(deltas[layer + 1] * moved).sum()
                continue
            # from the updates to the gradients d_l that made them, going up
            delta_bar = rate[0] * output_bar
            backs = []
            for layer in range(above):
                backs.append(_masked(delta_bar, inputs[layer]))
                moved = affine(inputs[layer], weight_bars[layer], bias_bars[layer])
                if rates_bar is not None:
                    rates_bar[step, layer + 1] = -(deltas[layer + 1] * moved).sum()
                delta_bar = _add_product(moved, -rate[layer + 1], backs[layer], fast[layer])
            # through the loss, then to the layers' inputs h_l, going down
            value_bar = delta_bar * slope
            for layer in range(above - 1, -1, -1):
                moved = _through(deltas[layer + 1], weight_bars[layer])
                input_bar = _add_product(moved, -rate[layer + 1], value_bar, fast[layer].mT)
                _add_outer(weight_bars[layer], backs[layer], deltas[layer + 1], 1.0, True)
                _add_outer(weight_bars[layer], inputs[layer], value_bar, 1.0, True)
                bias_bars[layer] += value_bar.sum(1)
                value_bar = _masked(input_bar, inputs[layer])
            preactivation_bar += value_bar
            if output is not None:
                output_bar.baddbmm_(gram.mT, value_bar, alpha=-1)
                if gram_bar is not None:
                    gram_bar.baddbmm_(value_bar, output.mT, alpha=-1)
        shared_bars = [bar.sum(0) for bar in (*weight_bars, *bias_bars)]
        return (
            None, None, None, preactivation_bar, gram_bar, None, None, rates_bar, *shared_bars
        )  # fmt: skip


def _by_step(rates: Tensor) -> Sequence[Sequence[Rate]]:
    """The rates of each step: as numbers, which cost less, or as they lie on a device."""
    if _readable(rates):
        numbers: list[list[float]] = rates.tolist()
        return numbers
    return [row.unbind() for row in rates]


def _readable(values: Tensor) -> bool:
    """Whether the host can read values without waiting for a device."""
    return values.device.type == "cpu"


def affine(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`values W + b` for each task: [T, N, in], [T, in, out], [T, out].

    With one output the transposed product: libraries are several times slower with a single column
    than with a single row.
    """
    if weight.shape[-1] == 1:
        return torch.baddbmm(bias.unsqueeze(1), weight.mT, values.mT).mT
    return torch.baddbmm(bias.unsqueeze(1), values, weight)


def _linear(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`values W + b`, with weights that are shared or of each task."""
    if weight.dim() == 2:
        flat = torch.addmm(bias, values.flatten(0, 1), weight)
        return flat.unflatten(0, values.shape[:2])
    return affine(values, weight, bias)


def _masked(values: Tensor, activity: Tensor) -> Tensor:
    """The values where a relu's output is above 0, else 0: the gradient through the relu."""
    found: Tensor = torch.ops.aten.threshold_backward(values, activity, 0)
    return found


def _through(delta: Tensor, weight: Tensor) -> Tensor:
    """`d W'`, with weights that are shared or of each task."""
    return delta * weight.mT if weight.shape[-1] == 1 else delta @ weight.mT


def _add_outer(start: Tensor, left: Tensor, right: Tensor, scale: Rate, in_place: bool) -> Tensor:
    """`start + scale * left' right` for each task; see `affine` for what is transposed.

    Args:
        start: [T, in, out], or [in, out], which is never changed.
        left: [T, K, in].
        right: [T, K, out].
        scale: of the product.
        in_place: whether `start` may be changed.
    """
    if isinstance(scale, Tensor):
        right, scale = scale * right, 1.0
    turned = right.shape[-1] == 1
    left, right = (right, left) if turned else (left, right)
    target = start.mT if turned else start
    if in_place and start.dim() == 3:
        target.baddbmm_(left.mT, right, alpha=scale)
        return start
    target = target if start.dim() == 3 else target.unsqueeze(0)
    found = torch.baddbmm(target, left.mT, right, alpha=scale)
    return found.mT if turned else found


def _add_product(values: Tensor, scale: Rate, left: Tensor, right: Tensor) -> Tensor:
    """`scale * values + left right`, with a right side that is shared or of each task."""
    if isinstance(scale, Tensor):
        values, scale = scale * values, 1.0
    if right.dim() == 2:
        flat = torch.addmm(values.flatten(0, 1), left.flatten(0, 1), right, beta=scale)
        return flat.unflatten(0, values.shape[:2])
    return torch.baddbmm(values, left, right, beta=scale)
