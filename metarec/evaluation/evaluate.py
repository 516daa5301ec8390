"""`evaluate`: adapts a learner to every task of some episodes, scores candidates and measures."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int32, Int64

from metarec.episodes import Ragged
from metarec.errors import ConfigError, EpisodeError
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
    check_scores,
    gains_of,
)
from metarec.evaluation.shortlist import Shortlist
from metarec.learner import Learner, check_served


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a learner is worth on some episodes.

    Args:
        per_task: one row a task: `task`, `kind`, `part`, `regime`, `k_shot`, `n_candidates` (ranked
            ones), `n_relevant`, `n_query`, then `catalogue/<metric>`, `rated/<metric>` and
            `rated/chance/<metric>`, and with a shortlist `shortlist/recall`. NaN where a metric has
            no value for the task or the learner.
        aggregate: what is not a mean over tasks: `catalogue/coverage@k`, and the errors pooled over
            all query interactions, `rated/pooled_mae`, `rated/pooled_rmse`,
            `rated/pooled_log_loss`.
        seconds: `adapt` and `score`: wall seconds of each over all tasks, with what is compiled at
            the first. What a device still has to do when `adapt` returns counts as `score`.
    """

    per_task: pd.DataFrame
    aggregate: Mapping[str, float]
    seconds: Mapping[str, float]

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
    shortlist: Shortlist | None = None,
) -> Evaluation:
    """Adapts the learner to each task, scores its candidates and measures.

    `catalogue/` metrics rank every candidate of the regime that is not excluded; relevant are the
    task's queries with label 1, and those with label 0 stay as non-relevant candidates. `rated/`
    metrics rank the task's own queries only (legacy), beside their exact chance level; with
    implicit feedback nothing is rated down and they are NaN. MAE and RMSE need a learner that
    predicts ratings, log loss one that predicts logits on feedback with both labels; elsewhere they
    are NaN.

    With a shortlist, the learner scores nothing but what was drawn for a task, one task after
    another; all others are ranked behind, in the order of the retriever. Ranking metrics are those
    of this order of the whole catalogue. Since ranks are no ratings, MAE, RMSE and log loss are
    NaN.

    Args:
        learner: the learner.
        meta_parameters: what its `fit` returned.
        episodes: the tasks.
        cutoffs: the k of the metrics that have one.
        chunk: tasks that are adapted and scored together; with a shortlist each is by itself.
        progress: whether to show a progress bar.
        gain: gains of relevant candidates in nDCG: `binary`; or `linear` or `exponential` in the
            rating, counted from the lowest of `rating_scale` (from 0 without one).
        rating_scale: lowest and highest rating, to which predicted ratings are clipped before MAE
            and RMSE; None takes them as they are.
        shortlist: what the learner reranks; None for the whole catalogue.

    Raises:
        LearnerError: if the learner does not serve the tasks or the feedback.
        ScoreError: if its scores are not float32 [T, C], one is NaN, or a prediction is not finite.
        EpisodeError: if a query is excluded, repeats or is out of range, or the shortlist is that
            of other episodes.
        ConfigError: if a cutoff or `chunk` is below 1, or a cutoff repeats.
    """
    check_served(learner, episodes.kind, episodes.feedback)
    if chunk < 1 or min(cutoffs, default=1) < 1 or len(set(cutoffs)) < len(cutoffs):
        raise ConfigError(
            f"evaluation.chunk={chunk} and evaluation.cutoffs={tuple(cutoffs)} must be at least 1, "
            f"and no cutoff may repeat"
        )
    _check_lists(episodes)
    if shortlist is not None:
        shortlist.check(episodes)
        chunk = 1
    n_tasks = len(episodes.tasks)
    label = f"{type(learner).__name__} {episodes.part}/{episodes.regime}"
    tally = _Tally(episodes, cutoffs, gain, 0.0 if rating_scale is None else rating_scale[0])
    seconds = {"adapt": 0.0, "score": 0.0}
    for start in steps(n_tasks, chunk, progress, label):
        part = slice(start, min(start + chunk, n_tasks))
        candidates = episodes.candidates
        if shortlist is not None:
            candidates = candidates[shortlist.positions[start]]
        scores = _scored(learner, meta_parameters, episodes, part, candidates, seconds)
        if shortlist is not None:
            scores = shortlist.order(start, scores[0])[None]
        tally.add(part, scores)

    if shortlist is None:
        errors = _errors(learner, episodes, tally.query_scores(), rating_scale)
    else:
        errors = _no_errors(n_tasks)
    columns = tally.columns() | errors
    if shortlist is not None:
        columns["shortlist/recall"] = shortlist.recall(episodes)
    aggregate = tally.coverages()
    for column, values in errors.items():
        metric = column.removeprefix("rated/")
        aggregate[f"rated/pooled_{metric}"] = pooled(metric, values, columns["n_query"])
    per_task = pd.concat([described(episodes), pd.DataFrame(columns)], axis=1)
    return Evaluation(per_task, aggregate, seconds)


