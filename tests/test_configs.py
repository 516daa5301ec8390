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
from metarec.runs.budget import training_tasks, with_training_tasks
from metarec.runs.learners import build_learner, learner_class, serves
from metarec.runs.search import domain_of
from metarec.runs.tuning import TuningSettings

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
TUNED = {
    file.relative_to(CONFIGS / "learner").with_suffix("").as_posix()
    for file in FILES
    if "best" in file.parts
}
OF_SCRIPTS = ("results", "progress", "plan", "tuning", "speed")

# Configurations of a class that another one describes: name to the other, and what they change of
# it; `...` is any other value.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "item_mean_unshrunk": ("item_mean", {"shrinkage": 0.0, "task_shrinkage": 0.0}),
    "maml_learn2learn": ("maml", {"engine": "learn2learn"}),
    "fomaml": ("maml", {"first_order": True}),
    "maml_item_only": ("maml", {"scorer": "mlp_item"}),
    "maml_cosine": ("maml", {"scorer": "cosine", "inner_learning_rate": ...}),
    "maml_dot": ("maml", {"scorer": "dot", "inner_learning_rate": ...}),
    "maml_bilinear": ("maml", {"scorer": "bilinear", "inner_learning_rate": ...}),
    "maml_fusion_fixed": ("maml", {"scorer": "fusion_fixed"}),
    "maml_fusion_learned": ("maml", {"scorer": "fusion_learned"}),
    "maml_fusion_attention": ("maml", {"scorer": "fusion_attention"}),
    "maml_collaborative": ("maml", {"representation": "collaborative"}),
    "maml_both": ("maml", {"representation": "both"}),
    "transfer_collaborative": ("transfer", {"representation": "collaborative"}),
    "r2d2_collaborative": ("r2d2", {"representation": "collaborative"}),
    "transfer_both": ("transfer", {"representation": "both"}),
    "r2d2_both": ("r2d2", {"representation": "both"}),
    "bert_maml_cross": ("bert_maml", {"reads": "cross", "head_steps": 0}),
    "bert_transfer_cross": ("bert_transfer", {"reads": "cross", "head_steps": 0}),
    "prototypical_multiple": ("prototypical", {"prototypes": ...}),
    "prototypical_no_projection": ("prototypical", {"projection": "none"}),
}
# It takes the values that were tuned for the other.
TUNED_BY_ANOTHER = ("maml_learn2learn",)
NOTHING_TO_TUNE = ("random", "item_mean_unshrunk")
# Whose BERT is transformers', with peft's parts.
IN_PYTORCH_ONLY = ("bert_maml", "bert_maml_cross", "bert_transfer", "bert_transfer_cross")


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
    if "episode=item" in file.read_text(encoding="utf-8") and group == "learner":
        # of item tasks only, as its command says
        learner = ["episode=item"]
    return learner if not choice else [*learner, f"{group}={choice}"]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_configuration_makes_a_run_with_its_learner(file: Path) -> None:
    config = RunConfig.from_dict(composed(*overrides_for(file)))
    assert RunConfig.from_dict(config.to_dict()) == config
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
    if name in VARIANTS:
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
def test_a_learner_is_asked_for_in_the_same_way_whatever_computes_it(name: str) -> None:
    if name in IN_PYTORCH_ONLY:
        with pytest.raises(ConfigError, match=rf"no learner '{name}' in JAX.*backend=torch"):
            learner_class(RunConfig.from_dict(composed(f"learner={name}", "backend=jax")))
        return
    one, other = (
        learner_class(RunConfig.from_dict(composed(f"learner={name}", f"backend={backend}")))
        for backend in ("torch", "jax")
    )
    assert one.__name__ == other.__name__
    assert inspect.signature(one) == inspect.signature(other)
    for attribute in ("serves", "accepts", "needs_features", "trained"):
        assert getattr(one, attribute) == getattr(other, attribute)
    assert getattr(one, "adaptation", None) == getattr(other, "adaptation", None)


@pytest.mark.parametrize("name", of_group("learner"))
def test_every_value_that_is_searched_makes_a_learner(name: str) -> None:
    values = composed(f"learner={name}")
    for argument, options in (values["learner"]["search"] or {}).items():
        domain = domain_of(options, argument)
        assert values["learner"][argument] in domain, argument
        for option in domain.ends:
            one = values | {"learner": values["learner"] | {argument: option}}
            build_learner(RunConfig.from_dict(one))


@pytest.mark.parametrize("file", sorted((CONFIGS / "learner/best").glob("*/*.yaml")), ids=name_of)
def test_a_configuration_that_tuning_wrote_says_on_what(file: Path) -> None:
    kind = file.parent.name
    config = RunConfig.from_dict(composed(f"learner=best/{kind}/{file.stem}"))
    assert config.learner.tuned_on is not None
    assert config.learner.tuned_on[1] == kind
    assert RunConfig.from_dict(composed(f"learner={file.stem}")).learner.tuned_on is None


@pytest.mark.parametrize("name", of_group("learner"))
def test_every_learner_has_something_to_tune_but_no_more_than_the_others(name: str) -> None:
    search = composed(f"learner={name}")["learner"]["search"] or {}
    assert bool(search) == (name not in (*TUNED_BY_ANOTHER, *NOTHING_TO_TUNE))
    # eight trials are few for more
    assert len(search) <= 5


