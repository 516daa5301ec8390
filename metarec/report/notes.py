"""The sentences under a table: how to read it, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence

from metarec.evaluation.significance import MIN_EPISODES, MIN_SEEDS
from metarec.report.cells import Column
from metarec.report.collect import Results, error_of, run_name
from metarec.report.labels import regime_label
from metarec.report.provenance import provenance_of
from metarec.report.selection import RESAMPLES
from metarec.report.table import BETTER, MISSING, REFERENCE, WORSE


def notes_of(results: Results, columns: Sequence[Column], preliminary: bool) -> tuple[str, ...]:
    """The sentences under a table of learners.

    Args:
        results: its runs.
        columns: its columns.
        preliminary: whether there are too few seeds or episodes.
    """
    k_shot = results.config.episode.k_shot
    notes = [
        f"Mean over test tasks with its 95 % bootstrap interval ({RESAMPLES:,} resamples of tasks, "
        "each with all its seeds; BCa).",
        f"{REFERENCE}: the baseline (floor, collaborative or content) that is best on validation, "
        f"at K = {k_shot}, in that metric and regime. {BETTER} and {WORSE}: significantly better "
        "and worse than it (Wilcoxon’s signed-rank test, paired over tasks, p < .05 after Holm’s "
        "correction over the learners of a column).",
        few()
        if preliminary
        else "Bold: the best of its column, if it is significantly better than the reference.",
        "Chance is the exact expectation of a constant score. "
        f"{MISSING}: the metric does not apply.",
    ]
    return (*notes, *source_notes(results, columns))


def few() -> str:
    """What stands under a preliminary table."""
    return (
        f"Preliminary, since there are fewer than {MIN_SEEDS} seeds or {MIN_EPISODES} test "
        "episodes: nothing is bold."
    )


def source_notes(results: Results, columns: Sequence[Column]) -> list[str]:
    """Data, tasks, seeds, records and command of a table, and the runs that failed."""
    frame = results.per_task
    tasks = []
    for regime in dict.fromkeys(column.regime for column in columns):
        own = [column for column in columns if column.regime == regime]
        for evaluation in dict.fromkeys(column.evaluation for column in own):
            here = frame[
                (frame["part"] == "test")
                & (frame["regime"] == regime)
                & (frame["evaluation"] == evaluation)
            ]
            nested = " (nested supports)" if evaluation == "curve" else ""
            tasks.append(f"{regime_label(regime).lower()}{nested} {here['task'].nunique()}")
    seeds = sorted({record.seed for record in results.records})
    source = provenance_of(results)
    notes = [
        f"Data: {source.data}, {source.split}. Test tasks: {', '.join(tasks)}; "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}).",
        f"{len(results.records)} records, code {_joined(source.code, 12)}, "
        f"commit {_joined(source.commit, 12)}, by {source.command}.",
    ]
    if results.failed:
        listed = "; ".join(f"{run_name(record)}: {error_of(record)}" for record in results.failed)
        notes.append(f"Failed runs, left out: {listed}.")
    return notes


def _joined(names: Sequence[str], length: int) -> str:
    return " and ".join(_short(name, length) for name in names)


def _short(name: str, length: int) -> str:
    core, dirty, _ = name.partition("+")
    return core[:length] + (f"{dirty}dirty" if dirty else "")
