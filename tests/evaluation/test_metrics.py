from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from metarec.errors import ConfigError, EpisodeError, ScoreError
from metarec.evaluation import metrics
from metarec.evaluation.metrics import (
    CUTOFF_METRICS,
    Coverage,
    chance_level,
    measure,
    ranking_metrics,
)
from metarec.evaluation.rankings import Rankings, SortedScores

CUTOFFS = (1, 2, 3, 10, None)


def rankings_of(
    scores: Sequence[float] | np.ndarray,
    gains: Sequence[float] | np.ndarray,
    excluded: Sequence[int] = (),
) -> Rankings:
    """One task whose relevant candidates are those of positive gain."""
    gain = np.asarray(gains, np.float64)
    where = np.flatnonzero(gain > 0)
    left_out = np.asarray(excluded, np.int64)
    return Rankings.from_scores(
        np.asarray(scores, np.float64)[None],
        (np.zeros_like(where), where),
        (np.zeros_like(left_out), left_out),
        gain[where],
    )


def of_one_order(name: str, gains: np.ndarray, k: int | None) -> float:
    """A metric of a ranking without ties, from its definition; gains in its order."""
    relevant = gains > 0
    n, R = len(gains), int(relevant.sum())
    if name == "auc":
        pairs = [(i, j) for i in range(n) for j in range(n) if relevant[i] and not relevant[j]]
        return sum(i < j for i, j in pairs) / len(pairs) if pairs else math.nan
    cutoff = n if k is None else min(k, n)
    shown = relevant[:cutoff]
    h = int(shown.sum())
    precisions = [shown[: p + 1].mean() for p in range(cutoff) if shown[p]]

    def dcg(ordered: np.ndarray) -> float:
        return sum(g / math.log2(p + 2) for p, g in enumerate(ordered[:cutoff]))

    return {
        "precision": h / cutoff,
        "recall": h / R,
        "f1": 0.0 if h == 0 else 2 / (cutoff / h + R / h),
        "hr": float(h > 0),
        "mrr": 1 / (1 + int(np.argmax(shown))) if h else 0.0,
        "map": sum(precisions) / min(R, cutoff),
        "ndcg": dcg(gains) / dcg(np.sort(gains)[::-1]),
    }[name]


def orders_of(scores: np.ndarray) -> list[list[int]]:
    """Every order of the candidates that the scores allow."""
    values = np.unique(scores, return_inverse=True)[1]  # infinities have no difference
    return [
        list(order)
        for order in permutations(range(len(scores)))
        if (np.diff(values[list(order)]) <= 0).all()
    ]


def over_all_orders(name: str, orders: list[list[int]], gains: np.ndarray, k: int | None) -> float:
    """The mean of a metric over the orders."""
    return float(np.mean([of_one_order(name, gains[order], k) for order in orders]))


@st.composite
def tied_tasks(draw: st.DrawFn, graded: bool = False) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 5))
    score = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, math.inf])
    gain = st.sampled_from([0.0, 1.0, 3.0, 7.0] if graded else [0.0, 1.0])
    scores = draw(st.lists(score, min_size=n, max_size=n))
    gains = draw(st.lists(gain, min_size=n, max_size=n).filter(any))
    return np.array(scores), np.array(gains)


