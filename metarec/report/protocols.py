"""Published protocols: tables and small records of `experiments/protocols.py`.

python -m metarec.report.protocols results/protocols --paper paper
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metarec.report.console import announce, command
from metarec.report.export import write_table
from metarec.report.protocols_results import studies_of
from metarec.report.protocols_tables import tables_of

if TYPE_CHECKING:
    from rich.console import Console

    from metarec.runs.store import Record

WIDTH = 120
"""Columns of a terminal that a table needs, with its intervals in second lines."""


def build_report(
    records: Sequence[Record],
    paper: Path,
    console: Console | None = None,
    allow_mixed_versions: bool = False,
) -> list[Path]:
    """Writes the tables and small records of published protocols; prints the tables.

    Each stands beside the figures of the paper and of others. Tables of too few seeds or episodes
    carry a warning, which is printed too.

    Args:
        records: of any protocols, splits and seeds; failed ones are listed under the tables.
        paper: folder that gets `tables/protocol_*.tex` and `*.md`, and `records/protocol_*.json`.
        console: where the tables and what was written are printed; nowhere if None.
        allow_mixed_versions: whether records of different versions of the code may stand in one
            table, which then says so.

    Returns:
        The files that were written.

    Raises:
        RunError: as `metarec.report.protocols_results.studies_of`.
    """
    made = [
        (table, study.provenance)
        for study in studies_of(records, allow_mixed_versions)
        for table in tables_of(study)
    ]
    written = [path for table, source in made for path in write_table(table, [source], paper)]
    if console is not None:
        announce(console, [table for table, _ in made], written, WIDTH)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command(
        "metarec.report.protocols",
        "Makes the tables of published protocols, from records only.",
        "folders of experiments, such as results/protocols",
        build_report,
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
