"""The data set itself: checked when made, immutable, and its filters account for every row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarec.data import CleaningReport, Dataset
from metarec.errors import DataError


def dataset(pairs, **changes) -> Dataset:
    users, items = (np.array(side, dtype=np.int32) for side in zip(*pairs, strict=True))
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    columns = {
        "name": "sample",
        "users": users,
        "items": items,
        "ratings": np.full(len(users), 3, dtype=np.float32),
        "times": np.arange(len(users), dtype=np.int64),
        "user_ids": np.array([f"u{user}" for user in range(n_users)]),
        "item_ids": np.array([f"i{item}" for item in range(n_items)]),
        "item_text": pd.DataFrame({"title": [f"title {item}" for item in range(n_items)]}),
        "user_text": None,
        "feedback": "rating",
        "rating_scale": (1.0, 5.0),
        "report": CleaningReport(read=len(users), kept=len(users)),
    }
    return Dataset(**{**columns, **changes})


PAIRS = [(0, 0), (0, 1), (1, 0), (2, 2)]


def test_the_columns_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        dataset(PAIRS).ratings[0] = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratings": np.float32([1, 2, np.inf, 4])}, "rating of interaction 2 is not finite"),
        ({"users": np.int32([0, 1, 2, 9])}, "user index out of range: 0 to 9 with 3 users"),
        ({"item_text": pd.DataFrame({"title": ["a"]})}, "item_text has 1 rows for 3 items"),
        ({"user_text": pd.DataFrame({"age": ["a"]})}, "user_text has 1 rows for 3 users"),
        ({"report": CleaningReport(read=9, kept=9)}, "report keeps 9 rows, there are 4"),
    ],
)
def test_what_does_not_fit_together_is_an_error(changes, message):
    with pytest.raises(DataError, match=message):
        dataset(PAIRS, **changes)


def test_a_report_that_does_not_add_up_is_an_error():
    with pytest.raises(DataError, match="read 10, kept 8"):
        CleaningReport(read=10, kept=8, dropped={"bad": 1})


def test_filtering_keeps_ids_and_text_with_their_interactions():
    kept = dataset(PAIRS).keep(np.array([False, False, True, True]), "a filter")
    assert kept.user_ids[kept.users].tolist() == ["u1", "u2"]
    assert kept.item_ids[kept.items].tolist() == ["i0", "i2"]
    assert kept.item_text["title"].tolist() == ["title 0", "title 2"]
    assert kept.times.tolist() == [2, 3]
    assert kept.report.dropped == {"a filter": 2}


def test_a_filter_that_leaves_nothing_is_an_error_that_names_it():
    with pytest.raises(DataError, match=r"empty after: a filter\. Loosen"):
        dataset(PAIRS).keep(np.zeros(4, dtype=bool), "a filter")


def test_a_k_core_that_is_empty_is_an_error_that_names_the_filter():
    with pytest.raises(DataError, match="empty after: k-core of 3 a user and 1 an item"):
        dataset(PAIRS).k_core(users=3)


@given(
    st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_the_k_core_is_what_removing_one_by_one_leaves(pairs, users, items):
    left = set(pairs)
    while True:
        bad = next(
            (
                pair
                for pair in left
                if sum(pair[0] == other[0] for other in left) < users
                or sum(pair[1] == other[1] for other in left) < items
            ),
            None,
        )
        if bad is None:
            break
        left.remove(bad)
    data = dataset(sorted(pairs))
    if not left:
        with pytest.raises(DataError, match="empty after"):
            data.k_core(users, items)
        return
    core = data.k_core(users, items)
    found = zip(core.user_ids[core.users], core.item_ids[core.items], strict=True)
    assert set(found) == {(f"u{user}", f"i{item}") for user, item in left}
    assert core.report.read == len(pairs) == len(core) + sum(core.report.dropped.values())


def test_the_checksum_depends_on_ratings_times_ids_and_text():
    data = dataset(PAIRS)
    changed = [
        replace(data, ratings=data.ratings + 1),
        replace(data, times=data.times + 1),
        replace(data, times=None),
        replace(data, user_ids=np.array(["a", "b", "c"])),
        replace(data, item_text=data.item_text + "!"),
    ]
    checksums = {one.checksum for one in [data, *changed]}
    assert len(checksums) == 1 + len(changed)
    assert dataset(PAIRS).checksum == data.checksum
