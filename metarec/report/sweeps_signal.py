"""The tables of sweeps that compare a learner with itself: signals, and adaptation on and off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from metarec.evaluation.significance import holm
from metarec.report.adaptation import adaptation_table, gains_of
from metarec.report.cells import PRIMARY, Column, difference_cell, regimes_of
from metarec.report.collect import Results, subset
from metarec.report.labels import (
    BASELINE_GROUPS,
    GROUPS,
    Variant,
    group_of,
    label_of,
    metric_label,
    regime_label,
)
from metarec.report.notes import effects_note, source_notes
from metarec.report.selection import RESAMPLES, difference_of
from metarec.report.sweeps_points import Point, regimes_in
from metarec.report.sweeps_tables import at_point, cautions_of, sources_of
from metarec.report.table import (
    BETTER,
    MISSING,
    WORSE,
    Cell,
    Estimate,
    Row,
    Section,
    Table,
)
from metarec.report.tables import table_by_regime

SIGNALS = ("text", "collaborative", "both")
"""What a learner reads of items and users, `representation` in its configuration."""

_PAIRS = (("both", "text"), ("both", "collaborative"), ("collaborative", "text"))
_ADAPTATION = "sweep_adaptation"
_DIFFERENCES = "sweep_signal_pairs"


def families_of(results: Results) -> dict[str, dict[str, str]]:
    """The learners that were run on more than one signal.

    Args:
        results: runs of one setting.

    Returns:
        Name of the learner over text to the name of it over each signal; the others are called as
        it is, with the signal behind.
    """
    arguments = {record.learner: record.config.learner.arguments for record in results.records}
    found = {}
    for name, own in sorted(arguments.items()):
        if own.get("representation") != "text":
            continue
        family = {"text": name}
        for signal in SIGNALS[1:]:
            other = f"{name}_{signal}"
            if arguments.get(other, {}).get("representation") == signal:
                family[signal] = other
        if len(family) > 1:
            found[name] = family
    return found


def signal_tables(point: Point) -> list[Table]:
    """Text against collaborative against both: means by regimes, and paired differences.

    Args:
        point: the setting in which learners were run on several signals.

    Returns:
        `sweep_signal` and `sweep_signal_pairs`; none where no learner has two signals.
    """
    families = families_of(point.results)
    if not families:
        return []
    sections: dict[str, tuple[str, ...]] = {}
    targets = point.results.targets
    for group in (group for group in GROUPS if group in BASELINE_GROUPS):
        names = tuple(name for name in targets if group_of(name, targets[name]) == group)
        if names:
            sections[f"Baselines: {group.lower()}"] = names
    for name, family in families.items():
        sections[f"{_short(name)}: {', '.join(family)}"] = tuple(family.values())
    chosen = {name for names in sections.values() for name in names}
    results = subset(point.results, chosen)
    assert results is not None
    reading = (
        "A learner reads text features of the items, collaborative embeddings of train (none of "
        "what is new), or both side by side; each is tuned by itself where that was done."
    )
    means = table_by_regime(
        results,
        "sweep_signal",
        "Text against collaborative against both, {metric}",
        sections=sections,
        notes=(reading,),
    )
    return [means, _differences(results, families)]


def _differences(results: Results, families: dict[str, dict[str, str]]) -> Table:
    """One signal minus another of the same learner, paired over test tasks."""
    k_shot = results.config.episode.k_shot
    pairs = [
        (name, first, second)
        for name, family in families.items()
        for first, second in _PAIRS
        if first in family and second in family
    ]
    columns = [
        Column(regime_label(regime), PRIMARY, regime, k_shot) for regime in regimes_of(results)
    ]
    cells: dict[tuple[str, str, str], list[Cell]] = {pair: [] for pair in pairs}
    preliminary = False
    for column in columns:
        values = results.select(PRIMARY, "test", column.regime, k_shot)
        found: dict[tuple[str, str, str], Estimate] = {}
        for name, first, second in pairs:
            own = families[name]
            one = difference_of(values, Variant(own[first]), Variant(own[second]), PRIMARY)
            if one is not None:
                found[name, first, second] = one
        corrected = holm(np.array([one.p for one in found.values()], np.float64))
        p_holm = dict(zip(found, corrected, strict=True))
        for pair in pairs:
            if pair not in found:
                cells[pair].append(Cell())
                continue
            estimate = replace(found[pair], p=float(p_holm[pair]))
            preliminary |= estimate.few
            own = families[pair[0]]
            left, right = Variant(own[pair[1]]), Variant(own[pair[2]])
            cells[pair].append(difference_cell(left, right, column, estimate))
    sections = tuple(
        Section(
            _short(name),
            tuple(Row(f"{pair[1]} − {pair[2]}".capitalize(), tuple(cells[pair])) for pair in own),
        )
        for name, own in groupby(pairs, key=lambda pair: pair[0])
    )
    return Table(
        name=_DIFFERENCES,
        title=f"One signal minus another, paired difference in {metric_label(PRIMARY)}, "
        f"K = {k_shot}",
        columns=("Signals", *(column.head for column in columns)),
        sections=sections,
        notes=(
            f"Mean difference over test tasks with its 95 % bootstrap interval ({RESAMPLES:,} "
            "resamples of tasks, each with all its seeds; BCa). "
            f"{BETTER} and {WORSE}: p < .05 of Wilcoxon’s signed-rank test after Holm’s correction "
            "over the rows of a column, where mean and ranks point the same way. "
            f"{MISSING}: not measured. {effects_note(_DIFFERENCES)}",
            *source_notes([(results, columns)]),
        ),
        preliminary=preliminary,
    )


def adaptation_sweep(points: Sequence[Point]) -> Table | None:
    """Adapted minus unadapted on test: a section for each setting; None if nothing adapts.

    Args:
        points: all settings.
    """
    parts = []
    for point in points:
        own = adaptation_table([(point.results, gains_of(point.results, part="test"))])
        if own is not None:
            parts.append((point, own))
    if not parts:
        return None
    heads = list(dict.fromkeys(head for _, table in parts for head in table.columns[1:]))
    sections = []
    for point, table in parts:
        rows = [row for section in table.sections for row in section.rows]
        by_head = [dict(zip(table.columns[1:], row.cells, strict=True)) for row in rows]
        sections.append(
            Section(
                point.label,
                tuple(
                    Row(row.label, tuple(at_point(own.get(head, Cell()), point) for head in heads))
                    for row, own in zip(rows, by_head, strict=True)
                ),
            )
        )
    used = [point for point, _ in parts]
    return Table(
        name=_ADAPTATION,
        title=f"Adaptation on against off, {metric_label(PRIMARY)} minus the own unadapted row, "
        f"K = {used[0].results.config.episode.k_shot}",
        columns=("Learner", *heads),
        sections=tuple(sections),
        notes=(
            f"Mean difference over test tasks with its 95 % bootstrap interval ({RESAMPLES:,} "
            "resamples of tasks, each with all its seeds; BCa), of a learner and the same weights "
            "without adaptation (0 steps, where the support still is the context; or no support). "
            f"{BETTER} and {WORSE}: p < .05 of Wilcoxon’s signed-rank test after Holm’s correction "
            "over the learners of a column and setting, where mean and ranks point the same way. "
            f"{MISSING}: not measured. {effects_note(_ADAPTATION)}",
            "Settings are not one test: each has its own test tasks and training set, and the "
            "difference is within them.",
            *sources_of(used, regimes_in(used)),
        ),
        preliminary=any(table.preliminary for _, table in parts),
        cautions=cautions_of(used, regimes_in(used)),
    )


def _short(learner: str) -> str:
    """The label of a learner without what stands behind a comma."""
    return label_of(Variant(learner)).partition(",")[0]
