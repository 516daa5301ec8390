"""Splits: who is cold, where each interaction lies, and that nothing leaks."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.data.dataset import CleaningReport, Dataset
from metarec.errors import SplitError
from metarec.splits import REGIMES, Split

DAY = 86_400


def make_dataset(
    users: np.ndarray,
    items: np.ndarray,
    times: np.ndarray | None = None,
    n_users: int | None = None,
    n_items: int | None = None,
) -> Dataset:
    n = len(users)
    n_users = n_users or int(users.max()) + 1
    n_items = n_items or int(items.max()) + 1
    ratings = (1 + (users + items) % 5).astype(np.float32)
    return Dataset(
        name="tiny",
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        ratings=ratings,
        times=None if times is None else times.astype(np.int64),
        user_ids=np.array([f"u{u}" for u in range(n_users)]),
        item_ids=np.array([f"i{i}" for i in range(n_items)]),
        item_text=pd.DataFrame({"title": [f"film {i}" for i in range(n_items)]}),
        user_text=None,
        feedback="rating",
        rating_scale=(1.0, 5.0),
        report=CleaningReport(read=n, kept=n),
    )


def random_dataset(seed: int, n: int, n_users: int, n_items: int, timed: bool = True) -> Dataset:
    """Distinct pairs; some users and items may have no interaction."""
    rng = np.random.default_rng(seed)
    pairs = rng.choice(n_users * n_items, size=min(n, n_users * n_items), replace=False)
    times = rng.integers(0, 50, len(pairs)) * DAY if timed else None
    return make_dataset(pairs // n_items, pairs % n_items, times, n_users, n_items)


datasets = st.builds(
    random_dataset,
    seed=st.integers(0, 10_000),
    n=st.integers(5, 300),
    n_users=st.integers(3, 40),
    n_items=st.integers(3, 40),
)
seeds = st.integers(0, 2**32)


def quietly(split: Callable[[], Split]) -> Split | None:
    """The split, or None where the data are too few for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return split()
        except SplitError:
            return None


def both_ways(dataset: Dataset, seed: int) -> list[Split]:
    found = [
        quietly(lambda: Split.by_seed(dataset, seed)),
        quietly(lambda: Split.by_time(dataset, 0.6, 0.8)),
    ]
    return [split for split in found if split is not None]


@given(datasets, seeds)
@settings(max_examples=60, deadline=None)
def test_each_interaction_is_in_exactly_one_part(dataset: Dataset, seed: int) -> None:
    for split in both_ways(dataset, seed):
        parts = [split.rows("train"), split.rows("unused")]
        parts += [split.rows(part, regime) for part in ("validation", "test") for regime in REGIMES]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(dataset)))


@given(datasets, seeds)
@settings(max_examples=60, deadline=None)
def test_a_part_is_the_union_of_its_regimes(dataset: Dataset, seed: int) -> None:
    for split in both_ways(dataset, seed):
        for part in ("validation", "test"):
            regimes = np.concatenate([split.rows(part, regime) for regime in REGIMES])
            assert np.array_equal(np.sort(regimes), split.rows(part))


@given(datasets, seeds)
@settings(max_examples=60, deadline=None)
def test_train_holds_warm_users_and_items_only_and_all_of_them(dataset: Dataset, seed: int) -> None:
    for split in both_ways(dataset, seed):
        train = split.rows("train")
        assert np.array_equal(np.unique(dataset.users[train]), split.users_of("warm"))
        assert np.array_equal(np.unique(dataset.items[train]), split.items_of("warm"))


@given(datasets, seeds)
@settings(max_examples=60, deadline=None)
def test_a_regime_says_who_is_cold(dataset: Dataset, seed: int) -> None:
    for split in both_ways(dataset, seed):
        for part in ("validation", "test"):
            for regime in REGIMES:
                rows = split.rows(part, regime)
                users = part if regime in ("user_cold", "both_cold") else "warm"
                items = part if regime in ("item_cold", "both_cold") else "warm"
                assert np.isin(dataset.users[rows], split.users_of(users)).all()
                assert np.isin(dataset.items[rows], split.items_of(items)).all()


