"""What is written of results quotes tables: figures stand in those that are named beside them."""

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


GENERATED = re.compile(r"<!-- (.*?): begin -->.*?<!-- \1: end -->|```.*?```", re.DOTALL)
"""What of a page reports write, and its commands."""

PAGES = (PAPER / "results.md", PAPER.parent / "README.md")
PROTOCOLS = tuple(sorted((PAPER / "protocols").glob("*.md")))

IN_NO_TABLE = {
    "melu.md": {".662", ".829", ".001"},
    "recbole_metarec.md": {".576", ".002"},
}
"""What a protocol's page tells of prototypes, and of what others counted, which no table has."""


def sections(page: Path) -> list[str]:
    text = GENERATED.sub("", page.read_text(encoding="utf-8"))
    return re.split(r"^#{2,3} ", text, flags=re.MULTILINE)


def thousandths(text: str) -> set[str]:
    """Numbers of three decimals, bounds of intervals too."""
    return set(re.findall(r"(?<![\d.\w/])[+−]?\.\d{3}\b", text))


def tables_of(section: str, page: Path) -> list[Path]:
    """The tables that a section links."""
    links = re.findall(r"\]\(((?:\.\./)?(?:[\w-]+/)*tables/\w+\.md)\)", section)
    return [page.parent / link for link in links]


@pytest.mark.parametrize(
    ("page", "section"),
    [
        *(
            pytest.param(page, section, id=f"{page.name}: {section.splitlines()[0][:40]}")
            for page in PAGES
            for section in sections(page)
        ),
        *(pytest.param(page, "".join(sections(page)), id=page.name) for page in PROTOCOLS),
    ],
)
def test_every_figure_of_a_page_stands_in_the_tables_of_its_section(page, section):
    measured = thousandths(section) - IN_NO_TABLE.get(page.name, set())
    files = tables_of(section, page)
    published = set().union(*(thousandths(file.read_text(encoding="utf-8")) for file in files))
    published |= {figure.removeprefix("+") for figure in published}
    if not measured <= published and made_anew():
        pytest.skip(f"tables were made anew since the last commit: read {page.name} beside them")
    assert measured <= published, f"{measured - published} not in {files}"


def test_the_page_of_results_has_figures_and_links_their_tables():
    found = [section for section in sections(PAGES[0]) if thousandths(section)]
    assert len(found) >= 3
    assert all(tables_of(section, PAGES[0]) for section in found)


@pytest.mark.parametrize("page", [*PAGES, *PROTOCOLS, PAPER / "claims.md", PAPER / "README.md"])
def test_every_link_of_a_page_leads_to_a_file(page):
    links = re.findall(r"\]\((?!http|#)([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert links
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_a_figure_that_no_table_has_is_found():
    table = "| MAML | .120 <sub>[.108, .133]</sub> | −.040<sup>−</sup> <sub>[−.055, −.026]</sub> |"
    assert figures(table) == {".120", "−.040"}
    assert not figures(".108 of an interval") <= figures(table)
