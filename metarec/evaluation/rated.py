"""Published protocols: each task ranks and rates its own rated queries, not a catalogue."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64

from metarec.episodes import Ragged, check_feedback, labels_of
from metarec.errors import ConfigError, EpisodeError
from metarec.evaluation import best_rated
from metarec.evaluation.episodes import EvaluationEpisodes, Part, order_key
from metarec.evaluation.evaluate import Evaluation, described, steps
from metarec.evaluation.metrics import mae, pooled, rmse
from metarec.evaluation.rankings import check_scores
from metarec.learner import Feedback, Learner, Support, check_served
from metarec.splits import REGIMES, Split


def rated_episodes(
    split: Split,
    part: Part = "test",
    regime: str = "user_cold",
    history: tuple[int, int] = (13, 100),
    support: int | None = None,
    query: int | None = 10,
    unseen: Literal["keep", "drop"] = "keep",
    feedback: Feedback = "rating",
    threshold: float | None = 4.0,
    order: Literal["random", "time"] = "random",
    seed: int = 0,
) -> EvaluationEpisodes:
    """One episode of each user of a regime: what it rated there, cut into support and query.

    The support too lies in the regime, other than in this framework's own episodes: a task of
    `item_cold` is adapted to cold items. In `warm`, where the split holds the queries out, the
    support is the user's train interactions.

    Args:
        split: whose interactions are drawn. Where it has `queries`, they are what is asked for,
            whatever `support` and `query` are.
        part: `validation` or `test`.
        regime: `warm`, `user_cold`, `item_cold` or `both_cold`.
        history: least and most interactions of a user in the regime, its support and query.
        support: shots; None for all that are not queries.
        query: queries, the last in the order; None for all that are no shots.
        unseen: for `user_cold`, whether interactions with items of no train user are kept in the
            tasks (the split has them as `both_cold`).
        feedback: what the labels of the support are.
        threshold: lowest rating of a positive.
        order: `random`, or `time` to give a task's earliest interactions as support.
        seed: of the order; that of a task does not depend on other tasks.

    Returns:
        The episodes. `support` is padded to the longest, which is `k_shot`; candidates are all
        items.

    Raises:
        EpisodeError: if the regime is unknown, or no user has a history of that length.
    """
    if regime not in REGIMES:
        raise EpisodeError(f"unknown regime {regime!r}; known: {', '.join(REGIMES)}")
    if support is None and query is None:
        raise EpisodeError("protocol.support and protocol.query are both null; give one of them")
    check_feedback(split, feedback)
    data = split.dataset
    rows = split.rows(part, regime)
    if regime == "user_cold" and unseen == "keep":
        rows = np.sort(np.concatenate([rows, split.rows(part, "both_cold")]))
    held_out = rows
    if regime == "warm":
        known = split.rows("train")
        rows = np.concatenate([known[np.isin(data.users[known], data.users[held_out])], held_out])
    rows = rows[np.argsort(order_key(data, rows, order, seed), kind="stable")]
    by_user = Ragged.group(data.users[rows], rows, data.n_users)
    lengths = by_user.lengths
    least, most = history
    chosen = np.flatnonzero((lengths >= max(1, least)) & (lengths <= most))
    is_query = split.queries
    if regime == "warm":
        is_query = np.zeros(len(data), bool)
        is_query[held_out] = True
    cut = {user: _cut(by_user[user], is_query, support, query) for user in chosen.tolist()}
    kept = [user for user, (_, asked) in cut.items() if len(asked)]
    left_out = {
        f"fewer than {least} interactions": int(((lengths > 0) & (lengths < least)).sum()),
        f"more than {most} interactions": int((lengths > most).sum()),
        "no query interaction": len(cut) - len(kept),
    }
    if not kept:
        raise EpisodeError(
            f"no user of {part}/{regime} has {least} to {most} interactions and a query; change "
            "protocol.history"
        )
    queries = _ragged([np.sort(cut[user][1]) for user in kept])
    ratings = data.ratings[queries.values]
    relevance: Feedback = "implicit" if feedback == "implicit" else "binary"
    nothing = Ragged(np.zeros(len(kept) + 1, np.int64), np.zeros(0, np.int64))
    shots, mask = _padded([cut[user][0] for user in kept])
    labels = labels_of(data.ratings[shots.ravel()], feedback, threshold).reshape(shots.shape)
    return EvaluationEpisodes(
        kind="user",
        part=part,
        regime=regime,
        k_shot=shots.shape[1],
        feedback=feedback,
        threshold=None if feedback == "implicit" else threshold,
        tasks=np.array(kept, np.int32),
        support=Support(data.items[shots], labels, mask),
        candidates=np.arange(data.n_items, dtype=np.int32),
        excluded=nothing,
        query=Ragged(queries.offsets, data.items[queries.values].astype(np.int64)),
        query_ratings=Ragged(queries.offsets, ratings),
        query_labels=Ragged(queries.offsets, labels_of(ratings, relevance, threshold)),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def evaluate_rated(
    learner: Learner,
    meta_parameters: Mapping[str, np.ndarray],
    episodes: EvaluationEpisodes,
    cutoffs: Sequence[int] = (5,),
    chunk: int = 64,
    progress: bool = False,
    rating_scale: tuple[float, float] | None = None,
) -> Evaluation:
    """Adapts the learner to each task, scores the task's own queries and measures.

    Args:
        learner: the learner.
        meta_parameters: what its `fit` returned.
        episodes: the tasks.
        cutoffs: the k of the metrics.
        chunk: tasks that are adapted and scored together.
        progress: whether to show a progress bar.
        rating_scale: to which predicted ratings are clipped before MAE and RMSE.

    Returns:
        One row a task: `n_support` and `n_query` beside what describes it, then `rated/mae` and
        `rated/rmse` (NaN where the learner predicts no ratings), the metrics of
        `metarec.evaluation.best_rated`, and the same with `/chance/` for a constant score.

    Raises:
        LearnerError: if the learner does not serve the tasks or the feedback.
        ScoreError: if its scores are not float32 [T, C], or one is NaN.
        ConfigError: if a cutoff or `chunk` is below 1.
    """
    check_served(learner, episodes.kind, episodes.feedback)
    if chunk < 1 or min(cutoffs, default=1) < 1:
        raise ConfigError(
            f"evaluation.chunk={chunk} and evaluation.cutoffs={tuple(cutoffs)} must be at least 1"
        )
    n_tasks = len(episodes.tasks)
    label = f"{type(learner).__name__} {episodes.part}/{episodes.regime}"
    seconds = {"adapt": 0.0, "score": 0.0}
    found = [np.zeros(0, np.float32)]
    for start in steps(n_tasks, chunk, progress, label):
        part = slice(start, min(start + chunk, n_tasks))
        found.append(_query_scores(learner, meta_parameters, episodes, part, seconds))
    scores = np.concatenate(found)
    columns = _errors(learner, episodes, scores, rating_scale)
    aggregate = {
        f"rated/pooled_{name.partition('/')[2]}": pooled(
            name.partition("/")[2], values, episodes.query.lengths
        )
        for name, values in columns.items()
    }
    rows = []
    for task in range(n_tasks):
        ratings = episodes.query_ratings[task]
        own = scores[episodes.query.offsets[task] : episodes.query.offsets[task + 1]]
        graded = episodes.feedback != "implicit"
        values = best_rated.measure(best_rated.RatedList.of(own, ratings), cutoffs, graded)
        constant = best_rated.RatedList.of(np.zeros(len(own)), ratings)
        for name, value in best_rated.measure(constant, cutoffs, graded).items():
            family, _, metric = name.partition("/")
            values[f"{family}/chance/{metric}"] = value
        rows.append(values)
    counts = {
        "n_support": episodes.support.mask.sum(axis=1),
        "n_query": episodes.query.lengths,
    }
    frames = [described(episodes), pd.DataFrame(counts | columns), pd.DataFrame(rows)]
    return Evaluation(pd.concat(frames, axis=1), aggregate, seconds)


def _cut(
    rows: Int64[np.ndarray, " own"],
    is_query: Bool[np.ndarray, " n"] | None,
    support: int | None,
    query: int | None,
) -> tuple[Int64[np.ndarray, " shots"], Int64[np.ndarray, " queries"]]:
    """The shots and the queries among a task's interactions, which are in order."""
    if is_query is not None:
        return rows[~is_query[rows]], rows[is_query[rows]]
    if support is None:
        first = max(0, len(rows) - (query or 0))
        return rows[:first], rows[first:]
    rest = rows[support:]
    return rows[:support], rest if query is None else rest[:query]