@given(datasets, seeds)
@settings(max_examples=60, deadline=None)
def test_the_card_and_the_reasons_add_up(dataset: Dataset, seed: int) -> None:
    for split in both_ways(dataset, seed):
        card = split.card(threshold=4.0)
        assert card["interactions"].sum() == len(dataset)
        assert card["positives"].sum() == (dataset.ratings >= 4).sum()
        assert sum(split.unused.values()) == len(split.rows("unused"))


@given(datasets, seeds)
@settings(max_examples=30, deadline=None)
def test_the_same_seed_gives_the_same_split(dataset: Dataset, seed: int) -> None:
    first, second = (quietly(lambda: Split.by_seed(dataset, seed)) for _ in range(2))
    if first is None or second is None:
        assert first is second
        return
    for name in ("user_group", "item_group", "part"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


@given(datasets, st.floats(0.1, 0.9), st.floats(0.1, 0.9))
@settings(max_examples=60, deadline=None)
def test_parts_of_a_split_in_time_follow_each_other(dataset: Dataset, a: float, b: float) -> None:
    split = quietly(lambda: Split.by_time(dataset, min(a, b), max(a, b)))
    if split is None:
        return
    times = dataset.times
    assert times is not None
    latest = times[split.rows("train")].max()
    for part in ("validation", "test"):
        if len(split.rows(part)):
            assert times[split.rows(part)].min() > latest
            latest = times[split.rows(part)].max()


def test_fractions_are_met() -> None:
    dataset = random_dataset(0, 20_000, 400, 300)
    split = Split.by_seed(dataset, 3)
    assert [len(split.users_of(g)) for g in ("warm", "validation", "test")] == [
        280,
        40,
        80,
    ]
    assert [len(split.items_of(g)) for g in ("warm", "validation", "test")] == [
        240,
        30,
        30,
    ]
    of_warm = [
        split.rows("train"),
        split.rows("validation", "warm"),
        split.rows("test", "warm"),
    ]
    total = sum(map(len, of_warm))
    assert [len(rows) / total for rows in of_warm] == pytest.approx([0.85, 0.05, 0.10], abs=1e-3)


def test_another_seed_gives_another_split() -> None:
    dataset = random_dataset(0, 2_000, 100, 100)
    assert not np.array_equal(
        Split.by_seed(dataset, 0).user_group, Split.by_seed(dataset, 1).user_group
    )


def test_the_groups_of_a_split_by_seed_do_not_depend_on_the_held_out_share() -> None:
    dataset = random_dataset(0, 2_000, 100, 100)
    a, b = Split.by_seed(dataset), Split.by_seed(dataset, warm_holdout=(0.2, 0.2))
    assert np.array_equal(a.user_group, b.user_group)
    assert np.array_equal(a.item_group, b.item_group)


def test_without_cold_users_and_items_all_is_warm() -> None:
    dataset = random_dataset(0, 500, 30, 30)
    split = Split.by_seed(
        dataset, users=(1.0, 0.0, 0.0), items=(1.0, 0.0, 0.0), warm_holdout=(0.0, 0.0)
    )
    assert len(split.rows("train")) == len(dataset)
    assert dict(split.unused) == {}


def test_one_interaction_a_user_is_never_held_out() -> None:
    dataset = make_dataset(np.arange(50), np.arange(50))
    split = Split.by_seed(
        dataset, users=(1.0, 0.0, 0.0), items=(1.0, 0.0, 0.0), warm_holdout=(0.4, 0.4)
    )
    assert len(split.rows("train")) == 50


def test_who_is_drawn_warm_but_met_only_cold_ones_is_set_aside_and_counted() -> None:
    # One user and one item: whoever is warm has only the cold one to meet.
    users, items = np.array([0, 0, 1]), np.array([0, 1, 2])
    found = set()
    for seed in range(40):
        split = quietly(
            lambda seed=seed: Split.by_seed(
                make_dataset(users, items),
                seed,
                users=(1.0, 0.0, 0.0),
                items=(2 / 3, 0.0, 1 / 3),
                warm_holdout=(0.0, 0.0),
            )
        )
        if split is not None and split.unused:
            assert list(split.users_of("warm")) == [0]
            found.update(split.unused.items())
    assert found == {("the user has no train interaction: its items are cold or held out", 1)}


def by_hand() -> tuple[Dataset, Split]:
    """User u first appears at time 10u and item i at time 10i; cut at 10 and 20."""
    rows = [  # user, item, time
        (0, 0, 0),  # train
        (0, 0, 10),  # validation, warm
        (0, 0, 20),  # test, warm
        (1, 0, 11),  # validation, user_cold
        (0, 1, 12),  # validation, item_cold
        (1, 1, 13),  # validation, both_cold
        (2, 0, 21),  # test, user_cold
        (0, 2, 22),  # test, item_cold
        (2, 2, 23),  # test, both_cold
        (1, 0, 24),  # unused: the user is new no longer
        (0, 1, 25),  # unused: the item is new no longer
        (1, 1, 26),  # unused: both
        (1, 2, 27),  # unused: validation user, test item
        (2, 1, 28),  # unused: test user, validation item
    ]
    users, items, times = np.array(rows).T
    dataset = make_dataset(users, items, times)
    with pytest.warns(UserWarning, match="1 known users"):
        return dataset, Split.by_time(dataset, 10, 20)


def test_a_split_in_time_places_by_groups_and_time() -> None:
    _, split = by_hand()
    assert list(split.part) == [0, 1, 5, 2, 3, 4, 6, 7, 8, 9, 9, 9, 9, 9]
    assert dict(split.unused) == {
        "a validation user in the test period": 2,
        "a validation item in the test period": 1,
        "a validation user on a test item": 1,
        "a test user on a validation item": 1,
    }


def test_the_card_counts_each_part() -> None:
    _, split = by_hand()
    card = split.card().set_index(["part", "regime"])
    assert list(card.columns) == ["interactions", "users", "items"]
    assert tuple(card.loc[("train", "")]) == (1, 1, 1)
    assert tuple(card.loc[("test", "both_cold")]) == (1, 1, 1)
    assert tuple(card.loc[("unused", "")]) == (5, 3, 3)


def test_points_in_time_are_seconds_dates_or_shares() -> None:
    times = np.arange(10) * DAY
    dataset = make_dataset(np.arange(10) % 3, np.arange(10) % 4, times)
    splits = [
        quietly(lambda cut=cut: Split.by_time(dataset, *cut))
        for cut in [
            (5 * DAY, 8 * DAY),
            ("1970-01-06", "1970-01-09T00:00+00:00"),
            (0.5, 0.8),
        ]
    ]
    for split in splits:
        assert split is not None
        assert list(split.rows("train")) == [0, 1, 2, 3, 4]
        assert np.array_equal(split.part, splits[0].part)  # type: ignore[union-attr]


def test_a_split_in_time_may_have_no_validation() -> None:
    dataset = random_dataset(1, 500, 20, 20)
    split = quietly(lambda: Split.by_time(dataset, None, 0.7))
    assert split is not None
    assert len(split.rows("validation")) == 0
    assert len(split.rows("train")) + len(split.rows("test")) == len(dataset)


def test_enough_known_users_give_no_warning() -> None:
    dataset = random_dataset(2, 5_000, 150, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Split.by_time(dataset).users_of("warm")) >= 100


def test_no_timestamps_cannot_be_split_in_time() -> None:
    with pytest.raises(SplitError, match=r"no timestamps.*by_seed"):
        Split.by_time(random_dataset(0, 100, 10, 10, timed=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"validation_from": 0.9, "test_from": 0.5},
            "validation_from=0.9 lies after test_from=0.5",
        ),
        (
            {"test_from": "yesterday-ish"},
            "test_from='yesterday-ish' is not an ISO date",
        ),
        (
            {"validation_from": float("nan")},
            "validation_from=nan is not a point in time",
        ),
        ({"validation_from": -5, "test_from": -1}, "train is empty"),
    ],
)
def test_points_in_time_that_make_no_sense_are_refused(
    arguments: dict[str, float | str], message: str
) -> None:
    with pytest.raises(SplitError, match=message):
        Split.by_time(random_dataset(0, 200, 10, 10), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": (0.7, 0.1, 0.1)}, r"users=.* must sum to 1, not 0\.9"),
        ({"items": (0.5, 0.5)}, "items=.* needs 3 fractions"),
        ({"items": (1.2, -0.1, -0.1)}, "items=.*between 0 and 1"),
        ({"users": (float("nan"), 0.5, 0.5)}, "users=.*between 0 and 1"),
        ({"warm_holdout": (0.5, 0.5)}, "warm_holdout=.*less than 1"),
        ({"users": (0.0, 0.5, 0.5)}, "no train interaction"),
    ],
)
def test_fractions_that_make_no_sense_are_refused(
    arguments: dict[str, tuple[float, ...]], message: str
) -> None:
    with pytest.raises(SplitError, match=message):
        Split.by_seed(random_dataset(0, 200, 10, 10), **arguments)  # type: ignore[arg-type]


