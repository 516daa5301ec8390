"""UCI Online Retail: purchases at a British gift shop, as implicit feedback."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from metarec.data.cleaning import clean
from metarec.data.dataset import CleaningReport, Dataset
from metarec.data.fields import TextTable, text_frame
from metarec.data.files import Table, find_folder, read_table, require_choice
from metarec.errors import DataError

FILES = (
    "Online Retail.xlsx",
    "online_retail.csv",
    "online_retail.csv.gz",
    "Online Retail.csv",
    "OnlineRetail.csv",
    "online_retail.xlsx",
    "online_retail.parquet",
)
"""Names under which the data set is passed on, the first being the publisher's."""

_COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)


def read(
    folder: str | Path | None = None,
    duplicates: str = "earliest",
    encoding: str = "utf-8",
    on_bad_rows: str = "error",
) -> Dataset:
    """Reads UCI Online Retail (https://doi.org/10.24432/C5BW33) with the publisher's columns.

    Dropped and counted, in this order: cancellations (InvoiceNo begins with C), rows without
    customer, codes that are no product (anything but five digits and perhaps letters: postage, bank
    charges, manual entries), quantities and then prices that are not positive. What a customer buys
    again is merged into one interaction.

    Args:
        folder: the folder of the Excel or CSV file, see `FILES`.
        duplicates: which time a merged pair keeps. The `earliest` is when the customer met the
            item, so that in a split by time a repeated purchase is no discovery.
        encoding: how the characters of a CSV file are encoded.
        on_bad_rows: as in `metarec.data.cleaning.clean`; also for quantities and prices that are
            not numbers.

    Returns:
        4,334 users, 3,659 items and 266,221 interactions; the text of an item is its most frequent
        `description`, that of a user the `country`.

    Raises:
        DataError: if the file is missing or cannot be used.
    """
    require_choice("on_bad_rows", on_bad_rows, ("error", "drop"))
    root = find_folder("online-retail", folder, FILES)
    path = next(root / name for name in FILES if (root / name).is_file())
    read = read_table(path, _COLUMNS, text=None, encoding=encoding)
    table = replace(read, frame=_as_text(read.frame))
    frame, report = _products(table, on_bad_rows)
    frame = frame.assign(
        CustomerID=frame["CustomerID"].str.replace(r"\.0$", "", regex=True),
        StockCode=frame["StockCode"].str.strip(),
    )
    # An item is described, and a customer located, by the rows that are kept.
    items = _most_frequent(frame, "StockCode", "Description")
    users = _most_frequent(frame, "CustomerID", "Country")
    return clean(
        "online-retail",
        Table(frame, path, table.place),
        user="CustomerID",
        item="StockCode",
        rating=None,
        time="InvoiceDate",
        time_format=_time_format(frame["InvoiceDate"]),
        item_table=TextTable(
            list(items.index), text_frame({"description": items.tolist()}), path.name
        ),
        user_table=TextTable(list(users.index), text_frame({"country": users.tolist()}), path.name),
        on_bad_rows=on_bad_rows,
        duplicates=duplicates,
        report=report,
    )


def _as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """All columns as text, as CSV and Excel give them: a Parquet file has types."""
    columns = {}
    for name, values in frame.items():
        if pd.api.types.is_datetime64_any_dtype(values):
            columns[name] = values.dt.strftime("%Y-%m-%d %H:%M:%S")
        elif not pd.api.types.is_string_dtype(values):
            columns[name] = values.astype("str").where(values.notna())
        else:
            columns[name] = values
    return pd.DataFrame(columns)


def _products(table: Table, on_bad_rows: str) -> tuple[pd.DataFrame, CleaningReport]:
    """Leaves the rows in which a known customer buys a product."""
    frame = table.frame
    report = CleaningReport(read=len(frame), kept=len(frame))

    def drop(bad: pd.Series, reason: str) -> None:
        nonlocal frame, report
        report = report.drop(reason, int(bad.sum()))
        frame = frame[~bad]

    def drop_malformed(column: str) -> pd.Series:
        bad = ~pd.to_numeric(frame[column], errors="coerce").abs().lt(float("inf"))
        if bad.any() and on_bad_rows == "error":
            row = int(frame.index[bad.to_numpy()][0])
            raise DataError(
                f"{table.path}, {table.place(row)}, column {column!r}: found "
                f"{frame.at[row, column]!r}, which is no finite number. Correct the file, or pass "
                f'on_bad_rows="drop" to drop and count such rows'
            )
        drop(bad, f"{column} is no finite number")
        return pd.to_numeric(frame[column])

    drop(frame["InvoiceNo"].str.startswith("C", na=False), "cancellation")
    drop(frame["CustomerID"].isna(), "missing customer")
    product = frame["StockCode"].str.strip().str.fullmatch(r"\d{5}[A-Za-z]*", na=False)
    drop(~product.astype(bool), "code is not of a product")
    drop(drop_malformed("Quantity") <= 0, "quantity is not positive")
    drop(drop_malformed("UnitPrice") <= 0, "price is not positive")
    return frame, report


def _most_frequent(frame: pd.DataFrame, key: str, column: str) -> pd.Series:
    """Returns the most frequent text of each key, the first in the alphabet among equals."""
    keys = pd.Index(frame[key].unique())
    counts = frame.groupby([key, column]).size().rename("count").reset_index()
    counts = counts.sort_values([key, "count", column], ascending=[True, False, True])
    first: pd.Series = counts.drop_duplicates(key).set_index(key)[column]
    return first.reindex(keys)


def _time_format(times: pd.Series) -> str | None:
    """ISO 8601, or what spreadsheets write when they save the file as CSV: American or British."""
    parts = times.str.extract(r"^(\d{1,2})/(\d{1,2})/\d{4} \d{1,2}:\d{2}$")
    if not parts[0].notna().any():
        return None
    day_first = pd.to_numeric(parts[0]).max() > 12
    return "%d/%m/%Y %H:%M" if day_first else "%m/%d/%Y %H:%M"
