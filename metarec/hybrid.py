"""What the hybrid learner begins with, draws and reads, whatever computes it.

The learner is `metarec.torch.hybrid`, and `metarec.jax.hybrid`. Here is what both would else write
twice: the contents of items, the batches of both phases, the first parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, Shaped
from scipy.sparse import csr_array, vstack

from metarec.errors import LearnerError
from metarec.learner import MetaParameters, Support, Training, require_features
from metarec.neighbours import pack, similarities, unpack

USER, TOWER, KNN = "user.", "tower.", "knn."
"""Prefixes of the names of weights: of the user encoder, of the tower, and of the neighbours."""

SHARED = ("items", "keep_content", "keep_tower")
"""What the users of a batch share."""

OUT = -1e4
"""Logit of what is not ranked."""

_CLIP = 5.0
"""Standard deviations at which attributes are cut off."""
_RIDGE = 300.0
"""Weight of the squared norm in the regressions on the content that training begins with."""
_BLOCK = 256
"""Known items whose similarities to all are held in memory at once."""
_SPREAD = 0.05
"""Standard deviation of the first embeddings."""


@dataclass(frozen=True)
class Sizes:
    """Settings of the hybrid learner that shape its weights and batches.

    Args:
        members: number of models whose scores are averaged.
        embedding_size: length of the vectors of users and items.
        hidden_size: of the user encoder.
        tower_size: hidden units of the tower.
        dropout: share of the user encoder's inputs and hidden units left out in training.
        tower_dropout: likewise of the tower's.
        task_batch: users of a batch.
        pseudo_cold: known items that a batch of the second phase takes for new.
        text_weight: scale of the text features beside standardised attributes; 0 to leave them out.
        attributes: whether the tower sees categories and entities.
    """

    members: int
    embedding_size: int
    hidden_size: int
    tower_size: int
    dropout: float
    tower_dropout: float
    task_batch: int
    pseudo_cold: int
    text_weight: float
    attributes: bool

    def __post_init__(self) -> None:
        least = {
            "members": 1, "embedding_size": 1, "hidden_size": 1, "tower_size": 1, "task_batch": 1,
            "pseudo_cold": 2, "text_weight": 0,
        }  # fmt: skip
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise LearnerError(f"learner.{name}={getattr(self, name)} must be at least {bound}")
        for name in ("dropout", "tower_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise LearnerError(
                    f"learner.{name}={getattr(self, name)}: a share in [0, 1) is needed"
                )
        if not (self.attributes or self.text_weight):
            raise LearnerError(
                "learner.text_weight=0 with learner.attributes=false leaves nothing to know a new "
                "item by"
            )


@dataclass(frozen=True)
class Batch:
    """Users with a support set each, for every of M members, and the items that they liked.

    Args:
        support: [T, M, K] row of each shot in the input embeddings, `label * n_candidates +
            candidate`; 0 beside the shots.
        mask: [T, M, K] 1 where there is a shot, else 0.
        likes: [T, M, C] 1 for the items liked outside of the support, else 0.
        asked: [T, M, C] whether an item is ranked; those of the support are not.
        keep_input: [T, M, E] what is kept of the encoder's input, scaled; ones in the second phase.
        keep_hidden: [T, M, H] likewise of its hidden units.
        items: [C] positions among the known items of those that are ranked.
        keep_content: [C, M, Z] likewise of the tower's input; [0, M, Z] in the first phase.
        keep_tower: [C, M, H'] likewise of its hidden units.
    """

    support: Int32[np.ndarray, "t m k"]
    mask: Float32[np.ndarray, "t m k"]
    likes: Float32[np.ndarray, "t m c"]
    asked: Bool[np.ndarray, "t m c"]
    keep_input: Float32[np.ndarray, "t m e"]
    keep_hidden: Float32[np.ndarray, "t m h"]
    items: Int64[np.ndarray, " c"]
    keep_content: Float32[np.ndarray, "i m z"]
    keep_tower: Float32[np.ndarray, "i m u"]


class Interactions:
    """Meta-train user by user, from which batches are drawn; a pure function of the step.

    Args:
        training: meta-train.
        sizes: of the batches.

    Raises:
        LearnerError: if no user has two interactions, or fewer than three items are known.
    """

    def __init__(self, training: Training, sizes: Sizes) -> None:
        self._sizes, self._seed = sizes, training.seed
        training.note("batches of users")
        self.known = training.known.astype(np.int64)
        self._n_candidates = training.n_candidates
        self._most = max(training.sampler.most, 1)
        position = np.zeros(training.n_candidates, np.int64)
        position[self.known] = np.arange(len(self.known))
        order = np.argsort(training.tasks, kind="stable")
        self._positions = position[training.candidates[order]]
        self._liked = training.labels[order] > 0
        counts = np.bincount(training.tasks, minlength=training.n_tasks)
        self._starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._counts = counts
        self._tasks = np.flatnonzero(counts > 1)
        if not len(self._tasks) or len(self.known) < 3:
            raise LearnerError(
                "Hybrid needs users with two interactions and at least three items in meta-train; "
                "lower the shares that split.users and split.items hold out"
            )

    @property
    def likes(self) -> Float64[np.ndarray, " known"]:
        """How many liked each known item."""
        return np.bincount(self._positions[self._liked], minlength=len(self.known)).astype(float)

    def warm(self, step: int) -> Batch:
        """Users and all known items."""
        rng = np.random.default_rng([self._seed, 11, step])
        sizes, n = self._sizes, len(self.known)
        drawn = [self._drawn(rng, None) for _ in range(sizes.members)]
        support, mask, likes, asked = _stacked(drawn)
        lead = mask.shape[:2]
        empty = np.zeros((0, sizes.members, 0), np.float32)
        return Batch(
            support, mask, likes, asked,
            kept(rng, (*lead, sizes.embedding_size), sizes.dropout),
            kept(rng, (*lead, sizes.hidden_size), sizes.dropout),
            np.arange(n), empty, empty,
        )  # fmt: skip

    def cold(self, step: int, content_size: int) -> Batch:
        """Users and some known items, none of which is in their support sets."""
        rng = np.random.default_rng([self._seed, 12, step])
        sizes, n = self._sizes, len(self.known)
        # a third of the catalogue at the most, so that something is left for the support sets
        size = min(sizes.pseudo_cold, max(n // 3, 2))
        items = np.sort(rng.choice(n, size, replace=False))
        place = np.full(n, -1)
        place[items] = np.arange(size)
        drawn = [self._drawn(rng, place) for _ in range(sizes.members)]
        support, mask, likes, asked = _stacked(drawn)
        lead = mask.shape[:2]
        return Batch(
            support, mask, likes, asked,
            np.ones((*lead, 1), np.float32), np.ones((*lead, 1), np.float32), items,
            kept(rng, (size, sizes.members, content_size), sizes.tower_dropout),
            kept(rng, (size, sizes.members, sizes.tower_size), sizes.tower_dropout),
        )  # fmt: skip

    def _drawn(
        self, rng: np.random.Generator, place: Int64[np.ndarray, " known"] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Support sets and likes of one member's users.

        Args:
            rng: source of the choices.
            place: [known] place of each item among those that are ranked, -1 for all others, of
                which the support sets are drawn; None to rank all but the support.
        """
        tasks = rng.choice(
            self._tasks, min(self._sizes.task_batch, len(self._tasks)), replace=False
        )
        counts = self._counts[tasks]
        line = np.repeat(np.arange(len(tasks)), counts)
        begins = np.cumsum(counts) - counts
        rows = self._starts[tasks][line] + np.arange(len(line)) - begins[line]
        positions, liked = self._positions[rows], self._liked[rows]
        # without a shot too, whatever K the episodes have: what is unknown of a user is learned
        number = rng.integers(0, self._most + 1, len(tasks))
        if place is None:
            ranked = np.arange(len(self.known))
            offered = np.arange(len(rows))
            number = np.minimum(number, counts - 1)
        else:
            ranked = place
            offered = np.flatnonzero(place[positions] < 0)
            counts = np.bincount(line[offered], minlength=len(tasks))
            begins = np.cumsum(counts) - counts
            number = np.minimum(number, counts)
        picked, mask = subsets(rng, counts, number, self._most)
        shots = offered[np.where(mask, begins[:, None] + picked, 0)] if len(offered) else picked
        width = len(self.known) if place is None else int(place.max()) + 1
        likes = np.zeros((len(tasks), width), np.float32)
        asked = np.ones((len(tasks), width), bool)
        wanted = liked & (ranked[positions] >= 0)
        likes[line[wanted], ranked[positions[wanted]]] = 1
        if place is None:
            lines = np.nonzero(mask)[0]
            likes[lines, positions[shots[mask]]] = 0
            asked[lines, positions[shots[mask]]] = False
        support = liked[shots] * self._n_candidates + self.known[positions[shots]]
        support = np.where(mask, support, 0).astype(np.int32)
        return support, mask.astype(np.float32), likes, asked


def _stacked(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """The arrays of each member, side by side."""
    return tuple(np.stack(arrays, axis=1) for arrays in zip(*parts, strict=True))


def subsets(
    rng: np.random.Generator,
    counts: Int64[np.ndarray, " t"],
    number: Int64[np.ndarray, " t"],
    width: int,
) -> tuple[Int64[np.ndarray, "t width"], Bool[np.ndarray, "t width"]]:
    """Draws `number` distinct places below `counts` for each task (Floyd's algorithm).

    Args:
        rng: source of the choices.
        counts: places of each task.
        number: how many are drawn of them, at most `counts` and `width`.
        width: columns of the result.

    Returns:
        [t, width] places, each subset equally likely, and [t, width] where there is one.
    """
    picked = np.full((len(counts), width), -1, np.int64)
    for column in range(width):
        last = counts - number + column
        own = column < number
        drawn = (rng.random(len(counts)) * (last + 1)).astype(np.int64)
        taken = (picked[:, :column] == drawn[:, None]).any(axis=1)
        picked[:, column] = np.where(own, np.where(taken, last, drawn), -1)
    mask = picked >= 0
    return np.where(mask, picked, 0), mask


def kept(
    rng: np.random.Generator, shape: tuple[int, ...], dropout: float
) -> Float32[np.ndarray, ...]:
    """What dropout keeps: 0 for a share, `1 / (1 - dropout)` for all else (Srivastava 2014)."""
    if dropout == 0:
        return np.ones(shape, np.float32)
    return (rng.random(shape, np.float32) >= dropout) / np.float32(1 - dropout)


def contents(
    training: Training, sizes: Sizes, likes: Float64[np.ndarray, " known"]
) -> Float32[np.ndarray, "n_candidates z"]:
    """What is known of every item without feedback on it, standardised over the known ones.

    Its text feature; its categories; and of each column of entities how liked the other items of
    its entities are: the sum and the largest of their mean log likes, shrunk, and the number of
    items and entities. A known item does not count among its own entities' items.

    Args:
        training: meta-train.
        sizes: what is seen.
        likes: of each known item.
    """
    known = training.known
    training.note("contents")
    blocks = []
    if sizes.text_weight:
        text = require_features("Hybrid", training).candidates
        spread = float(text[known].std()) or 1.0
        blocks.append((text - text[known].mean(axis=0)) / spread * sizes.text_weight)
    if sizes.attributes:
        columns = [] if training.attributes is None else [training.attributes.values]
        log_likes = np.zeros(training.n_candidates)
        log_likes[known] = np.log1p(likes) - np.log1p(likes).mean()
        is_known = np.zeros(training.n_candidates, bool)
        is_known[known] = True
        for one in training.entities:
            columns.append(_of_entities(one.items, one.values, one.size, log_likes, is_known))
        if columns:
            table = np.concatenate(columns, axis=1)
            spread_of = table[known].std(axis=0)
            scaled = (table - table[known].mean(axis=0)) / np.where(spread_of > 0, spread_of, 1)
            blocks.append(np.clip(scaled, -_CLIP, _CLIP))
    if not blocks:
        raise LearnerError(
            "Hybrid with learner.text_weight=0 needs categories or entities, which the data set "
            "does not have; leave learner.text_weight above 0"
        )
    return np.concatenate(blocks, axis=1).astype(np.float32)


def _of_entities(
    items: Int64[np.ndarray, " n"],
    values: Int64[np.ndarray, " n"],
    size: int,
    log_likes: Float64[np.ndarray, " n_candidates"],
    known: Bool[np.ndarray, " n_candidates"],
) -> Float64[np.ndarray, "n_candidates 4"]:
    """How liked the other known items of each item's entities are: four columns."""
    n = len(log_likes)
    weight = known[items].astype(float)
    number = np.bincount(values, weight, size)[values] - weight
    total = np.bincount(values, weight * log_likes[items], size)[values]
    mean = (total - weight * log_likes[items]) / (number + 1)
    mean[number <= 0] = 0
    largest = np.full(n, -np.inf)
    np.maximum.at(largest, items[number > 0], mean[number > 0])
    return np.column_stack(
        [
            np.bincount(items, mean, n),
            np.where(np.isfinite(largest), largest, 0),
            np.bincount(items, number, n),
            np.bincount(items, minlength=n),
        ]
    )


def first_encoder(
    sizes: Sizes, likes: Float64[np.ndarray, " known"], n_candidates: int, seed: int
) -> dict[str, np.ndarray]:
    """The first weights of the first phase: user encoder, and vectors of the known items."""
    rng = np.random.default_rng([seed, 13])
    m, e, h = sizes.members, sizes.embedding_size, sizes.hidden_size
    share = np.log((likes + 1) / (likes + 1).sum())
    found = {
        f"{USER}in": _SPREAD * rng.standard_normal((m, 2 * n_candidates, e)),
        "items": np.concatenate(
            [
                _SPREAD * rng.standard_normal((m, len(likes), e)),
                np.broadcast_to(share[None, :, None], (m, len(likes), 1)),
            ],
            axis=2,
        ),
    }
    for name, n_in, n_out in (("skip", e, e), ("0", e, h), ("1", h, e)):
        found |= _linear(rng, f"{USER}{name}", (m, n_in, n_out))
    return {name: value.astype(np.float32) for name, value in found.items()}


def first_tower(
    sizes: Sizes,
    content: Float32[np.ndarray, "n_candidates z"],
    known: Int64[np.ndarray, " known"],
    likes: Float64[np.ndarray, " known"],
    items: Float32[np.ndarray, "m known e_plus_1"],
    seed: int,
) -> dict[str, np.ndarray]:
    """The first weights of the second phase.

    Its linear part is the ridge regression of the known items' vectors and log likes on their
    contents; its hidden layer gives nothing yet.
    """
    rng = np.random.default_rng([seed, 14])
    m, z, u, out = sizes.members, content.shape[1], sizes.tower_size, items.shape[2]
    targets = items.astype(np.float64)
    targets[:, :, -1] = np.log1p(likes) - np.log1p(likes).mean()
    wide = targets.transpose(1, 0, 2).reshape(len(known), -1)
    weights = ridge(content[known], wide).reshape(z, m, out).transpose(1, 0, 2)
    found = {
        f"{TOWER}linear.weight": weights,
        f"{TOWER}linear.bias": np.zeros((m, out)),
        **_linear(rng, f"{TOWER}0", (m, z, u)),
        f"{TOWER}1.weight": np.zeros((m, u, out)),
        f"{TOWER}1.bias": np.zeros((m, out)),
    }
    return {name: value.astype(np.float32) for name, value in found.items()}


def with_new_inputs(
    embeddings: Float32[np.ndarray, "m rows e"],
    content: Float32[np.ndarray, "n_candidates z"],
    known: Int64[np.ndarray, " known"],
) -> Float32[np.ndarray, "m rows e"]:
    """Input embeddings, those of new items by ridge regression of the known ones' on contents."""
    m, rows, e = embeddings.shape
    n = len(content)
    new = np.setdiff1d(np.arange(n), known)
    table = embeddings.reshape(m, rows // n, n, e).copy()
    wide = table[:, :, known].transpose(2, 0, 1, 3).reshape(len(known), -1).astype(np.float64)
    predicted = content[new].astype(np.float64) @ ridge(content[known], wide)
    shape = (len(new), m, rows // n, e)
    table[:, :, new] = predicted.reshape(shape).transpose(1, 2, 0, 3)
    return table.reshape(m, rows, e)


def ridge(
    content: Float32[np.ndarray, "known z"], targets: Float64[np.ndarray, "known t"]
) -> Float64[np.ndarray, "z t"]:
    """Weights of a ridge regression without intercept."""
    rows = content.astype(np.float64)
    system = rows.T @ rows + _RIDGE * np.eye(rows.shape[1])
    return np.asarray(np.linalg.solve(system, rows.T @ targets))


def rows_of(
    support: Support, n_candidates: int, ignore: bool
) -> tuple[Int32[np.ndarray, "t k"], Float32[np.ndarray, "t k"]]:
    """Rows of the shots in the input embeddings, and their mask; see `Batch`."""
    mask = np.zeros_like(support.mask) if ignore else support.mask
    liked = np.nan_to_num(support.labels) > 0
    rows = np.where(mask, liked * n_candidates + support.candidates, 0)
    return rows.astype(np.int32), mask.astype(np.float32)


class Neighbours:
    """Item-kNN over the known items, standardised for each user.

    Args:
        weight: of a standard deviation beside the logits; 0 to leave the neighbours out.
        number: neighbours that each liked item votes for.
        shrinkage: of the cosine.
    """

    def __init__(self, weight: float, number: int, shrinkage: float) -> None:
        if weight < 0:
            raise LearnerError(f"learner.knn_weight={weight} must be at least 0")
        if number < 1 or not shrinkage >= 0:
            raise LearnerError(
                f"learner.knn_neighbours={number} must be at least 1, learner.knn_shrinkage="
                f"{shrinkage} at least 0"
            )
        self.weight, self.number, self.shrinkage = weight, number, shrinkage

    def fit(self, training: Training) -> dict[str, np.ndarray]:
        """The similarities of the known items, each to its neighbours; nothing without weight."""
        if not self.weight:
            return {}
        training.note("neighbours")
        liked, known = training.labels > 0, training.known
        shape = training.n_tasks, training.n_candidates
        pairs = training.tasks[liked], training.candidates[liked]
        likes = csr_array((np.ones(len(pairs[0])), pairs), shape)
        by_item = likes.T.tocsr()
        rows = []
        for start in range(0, len(known), _BLOCK):
            block = known[start : start + _BLOCK]
            near = similarities(likes, by_item, block, self.number, self.shrinkage)
            rows.append(csr_array(near[:, known]))
        return {f"{KNN}{name}": value for name, value in pack("similarity", vstack(rows)).items()}

    def of(
        self, meta_parameters: MetaParameters, support: Support, ignore: bool
    ) -> Float64[np.ndarray, "t n_candidates"] | None:
        """[T, n_candidates] what is added to logits: 0 for new items and without a like."""
        if not self.weight:
            return None
        own = {
            name.removeprefix(KNN): value
            for name, value in meta_parameters.items()
            if name.startswith(KNN)
        }
        place = known_places(meta_parameters, support.candidates)
        liked = support.mask & (np.nan_to_num(support.labels) > 0) & (place >= 0) & (not ignore)
        lines, shots = np.nonzero(liked)
        similarity = unpack("similarity", own)
        voters = (np.ones(len(lines)), (lines, place[lines, shots]))
        scores = (csr_array(voters, (len(support), similarity.shape[0])) @ similarity).toarray()
        spread = scores.std(axis=1, keepdims=True)
        scores = (scores - scores.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
        found = np.zeros((len(support), len(meta_parameters["content"])))
        found[:, meta_parameters["known"]] = self.weight * scores
        return found


def known_places(
    meta_parameters: MetaParameters, candidates: Shaped[np.ndarray, ...]
) -> Int64[np.ndarray, ...]:
    """Position of each candidate among the known items, -1 for new ones."""
    place = np.full(len(meta_parameters["content"]), -1, np.int64)
    place[meta_parameters["known"]] = np.arange(len(meta_parameters["known"]))
    return place[candidates]


def _linear(
    rng: np.random.Generator, name: str, shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """Weight [M, in, out] and bias [M, out], uniform within `1 / sqrt(in)`."""
    members, n_in, n_out = shape
    bound = 1 / np.sqrt(n_in)
    return {
        f"{name}.weight": rng.uniform(-bound, bound, shape),
        f"{name}.bias": rng.uniform(-bound, bound, (members, n_out)),
    }
