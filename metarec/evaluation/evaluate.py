"""`evaluate`: adapts a learner to every task of some episodes, scores candidates and measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64

from metarec.episodes import Ragged
from metarec.errors import ConfigError, EpisodeError, ScoreError
from metarec.evaluation.episodes import EvaluationEpisodes
from metarec.evaluation.metrics import (
    Coverage,
    log_loss,
    mae,
    measure,
    pooled,
    ranking_metrics,
    rmse,
)
from metarec.evaluation.rankings import (
    Gain,
    Pairs,
    Rankings,
    SortedScores,
    check_not_nan,
    gains_of,
)
from metarec.learner import Learner, check_served


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a learner is worth on some episodes.

    Args:
        per_task: one row a task: `task`, `kind`, `part`, `regime`, `k_shot`, `n_candidates` (ranked
            ones), `n_relevant`, `n_query`, then `catalogue/<metric>`, `rated/<metric>` and
            `rated/chance/<metric>`. NaN where a metric has no value for the task or the learner.
        aggregate: what is not a mean over tasks: `catalogue/coverage@k`, and the errors pooled over
            all query interactions, `rated/pooled_mae`, `rated/pooled_rmse`,
            `rated/pooled_log_loss`.
    """

    per_task: pd.DataFrame
    aggregate: Mapping[str, float]

    def summary(self) -> pd.DataFrame:
        """The mean of every metric over the tasks in which it is defined.

        Returns:
            One row a metric (the index), with `mean`, `tasks` (in which it is defined) and
            `undefined` (in which it is NaN); then the aggregates, whose `tasks` are all tasks.
            Means do not depend on the order of the tasks.
        """
        rows: dict[str, tuple[float, int, int]] = {}
        for name in self.per_task.columns:
            if "/" in name:
                values = self.per_task[name].to_numpy(np.float64)
                defined = values[~np.isnan(values)]
                rows[name] = (_mean(defined), len(defined), len(values) - len(defined))
        n = len(self.per_task)
        for name, value in self.aggregate.items():
            rows[name] = (value, 0, n) if math.isnan(value) else (value, n, 0)
        return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "tasks", "undefined"])


