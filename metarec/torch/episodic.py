"""What gradient-based and transfer learning share: the scorer on episodes, its adaptation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import engines, loops
from metarec.inputs import Inputs, Representation
from metarec.kept import Kept
from metarec.learner import (
    MetaParameters,
    Support,
    Training,
)
from metarec.loops import RATE, InnerLoop, Loss, OuterLoop, OuterLoss
from metarec.torch import batches, inner_loop
from metarec.torch.catalogue import Catalogue
from metarec.torch.gram import DualWeights
from metarec.torch.inner_loop import Episodes, Rates, masked_mean, pointwise_loss
from metarec.torch.scorer import Parameters, Scorer
from metarec.torch.training import Gradients, autograd, train
from metarec.weights import first_layer

Objective = Callable[[dict[str, Tensor], Episodes, int], Tensor]
"""(meta-parameters, episodes, outer step) to the outer loss."""
EpisodeGradients = Callable[[dict[str, Tensor], Episodes, int], tuple[Tensor, Mapping[str, Tensor]]]
"""(meta-parameters, episodes, outer step) to the outer loss and the outer gradient."""


@dataclass(frozen=True)
class Adaptation:
    """How a scorer adapts to a support set.

    Args:
        scorer: whose weights adapt.
        inner: steps, learning rate, order and engine.
        rates: from the meta-parameters to the learning rates by weight; None for one rate.
        names: from the meta-parameters to the weights that adapt; None for all of the scorer's.
        kept: what the last catalogue has in common for all tasks.
    """

    scorer: Scorer
    inner: InnerLoop
    rates: Callable[[Parameters], Rates] | None = None
    names: Callable[[Parameters], frozenset[str]] | None = None
    kept: Kept[Catalogue] = field(default_factory=Kept, repr=False, compare=False)

    def off(self) -> Adaptation:
        """The same without a step."""
        return replace(self, inner=replace(self.inner, steps=0), kept=Kept())

    def keeps(self, weights: Parameters, rates: Rates | None, names: frozenset[str] | None) -> bool:
        """Whether a catalogue is scored by what is kept of it (`metarec.torch.catalogue`)."""
        if self.scorer.context or self.scorer.dual != "mlp" or self.inner.engine == "vmap":
            return False
        return engines.fastest_engine("mlp", weights, rates, names) == "gram"

    def query_scores(
        self, parameters: Parameters, episodes: Episodes, loss: Loss, every_step: bool = False
    ) -> Tensor:
        """Scores of the queries after the steps, by `inner_loop.query_scores`."""
        weights = weights_of(parameters)
        return inner_loop.query_scores(
            self.scorer, weights, episodes, loss=loss, inner=self.inner,
            rates=None if self.rates is None else self.rates(parameters),
            names=None if self.names is None else self.names(weights),
            every_step=every_step,
        )  # fmt: skip


@dataclass(frozen=True)
class Adapted:
    """Fast weights of T tasks, and what is fixed within a task.

    Args:
        parameters: of the scorer, those that adapted with a leading task axis; shared ones where
            `dual` is given.
        context: [T, C, D].
        inputs: of the learner that adapted.
        scorer: whose weights they are.
        device: where the weights are.
        catalogue: from candidates to what is kept of them, where that serves.
        dual: [T, K, features] the first adapted layer's input on the shots, and its dual state.
    """

    parameters: Parameters
    context: Tensor
    inputs: Inputs
    scorer: Scorer
    device: torch.device
    catalogue: Callable[[np.ndarray], Catalogue] | None = None
    dual: tuple[Tensor, DualWeights] | None = None


def weights_of(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scorer's weights among the meta-parameters."""
    return {
        name: value for name, value in parameters.items() if not name.startswith(("inputs.", RATE))
    }


def tensors_of(meta_parameters: MetaParameters, device: torch.device) -> dict[str, Tensor]:
    """All that was learned, without the statistics of the inputs."""
    return {
        name: torch.tensor(value, device=device)
        for name, value in meta_parameters.items()
        if not name.startswith("inputs.")
    }


