from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
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
from metarec.evaluation.evaluate import Evaluation, chance, evaluate
from metarec.evaluation.metrics import chance_level, ranking_metrics
from metarec.evaluation.shortlist import draw_shortlist

SMALL = episodes_of(
    query=[[0, 2, 4], [1], []],
    ratings=[[5, 2, 4], [1], []],
    excluded=[[1], [0, 0, 2], []],
)


def test_the_catalogue_is_ranked_without_the_excluded_and_with_the_disliked() -> None:
    row = evaluate(Scripted(by_position, "order"), {}, SMALL).per_task.loc[0]
    # Ranked are positions 0, 2, 3, 4, ...; relevant 0 and 4, at ranks 1 and 4.
    assert (row["task"], row["n_candidates"], row["n_relevant"], row["n_query"]) == (100, 29, 2, 3)
    dcg, ideal = 1 + 1 / math.log2(5), 1 + 1 / math.log2(3)
    assert_allclose(row["catalogue/ndcg@5"], dcg / ideal)
    assert_allclose(row["catalogue/recall@5"], 1)
    assert_allclose(row["catalogue/map@5"], (1 + 2 / 4) / 2)
    assert_allclose(row["catalogue/auc"], (27 + 25) / (2 * 27))


def test_the_rated_are_ranked_among_themselves_beside_their_chance_level() -> None:
    row = evaluate(Scripted(by_position, "order"), {}, SMALL).per_task.loc[0]
    # Ranked are the positions 0 (liked), 2 (not), 4 (liked).
    assert_allclose(row["rated/auc"], 1 / 2)
    assert_allclose(row["rated/map@5"], (1 + 2 / 3) / 2)
    assert_allclose(row["rated/precision@5"], 2 / 3)
    assert row["rated/chance/ndcg@5"] == chance_level("ndcg@5", 3, 2)


def test_a_task_without_relevant_query_or_without_query_has_no_ranking_metric() -> None:
    found = evaluate(Scripted(by_position, "rating"), {}, SMALL)
    frame = found.per_task
    assert frame["n_relevant"].tolist() == [2, 0, 0]
    assert frame["n_candidates"].tolist() == [29, 28, 30]
    assert frame.loc[1:, "catalogue/ndcg@10"].isna().all()
    assert not math.isnan(frame.loc[1, "rated/mae"])
    assert math.isnan(frame.loc[2, "rated/mae"])
    summary = found.summary()
    assert summary.loc["catalogue/ndcg@10", ["tasks", "undefined"]].tolist() == [1, 2]
    assert summary.loc["rated/mae", ["tasks", "undefined"]].tolist() == [2, 1]
    assert summary.loc["catalogue/ndcg@10", "mean"] == frame.loc[0, "catalogue/ndcg@10"]


def test_a_constant_score_has_exactly_the_chance_level() -> None:
    episodes = random_episodes(40)
    frame = evaluate(Scripted(constant, "order"), {}, episodes).per_task
    expected = chance(episodes)
    for metric in ranking_metrics((5, 10)):
        for column in (f"catalogue/{metric}", f"rated/{metric}"):
            levels = expected[column.replace("/", "/chance/")].to_numpy()
            assert np.array_equal(frame[column].to_numpy(), levels, equal_nan=True), column
        rated = frame[f"rated/chance/{metric}"].to_numpy()
        assert np.array_equal(rated, expected[f"rated/chance/{metric}"], equal_nan=True)


def test_the_order_of_tasks_and_the_chunk_change_not_a_bit() -> None:
    episodes = random_episodes(30)
    found = evaluate(Scripted(noise, "rating"), {}, episodes, gain="exponential")
    order = np.random.default_rng(0).permutation(30)
    other = evaluate(
        Scripted(noise, "rating"), {}, take(episodes, order), chunk=7, gain="exponential"
    )
    sorted_again = other.per_task.sort_values("task", ignore_index=True)
    assert found.per_task.equals(sorted_again)
    assert found.summary().equals(other.summary())


