from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from metarec.errors import ConfigError, RunError
from metarec.runs import RunConfig, load_records, tuning_files
from metarec.runs.budget import training_tasks
from metarec.runs.tuning import Tuning, TuningSettings, tune
from metarec.runs.tuning_files import write_tuning

Make = Callable[..., RunConfig]
SEARCH = {
    "search": {"rate": {"low": 0.01, "high": 1.0, "log": True}, "inner_steps": [1, 2, 6]},
    "rate": 0.1,
    "inner_steps": 2,
}


@pytest.fixture
def make_config(make_config: Make) -> Make:
    """As elsewhere, in one regime: a trial is to be quick."""

    def make(target: str = "Walk", **sections: Any) -> RunConfig:
        return make_config(target, evaluation={"regimes": ["user_cold"]}, **sections)

    return make


def settings(tmp_path: Path, trials: int = 4, **others: Any) -> TuningSettings:
    folders = {"configs": str(tmp_path / "configs"), "paper": str(tmp_path / "paper")}
    return TuningSettings(trials, **folders, **others)


def bits(tuning: Tuning) -> list[tuple[Any, ...]]:
    """All of the trials that does not hang on the clock."""
    return [
        (dict(trial.values), trial.selection, trial.error, trial.record and trial.record.hash)
        for trial in tuning.trials
    ]


def test_the_first_trial_has_the_defaults_and_the_others_all_that_is_searched(
    make_config: Make, tmp_path: Path
) -> None:
    tuning = tune(make_config(arguments=SEARCH), TuningSettings(6), tmp_path)
    first, *others = tuning.trials
    assert first.values == {}
    assert first.record is not None
    assert first.record.config.learner.arguments == {"rate": 0.1, "inner_steps": 2}
    assert len({json.dumps(trial.values) for trial in tuning.trials}) == 6
    for trial in others:
        assert trial.record is not None
        assert trial.record.config.learner.arguments == trial.values
        assert 0.01 <= trial.values["rate"] <= 1.0
        assert trial.values["inner_steps"] in (1, 2, 6)


def test_the_best_trial_on_validation_is_chosen_and_test_is_not_looked_at(
    make_config: Make, tmp_path: Path
) -> None:
    tuning = tune(make_config(arguments=SEARCH), TuningSettings(4), tmp_path)
    selections = [trial.selection for trial in tuning.trials]
    assert tuning.best.selection == max(value for value in selections if value is not None)
    records = load_records(tmp_path, "tuning")
    assert len(records) == 4
    for record in records:
        assert record.config.evaluation.parts == ("validation",)
        assert record.metrics.keys() == record.chance.keys() == {"validation"}
        assert record.without_adaptation.keys() == {"validation"}
        assert set(record.per_task["part"]) == {"validation"}


