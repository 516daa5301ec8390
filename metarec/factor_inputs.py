"""From episodes to the arrays that warm-up learners see: factors of users and items, and contents.

The framework-free half of the learners that generate a new item's collaborative embedding from its
content. Their base model is the factorisation of meta-train (`metarec.collaborative`): the score of
a pair is the product of the user's and the item's factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Int32

from metarec.collaborative import Factorisation, factorise
from metarec.episodes import EpisodeBatch, EpisodeSampler, Ragged
from metarec.errors import LearnerError
from metarec.inputs import Inputs
from metarec.learner import Feedback, MetaParameters, Support, TaskKind, Training

PREFIX = "inputs.base."
"""What the names of the base model's arrays among the meta-parameters begin with."""


@dataclass(frozen=True)
class PairArrays:
    """Pairs of a user and an item in T episodes, N in each, as new as in evaluation.

    The axis of the episode's own side is 1 long: the user of a user task, the item of an item task.

    Args:
        users: [T, 1 or N, F] factors of the users: in user tasks folded in from the support set, in
            item tasks without the item's feedback.
        items: [T, N or 1, F] factors of the items: in user tasks without the user's feedback, in
            item tasks those of meta-train, to be generated.
        folded: [T, 1, F] factors of the task, folded in from its support set.
        content: [T, N or 1, D] standardised text features of the items.
        profile: [T, 1 or N, D] contents of the users: of the support set, or of meta-train without
            the item.
        counts: [T, N or 1] feedback that counts of each item, without the pair's in user tasks.
        base: [T, N] the base model's own score of each pair, nothing left out.
        labels: [T, N] 1 and 0, or ratings less their mean.
        mask: [T, N].
    """

    users: Float32[np.ndarray, "tasks users f"]
    items: Float32[np.ndarray, "tasks items f"]
    folded: Float32[np.ndarray, "tasks 1 f"]
    content: Float32[np.ndarray, "tasks items d"]
    profile: Float32[np.ndarray, "tasks users d"]
    counts: Float32[np.ndarray, "tasks items"]
    base: Float32[np.ndarray, "tasks n"]
    labels: Float32[np.ndarray, "tasks n"]
    mask: Bool[np.ndarray, "tasks n"]


@dataclass(frozen=True)
class WarmUpArrays:
    """T new items, each with K users whose feedback is given, and N users to be scored.

    Args:
        content: [T, D] standardised text feature of each item.
        folded: [T, F] factors of each item, folded in from its support set.
        shots: [T, K, F] factors of the users of the support set, without the item's feedback; 0
            beside the shots.
        shot_labels: [T, K] 1 and 0, or ratings less their mean; 0 beside the shots.
        shot_mask: [T, K].
        users: [T, N, F] factors of the users to be scored, without the item's feedback.
        labels: [T, N].
        mask: [T, N].
    """

    content: Float32[np.ndarray, "tasks d"]
    folded: Float32[np.ndarray, "tasks f"]
    shots: Float32[np.ndarray, "tasks k f"]
    shot_labels: Float32[np.ndarray, "tasks k"]
    shot_mask: Bool[np.ndarray, "tasks k"]
    users: Float32[np.ndarray, "tasks n f"]
    labels: Float32[np.ndarray, "tasks n"]
    mask: Bool[np.ndarray, "tasks n"]


