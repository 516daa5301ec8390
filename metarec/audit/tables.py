"""Whether every figure in `paper/tables` follows from records, to the last digit."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import math
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarec.audit.finding import Finding, fails, undecided
from metarec.audit.marks import Marks, is_another, mark_in
from metarec.errors import RunError
from metarec.report.choices_tables import NAME as WHAT_TO_ADAPT
from metarec.report.provenance import folder_name
from metarec.report.ranking import from_json
from metarec.report.ranking_table import ranking_table
from metarec.report.speed_table import SPEED, cells_of, markdown, note_of, parity_table
from metarec.report.table import (
    MISSING,
    count_text,
    duration,
    hundredths,
    interval_text,
    number,
    p_text,
    significant,
)
from metarec.report.tuning import read_tunings, tuning_table
from metarec.runs.store import Record
from metarec.runs.tuning_files import TUNING

TABLES = "tables"
_MODULES = {
    "metarec.report": "metarec.report.__main__",
    "metarec.report.what_to_adapt": "metarec.report.what_to_adapt",
    "metarec.report.critical_difference": "metarec.report.critical_difference",
    "metarec.report.sweeps": "metarec.report.sweeps",
    "metarec.report.protocols": "metarec.report.protocols",
    "metarec.report.hybrid": "metarec.report.hybrid",
}
"""What makes tables from records alone, to the module whose `main` does it.

