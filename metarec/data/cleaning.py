"""From raw columns to a `Dataset`: every row that does not make it is an error or is counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int32, Int64, Shaped

from metarec.data.dataset import CleaningReport, Dataset
from metarec.data.fields import TextTable, text_frame
from metarec.data.files import Table, require_choice
from metarec.errors import ConfigError, DataError

_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# Seconds beyond this lie after the year 5138: surely another unit.
_LATEST_SECOND = 10**11


def clean(
    name: str,
    table: Table,
    *,
    user: str,
    item: str,
    rating: str | None,
    time: str | None,
    rating_scale: Sequence[float | int] | None = None,
    item_table: TextTable | None = None,
    user_table: TextTable | None = None,
    on_bad_rows: str = "error",
    unknown_items: str = "keep",
    duplicates: str = "latest",
    time_unit: str = "s",
    time_format: str | None = None,
    report: CleaningReport | None = None,
    licence: str = "",
) -> Dataset:
    """Checks and cleans interactions and numbers their users and items.

    Users and items are numbered in the order of their ids (as numbers where all ids of the column
    are whole numbers, as text otherwise), so the numbering does not depend on the order of the
    file. Interactions stay in the order of the file. Items that are in the item table but in no
    interaction are left out and noted.

    Args:
        name: name of the data set.
        table: the interactions; where rows were dropped before, the index still counts the file's.
        user: name of the column with the user's id.
        item: name of the column with the item's id.
        rating: name of the column with the rating; None for implicit feedback.
        time: name of the column with the time (a number, ISO 8601 text or datetimes, UTC where they
            have no time zone); None if there are no times.
        rating_scale: lowest and highest possible rating; None takes the lowest and highest seen.
        item_table: what is written about the items.
        user_table: what is written about the users.
        on_bad_rows: `error` stops at a missing id, at a missing, non-numeric, infinite or off-scale
            rating and at an unreadable time; `drop` drops such rows and counts them by reason.
        unknown_items: an interaction whose item is not in the item table is kept, without text and
            with a note, is dropped and counted, or is an error.
        duplicates: which row of a repeated user-item pair stays, the others being counted: that
            with the `latest` or the `earliest` time; the last or the first in the file where times
            are missing or equal.
        time_unit: unit of times that are numbers: `s`, `ms`, `us` or `ns`.
        time_format: strptime format of times that are text, None for ISO 8601.
        report: the report of rows that the reader has dropped before.
        licence: the terms under which the data may be used.

    Returns:
        The data set.

    Raises:
        DataError: for bad rows as said above, and if no interaction is left.
        ConfigError: for an unknown value of an option.
    """
    require_choice("on_bad_rows", on_bad_rows, ("error", "drop"))
    require_choice("unknown_items", unknown_items, ("keep", "drop", "error"))
    require_choice("duplicates", duplicates, ("latest", "earliest"))
    require_choice("time_unit", time_unit, _UNITS)
    scale = None if rating_scale is None else _scale(rating_scale)
    n = len(table.frame)
    rows = _Rows(table, on_bad_rows, report or CleaningReport(read=n, kept=n))

    for label, column in (("user", user), ("item", item)):
        values = table.frame[column]
        missing = values.isna().to_numpy(dtype=bool, copy=True)
        if isinstance(values.dtype, pd.StringDtype) or values.dtype == object:
            missing |= (values == "").fillna(True).to_numpy(dtype=bool)
        rows.reject(missing, column, f"missing {label} id")
    ratings = None if rating is None else _ratings(rows, rating, scale)
    times = None if time is None else _times(rows, time, time_unit, time_format)
    rows.require_some(name)

    item_codes, item_ids = _number(table.frame[item])
    if item_table is not None:
        unknown = ~np.isin(item_ids, np.asarray(item_table.ids, dtype=np.str_))
        rows.unknown(unknown[item_codes], item, item_table.file, unknown_items)
        rows.require_some(name)
    user_codes, user_ids = _number(table.frame[user])
    _merge(rows, user_codes, item_codes, times, duplicates, implicit=rating is None)

    alive = rows.alive
    kept_users, users = _close_up(user_codes[alive], len(user_ids))
    kept_items, items = _close_up(item_codes[alive], len(item_ids))
    user_ids, item_ids = user_ids[kept_users], item_ids[kept_items]
    final = np.ones(len(users)) if ratings is None else ratings[alive]
    item_text, user_text = pd.DataFrame(index=pd.RangeIndex(len(item_ids))), None
    report = rows.report
    if item_table is not None:
        item_text, report = _align(item_table, item_ids, "items", report)
    if user_table is not None:
        user_text, report = _align(user_table, user_ids, "users", report)
    if scale is None:
        scale = (float(final.min()), float(final.max()))
    return Dataset(
        name=name,
        users=users,
        items=items,
        ratings=final.astype(np.float32),
        times=None if times is None else times[alive],
        user_ids=user_ids,
        item_ids=item_ids,
        item_text=item_text,
        user_text=user_text,
        feedback="implicit" if rating is None else "rating",
        rating_scale=None if rating is None else scale,
        report=report,
        licence=licence,
    )


class _Rows:
    """Which rows of the table are still alive, and the report of those that are not."""

    def __init__(self, table: Table, on_bad_rows: str, report: CleaningReport) -> None:
        self.table = table
        self.on_bad_rows = on_bad_rows
        self.report = report
        self.alive = np.ones(len(table.frame), dtype=bool)

    def reject(self, bad: Bool[np.ndarray, " n"], column: str, reason: str) -> None:
        """Raises at the first bad row or drops all of them, as `on_bad_rows` says."""
        bad = bad & self.alive
        if bad.any() and self.on_bad_rows == "error":
            raise DataError(
                f"{self._first(bad, column)}: {reason}. Correct the file, or pass "
                f'on_bad_rows="drop" to drop and count such rows'
            )
        self.drop(bad, reason)

    def unknown(
        self, bad: Bool[np.ndarray, " n"], column: str, file: str, unknown_items: str
    ) -> None:
        """Keeps, drops or refuses the interactions whose item is not in the item table."""
        bad = bad & self.alive
        if unknown_items == "keep":
            self.report = self.report.note(
                f"interactions with an item that is not in {file}, kept without text",
                int(bad.sum()),
            )
        elif unknown_items == "drop":
            self.drop(bad, f"item is not in {file}")
        elif bad.any():
            raise DataError(
                f"{self._first(bad, column)}: this item is not in {file}. Add it there, or pass "
                f'unknown_items="keep" or unknown_items="drop"'
            )

    def drop(self, bad: Bool[np.ndarray, " n"], reason: str) -> None:
        """Drops rows and counts them."""
        bad = bad & self.alive
        self.report = self.report.drop(reason, int(bad.sum()))
        self.alive &= ~bad

    def require_some(self, name: str) -> None:
        """Raises DataError if no row is left."""
        if not self.alive.any():
            raise DataError(
                f"data set {name!r} has no interaction left after cleaning {self.table.path}:\n"
                f"{self.report}"
            )

    def _first(self, bad: Bool[np.ndarray, " n"], column: str) -> str:
        position = int(np.flatnonzero(bad)[0])
        value = self.table.frame[column].iloc[position]
        place = self.table.place(int(self.table.frame.index[position]))
        shown = (
            "nothing" if pd.isna(value) else repr(value.item() if hasattr(value, "item") else value)
        )
        more = int(bad.sum()) - 1
        also = f" (and {more:,} more rows)" if more else ""
        return f"{self.table.path}, {place}, column {column!r}: found {shown}{also}"


def _ratings(
    rows: _Rows, column: str, scale: tuple[float, float] | None
) -> Float64[np.ndarray, " n"]:
    series = rows.table.frame[column]
    values = _numbers(series)
    rows.reject(series.isna().to_numpy(dtype=bool), column, "missing rating")
    rows.reject(np.isnan(values), column, "rating is not a number")
    # Beyond the range of float32 a rating would become infinite.
    beyond = np.abs(values) > np.finfo(np.float32).max
    rows.reject(beyond, column, "rating is infinite")
    if scale is not None:
        low, high = scale
        outside = (values < low) | (values > high)
        rows.reject(outside, column, f"rating outside the scale {low:g} to {high:g}")
    return values


def _scale(given: Sequence[float | int]) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"rating_scale={given!r} is not a lowest and a highest rating") from error
    if not low <= high:
        raise ConfigError(f"rating_scale=({low:g}, {high:g}): the lowest rating comes first")
    return low, high


def _times(rows: _Rows, column: str, unit: str, time_format: str | None) -> Int64[np.ndarray, " n"]:
    series = rows.table.frame[column]
    rows.reject(series.isna().to_numpy(dtype=bool), column, "missing time")
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return _seconds(pd.to_datetime(series, utc=True))
    if time_format is not None:
        seconds, readable = _moments(series, time_format)
        rows.reject(~readable, column, f"time is not written as {time_format}")
    elif pd.api.types.is_integer_dtype(series.dtype) and not series.hasnans:
        seconds = series.to_numpy(dtype=np.int64) // _UNITS[unit]
    else:
        values = _numbers(series)
        number = np.isfinite(values) & (np.abs(values) < 2.0**62)
        seconds, moment = _moments(series, "ISO8601")
        moment = moment & ~number
        rows.reject(~number & ~moment, column, "time is neither a number nor ISO 8601 text")
        seconds = np.where(
            number, np.floor(np.where(number, values, 0) / _UNITS[unit]).astype(np.int64), seconds
        )
        # what most rows are; a lone 0 among dates is no time
        numbers, moments = (int((kind & rows.alive).sum()) for kind in (number, moment))
        odd = moment if numbers >= moments else number
        other = "text among numbers" if numbers >= moments else "a number among ISO 8601 texts"
        rows.reject(odd, column, f"time is {other}")
    far = rows.alive & (np.abs(seconds) >= _LATEST_SECOND)
    if far.any() and far.sum() == rows.alive.sum():
        raise DataError(
            f"{rows._first(far, column)}: this is past the year 5000 if the unit is {unit!r}; pass "
            f'the right one, such as time_unit="ms"'
        )
    rows.reject(far, column, "time is past the year 5000")
    return seconds


def _moments(
    series: pd.Series, time_format: str
) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Seconds of times in text, and which could be read."""
    text = series.astype("str")
    if time_format != "ISO8601":
        written = pd.Timestamp("2011-11-11 11:11:11").strftime(time_format)
        if written.isdigit():
            # read as a number, it has lost the zeros that it began with
            text = text.str.zfill(len(written))
    moments = pd.to_datetime(text, format=time_format, utc=True, errors="coerce")
    readable = moments.notna().to_numpy(dtype=bool)
    return _seconds(moments.where(readable, pd.Timestamp(0, tz="UTC"))), readable