def outer_loss(kind: OuterLoss, loss: Loss, scores: Tensor, episodes: Episodes) -> Tensor:
    """Loss of the queries' scores, a mean over queries or tasks.

    Args:
        kind: `pointwise` is the mean of `loss` over all queries; `softmax` the cross-entropy of
            each positive among all queries of its task (sampled softmax), for 1 and 0 labels.
        loss: the pointwise loss.
        scores: [T, Q].
        episodes: labels and masks.
    """
    labels, mask = episodes.query_labels, episodes.query_mask
    if kind == "pointwise":
        return masked_mean(pointwise_loss(loss, scores, labels).flatten(), mask.flatten())
    log_share = torch.log_softmax(scores.masked_fill(mask == 0, -torch.inf), dim=-1)
    positive = labels * mask
    return -(log_share.masked_fill(mask == 0, 0) * positive).sum() / positive.sum().clamp(min=1)


def fit(
    training: Training,
    adaptation: Adaptation,
    representation: Representation,
    outer: OuterLoop,
    kind: OuterLoss,
    device: torch.device,
    description: str,
    *,
    inputs: Inputs | None = None,
    initial_rates: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] | None = None,
    objective: Callable[[Loss, OuterLoss], Objective] | None = None,
    gradients: Callable[[Loss, OuterLoss], EpisodeGradients] | None = None,
) -> MetaParameters:
    """Meta-trains a scorer: by default the outer loss of the queries after the inner loop.

    With 0 inner steps this is ordinary training on the same episodes.

    Args:
        training: meta-train.
        adaptation: scorer and inner loop.
        representation: what the scorer sees of a candidate.
        outer: settings of the outer loop.
        kind: of the outer loss.
        device: where to train.
        description: what the progress bar says.
        inputs: of the scorer, where they are not those of the representation.
        initial_rates: from the initial weights to further meta-parameters, such as learning rates.
        objective: from the inner and outer loss to another outer loss.
        gradients: from the inner and outer loss to (meta-parameters, episodes, step) to (loss,
            gradients), for learners whose outer update is not the gradient of a loss.

    Returns:
        Meta-parameters: the scorer's weights, further ones, and the statistics of the inputs.
    """
    kind = loops.chosen_loss(kind, training.feedback)
    seen = Inputs.fit(training, representation) if inputs is None else inputs
    loss = loops.pointwise(training.feedback)
    if adaptation.inner.engine == "learn2learn":
        from metarec.torch.reference import import_learn2learn

        import_learn2learn()

    def default(parameters: dict[str, Tensor], episodes: Episodes, step: int) -> Tensor:
        scores = adaptation.query_scores(parameters, episodes, loss)
        return outer_loss(kind, loss, scores, episodes)

    chosen = default if objective is None else objective(loss, kind)
    if adaptation.inner.compile:
        chosen = torch.compile(chosen)

    drawn_at = batches.ahead(functools.partial(_drawn, seen, training, device), device, outer.steps)

    def episodes_at(step: int) -> Episodes:
        return _assembled(drawn_at(step), adaptation.scorer)

    own: Gradients = autograd(lambda parameters, step: chosen(parameters, episodes_at(step), step))
    if gradients is not None:
        of_episodes = gradients(loss, kind)
        own = lambda parameters, step: of_episodes(parameters, episodes_at(step), step)  # noqa: E731
    initial = adaptation.scorer.initial(seen, np.random.default_rng([training.seed, 1]))
    if initial_rates is not None:
        initial |= initial_rates(initial)
    return train(initial, own, training, outer, seen.statistics, device, description)


def episodes_of(
    inputs: Inputs, training: Training, step: int, scorer: Scorer, device: torch.device
) -> Episodes:
    """Assembled inputs of the episodes of a step."""
    return _assembled(batches.sent(_drawn(inputs, training, device, step), device), scorer)


def _drawn(
    inputs: Inputs, training: Training, device: torch.device, step: int
) -> dict[str, Tensor]:
    """The arrays of `EpisodeInputs` of a step, still on the host."""
    rng = np.random.default_rng([training.seed, 3, step])
    arrays = inputs.of_batch(training.sampler.batch(step), rng)
    return {
        one.name: batches.staged(batches.floats(getattr(arrays, one.name)), device)
        for one in fields(arrays)
    }


