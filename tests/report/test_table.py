from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from metarec.report.table import (
    Cell,
    Estimate,
    Row,
    Section,
    Source,
    Table,
    interval_text,
    number,
    p_text,
)


def table(*rows: Row, **overrides: object) -> Table:
    fields: dict[str, object] = {
        "name": "main",
        "title": "nDCG@10",
        "columns": ("Learner", "User cold"),
        "sections": (Section("Meta", rows),),
        "notes": ("95 % intervals.", "p < .05."),
    }
    return Table(**(fields | overrides))  # type: ignore[arg-type]


def printed(made: Table, width: int = 120) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(made.to_rich(width))
    return capture.get()


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (0.4125, False, ".412"),
        (1.0, False, "1.000"),
        (-0.0314, False, "−.031"),
        (0.0314, True, "+.031"),
        (-0.0001, True, ".000"),
        (0.0, True, ".000"),
        (math.nan, False, "–"),
    ],
)
def test_a_number_has_three_decimals_and_no_leading_zero(value, signed, text):
    assert number(value, signed) == text


@given(st.floats(-5, 5))
def test_what_is_printed_is_the_number_to_half_a_digit(value):
    shown = float(number(value).replace("−", "-"))
    assert abs(shown - value) <= 0.0005 + 1e-12


def test_small_p_values_are_bounds_and_missing_ones_a_dash():
    assert [p_text(p) for p in (0.0004, 0.034, math.nan)] == ["<.001", ".034", "–"]


def test_an_interval_without_ends_is_not_printed():
    assert interval_text(math.nan, math.nan) == ""
    assert interval_text(0.1, 0.25) == "[.100,\N{NO-BREAK SPACE}.250]"


@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=5),
    st.integers(30, 160),
)
def test_terminal_markdown_and_latex_agree_to_the_digit(numbers, width):
    rows = [
        Row(f"L{place}", (Cell(number(mean), interval_text(low, high), mark="†"),))
        for place, (mean, low, high) in enumerate(numbers)
    ]
    made = table(*rows, notes=())
    digits = [
        re.findall(r"\d?\.\d{3}", text)
        for text in (made.to_latex(), made.to_markdown(), printed(made, width))
    ]
    assert digits[0] == digits[1] == digits[2]
    assert len(digits[0]) == 3 * len(numbers)


def test_latex_needs_booktabs_only_and_escapes_what_latex_reads():
    latex = table(Row("my_method 50% & EASE^R", (Cell("−.003", mark="+"),))).to_latex()
    assert r"my\_method 50\% \& EASE\textsuperscript{R}" in latex
    assert r"$-$.003\textsuperscript{+}" in latex
    assert r"p $<$ .05." in latex
    for command in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert latex.count(command) == 1
    assert "multirow" not in latex
    assert r"\num" not in latex
    environments = ("table", "tabular", "minipage")
    for name in environments:
        assert latex.count(rf"\begin{{{name}}}") == latex.count(rf"\end{{{name}}}") == 1


def test_every_latex_row_has_as_many_cells_as_there_are_columns():
    rows = (Row("a", (Cell(".1"), Cell())), Row("b", (Cell(), Cell(".2"))))
    latex = table(*rows, columns=("Learner", "x", "y")).to_latex()
    lines = [line for line in latex.splitlines() if line.endswith(r"\\") and "&" in line]
    assert [line.count("&") for line in lines] == [2, 2, 2]


def test_a_wide_or_a_long_table_is_set_smaller():
    few = tuple(Row(str(place), (Cell(),)) for place in range(39))
    assert r"\footnotesize" in table(*few).to_latex()
    assert r"\footnotesize" not in table(*few, *few).to_latex()
    wide = Row("a", (Cell(),) * 5)
    assert r"\footnotesize" not in table(wide, columns=tuple("abcdef")).to_latex()


def test_bold_is_bold_in_latex_and_markdown():
    made = table(Row("a", (Cell(".412", bold=True),)))
    assert r"\textbf{.412}" in made.to_latex()
    assert "**.412**" in made.to_markdown()


def test_markdown_escapes_pipes_and_raises_superscripts():
    markdown = table(Row("a|b EASE^R my_method", (Cell(".412"),))).to_markdown()
    assert r"| a\|b EASE<sup>R</sup> my\_method | .412 |" in markdown


def test_a_preliminary_table_says_so_in_every_form():
    made = table(Row("a", (Cell(".412"),)), preliminary=True)
    for text in (made.to_latex(), made.to_markdown(), printed(made)):
        assert "Preliminary: nDCG@10" in text


def test_the_warning_counts_the_fewest_seeds_and_episodes_but_of_chance_and_costs():
    def cell(learner, low, seeds, episodes):
        estimate = Estimate(0.4, low, 0.5, episodes // seeds, seeds, episodes)
        return Cell(".4", estimate=estimate, source=Source(learner, "warm", 10, "ndcg"))

    rows = [
        Row("Chance", (cell("chance", math.nan, 1, 9),)),
        Row("MAML, learn2learn (1 seed)", (cell("maml_learn2learn", 0.3, 1, 118),)),
        Row("MAML", (cell("maml", 0.3, 5, 590),)),
        Row("EASE", (cell("ease", 0.3, 6, 700),)),
    ]
    made = table(*rows, preliminary=True)
    for text in (made.to_latex(), made.to_markdown(), printed(made, 200)):
        assert "600 test episodes (the fewest: 5 and 590); nothing here is a claim." in text


def test_bold_cells_of_a_preliminary_table_are_not_printed_bold():
    made = table(Row("a", (Cell(".412", bold=True),)), preliminary=True)
    assert r"\textbf{.412}" not in made.to_latex()
    assert "**.412**" not in made.to_markdown()


def test_the_terminal_shows_brackets_and_raised_letters_as_they_are():
    text = printed(table(Row("EASE^R", (Cell(".412", "[.380, .444]"),))))
    assert "EASE^R" in text
    assert ".412 [.380, .444]" in text


def test_a_narrow_terminal_puts_intervals_in_a_second_line():
    lines = printed(table(Row("EASE^R", (Cell(".412", "[.380, .444]"),))), width=24).splitlines()
    first = next(place for place, line in enumerate(lines) if ".412" in line)
    assert "[.380" not in lines[first]
    assert "[.380, .444]" in lines[first + 1]
