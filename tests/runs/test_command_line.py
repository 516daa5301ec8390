from __future__ import annotations

import sys

import pytest

from metarec.errors import ConfigError, RunError
from metarec.runs.command_line import check_keys, lenient, run_script, with_choice

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


def test_a_key_that_a_section_does_not_have_is_named_with_the_nearest() -> None:
    known = ("learners", "seeds", "values")
    fine = ["++plan.seeds=[0]", "++plan.values.steps=2", "++plans=1", "learner=x", "-m", "~plan"]
    check_keys(fine, "plan", known)
    with pytest.raises(ConfigError, match=r"'plan\.larners'; did you mean 'learners'"):
        check_keys([*fine, "++plan.larners=[ease]"], "plan", known)


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (KeyboardInterrupt(), 130, "the same call goes on"),
        (RunError("no record"), "error: no record", ""),
        (LookupError("no config"), "error: no config", ""),
    ],
)
def test_how_a_script_ends(
    raised: BaseException, status: object, told: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["script", "a=1"])

    def main(arguments: list[str]) -> int:
        assert arguments == ["a=1"]
        raise raised

    with pytest.raises(SystemExit) as end:
        run_script(main, LookupError)
    assert end.value.code == status
    assert told in capsys.readouterr().err


def test_an_error_that_nobody_expects_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script"])

    def main(arguments: list[str]) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_script(main, LookupError)