@dataclass(frozen=True)
class FactorInputs:
    """Turns episodes into factors and contents, with statistics that were fitted on meta-train.

    The factors of candidates are those of the base model. A task is new, so its factors are folded
    in from its support set, by the ridge regression that the factors of meta-train solve, towards
    the mean task of meta-train: at K=0 it is that mean. A candidate is *known* if the base model
    has factors for it, which needs feedback that counts: a positive, or a rating.

    In meta-training a pair's own feedback is left out of the factors exactly, given those of the
    other side (`Factorisation.without`). What remains is what the pair left in the other side's
    factors, which in turn shaped these.

    Args:
        text: the inputs that standardise the contents.
        kind: `user` or `item` tasks.
        statistics: what `fit` found; saved with the meta-parameters.
    """

    text: Inputs
    kind: TaskKind
    statistics: Mapping[str, np.ndarray]

    @classmethod
    def fit(cls, training: Training, embedding_size: int) -> tuple[FactorInputs, FactorEpisodes]:
        """Factorises meta-train.

        Args:
            training: meta-train.
            embedding_size: F, number of factors.

        Returns:
            The inputs, and what draws episodes of them.

        Raises:
            LearnerError: if the training has no features.
        """
        text = Inputs.fit(training)
        found = factorise(training, embedding_size)
        tasks = found.tasks[np.unique(training.tasks)]
        known = found.candidates[found.counts > 0]
        settings = [found.base, found.weight, found.centre, found.regularisation]
        statistics = {
            "factors": found.candidates,
            "counts": found.counts.astype(np.float32),
            "gram": found.gram,
            "settings": np.array(settings, np.float64),
            "task_mean": _mean(tasks),
            "task_scale": _scale(tasks),
            "candidate_mean": _mean(known),
            "candidate_scale": _scale(known),
        }
        named = {PREFIX + name: value for name, value in statistics.items()}
        inputs = cls(text, training.kind, {**text.statistics, **named})
        return inputs, FactorEpisodes(training, inputs, found)

    @classmethod
    def restore(cls, side: Training, meta_parameters: MetaParameters) -> FactorInputs:
        """The inputs whose statistics are among saved meta-parameters.

        Raises:
            LearnerError: if the training has no features.
        """
        if side.features is None:
            raise LearnerError("warm-up learners need text features: give Training.features")
        text = Inputs.restore(side.features, side.feedback, meta_parameters)
        statistics = {
            name: value for name, value in meta_parameters.items() if name.startswith("inputs.")
        }
        return cls(text, side.kind, statistics)

    def __getitem__(self, name: str) -> np.ndarray:
        """A statistic of the base model by its short name."""
        return self.statistics[PREFIX + name]

    @property
    def feedback(self) -> Feedback:
        """What the labels are."""
        return self.text.feedback

    @property
    def size(self) -> int:
        """F, number of factors."""
        return self["factors"].shape[1]

    @property
    def content_size(self) -> int:
        """D, length of a content."""
        return self.text.features.size

    def of_side(self, side: str, name: str) -> Float32[np.ndarray, " f"]:
        """`mean` or `scale` of the factors of `users` or `items` of meta-train."""
        own = (side == "users") == (self.kind == "user")
        return self[f"{'task' if own else 'candidate'}_{name}"]

    def known(self, candidates: Int32[np.ndarray, " c"]) -> Bool[np.ndarray, " c"]:
        """Whether the base model has factors for each candidate."""
        return self["counts"][candidates] > 0

    def targets(self, labels: Float32[np.ndarray, "tasks n"]) -> Float32[np.ndarray, "tasks n"]:
        """1 and 0, or ratings less their mean in meta-train."""
        return labels - np.float32(self._centre)

    def to_rating(self, scores: Float32[np.ndarray, "tasks c"]) -> Float32[np.ndarray, "tasks c"]:
        """Scores in the unit of the labels."""
        return scores + np.float32(self._centre)

    @property
    def _centre(self) -> float:
        return float(self["settings"][2])

    def fold_in(self, support: Support) -> Float32[np.ndarray, "tasks f"]:
        """Factors of new tasks by their support sets."""
        base, weight, centre, regularisation = (float(value) for value in self["settings"])
        size = self.size
        # only what a fold-in needs: nobody is left out of a restored factorisation
        model = Factorisation(
            np.zeros((0, size), np.float32), self["factors"], self["counts"].astype(np.int64),
            self["gram"], np.zeros(len(self["factors"]), np.int64), np.zeros((0, size, size)),
            base, weight, centre, regularisation, self.feedback == "rating",
        )  # fmt: skip
        rows = self["factors"][support.candidates]
        return model.fold_in(rows, support.labels, support.mask, self["task_mean"])

    def shots(
        self, support: Support
    ) -> tuple[Float32[np.ndarray, "tasks k f"], Float32[np.ndarray, "tasks k"]]:
        """Factors and targets of the shots, 0 beside them."""
        factors = np.where(support.mask[..., None], self["factors"][support.candidates], 0)
        return factors, np.where(support.mask, self.targets(support.labels), 0)

    def contents(
        self, support: Support
    ) -> tuple[Float32[np.ndarray, "tasks d"], Float32[np.ndarray, "tasks d"] | None]:
        """Contents of the support sets, and in item tasks the standardised text of the new items.

        Returns:
            [T, D] weighted sum of the shots' contents over their number plus one, and [T, D] or
            None in user tasks.
        """
        context = self.text.of_support(support)[2]
        return context[:, 0], context[:, 1] if self.kind == "item" else None


