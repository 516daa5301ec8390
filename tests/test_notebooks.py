"""The notebooks are kept as written: valid, named by kernel, and without what a run adds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
# Absolute folders of Unix and Windows homes and work trees, and the packages of an environment.
MACHINE_PATH = re.compile(r"/(?:home|Users|root|work|mnt|tmp|private)/|\b[A-Z]:\\\\|site-packages/")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def test_the_readme_names_every_notebook() -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"notebooks/(\w+\.ipynb)", readme))
    assert named == {path.name for path in NOTEBOOKS}


@each_notebook
def test_a_notebook_has_the_valid_format(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)


@each_notebook
def test_a_notebook_runs_in_the_kernel_of_any_environment(path: Path) -> None:
    assert read(path).metadata.kernelspec.name == "python3"


@each_notebook
def test_a_notebook_is_committed_without_outputs_or_counts(path: Path) -> None:
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert code
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert [cell.execution_count for cell in code] == [None] * len(code)


@each_notebook
def test_a_notebook_names_no_folder_of_a_machine(path: Path) -> None:
    assert MACHINE_PATH.findall(path.read_text(encoding="utf-8")) == []


def test_a_folder_of_a_machine_is_recognised() -> None:
    assert MACHINE_PATH.search('"/home/someone/data"')
    assert MACHINE_PATH.search(r'"C:\\Users"')
    assert not MACHINE_PATH.search(".venv/bin/jupyter lab notebooks; results/paper; ../results")
