"""Episodes of evaluation: regimes, disjointness, nested supports, who has no episode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metarec.data.dataset import Dataset
from metarec.errors import EpisodeError
from metarec.evaluation.episodes import EvaluationEpisodes, evaluation_episodes
from metarec.learner import TaskKind
from metarec.splits import REGIMES, Split


@pytest.fixture(scope="module")
def split(tiny_dataset: Dataset) -> Split:
    return Split.by_seed(tiny_dataset, 0, users=(0.6, 0.2, 0.2), items=(0.6, 0.2, 0.2))


def test_item_tasks_tell_which_item_and_user_tasks_do_not_tell_which_user(split: Split) -> None:
    cold = evaluation_episodes(split, "test", "item_cold", "item", 3)
    assert cold.support.tasks is not None
    assert (split.item_group[cold.support.tasks] == 2).all()
    assert evaluation_episodes(split, "test", "user_cold", "user", 3).support.tasks is None


def test_no_negative_is_sampled_for_implicit_feedback(tiny_dataset: Dataset) -> None:
    liked = tiny_dataset.keep(tiny_dataset.ratings >= 3, "not bought")
    data = replace(
        liked, ratings=np.ones(len(liked), np.float32), feedback="implicit", rating_scale=None
    )
    split = Split.by_seed(data, 0)
    episodes = evaluation_episodes(
        split, "test", "user_cold", feedback="implicit", threshold=None, k_shot=3
    )
    assert (episodes.query_labels.values == 1).all()


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize(
    ("kind", "regime"), [*(("user", r) for r in REGIMES), ("item", "item_cold")]
)
def test_evaluation_episodes_hold_what_their_regime_says(
    split: Split, part: str, kind: TaskKind, regime: str
) -> None:
    episodes = evaluation_episodes(split, part, regime, kind, 3)
    data = split.dataset
    users, items = (
        (episodes.tasks, episodes.candidates)
        if kind == "user"
        else (episodes.candidates, episodes.tasks)
    )
    code = {"validation": 1, "test": 2}[part]
    assert (split.user_group[users] == (code if regime in ("user_cold", "both_cold") else 0)).all()
    assert (split.item_group[items] == (code if regime in ("item_cold", "both_cold") else 0)).all()
    pairs = {
        (u, i) if kind == "user" else (i, u): (rating, p)
        for u, i, rating, p in zip(
            data.users.tolist(),
            data.items.tolist(),
            data.ratings.tolist(),
            split.part.tolist(),
            strict=True,
        )
    }
    for t, task in enumerate(episodes.tasks.tolist()):
        support = episodes.support.candidates[t].tolist()
        excluded = set(episodes.candidates[episodes.excluded[t]].tolist())
        query = episodes.candidates[episodes.query[t]].tolist()
        assert len(set(support)) == 3
        assert not set(support) & set(query)
        assert not excluded & set(query), "a query is not ranked"
        assert set(support) & set(episodes.candidates.tolist()) <= excluded, "a shot is ranked"
        assert all((task, candidate) in pairs for candidate in support)
        for candidate, rating, label in zip(
            query, episodes.query_ratings[t], episodes.query_labels[t], strict=True
        ):
            assert pairs[task, candidate][0] == rating
            assert label == (rating >= 4)
        # what is known of the task beyond support and query is only ever in meta-train
        rest = {c for (owner, c) in pairs if owner == task} - set(support) - set(query)
        ranked_unknown = rest & set(episodes.candidates.tolist()) - excluded
        assert all(pairs[task, c][1] != 0 for c in ranked_unknown)


def curve(split: Split, **settings: object) -> list[EvaluationEpisodes]:
    return [
        evaluation_episodes(split, "test", "user_cold", k_shot=k, reserve=5, **settings)  # type: ignore[arg-type]
        for k in (0, 1, 3, 5)
    ]


def test_the_curve_over_k_has_nested_supports_and_one_query_set(split: Split) -> None:
    full = curve(split)[-1]
    for episodes in curve(split):
        k = episodes.k_shot
        assert (episodes.tasks == full.tasks).all()
        assert (episodes.query.values == full.query.values).all()
        assert (episodes.excluded.values == full.excluded.values).all()
        assert (episodes.support.candidates == full.support.first(k).candidates).all()


def test_the_support_of_a_new_user_is_the_same_in_both_regimes(split: Split) -> None:
    one = evaluation_episodes(split, "test", "user_cold", k_shot=3)
    other = evaluation_episodes(split, "test", "both_cold", k_shot=3)
    both = np.intersect1d(one.tasks, other.tasks)
    assert len(both)
    assert (
        one.support.candidates[np.isin(one.tasks, both)]
        == other.support.candidates[np.isin(other.tasks, both)]
    ).all()


def test_orders_depend_on_the_seed_and_may_follow_time(split: Split) -> None:
    first, other = (
        evaluation_episodes(split, "test", "user_cold", k_shot=3, seed=seed) for seed in (0, 1)
    )
    assert (first.support.candidates != other.support.candidates).any()
    by_time = evaluation_episodes(split, "test", "user_cold", k_shot=3, order="time")
    data = split.dataset
    assert data.times is not None
    when = {
        (u, i): t
        for u, i, t in zip(
            data.users.tolist(), data.items.tolist(), data.times.tolist(), strict=True
        )
    }
    for t, user in enumerate(by_time.tasks.tolist()):
        latest = max(when[user, i] for i in by_time.support.candidates[t].tolist())
        assert all(latest <= when[user, i] for i in by_time.candidates[by_time.query[t]].tolist())


def test_tasks_without_an_episode_are_counted(split: Split) -> None:
    episodes = evaluation_episodes(split, "test", "user_cold", k_shot=14)
    rows = split.rows("test", "user_cold")
    members = len(np.unique(split.dataset.users[rows]))
    assert len(episodes) + sum(episodes.left_out.values()) == members
    assert episodes.left_out


def test_episodes_have_the_same_key_where_they_ask_the_same_of_the_same_tasks(
    split: Split,
) -> None:
    asked = evaluation_episodes(split, "test", "user_cold", k_shot=3)
    again = evaluation_episodes(split, "test", "user_cold", k_shot=3, reserve=3)
    assert asked.key == again.key == replace(asked, left_out={"why": 1}).key
    others = [
        evaluation_episodes(split, "test", "user_cold", k_shot=3, reserve=4),
        evaluation_episodes(split, "test", "user_cold", k_shot=2, reserve=3),
        evaluation_episodes(split, "test", "user_cold", k_shot=3, seed=1),
        evaluation_episodes(split, "test", "user_cold", k_shot=3, threshold=3.0),
        evaluation_episodes(split, "test", "both_cold", k_shot=3),
        evaluation_episodes(split, "validation", "user_cold", k_shot=3),
        evaluation_episodes(split, "test", "item_cold", "item", k_shot=3),
        replace(asked, tasks=asked.tasks + 1),
    ]
    assert len({asked.key, *(one.key for one in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k_shot": 1000}, "longest history"),
        ({"regime": "cold"}, "unknown regime"),
        ({"k_shot": 5, "reserve": 3}, "reserve"),
        ({"task": "item", "regime": "warm"}, "item_cold"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error_that_names_the_key(
    split: Split, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(EpisodeError, match=message):
        evaluation_episodes(split, **settings)  # type: ignore[arg-type]


def test_order_by_time_needs_timestamps(tiny_dataset: Dataset) -> None:
    split = Split.by_seed(replace(tiny_dataset, times=None), 0)
    with pytest.raises(EpisodeError, match="no timestamps"):
        evaluation_episodes(split, k_shot=1, order="time")
