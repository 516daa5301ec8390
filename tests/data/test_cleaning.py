"""Cleaning: what is an error, what is dropped, and that every row is accounted for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.data.cleaning import clean
from metarec.data.fields import TextTable, text_frame
from metarec.data.files import Table
from metarec.errors import ConfigError, DataError

ITEMS = TextTable(["i1", "i2", "i3"], text_frame({"title": ["A", "B", None]}), "items.csv")


def cleaned(rows, columns=("user", "item", "rating", "time"), **options):
    frame = pd.DataFrame(rows, columns=list(columns))
    table = Table(frame, Path("ratings.csv"), lambda row: f"line {row + 2}")
    roles = {role: role if role in columns else None for role in ("user", "item", "rating", "time")}
    return clean("sample", table, **{**roles, **options})


BAD_RATINGS = {
    "five": "rating is not a number",
    "4,5": "rating is not a number",
    "nan": "rating is not a number",
    "inf": "rating is infinite",
    "-inf": "rating is infinite",
    "1e300": "rating is infinite",
    "5.5": "rating outside the scale 1 to 5",
    "0": "rating outside the scale 1 to 5",
    None: "missing rating",
}


@pytest.mark.parametrize(("value", "reason"), BAD_RATINGS.items())
def test_a_bad_rating_is_an_error_that_names_file_line_column_value_and_remedy(value, reason):
    rows = [("u1", "i1", "4", 10), ("u2", "i1", value, 10)]
    with pytest.raises(DataError) as error:
        cleaned(rows, rating_scale=(1, 5))
    assert "ratings.csv, line 3, column 'rating'" in str(error.value)
    assert ("nothing" if value is None else repr(value)) in str(error.value)
    assert reason in str(error.value)
    assert 'on_bad_rows="drop"' in str(error.value)


@pytest.mark.parametrize(("value", "reason"), BAD_RATINGS.items())
def test_a_bad_rating_is_dropped_and_counted_on_request(value, reason):
    rows = [("u1", "i1", "4", 10), ("u2", "i1", value, 10), ("u3", "i1", value, 10)]
    dataset = cleaned(rows, rating_scale=(1, 5), on_bad_rows="drop")
    assert dataset.report.dropped == {reason: 2}
    assert dataset.user_ids.tolist() == ["u1"]


def test_infinite_numbers_are_found_in_a_numeric_column():
    rows = [("u1", "i1", 4.0, 10), ("u2", "i1", np.inf, 10), ("u3", "i1", np.nan, 10)]
    with pytest.raises(DataError, match=r"line 4, column 'rating': found nothing: missing"):
        cleaned(rows)
    dropped = cleaned(rows, on_bad_rows="drop").report.dropped
    assert dropped == {"missing rating": 1, "rating is infinite": 1}


def test_the_error_counts_the_other_bad_rows():
    rows = [("u1", "i1", "x", 10), ("u2", "i1", "y", 10), ("u3", "i1", "z", 10)]
    with pytest.raises(DataError, match=r"found 'x' \(and 2 more rows\)"):
        cleaned(rows)


@pytest.mark.parametrize("column", ["user", "item"])
@pytest.mark.parametrize("missing", [None, ""])
def test_a_missing_id_is_an_error_or_is_counted(column, missing):
    bad = {"user": "u2", "item": "i1", "rating": 3, "time": 10, column: missing}
    rows = [("u1", "i1", 4, 10), tuple(bad.values())]
    with pytest.raises(DataError, match=rf"line 3, column '{column}'.*missing {column} id"):
        cleaned(rows)
    assert cleaned(rows, on_bad_rows="drop").report.dropped == {f"missing {column} id": 1}


def test_the_rating_scale_is_what_was_seen_unless_given():
    rows = [("u1", "i1", 2.0, 10), ("u2", "i1", 4.5, 10)]
    assert cleaned(rows).rating_scale == (2.0, 4.5)
    assert cleaned(rows, rating_scale=[1, 5]).rating_scale == (1.0, 5.0)


@pytest.mark.parametrize("scale", [(5, 1), (1,), (1, 2, 3)])
def test_a_rating_scale_that_is_none_is_an_error(scale):
    with pytest.raises(ConfigError, match=r"rating_scale=\("):
        cleaned([("u1", "i1", 2.0, 10)], rating_scale=scale)


def test_without_ratings_feedback_is_implicit_and_ratings_are_one():
    dataset = cleaned([("u1", "i1"), ("u1", "i2")], columns=("user", "item"))
    assert dataset.feedback == "implicit"
    assert dataset.rating_scale is None
    assert dataset.times is None
    np.testing.assert_array_equal(dataset.ratings, [1, 1])


def test_of_duplicate_pairs_the_latest_by_time_stays_whatever_the_order_of_the_file():
    rows = [("u1", "i1", 5, 30), ("u1", "i1", 1, 10), ("u1", "i1", 3, 20), ("u1", "i2", 2, 5)]
    dataset = cleaned(rows)
    np.testing.assert_array_equal(dataset.ratings, [5, 2])
    np.testing.assert_array_equal(dataset.times, [30, 5])
    assert dataset.report.dropped == {"duplicate user-item pair, kept the latest by time": 2}


def test_of_duplicate_pairs_the_last_in_the_file_stays_without_times_and_at_equal_times():
    rows = [("u1", "i1", 5, 10), ("u1", "i1", 1, 10)]
    assert cleaned(rows).ratings.tolist() == [1]
    without = cleaned([row[:3] for row in rows], columns=("user", "item", "rating"))
    assert without.ratings.tolist() == [1]
    assert list(without.report.dropped.values()) == [1]


def test_of_duplicate_pairs_the_earliest_stays_on_request():
    rows = [("u1", "i1", 5, 30), ("u1", "i1", 1, 10), ("u1", "i1", 2, 10)]
    assert cleaned(rows, duplicates="earliest").ratings.tolist() == [1]


def test_repeated_implicit_pairs_are_merged_and_counted():
    rows = [("u1", "i1", 30), ("u1", "i1", 10), ("u2", "i1", 20)]
    dataset = cleaned(rows, columns=("user", "item", "time"))
    assert dataset.times.tolist() == [30, 20]
    assert dataset.report.dropped == {"repeated user-item pair, merged into the latest by time": 1}


def test_a_dropped_bad_row_does_not_win_over_its_duplicate():
    rows = [("u1", "i1", "4", 10), ("u1", "i1", "x", 99)]
    dataset = cleaned(rows, on_bad_rows="drop")
    assert dataset.ratings.tolist() == [4]


def test_an_unknown_item_is_kept_without_text_and_noted():
    dataset = cleaned([("u1", "i1", 4, 10), ("u1", "i9", 3, 10)], item_table=ITEMS)
    assert dataset.item_ids.tolist() == ["i1", "i9"]
    assert dataset.item_text["title"].tolist() == ["A", None]
    note = "interactions with an item that is not in items.csv, kept without text"
    assert dataset.report.notes[note] == 1


def test_an_unknown_item_is_dropped_and_counted_on_request():
    rows = [("u1", "i1", 4, 10), ("u1", "i9", 3, 10)]
    dataset = cleaned(rows, item_table=ITEMS, unknown_items="drop")
    assert dataset.item_ids.tolist() == ["i1"]
    assert dataset.report.dropped == {"item is not in items.csv": 1}


def test_an_unknown_item_is_an_error_on_request():
    rows = [("u1", "i1", 4, 10), ("u1", "i9", 3, 10)]
    with pytest.raises(DataError, match=r"line 3, column 'item': found 'i9'.*not in items\.csv"):
        cleaned(rows, item_table=ITEMS, unknown_items="error")


def test_items_without_interaction_or_text_are_noted():
    notes = cleaned([("u1", "i3", 4, 10)], item_table=ITEMS).report.notes
    assert notes == {
        "items in items.csv without interaction, left out": 2,
        "items without title": 1,
    }


def test_an_item_listed_twice_takes_its_first_text_and_is_noted():
    table = TextTable(["i1", "i1"], text_frame({"title": ["A", "B"]}), "items.csv")
    dataset = cleaned([("u1", "i1", 4, 10)], item_table=table)
    assert dataset.item_text["title"].tolist() == ["A"]
    assert dataset.report.notes["items listed twice in items.csv, the first kept"] == 1


def test_text_follows_its_item_into_the_order_of_the_index():
    table = TextTable(["10", "9"], text_frame({"title": ["ten", "nine"]}), "items.csv")
    dataset = cleaned([(1, 10, 4, 0), (1, 9, 4, 0)], item_table=table, user_table=None)
    assert dataset.item_ids.tolist() == ["9", "10"]
    assert dataset.item_text["title"].tolist() == ["nine", "ten"]
    assert dataset.items.tolist() == [1, 0]


def test_ids_are_ordered_as_numbers_where_all_are_whole_numbers_and_as_text_otherwise():
    numbers = cleaned([("10", "i", 1, 0), ("9", "i", 1, 0)])
    assert numbers.user_ids.tolist() == ["9", "10"]
    texts = cleaned([("10", "i", 1, 0), ("9", "i", 1, 0), ("x", "i", 1, 0)])
    assert texts.user_ids.tolist() == ["10", "9", "x"]


def test_whole_numbers_that_gaps_made_floats_are_written_without_point():
    rows = [(17850.0, 1, 1, 0), (np.nan, 1, 1, 0)]
    assert cleaned(rows, on_bad_rows="drop").user_ids.tolist() == ["17850"]


EPOCH = pd.Timestamp("2010-12-01 08:26:00", tz="UTC").timestamp()
TIMES = {
    "seconds": (EPOCH, {}),
    "seconds as text": (f"{EPOCH:.0f}", {}),
    "fractions": (EPOCH + 0.9, {}),
    "milliseconds": (int(EPOCH * 1000) + 999, {"time_unit": "ms"}),
    "ISO 8601": ("2010-12-01T08:26:00", {}),
    "ISO 8601 with a space": ("2010-12-01 08:26:00", {}),
    "a time zone": ("2010-12-01T09:26:00+01:00", {}),
    "a format of digits alone": ("20101201082600", {"time_format": "%Y%m%d%H%M%S"}),
    "a format": ("12/1/2010 8:26", {"time_format": "%m/%d/%Y %H:%M"}),
    "datetime": (pd.Timestamp("2010-12-01 08:26:00.5"), {}),
    "datetime with a zone": (pd.Timestamp("2010-12-01 09:26:00+01:00"), {}),
}


@pytest.mark.parametrize(("value", "options"), TIMES.values(), ids=TIMES.keys())
def test_times_become_seconds_since_1970(value, options):
    dataset = cleaned([("u1", "i1", 4, value)], **options)
    assert dataset.times.dtype == np.int64
    assert dataset.times.tolist() == [int(EPOCH)]


@pytest.mark.parametrize(
    ("good", "bad"), [("2010-12-01", "yesterday"), ("100", "yesterday"), ("100", "inf")]
)
def test_an_unreadable_time_is_an_error_or_is_counted(good, bad):
    rows = [("u1", "i1", 4, good), ("u2", "i1", 4, bad)]
    with pytest.raises(DataError, match=rf"line 3, column 'time': found '{bad}'.*neither"):
        cleaned(rows)
    dropped = cleaned(rows, on_bad_rows="drop").report.dropped
    assert dropped == {"time is neither a number nor ISO 8601 text": 1}


def test_a_missing_time_is_an_error_or_is_counted():
    rows = [("u1", "i1", 4, 10), ("u2", "i1", 4, None)]
    with pytest.raises(DataError, match=r"line 3, column 'time': found nothing: missing time"):
        cleaned(rows)
    assert cleaned(rows, on_bad_rows="drop").report.dropped == {"missing time": 1}


def test_milliseconds_taken_for_seconds_are_found_out():
    rows = [("u1", "i1", 4, int(EPOCH * 1000))]
    with pytest.raises(DataError, match=r'past the year 5000.*time_unit="ms"'):
        cleaned(rows)


def test_nothing_left_after_cleaning_is_an_error_that_shows_the_report():
    with pytest.raises(DataError, match=r"no interaction left(?s:.*)dropped 1: rating is not"):
        cleaned([("u1", "i1", "x", 10)], on_bad_rows="drop")


def test_a_table_without_rows_is_an_error():
    with pytest.raises(DataError, match="no interaction left"):
        cleaned([])


@pytest.mark.parametrize("option", ["on_bad_rows", "unknown_items", "duplicates", "time_unit"])
def test_an_unknown_value_of_an_option_is_an_error(option):
    with pytest.raises(ConfigError, match=rf"{option}='drp' is unknown"):
        cleaned([("u1", "i1", 4, 10)], **{option: "drp"})


rows_of_a_file = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "10", None]),
        st.sampled_from(["a", "b", "c", ""]),
        st.sampled_from(["1", "3", "5", "9", "inf", "bad", None]),
        st.sampled_from([0, 1, 2]),
    ),
    max_size=30,
)


@settings(max_examples=30)
@given(rows_of_a_file)
def test_every_row_is_accounted_for_and_no_pair_is_left_twice(rows):
    rows = [*rows, ("1", "a", "4", 0)]
    dataset = cleaned(rows, on_bad_rows="drop", rating_scale=(1, 5))
    report = dataset.report
    assert report.read == len(rows)
    assert report.kept == len(dataset) == len(rows) - sum(report.dropped.values())
    pairs = list(zip(dataset.users.tolist(), dataset.items.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)


@settings(max_examples=30)
@given(rows_of_a_file, st.randoms(use_true_random=False))
def test_the_order_of_the_file_changes_neither_the_numbering_nor_who_likes_what(rows, random):
    # Distinct times, so that the latest of a repeated pair is one row.
    rows = [(*row[:3], time) for time, row in enumerate([*rows, ("1", "a", "4", 0)])]
    shuffled = rows.copy()
    random.shuffle(shuffled)
    one, other = (
        cleaned(some, on_bad_rows="drop", rating_scale=(1, 5)) for some in (rows, shuffled)
    )
    assert one.user_ids.tolist() == other.user_ids.tolist()
    assert one.item_ids.tolist() == other.item_ids.tolist()
    columns = [
        sorted(zip(d.users.tolist(), d.items.tolist(), d.ratings.tolist(), strict=True))
        for d in (one, other)
    ]
    assert columns[0] == columns[1]


def test_digits_in_a_given_format_are_no_seconds_though_they_were_read_as_numbers():
    rows = [("u1", "i1", 4, 31122014), ("u2", "i1", 4, 1012015)]
    found = cleaned(rows, time_format="%d%m%Y").times.tolist()
    assert found == [1419984000, 1420070400]


@pytest.mark.parametrize(
    ("times", "reason", "kept"),
    [
        (["2020-01-01", "2020-01-02", "0"], "time is a number among ISO 8601 texts", 2),
        (["10", "20", "2020-01-02"], "time is text among numbers", 2),
        (["2020-01-01", "soon", "2020-01-02"], "time is neither a number nor ISO 8601 text", 2),
    ],
)
def test_a_time_of_another_kind_than_most_is_dropped_alone_and_by_its_reason(times, reason, kept):
    rows = [(f"u{row}", "i1", 4, time) for row, time in enumerate(times)]
    found = cleaned(rows, on_bad_rows="drop")
    assert len(found) == kept
    assert found.report.dropped == {reason: 1}
    with pytest.raises(DataError, match=reason):
        cleaned(rows)


def test_a_time_that_is_not_written_as_was_said_is_named_so():
    rows = [("u1", "i1", 4, "12/31/2020"), ("u2", "i1", 4, "2020-01-02")]
    with pytest.raises(DataError, match=r"line 3.*time is not written as %m/%d/%Y"):
        cleaned(rows, time_format="%m/%d/%Y")
