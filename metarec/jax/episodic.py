"""What gradient-based and transfer learning share: the scorer on episodes, its adaptation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float32, Int32

from metarec import engines, loops
from metarec.inputs import Inputs, Representation
from metarec.jax import inner_loop
from metarec.jax.catalogue import Catalogue
from metarec.jax.compiled import compiled
from metarec.jax.devices import TASKS, Devices, everywhere, map_shares, shared_out
from metarec.jax.gram import DualWeights
from metarec.jax.inner_loop import Episodes, Rates, pointwise_loss
from metarec.jax.scorer import Parameters, Scorer
from metarec.jax.training import Batch, Gradients, autograd, train
from metarec.kept import Kept
from metarec.learner import MetaParameters, Support, Training
from metarec.loops import RATE, InnerLoop, Loss, OuterLoop, OuterLoss
from metarec.weights import first_layer

BLOCK = 64
"""Tasks whose meta-gradient a CPU computes at a time, half as many where each core is a device."""

Objective = Callable[[dict[str, Array], Episodes, Any, Any], Array]
"""(meta-parameters, episodes, and the two of `ByStep`) to the outer loss."""
ByStep = Callable[[int], tuple[Any, Hashable]]
"""What an outer loss depends on beside the episodes: arrays, and what makes another program."""


@dataclass(frozen=True)
class Adaptation:
    """How a scorer adapts to a support set; hashable, one compiled program each.

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

    def settings(self, parameters: Parameters) -> dict[str, Any]:
        """`rates` and `names` as `inner_loop` takes them."""
        return {
            "rates": None if self.rates is None else self.rates(parameters),
            "names": None if self.names is None else self.names(weights_of(parameters)),
        }

    def keeps(self, parameters: Parameters) -> bool:
        """Whether a catalogue is scored by what is kept of it (`metarec.jax.catalogue`)."""
        if self.scorer.context or self.scorer.dual != "mlp" or self.inner.engine == "vmap":
            return False
        settings = self.settings(parameters)
        return engines.fastest_engine("mlp", weights_of(parameters), **settings) == "gram"

    def query_scores(
        self, parameters: Parameters, episodes: Episodes, loss: Loss, every_step: bool = False
    ) -> Array:
        """Scores of the queries after the steps, by `inner_loop.query_scores`."""
        return inner_loop.query_scores(
            self.scorer, weights_of(parameters), episodes, loss=loss, inner=self.inner,
            every_step=every_step, **self.settings(parameters),
        )  # fmt: skip


@dataclass(frozen=True)
class Adapted:
    """Fast weights of T tasks, and what is fixed within a task.

    The tasks are padded, so that few numbers of them make programs of their own.

    Args:
        tasks: T.
        parameters: of the scorer, those that adapted with a leading task axis; shared ones where
            `dual` is given.
        context: [padded T, C, D].
        inputs: of the learner that adapted.
        scorer: whose weights they are.
        device: where the weights are: one device, or a copy on each that shares the tasks.
        catalogue: from candidates to what is kept of them, where that serves.
        dual: the first adapted layer's input on the shots, and its dual state.
    """

    tasks: int
    parameters: Parameters
    context: Array
    inputs: Inputs
    scorer: Scorer
    device: Any
    catalogue: Callable[[np.ndarray], Catalogue] | None = None
    dual: tuple[Array, DualWeights] | None = None


def weights_of(parameters: Mapping[str, Array]) -> dict[str, Array]:
    """The scorer's weights among the meta-parameters."""
    return {
        name: value for name, value in parameters.items() if not name.startswith(("inputs.", RATE))
    }


def arrays_of(meta_parameters: MetaParameters, device: Any) -> dict[str, Array]:
    """All that was learned, without the statistics of the inputs."""
    learned = {
        name: value for name, value in meta_parameters.items() if not name.startswith("inputs.")
    }
    found: dict[str, Array] = jax.device_put(learned, device)
    return found


def outer_loss(kind: OuterLoss, loss: Loss, scores: Array, episodes: Episodes) -> Array:
    """Loss of the queries' scores, a mean over queries or positives.

    Args:
        kind: `pointwise` is the mean of `loss` over all queries; `softmax` the cross-entropy of
            each positive among all queries of its task (sampled softmax), for 1 and 0 labels.
        loss: the pointwise loss.
        scores: [T, Q].
        episodes: labels and masks.
    """
    total = outer_sum(kind, loss, scores, episodes.query_labels, episodes.query_mask)
    return total / outer_count(kind, episodes.query_labels, episodes.query_mask)