def evaluate(
    learner: Learner,
    meta_parameters: Mapping[str, np.ndarray],
    episodes: EvaluationEpisodes,
    cutoffs: Sequence[int] = (5, 10),
    chunk: int = 64,
    progress: bool = False,
    gain: Gain = "binary",
    rating_scale: tuple[float, float] | None = None,
) -> Evaluation:
    """Adapts the learner to each task, scores its candidates and measures.

    `catalogue/` metrics rank every candidate of the regime that is not excluded; relevant are the
    task's queries with label 1, and those with label 0 stay as non-relevant candidates. `rated/`
    metrics rank the task's own queries only (legacy), beside their exact chance level; with
    implicit feedback nothing is rated down and they are NaN. MAE and RMSE need a learner that
    predicts ratings, log loss one that predicts logits on feedback with both labels; elsewhere they
    are NaN.

    Args:
        learner: the learner.
        meta_parameters: what its `fit` returned.
        episodes: the tasks.
        cutoffs: the k of the metrics that have one.
        chunk: tasks that are adapted and scored together.
        progress: whether to show a progress bar.
        gain: gains of relevant candidates in nDCG: `binary`; or `linear` or `exponential` in the
            rating, counted from the lowest of `rating_scale` (from 0 without one).
        rating_scale: lowest and highest rating, to which predicted ratings are clipped before MAE
            and RMSE; None takes them as they are.

    Raises:
        LearnerError: if the learner does not serve the tasks or the feedback.
        ScoreError: if its scores are not float32 [T, C], one is NaN, or a prediction is not finite.
        EpisodeError: if a query is excluded, repeats or is out of range.
        ConfigError: if a cutoff or `chunk` is below 1, or a cutoff repeats.
    """
    check_served(learner, episodes.kind, episodes.feedback)
    if chunk < 1 or min(cutoffs, default=1) < 1 or len(set(cutoffs)) < len(cutoffs):
        raise ConfigError(
            f"evaluation.chunk={chunk} and evaluation.cutoffs={tuple(cutoffs)} must be at least 1, "
            f"and no cutoff may repeat"
        )
    _check_lists(episodes)
    name = type(learner).__name__
    n_tasks, n_candidates = len(episodes.tasks), len(episodes.candidates)
    lowest = 0.0 if rating_scale is None else rating_scale[0]

    catalogue: list[Rankings] = []
    rated: list[Rankings] = []
    query_scores: list[np.ndarray] = []
    coverage = {k: Coverage(n_candidates) for k in cutoffs}
    for start in _steps(n_tasks, chunk, progress, f"{name} {episodes.part}/{episodes.regime}"):
        part = slice(start, min(start + chunk, n_tasks))
        fast_weights = learner.adapt(meta_parameters, episodes.support[part])
        scores = _checked(learner.score(fast_weights, episodes.candidates), episodes, part, name)
        query = _pairs(episodes.query, part)
        relevant = _values(episodes.query_labels, part) == 1
        gains = gains_of(_values(episodes.query_ratings, part)[relevant], gain, lowest)

        ordered = SortedScores.from_scores(scores, _pairs(episodes.excluded, part))
        catalogue.append(ordered.rankings((query[0][relevant], query[1][relevant]), gains))
        for k, covered in coverage.items():
            _, shown, probability = ordered.top(k)
            covered.add(shown, probability)

        own, place, missing = _rows_of_queries(scores, query)
        rated.append(
            SortedScores.from_scores(own, missing).rankings(
                (query[0][relevant], place[relevant]), gains
            )
        )
        query_scores.append(scores[query])

    per_task = pd.DataFrame(
        {
            "task": episodes.tasks,
            "kind": episodes.kind,
            "part": episodes.part,
            "regime": episodes.regime,
            "k_shot": episodes.k_shot,
        }
    )
    rankings, own_rankings = Rankings.concatenate(catalogue), Rankings.concatenate(rated)
    columns: dict[str, np.ndarray] = {
        "n_candidates": rankings.n,
        "n_relevant": rankings.relevant,
        "n_query": own_rankings.n,
    }
    metrics = ranking_metrics(cutoffs)
    columns |= _measured("catalogue/", rankings, metrics)
    if episodes.feedback == "implicit":
        columns |= {f"rated/{metric}": np.full(n_tasks, np.nan) for metric in metrics}
        columns |= {f"rated/chance/{metric}": np.full(n_tasks, np.nan) for metric in metrics}
    else:
        columns |= _measured("rated/", own_rankings, metrics)
        columns |= _measured("rated/chance/", own_rankings.constant(), metrics)
    predictions = np.concatenate([np.zeros(0, np.float32), *query_scores])
    errors = _errors(learner, episodes, predictions, rating_scale)
    columns |= errors
    aggregate = {f"catalogue/coverage@{k}": covered.value() for k, covered in coverage.items()}
    for column, values in errors.items():
        metric = column.removeprefix("rated/")
        aggregate[f"rated/pooled_{metric}"] = pooled(metric, values, own_rankings.n)
    return Evaluation(pd.concat([per_task, pd.DataFrame(columns)], axis=1), aggregate)


def chance(episodes: EvaluationEpisodes, cutoffs: Sequence[int] = (5, 10)) -> pd.DataFrame:
    """The exact chance level of every ranking metric on these episodes, with binary gains.

    Args:
        episodes: the tasks.
        cutoffs: the k of the metrics that have one.

    Returns:
        One row a task: `task`, then `catalogue/chance/<metric>` and `rated/chance/<metric>`.
    """
    everyone = slice(0, len(episodes.tasks))
    rows = _pairs(episodes.query, everyone)[0]
    labels = _values(episodes.query_labels, everyone)
    relevant = np.bincount(rows[labels == 1], minlength=len(episodes.tasks))
    metrics = ranking_metrics(cutoffs)
    columns: dict[str, np.ndarray] = {"task": episodes.tasks}
    for prefix, n in (
        ("catalogue/chance/", len(episodes.candidates) - _distinct(episodes.excluded)),
        ("rated/chance/", np.diff(episodes.query.offsets)),
    ):
        columns |= _measured(prefix, Rankings.of_constant_score(n, relevant), metrics)
    return pd.DataFrame(columns)


