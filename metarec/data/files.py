"""Reading of tables from disk, with errors that name the file, the line and the remedy."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pandas as pd

from metarec.errors import ConfigError, DataError, did_you_mean

PARQUET = (".parquet", ".pq")
EXCEL = (".xlsx", ".xls")
TAB_SEPARATED = (".tsv", ".tab", ".inter", ".item", ".user")
COMPRESSED = (".gz", ".zip", ".bz2", ".xz")

Quoting = int


@dataclass(frozen=True)
class Table:
    """A table as it was read: nothing is dropped, the index counts its rows from 0.

    Args:
        frame: the rows.
        path: the file that they come from.
        place: row number, from 0, to where that is in the file, such as `line 7`.
    """

    frame: pd.DataFrame
    path: Path
    place: Callable[[int], str]


def read_table(
    path: str | Path,
    columns: Iterable[str] | None = None,
    *,
    text: Iterable[str] | None = (),
    separator: str | None = None,
    encoding: str = "utf-8",
    quoting: Quoting = csv.QUOTE_MINIMAL,
    hints: Mapping[str, str] | None = None,
    escape: str | None = None,
) -> Table:
    """Reads a CSV, TSV, Parquet or Excel file; the ending says which, `.gz`, `.zip` and so on too.

    An empty field is missing; `NA`, `null` and the like are text and stay what they are.

    Args:
        path: the file.
        columns: the columns to read; None reads all.
        text: the columns that are not to be taken for numbers, such as ids; None for all.
        separator: what separates the fields; None lets the ending decide.
        encoding: how the characters are encoded.
        quoting: one of the constants of the `csv` module.
        hints: column to a remedy that is added to the error where that column is missing.
        escape: what makes the next character an ordinary one, such as a backslash before a quote.

    Returns:
        The table.

    Raises:
        DataError: if the file is missing, empty, truncated, wrongly encoded or lacks a column.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file; check the name ({_neighbours(path.parent)})")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = next((suffix for suffix in reversed(suffixes) if suffix not in COMPRESSED), "")
    wanted = None if columns is None else list(dict.fromkeys(columns))
    if kind in PARQUET:
        return _read_parquet(path, wanted, hints)
    if kind in EXCEL:
        return _read_excel(path, wanted, hints)
    if separator is None:
        separator = "\t" if kind in TAB_SEPARATED else ","
    return _read_text(path, wanted, text, separator, encoding, quoting, hints, escape)


def read_header(path: Path, separator: str, encoding: str, quoting: Quoting) -> list[str]:
    """Returns the column names in the first line of a text file."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; check the name ({_neighbours(path.parent)})")
    if len(separator) != 1:
        raise ConfigError(f"separator={separator!r} must be one character")
    given = {"sep": separator, "encoding": encoding, "quoting": quoting}
    first = _parse(path, path, nrows=1, header=None, dtype=str, **given)
    names = [str(name) for name in first.iloc[0].dropna()] if len(first) else []
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(
            f"{path} has {names.count(repeated[0])} columns {repeated[0]!r}; rename all but one"
        )
    return [str(column) for column in _parse(path, path, nrows=0, **given).columns]


def read_headless(path: Path, names: Sequence[str], separator: str) -> Table:
    """Reads numbers from a text file without header, whatever the length of its separator.

    A separator of several characters would send pandas to its Python engine, which takes a minute
    for a million rows; so the bytes are translated to tabs first.

    Args:
        path: the file.
        names: names of its columns.
        separator: what separates the fields.

    Raises:
        DataError: if the file is missing, empty, truncated or has lines with other fields.
    """
    raw = read_bytes(path)
    if separator != "\t":
        if b"\t" in raw:
            line = raw[: raw.index(b"\t")].count(b"\n") + 1
            raise DataError(f"{path}, line {line}: a tab in a file separated by {separator!r}")
        raw = raw.replace(separator.encode(), b"\t")

    def place(row: int) -> str:
        lines = (number for number, line in enumerate(raw.splitlines(), 1) if line.strip())
        return f"line {next(number for index, number in enumerate(lines) if index == row)}"

    frame = _parse(path, io.BytesIO(raw), sep="\t", header=None, names=list(names))
    return Table(frame, path, place)


def read_fields(path: Path, separator: str, n_fields: int) -> tuple[list[list[str]], int]:
    """Reads a small text file without header or quotes, in UTF-8 or Latin-1 or, by line, in both.

    MovieLens writes titles in Latin-1; copies of it are often converted, wholly or in part. Latin-1
    text with accents is not valid UTF-8, so each line tells which it is.

    Args:
        path: the file.
        separator: what separates the fields.
        n_fields: how many fields a line has.

    Returns:
        The fields of each line, and how many lines were in the rarer of two mixed encodings.

    Raises:
        DataError: if the file is missing or empty or a line has another number of fields.
    """
    rows: list[list[str]] = []
    in_utf_8 = in_latin_1 = 0
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            decoded = line.decode("utf-8")
            in_utf_8 += not decoded.isascii()
        except UnicodeDecodeError:
            decoded = line.decode("latin-1")
            in_latin_1 += 1
        fields = decoded.rstrip("\r").split(separator)
        if len(fields) != n_fields:
            raise DataError(
                f"{path}, line {number}: {len(fields)} fields separated by {separator!r}, expected "
                f"{n_fields}; the file is truncated or not the publisher's: get it again"
            )
        rows.append(fields)
    if not rows:
        raise DataError(f"{path} is empty; get it again")
    return rows, min(in_utf_8, in_latin_1)


def read_bytes(path: Path) -> bytes:
    """Reads a file, decompressed if its name ends in `.gz`, `.zip`, `.bz2` or `.xz`."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; check the name ({_neighbours(path.parent)})")
    try:
        with _open(path) as file:
            return file.read().removeprefix(codecs.BOM_UTF8)
    except BROKEN as error:
        raise unreadable(path, error) from error


