"""Whether the chosen values are the best of their trials, and the trials those of validation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from metarec.audit.finding import Finding, fails, undecided
from metarec.runs.store import Record
from metarec.runs.tuning_files import TUNING

CHOICES = "tuning"


def check_tunings(paper: Path, configs: Path, trials: Mapping[str, Record]) -> Iterator[Finding]:
    """Checks the small records of tuning.

    Args:
        paper: its `records/tuning/*/*.json` are read.
        configs: its `learner/best/*/*.yaml` have to hold the chosen values.
        trials: the records of trials that are at hand, by the name of the run.
    """
    for file in sorted((paper / TUNING).glob("*/*.json")):
        what = f"{file.parent.name}/{file.stem}"
        small = json.loads(file.read_text(encoding="utf-8"))
        problems = list(_problems(small, configs / "learner" / "best" / f"{what}.yaml", trials))
        yield from (fails(CHOICES, what, problem) for problem in problems)
        named = [one["run"] for one in small["trials"] if "run" in one]
        if problems:
            continue
        missing = [name for name in named if name not in trials]
        if missing:
            problem = f"{len(missing)} of {len(named)} trials are not in the folders given"
            yield undecided(CHOICES, what, problem)
        else:
            yield Finding(CHOICES, what)


def _problems(small: dict[str, Any], best: Path, trials: Mapping[str, Record]) -> Iterator[str]:
    scores = [
        float("-inf") if one["selection"] is None else one["selection"] for one in small["trials"]
    ]
    first = scores.index(max(scores))
    if small["chosen"] != first:
        yield f"trial {small['chosen']} was chosen, but trial {first} is best on validation"
    for number, one in enumerate(small["trials"]):
        record = trials.get(one.get("run", ""))
        if record is None:
            continue
        if record.selection != one["selection"]:
            yield (
                f"trial {number} scored {one['selection']}, but its record says {record.selection}"
            )
    if small["search"]:
        yield from _chosen_values(small, best)


def _chosen_values(small: dict[str, Any], best: Path) -> Iterator[str]:
    if not best.is_file():
        yield f"there is no {'/'.join(best.parts[-4:])} with the chosen values"
        return
    written = yaml.safe_load(best.read_text(encoding="utf-8"))
    values = small["defaults"] | small["trials"][small["chosen"]]["values"]
    for name, value in values.items():
        if written.get(name) != value:
            yield (
                f"{'/'.join(best.parts[-4:])} has {name}={written.get(name)}, the chosen trial "
                f"{value}"
            )
