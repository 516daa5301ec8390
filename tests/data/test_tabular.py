"""Any CSV or Parquet file by a mapping of its columns."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metarec.data import load_dataset
from metarec.errors import ConfigError, DataError

INTERACTIONS = pd.DataFrame(
    {
        "who": ["ann", "bob", "ann"],
        "isbn": ["0007", "0008", "0008"],
        "stars": [4.5, 2.0, 3.0],
        "when": ["2020-01-01", "2020-01-02", "2020-01-03"],
    }
)
BOOKS = pd.DataFrame(
    {"isbn": ["0008", "0007"], "name": ["Emma", "Middlemarch"], "by": ["Austen", "Eliot"]}
)
MAPPING = {"user": "who", "item": "isbn", "rating": "stars", "time": "when"}


@pytest.fixture(params=["csv", "csv.gz", "tsv", "parquet"])
def books(request, tmp_path):
    """The same tables in four formats."""
    for name, frame in (("interactions", INTERACTIONS), ("books", BOOKS)):
        path = tmp_path / f"{name}.{request.param}"
        if request.param == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False, sep="\t" if request.param == "tsv" else ",")
    return {"interactions": f"interactions.{request.param}", "items": f"books.{request.param}"}


@pytest.fixture
def csv(tmp_path):
    def make(content: str, name: str = "interactions.csv") -> str:
        (tmp_path / name).write_text(content)
        return str(tmp_path / name)

    return make


def test_all_formats_give_the_same_data_set(books, tmp_path):
    dataset = load_dataset("csv", folder=tmp_path, **books, **MAPPING)
    assert dataset.name == "interactions"
    assert dataset.user_ids.tolist() == ["ann", "bob"]
    assert dataset.item_ids.tolist() == ["0007", "0008"]
    assert dataset.users.tolist() == [0, 1, 0]
    assert dataset.items.tolist() == [0, 1, 1]
    assert dataset.ratings.tolist() == [4.5, 2.0, 3.0]
    day = 24 * 60 * 60
    assert (dataset.times - dataset.times[0]).tolist() == [0, day, 2 * day]
    assert dataset.item_text.to_dict("list") == {
        "name": ["Middlemarch", "Emma"],
        "by": ["Eliot", "Austen"],
    }
    assert dataset.rating_scale == (2.0, 4.5)


def test_text_comes_from_one_column_from_several_or_under_other_names(books, tmp_path):
    def columns(item_text):
        options = {**books, **MAPPING, "item_text": item_text}
        return load_dataset("csv", folder=tmp_path, **options).item_text.columns.tolist()

    assert columns("name") == ["name"]
    assert columns(["by", "name"]) == ["by", "name"]
    assert columns({"name": "title", "by": "author"}) == ["title", "author"]


def test_the_default_names_need_no_mapping(csv):
    interactions = csv("user,item,rating\n1,10,5\n2,10,3\n")
    items = csv("item,title\n10,Emma\n", "items.csv")
    dataset = load_dataset("csv", interactions=interactions, items=items)
    assert dataset.item_text["title"].tolist() == ["Emma"]
    assert dataset.times is None


def test_without_a_rating_column_feedback_is_implicit(csv):
    path = csv("user,item\n1,10\n1,10\n2,10\n")
    dataset = load_dataset("csv", interactions=path, rating=None)
    assert dataset.feedback == "implicit"
    assert dataset.report.dropped == {
        "repeated user-item pair, merged into the latest by the order of the file": 1
    }


def test_a_missing_rating_column_suggests_the_mapping_and_implicit_feedback(csv):
    with pytest.raises(DataError, match=r"no column 'rating'.*rating=…, or pass rating=None"):
        load_dataset("csv", interactions=csv("user,item\n1,10\n"))


@pytest.mark.parametrize(("option", "column"), [("user", "usr"), ("item", "itm"), ("time", "tme")])
def test_a_missing_column_names_the_file_the_columns_and_the_option(csv, option, column):
    path = csv("user,item,rating,time\n1,10,5,0\n")
    with pytest.raises(
        DataError, match=rf"interactions\.csv has no column '{column}'; did you.*{option}="
    ):
        load_dataset("csv", interactions=path, **{option: column})


def test_a_missing_id_column_of_the_item_table_names_the_option(csv):
    interactions = csv("user,item,rating\n1,10,5\n")
    items = csv("movie,title\n10,Emma\n", "items.csv")
    with pytest.raises(DataError, match=r"items\.csv has no column 'item'.*item_id="):
        load_dataset("csv", interactions=interactions, items=items)
    dataset = load_dataset("csv", interactions=interactions, items=items, item_id="movie")
    assert dataset.item_text["title"].tolist() == ["Emma"]


def test_a_missing_text_column_names_the_nearest(csv):
    interactions = csv("user,item,rating\n1,10,5\n")
    items = csv("item,title\n10,Emma\n", "items.csv")
    with pytest.raises(DataError, match=r"no column 'titel'; did you mean 'title'"):
        load_dataset("csv", interactions=interactions, items=items, item_text="titel")


def test_an_item_without_id_in_the_item_table_is_named(csv):
    interactions = csv("user,item,rating\n1,10,5\n")
    items = csv("item,title\n10,Emma\n,Nobody\n", "items.csv")
    with pytest.raises(DataError, match=r"items\.csv, line 3, column 'item': missing id"):
        load_dataset("csv", interactions=interactions, items=items)


def test_users_have_text_too(csv):
    interactions = csv("user,item,rating\n1,10,5\n2,10,4\n")
    users = csv("id,age\n2,53\n", "users.csv")
    dataset = load_dataset("csv", interactions=interactions, users=users, user_id="id")
    assert dataset.user_text["age"].tolist() == [None, "53"]
    assert dataset.report.notes["users that are not in users.csv"] == 1


def test_parquet_ids_that_gaps_made_floats_match_the_item_table(tmp_path):
    frame = pd.DataFrame({"user": [1, 2], "item": [10.0, None], "rating": [5, 4]})
    frame.to_parquet(tmp_path / "i.parquet")
    pd.DataFrame({"item": [10], "title": ["Emma"]}).to_parquet(tmp_path / "t.parquet")
    dataset = load_dataset(
        "csv", folder=tmp_path, interactions="i.parquet", items="t.parquet", on_bad_rows="drop"
    )
    assert dataset.item_text["title"].tolist() == ["Emma"]
    assert dataset.report.dropped == {"missing item id": 1}


def test_a_parquet_time_column_of_datetimes_is_read(tmp_path):
    frame = INTERACTIONS.assign(when=pd.to_datetime(INTERACTIONS["when"]))
    frame.to_parquet(tmp_path / "i.parquet")
    dataset = load_dataset("csv", folder=tmp_path, interactions="i.parquet", **MAPPING)
    assert dataset.times[0] == pd.Timestamp("2020-01-01", tz="UTC").timestamp()


def test_a_bad_parquet_row_is_named_by_its_number(tmp_path):
    frame = INTERACTIONS.assign(stars=[4.5, float("inf"), 3.0])
    frame.to_parquet(tmp_path / "i.parquet")
    with pytest.raises(DataError, match=r"i\.parquet, row 2, column 'stars': found inf"):
        load_dataset("csv", folder=tmp_path, interactions="i.parquet", **MAPPING)


def test_text_in_latin_1_is_read_when_it_is_said(tmp_path):
    (tmp_path / "i.csv").write_text("user,item,rating\n1,10,5\n")
    (tmp_path / "t.csv").write_bytes("item,title\n10,Léon\n".encode("latin-1"))
    options = {"folder": tmp_path, "interactions": "i.csv", "items": "t.csv"}
    with pytest.raises(DataError, match=r't\.csv, line 2: not valid utf-8.*encoding="latin-1"'):
        load_dataset("csv", **options)
    dataset = load_dataset("csv", **options, encoding="latin-1")
    assert dataset.item_text["title"].tolist() == ["Léon"]


def test_a_header_without_rows_is_an_error(csv):
    with pytest.raises(DataError, match=r"no interaction left(?s:.*)read 0 rows"):
        load_dataset("csv", interactions=csv("user,item,rating\n"))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        load_dataset("csv", folder=tmp_path / "nowhere", interactions="i.csv")


def test_one_column_in_two_roles_is_an_error(csv):
    with pytest.raises(ConfigError, match="name one column twice"):
        load_dataset("csv", interactions=csv("user,item\n1,2\n"), user="item", rating=None)


def test_text_columns_without_their_file_are_an_error(csv):
    path = csv("user,item,rating\n1,10,5\n")
    with pytest.raises(ConfigError, match="item_text=… needs the file"):
        load_dataset("csv", interactions=path, item_text="title")


def test_a_licence_and_a_name_can_be_given(csv):
    path = csv("user,item,rating\n1,10,5\n")
    dataset = load_dataset("csv", interactions=path, dataset="books", licence="CC0")
    assert (dataset.name, dataset.licence) == ("books", "CC0")


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 20), st.integers(0, 20)),
        st.tuples(st.sampled_from([0.5, 1.0, 4.5]), st.integers(-(10**9), 2 * 10**9)),
        min_size=1,
    )
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_again(tmp_path, rows):
    lines = [f"{u},{i},{r},{t}" for (u, i), (r, t) in rows.items()]
    (tmp_path / "i.csv").write_text("\n".join(["user,item,rating,time", *lines]))
    dataset = load_dataset("csv", folder=tmp_path, interactions="i.csv", time="time")
    read = zip(
        dataset.user_ids[dataset.users].astype(int).tolist(),
        dataset.item_ids[dataset.items].astype(int).tolist(),
        dataset.ratings.tolist(),
        dataset.times.tolist(),
        strict=True,
    )
    assert list(read) == [(u, i, r, t) for (u, i), (r, t) in rows.items()]
