"""What tuning leaves: the best values as a configuration, all trials as a small record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from metarec.evaluation.metrics import LOWER_IS_BETTER
from metarec.runs.budget import arguments_of, drawn_tasks, training_tasks, with_training_tasks
from metarec.runs.config import RunConfig
from metarec.runs.resume import write_text
from metarec.runs.search import sampler_name
from metarec.runs.tuning import Trial, Tuning

TUNING = Path("records") / "tuning"
"""Where the small records are in the folder of a paper."""


def kind_of(config: RunConfig) -> str:
    """What a learner is tuned for, which names the files: its tasks and feedback, or a protocol.

    Args:
        config: with the tasks and the feedback that are learned, whatever configuration they came
            from.

    Returns:
        The name of the protocol; without one `item` for item tasks, and for user tasks the
        feedback.
    """
    if config.protocol is not None:
        return config.protocol.name
    return "item" if config.episode.task == "item" else config.episode.feedback


def write_tuning(tuning: Tuning, episode: str, command: str) -> list[Path]:
    """Writes all trials as a small record, and then the chosen values as a configuration.

    Where nothing was searched there is no configuration to write.

    Args:
        tuning: of one learner; its settings say where the files go:
            `<paper>/records/tuning/<episode>/<name>.json` and
            `<configs>/learner/best/<episode>/<name>.yaml`.
        episode: name of what it was tuned for, as `kind_of` has it.
        command: what was run, for the header.

    Returns:
        The files, each written as a whole or not at all.
    """
    name, settings = tuning.config.learner.name, tuning.settings
    record = Path(settings.paper) / TUNING / episode / f"{name}.json"
    summary = _summary(tuning, command)
    write_text(record, json.dumps(summary, indent=1) + "\n")
    if not tuning.config.learner.search:
        return [record]
    best = Path(settings.configs) / "learner" / "best" / episode / f"{name}.yaml"
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
    chosen = tuning.arguments()
    tuned = {"data": summary["data"], "kind": episode, "values": dict(chosen)}
    text += yaml.safe_dump({**content, **chosen, "tuned": tuned}, sort_keys=False)
    write_text(best, text)
    return [best, record]


def _summary(tuning: Tuning, command: str) -> dict[str, Any]:
    config, settings = tuning.config.to_dict(), tuning.settings
    first = next(one.record for one in tuning.trials if one.record is not None)
    search, given = config["learner"]["search"], arguments_of(tuning.config)
    at_most = tuning.config
    if settings.training_tasks is not None:
        at_most = with_training_tasks(at_most, settings.training_tasks)
    return {
        "command": command,
        "learner": tuning.config.learner.name,
        "selection": _selection(tuning.config),
        "data": first.dataset,
        "data_checksum": first.data_checksum,
        "episode": config["episode"],
        "protocol": config["protocol"],
        "split": config["split"],
        "seed": tuning.config.seed,
        "search": search,
        "defaults": {name: given[name] for name in search},
        "sampler": sampler_name() if search else None,
        "sampler_seed": settings.seed,
        "trials_asked": settings.trials,
        "training_tasks": training_tasks(at_most),
        "seconds": round(tuning.seconds, 1),
        "code": first.code,
        "commit": first.commit,
        "chosen": tuning.chosen,
        "trials": [_trial(one) for one in tuning.trials],
    }


def _selection(config: RunConfig) -> str:
    """What is maximised, in words."""
    if config.protocol is None:
        return (
            "mean over the cold regimes of validation catalogue/ndcg@10, or of minus rated/rmse "
            "where ratings are learned and predicted"
        )
    column = config.protocol.selection
    minus = "minus " if column.partition("/")[2] in LOWER_IS_BETTER else ""
    return f"mean over all regimes of {minus}validation {column}, by protocol={kind_of(config)}"


def _trial(trial: Trial) -> dict[str, Any]:
    summary: dict[str, Any] = {"values": dict(trial.values), "selection": trial.selection}
    if trial.record is None:
        return summary | {"error": trial.error, "seconds": round(trial.seconds, 1)}
    protocol = trial.record.config.protocol
    # a protocol does not rank the catalogue
    column = "catalogue/ndcg@10" if protocol is None else protocol.selection
    means = {
        regime: metrics.get(column)
        for regime, metrics in trial.record.metrics["validation"].items()
    }
    return summary | {
        "run": trial.record.path.name,
        column.partition("/")[2]: means,
        "code": trial.record.code,
        "seconds": round(trial.seconds, 1),
        "training_tasks": drawn_tasks(trial.record),
    }
