from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from metarec.report import build_report
from metarec.report.adaptation import gain_note, gains_of
from metarec.report.assemble import assemble
from metarec.report.collect import results_of
from metarec.report.labels import (
    GROUPS,
    SCORERS,
    VARIANTS_OF_SCORERS,
    Variant,
    group_of,
    label_of,
)

NDCG = "catalogue/ndcg@10"
LEARNERS = sorted((Path(__file__).resolve().parents[2] / "configs" / "learner").glob("*.yaml"))


def tables_of(records):
    return {table.name: table for table in assemble(records, tables="family").tables}


def rows_of(table):
    return {row.label: row for section in table.sections for row in section.rows}


def results(*records, kind="user"):
    found = results_of(records, [], kind, ("binary",))
    assert found is not None
    return found


def gaining(regime, gain):
    """Puts the adapted validation rows of a record above its unadapted ones by `gain`."""

    def alter(frame):
        here = (frame["part"] == "validation") & (frame["regime"] == regime)
        level = 0.2 + 0.005 * frame["task"] + np.where(frame["adapted"], gain, 0.0)
        return frame.assign(**{NDCG: np.where(here, level, frame[NDCG])})

    return alter


@pytest.fixture
def family(make_record):
    records = []
    for kind in ("user", "item"):
        for name, quality, unadapted in (
            ("popularity", 0.1, None),
            ("ease", 0.3, None),
            ("transfer", 0.25, 0.2),
            ("maml", 0.35, 0.2),
            ("cnp", 0.3, 0.1),
            ("gar", 0.2, 0.25),
        ):
            records.append(
                make_record(name, quality, kind=kind, without_steps=unadapted, shots=(0, 10))
            )
    records.append(make_record("protocf", 0.3, kind="item", without_steps=0.2, shots=(0, 10)))
    return records


def test_the_family_has_its_tables_and_none_of_the_others(family):
    names = [name for name in tables_of(family) if not name.endswith("_differences")]
    pair = "family_meta_minus_transfer"
    assert names == ["family", "family_items", "family_items_auc", pair, "adaptation"]


def test_learners_stand_under_their_groups_with_their_unadapted_rows(family):
    tables = tables_of(family)
    expected = [
        ("", ["Chance"]),
        ("Floor", ["Popularity"]),
        ("Collaborative", ["EASE^R"]),
        ("Transfer", ["Transfer, 0 steps", "Transfer, fine-tuned"]),
        ("Meta, gradient-based", ["MAML, 0 steps", "MAML"]),
        ("Meta, metric-based and amortised", ["CNP, no support", "CNP"]),
        ("Warm-up", ["GAR, no support", "GAR"]),
    ]
    shown = [(s.title, [row.label for row in s.rows]) for s in tables["family"].sections]
    assert shown == expected
    of_items = {s.title: [row.label for row in s.rows] for s in tables["family_items"].sections}
    assert of_items["Warm-up"] == ["GAR, no warm-up", "GAR"]
    assert of_items["Meta, metric-based and amortised"][2:] == ["ProtoCF, no support", "ProtoCF"]


def test_the_family_is_marked_against_the_best_baseline_as_the_main_table_is(family):
    rows, main = rows_of(tables_of(family)["family"]), assemble(family).tables[0]
    assert [cell.mark for cell in rows["EASE^R"].cells] == ["†"] * 4
    for label, row in rows_of(main).items():
        assert row.cells == rows[label].cells


def test_maml_minus_transfer_of_the_family_is_that_of_the_same_runs_elsewhere(family):
    of_family = tables_of(family)["family_meta_minus_transfer"]
    of_main = {table.name: table for table in assemble(family).tables}["meta_minus_transfer"]
    assert of_family.sections == of_main.sections
    assert "--tables family" in of_family.notes[-1]


def test_item_tasks_show_each_k_of_the_curve_by_ndcg_and_by_auc(family):
    tables = tables_of(family)
    for name, metric in (("family_items", NDCG), ("family_items_auc", "catalogue/auc")):
        assert tables[name].columns == ("Learner", "K = 0", "K = 10")
        assert rows_of(tables[name])["MAML"].cells[1].source.metric == metric


