"""What warm-up learners share: a base model of factors, and embeddings of new items beside it.

The base model is the factorisation of meta-train, frozen: a pair scores `u · v`, times a learned
scale, plus a learned bias. A warm-up learner is three pure functions (`Method`) that give users,
the items of a catalogue and a new item with its first feedback one space of embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float32, Int32

from metarec import loops
from metarec.factor_inputs import FactorEpisodes, FactorInputs
from metarec.jax import episodic
from metarec.jax.catalogue import ROWS
from metarec.jax.compiled import compiled
from metarec.jax.devices import Devices
from metarec.jax.inner_loop import Episodes, pointwise_loss
from metarec.jax.training import Batch, Gradients, autograd, train
from metarec.learner import MetaParameters, Support, Training
from metarec.loops import Loss, OuterLoop, OuterLoss
from metarec.warm_up import (
    Initial,
    base_statistics,
    choices,
    chosen,
    first_parameters,
    of_catalogue,
    of_support,
)

Parameters = Mapping[str, Array]
"""Learned weights, and what `metarec.warm_up.base_statistics` tells of the base model."""


class Pairs(NamedTuple):
    """Arrays of `metarec.factor_inputs.PairArrays`; masks are 1 and 0.

    Args:
        users: [T, 1 or N, F] factors.
        items: [T, N or 1, F] factors.
        folded: [T, 1, F] factors of the tasks by their support sets.
        content: [T, N or 1, D] of the items.
        profile: [T, 1 or N, D] contents of the users.
        counts: [T, N or 1] feedback on the items.
        base: [T, N] scores of the base model.
        labels: [T, N].
        mask: [T, N].
    """

    users: Array
    items: Array
    folded: Array
    content: Array
    profile: Array
    counts: Array
    base: Array
    labels: Array
    mask: Array


class Catalogue(NamedTuple):
    """Items of a catalogue.

    Args:
        content: [N, D] standardised text features.
        items: [N, F] factors; 0 where the base model has none.
        known: [N] 1 where it has some, else 0.
    """

    content: Array
    items: Array
    known: Array


class NewItems(NamedTuple):
    """T new items and the first feedback on them.

    Args:
        content: [T, D] standardised text features.
        folded: [T, F] factors folded in from the feedback, towards the mean item.
        shots: [T, K, F] factors of the users; 0 beside the shots.
        labels: [T, K] 1 and 0, or ratings less their mean; 0 beside the shots.
        mask: [T, K] 1 where there is a shot, else 0.
    """

    content: Array
    folded: Array
    shots: Array
    labels: Array
    mask: Array


class WarmUps(NamedTuple):
    """New items, and users to be scored for each of them.

    Args:
        new: the items.
        users: [T, N, F] factors of the users, without the item's feedback.
        labels: [T, N].
        mask: [T, N].
    """

    new: NewItems
    users: Array
    labels: Array
    mask: Array


@dataclass(frozen=True)
class Method:
    """The embeddings of a learner, as pure functions of its parameters.

    They are compiled, so they must be hashable and equal what is made anew of the same settings:
    functions of a module, or `metarec.jax.compiled.bound` ones.

    Args:
        users: from [..., F] factors and [..., D] profiles to [..., E].
        catalogue: from a catalogue to [N, E], in user tasks.
        new_items: from new items to [T, E], in item tasks.
    """

    users: Callable[[Parameters, Array, Array], Array]
    catalogue: Callable[[Parameters, Catalogue], Array]
    new_items: Callable[[Parameters, NewItems], Array]


@dataclass(frozen=True)
class Draw:
    """What the outer loss of a learner draws from at a step, NumPy arrays, and what it is.

    Args:
        episodes: of meta-training.
        loss: the pointwise loss.
        kind: of the outer loss.
        seed: of the training.
    """

    episodes: FactorEpisodes
    loss: Loss
    kind: OuterLoss
    seed: int

    @property
    def of_items(self) -> bool:
        """Whether item tasks are served."""
        return self.episodes.inputs.kind == "item"

    def pairs(self, step: int) -> Pairs:
        """Pairs of a task and its queries."""
        return Pairs(*_fields(self.episodes.pairs(step)))

    def warm_ups(self, step: int) -> WarmUps:
        """New items with their first feedback, whatever kind of task is served."""
        values = _fields(self.episodes.warm_ups(step))
        return WarmUps(NewItems(*values[:5]), *values[5:])

    def rng(self, step: int) -> np.random.Generator:
        """Source of the random choices of a step."""
        return choices(self.seed, step)

    def cold(self, pairs: Pairs, step: int, share: float) -> Bool[np.ndarray, "tasks items"]:
        """[T, N or 1] true for a share of the items, drawn anew at each step; of new items all."""
        return chosen(self.rng(step), pairs.counts.shape, 1.0 if self.of_items else share)

    def outer_loss(
        self, scores: Array, labels: Array, mask: Array, kind: OuterLoss | None = None
    ) -> Array:
        """Loss of [T, N] scores (`episodic.outer_loss`), of the learner's kind or another."""
        none = scores[:, :0]
        queries = Episodes(none, none, none, scores, labels, mask)
        return episodic.outer_loss(kind or self.kind, self.loss, scores, queries)


