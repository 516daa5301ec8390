from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from numpy.testing import assert_allclose
from scipy import stats

from metarec.errors import ConfigError, RunError
from metarec.evaluation.significance import (
    bootstrap,
    compare,
    holm,
    interval,
    intervals,
    rank_biserial,
    wilcoxon,
)


def table(values: np.ndarray, **columns: object) -> pd.DataFrame:
    """A long table of a [tasks, seeds] array."""
    tasks, seeds = values.shape
    return pd.DataFrame(
        {
            **columns,
            "task": np.repeat(np.arange(tasks), seeds),
            "seed": np.tile(np.arange(seeds), tasks),
            "value": values.ravel(),
        }
    )


def learners(**values: np.ndarray) -> pd.DataFrame:
    return pd.concat([table(v, learner=name) for name, v in values.items()], ignore_index=True)


def test_an_interval_of_95_percent_covers_the_true_mean_about_95_times_of_100() -> None:
    rng = np.random.default_rng(0)
    for method in ("bca", "percentile"):
        covered = 0
        for trial in range(300):
            low, high = bootstrap(
                rng.exponential(size=60), resamples=600, seed=trial, method=method
            )
            covered += low <= 1 <= high
        assert 0.90 <= covered / 300 <= 0.98, method


@pytest.mark.parametrize(("method", "of_scipy"), [("bca", "BCa"), ("percentile", "percentile")])
def test_the_interval_is_that_of_scipy_up_to_the_randomness_of_resampling(
    method: str, of_scipy: str
) -> None:
    values = np.random.default_rng(1).exponential(size=40)
    expected = stats.bootstrap(
        (values,), np.mean, method=of_scipy, n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    low, high = bootstrap(values, resamples=20_000, method=method)  # type: ignore[arg-type]
    assert_allclose([low, high], [expected.low, expected.high], atol=0.02)


@pytest.mark.parametrize("scale", [1 / np.log2(3), 1 / 3, 1e-9, 1e9])
def test_an_interval_scales_with_sparse_values(scale: float) -> None:
    values = np.zeros(134)
    values[::11] = 1.0
    low, high = bootstrap(values)
    assert_allclose(bootstrap(scale * values), [scale * low, scale * high], rtol=1e-9)


def test_resampling_tasks_keeps_the_seeds_of_a_task_together() -> None:
    rng = np.random.default_rng(0)
    # Seeds of a task agree, so 20 of them are worth no more than one.
    effect = rng.normal(size=(80, 1))
    few = interval(table(effect))
    many = interval(table(np.repeat(effect, 20, axis=1)))
    assert_allclose([many.low, many.high], [few.low, few.high])
    assert (few.episodes, many.episodes, many.seeds, many.tasks) == (80, 1600, 20, 80)


def test_an_interval_does_not_depend_on_the_order_of_the_rows() -> None:
    frame = table(np.random.default_rng(0).random((30, 3)))
    assert interval(frame) == interval(frame.sample(frac=1, random_state=1))


def test_another_seed_gives_another_interval_and_the_same_mean() -> None:
    frame = table(np.random.default_rng(0).random((30, 3)))
    one, other = interval(frame, seed=1, resamples=500), interval(frame, seed=2, resamples=500)
    assert one.mean == other.mean
    assert one.low != other.low


def test_undefined_values_are_left_out_and_counted() -> None:
    values = np.array([[1.0, 3.0], [np.nan, 4.0], [np.nan, np.nan]])
    found = interval(table(values))
    assert found.mean == (2 + 4) / 2
    assert (found.tasks, found.undefined, found.episodes) == (2, 1, 3)


def test_equal_values_have_an_interval_of_no_width_and_one_value_has_none() -> None:
    assert bootstrap(np.full(9, 0.25)) == (0.25, 0.25)
    assert np.isnan(bootstrap(np.array([1.0]))).all()
    assert math.isnan(interval(table(np.full((2, 2), np.nan))).mean)


def test_a_table_of_few_seeds_or_episodes_is_preliminary() -> None:
    assert interval(table(np.zeros((300, 4))), resamples=10).preliminary
    assert interval(table(np.zeros((100, 5))), resamples=10).preliminary
    assert not interval(table(np.zeros((120, 5))), resamples=10).preliminary


def test_intervals_have_a_row_a_learner_in_order_of_appearance() -> None:
    frame = learners(ease=np.ones((4, 2)), als=np.zeros((4, 2)))
    found = intervals(frame)
    assert list(found.index) == ["ease", "als"]
    assert found["mean"].tolist() == [1, 0]
    assert found["preliminary"].all()


@pytest.mark.parametrize(
    "argument", [{"method": "bac"}, {"confidence": 1.0}, {"resamples": 0}], ids=str
)
def test_impossible_arguments_of_the_bootstrap_are_an_error(argument: dict[str, object]) -> None:
    # The import hook of the tests refuses an unknown literal before the function does.
    with pytest.raises((ConfigError, TypeCheckError), match=str(next(iter(argument.values())))):
        bootstrap(np.arange(5.0), **argument)  # type: ignore[arg-type]


def test_a_value_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(RunError, match="NaN or infinite"):
        bootstrap(np.array([1.0, np.inf]))


def test_holm_is_the_textbook_example() -> None:
    # m p, (m-1) p, ... in ascending order of p, never falling, at most 1.
    found = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert_allclose(found, [3 * 0.01, 2 * 0.03, 2 * 0.03, 4 * 0.005])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.999))
