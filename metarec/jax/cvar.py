"""CVAR: embeddings of new items, decoded from a latent variable that their content predicts."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32

from metarec import loops
from metarec.factor_inputs import FactorInputs
from metarec.jax import warm_up
from metarec.jax.compiled import bound
from metarec.jax.devices import choose_devices
from metarec.jax.layers import mlp
from metarec.jax.training import Gradients
from metarec.jax.warm_up import (
    Adapted,
    Catalogue,
    Draw,
    Method,
    NewItems,
    Pairs,
    Parameters,
    as_factors,
    score_pairs,
    warmed_up,
)
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import Loss, OuterLoop, OuterLoss
from metarec.warm_up import DEVIATION, check_cvar, check_settings, initial_cvar, latent_noise


class Latent(NamedTuple):
    """Normal distributions with independent coordinates.

    Args:
        mean: [..., Z].
        deviation: [..., Z] standard deviations.
    """

    mean: Array
    deviation: Array


class Drawn(NamedTuple):
    """What `outer_loss` sees of a step.

    Args:
        pairs: of a task and its queries.
        new: the tasks with their shots, in item tasks; else None.
        cold: [T, N or 1] true where an item is seen as new.
        of_encoder: [T, N or 1, Z] standard normal noise.
        of_prior: [T, N or 1, Z] likewise.
    """

    pairs: Pairs
    new: NewItems | None
    cold: Array
    of_encoder: Array
    of_prior: Array


class CVAR:
    """CVAR (Zhao et al. 2022, arXiv 2205.13795) on a frozen factorisation.

    A conditional variational autoencoder of the known items' embeddings: an encoder gives q(z|v), a
    decoder gives the embedding from z and the item's frequency, and a third network predicts from
    the item's text the prior p(z|c) that q is to be near in the 2-Wasserstein distance. An item's
    loss is that of users' scores by the embedding that is decoded from a z of the prior, plus
    `reconstruction_weight · |v - decoded(z of q)|²`, plus `alignment_weight · W₂²(q, p)`. New items
    are decoded from the mean of their prior; new users are folded into the factorisation, and known
    items keep their factors there.

    Args: those of its twin, `metarec.torch.cvar.CVAR`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        reconstruction_weight: float = 1.0,
        alignment_weight: float = 0.1,
        latent_size: int = 16,
        warm_up_steps: int = 1,
        warm_up_learning_rate: float = 0.03,
        cold_share: float = 0.5,
        embedding_size: int = 32,
        hidden_sizes: tuple[int, ...] = (64,),
        outer_loss: OuterLoss = "auto",
        steps: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 3.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        check_cvar(reconstruction_weight, alignment_weight, latent_size)
        check_settings(cold_share, warm_up_steps, warm_up_learning_rate)
        self.reconstruction_weight = reconstruction_weight
        self.alignment_weight, self.latent_size = alignment_weight, latent_size
        self.warm_up_steps, self.warm_up_learning_rate = warm_up_steps, warm_up_learning_rate
        self.cold_share = cold_share
        self.embedding_size, self.hidden_sizes = embedding_size, tuple(hidden_sizes)
        self.outer_loss: OuterLoss = outer_loss
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.devices = choose_devices(device)
        self.ignore_support = False
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits (only an order after softmax training)."""
        return loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Factorises meta-train and trains the autoencoder."""
        self._side = training
        return warm_up.fit(
            training, self.embedding_size, self._initial, self._drawn, self._gradients,
            self.outer, self.outer_loss, self.devices, "CVAR",
        )  # fmt: skip

    def _initial(self, inputs: FactorInputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_cvar(inputs, rng, self.hidden_sizes, self.latent_size)

    def _drawn(self, draw: Draw, step: int) -> Drawn:
        pairs = draw.pairs(step)
        new = draw.warm_ups(step).new if draw.of_items else None
        cold: Any = draw.cold(pairs, step, self.cold_share)
        noise: Any = latent_noise(draw.seed, step, (*pairs.counts.shape, self.latent_size))
        return Drawn(pairs, new, cold, *noise)

    def _gradients(self, draw: Draw) -> Gradients:
        return warm_up.gradients_of(
            lambda parameters, drawn: outer_loss(
                parameters, draw, drawn,
                reconstruction_weight=self.reconstruction_weight,
                alignment_weight=self.alignment_weight,
            )
        )  # fmt: skip

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> CVAR:
        """The same learner with every support set ignored: nobody folded in, nothing warmed up."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Folds new users in, or decodes and warms up the embeddings of new items."""
        side = loops.side_of(self._side, type(self).__name__)
        loss = loops.pointwise(side.feedback)
        warming = bound(
            warm, loss=loss, steps=self.warm_up_steps, learning_rate=self.warm_up_learning_rate
        )
        method = Method(as_factors, catalogue, warming)
        return warm_up.adapt(
            method, side, meta_parameters, support, self.devices, self.ignore_support
        )

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return warm_up.score(fast_weights, candidates)


def outer_loss(
    parameters: Parameters,
    draw: Draw,
    drawn: Drawn,
    *,
    reconstruction_weight: float,
    alignment_weight: float,
) -> Array:
    """Loss of scores by embeddings of the prior, and the two terms of the autoencoder, at a step.

    The mean of the latter is over the items that have an embedding without the user's feedback.
    """
    pairs = drawn.pairs
    seen = jnp.zeros_like(pairs.counts)
    if drawn.new is not None:
        seen = shots_that_count(drawn.new, draw.loss)[:, None]
    expected, inferred = prior(parameters, pairs.content), posterior(parameters, pairs.items)
    generated = decode(parameters, sample(expected, drawn.of_prior), seen)
    items = jnp.where(drawn.cold[..., None], generated, pairs.items)
    scores = score_pairs(parameters, pairs.users, items)
    loss = draw.outer_loss(scores, pairs.labels, pairs.mask)

    decoded = decode(parameters, sample(inferred, drawn.of_encoder), pairs.counts)
    error = (((decoded - pairs.items) / parameters["items.scale"]) ** 2).mean(-1)
    distance = wasserstein(inferred, expected) / inferred.mean.shape[-1]
    # one item of many users counts once
    there = (pairs.counts > 0) * pairs.mask[:, : pairs.counts.shape[1]]
    both = reconstruction_weight * error + alignment_weight * distance
    return loss + (both * there).sum() / jnp.maximum(there.sum(), 1)


def posterior(parameters: Parameters, items: Array) -> Latent:
    """q(z|v) of [..., F] embeddings of items."""
    standardised = (items - parameters["items.mean"]) / parameters["items.scale"]
    return _latent(mlp(parameters, "encoder", standardised))


def prior(parameters: Parameters, content: Array) -> Latent:
    """p(z|c) of items by their [..., D] standardised text features alone."""
    return _latent(mlp(parameters, "prior", content))


def _latent(values: Array) -> Latent:
    mean, log_variance = jnp.split(values, 2, axis=-1)
    return Latent(mean, DEVIATION * jnp.exp(log_variance / 2))


def sample(latent: Latent, noise: Array) -> Array:
    """[..., Z] values of standard normal noise in the distributions, open to gradients."""
    return latent.mean + latent.deviation * noise


def wasserstein(one: Latent, other: Latent) -> Array:
    """[...] squared 2-Wasserstein distances: |mean - mean'|² + |deviation - deviation'|²."""
    means = ((one.mean - other.mean) ** 2).sum(-1)
    return means + ((one.deviation - other.deviation) ** 2).sum(-1)


def decode(parameters: Parameters, latent: Array, counts: Array) -> Array:
    """Embeddings of items.

    Args:
        parameters: of the decoder, which speaks in standard deviations around the mean item.
        latent: [..., Z].
        counts: [...] feedback that counts of each item.

    Returns:
        [..., F].
    """
    values = jnp.concatenate([latent, jnp.log1p(counts)[..., None]], axis=-1)
    return parameters["items.mean"] + parameters["items.scale"] * mlp(parameters, "decoder", values)


def generate(parameters: Parameters, content: Array, counts: Array) -> Array:
    """[..., F] embeddings of items by their [..., D] text features and [...] counts alone."""
    return decode(parameters, prior(parameters, content).mean, counts)


def shots_that_count(new: NewItems, loss: Loss) -> Array:
    """[T] number of ratings or positives among the first feedback on new items."""
    counted = new.mask if loss == "mse" else new.mask * (new.labels > 0)
    return counted.sum(1)


def catalogue(parameters: Parameters, items: Catalogue) -> Array:
    """[N, F] factors of known items and generated embeddings of the others."""
    generated = generate(parameters, items.content, jnp.zeros_like(items.known))
    return jnp.where(items.known[:, None] > 0, items.items, generated)


def warm(
    parameters: Parameters, new: NewItems, *, loss: Loss, steps: int, learning_rate: float
) -> Array:
    """[T, F] generated embeddings of new items after gradient steps on the feedback on them.

    The steps lower the loss of the factorisation, as if it met the item: its scores are logits or
    ratings, while what training makes of them may be an order only.
    """
    zero = jnp.zeros_like(parameters["bias"])
    start = generate(parameters, new.content, shots_that_count(new, loss))
    return warmed_up(
        {**parameters, "log_scale": zero, "bias": zero}, start, new.shots, new.labels, new.mask,
        loss=loss, steps=steps, learning_rate=learning_rate,
    )  # fmt: skip
