"""The hybrid learner: one user encoder over what known items are to others and new items say."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32
from torch import Tensor
from torch.nn import functional

from metarec.hybrid import (
    KNN,
    OUT,
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
from metarec.kept import Kept
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import OuterLoop
from metarec.torch import batches
from metarec.torch.training import Gradients, autograd, choose_device, train

Parameters = Mapping[str, Tensor]
_NONE = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Adapted:
    """T users after their support sets.

    Args:
        users: [T, M, E + 1] vector of each user, and a 1 for the items' biases.
        neighbours: [T, n_candidates] what is added to the logits, None for nothing.
        meta_parameters: of the learner.
    """

    users: Float64[Tensor, "t m e_plus_1"]
    neighbours: Float64[np.ndarray, "t n_candidates"] | None
    meta_parameters: MetaParameters


class Hybrid:
    """Our own: an episodic user encoder, a tower that places new items in its space, and item-kNN.

    The first phase meets episodes of warm users. A set encoder (deep sets, Zaheer et al. 2017)
    with an embedding of each known item for each label sums the shots, over the square root of
    their number, and gives the user's vector by a linear map and a hidden layer; logits are its
    products with the known items' vectors, plus biases that begin with their log likes. The loss is
    the multinomial log-likelihood of all that the user liked outside of the support (Liang et al.
    2018, equation 2), summed over likes and not averaged over users.

    The second phase takes some known items for new in each batch, and ranks them by what a tower
    makes of their contents: text feature, categories, and how liked other items of their people or
    brands are. The encoder stays as it is. The tower begins with a ridge regression onto the known
    items' vectors and log likes. So a user adapts in one space, in which known items are placed by
    who liked them and new ones by what they are.

    Scores are means over members, trained side by side on users of their own; known items have the
    standardised score of item-kNN added. A new item in a support set gets an input embedding by
    ridge regression on its contents. Without a shot, the order is that of a user of whom nothing is
    known: popularity among known items, popularity predicted from contents among new ones.

    Serves user tasks. Which parts matter is in `paper/tables/hybrid_blocks.md`.

    Args:
        members: number of models whose scores are averaged.
        embedding_size: length of the vectors.
        hidden_size: hidden units of the user encoder.
        tower_size: hidden units of the tower.
        dropout: of the user encoder.
        tower_dropout: of the tower.
        task_batch: users of a batch, for each member.
        pseudo_cold: known items that a batch of the second phase takes for new, at most a third.
        text_weight: scale of the text features beside the attributes; 0 to leave them out.
        attributes: whether the tower sees categories and entities.
        knn_weight: standard deviations of item-kNN in the logits; 0 to leave it out.
        knn_neighbours: known items that each liked item votes for.
        knn_shrinkage: of the cosine of item-kNN.
        warm_steps: outer steps of the first phase.
        warm_learning_rate: of the first phase.
        steps: outer steps of the second phase, at the most.
        learning_rate: of the second phase.
        weight_decay: of the second phase.
        validate_every: outer steps of the second phase between two looks at meta-validation.
        patience: looks without improvement before stopping.
        device: `auto`, `cpu`, `cuda`, …
    """

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
        self.device = choose_device(device)
        self.ignore_support = False
        self._kept: Kept[Tensor] = Kept()

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Trains the user encoder, then the tower."""
        sizes, device = self.sizes, self.device
        interactions = Interactions(training, sizes)
        likes, known = interactions.likes, interactions.known
        content = contents(training, sizes, likes)
        # by itself, without looks: new items cannot be ranked yet
        alone = replace(training, validate=None, checkpointer=None, log=[])
        first = first_encoder(sizes, likes, training.n_candidates, training.seed)
        found = train(
            first, _gradients(interactions.warm, warm_loss, {}, device, self.warm.steps), alone,
            self.warm, {}, device, "Hybrid, users",
        )  # fmt: skip
        statistics = {
            **found,
            f"{USER}in": with_new_inputs(found[f"{USER}in"], content, known),
            "known": known,
            "content": content,
            **self.neighbours.fit(training),
        }
        fixed = _tensors(statistics, device)

        def draw(step: int) -> Batch:
            return interactions.cold(step, content.shape[1])

        return train(
            first_tower(sizes, content, known, likes, found["items"], training.seed),
            _gradients(draw, cold_loss, fixed, device, self.outer.steps), training, self.outer,
            statistics, device, "Hybrid, new items",
        )  # fmt: skip

    def restore(self, training: Training) -> None:
        """Needs nothing that is not in the meta-parameters."""

    def without_adaptation(self) -> Hybrid:
        """The same learner with every support set ignored."""
        twin = copy.copy(self)
        twin.ignore_support = True
        return twin

    @torch.no_grad()
    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Encodes each user."""
        rows, mask = rows_of(support, len(meta_parameters["content"]), self.ignore_support)
        # in float64, here and below: where a user stands among others must not show in the rounding
        parameters = {
            # the table of embeddings stays: what is looked up there becomes float64 by the mask
            name: value if name == f"{USER}in" else value.double()
            for name, value in _tensors(meta_parameters, self.device, USER).items()
        }
        each = (len(rows), self.sizes.members, rows.shape[1])
        rows, mask = (np.broadcast_to(one[:, None], each).copy() for one in (rows, mask))
        users = encode(
            parameters,
            batches.on_device(rows, self.device),
            batches.on_device(mask, self.device).double(),
        )
        neighbours = self.neighbours.of(meta_parameters, support, self.ignore_support)
        return Adapted(_with_one(users), neighbours, meta_parameters)

    @torch.no_grad()
    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] logits of the candidates."""
        meta = fast_weights.meta_parameters
        items = self._kept.get(meta, None, _NONE, lambda: _items(meta, self.device))
        logits = torch.einsum("tme,mce->tc", fast_weights.users, items[:, candidates]).cpu().numpy()
        logits /= self.sizes.members
        if fast_weights.neighbours is not None:
            logits += fast_weights.neighbours[:, candidates]
        return logits.astype(np.float32)


