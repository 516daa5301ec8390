"""Episodes of evaluation: one of each validation or test task of a regime."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Int32, Int64, Shaped, UInt64

from metarec.data import Dataset
from metarec.episodes import Ragged, check_feedback, labels_of
from metarec.errors import EpisodeError
from metarec.learner import Feedback, Support, TaskKind
from metarec.splits import REGIMES, Split

Part = Literal["validation", "test"]


@dataclass(frozen=True)
class EvaluationEpisodes:
    """One episode a task of one regime, with everything needed to rank and to judge.

    Args:
        kind: `user` or `item` tasks.
        part: `validation` or `test`.
        regime: where the query lies.
        k_shot: shots of every task.
        feedback: what the labels are.
        threshold: ratings at or above it are positive; None for implicit feedback.
        tasks: [T] index of each task.
        support: [T, K] the shots.
        candidates: [C] the regime's catalogue, ascending.
        excluded: for each task the positions in `candidates` that are not ranked: its support, its
            reserve, and what else of the task is known from meta-train or validation.
        query: for each task the positions in `candidates` of its query interactions, ascending.
        query_ratings: the ratings of the queries (1 for implicit feedback).
        query_labels: 1 where a query is relevant, else 0.
        left_out: tasks of the regime that have no episode, by reason.
    """

    kind: TaskKind
    part: Part
    regime: str
    k_shot: int
    feedback: Feedback
    threshold: float | None
    tasks: Int32[np.ndarray, " tasks"]
    support: Support
    candidates: Int32[np.ndarray, " c"]
    excluded: Ragged
    query: Ragged
    query_ratings: Ragged
    query_labels: Ragged
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    @cached_property
    def key(self) -> str:
        """SHA-256 over all but `left_out`: equal where the same is asked of the same tasks."""
        settings = (self.kind, self.part, self.regime, self.k_shot, self.feedback, self.threshold)
        support = self.support
        arrays = [self.tasks, self.candidates, support.candidates, support.labels, support.mask]
        if support.tasks is not None:
            arrays.append(support.tasks)
        for lists in (self.excluded, self.query, self.query_ratings, self.query_labels):
            arrays += [lists.offsets, lists.values]
        digest = hashlib.sha256(repr(settings).encode())
        for array in arrays:
            digest.update(f"{array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def evaluation_episodes(
    split: Split,
    part: Part = "test",
    regime: str = "user_cold",
    task: TaskKind = "user",
    k_shot: int = 10,
    reserve: int | None = None,
    feedback: Feedback = "binary",
    threshold: float | None = 4.0,
    order: Literal["random", "time"] = "random",
    seed: int = 0,
) -> EvaluationEpisodes:
    """Draws one episode for each validation or test task of a regime.

    The support is always drawn from the task's warm interactions: for a known user from `train`,
    for a new one from its `user_cold` interactions. Each task's interactions are put in an order
    of their own; the first `k_shot` are the support, and the first `reserve` are kept out of query
    and candidates, so that episodes with the same reserve have nested supports, the same tasks and
    the same queries: the curve over K. Of a known user, all train interactions are kept out of the
    candidates (and in the test part those held out for validation too).

    In item tasks (`regime="item_cold"` only) the known users are ranked for a new item.

    Args:
        split: whose interactions are drawn.
        part: `validation` or `test`.
        regime: `warm`, `user_cold`, `item_cold` or `both_cold`.
        task: `user` or `item` tasks.
        k_shot: shots, 0 allowed.
        reserve: interactions kept for supports, at least `k_shot`; None for `k_shot`.
        feedback: what the labels of the support are.
        threshold: ratings at or above it are relevant.
        order: `random`, or `time` to give a task's earliest interactions as support.
        seed: seed of the orders; a task's order does not depend on the other tasks.

    Returns:
        The episodes of all tasks that have enough interactions and at least one query.

    Raises:
        EpisodeError: if the regime is unknown, the split has nothing there, or no task has enough
            interactions.
    """
    if regime not in REGIMES:
        raise EpisodeError(f"unknown regime {regime!r}; known: {', '.join(REGIMES)}")
    if task == "item" and regime != "item_cold":
        raise EpisodeError(
            f"item tasks rank known users for a new item: regime item_cold, not {regime}"
        )
    reserve = k_shot if reserve is None else reserve
    if not 0 <= k_shot <= reserve:
        raise EpisodeError(
            f"k_shot={k_shot} and reserve={reserve}: 0 <= k_shot <= reserve is needed"
        )
    check_feedback(split, feedback)
    data = split.dataset
    by_task = data.users if task == "user" else data.items
    by_candidate = data.items if task == "user" else data.users
    n_tasks = data.n_users if task == "user" else data.n_items

    own_query = task == "item" or regime == "user_cold"
    query_rows = split.rows(part, regime)
    if own_query:
        pool_rows = query_rows
    elif regime == "both_cold":
        pool_rows = split.rows(part, "user_cold")
    else:
        pool_rows = split.rows("train")
    key = order_key(data, pool_rows, order, seed)
    pool = Ragged.group(
        by_task[pool_rows[np.argsort(key, kind="stable")]],
        pool_rows[np.argsort(key, kind="stable")],
        n_tasks,
    )
    n_pool = pool.lengths
    if own_query:
        place = np.arange(len(pool.values)) - np.repeat(pool.offsets[:-1], n_pool)
        query_rows = np.sort(pool.values[place >= reserve])
    n_query = np.bincount(by_task[query_rows], minlength=n_tasks)

    members = np.union1d(by_task[pool_rows], by_task[split.rows(part, regime)])
    few, none = n_pool[members] < reserve, n_query[members] == 0
    left_out = {
        f"fewer than {reserve} interactions for the support": int(few.sum()),
        "no query interaction": int((none & ~few).sum()),
    }
    tasks = members[~few & ~none].astype(np.int32)
    if len(tasks) == 0 and len(split.rows(part, regime)) == 0:
        raise EpisodeError(
            f"the split has no interactions in {part}/{regime}: leave {part} out of "
            f"evaluation.parts or {regime} out of evaluation.regimes, or hold something out there"
        )
    if len(tasks) == 0:
        longest = int(n_pool.max()) if len(n_pool) else 0
        raise EpisodeError(
            f"no {task} task of {part}/{regime} has {reserve} support interactions and a query "
            f"(longest history: {longest}); lower episode.k_shot or evaluation.k_curve, or hold "
            "out more"
        )

    support_rows = pool.values[pool.offsets[tasks][:, None] + np.arange(k_shot)]
    support = Support(
        by_candidate[support_rows],
        labels_of(data.ratings[support_rows.ravel()], feedback, threshold).reshape(
            support_rows.shape
        ),
        np.ones(support_rows.shape, dtype=bool),
        tasks if task == "item" else None,
    )

    candidates = _candidates(split, part, regime, task)
    position = np.full(data.n_items if task == "user" else data.n_users, -1, dtype=np.int64)
    position[candidates] = np.arange(len(candidates))
    number = np.full(n_tasks, -1, dtype=np.int64)
    number[tasks] = np.arange(len(tasks))

    excluded_rows = [pool.values[(pool.offsets[tasks][:, None] + np.arange(reserve)).ravel()]]
    if regime == "warm":
        excluded_rows = [split.rows("train")]
        if part == "test":
            excluded_rows.append(split.rows("validation", "warm"))
    excluded = np.concatenate(excluded_rows)
    excluded = excluded[(number[by_task[excluded]] >= 0) & (position[by_candidate[excluded]] >= 0)]

    query_rows = query_rows[number[by_task[query_rows]] >= 0]
    query_rows = query_rows[np.argsort(position[by_candidate[query_rows]], kind="stable")]
    query_task = number[by_task[query_rows]]
    ratings = data.ratings[query_rows]
    relevance: Feedback = "implicit" if feedback == "implicit" else "binary"
    return EvaluationEpisodes(
        kind=task,
        part=part,
        regime=regime,
        k_shot=k_shot,
        feedback=feedback,
        threshold=None if feedback == "implicit" else threshold,
        tasks=tasks,
        support=support,
        candidates=candidates,
        excluded=Ragged.group(
            number[by_task[excluded]], position[by_candidate[excluded]], len(tasks)
        ),
        query=Ragged.group(query_task, position[by_candidate[query_rows]], len(tasks)),
        query_ratings=Ragged.group(query_task, ratings, len(tasks)),
        query_labels=Ragged.group(query_task, labels_of(ratings, relevance, threshold), len(tasks)),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def order_key(
    dataset: Dataset,
    rows: Int64[np.ndarray, " m"],
    order: Literal["random", "time"],
    seed: int,
) -> Shaped[np.ndarray, " m"]:
    """[m] what interactions are sorted by to draw a task's support, the first of them.

    Raises:
        EpisodeError: if there are no timestamps to sort by.
    """
    if order == "random":
        return _mix(seed, rows)
    if dataset.times is None:
        raise EpisodeError(
            f"episode.order=time, but data set {dataset.name!r} has no timestamps; set "
            "episode.order=random"
        )
    return np.asarray(dataset.times)[rows]


def _candidates(split: Split, part: Part, regime: str, task: TaskKind) -> Int32[np.ndarray, " c"]:
    if task == "item":
        return split.users_of("warm")
    return split.items_of(part if regime in ("item_cold", "both_cold") else "warm")


def _mix(seed: int, rows: Int64[np.ndarray, " m"]) -> UInt64[np.ndarray, " m"]:
    """A random key for each interaction, from the seed and its number alone (SplitMix64)."""
    constants = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
    golden, first, second = (np.uint64(constant) for constant in constants)
    with np.errstate(over="ignore"):
        key = rows.astype(np.uint64) + np.uint64(seed + 1) * golden
        for multiplier, shift in ((first, 30), (second, 27)):
            key = (key ^ (key >> np.uint64(shift))) * multiplier
        key = (key ^ (key >> np.uint64(31))) + golden
        for multiplier, shift in ((first, 30), (second, 27)):
            key = (key ^ (key >> np.uint64(shift))) * multiplier
        return np.asarray(key ^ (key >> np.uint64(31)))
