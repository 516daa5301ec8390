from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from metarec.errors import ConfigError, DataError, ScoreError
from metarec.evaluation.lists import (
    FeedbackLog,
    above_threshold,
    rates_of_lists,
    rates_of_top_n,
    top_n,
)

SCORES = np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 9.0]], np.float32)


def test_the_top_n_are_the_best_with_the_first_candidate_first_among_equals() -> None:
    lists = top_n(SCORES, 3)
    assert lists[0].tolist() == [1, 2, 3]
    assert lists[1].tolist() == [3, 0, 1]
    assert lists.scores.tolist() == [3, 3, 2, 9, 0, 0]
    assert len(lists) == 2


@given(seed=st.integers(0, 10_000), n=st.integers(1, 12))
def test_the_top_n_are_the_first_of_a_stable_sort(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (3, 9)).astype(float)
    lists = top_n(scores, n)
    for task in range(3):
        assert lists[task].tolist() == np.argsort(-scores[task], kind="stable")[:n].tolist()


def test_an_excluded_candidate_is_in_no_list() -> None:
    excluded = (np.array([0, 1, 1, 1]), np.array([1, 0, 1, 2]))
    lists = top_n(SCORES, 3, excluded)
    assert lists[0].tolist() == [2, 3, 0]
    assert lists[1].tolist() == [3]
    assert above_threshold(SCORES, 3, excluded)[0].tolist() == [2]


def test_a_threshold_list_has_every_candidate_at_or_above_it() -> None:
    lists = above_threshold(SCORES, 2)
    assert lists[0].tolist() == [1, 2, 3]
    assert lists[1].tolist() == [3]
    assert above_threshold(SCORES, 3.5)[0].tolist() == []
    assert above_threshold(SCORES, 2, n=1)[0].tolist() == [1]
    assert above_threshold(SCORES, -math.inf)[1].tolist() == [3, 0, 1, 2]


def test_coverage_is_the_share_of_the_catalogue_in_any_list() -> None:
    assert top_n(SCORES, 1).coverage(4) == 2 / 4
    assert above_threshold(SCORES, 10).coverage(4) == 0


def test_lists_of_impossible_length_or_of_nan_are_errors() -> None:
    with pytest.raises(ConfigError):
        top_n(SCORES, 0)
    with pytest.raises(ConfigError):
        above_threshold(SCORES, math.nan)
    with pytest.raises(ConfigError):
        above_threshold(SCORES, 1, n=0)
    with pytest.raises(ScoreError):
        top_n(np.array([[math.nan]]), 1)


def log_of(entries: list[tuple[int, int, bool, bool]]) -> FeedbackLog:
    rows, candidates, clicked, converted = zip(*entries, strict=True)
    return FeedbackLog(np.array(rows), np.array(candidates), np.array(clicked), np.array(converted))


LOG = log_of(
    [
        (0, 1, True, True),
        (0, 3, False, False),
        (0, 0, True, True),  # not in the top 3 of task 0
        (1, 3, False, False),
    ]
)


def test_rates_count_only_what_is_both_in_the_list_and_in_the_log() -> None:
    found = rates_of_lists(top_n(SCORES, 3), LOG)
    assert found["click_rate"].tolist() == [1 / 2, 0]
    assert found["logged"].tolist() == [2, 1]
    assert found["conversion_rate"][0] == 1
    assert math.isnan(found["conversion_rate"][1])


def test_rates_of_the_top_n_are_those_of_its_lists_where_nothing_is_tied_at_the_end() -> None:
    found = rates_of_top_n(SCORES[:1], log_of([(0, 1, True, True), (0, 3, False, False)]), 3)
    assert found.loc[0].tolist() == [1 / 2, 1, 2]
    assert list(found.columns) == ["click_rate@3", "conversion_rate@3", "logged@3"]


def test_a_constant_score_has_the_click_rate_of_the_whole_log() -> None:
    clicks = [True, False, False, True, False]
    log = log_of([(0, c, click, False) for c, click in enumerate(clicks)])
    found = rates_of_top_n(np.zeros((1, 8)), log, 3)
    assert_allclose(found["click_rate@3"], np.mean(clicks))
    assert_allclose(found["logged@3"], 5 * 3 / 8)


def test_an_excluded_candidate_is_not_counted_in_a_rate() -> None:
    found = rates_of_top_n(SCORES, LOG, 3, excluded=(np.array([0]), np.array([1])))
    assert found["click_rate@3"].tolist() == [1 / 2, 0]
    assert found["logged@3"].tolist() == [2, 1]


def test_a_task_without_logged_list_has_no_rate() -> None:
    found = rates_of_top_n(SCORES, log_of([(0, 0, True, True)]), 1)
    assert found["click_rate@1"].isna().all()
    assert found["logged@1"].tolist() == [0, 0]


def test_conversions_can_be_counted_per_impression() -> None:
    found = rates_of_lists(top_n(SCORES, 3), LOG, per="impression")
    assert found["conversion_rate"].tolist() == [1 / 2, 0]


def test_a_broken_log_is_an_error() -> None:
    with pytest.raises(DataError, match="twice"):
        log_of([(0, 1, True, True), (0, 1, False, False)])
    with pytest.raises(DataError, match="task row out of range"):
        rates_of_lists(top_n(SCORES, 1), log_of([(2, 1, True, True)]))
    with pytest.raises(DataError, match="candidate out of range"):
        rates_of_top_n(SCORES, log_of([(0, 4, True, True)]), 1)