def find_folder(
    name: str, folder: str | Path | None, files: Sequence[str], remedy: str | None = None
) -> Path:
    """Returns the folder, or its subfolder called `name`, that holds one of `files`.

    Args:
        name: name of the data set.
        folder: where to look.
        files: file names, any one of which is enough.
        remedy: how to get the files; None names the command that downloads them.

    Raises:
        DataError: if there is no such folder or it holds none of the files; says how to get them.
    """
    remedy = remedy or (
        f"`python -m metarec.data download {name} --to FOLDER` gets it and "
        f"`python -m metarec.data info {name}` says more"
    )
    if folder is None:
        raise DataError(
            f"data set {name!r} needs folder=…, where the publisher's files are ({files[0]}); "
            f"{remedy}"
        )
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"data set {name!r}: there is no folder {root.absolute()}; {remedy}")
    for place in (root, root / name):
        if any((place / file).is_file() for file in files):
            return place
    atomic = sorted(root.glob("*.inter"))
    if atomic:
        remedy = (
            f"this folder is in RecBole's format: load_dataset('recbole', folder={str(root)!r})"
        )
    raise DataError(
        f"data set {name!r}: {root.absolute()} holds no {' or '.join(files[:_SHOWN])} "
        f"({_neighbours(root)}); {remedy}"
    )


def require_columns(
    path: Path,
    found: Sequence[str],
    wanted: Iterable[str],
    hints: Mapping[str, str] | None = None,
) -> None:
    """Raises DataError if a wanted column is not among those found, naming the nearest."""
    for column in wanted:
        if column not in found:
            hint = (hints or {}).get(column, "")
            raise DataError(
                f"{path} has no column {column!r}{did_you_mean(column, map(str, found))} "
                f"(columns: {', '.join(map(str, found))}){f'. {hint}' if hint else ''}"
            )


def require_choice(option: str, value: str, known: Iterable[str]) -> None:
    """Raises ConfigError if an option's value is none of the known ones."""
    known = tuple(known)
    if value not in known:
        raise ConfigError(f"{option}={value!r} is unknown{did_you_mean(str(value), known)}")


_SHOWN = 8  # names in a message

BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What reading raises where a file is truncated or damaged."""


def _open(path: Path) -> io.BufferedIOBase:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path)
    if suffix == ".bz2":
        return bz2.open(path)
    if suffix == ".xz":
        return lzma.open(path)
    if suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if len(members) != 1:
                raise DataError(
                    f"{path} holds {len(members)} files, expected one table; unpack it first"
                )
            return io.BytesIO(archive.read(members[0]))
    return path.open("rb")


def _read_text(
    path: Path,
    wanted: list[str] | None,
    text: Iterable[str] | None,
    separator: str,
    encoding: str,
    quoting: Quoting,
    hints: Mapping[str, str] | None,
    escape: str | None,
) -> Table:
    found = read_header(path, separator, encoding, quoting)
    require_columns(path, found, wanted or [], hints)
    chosen = found if wanted is None else wanted
    dtypes = dict.fromkeys(chosen if text is None else [c for c in text if c in chosen], "str")
    # All columns are read, since with `usecols` pandas no longer minds rows that are too long.
    frame = _parse(
        path,
        path,
        dtype=dtypes,
        sep=separator,
        encoding=encoding,
        quoting=quoting,
        escapechar=escape,
    )
    frame = frame[chosen]

    def place(row: int) -> str:
        return _line(path, row, separator, encoding, quoting, escape)

    return Table(frame, path, place)


def _parse(path: Path, source: Path | io.BytesIO, **options: Any) -> pd.DataFrame:
    """`pandas.read_csv` on its C engine, with its many ways to fail turned into one error."""
    encoding = options.get("encoding", "utf-8")
    try:
        with warnings.catch_warnings():
            # Without index_col=False pandas takes the first column of too long rows for an index;
            # with it, it warns and cuts the rows.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame: pd.DataFrame = pd.read_csv(
                source,
                engine="c",
                index_col=False,
                low_memory=False,
                keep_default_na=False,
                na_values=[""],
                **options,
            )
            return frame
    except UnicodeError as error:
        raise _wrongly_encoded(path, encoding) from error
    except LookupError as error:
        raise ConfigError(f"encoding={encoding!r} is unknown ({error})") from error
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty; get it again") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        detail = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise DataError(
            f"{path} does not parse as a table separated by {options['sep']!r}: {detail}. Check "
            f"that line, or the separator"
        ) from error
    except BROKEN as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        if "zip" not in str(error).lower():
            raise
        raise DataError(f"{path} does not hold one table alone; unpack it first") from error


def _read_parquet(path: Path, wanted: list[str] | None, hints: Mapping[str, str] | None) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        require_columns(path, pq.read_schema(path).names, wanted or [], hints)
        frame = pd.read_parquet(path, columns=wanted, engine="pyarrow").reset_index(drop=True)
    except (pa.ArrowException, *BROKEN) as error:
        raise unreadable(path, error) from error
    return Table(frame, path, lambda row: f"row {row + 1}")


def _read_excel(path: Path, wanted: list[str] | None, hints: Mapping[str, str] | None) -> Table:
    try:
        import openpyxl  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"{path} is an Excel file; `pip install openpyxl`, or save it as CSV"
        ) from error
    try:
        # ids such as NA and null are text, as in a CSV file
        frame = pd.read_excel(path, dtype=str, keep_default_na=False, na_values=[""])
    except (ImportError, ValueError, KeyError, *BROKEN) as error:
        raise unreadable(path, error) from error
    require_columns(path, [str(column) for column in frame.columns], wanted or [], hints)
    if wanted is not None:
        frame = frame[wanted]
    return Table(frame, path, lambda row: f"row {row + 2}")


def _line(
    path: Path, row: int, separator: str, encoding: str, quoting: Quoting, escape: str | None
) -> str:
    """Finds the line of a record by reading again: quoted line breaks and blank lines count."""
    with io.TextIOWrapper(
        cast(IO[bytes], _open(path)), encoding, errors="replace", newline=""
    ) as file:
        reader = csv.reader(
            file,
            delimiter=separator,
            quoting=quoting,  # type: ignore[arg-type]
            escapechar=escape,
        )
        seen, start = -1, 1  # the header is record -1
        try:
            for record in reader:
                if len(record) > 1 or any(field.strip() for field in record):
                    if seen == row:
                        return f"line {start}"
                    seen += 1
                start = reader.line_num + 1
        except csv.Error:
            pass
    return f"row {row + 1}"


def _wrongly_encoded(path: Path, encoding: str) -> DataError:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                shown = line[max(0, error.start - 20) : error.end + 20].decode(
                    encoding, errors="replace"
                )
                return DataError(
                    f"{path}, line {number}: not valid {encoding} (near {shown.strip()!r}). If the "
                    f'whole file is in another encoding, name it, such as encoding="latin-1"; if '
                    f"encodings are mixed, convert the file to one"
                )
    return DataError(f"{path} is not in {encoding}; name its encoding, such as encoding='latin-1'")


def unreadable(path: Path, error: BaseException) -> DataError:
    """The error for a file that raised one of `BROKEN`."""
    return DataError(
        f"{path} cannot be read: it is truncated, damaged or not what its ending says "
        f"({type(error).__name__}: {error}); get it again"
    )


def _neighbours(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder.absolute()}"
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return "the folder is empty"
    return f"the folder holds {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
