"""RecBole's atomic files."""

from __future__ import annotations

import numpy as np
import pytest

from metarec.data import load_dataset
from metarec.errors import DataError


@pytest.fixture
def atomic(tmp_path):
    (tmp_path / "tiny.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "u2\t007\t4\t881250949.0\nu1\t8\t2.5\t891717742.0\n"
    )
    (tmp_path / "tiny.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '007\t"Great" Léon\t1994\tCrime Drama\n8\tKolya\t\t\n'
    )
    (tmp_path / "tiny.user").write_text("user_id:token\tage:token\nu1\t24\nu2\t53\n")
    return tmp_path


def test_atomic_files_are_read_under_the_names_of_the_framework(atomic):
    dataset = load_dataset("recbole", folder=atomic)
    assert dataset.name == "tiny"
    assert dataset.item_ids.tolist() == ["007", "8"]
    np.testing.assert_array_equal(dataset.users, [1, 0])
    np.testing.assert_array_equal(dataset.ratings, np.float32([4, 2.5]))
    np.testing.assert_array_equal(dataset.times, [881250949, 891717742])
    assert dataset.item_text.to_dict("list") == {
        "title": ['"Great" Léon', "Kolya"],
        "year": ["1994", None],
        "genres": ["Crime, Drama", None],
    }
    assert dataset.user_text.to_dict("list") == {"age": ["24", "53"]}


def test_fields_keep_their_names_on_request(atomic):
    dataset = load_dataset("recbole", folder=atomic, rename={})
    assert dataset.item_text.columns.tolist() == ["movie_title", "release_year", "class"]


def test_interactions_alone_will_do(atomic):
    (atomic / "tiny.item").unlink()
    (atomic / "tiny.user").unlink()
    dataset = load_dataset("recbole", folder=atomic)
    assert dataset.item_text.shape == (2, 0)
    assert dataset.user_text is None


def test_without_rating_and_time_feedback_is_implicit(atomic):
    dataset = load_dataset("recbole", folder=atomic, rating=None, time=None)
    assert dataset.feedback == "implicit"
    assert dataset.times is None


def test_a_missing_rating_field_suggests_implicit_feedback(atomic):
    (atomic / "tiny.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n")
    with pytest.raises(DataError, match=r"tiny\.inter has no column 'rating'.*rating=None"):
        load_dataset("recbole", folder=atomic)


def test_a_header_without_types_is_an_error(atomic):
    (atomic / "tiny.inter").write_text("user_id\titem_id\n1\t2\n")
    with pytest.raises(
        DataError, match=r"tiny\.inter, line 1: header 'user_id' is not `name:type`"
    ):
        load_dataset("recbole", folder=atomic)


def test_a_non_numeric_rating_is_named(atomic):
    with (atomic / "tiny.inter").open("a") as file:
        file.write("u1\t007\tgood\t5\n")
    with pytest.raises(DataError, match=r"tiny\.inter, line 4, column 'rating': found 'good'"):
        load_dataset("recbole", folder=atomic)


def test_several_data_sets_in_a_folder_must_be_told_apart(atomic):
    (atomic / "other.inter").write_text((atomic / "tiny.inter").read_text())
    with pytest.raises(DataError, match=r"other\.inter, tiny\.inter; name one with dataset="):
        load_dataset("recbole", folder=atomic)
    assert load_dataset("recbole", folder=atomic, dataset="tiny").name == "tiny"
    with pytest.raises(DataError, match=r"not nothing\.inter"):
        load_dataset("recbole", folder=atomic, dataset="nothing")


def test_a_folder_without_atomic_files_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.inter file; pass folder="):
        load_dataset("recbole", folder=tmp_path)
    with pytest.raises(DataError, match=r"there is no folder"):
        load_dataset("recbole", folder=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"needs a folder"):
        load_dataset("recbole")


@pytest.mark.shared_data("ml-100k")
def test_the_real_ml_100k_has_its_published_counts(shared_data):
    dataset = load_dataset("recbole", folder=shared_data / "ml-100k")
    assert (len(dataset), dataset.n_users, dataset.n_items) == (100_000, 943, 1_682)
    assert dataset.report.dropped == {}
    assert dataset.rating_scale == (1.0, 5.0)
    assert {"title", "year", "genres"} <= set(dataset.item_text.columns)
    assert {"age", "gender", "occupation"} <= set(dataset.user_text.columns)
