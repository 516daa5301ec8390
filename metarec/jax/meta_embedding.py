"""Meta-Embedding: embeddings of new items that rank well at once and better after one step."""

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
from metarec.warm_up import check_settings, initial_meta_embedding


class MetaEmbedding:
    """Meta-Embedding (Pan et al. 2019, arXiv 1904.11547, algorithm 1) on a frozen factorisation.

    An MLP generates the embedding of an item from its text feature. It is trained for two things at
    once: `cold_weight · l_cold + (1 - cold_weight) · l_warm` (their equation 14), where l_cold is
    the loss of scores by the generated embedding, and l_warm that after gradient steps on the
    feedback of K users, differentiated through the steps. New users are folded into the
    factorisation, known items keep their factors there, and new items are generated.

    Args: those of its twin, `metarec.torch.meta_embedding.MetaEmbedding`.
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
        learning_rate: float = 1e-3,
        weight_decay: float = 3.0,
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
        """Factorises meta-train and meta-trains the generator."""
        self._side = training
        return warm_up.fit(
            training, self.embedding_size, self._initial, self._drawn, self._gradients,
            self.outer, self.outer_loss, self.devices, "Meta-Embedding",
        )  # fmt: skip

    def _initial(self, inputs: FactorInputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_meta_embedding(inputs, rng, self.hidden_sizes)

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

    def without_adaptation(self) -> MetaEmbedding:
        """The same learner with every support set ignored: nobody folded in, nothing warmed up."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Folds new users in, or generates and warms up the embeddings of new items."""
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
    """[..., F] embeddings of items by their [..., D] standardised text features alone."""
    return mlp(parameters, "generator", content)


def catalogue(parameters: Parameters, items: Catalogue) -> Array:
    """[N, F] factors of known items and generated embeddings of the others."""
    return jnp.where(items.known[:, None] > 0, items.items, generate(parameters, items.content))


def warm(
    parameters: Parameters, new: NewItems, *, loss: Loss, steps: int, learning_rate: float
) -> Array:
    """[T, F] generated embeddings of new items after gradient steps on the feedback on them."""
    return warmed_up(
        parameters, generate(parameters, new.content), new.shots, new.labels, new.mask,
        loss=loss, steps=steps, learning_rate=learning_rate,
    )  # fmt: skip
