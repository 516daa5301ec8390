"""Published protocols: tables and small records of `experiments/protocols.py`.

python -m metarec.report.protocols results/protocols --paper paper
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metarec.errors import MetarecError
from metarec.report.collect import read_records
from metarec.report.console import print_wide, warn
from metarec.report.export import numbers_of, small_record
from metarec.report.files import write_text
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
    written = []
    for table, source in made:
        record = small_record(table.full_title, numbers_of(table), (source,))
        written.append(write_text(paper / "tables" / f"{table.name}.tex", table.to_latex()))
        written.append(write_text(paper / "tables" / f"{table.name}.md", table.to_markdown()))
        written.append(write_text(paper / "records" / f"{table.name}.json", record))
    if console is not None:
        tables = [table for table, _ in made]
        for table in tables:
            print_wide(console, table, WIDTH)
        warn(console, tables)
        for path in written:
            console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m metarec.report.protocols",
        description="Makes the tables of published protocols, from records only.",
    )
    parser.add_argument(
        "results", nargs="+", type=Path, help="folders of experiments, such as results/protocols"
    )
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
        build_report(records, options.paper, Console(), options.allow_mixed_versions)
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