def fit(
    training: Training,
    embedding_size: int,
    initial: Initial,
    drawn: Callable[[Draw, int], Any],
    gradients: Callable[[Draw], Gradients],
    outer: OuterLoop,
    outer_loss: OuterLoss,
    devices: Devices,
    description: str,
) -> MetaParameters:
    """Factorises meta-train and meta-trains a warm-up learner beside the factors.

    Args:
        training: meta-train.
        embedding_size: F, number of factors.
        initial: draws the first parameters beside scale and bias.
        drawn: what is drawn at a step, with a leading task axis.
        gradients: those of the outer loop, of the meta-parameters, what was drawn, and the
            statistics of the base model.
        outer: settings of the outer loop.
        outer_loss: see `episodic.outer_loss`.
        devices: that share the tasks of a step out.
        description: what the progress bar says.

    Returns:
        Meta-parameters: those of the learner, the base model and the statistics of the contents.
    """
    inputs, episodes = FactorInputs.fit(training, embedding_size)
    draw = Draw(
        episodes, loops.pointwise(training.feedback),
        loops.chosen_loss(outer_loss, training.feedback), training.seed,
    )  # fmt: skip
    statistics = base_statistics(inputs)

    def batch_at(step: int) -> Batch:
        return drawn(draw, step), statistics, None

    return train(
        first_parameters(initial, inputs, training.seed), gradients(draw), batch_at, training,
        outer, inputs.statistics, devices, description,
    )  # fmt: skip


def gradients_of(loss_of: Callable[[Parameters, Any], Array]) -> Gradients:
    """The gradients of a loss of the parameters, statistics included, and of what was drawn."""

    def of_learned(
        learned: dict[str, Array], drawn: Any, statistics: Parameters, program: Any
    ) -> Array:
        return loss_of({**statistics, **learned}, drawn)

    return autograd(of_learned)


def score_pairs(parameters: Parameters, users: Array, items: Array) -> Array:
    """[..., N] scores of pairs of [..., 1 or N, E] users and [..., 1 or N, E] items."""
    return to_score(parameters, (users * items).sum(-1))


def to_score(parameters: Parameters, products: Array) -> Array:
    """Scores of products of embeddings, by a learned affine map that decays to the base model's."""
    scale, shift = affine_map(parameters)
    return scale * products + shift


def affine_map(parameters: Parameters) -> tuple[Array, Array]:
    """[1] scale and [1] shift of `to_score`."""
    scale = parameters["base.scale"] * jnp.exp(parameters["log_scale"])
    return scale, parameters["base.bias"] + parameters["bias"]


