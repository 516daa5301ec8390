"""Tuning: the same number of trials for every learner, chosen on validation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from metarec.errors import ConfigError, RunError
from metarec.runs import environment
from metarec.runs.config import RunConfig
from metarec.runs.resume import write_text
from metarec.runs.run import run
from metarec.runs.store import Record


@dataclass(frozen=True)
class Trial:
    """One set of values and what came of it.

    Args:
        values: what differs from the defaults, by argument; empty for the defaults themselves.
        record: of the run; None if it failed.
        error: why it failed.
    """

    values: Mapping[str, Any]
    record: Record | None = None
    error: str | None = None

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
    """

    config: RunConfig
    trials: tuple[Trial, ...]
    chosen: int

    @property
    def best(self) -> Trial:
        """The chosen trial."""
        return self.trials[self.chosen]


def tune(
    config: RunConfig,
    trials: int = 8,
    seed: int = 0,
    results: str | Path = "results",
    progress: bool = False,
) -> Tuning:
    """Runs trials of a learner on validation and chooses the best; test is not evaluated.

    Args:
        config: learner with its defaults and `learner.search`, and everything else of a run.
        trials: number of trials, the defaults included; fewer where `search` has fewer values.
        seed: of the draw of values.
        results: the records go to `results/tuning/`.
        progress: whether to show progress bars.

    Returns:
        All trials and the best of them.

    Raises:
        ConfigError: if the learner has nothing to search.
        RunError: if every trial failed.
    """
    done = []
    for values in trial_values(config, trials, seed):
        learner = replace(
            config.learner, arguments={**config.learner.arguments, **values}, search={}
        )
        trial = replace(
            config,
            learner=learner,
            experiment="tuning",
            evaluation=replace(config.evaluation, parts=("validation",), curve_regimes=()),
        )
        try:
            done.append(Trial(values, run(trial, results, progress)))
        except Exception as error:
            # such as a learning rate that diverges: that is what trials are for
            done.append(Trial(values, error=f"{type(error).__name__}: {error}"))
    scores = [float("-inf") if one.selection is None else one.selection for one in done]
    if max(scores) == float("-inf"):
        raise RunError(
            f"all {len(done)} trials of {config.learner.name} failed; the first with: "
            f"{done[0].error or 'no value of the selection metric'}"
        )
    return Tuning(config, tuple(done), scores.index(max(scores)))


def trial_values(config: RunConfig, trials: int, seed: int) -> list[dict[str, Any]]:
    """What each trial changes: nothing in the first, then values drawn without repetition.

    Raises:
        ConfigError: if the learner has nothing to search, or `trials` is not positive.
    """
    from sklearn.model_selection import ParameterGrid, ParameterSampler

    if trials < 1:
        raise ConfigError(f"tuning.trials={trials} must be at least 1")
    space = {name: list(values) for name, values in config.learner.search.items()}
    if not space:
        raise ConfigError(
            f"learner {config.learner.name!r} has nothing to tune: its learner.search is empty"
        )
    count = min(trials, len(ParameterGrid(space)))
    drawn = [dict(values) for values in ParameterSampler(space, count, random_state=seed)]
    defaults = {name: config.learner.arguments.get(name) for name in space}
    others = [values for values in drawn if values != defaults]
    return [{}, *others[: trials - 1]]


def write_tuning(
    tuning: Tuning, episode: str, configs: Path, paper: Path, command: str
) -> list[Path]:
    """Writes the chosen values as a configuration and all trials as a small record.

    Args:
        tuning: of one learner.
        episode: name of the episodes that it was tuned on, such as `binary`.
        configs: gets `learner/best/<episode>/<name>.yaml`.
        paper: gets `records/tuning/<episode>/<name>.json`.
        command: what was run, for the header.

    Returns:
        The two files.
    """
    name = tuning.config.learner.name
    record = paper / "records" / "tuning" / episode / f"{name}.json"
    write_text(record, json.dumps(_summary(tuning, command), indent=1) + "\n")
    best = configs / "learner" / "best" / episode / f"{name}.yaml"
    score, default = tuning.best.selection, tuning.trials[0].selection
    of_default = "failed" if default is None else f"{default:.4f}"
    content: dict[str, Any] = {"defaults": [f"/learner/{name}@_here_", "_self_"]}
    text = (
        f"# {name} with the values that were best on validation; written by tuning, not by hand.\n"
        f"#\n#   {command}\n#\n"
        f"# Trial {tuning.chosen} of 0 to {len(tuning.trials) - 1}: {score:.4f}, with the defaults "
        f"{of_default}. All trials:\n# {record.as_posix()}\n"
    )
    # all values that were searched, so that a new default in the YAML changes nothing here
    chosen = _defaults(tuning) | dict(tuning.best.values)
    text += yaml.safe_dump({**content, **chosen}, sort_keys=False)
    write_text(best, text)
    return [best, record]


def _summary(tuning: Tuning, command: str) -> dict[str, Any]:
    config = tuning.config.to_dict()
    first = next(one.record for one in tuning.trials if one.record is not None)
    return {
        "command": command,
        "learner": tuning.config.learner.name,
        "selection": "mean over the cold regimes of validation catalogue/ndcg@10, or of minus "
        "rated/rmse where ratings are learned and predicted",
        "data": config["data"]["name"],
        "data_checksum": first.data_checksum,
        "episode": config["episode"],
        "split": config["split"],
        "seed": tuning.config.seed,
        "search": config["learner"]["search"],
        "defaults": _defaults(tuning),
        "code": environment.code_hash(),
        "commit": environment.commit(),
        "chosen": tuning.chosen,
        "trials": [_trial(one) for one in tuning.trials],
    }


def _defaults(tuning: Tuning) -> dict[str, Any]:
    arguments = tuning.config.learner.arguments
    return {name: arguments.get(name) for name in tuning.config.learner.search}


def _trial(trial: Trial) -> dict[str, Any]:
    summary: dict[str, Any] = {"values": dict(trial.values), "selection": trial.selection}
    if trial.record is None:
        return summary | {"error": trial.error}
    means = {
        regime: metrics.get("catalogue/ndcg@10")
        for regime, metrics in trial.record.metrics["validation"].items()
    }
    return summary | {
        "run": trial.record.path.name,
        "ndcg@10": means,
        "code": trial.record.code,
        "seconds": round(trial.record.seconds.get("total", 0.0), 1),
    }
