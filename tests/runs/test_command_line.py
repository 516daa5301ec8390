from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from metarec.errors import ConfigError, RunError
from metarec.runs.command_line import (
    check_keys,
    checked_plan,
    choice_of,
    lenient,
    overrides_of,
    run_script,
    with_choice,
)

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


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A folder of configuration groups, in which tuning has found values of EASE."""
    for file in ("learner/ease", "learner/best/binary/ease", "learner/best/melu/ease", "data/own"):
        (tmp_path / f"{file}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{file}.yaml").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["seed=1"], ["experiment=sweeps", "++seed=1"]),
        (["experiment=own", "data=own"], ["experiment=own", "data=own"]),
    ],
)
def test_a_script_has_an_experiment_of_its_own(
    given: list[str], expected: list[str], configs: Path
) -> None:
    (configs / "experiment").mkdir()
    assert overrides_of(given, configs, "sweeps") == expected


@pytest.mark.parametrize(
    ("learner", "kinds", "expected"),
    [
        ("ease", "binary", "learner=best/binary/ease"),
        ("ease", "item", "learner=ease"),
        ("ease", ["melu", "binary"], "learner=best/melu/ease"),
        ("ease", ["tanp", "binary"], "learner=best/binary/ease"),
        ("maml", ["melu", "binary"], "learner=maml"),
    ],
)
def test_a_learner_has_its_tuned_values_where_there_are_any(
    learner: str, kinds: str | list[str], expected: str, configs: Path
) -> None:
    assert choice_of(learner, kinds, configs) == expected


def composed(*overrides: str) -> dict[str, Any]:
    """What Hydra would make of a YAML with `plan.seeds` and of overrides such as `++plan.a=1`."""
    plan: dict[str, Any] = {"seeds": [0]}
    for override in overrides:
        key, _, value = override.removeprefix("++plan.").partition("=")
        plan[key] = value
    return {"experiment": "sweeps", "plan": plan}


def test_the_plan_of_a_script_is_checked() -> None:
    assert checked_plan(composed, ["++plan.seeds=1"], ["seeds"], "has none")["plan"] == {
        "seeds": "1"
    }
    with pytest.raises(ConfigError, match=r"unknown key 'plan\.seed'; did you mean 'seeds'"):
        checked_plan(composed, ["++plan.seed=1"], ["seeds"], "has none")
    with pytest.raises(ConfigError, match=r"experiment=sweeps has no tables; choose paper"):
        checked_plan(composed, [], ["tables"], "has no tables; choose paper")


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


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_what_the_script_says_of_itself(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(arguments: list[str]) -> int:
        raise AssertionError(arguments)

    monkeypatch.setattr(sys, "argv", ["script.py", "learner=maml", option])
    monkeypatch.setattr(sys.modules[__name__], "__doc__", "One run.\n\n    python script.py\n")
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("One run.\n\n    python script.py\n\nSettings are")
