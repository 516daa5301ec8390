"""From a `LearnerConfig` to a learner: the class is imported and its arguments are checked."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from dataclasses import replace
from typing import Any

from metarec.errors import ConfigError, did_you_mean
from metarec.learner import Learner, check_served
from metarec.runs.config import RunConfig


def learner_class(config: RunConfig, section: str = "learner") -> type[Any]:
    """Imports the class of a run's learner.

    Args:
        config: whose `learner.target` is `module.Class` or `module:Class`.
        section: where the learner stands in the configuration, for messages.

    Raises:
        ConfigError: if there is no such module or class, or the backend does not have the learner.
    """
    target = config.learner.target
    module_name, _, name = target.replace(":", ".").rpartition(".")
    if not _importable(module_name):
        if config.backend.name == "jax" and module_name.startswith("metarec.jax"):
            raise ConfigError(
                f"backend=jax: there is no learner {config.learner.name!r} in JAX yet; choose "
                "backend=torch"
            )
        raise ConfigError(f"{section}._target_={target!r}: there is no module {module_name!r}")
    module = importlib.import_module(module_name)
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise ConfigError(
            f"{section}._target_={target!r}: {module_name} has no class {name!r}"
            f"{did_you_mean(name, classes)}"
        )
    return found


def build_learner(config: RunConfig, section: str = "learner") -> Learner:
    """Makes the learner of a run.

    An argument `device` that is not given is `backend.device`; lists become tuples.

    Args:
        config: of the run.
        section: where the learner stands in the configuration, for messages.

    Raises:
        ConfigError: if the class does not take an argument, naming the nearest that it takes.
    """
    kind = learner_class(config, section)
    arguments = dict(config.learner.arguments)
    known = inspect.signature(kind).parameters
    for place, names in ((section, arguments), (f"{section}.search", config.learner.search)):
        for argument in names:
            if argument not in known:
                raise ConfigError(
                    f"{place}.{argument}: {kind.__name__} has no argument {argument!r}"
                    f"{did_you_mean(argument, known)}"
                )
    if "device" in known:
        arguments.setdefault("device", config.backend.device)
    learner: Learner = kind(**{name: _tuples(value) for name, value in arguments.items()})
    return learner


def build_retriever(config: RunConfig) -> Learner | None:
    """Makes the learner that draws the shortlists of a run; None where there are none.

    Raises:
        ConfigError: if it would have to be trained, or as `build_learner`.
        LearnerError: if it does not serve the tasks or the feedback of the run.
    """
    chosen = config.evaluation.retriever
    if chosen is None:
        return None
    section = "evaluation.retriever"
    retriever = build_learner(replace(config, learner=chosen), section)
    if retriever.trained:
        raise ConfigError(
            f"{section}={chosen.name} would have to be trained first; choose a baseline, which is "
            f"fitted at once, as in learner/best/binary@{section}=item_knn"
        )
    check_served(retriever, config.episode.task, config.episode.feedback)
    return retriever


def serves(config: RunConfig) -> bool:
    """Whether the learner takes the kind of task and the feedback of the run."""
    kind = learner_class(config)
    return bool(config.episode.task in kind.serves and config.episode.feedback in kind.accepts)


def _importable(module: str) -> bool:
    # the module itself may fail to import for want of another, which is another error
    try:
        return bool(module) and importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
    except ValueError:
        # made at run time, as in a notebook: already imported, without a spec
        return True


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
