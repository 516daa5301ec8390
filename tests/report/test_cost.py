"""What runs cost, as their records say."""

from __future__ import annotations

import json

import pytest

from metarec.audit.tables import check_tables
from metarec.report import build_report
from metarec.report.assemble import assemble
from metarec.report.table import duration

SMALL = {"n_tasks": 10, "regimes": ("user_cold",), "shots": ()}


def spent(fit, evaluate=2.0, adapt=0.002, parameters=78_081, peak=3 * 2**30, **given):
    return {
        "seconds": {"fit": fit, "evaluate": evaluate, "total": fit + evaluate},
        "seconds_per_task": {"adapt": adapt, "score": 0.0000004, "curve": {}},
        "parameters": parameters,
        "peak_memory_bytes": peak,
        "machine": {"processor": "Abacus"},
        "threads": 2,
        "device": "cpu",
        "log": [{"step": 1.0, "validation": 0.1}],
    } | given


@pytest.fixture
def records(make_record):
    baseline = spent(0.5, parameters=999, log=[])
    return [
        make_record("maml", seed=0, more=spent(30.0), **SMALL),
        make_record("maml", seed=1, more=spent(90.0, peak=5 * 2**30), **SMALL),
        *(make_record("ease", seed=seed, more=baseline, **SMALL) for seed in (0, 1)),
        *(make_record("random", seed=seed, **SMALL) for seed in (0, 1)),
    ]


def cost(records, tables="main", name="cost"):
    (table,) = [one for one in assemble(records, tables=tables).tables if one.name == name]
    return table


def rows(table):
    return {
        row.label: [cell.value for cell in row.cells]
        for section in table.sections
        for row in section.rows
    }


def test_a_row_is_the_mean_over_seeds_of_what_the_records_say(records):
    table = cost(records)
    assert table.columns == (
        "Learner",
        "Weights",
        "Fit, s",
        "Evaluate, s",
        "Adapt, ms",
        "Score, ms",
    )
    assert rows(table) == {
        "Random": ["–"] * 5,
        "EASE^R": ["–", ".500", "2.00", "2.00", "<.001"],
        "MAML": ["78.1 k", "60.0", "2.00", "2.00", "<.001"],
    }
    assert [section.title for section in table.sections] == [
        "Floor", "Collaborative", "Meta, gradient-based",
    ]  # fmt: skip


def test_the_notes_give_the_longest_run_and_the_most_memory(records):
    notes = " ".join(cost(records).notes)
    assert "the longest run took 1.5 minutes" in notes
    assert "had 5.0 GiB at its peak" in notes
    assert "2 threads of Abacus" in notes
    assert "intervals" not in notes


def test_where_records_say_nothing_there_is_no_table(make_record):
    tables = assemble([make_record("ease", **SMALL)]).tables
    assert [table.name for table in tables] == ["main"]


def test_costs_make_no_claim_and_need_no_warning(records):
    assert cost(records).warnings == ()


def test_the_family_has_a_table_of_its_own(records):
    assert rows(cost(records, "family", "family_cost")) == rows(cost(records))


def test_the_small_record_has_what_is_printed_and_the_audit_compares_it(records, tmp_path):
    paper = tmp_path / "paper"
    build_report(records, paper)
    small = json.loads((paper / "records" / "cost.json").read_text())
    found = {(row[0], row[3]): row[4] for row in small["rows"]}
    assert found["maml", "seconds/fit"] == 60.0
    assert found["ease", "milliseconds_per_task/adapt"] == 2.0
    results = {one.what: one for one in check_tables(paper, [])}
    assert results["cost.md"].result == results["cost.tex"].result == "open"
    file = paper / "tables" / "cost.md"
    file.write_text(file.read_text().replace("78.1 k", "78.2 k"))
    (edited,) = [one for one in check_tables(paper, []) if one.what == "cost.md"]
    assert edited.problem == "MAML: prints 78.2 k, but cost.json says 78081.000"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "<.001"), (0.00099, "<.001"), (0.001, ".00100"), (0.5, ".500"), (1234.5, "1,234")],
)
def test_a_duration_has_three_digits_or_is_next_to_nothing(value, shown):
    assert duration(value) == shown
