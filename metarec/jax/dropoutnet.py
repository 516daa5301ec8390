"""DropoutNet: towers over factors and contents, trained to do without the factors."""

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
)
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop, OuterLoss
from metarec.warm_up import Target, check_dropoutnet, chosen, initial_dropoutnet


class Drawn(NamedTuple):
    """What `outer_loss` sees of a step.

    Args:
        pairs: of a task and its queries.
        users: [T, 1 or N] true where the factors of a user are dropped.
        items: [T, N or 1] true where the factors of an item are dropped.
    """

    pairs: Pairs
    users: Array
    items: Array


class DropoutNet:
    """DropoutNet (Volkovs, Yu & Poutanen 2017, equations 3 to 5) on a frozen factorisation.

    A user tower sees a user's factors and content, an item tower an item's, and the product of what
    they give is the score. In training the factors of a share of the users and items are dropped,
    so that the towers learn to make up for them from content, as they must for what is new. New
    tasks are folded into the factorisation, known candidates have their factors there, and new
    items have content only.

    Args: those of its twin, `metarec.torch.dropoutnet.DropoutNet`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        dropout: float = 0.5,
        target: Target = "base",
        output_size: int = 64,
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
        check_dropoutnet(dropout, target)
        self.dropout, self.output_size = dropout, output_size
        self.target: Target = target
        self.embedding_size, self.hidden_sizes = embedding_size, tuple(hidden_sizes)
        self.outer_loss: OuterLoss = outer_loss
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.devices = choose_devices(device)
        self.ignore_support = False
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits (only an order after softmax training and for `target=base`)."""
        if feedback != "rating" and self.target == "base":
            return "order"
        return loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Factorises meta-train and trains both towers."""
        self._side = training
        return warm_up.fit(
            training, self.embedding_size, self._initial, self._drawn, self._gradients,
            self.outer, self.outer_loss, self.devices, "DropoutNet",
        )  # fmt: skip

    def _initial(self, inputs: FactorInputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_dropoutnet(inputs, rng, self.hidden_sizes, self.output_size)

    def _drawn(self, draw: Draw, step: int) -> Drawn:
        pairs, rng = draw.pairs(step), draw.rng(step)
        # one generator: the users' draw comes before the items'
        drops: list[Any] = [
            chosen(rng, factors.shape[:2], self.dropout) for factors in (pairs.users, pairs.items)
        ]
        return Drawn(pairs, *drops)

    def _gradients(self, draw: Draw) -> Gradients:
        return warm_up.gradients_of(
            lambda parameters, drawn: outer_loss(parameters, draw, drawn, self.target)
        )

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> DropoutNet:
        """The same learner with every support set ignored: nobody folded in."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Folds the tasks in and passes them through their tower."""
        side = loops.side_of(self._side, type(self).__name__)
        method = Method(users, catalogue, new_items)
        return warm_up.adapt(
            method, side, meta_parameters, support, self.devices, self.ignore_support
        )

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return warm_up.score(fast_weights, candidates)


def tower(parameters: Parameters, side: str, factors: Array, content: Array) -> Array:
    """What a tower gives.

    Args:
        parameters: of both towers.
        side: `users` or `items`.
        factors: [..., F]; those of the mean where they are dropped.
        content: [..., D].

    Returns:
        [..., E].
    """
    standardised = (factors - parameters[f"{side}.mean"]) / parameters[f"{side}.scale"]
    name = f"{side.removesuffix('s')}_tower"
    return mlp(parameters, name, jnp.concatenate([standardised, content], axis=-1))


def dropped(parameters: Parameters, side: str, factors: Array, drop: Array) -> Array:
    """[..., F] factors, those of the mean user or item where [...] `drop` is true."""
    return jnp.where(drop[..., None], parameters[f"{side}.mean"], factors)


def users(parameters: Parameters, factors: Array, profile: Array) -> Array:
    """[..., E] embeddings of users by their factors and contents."""
    return tower(parameters, "users", factors, profile)


def catalogue(parameters: Parameters, items: Catalogue) -> Array:
    """[N, E] embeddings of items, by content alone where the base model has no factors."""
    factors = dropped(parameters, "items", items.items, items.known == 0)
    return tower(parameters, "items", factors, items.content)


def new_items(parameters: Parameters, new: NewItems) -> Array:
    """[T, E] embeddings of new items by content and what their feedback folds in."""
    return tower(parameters, "items", new.folded, new.content)


def outer_loss(parameters: Parameters, draw: Draw, drawn: Drawn, target: Target) -> Array:
    """Loss of the products of the towers, with the factors of some users and items dropped."""
    pairs = drawn.pairs
    of_items = pairs.folded if draw.of_items else pairs.items
    embedded = (
        tower(
            parameters, "users", dropped(parameters, "users", pairs.users, drawn.users),
            pairs.profile,
        ),
        tower(
            parameters, "items", dropped(parameters, "items", of_items, drawn.items), pairs.content
        ),
    )  # fmt: skip
    if target == "labels":
        scores = score_pairs(parameters, *embedded)
        return draw.outer_loss(scores, pairs.labels, pairs.mask)
    error = (embedded[0] * embedded[1]).sum(-1) - pairs.base
    return (pairs.mask * error**2).sum() / jnp.maximum(pairs.mask.sum(), 1)