def test_holm_rejects_at_a_level_what_stepping_down_rejects(p: list[float], level: float) -> None:
    rejected = 0
    for step, smallest in enumerate(sorted(p)):
        if (len(p) - step) * smallest > level:
            break
        rejected += 1
    assert (holm(np.array(p)) <= level).sum() == rejected


def test_holm_does_not_count_a_test_that_was_not_made() -> None:
    found = holm(np.array([0.02, np.nan, 0.03]))
    assert_allclose(found, [0.04, np.nan, 0.04])


def test_wilcoxon_is_that_of_scipy_and_1_without_a_difference() -> None:
    differences = np.random.default_rng(0).normal(0.3, size=40)
    assert wilcoxon(differences) == stats.wilcoxon(differences).pvalue
    assert wilcoxon(np.append(differences, np.zeros(5))) == wilcoxon(differences)
    assert wilcoxon(np.zeros(10)) == 1


def test_the_effect_size_is_the_difference_of_rank_sums() -> None:
    # |d| ranks 1, 2.5, 2.5, 4; the one of rank 1 fell.
    assert_allclose(rank_biserial(np.array([-0.1, 0.2, 0.2, 0.9, 0.0])), (2.5 + 2.5 + 4 - 1) / 10)
    assert rank_biserial(np.array([1.0, 2.0])) == 1
    assert rank_biserial(np.zeros(3)) == 0


def test_the_paired_test_is_symmetric() -> None:
    rng = np.random.default_rng(0)
    a = rng.random((50, 5))
    b = np.clip(a + rng.normal(0.05, 0.1, (50, 5)), 0, 1)
    b[:10] = a[:10]
    forth = compare(learners(a=a, b=b), reference="a").loc["b"]
    back = compare(learners(a=a, b=b), reference="b").loc["a"]
    assert forth["p"] == back["p"]
    assert_allclose(forth["difference"], -back["difference"])
    assert_allclose([forth["low"], forth["high"]], [-back["high"], -back["low"]], rtol=1e-9)
    assert_allclose(forth["effect_size"], -back["effect_size"])
    assert (forth["wins"], forth["ties"], forth["losses"]) == (
        back["losses"],
        back["ties"],
        back["wins"],
    )
    assert forth["ties"] == 10


def test_a_comparison_is_the_paired_test_of_the_means_over_seeds() -> None:
    rng = np.random.default_rng(0)
    base, better, same = (rng.normal(m, 1, (60, 5)) for m in (0, 1, 0))
    found = compare(learners(base=base, better=better, same=same), reference="base")
    difference = (better - base).mean(axis=1)
    assert list(found.index) == ["better", "same"]
    row = found.loc["better"]
    assert_allclose(row["difference"], difference.mean())
    assert row["low"] < row["difference"] < row["high"]
    assert_allclose(row["p"], stats.wilcoxon(difference).pvalue)
    assert (row["wins"], row["losses"]) == ((difference > 0).sum(), (difference < 0).sum())
    assert (row["tasks"], row["seeds"]) == (60, 5)
    assert_allclose(found["p_holm"], holm(found["p"].to_numpy()))


def test_a_learner_that_equals_the_reference_differs_in_nothing() -> None:
    values = np.random.default_rng(0).random((20, 3))
    row = compare(learners(a=values, b=values), reference="a").loc["b"]
    assert (row["p"], row["p_holm"], row["difference"], row["ties"]) == (1, 1, 0, 20)
    assert (row["low"], row["high"], row["effect_size"]) == (0, 0, 0)


def test_a_lower_error_is_a_win_where_lower_is_better() -> None:
    a, b = np.full((3, 1), 0.9), np.array([[0.8], [0.7], [1.0]])
    row = compare(learners(a=a, b=b), reference="a", higher_is_better=False).loc["b"]
    assert (row["wins"], row["losses"]) == (2, 1)
    assert row["difference"] < 0


def test_learners_on_different_tasks_are_an_error_that_names_them() -> None:
    a = table(np.zeros((4, 2)), learner="maml")
    b = table(np.zeros((5, 2)), learner="ease")
    with pytest.raises(RunError, match=r"'maml' and 'ease' .* 0 .* only of 'maml', 2 only of"):
        compare(pd.concat([a, b]), reference="ease")


def test_a_metric_that_is_undefined_in_different_episodes_is_an_error() -> None:
    a, b = np.zeros((4, 1)), np.zeros((4, 1))
    a[2] = np.nan
    with pytest.raises(RunError, match="'a' and 'b'"):
        compare(learners(a=a, b=b), reference="b")


def test_a_metric_that_does_not_apply_to_a_learner_leaves_an_empty_row() -> None:
    rng = np.random.default_rng(0)
    values = {"a": rng.random((9, 1)), "b": rng.random((9, 1)), "order": np.full((9, 1), np.nan)}
    found = compare(learners(**values), reference="a")
    assert found.loc["order", ["difference", "low", "high", "p", "p_holm"]].isna().all()
    assert found.loc["b", "p_holm"] == found.loc["b", "p"]
    with pytest.raises(RunError, match="undefined in every episode"):
        compare(learners(**values), reference="order")


def test_an_unknown_reference_names_the_nearest_learner() -> None:
    with pytest.raises(RunError, match="did you mean 'popularity'"):
        compare(learners(popularity=np.zeros((2, 1))), reference="popularty")


def test_a_repeated_episode_and_a_missing_column_are_errors() -> None:
    frame = learners(a=np.zeros((2, 1)))
    with pytest.raises(RunError, match="occur twice"):
        compare(pd.concat([frame, frame]), reference="a")
    with pytest.raises(RunError, match="'seed'"):
        interval(frame.drop(columns="seed"))
