"""What the commands print of their tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metarec.errors import MetarecError
from metarec.report.collect import read_records
from metarec.report.table import WARNING, Table, few_text

if TYPE_CHECKING:
    from rich.console import Console

    from metarec.runs.store import Record


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


def announce(
    console: Console, tables: Sequence[Table], written: Sequence[Path], width: int, failed: int = 0
) -> None:
    """Prints tables with their warnings, and what was written.

    Args:
        console: of the command that made the tables.
        tables: in their order; those that are not to be shown are warned of alone.
        written: files.
        width: columns that a table needs at least.
        failed: runs that were left out, since they failed.
    """
    for table in (table for table in tables if table.shown):
        print_wide(console, table, width)
        console.print()
    warn(console, tables)
    if failed:
        console.print(f"left out, since they failed: {failed} runs", style="bold red")
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def command(
    module: str,
    description: str,
    results: str,
    build: Callable[[Sequence[Record], Path, Console, bool], object],
    arguments: Sequence[str] | None,
) -> int:
    """The command line of a module that makes tables from records; returns the exit status.

    Args:
        module: what `python -m` runs.
        description: of what it makes.
        results: which folders it takes.
        build: from records, folder of the paper, console, and whether versions may be mixed.
        arguments: of the command; None for those of the process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("results", nargs="+", type=Path, help=results)
    parser.add_argument("--paper", type=Path, default=Path("paper"), help="where the files go")
    parser.add_argument(
        "--allow-mixed-versions",
        action="store_true",
        help="let records of different versions of the code stand in one table",
    )
    options = parser.parse_args(arguments)
    from rich.console import Console

    try:
        records = [record for folder in options.results for record in read_records(folder)]
        build(records, options.paper, Console(), options.allow_mixed_versions)
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
