"""The weights of scorers by name: how they begin, which are last; the same for every framework."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import numpy as np

from metarec.inputs import Inputs
from metarec.loops import RATE, InnerLoop

ScorerName = Literal[
    "mlp", "mlp_item", "cosine", "dot", "bilinear", "fusion_fixed", "fusion_learned",
    "fusion_attention",
]  # fmt: skip
FusionWeights = Literal["fixed", "learned", "attention"]

PRODUCT_SCALE = 3.0
SIMILARITY_SCALE = 10.0
"""They bring the columns that an MLP sees to about the same size."""
SOFTENING = 1e-4
"""Added to mean squares before roots are taken: the cosine of a zero vector is 0, and smooth."""
INITIAL_FORM = 3.0
ATTENTION_SIZE = 16
LAST_OF_SIMILARITY = frozenset({"prior", "log_temperature", "extra", "bias"})
"""What ANIL adapts: all but what embeds."""


def initial_layers(sizes: tuple[int, ...], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws the initial weights of an MLP (He et al. 2015, fan-in; a small last layer).

    Args:
        sizes: width of the input and of each layer.
        rng: source of the draw.

    Returns:
        `layer<i>.weight` [in, out] and `layer<i>.bias` [out], float32.
    """
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        scale = np.sqrt(1 / fan_in) * (0.1 if layer == len(sizes) - 2 else 1)
        weight = rng.standard_normal((fan_in, fan_out)) * scale
        parameters[f"layer{layer}.weight"] = weight.astype(np.float32)
        parameters[f"layer{layer}.bias"] = np.zeros(fan_out, np.float32)
    return parameters


