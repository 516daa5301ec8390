"""What learners share that adapt without gradient steps: from episodes to tensors and to scores.

Such a learner is two pure functions: `encode(parameters, shots)` makes of each support set a state
(prototypes, ridge weights, an aggregate), and `decode(parameters, state, queries)` scores
candidates by it. The outer loop trains both on the queries of episodes; adapting is one call of
`encode`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.amortised import (
    CANDIDATES_AT_ONCE,
    Initial,
    episode_arrays,
    first_parameters,
    support_arrays,
)
from metarec.episodes import EpisodeBatch
from metarec.inputs import Inputs, Representation
from metarec.learner import MetaParameters, Support, Training
from metarec.loops import OuterLoop, OuterLoss
from metarec.torch import batches, episodic
from metarec.torch.inner_loop import Episodes
from metarec.torch.training import autograd, train

Parameters = Mapping[str, Tensor]


class Shots(NamedTuple):
    """Support sets of T tasks; 0 wherever there is no shot.

    Args:
        vectors: [T, K, D] of the shots.
        labels: [T, K] targets: standardised ratings, or 1 and 0.
        mask: [T, K] 1 where there is a shot, else 0, in the dtype of the vectors.
        extra: [T, K, E] columns beside the vectors.
        context: [T, C, D] of the task: what `metarec.inputs` makes of all its shots and, as a
            second channel in item tasks, the new item's own vector.
    """

    vectors: Tensor
    labels: Tensor
    mask: Tensor
    extra: Tensor
    context: Tensor


class Queries(NamedTuple):
    """Candidates to be scored.

    Args:
        vectors: [T, N, D] of each task, or [N, D] of a catalogue that all tasks share.
        extra: [T, N, E] or [N, E] columns beside the vectors.
    """

    vectors: Tensor
    extra: Tensor


class Episode(NamedTuple):
    """T episodes of meta-training.

    Args:
        shots: the support sets.
        queries: [T, Q, ...] the queries.
        labels: [T, Q] targets of the queries.
        mask: [T, Q] 1 where there is a query, else 0.
        batch: what the tensors were made from: indices of tasks and candidates.
        rng: of this step, for learners that sample.
    """

    shots: Shots
    queries: Queries
    labels: Tensor
    mask: Tensor
    batch: EpisodeBatch
    rng: np.random.Generator


State = TypeVar("State")
Encode = Callable[[Parameters, Shots], State]
Decode = Callable[[Parameters, State, Queries], Tensor]
Objective = Callable[[Parameters, Episode], tuple[Tensor, Tensor | float]]
"""[T, Q] scores of the queries in training, and a penalty that is added to their outer loss."""


@dataclass(frozen=True)
class Conditioned(Generic[State]):
    """What `encode` made of T support sets, and what scoring with it needs.

    Args:
        state: of the T tasks.
        parameters: of the learner.
        decode: scores candidates by the state.
        inputs: of the learner.
        device: where the tensors are.
    """

    state: State
    parameters: Parameters
    decode: Decode[State]
    inputs: Inputs
    device: torch.device


def fit(
    training: Training,
    representation: Representation,
    initial: Initial,
    objective: Objective,
    outer: OuterLoop,
    outer_loss: OuterLoss,
    device: torch.device,
    description: str,
) -> MetaParameters:
    """Meta-trains a learner on the queries of episodes, given their support sets.

    Args:
        training: meta-train.
        representation: what the vectors are made of.
        initial: draws the first parameters; a name must not start with `inputs.`.
        objective: scores of the queries, and a penalty (`scored_by` where there is none).
        outer: settings of the outer loop.
        outer_loss: `pointwise`, `softmax` or `auto`; see `episodic.outer_loss`.
        device: where to train.
        description: what the progress bar says.

    Returns:
        Meta-parameters: those of the learner and the statistics of its inputs.
    """
    kind = loops.chosen_loss(outer_loss, training.feedback)
    loss = loops.pointwise(training.feedback)
    inputs = Inputs.fit(training, representation)

    episode_at = batches.ahead(
        functools.partial(_drawn, inputs, training, device), device, outer.steps
    )

    def loss_of(parameters: dict[str, Tensor], step: int) -> Tensor:
        episode = episode_at(step)
        scores, penalty = objective(parameters, episode)
        arrays = Episodes(
            episode.shots.vectors, episode.shots.labels, episode.shots.mask,
            episode.queries.vectors, episode.labels, episode.mask,
        )  # fmt: skip
        return episodic.outer_loss(kind, loss, scores, arrays) + penalty

    first = first_parameters(initial, inputs, training.seed)
    return train(first, autograd(loss_of), training, outer, inputs.statistics, device, description)


def scored_by(encode: Encode[State], decode: Decode[State]) -> Objective:
    """The objective of a learner that trains as it scores, without a penalty."""

    def objective(parameters: Parameters, episode: Episode) -> tuple[Tensor, Tensor | float]:
        return decode(parameters, encode(parameters, episode.shots), episode.queries), 0.0

    return objective


def episode_of(inputs: Inputs, training: Training, step: int, device: torch.device) -> Episode:
    """The tensors of the episodes of a step."""
    return batches.sent(_drawn(inputs, training, device, step), device)


def _drawn(inputs: Inputs, training: Training, device: torch.device, step: int) -> Episode:
    """The same, its tensors still on the host."""
    arrays = episode_arrays(inputs, training, step)
    return Episode(
        shots=Shots(**_staged(arrays.shots, device)),
        queries=Queries(**_staged(arrays.queries, device)),
        labels=batches.staged(batches.floats(arrays.labels), device),
        mask=batches.staged(batches.floats(arrays.mask), device),
        batch=arrays.batch,
        rng=arrays.rng,
    )


def shots_of(
    inputs: Inputs, support: Support, device: torch.device, ignore_support: bool = False
) -> Shots:
    """The tensors of T support sets.

    Args:
        inputs: of the learner.
        support: of T tasks; what stands beside its shots does not matter.
        device: where to put them.
        ignore_support: take no notice of any shot, as if K were 0: the row without adaptation.
    """
    arrays = support_arrays(inputs, support, ignore_support)
    return batches.sent(Shots(**_staged(arrays, device)), device)


@torch.no_grad()
def condition(
    inputs: Inputs,
    meta_parameters: MetaParameters,
    support: Support,
    encode: Encode[State],
    decode: Decode[State],
    device: torch.device,
    ignore_support: bool = False,
) -> Conditioned[State]:
    """Encodes T support sets.

    Args:
        inputs: of the learner, see `loops.inputs_of`.
        meta_parameters: of the learner.
        support: of T tasks.
        encode: of the learner.
        decode: of the learner.
        device: where to compute.
        ignore_support: see `shots_of`.
    """
    parameters = episodic.tensors_of(meta_parameters, device)
    state = encode(parameters, shots_of(inputs, support, device, ignore_support))
    return Conditioned(state, parameters, decode, inputs, device)


@torch.no_grad()
def score(
    conditioned: Conditioned[State], candidates: Int32[np.ndarray, " c"]
) -> Float32[np.ndarray, "tasks c"]:
    """Decodes a catalogue, chunk by chunk; in the unit of the labels."""
    inputs, device = conditioned.inputs, conditioned.device
    every = {"vectors": inputs.vectors(candidates), "extra": inputs.extra_columns(candidates)}

    def queries(start: int) -> Queries:
        rows = {name: array[start : start + CANDIDATES_AT_ONCE] for name, array in every.items()}
        return batches.sent(Queries(**_staged(rows, device)), device)

    parts = [
        conditioned.decode(conditioned.parameters, conditioned.state, queries(start))
        # an empty catalogue is decoded too, for its shape
        for start in range(0, max(len(candidates), 1), CANDIDATES_AT_ONCE)
    ]
    return inputs.to_rating(torch.cat(parts, dim=1).cpu().numpy())


def _staged(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    return {name: batches.staged(batches.floats(array), device) for name, array in arrays.items()}
