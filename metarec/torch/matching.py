"""Matching: a candidate is scored by the labels of the shots that it attends to."""

from __future__ import annotations

import copy
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.amortised import NULL_COSINE, SIMILARITY_SCALE, initial_matching
from metarec.inputs import Inputs, Representation
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop, OuterLoss
from metarec.torch import amortised
from metarec.torch.amortised import Conditioned, Parameters, Queries, Shots
from metarec.torch.layers import label_values, mlp, per_task, task_vector, with_extra
from metarec.torch.training import choose_device


class Memory(NamedTuple):
    """What the candidates of T tasks attend to.

    Args:
        keys: [T, K, E] unit vectors of the shots.
        values: [T, K] what their labels count for.
        mask: [T, K].
        prior: [T, E] weights of the score without shots.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor
    prior: Tensor


class Matching:
    """Matching networks (Vinyals et al. 2016, equations 1 and 2) on the support set.

    A candidate's score is `prior(x) + scale · Σ_k a(x, x_k) v(y_k)`: the values of the shots'
    labels, weighted by a softmax of the scaled cosine similarities in a meta-trained embedding. The
    softmax runs over the shots and a null key, as near to every candidate as a learned cosine,
    which stands for the prior alone: near no shot, and at K=0, the score is the prior. For ratings
    the sum is a weighted mean of standardised ratings.

    Differs from the paper: the null key and the prior (linear in the embedding; in item tasks the
    new item's text moves its weights), learned values of the labels (from 1 and 0), a learned
    temperature, and scores instead of class probabilities. Full-context embeddings (its section
    2.1.2, LSTMs over the support set) are left out: they depend on the order of the shots.

    Args:
        embedding_size: E, of the embedding.
        hidden_sizes: hidden layers of the embedding.
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

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        embedding_size: int = 64,
        hidden_sizes: tuple[int, ...] = (64,),
        representation: Representation = "text",
        outer_loss: OuterLoss = "auto",
        steps: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 1.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        self.embedding_size = embedding_size
        self.hidden_sizes = tuple(hidden_sizes)
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
        """Meta-trains the embedding, the prior and the attention."""
        self._side = training
        return amortised.fit(
            training, self.representation, self._initial, amortised.scored_by(encode, decode),
            self.outer, self.outer_loss, self.device, "matching",
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_matching(inputs, rng, self.hidden_sizes, self.embedding_size)

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> Matching:
        """The same learner with every support set ignored: the prior alone."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Conditioned[Memory]:
        """Keys and values of each task's shots."""
        inputs = loops.inputs_of(self._side, meta_parameters, type(self).__name__)
        return amortised.condition(
            inputs, meta_parameters, support, encode, decode, self.device, self.ignore_support
        )

    def score(
        self, fast_weights: Conditioned[Memory], candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return amortised.score(fast_weights, candidates)


def encode(parameters: Parameters, shots: Shots) -> Memory:
    """Keys and values of the shots, and the weights of the prior."""
    embedded = mlp(parameters, "embedding", with_extra(shots.vectors, shots.extra))
    return Memory(
        keys=torch.nn.functional.normalize(embedded, dim=-1),
        values=label_values(parameters, shots.labels),
        mask=shots.mask,
        prior=task_vector(parameters, "prior", shots.context),
    )


def decode(parameters: Parameters, state: Memory, queries: Queries) -> Tensor:
    """[T, N] scores of candidates."""
    embedded = mlp(parameters, "embedding", with_extra(queries.vectors, queries.extra))
    unit = torch.nn.functional.normalize(embedded, dim=-1)
    scale = SIMILARITY_SCALE * parameters["log_temperature"].exp()
    similarity = scale * (unit @ state.keys.mT)
    null = scale * (NULL_COSINE + parameters["null"])
    matched = attended(similarity, state.values, state.mask, null)
    prior = per_task(embedded, state.prior) / embedded.shape[-1] ** 0.5
    return prior + parameters["log_scale"].exp() * matched + parameters["bias"]


def attended(similarity: Tensor, values: Tensor, mask: Tensor, null: Tensor) -> Tensor:
    """Values of the shots, weighted by a softmax over the shots and a null key of value 0.

    Args:
        similarity: [T, N, K] logit of each shot for each candidate.
        values: [T, K].
        mask: [T, K] 1 where there is a shot, else 0.
        null: [1] logit of the null key.

    Returns:
        [T, N]; 0 without shots.
    """
    shown = similarity.masked_fill(mask.unsqueeze(1) == 0, -torch.inf)
    logits = torch.cat([null.expand(*shown.shape[:-1], 1), shown], dim=-1)
    share = torch.softmax(logits, dim=-1)[..., 1:]
    return (share @ values.unsqueeze(-1)).squeeze(-1)
