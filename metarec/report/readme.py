"""Generated tables in the README, each between two markers."""

from __future__ import annotations

from pathlib import Path

from metarec.errors import RunError
from metarec.report.files import write_text


def replace_table(readme: Path, table_markdown: str, name: str = "main table") -> None:
    """Puts a table between `<!-- <name>: begin -->` and `<!-- <name>: end -->`.

    Args:
        readme: the file.
        table_markdown: what will stand between the markers.
        name: of the markers.

    Raises:
        RunError: if there is no such file, or a marker does not stand in it once, in this order.
    """
    begin, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if not readme.is_file():
        raise RunError(f"no README at {readme}; name an existing file with --readme")
    text = readme.read_text(encoding="utf-8")
    for marker in (begin, last):
        if text.count(marker) != 1:
            raise RunError(
                f"{readme} has the marker {marker!r} {text.count(marker)} times; it must stand "
                "there once, on a line of its own, where the table is to begin and end"
            )
    start, end = text.index(begin) + len(begin), text.index(last)
    if end < start:
        raise RunError(f"{readme}: {last!r} stands before {begin!r}; swap them")
    write_text(readme, f"{text[:start]}\n\n{table_markdown.strip()}\n\n{text[end:]}")
