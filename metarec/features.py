"""What learners know of candidates and tasks besides interactions: texts and user profiles."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32

from metarec.attributes import Attributes
from metarec.consumed import Ledger
from metarec.episodes import labels_of
from metarec.learner import Feedback, TaskKind
from metarec.splits import Split


@dataclass(frozen=True)
class Features:
    """Vectors of candidates and of tasks, in one space.

    In user tasks a candidate is an item and its vector the text feature. In item tasks a candidate
    is a known user, whose vector is the label-weighted mean of the text features of its meta-train
    items, and a task is an item with its text feature.

    Args:
        candidates: [n_candidates, D] vector of each candidate; 0 where nothing is known.
        tasks: [n_tasks, D] text feature of each item in item tasks; None in user tasks.
        weight_sum: [n_candidates] sum of the weights in a user's profile; None in user tasks.
    """

    candidates: Float32[np.ndarray, "n_candidates d"]
    tasks: Float32[np.ndarray, "n_tasks d"] | None = None
    weight_sum: Float32[np.ndarray, " n_candidates"] | None = None

    @property
    def size(self) -> int:
        """D, the length of a vector."""
        return self.candidates.shape[1]

    def of_episode(
        self,
        candidates: Int32[np.ndarray, "tasks n"],
        tasks: Int32[np.ndarray, " tasks"] | None = None,
        labels: Float32[np.ndarray, "tasks n"] | None = None,
        observed: Bool[np.ndarray, "tasks n"] | None = None,
    ) -> Float32[np.ndarray, "tasks n d"]:
        """Vectors of the candidates of episodes, without what an episode itself contributed.

        In meta-training on item tasks, the profile of a user who gave feedback on the very item of
        the task contains that item: it is taken out, since no profile contains a new item.

        Args:
            candidates: [T, N] candidates.
            tasks: [T] the items of item tasks, given in meta-training only.
            labels: [T, N] the labels in meta-train, which are the weights in the profiles.
            observed: [T, N] whether the pair is a meta-train interaction.

        Returns:
            [T, N, D] vectors.
        """
        vectors = self.candidates[candidates]
        if self.tasks is None or self.weight_sum is None or tasks is None:
            return vectors
        assert labels is not None
        assert observed is not None
        weight = np.where(observed, labels, 0).astype(np.float32)
        total = self.weight_sum[candidates]
        rest = total - weight
        own = self.tasks[tasks][:, None, :]
        left = total[..., None] * vectors - weight[..., None] * own
        scale = np.where(rest > 1e-6, 1 / np.maximum(rest, 1e-6), 0).astype(np.float32)
        return np.where((weight > 0)[..., None], left * scale[..., None], vectors)


def build_features(
    split: Split,
    item_features: Float32[np.ndarray, "items d"],
    kind: TaskKind,
    feedback: Feedback,
    threshold: float | None,
    ledger: Ledger | None = None,
) -> Features:
    """Builds the features of a kind of task from text features and meta-train.

    Args:
        split: whose `train` part makes the user profiles of item tasks.
        item_features: [n_items, D] text feature of each item.
        kind: `user` or `item` tasks.
        feedback: what weighs an item in a profile: its rating, or 1 where it was liked.
        threshold: lowest rating that counts as liked.
        ledger: gets a note of what makes the profiles; None for nowhere.

    Returns:
        The features.
    """
    if kind == "user":
        return Features(item_features)
    from scipy.sparse import csr_array

    rows = split.rows("train")
    data = split.dataset
    weights = labels_of(data.ratings[rows], feedback, threshold)
    users, items = data.users[rows], data.items[rows]
    if ledger is not None:
        ledger.interactions("profiles", "user", users, items, weights)
    matrix = csr_array((weights, (users, items)), shape=(data.n_users, data.n_items))
    total = np.asarray(matrix.sum(axis=1), dtype=np.float32).ravel()
    profiles = (matrix @ item_features) / np.maximum(total, 1e-6)[:, None]
    return Features(profiles.astype(np.float32), item_features, total)


def attribute_features(attributes: Attributes) -> Features:
    """The attributes of each item, those of a column summing to 1, as features of candidates."""
    values = attributes.values.copy()
    for start, end in itertools.pairwise(attributes.offsets):
        values[:, start:end] /= np.maximum(values[:, start:end].sum(1, keepdims=True), 1)
    return Features(values)
