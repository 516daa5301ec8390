"""What MAML and transfer learning share: the scorer on episodes, fast weights, catalogues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec.errors import LearnerError
from metarec.inputs import Inputs, initial_parameters
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.torch import inner_loop, reference
from metarec.torch.inner_loop import Engine, Episodes, Loss, masked_mean, pointwise_loss
from metarec.torch.scorer import Parameters, assemble, score_catalogue
from metarec.torch.training import Gradients, OuterLoop, autograd, train

OuterLoss = Literal["auto", "pointwise", "softmax"]


@dataclass(frozen=True)
class InnerLoop:
    """Settings of the inner loop.

    Args:
        steps: gradient steps on the support set.
        learning_rate: of the steps.
        first_order: do not differentiate through the inner gradients.
        engine: `gram`, `vmap`, `learn2learn`, or `auto` for the fastest exact one.
    """

    steps: int
    learning_rate: float
    first_order: bool = False
    engine: Engine = "auto"

    def __post_init__(self) -> None:
        if self.steps < 0 or self.learning_rate < 0:
            raise LearnerError(
                f"inner steps ({self.steps}) and inner learning rate ({self.learning_rate}) must "
                "not be below 0"
            )
        if self.engine not in ("auto", "gram", "vmap", "learn2learn"):
            raise LearnerError(
                f"unknown engine {self.engine!r}; known: auto, gram, vmap, learn2learn"
            )


@dataclass(frozen=True)
class Adapted:
    """Fast weights of T tasks, and what is fixed within a task.

    Args:
        parameters: of the scorer, with a leading task axis (shared where there were no steps).
        context: [T, C, D].
        inputs: of the learner that adapted.
        device: where the weights are.
    """

    parameters: Parameters
    context: Tensor
    inputs: Inputs
    device: torch.device


def pointwise(feedback: Feedback) -> Loss:
    """The loss of a kind of feedback: squared error for ratings, cross-entropy for the others."""
    return "mse" if feedback == "rating" else "bce"


def predicts(feedback: Feedback, kind: OuterLoss) -> Predicts:
    """What a scorer that was trained by this outer loss predicts."""
    if feedback == "rating":
        return "rating"
    return "logit" if chosen_loss(kind, feedback) == "pointwise" else "order"


def chosen_loss(kind: OuterLoss, feedback: Feedback) -> OuterLoss:
    """`auto` is softmax for labels of 1 and 0, which ranks, and pointwise for ratings.

    Raises:
        LearnerError: if ratings are to be learned by softmax, or the name is unknown.
    """
    if kind not in ("auto", "pointwise", "softmax"):
        raise LearnerError(f"learner.outer_loss={kind!r}; known: auto, pointwise, softmax")
    if kind == "softmax" and feedback == "rating":
        raise LearnerError(
            "learner.outer_loss=softmax ranks positives; rating feedback needs pointwise or auto"
        )
    if kind == "auto":
        return "pointwise" if feedback == "rating" else "softmax"
    return kind


def inputs_of(side: Training | None, meta_parameters: MetaParameters, name: str) -> Inputs:
    """The inputs of a learner that was fitted, or was given its side information by `restore`."""
    if side is None or side.features is None:
        raise LearnerError(
            f"{name} knows no features yet: call fit first, or learner.restore(training) before "
            "adapting with saved meta-parameters"
        )
    return Inputs.restore(side.features, side.feedback, meta_parameters)


def outer_loss(kind: OuterLoss, loss: Loss, scores: Tensor, episodes: Episodes) -> Tensor:
    """Loss of the queries' scores, a mean over queries or tasks.

    Args:
        kind: `pointwise` is the mean of `loss` over all queries; `softmax` the cross-entropy of
            each positive among all queries of its task (sampled softmax), for 1 and 0 labels.
        loss: the pointwise loss.
        scores: [T, Q].
        episodes: labels and masks.
    """
    labels, mask = episodes.query_labels, episodes.query_mask
    if kind == "pointwise":
        return masked_mean(pointwise_loss(loss, scores, labels).flatten(), mask.flatten())
    log_share = torch.log_softmax(scores.masked_fill(mask == 0, -torch.inf), dim=-1)
    positive = labels * mask
    return -(log_share.masked_fill(mask == 0, 0) * positive).sum() / positive.sum().clamp(min=1)


def fit(
    training: Training,
    hidden_sizes: tuple[int, ...],
    inner: InnerLoop,
    outer: OuterLoop,
    kind: OuterLoss,
    device: torch.device,
    description: str,
) -> MetaParameters:
    """Meta-trains the scorer: the outer loss of the queries after the inner loop.

    With 0 inner steps this is ordinary training on the same episodes.

    Args:
        training: meta-train.
        hidden_sizes: of the scorer.
        inner: settings of the inner loop.
        outer: settings of the outer loop.
        kind: of the outer loss.
        device: where to train.
        description: what the progress bar says.

    Returns:
        Meta-parameters: the scorer's weights and the statistics of its inputs.
    """
    kind = chosen_loss(kind, training.feedback)
    inputs = Inputs.fit(training)
    rng = np.random.default_rng([training.seed, 1])
    loss = pointwise(training.feedback)

    def loss_of(parameters: dict[str, Tensor], step: int) -> Tensor:
        episodes = episodes_of(inputs, training, step, device)
        scores = inner_loop.query_scores(
            parameters, episodes, loss=loss, steps=inner.steps,
            learning_rate=inner.learning_rate, first_order=inner.first_order, engine=inner.engine,
        )  # fmt: skip
        return outer_loss(kind, loss, scores, episodes)

    def learn2learn_gradients(
        parameters: dict[str, Tensor], step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        module = reference.Module(parameters).to(device)
        episodes = episodes_of(inputs, training, step, device)
        scores = reference.query_scores_learn2learn(
            module, episodes, loss=loss, steps=inner.steps,
            learning_rate=inner.learning_rate, first_order=inner.first_order,
        )  # fmt: skip
        value = outer_loss(kind, loss, scores, episodes)
        value.backward()
        named = {name: parameter.grad for name, parameter in module.named().items()}
        return value.detach(), {
            name: torch.zeros_like(parameters[name])
            if gradient is None
            else (gradient.T if name.endswith("weight") else gradient).contiguous()
            for name, gradient in named.items()
        }

    gradients: Gradients = autograd(loss_of)
    if inner.engine == "learn2learn":
        reference.import_learn2learn()
        gradients = learn2learn_gradients
    return train(
        initial_parameters(inputs, hidden_sizes, rng),
        gradients, training, outer, inputs.statistics, device, description,
    )  # fmt: skip


def episodes_of(inputs: Inputs, training: Training, step: int, device: torch.device) -> Episodes:
    """Assembled inputs of the episodes of a step."""
    arrays = inputs.of_batch(training.sampler.batch(step))

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)

    query = tensor(arrays.query)
    context = tensor(arrays.query_context).unsqueeze(1).expand(-1, query.shape[1], -1, -1)
    return Episodes(
        support=assemble(
            tensor(arrays.support), tensor(arrays.support_context), tensor(arrays.support_extra)
        ),
        support_labels=tensor(arrays.support_labels),
        support_mask=tensor(arrays.support_mask),
        query=assemble(query, context, tensor(arrays.query_extra)),
        query_labels=tensor(arrays.query_labels),
        query_mask=tensor(arrays.query_mask),
    )


def adapt(
    inputs: Inputs,
    meta_parameters: MetaParameters,
    support: Support,
    inner: InnerLoop,
    device: torch.device,
) -> Adapted:
    """Adapts the scorer to T support sets."""
    weights = {
        name: torch.tensor(value, device=device)
        for name, value in meta_parameters.items()
        if not name.startswith("inputs.")
    }
    shots, each, task = inputs.of_support(support)
    context = torch.from_numpy(task).to(device)
    fast: Parameters = weights
    if inner.steps and support.mask.any():
        extra = torch.from_numpy(inputs.extra_columns(support.candidates)).to(device)
        extra = extra * torch.from_numpy(support.mask[..., None]).to(device)
        labels = np.where(support.mask, inputs.targets(support.labels), 0).astype(np.float32)
        with torch.no_grad():
            fast = inner_loop.adapt(
                weights,
                assemble(
                    torch.from_numpy(shots).to(device), torch.from_numpy(each).to(device), extra
                ),
                torch.from_numpy(labels).to(device),
                torch.from_numpy(support.mask.astype(np.float32)).to(device),
                loss=pointwise(inputs.feedback),
                steps=inner.steps,
                learning_rate=inner.learning_rate,
                engine="vmap" if inner.engine == "vmap" else "gram",
            )
    return Adapted(fast, context, inputs, device)


@torch.no_grad()
def score(adapted: Adapted, candidates: Int32[np.ndarray, " c"]) -> Float32[np.ndarray, "tasks c"]:
    """Scores candidates with the fast weights of each task, in the unit of the labels."""
    inputs = adapted.inputs
    vectors = torch.from_numpy(inputs.vectors(candidates)).to(adapted.device)
    extra = torch.from_numpy(inputs.extra_columns(candidates)).to(adapted.device)
    scores = score_catalogue(adapted.parameters, adapted.context, vectors, extra)
    return inputs.to_rating(scores.cpu().numpy())
