"""The driver of learners without gradient steps: episodes, the outer loop, catalogues."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, labels_of
from metarec.errors import LearnerError
from metarec.features import build_features
from metarec.inputs import Inputs
from metarec.learner import Feedback, Support, TaskKind, Training
from metarec.loops import OuterLoop
from metarec.splits import Split
from metarec.torch import amortised
from metarec.torch.amortised import Conditioned, Episode, Parameters, Queries, Shots
from metarec.torch.protocf import ProtoCF

CPU = torch.device("cpu")
SIZE = 5


def make_training(
    data: Dataset, kind: TaskKind = "user", feedback: Feedback = "binary"
) -> Training:
    split = Split.by_seed(data, 0)
    vectors = np.random.default_rng(0).normal(size=(data.n_items, SIZE)).astype(np.float32)
    features = build_features(split, vectors, kind, feedback, 4.0)
    rows = split.rows("train")
    sides = data.users[rows], data.items[rows]
    tasks, candidates = sides if kind == "user" else sides[::-1]
    sizes = (data.n_users, data.n_items) if kind == "user" else (data.n_items, data.n_users)
    sampler = EpisodeSampler(
        split, kind, k_shot=(0, 6), query_size=8, task_batch=8, feedback=feedback,
        negatives=0.0 if feedback == "rating" else 0.5,
    )  # fmt: skip
    return Training(
        kind, feedback, tasks, candidates, labels_of(data.ratings[rows], feedback, 4.0), *sizes,
        sampler.known, (), features, sampler,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["user", "item"])
@pytest.mark.parametrize("feedback", ["rating", "binary"])
def test_shots_are_targets_and_zeros_beside_them(
    tiny_dataset: Dataset, kind: TaskKind, feedback: Feedback
) -> None:
    training = make_training(tiny_dataset, kind, feedback)
    inputs = Inputs.fit(training)
    support = training.sampler.batch(0).support
    assert not support.mask.all()
    dirty = replace(
        support, labels=np.where(support.mask, support.labels, np.nan).astype(np.float32)
    )
    shots = amortised.shots_of(inputs, dirty, CPU)
    mask = support.mask
    np.testing.assert_array_equal(shots.mask.numpy(), mask)
    np.testing.assert_array_equal(shots.labels.numpy()[mask], inputs.targets(support.labels)[mask])
    np.testing.assert_array_equal(
        shots.vectors.numpy()[mask], inputs.vectors(support.candidates)[mask]
    )
    for values in (shots.labels, shots.vectors, shots.extra):
        assert (values.numpy()[~mask] == 0).all()
    assert shots.extra.shape == (*mask.shape, int(kind == "item"))
    assert (shots.extra.numpy()[mask] != 0).any() == (kind == "item")


@pytest.mark.parametrize("kind", ["user", "item"])
def test_an_ignored_support_is_that_of_no_shot(tiny_dataset: Dataset, kind: TaskKind) -> None:
    training = make_training(tiny_dataset, kind)
    inputs = Inputs.fit(training)
    support = training.sampler.batch(0).support
    ignored = amortised.shots_of(inputs, support, CPU, ignore_support=True)
    empty = amortised.shots_of(inputs, support.first(0), CPU)
    assert ignored.mask.sum() == ignored.vectors.abs().sum() == ignored.labels.abs().sum() == 0
    torch.testing.assert_close(ignored.context, empty.context, rtol=0, atol=0)
    assert (ignored.context[:, 0] == 0).all()
    seen = amortised.shots_of(inputs, support, CPU)
    assert (seen.context[:, 0] != 0).any()
    if kind == "item":
        torch.testing.assert_close(ignored.context[:, 1], seen.context[:, 1], rtol=0, atol=0)


def test_an_episode_of_training_is_what_adapting_sees(tiny_dataset: Dataset) -> None:
    """In user tasks nothing has to be left out, so both ways give the same tensors."""
    training = make_training(tiny_dataset)
    inputs = Inputs.fit(training)
    episode = amortised.episode_of(inputs, training, 3, CPU)
    batch = training.sampler.batch(3)
    for one, other in zip(
        episode.shots, amortised.shots_of(inputs, batch.support, CPU), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    np.testing.assert_array_equal(episode.queries.vectors.numpy(), inputs.vectors(batch.query))
    np.testing.assert_array_equal(episode.labels.numpy(), batch.query_labels)
    np.testing.assert_array_equal(episode.mask.numpy(), batch.query_mask)
    np.testing.assert_array_equal(episode.batch.tasks, batch.tasks)


def test_every_step_has_random_numbers_of_its_own(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset)
    inputs = Inputs.fit(training)

    def drawn(seed: int, step: int) -> float:
        seeded = replace(training, seed=seed)
        return float(amortised.episode_of(inputs, seeded, step, CPU).rng.random())

    assert drawn(0, 1) == drawn(0, 1)
    assert len({drawn(0, 1), drawn(0, 2), drawn(1, 1)}) == 3


def constant(parameters: Parameters, state: Tensor, queries: Queries) -> Tensor:
    return state.unsqueeze(1) + queries.vectors.sum(-1) * 0


def count_shots(parameters: Parameters, shots: Shots) -> Tensor:
    return parameters["theta"] * shots.mask.sum(-1)


def test_the_penalty_joins_the_outer_loss(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset, feedback="rating")

    def objective(parameters: Parameters, episode: Episode) -> tuple[Tensor, Tensor]:
        scores = constant(parameters, 0 * count_shots(parameters, episode.shots), episode.queries)
        return scores, ((parameters["theta"] - 3) ** 2).sum()

    meta_parameters = amortised.fit(
        training, "text", lambda inputs, rng: {"theta": np.zeros(1)}, objective,
        OuterLoop(steps=200, learning_rate=0.1), "auto", CPU, "test",
    )  # fmt: skip
    assert meta_parameters["theta"] == pytest.approx([3.0], abs=0.1)
    assert meta_parameters["theta"].dtype == np.float32
    assert "inputs.mean" in meta_parameters


def test_without_a_penalty_the_outer_loss_of_the_queries_is_minimised(
    tiny_dataset: Dataset,
) -> None:
    """A constant score learns the mean of the standardised ratings, which is 0."""
    training = make_training(tiny_dataset, feedback="rating")

    def encode(parameters: Parameters, shots: Shots) -> Tensor:
        return parameters["theta"].expand(len(shots.mask))

    meta_parameters = amortised.fit(
        training, "text", lambda inputs, rng: {"theta": np.full(1, 5.0)},
        amortised.scored_by(encode, constant),
        OuterLoop(steps=200, learning_rate=0.1), "auto", CPU, "test",
    )  # fmt: skip
    assert meta_parameters["theta"] == pytest.approx([0.0], abs=0.3)


def conditioned(
    training: Training, support: Support, seen: list[int] | None = None
) -> Conditioned[Tensor]:
    """A learner whose score is the number of shots times the sum of the candidate's vector."""

    def decode(parameters: Parameters, state: Tensor, queries: Queries) -> Tensor:
        if seen is not None:
            seen.append(len(queries.vectors))
        return state.unsqueeze(1) * queries.vectors.sum(-1)

    inputs = Inputs.fit(training)
    meta_parameters = {**inputs.statistics, "theta": np.ones(1, np.float32)}
    return amortised.condition(inputs, meta_parameters, support, count_shots, decode, CPU)


