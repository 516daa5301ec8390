"""TaNP: its divergences, assignments and modulation, each against a formula or a library."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal as Reference
from torch.distributions import kl_divergence

from metarec.features import Features
from metarec.inputs import Inputs
from metarec.torch.amortised import Queries, Shots
from metarec.torch.layers import mlp
from metarec.torch.tanp import (
    Normal,
    TaNP,
    Task,
    assigned,
    decode,
    divergence_of_normals,
    encode,
    encoded,
    latent,
    modulated,
    sharpening,
)

T, N, K, R, D, H = 3, 4, 5, 4, 6, 7


def normal(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


MASK = (torch.arange(K) < torch.tensor([[5], [2], [0]])).double()


def learned(**arguments: Any) -> dict[str, Tensor]:
    learner = TaNP(embedding_size=R, hidden_sizes=(H, H), clusters=3, **arguments)
    inputs = Inputs(Features(np.zeros((1, D), np.float32)), "binary", {"inputs.mean": np.zeros(D)})
    made = learner._initial(inputs, np.random.default_rng(0))
    return {name: torch.from_numpy(value).double() for name, value in made.items()}


def make_shots() -> Shots:
    labels = (normal(T, K, seed=1) > 0).double() * MASK
    none = torch.zeros(T, K, 0).double()
    return Shots(normal(T, K, D) * MASK.unsqueeze(-1), labels, MASK, none, normal(T, 1, D))


def test_the_divergence_is_that_of_normal_distributions() -> None:
    one = Normal(normal(T, R), normal(T, R, seed=1).exp())
    other = Normal(normal(T, R, seed=2), normal(T, R, seed=3).exp())
    expected = kl_divergence(Reference(*one), Reference(*other)).sum(-1)
    torch.testing.assert_close(divergence_of_normals(one, other), expected)
    torch.testing.assert_close(divergence_of_normals(one, one), torch.zeros(T).double())


def test_tasks_are_assigned_by_a_student_t_kernel() -> None:
    code, pool = normal(T, R), normal(3, R, seed=1)
    found = assigned(code, pool, temperature=2.0)
    for t in range(T):
        kernel = [(1 + float(((code[t] - a) ** 2).sum()) / 2.0) ** (-(2.0 + 1) / 2) for a in pool]
        for j in range(3):
            assert float(found[t, j]) == pytest.approx(kernel[j] / sum(kernel), rel=1e-12)


def test_sharpening_is_the_divergence_from_squared_and_rebalanced_shares() -> None:
    shares = torch.softmax(normal(T, 3), dim=-1)
    target = [[float(shares[t, j] ** 2 / shares[:, j].sum()) for j in range(3)] for t in range(T)]
    expected = 0.0
    for t in range(T):
        row = [value / sum(target[t]) for value in target[t]]
        expected += sum(q * math.log(q / float(shares[t, j])) for j, q in enumerate(row)) / T
    assert float(sharpening(shares)) == pytest.approx(expected, rel=1e-12)
    even = torch.full((T, 3), 1 / 3, dtype=torch.float64)
    assert float(sharpening(even)) == pytest.approx(0.0, abs=1e-12)


def test_sharpening_makes_clear_assignments_clearer() -> None:
    """The target is held fixed: the gradient raises each task's own, balanced, cluster."""
    logits = torch.eye(3, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(sharpening(torch.softmax(logits, -1)), logits)
    assert (gradient.diagonal() < 0).all()
    assert (gradient[~torch.eye(3, dtype=torch.bool)] > 0).all()


@pytest.mark.parametrize("modulation", ["film", "gating"])
def test_the_decoder_is_modulated_layer_by_layer(modulation: str) -> None:
    parameters = learned(modulation=modulation)
    drawn, code, catalogue = normal(T, R, seed=4), normal(T, R, seed=5), normal(N, D, seed=6)
    state = modulated(parameters, make_shots(), drawn, code)
    scores = decode(parameters, state, Queries(catalogue, catalogue[:, :0]))
    for t in range(T):
        for n in range(N):
            hidden = torch.cat([catalogue[n], drawn[t]])
            for layer in range(2):
                hidden = hidden @ parameters[f"decoder{layer}.weight"]
                hidden = hidden + parameters[f"decoder{layer}.bias"]
                scale = torch.tanh(code[t] @ parameters[f"scale{layer}"])
                shift = torch.tanh(code[t] @ parameters[f"shift{layer}"])
                if modulation == "gating":
                    gate = torch.sigmoid(code[t] @ parameters[f"gate{layer}"])
                    both = torch.tanh(code[t] @ parameters[f"both{layer}"])
                    scale = gate * scale + (1 - gate) * both
                    shift = gate * shift + (1 - gate) * both
                hidden = torch.relu(scale * hidden + shift)
            expected = hidden @ parameters["decoder2.weight"] + parameters["decoder2.bias"]
            torch.testing.assert_close(scores[t, n], expected.squeeze())
    of_tasks = Queries(catalogue.expand(T, N, D), catalogue.expand(T, N, D)[..., :0])
    torch.testing.assert_close(decode(parameters, state, of_tasks), scores)


def test_a_scale_of_1_and_a_shift_of_0_leave_the_plain_network() -> None:
    parameters, rows, catalogue = learned(), normal(T, R, seed=4), normal(N, D, seed=6)
    one, zero = torch.ones(T, H).double(), torch.zeros(T, H).double()
    scores = decode(
        parameters, Task(rows, (one, one), (zero, zero)), Queries(catalogue, catalogue[:, :0])
    )
    together = torch.cat([catalogue.expand(T, N, D), rows.unsqueeze(1).expand(T, N, R)], dim=-1)
    torch.testing.assert_close(scores, mlp(parameters, "decoder", together).squeeze(-1))


def test_at_test_z_is_the_mean_given_the_shots() -> None:
    parameters, shots = learned(), make_shots()
    state = encode(parameters, shots, temperature=1.0)
    prior = latent(parameters, *encoded(parameters, shots))
    torch.testing.assert_close(state.rows, prior.mean)
    assert ((prior.deviation > 0.1) & (prior.deviation < 1)).all()
    nothing = latent(parameters, torch.zeros(1, R).double(), torch.zeros(1, 1).double())
    torch.testing.assert_close(prior.mean[2], nothing.mean[0])


@pytest.mark.parametrize(
    "arguments",
    [{"modulation": "none"}, {"clusters": 0}, {"temperature": 0.0}, {"kl_weight": -1.0}],
)
def test_arguments_out_of_range_are_errors(arguments: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=next(iter(arguments))):
        TaNP(**arguments)
