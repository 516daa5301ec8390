"""Matching: a candidate is scored by the labels of the shots that it attends to."""

from __future__ import annotations

import copy
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32

from metarec import loops
from metarec.amortised import NULL_COSINE, SIMILARITY_SCALE, initial_matching
from metarec.inputs import Inputs, Representation
from metarec.jax import amortised
from metarec.jax.amortised import Conditioned, Queries, Shots
from metarec.jax.devices import choose_devices
from metarec.jax.layers import (
    label_values,
    mlp,
    normalized,
    per_task,
    task_vector,
    with_extra,
)
from metarec.jax.scorer import Parameters
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop, OuterLoss


class Memory(NamedTuple):
    """What the candidates of T tasks attend to.

    Args:
        keys: [T, K, E] unit vectors of the shots.
        values: [T, K] what their labels count for.
        mask: [T, K].
        prior: [T, E] weights of the score without shots.
    """

    keys: Array
    values: Array
    mask: Array
    prior: Array


class Matching:
    """Matching networks (Vinyals et al. 2016, equations 1 and 2) on the support set.

    A candidate's score is a prior and the values of the shots' labels, weighted by a softmax of the
    scaled cosine similarities in a meta-trained embedding over the shots and a null key.

    Args: those of its twin, `metarec.torch.matching.Matching`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        embedding_size: int = 64,
        hidden_sizes: tuple[int, ...] = (64,),
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
        """Meta-trains the embedding, the prior and the attention."""
        self._side = training
        return amortised.fit(
            training, self.representation, self._initial, amortised.scored_by(encode, decode),
            self.outer, self.outer_loss, self.devices, "matching",
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_matching(inputs, rng, self.hidden_sizes, self.embedding_size)

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> Matching:
        """The same learner with every support set ignored: the prior alone."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Conditioned[Memory]:
        """Keys and values of each task's shots."""
        inputs = loops.inputs_of(self._side, meta_parameters, type(self).__name__)
        return amortised.condition(
            inputs, meta_parameters, support, encode, decode, self.devices, self.ignore_support
        )

    def score(
        self, fast_weights: Conditioned[Memory], candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return amortised.score(fast_weights, candidates)


def encode(parameters: Parameters, shots: Shots) -> Memory:
    """Keys and values of the shots, and the weights of the prior."""
    embedded = mlp(parameters, "embedding", with_extra(shots.vectors, shots.extra))
    return Memory(
        keys=normalized(embedded),
        values=label_values(parameters, shots.labels),
        mask=shots.mask,
        prior=task_vector(parameters, "prior", shots.context),
    )


def decode(parameters: Parameters, state: Memory, queries: Queries) -> Array:
    """[T, N] scores of candidates."""
    embedded = mlp(parameters, "embedding", with_extra(queries.vectors, queries.extra))
    unit = normalized(embedded)
    scale = SIMILARITY_SCALE * jnp.exp(parameters["log_temperature"])
    similarity = scale * (unit @ state.keys.mT)
    null = scale * (NULL_COSINE + parameters["null"])
    matched = attended(similarity, state.values, state.mask, null)
    prior = per_task(embedded, state.prior) / embedded.shape[-1] ** 0.5
    return prior + jnp.exp(parameters["log_scale"]) * matched + parameters["bias"]


def attended(similarity: Array, values: Array, mask: Array, null: Array) -> Array:
    """Values of the shots, weighted by a softmax over the shots and a null key of value 0.

    Args:
        similarity: [T, N, K] logit of each shot for each candidate.
        values: [T, K].
        mask: [T, K] 1 where there is a shot, else 0.
        null: [1] logit of the null key.

    Returns:
        [T, N]; 0 without shots.
    """
    shown = jnp.where(mask[:, None] > 0, similarity, -jnp.inf)
    first = jnp.broadcast_to(null, (*shown.shape[:-1], 1))
    logits = jnp.concatenate([first, shown], axis=-1)
    share = jax.nn.softmax(logits, axis=-1)[..., 1:]
    return (share @ values[..., None])[..., 0]