def test_a_catalogue_is_decoded_in_chunks(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make_training(tiny_dataset)
    support, seen = training.sampler.batch(0).support, list[int]()
    everyone = np.arange(training.n_candidates, dtype=np.int32)
    whole = amortised.score(conditioned(training, support), everyone)
    expected = support.mask.sum(1)[:, None] * Inputs.fit(training).vectors(everyone).sum(1)
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(amortised, "CANDIDATES_AT_ONCE", 7)
    chunked = amortised.score(conditioned(training, support, seen), everyone)
    np.testing.assert_array_equal(whole, chunked)
    assert max(seen) == 7
    assert sum(seen) == training.n_candidates
    none = amortised.score(conditioned(training, support), everyone[:0])
    assert none.shape == (len(whole), 0)


def test_ratings_are_scored_in_the_unit_of_the_labels(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset, feedback="rating")
    support = training.sampler.batch(0).support.first(0)
    scores = amortised.score(conditioned(training, support), training.known)
    np.testing.assert_allclose(scores, training.labels.mean(), rtol=1e-6)


def test_protocf_refuses_user_tasks_before_it_trains(tiny_dataset: Dataset) -> None:
    with pytest.raises(LearnerError, match="ProtoCF serves item tasks"):
        ProtoCF().fit(make_training(tiny_dataset, "user"))