def test_wrong_names_of_parts_regimes_and_groups_are_refused() -> None:
    split = Split.by_seed(random_dataset(0, 500, 20, 20))
    with pytest.raises(SplitError, match="'tset'; did you mean 'test'"):
        split.rows("tset")
    with pytest.raises(SplitError, match="'user-cold'; did you mean 'user_cold'"):
        split.rows("test", "user-cold")
    with pytest.raises(SplitError, match="'train' has no regimes"):
        split.rows("train", "warm")
    with pytest.raises(SplitError, match="no group 'cold'"):
        split.users_of("cold")
    with pytest.raises(SplitError, match="no group 'cold'"):
        split.items_of("cold")


def test_a_split_is_frozen() -> None:
    split = Split.by_seed(random_dataset(0, 500, 20, 20))
    for array in (split.part, split.user_group, split.item_group):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        split.unused["x"] = 1  # type: ignore[index]


def broken(split: Split, **changes: object) -> Split:
    return replace(split, **changes)  # type: ignore[arg-type]


def test_leaks_and_losses_are_found() -> None:
    dataset = random_dataset(0, 2_000, 60, 60)
    split = Split.by_seed(dataset)

    part = split.part.copy()
    part[split.rows("test", "user_cold")[0]] = 0
    with pytest.raises(SplitError, match="leaks: interaction"):
        broken(split, part=part)

    part = split.part.copy()
    part[split.rows("train")[0]] = 9
    with pytest.raises(SplitError, match="leaks: interaction"):
        broken(split, part=part)

    part = split.part.copy()
    user = split.users_of("warm")[0]
    part[(part == 0) & (dataset.users == user)] = 1
    with pytest.raises(SplitError, match=f"user {user} counts as warm without"):
        broken(split, part=part)

    with pytest.raises(SplitError, match="reasons account for 0"):
        broken(split, unused={})
    with pytest.raises(SplitError, match="part has a code"):
        broken(split, part=np.full(len(dataset), 10, dtype=np.int8))
    with pytest.raises(SplitError, match="user_group has a code"):
        broken(split, user_group=np.full(dataset.n_users, 3, dtype=np.int8))
    with pytest.raises(SplitError, match="item_group has 3 entries, not 60"):
        broken(split, item_group=np.zeros(3, dtype=np.int8))


def test_a_split_in_time_that_runs_backwards_is_found() -> None:
    dataset, split = by_hand()
    assert dataset.times is not None
    with pytest.raises(SplitError, match="begins before the part before it ends"):
        broken(split, dataset=replace(dataset, times=dataset.times[::-1].copy()))


def test_two_million_interactions_split_in_seconds() -> None:
    # Counted in processor time; about a second here, and minutes if anything loops in Python.
    rng = np.random.default_rng(0)
    n = 2_000_000
    dataset = make_dataset(
        rng.integers(0, 20_000, n),
        rng.integers(0, 10_000, n),
        rng.integers(0, 10**9, n),
    )
    start = time.process_time()
    Split.by_seed(dataset)
    Split.by_time(dataset)
    assert time.process_time() - start < 20
