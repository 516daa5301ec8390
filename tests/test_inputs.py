"""Features and inputs: nothing of the query, of a shot's own label or of a new item leaks in."""

from __future__ import annotations

import numpy as np
import pytest

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, labels_of
from metarec.errors import LearnerError
from metarec.features import Features, build_features
from metarec.inputs import Inputs, Representation
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


TEXT, FACTORS = 5, 32


@pytest.mark.parametrize("kind", ["user", "item"])
def test_both_is_text_and_factors_one_after_the_other(
    tiny_dataset: Dataset, kind: TaskKind
) -> None:
    _, training, _ = make(tiny_dataset, kind)
    text, factors, both = (Inputs.fit(training, name) for name in ("text", "collaborative", "both"))
    assert (text.size, factors.size, both.size) == (TEXT, FACTORS, TEXT + FACTORS)
    channels = (1, 1, 1) if kind == "user" else (2, 1, 2)
    assert (text.channels, factors.channels, both.channels) == channels
    assert [one.representation for one in (text, factors, both)] == [
        "text", "collaborative", "both",
    ]  # fmt: skip
    everyone = np.arange(training.n_candidates, dtype=np.int32)
    seen = both.vectors(everyone)
    assert (seen[:, :TEXT] == text.vectors(everyone)).all()
    assert (seen[:, TEXT:] == factors.vectors(everyone)).all()
    support = training.sampler.batch(0).support
    shots, each, task = both.of_support(support)
    for inputs, columns in ((text, slice(0, TEXT)), (factors, slice(TEXT, None))):
        own_shots, own_each, own_task = inputs.of_support(support)
        assert (own_shots == shots[..., columns]).all()
        assert (own_each == each[:, :, : inputs.channels, columns]).all()
        assert (own_task == task[:, : inputs.channels, columns]).all()
    if kind == "item":  # a new item has no factors
        assert (task[:, 1, TEXT:] == 0).all()
        assert (each[:, :, 1, TEXT:] == 0).all()
        assert (task[:, 1, :TEXT] != 0).any()


def test_factors_are_scaled_over_known_candidates_and_zero_for_cold_ones(
    tiny_dataset: Dataset,
) -> None:
    split, training, _ = make(tiny_dataset, "user")
    inputs = Inputs.fit(training, "collaborative")
    known = inputs.vectors(training.known)
    np.testing.assert_allclose(np.sqrt(np.square(known).mean(axis=0)), 1, rtol=1e-5)
    assert (inputs.vectors(split.items_of("test")) == 0).all()


@pytest.mark.parametrize("kind", ["user", "item"])
@pytest.mark.parametrize("representation", ["collaborative", "both"])
def test_in_training_the_task_is_left_out_of_the_factors(
    tiny_dataset: Dataset, kind: TaskKind, representation: Representation
) -> None:
    _, training, _ = make(tiny_dataset, kind)
    inputs = Inputs.fit(training, representation, cold_share=0.0)
    batch = training.sampler.batch(0)
    arrays = inputs.of_batch(batch)
    assert inputs.factorisation is not None
    scale = inputs.statistics["inputs.factor_scale"]
    observed = batch.query_observed & batch.query_mask
    for candidates, labels, mask, found in (
        (batch.query, batch.query_labels, observed, arrays.query),
        (batch.support.candidates, batch.support.labels, batch.support.mask, arrays.support),
    ):
        left = inputs.factorisation.without(candidates, batch.tasks, labels, mask) / scale
        assert (found[..., -FACTORS:] == left)[mask].all()
        assert (found[..., -FACTORS:] != inputs.vectors(candidates)[..., -FACTORS:])[mask].any()
    # the context is that of the same shots
    weight = np.where(batch.support.mask, 2 * batch.support.labels - 1, 0)[..., None]
    count = batch.support.mask.sum(axis=1)[:, None]
    expected = (weight * arrays.support).sum(axis=1) / (count + 1)
    np.testing.assert_allclose(arrays.query_context[:, 0], expected, rtol=1e-4, atol=1e-5)
    if representation == "both":
        text = Inputs.fit(training).of_batch(batch)
        assert (arrays.query[..., :TEXT] == text.query).all()
        assert (arrays.support[..., :TEXT] == text.support).all()


