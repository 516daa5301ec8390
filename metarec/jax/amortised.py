"""What learners share that adapt without gradient steps: from episodes to arrays and to scores.

Such a learner is two pure functions: `encode(parameters, shots)` makes of each support set a state
(prototypes, ridge weights, an aggregate), and `decode(parameters, state, queries)` scores
candidates by it. The outer loop trains both on the queries of episodes; adapting is one call of
`encode`. Both are compiled, so they must be hashable and equal what is made anew of the same
settings: functions of a module, or `metarec.jax.compiled.bound` ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32

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
from metarec.jax import episodic
from metarec.jax.compiled import compiled
from metarec.jax.devices import Devices
from metarec.jax.inner_loop import Episodes
from metarec.jax.scorer import Parameters
from metarec.jax.training import Batch, autograd, train
from metarec.learner import MetaParameters, Support, Training
from metarec.loops import Loss, OuterLoop, OuterLoss


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

    vectors: Array
    labels: Array
    mask: Array
    extra: Array
    context: Array


class Queries(NamedTuple):
    """Candidates to be scored.

    Args:
        vectors: [T, N, D] of each task, or [N, D] of a catalogue that all tasks share.
        extra: [T, N, E] or [N, E] columns beside the vectors.
    """

    vectors: Array
    extra: Array


class Episode(NamedTuple):
    """T episodes of meta-training.

    Args:
        shots: the support sets.
        queries: [T, Q, ...] the queries.
        labels: [T, Q] targets of the queries.
        mask: [T, Q] 1 where there is a query, else 0.
        beside: [T, ...] what `Beside` gave.
    """

    shots: Shots
    queries: Queries
    labels: Array
    mask: Array
    beside: Array


State = TypeVar("State")
Encode = Callable[[Parameters, Shots], State]
Decode = Callable[[Parameters, State, Queries], Array]
Objective = Callable[[Parameters, Episode], tuple[Array, Array | float]]
"""[T, Q] scores of the queries in training, and a penalty that is added to their outer loss."""
Beside = Callable[[EpisodeBatch, np.random.Generator], np.ndarray]
"""[T, ...] what an objective needs beside episodes: draws of the step's generator, or what is known
of their tasks."""


@dataclass(frozen=True)
class Conditioned(Generic[State]):
    """What `encode` made of T support sets, and what scoring with it needs.

    The tasks are padded, so that few numbers of them make programs of their own.

    Args:
        tasks: T.
        state: of the padded tasks.
        parameters: of the learner.
        decode: scores candidates by the state.
        inputs: of the learner.
        device: where the arrays are.
    """

    tasks: int
    state: State
    parameters: Parameters
    decode: Decode[State]
    inputs: Inputs
    device: Any


def no_more(batch: EpisodeBatch, rng: np.random.Generator) -> np.ndarray:
    """Nothing beside the episodes."""
    return np.zeros((len(batch.tasks), 0))


def fit(
    training: Training,
    representation: Representation,
    initial: Initial,
    objective: Objective,
    outer: OuterLoop,
    outer_loss: OuterLoss,
    devices: Devices,
    description: str,
    beside: Beside = no_more,
) -> MetaParameters:
    """Meta-trains a learner on the queries of episodes, given their support sets.

    Args:
        training: meta-train.
        representation: what the vectors are made of.
        initial: draws the first parameters; a name must not start with `inputs.`.
        objective: scores of the queries, and a penalty (`scored_by` where there is none).
        outer: settings of the outer loop.
        outer_loss: `pointwise`, `softmax` or `auto`; see `episodic.outer_loss`.
        devices: that share the tasks of a step out.
        description: what the progress bar says.
        beside: what the objective needs beside the episodes.

    Returns:
        Meta-parameters: those of the learner and the statistics of its inputs.
    """
    kind = loops.chosen_loss(outer_loss, training.feedback)
    inputs = Inputs.fit(training, representation)

    def batch_at(step: int) -> Batch:
        return episode_of(inputs, training, step, beside), (), None

    return train(
        first_parameters(initial, inputs, training.seed),
        autograd(loss_by(objective, kind, loops.pointwise(training.feedback))),
        batch_at, training, outer, inputs.statistics, devices, description,
    )  # fmt: skip


def loss_by(
    objective: Objective, kind: OuterLoss, loss: Loss
) -> Callable[[dict[str, Array], Episode, Any, Any], Array]:
    """The outer loss of an objective as `train` takes it."""

    def loss_of(parameters: dict[str, Array], episode: Episode, shared: Any, program: Any) -> Array:
        scores, penalty = objective(parameters, episode)
        arrays = Episodes(
            episode.shots.vectors, episode.shots.labels, episode.shots.mask,
            episode.queries.vectors, episode.labels, episode.mask,
        )  # fmt: skip
        return episodic.outer_loss(kind, loss, scores, arrays) + penalty

    return loss_of


def scored_by(encode: Encode[State], decode: Decode[State]) -> Objective:
    """The objective of a learner that trains as it scores, without a penalty."""

    def objective(parameters: Parameters, episode: Episode) -> tuple[Array, Array | float]:
        return decode(parameters, encode(parameters, episode.shots), episode.queries), 0.0

    return objective


def episode_of(inputs: Inputs, training: Training, step: int, beside: Beside = no_more) -> Episode:
    """The episodes of a step, as NumPy arrays."""
    arrays = episode_arrays(inputs, training, step)
    return Episode(
        shots=Shots(**{name: _float(array) for name, array in arrays.shots.items()}),
        queries=Queries(**{name: _float(array) for name, array in arrays.queries.items()}),
        labels=_float(arrays.labels),
        mask=_float(arrays.mask),
        beside=_float(beside(arrays.batch, arrays.rng)),
    )


def condition(
    inputs: Inputs,
    meta_parameters: MetaParameters,
    support: Support,
    encode: Encode[State],
    decode: Decode[State],
    devices: Devices,
    ignore_support: bool = False,
) -> Conditioned[State]:
    """Encodes T support sets.

    Args:
        inputs: of the learner, see `loops.inputs_of`.
        meta_parameters: of the learner.
        support: of T tasks.
        encode: of the learner.
        decode: of the learner.
        devices: the first of which computes.
        ignore_support: take no notice of any shot, as if K were 0: the row without adaptation.
    """
    device = devices.first
    parameters = episodic.arrays_of(meta_parameters, device)
    arrays = support_arrays(inputs, support, ignore_support)
    shots = {name: episodic.padded(array) for name, array in arrays.items()}
    state = _encode(parameters, Shots(**jax.device_put(shots, device)), encode=encode)
    return Conditioned(len(support), state, parameters, decode, inputs, device)


def _encode_all(parameters: Parameters, shots: Shots, encode: Encode[State]) -> State:
    return encode(parameters, shots)


_encode = compiled(_encode_all, static=("encode",))


def score(
    conditioned: Conditioned[State], candidates: Int32[np.ndarray, " c"]
) -> Float32[np.ndarray, "tasks c"]:
    """Decodes a catalogue, chunk by chunk; in the unit of the labels.

    The last chunk is padded to the size of the others, and a small catalogue to the next power of
    2: one program serves all chunks, and few serve all catalogues.
    """
    inputs, count = conditioned.inputs, len(candidates)
    vectors, extra = inputs.vectors(candidates), inputs.extra_columns(candidates)
    size = min(1 << max(count - 1, 0).bit_length(), CANDIDATES_AT_ONCE)
    parts = []
    # an empty catalogue is decoded too, for its shape
    for start in range(0, max(count, 1), size):
        rows = [_rows(values[start : start + size], size) for values in (vectors, extra)]
        queries = Queries(*jax.device_put(rows, conditioned.device))
        parts.append(
            _decode(conditioned.parameters, conditioned.state, queries, decode=conditioned.decode)
        )
    scores = np.concatenate([np.asarray(part) for part in parts], axis=1)
    return inputs.to_rating(scores[: conditioned.tasks, :count])


def _decode_all(
    parameters: Parameters, state: State, queries: Queries, decode: Decode[State]
) -> Array:
    return decode(parameters, state, queries)


_decode = compiled(_decode_all, static=("decode",))


def _rows(values: np.ndarray, size: int) -> np.ndarray:
    """So many rows, zeros after those that there are."""
    return np.pad(values, ((0, size - len(values)), (0, 0)))


def _float(array: np.ndarray) -> Any:
    return np.asarray(array, np.float32)