def _items(
    meta: MetaParameters, device: torch.device
) -> Float64[Tensor, "m n_candidates e_plus_1"]:
    """Vectors and biases of all items: their own if known, else what the tower gives."""
    weights = _tensors(meta, device)
    found = tower(weights, weights["content"]).double()
    found[:, weights["known"]] = weights["items"].double()
    return found


def encode(
    parameters: Parameters,
    support: Tensor,
    mask: Tensor,
    keep_input: Tensor | float = 1.0,
    keep_hidden: Tensor | float = 1.0,
) -> Float[Tensor, "t m e"]:
    """Vectors of users.

    Args:
        parameters: of the user encoder.
        support: [T, M, K] rows of the input embeddings; see `metarec.hybrid.Batch`.
        mask: [T, M, K].
        keep_input: [T, M, E] what dropout keeps of the hidden layer's input.
        keep_hidden: [T, M, H] and of its units.
    """
    embeddings = parameters[f"{USER}in"]
    members, rows, size = embeddings.shape
    offset = rows * torch.arange(members, device=support.device)[:, None]
    shots = functional.embedding(support + offset, embeddings.reshape(members * rows, size))
    number = mask.sum(dim=-1, keepdim=True).clamp(min=1)
    values = (shots * mask.unsqueeze(-1)).sum(dim=2) / number.sqrt()
    hidden = functional.gelu(_layer(parameters, f"{USER}0", values * keep_input))
    found: Tensor = _layer(parameters, f"{USER}skip", values) + _layer(
        parameters, f"{USER}1", hidden * keep_hidden
    )
    return found


def tower(
    parameters: Parameters,
    content: Tensor,
    keep_content: Tensor | None = None,
    keep_tower: Tensor | float = 1.0,
) -> Float[Tensor, "m c e_plus_1"]:
    """Vectors and biases of items by their contents.

    Args:
        parameters: of the tower.
        content: [C, Z].
        keep_content: [C, M, Z] what dropout keeps of the hidden layer's input.
        keep_tower: [C, M, H] and of its units.
    """
    members = len(parameters[f"{TOWER}linear.bias"])
    content = content.unsqueeze(1).expand(-1, members, -1)
    seen = content if keep_content is None else content * keep_content
    hidden = functional.gelu(_layer(parameters, f"{TOWER}0", seen))
    found = _layer(parameters, f"{TOWER}linear", content) + _layer(
        parameters, f"{TOWER}1", hidden * keep_tower
    )
    return found.transpose(0, 1)


def warm_loss(parameters: Parameters, batch: dict[str, Tensor]) -> Tensor:
    """Loss of the first phase: known items, ranked by vectors of their own."""
    users = encode(
        parameters, batch["support"], batch["mask"], batch["keep_input"], batch["keep_hidden"]
    )
    return multinomial(users, parameters["items"], batch["likes"], batch["asked"])


def cold_loss(parameters: Parameters, batch: dict[str, Tensor]) -> Tensor:
    """Loss of the second phase: items that are taken for new, ranked by what the tower gives."""
    with torch.no_grad():
        users = encode(parameters, batch["support"], batch["mask"])
    content = parameters["content"][parameters["known"][batch["items"]]]
    items = tower(parameters, content, batch["keep_content"], batch["keep_tower"])
    return multinomial(users, items, batch["likes"], batch["asked"])


def multinomial(users: Tensor, items: Tensor, likes: Tensor, asked: Tensor) -> Tensor:
    """Negative log-likelihood of a like, summed over members.

    Args:
        users: [T, M, E].
        items: [M, C, E + 1] vectors and biases.
        likes: [T, M, C] 1 and 0.
        asked: [T, M, C] what is ranked.
    """
    logits = torch.einsum("tme,mce->tmc", users, items[..., :-1]) + items[..., -1]
    logits = logits.masked_fill(~asked, OUT)
    number = likes.sum(dim=-1)
    found = number * torch.logsumexp(logits, dim=-1) - (likes * logits).sum(dim=-1)
    return (found.sum(dim=0) / number.sum(dim=0).clamp(min=1)).sum()


def _layer(parameters: Parameters, name: str, values: Tensor) -> Tensor:
    """A linear layer of each member: [..., M, in] to [..., M, out]."""
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    return torch.einsum("tmi,mio->tmo", values, weight) + bias


def _with_one(users: Tensor) -> Tensor:
    return torch.cat([users, torch.ones_like(users[..., :1])], dim=-1)


def _gradients(
    draw: Callable[[int], Batch],
    loss: Callable[[Parameters, dict[str, Tensor]], Tensor],
    fixed: Parameters,
    device: torch.device,
    steps: int,
) -> Gradients:
    def staged(step: int) -> dict[str, Tensor]:
        batch = draw(step)
        return {one.name: batches.staged(getattr(batch, one.name), device) for one in fields(batch)}

    at = batches.ahead(staged, device, steps)
    return autograd(lambda learned, step: loss({**fixed, **learned}, at(step)))


def _tensors(arrays: MetaParameters, device: torch.device, prefix: str = "") -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(np.asarray(value)).to(device)
        for name, value in arrays.items()
        if name.startswith(prefix) and not name.startswith(KNN)
    }
