"""Each baseline against the plain formula that it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.baselines import (
    ALS,
    EASE,
    BertCosine,
    ItemKNN,
    ItemMean,
    Popularity,
    PredictedPopularity,
    Random,
    Ridge,
    TfidfCosine,
)
from metarec.errors import ConfigError, LearnerError
from metarec.features import Features
from metarec.learner import Support, Training

N_TASKS, N_CANDIDATES, D = 12, 9, 4
COLD = 8  # the last candidate occurs in no train interaction


def matrix(seed: int = 0, n_tasks: int = N_TASKS, feedback: str = "binary") -> np.ndarray:
    """Labels [n_tasks, N_CANDIDATES], NaN where there is no interaction; COLD has none."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 6, (n_tasks, N_CANDIDATES)).astype(np.float32)
    if feedback == "binary":
        labels = (labels >= 3).astype(np.float32)
    if feedback == "implicit":
        labels[:] = 1
    labels[rng.random(labels.shape) < 0.4] = np.nan
    labels[:, COLD] = np.nan
    labels[0, :COLD] = np.where(np.isnan(labels[0, :COLD]), 1, labels[0, :COLD])
    return labels


def training(
    labels: np.ndarray, feedback: str = "binary", kind: str = "user", **more: Any
) -> Training:
    tasks, candidates = np.nonzero(~np.isnan(labels))
    rng = np.random.default_rng(9)
    features = Features(rng.normal(size=(labels.shape[1], D)).astype(np.float32))
    return Training(
        **{
            "kind": kind,
            "feedback": feedback,
            "tasks": tasks.astype(np.int32),
            "candidates": candidates.astype(np.int32),
            "labels": labels[tasks, candidates],
            "n_tasks": labels.shape[0],
            "n_candidates": labels.shape[1],
            "known": np.unique(candidates).astype(np.int32),
            "texts": tuple(f"word{c % 3} tale{c}" for c in range(labels.shape[1])),
            "features": features,
            "sampler": None,
            **more,
        }
    )


def support(*tasks: dict[int, float], item_tasks: list[int] | None = None) -> Support:
    """One task for each {candidate: label}, padded to the longest."""
    k_shot = max(map(len, tasks))
    candidates = np.zeros((len(tasks), k_shot), dtype=np.int32)
    labels = np.zeros((len(tasks), k_shot), dtype=np.float32)
    mask = np.zeros((len(tasks), k_shot), dtype=bool)
    for t, shots in enumerate(tasks):
        for k, (candidate, label) in enumerate(shots.items()):
            candidates[t, k], labels[t, k], mask[t, k] = candidate, label, True
    own = None if item_tasks is None else np.array(item_tasks, dtype=np.int32)
    return Support(candidates, labels, mask, own)


def scores(learner: Any, given_training: Training, shots: Support) -> np.ndarray:
    meta = learner.fit(given_training)
    everything = np.arange(given_training.n_candidates, dtype=np.int32)
    return np.asarray(learner.score(learner.adapt(meta, shots), everything))


def row(shots: dict[int, float]) -> np.ndarray:
    out = np.zeros(N_CANDIDATES)
    for candidate, weight in shots.items():
        out[candidate] = weight
    return out


SHOTS = ({0: 1.0, 3: 1.0}, {2: 1.0, 5: 0.0, 6: 1.0}, {})


# Floor


def test_random_is_the_same_for_the_same_support_whatever_the_order_of_its_shots() -> None:
    shots = support({1: 1.0, 4: 0.0}, {4: 0.0, 1: 1.0}, {1: 0.0, 4: 0.0})
    a, b, c = scores(Random(), training(matrix()), shots)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_random_without_shots_ties_all() -> None:
    assert not scores(Random(), training(matrix()), support({}, {})).any()


def test_random_depends_on_its_seed_and_that_of_the_training() -> None:
    shots = support({1: 1.0})
    first = scores(Random(seed=0), training(matrix(), seed=0), shots)
    assert not np.array_equal(first, scores(Random(seed=1), training(matrix(), seed=0), shots))
    assert not np.array_equal(first, scores(Random(seed=0), training(matrix(), seed=1), shots))


