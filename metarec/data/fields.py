"""Text fields: titles with a year, genres, HTML made plain, and tables of text by id."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

# "Toy Story (1995)", a series "Fargo (2014-2017)" or "(2014– )", a video "Aladdin 3 (1996) (V)".
_TITLE = re.compile(r"^(.*?)\s*\((\d{4})(?:\s*[-–]\s*(?:\d{4})?)?\)\s*(?:\(V\))?\s*$", re.DOTALL)

_HIDDEN = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|$)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")


@dataclass(frozen=True)
class TextTable:
    """What a source writes about its items or users.

    Args:
        ids: the source's id of each row, as text.
        frame: one row an id, a column a field; missing text is None.
        file: name of the file, for messages and notes.
        notes: what the reader noticed, as text to a count.
    """

    ids: Sequence[str]
    frame: pd.DataFrame
    file: str
    notes: Mapping[str, int] = field(default_factory=dict)


def text_frame(columns: Mapping[str, Iterable[object]]) -> pd.DataFrame:
    """Returns a frame of text whose missing, empty and blank values are None.

    Args:
        columns: name to the values of a column, all of one length.
    """
    cleaned = {
        str(name): pd.Series([_text(value) for value in values], dtype=object)
        for name, values in columns.items()
    }
    return pd.DataFrame(cleaned)


def split_titles(titles: Iterable[str | None]) -> tuple[list[str | None], list[str | None]]:
    """Splits "Toy Story (1995)" into title and year.

    Args:
        titles: titles as MovieLens writes them.

    Returns:
        The titles without year, and the years; None where there is none. Of a span of years, as
        series have it, the first.
    """
    names: list[str | None] = []
    years: list[str | None] = []
    for title in titles:
        match = None if title is None else _TITLE.match(title)
        names.append(title if match is None else match.group(1))
        years.append(None if match is None else match.group(2))
    return names, years


def genres(values: Iterable[object], separator: str = "|") -> list[str | None]:
    """Writes "Action|Comedy" as "Action, Comedy"; "(no genres listed)" is missing."""
    written: list[str | None] = []
    for value in values:
        text = _text(value)
        if text is None or text == "(no genres listed)":
            written.append(None)
        else:
            written.append(
                ", ".join(part.strip() for part in text.split(separator) if part.strip())
            )
    return written


def plain_text(markup: str) -> str:
    """Takes HTML out of a text: tags, scripts, styles and entities; runs of blanks become one.

    Args:
        markup: such as `Salt &amp; <b>Pepper</b>`, whose plain text is `Salt & Pepper`. A lone `<`
            or `&` stays what it is.
    """
    if "&" in markup:
        markup = html.unescape(markup)
    if "<" in markup:
        markup = _TAG.sub(" ", _HIDDEN.sub(" ", markup))
    if "&" in markup:  # what was escaped twice
        markup = html.unescape(markup)
    return " ".join(markup.split())


def _text(value: object) -> str | None:
    if value is None or value is pd.NA or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() or None