@given(task=tied_tasks())
def test_a_metric_is_its_mean_over_all_orders_of_tied_scores(
    task: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, gains = task
    found, orders = rankings_of(scores, gains), orders_of(scores)
    for name in CUTOFF_METRICS:
        for k in CUTOFFS:
            expected = over_all_orders(name, orders, gains, k)
            assert_allclose(
                CUTOFF_METRICS[name](found, k), [expected], atol=1e-12, err_msg=f"{name}@{k}"
            )
    assert_allclose(metrics.auc(found), [over_all_orders("auc", orders, gains, None)], atol=1e-12)


@given(task=tied_tasks(graded=True))
def test_graded_ndcg_is_its_mean_over_all_orders_of_tied_scores(
    task: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, gains = task
    found, orders = rankings_of(scores, gains), orders_of(scores)
    for k in CUTOFFS:
        expected = over_all_orders("ndcg", orders, gains, k)
        assert_allclose(metrics.ndcg(found, k), [expected], atol=1e-12, err_msg=f"ndcg@{k}")


LARGE = st.integers(0, 10_000)


@given(seed=LARGE)
def test_auc_and_ndcg_are_those_of_scikit_learn_ties_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 8, 40).astype(float)
    grades = rng.integers(0, 4, 40).astype(float)
    grades[:2] = 0, 1
    found = rankings_of(scores, grades)
    assert_allclose(metrics.auc(found), roc_auc_score(grades > 0, scores))
    for k in (1, 5, 40, None):
        # For ties scikit-learn takes the mean gain of the block, which is the same expectation.
        assert_allclose(
            metrics.ndcg(found, k), ndcg_score(grades[None], scores[None], k=k, ignore_ties=False)
        )


@given(seed=LARGE)
def test_average_precision_of_the_whole_ranking_is_that_of_scikit_learn_without_ties(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(30).astype(float)
    labels = rng.random(30) < 0.3
    labels[0] = True
    found = metrics.average_precision(rankings_of(scores, labels), None)
    assert_allclose(found, average_precision_score(labels, scores))


@given(seed=LARGE)
def test_every_metric_lies_between_0_and_1(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=200), rng.integers(0, 3))
    gains = rng.integers(0, 4, 200) * (rng.random(200) < 0.2).astype(float)
    gains[0] = 1
    found = rankings_of(scores, gains)
    for name in (*ranking_metrics((1, 5, 300)), "mrr", "map"):
        value = measure(name, found)[0]
        assert 0 <= value <= 1, name


@given(n=st.integers(2, 60), data=st.data())
def test_a_perfect_ranking_has_the_best_value(n: int, data: st.DataObject) -> None:
    R = data.draw(st.integers(1, n - 1))
    k = data.draw(st.integers(1, n + 5))
    found = rankings_of(-np.arange(n), np.arange(n) < R)
    for name in ("auc", f"ndcg@{k}", f"hr@{k}", f"mrr@{k}", f"map@{k}"):
        assert_allclose(measure(name, found), 1, rtol=1e-12)
    cutoff = min(k, n)
    assert_allclose(metrics.precision(found, k), min(R, cutoff) / cutoff)
    assert_allclose(metrics.recall(found, k), min(R, cutoff) / R)


def test_a_perfect_graded_ranking_has_ndcg_1_and_a_reversed_one_less() -> None:
    gains = np.array([7.0, 3.0, 1.0])
    assert metrics.ndcg(rankings_of([3, 2, 1], gains), 3)[0] == 1
    ideal = 7 + 3 / math.log2(3) + 1 / 2
    reverse = 1 + 3 / math.log2(3) + 7 / 2
    assert_allclose(metrics.ndcg(rankings_of([1, 2, 3], gains), 3), reverse / ideal)


@given(seed=LARGE)
def test_a_constant_score_has_exactly_the_chance_level(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 300))
    labels = rng.permutation(n) < rng.integers(1, n)
    value = float(rng.choice([0.0, 3.5, -math.inf, math.inf]))
    found = rankings_of(np.full(n, value), labels)
    for name in (*ranking_metrics((1, 10)), "mrr"):
        assert measure(name, found)[0] == chance_level(name, n, int(labels.sum()))
        assert measure(name, found.constant())[0] == chance_level(name, n, int(labels.sum()))


def test_the_chance_level_of_ten_rated_candidates_of_which_five_are_positive_is_the_known_one() -> (
    None
):
    assert_allclose(chance_level("precision@5", 10, 5), 0.5)
    assert_allclose(chance_level("hr@5", 10, 5), 1 - 1 / math.comb(10, 5))
    assert_allclose(chance_level("ndcg@5", 10, 5), 0.5)
    first_at = [math.comb(9 - j, 4) / math.comb(10, 5) for j in range(5)]
    assert_allclose(chance_level("mrr@5", 10, 5), sum(p / (j + 1) for j, p in enumerate(first_at)))
    assert round(chance_level("mrr@5", 10, 5), 3) == 0.704
    assert round(chance_level("hr@5", 10, 5), 3) == 0.996


def test_the_chance_level_of_a_catalogue_is_the_hypergeometric_one() -> None:
    n, R, k = 7000, 30, 10
    missed = math.comb(n - R, k) / math.comb(n, k)
    assert_allclose(chance_level(f"hr@{k}", n, R), 1 - missed, rtol=1e-11)
    first_at = [math.comb(n - 1 - j, R - 1) / math.comb(n, R) for j in range(n - R + 1)]
    reciprocal = math.fsum(p / (j + 1) for j, p in enumerate(first_at))
    assert_allclose(chance_level("mrr", n, R), reciprocal, rtol=1e-11)


def test_random_scores_have_the_chance_level_on_average() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 20)).astype(np.float32)
    found = Rankings.from_scores(scores, np.nonzero(np.tile(np.arange(20) < 6, (4000, 1))))
    for name in ranking_metrics((5,)):
        values = measure(name, found)
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - chance_level(name, 20, 6)) < 5 * error, name


