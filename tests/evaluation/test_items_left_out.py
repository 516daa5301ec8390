"""The jackknife over candidates: what is left out, and its error."""

from __future__ import annotations

import numpy as np
import pytest

from metarec.baselines import Popularity
from metarec.data.dataset import Dataset
from metarec.errors import ConfigError
from metarec.evaluation.episodes import evaluation_episodes
from metarec.evaluation.evaluate import evaluate
from metarec.evaluation.items_left_out import jackknife_error, means_without, without_candidates
from metarec.splits import Split


@pytest.fixture
def fitted(tiny_dataset: Dataset) -> tuple[Split, Popularity, dict[str, np.ndarray]]:
    split = Split.by_seed(tiny_dataset, 0)
    counts = np.bincount(tiny_dataset.items, minlength=tiny_dataset.n_items)
    return split, Popularity(), {"count": counts.astype(np.float32)}


def test_what_is_left_out_is_neither_ranked_nor_asked_for(
    fitted: tuple[Split, Popularity, dict[str, np.ndarray]],
) -> None:
    split, learner, meta = fitted
    episodes = evaluation_episodes(split, "test", "user_cold", k_shot=3)
    out = np.array([0, 4, 5])
    left = without_candidates(episodes, out)
    for task in range(len(episodes)):
        assert set(left.query[task]) == set(episodes.query[task]) - set(out)
        assert set(left.excluded[task]) == set(episodes.excluded[task]) | set(out)
        kept = ~np.isin(episodes.query[task], out)
        assert left.query_ratings[task].tolist() == episodes.query_ratings[task][kept].tolist()
        assert left.query_labels[task].tolist() == episodes.query_labels[task][kept].tolist()
    whole = evaluate(learner, meta, episodes).per_task
    less = evaluate(learner, meta, left).per_task
    already = np.array([np.isin(out, episodes.excluded[t]).sum() for t in range(len(episodes))])
    assert (whole["n_candidates"] - less["n_candidates"] == 3 - already).all()


def test_each_group_is_left_out_once(
    fitted: tuple[Split, Popularity, dict[str, np.ndarray]],
) -> None:
    split, learner, meta = fitted
    episodes = evaluation_episodes(split, "test", "user_cold", k_shot=3)
    n = len(episodes.candidates)
    (found,) = means_without([(learner, meta)], episodes, groups=n)
    each = [
        evaluate(learner, meta, without_candidates(episodes, np.array([position]))).per_task[
            "catalogue/ndcg@10"
        ]
        for position in range(n)
    ]
    assert sorted(found) == pytest.approx(sorted(np.nanmean(one) for one in each))


def test_the_error_of_a_mean_is_the_usual_one() -> None:
    values = np.random.default_rng(0).normal(size=30)
    without = (values.sum() - values) / 29
    assert jackknife_error(without) == pytest.approx(values.std(ddof=1) / np.sqrt(30))


@pytest.mark.parametrize("groups", [1, 10**6])
def test_too_few_or_too_many_groups_are_refused(
    groups: int, fitted: tuple[Split, Popularity, dict[str, np.ndarray]]
) -> None:
    split, learner, meta = fitted
    episodes = evaluation_episodes(split, "test", "user_cold", k_shot=3)
    with pytest.raises(ConfigError, match="are needed"):
        means_without([(learner, meta)], episodes, groups=groups)
