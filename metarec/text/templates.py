"""Templates: the fields of an item or a user, written as the one text that an encoder reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from metarec.data.dataset import Dataset
from metarec.errors import TextError, did_you_mean

# What joins a clause to the one before it, and stands alone when that one is missing.
_SEPARATORS = " \t\n.,;:|/-\u2013\u2014"

_TOKEN = re.compile(r"\[\[|\]\]|\{\{|\}\}|\{(?P<name>[^{}]*)\}|[\[\]{}]|[^\[\]{}]+")

# Fields that read well without a label, in this order, and those that no encoder can read.
_TITLES = ("title", "name", "description")
_NO_TEXT = re.compile(r"(?:^|_)(?:id|url)$|(?<=[a-z])(?:Id|ID|Url|URL)$|[{}]|^all$")


@dataclass(frozen=True)
class RenderedText:
    """The texts of a template and what was missing.

    Args:
        texts: one a row; "" where every field is missing.
        missing: number of rows without a value, by field; under "all", of those without any text.
    """

    texts: tuple[str, ...]
    missing: Mapping[str, int]


@dataclass(frozen=True)
class _Field:
    name: str


# Literal text and fields; sections are not nested.
_Clause = tuple["str | _Field", ...]


@dataclass(frozen=True)
class _Part:
    clause: _Clause
    optional: bool


@dataclass(frozen=True)
class Template:
    """A pattern with `{field}` placeholders and `[optional sections]`.

    A section vanishes where any of its fields is missing; outside of sections a missing field
    leaves nothing, and what surrounds it stands. Where nothing but missing fields comes before, the
    separators that would open the text are dropped too, so that `{title}[. Genres: {genres}]`
    without a title reads `Genres: Drama`. Where all fields are missing the text is "", whatever the
    pattern says beside them. A missing value is None, NaN or blank. A bracket or brace that is
    meant as such is doubled.

    Args:
        pattern: such as `{title}[ ({year})][. Genres: {genres}]`.

    Raises:
        TextError: if the pattern is malformed, has no field, or has a section without a field.
    """

    pattern: str
    _parts: tuple[_Part, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_parts", _parse(self.pattern))
        if not self.fields:
            raise TextError(
                f"template {self.pattern!r} has no field, so that every text would be the same; "
                "write fields as {title}"
            )
        if "all" in self.fields:
            raise TextError(
                f"template {self.pattern!r}: a field may not be called 'all', which counts "
                "the rows without any text; rename the column"
            )

    def __str__(self) -> str:
        return self.pattern

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, each once, in the order of the pattern."""
        names = (name for part in self._parts for name in _names(part.clause))
        return tuple(dict.fromkeys(names))

    def render(self, frame: pd.DataFrame) -> RenderedText:
        """Writes one text a row.

        Args:
            frame: a column a field, such as `Dataset.item_text` or `Dataset.user_text`.

        Returns:
            As many texts as rows, in their order, and the counts of what was missing.

        Raises:
            TextError: if a field of the template is not a column of the frame.
        """
        known = [str(column) for column in frame.columns]
        for name in self.fields:
            if name not in known:
                raise TextError(
                    f"template {self.pattern!r}: there is no field {name!r}"
                    f"{did_you_mean(name, known)}"
                )
        columns = {
            name: [_text(value) for value in frame.iloc[:, known.index(name)].tolist()]
            for name in self.fields
        }
        missing = {name: sum(value is None for value in values) for name, values in columns.items()}
        texts = tuple(
            self._write(dict(zip(columns, values, strict=True)))
            for values in zip(*columns.values(), strict=True)
        )
        return RenderedText(texts, {**missing, "all": sum(text == "" for text in texts)})

    def _write(self, values: Mapping[str, str | None]) -> str:
        if all(value is None for value in values.values()):
            return ""
        written = ""
        # Whether a missing field came before anything that was written.
        orphaned = False
        for part in self._parts:
            if part.optional and any(values[name] is None for name in _names(part.clause)):
                orphaned = orphaned or not written.strip()
                continue
            for piece in part.clause:
                if isinstance(piece, str):
                    # A value such as "...And Justice for All" keeps its own dots.
                    written += piece.lstrip(_SEPARATORS) if orphaned and not written else piece
                elif (value := values[piece.name]) is None:
                    orphaned = orphaned or not written.strip()
                else:
                    written += value
        return written.strip()


