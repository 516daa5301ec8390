"""All runs of the paper, then its tables and figures: what `make paper` and `paper-full` run.

    python experiments/paper.py
    python experiments/paper.py experiment=paper_full
    python experiments/paper.py experiment=main_ml_1m data.folder=FOLDER
    python experiments/paper.py plan.seeds=[0] 'plan.learners=[popularity,ease]' results=/tmp/r \
      plan.paper=/tmp/p plan.configs=null

The plan is `configs/experiment/paper.yaml`, or `paper_full.yaml`, or that of the main table of one
data set, `main_ml_latest_small.yaml`, `main_ml_1m.yaml` or `main_online_retail.yaml`; overrides go
to it and to every run. What is finished is skipped, so that an interrupted call goes on; seed by
seed, so that the first is soon complete.
"""

from __future__ import annotations

import importlib.util
import time
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
from metarec.report import build_report, update_headers
from metarec.runs import Record, RunConfig, environment
from metarec.runs.command_line import checked_plan, choice_of, overrides_of, run_script
from metarec.runs.learners import build_learner, build_retriever, serves
from metarec.runs.parallel import run_many
from metarec.runs.prepare import prepare

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

console = Console(soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class Planned:
    """A run of the plan, its group, and what it needs that is not installed."""

    group: str
    config: RunConfig
    lacks: str | None = None

    @property
    def name(self) -> str:
        """What the bar and the log say."""
        return f"{self.group}: {self.config.learner.name}, seed {self.config.seed}"


def main(arguments: list[str]) -> int:
    begin = time.perf_counter()
    overrides = overrides_of(arguments, CONFIGS, "paper")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = checked_plan(
            composed, overrides, ["tables"],
            "has no plan; choose paper or paper_full, or that of one data set: "
            "main_ml_latest_small, main_ml_1m or main_online_retail",
        )  # fmt: skip
        planned = list(plan(settings["plan"], overrides))
    encode(planned)
    console.print(expected(len(planned), settings["plan"]))
    records, failed, failures = run_all(planned, settings["results"], settings["plan"])
    minutes = (time.perf_counter() - begin) / 60
    console.print(f"{len(records)} runs finished, {len(failures)} failed, {minutes:.1f} minutes")
    stale = sum(record.code != environment.code_hash() for record in records)
    if stale:
        console.print(
            f"{stale} of them were finished by another version of the code and not run again; "
            "`make clean-results` makes room for running all anew"
        )
    if records:
        paper, configs = Path(settings["plan"]["paper"]), settings["plan"]["configs"]
        build_report([*records, *failed], paper, console, tables=settings["plan"]["tables"])
        if configs is not None:
            update_headers(Path(configs), paper)
    for name, error in failures:
        console.print(f"[red]failed[/red] {escape(name)}: {escape(error)}")
    return 1 if failures or not records else 0


def encode(planned: list[Planned]) -> None:
    """Encodes the texts once, with all cores and a bar, before the runs share them."""
    needing = [one.config for one in planned if needs_features(one.config)]
    if needing:
        try:
            prepare(needing[0], needs_features=True, progress=True)
        except MetarecError as error:
            # each run that needs the texts will say so in its record; the others go on
            console.print(f"[red]texts not encoded[/red]: {escape(str(error))}")


def needs_features(config: RunConfig) -> bool:
    try:
        retriever = build_retriever(config)
        drawing = retriever is not None and retriever.needs_features
        return drawing or build_learner(config).needs_features
    except MetarecError:
        raise
    except Exception:
        # its run will say so in its record; the others go on
        return False


def composed(*overrides: str) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return dict(values)


def plan(settings: dict[str, Any], overrides: list[str]) -> Iterator[Planned]:
    """The runs of all groups, seed by seed; what two groups name is run once."""
    by_seed: dict[int, list[Planned]] = {}
    named = set()
    for name, group in settings["groups"].items():
        if group is None:
            continue
        known = ("episode", "learners", "seeds", "needs", "backend")
        for key in group:
            if key not in known:
                raise ConfigError(
                    f"unknown key 'plan.groups.{name}.{key}'{did_you_mean(key, known)}"
                )
        needs = group.get("needs")
        learners = group.get("learners") or settings["learners"]
        twin = []
        if backend := group.get("backend"):
            # a name of its own: it stands beside its twin in the tables
            twin = [f"backend={backend}", "learner.name={}_" + backend]
        lacks = needs if needs and importlib.util.find_spec(needs) is None else None
        for learner in learners:
            episode = group["episode"]
            values = composed(
                choice_of(learner, episode, CONFIGS),
                f"episode={episode}",
                *(override.format(learner) for override in twin),
                *overrides,
            )
            for key in ("results", "progress", "plan"):
                values.pop(key)
            config = RunConfig.from_dict(values)
            if not serves(config):
                continue
            for seed in group.get("seeds") or settings["seeds"]:
                one = Planned(name, replace(config, seed=seed), lacks)
                if one.config.hash("", "") not in named:
                    named.add(one.config.hash("", ""))
                    by_seed.setdefault(seed, []).append(one)
    for seed in sorted(by_seed):
        yield from by_seed[seed]


def expected(runs: int, settings: dict[str, Any]) -> str:
    """What is ahead, in the words of the log."""
    minutes = runs * settings["seconds"] / settings["workers"] / 60
    return (
        f"{runs} runs, {settings['workers']} at a time: some {minutes:.0f} min if none is finished"
    )


def run_all(
    planned: list[Planned], results: str, settings: dict[str, Any]
) -> tuple[list[Record], list[Record], list[tuple[str, str]]]:
    """Runs all with a bar; a failure is kept and the others run.

    Returns:
        The finished records, those of failures, and name and error of each failure that counts.
    """
    records: dict[int, Record] = {}
    failed: list[Record] = []
    failures: list[tuple[str, str]] = []
    begin = time.perf_counter()
    workers, share = settings["workers"], settings["share"]
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
    )
    with bar:
        task = bar.add_task("runs", total=len(planned), left="")
        outcomes = run_many([one.config for one in planned], results, workers, share)
        for done, outcome in enumerate(outcomes, start=1):
            name = planned[outcome.number].name
            if outcome.failure is not None:
                failed.append(outcome.failure)
            if outcome.record is not None:
                records[outcome.number] = outcome.record
            elif lacks := planned[outcome.number].lacks:
                # its row in the tables says so, by the record of the failure
                console.print(f"left out: {escape(name)}, for want of {lacks} (make {lacks})")
            else:
                failures.append((name, outcome.error or ""))
                if outcome.trace:
                    console.print(escape(outcome.trace))
                console.print(f"[red]failed[/red] {escape(name)}: {escape(outcome.error or '')}")
            left = remaining(time.perf_counter() - begin, done, len(planned))
            if not console.is_terminal:
                # a log has no bar: a line each, with the time that is left
                console.print(f"{done}/{len(planned)} {name}: {outcome.seconds:.0f} s{left}")
            bar.update(task, description=name, advance=1, left=left)
        bar.update(task, description="runs", left="")
    return [records[number] for number in sorted(records)], failed, failures


def remaining(seconds: float, done: int, total: int) -> str:
    """What is left if the other runs take as long as these did."""
    left = seconds / done * (total - done)
    return f", some {left / 60:.0f} min left" if left >= 60 else f", some {left:.0f} s left"


if __name__ == "__main__":
    run_script(main, HydraException)
