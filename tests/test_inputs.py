"""Features and inputs: nothing of the query, of a shot's own label or of a new item leaks in."""

from __future__ import annotations

import numpy as np
import pytest

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, labels_of
from metarec.features import Features, build_features
from metarec.inputs import Inputs
from metarec.learner import Feedback, Support, TaskKind, Training
from metarec.splits import Split


def make(
    data: Dataset, kind: TaskKind, feedback: Feedback = "binary"
) -> tuple[Split, Training, np.ndarray]:
    split = Split.by_seed(data, 0)
    text = np.random.default_rng(0).normal(size=(data.n_items, 5)).astype(np.float32)
    features = build_features(split, text, kind, feedback, 4.0)
    rows = split.rows("train")
    sides = data.users[rows], data.items[rows]
    tasks, candidates = sides if kind == "user" else sides[::-1]
    sizes = (data.n_users, data.n_items) if kind == "user" else (data.n_items, data.n_users)
    negatives = 0.0 if feedback == "rating" else 0.5
    sampler = EpisodeSampler(split, kind, feedback=feedback, negatives=negatives)
    training = Training(
        kind, feedback, tasks, candidates, labels_of(data.ratings[rows], feedback, 4.0), *sizes,
        sampler.known, (), features, sampler,
    )  # fmt: skip
    return split, training, text


def test_a_profile_is_the_weighted_mean_of_the_texts_of_meta_train(tiny_dataset: Dataset) -> None:
    split, training, text = make(tiny_dataset, "item", "rating")
    assert training.features is not None
    rows = split.rows("train")
    for user in split.users_of("warm"):
        own = rows[tiny_dataset.users[rows] == user]
        weights, items = tiny_dataset.ratings[own], tiny_dataset.items[own]
        expected = (weights[:, None] * text[items]).sum(axis=0) / weights.sum()
        np.testing.assert_allclose(
            training.features.candidates[user], expected, rtol=1e-5, atol=1e-6
        )
    assert (training.features.candidates[split.users_of("test")] == 0).all(), (
        "a new user has a profile"
    )


def test_in_training_the_item_of_a_task_is_left_out_of_the_profiles(tiny_dataset: Dataset) -> None:
    split, training, text = make(tiny_dataset, "item")
    assert training.features is not None
    batch = training.sampler.batch(0)
    vectors = training.features.of_episode(
        batch.support.candidates, batch.tasks, batch.support.labels, batch.support.mask
    )
    rows = split.rows("train")
    for t, k in zip(*np.nonzero(batch.support.mask), strict=True):
        user, item = batch.support.candidates[t, k], batch.tasks[t]
        own = rows[(tiny_dataset.users[rows] == user) & (tiny_dataset.items[rows] != item)]
        liked = tiny_dataset.items[own][tiny_dataset.ratings[own] >= 4]
        expected = text[liked].mean(axis=0) if len(liked) else np.zeros(5)
        np.testing.assert_allclose(vectors[t, k], expected, rtol=1e-3, atol=1e-4)


def test_in_training_the_item_of_a_task_is_left_out_of_the_activity(tiny_dataset: Dataset) -> None:
    split, training, _ = make(tiny_dataset, "item")
    inputs = Inputs.fit(training)
    batch = training.sampler.batch(0)
    observed = batch.query_observed & batch.query_mask
    columns = inputs.extra_columns(batch.query, observed)[..., 0]
    counts = np.bincount(tiny_dataset.users[split.rows("train")], minlength=tiny_dataset.n_users)
    known = np.log1p(counts[training.known])
    expected = (np.log1p(counts[batch.query] - observed) - known.mean()) / known.std()
    np.testing.assert_allclose(columns, expected, rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_known_candidates_only(tiny_dataset: Dataset) -> None:
    split, training, text = make(tiny_dataset, "user")
    statistics = Inputs.fit(training).statistics
    warm = text[split.items_of("warm")]
    np.testing.assert_allclose(statistics["inputs.mean"], warm.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics["inputs.scale"], warm.std(axis=0), rtol=1e-5)


@pytest.mark.parametrize("kind", ["user", "item"])
def test_a_shot_is_left_out_of_its_own_context(tiny_dataset: Dataset, kind: TaskKind) -> None:
    _, training, _ = make(tiny_dataset, kind)
    inputs = Inputs.fit(training)
    support = Support(
        np.array([[1, 2, 3]], np.int32),
        np.array([[1, 0, 1]], np.float32),
        np.array([[True, True, True]]),
        np.array([4], np.int32) if kind == "item" else None,
    )
    _, each, task = inputs.of_support(support)
    x = inputs.vectors(np.array([1, 2, 3], np.int32))
    np.testing.assert_allclose(each[0, 0, 0], (-x[1] + x[2]) / 3, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(each[0, 1, 0], (x[0] + x[2]) / 3, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(task[0, 0], (x[0] - x[1] + x[2]) / 4, rtol=1e-4, atol=1e-6)
    # its own label changes what the others see, never what it sees itself
    flipped = Support(support.candidates, 1 - support.labels, support.mask, support.tasks)
    flipped.labels[0, 1:] = support.labels[0, 1:]
    np.testing.assert_allclose(inputs.of_support(flipped)[1][0, 0], each[0, 0], rtol=1e-6)


def test_without_shots_the_context_is_empty(tiny_dataset: Dataset) -> None:
    _, training, _ = make(tiny_dataset, "user")
    none = np.zeros((2, 0))
    support = Support(none.astype(np.int32), none.astype(np.float32), none.astype(bool))
    _, each, task = Inputs.fit(training).of_support(support)
    assert each.shape == (2, 0, 1, 5)
    assert (task == 0).all()


def test_padded_shots_do_not_matter(tiny_dataset: Dataset) -> None:
    _, training, _ = make(tiny_dataset, "user")
    inputs = Inputs.fit(training)
    mask = np.array([[True, False]])
    one, other = (
        inputs.of_support(
            Support(np.array([[1, c]], np.int32), np.array([[1, y]], np.float32), mask)
        )
        for c, y in ((2, 0.0), (3, np.nan))
    )
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


def test_ratings_are_standardised_and_taken_back(tiny_dataset: Dataset) -> None:
    _, training, _ = make(tiny_dataset, "user", "rating")
    inputs = Inputs.fit(training)
    standardised = inputs.targets(training.labels[None])
    assert abs(standardised.mean()) < 1e-5
    assert abs(standardised.std() - 1) < 1e-5
    np.testing.assert_allclose(inputs.to_rating(standardised), training.labels[None], rtol=1e-5)


def test_features_of_user_tasks_are_the_texts() -> None:
    text = np.ones((3, 2), np.float32)
    assert Features(text).of_episode(np.array([[0, 2]], np.int32)).shape == (1, 2, 2)
