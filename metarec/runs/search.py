"""What tuning may try of an argument, and which values are tried next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metarec.errors import ConfigError, did_you_mean

STARTUP = 4
"""Trials before the sampler learns from their scores: the defaults, and values drawn at random."""

_DIGITS = 3
_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Choices:
    """A list of values, of which none is nearer to another.

    Args:
        values: different from each other.
    """

    values: tuple[Any, ...]

    @property
    def size(self) -> float:
        """How many values there are."""
        return float(len(self.values))

    @property
    def ends(self) -> tuple[Any, ...]:
        """All of them."""
        return self.values

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def distribution(self) -> Any:
        """As Optuna has it: over places in the list, so that a value may be anything."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(range(len(self.values)))

    def drawn(self, parameter: Any) -> Any:
        """The value that a parameter of Optuna stands for."""
        return self.values[parameter]

    def parameter(self, value: Any) -> Any:
        """The inverse of `drawn`."""
        return self.values.index(value)


@dataclass(frozen=True)
class Range:
    """All numbers from one to another, both included.

    Args:
        low: the lowest; where it, `high` and `step` are whole, so are all.
        high: the highest.
        log: whether each factor is as likely as another, in place of each difference.
        step: between neighbours; None for 1 between whole numbers, and for all others.
    """

    low: float | int
    high: float | int
    log: bool = False
    step: float | int | None = None

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole."""
        return all(isinstance(one, int | None) for one in (self.low, self.high, self.step))

    @property
    def size(self) -> float:
        """How many numbers there are; infinite where they are not in steps."""
        step = 1 if self.whole and self.step is None else self.step
        return math.inf if step is None else round((self.high - self.low) / step) + 1.0

    @property
    def ends(self) -> tuple[Any, ...]:
        """The lowest and the highest."""
        return self.low, self.high

    def __contains__(self, value: Any) -> bool:
        if not _is_number(value) or (self.whole and not isinstance(value, int)):
            return False
        on_grid = self.step is None or _is_whole((value - self.low) / self.step)
        return self.low <= value <= self.high and on_grid

    def distribution(self) -> Any:
        """As Optuna has it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def drawn(self, parameter: Any) -> Any:
        """The value that a parameter of Optuna stands for, to three digits where there are more."""
        if self.whole:
            return int(parameter)
        digits = _DIGITS if self.step is None else 12
        return min(max(float(f"{parameter:.{digits}g}"), float(self.low)), float(self.high))

    def parameter(self, value: Any) -> Any:
        """The inverse of `drawn`."""
        return value if self.whole else float(value)


Domain = Choices | Range


def domain_of(value: Any, key: str) -> Domain:
    """Reads an entry of `learner.search`.

    Args:
        value: a list of values, or a range with `low`, `high` and perhaps `log` or `step`.
        key: where it stands in the configuration, for messages.

    Raises:
        ConfigError: if it is neither, names a value twice, or its range is empty, or unknown to it.
    """
    if isinstance(value, Mapping):
        return _range(value, key)
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(
            f"{key}={value!r}: a list of the values to try is needed, or a range such as "
            "{low: 0.001, high: 0.1, log: true}"
        )
    for place, one in enumerate(value):
        if one in value[:place]:
            raise ConfigError(f"{key}={list(value)!r}: {one!r} stands there twice")
    return Choices(tuple(value))


def _range(value: Mapping[str, Any], key: str) -> Range:
    for name in value:
        if name not in _KEYS:
            raise ConfigError(f"unknown key {f'{key}.{name}'!r}{did_you_mean(str(name), _KEYS)}")
    for name in ("low", "high", "step"):
        number = value.get(name)
        if not (_is_number(number) or (name == "step" and number is None)):
            raise ConfigError(f"{key}.{name}={number!r}: a range needs a number there")
    low, high, step = value["low"], value["high"], value.get("step")
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{key}.log={log!r}: true or false is needed")
    if low >= high:
        raise ConfigError(f"{key}: low={low} must be below high={high}")
    if log and low <= 0:
        raise ConfigError(f"{key}: low={low} must be above 0 where log is true")
    if step is not None:
        if log:
            raise ConfigError(f"{key}: log and step exclude each other; leave one out")
        if step <= 0 or not _is_whole((high - low) / step):
            raise ConfigError(
                f"{key}: no whole number of steps of {step} leads from low={low} to high={high}"
            )
    return Range(low, high, log, step)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _is_whole(quotient: float) -> bool:
    return abs(quotient - round(quotient)) < 1e-8


