"""Matching: attention over the shots and a null key, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metarec.torch.amortised import Queries, Shots
from metarec.torch.matching import NULL_COSINE, SIMILARITY_SCALE, attended, decode, encode

T, N, K, E, D = 3, 4, 5, 4, 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


MASK = (torch.arange(K) < torch.tensor([[5], [2], [0]])).double()
NULL = torch.tensor([0.3], dtype=torch.float64)


def test_the_values_of_the_shots_are_weighted_by_a_softmax_with_a_null_key() -> None:
    similarity, values = normal(T, N, K), normal(T, K, seed=1)
    found = attended(similarity, values, MASK, NULL)
    for t in range(T):
        for n in range(N):
            shots = [k for k in range(K) if MASK[t, k]]
            total = math.exp(NULL) + sum(math.exp(similarity[t, n, k]) for k in shots)
            expected = sum(float(similarity[t, n, k].exp() * values[t, k]) for k in shots) / total
            assert float(found[t, n]) == pytest.approx(expected, abs=1e-12)


def test_without_shots_or_next_to_the_null_key_nothing_is_added() -> None:
    similarity, values = normal(T, N, K), normal(T, K, seed=1)
    assert (attended(similarity, values, MASK, NULL)[2] == 0).all()
    assert (attended(similarity[..., :0], values[:, :0], MASK[:, :0], NULL) == 0).all()
    near = attended(similarity, values, MASK, torch.tensor([1e3], dtype=torch.float64))
    torch.testing.assert_close(near, torch.zeros_like(near))


def test_far_from_the_null_key_it_is_a_weighted_mean_of_the_values() -> None:
    far = torch.tensor([-1e3], dtype=torch.float64)
    values = torch.full((T, K), 2.5, dtype=torch.float64)
    found = attended(normal(T, N, K), values, MASK, far)
    torch.testing.assert_close(found[:2], torch.full((2, N), 2.5, dtype=torch.float64))


def test_the_order_of_the_shots_does_not_matter() -> None:
    similarity, values = normal(T, N, K), normal(T, K, seed=1)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        attended(similarity[..., order], values[:, order], MASK[:, order], NULL),
        attended(similarity, values, MASK, NULL),
    )


def test_the_outer_loop_differentiates_through_the_attention() -> None:
    values = [v.requires_grad_() for v in (normal(T, N, K), normal(T, K, seed=1), NULL.clone())]
    assert torch.autograd.gradcheck(lambda s, v, n: attended(s, v, MASK, n), values)


def test_a_score_is_the_prior_and_the_labels_of_near_shots() -> None:
    learned = {
        "embedding0.weight": normal(D, E),
        "embedding0.bias": normal(E, seed=1),
        "prior": normal(E, seed=2),
        "prior.task": normal(D, E, seed=3),
        "values": torch.tensor([2.0, -0.5], dtype=torch.float64),
        "log_temperature": torch.tensor([0.1], dtype=torch.float64),
        "null": torch.tensor([-0.2], dtype=torch.float64),
        "log_scale": torch.tensor([0.3], dtype=torch.float64),
        "bias": torch.tensor([0.4], dtype=torch.float64),
    }
    labels = (normal(T, K, seed=4) > 0).double()
    vectors, context = normal(T, K, D, seed=5), normal(T, 2, D, seed=6)
    shots = Shots(vectors, labels * MASK, MASK, torch.zeros(T, K, 0).double(), context)
    catalogue = normal(N, D, seed=7)
    scores = decode(learned, encode(learned, shots), Queries(catalogue, catalogue[:, :0]))

    def embed(x: Tensor) -> Tensor:
        return x @ learned["embedding0.weight"] + learned["embedding0.bias"]

    scale = SIMILARITY_SCALE * math.exp(0.1)
    for t in range(T):
        weights = learned["prior"] + context[t, 1] @ learned["prior.task"]
        for n in range(N):
            x = embed(catalogue[n])
            exponents = [scale * (NULL_COSINE - 0.2)]
            counts = [0.0]
            for k in range(K):
                if MASK[t, k]:
                    key = embed(vectors[t, k])
                    exponents.append(float(scale * (x @ key) / (x.norm() * key.norm())))
                    counts.append(float(2.0 * labels[t, k] - 0.5))
            share = torch.softmax(torch.tensor(exponents, dtype=torch.float64), 0)
            matched = float(share @ torch.tensor(counts, dtype=torch.float64))
            expected = float(x @ weights) / E**0.5 + math.exp(0.3) * matched + 0.4
            assert float(scores[t, n]) == pytest.approx(expected, rel=1e-6)