def _seconds(moments: pd.Series) -> Int64[np.ndarray, " n"]:
    naive: np.ndarray = moments.dt.tz_convert(None).to_numpy().astype("datetime64[s]")
    return naive.astype(np.int64)


def _numbers(series: pd.Series) -> Float64[np.ndarray, " n"]:
    if not pd.api.types.is_numeric_dtype(series.dtype):
        series = pd.to_numeric(series, errors="coerce")
    return series.to_numpy(dtype=np.float64, na_value=np.nan)


def _number(
    column: pd.Series,
) -> tuple[Int64[np.ndarray, " n"], Shaped[np.ndarray, " ids"]]:
    """Numbers the ids of a column by their order; rows without an id get some number."""
    codes, values = pd.factorize(column)
    texts = np.array([_id_text(value) for value in values], dtype=np.str_)
    whole = pd.Series(texts).str.fullmatch(r"0|-?[1-9]\d{0,17}")
    ids, inverse = np.unique(texts, return_inverse=True)
    if len(texts) and whole.all():
        order = np.argsort(ids.astype(np.int64), kind="stable")
        rank = np.empty(len(ids), dtype=np.int64)
        rank[order] = np.arange(len(ids))
        ids, inverse = ids[order], rank[inverse]
    return inverse.astype(np.int64)[codes], ids


