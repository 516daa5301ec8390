"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A name to write to, which takes the place of `file` once all is written.

    Args:
        file: what is to be replaced; its folder is made.

    Yields:
        A name of its own in the same folder, so that two processes do not meet and the renaming
        stays within one file system.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp's file is the owner's alone; results are to be read by whom the umask allows
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
