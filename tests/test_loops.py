"""The course of an outer loop: when it looks, what it keeps, where it goes on, when it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler
from metarec.errors import LearnerError
from metarec.learner import MetaParameters, Training
from metarec.loops import Course, OuterLoop
from metarec.runs.resume import Checkpointer
from metarec.splits import Split

INITIAL = {"weight": np.zeros(2, np.float32)}
SETTINGS = OuterLoop(steps=6, validate_every=2, patience=2)


@pytest.fixture
def training(tiny_dataset: Dataset) -> Callable[..., Training]:
    sampler = EpisodeSampler(Split.by_seed(tiny_dataset, 0), "user", k_shot=(0, 2), query_size=4)
    none = np.zeros(0, np.int32)

    def make(**settings: Any) -> Training:
        labels = np.zeros(0, np.float32)
        return Training(
            "user", "rating", none, none, labels, 1, 1, none, (), None, sampler, **settings
        )

    return make


def follow(training: Training, stop: int | None = None) -> Course:
    """An outer loop whose weight is the number of steps taken; interrupted before step `stop`."""
    course = Course(INITIAL, training, SETTINGS, {"inputs.mean": np.ones(1)}, "test")
    if course.optimizer is None:
        course.look(0, INITIAL, dict)
    for step in course.steps():
        if step == stop:
            break
        course.saw(step, float(step))
        if course.due(step + 1):
            course.look(step + 1, {"weight": np.full(2, step + 1, np.float32)}, dict)
    return course


def valued(*values: float) -> Callable[[MetaParameters], float]:
    """Validation that gives these values, whatever it looks at."""
    left = iter(values)
    return lambda meta_parameters: next(left)


def test_it_looks_before_the_first_step_and_every_so_often(
    training: Callable[..., Training],
) -> None:
    made = training(validate=valued(0.1, 0.2, 0.3, 0.4))
    best = follow(made).best
    assert made.log == [
        {"step": 0, "validation": 0.1},
        {"step": 2, "loss": 0.5, "validation": 0.2},
        {"step": 4, "loss": 2.5, "validation": 0.3},
        {"step": 6, "loss": 4.5, "validation": 0.4},
    ]
    assert best["weight"].tolist() == [6, 6]
    assert best["inputs.mean"].tolist() == [1]


def test_the_best_look_counts_and_patience_ends_the_loop(training: Callable[..., Training]) -> None:
    made = training(validate=valued(0.1, 0.3, 0.3, 0.2))
    best = follow(made).best
    assert best["weight"].tolist() == [2, 2]
    assert [entry["step"] for entry in made.log] == [0, 2, 4, 6]
    made = training(validate=valued(0.3, 0.1, 0.2))
    assert follow(made).best["weight"].tolist() == [0, 0]
    assert [entry["step"] for entry in made.log] == [0, 2, 4]


def test_without_validation_the_last_counts(training: Callable[..., Training]) -> None:
    assert follow(training()).best["weight"].tolist() == [6, 6]


@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_an_interrupted_loop_has_the_log_of_an_uninterrupted_one(
    training: Callable[..., Training], tmp_path: Path, stop: int
) -> None:
    values = (0.1, 0.3, 0.2, 0.4)
    whole = training(validate=valued(*values))
    expected = follow(whole).best
    keeper = Checkpointer(tmp_path)
    follow(training(validate=valued(*values), checkpointer=keeper), stop)
    resumed = training(validate=valued(*values[stop // 2 + 1 :]), checkpointer=keeper)
    found = follow(resumed).best
    assert resumed.log == whole.log
    assert found["weight"].tolist() == expected["weight"].tolist()


def test_a_loss_that_is_not_finite_names_the_step_and_what_to_lower(
    training: Callable[..., Training],
) -> None:
    course = Course(INITIAL, training(), SETTINGS, {}, "MAML")
    with pytest.raises(LearnerError, match=r"MAML: the loss is nan at step 3; lower learner\."):
        course.saw(3, float("nan"))
