"""What of a BERT should adapt? Quality, seconds and memory of each choice, by MAML and transfer.

    python experiments/what_to_adapt.py
    python experiments/what_to_adapt.py data=online-retail data.folder=… episode=implicit \
      results=results/online-retail plan.paper=paper/online-retail
    python experiments/what_to_adapt.py plan.seeds=[0] 'plan.adapted=[head,lora]' \
      results=/tmp/r plan.paper=/tmp/p

The plan is `configs/experiment/what_to_adapt.yaml`. First the baselines are measured on validation,
and the best draws the candidates of all; then the inner learning rate of each choice is chosen, on
validation too; then all runs are measured on test; then each choice adapts to a few users alone on
the machine, for the seconds of a user. What is finished is skipped, so that an interrupted call
goes on.
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

from metarec.report.choices import SECONDS
from metarec.report.what_to_adapt import build_report
from metarec.runs import Record, RunConfig
from metarec.runs.command_line import checked_plan, choice_of, overrides_of, run_script
from metarec.runs.learners import serves
from metarec.runs.parallel import run_all
from metarec.runs.prepare import prepare
from metarec.runs.store import check_one_version

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
RATE = "bert_inner_learning_rate"

console = Console(soft_wrap=True, highlight=False)


class Plan:
    """The configurations of all runs.

    Args:
        overrides: of the call, which every run gets.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        self.overrides = overrides
        values = checked_plan(
            composed, [*overrides, "learner=random"], ["tuning_steps"],
            "has no plan of what adapts; choose experiment=what_to_adapt",
        )  # fmt: skip
        self.settings: dict[str, Any] = values["plan"]
        self.results, self.progress = values["results"], values["progress"]
        self.episode: str = values["episode"]["feedback"]

    def baselines(self) -> list[RunConfig]:
        """The baselines, on validation: over the catalogue, since none draws for them yet."""
        found = []
        for name in self.settings["retrievers"]:
            config = self._run(
                choice_of(name, self.episode, CONFIGS),
                "~evaluation.retriever",
                "++evaluation.shortlist=0",
            )
            if serves(config):
                found.append(self._on_validation(config))
        return [one for seed in self.settings["seeds"] for one in at(found, seed)]

    def trials(self, retriever: RunConfig) -> dict[str, dict[float, RunConfig]]:
        """By what adapts and inner rate: MAML as a bi-encoder for a few steps, on validation."""
        steps = self.settings["tuning_steps"]
        name = self.settings["learners"][self.settings["reads"][0]][-1]
        return {
            adapted: {
                rate: self._on_validation(
                    self._bert(
                        name,
                        adapted,
                        retriever,
                        **{RATE: rate, "steps": steps},
                        validate_every=steps,
                    )
                )
                for rate in self.settings["rates_of"].get(adapted, self.settings["rates"])
            }
            for adapted in self.settings["adapted"]
            if adapted != "head"
        }

    def runs(self, retriever: RunConfig, rates: dict[str, float]) -> list[RunConfig]:
        """The retriever by itself, then every choice: those at a time differ in their pairs."""
        own = self._with(
            self._run(choice_of(retriever.learner.name, self.episode, CONFIGS)), retriever
        )
        found = [replace(own, seed=seed) for seed in self.settings["seeds"]]
        for reads in self.settings["reads"]:
            for adapted in self.settings["adapted"]:
                count = self.settings["seeds_of"].get(adapted, {}).get(reads)
                for name in self.settings["learners"][reads]:
                    config = self._bert(name, adapted, retriever, **{RATE: rates[adapted]})
                    found += [replace(config, seed=seed) for seed in self.settings["seeds"][:count]]
        return found

    def timings(self, retriever: RunConfig, rates: dict[str, float]) -> list[RunConfig]:
        """Every run on a few users at the first seed, almost untrained: its seconds."""
        timing = self.settings["timing"]
        found = []
        for config in self.runs(retriever, rates):
            if config.seed == self.settings["seeds"][0]:
                reads, values = config.learner.arguments.get("reads"), {}
                if reads is not None:
                    values = {**timing["values"], **timing["values_of"].get(reads, {})}
                learner = replace(config.learner, arguments={**config.learner.arguments, **values})
                found.append(
                    replace(
                        config,
                        learner=learner,
                        evaluation=replace(
                            config.evaluation,
                            tasks=timing["tasks"],
                            look_tasks=1,
                            k_curve=(config.episode.k_shot,),
                        ),
                        experiment=f"{config.experiment}{SECONDS}",
                    )
                )
        return found

    def _bert(self, name: str, adapted: str, retriever: RunConfig, **values: Any) -> RunConfig:
        own = self.settings["values_of"].get(adapted, {})
        every = {**self.settings["values"], **own, **values}
        if name in self.settings["learners"]["bi"]:
            every["head_steps"] = self.settings["head_steps"]
        config = self._run(
            f"learner={name}",
            f"learner.name={name}_{adapted}",
            f"learner.adapted={adapted}",
            *(f"learner.{key}={value}" for key, value in every.items()),
        )
        return self._with(config, retriever)

    def _run(self, *overrides: str) -> RunConfig:
        values = composed(*self.overrides, *overrides)
        for key in ("results", "progress", "plan"):
            values.pop(key)
        return RunConfig.from_dict(values)

    def _with(self, config: RunConfig, retriever: RunConfig) -> RunConfig:
        learner = replace(retriever.learner, search={})
        return replace(config, evaluation=replace(config.evaluation, retriever=learner))

    def _on_validation(self, config: RunConfig) -> RunConfig:
        seen = replace(config.evaluation, parts=("validation",), curve_regimes=())
        first = self.settings["seeds"][0]
        name = f"{config.experiment}_validation"
        return replace(config, evaluation=seen, seed=first, experiment=name)


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of a call, as plain values."""
    values: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return dict(values)


def at(configs: Sequence[RunConfig], seed: int) -> Iterator[RunConfig]:
    for config in configs:
        yield replace(config, seed=seed)


def main(arguments: list[str]) -> int:
    begin = time.perf_counter()
    overrides = overrides_of(arguments, CONFIGS, "what_to_adapt")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        plan = Plan(overrides)
        retriever = best_baseline(plan)
        rates = best_rates(plan, retriever)
        runs = plan.runs(retriever, rates)
        timings = plan.timings(retriever, rates)
    minutes = len(runs) * plan.settings["seconds"] / plan.settings["workers"] / 60
    console.print(f"{len(runs)} runs: some {minutes:.0f} min if none is finished")
    records = finished(runs, plan, "runs")
    records += finished(timings, plan, "seconds", workers=1)
    build_report(records, Path(plan.settings["paper"]), console)
    console.print(f"{(time.perf_counter() - begin) / 60:.1f} minutes")
    return 0


def best_baseline(plan: Plan) -> RunConfig:
    """The configuration of the baseline whose mean over seeds is best on validation."""
    configs = plan.baselines()
    prepare(configs[0], needs_features=True, progress=True)
    records = finished(configs, plan, "baselines", fresh=False)
    check_one_version(records, "baselines")
    means: dict[str, float] = {}
    for record in records:
        own = [one.content["selection"] for one in records if one.learner == record.learner]
        means[record.learner] = sum(own) / len(own)
    for name, mean in sorted(means.items(), key=lambda entry: -entry[1]):
        console.print(f"  validation nDCG@10 {mean:.4f} {escape(name)}")
    best = max(means, key=lambda name: means[name])
    console.print(f"{escape(best)} draws the candidates")
    return next(record.config for record in records if record.learner == best)


def best_rates(plan: Plan, retriever: RunConfig) -> dict[str, float]:
    """The inner learning rate of the BERT for each of what adapts, best on validation."""
    trials = plan.trials(retriever)
    # of a head alone no BERT takes steps
    chosen = {"head": 0.0}
    keys = [(adapted, rate) for adapted, rates in trials.items() for rate in rates]
    records = finished([trials[adapted][rate] for adapted, rate in keys], plan, "inner rates")
    check_one_version(records, "trials")
    values = {key: record.content["selection"] for key, record in zip(keys, records, strict=True)}
    for adapted, rates in trials.items():
        chosen[adapted] = max(rates, key=lambda rate: values[adapted, rate])
        found = ", ".join(f"{rate:g}: {values[adapted, rate]:.4f}" for rate in rates)
        console.print(f"  {adapted}: validation nDCG@10 by rate {found}")
        if len(rates) > 1 and chosen[adapted] in (min(rates), max(rates)):
            console.print(
                f"  {chosen[adapted]:g} is at the end of what was tried; plan.rates or "
                f"plan.rates_of.{adapted} may go further"
            )
    return chosen


def finished(
    configs: Sequence[RunConfig],
    plan: Plan,
    what: str,
    fresh: bool = True,
    workers: int | None = None,
) -> list[Record]:
    """Runs all, each in a process of its own where its peak memory is of interest.

    Raises:
        RunError: if one fails, when the others are done.
    """
    ran = run_all(
        configs, plan.results, workers or plan.settings["workers"], console,
        lambda config: f"{config.learner.name}, seed {config.seed}", what,
        fresh=fresh and plan.settings["fresh"], progress=plan.progress,
    )  # fmt: skip
    return ran.all(what)


if __name__ == "__main__":
    run_script(main, HydraException)
