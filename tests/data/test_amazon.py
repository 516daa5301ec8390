"""Amazon Reviews of 2018 and 2023: tiny files in the publisher's formats, with their oddities."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from metarec.data import load_dataset
from metarec.errors import ConfigError, DataError

REVIEWS_2018 = [
    {"overall": 5.0, "verified": True, "reviewTime": "09 1, 2016", "reviewerID": "A3CIUOJXQ5VDQ2",
     "asin": "B0000530HU", "style": {"Size:": " 7.0 oz"}, "reviewerName": "Shelly F",
     "reviewText": "As advertised", "summary": "Five Stars", "unixReviewTime": 1472688000},
    {"overall": 2.0, "verified": False, "reviewerID": "A3H7T87S984REU", "asin": "B0000530HU",
     "vote": "3", "summary": "Dries my skin", "unixReviewTime": 1379116800},
    {"overall": 4.0, "verified": True, "reviewerID": "A3CIUOJXQ5VDQ2", "asin": "0345451045",
     "unixReviewTime": 1472688001},
]  # fmt: skip
ITEMS_2018 = [
    {"category": [], "tech1": "", "description": ["A <b>fresh</b> splash.", "7 oz &amp; more"],
     "title": "Aqua Velva &amp; Ice Blue", "also_buy": [], "brand": "Aqua\n   Velva", "feature": [],
     "rank": "65,003 in Beauty", "main_cat": "All Beauty", "price": "$6.99", "asin": "B0000530HU"},
    {"category": ["Books", "Literature &amp; Fiction"], "description": "", "feature": ["Paperback"],
     "title": "var aPageStart = (new Date()).getTime();", "brand": "Visit Amazon's Anne Rice Page",
     "price": ".a-box-inner{background-color:#fff}", "asin": "0345451045"},
    {"title": "Never reviewed", "asin": "B000000001"},
]  # fmt: skip
REVIEWS_2023 = [
    {"rating": 5.0, "title": "Such a lovely scent", "text": "I <br />like it", "images": [],
     "asin": "B00YQ6X8EO", "parent_asin": "B00YQ6X8EO", "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ",
     "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True},
    {"rating": 3.0, "asin": "B07PNNCSP9", "parent_asin": "B097R46CSY",
     "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ", "timestamp": 1589665266052,
     "verified_purchase": True},
    {"rating": 1.0, "asin": "B07PNNCSP8", "parent_asin": "B097R46CSY",
     "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ", "timestamp": 1589665266999,
     "verified_purchase": False},
]  # fmt: skip
ITEMS_2023 = [
    {"main_category": "All Beauty", "title": "Herbivore Spray", "average_rating": 4.1,
     "features": ["Coconut water", "Vegan"], "description": [], "price": 24.0, "store": "Herbivore",
     "categories": [], "details": {"Volume": "8 oz", "UPC": None}, "parent_asin": "B00YQ6X8EO",
     "bought_together": None},
    {"main_category": None, "title": "Yes to Tomatoes", "features": [], "price": "None",
     "description": ["x" * 3000], "store": None, "categories": ["Beauty", "Skin, Face"],
     "details": "{}", "parent_asin": "B097R46CSY"},
]  # fmt: skip


def lines(records) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.fixture
def of_2018(tmp_path):
    (tmp_path / "All_Beauty.json.gz").write_bytes(gzip.compress(lines(REVIEWS_2018)))
    (tmp_path / "meta_All_Beauty.json.gz").write_bytes(gzip.compress(lines(ITEMS_2018)))
    return tmp_path


@pytest.fixture
def of_2023(tmp_path):
    (tmp_path / "All_Beauty.jsonl.gz").write_bytes(gzip.compress(lines(REVIEWS_2023)))
    (tmp_path / "meta_All_Beauty.jsonl.gz").write_bytes(gzip.compress(lines(ITEMS_2023)))
    return tmp_path


def load_2018(folder, **options):
    return load_dataset("amazon-2018", folder=folder, category="All_Beauty", **options)


def load_2023(folder, **options):
    return load_dataset("amazon-2023", folder=folder, category="All_Beauty", **options)


def test_2018_is_read_with_ids_ratings_and_seconds(of_2018):
    dataset = load_2018(of_2018)
    assert dataset.name == "amazon-2018-All_Beauty"
    assert dataset.user_ids.tolist() == ["A3CIUOJXQ5VDQ2", "A3H7T87S984REU"]
    assert dataset.item_ids.tolist() == ["0345451045", "B0000530HU"]
    np.testing.assert_array_equal(dataset.users, [0, 1, 0])
    np.testing.assert_array_equal(dataset.items, [1, 1, 0])
    np.testing.assert_array_equal(dataset.ratings, [5, 2, 4])
    np.testing.assert_array_equal(dataset.times, [1472688000, 1379116800, 1472688001])
    assert (dataset.feedback, dataset.rating_scale) == ("rating", (1.0, 5.0))
    assert dataset.report.read == 3
    assert "research" in dataset.licence


def test_2018_texts_are_plain_and_scripts_are_missing(of_2018):
    dataset = load_2018(of_2018)
    assert dataset.item_text.to_dict("list") == {
        "title": [None, "Aqua Velva & Ice Blue"],
        "brand": ["Anne Rice", "Aqua Velva"],
        "categories": ["Books, Literature & Fiction", None],
        "features": ["Paperback", None],
        "description": [None, "A fresh splash. 7 oz & more"],
    }
    notes = dataset.report.notes
    assert notes["titles that are the page's script, taken as missing"] == 1
    assert notes["items in meta_All_Beauty.json.gz without review, left out"] == 1


def test_2023_has_parent_asins_as_items_and_milliseconds_as_times(of_2023):
    dataset = load_2023(of_2023)
    assert dataset.item_ids.tolist() == ["B00YQ6X8EO", "B097R46CSY"]
    np.testing.assert_array_equal(dataset.items, [0, 1])
    np.testing.assert_array_equal(dataset.times, [1588687728, 1589665266])
    # The user reviewed two variants of one product: the later in milliseconds counts.
    assert dataset.ratings.tolist() == [5.0, 1.0]
    assert dataset.report.dropped == {"duplicate user-item pair, kept the latest by time": 1}


def test_2023_texts_are_those_asked_for_in_their_order_and_cut(of_2023):
    text = ["price", "details", "title", "main_category", "categories", "description"]
    dataset = load_2023(of_2023, text=text)
    assert dataset.item_text.columns.tolist() == text
    assert dataset.item_text["price"].tolist() == ["24.0", None]
    assert dataset.item_text["details"].tolist() == ["Volume: 8 oz", "{}"]
    assert dataset.item_text["categories"].tolist() == [None, "Beauty, Skin, Face"]
    assert dataset.item_text["description"].tolist() == [None, "x" * 2000]
    assert dataset.report.notes["texts of items cut at 2,000 characters"] == 1
    assert load_2023(of_2023).item_text["brand"].tolist() == ["Herbivore", None]


def test_an_unknown_field_of_text_suggests_the_nearest(of_2023):
    with pytest.raises(ConfigError, match=r"unknown field 'titel'; did you mean 'title'"):
        load_2023(of_2023, text=["titel"])


@pytest.mark.parametrize(("load", "kept"), [(load_2018, 2), (load_2023, 2)])
def test_only_verified_purchases_are_kept_on_request(load, kept, request):
    folder = request.getfixturevalue("of_" + load.__name__[-4:])
    dataset = load(folder, verified=True)
    assert len(dataset) == kept
    assert dataset.report.dropped == {"not a verified purchase": 1}


def test_uncompressed_files_and_the_folders_of_the_hub_are_read(of_2023, tmp_path):
    expected = load_2023(of_2023).checksum
    hub = tmp_path / "hub"
    for name in ("All_Beauty", "meta_All_Beauty"):
        kind = "meta_categories" if name.startswith("meta") else "review_categories"
        (hub / "raw" / kind).mkdir(parents=True)
        content = gzip.decompress((of_2023 / f"{name}.jsonl.gz").read_bytes())
        (hub / "raw" / kind / f"{name}.jsonl").write_bytes(content)
    assert load_2023(hub).checksum == expected
    assert load_2023(hub / "raw").checksum == expected


def test_where_both_are_there_one_says_which_of_all_reviews_and_the_5_core(of_2018):
    (of_2018 / "All_Beauty_5.json.gz").write_bytes(gzip.compress(lines(REVIEWS_2018[:1])))
    with pytest.raises(ConfigError, match=r"core=0 or core=5"):
        load_2018(of_2018)
    assert len(load_2018(of_2018, core=5)) == 1
    assert len(load_2018(of_2018, core=0)) == 3
    with pytest.raises(ConfigError, match=r"core=3"):
        load_2018(of_2018, core=3)
    (of_2018 / "All_Beauty.json.gz").unlink()
    assert len(load_2018(of_2018)) == 1


def test_an_item_without_metadata_is_noted_and_dropped_on_request(of_2018):
    more = {"overall": 1, "reviewerID": "A1", "asin": "B1", "unixReviewTime": 1}
    reviews = gzip.compress(lines([*REVIEWS_2018, more]))
    (of_2018 / "All_Beauty.json.gz").write_bytes(reviews)
    assert len(load_2018(of_2018)) == 4
    report = load_2018(of_2018, unknown_items="drop").report
    assert report.dropped == {"item is not in meta_All_Beauty.json.gz": 1}


def test_without_metadata_there_is_no_text_if_one_says_so(of_2018):
    (of_2018 / "meta_All_Beauty.json.gz").unlink()
    with pytest.raises(DataError, match=r"meta_All_Beauty\.json\.gz is missing.*metadata=False"):
        load_2018(of_2018)
    assert load_2018(of_2018, metadata=False).item_text.shape == (2, 0)


GOOD = REVIEWS_2018[0]


@pytest.mark.parametrize(
    ("bad", "place", "reason"),
    [
        ('{"overall": 5.0, "rev', "the line", "not a JSON object"),
        ("[1, 2]", "the line", "not a JSON object"),
        (GOOD | {"reviewerID": None}, "field 'reviewerID'", "missing user id"),
        ({"overall": 5, "reviewerID": "A"}, "field 'asin'", "missing item id"),
        (GOOD | {"asin": " "}, "field 'asin'", "missing item id"),
        (GOOD | {"overall": "five"}, "field 'overall'", "rating is not a number"),
        (GOOD | {"overall": float("nan")}, "field 'overall'", "rating is not a number"),
        (GOOD | {"overall": True}, "field 'overall'", "rating is not a number"),
        (GOOD | {"overall": 0.0}, "field 'overall'", "rating outside the scale 1 to 5"),
        (GOOD | {"overall": 10**400}, "field 'overall'", "rating outside the scale 1 to 5"),
        ({**GOOD, "overall": None}, "field 'overall'", "missing rating"),
        (GOOD | {"unixReviewTime": ""}, "field 'unixReviewTime'", "missing time"),
        (GOOD | {"unixReviewTime": 10**30}, "field 'unixReviewTime'", "time is past the year 5000"),
    ],
)
def test_a_bad_line_is_named_with_its_field_or_counted_by_reason(of_2018, bad, place, reason):
    line = bad if isinstance(bad, str) else json.dumps(bad)
    content = lines(REVIEWS_2018) + b"\n" + line.encode() + b"\n"
    (of_2018 / "All_Beauty.json.gz").write_bytes(gzip.compress(content))
    with pytest.raises(
        DataError, match=rf"All_Beauty\.json\.gz, line 5, {place}: found .*: {reason}.*on_bad_rows"
    ):
        load_2018(of_2018)
    report = load_2018(of_2018, on_bad_rows="drop").report
    assert report.dropped == {reason: 1}
    assert (report.read, report.kept) == (4, 3)


def test_a_time_past_the_year_5000_is_named_with_its_line(of_2018):
    late = GOOD | {"asin": "B1", "unixReviewTime": 1_472_688_000_000}
    (of_2018 / "All_Beauty.json.gz").write_bytes(gzip.compress(lines([*REVIEWS_2018, late])))
    with pytest.raises(DataError, match=r"line 4, column 'unixReviewTime': found 1472688000000"):
        load_2018(of_2018)


def test_a_bad_line_of_the_metadata_is_named_or_noted(of_2018):
    content = lines(ITEMS_2018) + b'{"title": "no id"}\n'
    (of_2018 / "meta_All_Beauty.json.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"meta_All_Beauty\.json\.gz, line 4, field 'asin'"):
        load_2018(of_2018)
    notes = load_2018(of_2018, on_bad_rows="drop").report.notes
    left_out = "lines of meta_All_Beauty.json.gz that are no JSON object with an id, left out"
    assert notes[left_out] == 1


def test_the_files_of_the_other_release_are_recognised(of_2018):
    content = gzip.compress(lines(REVIEWS_2023))
    (of_2018 / "All_Beauty.json.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"read it as data set 'amazon-2023'"):
        load_2018(of_2018, on_bad_rows="drop")


def test_a_truncated_file_is_an_error(of_2018):
    path = of_2018 / "All_Beauty.json.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"All_Beauty\.json\.gz cannot be read: it is truncated"):
        load_2018(of_2018)


def test_an_empty_file_is_an_error_that_shows_the_report(of_2018):
    (of_2018 / "All_Beauty.json.gz").write_bytes(gzip.compress(b"\n"))
    with pytest.raises(DataError, match=r"no interaction left(?s:.*)read 0 rows"):
        load_2018(of_2018)


def test_a_folder_without_the_category_names_the_files_and_the_command(tmp_path):
    with pytest.raises(
        DataError, match=r"holds no Books\.json\.gz or .*download amazon-2018 --category Books"
    ):
        load_dataset("amazon-2018", folder=tmp_path, category="Books")


def test_many_lines_are_read_as_few_are(of_2018):
    reviews = [
        {"overall": 1 + n % 5, "reviewerID": f"A{n % 97}", "asin": f"B{n}", "unixReviewTime": n}
        for n in range(10_000)
    ]
    (of_2018 / "All_Beauty.json.gz").write_bytes(gzip.compress(lines(reviews)))
    dataset = load_2018(of_2018, metadata=False)
    assert (len(dataset), dataset.n_users, dataset.n_items) == (10_000, 97, 10_000)
    assert dataset.times.tolist() == list(range(10_000))


def test_half_of_a_pair_of_surrogates_becomes_the_sign_for_what_is_unknown(of_2018, tmp_path):
    items = [{**ITEMS_2018[0], "title": "abc\ud83d"}, *ITEMS_2018[1:]]
    (tmp_path / "meta_All_Beauty.json.gz").write_bytes(gzip.compress(lines(items)))
    dataset = load_dataset("amazon-2018", folder=of_2018, category="All_Beauty")
    assert "abc\N{REPLACEMENT CHARACTER}" in dataset.item_text["title"].tolist()
    assert len(dataset.checksum) == 64
