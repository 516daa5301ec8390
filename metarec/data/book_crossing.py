"""Book-Crossing: ratings of books by members of bookcrossing.com, explicit and implicit."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from metarec.data.cleaning import clean
from metarec.data.dataset import CleaningReport, Dataset
from metarec.data.fields import TextTable, plain_text, text_frame
from metarec.data.files import Table, find_folder, read_header, read_table, require_choice

_RATINGS = ("BX-Book-Ratings.csv", "Ratings.csv")
_COMPANIONS = {
    "BX-Book-Ratings.csv": ("BX-Books.csv", "BX-Users.csv", "latin-1"),
    "Ratings.csv": ("Books.csv", "Users.csv", "utf-8"),
}
# Copies shorten the names of some columns.
_NAMES = {
    "Book-Rating": "Rating",
    "Book-Title": "Title",
    "Book-Author": "Author",
    "Year-Of-Publication": "Year",
}
_REMEDY = (
    "the publisher's site is gone: get BX-CSV-Dump.zip from an archive or a copy and unpack it; "
    "`python -m metarec.data info book-crossing` says more"
)
_MISSING = ("", "null", "n/a")
_AGES = (5, 100)
_YEARS = (1400, 2006)
_NOT_OF_ISBN = re.compile(r"[^0-9A-Z]")
# What a reader that does not know the backslash makes of `… (Level 4)\";Michael Teitelbaum"`.
_TITLE_AND_AUTHOR = re.compile(r'(.*?)\\?"+;\s*(.*?)[\\"]*')


def read(
    folder: str | Path | None = None,
    feedback: str = "rating",
    encoding: str | None = None,
    on_bad_rows: str = "error",
    unknown_items: str = "keep",
    duplicates: str = "latest",
) -> Dataset:
    """Reads Book-Crossing (Ziegler et al. 2005, https://doi.org/10.1145/1060745.1060754).

    Of ISBNs only digits and letters count, in capitals, so that `034545104x` and `0-345-45104-X`
    are one book; editions have ISBNs of their own and stay apart, and codes that are no ISBN stay,
    as some are Amazon's. Ages out of 5 to 100 and years out of 1400 to 2006 are missing. Books
    whose author had slipped into the title are put right. All of this is counted.

    Args:
        folder: the folder of `BX-Book-Ratings.csv`, `BX-Books.csv` and `BX-Users.csv`, separated by
            semicolons, in Latin-1, with backslashes before quotes; or of a copy's `Ratings.csv`,
            `Books.csv` and `Users.csv`, separated by commas or semicolons, in UTF-8.
        feedback: `rating` keeps the ratings from 1 to 10 and drops the zeros, which are implicit,
            and counts them; `implicit` keeps both, as implicit feedback.
        encoding: how the characters are encoded; None lets the names of the files decide.
        on_bad_rows: as in `metarec.data.cleaning.clean`.
        unknown_items: likewise; about a tenth of the ratings are of books that are not listed.
        duplicates: likewise; there are no times, so the order of the file decides.

    Returns:
        Items with title, author, year and publisher; users with location and age; no times.

    Raises:
        DataError: if a file is missing or cannot be used.
        ConfigError: for an unknown value of an option.
    """
    require_choice("feedback", feedback, ("rating", "implicit"))
    root = find_folder("book-crossing", folder, _RATINGS, _REMEDY)
    file = next(name for name in _RATINGS if (root / name).is_file())
    books, users, usual = _COMPANIONS[file]
    encoding = encoding or usual
    table = _read(root / file, ("User-ID", "ISBN", "Book-Rating"), (), encoding)
    spelled = table.frame["ISBN"]
    frame = table.frame.assign(ISBN=_isbn(spelled))
    respelled = spelled.notna() & (frame["ISBN"] != "") & (frame["ISBN"] != spelled)
    report = CleaningReport(read=len(frame), kept=len(frame)).note(
        "ISBNs in another spelling, made one with digits and capitals only", int(respelled.sum())
    )
    if feedback == "rating":
        implicit = (pd.to_numeric(frame["Book-Rating"], errors="coerce") == 0).to_numpy(dtype=bool)
        report = report.drop("implicit (rating 0), while feedback=rating", int(implicit.sum()))
        frame = frame[~implicit]
    return clean(
        "book-crossing",
        Table(frame, table.path, table.place),
        user="User-ID",
        item="ISBN",
        rating="Book-Rating" if feedback == "rating" else None,
        time=None,
        rating_scale=(1.0, 10.0),
        item_table=_books(root / books, encoding),
        user_table=_users(root / users, encoding),
        on_bad_rows=on_bad_rows,
        unknown_items=unknown_items,
        duplicates=duplicates,
        report=report,
    )


def _read(path: Path, needed: Sequence[str], also: Sequence[str], encoding: str) -> Table:
    """Reads columns by the publisher's names, whatever a copy calls them, all but ratings as text.

    Args:
        path: the file.
        needed: columns that must be there.
        also: columns that a copy may lack.
        encoding: how the characters are encoded.
    """
    separator = ";" if b";" in _first_line(path) else ","
    header = read_header(path, separator, encoding, csv.QUOTE_MINIMAL)
    here = {name: name if name in header else _NAMES.get(name, name) for name in (*needed, *also)}
    here = {name: column for name, column in here.items() if name in needed or column in header}
    table = read_table(
        path,
        here.values(),
        text=[column for name, column in here.items() if name != "Book-Rating"],
        separator=separator,
        encoding=encoding,
        escape="\\" if separator == ";" else None,
    )
    names = {column: name for name, column in here.items()}
    return Table(table.frame.rename(columns=names), path, table.place)


def _first_line(path: Path) -> bytes:
    if not path.is_file():
        return b""  # what reads the header says it better
    with path.open("rb") as file:
        return file.readline()


def _isbn(codes: pd.Series) -> pd.Series:
    return codes.str.upper().str.replace(_NOT_OF_ISBN, "", regex=True)


def _books(path: Path, encoding: str) -> TextTable:
    also = ("Book-Author", "Year-Of-Publication", "Publisher")
    frame = _read(path, ("ISBN", "Book-Title"), also, encoding).frame
    ids = _isbn(frame["ISBN"]).fillna("").tolist()
    texts = frame.reindex(columns=["Book-Title", *also]).astype(object)
    counts = Counter[str]()
    rows = [_book(row, counts) for row in texts.itertuples(index=False, name=None)]
    titles, authors, years, publishers = zip(*rows, strict=True) if rows else ((), (), (), ())
    columns = {"title": titles, "author": authors, "year": years, "publisher": publishers}
    return TextTable(ids, text_frame(columns), path.name, dict(sorted(counts.items())))


def _book(values: Sequence[object], counts: Counter[str]) -> tuple[str | None, ...]:
    """Title, author, year and publisher of a row."""
    title, author, year, publisher = map(_plain, values)
    if title and author and re.fullmatch(r"\d{4}", author) and not (year or "").isdigit():
        both = _TITLE_AND_AUTHOR.fullmatch(title)
        if both is not None:
            counts["books whose author stood in the title, put right"] += 1
            title, author, year, publisher = both[1], both[2], author, year
    if year is not None and not (year.isdecimal() and _YEARS[0] <= int(year) <= _YEARS[1]):
        counts[f"years of books outside {_YEARS[0]} to {_YEARS[1]}, taken as missing"] += 1
        year = None
    return title, author, year, publisher


def _users(path: Path, encoding: str) -> TextTable:
    frame = _read(path, ("User-ID",), ("Location", "Age"), encoding).frame
    counts = Counter[str]()
    columns: dict[str, list[str | None]] = {}
    if "Location" in frame:
        columns["location"] = [_location(value) for value in frame["Location"].astype(object)]
    if "Age" in frame:
        columns["age"] = [_age(value, counts) for value in frame["Age"].astype(object)]
    return TextTable(frame["User-ID"].tolist(), text_frame(columns), path.name, dict(counts))


def _plain(value: object) -> str | None:
    if not isinstance(value, str) or value.strip().lower() in _MISSING:
        return None
    return plain_text(value.replace('\\"', '"')) or None


def _location(value: object) -> str | None:
    """Of `nyc, n/a, usa` what is known."""
    parts = [] if not isinstance(value, str) else [part.strip() for part in value.split(",")]
    return plain_text(", ".join(part for part in parts if part.lower() not in _MISSING)) or None


def _age(value: object, counts: Counter[str]) -> str | None:
    if not isinstance(value, str) or value.strip().lower() in _MISSING:
        return None
    age = float(value) if re.fullmatch(r"\d+(\.\d+)?", value.strip()) else -1.0
    if not _AGES[0] <= age <= _AGES[1]:
        counts[f"ages outside {_AGES[0]} to {_AGES[1]}, taken as missing"] += 1
        return None
    return str(int(age))
