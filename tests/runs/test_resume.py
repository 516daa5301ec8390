from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from metarec.runs.resume import Checkpointer, load_tensors, save_tensors, write_text
from metarec.writing import replacing


def test_what_was_saved_is_loaded_to_the_bit(tmp_path: Path) -> None:
    tensors = {
        "matrix": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32).T,
        "number": np.array(7, np.int64),
        "empty": np.zeros((0, 2), np.float64),
    }
    state = {"step": 3, "best": -math.inf, "log": [{"loss": 0.1 + 0.2}]}
    Checkpointer(tmp_path / "training").save(tensors, state)
    loaded = Checkpointer(tmp_path / "training").load()
    assert loaded is not None
    for name, value in tensors.items():
        np.testing.assert_array_equal(loaded[0][name], value, strict=True)
    assert loaded[1] == state


def test_the_latest_state_counts_and_discarding_removes_it(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path / "training")
    assert checkpointer.load() is None
    for step in (1, 2):
        checkpointer.save({"w": np.full(2, step, np.float32)}, {"step": step})
    loaded = checkpointer.load()
    assert loaded is not None
    assert loaded[1] == {"step": 2}
    checkpointer.discard()
    assert checkpointer.load() is None


def test_the_state_of_other_code_is_not_gone_on_from(tmp_path: Path) -> None:
    Checkpointer(tmp_path, code="old").save({"w": np.zeros(1, np.float32)}, {})
    assert Checkpointer(tmp_path, code="new").load() is None
    assert Checkpointer(tmp_path, code="old").load() is not None


def test_a_truncated_state_starts_the_training_anew_and_says_so(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save({"w": np.zeros(100, np.float32)}, {"step": 1})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.warns(UserWarning, match="broken"):
        assert checkpointer.load() is None


def test_a_write_that_fails_leaves_what_was_there_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "record.json"
    write_text(file, "before")

    def no_space(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space"):
        write_text(file, "after")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_nothing_is_there_under_the_name_until_all_is_written(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "file"
    with replacing(file) as temporary:
        temporary.write_text("half")
        assert not file.exists()
        assert temporary.parent == file.parent
    assert file.read_text() == "half"


def test_tensors_survive_the_disk(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t.safetensors", {"a": np.arange(3)})
    np.testing.assert_array_equal(load_tensors(tmp_path / "t.safetensors")["a"], np.arange(3))
