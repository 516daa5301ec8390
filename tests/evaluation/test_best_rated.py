"""Metrics whose relevant queries are the k best rated: against every order and every choice."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.errors import ConfigError, ScoreError
from metarec.evaluation import best_rated
from metarec.evaluation.best_rated import RatedList

few = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=6
)  # (score, rating)


def by_enumeration(scores: list[int], ratings: list[int], k: int) -> dict[str, float]:
    """Means over all orders that the scores allow and all choices of the k best rated."""
    n = len(scores)
    cutoff = min(k, n)
    orders = [
        order
        for order in itertools.permutations(range(n))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    choices = [
        set(chosen)
        for chosen in itertools.combinations(range(n), cutoff)
        if all(
            ratings[inside] >= ratings[outside]
            for inside in chosen
            for outside in set(range(n)) - set(chosen)
        )
    ]
    discount = [1 / math.log2(place + 2) for place in range(n)]
    best = sorted((2**rating - 1 for rating in ratings), reverse=True)
    ideal = sum(g * d for g, d in zip(best[:cutoff], discount, strict=False))
    sums = dict.fromkeys(("precision", "ndcg", "mrr", "map", "graded"), 0.0)
    for order, relevant in itertools.product(orders, choices):
        hits = [item in relevant for item in order[:cutoff]]
        sums["precision"] += sum(hits) / cutoff
        gained = sum(d for hit, d in zip(hits, discount, strict=False) if hit)
        sums["ndcg"] += gained / sum(discount[:cutoff])
        sums["mrr"] += next((1 / (rank + 1) for rank, hit in enumerate(hits) if hit), 0.0)
        sums["map"] += (
            sum(sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit) / cutoff
        )
        sums["graded"] += (
            sum(
                (2 ** ratings[item] - 1) * d
                for item, d in zip(order[:cutoff], discount, strict=False)
            )
            / ideal
        )
    return {name: total / len(orders) / len(choices) for name, total in sums.items()}


@given(few, st.integers(1, 7))
@settings(max_examples=150)
def test_each_metric_is_its_mean_over_all_orders_and_all_choices(
    task: list[tuple[int, int]], k: int
) -> None:
    scores, ratings = [list(column) for column in zip(*task, strict=True)]
    ranked = RatedList.of(np.array(scores, np.float32), np.array(ratings, np.float32))
    expected = by_enumeration(scores, ratings, k)
    assert best_rated.precision(ranked, k) == pytest.approx(expected["precision"])
    assert best_rated.ndcg(ranked, k) == pytest.approx(expected["ndcg"])
    assert best_rated.mrr(ranked, k) == pytest.approx(expected["mrr"])
    assert best_rated.average_precision(ranked, k) == pytest.approx(expected["map"])
    assert best_rated.graded_ndcg(ranked, k) == pytest.approx(expected["graded"])


@given(few, st.integers(1, 7), st.randoms(use_true_random=False))
def test_the_order_of_the_file_never_matters(
    task: list[tuple[int, int]], k: int, random: object
) -> None:
    shuffled = list(task)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    values = []
    for rows in (task, shuffled):
        scores, ratings = (np.array(column, np.float32) for column in zip(*rows, strict=True))
        values.append(best_rated.measure(RatedList.of(scores, ratings), (k,)))
    assert values[0] == pytest.approx(values[1])


def test_a_constant_score_of_ten_queries_has_the_chance_level_whatever_ties_at_the_cut() -> None:
    constant = np.zeros(10, np.float32)
    # the published chance level at 5 of 10: precision and nDCG .5, MRR@5 the sum below
    mrr = sum(math.comb(10 - rank, 4) / math.comb(10, 5) / rank for rank in range(1, 6))
    for ratings in ([5, 5, 4, 4, 4, 3, 3, 2, 2, 1], [5, 4, 4, 4, 4, 4, 4, 4, 4, 1], [3] * 10):
        ranked = RatedList.of(constant, np.array(ratings, np.float32))
        assert best_rated.precision(ranked, 5) == pytest.approx(0.5)
        assert best_rated.ndcg(ranked, 5) == pytest.approx(0.5)
        assert best_rated.mrr(ranked, 5) == pytest.approx(mrr)


def test_a_perfect_order_has_one_and_ties_at_the_cut_leave_less() -> None:
    ratings = np.array([5, 4, 3, 2, 1, 1], np.float32)
    for k in (1, 3, 6):
        values = best_rated.measure(RatedList.of(ratings, ratings), (k,))
        assert values == pytest.approx(dict.fromkeys(values, 1.0))
    tied = RatedList.of(np.arange(4, 0, -1).astype(np.float32), np.array([3, 3, 3, 1], np.float32))
    # two of three are relevant, and two of three are shown
    assert best_rated.precision(tied, 2) == pytest.approx(2 / 3)


def test_a_nan_score_no_query_or_no_cutoff_is_an_error() -> None:
    with pytest.raises(ScoreError, match="number as the score"):
        RatedList.of(np.array([np.nan], np.float32), np.ones(1, np.float32))
    with pytest.raises(ScoreError, match="needs a query"):
        RatedList.of(np.zeros(0, np.float32), np.zeros(0, np.float32))
    with pytest.raises(ConfigError, match="at least 1"):
        best_rated.precision(RatedList.of(np.ones(1, np.float32), np.ones(1, np.float32)), 0)
