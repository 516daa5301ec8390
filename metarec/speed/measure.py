"""Timing: interleaved repeats after a warm-up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from metarec.speed.work import Contender


@dataclass
class Measured:
    """What was measured of a piece of work.

    Args:
        contenders: those that were not left out, by name.
        first_seconds: of the first call, compilation included.
        seconds: of a call, repeat by repeat.
        left_out: the reason for each contender that failed in the warm-up.
        mebibytes: the most memory above that before the step, by contender, process by process.
        operators: share of the time by operator, by contender.
    """

    contenders: Mapping[str, Contender] = field(default_factory=dict)
    first_seconds: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    mebibytes: dict[str, list[float]] = field(default_factory=dict)
    operators: dict[str, dict[str, float]] = field(default_factory=dict)

    def milliseconds(self, name: str) -> float:
        """Median over the repeats, of one item of the contender (task, episode or step)."""
        return 1000 * median(self.seconds[name]) / self.contenders[name].items

    def details(self) -> dict[str, Any]:
        """All of it, for JSON."""
        found: dict[str, Any] = {}
        for name, contender in self.contenders.items():
            found[name] = {
                "milliseconds": self.milliseconds(name),
                "items": contender.items,
                "gflop": contender.gflop,
                "seconds_of_first_call": self.first_seconds[name],
                "seconds_of_a_call": self.seconds[name],
            }
            if name in self.mebibytes:
                found[name]["peak_mebibytes"] = self.mebibytes[name]
            if name in self.operators:
                found[name]["share_of_time"] = self.operators[name]
        return found | {name: {"left_out": reason} for name, reason in self.left_out.items()}


def interleaved(
    contenders: Mapping[str, Contender],
    repeats: int,
    least_seconds: float = 0.0,
    advance: Callable[[], None] = lambda: None,
) -> Measured:
    """Times contenders in turn, so that whatever else the machine does meets all of them alike.

    Args:
        contenders: by name; each is called once before, which does not count.
        repeats: in each repeat every contender has one turn.
        least_seconds: a turn repeats a short call for so long and counts the mean, since training
            is one step after another.
        advance: called after each turn, warm-up included.

    Returns:
        Seconds of a call, one number for each contender and repeat.
    """
    measured, running = Measured(), {}
    for name, contender in contenders.items():
        begin = time.perf_counter()
        try:
            contender.call()
        except Exception as error:
            if not contender.optional:
                raise
            lines = str(error).strip().splitlines() or [""]
            measured.left_out[name] = f"{type(error).__name__}: {lines[0]}"
        else:
            running[name] = contender
            measured.first_seconds[name] = time.perf_counter() - begin
        advance()
    measured.contenders, measured.seconds = running, {name: [] for name in running}
    for _ in range(repeats):
        for name, contender in running.items():
            calls, begin = 0, time.perf_counter()
            while True:
                contender.call()
                calls += 1
                passed = time.perf_counter() - begin
                if passed >= least_seconds:
                    break
            measured.seconds[name].append(passed / calls)
            advance()
    return measured


@contextmanager
def one_core() -> Iterator[None]:
    """Keeps this process on one core, where the system allows it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
