"""R2-D2: ridge regression on the support set, in closed form, in a meta-trained embedding."""

from __future__ import annotations

import copy
import functools
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.amortised import check_r2d2, initial_r2d2
from metarec.inputs import Inputs, Representation
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop, OuterLoss
from metarec.torch import amortised
from metarec.torch.amortised import Conditioned, Parameters, Queries, Shots
from metarec.torch.layers import label_values, mlp, per_task, task_vector, with_extra
from metarec.torch.training import choose_device


class Weights(NamedTuple):
    """Ridge solution of T tasks.

    Args:
        weights: [T, E].
    """

    weights: Tensor


class R2D2:
    """Differentiable ridge regression (R2-D2: Bertinetto et al. 2019, equations 4 to 6).

    A task's weights are the exact ridge solution on its shots in a meta-trained embedding, and the
    outer loop differentiates through the solution. The Woodbury identity makes it a K × K system.
    The regularisation, and scale and bias of the output, are learned with the embedding.

    Differs from the paper: the ridge shrinks towards a meta-trained weight vector instead of
    towards 0, so that K=0 is served (by this prior; in item tasks the new item's text moves it);
    the values that labels are regressed to are learned, from 1 and 0 (ratings: standardised);
    the embedding is an MLP on frozen features where the paper has a convolutional network.

    Args:
        embedding_size: E, of the embedding.
        hidden_sizes: hidden layers of the embedding.
        regularisation: first value of the learned ridge penalty, above 0.
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
        regularisation: float = 10.0,
        representation: Representation = "text",
        outer_loss: OuterLoss = "auto",
        steps: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 1.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        check_r2d2(regularisation)
        self.embedding_size = embedding_size
        self.hidden_sizes = tuple(hidden_sizes)
        self.regularisation = regularisation
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
        """Meta-trains the embedding, the prior, the penalty and the output's scale and bias."""
        self._side = training
        return amortised.fit(
            training, self.representation, self._initial,
            amortised.scored_by(self._encode(), decode),
            self.outer, self.outer_loss, self.device, "R2-D2",
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_r2d2(inputs, rng, self.hidden_sizes, self.embedding_size)

    def _encode(self) -> amortised.Encode[Weights]:
        return functools.partial(encode, regularisation=self.regularisation)

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> R2D2:
        """The same learner with every support set ignored: the prior alone."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Conditioned[Weights]:
        """The ridge solution of each task."""
        inputs = loops.inputs_of(self._side, meta_parameters, type(self).__name__)
        return amortised.condition(
            inputs, meta_parameters, support, self._encode(), decode, self.device,
            self.ignore_support,
        )  # fmt: skip

    def score(
        self, fast_weights: Conditioned[Weights], candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates by each task's ridge weights."""
        return amortised.score(fast_weights, candidates)


def embed(parameters: Parameters, vectors: Tensor, extra: Tensor) -> Tensor:
    """[..., E] meta-trained embedding, with about unit length at the start."""
    embedded = mlp(parameters, "embedding", with_extra(vectors, extra))
    return embedded / embedded.shape[-1] ** 0.5


def encode(parameters: Parameters, shots: Shots, regularisation: float) -> Weights:
    """The ridge solution on the shots; the prior where there are none.

    Args:
        parameters: of the learner; `log_penalty` is learned relative to `regularisation`.
        shots: the support sets.
        regularisation: first value of the penalty.
    """
    embedded = embed(parameters, shots.vectors, shots.extra)
    targets = label_values(parameters, shots.labels)
    prior = task_vector(parameters, "prior", shots.context)
    # relative to its first value: weight decay pulls it back to that and not to 1
    penalty = regularisation * parameters["log_penalty"].exp()
    return Weights(ridge(embedded, targets, shots.mask, prior, penalty))


def ridge(
    embedded: Tensor, targets: Tensor, mask: Tensor, prior: Tensor, penalty: Tensor
) -> Tensor:
    """Minimises `|X w - y|² + penalty |w - prior|²` over the shots of each task.

    By the Woodbury identity, `w = prior + X' (X X' + penalty I)⁻¹ (y - X prior)`.

    Args:
        embedded: [T, K, E] rows X.
        targets: [T, K] values y.
        mask: [T, K] 1 where there is a shot, else 0.
        prior: [T, E].
        penalty: [1], above 0.

    Returns:
        [T, E] weights.
    """
    # a row of zeros with residual 0 gets the dual coefficient 0: padding does not matter
    rows = embedded * mask.unsqueeze(-1)
    residual = targets * mask - per_task(rows, prior)
    identity = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    # without a check for singular matrices, which would wait for a GPU: the penalty is above 0
    dual = torch.linalg.solve_ex(rows @ rows.mT + penalty * identity, residual)[0]
    return prior + (rows.mT @ dual.unsqueeze(-1)).squeeze(-1)


def decode(parameters: Parameters, state: Weights, queries: Queries) -> Tensor:
    """[T, N] scores: the linear predictions, scaled and shifted."""
    embedded = embed(parameters, queries.vectors, queries.extra)
    return parameters["log_scale"].exp() * per_task(embedded, state.weights) + parameters["bias"]
