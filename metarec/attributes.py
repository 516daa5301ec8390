"""What columns say of items: categories such as genres, and entities such as people or brands."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from metarec.consumed import Ledger
from metarec.splits import Split

MOST_VALUES = 500
"""A column with more distinct values on the items of meta-train is not categorical."""

LEAST_REPEATS = 2
"""A column whose values occur on fewer items than this on average is not categorical."""

LEAST_RECURRING = 1.3
"""A column whose values occur on fewer items than this on average is free text."""

_SEPARATOR = re.compile(r", |\|")
_QUALIFIER = re.compile(r"\s*\([^()]*\)?$")
_YEAR = re.compile(r"(1[5-9]|20)\d\d")


@dataclass(frozen=True)
class Attributes:
    """Which values each item has in each categorical column.

    Args:
        names: name of each column of the data set that is categorical.
        values: [n_items, A] 1 where an item has the value, else 0; several or none a column.
        offsets: [columns + 1] where the values of each column start among the A, and the end of the
            last.
        vocabulary: name of each of the A values.
        unseen: how many values of other items were dropped, as no item of meta-train has them.
    """

    names: tuple[str, ...]
    values: Float32[np.ndarray, "n_items a"]
    offsets: Int64[np.ndarray, " columns_plus_1"]
    vocabulary: tuple[str, ...]
    unseen: int

    @property
    def size(self) -> int:
        """A, the number of values of all columns."""
        return self.values.shape[1]


@dataclass(frozen=True)
class Entities:
    """A column of entities that several items share, such as directors, authors or brands.

    Args:
        name: of the column.
        items: [n] item of each entry, ascending.
        values: [n] entity of each entry.
        size: number of entities.
    """

    name: str
    items: Int64[np.ndarray, " n"]
    values: Int64[np.ndarray, " n"]
    size: int


def build_attributes(split: Split, ledger: Ledger | None = None) -> Attributes | None:
    """Finds the categorical columns of the item text and fits their vocabulary on meta-train.

    A column's texts are split at ", " and "|". It is categorical if the items of meta-train have at
    least one and at most `MOST_VALUES` distinct values in it, each on `LEAST_REPEATS` items or more
    on average. Where all its values are years, decades stand for them. Values that no item of
    meta-train has are dropped, so that an item may have none.

    Args:
        split: whose `train` part tells the items of meta-train.
        ledger: gets a note of these items; None for nowhere.

    Returns:
        The attributes of all items, values in alphabetical order; None if no column is categorical.
    """
    frame = split.dataset.item_text
    train = np.unique(split.dataset.items[split.rows("train")])
    if ledger is not None:
        ledger.indices("vocabulary", "items", train)
    names: list[str] = []
    blocks: list[np.ndarray] = []
    vocabulary: list[str] = []
    unseen = 0
    for name in frame.columns:
        lists = _lists(frame[name].tolist())
        counts = Counter(value for item in train for value in lists[item])
        if not _categorical(counts):
            continue
        known = sorted(counts)
        place = {value: number for number, value in enumerate(known)}
        block = np.zeros((len(lists), len(known)), np.float32)
        for item, own in enumerate(lists):
            found = [place[value] for value in own if value in place]
            block[item, found] = 1
            unseen += len(own) - len(found)
        names.append(str(name))
        blocks.append(block)
        vocabulary += known
    if not blocks:
        return None
    widths = [block.shape[1] for block in blocks]
    offsets = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    values = np.concatenate(blocks, axis=1)
    return Attributes(tuple(names), values, offsets, tuple(vocabulary), unseen)


def build_entities(split: Split, ledger: Ledger | None = None) -> tuple[Entities, ...]:
    """Finds the columns whose values are too many to be categories but recur: people, brands.

    A column's texts are split as by `build_attributes`, and what stands in parentheses at the end
    of a value, such as a person's part in a film, is left out. The column is one of entities if it
    is not categorical and its values stand on `LEAST_RECURRING` items of meta-train or more on
    average, those that stand once included: titles and descriptions do not.

    Args:
        split: whose `train` part tells the items of meta-train.
        ledger: gets a note of these items; None for nowhere.

    Returns:
        The entities of all items. What is not categorical is decided by meta-train alone.
    """
    frame = split.dataset.item_text
    train = np.unique(split.dataset.items[split.rows("train")])
    if ledger is not None:
        ledger.indices("entities", "items", train)
    found = []
    for name in frame.columns:
        lists = _lists(frame[name].tolist(), dropped=_QUALIFIER)
        counts = Counter(value for item in train for value in lists[item])
        if not counts or _categorical(counts) or counts.total() < LEAST_RECURRING * len(counts):
            continue
        # those of new items alone too: that they are few would tell a new item from a known one
        place = {value: n for n, value in enumerate(sorted({v for own in lists for v in own}))}
        rows = [[place[value] for value in own] for own in lists]
        found.append(
            Entities(
                str(name),
                np.repeat(np.arange(len(rows)), [len(row) for row in rows]).astype(np.int64),
                np.array([value for row in rows for value in row], np.int64),
                len(place),
            )
        )
    return tuple(found)


def _categorical(counts: Counter[str]) -> bool:
    return 0 < len(counts) <= MOST_VALUES and counts.total() >= LEAST_REPEATS * len(counts)


def _lists(texts: list[str | None], dropped: re.Pattern[str] | None = None) -> list[list[str]]:
    """The distinct values of each item, years as decades; without what matches `dropped`."""

    def values_of(text: str) -> list[str]:
        values = (value.strip() for value in _SEPARATOR.split(text))
        if dropped is not None:
            values = (dropped.sub("", value) for value in values)
        return sorted({value for value in values if value})

    lists = [
        values_of(str(text))
        if text is not None and text == text  # a missing text may be NaN
        else []
        for text in texts
    ]
    distinct = {value for values in lists for value in values}
    if not all(_YEAR.fullmatch(value) for value in distinct):
        return lists
    return [sorted({f"{value[:3]}0s" for value in values}) for values in lists]
