"""The inner loop of gradient-based learners: steps on the support set, for all tasks at once.

Three engines, one mathematics (Finn et al. 2017, equation 1):

- `gram`: the dual form (`metarec.torch.gram`), for MLPs on fixed inputs and for scores that are
  linear in their weights; the fastest.
- `vmap`: torch.func over tasks; any scorer, any learning rates, any weights.
- `learn2learn`: a loop over cloned modules (`metarec.torch.reference`), to check the others.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from metarec.engines import choose_engine, fastest_engine
from metarec.loops import InnerLoop, Loss
from metarec.torch.gram import DualWeights, affine, dual_steps
from metarec.torch.scorer import LinearScorer, Parameters, Scorer, linear
from metarec.weights import depth, first_layer

BLOCK = 64
"""Tasks that `gram` takes at a time on a CPU: their fast weights stay in its cache."""

Rates = Mapping[str, Tensor]
"""Learning rate of each adapted weight: broadcasts to [steps, *shape of the weight].

For `gram` those of a layer's weight and bias are one tensor with one number a step."""


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


def query_scores(
    scorer: Scorer,
    parameters: Parameters,
    episodes: Episodes,
    *,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None = None,
    names: frozenset[str] | None = None,
    every_step: bool = False,
) -> Tensor:
    """Scores of the queries after adaptation to the support sets.

    Args:
        scorer: whose weights adapt.
        parameters: shared weights.
        episodes: T episodes.
        loss: of the inner loop, a mean over a task's shots.
        inner: steps, learning rate, order and engine.
        rates: learning rates by weight; None for `inner.learning_rate` everywhere.
        names: the weights that adapt; None for all.
        every_step: return the scores after each step.

    Returns:
        [T, Q] scores, or [steps, T, Q].

    Raises:
        LearnerError: if the engine is not exact for what is asked.
    """
    if inner.steps == 0:
        scores = scorer.forward(parameters, episodes.query)
        return scores.unsqueeze(0)[:0] if every_step else scores
    engine = choose_engine(scorer.dual, parameters, inner, rates, names)
    if engine == "learn2learn":
        from metarec.torch.reference import query_scores_learn2learn

        return query_scores_learn2learn(
            scorer, parameters, episodes, loss=loss, inner=inner, rates=rates, names=names,
            every_step=every_step,
        )  # fmt: skip
    if engine == "gram":
        return _query_scores_gram(
            scorer, parameters, episodes, loss, inner, rates, names, every_step
        )
    found = _vmap_steps(
        scorer, parameters, episodes.support, episodes.support_labels, episodes.support_mask,
        loss, inner, rates, names,
    )  # fmt: skip
    states = found if every_step else found[-1:]
    scored = [scorer.forward({**parameters, **fast}, episodes.query) for fast in states]
    return torch.stack(scored) if every_step else scored[0]


def adapt(
    scorer: Scorer,
    parameters: Parameters,
    support: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None = None,
    names: frozenset[str] | None = None,
) -> dict[str, Tensor]:
    """Gradient steps on each task's support set, from the same meta-parameters.

    Args:
        scorer: whose weights adapt.
        parameters: shared weights.
        support: [T, K, in] assembled inputs of the shots.
        labels: [T, K] targets.
        mask: [T, K] 1 where there is a shot, else 0; a task without shots stays as it is.
        loss: see `query_scores`, and so are the others.
        inner: the engine `learn2learn` adapts by the fastest exact one.
        rates: see `query_scores`.
        names: see `query_scores`.

    Returns:
        All weights; those that adapted have a leading task axis.
    """
    if inner.steps == 0:
        return dict(parameters)
    engine = choose_engine(scorer.dual, parameters, inner, rates, names)
    if engine == "learn2learn":
        engine = fastest_engine(scorer.dual, parameters, rates, names)
    if engine == "vmap":
        found = _vmap_steps(
            scorer, parameters, support, labels, mask, loss, inner, rates, names
        )  # fmt: skip
        return {**parameters, **found[-1]}
    if isinstance(scorer, LinearScorer):
        (last,) = _linear_states(scorer, parameters, support, labels, mask, loss, inner)
        moves = scorer.moves(parameters, support, last.squeeze(-1))
        return {name: value - moves[name] for name, value in parameters.items()}
    first, features, state = adapt_dual(
        scorer, parameters, support, labels, mask, loss=loss, inner=inner, rates=rates, names=names
    )
    fast = {
        f"layer{first}.weight": parameters[f"layer{first}.weight"] - features.mT @ state.output,
        f"layer{first}.bias": parameters[f"layer{first}.bias"] - state.output.sum(1),
    }
    for layer, (weight, bias) in enumerate(
        zip(state.weights, state.biases, strict=True), first + 1
    ):
        fast |= {f"layer{layer}.weight": weight, f"layer{layer}.bias": bias}
    return {**parameters, **fast}


def adapt_dual(
    scorer: Scorer,
    parameters: Parameters,
    support: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None = None,
    names: frozenset[str] | None = None,
) -> tuple[int, Tensor, DualWeights]:
    """`adapt` by the dual form, without making the fast weight of the first adapted layer.

    Returns:
        The first adapted layer's number, [T, K, in] its input on the shots, and its dual state.
    """
    first = first_layer(parameters, names)
    features = _frozen(parameters, first, scorer.embed(parameters, support))
    states = _dual_states(
        parameters, first, linear(parameters, first, features), gram_of(features, features),
        labels, mask, loss, inner, rates,
    )  # fmt: skip
    return first, features, states[-1]


def _frozen(parameters: Parameters, first: int, values: Tensor) -> Tensor:
    """What the first adapted layer sees: the layers below do not adapt."""
    for layer in range(first):
        values = torch.relu(linear(parameters, layer, values))
    return values


