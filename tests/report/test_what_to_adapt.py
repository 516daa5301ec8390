"""The report on what of a BERT adapts, from made-up records of the experiment."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from choice_records import EVALUATION, KNN, RECALL, SHOTS, measured_at, with_recall
from rich.console import Console

from metarec.errors import RunError
from metarec.evaluation.significance import holm
from metarec.report.choices import ADAPT, MEMORY, SCORE, choice_of, study_of
from metarec.report.choices_tables import choices_table, differences_table, meta_table
from metarec.report.collect import results_of
from metarec.report.labels import Variant
from metarec.report.selection import chance_of, difference_of
from metarec.report.table import number
from metarec.report.what_to_adapt import build_report, main
from metarec.runs import RunConfig, run

NDCG = "catalogue/ndcg@10"


def rows_of(table, title=None):
    return {
        row.label: dict(zip(table.columns[1:], row.cells, strict=True))
        for section in table.sections
        if title in (None, section.title)
        for row in section.rows
    }


def at(record, k, adapted=True, metric=NDCG):
    frame = record.per_task
    here = (frame["evaluation"] == "curve") & (frame["k_shot"] == k) & (frame["part"] == "test")
    return frame.loc[here & (frame["adapted"] == adapted)].set_index("task")[metric]


def figures(text: str) -> list[str]:
    """The numbers of a table's body, in order."""
    body = text.partition("<sub>Item-kNN draws")[0].partition(r"\begin{minipage}")[0]
    body = body.partition("Item-kNN draws")[0].replace("~", " ").replace("$-$", "−")
    headings = "K = 1", "reranking", "multicolumn", "Warning"
    lines = [line for line in body.splitlines() if not any(one in line for one in headings)]
    return re.findall(r"[−+]?\d*\.?\d+(?: [kM])?", "\n".join(lines))


def test_the_same_records_give_the_same_files_in_any_order(plan, tmp_path):
    records = plan(seeds=(0,))
    one, two = (
        build_report(own, tmp_path / name)
        for name, own in (("one", records), ("two", records[::-1]))
    )
    assert [path.relative_to(tmp_path / "one").as_posix() for path in one] == [
        "tables/what_to_adapt.tex",
        "tables/what_to_adapt.md",
        "tables/what_to_adapt_differences.tex",
        "tables/what_to_adapt_differences.md",
        "tables/what_to_adapt_meta.tex",
        "tables/what_to_adapt_meta.md",
        "figures/what_to_adapt.pdf",
        "figures/what_to_adapt.png",
        "records/what_to_adapt.json",
    ]
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
        assert str(tmp_path).encode() not in first.read_bytes(), first.name


def test_rows_stand_by_reader_then_part_then_learner_behind_chance_and_the_retriever(plan):
    table = choices_table(study_of(plan(("lora", "head", "full"), ("cross", "bi"), seeds=(0,))))
    rows = [
        f"{part}, {learner}"
        for part in ("Head alone", "LoRA", "Whole BERT")
        for learner in ("transfer", "MAML")
    ]
    assert [(s.title, [row.label for row in s.rows]) for s in table.sections] == [
        ("", ["Chance", "Item-kNN, own order"]),
        ("Bi-encoder", rows),
        ("Cross-encoder", rows),
    ]
    assert table.columns == (
        *("What adapts", "Trained", "K = 1", "K = 3", "K = 5", "K = 10", "0 steps"),
        *("Adapt, s", "Score, s", "GiB"),
    )


def test_a_plan_of_two_parts_and_one_reader_has_nothing_of_the_others(plan):
    study = study_of(plan())
    for table in (choices_table(study), differences_table(study), meta_table(study)):
        assert table is not None
        assert "Cross-encoder" not in table.to_markdown()
        assert "BitFit" not in table.to_markdown()
    assert list(rows_of(differences_table(study))) == [
        *("Head alone, transfer", "Head alone, MAML", "LoRA, transfer", "LoRA, MAML"),
    ]
    assert list(rows_of(meta_table(study))) == ["Head alone", "LoRA"]


