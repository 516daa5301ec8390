"""Meta-gradients through a BERT that adapts, one task after another: memory is that of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from metarec.loops import InnerLoop, Loss, OuterLoss
from metarec.torch.adapted_bert import Prefix
from metarec.torch.inner_loop import pointwise_loss

Weights = Mapping[str, Tensor]


@runtime_checkable
class TextScorer(Protocol):
    """Scores of one user's texts by weights that may be fast ones."""

    def support_scores(
        self, weights: Weights, shots: Prefix, labels: Float32[np.ndarray, " k"]
    ) -> Tensor:
        """[K] scores of the shots, each as if it were not known of the user."""
        ...

    def query_scores(
        self,
        weights: Weights,
        shots: Prefix | None,
        labels: Float32[np.ndarray, " k"],
        candidates: Prefix,
    ) -> Tensor:
        """[N] scores of candidates."""
        ...


@dataclass(frozen=True)
class UserTask:
    """A user's episode, without padding.

    Args:
        shots: texts of the K shots; None at K=0.
        labels: [K] as the context takes them.
        targets: [K] as the inner loss takes them: standardised ratings, or 1 and 0.
        queries: texts of Q queries.
        query_targets: [Q].
    """

    shots: Prefix | None
    labels: Float32[np.ndarray, " k"]
    targets: Float32[np.ndarray, " k"]
    queries: Prefix
    query_targets: Float32[np.ndarray, " q"]


def adapt(
    scorer: TextScorer, weights: Weights, task: UserTask, inner: InnerLoop, loss: Loss
) -> dict[str, Tensor]:
    """Fast weights after the inner loop on the mean loss of the shots.

    Args:
        scorer: of texts.
        weights: all that adapt; they must require gradients.
        task: whose shots they adapt to; without any, nothing adapts.
        inner: steps, learning rate, and order: in first order no graph of a step is kept.
        loss: of a shot.
    """
    fast = dict(weights)
    if task.shots is None:
        return fast
    for _ in range(inner.steps):
        scores = scorer.support_scores(fast, task.shots, task.labels)
        targets = torch.from_numpy(task.targets).to(scores)
        gradients = torch.autograd.grad(
            pointwise_loss(loss, scores, targets).mean(),
            list(fast.values()),
            create_graph=not inner.first_order,
            allow_unused=True,
        )
        fast = {
            name: value if gradient is None else value - inner.learning_rate * gradient
            for (name, value), gradient in zip(fast.items(), gradients, strict=True)
        }
        if inner.first_order:
            # leaves of their own: what was before them is let go
            fast = {name: value.detach().requires_grad_() for name, value in fast.items()}
    return fast


def meta_gradients(
    scorer: TextScorer,
    weights: Weights,
    tasks: Sequence[UserTask],
    inner: InnerLoop,
    loss: Loss,
    kind: OuterLoss,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The outer loss of a batch of tasks and its gradient, exactly, task by task.

    In first order the gradient is that at the fast weights (Finn, Abbeel & Levine 2017, section
    5.2), in second order that at the weights, through all steps.

    Args:
        scorer: of texts.
        weights: the meta-parameters; they must require gradients.
        tasks: of the batch.
        inner: the inner loop; 0 steps are training without adaptation.
        loss: of a shot, and of a query where `kind` is pointwise.
        kind: `pointwise`, a mean over all queries of the batch, or `softmax`, over all positives,
            as in `metarec.torch.episodic.outer_loss`.

    Returns:
        The loss and the gradient of each weight.
    """
    count = sum(
        len(task.query_targets) if kind == "pointwise" else float(task.query_targets.sum())
        for task in tasks
    )
    total: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in weights.items()}
    outer = torch.zeros(())
    for task in tasks:
        fast = adapt(scorer, weights, task, inner, loss)
        scores = scorer.query_scores(fast, task.shots, task.labels, task.queries)
        targets = torch.from_numpy(task.query_targets).to(scores)
        if kind == "pointwise":
            own = pointwise_loss(loss, scores, targets).sum()
        else:
            own = -(torch.log_softmax(scores, dim=0) * targets).sum()
        own = own / max(count, 1)
        at = fast if inner.first_order else dict(weights)
        gradients = torch.autograd.grad(own, list(at.values()), allow_unused=True)
        for name, gradient in zip(at, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient
        outer = outer + own.detach().cpu()
    return outer, total