def _ragged(lists: Sequence[Int64[np.ndarray, " _"]]) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    return Ragged(offsets.astype(np.int64), np.concatenate(lists))


def _padded(
    lists: Sequence[Int64[np.ndarray, " _"]],
) -> tuple[Int64[np.ndarray, "tasks k"], Bool[np.ndarray, "tasks k"]]:
    """The lists side by side, padded with 0, and where they are not."""
    lengths = np.array([len(one) for one in lists])
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    padded = np.zeros(mask.shape, np.int64)
    padded[mask] = np.concatenate(lists)
    return padded, mask


def _query_scores(
    learner: Learner,
    meta_parameters: Mapping[str, np.ndarray],
    episodes: EvaluationEpisodes,
    part: slice,
    seconds: dict[str, float],
) -> Float32[np.ndarray, " queries"]:
    """The score of each query of some of the tasks, task by task."""
    rows, items = episodes.query.pairs(part)
    candidates, place = np.unique(items, return_inverse=True)
    begin = time.perf_counter()
    fast_weights = learner.adapt(meta_parameters, episodes.support[part])
    adapted = time.perf_counter()
    scores = learner.score(fast_weights, candidates.astype(np.int32))
    seconds["adapt"] += adapted - begin
    seconds["score"] += time.perf_counter() - adapted
    name = type(learner).__name__
    return check_scores(scores, episodes.tasks[part], len(candidates), name)[rows, place]


def _errors(
    learner: Learner,
    episodes: EvaluationEpisodes,
    scores: Float32[np.ndarray, " queries"],
    rating_scale: tuple[float, float] | None,
) -> dict[str, np.ndarray]:
    n_tasks = len(episodes.tasks)
    if learner.predicts(episodes.feedback) != "rating":
        return {f"rated/{name}": np.full(n_tasks, np.nan) for name in ("mae", "rmse")}
    # clipping must not turn an infinite prediction into a good one
    if rating_scale is not None and np.isfinite(scores).all():
        scores = scores.clip(*rating_scale)
    rows, ratings = episodes.query_ratings.pairs()
    return {
        "rated/mae": mae(scores, ratings, rows, n_tasks),
        "rated/rmse": rmse(scores, ratings, rows, n_tasks),
    }
