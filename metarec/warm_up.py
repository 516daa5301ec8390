"""What warm-up learners begin with, draw and see, whatever computes them.

Such a learner has a base model of factors and embeddings of new items beside it
(`metarec.torch.warm_up`, `metarec.jax.warm_up`). Here is what PyTorch and JAX would else write
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32

from metarec.amortised import initial_mlp
from metarec.errors import LearnerError
from metarec.factor_inputs import FactorInputs
from metarec.learner import Support

Target = Literal["base", "labels"]
"""What the towers of DropoutNet are trained towards."""
Initial = Callable[[FactorInputs, np.random.Generator], Mapping[str, np.ndarray]]
"""Draws the first parameters beside scale and bias; a name must not start with `inputs.`."""

LOGITS = 4.0
"""How far apart the logits of 1 and 0 lie, which the products of factors predict."""
DEVIATION = 0.1
"""Standard deviation that CVAR's untrained networks give, and to which weight decay draws it."""
GENERATOR = "generator"
"""What the names of GAR's generator begin with; all others are the discriminator's."""


def check_settings(
    cold_share: float = 0.5,
    warm_up_steps: int = 0,
    warm_up_learning_rate: float = 0.0,
    cold_weight: float = 0.0,
) -> None:
    """Raises LearnerError if an argument that warm-up learners share is out of range."""
    if not 0 < cold_share <= 1:
        raise LearnerError(f"learner.cold_share={cold_share}: a share in (0, 1] is needed")
    if not 0 <= cold_weight <= 1:
        raise LearnerError(f"learner.cold_weight={cold_weight} must be in [0, 1]")
    if warm_up_steps < 0 or warm_up_learning_rate < 0:
        raise LearnerError(
            f"learner.warm_up_steps={warm_up_steps} and learner.warm_up_learning_rate="
            f"{warm_up_learning_rate} must not be below 0"
        )


def first_parameters(initial: Initial, inputs: FactorInputs, seed: int) -> dict[str, np.ndarray]:
    """The first parameters of a training with this seed, `log_scale` and `bias` [1] included."""
    drawn = initial(inputs, np.random.default_rng([seed, 2]))
    first = {**drawn, "log_scale": np.zeros(1), "bias": np.zeros(1)}
    return {name: np.asarray(value, dtype=np.float32) for name, value in first.items()}


def base_statistics(inputs: FactorInputs) -> dict[str, np.ndarray]:
    """What learners know of the base model, float32.

    Returns:
        `users.mean`, `users.scale`, `items.mean` and `items.scale` [F] of the factors of
        meta-train, and `base.scale` and `base.bias`, which bring their products to the scale of
        scores.
    """
    scale, bias = (1.0, 0.0) if inputs.feedback == "rating" else (LOGITS, -LOGITS / 2)
    moments = {
        f"{side}.{name}": inputs.of_side(side, name)
        for side in ("users", "items")
        for name in ("mean", "scale")
    }
    found = {"base.scale": scale, "base.bias": bias, **moments}
    return {name: np.asarray(value, dtype=np.float32) for name, value in found.items()}


def of_support(
    inputs: FactorInputs, support: Support, ignore_support: bool = False
) -> tuple[np.ndarray, ...]:
    """What is known of T tasks by their support sets.

    Args:
        inputs: of the learner.
        support: of T tasks; what stands beside its shots does not matter.
        ignore_support: take no notice of any shot, as if K were 0: the row without adaptation.

    Returns:
        In user tasks [T, F] factors, folded in, and [T, D] profiles; in item tasks [T, D] contents,
        [T, F] factors, folded in, [T, K, F] factors of the shots, [T, K] labels and [T, K] mask.
    """
    if ignore_support:
        support = replace(support, mask=np.zeros_like(support.mask))
    profile, content = inputs.contents(support)
    folded = inputs.fold_in(support)
    if content is None:
        return folded, profile
    return content, folded, *inputs.shots(support), support.mask


def of_catalogue(
    inputs: FactorInputs, candidates: Int32[np.ndarray, " c"]
) -> tuple[np.ndarray, ...]:
    """What is known of N candidates.

    Returns:
        In user tasks [N, D] contents and [N, F] factors of the items, and [N] whether the base
        model has some; in item tasks [N, F] factors and [N, D] profiles of the users.
    """
    vectors, factors = inputs.text.vectors(candidates), inputs["factors"][candidates]
    if inputs.kind == "user":
        return vectors, factors, inputs.known(candidates)
    return factors, vectors