def size_of(search: Mapping[str, Any]) -> float:
    """How many different values the `search` of a learner has.

    Args:
        search: argument to its values or range, as in its configuration.

    Returns:
        1 of an empty search, infinity with a range without steps.
    """
    return _product({name: domain_of(values, name) for name, values in search.items()})


def _product(space: Mapping[str, Domain]) -> float:
    return math.prod((domain.size for domain in space.values()), start=1.0)


class Proposals:
    """Which values to try next: the defaults, a few at random, then what earlier scores favour.

    The sampler is Optuna's tree-structured Parzen estimator (Bergstra, Bardenet, Bengio & Kégl
    2011). A proposal depends on the seed and on the scores of those before it, and on nothing else;
    so whoever tells the same scores again is asked for the same values again.

    Args:
        space: argument to its domain; where it is empty, the defaults are all there is.
        defaults: of each argument, in its domain.
        seed: of the draws.

    Attributes:
        size: number of different proposals that there are, infinite with a range without steps.

    Raises:
        ConfigError: if a default is not in its domain.
    """

    def __init__(self, space: Mapping[str, Domain], defaults: Mapping[str, Any], seed: int) -> None:
        for name, domain in space.items():
            if defaults[name] not in domain:
                raise ConfigError(
                    f"learner.search.{name} does not hold learner.{name}={defaults[name]!r}, with "
                    "which the trials start: widen the one or change the other"
                )
        self.size = _product(space)
        self._space = dict(space)
        self._first = {name: one.parameter(defaults[name]) for name, one in space.items()}
        self._tried: set[str] = set()
        self._trial: Any = None
        if space:
            self._start(seed)

    def ask(self) -> dict[str, Any] | None:
        """The next values, of every argument; None when all that there are were proposed.

        A number of a range without steps has three digits, the defaults too.
        """
        if len(self._tried) >= self.size:
            return None
        if not self._space:
            self._tried.add("")
            return {}
        values = self._draw()
        while repr(values) in self._tried:
            # what seems best may be proposed for ever; the sampler learns nothing from a failure
            self.tell(None)
            self._study.sampler = self._at_random
            values = self._draw()
        self._study.sampler = self._sampler
        self._tried.add(repr(values))
        return values

    def tell(self, score: float | None) -> None:
        """What came of the values that were asked for last.

        Args:
            score: the higher the better; None if the trial failed.
        """
        from optuna.trial import TrialState

        if not self._space:
            return
        if score is None:
            self._study.tell(self._trial, state=TrialState.FAIL)
        else:
            self._study.tell(self._trial, score)

    def _start(self, seed: int) -> None:
        import optuna

        self._sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed)
        # TPESampler draws at random too, by its own seed
        self._at_random = optuna.samplers.RandomSampler(seed=seed + 1)
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._study = optuna.create_study(sampler=self._sampler, direction="maximize")
        finally:
            optuna.logging.set_verbosity(before)
        self._distributions = {name: one.distribution() for name, one in self._space.items()}
        self._study.enqueue_trial(self._first)

    def _draw(self) -> dict[str, Any]:
        self._trial = self._study.ask(self._distributions)
        return {name: one.drawn(self._trial.params[name]) for name, one in self._space.items()}


def sampler_name() -> str:
    """What draws the values, with its version."""
    import optuna

    return f"TPE of Optuna {optuna.__version__}, the first {STARTUP} without it"
