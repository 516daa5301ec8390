"""The inner loop of gradient-based learners: steps on the support set, for all tasks at once.

Two engines, one mathematics (Finn et al. 2017, equation 1), which PyTorch's engines share:

- `gram`: the dual form (`metarec.jax.gram`), for MLPs on fixed inputs and for scores that are
  linear in their weights; the fastest.
- `vmap`: `jax.vmap` over tasks; any scorer, any learning rates, any weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from metarec import engines
from metarec.errors import LearnerError
from metarec.jax.gram import DualWeights, dual_steps
from metarec.jax.scorer import LinearScorer, Parameters, Scorer, affine, linear
from metarec.loops import Engine, InnerLoop, Loss
from metarec.weights import depth, first_layer

Rates = Mapping[str, Array]
"""Learning rate of each adapted weight: broadcasts to [steps, *shape of the weight].

For `gram` those of a layer's weight and bias are one array with one number a step."""


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

    support: Array
    support_labels: Array
    support_mask: Array
    query: Array
    query_labels: Array
    query_mask: Array


def pointwise_loss(loss: Loss, scores: Array, labels: Array) -> Array:
    """Binary cross-entropy on logits, or half the squared error, of each element."""
    if loss == "bce":
        return jax.nn.softplus(scores) - scores * labels
    return 0.5 * (scores - labels) ** 2


def masked_mean(values: Array, mask: Array) -> Array:
    """Mean over the last axis where the mask is 1; 0 where it is 0 everywhere."""
    return (values * mask).sum(-1) / jnp.maximum(mask.sum(-1), 1)


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
) -> Array:
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
        LearnerError: if the engine is not exact for what is asked, or is PyTorch's alone.
    """
    if inner.steps == 0:
        scores = scorer.forward(parameters, episodes.query)
        return scores[None][:0] if every_step else scores
    if choose_engine(scorer, parameters, inner, rates, names) == "gram":
        found = _query_scores_gram(
            scorer, parameters, episodes, loss, inner, rates, names, every_step
        )
    else:
        states = _vmap_steps(
            scorer, parameters, episodes.support, episodes.support_labels, episodes.support_mask,
            loss, inner, rates, names,
        )  # fmt: skip
        found = [
            scorer.forward({**parameters, **fast}, episodes.query)
            for fast in (states if every_step else states[-1:])
        ]
    return jnp.stack(found) if every_step else found[-1]


def adapt(
    scorer: Scorer,
    parameters: Parameters,
    support: Array,
    labels: Array,
    mask: Array,
    *,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None = None,
    names: frozenset[str] | None = None,
) -> dict[str, Array]:
    """Gradient steps on each task's support set, from the same meta-parameters.

    Args:
        scorer: whose weights adapt.
        parameters: shared weights.
        support: [T, K, in] assembled inputs of the shots.
        labels: [T, K] targets.
        mask: [T, K] 1 where there is a shot, else 0; a task without shots stays as it is.
        loss: see `query_scores`, and so are the others.
        inner: see `query_scores`.
        rates: see `query_scores`.
        names: see `query_scores`.

    Returns:
        All weights; those that adapted have a leading task axis.
    """
    if inner.steps == 0:
        return dict(parameters)
    if choose_engine(scorer, parameters, inner, rates, names) == "vmap":
        found = _vmap_steps(
            scorer, parameters, support, labels, mask, loss, inner, rates, names
        )  # fmt: skip
        return {**parameters, **found[-1]}
    if isinstance(scorer, LinearScorer):
        (last,) = _linear_states(scorer, parameters, support, labels, mask, loss, inner)
        moves = scorer.moves(parameters, support, last[..., 0])
        return {name: value - moves[name] for name, value in parameters.items()}
    features, state = adapt_dual(
        scorer, parameters, support, labels, mask, loss=loss, inner=inner, rates=rates, names=names
    )
    first = first_layer(parameters, names)
    moved = jnp.swapaxes(features, -1, -2) @ state.output
    fast = {
        f"layer{first}.weight": parameters[f"layer{first}.weight"] - moved,
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
    support: Array,
    labels: Array,
    mask: Array,
    *,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None = None,
    names: frozenset[str] | None = None,
) -> tuple[Array, DualWeights]:
    """`adapt` by the dual form, without making the fast weight of the first adapted layer.

    Returns:
        [T, K, in] the input of the first adapted layer on the shots, and its dual state.
    """
    first = first_layer(parameters, names)
    features = frozen(parameters, first, scorer.embed(parameters, support))
    states = _dual_states(
        parameters, first, linear(parameters, first, features), gram_of(features, features),
        labels, mask, loss, inner, rates,
    )  # fmt: skip
    return features, states[-1]


def choose_engine(
    scorer: Scorer,
    parameters: Parameters,
    inner: InnerLoop,
    rates: Rates | None,
    names: frozenset[str] | None,
) -> Engine:
    """The engine to use; see `metarec.engines.choose_engine`.

    Raises:
        LearnerError: if `gram` was asked for and is not exact here, or learn2learn was.
    """
    if inner.engine == "learn2learn":
        raise LearnerError(
            "learner.engine=learn2learn is the reference in PyTorch; choose backend=torch, or "
            "learner.engine=auto"
        )
    return engines.choose_engine(scorer.dual, parameters, inner, rates, names)


def frozen(parameters: Parameters, first: int, values: Array) -> Array:
    """What the first adapted layer sees: the layers below do not adapt."""
    for layer in range(first):
        values = jax.nn.relu(linear(parameters, layer, values))
    return values


def gram_of(rows: Array, support: Array) -> Array:
    """[T, N, K] products of rows with the shots, plus 1 for the bias."""
    return rows @ jnp.swapaxes(support, -1, -2) + 1


def after(before: Array, gram: Array, state: DualWeights) -> Array:
    """[T, N] scores by a dual state.

    Args:
        before: [T, N, H] output of the first adapted layer before any step.
        gram: [T, N, K] `gram_of` its input with that of the shots.
        state: of the tasks.
    """
    values = before - gram @ state.output
    for weight, bias in zip(state.weights, state.biases, strict=True):
        values = affine(jax.nn.relu(values), weight, bias)
    return values[..., 0]


def _query_scores_gram(
    scorer: Scorer,
    parameters: Parameters,
    episodes: Episodes,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None,
    names: frozenset[str] | None,
    every_step: bool,
) -> list[Array]:
    # in first order nothing flows back through the shots
    fixed = lax.stop_gradient(dict(parameters)) if inner.first_order else parameters
    if isinstance(scorer, LinearScorer):
        found = _linear_states(
            scorer, fixed, episodes.support, episodes.support_labels, episodes.support_mask,
            loss, inner, every_step,
        )  # fmt: skip
        unmoved = scorer.forward(parameters, episodes.query)
        kernel = scorer.kernel(parameters, episodes.query, episodes.support)
        return [unmoved - (kernel @ state)[..., 0] for state in found]
    first = first_layer(parameters, names)
    shots = frozen(fixed, first, scorer.embed(fixed, episodes.support))
    states = _dual_states(
        parameters, first, linear(fixed, first, shots), gram_of(shots, shots),
        episodes.support_labels, episodes.support_mask, loss, inner, rates, every_step,
    )  # fmt: skip
    features = frozen(parameters, first, scorer.embed(parameters, episodes.query))
    before, gram = linear(parameters, first, features), gram_of(features, shots)
    return [after(before, gram, state) for state in states]


def _linear_states(
    scorer: LinearScorer,
    parameters: Parameters,
    support: Array,
    labels: Array,
    mask: Array,
    loss: Loss,
    inner: InnerLoop,
    every_step: bool = False,
) -> list[Array]:
    """[T, K, 1] how far the weights have moved along each shot's gradient, after the last step."""
    before = scorer.forward(parameters, support)[..., None]
    states = dual_steps(
        before,
        scorer.kernel(parameters, support, support),
        (),
        (),
        labels,
        mask,
        jnp.full((inner.steps, 1), inner.learning_rate, before.dtype),
        logistic=loss == "bce",
        first_order=inner.first_order,
        every_step=every_step,
    )
    return [state.output for state in states]


