"""The errors that metarec raises on purpose: each names the place and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MetarecError(Exception):
    """Base of every error that metarec raises on purpose."""


class DataError(MetarecError):
    """Input data that cannot be used: the message names file, column or row, and the remedy."""


class SplitError(MetarecError):
    """A split that is empty where it must not be, or that leaks."""


class EpisodeError(MetarecError):
    """Episodes that cannot be drawn as asked."""


class TextError(MetarecError):
    """A text template, a checkpoint or a feature store that cannot be used."""


class ConfigError(MetarecError):
    """A configuration with an unknown key, name or value."""


class LearnerError(MetarecError):
    """A learner that is asked for what it does not serve, or that broke."""


class ScoreError(MetarecError):
    """Scores that cannot be evaluated, such as NaN."""


class PretrainedError(MetarecError):
    """A saved scorer that is broken, of another version, or asked for what it does not take."""


class RunError(MetarecError):
    """A run or a record that is missing, broken, or may not be mixed with others."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` with the nearest known name, or the sorted list of all."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}"