class ColdAndWarm(NamedTuple):
    """What `cold_and_warm_loss` sees of a step; None where it does not.

    Args:
        pairs: of users and candidates, in user tasks.
        cold: [T, N] true where a candidate is seen as new, in user tasks.
        new: new items with their first feedback.
    """

    pairs: Pairs | None
    cold: Array | None
    new: WarmUps | None


def cold_and_warm(draw: Draw, step: int, *, cold_weight: float, cold_share: float) -> ColdAndWarm:
    """Draws what `cold_and_warm_loss` sees of a step.

    Args:
        draw: of the training.
        step: of the outer loop.
        cold_weight: see `cold_and_warm_loss`.
        cold_share: of the candidates of user tasks.
    """
    pairs: Pairs | None = None
    cold: Any = None
    if not draw.of_items and cold_weight > 0:
        pairs = draw.pairs(step)
        cold = draw.cold(pairs, step, cold_share)
    new = draw.warm_ups(step) if draw.of_items or cold_weight < 1 else None
    return ColdAndWarm(pairs, cold, new)


def cold_and_warm_loss(
    parameters: Parameters,
    draw: Draw,
    drawn: ColdAndWarm,
    generate: Callable[[Parameters, Array], Array],
    warm: Callable[[Parameters, NewItems], Array],
    *,
    cold_weight: float,
) -> Array:
    """`cold_weight · l_cold + (1 - cold_weight) · l_warm` (Pan et al. 2019, equation 14).

    l_warm is the loss of the users to be scored for new items with their first feedback; in user
    tasks it is pointwise, since a ranking of users says nothing of how items compare. l_cold is the
    loss before any feedback: in item tasks of the same users, in user tasks of users' candidates, a
    share of which is generated. There one ranking holds known and generated items, which puts their
    scores on one scale.

    Args:
        parameters: of the learner.
        draw: of the training.
        drawn: what `cold_and_warm` drew.
        generate: from [..., D] contents to [..., F] embeddings before any feedback.
        warm: from new items to [T, F] embeddings.
        cold_weight: a loss of weight 0 is not computed.
    """
    losses: list[Array] = []
    pairs, cold, new = drawn
    if pairs is not None and cold is not None:
        items = jnp.where(cold[..., None], generate(parameters, pairs.content), pairs.items)
        scores = score_pairs(parameters, pairs.users, items)
        losses.append(cold_weight * draw.outer_loss(scores, pairs.labels, pairs.mask))
    if new is not None:
        # a ranking of users would pull embeddings away from what ranks items
        kind: OuterLoss | None = None if draw.of_items else "pointwise"

        def loss_of(items: Array) -> Array:
            scores = score_pairs(parameters, new.users, items[:, None])
            return draw.outer_loss(scores, new.labels, new.mask, kind)

        losses.append((1 - cold_weight) * loss_of(warm(parameters, new.new)))
        if draw.of_items:
            losses.append(cold_weight * loss_of(generate(parameters, new.new.content)))
    return sum(losses[1:], losses[0])


def warmed_up(
    parameters: Parameters,
    start: Array,
    shots: Array,
    labels: Array,
    mask: Array,
    *,
    loss: Loss,
    steps: int,
    learning_rate: float,
) -> Array:
    """Embeddings of new items after gradient steps on their first feedback.

    Each step is `v <- v - learning_rate · d/dv sum_k loss(score(u_k, v), y_k)`, per item: the sum
    and not the mean, so that one shot moves an item less than ten. Outer gradients flow through the
    steps (second order). Without a shot nothing moves.

    Args:
        parameters: of the score.
        start: [T, F] embeddings before the first step.
        shots: [T, K, F] factors of the users.
        labels: [T, K].
        mask: [T, K].
        loss: of a score.
        steps: number of steps.
        learning_rate: of the steps.

    Returns:
        [T, F].
    """

    def total(items: Array) -> Array:
        scores = score_pairs(parameters, shots, items[:, None])
        return (pointwise_loss(loss, scores, labels) * mask).sum()

    items = start
    for _ in range(steps):
        items = items - learning_rate * jax.grad(total)(items)
    return items


