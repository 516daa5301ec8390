"""Downloads a data set from its publisher; called by the command line only, never by a reader."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path

from metarec.data.registry import Card
from metarec.errors import ConfigError, DataError

_TIMEOUT = 60  # seconds without a byte
_BLOCK = 1 << 20


def download(card: Card, to: str | Path, category: str | None = None) -> Path:
    """Downloads a data set into a folder of its name, or a category of it into one within that.

    Everything happens in a temporary folder beside the target, which is renamed at the end: the
    target is complete or not there.

    Args:
        card: the data set.
        to: the folder in which its folder goes.
        category: which category, of a data set that comes in categories.

    Returns:
        The folder of the data set.

    Raises:
        DataError: if there is nothing to download, the target exists, the download fails or its
            checksum is wrong.
        ConfigError: if a category is needed or cannot be.
    """
    if card.url is None and not card.files:
        raise DataError(f"{card.name} is not downloaded: {card.how}")
    target = Path(to).expanduser() / card.name
    if card.files:
        if category is None or not re.fullmatch(r"\w+", category):
            raise ConfigError(
                f"{card.name} comes in categories: name one as its files do, such as "
                f"--category All_Beauty{'' if category is None else f', not {category!r}'}"
            )
        target /= category
    elif category is not None:
        raise ConfigError(f"{card.name} has no categories; leave --category {category} out")
    if target.exists():
        raise DataError(f"{target.absolute()} exists already; remove it or choose another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{card.name}-", dir=target.parent) as work:
            if card.url is not None:
                complete = _unpacked(card, card.url, Path(work))
            else:
                complete = Path(work) / "files"
                complete.mkdir()
                for file in card.files:
                    url = file.format(category=category)
                    _fetch(url, complete / url.rsplit("/", 1)[-1])
            os.replace(complete, target)
    except (OSError, http.client.HTTPException) as error:
        source = card.url or card.files[0].format(category=category)
        raise DataError(
            f"{card.name} could not be downloaded from {source} to {target.absolute()}: {error}. "
            f"Check network and disk space, or get the file by other means and unpack it there"
        ) from error
    return target


def _unpacked(card: Card, url: str, work: Path) -> Path:
    """Fetches, verifies and unpacks an archive; returns the folder of its files."""
    archive = work / "archive.zip"
    _fetch(url, archive)
    _verify(archive, card)
    unpacked = work / "unpacked"
    try:
        with zipfile.ZipFile(archive) as files:
            files.extractall(unpacked)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{url} is not a readable zip file ({error})") from error
    entries = list(unpacked.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else unpacked


def _fetch(url: str, path: Path) -> None:
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn())
    with (
        urllib.request.urlopen(url, timeout=_TIMEOUT) as source,
        path.open("wb") as file,
        Progress(*columns, TimeRemainingColumn()) as progress,
    ):
        size = source.headers.get("Content-Length")
        bar = progress.add_task(url.rsplit("/", 1)[-1], total=None if size is None else int(size))
        while block := source.read(_BLOCK):
            file.write(block)
            progress.update(bar, advance=len(block))
    if size is not None and path.stat().st_size != int(size):
        raise DataError(
            f"{url} ended after {path.stat().st_size:,} of {int(size):,} bytes; try again"
        )


def _verify(archive: Path, card: Card) -> None:
    if card.checksum is None:
        print(
            f"sha256 of the download (no published checksum is known): {_hash(archive, 'sha256')}"
        )
        return
    algorithm, expected = card.checksum.split(":")
    found = _hash(archive, algorithm)
    if found != expected:
        raise DataError(
            f"{card.url}: {algorithm} {found}, expected {expected}; the download is damaged or "
            f"the publisher's file has changed. Nothing was kept"
        )


def _hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
