"""What tuning gave each learner, and what it gained: trials, training tasks, minutes, scores.

python -m metarec.report.tuning --paper paper
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarec.errors import MetarecError, RunError
from metarec.report.files import write_text
from metarec.report.labels import GROUPS, Variant, group_of, label_of, sort_key
from metarec.report.table import MISSING, Cell, Row, Section, Table, number
from metarec.runs.search import size_of
from metarec.runs.tuning_files import TUNING

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ("Learner", "Trials", "Tasks", "Drawn", "Minutes", "Defaults", "Best", "Gain")

WIDTH = 104
"""Columns of a terminal that the table needs."""


@dataclass(frozen=True)
class Tuned:
    """What the small record of a tuning says.

    Args:
        learner: its name.
        selection: what was maximised, in words.
        trials: number of trials.
        asked: that were asked for; None in records that do not say so.
        possible: how many different values the search has.
        failed: trials that gave no score.
        tasks: training tasks of a trial if nothing stops it early; 0 where nothing is trained; None
            in records that do not say so.
        drawn: mean of those that were drawn, over the trials that say so; None without one.
        seconds: of all trials.
        defaults: score of the defaults; None if they failed.
        best: score of the chosen trial.
        sampler: what drew the values; None where nothing was drawn, or the record does not say so.
        protocol: name of the publication's protocol that it was tuned under; None without one.
    """

    learner: str
    selection: str
    trials: int
    asked: int | None
    possible: float
    failed: int
    tasks: int | None
    drawn: float | None
    seconds: float
    defaults: float | None
    best: float
    sampler: str | None
    protocol: str | None = None


def read_tunings(paper: Path, episode: str) -> list[Tuned]:
    """Reads the small records of all learners that were tuned on a kind of episode.

    Args:
        paper: folder of the paper.
        episode: such as `binary`, or the name of a protocol.

    Returns:
        By learner, in the order of the tables; empty if none was tuned.

    Raises:
        RunError: if a record is broken.
    """
    found = [_read(file) for file in sorted((paper / TUNING / episode).glob("*.json"))]
    return sorted(found, key=lambda one: sort_key(Variant(one.learner)))


def tuning_table(tunings: Sequence[Tuned], episode: str) -> Table:
    """Learners by what they were given and what they gained.

    Args:
        tunings: at least one.
        episode: that they were tuned on.
    """
    under = "protocol" if any(one.protocol for one in tunings) else "episode"
    groups = {group: [one for one in tunings if group_of(one.learner) == group] for group in GROUPS}
    return Table(
        name=f"tuning_{episode}",
        title=f"Tuning on meta-validation, {under}={episode}",
        columns=COLUMNS,
        sections=tuple(
            Section(group, tuple(_row(one) for one in own)) for group, own in groups.items() if own
        ),
        notes=tuple(_notes(tunings, of_users=episode != "item")),
    )


def build_report(
    paper: Path,
    console: Console | None = None,
    episode: str | None = None,
    learners: Collection[str] = (),
) -> list[Path]:
    """Writes a table of all learners for each kind of episode that there are records for.

    Args:
        paper: folder whose `records/tuning/` are read, and which gets `tables/tuning_*.tex` and
            `*.md`.
        console: where the tables and what was written are printed; nowhere if None.
        episode: only this kind of episode; None for all.
        learners: only these are printed; empty for all.

    Returns:
        The files that were written.

    Raises:
        RunError: if there is no record, or one is broken.
    """
    folders = sorted(folder.name for folder in (paper / TUNING).glob("*") if folder.is_dir())
    written = []
    for name in folders if episode is None else [episode]:
        tunings = read_tunings(paper, name)
        if not tunings:
            continue
        table = tuning_table(tunings, name)
        written.append(write_text(paper / "tables" / f"{table.name}.tex", table.to_latex()))
        written.append(write_text(paper / "tables" / f"{table.name}.md", table.to_markdown()))
        if console is not None:
            shown = [one for one in tunings if not learners or one.learner in learners]
            _print(console, tuning_table(shown, name))
    if not written:
        raise RunError(f"no records in {paper / TUNING}; tune first: python experiments/tune.py")
    if console is not None:
        for path in written:
            console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m metarec.report.tuning",
        description="Makes the tables of the tuning from its records, and nothing else.",
    )
    parser.add_argument("--paper", type=Path, default=Path("paper"), help="where the files go")
    options = parser.parse_args(arguments)
    from rich.console import Console

    try:
        build_report(options.paper, Console())
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _print(console: Console, table: Table) -> None:
    """Prints the table as wide as it needs; a narrow terminal breaks its lines."""
    import rich.console

    wide = rich.console.Console(file=console.file, width=max(console.width, WIDTH))
    wide.print(table.to_rich(wide.width))


def _read(file: Path) -> Tuned:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        trials = content["trials"]
        drawn = [trial["training_tasks"] for trial in trials if "training_tasks" in trial]
        return Tuned(
            learner=content["learner"],
            selection=content["selection"],
            trials=len(trials),
            asked=content.get("trials_asked"),
            possible=size_of(content.get("search") or {}),
            failed=sum(trial["selection"] is None for trial in trials),
            tasks=content.get("training_tasks"),
            drawn=sum(drawn) / len(drawn) if drawn else None,
            seconds=sum(trial.get("seconds", 0.0) for trial in trials),
            defaults=trials[0]["selection"],
            best=trials[content["chosen"]]["selection"],
            sampler=content.get("sampler"),
            protocol=(content.get("protocol") or {}).get("name"),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RunError(
            f"the record {file} cannot be read ({type(error).__name__}: {error}); tune again"
        ) from error


def _row(one: Tuned) -> Row:
    failed = f", {one.failed} failed" if one.failed else ""
    gain = None if one.defaults is None else one.best - one.defaults
    values = (
        f"{one.trials}{failed}",
        f"{one.tasks:,}" if one.tasks else MISSING,
        f"{one.drawn:,.0f}" if one.tasks and one.drawn is not None else MISSING,
        f"{one.seconds / 60:.1f}",
        MISSING if one.defaults is None else number(one.defaults),
        number(one.best),
        MISSING if gain is None else number(gain, signed=True),
    )
    return Row(label_of(Variant(one.learner)), tuple(Cell(value) for value in values))


_DRAW_ITEMS_TOO = ("meta_embedding", "mwuf")
"""Learners that in user tasks draw a batch of item tasks in each step, to warm new items up."""


def _notes(tunings: Sequence[Tuned], of_users: bool) -> list[str]:
    budgets = sorted({one.tasks for one in tunings if one.tasks})
    asked = sorted({one.asked for one in tunings if one.asked is not None})
    fewer = [one for one in tunings if one.trials < (one.asked or 0)]
    short = [label_of(Variant(one.learner)) for one in fewer if one.trials >= one.possible]
    stopped = [label_of(Variant(one.learner)) for one in fewer if one.trials < one.possible]
    silent = sum(one.tasks is None for one in tunings)
    more = [label_of(Variant(one.learner)) for one in tunings if one.learner in _DRAW_ITEMS_TOO]
    samplers = sorted({one.sampler for one in tunings if one.sampler is not None})
    selections = sorted({one.selection for one in tunings})
    return [
        f"Scores: {'; or '.join(selections)}. The best of several trials on the same "
        "tasks flatters, so that the gain is no estimate of one on test, which is not looked at.",
        "Tasks: those of meta-training in a trial if nothing stops it early; drawn: the mean over "
        f"trials of those that were. {MISSING}: nothing is trained, or nothing is known.",
        *_differing("trials were asked for", asked),
        *_differing("training tasks a trial", budgets),
        *(
            [f"Fewer trials, as their search is empty or has no more values: {', '.join(short)}."]
            if short
            else []
        ),
        *(
            [f"Fewer trials than were asked for, which is no equal tuning: {', '.join(stopped)}."]
            if stopped
            else []
        ),
        *(
            [f"Not counted: as many item tasks, which {' and '.join(more)} draw beside them."]
            if more and of_users
            else []
        ),
        *([f"Values drawn by {'; or '.join(samplers)}."] if samplers else []),
        *(
            [f"{silent} of {len(tunings)} records are older than the count of training tasks."]
            if silent
            else []
        ),
    ]


def _differing(what: str, values: Sequence[int]) -> list[str]:
    if len(values) < 2:
        return []
    return [f"Not equal: {' or '.join(f'{value:,}' for value in values)} {what}."]


if __name__ == "__main__":
    sys.exit(main())
