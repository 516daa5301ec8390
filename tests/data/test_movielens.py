"""MovieLens in the publisher's formats: tiny files written here, and the real ones if present."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from metarec.data import load_dataset
from metarec.errors import DataError

GENRE_FLAGS = 19


def flags(*on: int) -> str:
    return "|".join("1" if at in on else "0" for at in range(GENRE_FLAGS))


@pytest.fixture
def ml_100k(tmp_path):
    (tmp_path / "u.data").write_text("10\t242\t3\t881250949\n2\t302\t4\t891717742\n2\t267\t1\t5\n")
    (tmp_path / "u.item").write_bytes(
        "\n".join(
            [
                f"242|Kolya (1996)|24-Jan-1997||http://example.org|{flags(5)}",
                f"302|Misérables, Les (1995)|01-Jan-1995||http://example.org|{flags(1, 17)}",
                f"267|unknown||||{flags(0)}",
                f"5|Copycat (1995)|01-Jan-1995||http://example.org|{flags(6)}",
            ]
        ).encode("latin-1")
    )
    (tmp_path / "u.user").write_text("2|53|F|none|94043\n10|24|M|technician|85711\n")
    return tmp_path


@pytest.fixture
def ml_1m(tmp_path):
    (tmp_path / "ratings.dat").write_text(
        "1::1193::5::978300760\n1::661::3::978302109\n2::1193::1::978301968\n"
    )
    (tmp_path / "movies.dat").write_bytes(
        "661::James and the Giant Peach (1996)::Animation|Children's|Musical\n"
        "1193::Léon (1994)::Drama\n4::Waiting to Exhale (1995)::Comedy\n".encode("latin-1")
    )
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::0::70072\n")
    return tmp_path


@pytest.fixture
def ml_25m(tmp_path):
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n1,306,3.5,1147868817\n"
    )
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n296,Pulp Fiction (1994),Comedy|Crime\n306,"Red, The (1994)",'
        "(no genres listed)\n"
    )
    return tmp_path


def test_100k_is_read_with_titles_years_genres_and_users(ml_100k):
    dataset = load_dataset("ml-100k", folder=ml_100k)
    assert dataset.user_ids.tolist() == ["2", "10"]
    assert dataset.item_ids.tolist() == ["242", "267", "302"]
    np.testing.assert_array_equal(dataset.users, [1, 0, 0])
    np.testing.assert_array_equal(dataset.items, [0, 2, 1])
    np.testing.assert_array_equal(dataset.ratings, [3, 4, 1])
    np.testing.assert_array_equal(dataset.times, [881250949, 891717742, 5])
    assert dataset.item_text.to_dict("list") == {
        "title": ["Kolya", None, "Misérables, Les"],
        "year": ["1996", None, "1995"],
        "genres": ["Comedy", None, "Action, War"],
    }
    assert dataset.user_text.to_dict("list") == {
        "gender": ["female", "male"],
        "age": ["53", "24"],
        "occupation": [None, "technician"],
    }
    assert "GroupLens" in dataset.licence


def test_1m_is_read_with_titles_years_genres_and_users(ml_1m):
    dataset = load_dataset("ml-1m", folder=ml_1m)
    assert dataset.item_ids.tolist() == ["661", "1193"]
    np.testing.assert_array_equal(dataset.ratings, [5, 3, 1])
    np.testing.assert_array_equal(dataset.times, [978300760, 978302109, 978301968])
    assert dataset.item_text.to_dict("list") == {
        "title": ["James and the Giant Peach", "Léon"],
        "year": ["1996", "1994"],
        "genres": ["Animation, Children's, Musical", "Drama"],
    }
    assert dataset.user_text.to_dict("list") == {
        "gender": ["female", "male"],
        "age": ["under 18", "56 or older"],
        "occupation": ["K-12 student", None],
    }
    assert dataset.report.notes["items in movies.dat without interaction, left out"] == 1


def test_1m_without_timestamps_is_read_from_ratings_csv_gz(ml_1m):
    timed = load_dataset("ml-1m", folder=ml_1m)
    (ml_1m / "ratings.dat").unlink()
    (ml_1m / "ratings.csv.gz").write_bytes(
        gzip.compress(b"user,item,rating\n1,1193,5\n1,661,3\n2,1193,1\n")
    )
    untimed = load_dataset("ml-1m", folder=ml_1m)
    assert untimed.times is None
    np.testing.assert_array_equal(untimed.users, timed.users)
    np.testing.assert_array_equal(untimed.items, timed.items)
    np.testing.assert_array_equal(untimed.ratings, timed.ratings)


def test_1m_takes_plots_and_directors_on_request(ml_1m):
    line = (
        "1193::Leon::1994::R::18 Nov 1994::Crime, Drama::Luc Besson::N/A::Jean Reno::A plot.::url\n"
    )
    (ml_1m / "movies_extrainfos.dat").write_text(line)
    dataset = load_dataset("ml-1m", folder=ml_1m, extra=True)
    assert dataset.item_text["title"].tolist() == ["James and the Giant Peach", "Léon"]
    assert dataset.item_text["plot"].tolist() == [None, "A plot."]
    assert dataset.item_text["director"].tolist() == [None, "Luc Besson"]
    assert dataset.item_text["writers"].tolist() == [None, None]


def test_movies_in_mixed_encodings_are_repaired_and_noted(ml_1m):
    with (ml_1m / "movies.dat").open("ab") as file:
        file.write("5::Amélie (2001)::Comedy\n6::Pokémon (1998)::Animation\n".encode())
    dataset = load_dataset("ml-1m", folder=ml_1m)
    assert dataset.item_text["title"].tolist() == ["James and the Giant Peach", "Léon"]
    note = "lines of movies.dat in another encoding than the rest, repaired"
    assert dataset.report.notes[note] == 1


@pytest.mark.parametrize("name", ["ml-25m", "ml-32m"])
def test_the_csv_releases_are_read_with_titles_years_and_genres(ml_25m, name):
    dataset = load_dataset(name, folder=ml_25m)
    assert dataset.name == name
    np.testing.assert_array_equal(dataset.ratings, np.float32([5, 3.5]))
    np.testing.assert_array_equal(dataset.times, [1147880044, 1147868817])
    assert dataset.item_text.to_dict("list") == {
        "title": ["Pulp Fiction", "Red, The"],
        "year": ["1994", "1994"],
        "genres": ["Comedy, Crime", None],
    }


def test_rows_that_a_truncated_copy_lacks_are_noted(ml_1m):
    notes = load_dataset("ml-1m", folder=ml_1m).report.notes
    assert notes["rows fewer than the publisher's 1,000,209"] == 1_000_209 - 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3::661::six::5\n", r"ratings\.dat, line 4, column 'rating': found 'six'.*not a number"),
        (
            "3::661::6::5\n",
            r"line 4, column 'rating': found '?6'?: rating outside the scale 1 to 5",
        ),
        ("3::661::4\n", r"line 4, column 'time': found nothing: missing time"),
        ("3::661::4::5::6\n", r"ratings\.dat.*line 4, saw 5"),
    ],
)
def test_a_bad_line_of_ratings_dat_is_named(ml_1m, line, message):
    with (ml_1m / "ratings.dat").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=message):
        load_dataset("ml-1m", folder=ml_1m)


def test_a_bad_rating_is_counted_on_request(ml_1m):
    with (ml_1m / "ratings.dat").open("a") as file:
        file.write("3::661::6::5\n")
    report = load_dataset("ml-1m", folder=ml_1m, on_bad_rows="drop").report
    assert report.dropped == {"rating outside the scale 1 to 5": 1}


def test_a_rating_of_an_unknown_movie_is_an_error_on_request(ml_1m):
    with (ml_1m / "ratings.dat").open("a") as file:
        file.write("2::999::4::5\n")
    assert load_dataset("ml-1m", folder=ml_1m).item_text["title"].tolist()[1] is None
    with pytest.raises(DataError, match=r"line 4.*not in movies\.dat"):
        load_dataset("ml-1m", folder=ml_1m, unknown_items="error")


def test_a_renamed_column_of_movies_csv_is_named(ml_25m):
    (ml_25m / "movies.csv").write_text("movieId,name,genre\n296,Pulp Fiction (1994),Crime\n")
    with pytest.raises(DataError, match=r"movies\.csv has no column 'title'.*movieId, name, genre"):
        load_dataset("ml-25m", folder=ml_25m)


@pytest.mark.parametrize("file", ["u.item", "u.user"])
def test_a_missing_companion_file_is_named(ml_100k, file):
    (ml_100k / file).unlink()
    with pytest.raises(DataError, match=rf"{file} is not a file"):
        load_dataset("ml-100k", folder=ml_100k)


@pytest.mark.shared_data("ml-1m")
def test_the_real_1m_has_its_published_counts(shared_data):
    dataset = load_dataset("ml-1m", folder=shared_data / "ml-1m", extra=True)
    assert (len(dataset), dataset.n_users, dataset.n_items) == (1_000_209, 6_040, 3_706)
    values, counts = np.unique(dataset.ratings, return_counts=True)
    assert values.tolist() == [1, 2, 3, 4, 5]
    assert counts.tolist() == [56_174, 107_557, 261_197, 348_971, 226_310]
    assert dataset.times is None
    assert dataset.item_text["title"].notna().all()
    lacking = dataset.item_ids[dataset.item_text["plot"].isna().to_numpy()]
    assert {"860", "1795"} <= set(lacking.tolist())
    assert not any(note.startswith("rows fewer") for note in dataset.report.notes)
