"""All tables and the curve of a set of records, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metarec.report.collect import Results, failed_records, finished_records, results_of
from metarec.report.curve import Curve, curve_of
from metarec.report.difference import meta_minus_transfer_table, of_the_pair
from metarec.report.provenance import Provenance, provenance_of
from metarec.report.table import Table
from metarec.report.tables import (
    item_tasks_table,
    main_table,
    rated_tables,
)

if TYPE_CHECKING:
    from metarec.runs.store import Record


@dataclass(frozen=True)
class Report:
    """What is published.

    Args:
        tables: those that there are records for.
        curve: quality over K; None without curve episodes.
        provenance: sources of each table, by its name, and of the curve as `k_shot`.
        failed: number of failed runs.
    """

    tables: tuple[Table, ...]
    curve: Curve | None
    provenance: Mapping[str, tuple[Provenance, ...]]
    failed: int = 0


def assemble(records: Sequence[Record], allow_mixed_versions: bool = False) -> Report:
    """Checks the records and computes every table; arguments and errors as `build_report`."""
    finished = finished_records(records, allow_mixed_versions)
    failed = failed_records(records)
    user = results_of(finished, failed, "user", ("binary", "implicit"))
    rated = results_of(finished, failed, "user", ("rating",))
    item = results_of(finished, failed, "item", ("binary", "implicit"))

    made: list[tuple[Table | None, tuple[Results | None, ...]]] = []
    if user is not None:
        made.append((main_table(user), (user,)))
    if rated is not None:
        made += [(table, (rated,)) for table in rated_tables(rated)]
    if item is not None:
        made.append((item_tasks_table(item), (item,)))
    pair = of_the_pair(user), of_the_pair(item)
    made.append((meta_minus_transfer_table(*pair), pair))
    curve = curve_of(user) if user is not None else None

    provenance = {
        table.name: tuple(provenance_of(one) for one in results if one is not None)
        for table, results in made
        if table is not None
    }
    if curve is not None and user is not None:
        provenance[curve.name] = (provenance_of(user),)
    tables = tuple(table for table, _ in made if table is not None)
    return Report(tables, curve, provenance, len(failed))
