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
