"""`python -m metarec.report results/paper --paper paper`: records to tables and figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from metarec.errors import MetarecError, RunError
from metarec.report import build_report, update_headers, update_readme
from metarec.report.labels import Tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m metarec.report",
        description="Makes the tables and the figure of the paper from records, and nothing else.",
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        help="folder of an experiment (results/paper), of several, or of one run",
    )
    parser.add_argument("--paper", type=Path, default=Path("paper"), help="where the files go")
    parser.add_argument(
        "--readme", type=Path, help="README whose main table, between its markers, is replaced"
    )
    parser.add_argument(
        "--tables",
        choices=get_args(Tables),
        default="main",
        help="those of make paper (main), or the family of learners of make paper-full",
    )
    parser.add_argument(
        "--configs",
        type=Path,
        help="configurations whose learners' headers say what was measured, brought up to date",
    )
    parser.add_argument(
        "--allow-mixed-versions",
        action="store_true",
        help="let records of different versions of the code stand in one table",
    )
    options = parser.parse_args(arguments)
    from rich.console import Console

    from metarec.report.collect import read_records

    try:
        records = [record for folder in options.results for record in read_records(folder)]
        console = Console()
        written = build_report(
            records, options.paper, console, options.allow_mixed_versions, options.tables
        )
        if options.readme is not None:
            table = options.paper / "tables" / "main.md"
            # one that an earlier call left is not of these records
            if table not in written:
                raise RunError(
                    f"no {table}: there are no records of user tasks with binary or implicit "
                    "feedback; leave --readme out"
                )
            update_readme(options.readme, table.read_text(encoding="utf-8"))
        if options.configs is not None:
            changed = update_headers(options.configs, options.paper)
            console.print(f"headers changed in {options.configs}: {len(changed)}", highlight=False)
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