def test_random_is_uniform() -> None:
    learner = Random()
    meta = learner.fit(training(matrix()))
    shots = support(*({c: 1.0, (c + 1) % 9: 0.0} for c in range(9)))
    drawn = learner.score(learner.adapt(meta, shots), np.arange(20_000, dtype=np.int32))
    # Standard error of a mean of n uniform numbers: 1 / sqrt(12 n).
    assert drawn.mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * drawn.size))
    assert abs(np.corrcoef(drawn) - np.eye(9)).max() < 5 / np.sqrt(20_000)


def test_popularity_counts_positives_or_all() -> None:
    labels = matrix()
    shots = support({0: 1.0}, {})
    positives = scores(Popularity(), training(labels), shots)
    everything = scores(Popularity(of="all"), training(labels), shots)
    assert np.array_equal(positives, np.tile(np.nansum(labels, axis=0), (2, 1)))
    assert np.array_equal(everything, np.tile((~np.isnan(labels)).sum(axis=0), (2, 1)))
    assert positives[0, COLD] == everything[0, COLD] == 0


def test_item_mean_is_the_shrunk_mean_plus_the_shrunk_bias_of_the_task() -> None:
    labels = matrix(feedback="rating")
    got = scores(
        ItemMean(shrinkage=3.0, task_shrinkage=2.0),
        training(labels, "rating"),
        support({0: 5.0, 4: 2.0}, {}),
    )
    mean = np.nanmean(labels)
    number = (~np.isnan(labels)).sum(axis=0)
    expected = (np.nansum(labels, axis=0) + 3 * mean) / (number + 3)
    bias = ((5 - expected[0]) + (2 - expected[4])) / (2 + 2)
    assert got[0] == pytest.approx(expected + bias, rel=1e-6)
    assert got[1] == pytest.approx(expected, rel=1e-6)
    assert got[1, COLD] == pytest.approx(mean, rel=1e-6)


# Collaborative


def filled(labels: np.ndarray, dislike_weight: float) -> np.ndarray:
    return np.nan_to_num(np.where(labels == 0, dislike_weight, labels)).astype(np.float64)


