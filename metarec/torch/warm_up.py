"""What warm-up learners share: a base model of factors, and embeddings of new items beside it.

The base model is the factorisation of meta-train, frozen: a pair scores `u · v`, times a learned
scale, plus a learned bias. A warm-up learner is three pure functions (`Method`) that give users,
the items of a catalogue and a new item with its first feedback one space of embeddings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.factor_inputs import FactorEpisodes, FactorInputs, PairArrays, WarmUpArrays
from metarec.learner import MetaParameters, Support, Training
from metarec.loops import Loss, OuterLoop, OuterLoss
from metarec.torch import batches, episodic
from metarec.torch.inner_loop import Episodes, pointwise_loss
from metarec.torch.training import Gradients, autograd, train
from metarec.warm_up import (
    Initial,
    base_statistics,
    choices,
    chosen,
    first_parameters,
    of_catalogue,
    of_support,
)

Parameters = Mapping[str, Tensor]
"""Learned weights; as `users.mean`, `users.scale`, `items.mean` and `items.scale` [F] the mean and
standard deviation of the factors of meta-train; and as `base.scale` and `base.bias` what brings
their products to the scale of scores."""


class Pairs(NamedTuple):
    """Tensors of `metarec.factor_inputs.PairArrays`; masks are 1 and 0.

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

    users: Tensor
    items: Tensor
    folded: Tensor
    content: Tensor
    profile: Tensor
    counts: Tensor
    base: Tensor
    labels: Tensor
    mask: Tensor


class Catalogue(NamedTuple):
    """Items of a catalogue.

    Args:
        content: [N, D] standardised text features.
        items: [N, F] factors; 0 where the base model has none.
        known: [N] 1 where it has some, else 0.
    """

    content: Tensor
    items: Tensor
    known: Tensor


class NewItems(NamedTuple):
    """T new items and the first feedback on them.

    Args:
        content: [T, D] standardised text features.
        folded: [T, F] factors folded in from the feedback, towards the mean item.
        shots: [T, K, F] factors of the users; 0 beside the shots.
        labels: [T, K] 1 and 0, or ratings less their mean; 0 beside the shots.
        mask: [T, K] 1 where there is a shot, else 0.
    """

    content: Tensor
    folded: Tensor
    shots: Tensor
    labels: Tensor
    mask: Tensor


class WarmUps(NamedTuple):
    """New items, and users to be scored for each of them.

    Args:
        new: the items.
        users: [T, N, F] factors of the users, without the item's feedback.
        labels: [T, N].
        mask: [T, N].
    """

    new: NewItems
    users: Tensor
    labels: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Method:
    """The embeddings of a learner, as pure functions of its parameters.

    Args:
        users: from [..., F] factors and [..., D] profiles to [..., E].
        catalogue: from a catalogue to [N, E], in user tasks.
        new_items: from new items to [T, E], in item tasks.
    """

    users: Callable[[Parameters, Tensor, Tensor], Tensor]
    catalogue: Callable[[Parameters, Catalogue], Tensor]
    new_items: Callable[[Parameters, NewItems], Tensor]


@dataclass(frozen=True)
class Draw:
    """What the outer loss of a learner draws from at a step.

    Args:
        episodes: of meta-training.
        loss: the pointwise loss.
        kind: of the outer loss.
        seed: of the training.
        device: where to put tensors.
        statistics: those of `Parameters`.
        pairs: from a step to pairs of a task and its queries.
        warm_ups: from a step to new items with their first feedback, whatever kind of task is
            served.
    """

    episodes: FactorEpisodes
    loss: Loss
    kind: OuterLoss
    seed: int
    device: torch.device
    statistics: Parameters
    pairs: Callable[[int], Pairs]
    warm_ups: Callable[[int], WarmUps]

    @property
    def of_items(self) -> bool:
        """Whether item tasks are served."""
        return self.episodes.inputs.kind == "item"

    def rng(self, step: int) -> np.random.Generator:
        """Source of the random choices of a step."""
        return choices(self.seed, step)

    def cold(self, like: Tensor, step: int, share: float) -> Tensor:
        """[T, N or 1] true for a share of the items, drawn anew at each step; of new items all."""
        share = 1.0 if self.of_items else share
        drawn = chosen(self.rng(step), tuple(like.shape[:2]), share)
        return batches.on_device(drawn, self.device)

    def gradients(self, loss_of: Callable[[Parameters, int], Tensor]) -> Gradients:
        """The gradients of a loss of the parameters, statistics included, at a step."""
        return autograd(lambda learned, step: loss_of({**self.statistics, **learned}, step))

    def outer_loss(
        self, scores: Tensor, labels: Tensor, mask: Tensor, kind: OuterLoss | None = None
    ) -> Tensor:
        """Loss of [T, N] scores (`episodic.outer_loss`), of the learner's kind or another."""
        none = scores[:, :0]
        queries = Episodes(none, none, none, scores, labels, mask)
        return episodic.outer_loss(kind or self.kind, self.loss, scores, queries)