def test_cells_hold_the_means_of_the_nested_supports(make_choice, own_order):
    records = [make_choice(seed=seed) for seed in (0, 1)]
    row = rows_of(choices_table(study_of([*records, own_order(), own_order(1)])))["LoRA, MAML"]
    for k in SHOTS:
        found = row[f"K = {k}"].estimate
        assert found.mean == pytest.approx(np.mean([at(one, k).mean() for one in records]))
        assert found.low < found.mean < found.high
        assert (found.tasks, found.seeds, found.episodes) == (30, 2, 60)
    unadapted = np.mean([at(one, 10, adapted=False).mean() for one in records])
    assert row["0 steps"].estimate.mean == pytest.approx(unadapted)
    assert row["0 steps"].estimate.low < unadapted
    assert row["0 steps"].interval == ""


def test_costs_are_means_over_seeds_at_the_k_of_the_run(make_choice, own_order):
    records = [
        make_choice(seed=0, more=measured_at(0.1, 1.0, 22_713_216)),
        make_choice(seed=1, more=measured_at(0.3, 2.0, 22_713_216)),
        *(own_order(seed) for seed in (0, 1)),
    ]
    rows = rows_of(choices_table(study_of(records)))
    row = rows["LoRA, MAML"]
    costs = [row[name].value for name in ("Trained", "Adapt, s", "Score, s", "GiB")]
    assert costs == ["22.7 M", ".200", ".0500", "1.50"]
    assert row["Trained"].estimate.mean == 22_713_216
    assert row["Adapt, s"].estimate.episodes == 60
    # a baseline has no weights that are trained, but takes time and memory
    assert rows["Item-kNN, own order"]["Trained"].value == "–"
    assert rows["Item-kNN, own order"]["GiB"].value == ".50"


@pytest.mark.parametrize(
    ("parameters", "text"),
    [(950, "950"), (16_512, "16.5 k"), (999_600, "1.00 M"), (350_000_000, "350 M")],
)
def test_weights_are_counted_to_three_digits(make_choice, parameters, text):
    record = make_choice(more=measured_at(0.1, 1.0, parameters))
    assert rows_of(choices_table(study_of([record])))["LoRA, MAML"]["Trained"].value == text


def test_what_a_record_does_not_say_of_its_costs_is_a_dash(make_choice):
    row = rows_of(choices_table(study_of([make_choice(more={"peak_memory_bytes": None})])))
    for name in ("Trained", "Adapt, s", "Score, s", "GiB"):
        assert row["LoRA, MAML"][name].value == "–"


def test_chance_shuffles_what_was_drawn(own_order, make_choice):
    record = own_order()
    frame = record.per_task
    here = frame[(frame["evaluation"] == "curve") & (frame["k_shot"] == 3)]
    discounts = 1 / np.log2(np.arange(2, 12))
    # each of the first 10 places holds a relevant candidate with the share of those drawn
    levels = [
        round(recall * relevant) / 100 * discounts.sum() / discounts[: int(relevant)].sum()
        for recall, relevant in zip(here[RECALL], here["n_relevant"], strict=True)
    ]
    rows = rows_of(choices_table(study_of([record, make_choice()])))
    assert rows["Chance"]["K = 3"].estimate.mean == pytest.approx(np.mean(levels))
    assert rows["Chance"]["0 steps"].value == "–"


def test_chance_is_the_level_that_runs_have_on_record(tiny_dataset, tmp_path):
    data = tiny_dataset
    frame = pd.DataFrame({"user": data.user_ids[data.users], "item": data.item_ids[data.items]})
    frame.assign(rating=data.ratings).to_csv(tmp_path / "ratings.csv", index=False)
    config = {
        "data": {"name": "csv", "options": {"interactions": str(tmp_path / "ratings.csv")}},
        "learner": {"name": "random", "_target_": "metarec.baselines.random.Random"},
        "episode": {"k_shot": 3},
        "evaluation": {"k_curve": [], "shortlist": 12, "retriever": KNN},
    }
    record = run(RunConfig.from_dict(config), tmp_path / "results")
    results = results_of([record], [], "user", ("binary",))
    assert results is not None
    for regime, levels in record.chance["test"].items():
        for metric in ("ndcg@10", "recall@5", "precision@5"):
            values = results.select(f"catalogue/{metric}", "test", regime, 3)
            level = chance_of(values, f"catalogue/{metric}", 12)
            assert level is not None
            assert level.mean == pytest.approx(levels[f"catalogue/chance/{metric}"])
    # what is behind the shortlist decides these
    assert chance_of(values, "catalogue/auc", 12) is None
    assert chance_of(values, "catalogue/ndcg@20", 12) is None