@pytest.mark.parametrize("neighbours", [None, 3])
@pytest.mark.parametrize("dislike_weight", [0.0, 0.4])
def test_knn_is_the_sum_over_shots_of_shrunk_cosines(
    neighbours: int | None, dislike_weight: float
) -> None:
    labels = matrix()
    learner = ItemKNN(neighbours=neighbours, shrinkage=2.0, dislike_weight=dislike_weight)
    got = scores(learner, training(labels), support(*SHOTS))
    x = filled(labels, dislike_weight)
    for t, shots in enumerate(SHOTS[:2]):
        expected = np.zeros(N_CANDIDATES)
        for shot, label in shots.items():
            near = np.zeros(N_CANDIDATES)
            for c in range(N_CANDIDATES):
                if c != shot:
                    lengths = np.linalg.norm(x[:, shot]) * np.linalg.norm(x[:, c])
                    near[c] = x[:, shot] @ x[:, c] / (lengths + 2.0)
            if neighbours is not None:
                near[near < np.sort(near)[-neighbours]] = 0
            expected += (label if label else dislike_weight) * near
        assert got[t] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_knn_may_take_the_mean_of_the_task_off_its_ratings() -> None:
    labels = matrix(feedback="rating")
    learner = ItemKNN(neighbours=None, shrinkage=1.0, centre="task")
    got = scores(learner, training(labels, "rating"), support({0: 5.0, 3: 2.0}))
    x = np.nan_to_num(labels - np.nanmean(labels, axis=1, keepdims=True)).astype(np.float64)
    lengths = np.linalg.norm(x, axis=0)
    similarity = x.T @ x / (np.outer(lengths, lengths) + 1.0)
    np.fill_diagonal(similarity, 0)
    assert got[0] == pytest.approx(row({0: 1.5, 3: -1.5}) @ similarity, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("n_tasks", [5, 40])  # dual form, primal form
@pytest.mark.parametrize("feedback", ["binary", "implicit", "rating"])
def test_ease_is_its_closed_form(n_tasks: int, feedback: str) -> None:
    labels = matrix(n_tasks=n_tasks, feedback=feedback)
    learner = EASE(regularisation=3.0, dislike_weight=0.2)
    given_training = training(labels, feedback)
    meta = learner.fit(given_training)
    assert ("dual" in meta) == (n_tasks < N_CANDIDATES - 1)
    got = scores(learner, given_training, support(*SHOTS))
    x = filled(labels, 0.2)
    inverse = np.linalg.inv(x.T @ x + 3.0 * np.eye(N_CANDIDATES))
    b = np.eye(N_CANDIDATES) - inverse / np.diag(inverse)
    zero = 0.2 if feedback == "binary" else 0.0
    for t, shots in enumerate(SHOTS[:2]):
        s = row({c: label if label else zero for c, label in shots.items()})
        assert got[t] == pytest.approx(s @ b, rel=1e-4, abs=1e-6)


@given(st.integers(0, 1000), st.integers(2, 7), st.floats(0.1, 100.0))
@settings(max_examples=25, deadline=None)
def test_ease_minimises_its_loss(seed: int, n_tasks: int, regularisation: float) -> None:
    # Zero gradient of |X - XB|^2 + regularisation |B|^2 off the diagonal; one-hot shots give B.
    labels = matrix(seed, n_tasks, "implicit")
    learner = EASE(regularisation=regularisation)
    b = scores(learner, training(labels, "implicit"), support(*({c: 1.0} for c in range(COLD))))
    b = b[:, :COLD].astype(np.float64)
    x = filled(labels, 0.0)[:, :COLD]
    gradient = x.T @ (x @ b - x) + regularisation * b
    np.fill_diagonal(gradient, 0)
    assert abs(gradient).max() < 1e-4 * max(1.0, regularisation)
    assert abs(np.diag(b)).max() < 1e-6


@pytest.mark.parametrize("dislike_weight", [-0.5, 0.0, 0.5])
def test_als_folds_a_task_in_by_the_normal_equations(dislike_weight: float) -> None:
    learner = ALS(factors=3, regularisation=0.7, alpha=4.0, dislike_weight=dislike_weight)
    given_training = training(matrix())
    y = learner.fit(given_training)["factors"].astype(np.float64)
    got = scores(learner, given_training, support(*SHOTS))
    for t, shots in enumerate(SHOTS[:2]):
        confidence, preference = np.ones(N_CANDIDATES), np.zeros(N_CANDIDATES)
        for candidate, label in shots.items():
            confidence[candidate] += 4.0 * (1.0 if label else abs(dislike_weight))
            preference[candidate] = label or dislike_weight > 0
        left = y.T @ np.diag(confidence) @ y + 0.7 * np.eye(3)
        x = np.linalg.solve(left, y.T @ (confidence * preference))
        assert got[t] == pytest.approx(y @ x, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("make", [ItemKNN, EASE, ALS])
def test_a_dislike_of_full_weight_counts_as_a_like_does(make: Any) -> None:
    liked = np.where(np.isnan(matrix()), np.nan, 1.0).astype(np.float32)
    alike = [dict.fromkeys(shots, 1.0) for shots in SHOTS]
    found = scores(make(dislike_weight=1.0, prior="none"), training(matrix()), support(*SHOTS))
    expected = scores(make(prior="none"), training(liked), support(*alike))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_als_of_the_library_stands_where_the_fold_in_puts_the_candidates() -> None:
    # At the end of the last half-step the candidates' factors solve the same equations, given the
    # tasks' factors, which are the fold-in of the tasks' own rows: a fixed point.
    labels = matrix(feedback="implicit")
    given_training = training(labels, "implicit")
    learner = ALS(factors=2, regularisation=0.5, alpha=3.0, iterations=300)
    meta = learner.fit(given_training)
    rows = [{c: 1.0 for c in np.flatnonzero(~np.isnan(shots))} for shots in labels]
    x = learner.adapt(meta, support(*rows)).factors
    for candidate in range(COLD):
        p = ~np.isnan(labels[:, candidate])
        confidence = 1 + 3.0 * p
        left = x.T @ np.diag(confidence) @ x + 0.5 * np.eye(2)
        expected = np.linalg.solve(left, x.T @ (confidence * p))
        assert meta["factors"][candidate] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("make", [ItemKNN, EASE, ALS])
def test_collaborative_learners_tie_the_new_candidates(make: Any) -> None:
    got = scores(make(), training(matrix()), support(*SHOTS))
    assert (got[:, COLD] == 0).all()


@pytest.mark.parametrize("make", [ItemKNN, EASE, ALS])
def test_without_a_shot_that_counts_collaborative_learners_fall_back_to_popularity(
    make: Any,
) -> None:
    labels = matrix()
    shots = support({}, {0: 0.0, 1: 0.0}, {0: 1.0})
    with_prior = scores(make(), training(labels), shots)
    assert np.array_equal(with_prior[:2], np.tile(np.nansum(labels, axis=0), (2, 1)))
    without = scores(make(prior="none"), training(labels), shots)
    assert not without[:2].any()
    assert np.array_equal(with_prior[2], without[2])


@pytest.mark.parametrize("make", [ItemKNN, EASE, ALS])
def test_the_prior_may_stand_beside_the_shots_in_standard_deviations_of_the_scores(
    make: Any,
) -> None:
    labels, shots = matrix(), support({0: 1.0}, {1: 0.0, 3: 1.0}, {})
    plain = scores(make(), training(labels), shots).astype(np.float64)
    found = scores(make(prior_weight=0.5), training(labels), shots)
    count = np.nansum(labels, axis=0).astype(np.float64)
    liked = count > 0
    z = np.log1p(count)
    z = (z - z[liked].mean()) / z[liked].std()
    expected = plain + 0.5 * plain[:, liked].std(axis=1, keepdims=True) * z
    assert found[:2] == pytest.approx(expected[:2], rel=1e-4, abs=1e-5)
    assert np.array_equal(found[2], plain[2])
    # whichever candidates are asked for
    learner, some = make(prior_weight=0.5), np.array([4, 1], np.int32)
    meta = learner.fit(training(labels))
    assert learner.score(learner.adapt(meta, shots), some) == pytest.approx(found[:, [4, 1]])


# Content


def test_tfidf_is_the_cosine_with_the_mean_of_the_liked_rows() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    given_training = training(matrix())
    got = scores(
        TfidfCosine(min_df=1, sublinear_tf=False, dislike_weight=-0.5),
        given_training,
        support(*SHOTS),
    )
    model = TfidfVectorizer().fit(given_training.texts[:COLD])
    words = model.transform(given_training.texts).toarray()
    for t, shots in enumerate(SHOTS[:2]):
        profile = row({c: label if label else -0.5 for c, label in shots.items()}) @ words
        expected = words @ profile / np.linalg.norm(profile)
        assert got[t] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert not got[2].any()


def test_tfidf_learns_no_word_from_the_text_of_a_cold_item() -> None:
    texts = ("war", "war", "love", "love", "war love", "war", "love", "war", "war secret")
    learner = TfidfCosine(min_df=1)
    first = scores(learner, training(matrix(), texts=texts), support({0: 1.0}))
    changed = (*texts[:COLD], "war mystery secret")
    second = scores(learner, training(matrix(), texts=changed), support({0: 1.0}))
    assert first[0, COLD] == pytest.approx(1.0)
    assert np.array_equal(first, second)


def test_tfidf_without_any_word_says_so() -> None:
    with pytest.raises(LearnerError, match="lower min_df, or give the items text"):
        TfidfCosine().fit(training(matrix(), texts=("",) * N_CANDIDATES))


def normalised(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def test_bert_cosine_is_the_cosine_with_the_weighted_mean() -> None:
    labels = matrix(feedback="rating")
    given_training = training(labels, "rating")
    shots = {0: 5.0, 3: 1.0}
    got = scores(BertCosine(centre="global"), given_training, support(shots))
    assert given_training.features is not None
    f = normalised(given_training.features.candidates.astype(np.float64))
    mean = np.nanmean(labels)
    expected = f @ normalised((5 - mean) * f[0] + (1 - mean) * f[3])
    assert got[0] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_bert_cosine_knows_the_text_of_a_new_item() -> None:
    rng = np.random.default_rng(2)
    users, items = (rng.normal(size=(n, D)).astype(np.float32) for n in (N_CANDIDATES, N_TASKS))
    given_training = training(matrix(), kind="item", features=Features(users, items))
    shots = support({0: 1.0, 3: 1.0}, {}, item_tasks=[5, 6])
    got = scores(BertCosine(text_weight=2.0), given_training, shots)
    f = normalised(users.astype(np.float64))
    profile = 2 * normalised(items[5].astype(np.float64)) + (f[0] + f[3]) / 2
    assert got[0] == pytest.approx(f @ normalised(profile), rel=1e-5, abs=1e-6)
    assert got[1] == pytest.approx(f @ normalised(items[6].astype(np.float64)), abs=1e-6)


def test_ridge_is_that_of_scikit_learn_on_the_residuals() -> None:
    from sklearn.linear_model import Ridge as Reference

    labels = matrix(feedback="rating")
    given_training = training(labels, "rating")
    shots = {0: 5.0, 3: 1.0, 6: 4.0}
    got = scores(Ridge(regularisation=0.8), given_training, support(shots, {}))
    base = scores(ItemMean(), given_training, support(shots, {})).astype(np.float64)
    assert given_training.features is not None
    f = given_training.features.candidates.astype(np.float64)
    x = f - f[:COLD].mean(axis=0)
    seen = list(shots)
    model = Reference(alpha=0.8, fit_intercept=False)
    model.fit(x[seen], np.array(list(shots.values())) - base[0, seen])
    assert got[0] == pytest.approx(base[0] + x @ model.coef_, rel=1e-5)
    assert got[1] == pytest.approx(base[1], rel=1e-6)


def test_ridge_on_popularity_fits_the_labels_and_adds_popularity() -> None:
    labels = matrix()
    given_training = training(labels)
    learner = Ridge(bias="popularity", popularity_weight=0.3, regularisation=0.8)
    got = scores(learner, given_training, support({0: 1.0, 3: 0.0, 6: 1.0}, {}))
    popular = np.log1p(np.nansum(labels, axis=0)[:COLD].astype(np.float64))
    bias = np.append(0.3 * (popular - popular.mean()) / popular.std(), 0.0)
    assert given_training.features is not None
    f = given_training.features.candidates.astype(np.float64)
    x = f - f[:COLD].mean(axis=0)
    own = x[[0, 3, 6]]
    w = np.linalg.solve(own.T @ own + 0.8 * np.eye(D), own.T @ np.array([1.0, 0.0, 1.0]))
    assert got[0] == pytest.approx(bias + x @ w, rel=1e-5, abs=1e-6)
    assert got[1] == pytest.approx(bias, rel=1e-5, abs=1e-7)


def test_predicted_popularity_is_a_ridge_from_features_to_log_counts() -> None:
    labels = matrix()
    given_training = training(labels)
    got = scores(PredictedPopularity(regularisation=0.5), given_training, support({0: 1.0}, {}))
    assert given_training.features is not None
    f = given_training.features.candidates.astype(np.float64)
    target = np.log1p(np.nansum(labels, axis=0)[:COLD].astype(np.float64))
    x = f[:COLD] - f[:COLD].mean(axis=0)
    w = np.linalg.solve(x.T @ x + 0.5 * np.eye(D), x.T @ (target - target.mean()))
    expected = target.mean() + (f - f[:COLD].mean(axis=0)) @ w
    assert got == pytest.approx(np.tile(expected, (2, 1)), rel=1e-5)


# Arguments


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (Popularity, {"of": "positive"}, "of='positive' is unknown; did you mean 'positives'"),
        (ItemMean, {"shrinkage": -1.0}, "shrinkage=-1.0 must be at least 0"),
        (ItemKNN, {"neighbours": 0}, "neighbours=0 must be at least 1"),
        (ItemKNN, {"centre": "tsk"}, "centre='tsk' is unknown; did you mean 'task'"),
        (EASE, {"regularisation": 0.0}, "regularisation=0.0 must be above 0"),
        (EASE, {"prior": "popular"}, "did you mean 'popularity'"),
        (EASE, {"prior_weight": -1.0}, "prior_weight=-1.0 must be at least 0"),
        (ALS, {"factors": 0}, "factors=0 must be at least 1"),
        (ALS, {"alpha": float("nan")}, "alpha=nan must be above 0"),
        (TfidfCosine, {"min_df": 0}, "min_df=0 must be at least 1"),
        (BertCosine, {"text_weight": -1.0}, "text_weight=-1.0 must be at least 0"),
        (Ridge, {"bias": "none"}, "bias='none' is unknown"),
        (PredictedPopularity, {"regularisation": -1.0}, "must be above 0"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(
    make: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"{make.__name__}: .*{message}"):
        make(**arguments)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    from metarec import baselines

    with pytest.raises(AttributeError, match="no attribute 'SVD'"):
        _ = baselines.SVD
    assert baselines.EASE is EASE