`metarec.report.hybrid_items` is none of them: it ranks the data anew, for minutes, and with other
last digits on another machine.
"""

_MARKDOWN = re.compile(r"<sup>[^<]*</sup>|</?sub>|\*\*|\\")
_LATEX = re.compile(r"\\textsuperscript\{[^}]*\}|\\(textbf|scriptsize|tiny|footnotesize)\b")
_NUMBER = re.compile(r"−?\d*\.\d+")


def check_tables(paper: Path, records: Sequence[Record]) -> Iterator[Finding]:
    """Makes the tables of a paper again and compares them byte by byte.

    Where the records behind a table are not at hand, its figures are compared with the small record
    of its name: each has to be printed as that says, and whether that follows is left open. A table
    without a small record fails.

    Args:
        paper: folder whose `tables/` and `records/` are checked.
        records: all that are at hand, failed ones included.
    """
    explained: set[str] = set()
    for made in (
        _of_records(paper, records),
        _of_tunings(paper),
        _of_rankings(paper),
        _of_speed(paper, records),
    ):
        own = [one for one in made if one.what not in explained]
        explained |= {one.what for one in own}
        yield from own
    left: dict[tuple[Path, str], list[Path]] = {}
    for table in sorted((paper / "tables").glob("*.*")):
        if table.name not in explained:
            left.setdefault((_small_record_of(table, paper), table.suffix), []).append(table)
    for (record, _), tables in left.items():
        yield from _printed(tables, record)


def _of_records(paper: Path, records: Sequence[Record]) -> Iterator[Finding]:
    """The tables whose records are at hand, and their small records."""
    here: dict[Path, set[str]] = {}
    for record in records:
        here.setdefault(record.path.parent.absolute(), set()).add(record.path.name)
    for command, runs in _commands(paper).items():
        words = shlex.split(command)[2:]
        if words[0] not in _MODULES:
            problem = (
                "is not run again, as it needs more than records; what it made was compared with "
                "its small record alone"
            )
            yield undecided(TABLES, command, problem)
            continue
        holding = [folder for folder, own in here.items() if own & runs]
        called = {word: _called(word, holding) for word in _folders_of(command)}
        for word, folders in called.items():
            if len(folders) > 1:
                problem = f"{word} may be {' or '.join(map(str, folders))}; audit one at a time"
                yield undecided(TABLES, command, problem)
        if all(len(folders) == 1 for folders in called.values()):
            places = {word: folders[0] for word, folders in called.items()}
            if runs <= set[str]().union(*(here[place] for place in places.values())):
                yield from _rebuilt(paper, words, places)


def _commands(paper: Path) -> dict[str, set[str]]:
    """The commands that made the tables of a paper, and the runs that each took."""
    commands: dict[str, set[str]] = {}
    for file in sorted((paper / "records").glob("*.json")):
        small = json.loads(file.read_text(encoding="utf-8"))
        for source in small.get("sources", []) if isinstance(small, dict) else []:
            runs = [*itertools.chain(*source["runs"].values()), *source["failed"]]
            commands.setdefault(source["command"], set()).update(runs)
    return commands


def _called(word: str, folders: Sequence[Path]) -> list[Path]:
    """The folders that a command calls so: by their last two parts, or else by the last alone."""
    for length in (2, 1):
        parts = Path(word).parts[-length:]
        if found := [folder for folder in folders if folder.parts[-length:] == parts]:
            return found
    return []


def _folders_of(command: str) -> list[str]:
    """The folders of records that the command of a small record names."""
    words = shlex.split(command)[3:]
    return list(itertools.takewhile(lambda word: not word.startswith("--"), words))


def _rebuilt(paper: Path, words: Sequence[str], places: Mapping[str, Path]) -> Iterator[Finding]:
    """Runs the command of a small record again, on folders by their words, and compares it all."""
    module = importlib.import_module(_MODULES[words[0]])
    command = " ".join(["python -m", *words])
    with tempfile.TemporaryDirectory() as temporary:
        arguments = [str(places.get(word, word)) for word in words[1:]]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = module.main([*arguments, "--paper", temporary])
        if status:
            last = (said.getvalue().strip().splitlines() or ["no message"])[-1]
            yield fails(TABLES, command, f"the tables cannot be made again: {last}")
            return
        for folder in ("tables", "records"):
            for file in sorted(Path(temporary, folder).glob("*.*")):
                # the records may lie elsewhere than when the table was made
                text = file.read_text(encoding="utf-8")
                for word, path in places.items():
                    text = text.replace(folder_name(path), word)
                yield _compared(paper / folder / file.name, text)


def _of_tunings(paper: Path) -> Iterator[Finding]:
    """The tables of tuning, which are made of small records alone."""
    for folder in sorted(path for path in (paper / TUNING).glob("*") if path.is_dir()):
        table = tuning_table(read_tunings(paper, folder.name), folder.name)
        yield _compared(paper / "tables" / f"{table.name}.md", table.to_markdown())
        yield _compared(paper / "tables" / f"{table.name}.tex", table.to_latex())


def _of_rankings(paper: Path) -> Iterator[Finding]:
    """The tables of ranks, which are made of small records; whether these follow is left open."""
    for file in sorted((paper / "records").glob("*.json")):
        text = file.read_text(encoding="utf-8")
        if "cliques" not in json.loads(text):
            continue
        try:
            table = ranking_table(from_json(text))
        except RunError as error:
            yield fails(TABLES, file.name, str(error))
            continue
        for suffix, made in (("md", table.to_markdown()), ("tex", table.to_latex())):
            yield _left_open(_compared(paper / "tables" / f"{file.stem}.{suffix}", made), file)


def _of_speed(paper: Path, records: Sequence[Record]) -> Iterator[Finding]:
    """The tables of speed: that of parity is made of the small record, the others of all timings.

    Where these are not at hand, what a small record has is compared: all but memory and the first
    call.
    """
    tables = paper / "tables"
    for small in sorted((paper / "records").glob("speed*.json")):
        content = json.loads(small.read_text(encoding="utf-8"))
        table = tables / f"{small.stem}.md"
        try:
            if small.stem == SPEED:
                yield _compared(tables / "parity.md", parity_table(content))
            measured = list(_measured(content, records))
            for timings in measured:
                yield _compared(table, timings)
            if not measured:
                yield _left_open(_timed(table, content), small)
        except (KeyError, TypeError, ValueError) as error:
            told = f"{small.name} is not of this version ({error!r}); measure and publish again"
            yield fails(TABLES, table.name, told)


def _measured(content: Mapping[str, Any], records: Sequence[Record]) -> Iterator[str]:
    """The table of the timings that a small record is of, where they lie beside the records."""
    for root in sorted({record.path.parent.parent for record in records}):
        files = [root / "speed.json", root / "speed_details.json"]
        if all(file.is_file() for file in files):
            rows, details = (json.loads(file.read_text(encoding="utf-8")) for file in files)
            # of one commit; what differs then is told as what the table prints otherwise
            names = [row["name"] for row in rows]
            same = details["commit"] == content["commit"]
            if same and names == [row["name"] for row in content["rows"]]:
                yield markdown(rows, details)


def _timed(table: Path, content: Mapping[str, Any]) -> Finding:
    """Whether a table of speed prints its small record: its rows, and the note below them."""
    if not table.is_file():
        return fails(TABLES, table.name, "is not in tables/, but its small record is here")
    rows = content["rows"]
    printed = list(_lines_of(table))
    if len(printed) != len(rows):
        told = f"prints {len(printed)} rows, but its small record has {len(rows)}"
        return fails(TABLES, table.name, told)
    for cells, row in zip(printed, rows, strict=True):
        for (found, _), made in zip(cells, cells_of(row), strict=False):
            if found != made:
                told = f"{row['name']}: prints {found}, but its small record says {made}"
                return fails(TABLES, table.name, told)
    note = table.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
    if note != note_of(rows, content):
        told = f"its note is {note!r}, but its small record gives {note_of(rows, content)!r}"
        return fails(TABLES, table.name, told)
    return Finding(TABLES, table.name)


def _left_open(finding: Finding, record: Path) -> Finding:
    """What agrees with a small record alone is open: it may not follow from any run."""
    return undecided(TABLES, finding.what, _told(record)) if finding.result == "holds" else finding


def _told(record: Path) -> str:
    return f"prints what {record.name} says, whose runs are not in the folders given"


def _compared(file: Path, expected: str) -> Finding:
    if not file.is_file():
        return fails(TABLES, file.name, f"is not in {file.parent.name}/, but its records are here")
    lines = file.read_text(encoding="utf-8").splitlines(), expected.splitlines()
    for place, (found, made) in enumerate(itertools.zip_longest(*lines, fillvalue=""), start=1):
        if found != made:
            at = next(
                (
                    at
                    for at, (one, other) in enumerate(zip(found, made, strict=False))
                    if one != other
                ),
                min(len(found), len(made)),
            )
            cut = slice(max(0, at - 20), at + 20)
            return fails(
                TABLES,
                file.name,
                f"line {place} is not what the records give: {found[cut]!r}, not {made[cut]!r}",
            )
    return Finding(TABLES, file.name)


def _small_record_of(table: Path, paper: Path) -> Path:
    """The small record of a table: that of its name, but one for all of what adapts."""
    shared = table.stem.startswith(f"{WHAT_TO_ADAPT}_")
    return paper / "records" / f"{WHAT_TO_ADAPT if shared else table.stem}.json"


def _printed(tables: Sequence[Path], record: Path) -> Iterator[Finding]:
    """Whether tables print the numbers of a small record, one table and cell after the other."""
    if not record.is_file():
        for table in tables:
            yield fails(
                TABLES, table.name, f"there is no {record.name}: nothing says what it is of"
            )
        return
    small = json.loads(record.read_text(encoding="utf-8"))
    if not isinstance(small, dict) or not {"columns", "rows"} <= small.keys():
        for table in tables:
            yield fails(TABLES, table.name, f"{record.name} is no small record of a table")
        return
    rows = [dict(zip(small["columns"], row, strict=True)) for row in small["rows"]]
    for place, table in enumerate(tables):
        count, problem = _printed_by(table, rows, record)
        rows = rows[count:]
        if problem is None and table == tables[-1]:
            notes = "".join(_notes_of(one) for one in tables)
            lacking = [row for row in rows if not _noted(row, notes)]
            if lacking:
                problem = f"leaves out {len(lacking)} rows of {record.name}, the first {lacking[0]}"
        if problem is not None:
            yield fails(TABLES, table.name, problem)
            for other in tables[place + 1 :]:
                yield undecided(TABLES, other.name, f"follows {table.name}, which fails")
            return
        yield undecided(TABLES, table.name, _told(record))


def _printed_by(
    table: Path, rows: Sequence[Mapping[str, Any]], record: Path
) -> tuple[int, str | None]:
    """How many of the rows a table prints, and what it prints that they do not say."""
    following, tests = 0, list[str]()
    marks = Marks(rows, _differences_beside(record))
    # its widest table has no room for some intervals
    bare = record.stem == WHAT_TO_ADAPT
    for (label, _), *cells in _lines_of(table):
        for text, mark in cells:
            if text in ("", MISSING):
                continue
            if following < len(rows) and _agrees(text, rows[following], bare):
                row = rows[following]
                if is_another(label, row):
                    return following, f"calls {label} what {record.name} calls {row['learner']}"
                if mark not in marks.allowed(row):
                    told = f"{mark or 'no mark'} at {text}"
                    return following, f"{label}: has {told}, which {record.name} does not say"
                tests = _tests_of(row)
                following += 1
            elif text not in tests:
                told = _cell_of(rows[following]) if following < len(rows) else "nothing more"
                return following, f"{label}: prints {text}, but {record.name} says {told}"
    return following, None


def _notes_of(table: Path) -> str:
    """The sentences under a table, without its cells."""
    text = table.read_text(encoding="utf-8")
    if table.suffix == ".md":
        return "".join(line for line in text.splitlines() if line.startswith("<sub>"))
    return text.rpartition(r"\bottomrule")[2]


def _noted(row: Mapping[str, Any], notes: str) -> bool:
    """Whether a number that has no cell, but a sentence, stands there."""
    if row["metric"] not in _IN_NOTES:
        return False
    forms = {f"{row['mean']:g}"} | _roundings(row["mean"], number)
    return any(re.search(rf"(?<![\d.]){re.escape(form)}(?!\d)", notes) for form in forms)


def _differences_beside(record: Path) -> list[dict[str, Any]]:
    """The rows of the small record of the differences that a table has beside it."""
    file = record.with_name(f"{record.stem}_differences.json")
    if not file.is_file():
        return []
    small = json.loads(file.read_text(encoding="utf-8"))
    return [dict(zip(small["columns"], row, strict=True)) for row in small["rows"]]


def _lines_of(table: Path) -> Iterator[list[tuple[str, str]]]:
    """The cells of each row of a table, Markdown or LaTeX, as plain text and mark."""
    text = table.read_text(encoding="utf-8")
    if table.suffix == ".md":
        for line in [line for line in text.splitlines() if line.startswith("|")][2:]:
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            yield [(_MARKDOWN.sub("", cell).strip(), mark_in(cell)) for cell in cells]
        return
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    for line in body.splitlines():
        if " & " in line:
            cells = line.removesuffix(r" \\").replace("~", "\N{NO-BREAK SPACE}").split(" & ")
            yield [(_plain_latex(cell), mark_in(cell)) for cell in cells]


def _plain_latex(cell: str) -> str:
    text = _LATEX.sub("", cell).replace("$-$", "−").replace("--", MISSING)
    return re.sub(r"[${}]", "", text).strip()


def _agrees(text: str, row: Mapping[str, Any], bare: bool = False) -> bool:
    """Whether a cell prints a row: its mean with its interval, if it has one; or what it costs.

    Args:
        text: of the cell.
        row: of the small record.
        bare: whether the interval may be left out.
    """
    values = [float(row[name]) for name in ("mean", "low", "high") if row[name] is not None]
    if row["metric"].startswith(_COSTS):
        return any(text in _roundings(values[0], form) for form in _COST_FORMS)
    printed = _NUMBER.findall(text.replace("+", ""))
    if len(printed) != len(values) and not (bare and len(printed) == 1):
        return False
    return all(
        one in _roundings(value, number)
        for one, value in zip(printed, values[: len(printed)], strict=True)
    )


_COSTS = ("parameters", "trainable_parameters", "peak_memory", "seconds", "milliseconds")
"""How the metrics begin that are no quality, and have units of their own."""

_COST_FORMS = (significant, duration, count_text, hundredths)

_IN_NOTES = ("shortlist/recall", "bert_inner_learning_rate")
"""What stands in sentences under a table, and in its small record."""


def _roundings(value: float, form: Callable[[float], str]) -> set[str]:
    """The row has six digits: where they end in a 5, the table may have rounded either way."""
    return {form(value * scale) for scale in (1 - 1e-6, 1.0, 1 + 1e-6)}


def _cell_of(row: Mapping[str, Any]) -> str:
    low, high = (math.nan if row[name] is None else row[name] for name in ("low", "high"))
    return f"{number(row['mean'])} {interval_text(low, high)}".strip()


def _tests_of(row: Mapping[str, Any]) -> list[str]:
    """What may stand in the cells after a difference: its test."""
    tests = [] if row["p_holm"] is None else [p_text(row["p_holm"])]
    if row.get("effect") is not None:
        counts = f"{row['wins']}/{row['ties']}/{row['losses']}"
        tests += [number(row["effect"], signed=True), counts]
    return tests
