"""Meta-gradients through a BERT that adapts, one task after another: memory is that of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec.inputs import Inputs
from metarec.loops import InnerLoop, Loss, OuterLoss
from metarec.torch.inner_loop import pointwise_loss
from metarec.torch.text_batches import Change, Texts

Weights = Mapping[str, Tensor]
Rates = Callable[[str], float]
"""From the name of a weight to its inner learning rate."""
Shown = Int32[np.ndarray, " k"]
Asked = Int32[np.ndarray, " n"]
Labels = Float32[np.ndarray, " k"]


@runtime_checkable
class TextScorer(Protocol):
    """Scores of one user's texts by weights that may be fast ones.

    Attributes:
        inputs: what labels are as targets and in the context.
        device: where scores are computed.
        loss_scale: what losses are multiplied by, and gradients divided by, so that half precision
            does not lose small ones.
    """

    @property
    def inputs(self) -> Inputs:
        """See above."""
        ...

    @property
    def device(self) -> torch.device:
        """See above."""
        ...

    @property
    def loss_scale(self) -> float:
        """See above."""
        ...

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The first weights: pretrained where there are such, else drawn."""
        ...

    def texts_of_shots(self, shots: Shown, labels: Labels) -> Texts:
        """What is read of each of K shots, before anything adapts."""
        ...

    def texts_of_candidates(self, shots: Shown, labels: Labels, candidates: Asked) -> Texts:
        """What is read of N candidates for the user of K shots, before anything adapts."""
        ...

    def support_scores(
        self, weights: Weights, shots: Texts, context_weights: Float32[Tensor, " k"]
    ) -> Tensor:
        """[K] scores of the shots, each as if it were not known of the user."""
        ...

    def query_scores(
        self,
        weights: Weights,
        shots: Texts | None,
        context_weights: Float32[Tensor, " k"],
        candidates: Texts,
    ) -> Tensor:
        """[N] scores of candidates; without shots at K=0."""
        ...


@dataclass(frozen=True)
class Shots:
    """A user's support set, without padding.

    Args:
        texts: of the K shots; None at K=0.
        context_weights: [K] weight of each in the context.
        targets: [K] as the inner loss takes them: standardised ratings, or 1 and 0.
    """

    texts: Texts | None
    context_weights: Float32[Tensor, " k"]
    targets: Float32[Tensor, " k"]

    @classmethod
    def of(cls, scorer: TextScorer, items: Shown, labels: Labels) -> Shots:
        """The support set of items and labels, on the CPU."""
        texts = scorer.texts_of_shots(items, labels) if len(items) else None
        weights, targets = scorer.inputs.weights(labels[None]), scorer.inputs.targets(labels[None])
        return cls(texts, _tensor(weights[0]), _tensor(targets[0]))

    def map(self, change: Change) -> Shots:
        """The same with each tensor changed."""
        texts = None if self.texts is None else self.texts.map(change)
        return Shots(texts, change(self.context_weights), change(self.targets))


@dataclass(frozen=True)
class UserTask:
    """A user's episode, without padding.

    Args:
        shots: the support set.
        queries: texts of Q queries.
        targets: [Q] as the outer loss takes them.
        positives: sum of the targets, known on the host.
    """

    shots: Shots
    queries: Texts
    targets: Float32[Tensor, " q"]
    positives: float

    @classmethod
    def of(
        cls,
        scorer: TextScorer,
        shots: Shown,
        labels: Labels,
        queries: Asked,
        query_labels: Float32[np.ndarray, " n"],
    ) -> UserTask:
        """The episode of items and labels, on the CPU."""
        targets = _tensor(scorer.inputs.targets(query_labels[None])[0])
        texts = scorer.texts_of_candidates(shots, labels, queries)
        return cls(Shots.of(scorer, shots, labels), texts, targets, float(targets.sum()))

    def map(self, change: Change) -> UserTask:
        """The same with each tensor changed."""
        queries, targets = self.queries.map(change), change(self.targets)
        return UserTask(self.shots.map(change), queries, targets, self.positives)


