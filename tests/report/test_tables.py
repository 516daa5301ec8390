from __future__ import annotations

import re

import numpy as np
import pytest

from metarec.report.assemble import assemble


def rows_of(table):
    return {row.label: row for section in table.sections for row in section.rows}


def tables_of(records):
    return {table.name: table for table in assemble(records).tables}


def seeds_of(make_record, n, *learners, **overrides):
    return [
        make_record(name, quality, seed=seed, **overrides)
        for name, quality in learners
        for seed in range(n)
    ]


def test_the_main_table_has_learners_by_regimes_under_their_groups(make_record):
    records = [
        make_record("random", 0.05),
        make_record("ease", 0.3),
        make_record("transfer", 0.2, without_steps=0.1),
        make_record("maml", 0.25, without_steps=0.1),
    ]
    table = tables_of(records)["main"]
    assert table.columns == ("Learner", "Warm", "User cold", "Item cold", "Both cold")
    assert [(s.title, [row.label for row in s.rows]) for s in table.sections] == [
        ("", ["Chance"]),
        ("Floor", ["Random"]),
        ("Collaborative", ["EASE^R"]),
        ("Transfer", ["Transfer, 0 steps", "Transfer, fine-tuned"]),
        ("Meta, gradient-based", ["MAML, 0 steps", "MAML"]),
    ]


def test_a_learner_without_a_label_of_its_own_is_called_by_its_name(make_record):
    table = tables_of([make_record("ease"), make_record("my_new_method", target="mine:New")])[
        "main"
    ]
    assert [section.title for section in table.sections] == ["", "Collaborative", "Other"]
    assert "My new method" in rows_of(table)


def test_cells_hold_the_mean_of_the_per_task_results(make_record):
    record = make_record("ease", 0.3)
    frame = record.per_task
    here = (frame["part"] == "test") & (frame["regime"] == "warm") & (frame["evaluation"] == "main")
    cell = rows_of(tables_of([record])["main"])["EASE^R"].cells[0]
    assert cell.estimate is not None
    assert cell.estimate.mean == pytest.approx(frame.loc[here, "catalogue/ndcg@10"].mean())
    assert cell.value == f"{cell.estimate.mean:.3f}".lstrip("0")
    assert cell.estimate.low < cell.estimate.mean < cell.estimate.high
    assert (cell.estimate.tasks, cell.estimate.seeds, cell.estimate.episodes) == (30, 1, 30)


def test_the_chance_row_has_no_interval(make_record):
    cells = rows_of(tables_of([make_record("ease")])["main"])["Chance"].cells
    assert all(0 < float(cell.value) < 0.3 and cell.interval == "" for cell in cells)


def test_a_reference_is_marked_and_so_is_what_differs_significantly(make_record):
    records = [
        make_record("ease", 0.3),
        make_record("maml", 0.5),
        make_record("random", 0.05),
    ]
    rows = rows_of(tables_of(records)["main"])
    assert [rows[label].cells[1].mark for label in ("EASE^R", "MAML", "Random")] == ["†", "+", "−"]


def test_beside_a_table_stands_by_how_much_each_row_differs_from_the_reference(make_record):
    learners = (("random", 0.1), ("ease", 0.3), ("maml", 0.5))
    records = seeds_of(make_record, 5, *learners, without_steps=0.2, n_tasks=120)
    tables = tables_of(records)
    main, differences = tables["main"], tables["main_differences"]
    assert differences.columns == main.columns
    assert not differences.preliminary
    labels = [label for label in rows_of(main) if label != "Chance"]
    assert list(rows_of(differences)) == labels
    assert [cell.mark for cell in rows_of(differences)["EASE^R"].cells] == ["†"] * 4
    for label in labels:
        of_labels = (rows_of(table)[name].cells for table, name in (
            (main, label), (differences, label), (main, "EASE^R"),
        ))  # fmt: skip
        for mean, found, base in zip(*of_labels, strict=True):
            assert found.mark == mean.mark
            if found.estimate is not None:
                assert found.estimate.low < found.estimate.mean < found.estimate.high
                assert found.estimate.p == mean.estimate.p
                assert found.estimate.mean == pytest.approx(mean.estimate.mean - base.estimate.mean)
                counts = found.estimate.wins, found.estimate.ties, found.estimate.losses
                assert sum(counts) == found.estimate.tasks == 120
    assert "Effect sizes, wins, ties and losses: records/main_differences.json." in " ".join(
        differences.notes
    )
    assert not any(note.startswith(("Chance", "Bold", "Mean over")) for note in differences.notes)


