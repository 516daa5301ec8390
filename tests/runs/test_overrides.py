from __future__ import annotations

import pytest

from metarec.runs.overrides import lenient, with_choice

GROUPS = ("learner", "data", "experiment")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("seed=1", "++seed=1"),
        ("sed=1,2", "++sed=1,2"),
        ("learner.inner_steps=5", "++learner.inner_steps=5"),
        ("data.options.items=a=b.csv", "++data.options.items=a=b.csv"),
        ("learner=maml", "learner=maml"),
        ("hydra.job.chdir=true", "hydra.job.chdir=true"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib"),
        ("+new=1", "+new=1"),
        ("~data", "~data"),
        ("-m", "-m"),
        ("--config-dir=x", "--config-dir=x"),
    ],
)
def test_values_may_be_new_and_choices_and_options_stay(given: str, expected: str) -> None:
    assert lenient([given], GROUPS) == [expected]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ["experiment=x"]),
        (["-m", "a=1", "b=2"], ["-m", "experiment=x", "a=1", "b=2"]),
        (["a=1", "-m"], ["experiment=x", "a=1", "-m"]),
        (["--config-dir=x"], ["--config-dir=x", "experiment=x"]),
    ],
)
def test_a_choice_stands_beside_the_other_overrides(given: list[str], expected: list[str]) -> None:
    assert with_choice("experiment=x", given) == expected
