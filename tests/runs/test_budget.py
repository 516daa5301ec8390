from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metarec.errors import ConfigError
from metarec.runs import RunConfig, run
from metarec.runs.budget import drawn_tasks, training_tasks, with_training_tasks

Make = Callable[..., RunConfig]


@pytest.mark.parametrize(
    ("name", "arguments", "given", "steps"),
    [
        ("maml.MAML", {"steps": 7}, 320, {"steps": 10}),
        # its head has batches of the episodes, its BERT of its own
        ("bert_maml.BertMAML", {"steps": 12, "head_steps": 9}, 320, {"head_steps": 7}),
        ("bert_maml.BertMAML", {"reads": "cross", "head_steps": 0}, 320, {"steps": 40}),
    ],
)
def test_a_learner_with_batches_of_its_own_has_as_many_tasks_as_the_others(
    name: str, arguments: dict[str, Any], given: int, steps: dict[str, int], make_config: Make
) -> None:
    config = make_config(
        f"metarec.torch.{name}",
        arguments={"name": "x", **arguments},
        episode={"task_batch": 32},
    )
    found = with_training_tasks(config, given)
    assert found.learner.arguments == config.learner.arguments | steps
    assert training_tasks(found) == given


def test_the_steps_of_a_bert_that_leave_nothing_for_its_head_are_an_error(
    make_config: Make,
) -> None:
    config = make_config("metarec.torch.bert_maml.BertMAML", arguments={"name": "x"})
    with pytest.raises(ConfigError, match=r"=800: x takes .* after the 800 of learner\.steps=100"):
        with_training_tasks(config, 800)


@pytest.mark.parametrize(
    ("given", "drawn", "warm", "steps"),
    [
        # as configured
        (28 * 8, 28 * 8, 20, 8),
        (7 * 8, 7 * 8, 5, 2),
        # what is left of the budget makes no batch
        (7 * 8 + 5, 7 * 8, 5, 2),
        (70 * 8, 70 * 8, 50, 20),
        # both phases have a step
        (2 * 8, 2 * 8, 1, 1),
    ],
)
def test_two_phases_keep_their_proportion_and_fit_into_the_budget(
    given: int, drawn: int, warm: int, steps: int, make_config: Make
) -> None:
    config = two_phases(make_config, warm_steps=20, steps=8)
    found = with_training_tasks(config, given)
    changed = {"warm_steps": warm, "steps": steps}
    assert found.learner.arguments == config.learner.arguments | changed
    assert training_tasks(found) == drawn


def test_a_phase_that_is_left_out_stays_out(make_config: Make) -> None:
    config = two_phases(make_config, warm_steps=20, steps=0)
    found = with_training_tasks(config, 7 * 8).learner.arguments
    assert (found["warm_steps"], found["steps"]) == (7, 0)
    config = two_phases(make_config, warm_steps=0, steps=8)
    found = with_training_tasks(config, 7 * 8).learner.arguments
    assert (found["warm_steps"], found["steps"]) == (0, 7)


def test_a_budget_without_a_batch_for_each_of_two_phases_is_an_error(make_config: Make) -> None:
    config = two_phases(make_config, warm_steps=20, steps=8)
    with pytest.raises(ConfigError, match=r"=15: x takes batches of 8 tasks.*choose 16 or more"):
        with_training_tasks(config, 15)


def two_phases(make_config: Make, **steps: int) -> RunConfig:
    """A learner of two members, each with batches of four."""
    arguments = {"name": "x", "members": 2, "task_batch": 4, **steps}
    return make_config("metarec.torch.hybrid.Hybrid", arguments=arguments)


def test_a_learner_that_is_not_trained_has_no_training_tasks(make_config: Make) -> None:
    config = make_config("metarec.baselines.popularity.Popularity", arguments={"name": "x"})
    assert training_tasks(config) == 0
    assert with_training_tasks(config, 48) is config


def test_a_learner_without_steps_cannot_be_held_to_a_budget(make_config: Make) -> None:
    config = make_config("Telling", arguments={"mebibytes": 1})
    with pytest.raises(
        ConfigError, match=r"'telling' has no argument 'steps'.*training_tasks=null"
    ):
        with_training_tasks(config, 24)


def test_the_tasks_that_were_drawn_are_counted_up_to_the_last_look(
    make_config: Make, tmp_path: Path
) -> None:
    record = run(make_config(), tmp_path)
    # its log counts steps from 0
    assert drawn_tasks(record) == 5 * 4
    config = make_config("metarec.baselines.popularity.Popularity", arguments={"name": "x"})
    assert drawn_tasks(run(config, tmp_path)) == 0