def test_a_row_of_too_few_seeds_is_not_marked_in_a_table_that_makes_claims(make_record):
    learners = (("random", 0.1), ("ease", 0.3), ("maml", 0.5))
    records = seeds_of(make_record, 5, *learners, n_tasks=120)
    records.append(make_record("maml_learn2learn", 0.5, n_tasks=120))
    tables = tables_of(records)
    assert not tables["main"].preliminary
    for table in (tables["main"], tables["main_differences"]):
        assert [cell.mark for cell in rows_of(table)["MAML"].cells] == ["+"] * 4
        (own,) = (row for label, row in rows_of(table).items() if "learn2learn" in label)
        assert [cell.mark for cell in own.cells] == [""] * 4


def test_nothing_is_marked_where_mean_and_ranks_point_apart(make_record):
    """Mostly a little better, on a few tasks much worse: the ranks are for it, the mean is not."""

    def alter(frame, win, loss):
        value = np.where(frame["task"] < 4, loss, win)
        return frame.assign(**{"catalogue/ndcg@10": value})

    records = [
        make_record("ease", alter=lambda frame: alter(frame, 0.30, 0.3)),
        make_record("maml", alter=lambda frame: alter(frame, 0.31, 0.0)),
        make_record("transfer", alter=lambda frame: alter(frame, 0.31, 0.3)),
    ]
    cells = {label: row.cells[1] for label, row in rows_of(tables_of(records)["main"]).items()}
    assert cells["MAML"].estimate.p < 0.05
    assert cells["MAML"].estimate.mean < cells["EASE^R"].estimate.mean
    assert cells["MAML"].mark == ""
    assert cells["Transfer, fine-tuned"].mark == "+"


def test_a_table_of_few_seeds_is_preliminary_and_bolds_nothing(make_record):
    records = seeds_of(make_record, 4, ("ease", 0.3), ("maml", 0.5), n_tasks=200)
    table = tables_of(records)["main"]
    assert table.full_title.startswith("Preliminary")
    assert not any(cell.bold for row in rows_of(table).values() for cell in row.cells)


def test_a_table_of_few_episodes_is_preliminary_too(make_record):
    records = seeds_of(make_record, 5, ("ease", 0.3), ("maml", 0.5), n_tasks=119)
    table = tables_of(records)["main"]
    assert table.preliminary
    assert not any(cell.bold for row in rows_of(table).values() for cell in row.cells)


def test_with_enough_seeds_and_episodes_the_significantly_best_alone_is_bold(make_record):
    learners = (("ease", 0.3), ("maml", 0.5), ("transfer", 0.45), ("random", 0.1))
    records = seeds_of(make_record, 5, *learners, n_tasks=120)
    # One seed of the reference implementation does not make the table preliminary.
    records.append(make_record("maml_learn2learn", 0.9, n_tasks=120))
    table = tables_of(records)["main"]
    assert not table.preliminary
    bold = {label for label, row in rows_of(table).items() for cell in row.cells if cell.bold}
    # The best is the reference implementation, whose one seed cannot be bold; so nothing is.
    assert bold == set()
    table = tables_of(records[:-1])["main"]
    bold = {label: [c.bold for c in row.cells] for label, row in rows_of(table).items()}
    assert bold.pop("MAML") == [True] * 4
    assert not any(flag for flags in bold.values() for flag in flags)


