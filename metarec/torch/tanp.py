"""TaNP: a neural process whose decoder is modulated by what kind of task it meets."""

from __future__ import annotations

import copy
import functools
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.amortised import Modulation, check_tanp, initial_tanp
from metarec.inputs import Inputs, Representation
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop, OuterLoss
from metarec.torch import amortised, batches
from metarec.torch.amortised import Conditioned, Episode, Parameters, Queries, Shots
from metarec.torch.layers import mlp, with_extra
from metarec.torch.neural_process import labelled
from metarec.torch.training import choose_device


class Task(NamedTuple):
    """What is known of T tasks.

    Args:
        rows: [T, Z] latent variable; in item tasks followed by the new item's vector, [T, Z + D].
        scales: [T, H] of each hidden layer of the decoder.
        shifts: [T, H] of each hidden layer of the decoder.
    """

    rows: Tensor
    scales: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]


class TaNP:
    """Task-adaptive neural process (Lin et al., WWW 2021, arXiv 2103.06137).

    An encoder turns the shots into a normal distribution of a latent z (equations 2 and 3), a task
    identity network into a code of the task, which is softly assigned to a pool of global task
    embeddings by a Student-t kernel. Code and assigned embeddings modulate each hidden layer of a
    decoder that scores a candidate from its vector and z. In training z is drawn from the posterior
    given support and query, and two terms join the outer loss: the Kullback-Leibler divergence from
    the prior given the support alone, and one that sharpens the assignments. At test z is the
    prior's mean.

    Differs from the paper: standard deviations lie in (0.1, 1), which keeps training finite; codes
    are averaged over no shot as 0, so that K=0 is served by the pool alone; the sharpened
    assignments are held fixed in their divergence, as in Xie et al. (2016), whom the paper follows;
    the outer loss is taken on the queries only and is the one that all learners share. No content
    of a user is known here; in item tasks the new item's vector enters its code and the decoder.

    Args:
        embedding_size: width of codes, of z and of the pool's embeddings.
        hidden_sizes: hidden layers of the encoders and of the decoder, at least one.
        clusters: embeddings in the pool.
        temperature: degrees of freedom of the Student-t kernel, above 0.
        modulation: `film`, `relu(scale ⊙ h + shift)` with both in (-1, 1), or `gating`, in which a
            gate mixes each of the two with a value that they share.
        kl_weight: of the divergence between posterior and prior of z.
        cluster_weight: of the sharpening of the assignments.
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
        self.device = choose_device(device)
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
            self.outer_loss, self.device, "TaNP",
        )  # fmt: skip

    def _initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return initial_tanp(
            inputs, rng, self.hidden_sizes, self.embedding_size, self.clusters, self.modulation
        )

    def _objective(self, parameters: Parameters, episode: Episode) -> tuple[Tensor, Tensor]:
        """Scores of the queries given a draw from the posterior, and the weighted divergences."""
        shots, queries = episode.shots, episode.queries
        total, count = encoded(parameters, shots)
        of_queries = mlp(
            parameters, "encoder", labelled(queries.vectors, queries.extra, episode.labels)
        )
        more = (of_queries * episode.mask.unsqueeze(-1)).sum(1)
        prior = latent(parameters, total, count)
        posterior = latent(parameters, total + more, count + episode.mask.sum(-1, keepdim=True))
        normal = episode.rng.standard_normal(posterior.mean.shape)
        noise = batches.on_device(normal, self.device).to(posterior.mean.dtype)
        drawn = posterior.mean + posterior.deviation * noise
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
            functools.partial(encode, temperature=self.temperature), decode, self.device,
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

    mean: Tensor
    deviation: Tensor


def encode(parameters: Parameters, shots: Shots, temperature: float) -> Task:
    """The tasks as they are scored: z is the mean of its distribution given the shots."""
    _, code = identified(parameters, shots, temperature)
    return modulated(parameters, shots, latent(parameters, *encoded(parameters, shots)).mean, code)


def encoded(parameters: Parameters, shots: Shots) -> tuple[Tensor, Tensor]:
    """[T, R] sum of the shots' codes, and [T, 1] their number."""
    codes = mlp(parameters, "encoder", labelled(shots.vectors, shots.extra, shots.labels))
    return (codes * shots.mask.unsqueeze(-1)).sum(1), shots.mask.sum(-1, keepdim=True)


