"""Shortlists: what a retriever draws, and the order that reranking makes of it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scripted import (
    N_ITEMS,
    Scripted,
    by_position,
    constant,
    episodes_of,
    noise,
    ragged,
    random_episodes,
    take,
)

from metarec.errors import ConfigError, EpisodeError, LearnerError, ScoreError
from metarec.evaluation.evaluate import chance, evaluate
from metarec.evaluation.metrics import measure, ranking_metrics
from metarec.evaluation.rankings import Rankings
from metarec.evaluation.shortlist import Shortlist, draw_shortlist

N_TASKS = 5
EPISODES = random_episodes(N_TASKS)

# few values, so that there are ties, at the edge of the shortlist too
tables = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.integers(1, 40).map(
        lambda values: np.random.default_rng(seed).integers(values, size=(N_TASKS, N_ITEMS))
    )
)
sizes = st.integers(1, N_ITEMS + 5)


def scoring(table: np.ndarray) -> Scripted:
    """A learner whose score of a position for a task stands in a table."""
    return Scripted(lambda support, candidates: table[support[0], candidates - 10], "order")


def without_ties(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(N_ITEMS) for _ in range(N_TASKS)]).astype(float)


def catalogue(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[[name for name in frame.columns if name.startswith("catalogue/")]]


@given(tables, sizes)
def test_the_best_are_drawn_in_order_and_of_ties_the_lower_position_and_never_the_excluded(
    table: np.ndarray, size: int
) -> None:
    shortlist = draw_shortlist(scoring(table), {}, EPISODES, size)
    for task in range(N_TASKS):
        free = sorted(set(range(N_ITEMS)) - set(EPISODES.excluded[task].tolist()))
        best = sorted(free, key=lambda position: (-table[task, position], position))
        assert shortlist.positions[task].tolist() == best[:size]


@given(tables, sizes)
def test_behind_is_the_order_of_the_retriever_from_minus_one_down(
    table: np.ndarray, size: int
) -> None:
    behind = draw_shortlist(scoring(table), {}, EPISODES, size).behind
    for ranks, scores in zip(behind, table, strict=True):
        assert set(ranks) == {-1.0 - place for place in range(len(set(scores)))}
        # every pair of candidates is ordered, or tied, as the retriever has it
        assert (np.sign(ranks[:, None] - ranks) == np.sign(scores[:, None] - scores)).all()


@given(tables, tables, sizes)
def test_reranking_orders_what_was_drawn_and_leaves_the_others_behind(
    table: np.ndarray, other: np.ndarray, size: int
) -> None:
    shortlist = draw_shortlist(scoring(table), {}, EPISODES, size)
    for task in range(N_TASKS):
        drawn = shortlist.positions[task]
        scores = other[task, drawn].astype(np.float32)
        ordered = shortlist.order(task, scores)
        rest = np.setdiff1d(np.arange(N_ITEMS), drawn)
        assert ordered[drawn].min() >= 1
        assert (ordered[rest] == shortlist.behind[task, rest]).all()
        ranks = ordered[drawn]
        assert (np.sign(ranks[:, None] - ranks) == np.sign(scores[:, None] - scores)).all()


def test_infinite_scores_are_scores() -> None:
    table = without_ties(0)
    table[:, 3], table[:, 4] = np.inf, -np.inf
    none = replace(EPISODES, excluded=ragged([[]] * N_TASKS, np.int32))
    shortlist = draw_shortlist(scoring(table), {}, none, N_ITEMS)
    for task in range(N_TASKS):
        assert shortlist.positions[task][[0, -1]].tolist() == [3, 4]
        ordered = shortlist.order(task, table[task, shortlist.positions[task]].astype(np.float32))
        assert (ordered.argmax(), ordered.argmin()) == (3, 4)


@given(st.integers(0, 2**32 - 1), sizes)
def test_a_retriever_that_reranks_its_own_shortlist_has_the_metrics_it_has_without(
    seed: int, size: int
) -> None:
    retriever = scoring(without_ties(seed))
    shortlist = draw_shortlist(retriever, {}, EPISODES, size)
    reranked = evaluate(retriever, {}, EPISODES, shortlist=shortlist)
    plain = evaluate(retriever, {}, EPISODES)
    names = list(plain.per_task.columns)
    pd.testing.assert_frame_equal(reranked.per_task[names], plain.per_task, check_exact=True)
    coverage = {name: value for name, value in plain.aggregate.items() if "coverage" in name}
    assert coverage.items() <= dict(reranked.aggregate).items()


@given(tables, tables, st.integers(N_ITEMS, 2 * N_ITEMS))
def test_a_shortlist_of_everything_changes_nothing(
    table: np.ndarray, other: np.ndarray, size: int
) -> None:
    shortlist = draw_shortlist(scoring(table), {}, EPISODES, size)
    reranked = evaluate(scoring(other), {}, EPISODES, shortlist=shortlist).per_task
    plain = evaluate(scoring(other), {}, EPISODES).per_task
    assert reranked.pop("shortlist/recall").dropna().eq(1).all()
    pd.testing.assert_frame_equal(reranked, plain, check_exact=True)
    pd.testing.assert_frame_equal(chance(EPISODES, (5,), shortlist), chance(EPISODES, (5,)))


def knowing(relevant_first: bool) -> Scripted:
    """A learner that knows what is relevant, and ranks it first, or last."""
    table = np.zeros((N_TASKS, N_ITEMS))
    rows, queries = EPISODES.query.pairs()
    table[rows, queries] = EPISODES.query_labels.values * (1 if relevant_first else -1)
    return scoring(table)


@given(tables, st.integers(1, N_ITEMS - 3))
def test_whoever_reranks_finds_what_was_drawn_and_nothing_else(
    table: np.ndarray, size: int
) -> None:
    shortlist = draw_shortlist(scoring(table), {}, EPISODES, size)
    reach = shortlist.recall(EPISODES)
    for learner in (knowing(True), knowing(False), Scripted(noise, "order")):
        frame = evaluate(learner, {}, EPISODES, cutoffs=(size,), shortlist=shortlist).per_task
        # three candidates are excluded, so that the list is full: the first `size` were drawn
        assert_allclose(frame[f"catalogue/recall@{size}"], reach)
        assert np.array_equal(frame["shortlist/recall"], reach, equal_nan=True)


@given(tables, st.integers(8, N_ITEMS))
def test_a_perfect_learner_has_the_recall_of_the_shortlist_as_soon_as_all_fit(
    table: np.ndarray, size: int
) -> None:
    shortlist = draw_shortlist(scoring(table), {}, EPISODES, size)
    # no task has more than 8 queries
    frame = evaluate(knowing(True), {}, EPISODES, cutoffs=(8,), shortlist=shortlist).per_task
    assert_allclose(frame["catalogue/recall@8"], shortlist.recall(EPISODES))


def test_recall_is_the_share_of_the_relevant_queries_that_was_drawn() -> None:
    episodes = episodes_of(
        query=[[0, 1, 9], [1, 2], [5], []],
        ratings=[[5, 4, 5], [1, 2], [5], []],
        excluded=[[], [0], [], []],
    )
    shortlist = draw_shortlist(Scripted(by_position, "order"), {}, episodes, 2)
    assert_allclose(shortlist.recall(episodes), [2 / 3, np.nan, 0, np.nan])


def test_chance_within_a_shortlist_is_the_mean_over_all_orders_of_what_was_drawn() -> None:
    """Brute force: 4 drawn of 30 candidates, in each of their 24 orders, the others behind."""
    retriever = Scripted(noise, "order")
    shortlist = draw_shortlist(retriever, {}, EPISODES, 4)
    found = chance(EPISODES, (2, 5), shortlist)
    for task in range(N_TASKS):
        queries = EPISODES.query[task][EPISODES.query_labels[task] == 1]
        excluded = EPISODES.excluded[task]
        for metric in ranking_metrics((2, 5)):
            values = []
            for order in itertools.permutations(range(4)):
                scores = shortlist.behind[task].copy()
                scores[shortlist.positions[task]] = 100 + np.array(order)
                rankings = Rankings.from_scores(
                    scores[None],
                    (np.zeros(len(queries), int), queries),
                    (np.zeros(len(excluded), int), excluded),
                )
                values.append(measure(metric, rankings)[0])
            assert_allclose(found.loc[task, f"catalogue/chance/{metric}"], np.mean(values))


@given(tables, sizes)
def test_a_constant_score_within_a_shortlist_has_exactly_its_chance_level(
    table: np.ndarray, size: int
) -> None:
    shortlist = draw_shortlist(scoring(table), {}, EPISODES, size)
    frame = evaluate(Scripted(constant, "order"), {}, EPISODES, shortlist=shortlist).per_task
    expected = chance(EPISODES, (5, 10), shortlist)
    plain = chance(EPISODES)
    for metric in ranking_metrics((5, 10)):
        level = expected[f"catalogue/chance/{metric}"]
        assert np.array_equal(frame[f"catalogue/{metric}"], level, equal_nan=True)
        rated = f"rated/chance/{metric}"
        assert np.array_equal(expected[rated], plain[rated], equal_nan=True)


def test_neither_the_chunk_nor_the_order_of_tasks_changes_what_is_drawn() -> None:
    retriever = Scripted(noise, "order")
    one = draw_shortlist(retriever, {}, EPISODES, 7)
    order = np.random.default_rng(0).permutation(N_TASKS)
    other = draw_shortlist(retriever, {}, take(EPISODES, order), 7, chunk=2)
    assert retriever.batches == [5, 2, 2, 1]
    for place, task in enumerate(order.tolist()):
        assert other.positions[place].tolist() == one.positions[task].tolist()
        assert (other.behind[place] == one.behind[task]).all()


def test_no_tasks_have_an_empty_shortlist() -> None:
    nobody = take(EPISODES, np.zeros(0, int))
    shortlist = draw_shortlist(Scripted(noise, "order"), {}, nobody, 7)
    assert (len(shortlist), len(shortlist.positions), len(shortlist.recall(nobody))) == (0, 0, 0)
    assert len(evaluate(Scripted(noise, "order"), {}, nobody, shortlist=shortlist).per_task) == 0
    assert len(chance(nobody, (5,), shortlist)) == 0


@pytest.mark.parametrize("arguments", [{"size": 0}, {"size": 5, "chunk": 0}])
def test_an_impossible_size_is_an_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.shortlist=\d .* at least 1"):
        draw_shortlist(Scripted(noise, "order"), {}, EPISODES, **arguments)


def test_scores_of_a_retriever_that_cannot_be_ranked_are_an_error() -> None:
    table = without_ties(0)
    table[2, 4] = np.nan
    with pytest.raises(ScoreError, match=r"Scripted gave NaN .* candidate 4 of task 102"):
        draw_shortlist(scoring(table), {}, EPISODES, 5)
    with pytest.raises(ScoreError, match=r"must return a float32 .* \[5, 30\]"):
        draw_shortlist(
            Scripted(lambda support, candidates: candidates[1:], "order"), {}, EPISODES, 5
        )


def test_a_retriever_that_does_not_serve_the_tasks_is_an_error() -> None:
    support = replace(EPISODES.support, tasks=np.zeros(N_TASKS, np.int32))
    with pytest.raises(LearnerError, match="serves user tasks"):
        draw_shortlist(
            Scripted(noise, "order"), {}, replace(EPISODES, kind="item", support=support), 5
        )


def test_the_shortlist_of_other_episodes_is_an_error() -> None:
    shortlist = draw_shortlist(Scripted(noise, "order"), {}, random_episodes(4), 5)
    message = "one of 4 tasks with 30 candidates, the episodes have 5"
    with pytest.raises(EpisodeError, match=message):
        evaluate(Scripted(noise, "order"), {}, EPISODES, shortlist=shortlist)
    with pytest.raises(EpisodeError, match=message):
        chance(EPISODES, (5,), shortlist)
    with pytest.raises(EpisodeError, match=message):
        shortlist.recall(EPISODES)
    narrow = Shortlist(shortlist.positions, shortlist.behind[:, 1:])
    with pytest.raises(EpisodeError, match="with 29"):
        narrow.recall(random_episodes(4))
