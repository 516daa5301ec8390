"""Whatever makes no claim says so: every table, every figure of quality, and the console."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from rich.console import Console

from metarec import report
from metarec.report import assemble as assembling
from metarec.report import build_report, critical_difference, what_to_adapt
from metarec.report.blocks import Choice
from metarec.report.choices import study_of
from metarec.report.choices_figure import comparison_of, draw
from metarec.report.choices_tables import choices_table, differences_table, meta_table
from metarec.report.figures import _draw
from metarec.report.ranking_figure import draw as draw_ranking
from metarec.report.ranking_table import ranking_table

FEW = "preliminary, since there are fewer than 5 seeds or 600 {} episodes"
# Seeds and tasks: too few seeds, too few episodes, and just enough of both.
SIZES = {"seeds": (4, 200), "episodes": (5, 119), "enough": (5, 120)}


@pytest.fixture
def of_papers(make_record):
    """Records for all tables of `make paper` and `make paper-full`."""

    def make(seeds, n_tasks):
        given = {"n_tasks": n_tasks, "regimes": ("user_cold", "warm"), "shots": (0, 10)}
        records = []
        for seed in range(seeds):
            for name, quality, unadapted in (
                ("ease", 0.3, None),
                ("transfer", 0.35, 0.2),
                ("maml", 0.45, 0.2),
                ("maml_jax", 0.45, 0.2),
                ("maml_cosine", 0.5, 0.2),
            ):
                own = given | {"seed": seed, "without_steps": unadapted}
                records.append(make_record(name, quality, **own))
                if name != "maml_cosine":
                    records.append(make_record(name, quality, kind="item", **own))
                if name in ("ease", "maml"):
                    records.append(make_record(name, quality, feedback="rating", **own))
        return records

    return make


@pytest.fixture
def of_parts(make_choice, own_order):
    """Records for the tables of what of a BERT adapts."""

    def make(seeds, n_tasks):
        return [
            record
            for seed in range(seeds)
            for record in (
                own_order(seed, n_tasks=n_tasks),
                make_choice("head", quality=0.28, seed=seed, n_tasks=n_tasks),
                make_choice("lora", quality=0.4, seed=seed, n_tasks=n_tasks),
                make_choice("lora", meta=False, quality=0.35, seed=seed, n_tasks=n_tasks),
            )
        ]

    return make


def rankings(records, blocks="tasks"):
    chosen = Choice("catalogue/ndcg@10", feedback=("binary",))
    return critical_difference.rankings_of(records, False, chosen, blocks, "nemenyi")


def tables_of(writer, of_papers, of_parts, size):
    if writer == "what_to_adapt":
        study = study_of(of_parts(*size))
        return [choices_table(study), differences_table(study), meta_table(study)]
    records = of_papers(*size)
    if writer == "critical_difference":
        return [ranking_table(one) for by in ("tasks", "regimes") for one in rankings(records, by)]
    return list(assembling.assemble(records, tables=writer).tables)


WRITERS = {
    "main": [
        *("main", "rated", "rated_warm", "item_tasks", "meta_minus_transfer", "backends"),
        *(f"{name}_differences" for name in ("main", "rated", "rated_warm", "item_tasks")),
    ],
    "family": [
        *("family", "family_items", "family_items_auc", "scorers", "adaptation"),
        *(f"{name}_differences" for name in ("family", "family_items", "family_items_auc")),
        *("scorers_differences", "family_meta_minus_transfer"),
    ],
    "what_to_adapt": ["what_to_adapt", "what_to_adapt_differences", "what_to_adapt_meta"],
    "critical_difference": [
        *("critical_difference_user_cold", "critical_difference_warm"),
        *("critical_difference_item_tasks_item_cold", "critical_difference"),
    ],
}
# Those that never have bold numbers, also where there is enough of both.
PLAIN = {
    *("backends", "adaptation", *WRITERS["critical_difference"]),
    *(name for papers in ("main", "family") for name in WRITERS[papers] if "differences" in name),
}
# Their tables say what was spent, and compare no learners.
FACTS = {"tuning.py", "cost.py"}


def printed(table):
    console = Console(width=400, color_system="truecolor", force_terminal=True)
    with console.capture() as capture:
        console.print(table.to_rich(400))
    return capture.get()


def test_a_warning_counts_no_reference_implementation_of_one_seed(make_record):
    given = {"n_tasks": 30, "regimes": ("user_cold",), "shots": (), "without_steps": 0.2}
    records = [make_record("maml_learn2learn", 0.4, seed=0, **given)]
    for seed in range(3):
        records += [
            make_record("ease", 0.3, seed=seed, **given),
            make_record("maml", 0.4, seed=seed, **given),
        ]
    for table in assembling.assemble(records).tables[:2]:
        assert "(the fewest: 3 and 90)" in table.warnings[0]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("lacking", SIZES)
def test_every_table_of_too_little_warns_and_bolds_nothing(writer, lacking, of_papers, of_parts):
    tables = tables_of(writer, of_papers, of_parts, SIZES[lacking])
    assert sorted(table.name for table in tables) == sorted(WRITERS[writer])
    for table in tables:
        warning = FEW.format("validation" if table.name == "adaptation" else "test")
        markdown, latex, terminal = table.to_markdown(), table.to_latex(), printed(table)
        rows = [line for line in markdown.splitlines() if line.startswith("|")]
        bold = [line for line in latex.splitlines() if r"\textbf{" in line]
        if lacking == "enough":
            assert not table.preliminary, table.name
            for text in (markdown, latex, terminal):
                assert FEW.partition(",")[0] not in text, table.name
            assert any("**" in row for row in rows) != (table.name in PLAIN), table.name
            continue
        assert table.full_title.startswith("Preliminary: "), table.name
        for text in (markdown, latex, terminal):
            assert warning in text, table.name
        assert f"> Warning: {warning}" in markdown, table.name
        assert rf"\textbf{{Warning:}} {warning}" in latex, table.name
        assert not any("**" in row for row in rows), table.name
        assert all(line.startswith(r"\textbf{Warning:}") for line in bold), table.name


def lines_of(make, *arguments, **options):
    console = Console(width=400, color_system=None, force_terminal=False)
    with console.capture() as capture:
        make(*arguments, console=console, **options)
    return capture.get().splitlines()


def test_the_console_names_every_table_that_makes_no_claim(of_papers, of_parts, tmp_path):
    records = of_papers(2, 20)
    for tables in ("main", "family"):
        lines = lines_of(build_report, records, tmp_path, tables=tables)
        expected = [name for name in WRITERS[tables] if name != "adaptation"]
        found = [re.fullmatch(r"Warning: (.*): preliminary.* test episodes;.*", x) for x in lines]
        named = next(match[1] for match in found if match and ", " in match[1])
        assert sorted(named.split(", ")) == sorted(expected)
        validation = f"Warning: adaptation: {FEW.format('validation')}"
        assert any(line.startswith(validation) for line in lines) == (tables == "family")
    lines = lines_of(what_to_adapt.build_report, of_parts(1, 20), tmp_path)
    names = ", ".join(WRITERS["what_to_adapt"])
    assert any(line.startswith(f"Warning: {names}: {FEW.format('test')}") for line in lines)
    lines = lines_of(critical_difference.build_report, records, tmp_path)
    assert any(
        line.startswith(f"Warning: critical_difference: {FEW.format('test')}") for line in lines
    )


@pytest.mark.parametrize("lacking", ["seeds", "enough"])
def test_figures_of_too_little_warn(lacking, of_papers, of_parts):
    records = of_papers(*SIZES[lacking])
    curve = assembling.assemble(records).curve
    assert curve is not None
    (ranking,) = rankings(records, "regimes")
    study = study_of(of_parts(*SIZES[lacking]))
    comparison = comparison_of(study, choices_table(study).preliminary)
    for figure in (_draw(curve), draw_ranking(ranking), draw(comparison)):
        texts = [text.get_text() for text in figure.texts]
        warned = any(text.startswith(f"Warning: {FEW.format('test')}") for text in texts)
        assert warned == (lacking == "seeds")
        assert any(text.startswith("Preliminary: ") for text in texts) == warned


def test_every_table_that_is_made_says_whether_it_is_preliminary():
    """A new writer cannot forget it: `preliminary` is given wherever learners are compared."""
    made = 0
    files = sorted(Path(report.__file__).parent.glob("*.py"))
    for file in (file for file in files if file.name not in FACTS):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Table":
                made += 1
                given = {keyword.arg for keyword in node.keywords}
                assert "preliminary" in given, f"{file.name}, line {node.lineno}"
    assert made >= 10
