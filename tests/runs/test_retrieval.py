"""Runs whose learner reranks what a baseline draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarec.baselines.knn import ItemKNN
from metarec.errors import ConfigError, LearnerError
from metarec.runs import Record, RunConfig, retrieval, run

Make = Callable[..., RunConfig]

KNN = {"name": "item_knn", "_target_": "metarec.baselines.knn.ItemKNN", "neighbours": 5}
RERANK = {"shortlist": 10, "retriever": KNN}
FEW = ("item_cold", "both_cold")
"""Regimes whose catalogue has no more than is drawn."""


def of_catalogue(record: Record) -> dict[str, Any]:
    """All metrics of the catalogue, adapted or not, by part and regime."""
    return {
        f"{part} {regime} {name} {kind}": value
        for kind, found in (("", record.metrics), ("without", record.without_adaptation))
        for part, regimes in found.items()
        for regime, metrics in regimes.items()
        for name, value in metrics.items()
        if name.startswith("catalogue/")
    }


def test_a_run_says_how_much_of_what_is_relevant_was_drawn(
    make_config: Make, tmp_path: Path
) -> None:
    record = run(make_config(evaluation=RERANK), tmp_path / "results")
    rows = record.per_task[record.per_task["evaluation"] == "main"]
    for (part, regime), here in rows[rows["adapted"]].groupby(["part", "regime"]):
        recall = record.content["counts"][part][regime]["recall"]
        assert 0 < recall <= 1
        assert (recall == 1) == (regime in FEW)
        assert recall == pytest.approx(here["shortlist/recall"].mean())
        assert record.metrics[part][regime]["shortlist/recall"] == pytest.approx(recall)
        # what was drawn fills the list
        assert record.metrics[part][regime]["catalogue/recall@10"] == pytest.approx(recall)
        assert record.metrics[part][regime]["rated/mae"] is None


def test_chance_is_that_of_shuffling_what_was_drawn(make_config: Make, tmp_path: Path) -> None:
    record = run(make_config(evaluation=RERANK), tmp_path / "results")
    plain = run(make_config(), tmp_path / "results")
    for part, regimes in record.chance.items():
        for regime, level in regimes.items():
            if regime in FEW:
                assert level == plain.chance[part][regime]
                continue
            recall = record.content["counts"][part][regime]["recall"]
            assert level["catalogue/chance/recall@10"] == pytest.approx(recall)
            assert level["catalogue/chance/recall@5"] == pytest.approx(recall / 2)


def test_reranking_everything_is_ranking_the_catalogue(make_config: Make, tmp_path: Path) -> None:
    plain = run(make_config(), tmp_path / "results")
    all_drawn = make_config(evaluation=RERANK | {"shortlist": 1000})
    reranked = run(all_drawn, tmp_path / "results")
    assert of_catalogue(reranked) == of_catalogue(plain)
    assert reranked.chance == plain.chance
    assert reranked.log == plain.log
    assert reranked.selection == plain.selection


def test_a_learner_that_draws_its_own_shortlist_ranks_as_it_does_without(
    make_config: Make, tmp_path: Path
) -> None:
    # random scores have no ties, which a shortlist would break
    own = {"name": "random", "_target_": "metarec.baselines.random.Random"}
    plain, reranked = (
        run(make_config(own["_target_"], evaluation=evaluation), tmp_path / "results")
        for evaluation in ({}, {"shortlist": 10, "retriever": own})
    )
    assert of_catalogue(reranked) == of_catalogue(plain)


def test_looks_at_validation_rerank_too(make_config: Make, tmp_path: Path) -> None:
    def seen(evaluation: dict[str, Any]) -> set[float]:
        config = make_config(evaluation=evaluation | {"parts": ["validation"]})
        record = run(config, tmp_path / "results")
        return {entry["validation"] for entry in record.log if "validation" in entry}

    assert len(seen({})) > 1
    # whoever reranks a single candidate leaves the order of the retriever, trained or not
    assert len(seen(RERANK | {"shortlist": 1})) == 1


def test_ratings_are_selected_by_their_order_where_they_are_reranked(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config(episode={"feedback": "rating"}, evaluation=RERANK)
    record = run(config, tmp_path / "results")
    orders = [
        record.metrics["validation"][regime]["catalogue/ndcg@10"]
        for regime in ("user_cold", "item_cold", "both_cold")
    ]
    assert record.selection == pytest.approx(np.mean(orders))
    assert all(entry.get("validation", 0) is not None for entry in record.log)


def test_a_retriever_is_fitted_once_and_draws_once_for_the_same_episodes(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fits, drawn = [], []
    fit, draw = ItemKNN.fit, retrieval.draw_shortlist

    def fitting(self: ItemKNN, training: Any) -> Any:
        assert training.validate is None
        assert training.checkpointer is None
        fits.append(training.seed)
        return fit(self, training)

    def drawing(retriever: Any, meta: Any, episodes: Any, size: int, chunk: int) -> Any:
        assert (size, chunk) == (10, 5)
        drawn.append(episodes.key)
        return draw(retriever, meta, episodes, size, chunk)

    monkeypatch.setattr(ItemKNN, "fit", fitting)
    monkeypatch.setattr(retrieval, "draw_shortlist", drawing)
    run(make_config(seed=1, evaluation=RERANK), tmp_path / "results")
    assert fits == [1]
    # 2 parts in 4 regimes, and the curve but for K = k_shot; the looks at validation, which are at
    # all tasks here, are of episodes that come again in the end
    assert len(drawn) == len(set(drawn)) == 8 + 2


def test_a_retriever_that_would_have_to_be_trained_is_an_error(
    make_config: Make, fakes: Any, tmp_path: Path
) -> None:
    walk = {"name": "walk", "_target_": "fake_learners.Walk"}
    config = make_config(evaluation=RERANK | {"retriever": walk})
    with pytest.raises(ConfigError, match=r"evaluation\.retriever=walk .* choose a baseline"):
        run(config, tmp_path / "results")
    assert fakes.Walk.fitted == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neighbors": 5}, r"evaluation\.retriever\.neighbors: .* did you mean 'neighbours'"),
        ({"_target_": "metarec.baselines.nn.ItemKNN"}, r"evaluation\.retriever\._target_=.*nn'"),
        ({"search": {"shrink": [1]}}, r"evaluation\.retriever\.search\.shrink: .* 'shrinkage'"),
    ],
)
def test_a_retriever_that_cannot_be_made_is_an_error_that_names_its_key(
    make_config: Make, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(make_config(evaluation=RERANK | {"retriever": KNN | change}), tmp_path / "results")


def test_a_retriever_that_does_not_serve_the_task_is_an_error(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ItemKNN, "serves", frozenset({"user"}))
    with pytest.raises(LearnerError, match="ItemKNN serves user tasks"):
        run(make_config(episode={"task": "item"}, evaluation=RERANK), tmp_path / "results")


def test_item_tasks_are_reranked_as_user_tasks_are(make_config: Make, tmp_path: Path) -> None:
    config = make_config(episode={"task": "item"}, evaluation=RERANK)
    record = run(config, tmp_path / "results")
    assert 0 < record.content["counts"]["test"]["item_cold"]["recall"] < 1
    assert set(record.seconds_per_task["curve"]) == {"0", "2"}
