"""`Ledger`: what each fit consumed, as hashes that an audit derives again from the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Shaped

INTERACTIONS = "interactions"
"""What an entry is of that counts interactions; others are of `users`, `items`, or episodes."""


@dataclass(frozen=True, order=True)
class Entry:
    """What one fit consumed.

    Args:
        fit: which fit, such as `popularity`.
        what: `interactions`; `users` or `items`; or the `part/regime` of episodes.
        count: number of them.
        hash: SHA-256: of `interactions_hash`, of `indices_hash`, or the key of the episodes.
    """

    fit: str
    what: str
    count: int
    hash: str


class Ledger:
    """Gets a note from every fit of a run, made from the very arrays that the fit consumes.

    Args:
        entries: what was consumed before, such as by a part that several runs share.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries = set(entries)
        # fits share arrays: these are sorted once, and kept so that no other gets their identity
        self._hashed: dict[tuple[int, ...], tuple[tuple[np.ndarray, ...], str]] = {}

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries in their order, each once."""
        return tuple(sorted(self._entries))

    def interactions(
        self,
        fit: str,
        kind: Literal["user", "item"],
        tasks: Shaped[np.ndarray, " n"],
        candidates: Shaped[np.ndarray, " n"],
        labels: Shaped[np.ndarray, " n"],
    ) -> None:
        """Notes interactions.

        Args:
            fit: which fit consumes them.
            kind: whether the tasks are users or items.
            tasks: [n] task of each.
            candidates: [n] candidate of each.
            labels: [n] its label, as the fit sees it.
        """
        key = (id(tasks), id(candidates), id(labels))
        if key not in self._hashed:
            users, items = (tasks, candidates) if kind == "user" else (candidates, tasks)
            arrays = (tasks, candidates, labels)
            self._hashed[key] = arrays, interactions_hash(users, items, labels)
        self._entries.add(Entry(fit, INTERACTIONS, len(tasks), self._hashed[key][1]))

    def indices(
        self, fit: str, what: Literal["users", "items"], indices: Shaped[np.ndarray, " n"]
    ) -> None:
        """Notes the users or items whose texts, features or factors a fit consumes."""
        self._entries.add(Entry(fit, what, len(indices), indices_hash(indices)))

    def episodes(self, fit: str, where: str, count: int, key: str) -> None:
        """Notes a look at episodes.

        Args:
            fit: what looks.
            where: their `part/regime`.
            count: number of tasks.
            key: `EvaluationEpisodes.key`.
        """
        self._entries.add(Entry(fit, where, count, key))


def interactions_hash(
    users: Shaped[np.ndarray, " n"],
    items: Shaped[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
) -> str:
    """SHA-256 over the (user, item, label) triples in ascending order, whatever order they have.

    Users and items are the indices of a data set, which its checksum fixes.
    """
    pairs = users.astype(np.int64) << 32 | items.astype(np.int64)
    values = labels.astype("<f4")
    order = np.lexsort((values, pairs))
    digest = hashlib.sha256(pairs[order].astype("<i8").tobytes())
    digest.update(values[order].tobytes())
    return digest.hexdigest()


def indices_hash(indices: Shaped[np.ndarray, " n"]) -> str:
    """SHA-256 over indices in ascending order."""
    return hashlib.sha256(np.sort(indices).astype("<i8").tobytes()).hexdigest()
