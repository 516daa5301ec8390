"""Sweeps: tables, figures and small records of `experiments/sweeps.py`.

python -m metarec.report.sweeps results/sweeps --paper paper
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from metarec.errors import RunError
from metarec.report.console import announce, command
from metarec.report.curve import curve_of
from metarec.report.differences import with_differences
from metarec.report.export import write_table
from metarec.report.figures import SUFFIXES, render_k_shot
from metarec.report.files import write_bytes
from metarec.report.sweeps_figure import render_shares, shares_of
from metarec.report.sweeps_points import Point, Sweeps, provenances, sweeps_of
from metarec.report.sweeps_signal import adaptation_sweep, signal_tables
from metarec.report.sweeps_tables import (
    seed_and_time_table,
    shares_tables,
    shots_tables,
    with_curve,
)
from metarec.report.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from metarec.runs.store import Record

WIDTH = 124
"""Columns of a terminal that seven columns of a table need, with their intervals."""

SHOTS, SHARES = "sweep_shots", "sweep_cold_share"
"""Names of the figures, and of their tables."""


def build_report(
    records: Sequence[Record],
    paper: Path,
    console: Console | None = None,
    allow_mixed_versions: bool = False,
) -> list[Path]:
    """Writes a table and a small record for each sweep, and two figures; prints the tables.

    Tables of too few seeds or episodes carry a warning, which is printed too.

    Args:
        records: of one data set and kind of task; failed ones are listed under the tables.
        paper: folder that gets `tables/sweep_*.tex` and `*.md`, `records/sweep_*.json`, and
            `figures/sweep_shots` and `figures/sweep_cold_share` as `.pdf` and `.png`.
        console: where the tables and what was written are printed; nowhere if None.
        allow_mixed_versions: whether records of different versions of the code may stand in one
            table, which then says so.

    Returns:
        The files that were written.

    Raises:
        RunError: as `metarec.report.sweeps_points.sweeps_of`, or if nothing was swept.
    """
    sweeps = sweeps_of(records, allow_mixed_versions)
    made = [
        (one, points)
        for table, points in _tables(sweeps)
        if table is not None
        for one in with_differences(table)
    ]
    if not made:
        raise RunError(
            f"nothing was swept in {len(records)} records: there is no curve over K, one split "
            "alone, and no learner over two signals; run experiments/sweeps.py"
        )
    written = [
        path for table, points in made for path in write_table(table, provenances(points), paper)
    ]
    tables = [table for table, _ in made]
    for name, picture in _pictures(sweeps, tables):
        written.append(write_bytes(paper / "figures" / name, picture))
    if console is not None:
        failed = sum(len(point.results.failed) for point in sweeps.points)
        announce(console, tables, written, WIDTH, failed)
    return written


def _tables(sweeps: Sweeps) -> Iterator[tuple[Table | None, Sequence[Point]]]:
    """Every table that there may be, with the settings that it shows."""
    base = (sweeps.base,)
    for table in shots_tables(sweeps.base):
        yield table, base
    for table in shares_tables(sweeps.shares):
        yield table, sweeps.shares
    yield seed_and_time_table(sweeps.splits), sweeps.splits
    for table in signal_tables(sweeps.base):
        yield table, base
    yield adaptation_sweep(sweeps.points), sweeps.points


def _pictures(sweeps: Sweeps, tables: Sequence[Table]) -> Iterator[tuple[str, bytes]]:
    preliminary = {table.name: table.preliminary for table in tables}
    results = with_curve(sweeps.base.results)
    curve = None if results is None else curve_of(results)
    if curve is not None:
        for suffix in SUFFIXES:
            yield f"{SHOTS}.{suffix}", render_k_shot(replace(curve, name=SHOTS), suffix)
    if SHARES in preliminary:
        shares = shares_of(sweeps.shares, preliminary[SHARES])
        for suffix in SUFFIXES:
            yield f"{SHARES}.{suffix}", render_shares(shares, suffix)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command(
        "metarec.report.sweeps",
        "Makes the tables and figures of sweeps, from records only.",
        "folder of the experiment: results/sweeps",
        build_report,
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
