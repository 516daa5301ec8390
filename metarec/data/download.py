"""Downloads a data set from its publisher; called by the command line only, never by a reader."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path

from metarec.data.registry import Card
from metarec.errors import DataError

_TIMEOUT = 60  # seconds without a byte
_BLOCK = 1 << 20


def download(card: Card, to: str | Path) -> Path:
    """Downloads and unpacks a data set into a folder of its name.

    Everything happens in a temporary folder beside the target, which is renamed at the end: the
    target is complete or not there.

    Args:
        card: the data set.
        to: the folder in which its folder goes.

    Returns:
        The folder of the data set.

    Raises:
        DataError: if there is nothing to download, the target exists, the download fails or its
            checksum is wrong.
    """
    if card.url is None:
        raise DataError(f"{card.name} is not downloaded: {card.how}")
    target = Path(to).expanduser() / card.name
    if target.exists():
        raise DataError(f"{target.absolute()} exists already; remove it or choose another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{card.name}-", dir=target.parent) as work:
            archive = Path(work) / "archive.zip"
            _fetch(card.url, archive)
            _verify(archive, card)
            unpacked = Path(work) / "unpacked"
            try:
                with zipfile.ZipFile(archive) as files:
                    files.extractall(unpacked)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise DataError(f"{card.url} is not a readable zip file ({error})") from error
            entries = list(unpacked.iterdir())
            single = len(entries) == 1 and entries[0].is_dir()
            os.replace(entries[0] if single else unpacked, target)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{card.name} could not be downloaded from {card.url} to {target.absolute()}: {error}. "
            f"Check network and disk space, or get the file by other means and unpack it there"
        ) from error
    return target


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