def _assembled(drawn: Mapping[str, Tensor], scorer: Scorer) -> Episodes:
    query = drawn["query"]
    context = drawn["query_context"].unsqueeze(1).expand(-1, query.shape[1], -1, -1)
    return Episodes(
        support=scorer.assemble(drawn["support"], drawn["support_context"], drawn["support_extra"]),
        support_labels=drawn["support_labels"],
        support_mask=drawn["support_mask"],
        query=scorer.assemble(query, context, drawn["query_extra"]),
        query_labels=drawn["query_labels"],
        query_mask=drawn["query_mask"],
    )


def adapt(
    inputs: Inputs,
    meta_parameters: MetaParameters,
    support: Support,
    adaptation: Adaptation,
    device: torch.device,
) -> Adapted:
    """Adapts the scorer to T support sets."""
    parameters = tensors_of(meta_parameters, device)
    weights = weights_of(parameters)
    rates = None if adaptation.rates is None else adaptation.rates(parameters)
    names = None if adaptation.names is None else adaptation.names(weights)
    scorer, inner = adaptation.scorer, adaptation.inner
    shots, labels, mask, context = shots_of(inputs, support, scorer, device)
    steps = inner.steps > 0 and bool(support.mask.any())
    loss = loops.pointwise(inputs.feedback)
    if not adaptation.keeps(weights, rates, names):
        fast: Parameters = weights
        if steps:
            with torch.no_grad():
                fast = inner_loop.adapt(
                    scorer, weights, shots, labels, mask,
                    loss=loss, inner=inner, rates=rates, names=names,
                )  # fmt: skip
        return Adapted(fast, context, inputs, scorer, device)

    def catalogue(candidates: np.ndarray) -> Catalogue:
        def make() -> Catalogue:
            vectors, extra = catalogue_inputs(inputs, candidates, device)
            every = context.new_zeros(len(vectors), *context.shape[1:])
            assembled = scorer.assemble(vectors, every, extra)
            return Catalogue(scorer, weights, assembled, first_layer(weights, names))

        return adaptation.kept.get(meta_parameters, inputs.features, candidates, make)

    dual = None
    if steps:
        with torch.no_grad():
            _, features, state = inner_loop.adapt_dual(
                scorer, weights, shots, labels, mask,
                loss=loss, inner=inner, rates=rates, names=names,
            )  # fmt: skip
        dual = features, state
    return Adapted(weights, context, inputs, scorer, device, catalogue, dual)


def shots_of(
    inputs: Inputs, support: Support, scorer: Scorer, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the scorer sees of T support sets.

    Returns:
        [T, K, in] inputs, [T, K] labels, [T, K] mask, and [T, C, D] the context of each task.
    """
    shots, each, task = inputs.of_support(support)
    extra = inputs.extra_columns(support.candidates) * support.mask[..., None]
    labels = np.where(support.mask, inputs.targets(support.labels), 0)
    vectors, contexts, extras, targets, mask, context = (
        batches.on_device(batches.floats(array), device)
        for array in (shots, each, extra, labels, support.mask, task)
    )
    return scorer.assemble(vectors, contexts, extras), targets, mask, context


@torch.no_grad()
def score(adapted: Adapted, candidates: Int32[np.ndarray, " c"]) -> Float32[np.ndarray, "tasks c"]:
    """Scores candidates with the fast weights of each task, in the unit of the labels."""
    if adapted.catalogue is not None:
        catalogue = adapted.catalogue(candidates)
        features, state = adapted.dual or (None, None)
        scores = catalogue.scores(features, state, len(adapted.context))
    else:
        vectors, extra = catalogue_inputs(adapted.inputs, candidates, adapted.device)
        scores = adapted.scorer.score_catalogue(adapted.parameters, adapted.context, vectors, extra)
    return adapted.inputs.to_rating(scores.cpu().numpy())


def catalogue_inputs(
    inputs: Inputs, candidates: Int32[np.ndarray, " c"], device: torch.device
) -> tuple[Tensor, Tensor]:
    """[N, D] vectors and [N, E] extra columns of a catalogue."""
    vectors = torch.from_numpy(inputs.vectors(candidates)).to(device)
    return vectors, torch.from_numpy(inputs.extra_columns(candidates)).to(device)
