"""Every configuration under configs/ composes, is valid, and makes its learner."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from metarec.data.registry import DATASETS
from metarec.errors import ConfigError
from metarec.runs import RunConfig
from metarec.runs.learners import build_learner, learner_class

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
OF_SCRIPTS = ("results", "progress", "plan", "tuning", "speed")


def name_of(file: Path) -> str:
    return file.relative_to(CONFIGS).with_suffix("").as_posix()


def of_group(group: str) -> list[str]:
    return [name_of(file).partition("/")[2] for file in FILES if file.parts[-2] == group]


@contextmanager
def composing() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def composed(*overrides: str) -> dict[str, Any]:
    with composing():
        values: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return {key: value for key, value in values.items() if key not in OF_SCRIPTS}


def overrides_for(file: Path) -> list[str]:
    """What selects a file in the configuration of a run."""
    group, _, choice = name_of(file).partition("/")
    learner = [] if group == "learner" else ["learner=popularity"]
    return learner if not choice else [*learner, f"{group}={choice}"]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_configuration_makes_a_run_with_its_learner(file: Path) -> None:
    config = RunConfig.from_dict(composed(*overrides_for(file)))
    assert RunConfig.from_dict(config.to_dict()) == config
    if name_of(file) == "backend/jax":
        jax = RunConfig.from_dict(composed("backend=jax", "learner=maml"))
        with pytest.raises(ConfigError, match="choose backend=torch"):
            build_learner(jax)
    learner = build_learner(config)
    assert config.episode.task in learner.serves or "item" in name_of(file)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_configuration_opens_with_what_it_is_and_the_command_that_runs_it(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    if lines[0] == "# @package _global_":
        lines = lines[1:]
    header = lines[: next(at for at, line in enumerate(lines) if not line.startswith("#"))]
    assert re.fullmatch(r"# \S.{20,}[.:]", header[0])
    assert any(re.match(r"#   (python|make) ", line) for line in header)
    assert header[-1].endswith(".") or "json" in header[-1]


@pytest.mark.parametrize("name", of_group("learner"))
def test_the_values_of_a_learner_are_the_defaults_of_its_class(name: str) -> None:
    if name in ("maml_learn2learn", "prototypical_no_projection"):
        pytest.skip("differs from its class on purpose")
    config = RunConfig.from_dict(composed(f"learner={name}"))
    assert config.learner.name == name
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(learner_class(config)).parameters.items()
        if key != "device"
    }
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.learner.arguments.items()
    }
    assert given == defaults


@pytest.mark.parametrize("name", of_group("learner"))
def test_every_value_that_is_searched_makes_a_learner(name: str) -> None:
    values = composed(f"learner={name}")
    for argument, options in (values["learner"]["search"] or {}).items():
        assert values["learner"][argument] in options, argument
        for option in options:
            one = values | {"learner": values["learner"] | {argument: option}}
            build_learner(RunConfig.from_dict(one))


def test_the_references_and_ablations_differ_where_they_say() -> None:
    learners = {
        name: RunConfig.from_dict(composed(f"learner={name}")).learner
        for name in ("maml_learn2learn", "prototypical", "prototypical_no_projection")
    }
    assert learners["maml_learn2learn"].arguments["engine"] == "learn2learn"
    meta_trained, none = (
        dict(learners[name].arguments) for name in ("prototypical", "prototypical_no_projection")
    )
    assert none.pop("projection") == "none" != meta_trained.pop("projection")
    assert none == meta_trained
    assert all(not learners[name].search for name in learners if name != "prototypical")


def test_the_reference_takes_the_values_that_were_tuned_for_maml() -> None:
    tuned = "best/binary/maml"
    if not (CONFIGS / "learner" / f"{tuned}.yaml").exists():
        tuned = "maml"
    maml, reference = (
        dict(RunConfig.from_dict(composed(f"learner={name}")).learner.arguments)
        for name in (tuned, "maml_learn2learn")
    )
    assert maml.pop("engine") != reference.pop("engine")
    assert maml == reference


def test_transfer_and_maml_have_the_same_scorer_steps_and_search() -> None:
    maml, transfer = (
        RunConfig.from_dict(composed(f"learner={name}")).learner for name in ("maml", "transfer")
    )
    for name in ("hidden_sizes", "steps", "learning_rate", "weight_decay", "outer_loss"):
        assert maml.arguments[name] == transfer.arguments[name]
    assert list(maml.search.values()) == list(transfer.search.values())


def test_every_data_set_has_a_configuration_under_its_name() -> None:
    assert set(of_group("data")) == set(DATASETS)
    for name in DATASETS:
        assert composed(f"data={name}", "learner=popularity")["data"]["name"] == name


def test_the_plan_of_the_paper_names_every_learner_once_and_what_it_needs() -> None:
    with composing():
        plan = OmegaConf.to_container(compose("config", ["experiment=paper"])).get("plan")
    named = [*plan["learners"], *plan["groups"]["reference"]["learners"]]
    assert sorted(named) == sorted(of_group("learner"))
    assert plan["seeds"] == [0, 1, 2]
    for group in plan["groups"].values():
        assert group["episode"] in of_group("episode")