def test_one_learner_with_few_seeds_makes_the_whole_table_preliminary(make_record):
    records = seeds_of(make_record, 5, ("ease", 0.3), ("maml", 0.5), n_tasks=120)
    records += seeds_of(make_record, 3, ("transfer", 0.4), n_tasks=120)
    table = tables_of(records)["main"]
    assert table.preliminary
    assert not any(cell.bold for row in rows_of(table).values() for cell in row.cells)


def test_a_baseline_that_is_best_is_not_bold(make_record):
    records = seeds_of(make_record, 5, ("ease", 0.5), ("maml", 0.3), n_tasks=120)
    table = tables_of(records)["main"]
    assert not table.preliminary
    assert not any(cell.bold for row in rows_of(table).values() for cell in row.cells)


def test_a_learner_with_fewer_seeds_says_so_in_its_label(make_record):
    records = [*seeds_of(make_record, 3, ("ease", 0.3)), make_record("maml_learn2learn")]
    assert "MAML, learn2learn (1 seed)" in rows_of(tables_of(records)["main"])


def test_failed_runs_are_listed_under_their_table_only(make_record):
    records = [
        make_record("ease"),
        make_record("ease", feedback="rating"),
        make_record("als", error="ValueError: no convergence"),
        make_record("melu", error="ValueError: of another data set", data={"name": "other"}),
    ]
    tables = tables_of(records)
    assert "ValueError: no convergence" in " ".join(tables["main"].notes)
    assert "ValueError" not in " ".join(tables["rated"].notes)
    assert "another data set" not in " ".join(tables["main"].notes)
    row = rows_of(tables["main"])["ALS (failed)"]
    assert [cell.value for cell in row.cells] == ["–"] * 4


def test_a_learner_that_a_table_knows_nothing_of_has_no_row_there(make_record):
    records = [
        make_record("ease"),
        make_record("maml"),
        make_record("ease", feedback="rating"),
    ]
    assert "MAML" not in rows_of(tables_of(records)["rated"])


def test_the_rated_table_prints_a_dash_where_a_metric_does_not_apply(make_record):
    records = [
        make_record("popularity", 0.2, feedback="rating"),
        make_record("ease", 0.3, feedback="rating"),
        make_record("maml", 0.5, feedback="rating"),
    ]
    tables = tables_of(records)
    names = ["rated", "rated_warm", "rated_item_cold", "rated_both_cold"]
    assert [name for name in tables if not name.endswith("_differences")] == names
    table = tables["rated"]
    assert table.columns == ("Learner", "MAE", "RMSE", "AUC", "nDCG@5")
    rows = rows_of(table)
    assert [cell.value for cell in rows["Popularity"].cells[:2]] == ["–", "–"]
    assert [cell.value for cell in rows["Chance"].cells[:2]] == ["–", "–"]
    # A lower error is a better one.
    assert [cell.mark for cell in rows["MAML"].cells] == ["+"] * 4


def test_item_tasks_have_auc_and_ndcg_at_each_k(make_record):
    shots = (0, 1, 3, 5, 10)
    records = [
        make_record(name, q, kind="item", shots=shots) for name, q in (("ease", 0.3), ("maml", 0.4))
    ]
    table = tables_of(records)["item_tasks"]
    assert table.columns == ("Learner", "K = 0", "K = 1", "K = 3", "K = 5", "K = 10")
    assert [section.title for section in table.sections] == ["AUC", "nDCG@10"]
    assert [row.label for row in table.sections[0].rows] == ["Chance", "EASE^R", "MAML"]
    assert rows_of(table)["MAML"].cells[0].source.metric == "catalogue/ndcg@10"


