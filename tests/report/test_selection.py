from __future__ import annotations

import numpy as np
import pytest

from metarec.evaluation.metrics import chance_level
from metarec.evaluation.significance import holm
from metarec.report.collect import results_of
from metarec.report.labels import Variant
from metarec.report.selection import chance_of, difference_of, reference_of, significance_of

NDCG = "catalogue/ndcg@10"
BASELINE = "metarec.baselines.x:X"


def results(*records, feedback="binary"):
    found = results_of(records, [], "user", (feedback,))
    assert found is not None
    return found


def test_the_reference_is_the_baseline_that_is_best_on_validation_not_on_test(make_record):
    found = results(
        make_record("ease", quality=0.3, validation=0.1),
        make_record("item_knn", quality=0.1, validation=0.3),
        make_record("popularity", quality=0.5, validation=0.2),
    )
    assert reference_of(found, NDCG, "user_cold", 10) == Variant("item_knn")


def test_the_reference_is_chosen_regime_by_regime(make_record):
    found = results(
        make_record("ease", quality=0.3, by_regime={"item_cold": -0.25}),
        make_record("ridge", quality=0.2),
    )
    assert reference_of(found, NDCG, "user_cold", 10) == Variant("ease")
    assert reference_of(found, NDCG, "item_cold", 10) == Variant("ridge")


def test_meta_transfer_and_unknown_learners_are_never_the_reference(make_record):
    found = results(
        make_record("maml", quality=0.9, without_steps=0.8),
        make_record("transfer", quality=0.8),
        make_record("my_method", quality=0.7, target="mine:Method"),
        make_record("random", quality=0.1),
    )
    assert reference_of(found, NDCG, "user_cold", 10) == Variant("random")


def test_a_new_baseline_may_be_the_reference(make_record):
    found = results(
        make_record("slim", quality=0.4, target="metarec.baselines.slim.SLIM"),
        make_record("ease", quality=0.3),
    )
    assert reference_of(found, NDCG, "user_cold", 10) == Variant("slim")


def test_the_lowest_error_is_the_best(make_record):
    found = results(
        make_record("ease", quality=0.3, feedback="rating"),
        make_record("item_mean", quality=0.2, feedback="rating"),
        make_record("popularity", quality=0.9, feedback="rating"),
        feedback="rating",
    )
    # Popularity predicts no ratings, and so has no MAE.
    assert reference_of(found, "rated/mae", "user_cold", 10) == Variant("ease")


def test_without_a_baseline_there_is_no_reference(make_record):
    assert reference_of(results(make_record("maml")), NDCG, "user_cold", 10) is None


@pytest.mark.parametrize(
    ("column", "n"), [("catalogue/ndcg@10", "n_candidates"), ("rated/ndcg@5", "n_query")]
)
def test_chance_is_the_mean_over_tasks_of_the_exact_level(make_record, column, n):
    found = results(make_record("ease"), make_record("ease", seed=1))
    values = found.select(column, "test", "user_cold", 10)
    metric = column.partition("/")[2]
    levels = [
        chance_level(metric, size, relevant)
        for size, relevant in zip(values[n], values["n_relevant"], strict=True)
    ]
    level = chance_of(values, column)
    assert level is not None
    assert level.mean == pytest.approx(np.mean(levels))


def test_chance_is_counted_once_however_many_learners_there_are(make_record):
    few = results(make_record("ease"))
    many = results(make_record("ease"), make_record("maml", without_steps=0.1))
    first, second = (
        chance_of(found.select(NDCG, "test", "user_cold", 10), NDCG) for found in (few, many)
    )
    assert first == second


def test_the_chance_of_auc_is_a_half_and_errors_have_none(make_record):
    values = results(make_record("ease")).select("rated/auc", "test", "user_cold", 10)
    level = chance_of(values[values["n_relevant"] < values["n_query"]], "rated/auc")
    assert level is not None
    assert level.mean == pytest.approx(0.5)
    assert chance_of(values, "rated/mae") is None


def test_tests_are_corrected_by_holm_over_the_learners(make_record):
    found = results(
        make_record("ease", quality=0.30),
        make_record("als", quality=0.30),
        make_record("maml", quality=0.31),
        make_record("ridge", quality=0.25),
    )
    values = found.select(NDCG, "test", "user_cold", 10)
    ease = Variant("ease")
    raw = {v: difference_of(values, v, ease, NDCG) for v in found.variants if v != ease}
    tested = significance_of(values, found.variants, ease, NDCG)
    assert list(tested) == list(raw)
    expected = holm(np.array([estimate.p for estimate in raw.values() if estimate]))
    assert [estimate.p for estimate in tested.values()] == pytest.approx(expected)


def test_a_learner_with_one_seed_is_compared_on_that_seed(make_record):
    found = results(
        *(make_record("ease", seed=seed) for seed in range(3)),
        make_record("maml_learn2learn", quality=0.4, seed=1),
        make_record("maml", quality=0.4, seed=0),
        make_record("maml", quality=0.4, seed=1),
    )
    values = found.select(NDCG, "test", "user_cold", 10)
    tested = significance_of(values, found.variants, Variant("ease"), NDCG)
    assert tested[Variant("maml_learn2learn")].seeds == 1
    assert tested[Variant("maml")].seeds == 2


def test_a_difference_is_the_mean_over_tasks_of_paired_differences(make_record):
    found = results(make_record("maml", quality=0.4), make_record("transfer", quality=0.3))
    values = found.select(NDCG, "test", "warm", 10)
    wide = values.pivot(index="task", columns="learner", values="value")
    difference = difference_of(values, Variant("maml"), Variant("transfer"), NDCG)
    assert difference is not None
    assert difference.mean == pytest.approx((wide["maml"] - wide["transfer"]).mean())
    assert difference.low < difference.mean < difference.high