def test_rows_are_marked_against_the_retriever_and_0_steps_are_tested_by_themselves(
    make_choice, own_order
):
    records = [
        own_order(quality=0.25),
        make_choice("head", quality=0.15, without_steps=0.24),
        make_choice("lora", quality=0.45, without_steps=0.1),
    ]
    rows = rows_of(choices_table(study_of(records)))
    assert rows["Item-kNN, own order"]["K = 10"].mark == "†"
    assert rows["Head alone, MAML"]["K = 10"].mark == "−"
    assert rows["LoRA, MAML"]["K = 10"].mark == "+"
    assert rows["LoRA, MAML"]["0 steps"].mark == "−"
    assert not any(cell.bold for row in rows.values() for cell in row.values())


def test_differences_are_paired_and_corrected_by_holm_over_their_column(plan):
    study = study_of(plan(("head", "bitfit", "lora"), ("bi", "cross"), seeds=(0,)))
    table = differences_table(study)
    assert table is not None
    tests = ("p (Holm)", "Effect", "Won/tied/lost")
    assert table.columns == (*("What adapts", "Minus head alone", *tests, "Minus 0 steps", *tests),)
    values = study.results.select(NDCG, "test", "user_cold", 10, "curve")
    for column, name in ((0, "head"), (4, "0 steps")):
        cells = {
            (section.title, row.label): row.cells[column : column + 4]
            for section in table.sections
            for row in section.rows
        }
        expected, p = {}, []
        for choice in study.choices:
            reader = "Bi-encoder" if choice.reads == "bi" else "Cross-encoder"
            other = (
                Variant(choice.learner.replace(choice.adapted, "head"))
                if name == "head"
                else choice.unadapted
            )
            if other == choice.variant:
                assert cells[reader, choice.label][0].value == "–"
                continue
            found = difference_of(values, choice.variant, other, NDCG)
            assert found is not None
            expected[reader, choice.label] = found
            p.append(found.p)
        corrected = holm(np.array(p))
        for (place, found), value in zip(expected.items(), corrected, strict=True):
            estimate = cells[place][0].estimate
            assert estimate.mean == pytest.approx(found.mean)
            assert (estimate.low, estimate.high) == (found.low, found.high)
            assert estimate.p == pytest.approx(value)
            assert cells[place][1].value in (f"{value:.3f}".lstrip("0"), "<.001")
            assert cells[place][2].value == number(found.effect, signed=True)
            assert cells[place][3].value == f"{found.wins}/{found.ties}/{found.losses}"
            assert found.wins + found.ties + found.losses == 30


def test_meta_minus_transfer_is_given_at_each_k(plan):
    records = plan(reads=("bi", "cross"), seeds=(0,))
    table = meta_table(study_of(records))
    assert table is not None
    by_name = {record.learner: record for record in records}
    for title, suffix in (("Bi-encoder", ""), ("Cross-encoder", "_cross")):
        for label, part in (("Head alone", "head"), ("LoRA", "lora")):
            row = rows_of(table, title)[label]
            one, other = (by_name[f"bert_{m}{suffix}_{part}"] for m in ("maml", "transfer"))
            for k in SHOTS:
                difference = (at(one, k) - at(other, k)).mean()
                assert row[f"K = {k}"].estimate.mean == pytest.approx(difference)


def test_of_a_single_learner_there_is_no_difference_of_two(plan, tmp_path):
    records = plan(("lora",), meta=(True,), seeds=(0,))
    assert meta_table(study_of(records)) is None
    assert "tables/what_to_adapt_meta.md" not in {
        path.relative_to(tmp_path).as_posix() for path in build_report(records, tmp_path)
    }