def latent(parameters: Parameters, total: Tensor, count: Tensor) -> Normal:
    """The distribution of z given the mean code.

    Args:
        parameters: of the learner.
        total: [T, R] sum of codes.
        count: [T, 1] number of codes; without any the mean is 0.
    """
    mean, raw = mlp(parameters, "latent", total / count.clamp(min=1)).chunk(2, dim=-1)
    # bounded, as neural processes are often trained: a free variance diverges
    return Normal(mean, 0.1 + 0.9 * torch.sigmoid(raw))


def identified(parameters: Parameters, shots: Shots, temperature: float) -> tuple[Tensor, Tensor]:
    """[T, M] assignment of each task to the pool, and [T, R] its code with the assigned part."""
    codes = mlp(parameters, "identity", labelled(shots.vectors, shots.extra, shots.labels))
    total = (codes * shots.mask.unsqueeze(-1)).sum(1)
    code = total / shots.mask.sum(-1, keepdim=True).clamp(min=1)
    if "identity.task" in parameters:
        code = code + shots.context[:, 1] @ parameters["identity.task"]
    assignment = assigned(code, parameters["pool"], temperature)
    return assignment, code + assignment @ parameters["pool"]


def assigned(code: Tensor, pool: Tensor, temperature: float) -> Tensor:
    """Student-t kernel `(1 + |c - a_j|² / t)^(-(t + 1) / 2)`, normalised over the pool.

    Args:
        code: [T, R] c.
        pool: [M, R] a.
        temperature: t, the degrees of freedom.

    Returns:
        [T, M] shares.
    """
    squares = ((code.unsqueeze(1) - pool) ** 2).sum(-1)
    return torch.softmax(-(temperature + 1) / 2 * torch.log1p(squares / temperature), dim=-1)


def sharpening(assignment: Tensor) -> Tensor:
    """Divergence of the assignments from `c² / Σ_tasks c`, normalised: the mean over tasks."""
    target = assignment.detach() ** 2 / assignment.detach().sum(0)
    target = target / target.sum(-1, keepdim=True)
    return (target * (target.log() - assignment.log())).sum(-1).mean()


def divergence_of_normals(first: Normal, second: Normal) -> Tensor:
    """[T] Kullback-Leibler divergence KL(first ‖ second), summed over coordinates."""
    ratio = (first.deviation / second.deviation) ** 2
    shift = ((first.mean - second.mean) / second.deviation) ** 2
    return 0.5 * (ratio + shift - 1 - ratio.log()).sum(-1)


def modulated(parameters: Parameters, shots: Shots, drawn: Tensor, code: Tensor) -> Task:
    """The task with the scales and shifts that its code gives to each hidden layer."""
    scales, shifts = [], []
    layer = 0
    while f"scale{layer}" in parameters:
        scale = torch.tanh(code @ parameters[f"scale{layer}"])
        shift = torch.tanh(code @ parameters[f"shift{layer}"])
        if f"gate{layer}" in parameters:
            both = torch.tanh(code @ parameters[f"both{layer}"])
            gate = torch.sigmoid(code @ parameters[f"gate{layer}"])
            scale = gate * scale + (1 - gate) * both
            shift = gate * shift + (1 - gate) * both
        scales.append(scale)
        shifts.append(shift)
        layer += 1
    own = [shots.context[:, 1]] if shots.context.shape[1] > 1 else []
    return Task(torch.cat([drawn, *own], dim=-1), tuple(scales), tuple(shifts))


def decode(parameters: Parameters, state: Task, queries: Queries) -> Tensor:
    """[T, N] scores by the modulated decoder.

    The first layer is linear: its part for candidates is computed once for all tasks where they
    share the candidates, its part for tasks once for all candidates.
    """
    candidates = with_extra(queries.vectors, queries.extra)
    weight, bias = parameters["decoder0.weight"], parameters["decoder0.bias"]
    of_candidates, of_tasks = weight.split([candidates.shape[-1], state.rows.shape[-1]])
    hidden = candidates @ of_candidates + (state.rows @ of_tasks + bias).unsqueeze(1)
    for layer, (scale, shift) in enumerate(zip(state.scales, state.shifts, strict=True), start=1):
        hidden = torch.relu(scale.unsqueeze(1) * hidden + shift.unsqueeze(1))
        weight, bias = parameters[f"decoder{layer}.weight"], parameters[f"decoder{layer}.bias"]
        hidden = hidden @ weight + bias
    return hidden.squeeze(-1)
