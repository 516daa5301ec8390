"""R2-D2: the Woodbury solution is the ridge solution, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metarec.errors import LearnerError
from metarec.torch.amortised import Queries, Shots
from metarec.torch.r2d2 import R2D2, decode, embed, encode, ridge

T, K, E, D = 3, 5, 4, 6


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows, targets, mask (5, 2 and 0 shots), prior and penalty, in float64."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    mask = (torch.arange(K) < torch.tensor([[5], [2], [0]])).double()
    return (
        normal(T, K, E),
        normal(T, K),
        mask,
        normal(T, E),
        torch.tensor([0.7], dtype=torch.float64),
    )


def test_it_is_the_explicit_ridge_solution_towards_the_prior() -> None:
    """`w = (X'X + λ I)⁻¹ (X'y + λ p)`, on the shots alone."""
    rows, targets, mask, prior, penalty = problem()
    found = ridge(rows, targets, mask, prior, penalty)
    for t in range(T):
        X, y = rows[t][mask[t] == 1], targets[t][mask[t] == 1]
        system = X.T @ X + penalty * torch.eye(E).double()
        expected = torch.linalg.solve(system, X.T @ y + penalty * prior[t])
        torch.testing.assert_close(found[t], expected, rtol=1e-10, atol=1e-10)


def test_it_minimises_the_penalised_squared_error() -> None:
    rows, targets, mask, prior, penalty = problem()
    found = ridge(rows, targets, mask, prior, penalty).requires_grad_()
    error = (((rows @ found.unsqueeze(-1)).squeeze(-1) - targets) ** 2 * mask).sum()
    objective = error + (penalty * (found - prior) ** 2).sum()
    (gradient,) = torch.autograd.grad(objective, found)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)


def test_without_shots_it_is_the_prior_and_so_is_an_infinite_penalty() -> None:
    rows, targets, mask, prior, penalty = problem()
    assert torch.equal(ridge(rows, targets, mask, prior, penalty)[2], prior[2])
    assert torch.equal(ridge(rows[:, :0], targets[:, :0], mask[:, :0], prior, penalty), prior)
    stiff = ridge(rows, targets, mask, prior, torch.tensor([1e12], dtype=torch.float64))
    torch.testing.assert_close(stiff, prior, rtol=0, atol=1e-9)


def test_the_outer_loop_differentiates_through_the_solution() -> None:
    rows, targets, mask, prior, penalty = problem()
    values = [value.requires_grad_() for value in (rows, targets, prior, penalty)]
    assert torch.autograd.gradcheck(lambda x, y, p, s: ridge(x, y, mask, p, s), values)


def parameters(channels: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    made = {
        "embedding0.weight": torch.randn(D, E, generator=draw),
        "embedding0.bias": torch.randn(E, generator=draw),
        "prior": torch.randn(E, generator=draw),
        "values": torch.tensor([1.5, -0.5]),
        "log_penalty": torch.tensor([0.2]),
        "log_scale": torch.tensor([0.3]),
        "bias": torch.tensor([0.4]),
    }
    if channels > 1:
        made["prior.task"] = torch.randn(D, E, generator=draw)
    return {name: value.double() for name, value in made.items()}


@pytest.mark.parametrize("channels", [1, 2])
def test_scores_are_the_scaled_predictions_of_the_learned_regression(channels: int) -> None:
    _, _, mask, _, _ = problem()
    draw = torch.Generator().manual_seed(2)
    vectors = torch.randn(T, K, D, generator=draw, dtype=torch.float64)
    context = torch.randn(T, channels, D, generator=draw, dtype=torch.float64)
    labels = (torch.rand(T, K, generator=draw) > 0.5).double()
    none = torch.zeros(T, K, 0).double()
    learned = parameters(channels)
    shots = Shots(vectors, labels * mask, mask, none, context)
    weights = encode(learned, shots, regularisation=2.0)

    features = (vectors @ learned["embedding0.weight"] + learned["embedding0.bias"]) / E**0.5
    prior = learned["prior"] + (context[:, 1] @ learned["prior.task"] if channels > 1 else 0)
    penalty = 2.0 * learned["log_penalty"].exp()
    expected = ridge(features, 1.5 * labels - 0.5, mask, prior.expand(T, E), penalty)
    torch.testing.assert_close(weights.weights, expected)

    catalogue = torch.randn(7, D, generator=draw, dtype=torch.float64)
    scores = decode(learned, weights, Queries(catalogue, catalogue[:, :0]))
    product = expected @ embed(learned, catalogue, catalogue[:, :0]).T
    torch.testing.assert_close(scores, learned["log_scale"].exp() * product + 0.4)
    of_tasks = Queries(catalogue.expand(T, 7, D), catalogue.expand(T, 7, D)[..., :0])
    torch.testing.assert_close(decode(learned, weights, of_tasks), scores)


def test_a_penalty_that_is_not_above_0_is_an_error() -> None:
    with pytest.raises(LearnerError, match="regularisation"):
        R2D2(regularisation=0.0)