def test_without_the_head_alone_the_column_is_left_out(plan):
    table = differences_table(study_of(plan(("lora",), seeds=(0,))))
    assert table is not None
    assert table.columns == (
        *("What adapts", "Minus 0 steps", "p (Holm)", "Effect", "Won/tied/lost"),
    )


def test_markdown_latex_terminal_and_small_record_agree(plan, tmp_path):
    console = Console(width=220, color_system=None, force_terminal=False)
    with console.capture() as capture:
        build_report(plan(reads=("bi", "cross")), tmp_path, console)
    markdown, latex = (
        (tmp_path / f"tables/what_to_adapt.{suffix}").read_text() for suffix in ("md", "tex")
    )
    assert figures(markdown) == figures(latex.partition(r"\midrule")[2])
    assert figures(markdown) == figures(capture.get())
    content = json.loads((tmp_path / "records/what_to_adapt.json").read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
    shown = {(row["learner"], row["k_shot"], row["metric"]): row for row in rows}
    assert len(shown) == len(rows)
    for table in ("what_to_adapt", "what_to_adapt_differences", "what_to_adapt_meta"):
        text = (tmp_path / f"tables/{table}.md").read_text()
        assert content["title"] in (tmp_path / "tables/what_to_adapt.md").read_text()
        # every cell with an interval is a row of the record
        for mean, low, high in re.findall(
            r"([−+]?\d?\.\d{3})(?:<sup>.</sup>)? <sub>\[([−+]?\d?\.\d{3}), ?([−+]?\d?\.\d{3})\]",
            text.replace("\N{NO-BREAK SPACE}", " "),
        ):
            given = [float(value.replace("−", "-")) for value in (mean, low, high)]
            assert any(
                row["low"] is not None
                and all(
                    abs(row[name] - value) < 0.00051
                    for name, value in zip(("mean", "low", "high"), given, strict=True)
                )
                for row in rows
            ), (table, given)
    assert shown["bert_maml_lora", 10, "trainable_parameters"]["mean"] == 80_000
    assert shown["bert_maml_lora", 10, "bert_inner_learning_rate"]["mean"] == 0.03
    assert ("bert_maml_head", 10, "bert_inner_learning_rate") not in shown
    assert shown["bert_maml_lora", 10, "seconds_per_task/adapt"]["mean"] == pytest.approx(0.4)
    assert shown["bert_maml_lora", 10, "peak_memory_gib"]["mean"] == pytest.approx(1.3)
    assert 0 < shown["item_knn", 3, RECALL]["low"] < shown["item_knn", 3, RECALL]["mean"]
    assert shown["bert_maml_lora - bert_maml_lora, 0 steps", 10, NDCG]["p_holm"] is not None
    assert shown["bert_maml_lora - bert_maml_head", 10, NDCG]["tasks"] == 30
    assert shown["bert_maml_cross_lora - bert_transfer_cross_lora", 1, NDCG]["seeds"] == 2
    (source,) = content["sources"]
    assert source["command"] == "python -m metarec.report.what_to_adapt results/what_to_adapt"
    assert len(source["runs"]["bert_maml_lora"]) == 2


def test_notes_say_who_drew_what_costs_mean_and_how_rates_were_chosen(make_choice, plan):
    records = [
        *plan(),
        *(
            make_choice("full", seed=seed, arguments={"bert_inner_learning_rate": 0.003})
            for seed in (0, 1)
        ),
    ]
    table = choices_table(study_of(records))
    notes = " ".join(table.notes)
    recall = np.mean([at(record, 10, metric=RECALL).mean() for record in records[:2]])
    assert "Item-kNN draws 100 candidates for each user" in notes
    assert f"{recall:.3f}".lstrip("0") + " at K = 10" in notes
    assert "1 thread of a processor" in notes
    assert "0.003 for Whole BERT; 0.03 for LoRA." in notes
    assert "(records of what_to_adapt_validation)" in notes
    assert "BERT: minilm." in notes
    assert "steps 60, inner_steps 3" in notes
    assert "of the 100 candidates that are reranked" in notes
    assert "user cold (nested supports) 30" in notes
    assert "2 seeds (0, 1)" in notes
    assert "python -m metarec.report.what_to_adapt results/what_to_adapt" in notes
    assert table.preliminary


def test_the_folder_of_a_checkpoint_is_not_published(make_choice):
    text = {"checkpoint": "/home/somebody/models/my_bert"}
    notes = " ".join(choices_table(study_of([make_choice(text=text)])).notes)
    assert "BERT: my_bert." in notes
    assert "somebody" not in notes


def test_a_narrow_terminal_gets_the_whole_table(make_choice, tmp_path):
    console = Console(width=60, color_system=None, force_terminal=False)
    with console.capture() as capture:
        build_report([make_choice()], tmp_path, console)
    row = next(line for line in capture.get().splitlines() if "LoRA, MAML" in line)
    cells = rows_of(choices_table(study_of([make_choice()])))["LoRA, MAML"].values()
    assert all(cell.value in row for cell in cells)
    assert console.width == 60


def test_rates_that_differ_between_learners_are_told_apart(make_choice):
    given = {"bert_inner_learning_rate": 0.3}
    study = study_of([make_choice(meta=False), make_choice(arguments=given)])
    notes = " ".join(choices_table(study).notes)
    assert "0.03 for LoRA (bert_transfer_lora); 0.3 for LoRA (bert_maml_lora)." in notes


def test_a_run_on_a_gpu_says_whose_memory_it_is(make_choice):
    more = measured_at(0.1, 1.0, 1000) | {"device": "cuda:0"}
    notes = " ".join(choices_table(study_of([make_choice(more=more)])).notes)
    assert "with cuda:0, whose memory is not in it" in notes


def test_with_seeds_and_episodes_enough_nothing_is_preliminary(make_choice, own_order):
    records = [
        one
        for seed in range(5)
        for one in (
            own_order(seed, n_tasks=130),
            make_choice("head", quality=0.25, seed=seed, n_tasks=130),
            make_choice("lora", quality=0.4, seed=seed, n_tasks=130),
        )
    ]
    study = study_of(records)
    table, differences = choices_table(study), differences_table(study)
    assert differences is not None
    assert not table.preliminary
    assert rows_of(table)["LoRA, MAML"]["K = 10"].bold
    assert not rows_of(table)["Head alone, MAML"]["K = 10"].bold
    assert rows_of(differences)["LoRA, MAML"]["Minus head alone"].bold


def test_trials_on_validation_are_passed_over(plan, make_choice):
    trial = make_choice(
        "full",
        experiment="what_to_adapt_validation",
        evaluation=EVALUATION | {"parts": ["validation"]},
    )
    study = study_of([*plan(), trial])
    assert "full" not in {choice.adapted for choice in study.choices}


def test_several_last_layers_are_counted(make_choice):
    assert choice_of(make_choice("last_n").config).part == "Last layer"
    two = make_choice("last_n", arguments={"adapted_layers": 2})
    assert choice_of(two.config).part == "Last 2 layers"


def test_failed_runs_are_named_and_a_choice_without_any_keeps_its_row(plan, make_choice, tmp_path):
    records = [
        *plan(("lora",), seeds=(0,)),
        make_choice("full", error="MemoryError: no memory"),
        make_choice("lora", seed=2, error="ValueError: boom"),
    ]
    console = Console(width=220, color_system=None, force_terminal=False)
    with console.capture() as capture:
        build_report(records, tmp_path, console)
    assert "left out, since they failed: 2 runs" in capture.get()
    table = choices_table(study_of(records))
    row = rows_of(table)["Whole BERT, MAML (failed)"]
    assert {cell.value for cell in row.values()} == {"–"}
    assert "MemoryError: no memory" in " ".join(table.notes)
    differences = differences_table(study_of(records))
    assert differences is not None
    assert rows_of(differences)["Whole BERT, MAML (failed)"]["Minus 0 steps"].value == "–"
    assert "Whole BERT" not in rows_of(meta_table(study_of(records)))


def test_a_choice_with_fewer_seeds_says_so(plan, make_choice):
    rows = rows_of(choices_table(study_of([*plan(("lora",)), make_choice("full")])))
    assert "Whole BERT, MAML (1 seed)" in rows


def test_without_a_run_of_its_own_the_retriever_has_no_row_and_nothing_is_marked(make_choice):
    table = choices_table(study_of([make_choice("head"), make_choice("lora")]))
    assert [row.label for row in table.sections[0].rows] == ["Chance"]
    assert not any(cell.mark for row in rows_of(table).values() for cell in row.values())
    assert "no Item-kNN among the records: nothing was tested" in " ".join(table.notes)


def test_mixed_code_versions_are_refused_unless_told(make_choice, tmp_path):
    records = [make_choice("head"), make_choice("full", code="b" * 64)]
    with pytest.raises(RunError, match="2 versions of the code"):
        build_report(records, tmp_path / "paper")
    assert not (tmp_path / "paper").exists()
    table = choices_table(study_of(records, allow_mixed_versions=True))
    assert "results/what_to_adapt --allow-mixed-versions" in " ".join(table.notes)


def without(*columns):
    return lambda frame: with_recall(frame).drop(columns=list(columns))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"evaluation": {"k_curve": list(SHOTS)}}, r"ranked the whole .*what_to_adapt\.py"),
        ({"alter": without(RECALL)}, r"per_task\.parquet lacks the column 'shortlist/recall'"),
        ({"shots": ()}, "no curve over K"),
        ({"evaluation": EVALUATION | {"shortlist": 50}}, r"differ in evaluation\.shortlist"),
        ({"text": {"checkpoint": "other"}, "seed": 1}, r"differ in text\.checkpoint"),
        ({"name": "mine"}, "'bert_maml_lora' and 'mine' are the same choice: LoRA, MAML, bi-enc"),
        ({"reads": "cross", "name": "bert_maml_lora", "seed": 1}, "'bert_maml_lora' is two "),
        ({"kind": "item"}, "user tasks only"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(make_choice, tmp_path, given, message):
    alone = not {"evaluation", "name", "seed"} & set(given)
    records = [make_choice(**given), *([] if alone else [make_choice()])]
    with pytest.raises(RunError, match=message):
        build_report(records, tmp_path / "paper")
    assert not (tmp_path / "paper").exists()


def test_records_without_a_bert_that_adapts_are_refused(own_order, tmp_path):
    with pytest.raises(RunError, match=r"no BERT adapts in the 1 finished records.*what_to_adapt"):
        build_report([own_order()], tmp_path)


def test_the_command_reads_the_experiment(plan, tmp_path, monkeypatch, capsys):
    plan(("lora",), seeds=(0,))
    monkeypatch.chdir(tmp_path)
    assert main(["results/what_to_adapt"]) == 0
    assert "LoRA, MAML" in capsys.readouterr().out
    assert "LoRA, MAML" in Path("paper/tables/what_to_adapt.md").read_text()


def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["results/nothing"]) == 1
    assert capsys.readouterr().err.startswith("error: no results in")


