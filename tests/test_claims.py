"""The page of claims quotes tables: every figure stands in the tables that its row links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

PAPER = Path(__file__).resolve().parent.parent / "paper"
HEADER = ["Claim", "Of", "Measured here", "Table", "Held?"]


def rows() -> list[list[str]]:
    lines = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in (PAPER / "claims.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    assert lines[0] == HEADER
    return lines[2:]


def figures(text: str) -> set[str]:
    """Numbers such as .259 and +.015 as tables print them, not the bounds of intervals."""
    return set(re.findall(r"(?<![\d.])[+−]?\.\d+", re.sub(r"<sub>\[.*?\]</sub>", "", text)))


def made_anew() -> bool:
    """Whether the tables are not those of the last commit, as after `make paper`."""
    command = ["git", "status", "--porcelain", "--", "tables"]
    return bool(subprocess.run(command, cwd=PAPER, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:50])
def test_every_figure_stands_in_the_tables_of_its_row(row):
    assert len(row) == len(HEADER)
    files = [PAPER / link for link in re.findall(r"\]\((.*?)\)", row[3])]
    assert files
    published = set().union(*(figures(file.read_text(encoding="utf-8")) for file in files))
    measured = figures(row[2]) | figures(row[4])
    assert figures(row[2])
    if not measured <= published and made_anew():
        pytest.skip("tables were made anew since the last commit: read paper/claims.md beside them")
    assert measured <= published, f"{measured - published} not in {row[3]}"


def test_a_figure_that_no_table_has_is_found():
    table = "| MAML | .120 <sub>[.108, .133]</sub> | −.040<sup>−</sup> <sub>[−.055, −.026]</sub> |"
    assert figures(table) == {".120", "−.040"}
    assert not figures(".108 of an interval") <= figures(table)
