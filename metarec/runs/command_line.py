"""Command lines of scripts: unknown keys are named, errors that a user can mend are a line.

Hydra is the scripts' own, which hand over a function that composes a configuration.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from metarec.errors import ConfigError, MetarecError, did_you_mean

_VALUE = re.compile(r"([A-Za-z_]\w*)(\.\w+)*=")


def overrides_of(arguments: Sequence[str], configs: Path, experiment: str) -> list[str]:
    """The overrides of a script's call, with its own experiment where the call names none.

    Args:
        arguments: of the command line.
        configs: folder of the configuration groups.
        experiment: such as `sweeps`.
    """
    overrides = lenient(arguments, groups_in(configs))
    if any(override.startswith("experiment=") for override in overrides):
        return overrides
    return with_choice(f"experiment={experiment}", overrides)


def groups_in(configs: Path) -> list[str]:
    """The names of the configuration groups in a folder."""
    return [folder.name for folder in configs.iterdir() if folder.is_dir()]


def checked_plan(
    compose: Callable[..., dict[str, Any]],
    overrides: Sequence[str],
    needed: Collection[str],
    problem: str,
) -> dict[str, Any]:
    """The configuration of a call to a script that plans its runs by `plan`.

    Args:
        compose: from overrides to the whole configuration.
        overrides: all of them: of the call, as `lenient` returns them, and what composing needs.
        needed: keys without which the plan is that of another script.
        problem: what is said then, after the name of the experiment.

    Raises:
        ConfigError: if the plan lacks one of these, or an override gives it a key that it has not.
    """
    values = compose(*overrides)
    if not set(needed) <= values.get("plan", {}).keys():
        raise ConfigError(f"experiment={values['experiment']} {problem}")
    own = [override for override in overrides if not override.startswith("++plan.")]
    check_keys(overrides, "plan", compose(*own)["plan"])
    return values


def choice_of(learner: str, kinds: str | Sequence[str], configs: Path) -> str:
    """The override that chooses a learner, with the values that tuning has found where it has.

    Args:
        learner: such as `maml`.
        kinds: of episode, or protocols, as in `configs/learner/best/<kind>/`; the first that has
            values counts.
        configs: folder of the configuration groups.
    """
    tuned = [f"best/{kind}/{learner}" for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    found = [one for one in tuned if (configs / "learner" / f"{one}.yaml").exists()]
    return f"learner={[*found, learner][0]}"


def lenient(arguments: Sequence[str], groups: Collection[str]) -> list[str]:
    """Lets a composer of configurations set any key, known to its YAML or not.

    A key that is not in the YAML is either one that the YAML leaves out, which is fine, or unknown,
    which `RunConfig.from_dict` says better: with the nearest known one.

    Args:
        arguments: such as `learner=maml`, `seed=1`, `learner.inner_steps=5`, `-m`.
        groups: names of configuration groups, whose choice stays as it is.

    Returns:
        The arguments, with `++` (set or add) before those that give a key its value.
    """
    result = []
    for argument in arguments:
        match = _VALUE.match(argument)
        is_value = match is not None and match[1] != "hydra"
        is_choice = match is not None and match[2] is None and match[1] in groups
        result.append(f"++{argument}" if is_value and not is_choice else argument)
    return result


def check_keys(overrides: Sequence[str], section: str, known: Collection[str]) -> None:
    """Refuses overrides of a section by keys that it does not have.

    Args:
        overrides: as `lenient` returns them.
        section: such as `plan`.
        known: its keys.

    Raises:
        ConfigError: naming the key and the nearest known one.
    """
    for override in overrides:
        parts = override.lstrip("+~").partition("=")[0].split(".")
        if parts[0] == section and len(parts) > 1 and parts[1] not in known:
            raise ConfigError(
                f"unknown key '{section}.{parts[1]}'{did_you_mean(parts[1], sorted(known))}"
            )


def with_choice(choice: str, arguments: Sequence[str]) -> list[str]:
    """Adds a choice beside the other overrides, which command lines want in one piece.

    Args:
        choice: such as `experiment=tuning`.
        arguments: overrides and options such as `-m`, before or after them.
    """
    is_override = ("=" in argument and not argument.startswith("-") for argument in arguments)
    first = next((at for at, found in enumerate(is_override) if found), len(arguments))
    return [*arguments[:first], choice, *arguments[first:]]


def help_of(told: str) -> str:
    """What `--help` prints: what a script says of itself, and how settings are given.

    Args:
        told: docstring of the script.
    """
    return (
        f"{told.strip()}\n\n"
        "Settings are given as key=value: those of the files in configs/; what each key of a run "
        "means is in metarec/runs/sections.py."
    )


def run_script(main: Callable[[list[str]], int], *expected: type[Exception]) -> NoReturn:
    """Calls the main function of a script and ends the process with its status.

    An error of metarec, or one that is expected, is told in a line; after Ctrl-C it is said that
    the same call goes on where this one stopped. Of `-h` and `--help` the answer is what the script
    says of itself.

    Args:
        main: from the arguments of the command line to the exit status.
        *expected: errors of others that a user can mend, such as Hydra's.
    """
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(help_of(sys.modules[main.__module__].__doc__ or ""))
        sys.exit(0)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, and the same call goes on", file=sys.stderr)
        sys.exit(130)
    except MetarecError as problem:
        sys.exit(f"error: {problem}")
    except expected as problem:
        sys.exit(f"error: {problem}")
