from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metarec.errors import ConfigError, RunError
from metarec.runs import LearnerConfig, RunConfig, load_records
from metarec.runs.tuning import trial_values, tune, write_tuning

Make = Callable[..., RunConfig]
SEARCH = {"search": {"rate": [0.01, 0.1, 1.0], "steps": [1, 2, 6]}, "rate": 0.1, "steps": 2}


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.lists(st.integers(0, 9), min_size=1, unique=True), min_size=1
    ),
    st.integers(1, 12),
    st.integers(0, 5),
)
def test_trials_are_the_defaults_and_then_different_values_of_the_space(
    space: dict[str, list[int]], trials: int, seed: int
) -> None:
    defaults = {name: values[0] for name, values in space.items()}
    config = RunConfig(LearnerConfig("x", "module.X", defaults, space))
    drawn = trial_values(config, trials, seed)
    assert drawn[0] == {}
    full = [defaults | values for values in drawn]
    assert all(one not in full[:number] for number, one in enumerate(full))
    assert all(one[name] in space[name] for one in full for name in space)
    size = 1
    for values in space.values():
        size *= len(values)
    assert len(drawn) == min(trials, size)
    assert drawn == trial_values(config, trials, seed)


def test_the_best_trial_on_validation_is_chosen_and_test_is_not_looked_at(
    make_config: Make, tmp_path: Path
) -> None:
    tuning = tune(make_config(arguments=SEARCH), trials=4, results=tmp_path)
    selections = [trial.selection for trial in tuning.trials]
    assert tuning.best.selection == max(value for value in selections if value is not None)
    assert len({json.dumps(trial.values) for trial in tuning.trials}) == 4
    records = load_records(tmp_path, "tuning")
    assert len(records) == 4
    for record in records:
        assert record.metrics.keys() == {"validation"}
        assert set(record.per_task["part"]) == {"validation"}


def test_a_trial_that_fails_is_passed_over(
    make_config: Make, fakes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fit = fakes.Walk.fit

    def diverges(self: Any, training: Any) -> Any:
        if self.rate > 0.5:
            raise RuntimeError("the loss is NaN")
        return fit(self, training)

    monkeypatch.setattr(fakes.Walk, "fit", diverges)
    config = make_config(arguments={"search": {"rate": [0.1, 1.0]}, "rate": 1.0})
    tuning = tune(config, trials=2, results=tmp_path)
    assert tuning.chosen == 1
    assert tuning.trials[0].error == "RuntimeError: the loss is NaN"
    written = write_tuning(tuning, "binary", tmp_path / "configs", tmp_path / "paper", "tune")
    assert "with the defaults failed" in " ".join(written[0].read_text().split())


def test_if_all_trials_fail_so_does_the_tuning(make_config: Make, tmp_path: Path) -> None:
    config = make_config("Broken", arguments={"search": {"rate": [0.1, 1.0]}})
    with pytest.raises(RunError, match=r"all 2 trials of broken failed.*NaN at step 3"):
        tune(config, trials=2, results=tmp_path)


def test_a_learner_without_search_has_nothing_to_tune(make_config: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to tune"):
        tune(make_config(), results=tmp_path)


def test_the_chosen_values_are_written_with_the_record_that_chose_them(
    make_config: Make, tmp_path: Path
) -> None:
    tuning = tune(make_config(arguments=SEARCH), trials=3, results=tmp_path / "results")
    best, record = write_tuning(
        tuning, "item", tmp_path / "configs", tmp_path / "paper", "python experiments/tune.py"
    )
    assert best == tmp_path / "configs" / "learner" / "best" / "item" / "walk.yaml"
    assert record == tmp_path / "paper" / "records" / "tuning" / "item" / "walk.json"
    assert best.read_text().startswith("# walk")
    values = yaml.safe_load(best.read_text())
    assert values.pop("defaults") == ["/learner/walk@_here_", "_self_"]
    assert values == {"rate": 0.1, "steps": 2} | tuning.best.values
    content = json.loads(record.read_text())
    assert content["chosen"] == tuning.chosen
    assert [trial["values"] for trial in content["trials"]] == [
        trial.values for trial in tuning.trials
    ]
    chosen = content["trials"][tuning.chosen]
    assert chosen["selection"] == tuning.best.selection
    assert (tmp_path / "results" / "tuning" / chosen["run"] / "record.json").exists()
    assert record.stat().st_size < 20_000
