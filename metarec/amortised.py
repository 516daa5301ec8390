"""What amortised learners begin with, whatever computes them: arrays, first parameters, checks.

Such a learner adapts without gradient steps (`metarec.torch.amortised`, `metarec.jax.amortised`).
Here is what PyTorch and JAX would else write twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from metarec.episodes import EpisodeBatch
from metarec.errors import LearnerError
from metarec.inputs import Inputs
from metarec.learner import Support, Training

Projection = Literal["mlp", "linear", "none"]
"""Of prototypical learning."""
Modulation = Literal["film", "gating"]
"""Of the decoder of TaNP."""
Similarity = Literal["cosine", "dot"]
"""Of ProtoCF."""
Initial = Callable[[Inputs, np.random.Generator], Mapping[str, np.ndarray]]
"""Draws the first parameters; a name must not start with `inputs.`."""

CANDIDATES_AT_ONCE = 2048
"""Candidates of a catalogue that are decoded together, so that no array grows with all of them."""
SIMILARITY_SCALE, NULL_COSINE = 10.0, 0.8
"""First values of matching's learned scale of the cosines and of the null key's own cosine.

The parameters are relative to them, so that weight decay pulls back to these and not to 0.
"""
COSINE_SCALE = 10.0
"""First value of ProtoCF's learned scale of cosines, the paper's fixed one."""


class EpisodeArrays(NamedTuple):
    """T episodes of meta-training.

    Args:
        shots: the support sets, see `support_arrays`.
        queries: `vectors` [T, Q, D] and `extra` [T, Q, E].
        labels: [T, Q] targets of the queries.
        mask: [T, Q] true where there is a query.
        batch: what the arrays were made from: indices of tasks and candidates.
        rng: of this step, for learners that sample.
    """

    shots: dict[str, np.ndarray]
    queries: dict[str, np.ndarray]
    labels: np.ndarray
    mask: np.ndarray
    batch: EpisodeBatch
    rng: np.random.Generator


def episode_arrays(inputs: Inputs, training: Training, step: int) -> EpisodeArrays:
    """The episodes of a step."""
    batch = training.sampler.batch(step)
    rng = np.random.default_rng([training.seed, 3, step])
    arrays = inputs.of_batch(batch, rng)
    mask = arrays.support_mask
    shots = {
        "vectors": arrays.support,
        "labels": np.where(mask, arrays.support_labels, 0),
        "mask": mask,
        "extra": arrays.support_extra * mask[..., None],
        "context": arrays.query_context,
    }
    queries = {"vectors": arrays.query, "extra": arrays.query_extra}
    return EpisodeArrays(shots, queries, arrays.query_labels, arrays.query_mask, batch, rng)


def support_arrays(
    inputs: Inputs, support: Support, ignore_support: bool = False
) -> dict[str, np.ndarray]:
    """What is known of T support sets; 0 wherever there is no shot.

    Args:
        inputs: of the learner.
        support: of T tasks; what stands beside its shots does not matter.
        ignore_support: take no notice of any shot, as if K were 0: the row without adaptation.

    Returns:
        `vectors` [T, K, D], `labels` [T, K] targets, `mask` [T, K], `extra` [T, K, E] columns
        beside the vectors, and `context` [T, C, D] of each task.
    """
    if ignore_support:
        support = replace(support, mask=np.zeros_like(support.mask))
    vectors, _, context = inputs.of_support(support)
    return {
        "vectors": vectors,
        "labels": np.where(support.mask, inputs.targets(support.labels), 0),
        "mask": support.mask,
        "extra": inputs.extra_columns(support.candidates) * support.mask[..., None],
        "context": context,
    }


def first_parameters(initial: Initial, inputs: Inputs, seed: int) -> dict[str, np.ndarray]:
    """The first parameters of a training with this seed, float32."""
    drawn = initial(inputs, np.random.default_rng([seed, 2]))
    return {name: np.asarray(value, dtype=np.float32) for name, value in drawn.items()}


def initial_mlp(
    name: str, sizes: Sequence[int], rng: np.random.Generator, last: float = 1.0
) -> dict[str, np.ndarray]:
    """Draws the weights of an MLP: normal, with the variance 1 / fan-in.

    Args:
        name: what the names of the parameters begin with.
        sizes: width of the input, of each hidden layer and of the output.
        rng: source of the draw.
        last: factor of the last layer's scale; small where the output should begin near 0.

    Returns:
        `<name><i>.weight` [in, out] and `<name><i>.bias` [out].
    """
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        scale = (last if layer == len(sizes) - 2 else 1.0) / np.sqrt(max(fan_in, 1))
        parameters[f"{name}{layer}.weight"] = scale * rng.standard_normal((fan_in, fan_out))
        parameters[f"{name}{layer}.bias"] = np.zeros(fan_out)
    return parameters


def initial_task_vector(
    name: str, inputs: Inputs, size: int, rng: np.random.Generator, scale: float = 0.01
) -> dict[str, np.ndarray]:
    """Draws `<name>` [E] and, where a new item's text is known, `<name>.task` [D, E].

    `task_vector` of the layers needs them.
    """
    parameters = {name: scale * rng.standard_normal(size)}
    if inputs.channels > 1:
        weight = rng.standard_normal((inputs.size, size))
        parameters[f"{name}.task"] = weight / np.sqrt(inputs.size * size)
    return parameters


def initial_values() -> dict[str, np.ndarray]:
    """What `label_values` of the layers needs: labels count for what they are at first."""
    return {"values": np.array([1.0, 0.0])}


def check_prototypical(
    projection: str, prototypes: int, prior_strength: float, dislike_weight: float
) -> None:
    """Raises LearnerError unless these are arguments of prototypical learning."""
    if projection not in ("mlp", "linear", "none"):
        raise LearnerError(f"learner.projection={projection!r}; known: mlp, linear, none")
    if prototypes < 1 or (projection == "none" and prototypes > 1):
        raise LearnerError(
            f"learner.prototypes={prototypes}: at least 1, and exactly 1 with "
            "learner.projection=none, where nothing is trained"
        )
    if prior_strength <= 0 or dislike_weight < 0:
        raise LearnerError(
            f"learner.prior_strength={prior_strength} must be above 0 and "
            f"learner.dislike_weight={dislike_weight} not below"
        )


def initial_prototypical(
    inputs: Inputs,
    rng: np.random.Generator,
    projection: Projection,
    embedding_size: int,
    prototypes: int,
) -> dict[str, np.ndarray]:
    """Draws projection, priors and, of several prototypes, the queries of prototypical learning."""
    size, embedding = inputs.size, embedding_size
    parameters = {
        "projection0": rng.standard_normal((size, embedding)) / np.sqrt(size),
        "prior.liked": 0.01 * rng.standard_normal((prototypes, embedding)),
        "prior.disliked": 0.01 * rng.standard_normal((prototypes, embedding)),
        "log_strength": np.zeros(2),
        "log_temperature": np.zeros(1),
        "bias": np.zeros(1),
    }
    if projection == "mlp":
        parameters["hidden"] = np.zeros(embedding)
        weight = rng.standard_normal((embedding, embedding)) / np.sqrt(embedding)
        parameters["projection1"] = weight
    if inputs.channels > 1:
        parameters["task.liked"] = rng.standard_normal((size, embedding)) / np.sqrt(size)
        parameters["task.disliked"] = np.zeros((size, embedding))
    if inputs.extras:
        parameters["extra"] = np.zeros(inputs.extras)
    if prototypes > 1:
        for side in ("liked", "disliked"):
            parameters[f"query.{side}"] = rng.standard_normal((prototypes, embedding))
    return parameters


def initial_matching(
    inputs: Inputs, rng: np.random.Generator, hidden_sizes: tuple[int, ...], embedding_size: int
) -> dict[str, np.ndarray]:
    """Draws embedding and prior of matching; its attention begins at fixed values."""
    sizes = (inputs.size + inputs.extras, *hidden_sizes, embedding_size)
    return {
        **initial_mlp("embedding", sizes, rng),
        **initial_task_vector("prior", inputs, embedding_size, rng),
        **initial_values(),
        "log_temperature": np.zeros(1),
        "null": np.zeros(1),
        "log_scale": np.zeros(1),
        "bias": np.zeros(1),
    }


def check_r2d2(regularisation: float) -> None:
    """Raises LearnerError unless this is a penalty of R2-D2."""
    if regularisation <= 0:
        raise LearnerError(f"learner.regularisation={regularisation} must be above 0")


def initial_r2d2(
    inputs: Inputs, rng: np.random.Generator, hidden_sizes: tuple[int, ...], embedding_size: int
) -> dict[str, np.ndarray]:
    """Draws embedding and prior of R2-D2; penalty and output begin at fixed values."""
    sizes = (inputs.size + inputs.extras, *hidden_sizes, embedding_size)
    return {
        **initial_mlp("embedding", sizes, rng),
        **initial_task_vector("prior", inputs, embedding_size, rng),
        **initial_values(),
        "log_penalty": np.zeros(1),
        "log_scale": np.zeros(1),
        "bias": np.zeros(1),
    }


def initial_neural_process(
    inputs: Inputs, rng: np.random.Generator, hidden_sizes: tuple[int, ...], embedding_size: int
) -> dict[str, np.ndarray]:
    """Draws encoder and decoder of the conditional neural process."""
    candidate = inputs.size + inputs.extras
    own = inputs.size if inputs.channels > 1 else 0
    row = embedding_size + 1 + own
    return {
        **initial_mlp("encoder", (candidate + 1, *hidden_sizes, embedding_size), rng),
        **initial_mlp("decoder", (candidate + row, *hidden_sizes, 1), rng, last=0.1),
    }


def check_tanp(
    clusters: int, temperature: float, modulation: str, kl_weight: float, cluster_weight: float
) -> None:
    """Raises LearnerError unless these are arguments of TaNP."""
    if modulation not in ("film", "gating"):
        raise LearnerError(f"learner.modulation={modulation!r}; known: film, gating")
    if clusters < 1 or temperature <= 0 or min(kl_weight, cluster_weight) < 0:
        raise LearnerError(
            f"learner.clusters={clusters} must be at least 1, learner.temperature="
            f"{temperature} above 0, learner.kl_weight={kl_weight} and "
            f"learner.cluster_weight={cluster_weight} not below 0"
        )


def initial_tanp(
    inputs: Inputs,
    rng: np.random.Generator,
    hidden_sizes: tuple[int, ...],
    embedding_size: int,
    clusters: int,
    modulation: Modulation,
) -> dict[str, np.ndarray]:
    """Draws encoders, decoder, pool and modulation of TaNP."""
    candidate, code = inputs.size + inputs.extras, embedding_size
    own = inputs.size if inputs.channels > 1 else 0
    parameters = {
        **initial_mlp("encoder", (candidate + 1, *hidden_sizes, code), rng),
        **initial_mlp("latent", (code, code, 2 * code), rng),
        **initial_mlp("identity", (candidate + 1, *hidden_sizes, code), rng),
        **initial_mlp("decoder", (candidate + code + own, *hidden_sizes, 1), rng, last=0.1),
        "pool": rng.standard_normal((clusters, code)) / np.sqrt(code),
    }
    if own:
        parameters["identity.task"] = rng.standard_normal((own, code)) / np.sqrt(own)
    names = ("scale", "shift") if modulation == "film" else ("scale", "shift", "both", "gate")
    for layer, width in enumerate(hidden_sizes):
        for name in names:
            parameters[f"{name}{layer}"] = rng.standard_normal((code, width)) / np.sqrt(code)
    return parameters


def check_protocf(
    groups: int, similarity: str, prior_strength: float, distillation_weight: float
) -> None:
    """Raises LearnerError unless these are arguments of ProtoCF."""
    if similarity not in ("cosine", "dot"):
        raise LearnerError(f"learner.similarity={similarity!r}; known: cosine, dot")
    if groups < 1 or prior_strength <= 0 or distillation_weight < 0:
        raise LearnerError(
            f"learner.groups={groups} must be at least 1, learner.prior_strength="
            f"{prior_strength} above 0 and learner.distillation_weight={distillation_weight} "
            "not below"
        )


def initial_protocf(
    inputs: Inputs,
    rng: np.random.Generator,
    hidden_sizes: tuple[int, ...],
    embedding_size: int,
    groups: int,
) -> dict[str, np.ndarray]:
    """Draws projection, prior, groups and gate of ProtoCF."""
    size = embedding_size
    return {
        **initial_mlp("projection", (inputs.size + inputs.extras, *hidden_sizes, size), rng),
        **initial_task_vector("prior", inputs, size, rng),
        **initial_values(),
        **initial_mlp("attention", (size, size), rng),
        **initial_mlp("gate", (2 * size, size), rng, last=0.1),
        "keys": rng.standard_normal((groups, size)) / np.sqrt(size),
        "groups": rng.standard_normal((groups, size)) / np.sqrt(size),
        "extra": np.zeros(inputs.extras),
        "log_strength": np.zeros(1),
        "log_scale": np.zeros(1),
        "bias": np.zeros(1),
    }
