"""From episodes to the arrays that a text scorer sees: standardised vectors and contexts.

The framework-free half of every scorer, shared by `metarec.torch` and `metarec.jax`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32

from metarec.episodes import EpisodeBatch
from metarec.features import Features
from metarec.learner import Feedback, MetaParameters, Support, Training, require_features

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

    A vector is the candidate's feature, standardised over the known candidates; in item tasks the
    standardised log number of the user's meta-train interactions stands beside it. The context has
    one channel in user tasks, `sum_k w_k x_k / (n + 1)` over the n shots, with w = 2y - 1 for
    binary labels, the standardised rating for ratings and 1 for implicit feedback: shrunk towards
    nothing where there are few shots, and 0 at K=0. When a shot is scored, it is left out of its
    own context. Item tasks have a second channel, the standardised text feature of the new item.

    Ratings are standardised too; `to_rating` takes scores back.

    Args:
        features: of candidates and tasks.
        feedback: what the labels are.
        statistics: what `fit` found; saved with the meta-parameters.
    """

    features: Features
    feedback: Feedback
    statistics: Mapping[str, np.ndarray]

    @classmethod
    def fit(cls, training: Training) -> Inputs:
        """Fits the statistics on the known candidates and the labels of meta-train.

        Raises:
            LearnerError: if the training has no features.
        """
        features = require_features("a scorer", training)
        known = features.candidates[training.known]
        scale = known.std(axis=0)
        statistics = {
            "inputs.mean": known.mean(axis=0),
            "inputs.scale": np.where(scale > 1e-6, scale, 1).astype(np.float32),
            "inputs.label": np.array(
                [training.labels.mean(), max(float(training.labels.std()), 1e-6)], np.float32
            ),
        }
        if features.tasks is not None:
            of_tasks = features.tasks[np.unique(training.tasks)]
            task_scale = of_tasks.std(axis=0)
            counts = np.bincount(training.candidates, minlength=training.n_candidates)
            activity = np.log1p(counts[training.known])
            statistics |= {
                "inputs.task_mean": of_tasks.mean(axis=0),
                "inputs.task_scale": np.where(task_scale > 1e-6, task_scale, 1).astype(np.float32),
                "inputs.count": counts.astype(np.float32),
                "inputs.activity": np.array(
                    [activity.mean(), max(float(activity.std()), 1e-6)], np.float32
                ),
            }
        return cls(features, training.feedback, statistics)

    @classmethod
    def restore(
        cls, features: Features, feedback: Feedback, meta_parameters: MetaParameters
    ) -> Inputs:
        """The inputs whose statistics are among saved meta-parameters."""
        statistics = {
            name: value for name, value in meta_parameters.items() if name.startswith("inputs.")
        }
        return cls(features, feedback, statistics)

    @property
    def size(self) -> int:
        """D, the length of a vector."""
        return self.features.size

    @property
    def channels(self) -> int:
        """C, the number of context channels."""
        return 1 if self.features.tasks is None else 2

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

    def vectors(self, candidates: Int32[np.ndarray, " c"]) -> Float32[np.ndarray, "c d"]:
        """Standardised vectors of candidates, as nobody's feedback is left out."""
        return self._standardise(self.features.candidates[candidates])

    def _standardise(self, values: np.ndarray) -> np.ndarray:
        return (values - self.statistics["inputs.mean"]) / self.statistics["inputs.scale"]

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
            vectors: [T, K, D] raw vectors where they are not simply the candidates' features.

        Returns:
            [T, K, D], [T, K, C, D] with each shot left out of its own, and [T, C, D].
        """
        mask = support.mask[..., None]
        raw = self.features.candidates[support.candidates] if vectors is None else vectors
        shots = np.where(mask, self._standardise(raw), 0).astype(np.float32)
        weighted = np.where(mask, self.weights(support.labels)[..., None] * shots, 0)
        weighted = weighted.astype(np.float32)
        count = support.mask.sum(axis=1).astype(np.float32)[:, None]
        total = weighted.sum(axis=1)
        task = (total / (count + 1))[:, None, :]
        each = ((total[:, None, :] - weighted) / np.maximum(count, 1)[..., None])[:, :, None, :]
        if self.features.tasks is not None:
            assert support.tasks is not None
            own = self.features.tasks[support.tasks] - self.statistics["inputs.task_mean"]
            own = (own / self.statistics["inputs.task_scale"])[:, None, :]
            task = np.concatenate([task, own], axis=1)
            own = np.broadcast_to(own[:, None], each.shape)
            each = np.concatenate([each, own], axis=2)
        return shots, each, task

    def of_batch(self, batch: EpisodeBatch) -> EpisodeInputs:
        """Inputs of meta-training episodes."""
        tasks = batch.support.tasks
        support_raw = self.features.of_episode(
            batch.support.candidates, tasks, batch.support.labels, batch.support.mask
        )
        observed = batch.query_observed & batch.query_mask
        query_raw = self.features.of_episode(batch.query, tasks, batch.query_labels, observed)
        shots, each, task = self.of_support(batch.support, support_raw)
        return EpisodeInputs(
            support=shots,
            support_context=each,
            support_extra=self.extra_columns(batch.support.candidates, batch.support.mask),
            support_labels=self.targets(batch.support.labels),
            support_mask=batch.support.mask,
            query=self._standardise(query_raw),
            query_context=task,
            query_extra=self.extra_columns(batch.query, observed),
            query_labels=self.targets(batch.query_labels),
            query_mask=batch.query_mask,
        )


def initial_parameters(
    inputs: Inputs, hidden_sizes: tuple[int, ...], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws the initial weights of the scorer (He et al. 2015, fan-in; a small last layer).

    Args:
        inputs: what the scorer will see.
        hidden_sizes: width of each hidden layer.
        rng: source of the draw.

    Returns:
        `layer<i>.weight` [in, out] and `layer<i>.bias` [out], float32.
    """
    sizes = (input_size(inputs), *hidden_sizes, 1)
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        scale = np.sqrt(1 / fan_in) * (0.1 if layer == len(hidden_sizes) else 1)
        weight = rng.standard_normal((fan_in, fan_out)) * scale
        parameters[f"layer{layer}.weight"] = weight.astype(np.float32)
        parameters[f"layer{layer}.bias"] = np.zeros(fan_out, np.float32)
    return parameters


def input_size(inputs: Inputs) -> int:
    """Width of the scorer's input: vector, contexts, their products and similarities, extras."""
    return inputs.size * (1 + 2 * inputs.channels) + inputs.channels + inputs.extras
