"""Implicit MAML: the solution and the gradient through it, against closed forms, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.loops import Proximal
from metarec.torch import implicit
from metarec.torch.implicit import conjugate_gradient, implicit_gradients, solve
from metarec.torch.implicit_maml import ImplicitMAML
from metarec.torch.inner_loop import Episodes
from metarec.torch.scorer import MLP, Parameters, Scorer, build_scorer
from metarec.torch.spaces import RowSpace, Space, WeightSpace, space_of

TASKS, SHOTS, QUERIES, SIZE, HIDDEN = 5, 7, 6, 4, (8, 6)
LAMBDA = 0.7
MakeSpace = Callable[[Scorer, Parameters, Tensor, Tensor], Space]
MAKE: dict[str, MakeSpace] = {
    "weights": WeightSpace,
    "rows": lambda _, parameters, support, query: RowSpace(parameters, support, query),
}
SPACES = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([9, seed, *shape]).standard_normal(shape))


def draw_parameters(sizes: tuple[int, ...]) -> dict[str, Tensor]:
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weight = draw(fan_in, fan_out) / fan_in**0.5
        parameters[f"layer{layer}.weight"] = weight.requires_grad_()
        parameters[f"layer{layer}.bias"] = draw(fan_out, seed=1).requires_grad_()
    return parameters


def draw_episodes(size: int = SIZE) -> Episodes:
    """The first task has no shot; what is padded is garbage."""
    mask = (torch.arange(SHOTS) < 2 * torch.arange(TASKS)[:, None]).double()
    return Episodes(
        support=draw(TASKS, SHOTS, size),
        support_labels=(draw(TASKS, SHOTS, seed=1) > 0).double(),
        support_mask=mask,
        query=draw(TASKS, QUERIES, size, seed=2),
        query_labels=(draw(TASKS, QUERIES, seed=3) > 0).double(),
        query_mask=torch.ones(TASKS, QUERIES).double(),
    )


def with_ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def squared_error(episodes: Episodes) -> Callable[[Tensor], Tensor]:
    return lambda scores: 0.5 * (scores - episodes.query_labels).square().mean()


def closed_forms(episodes: Episodes, phi: Tensor) -> tuple[list[Tensor], Tensor]:
    """On linear regression, the bias last: w* of each task, and the meta-gradient.

    `w* = (H + lambda I)^-1 (c + lambda phi)`, and the sum over tasks of `(I + H / lambda)^-1 g`.
    """
    solutions, gradient = [], torch.zeros_like(phi)
    identity = torch.eye(len(phi)).double()
    for task in range(TASKS):
        shots = int(episodes.support_mask[task].sum())
        inputs = with_ones(episodes.support[task, :shots])
        hessian = inputs.T @ inputs / max(shots, 1)
        linear = inputs.T @ episodes.support_labels[task, :shots] / max(shots, 1)
        best = torch.linalg.solve(hessian + LAMBDA * identity, linear + LAMBDA * phi)
        queries = with_ones(episodes.query[task])
        residual = queries @ best - episodes.query_labels[task]
        of_query = queries.T @ residual / (TASKS * QUERIES)
        gradient += torch.linalg.solve(identity + hessian / LAMBDA, of_query)
        solutions.append(best)
    return solutions, gradient


@SPACES
def test_on_linear_regression_solution_and_meta_gradient_are_the_closed_forms(
    make: MakeSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters, episodes = draw_parameters((SIZE, 1)), draw_episodes()
    phi = torch.cat([parameters["layer0.weight"].flatten(), parameters["layer0.bias"]]).detach()
    solutions, gradient = closed_forms(episodes, phi)
    settings = Proximal(steps=500, learning_rate=0.1, regularisation=LAMBDA, cg_steps=SIZE + 1)
    space = make(MLP(()), parameters, episodes.support, episodes.query[:, :0])
    fast = space.moved(
        solve(space, episodes.support_labels, episodes.support_mask, "mse", settings)
    )
    for task, best in enumerate(solutions):
        found = torch.cat([fast["layer0.weight"][task].flatten(), fast["layer0.bias"][task]])
        torch.testing.assert_close(found, best, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(solutions[0], phi, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(implicit, "space_of", make)
    value, found_gradient = implicit_gradients(
        MLP(()), parameters, episodes,
        loss="mse", outer_loss=squared_error(episodes), settings=settings,
    )  # fmt: skip
    residuals = torch.stack(
        [with_ones(q) @ w - y for q, w, y in zip(
            episodes.query, solutions, episodes.query_labels, strict=True
        )]
    )  # fmt: skip
    torch.testing.assert_close(value, 0.5 * residuals.square().mean(), rtol=1e-9, atol=0)
    flat = torch.cat([found_gradient["layer0.weight"].flatten(), found_gradient["layer0.bias"]])
    torch.testing.assert_close(flat, gradient, rtol=1e-8, atol=1e-12)


def test_both_spaces_give_the_same_gradient_of_a_network_whatever_has_converged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters, episodes = draw_parameters((SIZE, *HIDDEN, 1)), draw_episodes()
    results = []
    for make in MAKE.values():
        monkeypatch.setattr(implicit, "space_of", make)
        results.append(
            implicit_gradients(
                MLP(HIDDEN), parameters, episodes,
                loss="bce", outer_loss=squared_error(episodes), settings=Proximal(3, 0.1, 0.5, 3),
            )
        )  # fmt: skip
    (value, gradients), (other, others) = results
    torch.testing.assert_close(value, other, rtol=1e-12, atol=0)
    assert gradients.keys() == others.keys() == parameters.keys()
    for name, gradient in gradients.items():
        assert (gradient - others[name]).norm() <= 1e-10 * gradient.norm() > 0, name


@pytest.mark.parametrize("name", ["mlp", "dot"])
def test_the_implicit_gradient_is_the_slope_of_the_loss_at_the_solution(name: str) -> None:
    """Finite differences through the whole inner problem, solved until it stands still."""
    if name == "mlp":
        scorer, parameters = MLP(HIDDEN), draw_parameters((SIZE, *HIDDEN, 1))
        episodes = draw_episodes()
    else:
        scorer, episodes = build_scorer("dot", embedding_size=3), draw_episodes(2 * SIZE)
        shapes = {"projection": (1, SIZE, 3), "prior": (3,), "bias": (1,)}
        parameters = {key: draw(*shape).requires_grad_() for key, shape in shapes.items()}
    settings = Proximal(steps=400, learning_rate=0.05, regularisation=4.0, cg_steps=60)

    def run(parameters: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return implicit_gradients(
            scorer, parameters, episodes,
            loss="bce", outer_loss=squared_error(episodes), settings=settings,
        )  # fmt: skip

    gradients = run(parameters)[1]
    direction = {key: draw(*value.shape, seed=4) for key, value in parameters.items()}
    slope = sum((gradients[key] * along).sum() for key, along in direction.items())
    step = 1e-5
    ahead, behind = (
        run(
            {
                key: value.detach() + sign * step * direction[key]
                for key, value in parameters.items()
            }
        )[0]
        for sign in (1, -1)
    )
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-9)


def test_the_dual_form_is_taken_for_an_mlp_and_only_there() -> None:
    episodes = draw_episodes()
    parameters = draw_parameters((SIZE, 1))
    rows = episodes.support, episodes.query
    assert isinstance(space_of(MLP(()), parameters, *rows), RowSpace)
    fusion = {**parameters, "fusion.logits": draw(2)}
    assert isinstance(space_of(build_scorer("fusion_learned"), fusion, *rows), WeightSpace)


def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_dimensions_and_stop() -> None:
    """`(I + A) x = b` for a task with A positive, one with b = 0, and one with I + A negative."""
    size = 4
    root = draw(size, size)
    matrices = torch.stack([root @ root.T, root @ root.T, -3 * torch.eye(size).double()])
    right = draw(3, size) * torch.tensor([1.0, 0.0, 1.0])[:, None]
    space = WeightSpace(MLP(()), {"x": draw(size)}, draw(3, 1, 1), draw(3, 1, 1))

    def run(steps: int) -> Tensor:
        return conjugate_gradient(
            space,
            lambda u: {"x": torch.einsum("tij,tj->ti", matrices, u["x"])},
            {"x": right},
            steps,
        )["x"]

    solution = torch.linalg.solve(torch.eye(size) + matrices[0], right[0])
    for steps in (size, size + 5):
        found = run(steps)
        torch.testing.assert_close(found[0], solution, rtol=1e-8, atol=1e-10)
        assert torch.equal(found[1:], torch.zeros(2, size).double())
    assert not torch.allclose(run(size - 1)[0], solution, rtol=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"inner_steps": -1},
        {"inner_learning_rate": -0.1},
        {"regularisation": 0.0},
        {"cg_steps": 0},
        {"regularisation": 30.0, "inner_learning_rate": 0.1},
    ],
)
def test_arguments_out_of_range_are_errors(arguments: dict[str, float]) -> None:
    with pytest.raises(Exception, match=r"learner\.(inner_steps|regularisation)"):
        ImplicitMAML(**arguments)  # type: ignore[arg-type]
