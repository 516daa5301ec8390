"""Training tasks: what a run may draw of them, and what it drew."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from metarec.errors import ConfigError
from metarec.runs.config import RunConfig
from metarec.runs.learners import learner_class
from metarec.runs.store import Record

STEPS = ("steps", "head_steps", "warm_steps")
"""The arguments that a budget of training tasks sets."""


def arguments_of(config: RunConfig) -> dict[str, Any]:
    """All arguments of a run's learner: those of its configuration, else of its class."""
    known = inspect.signature(learner_class(config)).parameters
    defaults = {
        name: parameter.default
        for name, parameter in known.items()
        if parameter.default is not parameter.empty
    }
    return defaults | dict(config.learner.arguments)


def training_tasks(config: RunConfig) -> int:
    """Tasks that a run draws in meta-training if nothing stops it early; 0 if nothing is trained.

    That is steps times the tasks of a step. A learner over a BERT that adapts has tasks of a step
    of its own, and draws others before for its head; a learner of two phases (`warm_steps`) and of
    several members draws for each. The batches of item tasks that warm-up
    learners draw beside those of user tasks are not counted.
    """
    if not learner_class(config).trained:
        return 0
    arguments = arguments_of(config)
    steps, head, warm = (int(arguments.get(name, 0)) for name in STEPS)
    return (warm + steps) * _batch(config, arguments) + head * config.episode.task_batch


def drawn_tasks(record: Record) -> int:
    """Tasks that a finished run drew in meta-training, as `training_tasks` counts them."""
    steps = [int(entry["step"]) for entry in record.log if "step" in entry]
    if not steps or not learner_class(record.config).trained:
        return 0
    arguments = arguments_of(record.config)
    # neither the head nor a first phase has a validation that would stop it
    head = int(arguments.get("head_steps", 0)) * record.config.episode.task_batch
    drawn = max(steps) + int(arguments.get("warm_steps", 0))
    return drawn * _batch(record.config, arguments) + head


def with_training_tasks(config: RunConfig, tasks: int) -> RunConfig:
    """The same run with as many steps as make up so many training tasks.

    `learner.steps` is set; of a learner that trains a head first, `learner.head_steps`, to what
    `learner.steps` leaves. Of a learner of two phases, `learner.warm_steps` and `learner.steps`
    keep their proportion, and make up as many of the tasks as whole batches do.

    Args:
        config: of the run; of a learner that is not trained it stays as it is.
        tasks: that meta-training draws if nothing stops it early.

    Raises:
        ConfigError: if they are no whole number of batches, less than one of each phase, or the
            learner has no such argument.
    """
    if not learner_class(config).trained:
        return config
    arguments = arguments_of(config)
    key, name = f"tuning.training_tasks={tasks}", config.learner.name
    if "steps" not in arguments:
        raise ConfigError(
            f"{key}: learner {name!r} has no argument 'steps' that could be set to it; give "
            "tuning.training_tasks=null"
        )
    batch = _batch(config, arguments)
    if arguments.get("warm_steps"):
        return _with_arguments(config, _phases(arguments, tasks // batch, batch, f"{key}: {name}"))
    if arguments.get("head_steps"):
        taken = int(arguments["steps"]) * batch
        after = f" after the {taken} of learner.steps={arguments['steps']}"
        argument, left, batch = "head_steps", tasks - taken, config.episode.task_batch
    else:
        after, argument, left = "", "steps", tasks
    if left < batch or left % batch:
        near = tasks - left + max(left // batch, 1) * batch
        raise ConfigError(
            f"{key}: {name} takes batches of {batch} tasks{after}; choose such as {near}"
        )
    return _with_arguments(config, {argument: left // batch})


def _phases(arguments: Mapping[str, Any], total: int, batch: int, what: str) -> dict[str, int]:
    """The steps of both phases, so many in all, as the learner has them in proportion."""
    warm, steps = int(arguments["warm_steps"]), int(arguments["steps"])
    # a phase that the learner leaves out stays out
    least = 1 if steps else 0
    if total < 1 + least:
        raise ConfigError(
            f"{what} takes batches of {batch} tasks, and at least one in each of its phases; "
            f"choose {batch * (1 + least)} or more"
        )
    first = min(max(round(total * warm / (warm + steps)), 1), total - least)
    return {"warm_steps": first, "steps": total - first}


def _with_arguments(config: RunConfig, changed: Mapping[str, Any]) -> RunConfig:
    arguments = {**config.learner.arguments, **changed}
    return replace(config, learner=replace(config.learner, arguments=arguments))


def _batch(config: RunConfig, arguments: Mapping[str, Any]) -> int:
    members = int(arguments.get("members", 1))
    return members * int(arguments.get("task_batch", config.episode.task_batch))
