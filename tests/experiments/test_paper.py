from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from metarec.audit.tables import check_tables
from metarec.baselines.random import Random
from metarec.errors import LearnerError
from metarec.runs import load_records

Script = Callable[..., int]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Experiments that make the main table of a data set: to its folder in the paper, and to what makes
# the tiny data set take its place.
OF_ONE_DATA_SET = {
    "main_ml_latest_small": ("ml-latest-small", ()),
    "main_ml_1m": ("ml-1m", ()),
    "main_online_retail": ("online-retail", ("data.options.rating=null",)),
}


@pytest.fixture
def paper(script: Script, tmp_path: Path) -> Script:
    """`experiments/paper.py` with three quick learners and one seed."""

    def call(*overrides: str) -> int:
        return script(
            "paper",
            "plan.workers=1",
            "plan.seeds=[0]",
            "plan.learners=[popularity,item_mean,als]",
            "plan.groups.reference.learners=[random]",
            "plan.groups.jax=null",
            f"plan.paper={tmp_path / 'paper'}",
            "plan.configs=null",
            *overrides,
        )

    return call


@pytest.fixture
def family(script: Script, tmp_path: Path) -> Script:
    """`experiments/paper.py experiment=paper_full` with a fake that trains, and one that fails."""
    for name, target in (("walk", "Walk"), ("broken", "Broken")):
        file = tmp_path / "more" / "learner" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"name: {name}\n_target_: fake_learners.{target}\nsearch: {{}}\n")

    def call(*overrides: str) -> int:
        return script(
            "paper",
            "experiment=paper_full",
            f"hydra.searchpath=[file://{tmp_path / 'more'}]",
            "plan.workers=1",
            "plan.seeds=[0,1]",
            "plan.learners=[popularity,walk]",
            "plan.groups.scorers=null",
            "evaluation.k_curve=[]",
            f"plan.paper={tmp_path / 'paper'}",
            "plan.configs=null",
            *overrides,
        )

    return call