def _id_text(value: object) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))  # a column of whole numbers that had gaps
    return str(value)


def _close_up(
    codes: Int64[np.ndarray, " n"], size: int
) -> tuple[Int64[np.ndarray, " kept"], Int32[np.ndarray, " n"]]:
    used = np.bincount(codes, minlength=size) > 0
    rank = np.cumsum(used) - 1
    return np.flatnonzero(used), rank[codes].astype(np.int32)


def _merge(
    rows: _Rows,
    users: Int64[np.ndarray, " n"],
    items: Int64[np.ndarray, " n"],
    times: Int64[np.ndarray, " n"] | None,
    keep: str,
    implicit: bool,
) -> None:
    """Leaves one row of each user-item pair."""
    index = np.flatnonzero(rows.alive)
    keys = users[index] * (int(items.max()) + 1) + items[index]
    repeated = pd.Series(keys).duplicated(keep=False).to_numpy()
    if not repeated.any():
        return
    index, keys = index[repeated], keys[repeated]
    # lexsort is stable, so that the order of the file decides between equal times.
    order = np.argsort(keys, kind="stable") if times is None else np.lexsort((times[index], keys))
    new = keys[order][1:] != keys[order][:-1]
    stays = np.append(new, True) if keep == "latest" else np.append(True, new)
    bad = np.zeros(len(rows.alive), dtype=bool)
    bad[index[order[~stays]]] = True
    which = "latest" if keep == "latest" else "earliest"
    by = "by time" if times is not None else "by the order of the file"
    what = "repeated user-item pair, merged into" if implicit else "duplicate user-item pair, kept"
    rows.drop(bad, f"{what} the {which} {by}")


def _align(
    table: TextTable, ids: Shaped[np.ndarray, " ids"], label: str, report: CleaningReport
) -> tuple[pd.DataFrame, CleaningReport]:
    """Brings a text table into the order of the index; ids that it does not have get no text."""
    known = pd.Index(list(table.ids), dtype=object)
    first = ~known.duplicated()
    report = report.note(
        f"{label} listed twice in {table.file}, the first kept", int((~first).sum())
    )
    position = known[first].get_indexer(pd.Index(ids.astype(object)))
    report = report.note(
        f"{label} in {table.file} without interaction, left out",
        int(first.sum()) - int((position >= 0).sum()),
    )
    report = report.note(f"{label} that are not in {table.file}", int((position < 0).sum()))
    for text, count in table.notes.items():
        report = report.note(text, count)
    columns: dict[str, list[object]] = {}
    for name in table.frame.columns:
        values = table.frame[name].to_numpy(dtype=object)[first]
        columns[str(name)] = [None if at < 0 else values[at] for at in position]
    frame = text_frame(columns)
    if not columns:
        frame = pd.DataFrame(index=pd.RangeIndex(len(ids)))
    for name in frame.columns:
        report = report.note(f"{label} without {name}", int(frame[name].isna().sum()))
    return frame, report
