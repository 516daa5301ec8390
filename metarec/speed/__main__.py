"""`python -m metarec.speed results --paper paper`: what was measured to the table of the paper."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from metarec.errors import MetarecError
from metarec.speed.publish import publish


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m metarec.speed",
        description="Makes the speed table of the paper from what experiments/speed.py wrote.",
    )
    parser.add_argument("results", type=Path, help="folder of speed.json (results)")
    parser.add_argument("--paper", type=Path, default=Path("paper"), help="where the files go")
    parser.add_argument(
        "--readme", type=Path, help="README whose speed table, between its markers, is replaced"
    )
    options = parser.parse_args(arguments)
    try:
        print(publish(options.results, options.paper, options.readme))
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