def test_a_family_without_a_curve_on_item_tasks_has_no_table_of_them(make_record):
    records = [make_record("ease"), make_record("ease", kind="item", shots=())]
    assert list(tables_of(records)) == ["family"]


def test_scorers_stand_in_a_table_of_their_own_and_are_compared_with_maml(make_record):
    records = [
        make_record(name, quality, without_steps=0.1 if name.startswith("maml") else None)
        for name, quality in (
            ("ease", 0.4),
            ("maml", 0.3),
            ("maml_cosine", 0.1),
            ("maml_both", 0.5),
            ("r2d2", 0.3),
            ("r2d2_both", 0.3),
        )
    ]
    tables = tables_of(records)
    assert not {"MAML, cosine", "MAML over both"} & rows_of(tables["family"]).keys()
    shown = [(s.title, [row.label for row in s.rows]) for s in tables["scorers"].sections]
    assert shown == [
        ("", ["Chance"]),
        (
            "MAML over text, by scorer",
            ["MAML, 0 steps", "MAML", "MAML, cosine, 0 steps", "MAML, cosine"],
        ),
        ("MAML, MLP, by representation", ["MAML over both, 0 steps", "MAML over both"]),
        ("Others by representation", ["R2-D2", "R2-D2 over both"]),
    ]
    rows = rows_of(tables["scorers"])
    marks = [rows[label].cells[0].mark for label in ("MAML", "MAML, cosine", "MAML over both")]
    assert marks == ["†", "−", "+"]
    assert "†: MAML." in " ".join(tables["scorers"].notes)


def test_a_failed_scorer_keeps_its_row(make_record):
    records = [make_record("maml"), make_record("maml_dot", error="ValueError: boom")]
    tables = tables_of(records)
    assert "MAML, dot product (failed)" in rows_of(tables["scorers"])
    assert "MAML, dot product (failed)" not in rows_of(tables["family"])


def test_every_scorer_has_a_label_and_stands_once():
    names = [name for section in SCORERS.values() for name in section]
    assert len(set(names)) == len(names)
    assert set(names) >= VARIANTS_OF_SCORERS
    labels = [label_of(Variant(name)) for name in names]
    assert len(set(labels)) == len(labels)
    assert all("_" not in label for label in labels)


@pytest.mark.parametrize("name", [file.stem for file in LEARNERS])
def test_every_learner_has_a_group_and_a_label(name):
    assert group_of(name) in set(GROUPS) - {"Chance", "Other"}
    assert "_" not in label_of(Variant(name))


@pytest.mark.parametrize(
    ("learner", "kind", "label"),
    [
        ("transfer", "user", "Transfer, 0 steps"),
        ("transfer_both", "user", "Transfer over both, 0 steps"),
        ("maml_plus_plus", "item", "MAML++, 0 steps"),
        ("prototypical_multiple", "user", "Prototypical, several prototypes, no support"),
        ("tanp", "item", "TaNP, no support"),
        ("dropoutnet", "user", "DropoutNet, no support"),
        ("dropoutnet", "item", "DropoutNet, no warm-up"),
        ("my_method", "user", "My method, 0 steps"),
    ],
)
def test_an_unadapted_row_says_what_was_left_out(learner, kind, label):
    assert label_of(Variant(learner, adapted=False), kind) == label


def test_a_gain_is_the_paired_difference_on_validation(make_record):
    record = make_record("maml", without_steps=0.2, alter=gaining("warm", 0.05))
    gains = {gain.column.regime: gain for gain in gains_of(results(record))}
    assert gains["warm"].estimate.mean == pytest.approx(0.05)
    assert gains["warm"].beats
    frame = record.per_task
    here = frame[(frame["part"] == "validation") & (frame["regime"] == "item_cold")]
    means = here.groupby("adapted")[NDCG].mean()
    assert gains["item_cold"].estimate.mean == pytest.approx(means[True] - means[False])


