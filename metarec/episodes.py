"""Episodes: few-shot draws from tasks, here those of meta-training (`EpisodeSampler`).

Those of evaluation are in `metarec.evaluation.episodes`.

A *user task* is a user with items as candidates, an *item task* an item with users as candidates.
Everything here is NumPy, and everything random is a pure function of a seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Shaped

from metarec.consumed import Ledger
from metarec.errors import EpisodeError
from metarec.learner import Feedback, Support, TaskKind
from metarec.splits import Split


@dataclass(frozen=True)
class Ragged:
    """A list of lists of unequal length: list t is `values[offsets[t]:offsets[t + 1]]`.

    Args:
        offsets: [T + 1] where each list starts, and the end of the last.
        values: the lists, one after another.
    """

    offsets: Int64[np.ndarray, " tasks_plus_1"]
    values: Shaped[np.ndarray, " values"]

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.offsets) - 1

    def __getitem__(self, task: int) -> Shaped[np.ndarray, " values"]:
        """List `task`."""
        return self.values[self.offsets[task] : self.offsets[task + 1]]

    @property
    def lengths(self) -> Int64[np.ndarray, " tasks"]:
        """Length of each list."""
        return np.diff(self.offsets)

    def pairs(
        self, part: slice | None = None
    ) -> tuple[Int64[np.ndarray, " m"], Shaped[np.ndarray, " m"]]:
        """Each value with the number of its list.

        Args:
            part: of which lists; None for all. The first of them has number 0.

        Returns:
            [m] numbers of the lists, ascending, and [m] values.
        """
        start, stop, _ = (part or slice(None)).indices(len(self))
        numbers = np.repeat(np.arange(stop - start), self.lengths[start:stop])
        return numbers, self.values[self.offsets[start] : self.offsets[stop]]

    @classmethod
    def group(
        cls, lists: Shaped[np.ndarray, " m"], values: Shaped[np.ndarray, " m"], n_lists: int
    ) -> Ragged:
        """Groups `values` by the number of their list, keeping their order within a list."""
        order = np.argsort(lists, kind="stable")
        offsets = np.zeros(n_lists + 1, dtype=np.int64)
        np.cumsum(np.bincount(lists, minlength=n_lists), out=offsets[1:])
        return cls(offsets, values[order])


@dataclass(frozen=True)
class EpisodeBatch:
    """T episodes of meta-training, padded to K shots and Q queries.

    Args:
        kind: `user` or `item` tasks.
        tasks: [T] index of each task.
        support: [T, K] the labelled shots.
        query: [T, Q] candidates to be scored; never one of the support set.
        query_labels: [T, Q] rating, or 1 and 0.
        query_mask: [T, Q] true where there is a query.
        query_observed: [T, Q] false where the query is a sampled negative.
    """

    kind: TaskKind
    tasks: Int32[np.ndarray, " tasks"]
    support: Support
    query: Int32[np.ndarray, "tasks q"]
    query_labels: Float32[np.ndarray, "tasks q"]
    query_mask: Bool[np.ndarray, "tasks q"]
    query_observed: Bool[np.ndarray, "tasks q"]


def labels_of(
    ratings: Float32[np.ndarray, " n"], feedback: Feedback, threshold: float | None
) -> Float32[np.ndarray, " n"]:
    """Turns ratings into the labels of a kind of feedback.

    Args:
        ratings: [n] ratings.
        feedback: `rating` keeps them, `binary` gives 1 at or above the threshold and else 0,
            `implicit` gives 1.
        threshold: needed for `binary`.

    Returns:
        [n] labels.

    Raises:
        EpisodeError: if binary feedback has no threshold.
    """
    if feedback == "rating":
        return ratings.astype(np.float32)
    if feedback == "implicit":
        return np.ones(len(ratings), dtype=np.float32)
    if threshold is None:
        raise EpisodeError(
            "binary feedback needs a threshold: set episode.threshold to the lowest rating that "
            "counts as liked (4 for MovieLens)"
        )
    return (ratings >= threshold).astype(np.float32)


def check_feedback(split: Split, feedback: Feedback) -> None:
    """Raises EpisodeError if the data set of a split does not have this kind of feedback."""
    if split.dataset.feedback == "implicit" and feedback != "implicit":
        raise EpisodeError(
            f"data set {split.dataset.name!r} has implicit feedback, not {feedback}: set "
            "episode.feedback=implicit"
        )


class EpisodeSampler:
    """Draws meta-training episodes from the `train` part of a split.

    `batch(step)` is a pure function of `(seed, step)`. Shots and observed queries of a task are
    drawn without replacement by a partial Fisher-Yates shuffle that runs over all tasks at once.

    Args:
        split: whose `train` interactions are drawn.
        task: `user` or `item` tasks.
        k_shot: number of shots, or (least, most) to draw it uniformly for each episode; 0 allowed.
        query_size: Q, queries of an episode.
        task_batch: T, episodes of a batch.
        feedback: `rating`, `binary` or `implicit`.
        threshold: lowest rating that counts as positive in binary feedback.
        negatives: share of the queries that are sampled uniformly from the known candidates that
            the task has no interaction with, with label 0. Must be 0 for rating feedback.
        seed: seed of the episodes.
        ledger: gets a note of the interactions that are drawn from; None for nowhere.

    Raises:
        EpisodeError: if an argument is out of range or no task has enough interactions.
    """

    def __init__(
        self,
        split: Split,
        task: TaskKind = "user",
        k_shot: int | tuple[int, int] = (0, 20),
        query_size: int = 20,
        task_batch: int = 32,
        feedback: Feedback = "binary",
        threshold: float | None = 4.0,
        negatives: float = 0.5,
        seed: int = 0,
        ledger: Ledger | None = None,
    ) -> None:
        self.least, self.most = (k_shot, k_shot) if isinstance(k_shot, int) else k_shot
        if not 0 <= self.least <= self.most:
            raise EpisodeError(f"episode.k_shot={k_shot}: 0 <= least <= most shots is needed")
        if query_size < 1 or task_batch < 1:
            raise EpisodeError(
                f"episode.query_size={query_size} and episode.task_batch={task_batch} must be at "
                "least 1"
            )
        if not 0 <= negatives < 1:
            raise EpisodeError(f"episode.negatives={negatives}: a share in [0, 1) is needed")
        if feedback == "rating" and negatives > 0:
            raise EpisodeError(
                f"episode.negatives={negatives}: a sampled negative has no rating; set "
                "episode.negatives=0 for rating feedback"
            )
        if feedback == "implicit" and negatives == 0:
            raise EpisodeError(
                "implicit feedback without sampled negatives has one label only: set "
                "episode.negatives above 0"
            )
        check_feedback(split, feedback)
        self.kind: TaskKind = task
        self.feedback: Feedback = feedback
        self.query_size, self.task_batch, self.seed = query_size, task_batch, seed
        self._split, self._threshold, self._negative_share = split, threshold, negatives
        self._ledger = ledger
        self.n_negatives = round(negatives * query_size)
        if negatives > 0:
            self.n_negatives = min(max(self.n_negatives, 1), query_size - 1)

        rows = split.rows("train")
        sides = (split.dataset.users[rows], split.dataset.items[rows])
        sizes = (split.dataset.n_users, split.dataset.n_items)
        tasks, candidates = sides if task == "user" else sides[::-1]
        n_tasks, self.n_candidates = sizes if task == "user" else sizes[::-1]
        labels = labels_of(split.dataset.ratings[rows], feedback, threshold)
        order = np.lexsort((candidates, tasks))
        self._offsets = np.zeros(n_tasks + 1, dtype=np.int64)
        np.cumsum(np.bincount(tasks, minlength=n_tasks), out=self._offsets[1:])
        self._candidates, self._labels = candidates[order], labels[order]
        # sorted, because of the order: membership of (task, candidate) is one binary search
        self._pairs = tasks[order].astype(np.int64) * self.n_candidates + self._candidates
        self.known = np.unique(candidates).astype(np.int32)
        if ledger is not None:
            fit = f"sampler of {task} tasks"
            ledger.interactions(fit, task, tasks[order], self._candidates, self._labels)
            ledger.indices(fit, "items" if task == "user" else "users", self.known)
        histories = np.diff(self._offsets)
        # one observed query at least has to be left beside the fewest shots
        self.tasks = np.flatnonzero(histories > self.least).astype(np.int32)
        if len(self.tasks) == 0 or (isinstance(k_shot, int) and k_shot >= histories.max()):
            raise EpisodeError(
                f"episode.k_shot={k_shot} is larger than any history of a meta-train {task} task "
                f"(longest: {histories.max()} interactions, and one must be left to be the query); "
                "lower episode.k_shot"
            )

    def batch(self, step: int) -> EpisodeBatch:
        """Draws the episodes of one training step.

        Args:
            step: number of the step, from 0.

        Returns:
            `task_batch` episodes of static shape: [T, K] and [T, Q] with masks.
        """
        rng = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        chosen = rng.choice(
            len(self.tasks), self.task_batch, replace=self.task_batch > len(self.tasks)
        )
        tasks = self.tasks[chosen]
        start = self._offsets[tasks]
        history = self._offsets[tasks + 1] - start
        n_observed = self.query_size - self.n_negatives
        drawn = _draw_without_replacement(rng, history, self.most + n_observed)

        k_shot = rng.integers(self.least, np.minimum(self.most, history - 1) + 1)
        support_mask = np.arange(self.most) < k_shot[:, None]
        support_rows = start[:, None] + np.where(support_mask, drawn[:, : self.most], 0)
        support = Support(
            self._candidates[support_rows],
            self._labels[support_rows],
            support_mask,
            tasks if self.kind == "item" else None,
        )

        place = k_shot[:, None] + np.arange(n_observed)
        observed_mask = place < history[:, None]
        observed = np.take_along_axis(drawn, np.where(observed_mask, place, 0), axis=1)
        observed_rows = start[:, None] + observed
        negatives, negative_mask = self._negatives(rng, tasks)
        return EpisodeBatch(
            kind=self.kind,
            tasks=tasks,
            support=support,
            query=np.concatenate([self._candidates[observed_rows], negatives], axis=1),
            query_labels=np.concatenate(
                [self._labels[observed_rows], np.zeros(negatives.shape, np.float32)], axis=1
            ),
            query_mask=np.concatenate([observed_mask, negative_mask], axis=1),
            query_observed=np.concatenate(
                [np.ones_like(observed_mask), np.zeros_like(negative_mask)], axis=1
            ),
        )

    def transposed(self) -> EpisodeSampler:
        """The sampler of the other kind of task, with the same settings and the same seed.

        Items become tasks where users were, and the converse. The numbers of shots are lowered to
        what the longest history on the other side allows, with one left to be the query: `least`
        and `most` may then be smaller than here.

        Returns:
            The sampler; its batches are pure functions of `(seed, step)` like these.
        """
        kind: TaskKind = "item" if self.kind == "user" else "user"
        longest = int(np.bincount(self._candidates).max())
        return EpisodeSampler(
            self._split,
            kind,
            (min(self.least, longest - 1), min(self.most, longest - 1)),
            self.query_size,
            self.task_batch,
            self.feedback,
            self._threshold,
            self._negative_share,
            self.seed,
            self._ledger,
        )

    def _negatives(
        self, rng: np.random.Generator, tasks: Int32[np.ndarray, " tasks"]
    ) -> tuple[Int32[np.ndarray, "tasks n"], Bool[np.ndarray, "tasks n"]]:
        """Known candidates without an interaction with the task; masked where none was found."""
        shape = (len(tasks), self.n_negatives)
        drawn = self.known[rng.integers(len(self.known), size=shape)]
        taken = self._interacted(tasks, drawn)
        for _ in range(4):
            if not taken.any():
                break
            drawn = np.where(taken, self.known[rng.integers(len(self.known), size=shape)], drawn)
            taken = self._interacted(tasks, drawn)
        repeated = (drawn[:, :, None] == drawn[:, None, :]) & np.tri(shape[1], k=-1, dtype=bool)
        return drawn.astype(np.int32), ~(taken | repeated.any(axis=2))

    def _interacted(
        self, tasks: Int32[np.ndarray, " tasks"], candidates: Int32[np.ndarray, "tasks n"]
    ) -> Bool[np.ndarray, "tasks n"]:
        pairs = tasks[:, None].astype(np.int64) * self.n_candidates + candidates
        place = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        return np.asarray(self._pairs[place] == pairs)


def _draw_without_replacement(
    rng: np.random.Generator, sizes: Int64[np.ndarray, " tasks"], count: int
) -> Int64[np.ndarray, "tasks count"]:
    """Draws `count` distinct numbers below each size, in random order, for all tasks at once.

    A partial Fisher-Yates shuffle on an array that is never made: only the places that a swap has
    changed are remembered, so the cost does not depend on the sizes. Beyond a size the numbers mean
    nothing.
    """
    uniform = rng.random((len(sizes), count))
    drawn = np.empty((count, len(sizes)), dtype=np.int64)
    swapped_at = np.empty((count, len(sizes)), dtype=np.int64)
    swapped_to = np.empty((count, len(sizes)), dtype=np.int64)
    for step in range(count):
        left = np.maximum(sizes - step, 1)
        place = step + (uniform[:, step] * left).astype(np.int64)
        value, own = place.copy(), np.full(len(sizes), step, dtype=np.int64)
        if step:
            # the last swap at a place counts, so later ones overwrite earlier ones
            hit = swapped_at[:step] == place
            last = step - 1 - hit[::-1].argmax(axis=0)
            value = np.where(hit.any(axis=0), swapped_to[last, np.arange(len(sizes))], place)
            hit = swapped_at[:step] == step
            last = step - 1 - hit[::-1].argmax(axis=0)
            own = np.where(hit.any(axis=0), swapped_to[last, np.arange(len(sizes))], own)
        drawn[step], swapped_at[step], swapped_to[step] = value, place, own
    return drawn.T
