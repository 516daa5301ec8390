"""MWUF: a common first embedding, scaled by a new item's text and shifted by its first users."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar

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
    ColdAndWarm,
    Draw,
    Method,
    NewItems,
    Parameters,
    as_factors,
    warmed_up,
)
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import Loss, OuterLoop, OuterLoss
from metarec.warm_up import check_settings, initial_mwuf


class MWUF:
    """Meta warm-up framework (MWUF: Zhu et al. 2021, arXiv 2105.04790) on a frozen factorisation.

    Every new item begins with the mean embedding of the known ones, takes gradient steps on the
    feedback of its first users, and is then warmed: `scaling(content) ⊙ v + shifting(users)`, where
    the scaling network sees the item's text and the shifting network the mean of the factors of the
    users whose feedback counts. Both networks are trained on the users to be scored after that.
    New users are folded into the factorisation, and known items keep their factors there.

    Args: those of its twin, `metarec.torch.mwuf.MWUF`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        cold_weight: float = 0.5,
        warm_up_steps: int = 1,
        warm_up_learning_rate: float = 0.03,
        cold_share: float = 0.5,
        embedding_size: int = 32,
        hidden_sizes: tuple[int, ...] = (64,),
        outer_loss: OuterLoss = "auto",
        steps: int = 1000,
        learning_rate: float = 3e-3,
        weight_decay: float = 1.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        check_settings(cold_share, warm_up_steps, warm_up_learning_rate, cold_weight)
        self.cold_weight, self.cold_share = cold_weight, cold_share
        self.warm_up_steps, self.warm_up_learning_rate = warm_up_steps, warm_up_learning_rate
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
        """Factorises meta-train and meta-trains the scaling and the shifting network."""
        self._side = training
        return warm_up.fit(
            training, self.embedding_size, self._initial, self._drawn, self._gradients,
            self.outer, self.outer_loss, self.devices, "MWUF",
        )  # fmt: skip

    def _initial(self, inputs: FactorInputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_mwuf(inputs, rng, self.hidden_sizes)

    def _drawn(self, draw: Draw, step: int) -> ColdAndWarm:
        return warm_up.cold_and_warm(
            draw, step, cold_weight=self.cold_weight, cold_share=self.cold_share
        )

    def _gradients(self, draw: Draw) -> Gradients:
        def loss_of(parameters: Parameters, drawn: ColdAndWarm) -> Array:
            return warm_up.cold_and_warm_loss(
                parameters, draw, drawn, generate, self._warm(draw.loss),
                cold_weight=self.cold_weight,
            )  # fmt: skip

        return warm_up.gradients_of(loss_of)

    def _warm(self, loss: Loss) -> Callable[[Parameters, NewItems], Array]:
        return bound(
            warm, loss=loss, steps=self.warm_up_steps, learning_rate=self.warm_up_learning_rate
        )

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> MWUF:
        """The same learner with every support set ignored: nobody folded in, nothing warmed up."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Folds new users in, or warms the common embedding of new items up."""
        side = loops.side_of(self._side, type(self).__name__)
        loss = loops.pointwise(side.feedback)
        method = Method(as_factors, catalogue, self._warm(loss))
        return warm_up.adapt(
            method, side, meta_parameters, support, self.devices, self.ignore_support
        )

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return warm_up.score(fast_weights, candidates)


def generate(parameters: Parameters, content: Array) -> Array:
    """[..., F] embeddings of items with [..., D] contents that nobody has given feedback on."""
    return warmed(parameters, parameters["items.mean"], content, parameters["users.mean"][None])


def warmed(parameters: Parameters, items: Array, content: Array, users: Array) -> Array:
    """`scaling(content) ⊙ items + shifting(users)`; untrained networks give about 1 and 0.

    The scaling works on the axes of `turn`, and its network speaks in the spread of the known items
    around their mean embedding.

    Args:
        parameters: of both networks.
        items: [..., F] embeddings.
        content: [..., D].
        users: [..., F] mean factors of the items' users.

    Returns:
        [..., F].
    """
    mean = parameters["items.mean"]
    spread = jnp.linalg.norm(parameters["items.scale"]) / jnp.maximum(jnp.linalg.norm(mean), 1e-6)
    scaling = 1 + spread * mlp(parameters, "scaling", content)
    return turn(mean, scaling * turn(mean, items)) + mlp(parameters, "shifting", users)


def turn(mean: Array, items: Array) -> Array:
    """Reflects embeddings so that the mean one has the same value on every axis.

    The axes of a factorisation are arbitrary, and scaling could not move the common embedding along
    one on which it happens to be 0. Products of reflected vectors are those of the vectors
    themselves, and a second reflection undoes the first (Householder 1958).

    Args:
        mean: [F].
        items: [..., F].
    """
    normal = mean - jnp.linalg.norm(mean) / len(mean) ** 0.5
    square = (normal**2).sum()
    # already the same on every axis, up to rounding
    share = jnp.where(square > 1e-12, 2 / jnp.maximum(square, 1e-12), 0)
    return items - share * (items * normal).sum(-1, keepdims=True) * normal


def mean_user(parameters: Parameters, new: NewItems, loss: Loss) -> Array:
    """[T, F] mean of the users whose feedback counts and of the mean user of meta-train."""
    counts = new.mask if loss == "mse" else new.mask * (new.labels > 0)
    total = parameters["users.mean"] + (counts[..., None] * new.shots).sum(1)
    return total / (1 + counts.sum(1, keepdims=True))


def catalogue(parameters: Parameters, items: Catalogue) -> Array:
    """[N, F] factors of known items and warmed common embeddings of the others."""
    return jnp.where(items.known[:, None] > 0, items.items, generate(parameters, items.content))


def warm(
    parameters: Parameters, new: NewItems, *, loss: Loss, steps: int, learning_rate: float
) -> Array:
    """[T, F] warmed embeddings of new items after gradient steps on the feedback on them."""
    start = jnp.broadcast_to(parameters["items.mean"], new.folded.shape)
    cold = warmed_up(
        parameters, start, new.shots, new.labels, new.mask,
        loss=loss, steps=steps, learning_rate=learning_rate,
    )  # fmt: skip
    return warmed(parameters, cold, new.content, mean_user(parameters, new, loss))
