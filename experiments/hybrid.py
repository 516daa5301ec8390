"""The hybrid learner: what each part adds, on blocks of pseudo-cold years, and then the test.

    python experiments/hybrid.py data.folder=FOLDER split.source=FOLDER/melu
    python experiments/hybrid.py 'plan.stages=[blocks]' data.folder=… split.source=…
    python experiments/hybrid.py 'plan.stages=[test]' plan.test.setting=as_it_is data.folder=… …

The plan is `configs/experiment/hybrid.yaml`. First each setting of the learner, and the baselines,
are measured on every block of years; the setting whose nDCG@10 is best on average over blocks and
regimes is chosen; only that meets the test, beside the other learners, which fit without the blocks
held out. Where `plan.test.setting` names one that was chosen before, the blocks may be left out.
What is finished is skipped, so that an interrupted call goes on.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape

from metarec.errors import ConfigError, RunError, did_you_mean
from metarec.report.hybrid import BLOCKS, build_report, means_of
from metarec.runs import Record, RunConfig
from metarec.runs.command_line import checked_plan, choice_of, overrides_of, run_script
from metarec.runs.parallel import run_all
from metarec.runs.prepare import prepare
from metarec.runs.store import check_one_version

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
STAGES = ("blocks", "test")

console = Console(soft_wrap=True, highlight=False)


class Plan:
    """The configurations of all runs.

    Args:
        overrides: of the call, which every run gets.

    Raises:
        ConfigError: if the experiment has no such plan, or a stage is unknown.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        self.overrides = overrides
        values = checked_plan(
            composed, [*overrides, "learner=random"], ["settings"],
            "has no settings of the hybrid learner; choose experiment=hybrid",
        )  # fmt: skip
        self.settings: dict[str, Any] = values["plan"]
        self.results, self.progress = values["results"], values["progress"]
        self.episode: str = values["episode"]["feedback"]
        self.chosen: dict[str, list[str]] = {}
        for stage in self.settings["stages"]:
            if stage not in STAGES:
                raise ConfigError(f"plan.stages: {stage!r} is unknown{did_you_mean(stage, STAGES)}")
        setting, known = self.settings["test"]["setting"], self._names()
        if setting is not None and setting not in known:
            raise ConfigError(
                f"plan.test.setting: {setting!r} is unknown{did_you_mean(setting, known)}"
            )
        if setting is None and "blocks" not in self.settings["stages"]:
            raise ConfigError(
                f"plan.stages={self.settings['stages']} chooses no setting: add blocks, or name in "
                "plan.test.setting the one that blocks chose before (paper/tables/hybrid_blocks.md)"
            )

    def grids(self) -> dict[tuple[str, ...], list[RunConfig]]:
        """By the overrides of a baseline's values: it on each block of years, on validation."""
        found = {}
        for name, grid in self.settings["blocks"]["grids"].items():
            for values in itertools.product(*grid.values()):
                pairs = zip(grid, values, strict=True)
                given = [f"++learner.{key}={'null' if v is None else v}" for key, v in pairs]
                own = [self._run(f"learner={name}", *given, *split) for split in self._splits()]
                found[name, *given] = [
                    replace(one, experiment=f"{one.experiment}_grids") for one in own
                ]
        return found

    def blocks(self) -> list[RunConfig]:
        """Each setting and each baseline on each block of years, on validation."""
        found = []
        for split in self._splits():
            for name in self.settings["blocks"]["baselines"]:
                found.append(self._run(*self._tuned(name), *split))
            found += [self._hybrid(name, f"hybrid_{name}", *split) for name in self._names()]
        return [replace(one, experiment=f"{one.experiment}{BLOCKS}") for one in found]

    def _splits(self) -> list[tuple[str, ...]]:
        """The overrides of each block of years."""
        own = self.settings["blocks"]
        return [
            (
                f"++split.validation_years=[{years[0]},{years[1]}]",
                f"++split.validation_users={own['users']}",
                "++evaluation.parts=[validation]",
                f"++seed={own['seed']}",
            )
            for years in own["years"]
        ]

    def tests(self, setting: str) -> list[RunConfig]:
        """All learners on test, the hybrid one in a setting."""
        own = self.settings["test"]
        part = "++evaluation.parts=[test]"
        found = [self._hybrid(setting, "hybrid", part)]
        found += [self._run(*self._tuned(name), part) for name in own["learners"]]
        return [replace(one, seed=seed) for one in found for seed in own["seeds"]]

    def minutes(self, stage: str, runs: int) -> float:
        """How long a stage takes if nothing is finished."""
        own = self.settings["blocks" if stage == "grids" else stage]
        seconds = own["grid_seconds"] if stage == "grids" else own["seconds"]
        return float(runs * seconds / self.settings["workers"] / 60)

    def _names(self) -> list[str]:
        return list(self.settings["settings"])

    def _hybrid(self, setting: str, name: str, *overrides: str) -> RunConfig:
        values = self.settings["settings"][setting]
        arguments = [f"++learner.{key}={value}" for key, value in values.items()]
        return self._run("learner=hybrid", f"++learner.name={name}", *arguments, *overrides)

    def _tuned(self, name: str) -> list[str]:
        """The values that blocks chose, or else those that were tuned."""
        if name in self.chosen:
            return [f"learner={name}", *self.chosen[name]]
        return [choice_of(name, self.episode, CONFIGS)]

    def _run(self, *overrides: str) -> RunConfig:
        values = composed(*self.overrides, *overrides)
        for key in ("results", "progress", "plan"):
            values.pop(key)
        return RunConfig.from_dict(values)


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of a call, as plain values."""
    values: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return dict(values)


def main(arguments: list[str]) -> int:
    begin = time.perf_counter()
    overrides = overrides_of(arguments, CONFIGS, "hybrid")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        plan = Plan(overrides)
        stages, setting = plan.settings["stages"], plan.settings["test"]["setting"]
        # what all runs share is made once, and kept on disk for the workers
        prepare(plan.blocks()[0], needs_features=True, progress=plan.progress)
        plan.chosen = best_values(plan)
        blocks = plan.blocks()
        records = finished(blocks, plan, "blocks") if "blocks" in stages else []
        setting = setting or best_setting(records)
        if "test" in stages:
            records += finished(plan.tests(setting), plan, "test")
    build_report(records, Path(plan.settings["paper"]), console)
    console.print(f"{(time.perf_counter() - begin) / 60:.1f} minutes")
    return 0


def best_values(plan: Plan) -> dict[str, list[str]]:
    """The values of each baseline that are best on average over blocks, as overrides."""
    grids = plan.grids()
    records = finished([one for own in grids.values() for one in own], plan, "grids")
    check_one_version(records, "grids")
    scores: dict[str, dict[tuple[str, ...], float]] = {}
    of_each = iter(records)
    for (name, *given), configs in grids.items():
        own = [record.selection for record in itertools.islice(of_each, len(configs))]
        measured = [value for value in own if value is not None]
        if not measured:
            raise RunError(
                f"{name}: no block of years has a task with something relevant to rank, so that "
                "none of its values is best; widen plan.blocks.years or raise plan.blocks.users"
            )
        scores.setdefault(name, {})[tuple(given)] = statistics.fmean(measured)
    chosen = {}
    for name, means in scores.items():
        best = max(means, key=lambda given: means[given])
        chosen[name] = list(best)
        values = ", ".join(one.removeprefix("++learner.") for one in best)
        console.print(f"  validation nDCG@10 {means[best]:.4f} {name}: {escape(values)}")
    return chosen


def best_setting(records: Sequence[Record]) -> str:
    """The setting that is best on average over blocks and regimes."""
    check_one_version(records, "blocks")
    means = {name: mean for name, mean in means_of(records).items() if name.startswith("hybrid_")}
    for name, mean in sorted(means.items(), key=lambda entry: -entry[1]):
        console.print(f"  validation nDCG@10 {mean:.4f} {escape(name)}")
    best = max(means, key=lambda name: means[name])
    console.print(f"{escape(best)} is chosen")
    return best.removeprefix("hybrid_")


def finished(configs: Sequence[RunConfig], plan: Plan, stage: str) -> list[Record]:
    """Runs all of a stage.

    Raises:
        RunError: if one fails, when the others are done.
    """
    minutes = plan.minutes(stage, len(configs))
    console.print(f"{stage}: {len(configs)} runs, some {minutes:.0f} min if none is finished")
    ran = run_all(
        configs, plan.results, plan.settings["workers"], console,
        lambda config: config.learner.name, stage, progress=plan.progress,
    )  # fmt: skip
    return ran.all("runs")


if __name__ == "__main__":
    run_script(main, HydraException)
