from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from metarec.errors import ConfigError
from metarec.runs import RunConfig
from metarec.runs.learners import build_learner, serves

Make = Callable[..., RunConfig]


def test_arguments_reach_the_class_and_lists_become_tuples(
    make_config: Make, fakes: ModuleType
) -> None:
    learner = build_learner(make_config(arguments={"steps": 2, "rate": [1, [2]]}))
    assert isinstance(learner, fakes.Walk)
    assert learner.steps == 2
    assert learner.rate == (1, (2,))


def test_the_device_is_that_of_the_backend_unless_the_learner_has_one(make_config: Make) -> None:
    assert build_learner(make_config(backend={"device": "cpu"})).device == "cpu"  # type: ignore[attr-defined]
    own = make_config(backend={"device": "cpu"}, arguments={"device": "cuda"})
    assert build_learner(own).device == "cuda"  # type: ignore[attr-defined]


def test_module_and_class_may_be_parted_by_a_colon(make_config: Make, fakes: ModuleType) -> None:
    config = make_config()
    values = config.to_dict()
    values["learner"]["_target_"] = "fake_learners:Walk"
    assert isinstance(build_learner(RunConfig.from_dict(values)), fakes.Walk)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("fake_learners.Wolk", "no class 'Wolk'; did you mean 'Walk'"),
        ("fake_lerners.Walk", "no module 'fake_lerners'"),
        ("metarec.baselines.nothing.Nothing", "no module"),
        ("fake_learners.np", "no class 'np'"),
    ],
)
def test_a_target_that_is_not_there_is_an_error(
    make_config: Make, target: str, message: str
) -> None:
    values = make_config().to_dict()
    values["learner"]["_target_"] = target
    with pytest.raises(ConfigError, match=message):
        build_learner(RunConfig.from_dict(values))


def test_a_module_that_fails_to_import_says_why(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        build_learner(make_config("needs_more.Learner"))


def test_a_class_made_in_a_notebook_is_found(
    make_config: Make, fakes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = ModuleType("notebook_cell")
    notebook.Mine = fakes.Walk  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "notebook_cell", notebook)
    assert isinstance(build_learner(make_config("notebook_cell.Mine")), fakes.Walk)


def test_an_unknown_argument_to_search_is_an_error(make_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"learner\.search\.step: .*did you mean 'steps'"):
        build_learner(make_config(arguments={"search": {"step": [1]}}))


def test_a_learner_that_jax_does_not_have_yet_is_an_error_that_says_so(make_config: Make) -> None:
    config = make_config("metarec.jax.none.None_", backend={"name": "jax"})
    with pytest.raises(ConfigError, match=r"backend=jax.*choose backend=torch"):
        build_learner(config)


def test_what_it_serves_and_takes_is_known_without_making_it(
    make_config: Make, fakes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes.Walk, "accepts", frozenset({"rating"}))
    assert serves(make_config(episode={"feedback": "rating"}))
    assert not serves(make_config())