class FactorEpisodes:
    """Draws meta-training episodes as `PairArrays` and `WarmUpArrays`.

    Args:
        training: meta-train.
        inputs: of the learner.
        found: the factorisation that the inputs were made from.
    """

    def __init__(self, training: Training, inputs: FactorInputs, found: Factorisation) -> None:
        self.training, self.inputs, self.found = training, inputs, found
        counted = training.tasks[_counts(training.labels, training.feedback)]
        self.task_counts = np.bincount(counted, minlength=training.n_tasks).astype(np.float32)

    def pairs(self, step: int) -> PairArrays:
        """The pairs of each task and its queries, in episodes of the learner's own kind."""
        batch, inputs, found = self.training.sampler.batch(step), self.inputs, self.found
        arrays = inputs.text.of_batch(batch)
        observed = batch.query_observed & batch.query_mask
        candidates = found.without(batch.query, batch.tasks, batch.query_labels, observed)
        folded = _shots(found, batch, inputs["task_mean"])[1][:, None]
        own = found.tasks[batch.tasks][:, None]
        base = (own @ found.candidates[batch.query].transpose(0, 2, 1))[:, 0]
        context = arrays.query_context
        rest = (base, inputs.targets(batch.query_labels), batch.query_mask)
        if inputs.kind == "user":
            counted = observed & _counts(batch.query_labels, self.training.feedback)
            counts = (found.counts[batch.query] - counted).astype(np.float32)
            profile = context[:, :1]
            return PairArrays(folded, candidates, folded, arrays.query, profile, counts, *rest)
        counts = self.task_counts[batch.tasks][:, None]
        return PairArrays(candidates, own, folded, context[:, 1:], arrays.query, counts, *rest)

    def warm_ups(self, step: int) -> WarmUpArrays:
        """New items with the feedback of K users, whatever kind of task the learner serves."""
        batch, inputs, found = self._of_items.batch(step), self.inputs, self._by_items
        support = batch.support
        assert support.tasks is not None
        if inputs.kind == "item":
            content = inputs.text.of_support(support)[2][:, 1]
        else:
            content = inputs.text.vectors(support.tasks)
        observed = batch.query_observed & batch.query_mask
        shots, folded = _shots(found, batch, inputs.of_side("items", "mean"))
        return WarmUpArrays(
            content=content,
            folded=folded,
            shots=shots,
            shot_labels=np.where(support.mask, inputs.targets(support.labels), 0),
            shot_mask=support.mask,
            users=found.without(batch.query, batch.tasks, batch.query_labels, observed),
            labels=inputs.targets(batch.query_labels),
            mask=batch.query_mask,
        )

    @cached_property
    def _of_items(self) -> EpisodeSampler:
        sampler = self.training.sampler
        return sampler if self.inputs.kind == "item" else sampler.transposed()

    @cached_property
    def _by_items(self) -> Factorisation:
        """The factorisation with items as tasks and users as candidates."""
        return self.found if self.inputs.kind == "item" else swapped(self.found, self.training)


def _shots(
    found: Factorisation, batch: EpisodeBatch, prior: Float32[np.ndarray, " f"]
) -> tuple[Float32[np.ndarray, "tasks k f"], Float32[np.ndarray, "tasks f"]]:
    """Factors of the shots without the task's feedback, 0 beside them, and the task folded in."""
    support = batch.support
    left = found.without(support.candidates, batch.tasks, support.labels, support.mask)
    shots = np.where(support.mask[..., None], left, 0)
    return shots, found.fold_in(shots, support.labels, support.mask, prior)


def swapped(found: Factorisation, training: Training) -> Factorisation:
    """The factorisation with tasks and candidates changed over, after one more half step.

    The candidates that come out are the exact ridge solution given the tasks that come out, so that
    `without` leaves one of these out of their factors exactly.

    Args:
        found: of meta-train.
        training: meta-train.

    Returns:
        Tasks are the candidates of `found`; candidates are its tasks, solved for once more.
    """
    training.note("factors, swapped")
    counted = _counts(training.labels, training.feedback)
    by_task = Ragged.group(training.tasks[counted], np.flatnonzero(counted), training.n_tasks)
    known = np.flatnonzero(by_task.lengths)
    others = found.candidates.astype(np.float64)
    common = found.base * found.gram + found.regularisation * np.eye(found.size)
    inverses = np.zeros((max(len(known), 1), found.size, found.size))
    solved = np.zeros((training.n_tasks, found.size))
    for number, row in enumerate(known.tolist()):
        pairs = by_task[row]
        own = others[training.candidates[pairs]]
        target = training.labels[pairs] - found.centre if found.ratings else np.ones(len(pairs))
        inverses[number] = np.linalg.inv(common + found.weight * own.T @ own)
        solved[row] = inverses[number] @ ((found.base + found.weight) * target @ own)
    place = np.zeros(training.n_tasks, np.int64)
    place[known] = np.arange(len(known))
    return replace(
        found,
        tasks=found.candidates,
        candidates=solved.astype(np.float32),
        counts=by_task.lengths,
        gram=solved.T @ solved,
        place=place,
        inverses=inverses,
    )


def _counts(
    labels: Float32[np.ndarray, "*shape"], feedback: Feedback
) -> Bool[np.ndarray, "*shape"]:
    """Which feedback counts in the base model: positives, or all ratings."""
    return np.ones(labels.shape, bool) if feedback == "rating" else labels > 0


def _mean(factors: Float32[np.ndarray, "n f"]) -> Float32[np.ndarray, " f"]:
    return factors.mean(axis=0) if len(factors) else np.zeros(factors.shape[1], np.float32)


def _scale(factors: Float32[np.ndarray, "n f"]) -> Float32[np.ndarray, " f"]:
    if not len(factors):
        return np.ones(factors.shape[1], np.float32)
    scale = factors.std(axis=0)
    return np.where(scale > 1e-6, scale, 1).astype(np.float32)
