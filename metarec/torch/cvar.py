"""CVAR: embeddings of new items, decoded from a latent variable that their content predicts."""

from __future__ import annotations

import copy
import functools
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.factor_inputs import FactorInputs
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import Loss, OuterLoop, OuterLoss
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
    warmed_up,
)
from metarec.warm_up import DEVIATION, check_cvar, check_settings, initial_cvar, latent_noise


class Latent(NamedTuple):
    """Normal distributions with independent coordinates.

    Args:
        mean: [..., Z].
        deviation: [..., Z] standard deviations.
    """

    mean: Tensor
    deviation: Tensor


class CVAR:
    """CVAR (Zhao et al. 2022, arXiv 2205.13795) on a frozen factorisation.

    A conditional variational autoencoder of the known items' embeddings: an encoder gives q(z|v), a
    decoder gives the embedding from z and the item's frequency, and a third network predicts from
    the item's text the prior p(z|c) that q is to be near in the 2-Wasserstein distance. An item's
    loss is that of users' scores by the embedding that is decoded from a z of the prior, plus
    `reconstruction_weight · |v - decoded(z of q)|²`, plus `alignment_weight · W₂²(q, p)`. New items
    are decoded from the mean of their prior; new users are folded into the factorisation, and known
    items keep their factors there.

    Differs from the paper: the base model is a matrix factorisation and not a network for
    click-through rates. Frequencies are `log(1 + count)`. In the loss of scores an item has the
    frequency that it has in evaluation: 0 among the candidates of users, of which a share is as if
    new, and in item tasks the number of its shots that count. The squared error is in standard
    deviations of the known items' factors, and both it and W₂² are means over coordinates. The
    standard deviations of z begin at `DEVIATION`, since noise as wide as the differences between
    items hides them. In item tasks the decoded embedding takes gradient steps on the item's
    feedback, as the paper's does, but the autoencoder is not trained on that feedback.

    Args:
        reconstruction_weight: of the squared error of the decoded embeddings of known items.
        alignment_weight: of the distance between q and p.
        latent_size: Z.
        warm_up_steps: gradient steps on a new item's feedback.
        warm_up_learning_rate: of these steps.
        cold_share: share of the training queries of user tasks that are seen as new items.
        embedding_size: number of factors.
        hidden_sizes: hidden layers of the three networks.
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
        self.device = choose_device(device)
        self.ignore_support = False
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits (only an order after softmax training)."""
        return loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Factorises meta-train and trains the autoencoder."""
        self._side = training
        return warm_up.fit(
            training, self.embedding_size, self._initial, self._gradients,
            self.outer, self.outer_loss, self.device, "CVAR",
        )  # fmt: skip

    def _initial(self, inputs: FactorInputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_cvar(inputs, rng, self.hidden_sizes, self.latent_size)

    def _gradients(self, draw: Draw) -> Gradients:
        return draw.gradients(
            lambda parameters, step: outer_loss(
                parameters, draw, step,
                cold_share=self.cold_share,
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
        warming = functools.partial(
            warm, loss=loss, steps=self.warm_up_steps, learning_rate=self.warm_up_learning_rate
        )
        method = Method(lambda _, users, __: users, catalogue, warming)
        return warm_up.adapt(
            method, side, meta_parameters, support, self.device, self.ignore_support
        )

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return warm_up.score(fast_weights, candidates)


def outer_loss(
    parameters: Parameters,
    draw: Draw,
    step: int,
    *,
    cold_share: float,
    reconstruction_weight: float,
    alignment_weight: float,
) -> Tensor:
    """Loss of scores by embeddings of the prior, and the two terms of the autoencoder, at a step.

    The mean of the latter is over the items that have an embedding without the user's feedback.
    """
    pairs = draw.pairs(step)
    seen = torch.zeros_like(pairs.counts)
    if draw.of_items:
        seen = shots_that_count(draw.warm_ups(step).new, draw.loss).unsqueeze(1)
    # the encoder's and the prior's own noise
    latent_size = parameters["decoder0.weight"].shape[0] - 1
    noise = latent_noise(draw.seed, step, (*pairs.content.shape[:-1], latent_size))
    of_encoder, of_prior = batches.on_device(noise, draw.device).to(pairs.items.dtype)
    expected, inferred = prior(parameters, pairs.content), posterior(parameters, pairs.items)
    generated = decode(parameters, sample(expected, of_prior), seen)
    cold = draw.cold(pairs.content, step, cold_share).unsqueeze(-1)
    items = torch.where(cold, generated, pairs.items)
    scores = score_pairs(parameters, pairs.users, items)
    loss = draw.outer_loss(scores, pairs.labels, pairs.mask)

    decoded = decode(parameters, sample(inferred, of_encoder), pairs.counts)
    error = ((decoded - pairs.items) / parameters["items.scale"]).square().mean(-1)
    distance = wasserstein(inferred, expected) / inferred.mean.shape[-1]
    # one item of many users counts once
    there = (pairs.counts > 0) * pairs.mask[:, : pairs.counts.shape[1]]
    both = reconstruction_weight * error + alignment_weight * distance
    return loss + (both * there).sum() / there.sum().clamp(min=1)


def posterior(parameters: Parameters, items: Tensor) -> Latent:
    """q(z|v) of [..., F] embeddings of items."""
    standardised = (items - parameters["items.mean"]) / parameters["items.scale"]
    return _latent(mlp(parameters, "encoder", standardised))


def prior(parameters: Parameters, content: Tensor) -> Latent:
    """p(z|c) of items by their [..., D] standardised text features alone."""
    return _latent(mlp(parameters, "prior", content))


def _latent(values: Tensor) -> Latent:
    mean, log_variance = values.chunk(2, dim=-1)
    return Latent(mean, DEVIATION * (log_variance / 2).exp())


def sample(latent: Latent, noise: Tensor) -> Tensor:
    """[..., Z] values of standard normal noise in the distributions, open to gradients."""
    return latent.mean + latent.deviation * noise


def wasserstein(one: Latent, other: Latent) -> Tensor:
    """[...] squared 2-Wasserstein distances: |mean - mean'|² + |deviation - deviation'|²."""
    means = (one.mean - other.mean).square().sum(-1)
    return means + (one.deviation - other.deviation).square().sum(-1)


def decode(parameters: Parameters, latent: Tensor, counts: Tensor) -> Tensor:
    """Embeddings of items.

    Args:
        parameters: of the decoder, which speaks in standard deviations around the mean item.
        latent: [..., Z].
        counts: [...] feedback that counts of each item.

    Returns:
        [..., F].
    """
    values = torch.cat([latent, counts.log1p().unsqueeze(-1)], dim=-1)
    return parameters["items.mean"] + parameters["items.scale"] * mlp(parameters, "decoder", values)


def generate(parameters: Parameters, content: Tensor, counts: Tensor) -> Tensor:
    """[..., F] embeddings of items by their [..., D] text features and [...] counts alone."""
    return decode(parameters, prior(parameters, content).mean, counts)


def shots_that_count(new: NewItems, loss: Loss) -> Tensor:
    """[T] number of ratings or positives among the first feedback on new items."""
    counted = new.mask if loss == "mse" else new.mask * (new.labels > 0)
    return counted.sum(1)


def catalogue(parameters: Parameters, items: Catalogue) -> Tensor:
    """[N, F] factors of known items and generated embeddings of the others."""
    generated = generate(parameters, items.content, torch.zeros_like(items.known))
    return torch.where(items.known[:, None] > 0, items.items, generated)


def warm(
    parameters: Parameters, new: NewItems, *, loss: Loss, steps: int, learning_rate: float
) -> Tensor:
    """[T, F] generated embeddings of new items after gradient steps on the feedback on them.

    The steps lower the loss of the factorisation, as if it met the item: its scores are logits or
    ratings, while what training makes of them may be an order only.
    """
    zero = torch.zeros_like(parameters["bias"])
    start = generate(parameters, new.content, shots_that_count(new, loss))
    return warmed_up(
        {**parameters, "log_scale": zero, "bias": zero}, start, new.shots, new.labels, new.mask,
        loss=loss, steps=steps, learning_rate=learning_rate,
    )  # fmt: skip