@pytest.mark.parametrize("name", [name for name in of_group("learner") if name != "hybrid"])
def test_the_budget_of_tuning_gives_every_trained_learner_the_same_training_tasks(
    name: str,
) -> None:
    values: Any = OmegaConf.load(CONFIGS / "experiment" / "tuning.yaml")
    settings = TuningSettings.from_dict(values["tuning"])
    config = RunConfig.from_dict(composed(f"learner={name}"))
    assert settings.training_tasks is not None
    tasks = training_tasks(with_training_tasks(config, settings.training_tasks))
    assert tasks == (settings.training_tasks if learner_class(config).trained else 0)
    if name not in IN_PYTORCH_ONLY:
        # the trials are those of the benchmark
        assert with_training_tasks(config, settings.training_tasks) == config


def test_the_hybrid_learner_takes_more_training_tasks_than_tuning_gives() -> None:
    """Tuning shortens both of its phases; its own tables say what it draws."""
    values: Any = OmegaConf.load(CONFIGS / "experiment" / "tuning.yaml")
    budget = TuningSettings.from_dict(values["tuning"]).training_tasks
    config = RunConfig.from_dict(composed("learner=hybrid"))
    assert budget is not None
    assert training_tasks(config) == 2 * 256 * (2000 + 800)
    assert 0 <= budget - training_tasks(with_training_tasks(config, budget)) < 2 * 256


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_from_its_base_only_where_it_says(name: str) -> None:
    base, changes = VARIANTS[name]
    variant = RunConfig.from_dict(composed(f"learner={name}")).learner
    tuned = f"best/binary/{base}"
    given = name in TUNED_BY_ANOTHER and (CONFIGS / "learner" / f"{tuned}.yaml").exists()
    other = RunConfig.from_dict(composed(f"learner={tuned if given else base}")).learner
    assert variant.name == name
    assert variant.target == other.target
    assert variant.arguments.keys() == other.arguments.keys()
    different = {
        key: value for key, value in variant.arguments.items() if value != other.arguments[key]
    }
    assert different.keys() == changes.keys()
    for key, value in changes.items():
        assert value is ... or different[key] == value
    assert bool(variant.search) == (name not in (*TUNED_BY_ANOTHER, *NOTHING_TO_TUNE))


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


def experiment(name: str) -> dict[str, Any]:
    with composing():
        values: Any = OmegaConf.to_container(compose("config", [f"experiment={name}"]))
    return dict(values)


def named_in(plan: dict[str, Any]) -> list[str]:
    """The learners of a plan; those that a group runs on another backend are named elsewhere."""
    own = [group for group in plan["groups"].values() if "backend" not in group]
    return [*plan["learners"], *(name for group in own for name in group.get("learners", []))]


def test_every_learner_is_in_a_plan_of_the_paper_and_in_none_twice() -> None:
    plans = [experiment(name)["plan"] for name in ("paper", "paper_full")]
    named = {name for plan in plans for name in named_in(plan)}
    of_bert = {
        name for group in experiment("what_to_adapt")["plan"]["learners"].values() for name in group
    }
    assert named.isdisjoint(of_bert)
    # what only protocols ask for, and what has an experiment of its own
    others = {*experiment("protocols")["plan"]["learners"], "hybrid"}
    assert named | of_bert | others == set(of_group("learner"))
    for plan in plans:
        assert len(set(named_in(plan))) == len(named_in(plan))
        for group in plan["groups"].values():
            if "backend" in group:
                assert group["backend"] in of_group("backend")
                assert set(group["learners"]) <= set(named_in(plan))
            assert group["episode"] in of_group("episode")
    assert [plan["seeds"] for plan in plans] == [[0, 1, 2], [0, 1, 2, 3, 4, 5]]


def test_both_plans_have_the_same_keys_and_folders_of_their_own() -> None:
    paper, full = experiment("paper"), experiment("paper_full")
    assert paper["plan"].keys() == full["plan"].keys()
    assert (paper["experiment"], full["experiment"]) == ("paper", "paper_full")
    assert full["plan"]["share"] == [paper["experiment"]]


def test_paper_full_measures_what_the_paper_does_but_for_the_curve_of_users() -> None:
    paper, full = (experiment(name)["evaluation"] for name in ("paper", "paper_full"))
    assert full.pop("k_curve") == [] != paper.pop("k_curve")
    assert full == paper


@pytest.mark.parametrize("name", ["paper", "paper_full"])
def test_every_learner_of_a_plan_is_tuned_on_the_binary_and_item_episodes_it_runs_on(
    name: str,
) -> None:
    plan = experiment(name)["plan"]
    for group in plan["groups"].values():
        episode = group["episode"]
        for learner in group.get("learners") or plan["learners"]:
            config = RunConfig.from_dict(composed(f"learner={learner}", f"episode={episode}"))
            untuned = (*TUNED_BY_ANOTHER, *NOTHING_TO_TUNE)
            exempt = learner in untuned or episode == "rating"
            if serves(config) and not exempt:
                assert f"best/{episode}/{learner}" in TUNED, "python experiments/tune.py"


@pytest.mark.parametrize("name", of_group("learner"))
def test_the_readme_says_what_a_learner_serves_and_takes(name: str) -> None:
    found = learner_class(RunConfig.from_dict(composed(f"learner={name}")))
    rows = (CONFIGS.parent / "README.md").read_text(encoding="utf-8").splitlines()
    (row,) = [row for row in rows if row.startswith("| `") and f"`{name}`" in row]
    *_, users, items, feedback = (cell.strip() for cell in row.strip("|").split("|"))
    assert ("user" in found.serves, "item" in found.serves) == (users == "yes", items == "yes")
    every = {"rating", "binary", "implicit"}
    assert found.accepts == (every if feedback == "any" else set(feedback.split(", ")))
