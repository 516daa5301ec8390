"""Checks that the fields of a configuration have the types that they say."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from metarec.errors import ConfigError, did_you_mean


def conform(instance: Any, section: str) -> None:
    """Turns the fields of a frozen dataclass into the types that they are annotated with.

    Lists become tuples, whole numbers floats, and mappings the dataclass that is read from them,
    where that is what is needed; nothing else changes.

    Args:
        instance: in its `__post_init__`.
        section: where it stands in the configuration, for messages.

    Raises:
        ConfigError: naming the key, the value and what is needed.
    """
    values = {item.name: getattr(instance, item.name) for item in fields(instance)}
    for name, value in conformed(values, type(instance), section).items():
        object.__setattr__(instance, name, value)


def conformed(values: Mapping[str, Any], kind: type[Any], section: str) -> dict[str, Any]:
    """The same for what a dataclass is to be made of.

    Args:
        values: by name of the field.
        kind: the dataclass.
        section: where it stands in the configuration, for messages.

    Raises:
        ConfigError: likewise, or for a name that is no field, naming the nearest that is one.
    """
    hints, names = get_type_hints(kind), [item.name for item in fields(kind)]
    result = {}
    for name, value in values.items():
        key = f"{section}.{name}" if section else str(name)
        if name not in names:
            raise ConfigError(f"unknown configuration key {key!r}{did_you_mean(str(name), names)}")
        result[name] = _cast(value, hints[name], key)
    return result


class _UnfitError(Exception):
    """A value that is not of a type."""


def _cast(value: Any, hint: Any, key: str) -> Any:
    if get_origin(hint) is Literal and isinstance(value, str) and value not in get_args(hint):
        raise ConfigError(f"{key}={value!r} is unknown{did_you_mean(value, get_args(hint))}")
    try:
        return _fit(value, hint, key)
    except _UnfitError:
        raise ConfigError(f"{key}={value!r}: {_describe(hint)} is needed") from None


def _fit(value: Any, hint: Any, key: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _fit(value, option, key)
            except _UnfitError:
                continue
        raise _UnfitError
    if origin is Literal:
        if value in arguments:
            return value
        raise _UnfitError
    if origin is tuple:
        return _tuple(value, arguments, key)
    if origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {str(name): item for name, item in value.items()}
        raise _UnfitError
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
        raise _UnfitError
    if hint is int and isinstance(value, bool):
        raise _UnfitError
    if isinstance(value, hint):
        return value
    if is_dataclass(hint) and hasattr(hint, "from_dict") and isinstance(value, Mapping):
        return hint.from_dict(value, key)
    raise _UnfitError


def _tuple(value: Any, arguments: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _UnfitError
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_cast(item, arguments[0], key) for item in value)
    if len(value) != len(arguments):
        raise _UnfitError
    return tuple(_fit(item, option, key) for item, option in zip(value, arguments, strict=True))


def _describe(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list of {_describe(arguments[0]).removeprefix('a ').removeprefix('an ')}s"
    if origin is tuple:
        return f"a list of {len(arguments)} numbers"
    if origin is not None:
        return "a mapping"
    if is_dataclass(hint):
        return "a section of keys"
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    return names.get(hint, "null" if hint is type(None) else f"a {hint.__name__}")