def fit(
    training: Training,
    embedding_size: int,
    initial: Initial,
    gradients: Callable[[Draw], Gradients],
    outer: OuterLoop,
    outer_loss: OuterLoss,
    device: torch.device,
    description: str,
) -> MetaParameters:
    """Factorises meta-train and meta-trains a warm-up learner beside the factors.

    Args:
        training: meta-train.
        embedding_size: F, number of factors.
        initial: draws the first parameters beside scale and bias.
        gradients: from what may be drawn to the gradients of the outer loop.
        outer: settings of the outer loop.
        outer_loss: see `episodic.outer_loss`.
        device: where to train.
        description: what the progress bar says.

    Returns:
        Meta-parameters: those of the learner, the base model and the statistics of the contents.
    """
    inputs, episodes = FactorInputs.fit(training, embedding_size)
    draw = Draw(
        episodes, loops.pointwise(training.feedback),
        loops.chosen_loss(outer_loss, training.feedback),
        training.seed, device, _statistics(inputs, device),
        batches.ahead(functools.partial(_pairs, episodes, device), device, outer.steps),
        batches.ahead(functools.partial(_warm_ups, episodes, device), device, outer.steps),
    )  # fmt: skip
    return train(
        first_parameters(initial, inputs, training.seed), gradients(draw), training, outer,
        inputs.statistics, device, description,
    )  # fmt: skip


def _pairs(episodes: FactorEpisodes, device: torch.device, step: int) -> Pairs:
    return Pairs(*_staged(episodes.pairs(step), device))


def _warm_ups(episodes: FactorEpisodes, device: torch.device, step: int) -> WarmUps:
    values = _staged(episodes.warm_ups(step), device)
    return WarmUps(NewItems(*values[:5]), *values[5:])


def _staged(arrays: PairArrays | WarmUpArrays, device: torch.device) -> list[Tensor]:
    """The arrays in their order, still on the host."""
    values = [getattr(arrays, one.name) for one in fields(arrays)]
    return [batches.staged(batches.floats(value), device) for value in values]


def score_pairs(parameters: Parameters, users: Tensor, items: Tensor) -> Tensor:
    """[..., N] scores of pairs of [..., 1 or N, E] users and [..., 1 or N, E] items."""
    return to_score(parameters, (users * items).sum(-1))


def to_score(parameters: Parameters, products: Tensor) -> Tensor:
    """Scores of products of embeddings, by a learned affine map that decays to the base model's."""
    scale = parameters["base.scale"] * parameters["log_scale"].exp()
    return scale * products + parameters["base.bias"] + parameters["bias"]


def cold_and_warm_loss(
    parameters: Parameters,
    draw: Draw,
    step: int,
    generate: Callable[[Parameters, Tensor], Tensor],
    warm: Callable[[Parameters, NewItems], Tensor],
    *,
    cold_weight: float,
    cold_share: float,
) -> Tensor:
    """`cold_weight · l_cold + (1 - cold_weight) · l_warm` (Pan et al. 2019, equation 14).

    l_warm is the loss of the users to be scored for new items with their first feedback; in user
    tasks it is pointwise, since a ranking of users says nothing of how items compare. l_cold is the
    loss before any feedback: in item tasks of the same users, in user tasks of users' candidates, a
    share of which is generated. There one ranking holds known and generated items, which puts their
    scores on one scale.

    Args:
        parameters: of the learner.
        draw: of the training.
        step: of the outer loop.
        generate: from [..., D] contents to [..., F] embeddings before any feedback.
        warm: from new items to [T, F] embeddings.
        cold_weight: a loss of weight 0 is not computed.
        cold_share: of the candidates of user tasks.
    """
    total = torch.zeros((), device=draw.device)
    if not draw.of_items and cold_weight > 0:
        pairs = draw.pairs(step)
        cold = draw.cold(pairs.content, step, cold_share).unsqueeze(-1)
        items = torch.where(cold, generate(parameters, pairs.content), pairs.items)
        scores = score_pairs(parameters, pairs.users, items)
        total = total + cold_weight * draw.outer_loss(scores, pairs.labels, pairs.mask)
    if draw.of_items or cold_weight < 1:
        new = draw.warm_ups(step)

        def loss_of(items: Tensor) -> Tensor:
            scores = score_pairs(parameters, new.users, items.unsqueeze(1))
            # a ranking of users would pull embeddings away from what ranks items
            kind: OuterLoss | None = None if draw.of_items else "pointwise"
            return draw.outer_loss(scores, new.labels, new.mask, kind)

        total = total + (1 - cold_weight) * loss_of(warm(parameters, new.new))
        if draw.of_items:
            total = total + cold_weight * loss_of(generate(parameters, new.new.content))
    return total


