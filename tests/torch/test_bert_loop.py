"""Meta-gradients task by task: those of the whole batch, in first and in second order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.loops import InnerLoop, OuterLoss
from metarec.torch.bert_loop import Shots, TextScorer, UserTask, adapt, meta_gradients
from metarec.torch.episodic import outer_loss
from metarec.torch.inner_loop import Episodes
from metarec.torch.text_batches import Prefix, Texts

RATE = 0.3


class Quadratic:
    """Scores `x A b` of texts whose only state is x: not linear in its two weights."""

    device = torch.device("cpu")
    loss_scale = 1.0
    inputs: Any = None

    def initial(self, rng: np.random.Generator) -> Any: ...

    def texts_of_shots(self, shots: Any, labels: Any) -> Any: ...

    def texts_of_candidates(self, shots: Any, labels: Any, candidates: Any) -> Any: ...

    def support_scores(self, weights: Any, shots: Texts, context_weights: Tensor) -> Tensor:
        return rows_of(shots) @ weights["A"] @ weights["b"]

    def query_scores(
        self, weights: Any, shots: Texts | None, context_weights: Tensor, candidates: Texts
    ) -> Tensor:
        return rows_of(candidates) @ weights["A"] @ weights["b"]


class Scaled(Quadratic):
    """Whose losses are multiplied, and gradients divided."""

    loss_scale = 1024.0


def rows_of(texts: Texts) -> Tensor:
    return texts.batches[0].values[:, 0]


def texts(rng: np.random.Generator, count: int) -> Texts:
    values = torch.from_numpy(rng.standard_normal((count, 1, 3)))
    batch = Prefix(values, torch.ones(count, 1, dtype=torch.int64))
    return Texts((batch,), torch.arange(count))


def labels(rng: np.random.Generator, count: int) -> Tensor:
    found = (rng.random(count) < 0.5).astype(np.float32)
    found[:1] = 1
    return torch.from_numpy(found)


def tasks_of(shots: tuple[int, ...] = (3, 0, 2, 4), queries: int = 5) -> list[UserTask]:
    rng = np.random.default_rng(0)
    made = []
    for count in shots:
        own = labels(rng, count)
        shots = Shots(texts(rng, count) if count else None, own, own)
        asked, targets = texts(rng, queries), labels(rng, queries)
        made.append(UserTask(shots, asked, targets, float(targets.sum())))
    return made


def first_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {"A": (3, 2), "b": (2,)}
    return {
        name: torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for name, shape in shapes.items()
    }


def by_the_formula(weights: dict[str, Tensor], task: UserTask, steps: int) -> dict[str, Tensor]:
    """`w - rate · dL/dw`, the derivatives of the logistic loss written out."""
    if task.shots.texts is None:
        return weights
    rows, y = rows_of(task.shots.texts), task.shots.targets.double()
    A, b = weights["A"], weights["b"]
    for _ in range(steps):
        error = (torch.sigmoid(rows @ A @ b) - y) / len(y)
        A, b = (
            A - RATE * torch.outer(rows.T @ error, b),
            b - RATE * (rows @ A).T @ error,
        )
    return {"A": A, "b": b}


def batch_loss(scores: list[Tensor], tasks: list[UserTask], kind: OuterLoss) -> Tensor:
    targets = torch.stack([task.targets.double() for task in tasks])
    nothing, mask = torch.zeros(0), torch.ones_like(targets)
    episodes = Episodes(nothing, nothing, nothing, nothing, targets, mask)
    return outer_loss(kind, "bce", torch.stack(scores), episodes)


@pytest.mark.parametrize("kind", ["pointwise", "softmax"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_in_second_order_it_is_the_gradient_of_the_whole_batch(kind: OuterLoss, steps: int) -> None:
    weights, tasks = first_weights(), tasks_of()
    loss, found = meta_gradients(Quadratic(), weights, tasks, InnerLoop(steps, RATE), "bce", kind)
    scores = []
    for task in tasks:
        fast = by_the_formula(weights, task, steps)
        scores.append(rows_of(task.queries) @ fast["A"] @ fast["b"])
    expected = batch_loss(scores, tasks, kind)
    gradients = torch.autograd.grad(expected, list(weights.values()))
    assert float(loss) == pytest.approx(expected.item(), rel=1e-6)
    for name, gradient in zip(weights, gradients, strict=True):
        torch.testing.assert_close(found[name], gradient, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("kind", ["pointwise", "softmax"])
def test_in_first_order_it_is_the_gradient_at_the_fast_weights(kind: OuterLoss) -> None:
    weights, tasks = first_weights(), tasks_of()
    inner = InnerLoop(2, RATE, first_order=True)
    _, found = meta_gradients(Quadratic(), weights, tasks, inner, "bce", kind)
    every, scores = [], []
    for task in tasks:
        fast = by_the_formula(weights, task, 2)
        own = {name: value.detach().requires_grad_() for name, value in fast.items()}
        every.append(own)
        scores.append(rows_of(task.queries) @ own["A"] @ own["b"])
    loss = batch_loss(scores, tasks, kind)
    for name in weights:
        parts = torch.autograd.grad(loss, [own[name] for own in every], retain_graph=True)
        torch.testing.assert_close(found[name], sum(parts), atol=1e-7, rtol=1e-7)
    _, second = meta_gradients(Quadratic(), weights, tasks, InnerLoop(2, RATE), "bce", kind)
    assert (found["A"] - second["A"]).abs().max() > 1e-3


@pytest.mark.parametrize("first_order", [True, False])
def test_adapting_moves_copies_and_no_meta_parameter(first_order: bool) -> None:
    class FirstStepWithout(Quadratic):
        """Has no gradient of `b` in the first step, and one in those after it."""

        steps = 0

        def support_scores(self, weights: Any, *others: Any) -> Tensor:
            self.steps += 1
            still = {**weights, "b": weights["b"].detach()} if self.steps == 1 else weights
            return super().support_scores(still, *others)

    weights, (task,) = first_weights(), tasks_of((3,))
    before = {name: value.detach().clone() for name, value in weights.items()}
    inner = InnerLoop(3, RATE, first_order=first_order)
    fast = adapt(FirstStepWithout(), weights, task.shots, inner, "bce")
    for name, value in before.items():
        assert torch.equal(weights[name], value)
        assert (fast[name] - value).abs().max() > 1e-3


def test_without_shots_or_steps_nothing_adapts() -> None:
    weights, (some, none) = first_weights(), tasks_of((3, 0))
    assert adapt(Quadratic(), weights, none.shots, InnerLoop(3, RATE), "bce") == weights
    assert adapt(Quadratic(), weights, some.shots, InnerLoop(0, RATE), "bce") == weights
    moved = adapt(Quadratic(), weights, some.shots, InnerLoop(1, RATE), "bce")
    expected = by_the_formula(weights, some, 1)
    for name in weights:
        torch.testing.assert_close(moved[name], expected[name], atol=1e-7, rtol=1e-7)


def test_in_first_order_no_graph_of_a_step_is_kept() -> None:
    weights, (task,) = first_weights(), tasks_of((3,))
    fast = adapt(Quadratic(), weights, task.shots, InnerLoop(2, RATE, first_order=True), "bce")
    assert all(value.is_leaf and value.requires_grad for value in fast.values())
    fast = adapt(Quadratic(), weights, task.shots, InnerLoop(2, RATE), "bce")
    assert all(value.grad_fn is not None for value in fast.values())


def test_each_weight_may_have_a_rate_of_its_own() -> None:
    weights, (task,) = first_weights(), tasks_of((3,))
    whole = adapt(Quadratic(), weights, task.shots, InnerLoop(1, RATE), "bce")
    rates = {"A": 0.5 * RATE, "b": 0.0}
    part = adapt(Quadratic(), weights, task.shots, InnerLoop(1, 0.0), "bce", rates.__getitem__)
    half = weights["A"] + 0.5 * (whole["A"] - weights["A"])
    torch.testing.assert_close(part["A"], half, atol=1e-9, rtol=1e-7)
    assert torch.equal(part["b"], weights["b"])


@pytest.mark.parametrize("first_order", [True, False])
def test_a_scaled_loss_gives_the_same_gradients(first_order: bool) -> None:
    assert isinstance(Scaled(), TextScorer)
    weights, tasks = first_weights(), tasks_of()
    inner = InnerLoop(2, RATE, first_order)
    loss, plain = meta_gradients(Quadratic(), weights, tasks, inner, "bce", "softmax")
    same_loss, scaled = meta_gradients(Scaled(), weights, tasks, inner, "bce", "softmax")
    assert torch.equal(loss, same_loss)
    for name in weights:
        torch.testing.assert_close(plain[name], scaled[name], atol=1e-9, rtol=1e-6)
