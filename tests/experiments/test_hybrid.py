"""`experiments/hybrid.py` from end to end: blocks, the chosen setting, the test, the tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from small_checkpoint import small_encoder

from metarec.data.dataset import Dataset
from metarec.report.hybrid_items import build_report, half_width
from metarec.runs import load_records

Script = Callable[..., int]

WORDS = ("the", "silent", "golden", "last", "harbour", "winter", "garden", "case", "liked", "drama")
SMALL = (
    "{members: 1, embedding_size: 4, hidden_size: 4, tower_size: 4, task_batch: 8, pseudo_cold: 4,"
    " warm_steps: 3, steps: 2, validate_every: 2%s}"
)


@pytest.fixture
def hybrid(
    script: Script,
    states: Path,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Script:
    """`experiments/hybrid.py` on films of two years, small, with two settings and one seed."""
    monkeypatch.setenv("METAREC_CACHE", str(tmp_path / "cache"))
    for module in ("selection", "notes"):
        monkeypatch.setattr(f"metarec.report.{module}.RESAMPLES", 200)
    data = tiny_dataset
    years = [str(1990 + item % 2) for item in range(data.n_items)]
    items = data.item_text.assign(item=data.item_ids, year=years)
    items.to_csv(tmp_path / "with_years.csv", index=False)
    pd.DataFrame({"user": data.user_ids[data.users], "item": data.item_ids[data.items]}).assign(
        rating=data.ratings
    ).to_csv(tmp_path / "ratings.csv", index=False)

    def call(*overrides: str) -> int:
        return script(
            "hybrid",
            "data=csv",
            "~data.options.extra",
            f"data.options.interactions={tmp_path / 'ratings.csv'}",
            f"data.options.items={tmp_path / 'with_years.csv'}",
            f"split.source={states}",
            f"text.checkpoint={small_encoder(WORDS).checkpoint.folder}",
            "text.max_length=8",
            "episode.train_k_shot=[0,3]",
            "evaluation.look_tasks=2",
            "evaluation.regime_k_shot={user_cold: [1, 2], item_cold: 2, both_cold: 1}",
            f"results={tmp_path / 'results'}",
            "progress=false",
            "plan.workers=1",
            "plan.blocks.years=[[1990, 1990], [1991, 1991]]",
            "plan.blocks.baselines=[popularity]",
            "~plan.blocks.grids",
            "+plan.blocks.grids={item_knn: {neighbours: [1, null], dislike_weight: [0.5]}}",
            "~plan.settings",
            f"+plan.settings={{as_it_is: {SMALL % ''}, no_text: {SMALL % ', knn_weight: 0.0'}}}",
            "plan.test.seeds=[0]",
            "plan.test.learners=[item_knn, predicted_popularity]",
            f"plan.paper={tmp_path / 'paper'}",
            *overrides,
            tiny=False,
        )

    return call


def test_blocks_choose_the_setting_that_meets_the_test(
    hybrid: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hybrid() == 0
    printed = capsys.readouterr().out
    blocks = load_records(tmp_path / "results", "hybrid_blocks")
    assert len(blocks) == 6
    assert {record.config.evaluation.parts for record in blocks} == {("validation",)}
    assert {record.config.split.validation_years for record in blocks} == {
        (1990, 1990),
        (1991, 1991),
    }
    means = {
        name: sum(
            sum(one["catalogue/ndcg@10"] for one in record.metrics["validation"].values())
            for record in blocks
            if record.learner == name
        )
        for name in ("hybrid_as_it_is", "hybrid_no_text")
    }
    best = max(means, key=lambda name: means[name])
    assert f"{best} is chosen" in printed
    tested = load_records(tmp_path / "results", "hybrid")
    names = ["hybrid", "item_knn", "predicted_popularity"]
    assert [record.learner for record in tested] == names
    # the baseline meets the test with the values that are best over the blocks
    grids = load_records(tmp_path / "results", "hybrid_grids")
    assert {record.config.evaluation.parts for record in grids} == {("validation",)}
    scores = {}
    for record in grids:
        neighbours = record.config.learner.arguments["neighbours"]
        scores[neighbours] = scores.get(neighbours, 0.0) + (record.selection or 0.0)
    assert scores.keys() == {1, None}
    arguments = tested[1].config.learner.arguments
    assert scores[arguments["neighbours"]] == max(scores.values())
    assert arguments["dislike_weight"] == 0.5
    assert tested[0].config.learner.arguments["knn_weight"] == (
        0.0 if best == "hybrid_no_text" else 0.25
    )
    shots = tested[0].per_task.groupby("regime")["k_shot"].unique()
    assert {regime: sorted(found) for regime, found in shots.items()} == {
        "user_cold": [1, 2],
        "item_cold": [2],
        "both_cold": [1],
    }
    for name in ("hybrid", "hybrid_blocks"):
        table = (tmp_path / "paper" / "tables" / f"{name}.md").read_text()
        assert table.splitlines()[0].strip("*") in printed
        assert json.loads((tmp_path / "paper" / "records" / f"{name}.json").read_text())["rows"]

    build_report(tested, tmp_path / "paper", groups=3)
    small = json.loads((tmp_path / "paper" / "records" / "hybrid_items.json").read_text())
    rows = {(row[0], row[1]): row[4:7] for row in small["rows"]}
    for regime in ("item_cold", "both_cold"):
        mean, low, high = rows["Hybrid", regime]
        assert mean == pytest.approx(
            tested[0].metrics["test"][regime]["catalogue/ndcg@10"], abs=1e-6
        )
        assert low <= mean <= high
        gain = rows["hybrid minus predicted popularity", regime][0]
        assert gain == pytest.approx(mean - rows["Predicted popularity", regime][0], abs=2e-6)


def test_a_setting_that_was_chosen_before_meets_the_test_without_blocks(
    hybrid: Script, tmp_path: Path
) -> None:
    assert hybrid("plan.stages=[test]", "plan.test.setting=no_text") == 0
    assert not (tmp_path / "results" / "hybrid_blocks").exists()
    tested = load_records(tmp_path / "results", "hybrid")
    assert tested[0].config.learner.arguments["knn_weight"] == 0.0
    assert not (tmp_path / "paper" / "tables" / "hybrid_blocks.md").exists()
    small = json.loads((tmp_path / "paper" / "records" / "hybrid_margin.json").read_text())
    rows = {(row[0], row[1]): row[4] for row in small["rows"]}
    own = tested[0].per_task
    for regime in ("item_cold", "both_cold"):
        here = own[own["regime"] == regime]
        with_shots, without = (
            here.loc[here["adapted"] == adapted, "catalogue/ndcg@10"].mean()
            for adapted in (True, False)
        )
        difference = rows["hybrid - hybrid, no support", regime]
        assert difference == pytest.approx(with_shots - without, abs=2e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["plan.stages=[test]"], "chooses no setting: add blocks, or name in plan.test.setting"),
        (["plan.test.setting=no_txt"], "plan.test.setting: 'no_txt' is unknown; did you mean"),
    ],
)
def test_a_test_without_a_setting_is_refused(
    hybrid: Script, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    assert hybrid(*given) == 1
    assert said in capsys.readouterr().err


def test_an_unknown_stage_is_refused(hybrid: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert hybrid("plan.stages=[block]") == 1
    assert "plan.stages: 'block' is unknown; did you mean 'blocks'" in capsys.readouterr().err


def test_few_groups_of_items_make_wide_intervals() -> None:
    """Student's t at .975, of tables: 12.71 with one degree of freedom, 2.093 with 19."""
    assert half_width(2) == pytest.approx(12.706, abs=1e-3)
    assert half_width(20) == pytest.approx(2.093, abs=1e-3)