def gram_of(rows: Tensor, support: Tensor) -> Tensor:
    """[T, N, K] products of rows with the shots, plus 1 for the bias."""
    return torch.baddbmm(rows.new_ones(1, 1, 1), rows, support.mT)


def _query_scores_gram(
    scorer: Scorer,
    parameters: Parameters,
    episodes: Episodes,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None,
    names: frozenset[str] | None,
    every_step: bool,
) -> Tensor:
    # in first order nothing flows back through the shots
    fixed = (
        {name: value.detach() for name, value in parameters.items()}
        if inner.first_order
        else parameters
    )
    if isinstance(scorer, LinearScorer):
        found = _linear_states(
            scorer, fixed, episodes.support, episodes.support_labels, episodes.support_mask,
            loss, inner, every_step,
        )  # fmt: skip
        before = scorer.forward(parameters, episodes.query)
        gram = scorer.kernel(parameters, episodes.query, episodes.support)
        moved = [before - (gram @ state).squeeze(-1) for state in found]
        return torch.stack(moved) if every_step else moved[-1]
    first = first_layer(parameters, names)
    blocks = []
    tasks = len(episodes.support)
    at_once = BLOCK if episodes.support.device.type == "cpu" else max(tasks, 1)
    for block in zip(*(values.split(at_once) for values in episodes), strict=True):
        support, labels, mask, query = block[:4]
        shots = _frozen(fixed, first, scorer.embed(fixed, support))
        states = _dual_states(
            parameters, first, linear(fixed, first, shots), gram_of(shots, shots),
            labels, mask, loss, inner, rates, every_step,
        )  # fmt: skip
        features = _frozen(parameters, first, scorer.embed(parameters, query))
        before, gram = linear(parameters, first, features), gram_of(features, shots)
        scored = []
        for state in states:
            values = torch.baddbmm(before, gram, state.output, alpha=-1)
            for weight, bias in zip(state.weights, state.biases, strict=True):
                values = affine(torch.relu(values), weight, bias)
            scored.append(values.squeeze(-1))
        blocks.append(torch.stack(scored))
    scores = torch.cat(blocks, dim=1)
    return scores if every_step else scores[-1]


def _linear_states(
    scorer: LinearScorer,
    parameters: Parameters,
    support: Tensor,
    labels: Tensor,
    mask: Tensor,
    loss: Loss,
    inner: InnerLoop,
    every_step: bool = False,
) -> list[Tensor]:
    """[T, K, 1] how far the weights have moved along each shot's gradient, after the last step."""
    states = dual_steps(
        scorer.forward(parameters, support).unsqueeze(-1),
        scorer.kernel(parameters, support, support),
        (),
        (),
        labels,
        mask,
        torch.full((inner.steps, 1), inner.learning_rate, dtype=torch.float64),
        logistic=loss == "bce",
        first_order=inner.first_order,
        every_step=every_step,
    )
    return [state.output for state in states]


def _dual_states(
    parameters: Parameters,
    first: int,
    preactivation: Tensor,
    gram: Tensor,
    labels: Tensor,
    mask: Tensor,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None,
    every_step: bool = False,
) -> list[DualWeights]:
    layers = range(first, depth(parameters))
    if rates is None:
        by_step = torch.full((inner.steps, len(layers)), inner.learning_rate, dtype=torch.float64)
    else:
        columns = [rates[f"layer{layer}.weight"].flatten().expand(inner.steps) for layer in layers]
        by_step = torch.stack(columns, dim=1)
    return dual_steps(
        preactivation,
        gram,
        [parameters[f"layer{layer}.weight"] for layer in layers[1:]],
        [parameters[f"layer{layer}.bias"] for layer in layers[1:]],
        labels,
        mask,
        by_step,
        logistic=loss == "bce",
        first_order=inner.first_order,
        every_step=every_step,
    )


def _vmap_steps(
    scorer: Scorer,
    parameters: Parameters,
    support: Tensor,
    labels: Tensor,
    mask: Tensor,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None,
    names: frozenset[str] | None,
) -> list[dict[str, Tensor]]:
    """The adapted weights after each step, with a leading task axis."""
    adapted = {name: parameters[name] for name in sorted(names or parameters)}
    others = {name: value for name, value in parameters.items() if name not in adapted}
    step = functools.partial(_steps_of_one_task, scorer=scorer, loss=loss, inner=inner, rates=rates)
    states: list[dict[str, Tensor]] = torch.func.vmap(step, in_dims=(None, None, 0, 0, 0))(
        adapted, others, support, labels, mask
    )
    return states


def _steps_of_one_task(
    adapted: dict[str, Tensor],
    others: dict[str, Tensor],
    support: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    scorer: Scorer,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None,
) -> list[dict[str, Tensor]]:
    def support_loss(fast: dict[str, Tensor]) -> Tensor:
        scores = scorer.forward({**others, **fast}, support)
        return masked_mean(pointwise_loss(loss, scores, labels), mask)

    states = []
    for step in range(inner.steps):
        gradients = torch.func.grad(support_loss)(adapted)
        if inner.first_order:
            gradients = {name: gradient.detach() for name, gradient in gradients.items()}
        adapted = {
            name: value - rate_of(rates, inner, name, step) * gradients[name]
            for name, value in adapted.items()
        }
        states.append(adapted)
    return states


def rate_of(rates: Rates | None, inner: InnerLoop, name: str, step: int) -> Tensor | float:
    """The learning rate of a weight at a step; broadcasts to the weight."""
    if rates is None:
        return inner.learning_rate
    rate = rates[name]
    return rate if rate.dim() == 0 else rate[min(step, rate.shape[0] - 1)]
