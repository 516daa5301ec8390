"""ProtoCF: a new item as the prototype of the users who liked it, refined by groups of items."""

from __future__ import annotations

import copy
import functools
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.amortised import COSINE_SCALE, Similarity, check_protocf, initial_protocf
from metarec.collaborative import factorise
from metarec.inputs import Inputs, Representation
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training, check_served
from metarec.loops import OuterLoop, OuterLoss
from metarec.torch import amortised, batches
from metarec.torch.amortised import Conditioned, Episode, Parameters, Queries, Shots
from metarec.torch.layers import label_values, mlp, per_task, task_vector, with_extra
from metarec.torch.training import choose_device


class Item(NamedTuple):
    """What is known of T new items.

    Args:
        prototype: [T, E] refined prototypes.
        group: [T, E] the part that the groups give.
    """

    prototype: Tensor
    group: Tensor


class ProtoCF:
    """ProtoCF (Sankar et al., RecSys 2021, sections 4.2 to 4.4) for item tasks.

    A new item's prototype is the mean embedding of the K users who gave feedback on it. It attends
    to meta-trained group embeddings, and a gate mixes what they give with the prototype (equations
    of section 4.3). Users are ranked by their scaled similarity to the result. Training distils
    from a base recommender, here the factorisation of meta-train (`metarec.collaborative`): items
    whose factors are alike shall get alike group embeddings.

    Serves item tasks only: its prototypes are means over users, whose embeddings come from their
    own known feedback; for user tasks there is `Prototypical`.

    Differs from the paper: a user's embedding is a meta-trained projection of the profile, where
    the paper has the encoder of a pretrained autoencoder; each shot counts by a learned value of
    its label (1 for a like, 0 for a dislike, a standardised rating as it is at first), where the
    paper knows likes only; a prior from the new item's text counts as `prior_strength` shots, so
    that K=0 is served; a user's activity has a weight of its own in the score; the distillation
    compares each item of a batch with all others by cross-entropy, where the paper samples some.

    Args:
        embedding_size: E, of users, prototypes and groups.
        hidden_sizes: hidden layers of the projection.
        groups: number of group embeddings.
        similarity: `cosine` or `dot`.
        prior_strength: first value of the learned number of shots that the prior counts for.
        distillation_weight: of the distillation; 0 leaves it out.
        representation: `text`, `collaborative` or `both`.
        outer_loss: `pointwise` (cross-entropy or squared error), `softmax` over a task's queries,
            or `auto`: softmax, but pointwise for ratings.
        steps: outer steps, at the most.
        learning_rate: of the outer loop.
        weight_decay: of the outer loop.
        validate_every: outer steps between two looks at meta-validation.
        patience: looks without improvement before stopping.
        device: `auto`, `cpu`, `cuda`, …
    """

    serves: ClassVar[frozenset[str]] = frozenset({"item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        embedding_size: int = 64,
        hidden_sizes: tuple[int, ...] = (64,),
        groups: int = 50,
        similarity: Similarity = "cosine",
        prior_strength: float = 3.0,
        distillation_weight: float = 0.1,
        representation: Representation = "text",
        outer_loss: OuterLoss = "auto",
        steps: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 1.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        check_protocf(groups, similarity, prior_strength, distillation_weight)
        self.embedding_size = embedding_size
        self.hidden_sizes = tuple(hidden_sizes)
        self.groups = groups
        self.similarity: Similarity = similarity
        self.prior_strength = prior_strength
        self.distillation_weight = distillation_weight
        self.representation: Representation = representation
        self.outer_loss: OuterLoss = outer_loss
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.device = choose_device(device)
        self.ignore_support = False
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits (only an order after softmax training)."""
        return loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Meta-trains projection, groups and gate, with the teacher's factors where distilled."""
        check_served(self, training.kind, training.feedback)
        self._side = training
        encode, decode = self._functions()
        teacher = None
        if self.distillation_weight > 0 and training.features is not None:
            teacher = factorise(training).tasks

        def objective(parameters: Parameters, episode: Episode) -> tuple[Tensor, Tensor | float]:
            state = encode(parameters, episode.shots)
            scores = decode(parameters, state, episode.queries)
            if teacher is None:
                return scores, 0.0
            rows = teacher[episode.batch.tasks]
            factors = batches.on_device(batches.floats(rows), self.device)
            return scores, self.distillation_weight * distillation(state.group, factors)

        return amortised.fit(
            training, self.representation, self._initial, objective, self.outer,
            self.outer_loss, self.device, "ProtoCF",
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_protocf(inputs, rng, self.hidden_sizes, self.embedding_size, self.groups)

    def _functions(self) -> tuple[amortised.Encode[Item], amortised.Decode[Item]]:
        return (
            functools.partial(encode, prior_strength=self.prior_strength),
            functools.partial(decode, similarity=self.similarity),
        )

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> ProtoCF:
        """The same learner with every support set ignored: the prior from the item's text."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Conditioned[Item]:
        """The refined prototype of each new item."""
        inputs = loops.inputs_of(self._side, meta_parameters, type(self).__name__)
        return amortised.condition(
            inputs, meta_parameters, support, *self._functions(), self.device, self.ignore_support
        )

    def score(
        self, fast_weights: Conditioned[Item], candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidate users."""
        return amortised.score(fast_weights, candidates)


def embed(parameters: Parameters, vectors: Tensor, extra: Tensor) -> Tensor:
    """[..., E] embeddings of users."""
    return mlp(parameters, "projection", with_extra(vectors, extra))


def encode(parameters: Parameters, shots: Shots, prior_strength: float) -> Item:
    """The refined prototype: `(1 - g) ⊙ p + g ⊙ m` with the prototype p and the groups' part m.

    Args:
        parameters: of the learner; `log_strength` is learned relative to `prior_strength`.
        shots: the users who gave feedback.
        prior_strength: shots that the prior counts for at first.
    """
    users = embed(parameters, shots.vectors, shots.extra)
    values = label_values(parameters, shots.labels) * shots.mask
    prior = task_vector(parameters, "prior", shots.context)
    strength = prior_strength * parameters["log_strength"].exp()
    total = strength * prior + (values.unsqueeze(-1) * users).sum(1)
    prototype = total / (strength + shots.mask.sum(-1, keepdim=True))
    group = grouped(parameters, prototype)
    gate = torch.sigmoid(mlp(parameters, "gate", torch.cat([prototype, group], dim=-1)))
    return Item((1 - gate) * prototype + gate * group, group)


def grouped(parameters: Parameters, prototype: Tensor) -> Tensor:
    """[T, E] mean of the group embeddings, weighted by the prototype's attention to their keys."""
    query = mlp(parameters, "attention", prototype)
    similarity = query @ parameters["keys"].mT / query.shape[-1] ** 0.5
    return torch.softmax(similarity, dim=-1) @ parameters["groups"]


def decode(parameters: Parameters, state: Item, queries: Queries, similarity: Similarity) -> Tensor:
    """[T, N] scaled similarity of users to the refined prototypes, and what activity adds."""
    users = embed(parameters, queries.vectors, queries.extra)
    prototype, scale = state.prototype, parameters["log_scale"].exp()
    if similarity == "cosine":
        users = torch.nn.functional.normalize(users, dim=-1)
        prototype = torch.nn.functional.normalize(prototype, dim=-1)
        scale = COSINE_SCALE * scale
    else:
        scale = scale / users.shape[-1] ** 0.5
    return (
        scale * per_task(users, prototype)
        + queries.extra @ parameters["extra"]
        + parameters["bias"]
    )


def distillation(group: Tensor, factors: Tensor) -> Tensor:
    """Cross-entropy between how near items lie to each other for the teacher and for the groups.

    The teacher's shares of the other items are a softmax of the scaled cosines of the factors, the
    learner's a softmax of minus the squared distances of the groups' parts.

    Args:
        group: [T, E] of the items of a batch.
        factors: [T, F] of the teacher; items without factors are left out.

    Returns:
        The mean over items; 0 where fewer than two items have factors.
    """
    known = (factors != 0).any(-1)
    others = known & ~torch.eye(len(known), dtype=torch.bool, device=known.device)
    counted = known & others.any(-1)
    # rows that do not count would have nothing but -inf to sum, and their gradient would not be 0
    absent = ~others & counted.unsqueeze(1)
    unit = torch.nn.functional.normalize(factors, dim=-1)
    shares = torch.softmax((COSINE_SCALE * unit @ unit.mT).masked_fill(absent, -torch.inf), dim=-1)
    squares = ((group.unsqueeze(1) - group) ** 2).sum(-1)
    log_shares = torch.log_softmax((-squares).masked_fill(absent, -torch.inf), dim=-1)
    losses = -(shares * log_shares.masked_fill(~others, 0)).sum(-1)
    return (losses * counted).sum() / counted.sum().clamp(min=1)
