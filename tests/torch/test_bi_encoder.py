"""The bi-encoder: frozen, it is the scorer on features; adapting, both its parts have gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler
from metarec.errors import LearnerError
from metarec.features import build_features
from metarec.inputs import Inputs
from metarec.learner import Feedback, Support, TaskKind, Training
from metarec.splits import Split
from metarec.text.checkpoint import Checkpoint
from metarec.torch.adapted_bert import AdaptedBert
from metarec.torch.adapted_part import AdaptedPart
from metarec.torch.bi_encoder import BiEncoder
from metarec.torch.prefix_cache import PrefixCache
from metarec.torch.scorer import MLP
from metarec.torch.text_batches import Texts
from metarec.torch.text_head import BERT, HEAD


def tokens_of(count: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[1, *rng.integers(3, 11, rng.integers(1, 6)).tolist(), 2] for _ in range(count)]


def training_of(data: Dataset, vectors: np.ndarray, kind: TaskKind, feedback: Feedback) -> Training:
    split = Split.by_seed(data, 0)
    rows = split.rows("train")
    sides = data.users[rows], data.items[rows]
    tasks, candidates = sides if kind == "user" else sides[::-1]
    sizes = (data.n_users, data.n_items) if kind == "user" else (data.n_items, data.n_users)
    features = build_features(split, vectors, kind, feedback, 4.0)
    sampler = EpisodeSampler(
        split,
        kind,
        k_shot=(0, 4),
        query_size=6,
        feedback=feedback,
        negatives=0.0 if feedback == "rating" else 0.5,
    )
    labels = data.ratings[rows] if feedback == "rating" else (data.ratings[rows] >= 4) * 1.0
    return Training(
        kind, feedback, tasks.astype(np.int32), candidates.astype(np.int32),
        labels.astype(np.float32), *sizes, sampler.known, (), features, sampler,
    )  # fmt: skip


def made(
    data: Dataset, checkpoint: Checkpoint, kind: str, feedback: Feedback = "binary",
    task: TaskKind = "user",
) -> tuple[BiEncoder, PrefixCache]:  # fmt: skip
    """A bi-encoder whose statistics are those of its own frozen features."""
    bert = AdaptedBert(checkpoint, AdaptedPart(kind), np.random.default_rng(0), attention="eager")
    cache = PrefixCache(bert, tokens_of(data.n_items), padding=0)
    texts = cache(np.arange(data.n_items, dtype=np.int32))
    pooled = bert.pooled(bert.initial, texts, "mean").detach()
    frozen = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    inputs = Inputs.fit(training_of(data, frozen, task, feedback))
    return BiEncoder(bert, MLP((8,)), inputs, cache=cache), cache


def tensors(weights: Any) -> dict[str, Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}


@pytest.mark.parametrize("feedback", ["binary", "rating"])
@pytest.mark.parametrize("k_shot", [0, 1, 4])
def test_frozen_it_is_the_scorer_on_features(
    tiny_dataset: Dataset, small_bert: Checkpoint, feedback: Feedback, k_shot: int
) -> None:
    encoder, cache = made(tiny_dataset, small_bert, "head", feedback)
    weights = tensors(encoder.initial(np.random.default_rng(1)))
    shots, candidates = np.arange(k_shot, dtype=np.int32), np.arange(10, 30, dtype=np.int32)
    labels = np.array([5, 2, 4, 1] if feedback == "rating" else [1, 0, 1, 1], np.float32)[:k_shot]
    context = torch.from_numpy(encoder.inputs.weights(labels[None])[0])
    found = encoder.query_scores(
        weights, cache(shots) if k_shot else None, context, cache(candidates)
    )

    inputs, head = encoder.inputs, {name[len(HEAD) :]: value for name, value in weights.items()}
    support = Support(shots[None], labels[None], np.ones((1, k_shot), bool))
    vectors, each, task = (torch.from_numpy(array) for array in inputs.of_support(support))
    of_candidates = torch.from_numpy(inputs.vectors(candidates))
    none = torch.zeros(1, len(candidates), 0)
    expected = encoder.scorer.score_catalogue(head, task, of_candidates, none[0])[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    if k_shot:
        own = encoder.support_scores(weights, cache(shots), context)
        assembled = encoder.scorer.assemble(vectors, each, none[:, :k_shot])
        mine = encoder.scorer.forward(head, assembled)[0]
        torch.testing.assert_close(own, mine, atol=1e-4, rtol=1e-4)


def test_the_order_of_shots_and_of_candidates_changes_nothing(
    tiny_dataset: Dataset, small_bert: Checkpoint
) -> None:
    encoder, cache = made(tiny_dataset, small_bert, "last_n")
    weights = tensors(encoder.initial(np.random.default_rng(1)))
    shots, context = np.array([0, 1, 2], np.int32), torch.tensor([1.0, -1.0, 1.0])
    candidates, order = np.arange(5, 12, dtype=np.int32), np.array([2, 0, 1])
    one = encoder.query_scores(weights, cache(shots), context, cache(candidates))
    other = encoder.query_scores(
        weights, cache(shots[order]), context[order], cache(candidates[::-1])
    )
    torch.testing.assert_close(one, other.flip(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["bitfit", "last_n", "lora", "adapter", "prefix", "full"])
def test_a_gradient_step_on_the_support_moves_bert_and_head(
    tiny_dataset: Dataset, small_bert: Checkpoint, kind: str
) -> None:
    encoder, cache = made(tiny_dataset, small_bert, kind)
    weights = tensors(encoder.initial(np.random.default_rng(1)))
    assert {name[: len(HEAD)] for name in weights} == {BERT, HEAD}
    shots: Texts = cache(np.array([0, 1, 2], np.int32))
    targets = torch.tensor([1.0, 0.0, 1.0])

    def loss(given: dict[str, Tensor]) -> Tensor:
        scores = encoder.support_scores(given, shots, 2 * targets - 1)
        return torch.nn.functional.binary_cross_entropy_with_logits(scores, targets)

    before = loss(weights)
    gradients = torch.autograd.grad(before, list(weights.values()), allow_unused=True)
    moved = {
        name: value if gradient is None else value - 0.05 * gradient
        for (name, value), gradient in zip(weights.items(), gradients, strict=True)
    }
    for part in (BERT, HEAD):
        assert any(not torch.equal(moved[name], weights[name]) for name in moved if part in name)
    assert loss(moved) < before


def test_item_tasks_are_refused(tiny_dataset: Dataset, small_bert: Checkpoint) -> None:
    with pytest.raises(LearnerError, match=r"serves user tasks over text: choose episode\.task"):
        made(tiny_dataset, small_bert, "last_n", task="item")
