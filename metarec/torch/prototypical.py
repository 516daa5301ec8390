"""Prototypical learning: what a task liked and disliked, as two points in a meta-trained space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec.errors import LearnerError
from metarec.inputs import Inputs
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.torch import episodic
from metarec.torch.episodic import OuterLoss
from metarec.torch.inner_loop import Episodes
from metarec.torch.training import OuterLoop, autograd, choose_device, train

Projection = Literal["mlp", "linear", "none"]


@dataclass(frozen=True)
class Prototypes:
    """Liked and disliked prototype of T tasks.

    Args:
        liked: [T, E].
        disliked: [T, E].
        parameters: of the learner.
        inputs: of the learner that adapted.
        device: where the prototypes are.
    """

    liked: Tensor
    disliked: Tensor
    parameters: Mapping[str, Tensor]
    inputs: Inputs
    device: torch.device


class Prototypical:
    """Prototypical networks (Snell, Swersky & Zemel 2017, equations 1 and 2) for two classes.

    A task's liked and disliked prototypes are the means of its shots in a projection of the text
    features, and a candidate's logit is how much nearer it lies to the liked one: the difference of
    the squared distances. Each mean includes a meta-trained prior prototype as `strength` shots, so
    that a class without shots, and K=0, are served; in item tasks the new item's text moves both
    priors. Adapting is a mean: there is no gradient step to switch off.

    Args:
        projection: `mlp` (one hidden layer) or `linear`, meta-trained, or `none`: distances of the
            standardised features themselves, nothing trained, priors at the origin (the
            ablation); constant at K=0.
        embedding_size: E, of the projection, and width of its hidden layer.
        outer_loss: `pointwise` (cross-entropy or squared error), `softmax` over a task's queries,
            or `auto`: softmax, but pointwise for ratings.
        steps: outer steps, at the most.
        learning_rate: of the outer loop.
        weight_decay: of the outer loop.
        validate_every: outer steps between two looks at meta-validation.
        patience: looks without improvement before stopping.
        device: `auto`, `cpu`, `cuda`, …
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = None

    def __init__(
        self,
        projection: Projection = "mlp",
        embedding_size: int = 64,
        outer_loss: OuterLoss = "pointwise",
        steps: int = 1000,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.3,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        if projection not in ("mlp", "linear", "none"):
            raise LearnerError(f"learner.projection={projection!r}; known: mlp, linear, none")
        self.projection: Projection = projection
        self.embedding_size = embedding_size
        self.outer_loss: OuterLoss = outer_loss
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.device = choose_device(device)
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Logits; only an order after softmax training and without a trained projection."""
        return (
            "order" if self.projection == "none" else episodic.predicts(feedback, self.outer_loss)
        )

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def fit(self, training: Training) -> MetaParameters:
        """Meta-trains the projection, the priors and their strength."""
        self._side = training
        inputs = Inputs.fit(training)
        if self.projection == "none":
            return dict(inputs.statistics)
        loss = episodic.pointwise(training.feedback)
        kind = episodic.chosen_loss(self.outer_loss, training.feedback)

        def loss_of(parameters: dict[str, Tensor], step: int) -> Tensor:
            arrays = inputs.of_batch(training.sampler.batch(step))
            shots, labels, mask, query, context, query_labels, query_mask, extra = (
                torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.device)
                for array in (
                    arrays.support, arrays.support_labels, arrays.support_mask, arrays.query,
                    arrays.query_context, arrays.query_labels, arrays.query_mask,
                    arrays.query_extra,
                )
            )  # fmt: skip
            liked, disliked = prototypes(parameters, shots, labels, mask, context)
            scores = logits(parameters, liked, disliked, query, extra)
            episodes = Episodes(shots, labels, mask, query, query_labels, query_mask)
            return episodic.outer_loss(kind, loss, scores, episodes)

        return train(
            self._initial(inputs, np.random.default_rng([training.seed, 2])),
            autograd(loss_of), training, self.outer, inputs.statistics, self.device,
            "prototypical",
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        size, embedding = inputs.size, self.embedding_size
        parameters = {
            "projection0": rng.standard_normal((size, embedding)) / np.sqrt(size),
            "prior.liked": 0.01 * rng.standard_normal(embedding),
            "prior.disliked": 0.01 * rng.standard_normal(embedding),
            "log_strength": np.zeros(2),
            "log_temperature": np.zeros(1),
            "bias": np.zeros(1),
        }
        if self.projection == "mlp":
            parameters["hidden"] = np.zeros(embedding)
            weight = rng.standard_normal((embedding, embedding)) / np.sqrt(embedding)
            parameters["projection1"] = weight
        if inputs.channels > 1:
            parameters["task.liked"] = rng.standard_normal((size, embedding)) / np.sqrt(size)
            parameters["task.disliked"] = np.zeros((size, embedding))
            parameters["extra"] = np.zeros(inputs.extras)
        return {name: value.astype(np.float32) for name, value in parameters.items()}

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Prototypes:
        """The two prototypes of each task."""
        inputs = episodic.inputs_of(self._side, meta_parameters, type(self).__name__)
        parameters = {
            name: torch.tensor(value, device=self.device)
            for name, value in meta_parameters.items()
            if not name.startswith("inputs.")
        }
        shots, _, context = inputs.of_support(support)
        labels = np.where(support.mask, support.labels, 0).astype(np.float32)
        with torch.no_grad():
            liked, disliked = prototypes(
                parameters,
                torch.from_numpy(shots).to(self.device),
                torch.from_numpy(labels).to(self.device),
                torch.from_numpy(support.mask.astype(np.float32)).to(self.device),
                torch.from_numpy(context).to(self.device),
            )
        return Prototypes(liked, disliked, parameters, inputs, self.device)

    def score(
        self, fast_weights: Prototypes, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] logits of the candidates."""
        inputs = fast_weights.inputs
        vectors = torch.from_numpy(inputs.vectors(candidates)).to(fast_weights.device)
        extra = torch.from_numpy(inputs.extra_columns(candidates)).to(fast_weights.device)
        with torch.no_grad():
            scores = logits(
                fast_weights.parameters, fast_weights.liked, fast_weights.disliked, vectors, extra
            )
        return scores.cpu().numpy()


def project(parameters: Mapping[str, Tensor], vectors: Tensor) -> Tensor:
    """[..., D] vectors in the learned space, or divided by the root of D where there is none."""
    if "projection0" not in parameters:
        return vectors / vectors.shape[-1] ** 0.5
    embedded = vectors @ parameters["projection0"]
    if "projection1" in parameters:
        embedded = torch.relu(embedded + parameters["hidden"]) @ parameters["projection1"]
    return embedded


def prototypes(
    parameters: Mapping[str, Tensor], shots: Tensor, labels: Tensor, mask: Tensor, context: Tensor
) -> tuple[Tensor, Tensor]:
    """Liked and disliked prototype of each task, the priors included as pseudo-shots.

    Args:
        parameters: of the learner; without a projection the priors lie at the origin.
        shots: [T, K, D] standardised vectors.
        labels: [T, K] 1 and 0.
        mask: [T, K].
        context: [T, C, D]; its second channel is the new item's text in item tasks.

    Returns:
        [T, E] and [T, E].
    """
    embedded = project(parameters, shots)
    found = []
    for number, (side, weight) in enumerate(
        (("liked", labels * mask), ("disliked", (1 - labels) * mask))
    ):
        total, count = (weight.unsqueeze(-1) * embedded).sum(1), weight.sum(1, keepdim=True)
        strength: Tensor | float = 1.0
        prior = torch.zeros_like(total)
        if "projection0" in parameters:
            strength = parameters["log_strength"][number].exp()
            prior = prior + parameters[f"prior.{side}"]
            if f"task.{side}" in parameters:
                prior = prior + context[:, 1] @ parameters[f"task.{side}"]
        elif side == "liked" and context.shape[1] > 1:
            prior = project(parameters, context[:, 1])
        found.append((strength * prior + total) / (strength + count))
    return found[0], found[1]


def logits(
    parameters: Mapping[str, Tensor],
    liked: Tensor,
    disliked: Tensor,
    vectors: Tensor,
    extra: Tensor,
) -> Tensor:
    """How much nearer each vector lies to the liked prototype than to the disliked one.

    The difference of squared distances is affine in the embedding e, `2 e (l - d) - |l|² + |d|²`,
    so a catalogue is embedded once for all tasks.

    Args:
        parameters: of the learner.
        liked: [T, E].
        disliked: [T, E].
        vectors: [T, N, D] of each task, or [N, D] of a catalogue.
        extra: [T, N, X] or [N, X] columns beside the vectors.

    Returns:
        [T, N] logits.
    """
    embedded = project(parameters, vectors)
    direction = 2 * (liked - disliked)
    offset = ((disliked**2).sum(-1) - (liked**2).sum(-1)).unsqueeze(1)
    if vectors.ndim == 2:
        scores = direction @ embedded.T + offset
    else:
        scores = torch.einsum("tne,te->tn", embedded, direction) + offset
    if "projection0" not in parameters:
        return scores
    scores = parameters["log_temperature"].exp() * scores + parameters["bias"]
    if "extra" in parameters:
        scores = scores + extra @ parameters["extra"]
    return scores
