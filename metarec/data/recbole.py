"""Data sets in RecBole's atomic files: `.inter`, `.item` and `.user` with `name:type` headers."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from metarec.data.cleaning import clean
from metarec.data.dataset import Dataset
from metarec.data.fields import TextTable, text_frame
from metarec.data.files import Table, read_header, read_table, require_columns
from metarec.errors import DataError

_TYPES = ("token", "token_seq", "float", "float_seq")
RENAME: Mapping[str, str] = {
    "movie_title": "title",
    "release_year": "year",
    "class": "genres",
    "genre": "genres",
}
"""RecBole's names of the MovieLens fields to the framework's."""


def read(
    folder: str | Path | None = None,
    dataset: str | None = None,
    user: str = "user_id",
    item: str = "item_id",
    rating: str | None = "rating",
    time: str | None = "timestamp",
    rating_scale: Sequence[float | int] | None = None,
    rename: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    on_bad_rows: str = "error",
    unknown_items: str = "keep",
    duplicates: str = "latest",
) -> Dataset:
    """Reads RecBole's atomic files (https://recbole.io/docs/user_guide/data/atomic_files.html).

    Every field of `.item` and `.user` but the id becomes text; a sequence keeps its spaces, save
    that genres are separated by commas. Fields are never quoted.

    Args:
        folder: the folder of the atomic files.
        dataset: their name before the ending; None if there is only one `.inter` file.
        user: field of the user's id.
        item: field of the item's id.
        rating: field of the rating; None for implicit feedback.
        time: field of the time; None if there is none.
        rating_scale: lowest and highest possible rating; None takes the lowest and highest seen.
        rename: field to another name of its text; None takes `RENAME`.
        encoding: how the characters are encoded.
        on_bad_rows: as in `metarec.data.cleaning.clean`.
        unknown_items: likewise.
        duplicates: likewise.

    Returns:
        The data set, called `dataset`; without item text where there is no `.item` file.

    Raises:
        DataError: if a file is missing or cannot be used.
    """
    base = _find(folder, dataset)
    fields = {name for name in (user, item, rating, time) if name is not None}
    hints = {
        rating or "": "Pass rating=None if the feedback is implicit",
        time or "": "Pass time=None if there are no times",
    }
    names = RENAME if rename is None else rename
    return clean(
        base.name,
        _read_atomic(Path(f"{base}.inter"), encoding, fields, hints),
        user=user,
        item=item,
        rating=rating,
        time=time,
        rating_scale=rating_scale,
        item_table=_texts(Path(f"{base}.item"), item, names, encoding),
        user_table=_texts(Path(f"{base}.user"), user, names, encoding),
        on_bad_rows=on_bad_rows,
        unknown_items=unknown_items,
        duplicates=duplicates,
    )


def _find(folder: str | Path | None, dataset: str | None) -> Path:
    remedy = "pass folder=…, where the atomic files are"
    if folder is None:
        raise DataError(f"data set 'recbole' needs a folder: {remedy}")
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"data set 'recbole': there is no folder {root.absolute()}; {remedy}")
    found = sorted(path.stem for path in root.glob("*.inter"))
    if dataset is None and len(found) == 1:
        dataset = found[0]
    if dataset is None or dataset not in found:
        listed = ", ".join(f"{name}.inter" for name in found) or "no .inter file"
        asked = "" if dataset is None else f", not {dataset}.inter"
        raise DataError(
            f"data set 'recbole': {root.absolute()} holds {listed}{asked}; "
            + ("name one with dataset=…" if found else remedy)
        )
    return root / dataset


def _read_atomic(
    path: Path,
    encoding: str,
    fields: set[str] | None,
    hints: Mapping[str, str] | None = None,
) -> Table:
    """Reads one atomic file; its columns are called by the names of the fields, without type."""
    header = read_header(path, "\t", encoding, csv.QUOTE_NONE)
    types: dict[str, str] = {}
    for column in header:
        field, colon, kind = column.rpartition(":")
        if not colon or kind not in _TYPES:
            raise DataError(
                f"{path}, line 1: header {column!r} is not `name:type` with a type among "
                f"{', '.join(_TYPES)}; RecBole's atomic files have such headers, separated by tabs"
            )
        types[field] = kind
    require_columns(path, list(types), sorted(fields or ()), hints)
    columns = [f"{field}:{kind}" for field, kind in types.items() if not fields or field in fields]
    table = read_table(
        path,
        columns,
        text=[column for column in columns if not column.endswith(":float")],
        separator="\t",
        encoding=encoding,
        quoting=csv.QUOTE_NONE,
    )
    frame = table.frame.rename(columns=lambda column: str(column).rpartition(":")[0])
    return Table(frame, path, table.place)


def _texts(path: Path, key: str, names: Mapping[str, str], encoding: str) -> TextTable | None:
    if not path.is_file():
        return None
    frame = _read_atomic(path, encoding, None).frame
    require_columns(path, list(frame.columns), [key])
    columns: dict[str, pd.Series] = {}
    for field in frame.columns.drop(key):
        values = frame[field]
        name = names.get(field, field)
        columns[name] = values.str.replace(" ", ", ") if name == "genres" else values
    return TextTable(frame[key].tolist(), text_frame(columns), path.name)
