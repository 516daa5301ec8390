"""GAR: a generator of embeddings of new items, against a discriminator that ranks them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor
from torch.nn import functional

from metarec import loops
from metarec.factor_inputs import FactorInputs
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import Loss, OuterLoop
from metarec.torch import warm_up
from metarec.torch.layers import mlp
from metarec.torch.training import Gradients, choose_device
from metarec.torch.warm_up import (
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
from metarec.warm_up import GENERATOR, check_gar, check_settings, initial_gar


class GAR:
    """Generative adversarial recommendation (GAR: Chen et al. 2022, SIGIR) on a factorisation.

    The discriminator D is the recommender: the product of a user's and an item's embedding, after
    a network for each side. The generator G makes an item's embedding from its text feature. For a
    user u, an item i that u prefers to an item j, and embeddings v of the factorisation,

        L_D = -log sigmoid(D(u, v_i) - (1 - fake_weight) D(u, v_j) - fake_weight D(u, G(c_i)))
        L_G = -(1 - similarity_weight) log sigmoid(D(u, G(c_i)) - D(u, v_i))
              + similarity_weight ||G(c_i) - v_i||_1

    so that D ranks real embeddings above generated ones, and G is to be ranked as if real. D scores
    known items by v and new ones by G.

    Differs from the paper: each network of D adds to the embedding that it is given, without batch
    normalisation or dropout, so that D begins as the factorisation. All pairs of an episode's
    queries are compared, which in item tasks are two users and one item. Both players take a step
    on each batch at once, and not in turns. Distances are in standard deviations of the known
    items' factors. The paper has no feedback on new items: in item tasks, the generated embedding
    takes gradient steps on it in the factorisation, which training does not look ahead to.

    Ratings are compared in pairs as well, so that scores are an order for every kind of feedback.

    Args:
        fake_weight: how much D is to rank an item above its generated twin and not above other
            items, 1 - alpha in the paper, in [0, 1].
        similarity_weight: how much G is to be near the real embedding and not to be ranked above
            it, beta in the paper, in [0, 1].
        warm_up_steps: gradient steps on a new item's feedback.
        warm_up_learning_rate: of these steps.
        embedding_size: number of factors.
        hidden_sizes: hidden layers of the generator and of the discriminator's two networks.
        steps: outer steps, at the most.
        learning_rate: of the outer loop, for both players.
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
        self.device = choose_device(device)
        self.ignore_support = False
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order, since pairs are compared."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Factorises meta-train and trains the two players."""
        self._side = training
        return warm_up.fit(
            training, self.embedding_size, self._initial, self._gradients,
            self.outer, "auto", self.device, "GAR",
        )  # fmt: skip

    def _initial(self, inputs: FactorInputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_gar(inputs, rng, self.hidden_sizes)

    def _gradients(self, draw: Draw) -> Gradients:
        def gradients(learned: dict[str, Tensor], step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
            return player_gradients(
                draw.statistics, learned, draw.pairs(step), self.fake_weight, self.similarity_weight
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
        warming = functools.partial(
            warm, loss=loss, steps=self.warm_up_steps, learning_rate=self.warm_up_learning_rate
        )
        method = Method(
            lambda parameters, users, _: of_users(parameters, users), catalogue, warming
        )
        return warm_up.adapt(
            method, side, meta_parameters, support, self.device, self.ignore_support
        )

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return warm_up.score(fast_weights, candidates)


def player_gradients(
    statistics: Parameters,
    learned: Mapping[str, Tensor],
    pairs: Pairs,
    fake_weight: float,
    similarity_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of both players' losses, and of each weight the gradient of its own player's loss.

    Args:
        statistics: of the factors.
        learned: weights of both players.
        pairs: users, items and what users think of them.
        fake_weight: see `GAR`.
        similarity_weight: see `GAR`.
    """
    parameters = {**statistics, **learned}
    users = of_users(parameters, pairs.users)
    generated = generate(parameters, pairs.content)
    real = score_pairs(parameters, users, of_items(parameters, pairs.items))
    fake = score_pairs(parameters, users, of_items(parameters, generated))
    weights = comparisons(pairs)
    deviation = (generated - pairs.items).abs() / parameters["items.scale"]
    distance = deviation.sum(-1).expand_as(real)
    losses = {
        True: generator_loss(real, fake, distance, weights, similarity_weight),
        False: discriminator_loss(real, fake, weights, fake_weight),
    }
    gradients: dict[str, Tensor] = {}
    for player, loss in losses.items():
        names = [name for name in learned if name.startswith(GENERATOR) == player]
        values = torch.autograd.grad(
            loss, [learned[name] for name in names], retain_graph=True, materialize_grads=True
        )
        gradients |= dict(zip(names, values, strict=True))
    return (losses[True] + losses[False]).detach(), gradients


def comparisons(pairs: Pairs) -> Tensor:
    """[T, N, N] weights of the pairs of which the first is preferred; they sum to 1, or are all 0.

    An item that only this user has given feedback on has no embedding without it and cannot be
    preferred.
    """
    there = pairs.mask * (pairs.counts > 0)
    above = pairs.labels.unsqueeze(2) > pairs.labels.unsqueeze(1)
    weights = above * there.unsqueeze(2) * pairs.mask.unsqueeze(1)
    return weights / weights.sum().clamp(min=1)


def discriminator_loss(real: Tensor, fake: Tensor, weights: Tensor, fake_weight: float) -> Tensor:
    """-log sigmoid(real_i - (1 - fake_weight) real_j - fake_weight fake_i), weighted.

    Args:
        real: [T, N] scores by the embeddings of the factorisation.
        fake: [T, N] scores of the same pairs by the generated embeddings.
        weights: [T, N, N] of the comparisons of i and j.
        fake_weight: share of the generated embeddings.
    """
    own = (real - fake_weight * fake).unsqueeze(2)
    return (weights * functional.softplus((1 - fake_weight) * real.unsqueeze(1) - own)).sum()


def generator_loss(
    real: Tensor, fake: Tensor, distance: Tensor, weights: Tensor, similarity_weight: float
) -> Tensor:
    """-(1 - similarity_weight) log sigmoid(fake_i - real_i) + similarity_weight distance_i.

    Args:
        real: [T, N] scores by the embeddings of the factorisation.
        fake: [T, N] scores of the same pairs by the generated embeddings.
        distance: [T, N] of the two embeddings.
        weights: [T, N, N] of the comparisons of i and j.
        similarity_weight: share of the distance.
    """
    ranked = (1 - similarity_weight) * functional.softplus(real - fake)
    return (weights.sum(2) * (ranked + similarity_weight * distance)).sum()


def generate(parameters: Parameters, content: Tensor) -> Tensor:
    """[..., F] embeddings of items by their [..., D] standardised text features alone.

    The network speaks in standard deviations around the mean of the known items.
    """
    return parameters["items.mean"] + parameters["items.scale"] * mlp(
        parameters, GENERATOR, content
    )


def of_users(parameters: Parameters, users: Tensor) -> Tensor:
    """[..., F] the discriminator's embeddings of users by their [..., F] factors."""
    return _moved(parameters, "users", users)


def of_items(parameters: Parameters, items: Tensor) -> Tensor:
    """[..., F] the discriminator's embeddings of items by real or generated ones."""
    return _moved(parameters, "items", items)


def _moved(parameters: Parameters, side: str, values: Tensor) -> Tensor:
    mean, scale = parameters[f"{side}.mean"], parameters[f"{side}.scale"]
    return values + scale * mlp(parameters, f"of_{side}", (values - mean) / scale)


def catalogue(parameters: Parameters, items: Catalogue) -> Tensor:
    """[N, F] what the discriminator makes of known items' factors and of generated embeddings."""
    generated = generate(parameters, items.content)
    return of_items(parameters, torch.where(items.known[:, None] > 0, items.items, generated))


def warm(
    parameters: Parameters, new: NewItems, *, loss: Loss, steps: int, learning_rate: float
) -> Tensor:
    """[T, F] what the discriminator makes of generated embeddings after steps on the feedback.

    The steps lower the loss of the factorisation, as if it met the item: its scores are logits or
    ratings, while the discriminator's are an order.
    """
    zero = torch.zeros_like(parameters["bias"])
    items = warmed_up(
        {**parameters, "log_scale": zero, "bias": zero}, generate(parameters, new.content),
        new.shots, new.labels, new.mask, loss=loss, steps=steps, learning_rate=learning_rate,
    )  # fmt: skip
    return of_items(parameters, items)
