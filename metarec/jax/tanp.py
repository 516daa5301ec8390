"""TaNP: a neural process whose decoder is modulated by what kind of task it meets."""

from __future__ import annotations

import copy
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float32, Int32

from metarec import loops
from metarec.amortised import Modulation, check_tanp, initial_tanp
from metarec.episodes import EpisodeBatch
from metarec.inputs import Inputs, Representation
from metarec.jax import amortised
from metarec.jax.amortised import Conditioned, Episode, Queries, Shots
from metarec.jax.compiled import bound
from metarec.jax.devices import choose_devices
from metarec.jax.layers import mlp, with_extra
from metarec.jax.neural_process import labelled
from metarec.jax.scorer import Parameters, affine, product
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop, OuterLoss


class Task(NamedTuple):
    """What is known of T tasks.

    Args:
        rows: [T, Z] latent variable; in item tasks followed by the new item's vector, [T, Z + D].
        scales: [T, H] of each hidden layer of the decoder.
        shifts: [T, H] of each hidden layer of the decoder.
    """

    rows: Array
    scales: tuple[Array, ...]
    shifts: tuple[Array, ...]


class TaNP:
    """Task-adaptive neural process (Lin et al., WWW 2021, arXiv 2103.06137).

    An encoder turns the shots into a normal distribution of a latent z, a task identity network
    into a code of the task, which is softly assigned to a pool of global task embeddings. Code and
    assigned embeddings modulate each hidden layer of a decoder that scores a candidate from its
    vector and z. In training z is drawn from the posterior given support and query; at test it is
    the prior's mean.

    Args: those of its twin, `metarec.torch.tanp.TaNP`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        embedding_size: int = 64,
        hidden_sizes: tuple[int, ...] = (64, 64),
        clusters: int = 10,
        temperature: float = 1.0,
        modulation: Modulation = "gating",
        kl_weight: float = 1.0,
        cluster_weight: float = 0.1,
        representation: Representation = "text",
        outer_loss: OuterLoss = "auto",
        steps: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 1.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        check_tanp(clusters, temperature, modulation, kl_weight, cluster_weight)
        self.embedding_size = embedding_size
        self.hidden_sizes = tuple(hidden_sizes)
        self.clusters = clusters
        self.temperature = temperature
        self.modulation: Modulation = modulation
        self.kl_weight = kl_weight
        self.cluster_weight = cluster_weight
        self.representation: Representation = representation
        self.outer_loss: OuterLoss = outer_loss
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.devices = choose_devices(device)
        self.ignore_support = False
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits (only an order after softmax training)."""
        return loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Meta-trains encoders, pool and decoder."""
        self._side = training
        return amortised.fit(
            training, self.representation, self._initial, self._objective, self.outer,
            self.outer_loss, self.devices, "TaNP", self._noise,
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_tanp(
            inputs, rng, self.hidden_sizes, self.embedding_size, self.clusters, self.modulation
        )

    def _noise(self, batch: EpisodeBatch, rng: np.random.Generator) -> np.ndarray:
        """[T, Z] of the draws from the posteriors."""
        return rng.standard_normal((len(batch.tasks), self.embedding_size))

    def _objective(self, parameters: Parameters, episode: Episode) -> tuple[Array, Array]:
        """Scores of the queries given a draw from the posterior, and the weighted divergences."""
        shots, queries = episode.shots, episode.queries
        total, count = encoded(parameters, shots)
        of_queries = mlp(
            parameters, "encoder", labelled(queries.vectors, queries.extra, episode.labels)
        )
        more = (of_queries * episode.mask[..., None]).sum(1)
        prior = latent(parameters, total, count)
        posterior = latent(parameters, total + more, count + episode.mask.sum(-1, keepdims=True))
        drawn = posterior.mean + posterior.deviation * episode.beside
        assignment, code = identified(parameters, shots, self.temperature)
        scores = decode(parameters, modulated(parameters, shots, drawn, code), queries)
        divergence = divergence_of_normals(posterior, prior).mean()
        return scores, (self.kl_weight * divergence + self.cluster_weight * sharpening(assignment))

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> TaNP:
        """The same learner with every support set ignored."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Conditioned[Task]:
        """The latent mean and the modulation of each task."""
        inputs = loops.inputs_of(self._side, meta_parameters, type(self).__name__)
        return amortised.condition(
            inputs, meta_parameters, support,
            bound(encode, temperature=self.temperature), decode, self.devices,
            self.ignore_support,
        )  # fmt: skip

    def score(
        self, fast_weights: Conditioned[Task], candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates."""
        return amortised.score(fast_weights, candidates)


class Normal(NamedTuple):
    """Normal distributions with independent coordinates.

    Args:
        mean: [T, Z].
        deviation: [T, Z] standard deviations, above 0.
    """

    mean: Array
    deviation: Array


def encode(parameters: Parameters, shots: Shots, temperature: float) -> Task:
    """The tasks as they are scored: z is the mean of its distribution given the shots."""
    _, code = identified(parameters, shots, temperature)
    return modulated(parameters, shots, latent(parameters, *encoded(parameters, shots)).mean, code)


def encoded(parameters: Parameters, shots: Shots) -> tuple[Array, Array]:
    """[T, R] sum of the shots' codes, and [T, 1] their number."""
    codes = mlp(parameters, "encoder", labelled(shots.vectors, shots.extra, shots.labels))
    return (codes * shots.mask[..., None]).sum(1), shots.mask.sum(-1, keepdims=True)


def latent(parameters: Parameters, total: Array, count: Array) -> Normal:
    """The distribution of z given the mean code.

    Args:
        parameters: of the learner.
        total: [T, R] sum of codes.
        count: [T, 1] number of codes; without any the mean is 0.
    """
    both = mlp(parameters, "latent", total / jnp.maximum(count, 1))
    mean, raw = jnp.split(both, 2, axis=-1)
    # bounded, as neural processes are often trained: a free variance diverges
    return Normal(mean, 0.1 + 0.9 * jax.nn.sigmoid(raw))


def identified(parameters: Parameters, shots: Shots, temperature: float) -> tuple[Array, Array]:
    """[T, M] assignment of each task to the pool, and [T, R] its code with the assigned part."""
    codes = mlp(parameters, "identity", labelled(shots.vectors, shots.extra, shots.labels))
    total = (codes * shots.mask[..., None]).sum(1)
    code = total / jnp.maximum(shots.mask.sum(-1, keepdims=True), 1)
    if "identity.task" in parameters:
        code = code + shots.context[:, 1] @ parameters["identity.task"]
    assignment = assigned(code, parameters["pool"], temperature)
    return assignment, code + assignment @ parameters["pool"]


def assigned(code: Array, pool: Array, temperature: float) -> Array:
    """Student-t kernel `(1 + |c - a_j|² / t)^(-(t + 1) / 2)`, normalised over the pool.

    Args:
        code: [T, R] c.
        pool: [M, R] a.
        temperature: t, the degrees of freedom.

    Returns:
        [T, M] shares.
    """
    squares = ((code[:, None] - pool) ** 2).sum(-1)
    return jax.nn.softmax(-(temperature + 1) / 2 * jnp.log1p(squares / temperature), axis=-1)


def sharpening(assignment: Array) -> Array:
    """Divergence of the assignments from `c² / Σ_tasks c`, normalised: the mean over tasks."""
    fixed = lax.stop_gradient(assignment)
    target = fixed**2 / fixed.sum(0)
    target = target / target.sum(-1, keepdims=True)
    return (target * (jnp.log(target) - jnp.log(assignment))).sum(-1).mean()


def divergence_of_normals(first: Normal, second: Normal) -> Array:
    """[T] Kullback-Leibler divergence KL(first ‖ second), summed over coordinates."""
    ratio = (first.deviation / second.deviation) ** 2
    shift = ((first.mean - second.mean) / second.deviation) ** 2
    return 0.5 * (ratio + shift - 1 - jnp.log(ratio)).sum(-1)


def modulated(parameters: Parameters, shots: Shots, drawn: Array, code: Array) -> Task:
    """The task with the scales and shifts that its code gives to each hidden layer."""
    scales, shifts = [], []
    layer = 0
    while f"scale{layer}" in parameters:
        scale = jnp.tanh(code @ parameters[f"scale{layer}"])
        shift = jnp.tanh(code @ parameters[f"shift{layer}"])
        if f"gate{layer}" in parameters:
            both = jnp.tanh(code @ parameters[f"both{layer}"])
            gate = jax.nn.sigmoid(code @ parameters[f"gate{layer}"])
            scale = gate * scale + (1 - gate) * both
            shift = gate * shift + (1 - gate) * both
        scales.append(scale)
        shifts.append(shift)
        layer += 1
    own = [shots.context[:, 1]] if shots.context.shape[1] > 1 else []
    return Task(jnp.concatenate([drawn, *own], axis=-1), tuple(scales), tuple(shifts))


def decode(parameters: Parameters, state: Task, queries: Queries) -> Array:
    """[T, N] scores by the modulated decoder.

    The first layer is linear: its part for candidates is computed once for all tasks where they
    share the candidates, its part for tasks once for all candidates.
    """
    candidates = with_extra(queries.vectors, queries.extra)
    weight, bias = parameters["decoder0.weight"], parameters["decoder0.bias"]
    of_candidates, of_tasks = jnp.split(weight, [candidates.shape[-1]])
    hidden = product(candidates, of_candidates) + (state.rows @ of_tasks + bias)[:, None]
    for layer, (scale, shift) in enumerate(zip(state.scales, state.shifts, strict=True), start=1):
        hidden = jax.nn.relu(scale[:, None] * hidden + shift[:, None])
        hidden = affine(
            hidden, parameters[f"decoder{layer}.weight"], parameters[f"decoder{layer}.bias"]
        )
    return hidden[..., 0]
