"""Files that are missing, renamed, truncated or wrongly encoded: one clear error each."""

from __future__ import annotations

import gzip
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from metarec.data.files import find_folder, read_fields, read_headless, read_table
from metarec.errors import ConfigError, DataError

CSV = "user,item,rating\n" + "".join(f"u{row},i{row},{row % 5 + 1}\n" for row in range(2000))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def table_file(tmp_path):
    def make(content: str | bytes, name: str = "ratings.csv") -> Path:
        return write(tmp_path / name, content)

    return make


def test_a_missing_file_is_named_with_what_the_folder_holds(tmp_path, table_file):
    table_file(CSV, "rating.csv")
    with pytest.raises(DataError, match=r"ratings\.csv is not a file.*folder holds rating\.csv"):
        read_table(tmp_path / "ratings.csv")


def test_a_missing_folder_of_a_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        read_table(tmp_path / "nowhere" / "ratings.csv")


def test_a_renamed_column_is_named_with_the_nearest_and_all_found(table_file):
    with pytest.raises(DataError, match=r"no column 'rating'; did you mean 'ratings'.*user, item"):
        read_table(table_file("user,item,ratings\n1,2,3\n"), ["user", "rating"])


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_an_error(table_file, content):
    with pytest.raises(DataError, match=r"ratings\.csv is empty"):
        read_table(table_file(content))