def test_the_paper_runs_everything_and_makes_its_tables(
    paper: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paper("plan.groups.reference.needs=null") == 0
    runs = {
        (record.learner, record.config.episode.task, record.config.episode.feedback)
        for record in load_records(tmp_path / "results", "paper")
    }
    # ALS takes no ratings, and is left out there
    assert runs == {
        *((name, "user", "binary") for name in ("popularity", "item_mean", "als", "random")),
        *((name, "user", "rating") for name in ("popularity", "item_mean")),
        *((name, "item", "binary") for name in ("popularity", "item_mean", "als")),
    }
    for name in ("main", "rated", "item_tasks"):
        assert (tmp_path / "paper" / "tables" / f"{name}.tex").stat().st_size > 0
    assert (tmp_path / "paper" / "figures" / "k_shot.pdf").stat().st_size > 0
    output = capsys.readouterr().out
    assert "9 runs finished, 0 failed" in output
    assert "Popularity" in output


def test_a_second_call_runs_nothing_again_and_makes_the_same_tables(
    paper: Script, tmp_path: Path
) -> None:
    only_main = [f"plan.groups.{group}=null" for group in ("reference", "rated", "item_tasks")]
    assert paper(*only_main) == 0
    table = (tmp_path / "paper" / "tables" / "main.tex").read_bytes()
    files = list((tmp_path / "results").rglob("record.json"))
    times = [file.stat().st_mtime_ns for file in files]
    assert paper(*only_main) == 0
    assert [file.stat().st_mtime_ns for file in files] == times
    assert (tmp_path / "paper" / "tables" / "main.tex").read_bytes() == table


def test_a_group_with_a_backend_runs_under_names_of_its_own(paper: Script, tmp_path: Path) -> None:
    others = [f"plan.groups.{group}=null" for group in ("main", "reference", "rated", "item_tasks")]
    only = ["plan.groups.jax={episode:binary,learners:[popularity],backend:jax}"]
    assert paper(*others, *only) == 0
    (record,) = load_records(tmp_path / "results", "paper")
    assert (record.learner, record.config.backend.name) == ("popularity_jax", "jax")
    assert "Popularity, JAX" in (tmp_path / "paper" / "tables" / "main.md").read_text()


@pytest.fixture
def broken_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner `random` fails to fit."""

    def fit(self: Random, training: object) -> None:
        raise LearnerError("out of luck")

    monkeypatch.setattr(Random, "fit", fit)


@pytest.mark.usefixtures("broken_random")
def test_what_a_missing_library_makes_fail_is_left_out_and_its_row_says_so(
    paper: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paper("plan.learners=[popularity]", "plan.groups.reference.needs=not_there") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "left out: reference: random, seed 0, for want of not_there" in output
    assert "0 failed" in output
    table = (tmp_path / "paper" / "tables" / "main.md").read_text()
    assert "Random (failed)" in table
    assert "LearnerError: out of luck" in table


@pytest.mark.usefixtures("broken_random")
def test_a_failed_run_is_told_at_the_end_and_the_tables_are_made(
    paper: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = paper("plan.groups.reference.needs=null", "plan.groups.item_tasks=null")
    assert status == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("5 runs finished, 1 failed" in line for line in lines)
    assert lines[-1] == "failed reference: random, seed 0: LearnerError: out of luck"
    assert "out of luck" in (tmp_path / "paper" / "tables" / "main.tex").read_text()
    failed = [one for one in load_records(tmp_path / "results") if one.status == "failed"]
    assert [one.error for one in failed] == ["LearnerError: out of luck"]


def test_runs_at_the_same_time_have_the_results_of_runs_one_after_another(
    paper: Script, tmp_path: Path
) -> None:
    only = [f"plan.groups.{group}=null" for group in ("reference", "rated", "item_tasks")]
    assert paper(*only, "plan.learners=[popularity,als]") == 0
    parallel = ["plan.workers=2", f"results={tmp_path / 'parallel'}"]
    assert paper(*only, "plan.learners=[popularity,als]", *parallel) == 0
    alone, together = load_records(tmp_path / "results"), load_records(tmp_path / "parallel")
    assert [one.metrics for one in alone] == [one.metrics for one in together]
    assert len(alone) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.groups.main.episodes=[]", "plan.groups.main.episodes"),
        ("plan.learners=[populrity]", "learner/populrity"),
        ("episode.kshot=3", "did you mean 'k_shot'"),
        ("experiment=speed", "choose paper or paper_full"),
    ],
)
def test_a_wrong_plan_ends_before_anything_runs(
    paper: Script,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    message: str,
) -> None:
    assert paper("plan.groups.reference.needs=null", override) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_the_family_has_tables_of_its_own_and_a_learner_that_fails_keeps_a_row(
    family: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert family("plan.learners=[popularity,walk,broken]") == 1
    records = load_records(tmp_path / "results")
    assert {record.path.parent.name for record in records} == {"paper_full"}
    assert sum(record.status == "finished" for record in records) == 2 * 2 * 2
    names = {file.stem for file in (tmp_path / "paper").rglob("*.md")}
    tables = {"family", "family_items", "family_items_auc"}
    differences = (f"{table}_differences" for table in tables)
    assert names == {*tables, *differences, "adaptation", "family_cost"}
    assert (tmp_path / "paper/figures/training.pdf").stat().st_size > 0
    table = (tmp_path / "paper/tables/family.md").read_text()
    for text in ("Popularity", "Walk, 0 steps", "Broken (failed)", "the loss is NaN at step 3"):
        assert text in table
    assert r"python -m metarec.report results/paper\_full --tables family" in table
    output = capsys.readouterr().out
    # 12 runs of 50 seconds, as the plan says
    assert "12 runs, 1 at a time: some 10 min if none is finished" in output


def test_the_family_has_no_curve_for_users_and_keeps_that_of_items(
    family: Script, tmp_path: Path
) -> None:
    assert family() == 0
    for record in load_records(tmp_path / "results", "paper_full"):
        frame = record.per_task
        of_items = record.config.episode.task == "item"
        assert ("curve" in set(frame["evaluation"])) == of_items
        parts = frame.loc[frame["evaluation"] == "main", ["part", "regime"]].drop_duplicates()
        assert len(parts) == (2 if of_items else 2 * 4)


def test_the_family_takes_over_what_the_paper_has_run(
    paper: Script, family: Script, tmp_path: Path
) -> None:
    only = ["plan.groups.reference=null", "plan.groups.rated=null", "plan.learners=[popularity]"]
    assert paper(*only) == 0
    of_paper = {one.path.name: one for one in load_records(tmp_path / "results", "paper")}
    assert family("plan.learners=[popularity]") == 0
    of_family = {one.path.name: one for one in load_records(tmp_path / "results", "paper_full")}
    # seed 0 of user tasks and of item tasks; seed 1 is run
    assert len(of_paper.keys() & of_family.keys()) == 2
    assert len(of_family) == 4
    for name in of_paper.keys() & of_family.keys():
        assert of_family[name].content == of_paper[name].content
        assert of_family[name].per_task.equals(of_paper[name].per_task)
    # and not again
    times = {one.path: one.path.joinpath("record.json").stat().st_mtime_ns for one in
             of_family.values()}  # fmt: skip
    assert family("plan.learners=[popularity]") == 0
    again = load_records(tmp_path / "results", "paper_full")
    assert {one.path: one.path.joinpath("record.json").stat().st_mtime_ns for one in again} == times


def test_what_two_groups_name_is_run_once(family: Script, tmp_path: Path) -> None:
    scorers = "plan.groups.scorers={episode:binary,learners:[popularity,als]}"
    assert family(scorers, "plan.groups.family_items=null", "plan.learners=[popularity]") == 0
    names = [one.learner for one in load_records(tmp_path / "results", "paper_full")]
    assert sorted(names) == ["als", "als", "popularity", "popularity"]


def test_the_headers_of_the_learners_say_what_was_measured(paper: Script, tmp_path: Path) -> None:
    learners = tmp_path / "configs" / "learner"
    learners.mkdir(parents=True)
    (learners / "als.yaml").write_text("# ALS.\n# Measured: not yet.\nname: als\n")
    only = [f"plan.groups.{group}=null" for group in ("reference", "rated", "item_tasks")]
    assert paper(*only, f"plan.configs={tmp_path / 'configs'}") == 0
    (measured,) = [one for one in load_records(tmp_path / "results") if one.learner == "als"]
    value = measured.metrics["test"]["user_cold"]["catalogue/ndcg@10"]
    assert (
        f"nDCG@10 user_cold {f'{value:.3f}'.lstrip('0')}, " in (learners / "als.yaml").read_text()
    )


@pytest.mark.parametrize("experiment", OF_ONE_DATA_SET)
def test_the_main_table_of_a_data_set_stands_beside_that_of_the_paper_and_can_be_made_again(
    script: Script, tmp_path: Path, experiment: str
) -> None:
    folder, instead = OF_ONE_DATA_SET[experiment]
    quick = ["plan.workers=1", "plan.seeds=[0,1]", "plan.learners=[popularity,item_mean,als]"]
    assert script("paper", f"experiment={experiment}", *quick, *instead) == 0
    records = load_records(tmp_path / "results", experiment)
    implicit = experiment == "main_online_retail"
    assert {(record.learner, record.config.episode.feedback) for record in records} == {
        (name, "implicit" if implicit else "binary")
        for name in ("popularity", "als", *(() if implicit else ("item_mean",)))
    }
    assert {record.config.episode.task for record in records} == {"user"}
    paper = tmp_path / "paper"
    assert [one.name for one in paper.iterdir()] == [folder]
    small = json.loads((paper / folder / "records" / "main.json").read_text())
    (source,) = small["sources"]
    assert source["command"] == f"python -m metarec.report results/{experiment}"
    findings = list(check_tables(paper / folder, records))
    assert {one.what for one in findings} >= {"main.md", "main.tex", "main.json", "k_shot.json"}
    assert {one.result for one in findings} == {"holds"}


@pytest.mark.parametrize("experiment", OF_ONE_DATA_SET)
def test_the_plans_of_one_data_set_have_the_keys_and_learners_of_the_paper(
    experiment: str,
) -> None:
    paper, other = (
        OmegaConf.load(CONFIGS / "experiment" / f"{name}.yaml") for name in ("paper", experiment)
    )
    assert other.experiment == experiment
    assert other.plan.keys() == paper.plan.keys()
    own = [name for name in paper.plan.learners if name != "prototypical_no_projection"]
    own += ["maml_plus_plus", "r2d2", "tanp", "dropoutnet", "cvar", "mwuf"]
    # its setting was chosen on MovieLens-1M
    assert other.plan.learners == [*own, *(["hybrid"] if experiment != "main_ml_1m" else [])]
    # more where a regime has few tasks
    few = experiment == "main_ml_latest_small"
    assert other.plan.seeds == list(range(6 if few else 5))
    assert other.plan.paper == f"{paper.plan.paper}/{OF_ONE_DATA_SET[experiment][0]}"
    # what headers say was measured is of the data that the values were tuned on
    assert other.plan.configs is None
    assert list(other.plan.groups) == ["main"]
