"""Any CSV, TSV, Parquet or Excel file, by a mapping of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from metarec.data.cleaning import clean
from metarec.data.dataset import Dataset
from metarec.data.fields import TextTable, text_frame
from metarec.data.files import read_table, require_columns
from metarec.errors import ConfigError, DataError

Columns = Sequence[str] | Mapping[str, str]


def read(
    interactions: str | Path,
    items: str | Path | None = None,
    users: str | Path | None = None,
    folder: str | Path | None = None,
    user: str = "user",
    item: str = "item",
    rating: str | None = "rating",
    time: str | None = None,
    item_id: str | None = None,
    item_text: Columns | None = None,
    user_id: str | None = None,
    user_text: Columns | None = None,
    rating_scale: Sequence[float | int] | None = None,
    time_unit: str = "s",
    time_format: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    on_bad_rows: str = "error",
    unknown_items: str = "keep",
    duplicates: str = "latest",
    dataset: str | None = None,
    licence: str = "",
) -> Dataset:
    """Reads interactions, and what is written about items and users, from tables.

    The ending says what a file is: `.csv`, `.tsv`, `.parquet` or `.xlsx`, where text files may be
    compressed (`.csv.gz`).

    Args:
        interactions: the file with one interaction a row.
        items: the file with one item a row; None if nothing is written about items.
        users: the file with one user a row; None if nothing is written about users.
        folder: where the files are, if their paths are relative to it.
        user: column of the user's id in `interactions`.
        item: column of the item's id in `interactions`.
        rating: column of the rating; None for implicit feedback.
        time: column of the time, as a number since 1970 or as text; None if there are no times.
        item_id: column of the item's id in `items`; None if it is called as in `interactions`.
        item_text: the columns of `items` to keep, or a mapping of column to field name; None keeps
            all.
        user_id: column of the user's id in `users`; None if it is called as in `interactions`.
        user_text: likewise for `users`.
        rating_scale: lowest and highest possible rating; None takes the lowest and highest seen.
        time_unit: unit of times that are numbers: `s`, `ms`, `us` or `ns`.
        time_format: strptime format of times that are text, None for ISO 8601.
        separator: what separates the fields of text files; None lets the ending decide.
        encoding: how the characters of text files are encoded.
        on_bad_rows: as in `metarec.data.cleaning.clean`.
        unknown_items: likewise.
        duplicates: likewise.
        dataset: name of the data set; None takes that of the file.
        licence: the terms under which the data may be used.

    Returns:
        The data set.

    Raises:
        DataError: if a file is missing or cannot be used.
        ConfigError: if a column is mapped twice or an option has an unknown value.
    """
    root = Path() if folder is None else Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"data set 'csv': there is no folder {root.absolute()}; check folder=")
    path = root / interactions
    columns = [column for column in (user, item, rating, time) if column is not None]
    if len(set(columns)) < len(columns):
        raise ConfigError(f"the columns {', '.join(columns)} name one column twice")
    hints = {user: "Name the user's column with user=…", item: "Name the item's column with item=…"}
    if rating is not None:
        hints[rating] = "Name it with rating=…, or pass rating=None if the feedback is implicit"
    if time is not None:
        hints[time] = "Name it with time=…, or pass time=None if there are no times"
    table = read_table(
        path, columns, text=(user, item), separator=separator, encoding=encoding, hints=hints
    )
    return clean(
        dataset or path.name.split(".")[0],
        table,
        user=user,
        item=item,
        rating=rating,
        time=time,
        rating_scale=rating_scale,
        item_table=_texts(
            root, items, "item_id", item_id or item, "item_text", item_text, separator, encoding
        ),
        user_table=_texts(
            root, users, "user_id", user_id or user, "user_text", user_text, separator, encoding
        ),
        on_bad_rows=on_bad_rows,
        unknown_items=unknown_items,
        duplicates=duplicates,
        time_unit=time_unit,
        time_format=time_format,
        licence=licence,
    )


def _texts(
    root: Path,
    file: str | Path | None,
    key_option: str,
    key: str,
    text_option: str,
    chosen: Columns | None,
    separator: str | None,
    encoding: str,
) -> TextTable | None:
    if file is None:
        if chosen is not None:
            raise ConfigError(
                f"{text_option}=… needs the file that it is in: pass items= or users="
            )
        return None
    if isinstance(chosen, str):
        chosen = (chosen,)
    hints = {key: f"Name the column of the id with {key_option}=…"}
    wanted = None if chosen is None else [key, *chosen]
    table = read_table(
        root / file, wanted, text=None, separator=separator, encoding=encoding, hints=hints
    )
    require_columns(table.path, list(table.frame.columns), [key], hints)
    if chosen is None:
        chosen = [str(column) for column in table.frame.columns if column != key]
    names = chosen if isinstance(chosen, Mapping) else {column: column for column in chosen}
    missing = table.frame[key].isna().to_numpy(dtype=bool)
    if missing.any():
        row = int(missing.argmax())
        raise DataError(f"{table.path}, {table.place(row)}, column {key!r}: missing id; add it")
    return TextTable(
        ids=[_id(value) for value in table.frame[key]],
        frame=text_frame({name: table.frame[column] for column, name in names.items()}),
        file=table.path.name,
    )


def _id(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a Parquet column of whole numbers that had gaps
    return str(value)