def test_a_truncated_gzip_file_is_an_error(table_file):
    whole = gzip.compress(CSV.encode())
    with pytest.raises(DataError, match=r"ratings\.csv\.gz cannot be read: it is truncated"):
        read_table(table_file(whole[: len(whole) // 2], "ratings.csv.gz"))


def test_a_damaged_gzip_file_is_an_error(table_file):
    whole = bytearray(gzip.compress(CSV.encode()))
    whole[len(whole) // 2] ^= 0xFF
    with pytest.raises(DataError, match=r"ratings\.csv\.gz cannot be read"):
        read_table(table_file(bytes(whole), "ratings.csv.gz"))


def test_text_that_is_called_gzip_is_an_error(table_file):
    with pytest.raises(DataError, match=r"not what its ending says"):
        read_table(table_file(CSV, "ratings.csv.gz"))


def test_a_truncated_zip_file_is_an_error(tmp_path):
    path = tmp_path / "ratings.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ratings.csv", CSV)
    assert len(read_table(path).frame) == 2000
    write(path, path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"ratings\.csv\.zip cannot be read"):
        read_table(path)


def test_a_truncated_parquet_file_is_an_error(tmp_path):
    path = tmp_path / "ratings.parquet"
    pd.DataFrame({"user": range(1000)}).to_parquet(path)
    write(path, path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"ratings\.parquet cannot be read"):
        read_table(path)


def test_a_renamed_column_of_a_parquet_file_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "ratings.parquet"
    pd.DataFrame({"users": [1]}).to_parquet(path)
    with pytest.raises(DataError, match=r"no column 'user'; did you mean 'users'"):
        read_table(path, ["user"])


def test_a_line_with_too_many_fields_is_named(table_file):
    with pytest.raises(DataError, match=r"Expected 3 fields in line 3, saw 4"):
        read_table(table_file("user,item,rating\n1,2,3\n1,2,3,4\n"))


@pytest.mark.parametrize("rows", ["1,2,3\n4,5,6\n", "1,2,3\n4,5\n"])
def test_rows_longer_than_the_header_are_an_error_and_make_no_index(table_file, rows):
    with pytest.raises(DataError, match=r"does not parse"):
        read_table(table_file("user,item\n" + rows), ["user", "item"])


def test_invalid_encoding_names_the_line_and_suggests_latin_1(table_file):
    path = table_file("item,title\n1,Amélie\n2,Léon\n".encode("latin-1"))
    with pytest.raises(DataError, match=r'line 2: not valid utf-8.*encoding="latin-1"'):
        read_table(path)
    assert read_table(path, encoding="latin-1").frame["title"].tolist() == ["Amélie", "Léon"]


def test_mixed_encodings_name_the_first_line_that_is_in_the_other(table_file):
    mixed = b"item,title\n" + "1,Amélie\n".encode() + "2,Léon\n".encode("latin-1")
    with pytest.raises(DataError, match=r"line 3: not valid utf-8.*mixed, convert"):
        read_table(table_file(mixed))


def test_invalid_encoding_is_found_in_a_compressed_file(table_file):
    path = table_file(gzip.compress("item,title\n1,Léon\n".encode("latin-1")), "items.csv.gz")
    with pytest.raises(DataError, match=r"items\.csv\.gz, line 2: not valid utf-8"):
        read_table(path)


def test_an_unknown_encoding_is_an_error(table_file):
    with pytest.raises(ConfigError, match=r"encoding='latin-one' is unknown"):
        read_table(table_file(CSV), encoding="latin-one")


def test_words_that_pandas_takes_for_missing_stay_text(table_file):
    frame = read_table(table_file("item,title\n1,NA\n2,null\n3,\n"), text=None).frame
    assert frame["title"].tolist()[:2] == ["NA", "null"]
    assert frame["title"].isna().tolist() == [False, False, True]


def test_ids_keep_their_leading_zeros(table_file):
    frame = read_table(table_file("user,rating\n007,1\n"), text=["user"]).frame
    assert frame["user"].tolist() == ["007"]


def test_the_place_of_a_row_counts_blank_lines_and_quoted_line_breaks(table_file):
    table = read_table(table_file('user,title\n\n1,"two\nlines"\n2,b\n   \n3,c\n'))
    assert table.frame["title"].tolist() == ["two\nlines", "b", "c"]
    assert [table.place(row) for row in range(3)] == ["line 3", "line 5", "line 7"]


def test_a_tab_separated_file_is_known_by_its_ending(table_file):
    frame = read_table(table_file("user\titem\n1\t2\n", "ratings.tsv")).frame
    assert frame.columns.tolist() == ["user", "item"]


def test_an_excel_file_without_openpyxl_says_what_to_install(table_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"pip install openpyxl"):
        read_table(table_file(b"", "Online Retail.xlsx"))


def test_an_excel_file_is_read_as_text(tmp_path):
    pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    path = tmp_path / "shop.xlsx"
    frame = pd.DataFrame({"code": ["85123A"], "at": [pd.Timestamp("2010-12-01 08:26")], "n": [6]})
    frame.to_excel(path, index=False)
    read = read_table(path, ["code", "at", "n"]).frame
    assert read.iloc[0].tolist() == ["85123A", "2010-12-01 08:26:00", "6"]
    with pytest.raises(DataError, match=r"no column 'number'"):
        read_table(path, ["number"])


def test_a_truncated_excel_file_is_an_error(tmp_path):
    pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    path = tmp_path / "shop.xlsx"
    pd.DataFrame({"code": ["85123A"]}).to_excel(path, index=False)
    write(path, path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"shop\.xlsx cannot be read"):
        read_table(path)


def test_a_separator_of_two_characters_gives_numbers(table_file):
    table = read_headless(table_file("1::10::5\n\n2::20::4\n", "r.dat"), ("u", "i", "r"), "::")
    assert table.frame.to_numpy().tolist() == [[1, 10, 5], [2, 20, 4]]
    assert [table.place(0), table.place(1)] == ["line 1", "line 3"]


def test_a_headless_line_with_too_many_fields_is_named(table_file):
    with pytest.raises(DataError, match=r"r\.dat.*line 2, saw 4"):
        read_headless(table_file("1::10::5\n2::20::4::9\n", "r.dat"), ("u", "i", "r"), "::")


def test_a_tab_in_a_file_of_double_colons_is_named(table_file):
    with pytest.raises(DataError, match=r"r\.dat, line 2: a tab"):
        read_headless(table_file("1::10::5\n2::20\t::4\n", "r.dat"), ("u", "i", "r"), "::")


def test_text_lines_are_read_in_latin_1_and_in_utf_8(table_file):
    latin = table_file("1::Léon\n2::Amélie\n".encode("latin-1"), "latin.dat")
    utf_8 = table_file("1::Léon\r\n2::Amélie\r\n", "utf.dat")
    expected = [["1", "Léon"], ["2", "Amélie"]]
    assert read_fields(latin, "::", 2) == (expected, 0)
    assert read_fields(utf_8, "::", 2) == (expected, 0)


def test_lines_of_the_rarer_of_two_mixed_encodings_are_repaired_and_counted(table_file):
    mixed = "1::Léon\n2::Amélie\n".encode("latin-1") + "3::Pokémon\n4::Alien\n".encode()
    rows, repaired = read_fields(table_file(mixed, "movies.dat"), "::", 2)
    assert [row[1] for row in rows] == ["Léon", "Amélie", "Pokémon", "Alien"]
    assert repaired == 1


def test_a_text_line_cut_short_is_named(table_file):
    with pytest.raises(DataError, match=r"movies\.dat, line 2: 1 fields.*expected 2"):
        read_fields(table_file("1::Léon\n2", "movies.dat"), "::", 2)


def test_an_empty_text_file_is_an_error(table_file):
    with pytest.raises(DataError, match=r"movies\.dat is empty"):
        read_fields(table_file("", "movies.dat"), "::", 2)


def test_no_folder_says_how_to_get_the_data_set():
    with pytest.raises(DataError, match=r"needs folder=.*metarec\.data download ml-1m --to"):
        find_folder("ml-1m", None, ("ratings.dat",))


def test_a_folder_that_is_not_there_says_how_to_get_the_data_set(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*nowhere.*metarec\.data download ml-1m"):
        find_folder("ml-1m", tmp_path / "nowhere", ("ratings.dat",))


def test_a_folder_without_the_files_says_what_it_holds(tmp_path, table_file):
    table_file("", "notes.txt")
    with pytest.raises(DataError, match=r"holds no ratings\.dat .*notes\.txt.*download ml-1m"):
        find_folder("ml-1m", tmp_path, ("ratings.dat",))


def test_a_folder_of_atomic_files_points_to_the_other_reader(tmp_path, table_file):
    table_file("", "ml-1m.inter")
    with pytest.raises(DataError, match=r"RecBole's format: load_dataset\('recbole'"):
        find_folder("ml-1m", tmp_path, ("ratings.dat",))


def test_the_folder_above_the_data_set_will_do(tmp_path):
    (tmp_path / "ml-1m").mkdir()
    write(tmp_path / "ml-1m" / "ratings.dat", "")
    assert find_folder("ml-1m", tmp_path, ("ratings.dat",)) == tmp_path / "ml-1m"


def test_an_escaped_quote_ends_no_field_and_lines_are_still_counted(table_file):
    path = table_file('id;title\n1;"A \\"good\\"; title"\n2;"two\nlines"\n3;last\n')
    table = read_table(path, separator=";", text=None, escape="\\")
    assert table.frame["title"].tolist() == ['A "good"; title', "two\nlines", "last"]
    assert table.place(2) == "line 5"


def test_a_missing_folder_says_the_remedy_that_it_is_given(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*away; ask for it"):
        find_folder("mine", tmp_path / "away", ("a.csv",), "ask for it")


def test_two_columns_of_one_name_are_an_error(table_file):
    with pytest.raises(DataError, match=r"has 2 columns 'rating'; rename all but one"):
        read_table(table_file("user,rating,rating\nu,1,2\n"), ["user", "rating"])


@pytest.mark.parametrize("separator", ["::", ""])
def test_a_separator_that_is_no_character_is_an_error(table_file, separator):
    with pytest.raises(ConfigError, match="must be one character"):
        read_table(table_file(CSV), separator=separator)


@pytest.mark.parametrize("members", [[], ["a.csv", "__MACOSX/._a.csv"]])
def test_an_archive_of_no_or_several_files_is_to_be_unpacked(tmp_path, members):
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        for member in members:
            archive.writestr(member, CSV)
    with pytest.raises(DataError, match=r"a\.csv\.zip does not hold one table alone; unpack it"):
        read_table(tmp_path / "a.csv.zip")


def test_the_mark_that_some_editors_put_before_utf_8_is_no_part_of_an_id(table_file):
    rows, _ = read_fields(table_file(b"\xef\xbb\xbf1::Heat\n2::Jaws\n", "m.dat"), "::", 2)
    assert rows == [["1", "Heat"], ["2", "Jaws"]]


def test_ids_that_excel_takes_for_missing_are_text(tmp_path):
    frame = pd.DataFrame({"user": ["NA", "null", ""], "item": ["a", "b", "c"]})
    frame.to_excel(tmp_path / "r.xlsx", index=False)
    found = read_table(tmp_path / "r.xlsx").frame["user"]
    assert found[:2].tolist() == ["NA", "null"]
    assert found.isna().tolist() == [False, False, True]
