"""The hybrid learner: one user encoder over what known items are to others and new items say."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Float64, Int32

from metarec.hybrid import (
    OUT,
    SHARED,
    TOWER,
    USER,
    Batch,
    Interactions,
    Neighbours,
    Sizes,
    contents,
    first_encoder,
    first_tower,
    rows_of,
    with_new_inputs,
)
from metarec.jax.compiled import compiled
from metarec.jax.devices import choose_devices
from metarec.jax.training import autograd, train
from metarec.kept import Kept
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop

Parameters = Mapping[str, Array]
_NONE = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Adapted:
    """T users after their support sets.

    Args:
        users: [T, M, E + 1] vector of each user, and a 1 for the items' biases.
        neighbours: [T, n_candidates] what is added to the logits, None for nothing.
        meta_parameters: of the learner.
    """

    users: Float64[np.ndarray, "t m e_plus_1"]
    neighbours: Float64[np.ndarray, "t n_candidates"] | None
    meta_parameters: MetaParameters


class Hybrid:
    """The twin of `metarec.torch.hybrid.Hybrid`, where method and arguments are described."""

    serves: ClassVar[frozenset[str]] = frozenset({"user"})
    accepts: ClassVar[frozenset[str]] = frozenset({"binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "support"

    def __init__(
        self,
        members: int = 2,
        embedding_size: int = 128,
        hidden_size: int = 256,
        tower_size: int = 128,
        dropout: float = 0.5,
        tower_dropout: float = 0.3,
        task_batch: int = 256,
        pseudo_cold: int = 400,
        text_weight: float = 0.5,
        attributes: bool = True,
        knn_weight: float = 0.25,
        knn_neighbours: int = 300,
        knn_shrinkage: float = 100.0,
        warm_steps: int = 2000,
        warm_learning_rate: float = 3e-3,
        steps: int = 800,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        validate_every: int = 400,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        self.sizes = Sizes(
            members, embedding_size, hidden_size, tower_size, dropout, tower_dropout, task_batch,
            pseudo_cold, text_weight, attributes,
        )  # fmt: skip
        self.neighbours = Neighbours(knn_weight, knn_neighbours, knn_shrinkage)
        self.warm = OuterLoop(warm_steps, warm_learning_rate, 0.0, max(warm_steps, 1), cosine=True)
        self.outer = OuterLoop(
            steps, learning_rate, weight_decay, validate_every, patience, cosine=True
        )
        self.devices = choose_devices(device)
        self.ignore_support = False
        self._kept: Kept[np.ndarray] = Kept()

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Trains the user encoder, then the tower."""
        sizes, devices = self.sizes, self.devices
        interactions = Interactions(training, sizes)
        likes, known = interactions.likes, interactions.known
        content = contents(training, sizes, likes)
        # by itself, without looks: new items cannot be ranked yet
        alone = replace(training, validate=None, checkpointer=None, log=[])
        found = train(
            first_encoder(sizes, likes, training.n_candidates, training.seed),
            autograd(lambda learned, tasks, shared, program: warm_loss(learned, tasks)),
            _batches(interactions.warm, {}), alone, self.warm, {}, devices, "Hybrid, users",
        )  # fmt: skip
        statistics = {
            **found,
            f"{USER}in": with_new_inputs(found[f"{USER}in"], content, known),
            "known": known,
            "content": content,
            **self.neighbours.fit(training),
        }
        fixed = {
            name: jnp.asarray(value)
            for name, value in statistics.items()
            if name.startswith(USER) or name in ("known", "content")
        }

        def draw(step: int) -> Batch:
            return interactions.cold(step, content.shape[1])

        return train(
            first_tower(sizes, content, known, likes, found["items"], training.seed),
            autograd(lambda learned, tasks, shared, program: cold_loss(learned, tasks, shared)),
            _batches(draw, fixed), training, self.outer, statistics, devices, "Hybrid, new items",
        )  # fmt: skip

    def restore(self, training: Training) -> None:
        """Needs nothing that is not in the meta-parameters."""

    def without_adaptation(self) -> Hybrid:
        """The same learner with every support set ignored."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Encodes each user."""
        rows, mask = rows_of(support, len(meta_parameters["content"]), self.ignore_support)
        each = (len(rows), self.sizes.members, rows.shape[1])
        rows, mask = (np.broadcast_to(one[:, None], each) for one in (rows, mask))
        users = np.asarray(_encoded(_of(meta_parameters, USER), rows, mask), np.float64)
        users = np.concatenate([users, np.ones_like(users[..., :1])], axis=-1)
        neighbours = self.neighbours.of(meta_parameters, support, self.ignore_support)
        return Adapted(users, neighbours, meta_parameters)

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] logits of the candidates."""
        meta = fast_weights.meta_parameters
        items = self._kept.get(meta, None, _NONE, lambda: _items(meta))[:, candidates]
        # in float64: the number of tasks that are scored together must not show in the rounding
        users = fast_weights.users.reshape(len(fast_weights.users), -1)
        logits = users @ items.transpose(0, 2, 1).reshape(users.shape[1], -1) / self.sizes.members
        if fast_weights.neighbours is not None:
            logits += fast_weights.neighbours[:, candidates]
        return logits.astype(np.float32)


def _items(meta: MetaParameters) -> Float64[np.ndarray, "m n_candidates e_plus_1"]:
    """Vectors and biases of all items: their own if known, else what the tower gives."""
    found = np.array(_towered(_of(meta, TOWER), meta["content"]), np.float64)
    found[:, meta["known"]] = meta["items"]
    return found


def encode(
    parameters: Parameters,
    support: Array,
    mask: Array,
    keep_input: Array | float = 1.0,
    keep_hidden: Array | float = 1.0,
) -> Array:
    """[T, M, E] vectors of users; see `metarec.torch.hybrid.encode`."""
    embeddings = parameters[f"{USER}in"]
    members = jnp.arange(len(embeddings))[:, None]
    shots = embeddings[members, support]
    number = jnp.maximum(mask.sum(-1, keepdims=True), 1)
    values = (shots * mask[..., None]).sum(2) / jnp.sqrt(number)
    hidden = jax.nn.gelu(_layer(parameters, f"{USER}0", values * keep_input), approximate=False)
    return _layer(parameters, f"{USER}skip", values) + _layer(
        parameters, f"{USER}1", hidden * keep_hidden
    )


def tower(
    parameters: Parameters,
    content: Array,
    keep_content: Array | float = 1.0,
    keep_tower: Array | float = 1.0,
) -> Array:
    """[M, C, E + 1] vectors and biases of items; see `metarec.torch.hybrid.tower`."""
    members = len(parameters[f"{TOWER}linear.bias"])
    each = jnp.broadcast_to(content[:, None], (len(content), members, content.shape[1]))
    hidden = jax.nn.gelu(_layer(parameters, f"{TOWER}0", each * keep_content), approximate=False)
    found = _layer(parameters, f"{TOWER}linear", each) + _layer(
        parameters, f"{TOWER}1", hidden * keep_tower
    )
    return found.swapaxes(0, 1)


def warm_loss(parameters: Parameters, batch: Mapping[str, Array]) -> Array:
    """Loss of the first phase: known items, ranked by vectors of their own."""
    users = encode(
        parameters, batch["support"], batch["mask"], batch["keep_input"], batch["keep_hidden"]
    )
    return multinomial(users, parameters["items"], batch["likes"], batch["asked"])


def cold_loss(
    parameters: Parameters, batch: Mapping[str, Array], shared: Mapping[str, Array]
) -> Array:
    """Loss of the second phase: items that are taken for new, ranked by what the tower gives."""
    users = encode(shared, batch["support"], batch["mask"])
    content = shared["content"][shared["known"][shared["items"]]]
    items = tower(parameters, content, shared["keep_content"], shared["keep_tower"])
    return multinomial(users, items, batch["likes"], batch["asked"])


def multinomial(users: Array, items: Array, likes: Array, asked: Array) -> Array:
    """Negative log-likelihood of a like, summed over members.

    Args:
        users: [T, M, E].
        items: [M, C, E + 1] vectors and biases.
        likes: [T, M, C] 1 and 0.
        asked: [T, M, C] what is ranked.
    """
    logits = jnp.einsum("tme,mce->tmc", users, items[..., :-1]) + items[..., -1]
    logits = jnp.where(asked, logits, OUT)
    number = likes.sum(-1)
    found = number * jax.nn.logsumexp(logits, axis=-1) - (likes * logits).sum(-1)
    return (found.sum(0) / jnp.maximum(number.sum(0), 1)).sum()


_encoded, _towered = compiled(encode), compiled(tower)


def _layer(parameters: Parameters, name: str, values: Array) -> Array:
    """A linear layer of each member: [..., M, in] to [..., M, out]."""
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    return jnp.einsum("tmi,mio->tmo", values, weight) + bias


def _of(arrays: MetaParameters, prefix: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in arrays.items() if name.startswith(prefix)}


def _batches(draw: Callable[[int], Batch], fixed: Parameters) -> Callable[[int], Any]:
    def batch_at(step: int) -> tuple[dict[str, Any], dict[str, Any], None]:
        batch = draw(step)
        drawn = {one.name: getattr(batch, one.name) for one in fields(batch)}
        shared = {name: drawn.pop(name) for name in SHARED}
        return drawn, {**shared, **fixed}, None

    return batch_at
