"""What Amazon's metadata say about items, as plain text: titles, brands, categories and so on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from metarec.data.fields import TextTable, plain_text, text_frame
from metarec.data.json_lines import read_json_lines
from metarec.errors import DataError

LONGEST = 2_000
"""Characters beyond which a text is cut: no encoder here reads more."""

DEFAULT_TEXT = ("title", "brand", "categories", "features", "description")
"""What is kept of an item unless told otherwise; titles come first, long texts last."""

# Some titles of 2018 are the page's script.
_SCRIPT = "getTime"
_AUTHOR = re.compile(r"Visit Amazon's (.+) Page")
_PRICE = re.compile(r"(?:from )?\$?\s?\d[\d,]*(?:\.\d+)?(?:\s*-\s*\$?\s?\d[\d,]*(?:\.\d+)?)?")


def read_items(
    path: Path, key: str, known: Collection[str], fields: Mapping[str, str], on_bad_rows: str
) -> TextTable:
    """Streams what is written about the items that have reviews.

    Args:
        path: the file, with one item a line.
        key: field with the id of the item.
        known: ids of the items to keep; the others are counted.
        fields: what the framework calls a field to what the file calls it.
        on_bad_rows: `error` stops at a line that is no JSON object with an id; `drop` leaves such
            lines out and notes how many.

    Returns:
        The texts, without HTML, cut at `LONGEST` characters.

    Raises:
        DataError: for a bad line as said above, or if the file is truncated.
    """
    ids: list[str] = []
    columns: dict[str, list[str | None]] = {field: [] for field in fields}
    broken = without_review = 0
    counts = Counter[str]()
    for number, record in read_json_lines(path):
        item = None if record is None else record.get(key)
        if record is None or not isinstance(item, str):
            if on_bad_rows == "error":
                raise DataError(
                    f"{path}, line {number}, field {key!r}: found {item!r}: not a JSON "
                    "object with the id of an item. Correct the file, or pass "
                    'on_bad_rows="drop" to leave out and count such lines'
                )
            broken += 1
        elif item.strip() not in known:
            without_review += 1
        else:
            ids.append(item.strip())
            for field, name in fields.items():
                columns[field].append(_FORMS[field](record.get(name), counts))
    notes = {
        f"lines of {path.name} that are no JSON object with an id, left out": broken,
        f"items in {path.name} without review, left out": without_review,
        **dict(sorted(counts.items())),
    }
    return TextTable(ids, text_frame(columns), path.name, notes)


def _written(value: Any, counts: Counter[str], separator: str) -> str | None:
    """A text, a list of texts or a mapping of them as one plain text."""
    if isinstance(value, Mapping):
        value = [f"{key}: {_written(part, counts, ', ')}" for key, part in value.items() if part]
    if isinstance(value, str) or not isinstance(value, Iterable):
        value = [value]
    parts = [plain_text(str(part)) for part in value if part is not None]
    text = separator.join(part for part in parts if part)
    if len(text) > LONGEST:
        counts[f"texts of items cut at {LONGEST:,} characters"] += 1
        text = text[:LONGEST]
    return text or None


def _title(value: Any, counts: Counter[str]) -> str | None:
    if isinstance(value, str) and _SCRIPT in value:
        counts["titles that are the page's script, taken as missing"] += 1
        return None
    return _written(value, counts, " ")


def _brand(value: Any, counts: Counter[str]) -> str | None:
    """Of a book, 2018 has the link to its author."""
    text = _written(value, counts, " ")
    author = None if text is None else _AUTHOR.fullmatch(text)
    return text if author is None else author[1]


def _price(value: Any, counts: Counter[str]) -> str | None:
    """Some prices are style sheets, dashes or the word None."""
    text = _written(value, counts, " ")
    return text if text is not None and _PRICE.fullmatch(text) else None


_FORMS: Mapping[str, Callable[[Any, Counter[str]], str | None]] = {
    "title": _title,
    "brand": _brand,
    "main_category": partial(_written, separator=" "),
    "categories": partial(_written, separator=", "),
    "price": _price,
    "features": partial(_written, separator="; "),
    "description": partial(_written, separator=" "),
    "details": partial(_written, separator="; "),
}
