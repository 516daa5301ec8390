"""Whether the chosen values are the best of their trials, and the trials those of validation."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metarec.audit.figures import CHOOSING
from metarec.audit.finding import Finding, fails, undecided
from metarec.runs.budget import drawn_tasks
from metarec.runs.search import size_of
from metarec.runs.store import Record
from metarec.runs.tuning_files import TUNING

CHOICES, BUDGETS, VALUES = "tuning", "tuning budgets", "values of learners"
EQUAL = (
    "data_checksum", "split", "episode", "protocol", "seed", "selection", "sampler", "sampler_seed",
    "trials_asked", "training_tasks",
)  # fmt: skip
"""What learners have to share to be tuned alike; what none trains needs no training tasks."""

PART = 0.98
"""The least share of the others' training tasks, where whole batches do not make up all of them."""


def check_tunings(paper: Path, configs: Path, trials: Mapping[str, Record]) -> Iterator[Finding]:
    """Checks the small records of tuning.

    Args:
        paper: its `records/tuning/*/*.json` are read.
        configs: its `learner/best/*/*.yaml` have to hold the chosen values.
        trials: the records of trials that are at hand, by the name of the run.
    """
    tuned = (configs / "learner" / "best").glob("*/*.yaml")
    # the tables of another data set may have a folder of their own, without the tuning
    for best in sorted(tuned) if (paper / TUNING).is_dir() else ():
        what = f"{best.parent.name}/{best.stem}"
        if not (paper / TUNING / f"{what}.json").is_file():
            yield fails(CHOICES, what, f"no trials are known that learner/best/{what}.yaml is of")
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


def check_budgets(paper: Path, configs: Path) -> Iterator[Finding]:
    """Whether all learners of a kind of episode were tuned alike: on the same, with as much.

    Where a split's files lay, and which release of the sampler drew, may differ; so may training
    tasks by a part of a batch.

    Args:
        paper: its `records/tuning/*/*.json` are read.
        configs: its `learner/best/*/*.yaml` say which classes are trained.
    """
    for folder in sorted(path for path in (paper / TUNING).glob("*") if path.is_dir()):
        tunings = {
            file.stem: json.loads(file.read_text(encoding="utf-8"))
            for file in sorted(folder.glob("*.json"))
        }
        usual = _usual([small for small in tunings.values() if not _unsaid(small)])
        for name, small in tunings.items():
            what = f"{folder.name}/{name}"
            problems = list(_unequal(small, usual))
            best = configs / "learner" / "best" / f"{what}.yaml"
            if small.get("training_tasks") == 0 and _is_trained(best, configs / "learner"):
                problems.append("is trained, but has no budget of training tasks")
            yield from (fails(BUDGETS, what, problem) for problem in problems)
            if not problems:
                yield Finding(BUDGETS, what)


def _is_trained(best: Path, learners: Path) -> bool:
    """Whether a class is trained by gradients; what no configuration is known of is not asked."""
    target = _written(best, learners).get("_target_") if best.is_file() else None
    if target is None:
        return False
    module, _, kind = (
        str(target).replace("${backend.name}", "torch").replace(":", ".").rpartition(".")
    )
    return bool(getattr(importlib.import_module(module), kind).trained)


