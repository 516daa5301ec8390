"""Published protocols: all runs, then published, reproduced and our figures side by side.

    python experiments/protocols.py plan.files.ml_100k=… plan.files.recbole_metarec=… \
        plan.files.ml_1m=… plan.files.melu=…
    python experiments/protocols.py 'plan.protocols=[recbole_metarec]' plan.files.ml_100k=… …

The plan is `configs/experiment/protocols.yaml`; overrides go to it and to every run, such as
`evaluation.parts=[validation]`, after which there is no table, but what validation says of each
learner. What is finished is skipped, so that an interrupted call goes on; split by split, or seed
by seed, so that the first is soon complete.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape

from metarec.errors import ConfigError, did_you_mean
from metarec.report.protocols import build_report
from metarec.runs import Record, RunConfig
from metarec.runs.command_line import (
    checked_plan,
    choice_of,
    groups_in,
    lenient,
    overrides_of,
    run_script,
)
from metarec.runs.learners import build_learner, serves
from metarec.runs.parallel import run_all
from metarec.runs.prepare import prepare

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_KEYS = (
    *("protocol", "data", "folder", "options", "source", "set"),
    *("learners", "seeds", "splits", "seconds", "by_name"),
)

console = Console(soft_wrap=True, highlight=False)


class Plan:
    """The configurations of all runs.

    Args:
        overrides: of the call, which every run gets.

    Raises:
        ConfigError: for an unknown key or protocol, or if a file that a stage needs is not given.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        self.overrides = overrides
        values = checked_plan(
            composed, ["learner=random", *overrides], ["protocols", "files", "stages"],
            "has no plan of protocols; choose experiment=protocols",
        )  # fmt: skip
        self.settings: dict[str, Any] = values["plan"]
        self.results, self.progress = values["results"], values["progress"]
        chosen = [one.removeprefix("data=") for one in overrides if one.startswith("data=")]
        self.own_data = chosen[-1] if chosen else None
        self.stages = self._chosen()

    def runs(self) -> dict[str, list[RunConfig]]:
        """The runs of each stage, split by split or seed by seed."""
        return {name: list(self._runs(stage)) for name, stage in self.stages.items()}

    def minutes(self, runs: Mapping[str, Sequence[RunConfig]]) -> float:
        """How long all will take if none is finished."""
        seconds = sum(len(own) * self.stages[name]["seconds"] for name, own in runs.items())
        return seconds / self.settings["workers"] / 60

    def _runs(self, stage: Mapping[str, Any]) -> Iterator[RunConfig]:
        learners = stage.get("learners") or self.settings["learners"]
        configs = [self._run(stage, learner) for learner in learners]
        configs = [config for config in configs if serves(config)]
        if "splits" in stage:
            for seed in range(stage["splits"]):
                for config in configs:
                    yield replace(config, seed=seed, split=replace(config.split, seed=seed))
        else:
            for seed in stage["seeds"]:
                for config in configs:
                    yield replace(config, seed=seed)

    def _run(self, stage: Mapping[str, Any], learner: str) -> RunConfig:
        files = self.settings["files"]
        given = [
            choice_of(learner, [stage["protocol"], "rating"], CONFIGS),
            f"protocol={stage['protocol']}",
        ]
        if self.own_data is None:
            given += [f"data={stage['data']}", f"data.folder='{files[stage['folder']]}'"]
        if self.own_data in (None, stage["data"]):
            options = stage.get("options", {})
            given += [f"data.options.{key}={value}" for key, value in options.items()]
        if "source" in stage:
            given.append(f"split.source='{files[stage['source']]}'")
        # the protocol first, so that the stage and the call may change what it says
        given = lenient([*given, *stage.get("set", [])], groups_in(CONFIGS))
        values = composed(*given, *self.overrides)
        for key in ("results", "progress", "plan"):
            values.pop(key)
        return RunConfig.from_dict(values)

    def _chosen(self) -> dict[str, Any]:
        stages, wanted = self.settings["stages"], self.settings["protocols"]
        known = {stage["protocol"] for stage in stages.values()} | stages.keys()
        for protocol in wanted:
            if protocol not in known:
                raise ConfigError(
                    f"plan.protocols: no stage of {protocol!r}{did_you_mean(protocol, known)}"
                )
        chosen = {
            name: stage
            for name, stage in stages.items()
            if name in wanted or (stage["protocol"] in wanted and not stage.get("by_name"))
        }
        for name, stage in chosen.items():
            for key in stage:
                if key not in _KEYS:
                    raise ConfigError(
                        f"unknown key 'plan.stages.{name}.{key}'{did_you_mean(key, _KEYS)}"
                    )
        self._check_files(chosen)
        return chosen

    def _check_files(self, stages: Mapping[str, Any]) -> None:
        """Raises ConfigError, naming all that is missing, before anything runs."""
        keys = ("source",) if self.own_data is not None else ("folder", "source")
        needed = {
            stage[key]: name for name, stage in stages.items() for key in keys if key in stage
        }
        files = self.settings["files"]
        missing = [
            f"plan.files.{file}={'…' if files.get(file) is None else files[file]} ({stage})"
            for file, stage in needed.items()
            if files.get(file) is None or not Path(files[file]).exists()
        ]
        if missing:
            raise ConfigError(
                f"not there: {', '.join(missing)}. Give each its folder or file, as "
                "configs/experiment/protocols.yaml says, or leave the protocol out, as in "
                "'plan.protocols=[recbole_metarec]'"
            )


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of a call, as plain values."""
    values: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return dict(values)


def main(arguments: list[str]) -> int:
    begin = time.perf_counter()
    overrides = overrides_of(arguments, CONFIGS, "protocols")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        plan = Plan(overrides)
        runs = {name: in_some_order(name, own) for name, own in plan.runs().items()}
    count = sum(map(len, runs.values()))
    console.print(
        f"{count} runs, {plan.settings['workers']} at a time: some {plan.minutes(runs):.0f} min "
        "if none is finished"
    )
    encode(runs.values(), plan.progress)
    ran = run_all(
        [one for own in runs.values() for one in own], plan.results, plan.settings["workers"],
        console, name_of, progress=plan.progress,
    )  # fmt: skip
    done, minutes = len(ran.records), (time.perf_counter() - begin) / 60
    console.print(f"{done} runs finished, {len(ran.failures)} failed, {minutes:.1f} minutes")
    tested = [one for one in ran.records if "test" in one.config.evaluation.parts]
    if tested:
        build_report([*tested, *ran.failed], Path(plan.settings["paper"]), console)
    else:
        validated(ran.records)
    for failure in ran.failures:
        console.print(f"[red]failed[/red] {escape(failure)}")
    return 1 if ran.failures or not done else 0


def in_some_order(stage: str, runs: Sequence[RunConfig]) -> list[RunConfig]:
    """The runs of a stage, with random shots where the data have no times to order them by."""
    by_time = [one for one in runs if one.episode.order == "time"]
    if by_time and prepare(by_time[0], needs_features=False).dataset.times is None:
        console.print(f"{stage}: shots are drawn at random, since the data have no times")
        return [replace(one, episode=replace(one.episode, order="random")) for one in runs]
    return list(runs)


def encode(stages: Iterable[Sequence[RunConfig]], progress: bool) -> None:
    """Encodes the texts of each data set once, with all cores, before the runs share them."""
    for configs in stages:
        needing = [one for one in configs if build_learner(one).needs_features]
        if needing:
            prepare(needing[0], needs_features=True, progress=progress)


def name_of(config: RunConfig) -> str:
    """What a run that failed is called."""
    protocol = config.protocol.name if config.protocol else ""
    return f"{protocol}: {config.learner.name}, split {config.split.seed}, seed {config.seed}"


def validated(records: Sequence[Record]) -> None:
    """Prints what selects, on validation, of each learner: means over its runs by regime."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for record in records:
        protocol = record.config.protocol
        assert protocol is not None
        what = f"{protocol.name}, {protocol.selection} on validation"
        own = values.setdefault((what, record.learner), {})
        for regime, metrics in record.metrics["validation"].items():
            if (value := metrics.get(protocol.selection)) is not None:
                own.setdefault(regime, []).append(value)
    for (what, learner), own in sorted(values.items()):
        means = [f"{regime} {sum(found) / len(found):.4f}" for regime, found in own.items()]
        console.print(f"{what}: {escape(learner)} {', '.join(means) or '–'}")


if __name__ == "__main__":
    run_script(main, HydraException)
