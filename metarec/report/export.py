"""Small records: every published number as JSON, with what it stands on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metarec.report.assemble import Report
from metarec.report.files import write_text
from metarec.report.provenance import Provenance
from metarec.report.table import Estimate, Source, Table

_COLUMNS = (
    "learner",
    "regime",
    "k_shot",
    "metric",
    "mean",
    "low",
    "high",
    "tasks",
    "seeds",
    "episodes",
    "p_holm",
)
_TESTED = ("effect", "wins", "ties", "losses")
"""Columns that the records of differences have too."""


def small_records(report: Report) -> dict[str, str]:
    """The content of each small record, by file name.

    Args:
        report: the assembled report.

    Returns:
        One JSON text for each table and for the curve.
    """
    files = {}
    for table in report.tables:
        numbers = numbers_of(table)
        files[f"{table.name}.json"] = small_record(
            table.full_title, numbers, report.provenance[table.name]
        )
    if report.curve is not None:
        curve = report.curve
        numbers = []
        for line in curve.lines:
            name = "chance" if line.variant is None else line.variant.key
            for k, estimate in zip(curve.shots, line.estimates, strict=True):
                if not math.isnan(estimate.mean):
                    numbers.append((Source(name, curve.regime, k, curve.metric), estimate))
        title = f"Preliminary: {curve.title}" if curve.preliminary else curve.title
        files[f"{curve.name}.json"] = small_record(title, numbers, report.provenance[curve.name])
    return files


def numbers_of(table: Table) -> list[tuple[Source, Estimate]]:
    """The published numbers of a table, cell by cell."""
    return [
        (cell.source, cell.estimate)
        for section in table.sections
        for row in section.rows
        for cell in row.cells
        if cell.source is not None and cell.estimate is not None
    ]


def small_record(
    title: str, numbers: Sequence[tuple[Source, Estimate]], sources: Sequence[Provenance]
) -> str:
    """The text of a small record.

    Args:
        title: what it is about.
        numbers: what was published.
        sources: where it comes from.
    """
    head = {"title": title, "sources": [asdict(source) for source in sources]}
    tested = any(not math.isnan(estimate.effect) for _, estimate in numbers)
    rows = [
        [
            source.learner,
            source.regime,
            source.k_shot,
            source.metric,
            *(_rounded(value) for value in (estimate.mean, estimate.low, estimate.high)),
            estimate.tasks,
            estimate.seeds,
            estimate.episodes,
            _rounded(estimate.p),
            *(_test(estimate) if tested else []),
        ]
        for source, estimate in numbers
    ]
    # One number a line, so that a change of one is a change of one line.
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    start = json.dumps(head, indent=1, ensure_ascii=False)[:-2]
    columns = json.dumps([*_COLUMNS, *(_TESTED if tested else ())])
    return f'{start},\n "columns": {columns},\n "rows": [\n{lines}\n ]\n}}\n'


def _test(estimate: Estimate) -> list[Any]:
    """Effect size, wins, ties and losses; null where nothing was tested."""
    if math.isnan(estimate.effect):
        return [None] * len(_TESTED)
    return [_rounded(estimate.effect), estimate.wins, estimate.ties, estimate.losses]


def _rounded(value: float) -> Any:
    if math.isnan(value):
        return None
    # six digits are enough of a mean, but not of a count
    return int(value) if value >= 1e6 and value.is_integer() else float(f"{value:.6g}")


def write_table(table: Table, sources: Sequence[Provenance], paper: Path) -> list[Path]:
    """Writes a table as LaTeX and Markdown, and its small record; returns the three files."""
    record = small_record(table.full_title, numbers_of(table), sources)
    return [
        write_text(paper / "tables" / f"{table.name}.tex", table.to_latex()),
        write_text(paper / "tables" / f"{table.name}.md", table.to_markdown()),
        write_text(paper / "records" / f"{table.name}.json", record),
    ]
