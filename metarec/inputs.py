"""From episodes to the arrays that a scorer sees: standardised vectors and contexts.

The framework-free half of every scorer, shared by `metarec.torch` and `metarec.jax`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int32

from metarec.collaborative import Factorisation, factorise
from metarec.episodes import EpisodeBatch
from metarec.errors import LearnerError, did_you_mean
from metarec.features import Features
from metarec.learner import Feedback, MetaParameters, Support, Training, require_features

Representation = Literal["text", "collaborative", "both"]
Vectors = Float32[np.ndarray, "tasks n d"]
Contexts = Float32[np.ndarray, "tasks n channels d"]


@dataclass(frozen=True)
class EpisodeInputs:
    """What a scorer sees of T episodes.

    Args:
        support: [T, K, D] vectors of the shots.
        support_context: [T, K, C, D] context of each shot, itself left out.
        support_extra: [T, K, E] columns beside the vectors.
        support_labels: [T, K] targets of the inner loop.
        support_mask: [T, K].
        query: [T, Q, D] vectors of the queries.
        query_context: [T, C, D] context of the task.
        query_extra: [T, Q, E].
        query_labels: [T, Q].
        query_mask: [T, Q].
    """

    support: Float32[np.ndarray, "tasks k d"]
    support_context: Float32[np.ndarray, "tasks k channels d"]
    support_extra: Float32[np.ndarray, "tasks k extras"]
    support_labels: Float32[np.ndarray, "tasks k"]
    support_mask: Bool[np.ndarray, "tasks k"]
    query: Float32[np.ndarray, "tasks q d"]
    query_context: Float32[np.ndarray, "tasks channels d"]
    query_extra: Float32[np.ndarray, "tasks q extras"]
    query_labels: Float32[np.ndarray, "tasks q"]
    query_mask: Bool[np.ndarray, "tasks q"]


@dataclass(frozen=True)
class Inputs:
    """Turns episodes into inputs with statistics that were fitted on meta-train.

    A vector is the candidate's text feature, standardised over the known candidates, or its
    collaborative factors (`metarec.collaborative`), or one after the other. Factors are scaled to a
    root mean square of 1 over the known candidates and not shifted, so that a cold candidate keeps
    its zeros. In item tasks the standardised log number of the user's meta-train interactions
    stands beside the vector. The context has one channel in user tasks,
    `sum_k w_k x_k / (n + 1)` over the n shots, with w = 2y - 1 for binary labels, the standardised
    rating for ratings and 1 for implicit feedback: shrunk towards nothing where there are few
    shots, and 0 at K=0. When a shot is scored, it is left out of its own context. Item tasks have a
    second channel where text is seen: the standardised text feature of the new item, and zeros for
    the factors that it does not have.

    Ratings are standardised too; `to_rating` takes scores back.

    Args:
        features: of candidates and tasks.
        feedback: what the labels are.
        statistics: what `fit` found; saved with the meta-parameters.
        factorisation: of meta-train, kept by `fit` for `of_batch`; None for text and after
            `restore`.
        cold_share: share of the meta-training episodes of user tasks whose queries are seen as cold
            (`both` only).
    """

    features: Features
    feedback: Feedback
    statistics: Mapping[str, np.ndarray]
    factorisation: Factorisation | None = None
    cold_share: float = 0.5

    @classmethod
    def fit(
        cls, training: Training, representation: str = "text", cold_share: float = 0.5
    ) -> Inputs:
        """Fits the statistics on the known candidates and the labels of meta-train.

        Args:
            training: meta-train.
            representation: `text`, `collaborative`, or `both`.
            cold_share: share of the meta-training episodes of user tasks whose queries lose their
                factors (`both` only).

        Raises:
            LearnerError: if the training has no features, the representation is unknown or the
                share is not in [0, 1].
        """
        check_representation(representation)
        if not 0 <= cold_share <= 1:
            raise LearnerError(f"learner.cold_share={cold_share}: a share in [0, 1] is needed")
        features = require_features("a scorer", training)
        training.note("normaliser")
        statistics = {
            "inputs.label": np.array(
                [training.labels.mean(), max(float(training.labels.std()), 1e-6)], np.float32
            ),
        }
        if representation != "collaborative":
            known = features.candidates[training.known]
            statistics["inputs.mean"] = known.mean(axis=0)
            statistics["inputs.scale"] = nonzero(known.std(axis=0))
            if features.tasks is not None:
                of_tasks = features.tasks[np.unique(training.tasks)]
                statistics["inputs.task_mean"] = of_tasks.mean(axis=0)
                statistics["inputs.task_scale"] = nonzero(of_tasks.std(axis=0))
        if features.tasks is not None:
            counts = np.bincount(training.candidates, minlength=training.n_candidates)
            activity = np.log1p(counts[training.known])
            statistics["inputs.count"] = counts.astype(np.float32)
            statistics["inputs.activity"] = np.array(
                [activity.mean(), max(float(activity.std()), 1e-6)], np.float32
            )
        if representation == "text":
            return cls(features, training.feedback, statistics)
        factorisation = factorise(training)
        squares = np.square(factorisation.candidates[training.known], dtype=np.float32)
        statistics["inputs.factors"] = factorisation.candidates
        statistics["inputs.factor_scale"] = nonzero(np.sqrt(squares.mean(axis=0)))
        return cls(features, training.feedback, statistics, factorisation, cold_share)

    @classmethod
    def restore(
        cls, features: Features, feedback: Feedback, meta_parameters: MetaParameters
    ) -> Inputs:
        """The inputs whose statistics, which tell the representation, are among meta-parameters."""
        statistics = {
            name: value for name, value in meta_parameters.items() if name.startswith("inputs.")
        }
        return cls(features, feedback, statistics)

    @property
    def size(self) -> int:
        """D, the length of a vector."""
        text = self.features.size if self.representation != "collaborative" else 0
        return text + self.factor_size

    @property
    def factor_size(self) -> int:
        """F, how many of the last columns of a vector are collaborative factors."""
        factors = self.statistics.get("inputs.factors")
        return 0 if factors is None else factors.shape[1]

    @property
    def representation(self) -> Representation:
        """What a vector is made of, as the statistics tell."""
        if "inputs.factors" not in self.statistics:
            return "text"
        return "both" if "inputs.mean" in self.statistics else "collaborative"

    @property
    def channels(self) -> int:
        """C, the number of context channels."""
        return 1 if self.features.tasks is None or self.representation == "collaborative" else 2

    @property
    def extras(self) -> int:
        """E, the number of columns beside a vector (`extra_columns`)."""
        return 0 if self.features.tasks is None else 1

    def extra_columns(
        self,
        candidates: Int32[np.ndarray, "*shape"],
        observed: Bool[np.ndarray, "*shape"] | None = None,
    ) -> Float32[np.ndarray, "*shape extras"]:
        """What is known of candidates beside their vectors: activity of users, nothing of items.

        Args:
            candidates: [...] candidates.
            observed: [...] in meta-training, whether the pair of task and candidate is itself a
                meta-train interaction: it is left out of the activity, since no new item is in it.

        Returns:
            [..., E] columns.
        """
        if self.extras == 0:
            return np.zeros((*candidates.shape, 0), np.float32)
        counts = self.statistics["inputs.count"][candidates]
        if observed is not None:
            counts = counts - observed
        mean, scale = self.statistics["inputs.activity"]
        return ((np.log1p(counts) - mean) / scale)[..., None]

    def vectors(self, candidates: Int32[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape d"]:
        """Vectors of candidates, as nobody's feedback is left out; no factors for cold ones."""
        parts = []
        if self.representation != "collaborative":
            parts.append(self._standardise(self.features.candidates[candidates]))
        if self.factor_size:
            parts.append(self._scale(self.statistics["inputs.factors"][candidates]))
        return _beside(parts)

    def _standardise(self, values: np.ndarray) -> np.ndarray:
        return (values - self.statistics["inputs.mean"]) / self.statistics["inputs.scale"]

    def _scale(self, factors: np.ndarray) -> np.ndarray:
        return factors / self.statistics["inputs.factor_scale"]

    def weights(self, labels: Float32[np.ndarray, "tasks k"]) -> Float32[np.ndarray, "tasks k"]:
        """Weight of each shot in the context."""
        if self.feedback == "rating":
            return self.targets(labels)
        return 2 * labels - 1

    def targets(self, labels: Float32[np.ndarray, "tasks n"]) -> Float32[np.ndarray, "tasks n"]:
        """Labels as a scorer learns them: standardised ratings, or 1 and 0."""
        if self.feedback == "rating":
            mean, scale = self.statistics["inputs.label"]
            return (labels - mean) / scale
        return labels

    def to_rating(self, scores: Float32[np.ndarray, "tasks c"]) -> Float32[np.ndarray, "tasks c"]:
        """Scores in the unit of the labels: ratings for rating feedback, else unchanged."""
        if self.feedback != "rating":
            return scores
        mean, scale = self.statistics["inputs.label"]
        return scores * scale + mean

    def of_support(
        self, support: Support, vectors: Float32[np.ndarray, "tasks k d"] | None = None
    ) -> tuple[
        Float32[np.ndarray, "tasks k d"],
        Float32[np.ndarray, "tasks k channels d"],
        Float32[np.ndarray, "tasks channels d"],
    ]:
        """Vectors of the shots, the context of each shot, and the context of the task.

        Args:
            support: of T tasks.
            vectors: [T, K, D] where they are not simply those of the candidates.

        Returns:
            [T, K, D], [T, K, C, D] with each shot left out of its own, and [T, C, D].
        """
        mask = support.mask[..., None]
        seen = self.vectors(support.candidates) if vectors is None else vectors
        shots = np.where(mask, seen, 0).astype(np.float32)
        weighted = np.where(mask, self.weights(support.labels)[..., None] * shots, 0)
        weighted = weighted.astype(np.float32)
        count = support.mask.sum(axis=1).astype(np.float32)[:, None]
        total = weighted.sum(axis=1)
        task = (total / (count + 1))[:, None, :]
        each = ((total[:, None, :] - weighted) / np.maximum(count, 1)[..., None])[:, :, None, :]
        if self.channels == 2:
            assert self.features.tasks is not None
            assert support.tasks is not None
            own = self.features.tasks[support.tasks] - self.statistics["inputs.task_mean"]
            own = (own / self.statistics["inputs.task_scale"])[:, None, :]
            if self.factor_size:
                own = np.pad(own, [(0, 0), (0, 0), (0, self.factor_size)])
            task = np.concatenate([task, own], axis=1)
            own = np.broadcast_to(own[:, None], each.shape)
            each = np.concatenate([each, own], axis=2)
        return shots, each, task

    def of_batch(
        self, batch: EpisodeBatch, rng: np.random.Generator | None = None
    ) -> EpisodeInputs:
        """Inputs of meta-training episodes, in which a task is as new as in evaluation.

        What the task itself contributed is left out of profiles, activity and factors. In user
        tasks with `both`, all queries of an episode lose their factors with probability
        `cold_share`, as new items have none (the input dropout of DropoutNet, Volkovs et al. 2017,
        but for whole episodes, as the regimes of evaluation are); shots are always warm. In item
        tasks the candidates are known users.

        Args:
            batch: of T episodes.
            rng: decides which queries are seen as cold; needed for `both` in user tasks only.

        Returns:
            The inputs.

        Raises:
            LearnerError: if `rng` is needed and missing, or the inputs were restored and have no
                factorisation to leave a task out of.
        """
        drops = self.representation == "both" and self.features.tasks is None
        if drops and self.cold_share > 0 and rng is None:
            raise LearnerError("inputs of text and factors need of_batch(batch, rng) to drop some")
        support, observed = batch.support, batch.query_observed & batch.query_mask
        shots, each, task = self.of_support(
            support, self._episode(batch, support.candidates, support.labels, support.mask)
        )
        query = self._episode(batch, batch.query, batch.query_labels, observed)
        if drops and rng is not None:
            cold = rng.random(len(batch.tasks)) < self.cold_share
            query[cold, :, -self.factor_size :] = 0
        return EpisodeInputs(
            support=shots,
            support_context=each,
            support_extra=self.extra_columns(support.candidates, support.mask),
            support_labels=self.targets(support.labels),
            support_mask=support.mask,
            query=query,
            query_context=task,
            query_extra=self.extra_columns(batch.query, observed),
            query_labels=self.targets(batch.query_labels),
            query_mask=batch.query_mask,
        )

    def _episode(
        self,
        batch: EpisodeBatch,
        candidates: Int32[np.ndarray, "tasks n"],
        labels: Float32[np.ndarray, "tasks n"],
        observed: Bool[np.ndarray, "tasks n"],
    ) -> Float32[np.ndarray, "tasks n d"]:
        """Vectors of candidates of meta-training episodes, without what the task contributed."""
        parts = []
        if self.representation != "collaborative":
            raw = self.features.of_episode(candidates, batch.support.tasks, labels, observed)
            parts.append(self._standardise(raw))
        if self.factor_size:
            if self.factorisation is None:
                raise LearnerError(
                    "restored inputs have no factorisation to leave a task out of: meta-training "
                    "on collaborative factors needs Inputs.fit"
                )
            left = self.factorisation.without(candidates, batch.tasks, labels, observed)
            parts.append(self._scale(left))
        return _beside(parts)


def check_representation(representation: str) -> None:
    """Raises LearnerError unless the representation is one of the known names."""
    known = ("text", "collaborative", "both")
    if representation not in known:
        near = did_you_mean(representation, known)
        raise LearnerError(f"learner.representation={representation!r} is unknown{near}")


def nonzero(scale: np.ndarray) -> Float32[np.ndarray, " d"]:
    """The scale of each column, 1 where it does not vary."""
    return np.where(scale > 1e-6, scale, 1).astype(np.float32)


def _beside(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
