"""Conditional neural process: the support set as one mean, decoded for each candidate."""

from __future__ import annotations

import copy
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32

from metarec import loops
from metarec.amortised import initial_neural_process
from metarec.inputs import Inputs, Representation
from metarec.jax import amortised
from metarec.jax.amortised import Conditioned, Queries, Shots
from metarec.jax.devices import choose_devices
from metarec.jax.layers import mlp, with_extra
from metarec.jax.scorer import Parameters, product
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop, OuterLoss


class Aggregate(NamedTuple):
    """What is known of T tasks.

    Args:
        rows: [T, R + 1] mean code of the shots and log(1 + their number); in item tasks followed by
            the new item's vector, [T, R + 1 + D].
    """

    rows: Array


class ConditionalNeuralProcess:
    """Conditional neural process (Garnelo et al. 2018a, equations 2 to 4).

    An encoder makes a code of each labelled shot, the mean of the codes stands for the task (and 0
    at K=0), and a decoder scores a candidate from its vector and that mean.

    Args: those of its twin, `metarec.torch.neural_process.ConditionalNeuralProcess`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        embedding_size: int = 64,
        hidden_sizes: tuple[int, ...] = (64, 64),
        representation: Representation = "text",
        outer_loss: OuterLoss = "auto",
        steps: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 1.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        self.embedding_size = embedding_size
        self.hidden_sizes = tuple(hidden_sizes)
        self.representation: Representation = representation
        self.outer_loss: OuterLoss = outer_loss
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.devices = choose_devices(device)
        self.ignore_support = False
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits (only an order after softmax training)."""
        return loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Meta-trains encoder and decoder."""
        self._side = training
        return amortised.fit(
            training, self.representation, self._initial, amortised.scored_by(encode, decode),
            self.outer, self.outer_loss, self.devices, "CNP",
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_neural_process(inputs, rng, self.hidden_sizes, self.embedding_size)

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> ConditionalNeuralProcess:
        """The same learner with every support set ignored."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Conditioned[Aggregate]:
        """The mean code of each task."""
        inputs = loops.inputs_of(self._side, meta_parameters, type(self).__name__)
        return amortised.condition(
            inputs, meta_parameters, support, encode, decode, self.devices, self.ignore_support
        )

    def score(
        self, fast_weights: Conditioned[Aggregate], candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return amortised.score(fast_weights, candidates)


def encode(parameters: Parameters, shots: Shots) -> Aggregate:
    """The mean code of the shots of each task; 0 without shots."""
    codes = mlp(parameters, "encoder", labelled(shots.vectors, shots.extra, shots.labels))
    count = shots.mask.sum(-1, keepdims=True)
    rows = [masked_mean(codes, shots.mask), jnp.log1p(count)]
    if shots.context.shape[1] > 1:
        rows.append(shots.context[:, 1])
    return Aggregate(jnp.concatenate(rows, axis=-1))


def labelled(vectors: Array, extra: Array, labels: Array) -> Array:
    """[T, K, D + E + 1] candidates with their label as the last column."""
    return jnp.concatenate([with_extra(vectors, extra), labels[..., None]], axis=-1)


def masked_mean(codes: Array, mask: Array) -> Array:
    """[T, R] mean of [T, K, R] codes over the shots; 0 without shots."""
    total = (codes * mask[..., None]).sum(1)
    return total / jnp.maximum(mask.sum(-1, keepdims=True), 1)


def decode(parameters: Parameters, state: Aggregate, queries: Queries) -> Array:
    """[T, N] scores; see `decoded`."""
    return decoded(parameters, "decoder", queries, state.rows)


def decoded(parameters: Parameters, name: str, queries: Queries, rows: Array) -> Array:
    """The MLP of this name on `[x, extra, row of the task]`, without putting the two together.

    The first layer is linear: its part for candidates is computed once for all tasks where they
    share the candidates, its part for tasks once for all candidates.

    Args:
        parameters: of the network.
        name: of the network.
        queries: [T, N, ...] or [N, ...] candidates.
        rows: [T, R] of the tasks.

    Returns:
        [T, N].
    """
    candidates = with_extra(queries.vectors, queries.extra)
    weight, bias = parameters[f"{name}0.weight"], parameters[f"{name}0.bias"]
    of_candidates, of_tasks = jnp.split(weight, [candidates.shape[-1]])
    hidden = product(candidates, of_candidates) + (rows @ of_tasks + bias)[:, None]
    return mlp(parameters, name, hidden, first=1)[..., 0]