def test_tasks_are_adapted_in_chunks() -> None:
    learner = Scripted(noise, "order")
    evaluate(learner, {}, random_episodes(9), chunk=4)
    assert learner.batches == [4, 4, 1]


def test_errors_are_measured_only_for_what_a_learner_predicts() -> None:
    def defined(evaluation: Evaluation) -> list[str]:
        names = ("mae", "rmse", "log_loss")
        return [name for name in names if evaluation.per_task[f"rated/{name}"].notna().any()]

    episodes = random_episodes()
    assert defined(evaluate(Scripted(noise, "order"), {}, episodes)) == []
    assert defined(evaluate(Scripted(noise, "logit"), {}, episodes)) == ["log_loss"]
    assert defined(evaluate(Scripted(noise, "rating"), {}, episodes)) == ["mae", "rmse"]


def test_predicted_ratings_are_compared_with_the_ratings() -> None:
    frame = evaluate(Scripted(constant, "rating"), {}, SMALL)
    errors = np.array([5, 2, 4]) - 3.5
    assert_allclose(frame.per_task.loc[0, "rated/mae"], np.abs(errors).mean())
    assert_allclose(frame.per_task.loc[0, "rated/rmse"], np.sqrt((errors**2).mean()))
    everything = np.append(errors, 1 - 3.5)
    assert_allclose(frame.aggregate["rated/pooled_mae"], np.abs(everything).mean())
    assert_allclose(frame.aggregate["rated/pooled_rmse"], np.sqrt((everything**2).mean()))


def test_predicted_ratings_are_clipped_only_on_request() -> None:
    learner = Scripted(lambda support, candidates: np.full(len(candidates), 9.0), "rating")
    raw = evaluate(learner, {}, SMALL).per_task.loc[0, "rated/mae"]
    clipped = evaluate(learner, {}, SMALL, rating_scale=(0.5, 5.0)).per_task.loc[0, "rated/mae"]
    assert_allclose([raw, clipped], [(4 + 7 + 5) / 3, (0 + 3 + 1) / 3])


def test_log_loss_of_a_constant_logit_follows_its_formula() -> None:
    frame = evaluate(Scripted(constant, "logit"), {}, SMALL).per_task
    p = 1 / (1 + math.exp(-3.5))
    assert_allclose(frame.loc[0, "rated/log_loss"], -(2 * math.log(p) + math.log(1 - p)) / 3)


def test_graded_gains_count_in_ndcg_only() -> None:
    learner = Scripted(by_position, "order")
    binary = evaluate(learner, {}, SMALL).per_task.loc[0]
    graded = evaluate(learner, {}, SMALL, gain="exponential").per_task.loc[0]
    dcg, ideal = 31 + 15 / math.log2(5), 31 + 15 / math.log2(3)
    assert_allclose(graded["catalogue/ndcg@5"], dcg / ideal)
    for metric in ranking_metrics((5, 10)):
        if not metric.startswith("ndcg"):
            assert graded[f"catalogue/{metric}"] == binary[f"catalogue/{metric}"]


def test_implicit_feedback_has_no_rated_metrics() -> None:
    found = evaluate(Scripted(noise, "logit"), {}, random_episodes(feedback="implicit"))
    rated = [name for name in found.per_task.columns if name.startswith("rated/")]
    assert found.per_task[rated].isna().all(axis=None)
    assert found.per_task["catalogue/ndcg@10"].notna().all()
    assert math.isnan(found.aggregate["rated/pooled_log_loss"])


def test_coverage_counts_the_lists_of_all_chunks() -> None:
    episodes = random_episodes(9)
    none = replace(episodes, excluded=ragged([[]] * 9, np.int32))
    found = evaluate(Scripted(by_position, "order"), {}, none, cutoffs=(3,), chunk=2)
    assert found.aggregate["catalogue/coverage@3"] == 3 / N_ITEMS
    assert found.summary().loc["catalogue/coverage@3", "mean"] == 3 / N_ITEMS