def as_factors(parameters: Parameters, users: Array, profile: Array) -> Array:
    """[..., F] the users' own factors, for learners that embed them no further."""
    return users


@dataclass(frozen=True)
class Adapted:
    """T tasks after their support sets.

    The tasks are padded, so that few numbers of them make programs of their own.

    Args:
        count: T.
        tasks: [padded T, E] embeddings of the tasks.
        method: of the learner.
        parameters: of the learner.
        inputs: of the learner.
        device: where the arrays are.
    """

    count: int
    tasks: Array
    method: Method
    parameters: Parameters
    inputs: FactorInputs
    device: Any


def adapt(
    method: Method,
    side: Training,
    meta_parameters: MetaParameters,
    support: Support,
    devices: Devices,
    ignore_support: bool = False,
) -> Adapted:
    """Folds new users in, or warms new items up.

    Args:
        method: of the learner.
        side: what the learner was fitted on or restored with; see `loops.side_of`.
        meta_parameters: of the learner.
        support: of T tasks; what stands beside its shots does not matter.
        devices: the first of which computes.
        ignore_support: take no notice of any shot, as if K were 0: the row without adaptation.
    """
    inputs, device = FactorInputs.restore(side, meta_parameters), devices.first
    statistics: dict[str, Array] = jax.device_put(base_statistics(inputs), device)
    parameters = statistics | episodic.arrays_of(meta_parameters, device)
    arrays = of_support(inputs, support, ignore_support)
    seen = jax.device_put(tuple(episodic.padded(array) for array in arrays), device)
    tasks, _ = _embed(parameters, seen, method=method, tasks=True, kind=inputs.kind)
    return Adapted(len(support), tasks, method, parameters, inputs, device)


def score(adapted: Adapted, candidates: Int32[np.ndarray, " c"]) -> Float32[np.ndarray, "tasks c"]:
    """Scores of a catalogue, in the unit of the labels."""
    inputs, method = adapted.inputs, adapted.method
    arrays = tuple(_padded_rows(array) for array in of_catalogue(inputs, candidates))
    seen = jax.device_put(arrays, adapted.device)
    found = _embed(adapted.parameters, seen, method=method, tasks=False, kind=inputs.kind)
    # on the host, in float64: the number of tasks that are scored together must not show in the
    # rounding
    embedded, (scale, shift) = jax.tree.map(lambda array: np.asarray(array, np.float64), found)
    tasks = np.asarray(adapted.tasks, np.float64)[: adapted.count]
    scores = scale * (tasks @ embedded[: len(candidates)].T) + shift
    return inputs.to_rating(scores.astype(np.float32))


def _embed_all(
    parameters: Parameters, seen: tuple[Array, ...], method: Method, tasks: bool, kind: str
) -> tuple[Array, tuple[Array, Array]]:
    """Embeddings of tasks or of candidates, and the map from products to scores."""
    if tasks == (kind == "user"):
        found = method.users(parameters, *seen)
    elif tasks:
        found = method.new_items(parameters, NewItems(*seen))
    else:
        found = method.catalogue(parameters, Catalogue(*seen))
    return found, affine_map(parameters)


_embed = compiled(_embed_all, static=("method", "tasks", "kind"))


def _padded_rows(array: np.ndarray) -> np.ndarray:
    """Rows of a catalogue, zero-padded to a power of 2 or to a multiple of ROWS, float32.

    So few catalogues make programs of their own.
    """
    if len(array) <= ROWS:
        return episodic.padded(array)
    rest = -len(array) % ROWS
    return np.pad(np.asarray(array, np.float32), [(0, rest), *[(0, 0)] * (array.ndim - 1)])


def _fields(arrays: Any) -> list[Any]:
    return [np.asarray(getattr(arrays, one.name), np.float32) for one in fields(arrays)]
