from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from metarec.runs import load_records

Script = Callable[..., int]


def test_tuning_writes_the_best_values_and_the_record_that_chose_them(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = script(
        "tune",
        "-m",
        "learner=popularity,item_knn",
        "tuning.trials=3",
        f"tuning.configs={tmp_path / 'configs'}",
        f"tuning.paper={tmp_path / 'paper'}",
    )
    assert status == 0
    best = yaml.safe_load((tmp_path / "configs/learner/best/binary/item_knn.yaml").read_text())
    assert best.pop("defaults") == ["/learner/item_knn@_here_", "_self_"]
    assert best.keys() == {"neighbours", "shrinkage", "dislike_weight"}
    trials = json.loads((tmp_path / "paper/records/tuning/binary/item_knn.json").read_text())[
        "trials"
    ]
    assert len(trials) == 3
    # popularity has two values to choose from
    records = load_records(tmp_path / "results", "tuning")
    assert sorted(record.learner for record in records) == ["item_knn"] * 3 + ["popularity"] * 2
    assert all(record.metrics.keys() == {"validation"} for record in records)
    assert "Trials of item_knn" in capsys.readouterr().out


def test_a_learner_with_nothing_to_tune_is_an_error_and_the_next_is_tuned(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = script(
        "tune",
        "-m",
        "learner=random,popularity",
        f"tuning.configs={tmp_path / 'configs'}",
        f"tuning.paper={tmp_path / 'paper'}",
    )
    assert status == 1
    assert "random" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "configs/learner/best/binary/popularity.yaml").exists()
