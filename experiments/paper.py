"""All runs of the paper, then its tables and figures: what `make paper` runs.

    python experiments/paper.py
    python experiments/paper.py plan.seeds=[0] 'plan.learners=[popularity,ease]' results=…

The plan is `configs/experiment/paper.yaml`; overrides go to it and to every run. What is finished
is skipped, so that an interrupted call goes on; seed by seed, so that the first is soon complete.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from metarec.errors import ConfigError, MetarecError, did_you_mean
from metarec.report import build_report
from metarec.runs import Record, RunConfig, run
from metarec.runs.learners import parameters, serves
from metarec.runs.overrides import lenient

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

console = Console(soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class Planned:
    """A run of the plan, and its group."""

    group: str
    config: RunConfig


def main(arguments: list[str]) -> int:
    begin = time.perf_counter()
    groups = [folder.name for folder in CONFIGS.iterdir() if folder.is_dir()]
    overrides = lenient(arguments, groups)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = composed("experiment=paper", *overrides)
        planned = list(plan(settings["plan"], overrides))
    records, failures = run_all(planned, settings["results"])
    minutes = (time.perf_counter() - begin) / 60
    console.print(f"{len(records)} runs finished, {len(failures)} failed, {minutes:.1f} minutes")
    if records:
        build_report(records, Path(settings["plan"]["paper"]), console)
    for name, error in failures:
        console.print(f"[red]failed[/red] {escape(name)}: {escape(error)}")
    return 1 if failures or not records else 0


def composed(*overrides: str) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return dict(values)


def plan(settings: dict[str, Any], overrides: list[str]) -> Iterator[Planned]:
    """The runs of all groups, seed by seed."""
    by_seed: dict[int, list[Planned]] = {}
    for name, group in settings["groups"].items():
        known = ("overrides", "arguments", "learners", "seeds", "needs")
        for key in group:
            if key not in known:
                raise ConfigError(
                    f"unknown key 'plan.groups.{name}.{key}'{did_you_mean(key, known)}"
                )
        needs = group.get("needs")
        learners = group.get("learners") or settings["learners"]
        if needs and importlib.util.find_spec(needs) is None:
            console.print(
                f"left out: {', '.join(learners)}, since {needs} is not installed (make {needs})"
            )
            continue
        for learner in learners:
            tuned = (CONFIGS / "learner" / "best" / f"{learner}.yaml").exists()
            values = composed(
                "experiment=paper",
                f"learner={'best/' if tuned else ''}{learner}",
                *group.get("overrides", []),
                *overrides,
            )
            for key in ("results", "progress", "plan"):
                values.pop(key)
            config = with_arguments(RunConfig.from_dict(values), group.get("arguments") or {})
            if not serves(config):
                continue
            for seed in group.get("seeds") or settings["seeds"]:
                by_seed.setdefault(seed, []).append(Planned(name, replace(config, seed=seed)))
    for seed in sorted(by_seed):
        yield from by_seed[seed]


def with_arguments(config: RunConfig, arguments: dict[str, Any]) -> RunConfig:
    """The arguments of a group, as far as the learner takes them."""
    taken = parameters(config)
    chosen = {key: value for key, value in arguments.items() if key in taken}
    learner = replace(config.learner, arguments={**config.learner.arguments, **chosen})
    return replace(config, learner=learner)


def run_all(planned: list[Planned], results: str) -> tuple[list[Record], list[tuple[str, str]]]:
    """Runs one after another with a bar; a failure is kept and the next one runs."""
    records: list[Record] = []
    failures: list[tuple[str, str]] = []
    seconds: dict[tuple[str, str], float] = {}
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
    )
    with bar:
        task = bar.add_task("", total=len(planned), left="")
        for number, one in enumerate(planned):
            name = f"{one.group}: {one.config.learner.name}, seed {one.config.seed}"
            left = remaining(planned[number:], seconds)
            bar.update(task, description=name, left=left)
            begin = time.perf_counter()
            try:
                records.append(run(one.config, results))
            except Exception as error:
                failures.append((name, f"{type(error).__name__}: {error}"))
                if not isinstance(error, MetarecError):
                    console.print(escape(traceback.format_exc()))
                console.print(f"[red]failed[/red] {escape(name)}: {escape(str(error))}")
            took = time.perf_counter() - begin
            seconds[one.group, one.config.learner.name] = took
            if not console.is_terminal:
                # a log has no bar: a line each, with the time that is left
                console.print(f"{number + 1}/{len(planned)} {name}: {took:.0f} s{left}")
            bar.advance(task)
        bar.update(task, description="runs", left="")
    return records, failures


def remaining(left: list[Planned], seconds: dict[tuple[str, str], float]) -> str:
    """What is left by the time that the same learners took with an earlier seed."""
    if not seconds:
        return ""
    mean = sum(seconds.values()) / len(seconds)
    total = sum(seconds.get((one.group, one.config.learner.name), mean) for one in left)
    return f", some {total / 60:.0f} min left" if total >= 60 else f", some {total:.0f} s left"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (MetarecError, HydraException) as problem:
        sys.exit(f"error: {problem}")
