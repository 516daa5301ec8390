from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.testing import assert_allclose

from metarec.episodes import Ragged
from metarec.errors import ConfigError, EpisodeError, LearnerError, ScoreError
from metarec.evaluation.episodes import EvaluationEpisodes
from metarec.evaluation.evaluate import Evaluation, chance, evaluate
from metarec.evaluation.metrics import chance_level, ranking_metrics
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training

N_ITEMS = 30


class Scripted:
    """Scores by a function of (the candidates of a task's support, the candidates)."""

    serves: ClassVar[frozenset[str]] = frozenset({"user"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = False
    trained: ClassVar[bool] = False

    def __init__(
        self, function: Callable[[np.ndarray, np.ndarray], np.ndarray], predicts: Predicts
    ) -> None:
        self.function, self.kind = function, predicts
        self.batches: list[int] = []

    def predicts(self, feedback: Feedback) -> Predicts:
        return self.kind

    def fit(self, training: Training) -> MetaParameters:
        return {}

    def adapt(self, meta_parameters: Mapping[str, np.ndarray], support: Support) -> Any:
        self.batches.append(len(support))
        return support.candidates

    def score(self, fast_weights: Any, candidates: np.ndarray) -> np.ndarray:
        return np.stack([self.function(row, candidates) for row in fast_weights]).astype(np.float32)


def ragged(lists: Sequence[Sequence[float]], dtype: type) -> Ragged:
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Ragged(offsets, np.array([x for row in lists for x in row], dtype))


def episodes_of(
    query: Sequence[Sequence[int]],
    ratings: Sequence[Sequence[float]],
    excluded: Sequence[Sequence[int]],
    feedback: Feedback = "binary",
) -> EvaluationEpisodes:
    """Episodes over the items 10, 11, ... as candidates; liked from a rating of 4."""
    n = len(query)
    labels = [[float(r >= 4 or feedback == "implicit") for r in row] for row in ratings]
    # The support of a task is its own number, which lets a scripted learner know it.
    support = np.arange(n, dtype=np.int32)[:, None]
    return EvaluationEpisodes(
        kind="user",
        part="test",
        regime="user_cold",
        k_shot=1,
        feedback=feedback,
        threshold=None if feedback == "implicit" else 4.0,
        tasks=np.arange(100, 100 + n, dtype=np.int32),
        support=Support(support, np.ones((n, 1), np.float32), np.ones((n, 1), bool)),
        candidates=np.arange(10, 10 + N_ITEMS, dtype=np.int32),
        excluded=ragged(excluded, np.int32),
        query=ragged(query, np.int32),
        query_ratings=ragged(ratings, np.float32),
        query_labels=ragged(labels, np.float32),
    )


def random_episodes(n: int = 9, feedback: Feedback = "binary") -> EvaluationEpisodes:
    rng = np.random.default_rng(3)
    query, ratings, excluded = [], [], []
    for _ in range(n):
        positions = rng.permutation(N_ITEMS)
        size = int(rng.integers(1, 9))
        query.append(np.sort(positions[:size]).tolist())
        ratings.append(rng.integers(1, 6, size).astype(float).tolist())
        excluded.append(positions[size : size + 3].tolist())
    return episodes_of(query, ratings, excluded, feedback)


def noise(support: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Scores with ties that depend on the task, whatever else is scored with it."""
    rng = np.random.default_rng(int(support[0]))
    return np.round(rng.normal(size=100)[candidates], 1)


def constant(support: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    return np.full(len(candidates), 3.5)


SMALL = episodes_of(
    query=[[0, 2, 4], [1], []],
    ratings=[[5, 2, 4], [1], []],
    excluded=[[1], [0, 0, 2], []],
)


def by_position(support: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    return -candidates.astype(float)


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


def take(episodes: EvaluationEpisodes, order: np.ndarray) -> EvaluationEpisodes:
    def reordered(lists: Ragged) -> Ragged:
        return ragged([lists[int(t)].tolist() for t in order], lists.values.dtype.type)

    names = ("excluded", "query", "query_ratings", "query_labels")
    return replace(
        episodes,
        tasks=episodes.tasks[order],
        support=episodes.support[order],
        **{name: reordered(getattr(episodes, name)) for name in names},
    )


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
