"""Audits records: what was fitted on, what was asked, and whether the tables follow from them.

    python experiments/audit.py results/paper
    python experiments/audit.py results/paper results/paper_full results/tuning --paper paper
    python experiments/audit.py results/paper --folder ml-1m=/data/ml-1m

Derives from the data what train is and which query sets there are, compares both with what the
records noted when they were made, computes their means again, and makes the tables of the project's
paper/, or of --paper, again: a table without a small record fails, and so do learners of one kind
of episode that were not tuned alike. Prints a table; the status is 1 if anything fails, or if there
is no record. What could not be checked, since its runs are not in the folders given, is open:
--strict takes that for a failure.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from metarec.audit import audit, show
from metarec.errors import MetarecError

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python experiments/audit.py", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="folders such as results/paper")
    parser.add_argument("--paper", type=Path, help="folder of the paper (default: the project's)")
    parser.add_argument("--configs", type=Path, default=ROOT / "configs", help="configurations")
    parser.add_argument("--no-paper", action="store_true", help="check the records alone")
    parser.add_argument(
        "--folder",
        action="append",
        default=[],
        metavar="DATA=PATH",
        help="where a data set lies now, such as ml-1m=/data/ml-1m",
    )
    parser.add_argument(
        "--allow-old",
        action="store_true",
        help="let records pass that are older than the audit, and say nothing of their fits",
    )
    parser.add_argument("--strict", action="store_true", help="fail if anything is left open")
    options = parser.parse_args(arguments)
    if wrong := [one for one in options.folder if "=" not in one]:
        parser.error(f"--folder {wrong[0]}: DATA=PATH is needed")
    console = Console()
    try:
        findings = audit(
            options.results,
            None if options.no_paper else options.paper or ROOT / "paper",
            options.configs,
            dict(one.split("=", 1) for one in options.folder),
            options.allow_old,
            console.is_terminal,
        )
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(findings, console)
    failed, left = (sum(one.result == result for one in findings) for result in ("fails", "open"))
    console.print(f"{len(findings)} checks, {failed} failed, {left} open")
    return 1 if failed or (options.strict and left) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