def _usual(tunings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What most tunings have of each thing that they are to share."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for small in tunings:
        for key, value in _shared_by(small).items():
            found[key][json.dumps(value, sort_keys=True)] += 1
    return {key: json.loads(counts.most_common(1)[0][0]) for key, counts in found.items()}


def _shared_by(small: Mapping[str, Any]) -> dict[str, Any]:
    """What a tuning has to share with others: no sampler where nothing is searched."""
    skipped = set() if small["training_tasks"] else {"training_tasks"}
    skipped |= set() if small["search"] else {"sampler", "sampler_seed"}
    shared = {key: small[key] for key in EQUAL if key not in skipped}
    shared["split"] = {key: value for key, value in small["split"].items() if key != "source"}
    if "sampler" in shared:
        shared["sampler"] = re.sub(r" of Optuna [^,]*", "", str(shared["sampler"]))
    return shared


def _unsaid(small: Mapping[str, Any]) -> list[str]:
    return [key for key in EQUAL if key not in small]


def _unequal(small: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterator[str]:
    """What a tuning does not say, or has otherwise than most."""
    if unsaid := _unsaid(small):
        yield f"does not say its {', '.join(unsaid)}; run experiments/tune.py again"
        return
    for key, value in _shared_by(small).items():
        in_batches = key == "training_tasks" and PART * usual[key] <= value <= usual[key]
        if value != usual[key] and not in_batches:
            yield f"has {_differing(value, usual[key], key)}"
    trials, allowed = small["trials"], small["trials_asked"]
    if len(trials) > allowed:
        yield f"has {len(trials)} trials, where {allowed} were allowed"
    if len(trials) < min(allowed, size_of(small["search"])):
        yield f"has {len(trials)} trials of {allowed}, though its search has more values"
    budget = small["training_tasks"]
    for number, one in enumerate(trials):
        used = one.get("training_tasks")
        if used is None and "run" in one:
            yield f"trial {number} does not say how many training tasks it drew"
        elif used is not None and used > budget:
            yield f"trial {number} drew {used:,} training tasks, where {budget:,} were allowed"


def _differing(found: Any, usual: Any, key: str, but: str = "where others have") -> str:
    """The entries that two values differ in."""
    if isinstance(found, dict) and isinstance(usual, dict):
        names = sorted(name for name in {*found, *usual} if found.get(name) != usual.get(name))
        told = (
            _differing(found.get(name), usual.get(name), f"{key}.{name}", but) for name in names
        )
        return "; ".join(told)
    return f"{key} {found}, {but} {usual}"


def check_values(configs: Path, records: Sequence[Record]) -> Iterator[Finding]:
    """Whether learners ran with values that tuning chose, or else with their defaults.

    Others are left open: an experiment may choose its own on validation, or vary them on purpose.

    Args:
        configs: its `learner/best/*/*.yaml` and `learner/*.yaml` are read.
        records: of any experiments; those that choose values are passed over.
    """
    learners = configs / "learner"
    given: dict[str, dict[tuple[Path, ...], list[Record]]] = {}
    nameless: dict[str, None] = {}
    for record in records:
        if record.config.experiment.endswith(CHOOSING):
            continue
        if not (files := _files_of(record, learners)):
            nameless[f"{record.config.experiment}, {record.learner}"] = None
        else:
            of_experiment = given.setdefault(record.config.experiment, {})
            of_experiment.setdefault(files, []).append(record)
    for what in nameless:
        unknown = "no configuration has this name: nothing says where its values come from"
        yield undecided(VALUES, what, unknown)
    for experiment, by_learner in given.items():
        found = {files: _compared(own, files, learners) for files, own in by_learner.items()}
        # what was tuned is not to stand beside what could have been, but was not
        tuned = any(len(files) > 1 and place == 0 for files, (place, _) in found.items())
        for files, (place, problem) in found.items():
            what = f"{experiment}, {files[0].relative_to(configs).with_suffix('').as_posix()}"
            if problem is None and tuned and place > 0:
                problem = "ran with its defaults, where others have values that were tuned"
            yield Finding(VALUES, what) if problem is None else undecided(VALUES, what, problem)


def _compared(
    records: Sequence[Record], files: Sequence[Path], learners: Path
) -> tuple[int, str | None]:
    """Which of some configurations all runs of a learner have the values of, or what differs."""
    first: list[str] = []
    for place, file in enumerate(files):
        values = _written(file, learners)
        differing = sorted({one for record in records for one in _differences(record, values)})
        if not differing:
            return place, None
        first = first or differing
    return 0, f"ran with {'; '.join(first)}"


def _files_of(record: Record, learners: Path) -> tuple[Path, ...]:
    """Where the values of a run may come from, those that were tuned first."""
    config = record.config
    name = record.learner.removesuffix(f"_{config.backend.name}")
    kinds: list[str] = ["item" if config.episode.task == "item" else config.episode.feedback]
    if config.protocol is not None:
        kinds.insert(0, config.protocol.name)
    tuned = (learners / "best" / kind / f"{name}.yaml" for kind in kinds)
    files = [next((file for file in tuned if file.is_file()), None), learners / f"{name}.yaml"]
    return tuple(file for file in files if file is not None and file.is_file())


def _differences(record: Record, values: Mapping[str, Any]) -> list[str]:
    """The class and the arguments that a run had others of."""
    config = record.config
    used = {"_target_": config.learner.target.replace(":", "."), **config.learner.arguments}
    found = []
    for name, value in values.items():
        wanted = value
        if name == "_target_":
            wanted = str(value).replace("${backend.name}", config.backend.name).replace(":", ".")
        elif "${" in str(value):
            continue
        if _plain(used.get(name)) != _plain(wanted):
            found.append(f"{name}={used.get(name)}, not {wanted}")
    return found


def _written(file: Path, learners: Path) -> dict[str, Any]:
    """The class and the arguments that a configuration gives, with those that it builds on."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    for one in content.pop("defaults", []):
        group, name = next(iter(one.items())) if isinstance(one, dict) else ("", str(one))
        group, _, _ = group.removeprefix("optional ").partition("@_here_")
        name, here, _ = name.partition("@_here_")
        base = learners / group / f"{name.removeprefix('/learner/')}.yaml"
        if (here or group) and base.is_file():
            values |= _written(base, learners)
    no_values = ("name", "search", "tuned")
    own = {name: value for name, value in content.items() if name not in no_values}
    return values | own


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


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
        for what, told, found in _told_and_found(small, one, record):
            if told != found:
                yield f"trial {number} has {_differing(told, found, what, 'but its record says')}"
    if small["search"]:
        yield from _chosen_values(small, best)


def _told_and_found(
    small: Mapping[str, Any], trial: Mapping[str, Any], record: Record
) -> Iterator[tuple[str, Any, Any]]:
    """What a small record says of a trial, and what the record of its run does, where both do."""
    config = json.loads(json.dumps(record.config.to_dict()))
    found = {key: config[key] for key in ("split", "episode", "protocol", "seed")}
    found["data_checksum"] = record.data_checksum
    for key, value in found.items():
        if key in small:
            yield key, small[key], value
    if "training_tasks" in trial:
        yield "training_tasks", trial["training_tasks"], drawn_tasks(record)
    arguments = config["learner"]
    for name, value in trial["values"].items():
        yield f"value {name}", value, arguments.get(name)


def _chosen_values(small: dict[str, Any], best: Path) -> Iterator[str]:
    if not best.is_file():
        yield f"there is no {'/'.join(best.parts[-4:])} with the chosen values"
        return
    file = "/".join(best.parts[-4:])
    written = yaml.safe_load(best.read_text(encoding="utf-8"))
    values = small["defaults"] | small["trials"][small["chosen"]]["values"]
    edited = [name for name, value in values.items() if written.get(name) != value]
    for name in edited:
        yield f"{file} has {name}={written.get(name)}, the chosen trial {values[name]}"
    if edited:
        return
    # what the notes of tables say of it
    own = {name: value for name, value in written.items() if name not in ("defaults", "tuned")}
    told = {"data": small["data"], "kind": best.parent.name, "values": own}
    if written.get("tuned") != told:
        yield f"{file} says of itself tuned={written.get('tuned')}, not {told}"