def warmed_up(
    parameters: Parameters,
    start: Tensor,
    shots: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    loss: Loss,
    steps: int,
    learning_rate: float,
) -> Tensor:
    """Embeddings of new items after gradient steps on their first feedback.

    Each step is `v <- v - learning_rate · d/dv sum_k loss(score(u_k, v), y_k)`, per item: the sum
    and not the mean, so that one shot moves an item less than ten. Outer gradients flow through the
    steps (second order) unless autograd is off. Without a shot nothing moves.

    Args:
        parameters: of the score.
        start: [T, F] embeddings before the first step.
        shots: [T, K, E] embeddings of the users.
        labels: [T, K].
        mask: [T, K].
        loss: of a score.
        steps: number of steps.
        learning_rate: of the steps.

    Returns:
        [T, F].
    """
    recorded, items = torch.is_grad_enabled(), start
    for _ in range(steps):
        with torch.enable_grad():
            # a leaf of its own where nobody asks for outer gradients
            items = items if recorded and items.requires_grad else items.detach().requires_grad_()
            scores = score_pairs(parameters, shots, items.unsqueeze(1))
            total = (pointwise_loss(loss, scores, labels) * mask).sum()
            (gradient,) = torch.autograd.grad(total, items, create_graph=recorded)
        items = items - learning_rate * gradient
    return items


@dataclass(frozen=True)
class Adapted:
    """T tasks after their support sets.

    Args:
        tasks: [T, E] embeddings of the tasks.
        method: of the learner.
        parameters: of the learner.
        inputs: of the learner.
        device: where the tensors are.
    """

    tasks: Tensor
    method: Method
    parameters: Parameters
    inputs: FactorInputs
    device: torch.device


@torch.no_grad()
def adapt(
    method: Method,
    side: Training,
    meta_parameters: MetaParameters,
    support: Support,
    device: torch.device,
    ignore_support: bool = False,
) -> Adapted:
    """Folds new users in, or warms new items up.

    Args:
        method: of the learner.
        side: what the learner was fitted on or restored with; see `loops.side_of`.
        meta_parameters: of the learner.
        support: of T tasks; what stands beside its shots does not matter.
        device: where to compute.
        ignore_support: take no notice of any shot, as if K were 0: the row without adaptation.
    """
    inputs = FactorInputs.restore(side, meta_parameters)
    parameters = _statistics(inputs, device) | episodic.tensors_of(meta_parameters, device)
    seen = _on_device(of_support(inputs, support, ignore_support), device)
    if inputs.kind == "user":
        tasks = method.users(parameters, *seen)
    else:
        tasks = method.new_items(parameters, NewItems(*seen))
    return Adapted(tasks, method, parameters, inputs, device)


@torch.no_grad()
def score(adapted: Adapted, candidates: Int32[np.ndarray, " c"]) -> Float32[np.ndarray, "tasks c"]:
    """Scores of a catalogue, in the unit of the labels."""
    inputs, parameters, device = adapted.inputs, adapted.parameters, adapted.device
    arrays = of_catalogue(inputs, candidates)
    seen = [torch.from_numpy(batches.floats(array)).to(device) for array in arrays]
    if inputs.kind == "user":
        embedded = adapted.method.catalogue(parameters, Catalogue(*seen))
    else:
        embedded = adapted.method.users(parameters, *seen)
    # in float64: the number of tasks that are scored together must not show in the rounding
    products = adapted.tasks.double() @ embedded.double().T
    scores = to_score(parameters, products).float()
    return inputs.to_rating(scores.cpu().numpy())


def _statistics(inputs: FactorInputs, device: torch.device) -> dict[str, Tensor]:
    found = base_statistics(inputs)
    return dict(zip(found, _on_device(found.values(), device), strict=True))


def _on_device(arrays: Iterable[np.ndarray], device: torch.device) -> list[Tensor]:
    return [batches.on_device(batches.floats(array), device) for array in arrays]
