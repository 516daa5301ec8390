"""ProtoCF: a new item as the prototype of the users who liked it, refined by groups of items."""

from __future__ import annotations

import copy
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32

from metarec import loops
from metarec.amortised import COSINE_SCALE, Similarity, check_protocf, initial_protocf
from metarec.collaborative import factorise
from metarec.episodes import EpisodeBatch
from metarec.inputs import Inputs, Representation
from metarec.jax import amortised
from metarec.jax.amortised import Conditioned, Episode, Queries, Shots
from metarec.jax.compiled import bound
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
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training, check_served
from metarec.loops import OuterLoop, OuterLoss


class Item(NamedTuple):
    """What is known of T new items.

    Args:
        prototype: [T, E] refined prototypes.
        group: [T, E] the part that the groups give.
    """

    prototype: Array
    group: Array


class ProtoCF:
    """ProtoCF (Sankar et al., RecSys 2021, sections 4.2 to 4.4) for item tasks.

    A new item's prototype is the mean embedding of the K users who gave feedback on it. It attends
    to meta-trained group embeddings, a gate mixes what they give with the prototype, and users are
    ranked by their similarity to the result. Training distils from the factorisation of meta-train.

    Args: those of its twin, `metarec.torch.protocf.ProtoCF`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        embedding_size: int = 64,
        hidden_sizes: tuple[int, ...] = (64,),
        groups: int = 50,
        similarity: Similarity = "cosine",
        prior_strength: float = 3.0,
        distillation_weight: float = 0.1,
        representation: Representation = "text",
        outer_loss: OuterLoss = "auto",
        steps: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 1.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        check_protocf(groups, similarity, prior_strength, distillation_weight)
        self.embedding_size = embedding_size
        self.hidden_sizes = tuple(hidden_sizes)
        self.groups = groups
        self.similarity: Similarity = similarity
        self.prior_strength = prior_strength
        self.distillation_weight = distillation_weight
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
        """Meta-trains projection, groups and gate, with the teacher's factors where distilled."""
        check_served(self, training.kind, training.feedback)
        self._side = training
        encode, decode = self._functions()
        distils = self.distillation_weight > 0 and training.features is not None
        teacher = factorise(training).tasks if distils else np.zeros((training.n_tasks, 0))

        def objective(parameters: Parameters, episode: Episode) -> tuple[Array, Array | float]:
            state = encode(parameters, episode.shots)
            scores = decode(parameters, state, episode.queries)
            if not distils:
                return scores, 0.0
            return scores, self.distillation_weight * distillation(state.group, episode.beside)

        def factors(batch: EpisodeBatch, rng: np.random.Generator) -> np.ndarray:
            return teacher[batch.tasks]

        return amortised.fit(
            training, self.representation, self._initial, objective, self.outer,
            self.outer_loss, self.devices, "ProtoCF", factors,
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_protocf(inputs, rng, self.hidden_sizes, self.embedding_size, self.groups)

    def _functions(self) -> tuple[amortised.Encode[Item], amortised.Decode[Item]]:
        return (
            bound(encode, prior_strength=self.prior_strength),
            bound(decode, similarity=self.similarity),
        )

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> ProtoCF:
        """The same learner with every support set ignored: the prior from the item's text."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Conditioned[Item]:
        """The refined prototype of each new item."""
        inputs = loops.inputs_of(self._side, meta_parameters, type(self).__name__)
        return amortised.condition(
            inputs, meta_parameters, support, *self._functions(), self.devices, self.ignore_support
        )

    def score(
        self, fast_weights: Conditioned[Item], candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidate users."""
        return amortised.score(fast_weights, candidates)


def embed(parameters: Parameters, vectors: Array, extra: Array) -> Array:
    """[..., E] embeddings of users."""
    return mlp(parameters, "projection", with_extra(vectors, extra))


def encode(parameters: Parameters, shots: Shots, prior_strength: float) -> Item:
    """The refined prototype: `(1 - g) ⊙ p + g ⊙ m` with the prototype p and the groups' part m.

    Args:
        parameters: of the learner; `log_strength` is learned relative to `prior_strength`.
        shots: the users who gave feedback.
        prior_strength: shots that the prior counts for at first.
    """
    users = embed(parameters, shots.vectors, shots.extra)
    values = label_values(parameters, shots.labels) * shots.mask
    prior = task_vector(parameters, "prior", shots.context)
    strength = prior_strength * jnp.exp(parameters["log_strength"])
    total = strength * prior + (values[..., None] * users).sum(1)
    prototype = total / (strength + shots.mask.sum(-1, keepdims=True))
    group = grouped(parameters, prototype)
    gate = jax.nn.sigmoid(mlp(parameters, "gate", jnp.concatenate([prototype, group], axis=-1)))
    return Item((1 - gate) * prototype + gate * group, group)


def grouped(parameters: Parameters, prototype: Array) -> Array:
    """[T, E] mean of the group embeddings, weighted by the prototype's attention to their keys."""
    query = mlp(parameters, "attention", prototype)
    similarity = query @ parameters["keys"].mT / query.shape[-1] ** 0.5
    return jax.nn.softmax(similarity, axis=-1) @ parameters["groups"]


def decode(parameters: Parameters, state: Item, queries: Queries, similarity: Similarity) -> Array:
    """[T, N] scaled similarity of users to the refined prototypes, and what activity adds."""
    users = embed(parameters, queries.vectors, queries.extra)
    prototype, scale = state.prototype, jnp.exp(parameters["log_scale"])
    if similarity == "cosine":
        users = normalized(users)
        prototype = normalized(prototype)
        scale = COSINE_SCALE * scale
    else:
        scale = scale / users.shape[-1] ** 0.5
    return (
        scale * per_task(users, prototype)
        + queries.extra @ parameters["extra"]
        + parameters["bias"]
    )


def distillation(group: Array, factors: Array) -> Array:
    """Cross-entropy between how near items lie to each other for the teacher and for the groups.

    The teacher's shares of the other items are a softmax of the scaled cosines of the factors, the
    learner's a softmax of minus the squared distances of the groups' parts.

    Args:
        group: [T, E] of the items of a batch.
        factors: [T, F] of the teacher; items without factors are left out.

    Returns:
        The mean over items; 0 where fewer than two items have factors.
    """
    known = (factors != 0).any(-1)
    others = known & ~jnp.eye(len(known), dtype=bool)
    counted = known & others.any(-1)
    # rows that do not count would have nothing but -inf to sum, and their gradient would not be 0
    there = others | ~counted[:, None]
    unit = normalized(factors)
    shares = jax.nn.softmax(jnp.where(there, COSINE_SCALE * unit @ unit.T, -jnp.inf), axis=-1)
    squares = ((group[:, None] - group) ** 2).sum(-1)
    log_shares = jax.nn.log_softmax(jnp.where(there, -squares, -jnp.inf), axis=-1)
    losses = -(shares * jnp.where(others, log_shares, 0)).sum(-1)
    return (losses * counted).sum() / jnp.maximum(counted.sum(), 1)
