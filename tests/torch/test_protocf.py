"""ProtoCF: prototypes of users, groups and gate against loops; the distillation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.features import Features
from metarec.inputs import Inputs
from metarec.torch.amortised import Queries, Shots
from metarec.torch.protocf import COSINE_SCALE, ProtoCF, decode, distillation, encode, grouped

T, N, K, E, D, G = 3, 4, 5, 4, 6, 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


MASK = (torch.arange(K) < torch.tensor([[5], [2], [0]])).double()


def parameters() -> dict[str, Tensor]:
    return {
        "projection0.weight": normal(D + 1, E),
        "projection0.bias": normal(E, seed=1),
        "prior": normal(E, seed=2),
        "prior.task": normal(D, E, seed=3),
        "values": torch.tensor([1.5, -0.25], dtype=torch.float64),
        "attention0.weight": normal(E, E, seed=4),
        "attention0.bias": normal(E, seed=5),
        "gate0.weight": normal(2 * E, E, seed=6),
        "gate0.bias": normal(E, seed=7),
        "keys": normal(G, E, seed=8),
        "groups": normal(G, E, seed=9),
        "extra": torch.tensor([0.6], dtype=torch.float64),
        "log_strength": torch.tensor([0.2], dtype=torch.float64),
        "log_scale": torch.tensor([0.3], dtype=torch.float64),
        "bias": torch.tensor([0.4], dtype=torch.float64),
    }


def make_shots() -> Shots:
    spread = MASK.unsqueeze(-1)
    labels = (normal(T, K, seed=10) > 0).double() * MASK
    return Shots(
        normal(T, K, D, seed=11) * spread, labels, MASK,
        normal(T, K, 1, seed=12) * spread, normal(T, 2, D, seed=13),
    )  # fmt: skip


def project(learned: dict[str, Tensor], vector: Tensor, extra: Tensor) -> Tensor:
    return torch.cat([vector, extra]) @ learned["projection0.weight"] + learned["projection0.bias"]


def test_an_item_is_the_mean_of_its_users_refined_by_attended_groups() -> None:
    learned, shots = parameters(), make_shots()
    found = encode(learned, shots, prior_strength=2.0)
    strength = 2.0 * math.exp(0.2)
    for t in range(T):
        total = strength * (learned["prior"] + shots.context[t, 1] @ learned["prior.task"])
        mass = strength
        for k in range(K):
            if MASK[t, k]:
                user = project(learned, shots.vectors[t, k], shots.extra[t, k])
                total = total + (1.5 * float(shots.labels[t, k]) - 0.25) * user
                mass += 1
        prototype = total / mass
        query = prototype @ learned["attention0.weight"] + learned["attention0.bias"]
        share = torch.softmax(learned["keys"] @ query / E**0.5, 0)
        group = sum(share[g] * learned["groups"][g] for g in range(G))
        both = torch.cat([prototype, group])
        gate = torch.sigmoid(both @ learned["gate0.weight"] + learned["gate0.bias"])
        torch.testing.assert_close(found.group[t], group)
        torch.testing.assert_close(found.prototype[t], (1 - gate) * prototype + gate * group)


def test_a_closed_gate_leaves_the_prototype_and_an_open_one_the_groups() -> None:
    learned, shots = parameters(), make_shots()
    learned["gate0.weight"] = torch.zeros(2 * E, E).double()
    opened = encode(learned | {"gate0.bias": torch.full((E,), 1e3).double()}, shots, 2.0)
    torch.testing.assert_close(opened.prototype, opened.group)
    closed = encode(learned | {"gate0.bias": torch.full((E,), -1e3).double()}, shots, 2.0)
    torch.testing.assert_close(grouped(learned, closed.prototype), closed.group)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_users_are_scored_by_similarity_and_activity(similarity: Any) -> None:
    learned = parameters()
    state = encode(learned, make_shots(), prior_strength=2.0)
    vectors, extra = normal(N, D, seed=14), normal(N, 1, seed=15)
    scores = decode(learned, state, Queries(vectors, extra), similarity=similarity)
    for t in range(T):
        for n in range(N):
            user, item = project(learned, vectors[n], extra[n]), state.prototype[t]
            scale = math.exp(0.3) / E**0.5
            if similarity == "cosine":
                scale = math.exp(0.3) * COSINE_SCALE / float(user.norm() * item.norm())
            expected = scale * float(user @ item) + 0.6 * float(extra[n, 0]) + 0.4
            assert float(scores[t, n]) == pytest.approx(expected, rel=1e-9)
    of_tasks = Queries(vectors.expand(T, N, D), extra.expand(T, N, 1))
    torch.testing.assert_close(decode(learned, state, of_tasks, similarity), scores)


def test_the_distillation_is_the_cross_entropy_with_the_teachers_neighbours() -> None:
    group, factors = normal(4, E), normal(4, 3, seed=1)
    expected = 0.0
    for i in range(4):
        others = [j for j in range(4) if j != i]
        cosine = torch.nn.functional.cosine_similarity
        near = torch.stack([COSINE_SCALE * cosine(factors[i], factors[j], dim=0) for j in others])
        squares = torch.stack([((group[i] - group[j]) ** 2).sum() for j in others])
        share, log_share = torch.softmax(near, 0), torch.log_softmax(-squares, 0)
        expected -= float(share @ log_share) / 4
    assert float(distillation(group, factors)) == pytest.approx(expected, rel=1e-9)


def test_items_unknown_to_the_teacher_are_left_out_of_the_distillation() -> None:
    group, factors = normal(4, E), normal(4, 3, seed=1)
    unknown = torch.cat([factors, torch.zeros(2, 3).double()])
    more = torch.cat([group, normal(2, E, seed=2)])
    torch.testing.assert_close(distillation(more, unknown), distillation(group, factors))
    assert distillation(group[:1], factors[:1]) == 0
    assert distillation(group, torch.zeros(4, 3).double()) == 0


def test_the_distillation_has_finite_gradients() -> None:
    group = normal(4, E).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: distillation(g, normal(4, 3, seed=1)), [group])


@pytest.mark.parametrize(
    "arguments", [{"similarity": "l2"}, {"groups": 0}, {"prior_strength": 0.0}]
)
def test_arguments_out_of_range_are_errors(arguments: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=next(iter(arguments))):
        ProtoCF(**arguments)


def test_the_groups_are_not_alike_at_the_start() -> None:
    """Alike they would stay alike."""
    features = Features(np.zeros((1, D), np.float32), np.zeros((1, D), np.float32))
    inputs = Inputs(features, "binary", {"inputs.mean": np.zeros(D)})
    made = ProtoCF(groups=G)._initial(inputs, np.random.default_rng(0))
    assert not np.allclose(made["groups"][0], made["groups"][1])
    assert "prior.task" in made