def _measured(prefix: str, rankings: Rankings, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    return {prefix + metric: measure(metric, rankings) for metric in metrics}


def _errors(
    learner: Learner,
    episodes: EvaluationEpisodes,
    predictions: Float32[np.ndarray, " n"],
    rating_scale: tuple[float, float] | None,
) -> dict[str, np.ndarray]:
    n_tasks = len(episodes.tasks)
    everyone = slice(0, n_tasks)
    rows = _pairs(episodes.query, everyone)[0]
    ratings = _values(episodes.query_ratings, everyone)
    labels = _values(episodes.query_labels, everyone)
    result = {f"rated/{name}": np.full(n_tasks, np.nan) for name in ("mae", "rmse", "log_loss")}
    predicts = learner.predicts(episodes.feedback)
    if predicts == "rating":
        # Clipping must not turn an infinite prediction into a good one.
        if rating_scale is not None and np.isfinite(predictions).all():
            predictions = predictions.clip(*rating_scale)
        result["rated/mae"] = mae(predictions, ratings, rows, n_tasks)
        result["rated/rmse"] = rmse(predictions, ratings, rows, n_tasks)
    # Implicit queries are all positive: the larger the logits of everything, the better.
    if predicts == "logit" and episodes.feedback != "implicit":
        result["rated/log_loss"] = log_loss(predictions, labels, rows, n_tasks)
    return result


def _checked(
    scores: Any, episodes: EvaluationEpisodes, part: slice, learner: str
) -> Float32[np.ndarray, "tasks c"]:
    expected = (part.stop - part.start, len(episodes.candidates))
    shape, dtype = getattr(scores, "shape", None), getattr(scores, "dtype", None)
    if not isinstance(scores, np.ndarray) or dtype != np.float32 or shape != expected:
        raise ScoreError(
            f"{learner}.score must return a float32 NumPy array [tasks, candidates] = "
            f"{list(expected)}, not {type(scores).__name__} of dtype {dtype} and shape {shape}"
        )
    check_not_nan(scores, episodes.tasks[part], learner)
    return scores


def _check_lists(episodes: EvaluationEpisodes) -> None:
    n_tasks = len(episodes.tasks)
    for name in ("excluded", "query", "query_ratings", "query_labels"):
        if len(getattr(episodes, name).offsets) != n_tasks + 1:
            raise EpisodeError(f"episodes.{name} must have one list for each of {n_tasks} tasks")
    for name in ("query_ratings", "query_labels"):
        if not np.array_equal(getattr(episodes, name).offsets, episodes.query.offsets):
            raise EpisodeError(f"episodes.{name} must have the lengths of episodes.query")
    labels = _values(episodes.query_labels, slice(0, n_tasks))
    if not np.isin(labels, (0, 1)).all():
        raise EpisodeError("episodes.query_labels must be 0 or 1")


def _pairs(lists: Ragged, part: slice) -> Pairs:
    lengths = np.diff(lists.offsets[part.start : part.stop + 1])
    return np.repeat(np.arange(len(lengths)), lengths), _values(lists, part)


def _values(lists: Ragged, part: slice) -> np.ndarray:
    return lists.values[lists.offsets[part.start] : lists.offsets[part.stop]]


def _distinct(lists: Ragged) -> Int64[np.ndarray, " tasks"]:
    rows, values = _pairs(lists, slice(0, len(lists.offsets) - 1))
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
    return np.bincount(rows[new], minlength=len(lists.offsets) - 1).astype(np.int64)


def _rows_of_queries(
    scores: Float32[np.ndarray, "tasks c"], query: Pairs
) -> tuple[Float32[np.ndarray, "tasks longest"], Int64[np.ndarray, " pairs"], Pairs]:
    """The scores of each task's queries side by side, their places there, and the empty places."""
    rows, columns = query
    lengths = np.bincount(rows, minlength=len(scores))
    place = np.arange(len(rows)) - (np.cumsum(lengths) - lengths)[rows]
    own = np.zeros((len(scores), int(lengths.max(initial=0))), np.float32)
    own[rows, place] = scores[rows, columns]
    empty_rows, empty_places = np.nonzero(np.arange(own.shape[1]) >= lengths[:, None])
    return own, place, (empty_rows, empty_places)


def _steps(n_tasks: int, chunk: int, progress: bool, label: str) -> Any:
    starts = range(0, n_tasks, chunk)
    if not progress:
        return starts
    from tqdm.auto import tqdm

    return tqdm(starts, desc=label, unit="chunk", leave=False)


def _mean(values: Float64[np.ndarray, " n"]) -> float:
    # fsum rounds once, so the mean does not depend on the order.
    return math.fsum(values) / len(values) if len(values) else float("nan")
