"""Prototypical learning: what a task liked and disliked, as points in a meta-trained space."""

from __future__ import annotations

import copy
import functools
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.amortised import Projection, check_prototypical, initial_prototypical
from metarec.inputs import Inputs, Representation
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop, OuterLoss
from metarec.torch import amortised
from metarec.torch.amortised import Conditioned, Parameters, Queries, Shots
from metarec.torch.training import choose_device


class Prototypes(NamedTuple):
    """Liked and disliked prototypes of T tasks.

    Args:
        liked: [T, M, E].
        disliked: [T, M, E].
    """

    liked: Tensor
    disliked: Tensor


class Prototypical:
    """Prototypical networks (Snell, Swersky & Zemel 2017, equations 1 and 2) for two classes.

    A task's liked and disliked prototypes are the means of its shots in a projection of the text
    features, and a candidate's logit is how much nearer it lies to the liked one: the difference of
    the squared distances. Each mean includes a meta-trained prior prototype as `strength` shots, so
    that a class without shots, and K=0, are served; in item tasks the new item's text moves both
    priors.

    With several prototypes a side each is a mean weighted by attention to a meta-trained query of
    its own (as the interests of Cen et al. 2020, ComiRec, equations 7 and 8), and a side is as near
    as the log-sum-exp of minus the squared distances to its prototypes makes it, which the nearest
    dominates (as the clusters of a class do in infinite mixture prototypes, Allen et al. 2019).

    With rating feedback a shot counts for the liked side by as much as its standardised rating lies
    above 0, and for the disliked side by as much as it lies below; a learned scale and bias turn
    the logit into a standardised rating. The paper has classes only.

    Args:
        projection: `mlp` (one hidden layer) or `linear`, meta-trained, or `none`: distances of the
            standardised features themselves, nothing trained, priors at the origin (the
            ablation); constant at K=0.
        embedding_size: E, of the projection, and width of its hidden layer.
        prototypes: M, prototypes a side; 1 without a trained projection.
        prior_strength: number of shots that a prior counts for, above 0; the first value of a
            learned one where there is a trained projection.
        dislike_weight: how much a disliked shot counts for its side in binary feedback, where a
            liked one counts 1 for its own. Most of what a task does not like it never met, and what
            it met and did not like is no example of that: below 1 ranks catalogues better.
        representation: `text`, `collaborative` or `both`.
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
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        projection: Projection = "mlp",
        embedding_size: int = 64,
        prototypes: int = 1,
        prior_strength: float = 10.0,
        dislike_weight: float = 0.1,
        representation: Representation = "text",
        outer_loss: OuterLoss = "pointwise",
        steps: int = 1000,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.3,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        check_prototypical(projection, prototypes, prior_strength, dislike_weight)
        self.projection: Projection = projection
        self.embedding_size = embedding_size
        self.prototypes = prototypes
        self.prior_strength = prior_strength
        self.dislike_weight = dislike_weight
        self.representation: Representation = representation
        self.outer_loss: OuterLoss = outer_loss
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.device = choose_device(device)
        self.ignore_support = False
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings or logits; only an order after softmax training or with nothing trained."""
        return "order" if self.projection == "none" else loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Meta-trains the projection, the priors, their strength and the queries."""
        self._side = training
        if self.projection == "none":
            return dict(Inputs.fit(training, self.representation).statistics)
        return amortised.fit(
            training, self.representation, self._initial,
            amortised.scored_by(self._encode(training.feedback), decode),
            self.outer, self.outer_loss, self.device, "prototypical",
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_prototypical(
            inputs, rng, self.projection, self.embedding_size, self.prototypes
        )

    def _encode(self, feedback: Feedback) -> amortised.Encode[Prototypes]:
        return functools.partial(
            encode,
            feedback=feedback,
            prior_strength=self.prior_strength,
            dislike_weight=self.dislike_weight,
        )

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> Prototypical:
        """The same learner with every support set ignored: the priors alone."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Conditioned[Prototypes]:
        """The prototypes of each task."""
        inputs = loops.inputs_of(self._side, meta_parameters, type(self).__name__)
        return amortised.condition(
            inputs, meta_parameters, support, self._encode(inputs.feedback), decode, self.device,
            self.ignore_support,
        )  # fmt: skip

    def score(
        self, fast_weights: Conditioned[Prototypes], candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return amortised.score(fast_weights, candidates)


def encode(
    parameters: Parameters,
    shots: Shots,
    feedback: Feedback,
    prior_strength: float,
    dislike_weight: float,
) -> Prototypes:
    """Liked and disliked prototypes of each task, the priors included as pseudo-shots.

    Without a projection the priors lie at the origin; in item tasks the liked one lies at the new
    item's own vector.

    Args:
        parameters: of the learner; `log_strength` is learned relative to `prior_strength`.
        shots: the support sets.
        feedback: what the labels are.
        prior_strength: shots that a prior counts for at first.
        dislike_weight: how much a disliked shot counts.
    """
    embedded = project(parameters, shots.vectors)
    own = shots.context[:, 1] if shots.context.shape[1] > 1 else None
    found = []
    for number, side in enumerate(("liked", "disliked")):
        weight = side_weights(shots.labels, feedback, dislike_weight)[number] * shots.mask
        if "projection0" in parameters:
            strength = prior_strength * parameters["log_strength"][number].exp()
            prior = parameters[f"prior.{side}"].expand(len(weight), -1, -1)
            if own is not None:
                prior = prior + (own @ parameters[f"task.{side}"]).unsqueeze(1)
        else:
            strength = embedded.new_full((), prior_strength)
            prior = embedded.new_zeros(len(weight), 1, embedded.shape[-1])
            if side == "liked" and own is not None:
                prior = project(parameters, own).unsqueeze(1)
        attention = embedded.new_zeros(len(weight), 1, weight.shape[1])
        if f"query.{side}" in parameters:
            attention = parameters[f"query.{side}"] @ embedded.mT / embedded.shape[-1] ** 0.5
        found.append(means(embedded, weight, attention, prior, strength))
    return Prototypes(*found)


def side_weights(
    labels: Tensor, feedback: Feedback, dislike_weight: float
) -> tuple[Tensor, Tensor]:
    """How much each label counts for the liked and for the disliked side, never below 0.

    Args:
        labels: [T, K] 1 and 0, or standardised ratings.
        feedback: which of the two.
        dislike_weight: of the label 0; ratings weigh by themselves.
    """
    if feedback == "rating":
        return torch.relu(labels), torch.relu(-labels)
    return labels, dislike_weight * (1 - labels)


def means(
    embedded: Tensor, weight: Tensor, attention: Tensor, prior: Tensor, strength: Tensor
) -> Tensor:
    """Weighted means of the shots with a prior, which counts as `strength` shots.

    Prototype m is `(s p_m + Σ_k w_k exp(a_mk) e_k) / (s + Σ_k w_k exp(a_mk))`.

    Args:
        embedded: [T, K, E] shots e.
        weight: [T, K] w, 0 where a shot is not of this side.
        attention: [T, M, K] a; 0 for plain means.
        prior: [T, M, E] p.
        strength: s, above 0.

    Returns:
        [T, M, E] prototypes.
    """
    logits = attention + weight.log().unsqueeze(1)
    own = strength.log().expand(*logits.shape[:-1], 1)
    share = torch.softmax(torch.cat([own, logits], dim=-1), dim=-1)
    return share[..., :1] * prior + share[..., 1:] @ embedded


def project(parameters: Parameters, vectors: Tensor) -> Tensor:
    """[..., D] vectors in the learned space, or divided by the root of D where there is none."""
    if "projection0" not in parameters:
        return vectors / vectors.shape[-1] ** 0.5
    embedded = vectors @ parameters["projection0"]
    if "projection1" in parameters:
        embedded = torch.relu(embedded + parameters["hidden"]) @ parameters["projection1"]
    return embedded


def decode(parameters: Parameters, state: Prototypes, queries: Queries) -> Tensor:
    """[T, N] how much nearer each candidate lies to the liked prototypes than to the disliked ones.

    With one prototype a side that is the difference of the squared distances. `|e|²` is the same on
    both sides and left out, so that a catalogue is embedded once for all tasks.
    """
    embedded = project(parameters, queries.vectors)
    trained = "projection0" in parameters
    temperature = parameters["log_temperature"].exp() if trained else 1.0
    near = [
        torch.logsumexp(
            temperature * (2 * embedded @ side.mT - (side**2).sum(-1).unsqueeze(1)), dim=-1
        )
        for side in (state.liked, state.disliked)
    ]
    scores = near[0] - near[1]
    if trained:
        scores = scores + parameters["bias"]
    if "extra" in parameters:
        scores = scores + queries.extra @ parameters["extra"]
    return scores