def choices(seed: int, step: int) -> np.random.Generator:
    """Source of the random choices of an outer step."""
    return np.random.default_rng([seed, 4, step])


def chosen(
    rng: np.random.Generator, shape: tuple[int, ...], share: float
) -> Bool[np.ndarray, "*shape"]:
    """True for a share, each by itself: what is seen as new, or loses its factors."""
    return rng.random(shape) < share


def latent_noise(seed: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """[2, *shape] standard normal noise of CVAR's encoder and of its prior at an outer step."""
    return np.random.default_rng([seed, 5, step]).standard_normal((2, *shape))


def initial_meta_embedding(
    inputs: FactorInputs, rng: np.random.Generator, hidden_sizes: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Draws the generator of Meta-Embedding."""
    sizes = (inputs.content_size, *hidden_sizes, inputs.size)
    return initial_mlp("generator", sizes, rng, last=0.1)


def initial_mwuf(
    inputs: FactorInputs, rng: np.random.Generator, hidden_sizes: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Draws the scaling and the shifting network of MWUF."""
    size = inputs.size
    return {
        **initial_mlp("scaling", (inputs.content_size, *hidden_sizes, size), rng, last=0.1),
        **initial_mlp("shifting", (size, *hidden_sizes, size), rng, last=0.1),
    }


def check_dropoutnet(dropout: float, target: str) -> None:
    """Raises LearnerError unless these are arguments of DropoutNet."""
    if not 0 <= dropout <= 1 or target not in ("base", "labels"):
        raise LearnerError(
            f"learner.dropout={dropout} must be in [0, 1] and learner.target={target!r} one of "
            "base, labels"
        )


def initial_dropoutnet(
    inputs: FactorInputs,
    rng: np.random.Generator,
    hidden_sizes: tuple[int, ...],
    output_size: int,
) -> dict[str, np.ndarray]:
    """Draws both towers of DropoutNet."""
    sizes = (inputs.size + inputs.content_size, *hidden_sizes, output_size)
    return {
        **initial_mlp("user_tower", sizes, rng, last=0.3),
        **initial_mlp("item_tower", sizes, rng, last=0.3),
    }


def check_cvar(reconstruction_weight: float, alignment_weight: float, latent_size: int) -> None:
    """Raises LearnerError unless these are arguments of CVAR."""
    if reconstruction_weight < 0 or alignment_weight < 0 or latent_size < 1:
        raise LearnerError(
            f"learner.reconstruction_weight={reconstruction_weight} and "
            f"learner.alignment_weight={alignment_weight} must not be below 0, and "
            f"learner.latent_size={latent_size} must be at least 1"
        )


def initial_cvar(
    inputs: FactorInputs,
    rng: np.random.Generator,
    hidden_sizes: tuple[int, ...],
    latent_size: int,
) -> dict[str, np.ndarray]:
    """Draws encoder, prior and decoder of CVAR."""
    size, latent = inputs.size, latent_size
    return {
        **initial_mlp("encoder", (size, *hidden_sizes, 2 * latent), rng),
        **initial_mlp("prior", (inputs.content_size, *hidden_sizes, 2 * latent), rng),
        **initial_mlp("decoder", (latent + 1, *hidden_sizes, size), rng, last=0.1),
    }


def check_gar(fake_weight: float, similarity_weight: float) -> None:
    """Raises LearnerError unless these are arguments of GAR."""
    if not (0 <= fake_weight <= 1 and 0 <= similarity_weight <= 1):
        raise LearnerError(
            f"learner.fake_weight={fake_weight} and learner.similarity_weight="
            f"{similarity_weight} must be in [0, 1]"
        )


def initial_gar(
    inputs: FactorInputs, rng: np.random.Generator, hidden_sizes: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Draws the generator of GAR and the two networks of its discriminator."""
    size = inputs.size
    return {
        **initial_mlp(GENERATOR, (inputs.content_size, *hidden_sizes, size), rng, last=0.1),
        **initial_mlp("of_users", (size, *hidden_sizes, size), rng, last=0.1),
        **initial_mlp("of_items", (size, *hidden_sizes, size), rng, last=0.1),
    }