def test_the_test_part_plays_no_role_in_a_gain(make_record):
    def alter(frame):
        frame = gaining("warm", 0.05)(frame)
        worse = (frame["part"] == "test") & frame["adapted"]
        return frame.assign(**{NDCG: frame[NDCG].mask(worse, 0.0)})

    gains = gains_of(results(make_record("maml", without_steps=0.3, alter=alter)))
    assert next(gain for gain in gains if gain.column.regime == "warm").beats


def test_gains_are_corrected_by_holm_over_the_learners_of_a_regime(make_record):
    one = make_record("maml", without_steps=0.29)
    alone = {gain.column.regime: gain.estimate.p for gain in gains_of(results(one))}
    others = [make_record(name, without_steps=0.3, alter=gaining("warm", 0.0)) for name in
              ("anil", "cnp")]  # fmt: skip
    both = {
        gain.column.regime: gain.estimate.p
        for gain in gains_of(results(one, *others))
        if gain.variant == Variant("maml")
    }
    assert both["warm"] == pytest.approx(min(1, 3 * alone["warm"]))


def test_a_learner_without_an_unadapted_row_has_no_gain(make_record):
    found = results(make_record("ease"), make_record("maml"))
    assert gains_of(found) == []
    assert gain_note(found, []) == "No learner was measured without its adaptation."


def test_the_note_names_who_does_not_beat_its_own_unadapted_row(make_record):
    def noisy(frame):
        frame = gaining("both_cold", 0.0)(gaining("warm", -0.02)(frame))
        here = (frame["regime"] == "both_cold") & frame["adapted"]
        # better on average, by one task only
        gain = np.where(here & (frame["task"] == 0), 0.3, 0.0)
        return frame.assign(**{NDCG: frame[NDCG] + gain})

    records = [
        make_record("maml", 0.4, without_steps=0.1),
        make_record("cnp", 0.4, without_steps=0.1, alter=noisy),
        make_record("anil", 0.4, without_steps=0.1, alter=gaining("item_cold", 0.0)),
    ]
    note = tables_of(records)["family"].notes[0]
    assert note == (
        "On validation (table adaptation), each learner against its own unadapted row: not better "
        "in warm: CNP (−.020); item cold: ANIL (.000) – better, but not significantly so, in both "
        "cold: CNP (+.010)."
    )


def test_the_note_says_when_all_gain(make_record):
    note = tables_of([make_record("maml", 0.4, without_steps=0.1)])["family"].notes[0]
    assert note.endswith("unadapted row: all are significantly better in every regime.")


def test_the_table_of_gains_has_a_column_for_item_tasks(family):
    table = tables_of(family)["adaptation"]
    assert table.columns == (
        *("Learner", "Warm", "User cold", "Item cold", "Both cold", "Item tasks"),
    )
    rows = rows_of(table)
    assert list(rows) == ["Transfer, fine-tuned", "MAML", "CNP", "ProtoCF", "GAR"]
    assert [cell.mark for cell in rows["MAML"].cells] == ["+"] * 5
    assert [cell.mark for cell in rows["GAR"].cells] == ["−"] * 5
    assert [cell.value for cell in rows["ProtoCF"].cells[:4]] == ["–"] * 4
    notes = " ".join(table.notes)
    assert "Validation tasks: warm 30" in notes
    assert "item tasks, item cold 30" in notes


def test_small_records_hold_the_family_and_its_gains(family, tmp_path):
    written = {path.name for path in build_report(family, tmp_path / "paper", tables="family")}
    assert {"family.json", "family_items.json", "adaptation.json", "family.tex"} <= written
    content = json.loads((tmp_path / "paper/records/adaptation.json").read_text())
    assert [one["command"] for one in content["sources"]] == [
        "python -m metarec.report results/paper --tables family"
    ] * 2
    assert {row[0] for row in content["rows"]} >= {"maml - maml, 0 steps", "cnp - cnp, no support"}
    latex = (tmp_path / "paper/tables/family.tex").read_text()
    assert re.search(r"\\label\{tab:family\}", latex)
