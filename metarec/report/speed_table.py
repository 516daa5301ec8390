"""The speed table of the paper and the README, from what `experiments/speed.py` wrote.

python -m metarec.report.speed_table results --paper paper --readme README.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from metarec.errors import MetarecError, RunError
from metarec.report.files import write_text
from metarec.report.readme import replace_table
from metarec.speed.rows import TABLE, Bound
from metarec.speed.show import NONE, number

HEADS = (
    "Work", "Backend", "ms", "Against", "ms", "Ratio or a second", "At least", "Of peak rate",
    "MiB", "First call, s",
)  # fmt: skip


SPEED = "speed"


def publish(results: Path, paper: Path, readme: Path | None = None, name: str = SPEED) -> str:
    """Writes `records/speed.json`, `tables/speed.md`, `tables/parity.md`, and the table in README.

    Of a run of some of the work alone (`speed.only`) the table may have a name of its own; parity
    is then left as it is.

    Args:
        results: folder of `speed.json` and `speed_details.json`.
        paper: folder of the paper.
        readme: file with the lines `<!-- <name>: begin -->` and `<!-- <name>: end -->`, or None.
        name: of the table, of its record and of the lines in the README.

    Returns:
        The table in Markdown.

    Raises:
        RunError: if a file is missing or is not what `experiments/speed.py` writes, or the README
            lacks the markers.
    """
    rows, details = _read(results / "speed.json"), _read(results / "speed_details.json")
    about = ("machine", "threads", "versions", "code", "commit", "load_before", "features")
    try:
        record = {key: details[key] for key in about}
        record |= {"rows": rows, "parity": details["parity"]}
        table, parity = markdown(rows, details), parity_table(details)
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{results}: speed.json and speed_details.json are not of this version ({error}); run "
            "python experiments/speed.py again"
        ) from error
    write_text(paper / "records" / f"{name}.json", json.dumps(record, indent=1) + "\n")
    write_text(paper / "tables" / f"{name}.md", table)
    if name == SPEED:
        write_text(paper / "tables" / "parity.md", parity)
    if readme is not None:
        replace_table(readme, table, name)
    return table


def markdown(rows: Sequence[Mapping[str, Any]], details: Mapping[str, Any]) -> str:
    """The table, and below it the machine, the parity of the engines and the commit.

    Args:
        rows: of `speed.json`.
        details: of `speed_details.json`.
    """
    lines = [_line(HEADS), _line(["---"] * 2 + ["--:", "---"] + ["--:"] * 6)]
    bounds = {(bound.name, bound.backend): bound for bound in TABLE}
    for row in rows:
        bound = bounds[row["name"], row["backend"]]
        works = details["works"][bound.work]
        first_call = number(works[bound.contender]["seconds_of_first_call"])
        lines.append(_line([*cells_of(row), _memory(bound, works), first_call]))
    lines.append(f"\n{note_of(rows, details)}")
    return "\n".join(lines) + "\n"


def note_of(rows: Sequence[Mapping[str, Any]], details: Mapping[str, Any]) -> str:
    """The sentences below the table: machine, versions, parity and commit.

    Args:
        rows: of `speed.json`.
        details: of `speed_details.json`, or a small record, which has what is said here.
    """
    machine, versions = details["machine"], details["versions"]
    peaks = [row["peak_gflop_per_second"] for row in rows]
    peak = max((value for value in peaks if value), default=None)
    worst = {
        what: max(row[what] for row in details["parity"]) for what in ("loss", "meta_gradient")
    }
    return (
        "<sub>Medians of interleaved repeats in one process, after a first call, in which JAX "
        f"compiles; {machine['cpus']} cores ({machine['processor']}), torch {versions['torch']}, "
        f"jax {versions['jax']}; large float32 products reach {number(peak)} GFLOP/s. In float64 "
        "the engines differ from learn2learn by at most "
        f"{worst['loss']:.0e} in the loss and {worst['meta_gradient']:.0e} in the meta-gradient "
        f"(relative). Commit {details['commit'][:12]}, by python experiments/speed.py.</sub>"
    )


def cells_of(row: Mapping[str, Any]) -> list[str]:
    """The cells of a row that its small record has too: all but memory and the first call.

    Args:
        row: of `speed.json`.
    """
    bounds = {(one.name, one.backend): one for one in TABLE}
    bound = bounds[row["name"], row["backend"]]
    unit = "/s" if bound.is_rate else "×"
    part, whole = row["gflop_per_second"], row["peak_gflop_per_second"]
    return [
        row["name"], row["backend"], number(row["milliseconds"]),
        row["reference"] or NONE, number(row["reference_milliseconds"]),
        number(row["ratio"]) + unit, number(row["at_least"]) + unit,
        f"{part / whole:.0%}" if part and whole else NONE,
    ]  # fmt: skip


def parity_table(details: Mapping[str, Any]) -> str:
    """What each engine differs by from the reference in float64, relative, in Markdown.

    Args:
        details: of `speed_details.json`.
    """
    heads = ("Order", "Inner steps", "Engine", "Against", "Loss", "Meta-gradient")
    lines = [_line(heads), _line(["---", "--:", "---", "---", "--:", "--:"])]
    lines += [
        _line([
            row["order"], str(row["inner_steps"]), row["engine"], row["reference"],
            f"{row['loss']:.1e}", f"{row['meta_gradient']:.1e}",
        ])
        for row in details["parity"]
    ]  # fmt: skip
    lines.append(
        "\n<sub>Relative differences in float64 on the same weights and episodes, with masks and "
        "supports of unequal size; the meta-gradient's by norm, the largest of all weights. "
        f"Commit {details['commit'][:12]}, by python experiments/speed.py.</sub>"
    )
    return "\n".join(lines) + "\n"


def _memory(bound: Bound, work: Mapping[str, Any]) -> str:
    """Peak memory of a step, and of the reference's step where a share of it is promised."""
    names = [bound.contender]
    if bound.memory_at_most is not None and isinstance(bound.reference, str):
        names.append(bound.reference)
    each = [work.get(name, {}).get("peak_mebibytes") for name in names]
    return " of ".join(number(median(values)) for values in each if values) or NONE


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"no {file}: run python experiments/speed.py first") from error
    except ValueError as error:
        raise RunError(f"{file} is not JSON ({error}); run python experiments/speed.py") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m metarec.report.speed_table",
        description="Makes the speed table of the paper from what experiments/speed.py wrote.",
    )
    parser.add_argument("results", type=Path, help="folder of speed.json (results)")
    parser.add_argument("--paper", type=Path, default=Path("paper"), help="where the files go")
    parser.add_argument(
        "--readme", type=Path, help="README whose speed table, between its markers, is replaced"
    )
    parser.add_argument(
        "--name", default=SPEED, help="of the table, where some of the work alone was timed"
    )
    options = parser.parse_args(arguments)
    try:
        print(publish(options.results, options.paper, options.readme, options.name))
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
