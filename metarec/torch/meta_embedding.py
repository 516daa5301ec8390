"""Meta-Embedding: embeddings of new items that rank well at once and better after one step."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.factor_inputs import FactorInputs
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import Loss, OuterLoop, OuterLoss
from metarec.torch import warm_up
from metarec.torch.layers import mlp
from metarec.torch.training import Gradients, choose_device
from metarec.torch.warm_up import (
    Adapted,
    Catalogue,
    Draw,
    Method,
    NewItems,
    Parameters,
    warmed_up,
)
from metarec.warm_up import check_settings, initial_meta_embedding


class MetaEmbedding:
    """Meta-Embedding (Pan et al. 2019, arXiv 1904.11547, algorithm 1) on a frozen factorisation.

    An MLP generates the embedding of an item from its text feature. It is trained for two things at
    once: `cold_weight · l_cold + (1 - cold_weight) · l_warm` (their equation 14), where l_cold is
    the loss of scores by the generated embedding, and l_warm that after gradient steps on the
    feedback of K users, differentiated through the steps. New users are folded into the
    factorisation, known items keep their factors there, and new items are generated.

    Differs from the paper: the base model is a matrix factorisation and not a network for
    click-through rates. l_cold is measured on queries and not on the support set, which holds no
    unobserved pair; in user tasks these are the candidates of users, a share of them as if they
    were new, since only a user's episode compares items with each other. l_warm is pointwise there,
    and serves training only: in user tasks new items are ranked before any feedback. The steps
    follow the sum over the shots and not their mean, as supports differ in size.

    Args:
        cold_weight: weight of l_cold, alpha in the paper, in [0, 1].
        warm_up_steps: gradient steps on a new item's feedback.
        warm_up_learning_rate: of these steps.
        cold_share: share of the training queries of user tasks that are seen as new items.
        embedding_size: number of factors.
        hidden_sizes: hidden layers of the generator.
        outer_loss: `pointwise` (cross-entropy or squared error), `softmax` over a task's queries,
            or `auto`: softmax, but pointwise for ratings.
        steps: outer steps, at the most.
        learning_rate: of the outer loop.
        weight_decay: of the outer loop.
        validate_every: outer steps between two looks at meta-validation.
        patience: looks without improvement before stopping.
        device: `auto`, `cpu`, `cuda`, …
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
        self.device = choose_device(device)
        self.ignore_support = False
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits (only an order after softmax training)."""
        return loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Factorises meta-train and meta-trains the generator."""
        self._side = training
        return warm_up.fit(
            training, self.embedding_size, self._initial, self._gradients,
            self.outer, self.outer_loss, self.device, "Meta-Embedding",
        )  # fmt: skip

    def _initial(self, inputs: FactorInputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_meta_embedding(inputs, rng, self.hidden_sizes)

    def _gradients(self, draw: Draw) -> Gradients:
        def loss_of(parameters: Parameters, step: int) -> Tensor:
            return warm_up.cold_and_warm_loss(
                parameters, draw, step, generate, self._warm(draw.loss),
                cold_weight=self.cold_weight, cold_share=self.cold_share,
            )  # fmt: skip

        return draw.gradients(loss_of)

    def _warm(self, loss: Loss) -> Callable[[Parameters, NewItems], Tensor]:
        return functools.partial(
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
        method = Method(lambda _, users, __: users, catalogue, self._warm(loss))
        return warm_up.adapt(
            method, side, meta_parameters, support, self.device, self.ignore_support
        )

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return warm_up.score(fast_weights, candidates)


def generate(parameters: Parameters, content: Tensor) -> Tensor:
    """[..., F] embeddings of items by their [..., D] standardised text features alone."""
    return mlp(parameters, "generator", content)


def catalogue(parameters: Parameters, items: Catalogue) -> Tensor:
    """[N, F] factors of known items and generated embeddings of the others."""
    return torch.where(items.known[:, None] > 0, items.items, generate(parameters, items.content))


def warm(
    parameters: Parameters, new: NewItems, *, loss: Loss, steps: int, learning_rate: float
) -> Tensor:
    """[T, F] generated embeddings of new items after gradient steps on the feedback on them."""
    return warmed_up(
        parameters, generate(parameters, new.content), new.shots, new.labels, new.mask,
        loss=loss, steps=steps, learning_rate=learning_rate,
    )  # fmt: skip