def test_a_task_without_relevant_candidate_has_no_value_and_leaves_the_others_alone() -> None:
    scores = np.array([[3.0, 2.0, 1.0]] * 3)
    labels = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]])
    found = Rankings.from_scores(scores, np.nonzero(labels))
    for name in ranking_metrics((2,)):
        values = measure(name, found)
        assert np.isnan(values[[0, 2]]).all(), name
        assert values[1] == of_one_order(name.split("@")[0], np.array([1.0, 0, 0]), 2)


def test_auc_has_no_value_if_every_candidate_is_relevant() -> None:
    assert np.isnan(metrics.auc(rankings_of([1, 2], [1, 1]))[0])


def test_a_cutoff_beyond_the_candidates_is_the_number_of_candidates() -> None:
    found = rankings_of([3, 2, 1], [0, 1, 0])
    for name in CUTOFF_METRICS:
        assert measure(f"{name}@50", found)[0] == measure(f"{name}@3", found)[0]
        assert measure(name, found)[0] == measure(f"{name}@3", found)[0]
    assert_allclose(measure("precision@50", found), 1 / 3)


@given(task=tied_tasks(), data=st.data())
def test_an_excluded_candidate_counts_as_if_it_were_not_there(
    task: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    scores, gains = task
    extra = data.draw(st.lists(st.sampled_from([-1.0, 0.0, 9.0]), min_size=1, max_size=3))
    places = list(range(len(scores), len(scores) + len(extra)))
    longer = rankings_of(
        np.concatenate([scores, extra]),
        np.concatenate([gains, np.zeros(len(extra))]),
        [*places, places[0]],
    )
    for name in ranking_metrics((1, 3)):
        assert_allclose(measure(name, longer), measure(name, rankings_of(scores, gains)))


@given(seed=LARGE)
def test_the_order_of_tasks_and_of_chunks_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (7, 15)).astype(np.float32)
    labels = rng.random((7, 15)) < 0.3
    whole = Rankings.from_scores(scores, np.nonzero(labels))
    order = rng.permutation(7)
    shuffled = Rankings.from_scores(scores[order], np.nonzero(labels[order]))
    chunks = Rankings.concatenate(
        [
            Rankings.from_scores(scores[part], np.nonzero(labels[part]))
            for part in (slice(0, 3), slice(3, 7))
        ]
    )
    for name in ranking_metrics((2, 5)):
        assert np.array_equal(measure(name, whole)[order], measure(name, shuffled), equal_nan=True)
        assert np.array_equal(measure(name, whole), measure(name, chunks), equal_nan=True)


def test_infinite_scores_rank_first_and_last() -> None:
    assert metrics.mrr(rankings_of([0, math.inf, 5], [0, 1, 0]), None)[0] == 1
    assert metrics.mrr(rankings_of([0, -math.inf, 5], [0, 1, 0]), None)[0] == 1 / 3


def test_more_relevant_candidates_than_candidates_have_no_chance_level() -> None:
    with pytest.raises(EpisodeError, match="0 to n"):
        chance_level("auc", 3, 4)


@pytest.mark.parametrize("metric", ["ndgc@5", "ndcg@0", "ndcg@x", "ndcg@", "auc@5", "coverage"])
def test_an_unknown_metric_is_an_error(metric: str) -> None:
    with pytest.raises(ConfigError):
        measure(metric, rankings_of([1, 2], [1, 0]))


def test_a_misspelt_metric_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ndcg'"):
        measure("ndgc@5", rankings_of([1, 2], [1, 0]))


def test_no_tasks_have_no_values() -> None:
    nobody = Rankings.concatenate([])
    for name in ranking_metrics((5,)):
        assert len(measure(name, nobody)) == 0


ROWS = np.array([0, 0, 2])


def test_mae_and_rmse_are_means_within_a_task() -> None:
    predictions = np.array([1.0, 5.0, 3.0], np.float32)
    ratings = np.array([2.0, 2.0, 3.0], np.float32)
    found = metrics.mae(predictions, ratings, ROWS, 3)
    assert found[[0, 2]].tolist() == [(1 + 3) / 2, 0]
    assert np.isnan(found[1])
    found = metrics.rmse(predictions, ratings, ROWS, 3)
    assert_allclose(found, [math.sqrt((1 + 9) / 2), np.nan, 0])


