"""GAR: a generator of embeddings of new items, against a discriminator that ranks them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
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
    score_pairs,
    warmed_up,
)
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import Loss, OuterLoop
from metarec.warm_up import GENERATOR, check_gar, check_settings, initial_gar


class GAR:
    """Generative adversarial recommendation (GAR: Chen et al. 2022, SIGIR) on a factorisation.

    The discriminator is the recommender: the product of a user's and an item's embedding, after a
    network for each side. The generator makes an item's embedding from its text feature. The
    discriminator is to rank real embeddings above generated ones, and the generator is to be ranked
    as if real. Known items are scored by their factors and new ones by what is generated. Both
    players take a step on each batch, each along the gradient of its own loss.

    Args: those of its twin, `metarec.torch.gar.GAR`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        fake_weight: float = 0.1,
        similarity_weight: float = 0.3,
        warm_up_steps: int = 1,
        warm_up_learning_rate: float = 0.03,
        embedding_size: int = 32,
        hidden_sizes: tuple[int, ...] = (64,),
        steps: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 3.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        check_gar(fake_weight, similarity_weight)
        check_settings(warm_up_steps=warm_up_steps, warm_up_learning_rate=warm_up_learning_rate)
        self.fake_weight, self.similarity_weight = fake_weight, similarity_weight
        self.warm_up_steps, self.warm_up_learning_rate = warm_up_steps, warm_up_learning_rate
        self.embedding_size, self.hidden_sizes = embedding_size, tuple(hidden_sizes)
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.devices = choose_devices(device)
        self.ignore_support = False
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order, since pairs are compared."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Factorises meta-train and trains the two players."""
        self._side = training
        return warm_up.fit(
            training, self.embedding_size, self._initial, self._drawn, self._gradients,
            self.outer, "auto", self.devices, "GAR",
        )  # fmt: skip

    def _initial(self, inputs: FactorInputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_gar(inputs, rng, self.hidden_sizes)

    def _drawn(self, draw: Draw, step: int) -> Pairs:
        return draw.pairs(step)

    def _gradients(self, draw: Draw) -> Gradients:
        def gradients(
            learned: dict[str, Array], pairs: Pairs, statistics: Parameters, program: Any
        ) -> tuple[Array, Mapping[str, Array]]:
            return player_gradients(
                statistics, learned, pairs, self.fake_weight, self.similarity_weight
            )

        return gradients

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> GAR:
        """The same learner with every support set ignored: nobody folded in, nothing warmed up."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Folds new users in, or generates and warms up the embeddings of new items."""
        side = loops.side_of(self._side, type(self).__name__)
        loss = loops.pointwise(side.feedback)
        warming = bound(
            warm, loss=loss, steps=self.warm_up_steps, learning_rate=self.warm_up_learning_rate
        )
        method = Method(users, catalogue, warming)
        return warm_up.adapt(
            method, side, meta_parameters, support, self.devices, self.ignore_support
        )

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return warm_up.score(fast_weights, candidates)


def player_gradients(
    statistics: Parameters,
    learned: Mapping[str, Array],
    pairs: Pairs,
    fake_weight: float,
    similarity_weight: float,
) -> tuple[Array, dict[str, Array]]:
    """The sum of both players' losses, and of each weight the gradient of its own player's loss.

    Args:
        statistics: of the factors.
        learned: weights of both players.
        pairs: users, items and what users think of them.
        fake_weight: see `metarec.torch.gar.GAR`.
        similarity_weight: see `metarec.torch.gar.GAR`.
    """
    weights = comparisons(pairs)

    def losses(learned: dict[str, Array]) -> tuple[Array, Array]:
        """Of the generator and of the discriminator."""
        parameters = {**statistics, **learned}
        users = of_users(parameters, pairs.users)
        generated = generate(parameters, pairs.content)
        real = score_pairs(parameters, users, of_items(parameters, pairs.items))
        fake = score_pairs(parameters, users, of_items(parameters, generated))
        deviation = jnp.abs(generated - pairs.items) / parameters["items.scale"]
        distance = jnp.broadcast_to(deviation.sum(-1), real.shape)
        return (
            generator_loss(real, fake, distance, weights, similarity_weight),
            discriminator_loss(real, fake, weights, fake_weight),
        )

    (of_generator, of_discriminator), pull = jax.vjp(losses, dict(learned))
    # what a player's loss says of the other's weights is not asked for, and XLA leaves it out
    one, zero = jnp.ones_like(of_generator), jnp.zeros_like(of_generator)
    (generator,), (discriminator,) = pull((one, zero)), pull((zero, one))
    gradients = {
        name: (generator if name.startswith(GENERATOR) else discriminator)[name] for name in learned
    }
    return of_generator + of_discriminator, gradients


def comparisons(pairs: Pairs) -> Array:
    """[T, N, N] weights of the pairs of which the first is preferred; they sum to 1, or are all 0.

    An item that only this user has given feedback on has no embedding without it and cannot be
    preferred.
    """
    there = pairs.mask * (pairs.counts > 0)
    above = pairs.labels[:, :, None] > pairs.labels[:, None]
    weights = above * there[:, :, None] * pairs.mask[:, None]
    return weights / jnp.maximum(weights.sum(), 1)


def discriminator_loss(real: Array, fake: Array, weights: Array, fake_weight: float) -> Array:
    """-log sigmoid(real_i - (1 - fake_weight) real_j - fake_weight fake_i), weighted.

    Args:
        real: [T, N] scores by the embeddings of the factorisation.
        fake: [T, N] scores of the same pairs by the generated embeddings.
        weights: [T, N, N] of the comparisons of i and j.
        fake_weight: share of the generated embeddings.
    """
    own = (real - fake_weight * fake)[:, :, None]
    return (weights * jax.nn.softplus((1 - fake_weight) * real[:, None] - own)).sum()


def generator_loss(
    real: Array, fake: Array, distance: Array, weights: Array, similarity_weight: float
) -> Array:
    """-(1 - similarity_weight) log sigmoid(fake_i - real_i) + similarity_weight distance_i.

    Args:
        real: [T, N] scores by the embeddings of the factorisation.
        fake: [T, N] scores of the same pairs by the generated embeddings.
        distance: [T, N] of the two embeddings.
        weights: [T, N, N] of the comparisons of i and j.
        similarity_weight: share of the distance.
    """
    ranked = (1 - similarity_weight) * jax.nn.softplus(real - fake)
    return (weights.sum(2) * (ranked + similarity_weight * distance)).sum()


def generate(parameters: Parameters, content: Array) -> Array:
    """[..., F] embeddings of items by their [..., D] standardised text features alone.

    The network speaks in standard deviations around the mean of the known items.
    """
    return parameters["items.mean"] + parameters["items.scale"] * mlp(
        parameters, GENERATOR, content
    )


def users(parameters: Parameters, factors: Array, profile: Array) -> Array:
    """`of_users`, which knows a user by their factors alone."""
    return of_users(parameters, factors)


def of_users(parameters: Parameters, users: Array) -> Array:
    """[..., F] the discriminator's embeddings of users by their [..., F] factors."""
    return _moved(parameters, "users", users)


def of_items(parameters: Parameters, items: Array) -> Array:
    """[..., F] the discriminator's embeddings of items by real or generated ones."""
    return _moved(parameters, "items", items)


def _moved(parameters: Parameters, side: str, values: Array) -> Array:
    mean, scale = parameters[f"{side}.mean"], parameters[f"{side}.scale"]
    return values + scale * mlp(parameters, f"of_{side}", (values - mean) / scale)


def catalogue(parameters: Parameters, items: Catalogue) -> Array:
    """[N, F] what the discriminator makes of known items' factors and of generated embeddings."""
    generated = generate(parameters, items.content)
    return of_items(parameters, jnp.where(items.known[:, None] > 0, items.items, generated))


def warm(
    parameters: Parameters, new: NewItems, *, loss: Loss, steps: int, learning_rate: float
) -> Array:
    """[T, F] what the discriminator makes of generated embeddings after steps on the feedback.

    The steps lower the loss of the factorisation, as if it met the item: its scores are logits or
    ratings, while the discriminator's are an order.
    """
    zero = jnp.zeros_like(parameters["bias"])
    items = warmed_up(
        {**parameters, "log_scale": zero, "bias": zero}, generate(parameters, new.content),
        new.shots, new.labels, new.mask, loss=loss, steps=steps, learning_rate=learning_rate,
    )  # fmt: skip
    return of_items(parameters, items)
