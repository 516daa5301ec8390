"""Book-Crossing: the publisher's files and those of copies, with their oddities."""

from __future__ import annotations

import pytest

from metarec.data import load_dataset
from metarec.errors import ConfigError, DataError

RATINGS = """"User-ID";"ISBN";"Book-Rating"
"276725";"034545104X";"0"
"276726";"0155061224";"5"
"276725";"0155061224";"10"
"276727";"034545104x";"8"
"276727";" 0-345-45104-X";"7"
"276727";"0789466953";"9"
"""
BOOKS = r""""ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S"
"034545104X";"Flesh Tones: A \"Novel\"; or not";"M. J. Rose";"2002";"Ballantine &amp; Co";"http://s"
"0155061224";"Rites of Passage, Léon";"Judith Rae";"0";"Heinle";"http://s"
"0789466953";"DK Readers (Level 4: Proficient Readers)\";James Buckley\"";"2000";"DK Publishing Inc";"http://s"
"0000000000";"Unread";"Nobody";"1999";"None";"http://s"
"""
USERS = """"User-ID";"Location";"Age"
"276725";"tyler, texas, usa";NULL
"276726";"seattle, n/a, usa";"18"
"276727";"n/a, n/a, ";"239"
"1";"nyc, new york, usa";NULL
"""


@pytest.fixture
def original(tmp_path):
    for name, text in (("Book-Ratings", RATINGS), ("Books", BOOKS), ("Users", USERS)):
        (tmp_path / f"BX-{name}.csv").write_bytes(text.encode("latin-1"))
    return tmp_path


@pytest.fixture
def copied(tmp_path):
    """As pandas writes the tables that it read without minding the backslashes."""
    (tmp_path / "Ratings.csv").write_text(
        RATINGS.replace('"', "").replace(";", ","), encoding="utf-8"
    )
    (tmp_path / "Books.csv").write_text(
        "ISBN,Book-Title,Book-Author,Year-Of-Publication,Publisher,Image-URL-S\n"
        '034545104X,"Flesh Tones: A \\""Novel\\""; or not",M. J. Rose,2002,Ballantine &amp; Co,s\n'
        '0155061224,"Rites of Passage, Léon",Judith Rae,0,Heinle,s\n'
        '0789466953,"DK Readers (Level 4: Proficient Readers)\\"";James Buckley""",2000,'
        "DK Publishing Inc,s,\n"
        "0000000000,Unread,Nobody,1999,None,s\n",
        encoding="utf-8",
    )
    (tmp_path / "Users.csv").write_text(
        'User-ID,Location,Age\n276725,"tyler, texas, usa",\n276726,"seattle, n/a, usa",18.0\n'
        '276727,"n/a, n/a, ",239.0\n1,"nyc, new york, usa",\n',
        encoding="utf-8",
    )
    return tmp_path


def expected_texts(dataset):
    assert dataset.user_ids.tolist() == ["276725", "276726", "276727"]
    assert dataset.item_ids.tolist() == ["0155061224", "034545104X", "0789466953"]
    assert dataset.item_text.to_dict("list") == {
        "title": [
            "Rites of Passage, Léon",
            'Flesh Tones: A "Novel"; or not',
            "DK Readers (Level 4: Proficient Readers)",
        ],
        "author": ["Judith Rae", "M. J. Rose", "James Buckley"],
        "year": [None, "2002", "2000"],
        "publisher": ["Heinle", "Ballantine & Co", "DK Publishing Inc"],
    }
    assert dataset.user_text.to_dict("list") == {
        "location": ["tyler, texas, usa", "seattle, usa", None],
        "age": [None, "18", None],
    }


