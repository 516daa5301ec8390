"""The sentences under a table: how to read it, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from metarec.report.cells import Column
from metarec.report.collect import Results, dataset_of, error_of, run_name
from metarec.report.labels import BASELINE_GROUPS, Variant, group_of, label_of, regime_label
from metarec.report.provenance import provenance_of
from metarec.report.selection import RESAMPLES
from metarec.report.table import BETTER, MISSING, REFERENCE, WORSE

if TYPE_CHECKING:
    from metarec.runs.store import Record


def notes_of(
    results: Results,
    columns: Sequence[Column],
    preliminary: bool,
    reference: Variant | None = None,
) -> tuple[str, ...]:
    """The sentences under a table of learners.

    Args:
        results: its runs.
        columns: its columns.
        preliminary: whether there are too few seeds or episodes.
        reference: whom all are compared with; the best baseline of each column if None.
    """
    notes = [
        f"{_MEAN} with its 95 % bootstrap interval ({_RESAMPLED}).",
        _how_tested(results, reference),
        *([] if preliminary else [_BOLD]),
        f"{_CHANCE} is the exact expectation of a constant score{_within(results)}. "
        f"{MISSING}: the metric does not apply.",
    ]
    return (*notes, *source_notes([(results, columns)]))


def _within(results: Results) -> str:
    shortlist = results.config.evaluation.shortlist
    return f" of the {shortlist} candidates that are reranked" if shortlist else ""


def notes_of_differences(notes: Sequence[str], name: str) -> tuple[str, ...]:
    """The sentences under the differences of a table to its references.

    Args:
        notes: those under the table.
        name: of the table of differences.
    """
    of_means = (_MEAN, _CHANCE, _BOLD)
    return (
        "Each row minus the reference of its column, paired over tasks: mean difference over test "
        f"tasks with its 95 % bootstrap interval ({_RESAMPLED}). {effects_note(name)}",
        *(note for note in notes if not note.startswith(of_means)),
    )


def effects_note(name: str) -> str:
    """Where a table without room for them has its effect sizes, wins, ties and losses.

    Args:
        name: of its small record.
    """
    return f"Effect sizes, wins, ties and losses: records/{name}.json."


def source_notes(
    parts: Sequence[tuple[Results, Sequence[Column]]],
    part: str = "test",
    of_quality: bool = True,
) -> list[str]:
    """Data, tasks, seeds, records and command of a table, and the runs that failed.

    Args:
        parts: the results of the table with the columns (or rows) that show them.
        part: `test` or `validation`, from which they come.
        of_quality: whether the table has intervals, of which is said what they leave out.
    """
    sources = [provenance_of(results) for results, _ in parts]
    tasks = [text for results, columns in parts for text in _task_counts(results, columns, part)]
    records = [record for results, _ in parts for record in results.records]
    failed = [record for results, _ in parts for record in results.failed]
    seeds = sorted({record.seed for record in records})
    code = sorted({version for source in sources for version in source.code})
    commit = sorted({version for source in sources for version in source.commit})
    commands = dict.fromkeys(source.command for source in sources)
    notes = [
        *([_ONE_SPLIT] if of_quality else []),
        f"Data: {sources[0].data}, {sources[0].split}. "
        f"{part.capitalize()} tasks: {', '.join(tasks)}; "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}).",
        *tuned_notes(records),
        f"{len(records)} records, code {joined_versions(code)}, "
        f"commit {joined_versions(commit)}, by {' and '.join(commands)}.",
    ]
    if failed:
        listed = "; ".join(f"{run_name(record)}: {error_of(record)}" for record in failed)
        notes.append(f"Failed runs, left out: {listed}.")
    return notes


def tuned_notes(records: Iterable[Record]) -> list[str]:
    """Which learners ran with values that tuning chose, and on what it chose them.

    A learner of several data sets or kinds of task is looked at in each by itself.

    Args:
        records: finished ones.

    Returns:
        A sentence; none where no record says that its values were chosen, as older ones do not.
    """
    runs: dict[tuple[str, str], dict[str, list[tuple[str, str] | None]]] = {}
    for record in records:
        own = runs.setdefault((dataset_of([record]), record.config.episode.task), {})
        own.setdefault(record.learner, []).append(record.config.learner.tuned_on)
    told = []
    for (data, task), found in sorted(runs.items()):
        where = f"{data}, {task} tasks: " if len(runs) > 1 else ""
        for place in sorted({one for tuned in found.values() for one in tuned if one is not None}):
            told.append(f"{where}{_chosen_at(place, found)}")
    if not told:
        return []
    return [f"Tuning chose values {'; '.join(told)}. The records of others name no such tuning."]


def _chosen_at(
    place: tuple[str, str], found: Mapping[str, Sequence[tuple[str, str] | None]]
) -> str:
    """Whose values were chosen there: by their configurations' names, as labels hold commas."""
    data, kind = place
    whole = [name for name, tuned in found.items() if set(tuned) == {place}]
    part = [f"{name} (some runs)" for name, tuned in found.items() if {place} < set(tuned)]
    rest = [name for name, tuned in found.items() if place not in tuned]
    named = ", ".join([*whole, *part])
    if not part and len(rest) < len(whole):
        named = f"all learners but {', '.join(rest)}" if rest else "all learners"
    return f"on validation of {data} (learner=best/{kind}/…) for {named}"


