"""The main table in the README, between two markers."""

from __future__ import annotations

from pathlib import Path

from metarec.errors import RunError
from metarec.report.files import write_text

BEGIN = "<!-- main table: begin -->"
END = "<!-- main table: end -->"


def replace_table(readme: Path, table_markdown: str) -> None:
    """See `metarec.report.update_readme`."""
    if not readme.is_file():
        raise RunError(f"no README at {readme}; name an existing file with --readme")
    text = readme.read_text(encoding="utf-8")
    for marker in (BEGIN, END):
        if text.count(marker) != 1:
            raise RunError(
                f"{readme} has the marker {marker!r} {text.count(marker)} times; it must stand "
                "there once, on a line of its own, where the table is to begin and end"
            )
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    if end < start:
        raise RunError(f"{readme}: {END!r} stands before {BEGIN!r}; swap them")
    write_text(readme, f"{text[:start]}\n\n{table_markdown.strip()}\n\n{text[end:]}")
