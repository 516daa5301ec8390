"""Prototypes: weighted means with priors, several a side, and how near a candidate lies to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.errors import LearnerError
from metarec.features import Features
from metarec.inputs import Inputs
from metarec.learner import Feedback
from metarec.torch.amortised import Queries, Shots
from metarec.torch.prototypical import Prototypes, Prototypical, decode, encode, means, side_weights

T, N, K, M, E, D = 3, 4, 5, 2, 4, 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


MASK = (torch.arange(K) < torch.tensor([[5], [2], [0]])).double()


def test_prototypes_are_means_weighted_by_side_and_attention_with_a_prior() -> None:
    """`(s p + Σ w exp(a) e) / (s + Σ w exp(a))`."""
    shots, attention, prior = normal(T, K, E), normal(T, M, K, seed=1), normal(T, M, E, seed=2)
    weight = normal(T, K, seed=3).abs() * MASK
    strength = torch.tensor(1.7, dtype=torch.float64)
    found = means(shots, weight, attention, prior, strength)
    for t in range(T):
        for m in range(M):
            total, mass = 1.7 * prior[t, m], 1.7
            for k in range(K):
                share = float(weight[t, k] * attention[t, m, k].exp())
                total, mass = total + share * shots[t, k], mass + share
            torch.testing.assert_close(found[t, m], total / mass)
    torch.testing.assert_close(found[2], prior[2])


def test_the_outer_loop_differentiates_through_the_means() -> None:
    weight = (normal(T, K, seed=3) > 0).double() * MASK
    values = [
        normal(T, K, E).requires_grad_(),
        normal(T, M, K, seed=1).requires_grad_(),
        normal(T, M, E, seed=2).requires_grad_(),
        torch.tensor(1.7, dtype=torch.float64, requires_grad=True),
    ]
    assert torch.autograd.gradcheck(lambda e, a, p, s: means(e, weight, a, p, s), values)


def test_a_rating_weighs_as_far_as_it_lies_above_or_below_the_mean() -> None:
    ratings = torch.tensor([[1.5, -0.5, 0.0]])
    liked, disliked = side_weights(ratings, "rating", dislike_weight=0.1)
    assert liked.tolist() == [[1.5, 0.0, 0.0]]
    assert disliked.tolist() == [[0.0, 0.5, 0.0]]
    liked, disliked = side_weights(torch.tensor([[1.0, 0.0]]), "binary", dislike_weight=0.25)
    assert liked.tolist() == [[1.0, 0.0]]
    assert disliked.tolist() == [[0.0, 0.25]]


def trained(prototypes: int) -> dict[str, Tensor]:
    made = {
        "projection0": normal(D, E),
        "prior.liked": normal(prototypes, E, seed=1),
        "prior.disliked": normal(prototypes, E, seed=2),
        "task.liked": normal(D, E, seed=3),
        "task.disliked": normal(D, E, seed=4),
        "log_strength": torch.tensor([0.2, -0.3], dtype=torch.float64),
        "log_temperature": torch.tensor([-0.5], dtype=torch.float64),
        "bias": torch.tensor([0.4], dtype=torch.float64),
        "extra": torch.tensor([0.6], dtype=torch.float64),
    }
    if prototypes > 1:
        made["query.liked"] = normal(prototypes, E, seed=5)
        made["query.disliked"] = normal(prototypes, E, seed=6)
    return made


@pytest.mark.parametrize("prototypes", [1, M])
def test_a_score_is_how_much_nearer_the_liked_prototypes_are(prototypes: int) -> None:
    """`log Σ exp(-τ|e - l|²) - log Σ exp(-τ|e - d|²)`, bias and extras."""
    learned = trained(prototypes)
    state = Prototypes(normal(T, prototypes, E, seed=7), normal(T, prototypes, E, seed=8))
    vectors, extra = normal(N, D, seed=9), normal(N, 1, seed=10)
    scores = decode(learned, state, Queries(vectors, extra))
    embedded = vectors @ learned["projection0"]
    for t in range(T):
        for n in range(N):
            sides = [
                math.log(
                    sum(
                        math.exp(-math.exp(-0.5) * float(((embedded[n] - p) ** 2).sum()))
                        for p in side[t]
                    )
                )
                for side in state
            ]
            expected = sides[0] - sides[1] + 0.4 + 0.6 * float(extra[n, 0])
            assert float(scores[t, n]) == pytest.approx(expected, rel=1e-9)
    of_tasks = Queries(vectors.expand(T, N, D), extra.expand(T, N, 1))
    torch.testing.assert_close(decode(learned, state, of_tasks), scores)


@pytest.mark.parametrize("feedback", ["binary", "rating"])
@pytest.mark.parametrize("prototypes", [1, M])
def test_the_priors_are_moved_by_the_new_item_and_count_as_so_many_shots(
    prototypes: int, feedback: Feedback
) -> None:
    learned = trained(prototypes)
    labels = normal(T, K, seed=11)
    if feedback == "binary":
        labels = (labels > 0).double()
    context = normal(T, 2, D, seed=12)
    vectors = normal(T, K, D, seed=13)
    shots = Shots(vectors, labels * MASK, MASK, normal(T, K, 1), context)
    found = encode(learned, shots, feedback, prior_strength=3.0, dislike_weight=0.25)
    embedded = vectors @ learned["projection0"]
    weights = side_weights(labels, feedback, 0.25)
    for number, side in enumerate(("liked", "disliked")):
        prior = learned[f"prior.{side}"] + (context[:, 1] @ learned[f"task.{side}"]).unsqueeze(1)
        strength = 3.0 * learned["log_strength"][number].exp()
        attention = torch.zeros(T, 1, K).double()
        if prototypes > 1:
            attention = learned[f"query.{side}"] @ embedded.mT / E**0.5
        expected = means(embedded, weights[number] * MASK, attention, prior, strength)
        torch.testing.assert_close(found[number], expected)
        torch.testing.assert_close(found[number][2], prior[2])


@pytest.mark.parametrize(
    "arguments",
    [
        {"prototypes": 0},
        {"prototypes": 2, "projection": "none"},
        {"prior_strength": 0.0},
        {"dislike_weight": -0.1},
    ],
)
def test_arguments_out_of_range_are_errors(arguments: dict[str, object]) -> None:
    with pytest.raises(LearnerError, match=next(iter(arguments))):
        Prototypical(**arguments)  # type: ignore[arg-type]


def test_queries_of_several_prototypes_are_not_alike_at_the_start() -> None:
    """Alike they would stay alike."""
    inputs = Inputs(Features(np.zeros((1, D), np.float32)), "binary", {"inputs.mean": np.zeros(D)})
    made = Prototypical(prototypes=M, embedding_size=E)._initial(inputs, np.random.default_rng(0))
    assert not np.allclose(made["query.liked"][0], made["query.liked"][1])
