"""Tuning: the same number of trials and of training tasks for every learner, on validation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from metarec.errors import ConfigError, RunError
from metarec.runs.budget import STEPS, arguments_of, with_training_tasks
from metarec.runs.config import RunConfig
from metarec.runs.fields import conform, conformed
from metarec.runs.learners import serves
from metarec.runs.run import run
from metarec.runs.search import Proposals, domain_of
from metarec.runs.store import Record, check_one_version


@dataclass(frozen=True)
class TuningSettings:
    """How learners are tuned; what they have in common.

    Args:
        trials: of each learner, the defaults included.
        seed: of the values that are drawn.
        training_tasks: of each trained learner in a trial; None for what its own steps make.
        configs: folder of the configurations, which gets the best values.
        paper: folder of the paper, which gets all trials.
    """

    trials: int = 8
    seed: int = 0
    training_tasks: int | None = None
    configs: str = "configs"
    paper: str = "paper"

    def __post_init__(self) -> None:
        conform(self, "tuning")
        tasks = 1 if self.training_tasks is None else self.training_tasks
        for name, value, least in (
            ("trials", self.trials, 1),
            ("seed", self.seed, 0),
            ("training_tasks", tasks, 1),
        ):
            if value < least:
                raise ConfigError(f"tuning.{name}={value} must be at least {least}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TuningSettings:
        """Reads the section `tuning` of a configuration.

        Raises:
            ConfigError: for an unknown key, naming the nearest known one, or a value that cannot
                be.
        """
        return cls(**conformed(values, cls, "tuning"))


@dataclass(frozen=True)
class Trial:
    """One set of values and what came of it.

    Args:
        values: what differs from the defaults, by argument; empty for the defaults themselves.
        record: of the run; None if it failed.
        error: why it failed.
        seconds: that the run took, whenever it was run.
    """

    values: Mapping[str, Any]
    record: Record | None = None
    error: str | None = None
    seconds: float = 0.0

    @property
    def selection(self) -> float | None:
        """The selection metric on validation, None if the trial failed."""
        return None if self.record is None else self.record.selection


@dataclass(frozen=True)
class Tuning:
    """The trials of one learner.

    Args:
        config: the run that was tuned, with the defaults.
        trials: the first has the defaults.
        chosen: number of the best trial; the earlier one on a tie.
        settings: how it was tuned.
    """

    config: RunConfig
    trials: tuple[Trial, ...]
    chosen: int
    settings: TuningSettings = field(default_factory=TuningSettings)

    @property
    def best(self) -> Trial:
        """The chosen trial."""
        return self.trials[self.chosen]

    @property
    def seconds(self) -> float:
        """That all trials took."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def shortfall(self) -> str | None:
        """Why there are fewer trials than were asked for; None if there are not."""
        if len(self.trials) >= self.settings.trials:
            return None
        name = self.config.learner.name
        if not self.config.learner.search:
            return f"{name} has nothing to tune, so that only its defaults were run"
        return (
            f"{name} has {len(self.trials)} trials, not {self.settings.trials}: its search has no "
            "more values"
        )

    def arguments(self) -> dict[str, Any]:
        """What the chosen trial ran with: what was searched, and steps that the budget changed."""
        given = arguments_of(self.config)
        values = {name: given[name] for name in self.config.learner.search} | dict(self.best.values)
        if self.best.record is not None:
            ran = self.best.record.config.learner.arguments
            values |= {
                name: ran[name] for name in STEPS if name in ran and ran[name] != given[name]
            }
        return values


def tune(
    config: RunConfig,
    settings: TuningSettings | None = None,
    results: str | Path = "results",
    progress: bool = False,
) -> Tuning:
    """Runs trials of a learner on validation and chooses the best; test is not evaluated.

    The first trial has the defaults; the values of each later one hang on the seed and on the
    scores of those before it. A trial that is finished is not run again, so that an interrupted
    tuning goes on where it was and ends in the same bits; one that failed is tried again, and goes
    on from its last checkpoint.

    Args:
        config: learner with its defaults and `learner.search`, and everything else of a run.
        settings: trials, seed and training tasks; None for the defaults.
        results: the records go to `results/tuning/`.
        progress: whether to show progress bars.

    Returns:
        All trials and the best of them; fewer than asked for where `learner.search` has fewer
        values, and the defaults alone where it is empty.

    Raises:
        ConfigError: if the learner does not serve these tasks, a default is not among the values to
            search, or the training tasks are not a whole number of batches.
        RunError: if every trial failed, or the trials are of different versions of the code.
    """
    settings = settings or TuningSettings()
    if not serves(config):
        raise ConfigError(
            f"{config.learner.name} does not serve {config.episode.task} tasks of "
            f"{config.episode.feedback} feedback, and cannot be tuned on them"
        )
    proposals = _proposals(config, settings)
    done: list[Trial] = []
    with tqdm(
        total=int(min(settings.trials, proposals.size)),
        desc=f"trials of {config.learner.name}",
        unit="trial",
        disable=not progress,
        leave=False,
    ) as bar:
        while len(done) < settings.trials and (values := proposals.ask()) is not None:
            trial = _tried(config, values if done else {}, settings, results, progress)
            done.append(trial)
            proposals.tell(trial.selection)
            bar.update()
    check_one_version((one.record for one in done if one.record is not None), "trials")
    scores = [float("-inf") if one.selection is None else one.selection for one in done]
    if max(scores) == float("-inf"):
        raise RunError(
            f"all {len(done)} trials of {config.learner.name} failed; the first with: "
            f"{done[0].error or 'no value of the selection metric'}"
        )
    return Tuning(config, tuple(done), scores.index(max(scores)), settings)


def _proposals(config: RunConfig, settings: TuningSettings) -> Proposals:
    search = config.learner.search
    for name in STEPS if settings.training_tasks is not None else ():
        if name in search:
            raise ConfigError(
                f"learner.search.{name} cannot be searched where tuning.training_tasks="
                f"{settings.training_tasks} sets it; give tuning.training_tasks=null"
            )
    given = arguments_of(config)
    for name in search:
        if name not in given:
            raise ConfigError(f"learner.search.{name}: learner.{name} is missing, to start with")
    space = {name: domain_of(one, f"learner.search.{name}") for name, one in search.items()}
    return Proposals(space, given, settings.seed)


def _tried(
    config: RunConfig,
    values: Mapping[str, Any],
    settings: TuningSettings,
    results: str | Path,
    progress: bool,
) -> Trial:
    arguments = {**config.learner.arguments, **values}
    learner = replace(config.learner, arguments=arguments, search={}, tuned={})
    trial = replace(
        config,
        learner=learner,
        experiment="tuning",
        evaluation=replace(config.evaluation, parts=("validation",), curve_regimes=()),
    )
    if settings.training_tasks is not None:
        trial = with_training_tasks(trial, settings.training_tasks)
    begin = time.perf_counter()
    try:
        record = run(trial, results, progress)
    except Exception as error:
        # such as a learning rate that diverges: that is what trials are for
        problem = f"{type(error).__name__}: {error}"
        return Trial(values, error=problem, seconds=time.perf_counter() - begin)
    return Trial(values, record, seconds=record.seconds.get("total", 0.0))