def test_coverage_of_a_constant_score_is_the_expected_one_of_random_lists() -> None:
    none = replace(random_episodes(9), excluded=ragged([[]] * 9, np.int32))
    found = evaluate(Scripted(constant, "order"), {}, none, cutoffs=(3,))
    expected = 1 - (1 - 3 / N_ITEMS) ** 9
    assert_allclose(found.aggregate["catalogue/coverage@3"], expected, rtol=1e-9)


def scores_like(change: Callable[[np.ndarray], Any]) -> Scripted:
    class Broken(Scripted):
        def score(self, fast_weights: Any, candidates: np.ndarray) -> Any:
            return change(super().score(fast_weights, candidates))

    return Broken(noise, "order")


@pytest.mark.parametrize(
    "change",
    [
        lambda scores: scores.astype(np.float64),
        lambda scores: scores[:, :-1],
        lambda scores: scores[0],
        lambda scores: scores.tolist(),
    ],
    ids=["float64", "a candidate short", "one task", "a list"],
)
def test_scores_of_another_type_or_shape_are_an_error(change: Callable[..., Any]) -> None:
    with pytest.raises(ScoreError, match=r"Broken.score must return a float32 .* \[9, 30\]"):
        evaluate(scores_like(change), {}, random_episodes())


def test_a_nan_score_names_the_learner_and_the_task() -> None:
    def with_nan(scores: np.ndarray) -> np.ndarray:
        if len(scores) == 1:
            scores[0, 5] = np.nan
        return scores

    with pytest.raises(ScoreError, match="Broken gave NaN as the score of candidate 5 of task 108"):
        evaluate(scores_like(with_nan), {}, random_episodes(9), chunk=4)


