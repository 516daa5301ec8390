"""Files of JSON lines, one record a line, however large: read line by line, never as a whole."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from metarec.data.files import BROKEN, unreadable

Record = dict[str, Any]

_SLOW = 2.0  # seconds, beyond which progress is shown
_EVERY = 4096  # lines between two looks at the progress


def read_json_lines(path: Path) -> Iterator[tuple[int, Record | None]]:
    """Yields the records of a file, decompressed where its name ends in `.gz`.

    Where it takes longer than two seconds, a bar shows how much of the file has been read.

    Args:
        path: a file with one JSON object a line; blank lines are passed over.

    Yields:
        The number of the line, from 1, and its object; None where the line is no JSON object.

    Raises:
        DataError: if the file is truncated or damaged.
    """
    from tqdm.auto import tqdm

    size = path.stat().st_size
    with (
        path.open("rb") as raw,
        tqdm(
            total=size, desc=path.name, unit="B", unit_scale=True, delay=_SLOW, leave=False
        ) as bar,
    ):
        lines = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix.lower() == ".gz" else raw
        try:
            for number, line in enumerate(lines, 1):
                if number % _EVERY == 0:
                    bar.update(raw.tell() - bar.n)
                if not line.isspace():
                    yield number, _record(line)
        except BROKEN as error:
            raise unreadable(path, error) from error


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:  # not JSON, or not UTF-8
        return None
    if b"\\ud" in line.lower():
        record = _mended(record)
    return record if isinstance(record, dict) else None


def _mended(value: Any) -> Any:
    """Half of a pair of surrogates, which is no text, becomes the sign for what is unknown."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(one) for one in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(one) for key, one in value.items()}
    return value
