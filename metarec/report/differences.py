"""The table of paired differences that stands beside a table of learners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from metarec.report.cells import CHANCE
from metarec.report.notes import notes_of_differences
from metarec.report.table import Cell, Row, Section, Table


def with_differences(table: Table, without: Sequence[str] = ()) -> list[Table]:
    """A table of learners, and each of its rows minus the reference of the column.

    Means with their marks say who differs from the reference; this says by how much, with the
    interval of the difference, and its small record has effect sizes, wins, ties and losses.

    Args:
        table: whose cells are compared with a reference.
        without: notes of the table about rows that are no learners', and are left out.

    Returns:
        The table, followed by `<name>_differences` unless nothing in it was compared.
    """
    sections = [
        Section(section.title, tuple(_row(row) for row in section.rows if _measured(row)))
        for section in table.sections
    ]
    sections = [section for section in sections if section.rows]
    compared = [cell for section in sections for row in section.rows for cell in row.cells]
    if all(cell.estimate is None for cell in compared):
        return [table]
    name = f"{table.name}_differences"
    differences = replace(
        table,
        name=name,
        title=f"{table.title}: minus the reference of each column",
        sections=tuple(sections),
        notes=notes_of_differences([one for one in table.notes if one not in without], name),
        shown=False,
    )
    return [table, differences]


def _measured(row: Row) -> bool:
    """Whether a row is that of a learner, and not of chance or of figures that are not ours."""
    return row.label != CHANCE and any(cell.versus is not None for cell in row.cells)


def _row(row: Row) -> Row:
    return Row(row.label, tuple(cell.versus or Cell() for cell in row.cells))
