"""Sweeps: over K, how much is cold, by seed against by time, and text against collaborative.

    python experiments/sweeps.py
    python experiments/sweeps.py data=ml-1m data.folder=… 'plan.sweeps=[shots,cold_share]' \
      results=results/ml-1m plan.paper=paper/ml-1m
    python experiments/sweeps.py plan.seeds=[0] 'plan.shares=[0.1,0.4]' results=/tmp/r \
      plan.paper=/tmp/p

The plan is `configs/experiment/sweeps.yaml`; overrides go to it and to every run, but a sweep sets
what it is about. What is finished is skipped, so that an interrupted call goes on; seed by seed, so
that the first is soon complete.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape

from metarec.errors import ConfigError, MetarecError, did_you_mean
from metarec.report.sweeps import build_report
from metarec.runs import RunConfig, SplitConfig
from metarec.runs.command_line import checked_plan, choice_of, overrides_of, run_script
from metarec.runs.learners import build_learner, serves
from metarec.runs.parallel import run_all
from metarec.runs.prepare import prepare
from metarec.runs.share import covers

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SWEEPS = ("shots", "cold_share", "time", "signal")
WITHOUT_CURVE = "++evaluation.k_curve=[]"

console = Console(soft_wrap=True, highlight=False)


class Plan:
    """The configurations of all runs.

    Args:
        overrides: of the call, which every run gets.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        self.overrides = overrides
        values = checked_plan(
            composed, [*overrides, "learner=random"], ["sweeps"],
            "has no plan of sweeps; choose experiment=sweeps",
        )  # fmt: skip
        self.settings: dict[str, Any] = values["plan"]
        self.results, self.progress = values["results"], values["progress"]
        task, feedback = values["episode"]["task"], values["episode"]["feedback"]
        self.tuned_for = "item" if task == "item" else feedback
        for name in self.settings["sweeps"]:
            if name not in SWEEPS:
                raise ConfigError(f"plan.sweeps: no sweep {name!r}{did_you_mean(name, SWEEPS)}")

    def runs(self) -> list[RunConfig]:
        """The runs of all sweeps, seed by seed; what another run measures too is left to that."""
        found: list[RunConfig] = []
        for config in (config for name in self.settings["sweeps"] for config in self._of(name)):
            if not any(covers(other, config) for other in found):
                found = [other for other in found if not covers(config, other)]
                found.append(config)
        return [replace(one, seed=seed) for seed in self.settings["seeds"] for one in found]

    def _of(self, sweep: str) -> Iterator[RunConfig]:
        learners = self.settings["signal" if sweep == "signal" else "learners"]
        for point in self._points(sweep):
            for name in learners:
                choice = choice_of(name, self.tuned_for, CONFIGS)
                values = composed(*self.overrides, choice, *point)
                for key in ("results", "progress", "plan"):
                    values.pop(key)
                config = RunConfig.from_dict(values)
                if serves(config):
                    yield config

    def _points(self, sweep: str) -> list[list[str]]:
        """The settings that a sweep compares, each as overrides."""
        if sweep == "cold_share":
            return [self._by_seed(share) for share in self.settings["shares"]]
        if sweep == "time":
            by_time = ["++split.method=time", WITHOUT_CURVE]
            return [self._by_seed(self.settings["by_seed"]), by_time]
        return [[]] if sweep == "shots" else [[WITHOUT_CURVE]]

    def _by_seed(self, share: float) -> list[str]:
        validation = self.settings["validation"]
        if not 0 < share < 1 - validation:
            raise ConfigError(
                f"plan.shares and plan.by_seed: {share:g} is to be above 0 and leave something "
                f"warm beside the {validation:g} that are validation-cold"
            )
        fractions = f"[{1 - validation - share:g},{validation:g},{share:g}]"
        return [
            "++split.method=seed",
            f"++split.users={fractions}",
            f"++split.items={fractions}",
            WITHOUT_CURVE,
        ]


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of a call, as plain values."""
    values: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return dict(values)


def main(arguments: list[str]) -> int:
    begin = time.perf_counter()
    overrides = overrides_of(arguments, CONFIGS, "sweeps")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        plan = Plan(overrides)
        runs = possible(plan.runs())
    encode(runs)
    workers = plan.settings["workers"]
    minutes = len(runs) * plan.settings["seconds"] / workers / 60
    console.print(
        f"{len(runs)} runs, {workers} at a time: some {minutes:.0f} min if none is finished"
    )
    ran = run_all(
        runs, plan.results, workers, console, name_of,
        share=plan.settings["share"], progress=plan.progress,
    )  # fmt: skip
    if ran.records:
        build_report([*ran.records, *ran.failed], Path(plan.settings["paper"]), console)
    done, minutes = len(ran.records), (time.perf_counter() - begin) / 60
    console.print(f"{done} runs finished, {len(ran.failures)} failed, {minutes:.1f} minutes")
    for failure in ran.failures:
        console.print(f"[red]failed[/red] {escape(failure)}")
    return 1 if ran.failures or not done else 0


def possible(runs: Sequence[RunConfig]) -> list[RunConfig]:
    """The runs without those by time, where the data have no times; says so."""
    by_time = [config for config in runs if config.split.method == "time"]
    if by_time:
        materials = prepare(replace(by_time[0], split=SplitConfig()), needs_features=False)
        if materials.dataset.times is None:
            console.print(f"left out: {len(by_time)} runs by time, since the data have no times")
            return [config for config in runs if config.split.method != "time"]
    return list(runs)


def encode(runs: Sequence[RunConfig]) -> None:
    """Encodes the texts once, with all cores and a bar, before the runs share them."""
    needing = [config for config in runs if build_learner(config).needs_features]
    if needing:
        try:
            prepare(needing[0], needs_features=True, progress=True)
        except MetarecError as error:
            # each run that needs the texts will say so in its record; the others go on
            console.print(f"[red]texts not encoded[/red]: {escape(str(error))}")


def name_of(config: RunConfig) -> str:
    """What a run that failed is called."""
    split = "by time" if config.split.method == "time" else f"users {config.split.users}"
    return f"{config.learner.name}, {split}, seed {config.seed}"


if __name__ == "__main__":
    run_script(main, HydraException)