def initial_mlp_scorer(
    inputs: Inputs, hidden_sizes: tuple[int, ...], context: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws an MLP on the candidate and, with `context`, the context and what both share."""
    size = inputs.size + inputs.extras
    if context:
        size += inputs.channels * (2 * inputs.size + 1)
    return initial_layers((size, *hidden_sizes, 1), rng)


def initial_dot(
    inputs: Inputs, embedding_size: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws `projection` [C, D, S], `prior` [S], `extra` [E] where E > 0, and `bias` [1]."""
    projection = _initial_projection(inputs, embedding_size, rng)
    return _with_terms(inputs, rng, projection=projection)


def initial_cosine(
    inputs: Inputs, embedding_size: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws what `initial_dot` draws and `log_temperature` [1], the log of the cosine's factor.

    The cosine of two random directions varies by 1 / sqrt(S); the factor begins at half of the
    inverse.
    """
    projection = _initial_projection(inputs, embedding_size, rng)
    temperature = np.array([np.log(0.5 * np.sqrt(embedding_size))])
    return _with_terms(inputs, rng, projection=projection, log_temperature=temperature)


def initial_bilinear(inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws `interaction` [C, D, D], `prior` [D], `extra` [E] where E > 0, and `bias` [1]."""
    interaction = np.tile(INITIAL_FORM * np.eye(inputs.size), (inputs.channels, 1, 1))
    return _with_terms(inputs, rng, interaction=interaction)


def initial_fusion(
    inputs: Inputs,
    hidden_sizes: tuple[int, ...],
    weights: FusionWeights,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Draws the MLP of a fusion and what weighs the sources.

    The first layer begins 1 + C times larger on z, which is a mean of 1 + C sources: so large is
    each source's part as if it stood in z alone.

    Args:
        inputs: what the scorer will see.
        hidden_sizes: width of each hidden layer.
        weights: `fixed`, `learned` or `attention`.
        rng: source of the draw.

    Returns:
        `layer<i>.weight` [in, out] and `layer<i>.bias` [out]; `fusion.logits` [1 + C] where
        weights are not fixed, all 0; `fusion.query` and `fusion.key` [D, A] for attention.
    """
    parameters = initial_layers((inputs.size + inputs.extras, *hidden_sizes, 1), rng)
    parameters["layer0.weight"][: inputs.size] *= 1 + inputs.channels
    if weights != "fixed":
        parameters["fusion.logits"] = np.zeros(1 + inputs.channels)
    if weights == "attention":
        for name in ("fusion.query", "fusion.key"):
            draw = rng.standard_normal((inputs.size, ATTENTION_SIZE))
            parameters[name] = 0.5 * draw / np.sqrt(inputs.size)
    return {name: value.astype(np.float32) for name, value in parameters.items()}


def initial_attributes(
    offsets: tuple[int, ...],
    embedding_size: int,
    hidden_sizes: tuple[int, ...],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Draws `embedding` [A, S] of attributes from a standard normal, and an MLP on an item's.

    Args:
        offsets: where the values of each attribute start among the A, and the end of the last.
        embedding_size: S, of each attribute's embedding.
        hidden_sizes: width of each hidden layer.
        rng: source of the draw.
    """
    embedding = rng.standard_normal((offsets[-1], embedding_size))
    sizes = ((len(offsets) - 1) * embedding_size, *hidden_sizes, 1)
    return {"embedding": embedding.astype(np.float32), **initial_layers(sizes, rng)}


def rates_by_weight(weights: Mapping[str, np.ndarray], rate: float) -> dict[str, np.ndarray]:
    """`rate.<weight>` of the shape of each weight, all the same: where Meta-SGD begins."""
    return {RATE + name: np.full_like(value, rate) for name, value in weights.items()}


def rates_by_layer(weights: Mapping[str, np.ndarray], inner: InnerLoop) -> dict[str, np.ndarray]:
    """`rate.<layer>` [steps] of each layer, all the same: where MAML++ begins."""
    rate = np.full(inner.steps, inner.learning_rate, np.float32)
    return {RATE + layer_of(name): rate.copy() for name in weights}


def layer_of(weight: str) -> str:
    """`layer0` of `layer0.weight`."""
    return weight.partition(".")[0]


def depth(names: Iterable[str]) -> int:
    """Number of layers of the MLP among weights."""
    return 1 + max(
        int(name.removeprefix("layer").removesuffix(".weight"))
        for name in names
        if name.startswith("layer") and name.endswith(".weight")
    )


def last_layer(names: Iterable[str]) -> frozenset[str]:
    """Weight and bias of the last layer of the MLP among weights."""
    number = depth(names) - 1
    return frozenset({f"layer{number}.weight", f"layer{number}.bias"})


def first_layer(parameters: Iterable[str], names: Collection[str] | None) -> int:
    """The lowest layer that adapts: of `names`, or of all where that is None."""
    if names is None:
        return 0
    return min(layer for layer in range(depth(parameters)) if f"layer{layer}.weight" in names)


def decision_layers(names: Iterable[str]) -> frozenset[str]:
    """The layers among weights, without the embeddings: what MeLU adapts."""
    return frozenset(name for name in names if name.startswith("layer"))


def _initial_projection(inputs: Inputs, size: int, rng: np.random.Generator) -> np.ndarray:
    """[C, D, S]: all channels begin in one space; texts and profiles come from one encoder."""
    first = rng.standard_normal((inputs.size, size)) / np.sqrt(inputs.size)
    return np.stack([first, *[0.5 * first] * (inputs.channels - 1)])


def _with_terms(
    inputs: Inputs, rng: np.random.Generator, **weights: np.ndarray
) -> dict[str, np.ndarray]:
    """The weights with prior, extras and bias beside them, float32."""
    size = next(iter(weights.values())).shape[-1]
    drawn: dict[str, np.ndarray] = {
        **weights,
        "prior": 0.3 * rng.standard_normal((size,)),
        "bias": np.zeros(1),
    }
    if inputs.extras:
        drawn["extra"] = np.zeros(inputs.extras)
    return {name: value.astype(np.float32) for name, value in drawn.items()}