def test_meta_minus_transfer_is_paired_by_regime_and_k(make_record):
    records = []
    for name, quality in (("maml", 0.4), ("transfer", 0.3), ("ease", 0.5)):
        records.append(make_record(name, quality))
        records.append(make_record(name, quality, kind="item", shots=(0, 10)))
    table = tables_of(records)["meta_minus_transfer"]
    assert [(s.title, [row.label for row in s.rows]) for s in table.sections] == [
        ("User tasks, K = 10", ["Warm", "User cold", "Item cold", "Both cold"]),
        (
            "User tasks, user cold, nested supports",
            ["K = 0", "K = 1", "K = 3", "K = 5", "K = 10", "K = 20"],
        ),
        ("Item tasks, nested supports", ["K = 0", "K = 10"]),
    ]
    assert table.columns[-3:] == ("p (Holm)", "Effect", "Won/tied/lost")
    maml, transfer, difference, p, effect, counts = table.sections[0].rows[0].cells
    assert difference.estimate.mean == pytest.approx(maml.estimate.mean - transfer.estimate.mean)
    assert difference.value.startswith("+")
    assert difference.mark == "+"
    assert p.value == "<.001"
    assert (effect.value, counts.value) == ("+1.000", "30/0/0")
    assert "4 records" in " ".join(table.notes)
    for text in (table.to_markdown(), table.to_latex()):
        assert "+1.000" in text
        assert "30/0/0" in text


def test_without_a_baseline_nothing_is_tested_and_the_note_says_so(make_record):
    table = tables_of([make_record("maml"), make_record("prototypical", 0.5)])["main"]
    assert {cell.mark for row in rows_of(table).values() for cell in row.cells} == {""}
    assert "no baseline among the records" in " ".join(table.notes)


def test_meta_minus_transfer_needs_both(make_record):
    assert "meta_minus_transfer" not in tables_of([make_record("maml"), make_record("ease")])


def test_the_means_of_meta_minus_transfer_are_of_the_seeds_that_both_have(make_record):
    records = seeds_of(make_record, 2, ("transfer", 0.3))
    records += [make_record("maml", 0.4, seed=seed) for seed in range(3)]
    for row in rows_of(tables_of(records)["meta_minus_transfer"]).values():
        meta, transfer, difference, *_ = row.cells
        assert meta.estimate.seeds == transfer.estimate.seeds == difference.estimate.seeds == 2
        assert difference.estimate.mean == pytest.approx(
            meta.estimate.mean - transfer.estimate.mean, abs=1e-9
        )


def test_meta_minus_transfer_refuses_user_and_item_tasks_of_different_data(make_record):
    from metarec.errors import RunError

    records = [make_record(name) for name in ("maml", "transfer")]
    records += [
        make_record(name, kind="item", data={"name": "other"}) for name in ("maml", "transfer")
    ]
    with pytest.raises(RunError, match=r"meta minus transfer: the records differ in data\.name"):
        assemble(records)


def test_the_note_names_records_code_commit_command_tasks_and_seeds(make_record):
    records = seeds_of(make_record, 2, ("ease", 0.3), ("maml", 0.4))
    notes = " ".join(tables_of(records)["main"].notes)
    for text in (
        "4 records, code aaaaaaaaaaaa, commit 1234567890ab+dirty",
        "by python -m metarec.report results/paper.",
        "warm 30, user cold 30",
        "2 seeds (0, 1)",
        "bootstrap",
        "Holm",
    ):
        assert text in notes