def chance(
    episodes: EvaluationEpisodes,
    cutoffs: Sequence[int] = (5, 10),
    shortlist: Shortlist | None = None,
) -> pd.DataFrame:
    """The exact chance level of every ranking metric on these episodes, with binary gains.

    Args:
        episodes: the tasks.
        cutoffs: the k of the metrics that have one.
        shortlist: what is reranked by chance, with all others behind it in the order of the
            retriever; None for the whole catalogue.

    Returns:
        One row a task: `task`, then `catalogue/chance/<metric>` and `rated/chance/<metric>`.

    Raises:
        EpisodeError: if the shortlist is that of other episodes.
    """
    rows = episodes.query.pairs()[0]
    relevant = np.bincount(rows[episodes.query_labels.values == 1], minlength=len(episodes.tasks))
    if shortlist is None:
        ranked = len(episodes.candidates) - _distinct(episodes.excluded)
        catalogue = Rankings.of_constant_score(ranked, relevant)
    else:
        catalogue = _constant_within(shortlist, episodes)
    rated = Rankings.of_constant_score(episodes.query.lengths, relevant)
    metrics = ranking_metrics(cutoffs)
    columns: dict[str, np.ndarray] = {"task": episodes.tasks}
    columns |= _measured("catalogue/chance/", catalogue, metrics)
    columns |= _measured("rated/chance/", rated, metrics)
    return pd.DataFrame(columns)


class _Tally:
    """Everything that is measured of scores, which come chunk by chunk.

    Args:
        episodes: the tasks.
        cutoffs: the k of the metrics that have one.
        gain: gains of relevant candidates in nDCG.
        lowest: the rating that gives no gain.
    """

    def __init__(
        self, episodes: EvaluationEpisodes, cutoffs: Sequence[int], gain: Gain, lowest: float
    ) -> None:
        self.episodes, self.cutoffs, self.gain, self.lowest = episodes, cutoffs, gain, lowest
        self._catalogue: list[Rankings] = []
        self._rated: list[Rankings] = []
        self._queries = [np.zeros(0, np.float32)]
        self._coverage = {k: Coverage(len(episodes.candidates)) for k in cutoffs}

    def add(self, part: slice, scores: Float32[np.ndarray, "tasks c"]) -> None:
        """Adds the scores of the whole catalogue for some of the tasks."""
        episodes = self.episodes
        query = episodes.query.pairs(part)
        relevant = episodes.query_labels.pairs(part)[1] == 1
        gains = gains_of(episodes.query_ratings.pairs(part)[1][relevant], self.gain, self.lowest)

        ordered = SortedScores.from_scores(scores, episodes.excluded.pairs(part))
        self._catalogue.append(ordered.rankings((query[0][relevant], query[1][relevant]), gains))
        for k, covered in self._coverage.items():
            _, shown, probability = ordered.top(k)
            covered.add(shown, probability)

        own, place, missing = _rows_of_queries(scores, query)
        self._rated.append(
            SortedScores.from_scores(own, missing).rankings(
                (query[0][relevant], place[relevant]), gains
            )
        )
        self._queries.append(scores[query])

    def columns(self) -> dict[str, np.ndarray]:
        """The counts and ranking metrics of each task."""
        catalogue, rated = Rankings.concatenate(self._catalogue), Rankings.concatenate(self._rated)
        metrics = ranking_metrics(self.cutoffs)
        columns: dict[str, np.ndarray] = {
            "n_candidates": catalogue.n,
            "n_relevant": catalogue.relevant,
            "n_query": rated.n,
        }
        columns |= _measured("catalogue/", catalogue, metrics)
        if self.episodes.feedback == "implicit":
            nothing = np.full(len(rated), np.nan)
            columns |= {f"rated/{metric}": nothing for metric in metrics}
            columns |= {f"rated/chance/{metric}": nothing for metric in metrics}
        else:
            columns |= _measured("rated/", rated, metrics)
            columns |= _measured("rated/chance/", rated.constant(), metrics)
        return columns

    def query_scores(self) -> Float32[np.ndarray, " n"]:
        """[n] the score of each query, task by task."""
        return np.concatenate(self._queries)

    def coverages(self) -> dict[str, float]:
        """`catalogue/coverage@k` at every cutoff."""
        return {f"catalogue/coverage@{k}": covered.value() for k, covered in self._coverage.items()}


