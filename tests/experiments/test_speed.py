from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Script = Callable[..., int]


def test_speed_measures_sampling_and_the_maml_step(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = script(
        "speed",
        "speed.repeats=3",
        "speed.sampling.batches=2",
        "speed.sampling.task_batch=8",
        "speed.maml_step={tasks:2,k_shot:2,query_size:2,feature_size:4,hidden_sizes:[3],"
        "inner_steps:1,repeats:1}",
    )
    assert status == 0
    content = json.loads((tmp_path / "results" / "speed.json").read_text())
    sampling = content["episode_sampling"]
    assert len(sampling["repeats"]) == 3
    assert sampling["episodes_per_second"] == sorted(sampling["repeats"])[1]
    for order in ("second order", "first order"):
        engines = content["maml_step"][order]
        assert engines["gram"] > 0
        assert engines["vmap"] > 0
        assert "learn2learn" in engines
    assert content["settings"]["sampling"]["task_batch"] == 8
    assert "episodes a second on one core" in capsys.readouterr().out