def test_an_infinite_prediction_is_an_error_but_an_infinite_order_is_not() -> None:
    def infinite(support: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        return np.full(len(candidates), np.inf)

    for predicts in ("rating", "logit"):
        with pytest.raises(ScoreError, match="finite"):
            evaluate(Scripted(infinite, predicts), {}, SMALL, rating_scale=(1.0, 5.0))
    frame = evaluate(Scripted(infinite, "order"), {}, SMALL).per_task
    assert frame.loc[0, "rated/auc"] == 1 / 2


def test_episodes_whose_query_is_excluded_are_an_error() -> None:
    broken = episodes_of(query=[[0, 2]], ratings=[[5, 5]], excluded=[[2]])
    with pytest.raises(EpisodeError, match="both relevant and excluded"):
        evaluate(Scripted(noise, "order"), {}, broken)


def test_episodes_whose_lists_do_not_fit_are_an_error() -> None:
    episodes = random_episodes(3)
    with pytest.raises(EpisodeError, match="query_labels must have the lengths"):
        evaluate(
            Scripted(noise, "order"),
            {},
            replace(episodes, query_labels=ragged([[1.0], [1.0], [1.0] * 40], np.float32)),
        )
    with pytest.raises(EpisodeError, match="excluded must have one list"):
        evaluate(Scripted(noise, "order"), {}, replace(episodes, excluded=ragged([[]], np.int32)))
    with pytest.raises(EpisodeError, match="0 or 1"):
        evaluate(
            Scripted(noise, "order"), {}, replace(episodes, query_labels=episodes.query_ratings)
        )


@pytest.mark.parametrize("arguments", [{"cutoffs": (0,)}, {"cutoffs": (5, 5)}, {"chunk": 0}])
def test_impossible_cutoffs_and_chunks_are_an_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        evaluate(Scripted(noise, "order"), {}, SMALL, **arguments)


def test_a_learner_that_does_not_serve_the_tasks_is_an_error() -> None:
    support = replace(SMALL.support, tasks=np.zeros(3, np.int32))
    with pytest.raises(LearnerError, match="serves user tasks"):
        evaluate(Scripted(noise, "order"), {}, replace(SMALL, kind="item", support=support))


def test_a_progress_bar_changes_no_result() -> None:
    episodes = random_episodes()
    found = evaluate(Scripted(noise, "order"), {}, episodes, progress=True)
    assert found.per_task.equals(evaluate(Scripted(noise, "order"), {}, episodes).per_task)


def test_no_tasks_give_an_empty_table_and_undefined_means() -> None:
    nobody = take(SMALL, np.zeros(0, int))
    found = evaluate(Scripted(noise, "rating"), {}, nobody)
    assert len(found.per_task) == 0
    assert math.isnan(found.summary().loc["catalogue/ndcg@10", "mean"])


class Remembering(Scripted):
    """A learner that remembers what it was asked to score."""

    def __init__(self) -> None:
        super().__init__(noise, "rating")
        self.asked: list[list[int]] = []

    def score(self, fast_weights: Any, candidates: np.ndarray) -> np.ndarray:
        self.asked.append(candidates.tolist())
        return super().score(fast_weights, candidates)


def test_with_a_shortlist_each_task_is_adapted_by_itself_and_scores_what_was_drawn() -> None:
    episodes = random_episodes(3)
    shortlist = draw_shortlist(Scripted(by_position, "order"), {}, episodes, 4)
    learner = Remembering()
    frame = evaluate(learner, {}, episodes, chunk=2, shortlist=shortlist).per_task
    assert learner.batches == [1, 1, 1]
    drawn = [episodes.candidates[shortlist.positions[task]].tolist() for task in range(3)]
    assert learner.asked == drawn
    assert frame["n_candidates"].tolist() == [27, 27, 27]
    assert frame.columns[-1] == "shortlist/recall"


def test_with_a_shortlist_nobody_predicts_a_rating() -> None:
    episodes = random_episodes(9)
    shortlist = draw_shortlist(Scripted(by_position, "order"), {}, episodes, 4)
    for predicts in ("rating", "logit"):
        found = evaluate(Scripted(noise, predicts), {}, episodes, shortlist=shortlist)
        errors = [name for name in found.summary().index if name.endswith(("mae", "rmse", "loss"))]
        assert len(errors) == 6
        assert found.summary().loc[errors, "mean"].isna().all()
        assert found.per_task["rated/auc"].notna().any()
    recall = found.summary().loc["shortlist/recall", "mean"]
    assert_allclose(recall, np.nanmean(shortlist.recall(episodes)))


def test_what_was_drawn_is_checked_as_all_scores_are() -> None:
    episodes = random_episodes(3)
    shortlist = draw_shortlist(Scripted(by_position, "order"), {}, episodes, 4)

    def with_nan(scores: np.ndarray) -> np.ndarray:
        scores[0, 2] = np.nan
        return scores

    with pytest.raises(ScoreError, match="Broken gave NaN as the score of candidate 2 of task 100"):
        evaluate(scores_like(with_nan), {}, episodes, shortlist=shortlist)
    with pytest.raises(ScoreError, match=r"must return a float32 .* \[1, 4\]"):
        evaluate(scores_like(lambda scores: scores[:, :-1]), {}, episodes, shortlist=shortlist)


def test_seconds_are_those_of_adapting_and_of_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the learner moves: 1 s to adapt, 10 s to score."""
    now = [0.0]
    monkeypatch.setattr("metarec.evaluation.evaluate.time.perf_counter", lambda: now[0])

    class Slow(Scripted):
        def adapt(self, *arguments: Any) -> Any:
            now[0] += 1
            return super().adapt(*arguments)

        def score(self, *arguments: Any) -> Any:
            now[0] += 10
            return super().score(*arguments)

    episodes = random_episodes(9)
    found = evaluate(Slow(noise, "order"), {}, episodes, chunk=4)
    assert found.seconds == {"adapt": 3, "score": 30}
    shortlist = draw_shortlist(Scripted(by_position, "order"), {}, episodes, 4)
    found = evaluate(Slow(noise, "order"), {}, episodes, chunk=4, shortlist=shortlist)
    assert found.seconds == {"adapt": 9, "score": 90}
