"""`Split`: who is cold, and the part of the data that each interaction belongs to."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int8, Int32, Int64

from metarec.data.dataset import Dataset
from metarec.errors import SplitError, did_you_mean

REGIMES = ("warm", "user_cold", "item_cold", "both_cold")
GROUPS = ("warm", "validation", "test")
PARTS = ("train", "validation", "test", "unused")

WARM, VALIDATION, TEST, ASIDE = 0, 1, 2, -1
TRAIN, UNUSED = 0, 9
_FIRST = {"validation": 1, "test": 5}

FEW_KNOWN_USERS = 100
"""Fewer warm users than this make a split in time worth a warning."""

PointInTime = int | float | str


@dataclass(frozen=True, eq=False)
class Split:
    r"""Users and items are warm, validation-cold or test-cold; each interaction is in one part.

    The groups of an interaction's user and item decide where it may lie:

    | user \ item | warm | validation-cold | test-cold |
    | --- | --- | --- | --- |
    | warm | train, or held out into `warm` | validation, `item_cold` | test, `item_cold` |
    | validation-cold | validation, `user_cold` | validation, `both_cold` | unused |
    | test-cold | test, `user_cold` | unused | test, `both_cold` |

    A warm user or item has at least one train interaction. Who was drawn to be warm and has none
    (all interactions are with cold ones), and who has no interaction at all, is set aside (group
    -1), and its interactions are unused.

    Args:
        dataset: what is split.
        user_group: [n_users] 0 warm, 1 validation-cold, 2 test-cold, -1 set aside.
        item_group: [n_items] likewise.
        part: [n] code of each interaction's part: 0 train, 1 to 4 validation and 5 to 8 test in the
            order of `REGIMES`, 9 unused.
        method: `seed`, `time`, or `given` by a publication.
        unused: reason to number of interactions that are unused for it.
        queries: [n] true where a publication says that the interaction is a query of its task, and
            all others of the task support; None where episodes draw them.

    Raises:
        SplitError: if the split does not keep these promises, or has no train interaction.
    """

    dataset: Dataset
    user_group: Int8[np.ndarray, " users"]
    item_group: Int8[np.ndarray, " items"]
    part: Int8[np.ndarray, " n"]
    method: Literal["seed", "time", "given"]
    unused: Mapping[str, int]
    queries: Bool[np.ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        for array in (self.user_group, self.item_group, self.part, self.queries):
            if array is not None:
                array.setflags(write=False)
        object.__setattr__(self, "unused", MappingProxyType(dict(self.unused)))
        self.check()

    @classmethod
    def by_seed(
        cls,
        dataset: Dataset,
        seed: int = 0,
        users: Sequence[float] = (0.7, 0.1, 0.2),
        items: Sequence[float] = (0.8, 0.1, 0.1),
        warm_holdout: Sequence[float] = (0.05, 0.10),
        without_train: Literal["aside", "cold"] = "aside",
    ) -> Split:
        """Draws at random who is cold, and which interactions of warm with warm are held out.

        Args:
            dataset: what to split.
            seed: seed of every draw.
            users: fractions of the users that are warm, validation-cold and test-cold.
            items: likewise for items.
            warm_holdout: fractions of the interactions of warm users with warm items that are held
                out for validation and for test. One interaction of each user and item always stays
                in train, so that on very sparse data fewer may be held out.
            without_train: what a warm item is whose users are all cold: set `aside`, or `cold`
                (test-cold if a test user has it, else validation-cold).

        Returns:
            The split.

        Raises:
            SplitError: if fractions are out of range or do not sum to 1, or train is empty.
        """
        _check_fractions("users", users, parts=3)
        _check_fractions("items", items, parts=3)
        _check_fractions("warm_holdout", warm_holdout, parts=2)
        rng_users, rng_items, rng_holdout = (
            np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)
        )
        user_group = _draw_groups(dataset.users, dataset.n_users, users, rng_users)
        item_group = _draw_groups(dataset.items, dataset.n_items, items, rng_items)
        if without_train == "cold":
            _make_lone_items_cold(dataset, user_group, item_group)
        part, reasons = _placed(dataset, user_group, item_group)
        pool = np.flatnonzero(part == TRAIN)
        validation, test = _hold_out(dataset, pool, warm_holdout, rng_holdout)
        part[validation] = _FIRST["validation"]
        part[test] = _FIRST["test"]
        return cls(dataset, user_group, item_group, part, "seed", _count(reasons))

    @classmethod
    def from_groups(
        cls,
        dataset: Dataset,
        user_group: Int8[np.ndarray, " users"],
        item_group: Int8[np.ndarray, " items"],
        validation: Int64[np.ndarray, " held_out"] | None = None,
        test: Int64[np.ndarray, " held_out_too"] | None = None,
        queries: Bool[np.ndarray, " n"] | None = None,
    ) -> Split:
        """The split of a publication, which says who is cold.

        Args:
            dataset: what is split.
            user_group: [n_users] 0 warm, 1 validation-cold, 2 test-cold.
            item_group: [n_items] likewise; a warm user or item without train interaction is set
                aside.
            validation: interactions of warm with warm that are held out for validation.
            test: likewise for test.
            queries: [n] as in the class.

        Returns:
            The split.

        Raises:
            SplitError: if what is held out is not of warm with warm, or train is empty.
        """
        user_group, item_group = user_group.copy(), item_group.copy()
        warm = (user_group[dataset.users] == WARM) & (item_group[dataset.items] == WARM)
        for name, rows in (("validation", validation), ("test", test)):
            if rows is not None:
                if not warm[rows].all():
                    raise SplitError(
                        f"{int((~warm[rows]).sum())} interactions that are held out for {name} are "
                        "not of a warm user with a warm item"
                    )
                warm[rows] = False
        part, reasons = _placed(dataset, user_group, item_group, warm)
        for name, rows in (("validation", validation), ("test", test)):
            if rows is not None:
                part[rows[part[rows] == TRAIN]] = _FIRST[name]
        return cls(dataset, user_group, item_group, part, "given", _count(reasons), queries)

    @classmethod
    def by_time(
        cls,
        dataset: Dataset,
        validation_from: PointInTime | None = 0.8,
        test_from: PointInTime = 0.9,
    ) -> Split:
        """Cuts at two points in time: who first appears after a point is cold from then on.

        A user or item is test-cold if its first interaction lies at or after `test_from`,
        validation-cold if it lies at or after `validation_from` and before `test_from`, else warm.
        Interactions of warm with warm are train before `validation_from`, and are held out into
        `warm` of validation and test after. What a validation-cold user or item does in the test
        period is unused: it is no longer new then.

        Args:
            dataset: what to split; needs timestamps.
            validation_from: where validation begins: seconds since 1970 in UTC, an ISO date (UTC
                unless it says otherwise), or a float between 0 and 1, the fraction of all
                interactions that lie before. None for no validation.
            test_from: where test begins, likewise.

        Returns:
            The split. A warning is given where fewer than 100 users are warm.

        Raises:
            SplitError: if there are no timestamps, the points are in the wrong order, or train is
                empty.
        """
        if dataset.times is None:
            raise SplitError(
                f"data set {dataset.name!r} has no timestamps, so it cannot be split in time; "
                "use Split.by_seed (split=seed)"
            )
        times = dataset.times
        test = _seconds("test_from", test_from, times)
        validation = (
            test if validation_from is None else _seconds("validation_from", validation_from, times)
        )
        if validation > test:
            raise SplitError(
                f"validation_from={validation_from!r} lies after test_from={test_from!r} "
                f"({validation} > {test} seconds since 1970); put it before"
            )
        if times.min() >= validation:
            raise SplitError(
                f"no interaction of data set {dataset.name!r} lies before {validation} seconds "
                f"since 1970 (the first is at {times.min()}), so train is empty; choose a later "
                "validation_from and test_from"
            )
        period = (times >= validation).astype(np.int8) + (times >= test).astype(np.int8)
        user_group = _first_period(dataset.users, dataset.n_users, period)
        item_group = _first_period(dataset.items, dataset.n_items, period)
        of_user, of_item = user_group[dataset.users], item_group[dataset.items]

        late = period == TEST
        reasons = {
            "a validation user in the test period": late
            & (of_user == VALIDATION)
            & (of_item != TEST),
            "a validation item in the test period": late
            & (of_item == VALIDATION)
            & (of_user == WARM),
        }
        part = _place(of_user, of_item, reasons)
        both_warm = part == TRAIN
        part[both_warm & (period == VALIDATION)] = _FIRST["validation"]
        part[both_warm & late] = _FIRST["test"]
        split = cls(dataset, user_group, item_group, part, "time", _count(reasons))
        known = len(split.users_of("warm"))
        if known < FEW_KNOWN_USERS:
            warnings.warn(
                f"the split of {dataset.name!r} in time leaves {known} known users, fewer than "
                f"{FEW_KNOWN_USERS}: results will be noisy; consider Split.by_seed, or later "
                "points in time",
                stacklevel=2,
            )
        return split

    @property
    def checksum(self) -> str:
        """SHA-256 over who is cold, the part of each interaction, and the queries if given."""
        digest = hashlib.sha256()
        for array in (self.user_group, self.item_group, self.part, self.queries):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def rows(self, part: str, regime: str | None = None) -> Int64[np.ndarray, " m"]:
        """Returns the indices of the interactions of a part, ascending.

        Args:
            part: `train`, `validation`, `test` or `unused`.
            regime: one of `REGIMES`, for validation and test; None for all four.

        Raises:
            SplitError: if there is no such part or regime.
        """
        _check_name("part", part, PARTS)
        if regime is not None:
            _check_name("regime", regime, REGIMES)
        if part in _FIRST:
            first = _FIRST[part]
            if regime is not None:
                return np.flatnonzero(self.part == first + REGIMES.index(regime))
            return np.flatnonzero((self.part >= first) & (self.part < first + len(REGIMES)))
        if regime is not None:
            raise SplitError(f"part {part!r} has no regimes; leave regime={regime!r} out")
        return np.flatnonzero(self.part == (TRAIN if part == "train" else UNUSED))

    def users_of(self, group: str) -> Int32[np.ndarray, " m"]:
        """Returns the indices of the users that are `warm`, `validation`- or `test`-cold."""
        _check_name("group", group, GROUPS)
        return np.flatnonzero(self.user_group == GROUPS.index(group)).astype(np.int32)

    def items_of(self, group: str) -> Int32[np.ndarray, " m"]:
        """Returns the indices of the items that are `warm`, `validation`- or `test`-cold."""
        _check_name("group", group, GROUPS)
        return np.flatnonzero(self.item_group == GROUPS.index(group)).astype(np.int32)

    def card(self, threshold: float | None = None) -> pd.DataFrame:
        """Counts what is in each part and regime; the interactions sum to those of the data set.

        Args:
            threshold: lowest rating of a positive, in units of the rating; None to count none.

        Returns:
            Ten rows with columns part, regime (empty for train and unused), interactions, users,
            items and, with a threshold, positives. Reasons are in `unused`.
        """
        counts = []
        for part in PARTS:
            for regime in REGIMES if part in _FIRST else (None,):
                rows = self.rows(part, regime)
                count: dict[str, object] = {
                    "part": part,
                    "regime": regime or "",
                    "interactions": len(rows),
                    "users": int(_occurs(self.dataset.users[rows], self.dataset.n_users).sum()),
                    "items": int(_occurs(self.dataset.items[rows], self.dataset.n_items).sum()),
                }
                if threshold is not None:
                    count["positives"] = int((self.dataset.ratings[rows] >= threshold).sum())
                counts.append(count)
        return pd.DataFrame(counts)

    def check(self) -> None:
        """Raises SplitError if the split leaks, loses an interaction, or has an empty train."""
        data = self.dataset
        for name, array, size in (
            ("user_group", self.user_group, data.n_users),
            ("item_group", self.item_group, data.n_items),
            ("part", self.part, len(data)),
            ("queries", self.queries, len(data)),
        ):
            if array is not None and len(array) != size:
                raise SplitError(f"{name} has {len(array)} entries, not {size}")
        for name, group in (
            ("user_group", self.user_group),
            ("item_group", self.item_group),
        ):
            if len(group) and (group.min() < ASIDE or group.max() > TEST):
                raise SplitError(f"{name} has a code outside {ASIDE} to {TEST}")
        if self.part.min() < TRAIN or self.part.max() > UNUSED:
            raise SplitError(f"part has a code outside {TRAIN} to {UNUSED}")
        train = self.part == TRAIN
        if not train.any():
            raise SplitError(
                f"the split of data set {data.name!r} has no train interaction; give a larger "
                "fraction, or a later point in time, to train"
            )
        of_user, of_item = self.user_group[data.users], self.item_group[data.items]
        lawful = _lawful()[of_user, of_item, self.part]
        if not lawful.all():
            row = int(np.flatnonzero(~lawful)[0])
            raise SplitError(
                f"the split leaks: interaction {row} is in part {self.part[row]}, where a user of "
                f"group {of_user[row]} with an item of group {of_item[row]} may not be"
            )
        for label, index, group in (
            ("user", data.users, self.user_group),
            ("item", data.items, self.item_group),
        ):
            lone = (group == WARM) & ~_occurs(index[train], len(group))
            if lone.any():
                raise SplitError(
                    f"{label} {int(np.flatnonzero(lone)[0])} counts as warm without a train "
                    "interaction"
                )
        unused = int((self.part == UNUSED).sum())
        if sum(self.unused.values()) != unused:
            raise SplitError(
                f"the reasons account for {sum(self.unused.values())} unused interactions, there "
                f"are {unused}"
            )
        if self.method == "time":
            self._check_order()

    def _check_order(self) -> None:
        if self.dataset.times is None:
            raise SplitError("a split in time of a data set without timestamps")
        end = None
        for part in ("train", "validation", "test"):
            times = self.dataset.times[self.rows(part)]
            if len(times) == 0:
                continue
            if end is not None and times.min() <= end:
                raise SplitError(f"the split leaks: {part} begins before the part before it ends")
            end = times.max()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part} {len(self.rows(part)):,}" for part in PARTS)
        return f"Split({self.dataset.name!r} by {self.method}: {sizes})"


def _check_name(argument: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise SplitError(f"there is no {argument} {name!r}{did_you_mean(name, known)}")


def _check_fractions(argument: str, fractions: Sequence[float], parts: int) -> None:
    values = tuple(float(value) for value in fractions)
    if len(values) != parts:
        raise SplitError(f"{argument}={values} needs {parts} fractions")
    if not all(0 <= value <= 1 for value in values):
        raise SplitError(f"{argument}={values}: each fraction must lie between 0 and 1")
    if parts == len(GROUPS) and not np.isclose(sum(values), 1, atol=1e-6):
        raise SplitError(f"{argument}={values} must sum to 1, not {sum(values):g}")
    if parts < len(GROUPS) and sum(values) >= 1:
        raise SplitError(f"{argument}={values} must sum to less than 1, or train would be empty")


def _occurs(index: Int32[np.ndarray, " m"], size: int) -> Bool[np.ndarray, " size"]:
    present = np.zeros(size, dtype=bool)
    present[index] = True
    return present


def _draw_groups(
    index: Int32[np.ndarray, " n"],
    size: int,
    fractions: Sequence[float],
    rng: np.random.Generator,
) -> Int8[np.ndarray, " size"]:
    drawn = rng.permutation(np.flatnonzero(_occurs(index, size)))
    n_validation = round(fractions[1] * len(drawn))
    n_test = min(round(fractions[2] * len(drawn)), len(drawn) - n_validation)
    group = np.full(size, ASIDE, dtype=np.int8)
    group[drawn] = WARM
    group[drawn[:n_validation]] = VALIDATION
    group[drawn[n_validation : n_validation + n_test]] = TEST
    return group


def _first_period(
    index: Int32[np.ndarray, " n"], size: int, period: Int8[np.ndarray, " n"]
) -> Int8[np.ndarray, " size"]:
    group = np.full(size, ASIDE, dtype=np.int8)
    for code in (TEST, VALIDATION, WARM):
        group[index[period == code]] = code
    return group


def _placed(
    dataset: Dataset,
    user_group: Int8[np.ndarray, " users"],
    item_group: Int8[np.ndarray, " items"],
    train: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Int8[np.ndarray, " n"], dict[str, Bool[np.ndarray, " n"]]]:
    """Codes of the parts by the groups, from which warm ones without train are set aside.

    Train may be wherever `train` is true, or both are warm. Returns the codes, all of warm with
    warm in train, and why interactions are unused.
    """
    if train is None:
        train = (user_group[dataset.users] == WARM) & (item_group[dataset.items] == WARM)
    reasons = {}
    for label, others, index, group in (
        ("user", "items", dataset.users, user_group),
        ("item", "users", dataset.items, item_group),
    ):
        reasons[f"the {label} is in no group"] = (group == ASIDE)[index]
        lone = (group == WARM) & ~_occurs(index[train], len(group))
        reasons[f"the {label} has no train interaction: its {others} are cold or held out"] = lone[
            index
        ]
        group[lone] = ASIDE
    return _place(user_group[dataset.users], item_group[dataset.items], reasons), reasons


def _make_lone_items_cold(
    dataset: Dataset, user_group: Int8[np.ndarray, " users"], item_group: Int8[np.ndarray, " items"]
) -> None:
    """Warm items without a warm user become cold with their users: of test before validation."""
    of_user = user_group[dataset.users]
    present = [_occurs(dataset.items[of_user == code], dataset.n_items) for code in range(3)]
    lone = (item_group == WARM) & ~present[WARM]
    item_group[lone & present[VALIDATION]] = VALIDATION
    item_group[lone & present[TEST]] = TEST


def _place(
    of_user: Int8[np.ndarray, " n"],
    of_item: Int8[np.ndarray, " n"],
    reasons: dict[str, Bool[np.ndarray, " n"]],
) -> Int8[np.ndarray, " n"]:
    """Codes by the groups alone, all warm with warm in train; completes the reasons of unused."""
    reasons["a validation user on a test item"] = (of_user == VALIDATION) & (of_item == TEST)
    reasons["a test user on a validation item"] = (of_user == TEST) & (of_item == VALIDATION)
    # Row and column -1 (set aside) wrap to the last, which is all unused.
    table = np.full((4, 4), UNUSED, dtype=np.int8)
    table[WARM, WARM] = TRAIN
    for group, first in ((VALIDATION, _FIRST["validation"]), (TEST, _FIRST["test"])):
        table[group, WARM] = first + REGIMES.index("user_cold")
        table[WARM, group] = first + REGIMES.index("item_cold")
        table[group, group] = first + REGIMES.index("both_cold")
    part: Int8[np.ndarray, " n"] = table[of_user, of_item]
    # An interaction of two that were set aside, or late for two reasons, is counted once: at the
    # first reason.
    counted = np.zeros(len(part), dtype=bool)
    for reason, where in reasons.items():
        reasons[reason] = where & ~counted
        counted |= where
    part[counted] = UNUSED
    return part


def _lawful() -> Bool[np.ndarray, "4 4 10"]:
    """[user group, item group, part] true where an interaction may lie; -1 wraps to the last."""
    table = np.zeros((4, 4, UNUSED + 1), dtype=bool)
    table[:, :, UNUSED] = True
    table[WARM, WARM] = False
    table[WARM, WARM, [TRAIN, _FIRST["validation"], _FIRST["test"]]] = True
    for group, first in ((VALIDATION, _FIRST["validation"]), (TEST, _FIRST["test"])):
        table[group, WARM, first + REGIMES.index("user_cold")] = True
        table[WARM, group, first + REGIMES.index("item_cold")] = True
        table[group, group, first + REGIMES.index("both_cold")] = True
    return table


def _hold_out(
    dataset: Dataset,
    pool: Int64[np.ndarray, " m"],
    fractions: Sequence[float],
    rng: np.random.Generator,
) -> tuple[Int64[np.ndarray, " validation"], Int64[np.ndarray, " test"]]:
    """Rows of `pool` for validation and test, so that each user and item keeps one in train."""
    order = rng.permutation(len(pool))
    users, items = dataset.users[pool[order]], dataset.items[pool[order]]
    # Of repeated indices the last assignment stays, so reversed the first in the random order does.
    backwards = np.arange(len(order))[::-1]
    anchor_of_item = np.full(dataset.n_items, -1)
    anchor_of_item[items[::-1]] = backwards
    stays = np.zeros(len(order), dtype=bool)
    stays[anchor_of_item[anchor_of_item >= 0]] = True
    # Users whom an item's anchor already keeps in train need none of their own.
    anchor_of_user = np.full(dataset.n_users, -1)
    anchor_of_user[users[::-1]] = backwards
    anchor_of_user[users[stays]] = -1
    stays[anchor_of_user[anchor_of_user >= 0]] = True
    free = pool[order[~stays]]
    n_validation, n_test = (round(fraction * len(pool)) for fraction in fractions)
    if n_validation + n_test > len(free):
        # Too sparse to hold out all that was asked: both parts shrink alike.
        n_validation = n_validation * len(free) // (n_validation + n_test)
        n_test = len(free) - n_validation
    return free[:n_validation], free[n_validation : n_validation + n_test]


def _count(reasons: Mapping[str, Bool[np.ndarray, " n"]]) -> dict[str, int]:
    return {reason: int(where.sum()) for reason, where in reasons.items() if where.any()}


def _seconds(argument: str, point: PointInTime, times: Int64[np.ndarray, " n"]) -> int:
    """Seconds since 1970 of a point in time, an ISO date, or a quantile of `times`."""
    if isinstance(point, bool):
        raise SplitError(f"{argument}={point!r} is not a point in time")
    if isinstance(point, str):
        try:
            moment = pd.Timestamp(point)
        except ValueError as error:
            raise SplitError(
                f"{argument}={point!r} is not an ISO date such as '2015-06-30'"
            ) from error
        if pd.isna(moment):
            raise SplitError(f"{argument}={point!r} is not an ISO date such as '2015-06-30'")
        utc = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
        return int(np.ceil(utc.timestamp()))
    if not np.isfinite(point):
        raise SplitError(f"{argument}={point!r} is not a point in time")
    if isinstance(point, float) and 0 < point < 1:
        return int(np.quantile(times, point, method="higher"))
    return int(np.ceil(point))