def test_the_note_says_which_learners_have_values_that_tuning_chose_and_where(make_record):
    def noted(*learners, table="main", kinds=("user",), seeds=(0,)):
        records = [
            make_record(
                name,
                kind=kind,
                seed=seed,
                shots=(0, 10),
                without_steps=0.1 if name in ("maml", "transfer") else None,
                arguments={"rate": 0.1, "tuned": {**tuned, "kind": kind}} if tuned else None,
            )
            for name, tuned in learners
            for kind in kinds
            for seed in seeds
        ]
        notes = tables_of(records)[table].notes
        return next((note for note in notes if note.startswith("Tuning chose")), "")

    tuned = {"data": "tiny", "values": {"rate": 0.1}}
    overridden = {**tuned, "values": {"rate": 0.2}}
    elsewhere = {**tuned, "data": "other"}
    assert noted(("ease", None), ("random", None)) == ""
    assert noted(("ease", tuned), ("maml", tuned), ("random", overridden)).startswith(
        "Tuning chose values on validation of tiny (learner=best/user/…) for all learners but "
        "random. The records of others name no such tuning."
    )
    assert "best/user/…) for all learners. " in noted(("ease", tuned))
    of_two = noted(("ease", tuned), ("maml", elsewhere), ("random", None))
    on_other = "on validation of other (learner=best/user/…) for maml"
    assert f"{on_other}; on validation of tiny (learner=best/user/…) for ease. " in of_two
    pair = noted(
        ("maml", tuned),
        ("transfer", None),
        table="meta_minus_transfer",
        kinds=("user", "item"),
        seeds=(0, 1),
    )
    of_items, of_users = re.findall(r"[^ ]+, (\w+) tasks: on validation of tiny \(([^)]*)\)", pair)
    assert of_items == ("item", "learner=best/item/…")
    assert of_users == ("user", "learner=best/user/…")
    assert pair.count("for maml") == 2


def test_a_learner_in_jax_stands_after_its_twin_in_pytorch(make_record):
    records = [make_record(name) for name in ("maml_jax", "prototypical", "maml", "transfer_jax")]
    table = tables_of(records)["main"]
    assert [(s.title, [row.label for row in s.rows]) for s in table.sections[1:]] == [
        ("Transfer", ["Transfer, JAX, fine-tuned"]),
        ("Meta, gradient-based", ["MAML", "MAML, JAX"]),
        ("Meta, metric-based and amortised", ["Prototypical"]),
    ]


def test_twins_are_compared_on_the_same_tasks_by_regime_and_kind_of_task(make_record):
    made = [("maml", 0.3), ("maml_jax", 0.4), ("prototypical", 0.3), ("transfer_jax", 0.2)]
    records = [make_record(name, quality, without_steps=0.1) for name, quality in made]
    records += [make_record(name, 0.3, kind="item", shots=(0, 10)) for name in ("maml", "maml_jax")]
    tables = tables_of(records)
    table = tables["backends"]
    assert table.columns == ("Learner", "Warm", "User cold", "Item cold", "Both cold")
    assert [(s.title, [row.label for row in s.rows]) for s in table.sections] == [
        ("User tasks", ["MAML, 0 steps", "MAML"]),
        ("Item tasks", ["MAML"]),
    ]
    jax, torch = (rows_of(tables["main"])[name].cells[1].estimate for name in ("MAML, JAX", "MAML"))
    cell = table.sections[0].rows[1].cells[1]
    assert cell.estimate.mean == pytest.approx(jax.mean - torch.mean)
    assert cell.mark == "+"
    assert cell.source.learner == "maml_jax - maml"
    assert [one.value for one in table.sections[1].rows[0].cells].count("–") == 3
    assert "backends" not in tables_of([make_record("maml_jax"), make_record("transfer")])


def test_with_seeds_as_the_unit_differences_are_held_against_their_spread(make_record):
    def notes(*made):
        records = [make_record(name, quality, seed=seed) for name, quality, seed in made]
        return " ".join(tables_of(records)["backends"].notes)

    steady = [("maml", 0.3, seed) for seed in range(3)]
    apart = [("maml_jax", 0.4 + 0.001 * seed, seed) for seed in range(3)]
    assert "4 of the 4 differences lie outside a 95 % t interval" in notes(*steady, *apart)
    astray = [("maml_jax", quality, seed) for seed, quality in enumerate((0.1, 0.3, 0.6))]
    assert "0 of the 4 differences" in notes(*steady, *astray)
    assert "t interval" not in notes(("maml", 0.3, 0), ("maml_jax", 0.4, 0))


def test_the_curve_leaves_out_the_twins_in_jax(make_record):
    curve = assemble([make_record("maml"), make_record("maml_jax")]).curve
    assert [line.label for line in curve.lines] == ["Chance", "MAML"]
