"""MovieLens 100K, 1M, 25M and 32M in the publisher's own files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from metarec.data.cleaning import clean
from metarec.data.dataset import Dataset
from metarec.data.fields import TextTable, genres, split_titles, text_frame
from metarec.data.files import find_folder, read_fields, read_headless, read_table

_HEADLESS = ("user", "item", "rating", "time")
_GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_AGES_1M = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56 or older",
}
_OCCUPATIONS_1M = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
_EXTRA_1M = (
    "id",
    "title",
    "year",
    "certificate",
    "released",
    "genres",
    "director",
    "writers",
    "actors",
    "plot",
    "poster",
)
_GENDERS = {"F": "female", "M": "male"}


def read_100k(
    folder: str | Path | None = None,
    on_bad_rows: str = "error",
    unknown_items: str = "keep",
) -> Dataset:
    """Reads MovieLens-100K: `u.data`, `u.item` and `u.user`.

    Args:
        folder: the folder of these files.
        on_bad_rows: as in `metarec.data.cleaning.clean`.
        unknown_items: likewise.

    Returns:
        Ratings from 1 to 5; items with title, year and genres; users with gender, age and
        occupation.

    Raises:
        DataError: if a file is missing or cannot be used.
    """
    root = find_folder("ml-100k", folder, ("u.data",))
    rows, mixed = read_fields(root / "u.item", "|", 5 + len(_GENRES_100K))
    # The publisher writes "unknown" for the one movie that it lost.
    titles, years = split_titles(None if row[1] == "unknown" else row[1] for row in rows)
    flags = (
        "|".join(
            genre for genre, on in zip(_GENRES_100K, row[5:], strict=True) if on.strip() == "1"
        )
        for row in rows
    )
    kinds = (None if kind == "unknown" else kind for kind in flags)
    items = TextTable(
        [row[0] for row in rows],
        text_frame({"title": titles, "year": years, "genres": genres(kinds)}),
        "u.item",
        _mixed("u.item", mixed),
    )
    rows, mixed = read_fields(root / "u.user", "|", 5)
    users = TextTable(
        [row[0] for row in rows],
        text_frame(
            {
                "gender": (_GENDERS.get(row[2], row[2]) for row in rows),
                "age": (row[1] for row in rows),
                "occupation": (None if row[3] == "none" else row[3] for row in rows),
            }
        ),
        "u.user",
        _mixed("u.user", mixed),
    )
    dataset = clean(
        "ml-100k",
        read_headless(root / "u.data", _HEADLESS, "\t"),
        user="user",
        item="item",
        rating="rating",
        time="time",
        rating_scale=(1.0, 5.0),
        item_table=items,
        user_table=users,
        on_bad_rows=on_bad_rows,
        unknown_items=unknown_items,
    )
    return _complete(dataset, 100_000)


def read_1m(
    folder: str | Path | None = None,
    extra: bool = False,
    on_bad_rows: str = "error",
    unknown_items: str = "keep",
) -> Dataset:
    """Reads MovieLens-1M: `ratings.dat`, `movies.dat` and `users.dat`.

    Args:
        folder: the folder of these files. Where it has `ratings.csv.gz` (user, item, rating)
            instead of `ratings.dat`, that is read, and there are no times.
        extra: whether to add certificate, release date, director, writers, actors and plot from
            `movies_extrainfos.dat` (MeLU, KDD 2019, arXiv 1908.00413).
        on_bad_rows: as in `metarec.data.cleaning.clean`.
        unknown_items: likewise.

    Returns:
        Ratings from 1 to 5; items with title, year and genres; users with gender, age and
        occupation.

    Raises:
        DataError: if a file is missing or cannot be used.
    """
    root = find_folder("ml-1m", folder, ("ratings.dat", "ratings.csv.gz"))
    timed = (root / "ratings.dat").is_file()
    if timed:
        ratings = read_headless(root / "ratings.dat", _HEADLESS, "::")
    else:
        ratings = read_table(root / "ratings.csv.gz", _HEADLESS[:3])
    rows, mixed = read_fields(root / "movies.dat", "::", 3)
    ids = [row[0] for row in rows]
    titles, years = split_titles(row[1] for row in rows)
    columns: dict[str, list[str | None]] = {
        "title": titles,
        "year": years,
        "genres": genres(row[2] for row in rows),
    }
    notes = _mixed("movies.dat", mixed)
    if extra:
        more, mixed = read_fields(root / "movies_extrainfos.dat", "::", len(_EXTRA_1M))
        notes = {**notes, **_mixed("movies_extrainfos.dat", mixed)}
        by_id = {row[0]: row for row in more}
        for at, name in enumerate(_EXTRA_1M):
            if name in ("certificate", "released", "director", "writers", "actors", "plot"):
                found = (by_id[movie][at] if movie in by_id else None for movie in ids)
                columns[name] = [None if text == "N/A" else text for text in found]
    rows, mixed = read_fields(root / "users.dat", "::", 5)
    users = TextTable(
        [row[0] for row in rows],
        text_frame(
            {
                "gender": (_GENDERS.get(row[1], row[1]) for row in rows),
                "age": (_AGES_1M.get(row[2], row[2]) for row in rows),
                "occupation": (_occupation(row[3]) for row in rows),
            }
        ),
        "users.dat",
        _mixed("users.dat", mixed),
    )
    dataset = clean(
        "ml-1m",
        ratings,
        user="user",
        item="item",
        rating="rating",
        time="time" if timed else None,
        rating_scale=(1.0, 5.0),
        item_table=TextTable(ids, text_frame(columns), "movies.dat", notes),
        user_table=users,
        on_bad_rows=on_bad_rows,
        unknown_items=unknown_items,
    )
    return _complete(dataset, 1_000_209)


def _reader_of_csv(name: str, published: int) -> Callable[..., Dataset]:
    def read(
        folder: str | Path | None = None,
        on_bad_rows: str = "error",
        unknown_items: str = "keep",
    ) -> Dataset:
        root = find_folder(name, folder, ("ratings.csv",))
        movies = read_table(root / "movies.csv", ("movieId", "title", "genres"), text=None).frame
        titles, years = split_titles(_or_none(movies["title"]))
        items = TextTable(
            movies["movieId"].tolist(),
            text_frame({"title": titles, "year": years, "genres": genres(movies["genres"])}),
            "movies.csv",
        )
        columns = ("userId", "movieId", "rating", "timestamp")
        dataset = clean(
            name,
            read_table(root / "ratings.csv", columns),
            user="userId",
            item="movieId",
            rating="rating",
            time="timestamp",
            rating_scale=(0.5, 5.0),
            item_table=items,
            on_bad_rows=on_bad_rows,
            unknown_items=unknown_items,
        )
        return _complete(dataset, published)

    read.__doc__ = f"""Reads MovieLens {name}: `ratings.csv` and `movies.csv`.

    Args:
        folder: the folder of these files.
        on_bad_rows: as in `metarec.data.cleaning.clean`.
        unknown_items: likewise.

    Returns:
        Ratings from 0.5 to 5; items with title, year and genres.

    Raises:
        DataError: if a file is missing or cannot be used.
    """
    return read


read_25m = _reader_of_csv("ml-25m", 25_000_095)
read_32m = _reader_of_csv("ml-32m", 32_000_204)


def _or_none(values: pd.Series) -> list[str | None]:
    return [None if value != value else str(value) for value in values]


def _occupation(code: str) -> str | None:
    if code == "0":
        return None  # "other" or not specified
    return _OCCUPATIONS_1M[int(code)] if code.isdigit() and int(code) < 21 else code


def _mixed(file: str, lines: int) -> Mapping[str, int]:
    return {f"lines of {file} in another encoding than the rest, repaired": lines} if lines else {}


def _complete(dataset: Dataset, published: int) -> Dataset:
    """Notes where the file has fewer rows than the publisher's, as a truncated copy would."""
    missing = max(0, published - dataset.report.read)
    return replace(
        dataset,
        report=dataset.report.note(f"rows fewer than the publisher's {published:,}", missing),
    )
