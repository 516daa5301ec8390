"""Prototypical learning: what a task liked and disliked, as points in a meta-trained space."""

from __future__ import annotations

import copy
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32

from metarec import loops
from metarec.amortised import Projection, check_prototypical, initial_prototypical
from metarec.inputs import Inputs, Representation
from metarec.jax import amortised
from metarec.jax.amortised import Conditioned, Queries, Shots
from metarec.jax.compiled import bound
from metarec.jax.devices import choose_devices
from metarec.jax.scorer import Parameters, product
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop, OuterLoss


class Prototypes(NamedTuple):
    """Liked and disliked prototypes of T tasks.

    Args:
        liked: [T, M, E].
        disliked: [T, M, E].
    """

    liked: Array
    disliked: Array


class Prototypical:
    """Prototypical networks (Snell, Swersky & Zemel 2017, equations 1 and 2) for two classes.

    A task's liked and disliked prototypes are the means of its shots in a projection of the text
    features, each with a meta-trained prior as `strength` shots, and a candidate's logit is how
    much nearer it lies to the liked one. Several prototypes a side are means weighted by attention
    to meta-trained queries, and a side is as near as the log-sum-exp makes it.

    Args: those of its twin, `metarec.torch.prototypical.Prototypical`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        projection: Projection = "mlp",
        embedding_size: int = 64,
        prototypes: int = 1,
        prior_strength: float = 10.0,
        dislike_weight: float = 0.1,
        representation: Representation = "text",
        outer_loss: OuterLoss = "pointwise",
        steps: int = 1000,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.3,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        check_prototypical(projection, prototypes, prior_strength, dislike_weight)
        self.projection: Projection = projection
        self.embedding_size = embedding_size
        self.prototypes = prototypes
        self.prior_strength = prior_strength
        self.dislike_weight = dislike_weight
        self.representation: Representation = representation
        self.outer_loss: OuterLoss = outer_loss
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.devices = choose_devices(device)
        self.ignore_support = False
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings or logits; only an order after softmax training or with nothing trained."""
        return "order" if self.projection == "none" else loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Meta-trains the projection, the priors, their strength and the queries."""
        self._side = training
        if self.projection == "none":
            return dict(Inputs.fit(training, self.representation).statistics)
        return amortised.fit(
            training, self.representation, self._initial,
            amortised.scored_by(self._encode(training.feedback), decode),
            self.outer, self.outer_loss, self.devices, "prototypical",
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_prototypical(
            inputs, rng, self.projection, self.embedding_size, self.prototypes
        )

    def _encode(self, feedback: Feedback) -> amortised.Encode[Prototypes]:
        return bound(
            encode,
            feedback=feedback,
            prior_strength=self.prior_strength,
            dislike_weight=self.dislike_weight,
        )

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> Prototypical:
        """The same learner with every support set ignored: the priors alone."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Conditioned[Prototypes]:
        """The prototypes of each task."""
        inputs = loops.inputs_of(self._side, meta_parameters, type(self).__name__)
        return amortised.condition(
            inputs, meta_parameters, support, self._encode(inputs.feedback), decode, self.devices,
            self.ignore_support,
        )  # fmt: skip

    def score(
        self, fast_weights: Conditioned[Prototypes], candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return amortised.score(fast_weights, candidates)


def encode(
    parameters: Parameters,
    shots: Shots,
    feedback: Feedback,
    prior_strength: float,
    dislike_weight: float,
) -> Prototypes:
    """Liked and disliked prototypes of each task, the priors included as pseudo-shots.

    Without a projection the priors lie at the origin; in item tasks the liked one lies at the new
    item's own vector.

    Args:
        parameters: of the learner; `log_strength` is learned relative to `prior_strength`.
        shots: the support sets.
        feedback: what the labels are.
        prior_strength: shots that a prior counts for at first.
        dislike_weight: how much a disliked shot counts.
    """
    embedded = project(parameters, shots.vectors)
    own = shots.context[:, 1] if shots.context.shape[1] > 1 else None
    found = []
    for number, side in enumerate(("liked", "disliked")):
        weight = side_weights(shots.labels, feedback, dislike_weight)[number] * shots.mask
        if "projection0" in parameters:
            strength = prior_strength * jnp.exp(parameters["log_strength"][number])
            learned = parameters[f"prior.{side}"]
            prior = jnp.broadcast_to(learned, (len(weight), *learned.shape))
            if own is not None:
                prior = prior + (own @ parameters[f"task.{side}"])[:, None]
        else:
            strength = jnp.asarray(prior_strength, embedded.dtype)
            prior = jnp.zeros((len(weight), 1, embedded.shape[-1]), embedded.dtype)
            if side == "liked" and own is not None:
                prior = project(parameters, own)[:, None]
        attention = jnp.zeros((len(weight), 1, weight.shape[1]), embedded.dtype)
        if f"query.{side}" in parameters:
            attention = parameters[f"query.{side}"] @ embedded.mT / embedded.shape[-1] ** 0.5
        found.append(means(embedded, weight, attention, prior, strength))
    return Prototypes(*found)


def side_weights(labels: Array, feedback: Feedback, dislike_weight: float) -> tuple[Array, Array]:
    """How much each label counts for the liked and for the disliked side, never below 0.

    Args:
        labels: [T, K] 1 and 0, or standardised ratings.
        feedback: which of the two.
        dislike_weight: of the label 0; ratings weigh by themselves.
    """
    if feedback == "rating":
        return jax.nn.relu(labels), jax.nn.relu(-labels)
    return labels, dislike_weight * (1 - labels)


def means(embedded: Array, weight: Array, attention: Array, prior: Array, strength: Array) -> Array:
    """Weighted means of the shots with a prior, which counts as `strength` shots.

    Prototype m is `(s p_m + Σ_k w_k exp(a_mk) e_k) / (s + Σ_k w_k exp(a_mk))`.

    Args:
        embedded: [T, K, E] shots e.
        weight: [T, K] w, 0 where a shot is not of this side.
        attention: [T, M, K] a; 0 for plain means.
        prior: [T, M, E] p.
        strength: s, above 0.

    Returns:
        [T, M, E] prototypes.
    """
    logits = attention + jnp.log(weight)[:, None]
    own = jnp.broadcast_to(jnp.log(strength), (*logits.shape[:-1], 1))
    share = jax.nn.softmax(jnp.concatenate([own, logits], axis=-1), axis=-1)
    return share[..., :1] * prior + share[..., 1:] @ embedded


def project(parameters: Parameters, vectors: Array) -> Array:
    """[..., D] vectors in the learned space, or divided by the root of D where there is none."""
    if "projection0" not in parameters:
        return vectors / vectors.shape[-1] ** 0.5
    embedded = product(vectors, parameters["projection0"])
    if "projection1" in parameters:
        hidden = jax.nn.relu(embedded + parameters["hidden"])
        embedded = product(hidden, parameters["projection1"])
    return embedded


def decode(parameters: Parameters, state: Prototypes, queries: Queries) -> Array:
    """[T, N] how much nearer each candidate lies to the liked prototypes than to the disliked ones.

    With one prototype a side that is the difference of the squared distances. `|e|²` is the same on
    both sides and left out, so that a catalogue is embedded once for all tasks.
    """
    embedded = project(parameters, queries.vectors)
    trained = "projection0" in parameters
    temperature = jnp.exp(parameters["log_temperature"]) if trained else 1.0
    near = [
        jax.nn.logsumexp(
            temperature * (2 * embedded @ side.mT - (side**2).sum(-1)[:, None]), axis=-1
        )
        for side in (state.liked, state.disliked)
    ]
    scores = near[0] - near[1]
    if trained:
        scores = scores + parameters["bias"]
    if "extra" in parameters:
        scores = scores + queries.extra @ parameters["extra"]
    return scores
