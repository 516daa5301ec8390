"""All tables and the curve of a set of records, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metarec.report.adaptation import adaptation_table, gains_of
from metarec.report.backends import backends_table, of_both
from metarec.report.collect import (
    Results,
    failed_records,
    finished_records,
    results_of,
    subset,
)
from metarec.report.cost import cost_table
from metarec.report.curve import Curve, curve_of
from metarec.report.differences import with_differences
from metarec.report.family import family_items_tables, family_table, scorers_table
from metarec.report.labels import SCORERS, VARIANTS_OF_SCORERS, Tables
from metarec.report.meta_minus_transfer import meta_minus_transfer_table, of_the_pair
from metarec.report.provenance import Provenance, provenance_of
from metarec.report.table import Table
from metarec.report.tables import (
    item_tasks_table,
    main_table,
    rated_tables,
)
from metarec.report.training import TrainingCurves, training_curves

if TYPE_CHECKING:
    from metarec.runs.store import Record


_Made = list[tuple[Table | None, tuple[Results | None, ...]]]


@dataclass(frozen=True)
class Report:
    """What is published.

    Args:
        tables: those that there are records for.
        curve: quality over K; None without curve episodes.
        provenance: sources of each table, by its name, and of the curve as `k_shot`.
        failed: number of failed runs.
        training: training curves; None without them.
    """

    tables: tuple[Table, ...]
    curve: Curve | None
    provenance: Mapping[str, tuple[Provenance, ...]]
    failed: int = 0
    training: TrainingCurves | None = None


def assemble(
    records: Sequence[Record], allow_mixed_versions: bool = False, tables: Tables = "main"
) -> Report:
    """Checks the records and computes every table; arguments and errors as `build_report`."""
    finished = finished_records(records, allow_mixed_versions)
    failed = failed_records(records)
    if tables == "family":
        return _family(finished, failed)
    user = results_of(finished, failed, "user", ("binary", "implicit"))
    rated = results_of(finished, failed, "user", ("rating",))
    item = results_of(finished, failed, "item", ("binary", "implicit"))

    made: _Made = []
    if user is not None:
        made += [(main_table(user), (user,)), (cost_table(user), (user,))]
    if rated is not None:
        made += [(table, (rated,)) for table in rated_tables(rated)]
    if item is not None:
        made.append((item_tasks_table(item), (item,)))
    pair = of_the_pair(user), of_the_pair(item)
    made.append((meta_minus_transfer_table(*pair), pair))
    twins = of_both(user), of_both(item)
    made.append((backends_table(*twins), twins))
    curve = curve_of(user) if user is not None else None
    made = _compared(made)
    provenance = _provenance(made)
    if curve is not None and user is not None:
        provenance[curve.name] = (provenance_of(user),)
    found = tuple(table for table, _ in made if table is not None)
    return Report(found, curve, provenance, len(failed))


def _family(finished: Sequence[Record], failed: Sequence[Record]) -> Report:
    """The tables of `make paper-full`."""
    feedback, flags = ("binary", "implicit"), "--tables family"
    user = results_of(finished, failed, "user", feedback, flags)
    item = results_of(finished, failed, "item", feedback, flags)
    parts = [(one, gains_of(one)) for one in (user, item) if one is not None]
    gains = [gain for _, own in parts for gain in own]
    names = {record.learner for record in (*finished, *failed)}
    family = names - VARIANTS_OF_SCORERS

    made: _Made = []
    if (own := subset(user, family)) is not None:
        made.append((family_table(own, gains), (own,)))
        made.append((cost_table(own, "family_cost"), (own,)))
    if (own := subset(item, family)) is not None:
        made += [(table, (own,)) for table in family_items_tables(own, gains)]
    compared = {name for section in SCORERS.values() for name in section}
    own = subset(user, compared) if names & VARIANTS_OF_SCORERS else None
    if own is not None:
        made.append((scorers_table(own, gains), (own,)))
    pair = of_the_pair(user), of_the_pair(item)
    made.append((meta_minus_transfer_table(*pair, "family_meta_minus_transfer"), pair))
    made = _compared([*made, (adaptation_table(parts), (user, item))])
    return Report(
        tables=tuple(table for table, _ in made if table is not None),
        curve=None,
        provenance=_provenance(made),
        failed=len(failed),
        training=training_curves([results for results, _ in parts]),
    )


def _compared(made: _Made) -> _Made:
    """The tables, those of learners each followed by its differences."""
    return [
        (one, results)
        for table, results in made
        for one in ([None] if table is None else with_differences(table))
    ]


def _provenance(made: _Made) -> dict[str, tuple[Provenance, ...]]:
    return {
        table.name: tuple(provenance_of(one) for one in results if one is not None)
        for table, results in made
        if table is not None
    }
