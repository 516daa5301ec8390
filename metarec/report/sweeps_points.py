"""The settings that sweeps compare: one data set, split in several ways."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from metarec.errors import RunError
from metarec.report.cells import curve_regime, regimes_of
from metarec.report.collect import (
    Results,
    by_setting,
    failed_records,
    finished_records,
    results_of,
    run_name,
    setting_of,
)
from metarec.report.labels import REGIME_LABELS, Variant, sort_key
from metarec.report.provenance import Provenance, provenance_of

if TYPE_CHECKING:
    from metarec.runs.store import Record

_MODULE = "metarec.report.sweeps"
BY_SEED = "By seed, "
"""Begins the label of a setting that stands beside one by time."""

_AXES = ("split.method", "split.users", "split.items")
"""In what the settings may differ."""


@dataclass(frozen=True, eq=False)
class Point:
    """One setting of a sweep.

    Args:
        label: what it is called, as the head of a column.
        results: its runs.
        share: of users and of items, each, that is test-cold; 0 where they differ, and by time.
    """

    label: str
    results: Results
    share: float = 0.0

    @property
    def split(self) -> Any:
        """Who is cold, as configured."""
        return self.results.config.split

    def tasks(self, regime: str) -> int:
        """Number of test tasks in a regime."""
        return int(self.tested(regime)["task"].nunique())

    def candidates(self, regime: str) -> float:
        """Mean number of candidates of a test task in a regime; NaN without any."""
        return float(self.tested(regime)["n_candidates"].mean())

    def tested(self, regime: str) -> Any:
        """The test episodes of a regime, once for all learners."""
        k_shot = self.results.config.episode.k_shot
        values = self.results.select("", "test", regime, k_shot)
        return values.drop_duplicates(["task", "seed"])


@dataclass(frozen=True, eq=False)
class Sweeps:
    """What was swept.

    Args:
        points: every setting, first the base: the one with the curve over K and the most learners.
        shares: those that hold out the same share of users and items, from the least; empty if
            there are fewer than two.
        splits: by seed and by time; empty unless there are both.
    """

    points: tuple[Point, ...]
    shares: tuple[Point, ...]
    splits: tuple[Point, ...]

    @property
    def base(self) -> Point:
        """The setting of the curve over K and of the signals."""
        return self.points[0]


def sweeps_of(records: Sequence[Record], allow_mixed_versions: bool = False) -> Sweeps:
    """The settings of the records, checked.

    Args:
        records: of one data set and kind of task; failed ones are listed under the tables.
        allow_mixed_versions: whether records of different versions of the code may stand together.

    Raises:
        RunError: if there is no finished record; the records mix code versions, or settings that
            differ in more than the split; or a learner has a seed twice in one setting.
    """
    finished = _uncovered(finished_records(records, allow_mixed_versions))
    failed = failed_records(records)
    _check_axes(finished)
    points = [_point(group, failed) for group in by_setting(finished)]

    def rank(point: Point) -> tuple[bool, bool, int, float]:
        own, by_seed = point.results, point.split.method == "seed"
        return by_seed, bool(curve_regime(own)), len(own.records), -point.share

    points.sort(key=rank, reverse=True)
    shares = sorted((one for one in points if one.share), key=lambda one: one.share)
    return Sweeps(
        points=tuple(points),
        shares=tuple(shares) if len(shares) > 1 else (),
        splits=_seed_and_time(points),
    )


def regimes_in(points: Iterable[Point]) -> list[str]:
    """The regimes that were tested at any point, in the order of the tables."""
    found = {regime: None for point in points for regime in regimes_of(point.results)}
    order = list(REGIME_LABELS)
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def variants_in(points: Iterable[Point]) -> dict[Variant, Results]:
    """The rows of all points in the order of the tables, each with the first runs that have it."""
    found: dict[Variant, Results] = {}
    for point in points:
        for variant in point.results.variants:
            found.setdefault(variant, point.results)
    return {
        variant: found[variant]
        for variant in sorted(found, key=lambda one: sort_key(one, found[one].targets[one.learner]))
    }


def common(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points with the test tasks only that all of them have, regime by regime."""
    shared = {
        regime: set.intersection(*(set(point.tested(regime)["task"]) for point in points))
        for regime in regimes_in(points)
    }
    found = []
    for point in points:
        frame = point.results.per_task
        keep = frame["part"] != "test"
        for regime, tasks in shared.items():
            keep |= (frame["regime"] == regime) & frame["task"].isin(list(tasks))
        found.append(replace(point, results=replace(point.results, per_task=frame[keep])))
    return tuple(found)


def provenances(points: Sequence[Point]) -> list[Provenance]:
    """The source of each setting, which says what is cold in it."""
    found = []
    for point in points:
        own = provenance_of(point.results)
        if point.split.method == "seed":
            label = point.label.removeprefix(BY_SEED).replace("\N{NO-BREAK SPACE}", " ")
            own = replace(own, split=f"{own.split}, {label}")
        found.append(own)
    return found


def _point(group: Sequence[Record], failed: Sequence[Record]) -> Point:
    """The runs of one setting, and those of it that failed."""
    config, setting = group[0].config, _without_data(group[0])
    lost = [record for record in failed if _without_data(record) == setting]
    feedback = (config.episode.feedback,)
    results = results_of(group, lost, config.episode.task, feedback)
    assert results is not None
    results = replace(results, module=_MODULE)
    if config.split.method != "seed":
        return Point(f"By {config.split.method}", results)
    users, items = config.split.users, config.split.items
    if users == items:
        return Point(f"{_percent(users[2])} cold", results, float(users[2]))
    return Point(f"{_percent(users[2])} of users, {_percent(items[2])} of items cold", results)


def _percent(share: float) -> str:
    return f"{100 * share:g}\N{NO-BREAK SPACE}%"


def _seed_and_time(points: Sequence[Point]) -> tuple[Point, ...]:
    """The setting by time behind the one by seed that has about as many cold test tasks."""
    by_time = [point for point in points if point.split.method == "time"]
    by_seed = [point for point in points if point.split.method == "seed"]
    if not by_time or not by_seed:
        return ()
    regimes = regimes_in(by_time)
    regime = "user_cold" if "user_cold" in regimes else regimes[0]
    tasks = by_time[0].tasks(regime)
    nearest = min(by_seed, key=lambda point: abs(point.tasks(regime) - tasks))
    return replace(nearest, label=f"{BY_SEED}{nearest.label}"), by_time[0]


def _uncovered(records: Sequence[Record]) -> list[Record]:
    """The records without those of which another has measured all, such as the curve besides."""
    from metarec.runs.share import covers

    def spare(record: Record) -> bool:
        return any(
            covers(other.config, record.config) and not covers(record.config, other.config)
            for other in records
            if (other.learner, other.seed) == (record.learner, record.seed)
        )

    return [record for record in records if not spare(record)]


def _without_data(record: Record) -> dict[str, Any]:
    """The setting without the data's checksum, which a run that failed early does not know."""
    setting = _setting(record)
    del setting["the data's checksum"]
    return setting


def _setting(record: Record) -> dict[str, Any]:
    return setting_of(record) | {"episode.task": record.config.episode.task}


def _check_axes(records: Sequence[Record]) -> None:
    first = _setting(records[0])
    for record in records:
        for key, value in _setting(record).items():
            if key not in _AXES and value != first[key]:
                raise RunError(
                    f"the records differ in {key}: {first[key]} ({run_name(records[0])}) and "
                    f"{value} ({run_name(record)}). Sweeps compare splits of one data set: keep "
                    "those of others in a folder of their own, by results=…"
                )
