"""DropoutNet: towers over factors and contents, trained to do without the factors."""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.factor_inputs import FactorInputs
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop, OuterLoss
from metarec.torch import batches, warm_up
from metarec.torch.layers import mlp
from metarec.torch.training import Gradients, choose_device
from metarec.torch.warm_up import (
    Adapted,
    Catalogue,
    Draw,
    Method,
    NewItems,
    Parameters,
    score_pairs,
)
from metarec.warm_up import Target, check_dropoutnet, chosen, initial_dropoutnet


class DropoutNet:
    """DropoutNet (Volkovs, Yu & Poutanen 2017, equations 3 to 5) on a frozen factorisation.

    A user tower sees a user's factors and content, an item tower an item's, and the product of what
    they give is the score. In training the factors of a share of the users and items are dropped,
    so that the towers learn to make up for them from content, as they must for what is new. New
    tasks are folded into the factorisation, known candidates have their factors there, and new
    items have content only.

    Differs from the paper: a user's content is the weighted mean of the text features of what they
    gave feedback on. A new task is represented by a fold-in, where their transform is the mean of
    the factors of its feedback, and in training each task is one. Dropped factors are replaced by
    those of the mean user or item, which are 0 when standardised. `target=labels` is not in the
    paper: the labels of the episodes in place of the base model's scores.

    Args:
        dropout: share of the users and of the items whose factors are dropped in training.
        target: what the products are trained towards: `base`, the base model's own scores, by the
            squared error, or `labels`, by the outer loss.
        output_size: length of what the towers give.
        embedding_size: number of factors.
        hidden_sizes: hidden layers of the towers.
        outer_loss: `pointwise` (cross-entropy or squared error), `softmax` over a task's queries,
            or `auto`: softmax, but pointwise for ratings. For `target=labels`.
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
        self.device = choose_device(device)
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
            training, self.embedding_size, self._initial, self._gradients,
            self.outer, self.outer_loss, self.device, "DropoutNet",
        )  # fmt: skip

    def _initial(self, inputs: FactorInputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_dropoutnet(inputs, rng, self.hidden_sizes, self.output_size)

    def _gradients(self, draw: Draw) -> Gradients:
        return draw.gradients(
            lambda parameters, step: outer_loss(parameters, draw, step, self.dropout, self.target)
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
            method, side, meta_parameters, support, self.device, self.ignore_support
        )

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return warm_up.score(fast_weights, candidates)


def tower(parameters: Parameters, side: str, factors: Tensor, content: Tensor) -> Tensor:
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
    return mlp(parameters, name, torch.cat([standardised, content], dim=-1))


def dropped(parameters: Parameters, side: str, factors: Tensor, drop: Tensor) -> Tensor:
    """[..., F] factors, those of the mean user or item where [...] `drop` is true."""
    return torch.where(drop.unsqueeze(-1), parameters[f"{side}.mean"], factors)


def users(parameters: Parameters, factors: Tensor, profile: Tensor) -> Tensor:
    """[..., E] embeddings of users by their factors and contents."""
    return tower(parameters, "users", factors, profile)


def catalogue(parameters: Parameters, items: Catalogue) -> Tensor:
    """[N, E] embeddings of items, by content alone where the base model has no factors."""
    factors = dropped(parameters, "items", items.items, items.known == 0)
    return tower(parameters, "items", factors, items.content)


def new_items(parameters: Parameters, new: NewItems) -> Tensor:
    """[T, E] embeddings of new items by content and what their feedback folds in."""
    return tower(parameters, "items", new.folded, new.content)


def outer_loss(
    parameters: Parameters, draw: Draw, step: int, dropout: float, target: Target
) -> Tensor:
    """Loss of the products of the towers, with the factors of some users and items dropped."""
    pairs, rng = draw.pairs(step), draw.rng(step)
    factors = {"users": pairs.users, "items": pairs.items}
    if draw.of_items:
        factors["items"] = pairs.folded
    for side in factors:
        drawn = chosen(rng, tuple(factors[side].shape[:2]), dropout)
        drop = batches.on_device(drawn, draw.device)
        factors[side] = dropped(parameters, side, factors[side], drop)
    embedded = (
        tower(parameters, "users", factors["users"], pairs.profile),
        tower(parameters, "items", factors["items"], pairs.content),
    )
    if target == "labels":
        scores = score_pairs(parameters, *embedded)
        return draw.outer_loss(scores, pairs.labels, pairs.mask)
    error = (embedded[0] * embedded[1]).sum(-1) - pairs.base
    return (pairs.mask * error**2).sum() / pairs.mask.sum().clamp(min=1)