@pytest.mark.parametrize("files", ["original", "copied"])
def test_explicit_ratings_are_read_with_their_texts_and_implicit_ones_counted(files, request):
    dataset = load_dataset("book-crossing", folder=request.getfixturevalue(files))
    expected_texts(dataset)
    assert dataset.users.tolist() == [1, 0, 2, 2]
    assert dataset.items.tolist() == [0, 0, 1, 2]
    assert dataset.ratings.tolist() == [5, 10, 7, 9]
    assert (dataset.feedback, dataset.rating_scale) == ("rating", (1.0, 10.0))
    assert dataset.times is None
    assert dataset.report.read == 6
    assert dataset.report.dropped == {
        "implicit (rating 0), while feedback=rating": 1,
        "duplicate user-item pair, kept the latest by the order of the file": 1,
    }
    books = "BX-Books.csv" if files == "original" else "Books.csv"
    users = books.replace("Books", "Users")
    assert dataset.report.notes == {
        "ISBNs in another spelling, made one with digits and capitals only": 2,
        f"items in {books} without interaction, left out": 1,
        "books whose author stood in the title, put right": 1,
        "years of books outside 1400 to 2006, taken as missing": 1,
        "items without year": 1,
        f"users in {users} without interaction, left out": 1,
        "ages outside 5 to 100, taken as missing": 1,
        "users without location": 1,
        "users without age": 2,
    }
    assert "research" in dataset.licence


def test_implicit_feedback_keeps_zeros_and_ratings_alike(original):
    dataset = load_dataset("book-crossing", folder=original, feedback="implicit")
    assert dataset.feedback == "implicit"
    assert dataset.ratings.tolist() == [1] * 5
    assert (dataset.users[0], dataset.items[0]) == (0, 1)
    with pytest.raises(ConfigError, match=r"feedback='binary' is unknown"):
        load_dataset("book-crossing", folder=original, feedback="binary")


def test_a_copy_with_short_names_and_fewer_columns_is_read(tmp_path):
    (tmp_path / "Ratings.csv").write_text("User-ID;ISBN;Rating\n7;0001;4\n")
    (tmp_path / "Books.csv").write_text("ISBN;Title;Author;Year;Publisher\n0001;T;A;1999;P\n")
    (tmp_path / "Users.csv").write_text("User-ID;Age\n7;40\n")
    dataset = load_dataset("book-crossing", folder=tmp_path)
    assert dataset.item_text.iloc[0].tolist() == ["T", "A", "1999", "P"]
    assert dataset.user_text.to_dict("list") == {"age": ["40"]}


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        ('"1";"0155061224";"11"', "Book-Rating", "rating outside the scale 1 to 10"),
        ('"1";"0155061224";"good"', "Book-Rating", "rating is not a number"),
        ('"1";"0155061224";', "Book-Rating", "missing rating"),
        ('"1";"-.-";"3"', "ISBN", "missing item id"),
        ('"";"0155061224";"3"', "User-ID", "missing user id"),
    ],
)
def test_a_bad_line_is_named_or_counted(original, line, column, reason):
    with (original / "BX-Book-Ratings.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(
        DataError, match=rf"BX-Book-Ratings\.csv, line 8, column '{column}': found .*: {reason}"
    ):
        load_dataset("book-crossing", folder=original)
    dropped = load_dataset("book-crossing", folder=original, on_bad_rows="drop").report.dropped
    assert dropped[reason] == 1


def test_books_that_are_not_in_the_file_of_books_are_kept_or_dropped(original):
    with (original / "BX-Book-Ratings.csv").open("a") as file:
        file.write('"276726";"B00009EF82";"6"\n')
    dataset = load_dataset("book-crossing", folder=original)
    assert "B00009EF82" in dataset.item_ids
    dataset = load_dataset("book-crossing", folder=original, unknown_items="drop")
    assert dataset.report.dropped["item is not in BX-Books.csv"] == 1


def test_a_column_of_another_name_is_named(original):
    text = BOOKS.replace("Book-Title", "Name").encode("latin-1")
    (original / "BX-Books.csv").write_bytes(text)
    with pytest.raises(DataError, match=r"BX-Books\.csv has no column 'Title'"):
        load_dataset("book-crossing", folder=original)


def test_a_folder_without_the_files_says_how_to_get_them(tmp_path):
    for options in ({}, {"folder": tmp_path}):
        with pytest.raises(DataError, match=r"publisher's site is gone: get BX-CSV-Dump\.zip"):
            load_dataset("book-crossing", **options)
