"""Overrides of the command line, by which an unknown key reaches `RunConfig`, which names it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

_VALUE = re.compile(r"([A-Za-z_]\w*)(\.\w+)*=")


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


def with_choice(choice: str, arguments: Sequence[str]) -> list[str]:
    """Adds a choice beside the other overrides, which command lines want in one piece.

    Args:
        choice: such as `experiment=tuning`.
        arguments: overrides and options such as `-m`, before or after them.
    """
    is_override = ("=" in argument and not argument.startswith("-") for argument in arguments)
    first = next((at for at, found in enumerate(is_override) if found), len(arguments))
    return [*arguments[:first], choice, *arguments[first:]]