def _how_tested(results: Results, reference: Variant | None) -> str:
    targets = results.targets
    if reference is not None:
        if reference not in results.variants:
            return f"There is no {label_of(reference)} among the records: nothing was tested."
        return f"{REFERENCE}: {label_of(reference)}. {_TESTED}"
    if not any(group_of(name, targets[name]) in BASELINE_GROUPS for name in targets):
        return "There is no baseline among the records, so that nothing was tested."
    return (
        f"{REFERENCE}: the baseline (floor, collaborative or content) that is best on validation, "
        f"at K = {results.config.episode.k_shot}, in that metric and regime. {_TESTED}"
    )


_MEAN, _CHANCE = "Mean over test tasks", "Chance"
_ONE_SPLIT = (
    "All seeds share one split: the intervals are those of other tasks, not of other cold items, "
    "and a ranking of new items that is the same for everybody hangs on a few of them."
)
_RESAMPLED = f"{RESAMPLES:,} resamples of tasks, each with all its seeds; BCa"
_BOLD = "Bold: the best of its column, if it is significantly better than the reference."
_TESTED = (
    f"{BETTER} and {WORSE}: significantly better and worse than it (Wilcoxon’s signed-rank test, "
    "paired over tasks, p < .05 after Holm’s correction over the learners of a column), where the "
    "difference of the means points the same way as the ranks."
)


def _task_counts(results: Results, columns: Sequence[Column], part: str) -> list[str]:
    frame = results.per_task
    kind = "item tasks, " if results.config.episode.task == "item" else ""
    counts = []
    for regime, evaluation in dict.fromkeys((c.regime, c.evaluation) for c in columns):
        here = (frame["part"] == part) & (frame["evaluation"] == evaluation)
        nested = " (nested supports)" if evaluation == "curve" else ""
        own = frame[here & (frame["regime"] == regime)]
        count = own["task"].nunique()
        shown = [c.metric for c in columns if (c.regime, c.evaluation) == (regime, evaluation)]
        known = own[[name for name in dict.fromkeys(shown) if name in own]].notna().any(axis=1)
        valued = own.loc[known, "task"].nunique()
        # such as tasks of whose relevant items none was drawn
        some = f" ({valued} with a value)" if 0 < valued < count else ""
        counts.append(f"{kind}{regime_label(regime).lower()}{nested} {count}{some}")
    return counts


def machine_text(records: Sequence[Record]) -> str:
    """Where runs were measured, as their records say: `1 thread of AMD EPYC`."""
    contents = [record.content for record in records]
    processors = sorted(
        {str(one.get("machine", {}).get("processor") or "unknown processor") for one in contents}
    )
    devices = sorted({str(one.get("device", "cpu")) for one in contents} - {"cpu"})
    where = f"{threads_text(records)} of {' or '.join(processors)}"
    return f"{where}, with {' or '.join(devices)}, whose memory is not in it" if devices else where


def threads_text(records: Sequence[Record]) -> str:
    """How many threads runs had, as their records say."""
    given = (record.content.get("threads") for record in records)
    threads = sorted({int(count) for count in given if count})
    count = " or ".join(map(str, threads)) or "unknown number of"
    return f"{count} thread{'' if threads == [1] else 's'}"


def joined_versions(names: Sequence[str], length: int = 12) -> str:
    """Versions of code, or commits, each by its first letters and whether it was dirty.

    Args:
        names: hashes, with `+dirty` where files differed.
        length: letters that are kept.
    """
    return " and ".join(_short(name, length) for name in names)


def _short(name: str, length: int) -> str:
    core, dirty, _ = name.partition("+")
    return core[:length] + (f"{dirty}dirty" if dirty else "")