def adapt(
    scorer: TextScorer,
    weights: Weights,
    shots: Shots,
    inner: InnerLoop,
    loss: Loss,
    rates: Rates | None = None,
) -> dict[str, Tensor]:
    """Fast weights after the inner loop on the mean loss of the shots.

    Args:
        scorer: of texts.
        weights: all that adapt; they must require gradients.
        shots: to adapt to; without any, nothing adapts.
        inner: steps, learning rate, and order: in first order no graph of a step is kept.
        loss: of a shot.
        rates: of the steps by weight; None for that of `inner`.
    """
    fast, scale = dict(weights), scorer.loss_scale
    if shots.texts is None:
        return fast
    rate = rates or (lambda _: inner.learning_rate)
    for _ in range(inner.steps):
        scores = scorer.support_scores(fast, shots.texts, shots.context_weights)
        gradients = torch.autograd.grad(
            scale * pointwise_loss(loss, scores, shots.targets).mean(),
            list(fast.values()),
            create_graph=not inner.first_order,
            allow_unused=True,
        )
        moves = dict(zip(fast, gradients, strict=True))
        if inner.first_order:
            fast = _moved(fast, moves, lambda name: rate(name) / scale, weights)
        else:
            fast = {
                name: value if moves[name] is None else value - rate(name) / scale * moves[name]
                for name, value in fast.items()
            }
    return fast


@torch.no_grad()
def _moved(
    fast: Weights, moves: Mapping[str, Tensor | None], rate: Rates, weights: Weights
) -> dict[str, Tensor]:
    """Leaves of their own, so that what was before them is let go.

    The first step copies; later ones move the copies where they lie, since a new place for every
    weight of a whole BERT costs as much as the step.
    """
    found = {}
    for name, value in fast.items():
        move, shared = moves[name], value is weights[name]
        if move is None:
            found[name] = value.clone().requires_grad_() if shared else value
        elif shared:
            found[name] = torch.sub(value, move, alpha=rate(name)).requires_grad_()
        else:
            found[name] = value.sub_(move, alpha=rate(name))
    return found


def meta_gradients(
    scorer: TextScorer,
    weights: Weights,
    tasks: Sequence[UserTask],
    inner: InnerLoop,
    loss: Loss,
    kind: OuterLoss,
    rates: Rates | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The outer loss of a batch of tasks and its gradient, exactly, task by task.

    In first order the gradient is that at the fast weights (Finn, Abbeel & Levine 2017, section
    5.2), in second order that at the weights, through all steps. Nothing waits for a GPU.

    Args:
        scorer: of texts.
        weights: the meta-parameters; they must require gradients.
        tasks: of the batch, on the scorer's device.
        inner: the inner loop; 0 steps are training without adaptation.
        loss: of a shot, and of a query where `kind` is pointwise.
        kind: `pointwise`, a mean over all queries of the batch, or `softmax`, over all positives,
            as in `metarec.torch.episodic.outer_loss`.
        rates: of the inner steps by weight; None for that of `inner`.

    Returns:
        The loss and the gradient of each weight.
    """
    count = sum(len(task.targets) if kind == "pointwise" else task.positives for task in tasks)
    total: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in weights.items()}
    outer = torch.zeros((), device=scorer.device)
    for task in tasks:
        fast = adapt(scorer, weights, task.shots, inner, loss, rates)
        shots = task.shots
        scores = scorer.query_scores(fast, shots.texts, shots.context_weights, task.queries)
        if kind == "pointwise":
            own = pointwise_loss(loss, scores, task.targets).sum()
        else:
            own = -(torch.log_softmax(scores, dim=0) * task.targets).sum()
        own = own / max(count, 1)
        at = fast if inner.first_order else dict(weights)
        gradients = torch.autograd.grad(
            scorer.loss_scale * own, list(at.values()), allow_unused=True
        )
        for name, gradient in zip(at, gradients, strict=True):
            if gradient is not None:
                total[name].add_(gradient, alpha=1 / scorer.loss_scale)
        outer = outer + own.detach()
    return outer, total


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
