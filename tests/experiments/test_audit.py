from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from metarec.runs import load_records

Script = Callable[..., int]


def test_a_clean_run_holds_and_an_edited_mean_fails(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("benchmark", "learner=popularity") == 0
    call = ("audit", str(tmp_path / "results" / "benchmark"), "--no-paper")
    capsys.readouterr()
    assert script(*call, tiny=False) == 0
    out = capsys.readouterr().out
    assert "holds" in out
    assert out.splitlines()[-1].endswith(" checks, 0 failed, 0 open")

    (record,) = load_records(tmp_path / "results", "benchmark")
    record.content["metrics"]["test"]["user_cold"]["catalogue/ndcg@10"] += 0.001
    (record.path / "record.json").write_text(json.dumps(record.content))
    assert script(*call, tiny=False) == 1
    out = capsys.readouterr().out
    assert "fails" in out
    assert out.splitlines()[-1].endswith(" checks, 1 failed, 0 open")


def test_what_is_left_open_fails_only_where_that_is_asked_for(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("benchmark", "learner=popularity") == 0
    for folder in ("records", "tables"):
        (tmp_path / "paper" / folder).mkdir(parents=True)
    (tmp_path / "paper" / "tables" / "mine.md").write_text(
        "| a | b |\n| --- | --- |\n| c | .500 |\n"
    )
    columns = ["metric", "mean", "low", "high", "p_holm"]
    small = {"columns": columns, "rows": [["catalogue/ndcg@10", 0.5, None, None, None]]}
    (tmp_path / "paper" / "records" / "mine.json").write_text(json.dumps(small))
    call = ("audit", str(tmp_path / "results" / "benchmark"), f"--paper={tmp_path / 'paper'}")
    capsys.readouterr()
    for strict in ((), ("--strict",)):
        assert script(*call, *strict, tiny=False) == len(strict)
        assert capsys.readouterr().out.splitlines()[-1].endswith(" 0 failed, 1 open")


def test_a_folder_without_records_is_an_error_that_says_what_to_do(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert script("audit", str(empty), tiny=False) == 1
    told = f"error: no finished record to audit in {empty}; run an experiment first"
    assert told in capsys.readouterr().err
    assert script("audit", str(tmp_path / "nowhere"), tiny=False) == 1
    assert f"error: no results in {tmp_path / 'nowhere'}" in capsys.readouterr().err


def test_a_data_set_without_its_folder_is_a_wrong_call(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("audit", str(tmp_path), "--folder=csv", tiny=False) == 2
    assert "--folder csv: DATA=PATH is needed" in capsys.readouterr().err