def default_template(dataset: Dataset, of: Literal["items", "users"] = "items") -> Template | None:
    """The template of everything that a data set writes about its items or users.

    Title, name or description come first, then the year in parentheses, then every other field as
    `Label: value`, in the order of the columns. Ids, links and columns without any value are left
    out.

    Args:
        dataset: whose columns are used.
        of: `items` or `users`.

    Returns:
        The template, or None where there is no text.
    """
    frame = dataset.item_text if of == "items" else dataset.user_text
    if frame is None:
        return None
    names = [
        str(column)
        for position, column in enumerate(frame.columns)
        if not _NO_TEXT.search(str(column))
        and any(_text(value) is not None for value in frame.iloc[:, position].tolist())
    ]
    by_lower = {name.lower(): name for name in names}
    heads = [by_lower[title] for title in _TITLES if title in by_lower]
    year = [by_lower["year"]] if "year" in by_lower and heads else []
    rest = [name for name in names if name not in heads[:1] + year]
    clauses = [f"{{{name}}}" for name in heads[:1]]
    clauses += [f"[ ({{{name}}})]" for name in year]
    clauses += [
        f"[{'. ' if clauses or position else ''}{_label(name)}: {{{name}}}]"
        for position, name in enumerate(rest)
    ]
    return Template("".join(clauses)) if clauses else None


def title_template(dataset: Dataset) -> Template | None:
    """The template of what names an item in a sentence: its title, name or description alone.

    Args:
        dataset: whose items have it.

    Returns:
        The template, or None where there is no such column.
    """
    whole = default_template(dataset)
    if whole is None or whole.fields[0].lower() not in _TITLES:
        return None
    return Template(f"{{{whole.fields[0]}}}")


def _label(name: str) -> str:
    words = name.replace("_", " ").strip()
    for bracket in "[]":
        words = words.replace(bracket, 2 * bracket)
    return words[:1].upper() + words[1:]


def _names(clause: _Clause) -> list[str]:
    return [piece.name for piece in clause if isinstance(piece, _Field)]


def _text(value: object) -> str | None:
    if value is None or value is pd.NA or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        # A column of years with a gap is a column of floats.
        return str(int(value))
    return str(value).strip() or None


def _parse(pattern: str) -> tuple[_Part, ...]:
    parts: list[_Part] = []
    clause: list[str | _Field] = []
    optional = False
    for match in _TOKEN.finditer(pattern):
        token = match.group()
        where = f"template {pattern!r}, character {match.start() + 1}"
        if match["name"] is not None:
            if not match["name"].strip():
                raise TextError(f"{where}: a field without a name; write {{title}}")
            clause.append(_Field(match["name"]))
        elif token in ("[", "]"):
            if optional == (token == "["):
                problem = "opens inside another" if optional else "closes without being opened"
                raise TextError(
                    f"{where}: a section {problem}; sections are not nested, and a bracket that is "
                    f"meant as such is doubled: {token * 2}"
                )
            if optional and not _names(tuple(clause)):
                raise TextError(f"{where}: a section without a field is always there; unbracket it")
            parts.append(_Part(tuple(clause), optional))
            clause, optional = [], not optional
        elif token in ("{", "}"):
            raise TextError(
                f"{where}: a single {token!r}; write fields as {{title}}, and double a brace "
                f"that is meant as such: {token * 2}"
            )
        else:
            clause.append(token[0] if token in ("[[", "]]", "{{", "}}") else token)
    if optional:
        raise TextError(f"template {pattern!r}: the last section is not closed; add a ]")
    return (*parts, _Part(tuple(clause), False))