def test_the_share_of_episodes_whose_queries_are_cold(tiny_dataset: Dataset) -> None:
    _, training, _ = make(tiny_dataset, "user")
    batch = training.sampler.batch(0)
    warm = Inputs.fit(training, "both", cold_share=0.0).of_batch(batch)
    inputs, shares = Inputs.fit(training, "both", cold_share=0.3), []
    for seed in range(40):
        arrays = inputs.of_batch(batch, np.random.default_rng(seed))
        cold = (arrays.query[..., TEXT:] == 0).all(axis=(1, 2))
        assert (arrays.query[cold, :, :TEXT] == warm.query[cold, :, :TEXT]).all()
        assert (arrays.query[~cold] == warm.query[~cold]).all()
        assert (arrays.support == warm.support).all()
        assert (arrays.query_context == warm.query_context).all()
        shares.append(cold.mean())
    draws = 40 * len(batch.tasks)
    assert abs(np.mean(shares) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / draws)
    one, two = (inputs.of_batch(batch, np.random.default_rng(7)).query for _ in range(2))
    assert (one == two).all()


def test_nothing_is_seen_as_cold_without_text_or_among_known_users(
    tiny_dataset: Dataset,
) -> None:
    cases: tuple[tuple[TaskKind, Representation], ...] = (
        ("user", "text"), ("user", "collaborative"), ("item", "both"),
    )  # fmt: skip
    for kind, representation in cases:
        _, training, _ = make(tiny_dataset, kind)
        batch = training.sampler.batch(0)
        inputs = Inputs.fit(training, representation, cold_share=1.0)
        drawn = inputs.of_batch(batch, np.random.default_rng(0)).query
        assert (drawn == inputs.of_batch(batch).query).all()
    _, training, _ = make(tiny_dataset, "user")
    with pytest.raises(LearnerError, match=r"of_batch\(batch, rng\)"):
        Inputs.fit(training, "both").of_batch(training.sampler.batch(0))


@pytest.mark.parametrize("kind", ["user", "item"])
@pytest.mark.parametrize("representation", ["text", "collaborative", "both"])
def test_restored_inputs_see_the_same(
    tiny_dataset: Dataset, kind: TaskKind, representation: Representation
) -> None:
    _, training, _ = make(tiny_dataset, kind)
    inputs = Inputs.fit(training, representation)
    assert all(name.startswith("inputs.") for name in inputs.statistics)
    assert training.features is not None
    weights = {"layer0.bias": np.zeros(1, np.float32)}
    restored = Inputs.restore(training.features, "binary", {**inputs.statistics, **weights})
    assert restored.representation == representation
    assert (restored.size, restored.channels) == (inputs.size, inputs.channels)
    batch = training.sampler.batch(0)
    for one, two in zip(
        inputs.of_support(batch.support), restored.of_support(batch.support), strict=True
    ):
        assert (one == two).all()
    assert (restored.vectors(training.known) == inputs.vectors(training.known)).all()
    if representation != "text":
        with pytest.raises(LearnerError, match=r"Inputs\.fit"):
            restored.of_batch(batch, np.random.default_rng(0))


def test_an_unknown_representation_is_an_error_that_names_the_nearest(
    tiny_dataset: Dataset,
) -> None:
    _, training, _ = make(tiny_dataset, "user")
    with pytest.raises(LearnerError, match="did you mean 'collaborative'"):
        Inputs.fit(training, "colaborative")
    with pytest.raises(LearnerError, match=r"cold_share=1\.5"):
        Inputs.fit(training, "both", cold_share=1.5)
