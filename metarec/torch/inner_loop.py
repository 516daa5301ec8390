"""The inner loop of MAML: gradient steps on the support set, for all tasks at once.

Three engines, one mathematics (Finn et al. 2017, equation 1):

- `vmap`: torch.func over tasks, any scorer.
- `gram`: the dual form. The first layer's input Z is fixed within an episode: after any number of
  gradient steps its output is `Z W0 + b0 - lr (Z Zs' + 1) A`, where Zs is the support input and
  A the sum of the gradients at the layer's output. The inner loop works with [K, K] and [Q, K] Gram
  matrices and never makes a fast weight of the size of W0. Exact, second order included.
- `learn2learn`: a loop over cloned modules (`metarec.torch.reference`), to check the
  others against.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metarec.torch.scorer import Parameters, depth, forward, linear, upper

Engine = Literal["auto", "gram", "vmap", "learn2learn"]
Loss = Literal["bce", "mse"]


class Episodes(NamedTuple):
    """Assembled inputs of T episodes.

    Args:
        support: [T, K, in].
        support_labels: [T, K].
        support_mask: [T, K] 1 where there is a shot, else 0, in the dtype of the inputs.
        query: [T, Q, in].
        query_labels: [T, Q].
        query_mask: [T, Q].
    """

    support: Tensor
    support_labels: Tensor
    support_mask: Tensor
    query: Tensor
    query_labels: Tensor
    query_mask: Tensor


def pointwise_loss(loss: Loss, scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy on logits, or half the squared error, of each element."""
    if loss == "bce":
        return torch.nn.functional.binary_cross_entropy_with_logits(
            scores, labels, reduction="none"
        )
    return 0.5 * (scores - labels) ** 2


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis where the mask is 1; 0 where it is 0 everywhere."""
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def adapt(
    parameters: Parameters,
    support: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    loss: Loss,
    steps: int,
    learning_rate: float,
    first_order: bool = False,
    engine: Engine = "auto",
) -> dict[str, Tensor]:
    """Gradient steps on each task's support set, from the same meta-parameters.

    Args:
        parameters: shared weights of the scorer.
        support: [T, K, in] inputs of the shots.
        labels: [T, K] targets.
        mask: [T, K] 1 where there is a shot, else 0; a task without shots stays as it is.
        loss: mean over the shots of this loss.
        steps: number of gradient steps.
        learning_rate: of the inner loop.
        first_order: do not differentiate through the inner gradients.
        engine: `gram` (also `auto`) or `vmap`.

    Returns:
        Fast weights with a leading task axis.
    """
    if engine == "vmap":
        step = functools.partial(
            _steps_of_one_task,
            loss=loss, steps=steps, learning_rate=learning_rate, first_order=first_order,
        )  # fmt: skip
        return torch.func.vmap(step, in_dims=(None, 0, 0, 0))(
            dict(parameters), support, labels, mask
        )
    gram = support @ support.mT + 1
    fast, output = _dual_steps(
        parameters, linear(parameters, 0, support), gram, labels, mask,
        loss=loss, steps=steps, learning_rate=learning_rate, first_order=first_order,
    )  # fmt: skip
    weight, bias = parameters["layer0.weight"], parameters["layer0.bias"]
    return fast | {
        "layer0.weight": weight - learning_rate * support.mT @ output,
        "layer0.bias": bias - learning_rate * output.sum(1),
    }


def query_scores(
    parameters: Parameters,
    episodes: Episodes,
    *,
    loss: Loss,
    steps: int,
    learning_rate: float,
    first_order: bool = False,
    engine: Engine = "auto",
) -> Tensor:
    """[T, Q] scores of the queries after adaptation to the support sets; see `adapt`."""
    if steps == 0:
        return forward(parameters, episodes.query)
    if engine == "vmap":
        fast = adapt(
            parameters, episodes.support, episodes.support_labels, episodes.support_mask,
            loss=loss, steps=steps, learning_rate=learning_rate, first_order=first_order,
            engine=engine,
        )  # fmt: skip
        return forward(fast, episodes.query)
    rows = torch.cat([episodes.support, episodes.query], dim=1)
    gram = rows @ episodes.support.mT + 1
    preactivation = linear(parameters, 0, rows)
    shots = episodes.support.shape[1]
    fast, output = _dual_steps(
        parameters, preactivation[:, :shots], gram[:, :shots],
        episodes.support_labels, episodes.support_mask,
        loss=loss, steps=steps, learning_rate=learning_rate, first_order=first_order,
    )  # fmt: skip
    adapted = preactivation[:, shots:] - learning_rate * gram[:, shots:] @ output
    return upper(fast, adapted)


def _dual_steps(
    parameters: Parameters,
    preactivation: Tensor,
    gram: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    loss: Loss,
    steps: int,
    learning_rate: float,
    first_order: bool,
) -> tuple[dict[str, Tensor], Tensor]:
    """The inner loop with the gradients written out, the first layer in dual form.

    Args:
        parameters: shared weights.
        preactivation: [T, K, H] output of the first linear layer on the shots.
        gram: [T, K, K] products of the shots' inputs, plus 1 for the bias.
        labels: [T, K].
        mask: [T, K].
        loss: see `adapt`.
        steps: see `adapt`.
        learning_rate: see `adapt`.
        first_order: see `adapt`.

    Returns:
        Fast weights of the layers after the first, and [T, K, H] the sum over steps of the
        gradients at the first layer's output.
    """
    layers, tasks = depth(parameters), len(labels)
    fast = {
        name: parameters[name].expand(tasks, *parameters[name].shape)
        for layer in range(1, layers)
        for name in (f"layer{layer}.weight", f"layer{layer}.bias")
    }
    share = mask / mask.sum(-1, keepdim=True).clamp(min=1)
    output = torch.zeros_like(preactivation)
    for _ in range(steps):
        # the values going up: preactivations of each layer and what the next one is fed
        before, fed = [preactivation - learning_rate * gram @ output], []
        for layer in range(1, layers):
            fed.append(torch.relu(before[-1]))
            before.append(linear(fast, layer, fed[-1]))
        scores = before[-1].squeeze(-1)
        residual = (torch.sigmoid(scores) if loss == "bce" else scores) - labels
        # the gradients coming down
        delta = (residual * share).unsqueeze(-1)
        gradients = {}
        for layer in range(layers - 1, 0, -1):
            gradients[f"layer{layer}.weight"] = fed[layer - 1].mT @ delta
            gradients[f"layer{layer}.bias"] = delta.sum(1)
            delta = (delta @ fast[f"layer{layer}.weight"].mT) * (before[layer - 1] > 0)
        if first_order:
            delta = delta.detach()
            gradients = {name: gradient.detach() for name, gradient in gradients.items()}
        output = output + delta
        fast = {name: value - learning_rate * gradients[name] for name, value in fast.items()}
    return fast, output


def _steps_of_one_task(
    parameters: dict[str, Tensor],
    support: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    loss: Loss,
    steps: int,
    learning_rate: float,
    first_order: bool,
) -> dict[str, Tensor]:
    def support_loss(fast: dict[str, Tensor]) -> Tensor:
        return masked_mean(pointwise_loss(loss, forward(fast, support), labels), mask)

    for _ in range(steps):
        gradients = torch.func.grad(support_loss)(parameters)
        if first_order:
            gradients = {name: gradient.detach() for name, gradient in gradients.items()}
        parameters = {
            name: value - learning_rate * gradients[name] for name, value in parameters.items()
        }
    return parameters
