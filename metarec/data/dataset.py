"""`Dataset`: interactions in columns, item text, original ids and a cleaning report; immutable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int32, Int64, Shaped

from metarec.errors import DataError

FeedbackSource = Literal["rating", "implicit"]


@dataclass(frozen=True)
class CleaningReport:
    """Accounts for every row that was read: `read == kept + sum(dropped.values())`.

    Args:
        read: rows in the source.
        kept: rows that are interactions of the data set.
        dropped: reason to number of rows dropped for it, in the order of the cleaning.
        notes: anything else that a reader noticed (missing titles, repaired encodings), as text to
            a count.
    """

    read: int
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.read != self.kept + sum(self.dropped.values()):
            raise DataError(
                f"the cleaning report does not add up: read {self.read}, kept {self.kept}, "
                f"dropped {dict(self.dropped)}"
            )

    def drop(self, reason: str, count: int) -> CleaningReport:
        """Returns the report after `count` more kept rows were dropped for `reason`."""
        if count == 0:
            return self
        dropped = dict(self.dropped)
        dropped[reason] = dropped.get(reason, 0) + count
        return replace(self, kept=self.kept - count, dropped=dropped)

    def note(self, text: str, count: int) -> CleaningReport:
        """Returns the report with a note, left out where the count is 0."""
        if count == 0:
            return self
        return replace(self, notes={**self.notes, text: count})

    def __str__(self) -> str:
        lines = [f"read {self.read:,} rows, kept {self.kept:,}"]
        lines += [f"  dropped {count:,}: {reason}" for reason, count in self.dropped.items()]
        lines += [f"  note: {text}: {count:,}" for text, count in self.notes.items()]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Users' interactions with items, and what is written about both.

    Args:
        name: name of the data set, as in `load_dataset`.
        users: [n] index of the user of each interaction.
        items: [n] index of the item of each interaction.
        ratings: [n] rating, or 1 for implicit feedback.
        times: [n] seconds since 1970 in UTC, or None where the source has none.
        user_ids: [n_users] the source's own id of each user, as text.
        item_ids: [n_items] the source's own id of each item, as text.
        item_text: one row an item in the order of the index, a column a field; missing text is
            None.
        user_text: likewise for users, or None.
        feedback: whether `ratings` are ratings or implicit.
        rating_scale: lowest and highest possible rating, None for implicit feedback.
        report: what cleaning dropped, by reason.
        licence: the terms under which the data may be used.

    Raises:
        DataError: if the columns disagree in length, an index is out of range, or nothing is left.
    """

    name: str
    users: Int32[np.ndarray, " n"]
    items: Int32[np.ndarray, " n"]
    ratings: Float32[np.ndarray, " n"]
    times: Int64[np.ndarray, " n"] | None
    user_ids: Shaped[np.ndarray, " users"]
    item_ids: Shaped[np.ndarray, " items"]
    item_text: pd.DataFrame
    user_text: pd.DataFrame | None
    feedback: FeedbackSource
    rating_scale: tuple[float, float] | None
    report: CleaningReport
    licence: str = ""

    def __post_init__(self) -> None:
        n = len(self.users)
        if n == 0:
            raise DataError(
                f"data set {self.name!r} has no interaction left after cleaning:\n{self.report}"
            )
        columns = [self.items, self.ratings] + ([] if self.times is None else [self.times])
        if any(len(column) != n for column in columns):
            raise DataError(f"data set {self.name!r}: the columns differ in length")
        for label, index, size in (
            ("user", self.users, self.n_users),
            ("item", self.items, self.n_items),
        ):
            if index.min() < 0 or index.max() >= size:
                raise DataError(
                    f"data set {self.name!r}: {label} index out of range: {index.min()} to "
                    f"{index.max()} with {size} {label}s"
                )
        if not np.isfinite(self.ratings).all():
            row = int(np.flatnonzero(~np.isfinite(self.ratings))[0])
            raise DataError(f"data set {self.name!r}: rating of interaction {row} is not finite")
        if len(self.item_text) != self.n_items:
            raise DataError(
                f"data set {self.name!r}: item_text has {len(self.item_text)} rows for "
                f"{self.n_items} items"
            )
        if self.user_text is not None and len(self.user_text) != self.n_users:
            raise DataError(
                f"data set {self.name!r}: user_text has {len(self.user_text)} rows for "
                f"{self.n_users} users"
            )
        if self.report.kept != n:
            raise DataError(
                f"data set {self.name!r}: the report keeps {self.report.kept} rows, there are {n}"
            )
        for column in (self.users, self.items, self.ratings, self.times):
            if column is not None:
                column.setflags(write=False)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    def __len__(self) -> int:
        """Number of interactions."""
        return len(self.users)

    def __repr__(self) -> str:
        times = "with" if self.times is not None else "without"
        return (
            f"Dataset({self.name!r}: {len(self):,} interactions, {self.n_users:,} users, "
            f"{self.n_items:,} items, {self.feedback}, {times} timestamps)"
        )

    @property
    def checksum(self) -> str:
        """SHA-256 over the interactions and the original ids: what a run's results depend on."""
        digest = hashlib.sha256()
        for column in (self.users, self.items, self.ratings, self.times):
            digest.update(b"-" if column is None else np.ascontiguousarray(column).tobytes())
        for ids in (self.user_ids, self.item_ids):
            digest.update("\x00".join(map(str, ids)).encode())
        for frame in (self.item_text, self.user_text):
            if frame is not None:
                digest.update("\x01".join(map(str, frame.columns)).encode())
                for name in frame.columns:
                    values = frame[name].tolist()
                    digest.update("\x00".join(str(value) for value in values).encode())
        return digest.hexdigest()

    def keep(self, mask: Shaped[np.ndarray, " n"], reason: str) -> Dataset:
        """Returns the data set of the interactions where `mask` is true, the rest counted.

        Users and items that lose their last interaction go, and the indices close up; they are
        counted in the report's notes.

        Args:
            mask: [n] bool.
            reason: what the report says of the dropped interactions.

        Raises:
            DataError: if nothing is left.
        """
        report = self.report.drop(reason, int((~mask).sum()))
        if not mask.any():
            raise DataError(
                f"data set {self.name!r} is empty after: {reason}. Loosen the filter.\n{report}"
            )
        kept_users, users = np.unique(self.users[mask], return_inverse=True)
        kept_items, items = np.unique(self.items[mask], return_inverse=True)
        report = report.note(
            f"users without interaction ({reason})", self.n_users - len(kept_users)
        )
        report = report.note(
            f"items without interaction ({reason})", self.n_items - len(kept_items)
        )
        return replace(
            self,
            users=users.astype(np.int32),
            items=items.astype(np.int32),
            ratings=self.ratings[mask],
            times=None if self.times is None else self.times[mask],
            user_ids=self.user_ids[kept_users],
            item_ids=self.item_ids[kept_items],
            item_text=self.item_text.iloc[kept_items].reset_index(drop=True),
            user_text=None
            if self.user_text is None
            else self.user_text.iloc[kept_users].reset_index(drop=True),
            report=report,
        )

    def k_core(self, users: int = 1, items: int = 1) -> Dataset:
        """Returns the largest part in which each user and each item has enough interactions.

        Args:
            users: least number of interactions a user.
            items: least number of interactions an item.

        Raises:
            DataError: if nothing is left.
        """
        mask = np.ones(len(self), dtype=bool)
        while True:
            per_user = np.bincount(self.users[mask], minlength=self.n_users)
            per_item = np.bincount(self.items[mask], minlength=self.n_items)
            enough = mask & (per_user[self.users] >= users) & (per_item[self.items] >= items)
            if (enough == mask).all():
                break
            mask = enough
        return self.keep(mask, f"k-core of {users} a user and {items} an item")

    def without_heavy_users(self, most: int) -> Dataset:
        """Returns the part of the users that have at most so many interactions.

        Args:
            most: greatest number of interactions a user.

        Raises:
            DataError: if nothing is left.
        """
        per_user = np.bincount(self.users, minlength=self.n_users)
        return self.keep(per_user[self.users] <= most, f"users of more than {most} interactions")