def test_pooled_errors_weigh_interactions_equally() -> None:
    rng = np.random.default_rng(0)
    predictions, ratings = rng.normal(size=50), rng.normal(size=50)
    rows = np.sort(rng.integers(0, 6, 50))
    n_query = np.bincount(rows, minlength=8)
    error = predictions - ratings
    mae = metrics.mae(predictions, ratings, rows, 8)
    rmse = metrics.rmse(predictions, ratings, rows, 8)
    assert_allclose(metrics.pooled("mae", mae, n_query), np.abs(error).mean())
    assert_allclose(metrics.pooled("rmse", rmse, n_query), np.sqrt((error**2).mean()))
    assert math.isnan(metrics.pooled("mae", np.full(2, np.nan), np.array([3, 0])))


def test_log_loss_is_that_of_scikit_learn() -> None:
    logits = np.array([-2.0, 0.5, 3.0])
    labels = np.array([0.0, 1.0, 0.0])
    expected = sklearn_log_loss(labels, 1 / (1 + np.exp(-logits)))
    assert_allclose(metrics.log_loss(logits, labels, np.zeros(3, int), 1), expected)


def test_log_loss_of_a_huge_logit_is_the_logit_or_0() -> None:
    logits = np.array([1e4, -1e4, 1e4], np.float32)
    found = metrics.log_loss(logits, np.array([0.0, 0.0, 1.0]), np.arange(3), 3)
    assert found.tolist() == [1e4, 0, 0]


@pytest.mark.parametrize("metric", [metrics.mae, metrics.rmse, metrics.log_loss])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_is_an_error(metric: object, value: float) -> None:
    with pytest.raises(ScoreError, match="task row 2"):
        metric(np.array([0, 0, value]), np.ones(3), ROWS, 3)  # type: ignore[operator]


def test_log_loss_takes_no_other_labels_than_0_and_1() -> None:
    with pytest.raises(EpisodeError):
        metrics.log_loss(np.zeros(3), np.array([0, 1, 4.0]), ROWS, 3)


@given(task=tied_tasks(), k=st.integers(1, 8))
def test_the_probability_of_the_first_k_is_that_over_all_orders(
    task: tuple[np.ndarray, np.ndarray], k: int
) -> None:
    scores = task[0]
    orders = orders_of(scores)
    expected = np.zeros(len(scores))
    for order in orders:
        expected[order[:k]] += 1 / len(orders)
    found = np.zeros(len(scores))
    rows, candidates, probability = SortedScores.from_scores(scores[None]).top(k)
    found[candidates] = probability
    assert not rows.any()
    assert (probability > 0).all()
    assert_allclose(found, expected, atol=1e-12)


def test_coverage_of_a_constant_score_is_the_expected_share_of_random_lists() -> None:
    covered = Coverage(20)
    _, candidates, probability = SortedScores.from_scores(np.zeros((7, 20))).top(5)
    covered.add(candidates, probability)
    assert_allclose(covered.value(), 1 - (1 - 5 / 20) ** 7, rtol=1e-9)


def test_coverage_without_ties_is_the_share_that_is_shown() -> None:
    scores = np.array([[3.0, 2, 1, 0], [2, 3, 1, 0], [3, 0, 2, 1]])
    covered = Coverage(4)
    _, candidates, probability = SortedScores.from_scores(scores).top(2)
    covered.add(candidates, probability)
    assert covered.value() == 3 / 4


def test_coverage_does_not_depend_on_the_order_of_the_lists() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (40, 50)).astype(np.float32)
    values = set()
    for _ in range(5):
        covered = Coverage(50)
        for row in rng.permutation(40):
            _, candidates, probability = SortedScores.from_scores(scores[[row]]).top(5)
            covered.add(candidates, probability)
        values.add(covered.value())
    assert len(values) == 1


def test_coverage_of_nothing_is_0_and_of_no_catalogue_undefined() -> None:
    assert Coverage(3).value() == 0
    assert math.isnan(Coverage(0).value())


def test_click_and_conversion_rate_are_ratios_of_expected_counts() -> None:
    shown = np.array([1.0, 0.5, 1.0, 0.0])
    clicked = np.array([True, True, False, True])
    converted = np.array([False, True, True, True])
    rows = np.array([0, 0, 0, 1])
    rate = metrics.click_rate(shown, clicked, rows, 2)
    assert_allclose(rate, [1.5 / 2.5, np.nan])
    per_click = metrics.conversion_rate(shown, clicked, converted, rows, 2)
    assert_allclose(per_click, [0.5 / 1.5, np.nan])
    per_impression = metrics.conversion_rate(shown, clicked, converted, rows, 2, "impression")
    assert_allclose(per_impression, [1.5 / 2.5, np.nan])
