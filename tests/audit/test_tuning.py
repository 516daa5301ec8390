"""What tuning left is to follow from its trials."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from audit_helpers import failing

from metarec.audit.tuning import (
    BUDGETS,
    CHOICES,
    _written,
    check_budgets,
    check_tunings,
    check_values,
)
from metarec.runs import Record, RunConfig, run
from metarec.runs.budget import drawn_tasks
from metarec.runs.tuning import TuningSettings, tune
from metarec.runs.tuning_files import write_tuning

LEARNERS = Path(__file__).resolve().parents[2] / "configs" / "learner"
SEARCH = {"search": {"rate": [0.1, 0.5, 1.0], "inner_steps": [1, 2]}, "rate": 0.1, "inner_steps": 2}


class Tuned:
    """A tuning of four trials, and what it left."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.paper, self.configs = folder / "paper", folder / "configs"
        settings = TuningSettings(4, configs=str(self.configs), paper=str(self.paper))
        self.tuning = tune(config, settings, folder / "results")
        self.best, self.small = write_tuning(self.tuning, "binary", "tune")

    @property
    def trials(self) -> dict[str, Record]:
        """The records, by the name of the run."""
        records = [one.record for one in self.tuning.trials if one.record is not None]
        return {one.path.name: one for one in records}

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Changes the small record."""
        content = json.loads(self.small.read_text())
        change(content)
        self.small.write_text(json.dumps(content))

    def problems(self) -> str:
        """What fails."""
        found = check_tunings(self.paper, self.configs, self.trials)
        return failing(list(found)).get(CHOICES, "")


@pytest.fixture
def tuned(make_config: Callable[..., RunConfig], tmp_path: Path) -> Tuned:
    learner = {"name": "walk", **SEARCH}
    evaluation = {"regimes": ["user_cold"]}
    return Tuned(
        make_config("fake_learners.Walk", learner=learner, evaluation=evaluation), tmp_path
    )


def test_a_tuning_that_was_left_as_it_is_holds(tuned: Tuned) -> None:
    (one,) = check_tunings(tuned.paper, tuned.configs, tuned.trials)
    assert (one.what, one.result) == ("binary/walk", "holds")


def test_a_trial_that_was_chosen_though_another_is_better(tuned: Tuned) -> None:
    best = tuned.tuning.chosen
    worse = (best + 1) % 4
    tuned.edit(lambda small: small.update(chosen=worse))
    told = f"binary/walk: trial {worse} was chosen, but trial {best} is best on validation\n"
    assert told in tuned.problems()


@pytest.mark.parametrize("key", ["data", "kind", "values"])
def test_a_configuration_that_says_of_itself_what_is_not_so(tuned: Tuned, key: str) -> None:
    written = yaml.safe_load(tuned.best.read_text())
    written["tuned"][key] = {} if key == "values" else "another"
    tuned.best.write_text(yaml.safe_dump(written))
    assert "learner/best/binary/walk.yaml says of itself tuned=" in tuned.problems()


def test_a_failed_trial_is_not_the_best_of_all(tuned: Tuned) -> None:
    def failed(small: dict[str, Any]) -> None:
        for one in small["trials"][1:]:
            del one["run"]
            one["selection"] = None
        small["chosen"] = 1

    tuned.edit(failed)
    assert "trial 1 was chosen, but trial 0 is best" in tuned.problems()


@pytest.mark.parametrize("value", [0.3, None])
def test_a_best_configuration_that_was_edited(value: float | None, tuned: Tuned) -> None:
    values = yaml.safe_load(tuned.best.read_text())
    chosen = values.pop("rate")
    edited = values if value is None else values | {"rate": value}
    tuned.best.write_text(yaml.safe_dump(edited))
    told = f"learner/best/binary/walk.yaml has rate={value}, the chosen trial {chosen}\n"
    assert tuned.problems() == f"binary/walk: {told}"


def test_a_best_configuration_that_is_not_there(tuned: Tuned) -> None:
    tuned.best.unlink()
    assert "there is no learner/best/binary/walk.yaml" in tuned.problems()


def test_a_score_that_is_not_that_of_its_record(tuned: Tuned) -> None:
    place = tuned.tuning.chosen
    score = tuned.tuning.best.selection
    assert score is not None
    tuned.edit(lambda small: small["trials"][place].update(selection=score + 0.001))
    told = f"trial {place} scored {score + 0.001}, but its record says {score}\n"
    assert tuned.problems() == f"binary/walk: {told}"


def test_a_best_configuration_that_no_trial_is_known_of(tuned: Tuned) -> None:
    tuned.small.unlink()
    told = "no trials are known that learner/best/binary/walk.yaml is of"
    assert tuned.problems() == f"binary/walk: {told}\n"


def budgets(tuned: Tuned, **edited: Any) -> str:
    """What fails where three learners were tuned, of which the second is edited."""
    content = json.loads(tuned.small.read_text())
    for name in ("jog", "stroll"):
        other = content | {"learner": name}
        for key, value in edited.items() if name == "jog" else ():
            other[key] = value
            if value is None:
                del other[key]
        tuned.small.with_name(f"{name}.json").write_text(json.dumps(other))
    return failing(list(check_budgets(tuned.paper, tuned.configs))).get(BUDGETS, "")


def test_learners_that_were_tuned_alike_hold(tuned: Tuned) -> None:
    assert budgets(tuned) == ""
    assert [one.result for one in check_budgets(tuned.paper, tuned.configs)] == ["holds"] * 3


def test_a_learner_that_needs_no_training_has_no_budget_to_share(tuned: Tuned) -> None:
    small = json.loads(tuned.small.read_text())
    assert small["training_tasks"]
    trials = [one | {"training_tasks": 0} for one in small["trials"]]
    assert budgets(tuned, training_tasks=0, trials=trials) == ""
    assert "trial 0 drew" in budgets(tuned, training_tasks=0)


@pytest.mark.parametrize(
    ("edited", "told"),
    [
        ({"trials_asked": 80}, "binary/jog: has trials_asked 80, where others have 4"),
        ({"training_tasks": 99}, "binary/jog: has training_tasks 99, where others have"),
        ({"seed": 7}, "binary/jog: has seed 7, where others have 0"),
        ({"data_checksum": "abc"}, "binary/jog: has data_checksum abc, where others have"),
        ({"trials_asked": None}, "binary/jog: does not say its trials_asked"),
    ],
)
def test_a_learner_that_was_tuned_otherwise(
    edited: dict[str, Any], told: str, tuned: Tuned
) -> None:
    assert told in budgets(tuned, **edited)


def test_what_differs_is_named_to_its_last_key(tuned: Tuned) -> None:
    split = json.loads(tuned.small.read_text())["split"]
    told = budgets(tuned, split=split | {"seed": 5})
    assert told == "binary/jog: has split.seed 5, where others have 0\n"


def test_where_files_lay_and_which_release_drew_may_differ(tuned: Tuned) -> None:
    small = json.loads(tuned.small.read_text())
    moved = small["split"] | {"source": "elsewhere"}
    sampler = re.sub(r"Optuna [^,]*", "Optuna 99.1", small["sampler"])
    assert sampler != small["sampler"]
    assert budgets(tuned, split=moved, sampler=sampler) == ""


def test_a_budget_may_lack_a_part_of_a_batch(tuned: Tuned) -> None:
    small = json.loads(tuned.small.read_text())
    trials = [one | {"training_tasks": 1} for one in small["trials"]]
    asked = small["training_tasks"]
    tuned.edit(lambda content: content.update(training_tasks=1000 * asked))
    assert budgets(tuned, training_tasks=990 * asked, trials=trials) == ""
    assert "training_tasks" in budgets(tuned, training_tasks=970 * asked, trials=trials)
    assert "training_tasks" in budgets(tuned, training_tasks=1001 * asked, trials=trials)


def test_a_trial_that_does_not_say_what_it_drew(tuned: Tuned) -> None:
    trials = json.loads(tuned.small.read_text())["trials"]
    del trials[1]["training_tasks"]
    told = "binary/jog: trial 1 does not say how many training tasks it drew\n"
    assert budgets(tuned, trials=trials) == told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data_checksum": "abc"}, "has data_checksum abc, but its record says"),
        ({"seed": 5}, "has seed 5, but its record says 0"),
    ],
)
def test_a_small_record_that_is_not_of_its_trials(
    change: dict[str, Any], told: str, tuned: Tuned
) -> None:
    tuned.edit(lambda small: small.update(change))
    assert told in tuned.problems()


def test_training_tasks_and_values_are_those_of_the_trials(tuned: Tuned) -> None:
    last = tuned.tuning.trials[3]

    def changed(small: dict[str, Any]) -> None:
        small["trials"][3]["training_tasks"] += 1
        small["trials"][2]["values"]["rate"] = 77.0

    tuned.edit(changed)
    drawn = drawn_tasks(last.record) if last.record is not None else 0
    assert (
        f"trial 3 has training_tasks {drawn + 1}, but its record says {drawn}" in tuned.problems()
    )
    assert "trial 2 has value rate 77.0, but its record says" in tuned.problems()


def test_trials_that_were_left_out(tuned: Tuned) -> None:
    trials = json.loads(tuned.small.read_text())["trials"]
    told = "binary/jog: has 2 trials of 4, though its search has more values\n"
    assert budgets(tuned, trials=trials[:2]) == told
    assert budgets(tuned, trials=trials[:2], search={"rate": [0.1, 0.5]}) == ""


def test_trials_and_training_tasks_beyond_what_was_allowed(tuned: Tuned) -> None:
    trials = json.loads(tuned.small.read_text())["trials"]
    more = [*trials, {**trials[0], "training_tasks": 10**9}]
    told = budgets(tuned, trials=more)
    assert "binary/jog: has 5 trials, where 4 were allowed" in told
    assert "binary/jog: trial 4 drew 1,000,000,000 training tasks, where" in told


class Project:
    """Configurations of two learners, of which the first was tuned, and their runs."""

    def __init__(self, tuned: Tuned, make_config: Callable[..., RunConfig], folder: Path) -> None:
        self.configs, self.folder, self.make_config = tuned.configs, folder, make_config
        best = yaml.safe_load(tuned.best.read_text())
        self.tuned = {name: best[name] for name in ("rate", "inner_steps")}
        self.defaults = {"rate": 0.3, "inner_steps": 1}
        for name in ("walk", "stroll"):
            content = {"name": name, "_target_": "fake_learners.Walk", **self.defaults}
            (self.configs / "learner" / f"{name}.yaml").write_text(yaml.safe_dump(content))
        other = tuned.best.with_name("stroll.yaml")
        other.write_text(tuned.best.read_text().replace("/walk@", "/stroll@"))

    def ran(self, name: str, **values: float) -> Record:
        config = self.make_config("fake_learners.Walk", learner={"name": name, **values})
        return run(config, self.folder / "results")

    def found(self, *records: Record) -> dict[str, str]:
        """What each learner is told, by its name."""
        return {
            one.what.rpartition("/")[2]: f"{one.result}: {one.problem}".removesuffix(": ")
            for one in check_values(self.configs, records)
        }


@pytest.fixture
def project(tuned: Tuned, make_config: Callable[..., RunConfig], tmp_path: Path) -> Project:
    return Project(tuned, make_config, tmp_path / "project")


def test_runs_with_tuned_values_or_all_with_defaults_hold(project: Project) -> None:
    for values in (project.tuned, project.defaults):
        runs = [project.ran(name, **values) for name in ("walk", "stroll")]
        assert project.found(*runs) == {"walk": "holds", "stroll": "holds"}


def test_a_run_whose_name_no_configuration_has_is_left_open(project: Project) -> None:
    record = project.ran("walk_best_on_test", **project.tuned)
    (told,) = project.found(record).values()
    assert told.startswith("open: no configuration has this name")


def test_a_run_with_values_that_are_neither_tuned_nor_defaults_is_left_open(
    project: Project,
) -> None:
    record = project.ran("walk", **project.tuned | {"rate": 0.77})
    told = f"open: ran with rate=0.77, not {project.tuned['rate']}"
    assert project.found(record) == {"walk": told}


def test_defaults_beside_values_that_were_tuned_are_left_open(project: Project) -> None:
    runs = project.ran("walk", **project.tuned), project.ran("stroll", **project.defaults)
    told = "open: ran with its defaults, where others have values that were tuned"
    assert project.found(*runs) == {"walk": "holds", "stroll": told}


def test_another_class_under_the_name_of_a_learner_is_left_open(project: Project) -> None:
    record = project.ran("walk", **project.tuned)
    learner = replace(record.config.learner, target="metarec.baselines.Random")
    other = replace(record, config=replace(record.config, learner=learner))
    told = "open: ran with _target_=metarec.baselines.Random, not fake_learners.Walk"
    assert project.found(other) == {"walk": told}


@pytest.mark.parametrize("file", sorted(LEARNERS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_the_values_of_every_configuration_can_be_read(file: Path) -> None:
    values = _written(file, LEARNERS)
    assert values["_target_"].startswith("metarec.")
    assert "defaults" not in values


def test_trials_may_have_any_values(tuned: Tuned) -> None:
    assert list(check_values(tuned.configs, list(tuned.trials.values()))) == []


def test_trials_that_are_not_at_hand_are_left_open(tuned: Tuned) -> None:
    name = next(iter(tuned.trials))
    some = {key: record for key, record in tuned.trials.items() if key != name}
    (one,) = check_tunings(tuned.paper, tuned.configs, some)
    assert one.result == "open"
    assert one.problem == "1 of 4 trials are not in the folders given"