def _dual_states(
    parameters: Parameters,
    first: int,
    preactivation: Array,
    gram: Array,
    labels: Array,
    mask: Array,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None,
    every_step: bool = False,
) -> list[DualWeights]:
    layers = range(first, depth(parameters))
    if rates is None:
        by_step = jnp.full((inner.steps, len(layers)), inner.learning_rate, preactivation.dtype)
    else:
        columns = [
            jnp.broadcast_to(rates[f"layer{layer}.weight"].ravel(), (inner.steps,))
            for layer in layers
        ]
        by_step = jnp.stack(columns, axis=1)
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
    support: Array,
    labels: Array,
    mask: Array,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None,
    names: frozenset[str] | None,
) -> list[dict[str, Array]]:
    """The adapted weights after each step, with a leading task axis."""
    start = {name: parameters[name] for name in sorted(names or parameters)}

    def steps_of_one_task(support: Array, labels: Array, mask: Array) -> list[dict[str, Array]]:
        def support_loss(fast: dict[str, Array]) -> Array:
            scores = scorer.forward({**parameters, **fast}, support)
            return masked_mean(pointwise_loss(loss, scores, labels), mask)

        adapted, states = start, []
        for step in range(inner.steps):
            gradients = jax.grad(support_loss)(adapted)
            if inner.first_order:
                gradients = lax.stop_gradient(gradients)
            adapted = {
                name: value - rate_of(rates, inner, name, step) * gradients[name]
                for name, value in adapted.items()
            }
            states.append(adapted)
        return states

    return jax.vmap(steps_of_one_task)(support, labels, mask)


def rate_of(rates: Rates | None, inner: InnerLoop, name: str, step: int) -> Array | float:
    """The learning rate of a weight at a step; broadcasts to the weight."""
    if rates is None:
        return inner.learning_rate
    rate = rates[name]
    return rate if rate.ndim == 0 else rate[min(step, rate.shape[0] - 1)]
