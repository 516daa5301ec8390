from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from metarec.errors import RunError
from metarec.report.tuning import build_report, main, read_tunings, tuning_table
from metarec.runs.tuning_files import TUNING

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "paper" / TUNING).glob("*/*.json"))


def write(paper: Path, learner: str, episode: str = "binary", **changes: Any) -> None:
    """A small record as tuning writes it: four trials of a trained learner."""
    trials = [
        {"values": {}, "selection": 0.25, "seconds": 30.0, "training_tasks": 32_000},
        {"values": {"rate": 0.1}, "selection": 0.5, "seconds": 60.0, "training_tasks": 16_000},
        {"values": {"rate": 0.2}, "selection": 0.375, "seconds": 30.0, "training_tasks": 16_000},
        {"values": {"rate": 9.0}, "selection": None, "error": "RuntimeError", "seconds": 6.0},
    ]
    content = {
        "learner": learner,
        "selection": "nDCG@10",
        "sampler": "TPE of Optuna 5",
        "trials_asked": 4,
        "training_tasks": 32_000,
        "chosen": 1,
        "trials": trials,
    }
    file = paper / TUNING / episode / f"{learner}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {key: value for key, value in (content | changes).items() if value is not ...}
    file.write_text(json.dumps(content), encoding="utf-8")


def cells(paper: Path, episode: str = "binary") -> dict[str, list[str]]:
    table = tuning_table(read_tunings(paper, episode), episode)
    return {
        row.label: [cell.value for cell in row.cells]
        for section in table.sections
        for row in section.rows
    }


def test_a_row_says_what_a_learner_was_given_and_what_it_gained(tmp_path: Path) -> None:
    write(tmp_path, "maml")
    table = tuning_table(read_tunings(tmp_path, "binary"), "binary")
    assert table.name == "tuning_binary"
    row = dict(zip(table.columns[1:], cells(tmp_path)["MAML"], strict=True))
    assert row == {
        "Trials": "4, 1 failed",
        "Tasks": "32,000",
        "Drawn": "21,333",
        "Minutes": "2.1",
        "Defaults": ".250",
        "Best": ".500",
        "Gain": "+.250",
    }


def test_learners_stand_in_the_order_of_the_other_tables(tmp_path: Path) -> None:
    for learner in ("maml", "ease", "my_method", "transfer", "popularity"):
        write(tmp_path, learner)
    found = tuning_table(read_tunings(tmp_path, "binary"), "binary")
    assert [section.title for section in found.sections] == [
        *("Floor", "Collaborative", "Transfer", "Meta, gradient-based", "Other"),
    ]


def test_what_is_not_trained_or_not_known_is_a_dash(tmp_path: Path) -> None:
    write(tmp_path, "ease", training_tasks=0)
    write(tmp_path, "maml", training_tasks=..., trials_asked=..., sampler=...)
    found = cells(tmp_path)
    assert found["EASE^R"][1:3] == found["MAML"][1:3] == ["–", "–"]


def test_defaults_that_failed_have_no_score_and_there_is_no_gain_over_them(tmp_path: Path) -> None:
    trials = [
        {"values": {}, "selection": None, "error": "RuntimeError", "seconds": 1.0},
        {"values": {"rate": 0.1}, "selection": -0.9, "seconds": 1.0},
    ]
    write(tmp_path, "maml", trials=trials)
    assert cells(tmp_path)["MAML"][-3:] == ["–", "−.900", "–"]


def test_the_notes_say_where_budgets_are_not_equal(tmp_path: Path) -> None:
    write(tmp_path, "maml")
    write(tmp_path, "transfer")
    equal = " ".join(tuning_table(read_tunings(tmp_path, "binary"), "binary").notes)
    assert "Not equal" not in equal
    assert "older" not in equal
    assert "TPE of Optuna 5" in equal

    write(tmp_path, "reptile", training_tasks=16_000, trials_asked=8)
    write(tmp_path, "anil", training_tasks=...)
    unequal = " ".join(tuning_table(read_tunings(tmp_path, "binary"), "binary").notes)
    assert "Not equal: 16,000 or 32,000 training tasks a trial." in unequal
    assert "Not equal: 4 or 8 trials were asked for." in unequal
    assert "Fewer trials, as their search is empty or has no more values: Reptile." in unequal
    write(tmp_path, "reptile", trials_asked=8, search={"rate": {"low": 0.1, "high": 9.0}})
    unequal = " ".join(tuning_table(read_tunings(tmp_path, "binary"), "binary").notes)
    assert "Fewer trials than were asked for, which is no equal tuning: Reptile." in unequal
    assert "no more values" not in unequal
    assert "1 of 4 records are older than the count of training tasks." in unequal


def test_each_kind_of_episode_has_a_table_and_the_learners_of_a_call_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for learner, episode in (("maml", "binary"), ("ease", "binary"), ("maml", "item")):
        write(tmp_path, learner, episode)
    written = build_report(tmp_path)
    names = ["tuning_binary.tex", "tuning_binary.md", "tuning_item.tex", "tuning_item.md"]
    assert [path.name for path in written] == names
    assert all(path.parent == tmp_path / "tables" for path in written)
    assert r"\label{tab:tuning_binary}" in written[0].read_text()
    before = [path.read_bytes() for path in written]

    build_report(tmp_path, Console(width=120), "binary", ["ease"])
    out = capsys.readouterr().out
    assert "EASE" in out
    assert "MAML" not in out
    assert [path.read_bytes() for path in written] == before


def test_the_command_line_names_what_is_missing_or_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--paper", str(tmp_path)]) == 1
    assert "experiments/tune.py" in capsys.readouterr().err
    write(tmp_path, "maml", trials=[])
    with pytest.raises(RunError, match=r"maml\.json cannot be read .*tune again"):
        read_tunings(tmp_path, "binary")
    write(tmp_path, "maml")
    assert main(["--paper", str(tmp_path)]) == 0


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_committed_record_can_be_read_and_its_best_values_are_those_of_the_configuration(
    file: Path,
) -> None:
    tunings = read_tunings(ROOT / "paper", file.parent.name)
    (one,) = [one for one in tunings if one.learner == file.stem]
    assert one.trials >= 1
    content = json.loads(file.read_text())
    best = ROOT / "configs" / "learner" / "best" / file.parent.name / f"{file.stem}.yaml"
    if not content["search"]:
        assert not best.exists()
        return
    values = yaml.safe_load(best.read_text())
    assert values.pop("defaults") == [f"/learner/{file.stem}@_here_", "_self_"]
    chosen = content["defaults"] | content["trials"][content["chosen"]]["values"]
    assert chosen.items() <= values.items()
