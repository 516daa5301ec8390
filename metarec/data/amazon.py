"""Amazon Reviews of 2018 and 2023: any category, in the publisher's files of JSON lines."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metarec.data.amazon_items import DEFAULT_TEXT, read_items
from metarec.data.cleaning import clean
from metarec.data.dataset import CleaningReport, Dataset
from metarec.data.files import Table, find_folder, require_choice
from metarec.data.json_lines import Record, read_json_lines
from metarec.errors import ConfigError, DataError, did_you_mean

_SCALE = (1.0, 5.0)
_LARGEST = 2**62


@dataclass(frozen=True)
class _Release:
    """How a release calls its fields.

    Args:
        name: of the data set.
        user: field of a review with the id of who wrote it.
        item: field of reviews and items with the id of the item.
        rating: field of a review with its rating.
        time: field of a review with its time.
        verified: field of a review that says whether the item was bought.
        unit: of the time.
        text: what the framework calls a field of an item to what the release calls it.
    """

    name: str
    user: str
    item: str
    rating: str
    time: str
    verified: str
    unit: str
    text: Mapping[str, str]


_2018 = _Release(
    name="amazon-2018",
    user="reviewerID",
    item="asin",
    rating="overall",
    time="unixReviewTime",
    verified="verified",
    unit="s",
    text={
        "title": "title",
        "brand": "brand",
        "main_category": "main_cat",
        "categories": "category",
        "price": "price",
        "features": "feature",
        "description": "description",
        "details": "details",
    },
)
_2023 = _Release(
    name="amazon-2023",
    user="user_id",
    item="parent_asin",
    rating="rating",
    time="timestamp",
    verified="verified_purchase",
    unit="ms",
    text={
        "title": "title",
        "brand": "store",
        "main_category": "main_category",
        "categories": "categories",
        "price": "price",
        "features": "features",
        "description": "description",
        "details": "details",
    },
)


def read_2018(
    category: str,
    folder: str | Path | None = None,
    core: int | None = None,
    verified: bool = False,
    metadata: bool = True,
    text: Sequence[str] = DEFAULT_TEXT,
    on_bad_rows: str = "error",
    unknown_items: str = "keep",
    duplicates: str = "latest",
) -> Dataset:
    """Reads a category of Amazon Review Data 2018 (Ni et al. 2019): `reviewerID` rates `asin`.

    Files are read line by line; of a review only user, item, rating and time are kept, of an item
    with reviews the fields in `text`, without HTML. Titles that are the page's script (the
    publisher calls them unformatted) are missing, and counted.

    Args:
        category: such as `All_Beauty`: `All_Beauty.json.gz` or `All_Beauty_5.json.gz`, and
            `meta_All_Beauty.json.gz`, compressed or not.
        folder: the folder of these files, or one that has a folder of the category's name.
        core: 5 for the publisher's 5-core (`…_5.json.gz`), 0 for all reviews; None takes what is
            there.
        verified: whether to drop reviews of who did not buy the item there, and count them.
        metadata: whether to read what is written about the items.
        text: the fields of an item to keep, among title, brand, main_category, categories, price,
            features, description and details, in this order; each is cut at 2,000 characters.
        on_bad_rows: `error` stops at a line that is no JSON object and at a missing or impossible
            user, item, rating (1 to 5) or time; `drop` drops such lines and counts them by reason.
        unknown_items: as in `metarec.data.cleaning.clean`.
        duplicates: likewise; a user may have reviewed an item several times.

    Returns:
        Ratings from 1 to 5.

    Raises:
        DataError: if a file is missing or cannot be used.
        ConfigError: for an unknown value of an option, or if both files of reviews are there and
            `core` does not say which.
    """
    if core not in (None, 0, 5):
        raise ConfigError(f"core={core}: the publisher has all reviews (0) and the 5-core (5)")
    suffixes = {0: "", 5: "_5"}
    names = [category + suffixes[size] for size in ((0, 5) if core is None else (core,))]
    reviews = _find(_2018, folder, category, names, ("json.gz", "json"))
    if core is None and len({path.name.partition(".")[0] for path in reviews}) > 1:
        raise ConfigError(
            f"{reviews[0].parent} has all reviews of {category} and the 5-core; say which with "
            "core=0 or core=5"
        )
    return _read(
        _2018, category, reviews[0], verified, metadata, text, on_bad_rows, unknown_items,
        duplicates,
    )  # fmt: skip


def read_2023(
    category: str,
    folder: str | Path | None = None,
    verified: bool = False,
    metadata: bool = True,
    text: Sequence[str] = DEFAULT_TEXT,
    on_bad_rows: str = "error",
    unknown_items: str = "keep",
    duplicates: str = "latest",
) -> Dataset:
    """Reads a category of Amazon Reviews 2023 (Hou et al. 2024): `user_id` rates `parent_asin`.

    Variants of a product (colours, sizes) share their `parent_asin`, which is the item here, as the
    publisher asks: a user who reviewed two variants has one interaction, the others are counted as
    duplicates. Otherwise as `read_2018`.

    Args:
        category: such as `All_Beauty`: `All_Beauty.jsonl.gz` and `meta_All_Beauty.jsonl.gz`,
            compressed or not.
        folder: the folder of these files, or one that has a folder of the category's name, or
            `review_categories` and `meta_categories` as on the Hugging Face hub.
        verified: as in `read_2018`.
        metadata: likewise.
        text: likewise; the brand is the `store`.
        on_bad_rows: likewise.
        unknown_items: likewise.
        duplicates: likewise.

    Returns:
        Ratings from 1 to 5; times in seconds (the files have milliseconds).

    Raises:
        DataError: if a file is missing or cannot be used.
        ConfigError: for an unknown value of an option.
    """
    reviews = _find(_2023, folder, category, [category], ("jsonl.gz", "jsonl"))
    return _read(
        _2023, category, reviews[0], verified, metadata, text, on_bad_rows, unknown_items,
        duplicates,
    )  # fmt: skip


def _find(
    release: _Release,
    folder: str | Path | None,
    category: str,
    names: Sequence[str],
    endings: Sequence[str],
) -> list[Path]:
    """The files of reviews that are there, the first of each folder first."""
    places = ("", f"{category}/", "review_categories/", "raw/review_categories/")
    files = [f"{place}{name}.{end}" for place in places for name in names for end in endings]
    remedy = (
        f"`python -m metarec.data download {release.name} --category {category} --to FOLDER` gets "
        f"a category and `python -m metarec.data info {release.name}` says more"
    )
    root = find_folder(release.name, folder, files, remedy)
    found = [root / file for file in files if (root / file).is_file()]
    return [path for path in found if path.parent == found[0].parent]


def _read(
    release: _Release,
    category: str,
    path: Path,
    verified: bool,
    metadata: bool,
    text: Sequence[str],
    on_bad_rows: str,
    unknown_items: str,
    duplicates: str,
) -> Dataset:
    require_choice("on_bad_rows", on_bad_rows, ("error", "drop"))
    fields = (text,) if isinstance(text, str) else tuple(text)
    for field in fields:
        if field not in release.text:
            raise ConfigError(f"text: unknown field {field!r}{did_you_mean(field, release.text)}")
    wanted = {field: release.text[field] for field in fields}
    items = _metadata_beside(path, category) if metadata else None
    table, report = _reviews(release, path, verified, on_bad_rows)
    known = table.frame[release.item].cat.categories
    return clean(
        f"{release.name}-{category}",
        table,
        user=release.user,
        item=release.item,
        rating=release.rating,
        time=release.time,
        rating_scale=_SCALE,
        time_unit=release.unit,
        item_table=None
        if items is None
        else read_items(items, release.item, frozenset(known), wanted, on_bad_rows),
        on_bad_rows=on_bad_rows,
        unknown_items=unknown_items,
        duplicates=duplicates,
        report=report,
    )


def _metadata_beside(reviews: Path, category: str) -> Path:
    endings = reviews.name[reviews.name.index(".json") :], ".json.gz", ".json", ".jsonl"
    folders = reviews.parent, reviews.parent.parent / "meta_categories"
    files = [folder / f"meta_{category}{ending}" for folder in folders for ending in endings]
    for path in files:
        if path.is_file():
            return path
    raise DataError(
        f"{files[0]} is missing: titles and descriptions are there. Get it from where "
        f"{reviews.name} came from, or pass metadata=False to go without item text"
    )


class _BadRow(Exception):  # noqa: N818 - it never leaves this module
    """A review that cannot be used: the field at fault, what was found there, and why."""

    def __init__(self, field: str, found: object, reason: str) -> None:
        super().__init__(reason)
        self.field, self.found, self.reason = field, found, reason


def _reviews(
    release: _Release, path: Path, verified: bool, on_bad_rows: str
) -> tuple[Table, CleaningReport]:
    """Streams the reviews into compact columns; ids become codes while they are read."""
    lines, users, items = array("q"), array("i"), array("i")
    ratings, times = array("f"), array("q")
    user_codes: dict[str, int] = {}
    item_codes: dict[str, int] = {}
    read, dropped = 0, Counter[str]()
    for number, record in read_json_lines(path):
        read += 1
        if read == 1 and record is not None:
            _require_release(release, path, record)
        try:
            user, item, rating, time = _checked(release, record)
        except _BadRow as bad:
            if on_bad_rows == "error":
                raise DataError(
                    f"{path}, line {number}, {bad.field}: found {bad.found!r}: {bad.reason}. "
                    'Correct the file, or pass on_bad_rows="drop" to drop and count such rows'
                ) from None
            dropped[bad.reason] += 1
            continue
        if verified and record is not None and record.get(release.verified) is not True:
            dropped["not a verified purchase"] += 1
            continue
        lines.append(number)
        users.append(user_codes.setdefault(user, len(user_codes)))
        items.append(item_codes.setdefault(item, len(item_codes)))
        ratings.append(rating)
        times.append(time)
    report = CleaningReport(read=read, kept=read)
    for reason, count in dropped.items():
        report = report.drop(reason, count)
    frame = pd.DataFrame(
        {
            release.user: _categorical(users, user_codes),
            release.item: _categorical(items, item_codes),
            release.rating: np.asarray(ratings),
            release.time: np.asarray(times),
        },
        index=np.asarray(lines),
    )
    return Table(frame, path, lambda line: f"line {line}"), report


def _require_release(release: _Release, path: Path, record: Record) -> None:
    other = _2018 if release is _2023 else _2023
    if release.user not in record and other.user in record:
        raise DataError(
            f"{path} has the fields of the other release: read it as data set {other.name!r}"
        )


def _checked(release: _Release, record: Record | None) -> tuple[str, str, float, int]:
    """User, item, rating and time of a review, or what is wrong with it."""
    if record is None:
        raise _BadRow("the line", "something else", "not a JSON object")
    ids = []
    for field, label in ((release.user, "user"), (release.item, "item")):
        found = record.get(field)
        if not isinstance(found, str) or not found.strip():
            raise _BadRow(f"field {field!r}", found, f"missing {label} id")
        ids.append(found.strip())
    rating = _number(record, release.rating, "rating")
    low, high = _SCALE
    if not low <= rating <= high:
        reason = f"rating outside the scale {low:g} to {high:g}"
        raise _BadRow(f"field {release.rating!r}", rating, reason)
    time = _number(record, release.time, "time")
    if abs(time) >= _LARGEST:
        raise _BadRow(f"field {release.time!r}", time, "time is past the year 5000")
    return ids[0], ids[1], float(rating), int(time)


def _number(record: Record, field: str, label: str) -> int | float:
    found = record.get(field)
    if found is None or found == "":
        raise _BadRow(f"field {field!r}", found, f"missing {label}")
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if not number or (isinstance(found, float) and not math.isfinite(found)):
        raise _BadRow(f"field {field!r}", found, f"{label} is not a number")
    return found


def _categorical(codes: array[int], ids: Mapping[str, int]) -> pd.Categorical:
    return pd.Categorical.from_codes(
        np.asarray(codes),
        categories=pd.Index(list(ids), dtype=object),
    )
