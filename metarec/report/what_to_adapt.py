"""What of a BERT should adapt: tables, figure and small record of `experiments/what_to_adapt.py`.

python -m metarec.report.what_to_adapt results/what_to_adapt results/what_to_adapt_seconds
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metarec.errors import MetarecError
from metarec.report.choices import study_of
from metarec.report.choices_figure import comparison_of, render_comparison
from metarec.report.choices_tables import (
    NAME,
    choices_table,
    differences_table,
    meta_table,
    rates_of,
    recalls_of,
)
from metarec.report.collect import read_records
from metarec.report.console import print_wide, warn
from metarec.report.export import numbers_of, small_record
from metarec.report.figures import SUFFIXES
from metarec.report.files import write_bytes, write_text
from metarec.report.provenance import provenance_of

if TYPE_CHECKING:
    from rich.console import Console

    from metarec.runs.store import Record

WIDTH = 136
"""Columns of a terminal that ten columns of a table need, with their intervals in second lines."""


def build_report(
    records: Sequence[Record],
    paper: Path,
    console: Console | None = None,
    allow_mixed_versions: bool = False,
) -> list[Path]:
    """Writes tables, figure and small record of what of a BERT adapts; prints the first table.

    Tables of too few seeds or episodes carry a warning, which is printed too.

    Args:
        records: of the experiment; failed ones are listed under the tables, and trials on
            validation are passed over.
        paper: folder that gets `tables/what_to_adapt*.tex` and `*.md`, `figures/what_to_adapt.pdf`
            and `.png`, and `records/what_to_adapt.json`.
        console: where the first table and what was written are printed; nowhere if None.
        allow_mixed_versions: whether records of different versions of the code may stand in one
            table, which then says so.

    Returns:
        The files that were written.

    Raises:
        RunError: as `metarec.report.choices.study_of`.
    """
    study = study_of(records, allow_mixed_versions)
    found = (choices_table(study), differences_table(study), meta_table(study))
    tables = [table for table in found if table is not None]
    comparison = comparison_of(study, tables[0].preliminary)
    numbers = [entry for table in tables for entry in numbers_of(table)]
    numbers += [*recalls_of(study).values(), *rates_of(study).values()]
    record = small_record(tables[0].full_title, numbers, (provenance_of(study.results),))
    written = []
    for table in tables:
        written.append(write_text(paper / "tables" / f"{table.name}.tex", table.to_latex()))
        written.append(write_text(paper / "tables" / f"{table.name}.md", table.to_markdown()))
    for suffix in SUFFIXES:
        picture = render_comparison(comparison, suffix)
        written.append(write_bytes(paper / "figures" / f"{NAME}.{suffix}", picture))
    written.append(write_text(paper / "records" / f"{NAME}.json", record))
    if console is not None:
        print_wide(console, tables[0], WIDTH)
        warn(console, tables)
        if study.results.failed:
            count = len(study.results.failed)
            console.print(f"left out, since they failed: {count} runs", style="bold red")
        for path in written:
            console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m metarec.report.what_to_adapt",
        description="Makes tables and figure of what of a BERT adapts, from records only.",
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        help="folders of the experiment: results/what_to_adapt, and results/what_to_adapt_seconds",
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