def test_a_table_of_latex_has_a_cell_for_each_column(plan):
    latex = choices_table(study_of(plan(seeds=(0,)))).to_latex()
    lines = [line for line in latex.splitlines() if line.endswith(r"\\") and "&" in line]
    assert {line.count(" & ") for line in lines} == {9}


def test_seconds_of_runs_of_their_own_stand_in_place_of_those_of_the_others(plan):
    records = plan(seeds=(0, 1))

    def alone(record):
        measured = measured_at(7.0, 9.0, 1)["seconds_per_task"]
        return replace(
            record,
            config=replace(record.config, experiment="what_to_adapt_seconds"),
            content={**record.content, "seconds_per_task": measured, "peak_memory_bytes": 1},
        )

    timings = [alone(one) for one in records if one.learner == "bert_maml_lora" and one.seed == 0]
    study = study_of([*timings, *records])
    assert len(study.results.records) == len(records)
    costs = study.costs("bert_maml_lora")
    assert (costs[ADAPT].mean, costs[SCORE].mean) == pytest.approx((7.0, 1.75))
    assert costs[ADAPT].seeds == 1
    # all else is that of the runs that were measured
    without = study_of(records)
    assert costs[MEMORY] == without.costs("bert_maml_lora")[MEMORY]
    assert study.costs("bert_maml_head") == without.costs("bert_maml_head")
    assert "one at a time" in choices_table(study).to_markdown()
    assert "one at a time" not in choices_table(without).to_markdown()
