"""Critical-difference diagrams: learners ranked over regimes of data sets, or over tasks.

python -m metarec.report.critical_difference results/paper_full --paper paper
python -m metarec.report.critical_difference results/paper_full --blocks tasks --regimes user_cold
python -m metarec.report.critical_difference paper/records/critical_difference.json --paper paper
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from metarec.errors import MetarecError, RunError
from metarec.evaluation.ranks import PAIR_TESTS, PairTest
from metarec.report.blocks import Choice, Entrants, Measured, entrants_of, measured_of
from metarec.report.cells import PRIMARY
from metarec.report.collect import Results, failed_records, finished_records, read_records
from metarec.report.console import announce
from metarec.report.figures import SUFFIXES
from metarec.report.files import write_bytes, write_text
from metarec.report.notes import joined_versions, tuned_notes
from metarec.report.provenance import Provenance, provenance_of
from metarec.report.ranking import Ranking, from_json, ranking_of, to_json
from metarec.report.ranking_figure import render_ranking
from metarec.report.ranking_table import ranking_table
from metarec.report.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from metarec.runs.store import Record

NAME = "critical_difference"
"""Of the files; where blocks are tasks, the regime follows."""

WIDTH = 120
"""Columns of a terminal that the table needs, with its intervals in second lines."""

Blocks = Literal["regimes", "tasks"]

_MODULE = "metarec.report.critical_difference"


def build_report(
    records: Sequence[Record],
    paper: Path,
    console: Console | None = None,
    allow_mixed_versions: bool = False,
    choice: Choice | None = None,
    blocks: Blocks = "regimes",
    test: PairTest = "wilcoxon",
    name: str = NAME,
) -> list[Path]:
    """Writes figure, table and small record of the learners' ranks, and prints the tables.

    Args:
        records: of any data sets, kinds of task and feedback, of one experiment or several.
        paper: folder that gets `figures/<name>.pdf` and `.png`, `tables/<name>.tex` and `.md`, and
            `records/<name>.json`.
        console: where the tables, their warnings and what was written are printed; nowhere if None.
        allow_mixed_versions: whether records of different versions of the code may be ranked
            together; the notes then say so.
        choice: metric, and which records are ranked; by default all, by nDCG@10.
        blocks: `regimes` of data sets, ranked by their means, in one diagram; or `tasks`, in a
            diagram for each regime.
        test: of pairs, `wilcoxon` or `nemenyi`.
        name: of the files.

    Returns:
        The files that were written.

    Raises:
        RunError: if there is no finished record, the records mix code versions, a name is not
            there, or fewer than two learners or blocks can be ranked.
    """
    found = rankings_of(
        records, allow_mixed_versions, choice or Choice(PRIMARY), blocks, test, name
    )
    return publish(found, paper, console)


def rankings_of(
    records: Sequence[Record],
    allow_mixed_versions: bool,
    choice: Choice,
    blocks: Blocks,
    test: PairTest,
    name: str = NAME,
) -> list[Ranking]:
    """The rankings of records; arguments and errors as `build_report`."""
    finished = finished_records(records, allow_mixed_versions)
    flags = _flags(choice, blocks, test, name)
    measured = measured_of(finished, failed_records(records), choice, flags, _MODULE)
    chosen = [[one] for one in measured] if blocks == "tasks" else [measured]
    rankings = []
    for own in chosen:
        entrants = entrants_of(own, choice)
        whole = f"{name}_{_slug(own[0].name)}" if blocks == "tasks" else name
        ranked = _ranked(own, entrants)
        sources = _sources(ranked)
        rankings.append(
            ranking_of(
                entrants,
                whole,
                choice.metric,
                blocks == "tasks",
                test,
                _source_notes(entrants, ranked, sources),
                [asdict(source) for source in sources],
            )
        )
    return rankings


def publish(rankings: Sequence[Ranking], paper: Path, console: Console | None = None) -> list[Path]:
    """Writes each ranking; arguments and result as `build_report`."""
    written, tables = [], []
    for ranking in rankings:
        record = to_json(ranking)
        # what is shown is what the record holds, so that it can be made again from that
        shown = from_json(record)
        table: Table = ranking_table(shown)
        name = shown.name
        tables.append(table)
        for suffix in SUFFIXES:
            picture = render_ranking(shown, suffix)
            written.append(write_bytes(paper / "figures" / f"{name}.{suffix}", picture))
        written.append(write_text(paper / "tables" / f"{name}.tex", table.to_latex()))
        written.append(write_text(paper / "tables" / f"{name}.md", table.to_markdown()))
        written.append(write_text(paper / "records" / f"{name}.json", record))
    if console is not None:
        announce(console, tables, written, WIDTH)
    return written


def _ranked(measured: Sequence[Measured], entrants: Entrants) -> list[Results]:
    """The runs that are ranked, a data set, kind of task and feedback each."""
    every: list[Results] = []
    for one in measured:
        if not any(one.results is other for other in every):
            every.append(one.results)
    ranked = {variant.learner for variant in entrants.variants}
    return [
        replace(
            results,
            records=tuple(record for record in results.records if record.learner in ranked),
        )
        for results in every
        if any(record.learner in ranked for record in results.records)
    ]


def _sources(ranked: Sequence[Results]) -> list[Provenance]:
    """Where the ranks come from, a data set, kind of task and feedback each."""
    found = [provenance_of(results) for results in ranked]
    folders = {"/".join(record.path.parts[-3:-1]) for one in ranked for record in one.records}
    mixed = len({version for source in found for version in source.code}) > 1
    flags = f"{ranked[0].flags}{' --allow-mixed-versions' if mixed else ''}"
    command = " ".join(part for part in (f"python -m {_MODULE}", *sorted(folders), flags) if part)
    return [replace(source, command=command) for source in found]


def _source_notes(
    entrants: Entrants, ranked: Sequence[Results], sources: Sequence[Provenance]
) -> list[str]:
    """Data, tasks, seeds, records and command."""
    data = dict.fromkeys(f"{source.data}, {source.split}" for source in sources)
    runs = sum(len(names) for source in sources for names in source.runs.values())
    code = sorted({version for source in sources for version in source.code})
    commits = sorted({version for source in sources for version in source.commit})
    tasks = "; ".join(
        f"{one.measured.name} {len(one.by_task)} ({one.seeds} seed{'s' if one.seeds > 1 else ''})"
        for one in entrants.means
    )
    commands = " and ".join(dict.fromkeys(source.command for source in sources))
    return [
        f"Data: {'; '.join(data)}. Test tasks: {tasks}.",
        *tuned_notes(record for results in ranked for record in results.records),
        f"{runs} records, code {joined_versions(code)}, commit {joined_versions(commits)}, by "
        f"{commands}.",
    ]


def _flags(choice: Choice, blocks: Blocks, test: PairTest, name: str) -> str:
    """The options that make the same again."""
    given: list[tuple[str, Sequence[object]]] = [
        ("--blocks", [blocks] if blocks != "regimes" else []),
        ("--test", [test] if test != "wilcoxon" else []),
        ("--metric", [choice.metric] if choice.metric != PRIMARY else []),
        ("--tasks", choice.tasks),
        ("--feedback", choice.feedback),
        ("--regimes", choice.regimes),
        ("--learners", choice.learners),
        ("--seeds", choice.seeds),
        ("--name", [name] if name != NAME else []),
    ]
    flags = [" ".join([flag, *map(str, values)]) for flag, values in given if values]
    return " ".join([*flags, *(["--unadapted"] if choice.unadapted else [])])


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {_MODULE}",
        description="Ranks learners over regimes of data sets, or over tasks, and draws who ties.",
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        help="folder of an experiment (results/paper_full), of several, or small records of "
        "rankings (paper/records/critical_difference.json), which are drawn again",
    )
    parser.add_argument("--paper", type=Path, default=Path("paper"), help="where the files go")
    parser.add_argument(
        "--blocks",
        choices=get_args(Blocks),
        default="regimes",
        help="what learners are ranked within: regimes of data sets, by their means, or tasks, a "
        "diagram for each regime (default: regimes)",
    )
    parser.add_argument(
        "--test",
        choices=PAIR_TESTS,
        default="wilcoxon",
        help="of pairs: Wilcoxon with Holm, or Nemenyi’s critical difference (default: wilcoxon)",
    )
    parser.add_argument("--metric", default=PRIMARY, help=f"column that ranks (default: {PRIMARY})")
    parser.add_argument("--tasks", nargs="+", default=(), choices=("user", "item"))
    parser.add_argument(
        "--feedback", nargs="+", default=(), choices=("rating", "binary", "implicit")
    )
    parser.add_argument("--regimes", nargs="+", default=(), help="such as user_cold (default: all)")
    parser.add_argument("--learners", nargs="+", default=(), help="names (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=(), help="default: all")
    parser.add_argument(
        "--unadapted", action="store_true", help="rank learners without their adaptation too"
    )
    parser.add_argument("--name", default=NAME, help=f"of the files (default: {NAME})")
    parser.add_argument(
        "--allow-mixed-versions",
        action="store_true",
        help="let records of different versions of the code be ranked together",
    )
    options = parser.parse_args(arguments)
    from rich.console import Console

    console = Console()
    try:
        if all(path.suffix == ".json" for path in options.results):
            publish([_read(path) for path in options.results], options.paper, console)
            return 0
        records = [record for folder in options.results for record in read_records(folder)]
        chosen = {
            name: tuple(getattr(options, name))
            for name in ("tasks", "feedback", "regimes", "learners", "seeds")
        }
        build_report(
            records,
            options.paper,
            console,
            options.allow_mixed_versions,
            Choice(options.metric, unadapted=options.unadapted, **chosen),
            options.blocks,
            options.test,
            options.name,
        )
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _read(path: Path) -> Ranking:
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error}); name a small record") from error


if __name__ == "__main__":
    sys.exit(main())