def test_the_same_seed_gives_the_same_trials_and_another_seed_does_not(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config(arguments=SEARCH)
    one, same, other = (
        bits(tune(config, TuningSettings(6, seed), tmp_path / folder))
        for folder, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one == same
    assert one != other


def test_more_trials_go_on_where_fewer_ended(
    make_config: Make, fakes: ModuleType, tmp_path: Path
) -> None:
    config = make_config(arguments=SEARCH)
    few = tune(config, TuningSettings(5), tmp_path)
    fakes.Walk.fitted.clear()
    assert bits(tune(config, TuningSettings(7), tmp_path))[:5] == bits(few)
    assert len(fakes.Walk.fitted) == 2


def test_a_killed_tuning_runs_only_the_rest_and_ends_in_the_same_bits(
    make_config: Make, fakes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = make_config(arguments=SEARCH)
    whole = tune(config, TuningSettings(7), tmp_path / "whole")
    fit = fakes.Walk.fit

    def killed(self: Any, training: Any) -> Any:
        if len(fakes.Walk.fitted) == 5:
            # in the middle of the training of the sixth
            self.steps = 3
            fit(self, training)
            raise KeyboardInterrupt
        return fit(self, training)

    fakes.Walk.fitted.clear()
    with monkeypatch.context() as patched:
        patched.setattr(fakes.Walk, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(config, TuningSettings(7), tmp_path / "killed")
    assert len(load_records(tmp_path / "killed", "tuning")) == 5
    fakes.Walk.fitted.clear()
    resumed = tune(config, TuningSettings(7), tmp_path / "killed")
    assert fakes.Walk.fitted == [3, 0]
    assert bits(resumed) == bits(whole)
    assert resumed.chosen == whole.chosen


def test_a_trial_that_fails_is_listed_passed_over_and_teaches_the_sampler_nothing(
    make_config: Make, fakes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fit, failing = fakes.Walk.fit, []

    def diverges(self: Any, training: Any) -> Any:
        if self.rate > 0.05:
            failing.append(self.rate)
            raise RuntimeError("the loss is NaN")
        return fit(self, training)

    monkeypatch.setattr(fakes.Walk, "fit", diverges)
    tuning = tune(make_config(arguments=SEARCH), settings(tmp_path, 6), tmp_path)
    assert len(tuning.trials) == 6
    assert tuning.trials[0].error == "RuntimeError: the loss is NaN"
    assert tuning.best.record is not None
    failed = [trial for trial in tuning.trials if trial.record is None]
    assert [trial.values.get("rate", 0.1) for trial in failed] == failing
    assert all(trial.selection is None for trial in failed)

    best, record = write_tuning(tuning, "binary", "tune")
    assert "with the defaults failed" in " ".join(best.read_text().split())
    trials = json.loads(record.read_text())["trials"]
    assert trials[0].items() >= {"selection": None, "error": tuning.trials[0].error}.items()
    assert [trial["values"] for trial in trials] == [trial.values for trial in tuning.trials]


def test_a_failed_trial_is_told_as_failed(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import optuna

    told = []
    tell = optuna.Study.tell

    def listening(self: Any, trial: Any, *values: Any, **others: Any) -> Any:
        found = tell(self, trial, *values, **others)
        told.append((found.state.name, found.value))
        return found

    monkeypatch.setattr(optuna.Study, "tell", listening)
    with pytest.raises(RunError):
        tune(make_config("Broken", arguments=SEARCH), TuningSettings(2), tmp_path)
    assert told == [("FAIL", None)] * 2
    told.clear()
    tuning = tune(make_config(arguments=SEARCH), TuningSettings(2), tmp_path)
    assert told == [("COMPLETE", trial.selection) for trial in tuning.trials]


def test_trials_of_different_code_are_not_compared(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = make_config(arguments=SEARCH)
    tune(config, settings(tmp_path, 2), tmp_path)
    monkeypatch.setattr("metarec.runs.environment.code_hash", lambda: "0" * 64)
    with pytest.raises(RunError, match=r"trials are of 2 versions of the code: 000000000000 \("):
        tune(config, settings(tmp_path, 3), tmp_path)


def test_tasks_that_a_learner_does_not_serve_are_refused_before_any_trial(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config("metarec.baselines.tfidf.TfidfCosine", episode={"task": "item"})
    with pytest.raises(ConfigError, match="does not serve item tasks of binary feedback"):
        tune(config, settings(tmp_path, 2), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_if_all_trials_fail_so_does_the_tuning(make_config: Make, tmp_path: Path) -> None:
    config = make_config("Broken", arguments={"search": {"rate": [0.1, 1.0]}})
    with pytest.raises(RunError, match=r"all 2 trials of broken failed.*NaN at step 3"):
        tune(config, TuningSettings(8), tmp_path)


def test_every_learner_has_the_same_number_of_trials_unless_its_space_is_smaller(
    make_config: Make, tmp_path: Path
) -> None:
    counts, why = [], []
    for search in ({"rate": [0.1, 1.0]}, {"rate": [0.1, 0.2, 0.3, 0.4]}, SEARCH["search"], {}):
        arguments = SEARCH | {"search": search}
        tuning = tune(make_config(arguments=arguments), TuningSettings(4), tmp_path)
        counts.append(len(tuning.trials))
        why.append(tuning.shortfall)
    assert counts == [2, 4, 4, 1]
    assert why[0] == "walk has 2 trials, not 4: its search has no more values"
    assert why[1:3] == [None, None]
    assert why[3] == "walk has nothing to tune, so that only its defaults were run"


def test_a_learner_with_nothing_to_tune_runs_its_defaults_and_leaves_no_configuration(
    make_config: Make, tmp_path: Path
) -> None:
    tuning = tune(make_config(), settings(tmp_path), tmp_path)
    assert [dict(trial.values) for trial in tuning.trials] == [{}]
    (record,) = write_tuning(tuning, "binary", "tune")
    content = json.loads(record.read_text())
    assert (content["trials_asked"], len(content["trials"]), content["sampler"]) == (4, 1, None)


def test_a_default_that_is_not_given_is_that_of_the_class(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config(arguments={"search": {"rate": [0.1, 1.0]}})
    tuning = tune(config, TuningSettings(2), tmp_path)
    assert [dict(trial.values) for trial in tuning.trials] == [{}, {"rate": 1.0}]
    assert tuning.arguments().keys() == {"rate"}


@pytest.mark.parametrize(
    ("arguments", "tasks", "message"),
    [
        ({"search": {"rate": [1.0]}}, None, r"search\.rate does not hold learner\.rate=0\.1"),
        ({"search": {"rat": [1.0]}}, None, r"learner\.search\.rat: learner\.rat is missing"),
        (
            {"search": {"steps": [6, 8]}},
            24,
            r"learner\.search\.steps cannot be .*training_tasks=24",
        ),
        (SEARCH, 26, r"training_tasks=26: walk takes batches of 4 tasks; choose such as 24"),
        (SEARCH, 3, r"training_tasks=3: walk takes batches of 4 tasks; choose such as 4"),
    ],
)
def test_what_cannot_be_tuned_is_an_error_before_anything_runs(
    arguments: dict[str, Any], tasks: int | None, message: str, make_config: Make, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(make_config(arguments=arguments), TuningSettings(2, 0, tasks), tmp_path)
    assert not (tmp_path / "tuning").exists()


def test_every_trained_learner_has_the_same_training_tasks(
    make_config: Make, tmp_path: Path
) -> None:
    for batch, steps in ((4, 6), (4, 100), (8, 6)):
        config = make_config(arguments=SEARCH | {"steps": steps}, episode={"task_batch": batch})
        tuning = tune(config, TuningSettings(2, 0, 48), tmp_path / str(batch))
        for trial in tuning.trials:
            assert trial.record is not None
            assert training_tasks(trial.record.config) == 48
            assert trial.record.config.learner.arguments["steps"] == 48 // batch


def test_without_a_budget_the_steps_are_the_learners_own(make_config: Make, tmp_path: Path) -> None:
    tuning = tune(make_config(arguments=SEARCH), TuningSettings(2), tmp_path)
    assert tuning.best.record is not None
    assert training_tasks(tuning.best.record.config) == 6 * 4


def test_the_time_is_that_of_the_runs_whenever_they_were_run(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config(arguments=SEARCH)
    first, again = (tune(config, TuningSettings(3), tmp_path) for _ in range(2))
    assert [trial.seconds for trial in first.trials] == [trial.seconds for trial in again.trials]
    assert first.seconds == sum(trial.seconds for trial in first.trials) > 0


def test_a_bar_counts_the_trials(
    make_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(make_config(arguments=SEARCH), TuningSettings(2), tmp_path, progress=True)
    assert "trials of walk" in capsys.readouterr().err


def test_the_chosen_values_are_written_with_the_record_that_chose_them(
    make_config: Make, tmp_path: Path
) -> None:
    tuning = tune(
        make_config(arguments=SEARCH),
        settings(tmp_path, 3, training_tasks=24),
        tmp_path / "results",
    )
    best, record = write_tuning(tuning, "item", "python experiments/tune.py")
    assert best == tmp_path / "configs" / "learner" / "best" / "item" / "walk.yaml"
    assert record == tmp_path / "paper" / "records" / "tuning" / "item" / "walk.json"
    assert best.read_text().startswith("# walk")
    values = yaml.safe_load(best.read_text())
    assert values.pop("defaults") == ["/learner/walk@_here_", "_self_"]
    tuned = values.pop("tuned")
    assert values == {"rate": 0.1, "inner_steps": 2} | tuning.best.values
    assert tuned == {"data": "interactions", "kind": "item", "values": values}
    content = json.loads(record.read_text())
    assert content["chosen"] == tuning.chosen
    assert content["defaults"] == {"rate": 0.1, "inner_steps": 2}
    assert content["search"] == SEARCH["search"]
    assert content["sampler"].startswith("TPE of Optuna ")
    assert (content["trials_asked"], content["sampler_seed"]) == (3, 0)
    assert content["training_tasks"] == 24
    assert content["seconds"] == pytest.approx(tuning.seconds, abs=0.06)
    assert [trial["values"] for trial in content["trials"]] == [
        trial.values for trial in tuning.trials
    ]
    for trial in content["trials"]:
        assert trial["training_tasks"] == 20
        assert trial["seconds"] >= 0
    chosen = content["trials"][tuning.chosen]
    assert chosen["selection"] == tuning.best.selection
    assert (tmp_path / "results" / "tuning" / chosen["run"] / "record.json").exists()
    assert record.stat().st_size < 20_000


def test_the_written_configuration_makes_the_chosen_trial_again(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config(arguments=SEARCH)
    tuning = tune(config, settings(tmp_path, 4, training_tasks=16), tmp_path)
    best, _ = write_tuning(tuning, "binary", "tune")
    values = yaml.safe_load(best.read_text())
    del values["defaults"]
    # the budget changed the steps, so that they belong to what was chosen
    assert values["steps"] == 4
    tuned = values.pop("tuned")
    again = config.learner.arguments | values
    assert tuning.best.record is not None
    assert again == tuning.best.record.config.learner.arguments
    # which is tuned once more: its trials are not those of a tuned configuration
    learner = replace(config.learner, arguments=again, tuned=tuned)
    assert learner.tuned_on is not None
    (trial, *_) = tune(replace(config, learner=learner), settings(tmp_path, 2), tmp_path).trials
    assert trial.record is not None
    assert trial.record.config.learner.tuned_on is None


def test_the_configuration_is_written_last_and_each_file_as_a_whole(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tuning = tune(make_config(arguments=SEARCH), settings(tmp_path, 2), tmp_path)
    best, record = write_tuning(tuning, "binary", "first")
    before = best.read_text()
    write = tuning_files.write_text

    def full(file: Path, content: str) -> None:
        if file.suffix == ".yaml":
            raise OSError("no space left on device")
        write(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(tuning_files, "write_text", full)
        with pytest.raises(OSError, match="no space"):
            write_tuning(tuning, "binary", "second")
    assert best.read_text() == before
    assert json.loads(record.read_text())["command"] == "second"
    assert sorted(file.name for file in record.parent.iterdir()) == ["walk.json"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trial": 3}, r"'tuning\.trial'; did you mean 'trials'"),
        ({"trials": 0}, r"tuning\.trials=0 must be at least 1"),
        ({"seed": -1}, r"tuning\.seed=-1 must be at least 0"),
        ({"training_tasks": 0}, r"tuning\.training_tasks=0 must be at least 1"),
        ({"trials": "many"}, r"tuning\.trials='many': an integer"),
    ],
)
def test_settings_that_cannot_be_are_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TuningSettings.from_dict(values)
