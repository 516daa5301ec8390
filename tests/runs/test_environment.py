from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from metarec.runs import environment


def test_the_code_hash_changes_with_the_code_that_decides_results_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without = ("report/tables.py", "audit/fits.py", "speed/rows.py", "torch/speed.py", "notes.txt")
    for name in ("splits.py", *without):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a = 1\n")
    monkeypatch.setattr(environment, "_PACKAGE", tmp_path)
    code_hash = environment.code_hash.__wrapped__
    before = code_hash()
    for name in without:
        (tmp_path / name).write_text("a = 2\n")
    assert code_hash() == before
    (tmp_path / "splits.py").write_text("a = 2\n")
    changed = code_hash()
    assert changed != before
    shutil.move(tmp_path / "splits.py", tmp_path / "cuts.py")
    assert code_hash() not in (before, changed)


def test_outside_of_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "_PACKAGE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.commit.__wrapped__() is None


def test_versions_threads_and_memory_are_those_of_this_process() -> None:
    assert environment.versions()["numpy"] == __import__("numpy").__version__
    assert environment.threads() >= 1
    peak = environment.peak_memory_bytes()
    assert peak is None or peak > 10_000_000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_the_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    large = np.ones((400, 2**17))
    code = "from metarec.runs import environment; print(environment.peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < large.nbytes


def test_memory_of_a_gpu_is_known_where_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [7, 9]
    torch = SimpleNamespace(
        cuda=SimpleNamespace(
            is_initialized=lambda: False,
            device_count=lambda: 2,
            max_memory_allocated=held.__getitem__,
            reset_peak_memory_stats=lambda device: held.__setitem__(device, 0),
        )
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert environment.peak_device_memory_bytes() is None
    torch.cuda.is_initialized = lambda: True
    assert environment.peak_device_memory_bytes() == 9
    environment.forget_device_peak()
    assert environment.peak_device_memory_bytes() == 0
    monkeypatch.delitem(sys.modules, "torch")
    assert environment.peak_device_memory_bytes() is None
