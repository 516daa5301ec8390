"""What the commands print of their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metarec.report.table import WARNING, Table, few_text

if TYPE_CHECKING:
    from rich.console import Console


def print_wide(console: Console, table: Table, width: int) -> None:
    """Prints a table as wide as it needs, and rather lets a narrow terminal break its lines.

    Args:
        console: where it is printed.
        table: what is printed.
        width: columns that it needs at least.
    """
    own = console.width
    console.width = max(own, width)
    try:
        console.print(table.to_rich(console.width))
    finally:
        console.width = own


def warn(console: Console, tables: Sequence[Table]) -> None:
    """Prints the warnings of all tables, each once, with the tables that it is about.

    Args:
        console: of the command that made the tables.
        tables: those that were written.
    """
    about: dict[str, list[str]] = {}
    for table in tables:
        few = [few_text(table.part)] if table.preliminary else []
        for text in (*few, *table.cautions):
            about.setdefault(text, []).append(table.name)
    for text, names in about.items():
        console.print(
            f"{WARNING}: {', '.join(names)}: {text}",
            style="bold yellow", highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