def outer_sum(kind: OuterLoss, loss: Loss, scores: Array, labels: Array, mask: Array) -> Array:
    """The sum over queries or positives, of which `outer_loss` is the mean."""
    if kind == "pointwise":
        return (pointwise_loss(loss, scores, labels) * mask).sum()
    # a task without queries would have nothing but -inf to sum, and its gradient would not be 0
    there = (mask > 0) | (mask.sum(-1, keepdims=True) == 0)
    log_share = jax.nn.log_softmax(jnp.where(there, scores, -jnp.inf), axis=-1)
    return -(jnp.where(mask > 0, log_share, 0) * labels * mask).sum()


def outer_count(kind: OuterLoss, labels: Array, mask: Array) -> Array:
    """How many queries or positives `outer_loss` is a mean over, at least 1."""
    return jnp.maximum((mask if kind == "pointwise" else labels * mask).sum(), 1)


def in_blocks(
    total_of: Callable[[dict[str, Array], Any], Array], block: int | None
) -> Callable[[dict[str, Array], Any], tuple[Array, dict[str, Array]]]:
    """A sum over tasks and its gradient, some tasks after others, the gradients added up.

    What one block of tasks needs on the way back then stays in a CPU's cache, and memory does not
    grow with the number of tasks.

    Args:
        total_of: from the meta-parameters and arrays with a leading task axis to the sum.
        block: tasks at a time; all where it is None or does not divide their number.
    """
    of_block = jax.value_and_grad(total_of)

    def gradients(parameters: dict[str, Array], tasks: Any) -> tuple[Array, dict[str, Array]]:
        count = len(jax.tree.leaves(tasks)[0])
        if block is None or count <= block or count % block:
            found: tuple[Array, dict[str, Array]] = of_block(parameters, tasks)
            return found
        blocks = jax.tree.map(lambda x: x.reshape(count // block, block, *x.shape[1:]), tasks)

        def add(total: Any, tasks: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, of_block(parameters, tasks)), None

        # zeros of the parameters' own kind: one program for the first block and the others
        zero = jnp.zeros_like(next(iter(parameters.values())), shape=())
        found, _ = lax.scan(add, (zero, jax.tree.map(jnp.zeros_like, parameters)), blocks)
        return found

    return gradients


def in_shares(
    gradients: Callable[[dict[str, Array], Any], tuple[Array, dict[str, Array]]], devices: Devices
) -> Callable[[dict[str, Array], Any], tuple[Array, dict[str, Array]]]:
    """A sum over tasks and its gradient, each device with its share of the tasks.

    Args:
        gradients: from the meta-parameters and arrays with a leading task axis to the sum and its
            gradient.
        devices: among which the tasks are shared out.
    """

    def shared(parameters: dict[str, Array], tasks: Any) -> tuple[Array, dict[str, Array]]:
        mesh = devices.mesh(len(jax.tree.leaves(tasks)[0]))
        if mesh.size == 1:
            return gradients(parameters, tasks)

        def own(parameters: dict[str, Array], tasks: Any) -> Any:
            return lax.psum(gradients(parameters, tasks), TASKS)  # type: ignore[no-untyped-call]

        found: Any = map_shares(own, mesh, (False, True), out_axis=None)(parameters, tasks)
        return found

    return shared


def block_of(devices: Devices) -> int | None:
    """Tasks at a time: blocks on a CPU, since its cache is what is short."""
    if devices.first.platform != "cpu":
        return None
    return BLOCK if len(devices.all) == 1 else BLOCK // 2


def fit(
    training: Training,
    adaptation: Adaptation,
    representation: Representation,
    outer: OuterLoop,
    kind: OuterLoss,
    devices: Devices,
    description: str,
    *,
    inputs: Inputs | None = None,
    initial_rates: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] | None = None,
    objective: Callable[[Loss, OuterLoss], Objective] | None = None,
    by_step: ByStep = lambda step: ((), None),
    gradients: Callable[[Loss, OuterLoss], Gradients] | None = None,
) -> MetaParameters:
    """Meta-trains a scorer: by default the outer loss of the queries after the inner loop.

    With 0 inner steps this is ordinary training on the same episodes.

    Args:
        training: meta-train.
        adaptation: scorer and inner loop.
        representation: what the scorer sees of a candidate.
        outer: settings of the outer loop.
        kind: of the outer loss.
        devices: that share the tasks of a step out.
        description: what the progress bar says.
        inputs: of the scorer, where they are not those of the representation.
        initial_rates: from the initial weights to further meta-parameters, such as learning rates.
        objective: from the inner and outer loss to another outer loss.
        by_step: what that depends on beside the episodes.
        gradients: from the inner and outer loss to loss and gradients, for learners whose outer
            update is not the gradient of a loss.

    Returns:
        Meta-parameters: the scorer's weights, further ones, and the statistics of the inputs.
    """
    kind = loops.chosen_loss(kind, training.feedback)
    seen = Inputs.fit(training, representation) if inputs is None else inputs
    loss = loops.pointwise(training.feedback)

    def total(parameters: dict[str, Array], arrays: Any) -> Array:
        episodes = assembled(adaptation.scorer, arrays)
        scores = adaptation.query_scores(parameters, episodes, loss)
        return outer_sum(kind, loss, scores, episodes.query_labels, episodes.query_mask)

    of_total = in_shares(in_blocks(total, block_of(devices)), devices)

    def mean(
        parameters: dict[str, Array], arrays: Any, shared: Any, program: Any
    ) -> tuple[Array, dict[str, Array]]:
        count = outer_count(kind, arrays["query_labels"], arrays["query_mask"])
        found: Any = jax.tree.map(lambda x: x / count, of_total(parameters, arrays))
        return found

    def batch_at(step: int) -> Batch:
        return arrays_at(seen, training, step), *by_step(step)

    # what a scorer sees is put together within the program, where XLA joins it with its products
    def assembling(of_episodes: Gradients) -> Gradients:
        return lambda parameters, arrays, shared, program: of_episodes(
            parameters, assembled(adaptation.scorer, arrays), shared, program
        )

    own: Gradients = mean
    if gradients is not None:
        own = assembling(gradients(loss, kind))
    elif objective is not None:
        own = assembling(autograd(objective(loss, kind)))
    initial = adaptation.scorer.initial(seen, np.random.default_rng([training.seed, 1]))
    if initial_rates is not None:
        initial |= initial_rates(initial)
    return train(initial, own, batch_at, training, outer, seen.statistics, devices, description)


def arrays_at(inputs: Inputs, training: Training, step: int) -> dict[str, np.ndarray]:
    """The arrays of `EpisodeInputs` of the episodes of a step, float32."""
    rng = np.random.default_rng([training.seed, 3, step])
    arrays = inputs.of_batch(training.sampler.batch(step), rng)
    return {name: _float(value) for name, value in vars(arrays).items()}


def _float(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32)


def assembled(scorer: Scorer, arrays: Mapping[str, Array]) -> Episodes:
    """What the scorer sees of episodes."""
    query, context = arrays["query"], arrays["query_context"]
    context = jnp.broadcast_to(context[:, None], (*query.shape[:2], *context.shape[1:]))
    return Episodes(
        support=scorer.assemble(
            arrays["support"], arrays["support_context"], arrays["support_extra"]
        ),
        support_labels=arrays["support_labels"],
        support_mask=arrays["support_mask"],
        query=scorer.assemble(query, context, arrays["query_extra"]),
        query_labels=arrays["query_labels"],
        query_mask=arrays["query_mask"],
    )


def adapt(
    inputs: Inputs,
    meta_parameters: MetaParameters,
    support: Support,
    adaptation: Adaptation,
    devices: Devices,
) -> Adapted:
    """Adapts the scorer to T support sets."""
    scorer, loss = adaptation.scorer, loops.pointwise(inputs.feedback)
    arrays = shots_of(inputs, support)
    parameters = arrays_of(meta_parameters, devices.first)
    keeps = adaptation.keeps(parameters)
    device = shared = devices.first
    # what is kept of a catalogue is shared out itself, and little is left to do for each task
    if not keeps and len(devices.all) > 1 and len(arrays[0]) % len(devices.all) == 0:
        mesh = devices.mesh(len(arrays[0]))
        device, shared = everywhere(mesh), shared_out(mesh)
        parameters = jax.device_put(parameters, device)
    weights = weights_of(parameters)
    shots = jax.device_put(arrays, shared)
    context = shots[-1]
    steps = adaptation.inner.steps > 0 and bool(support.mask.any())
    found = None
    if steps:
        # a program lives as long as the process; what is kept of a catalogue must not
        how = replace(adaptation, kept=Kept())
        found = _adapt(parameters, shots, adaptation=how, loss=loss)
    if not keeps:
        return Adapted(len(support), found or weights, context, inputs, scorer, device)

    def catalogue(candidates: np.ndarray) -> Catalogue:
        def make() -> Catalogue:
            vectors, extra = catalogue_inputs(inputs, candidates, device)
            every = jnp.zeros((len(vectors), *context.shape[1:]), context.dtype, device=device)
            names = adaptation.settings(parameters)["names"]
            return Catalogue(
                scorer, weights, scorer.assemble(vectors, every, extra),
                first_layer(weights, names), devices,
            )  # fmt: skip

        return adaptation.kept.get(meta_parameters, inputs.features, candidates, make)

    return Adapted(len(support), weights, context, inputs, scorer, device, catalogue, found)


def _adapt_all(
    parameters: dict[str, Array],
    shots: tuple[Array, ...],
    adaptation: Adaptation,
    loss: Loss,
) -> Any:
    """Fast weights, or the dual state where that is all that is needed."""
    vectors, contexts, extras, labels, mask, _ = shots
    scorer = adaptation.scorer
    how = inner_loop.adapt_dual if adaptation.keeps(parameters) else inner_loop.adapt
    return how(
        scorer, weights_of(parameters), scorer.assemble(vectors, contexts, extras), labels, mask,
        loss=loss, inner=adaptation.inner, **adaptation.settings(parameters),
    )  # fmt: skip


_adapt = compiled(_adapt_all, static=("adaptation", "loss"))


def shots_of(inputs: Inputs, support: Support) -> tuple[np.ndarray, ...]:
    """What T support sets are made of, the tasks padded to the next power of 2.

    Returns:
        [T, K, D] vectors, [T, K, C, D] contexts, [T, K, E] extras, [T, K] labels and mask, and
        [T, C, D] the context of each task.
    """
    shots, each, task = inputs.of_support(support)
    extra = inputs.extra_columns(support.candidates) * support.mask[..., None]
    labels = np.where(support.mask, inputs.targets(support.labels), 0)
    return tuple(padded(array) for array in (shots, each, extra, labels, support.mask, task))


def padded(array: np.ndarray) -> np.ndarray:
    """An array whose first axis is zero-padded to the next power of 2, float32."""
    size = 1 << max(len(array) - 1, 0).bit_length()
    found = np.zeros((size, *array.shape[1:]), np.float32)
    found[: len(array)] = array
    return found


def score(adapted: Adapted, candidates: Int32[np.ndarray, " c"]) -> Float32[np.ndarray, "tasks c"]:
    """Scores candidates with the fast weights of each task, in the unit of the labels."""
    if adapted.catalogue is not None:
        features, state = adapted.dual or (None, None)
        scores: Any = adapted.catalogue(candidates).scores(features, state, adapted.tasks)
    else:
        vectors, extra = catalogue_inputs(adapted.inputs, candidates, adapted.device)
        scores = _score(
            dict(adapted.parameters), adapted.context, vectors, extra, scorer=adapted.scorer
        )
    return adapted.inputs.to_rating(np.array(scores)[: adapted.tasks])


def _score_all(
    parameters: dict[str, Array], context: Array, vectors: Array, extra: Array, scorer: Scorer
) -> Array:
    return scorer.score_catalogue(parameters, context, vectors, extra)


_score = compiled(_score_all, static=("scorer",))


def catalogue_inputs(
    inputs: Inputs, candidates: Int32[np.ndarray, " c"], device: Any
) -> tuple[Array, Array]:
    """[N, D] vectors and [N, E] extra columns of a catalogue."""
    found: tuple[Array, Array] = jax.device_put(
        (inputs.vectors(candidates), inputs.extra_columns(candidates)), device
    )
    return found