def _scored(
    learner: Learner,
    meta_parameters: Mapping[str, np.ndarray],
    episodes: EvaluationEpisodes,
    part: slice,
    candidates: Int32[np.ndarray, " c"],
    seconds: dict[str, float],
) -> Float32[np.ndarray, "tasks c"]:
    """Adapts to some of the tasks and scores candidates, checked; adds to the seconds of each."""
    begin = time.perf_counter()
    fast_weights = learner.adapt(meta_parameters, episodes.support[part])
    adapted = time.perf_counter()
    scores = learner.score(fast_weights, candidates)
    seconds["adapt"] += adapted - begin
    seconds["score"] += time.perf_counter() - adapted
    return check_scores(scores, episodes.tasks[part], len(candidates), type(learner).__name__)


def described(episodes: EvaluationEpisodes) -> pd.DataFrame:
    """The columns that say which episode a row is."""
    return pd.DataFrame(
        {
            "task": episodes.tasks,
            "kind": episodes.kind,
            "part": episodes.part,
            "regime": episodes.regime,
            "k_shot": episodes.k_shot,
        }
    )


def _constant_within(shortlist: Shortlist, episodes: EvaluationEpisodes) -> Rankings:
    """The rankings of a constant score of what was drawn, with binary gains."""
    shortlist.check(episodes)
    parts = []
    for task in range(len(shortlist)):
        one = slice(task, task + 1)
        constant = np.zeros(len(shortlist.positions[task]), np.float32)
        rows, queries = episodes.query.pairs(one)
        relevant = episodes.query_labels[task] == 1
        parts.append(
            Rankings.from_scores(
                shortlist.order(task, constant)[None],
                (rows[relevant], queries[relevant]),
                episodes.excluded.pairs(one),
            )
        )
    return Rankings.concatenate(parts)


def _measured(prefix: str, rankings: Rankings, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    return {prefix + metric: measure(metric, rankings) for metric in metrics}


def _errors(
    learner: Learner,
    episodes: EvaluationEpisodes,
    predictions: Float32[np.ndarray, " n"],
    rating_scale: tuple[float, float] | None,
) -> dict[str, np.ndarray]:
    n_tasks = len(episodes.tasks)
    rows, ratings = episodes.query_ratings.pairs()
    labels = episodes.query_labels.values
    result = _no_errors(n_tasks)
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


def _no_errors(n_tasks: int) -> dict[str, np.ndarray]:
    return {f"rated/{name}": np.full(n_tasks, np.nan) for name in ("mae", "rmse", "log_loss")}


def _check_lists(episodes: EvaluationEpisodes) -> None:
    n_tasks = len(episodes.tasks)
    for name in ("excluded", "query", "query_ratings", "query_labels"):
        if len(getattr(episodes, name).offsets) != n_tasks + 1:
            raise EpisodeError(f"episodes.{name} must have one list for each of {n_tasks} tasks")
    for name in ("query_ratings", "query_labels"):
        if not np.array_equal(getattr(episodes, name).offsets, episodes.query.offsets):
            raise EpisodeError(f"episodes.{name} must have the lengths of episodes.query")
    if not np.isin(episodes.query_labels.values, (0, 1)).all():
        raise EpisodeError("episodes.query_labels must be 0 or 1")


def _distinct(lists: Ragged) -> Int64[np.ndarray, " tasks"]:
    rows, values = lists.pairs()
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
    return np.bincount(rows[new], minlength=len(lists)).astype(np.int64)


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


def steps(n_tasks: int, chunk: int, progress: bool, label: str) -> Any:
    """The first task of each chunk, with a progress bar if wanted."""
    starts = range(0, n_tasks, chunk)
    if not progress:
        return starts
    from tqdm.auto import tqdm

    return tqdm(starts, desc=label, unit="task" if chunk == 1 else "chunk", leave=False)


def _mean(values: Float64[np.ndarray, " n"]) -> float:
    # fsum rounds once, so the mean does not depend on the order.
    return math.fsum(values) / len(values) if len(values) else float("nan")
