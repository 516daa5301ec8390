"""Conditional neural process: the support set as one mean, decoded for each candidate."""

from __future__ import annotations

import copy
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.amortised import initial_neural_process
from metarec.inputs import Inputs, Representation
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop, OuterLoss
from metarec.torch import amortised
from metarec.torch.amortised import Conditioned, Parameters, Queries, Shots
from metarec.torch.layers import mlp, with_extra
from metarec.torch.training import choose_device


class Aggregate(NamedTuple):
    """What is known of T tasks.

    Args:
        rows: [T, R + 1] mean code of the shots and log(1 + their number); in item tasks followed by
            the new item's vector, [T, R + 1 + D].
    """

    rows: Tensor


class ConditionalNeuralProcess:
    """Conditional neural process (Garnelo et al. 2018a, equations 2 to 4).

    An encoder makes a code of each labelled shot, the mean of the codes stands for the task (and 0
    at K=0), and a decoder scores a candidate from its vector and that mean.

    Differs from the paper: the decoder gives the mean of the prediction only, trained by the outer
    loss that all learners share. For labels of 1 and 0 that is the whole distribution; for ratings
    the variance is held at 1, so that the Gaussian likelihood of the paper is the squared error.
    Beside the mean the decoder sees log(1 + number of shots), which a mean forgets, and in item
    tasks the new item's own vector.

    Args:
        embedding_size: R, of a shot's code and its mean.
        hidden_sizes: hidden layers of the encoder and of the decoder, at least one.
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
        hidden_sizes: tuple[int, ...] = (64, 64),
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
        """Meta-trains encoder and decoder."""
        self._side = training
        return amortised.fit(
            training, self.representation, self._initial, amortised.scored_by(encode, decode),
            self.outer, self.outer_loss, self.device, "CNP",
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_neural_process(inputs, rng, self.hidden_sizes, self.embedding_size)

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> ConditionalNeuralProcess:
        """The same learner with every support set ignored."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Conditioned[Aggregate]:
        """The mean code of each task."""
        inputs = loops.inputs_of(self._side, meta_parameters, type(self).__name__)
        return amortised.condition(
            inputs, meta_parameters, support, encode, decode, self.device, self.ignore_support
        )

    def score(
        self, fast_weights: Conditioned[Aggregate], candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return amortised.score(fast_weights, candidates)


def encode(parameters: Parameters, shots: Shots) -> Aggregate:
    """The mean code of the shots of each task; 0 without shots."""
    codes = mlp(parameters, "encoder", labelled(shots.vectors, shots.extra, shots.labels))
    count = shots.mask.sum(-1, keepdim=True)
    rows = [masked_mean(codes, shots.mask), torch.log1p(count)]
    if shots.context.shape[1] > 1:
        rows.append(shots.context[:, 1])
    return Aggregate(torch.cat(rows, dim=-1))


def labelled(vectors: Tensor, extra: Tensor, labels: Tensor) -> Tensor:
    """[T, K, D + E + 1] candidates with their label as the last column."""
    return torch.cat([with_extra(vectors, extra), labels.unsqueeze(-1)], dim=-1)


def masked_mean(codes: Tensor, mask: Tensor) -> Tensor:
    """[T, R] mean of [T, K, R] codes over the shots; 0 without shots."""
    total = (codes * mask.unsqueeze(-1)).sum(1)
    return total / mask.sum(-1, keepdim=True).clamp(min=1)


def decode(parameters: Parameters, state: Aggregate, queries: Queries) -> Tensor:
    """[T, N] scores; see `decoded`."""
    return decoded(parameters, "decoder", queries, state.rows)


def decoded(parameters: Parameters, name: str, queries: Queries, rows: Tensor) -> Tensor:
    """The MLP of this name on `[x, extra, row of the task]`, without putting the two together.

    The first layer is linear: its part for candidates is computed once for all tasks where they
    share the candidates, its part for tasks once for all candidates.

    Args:
        parameters: of the network.
        name: of the network.
        queries: [T, N, ...] or [N, ...] candidates.
        rows: [T, R] of the tasks.

    Returns:
        [T, N].
    """
    candidates = with_extra(queries.vectors, queries.extra)
    weight, bias = parameters[f"{name}0.weight"], parameters[f"{name}0.bias"]
    of_candidates, of_tasks = weight.split([candidates.shape[-1], rows.shape[-1]])
    hidden = candidates @ of_candidates + (rows @ of_tasks + bias).unsqueeze(1)
    return mlp(parameters, name, hidden, first=1).squeeze(-1)
