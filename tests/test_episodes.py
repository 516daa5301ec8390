"""Episodes: bounds, disjointness, static shapes, purity in (seed, step), nested supports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, EvaluationEpisodes, evaluation_episodes
from metarec.errors import EpisodeError
from metarec.learner import TaskKind
from metarec.splits import REGIMES, Split


@pytest.fixture(scope="module")
def split(tiny_dataset: Dataset) -> Split:
    return Split.by_seed(tiny_dataset, 0, users=(0.6, 0.2, 0.2), items=(0.6, 0.2, 0.2))


def train_pairs(split: Split, kind: TaskKind) -> dict[tuple[int, int], float]:
    """(task, candidate) to rating, in meta-train."""
    rows = split.rows("train")
    sides = split.dataset.users[rows], split.dataset.items[rows]
    tasks, candidates = sides if kind == "user" else sides[::-1]
    ratings = split.dataset.ratings[rows]
    return dict(
        zip(zip(tasks.tolist(), candidates.tolist(), strict=True), ratings.tolist(), strict=True)
    )


@given(
    kind=st.sampled_from(["user", "item"]),
    least=st.integers(0, 3),
    spread=st.integers(0, 12),
    query_size=st.integers(2, 12),
    task_batch=st.integers(1, 70),
    negatives=st.sampled_from([0.0, 0.3, 0.5]),
    seed=st.integers(0, 2**20),
)
def test_an_episode_keeps_its_promises(
    split: Split,
    kind: TaskKind,
    least: int,
    spread: int,
    query_size: int,
    task_batch: int,
    negatives: float,
    seed: int,
) -> None:
    most = least + spread
    sampler = EpisodeSampler(
        split, kind, (least, most), query_size, task_batch, "binary", 4.0, negatives, seed
    )
    batch = sampler.batch(3)
    assert batch.support.candidates.shape == batch.support.mask.shape == (task_batch, most)
    assert batch.query.shape == batch.query_mask.shape == (task_batch, query_size)
    pairs = train_pairs(split, kind)
    for t, task in enumerate(batch.tasks.tolist()):
        mask, query_mask = batch.support.mask[t], batch.query_mask[t]
        support = batch.support.candidates[t, mask].tolist()
        query = batch.query[t, query_mask].tolist()
        assert least <= len(support) <= most
        assert len(query) >= 1
        assert len(set(support + query)) == len(support) + len(query), "something occurs twice"
        for candidate, label in zip(support, batch.support.labels[t, mask], strict=True):
            assert label == (pairs[task, candidate] >= 4)
        for candidate, label, observed in zip(
            query,
            batch.query_labels[t, query_mask],
            batch.query_observed[t, query_mask],
            strict=True,
        ):
            assert ((task, candidate) in pairs) == observed
            assert label == (observed and pairs[task, candidate] >= 4)
            assert candidate in sampler.known


@given(step=st.integers(0, 2**40), seed=st.integers(0, 2**40))
def test_a_batch_is_a_pure_function_of_seed_and_step(split: Split, step: int, seed: int) -> None:
    def draw(seed: int, step: int, before: int) -> list[np.ndarray]:
        sampler = EpisodeSampler(split, seed=seed)
        for other in range(before):
            sampler.batch(other)
        batch = sampler.batch(step)
        return [batch.tasks, batch.support.candidates, batch.support.mask, batch.query]

    first, again = draw(seed, step, 0), draw(seed, step, 2)
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, draw(seed, step + 1, 0), strict=True))
    assert any((a != b).any() for a, b in zip(first, draw(seed + 1, step, 0), strict=True))


def test_shots_are_drawn_uniformly(split: Split) -> None:
    sampler = EpisodeSampler(split, k_shot=3, query_size=2, task_batch=500, negatives=0.0)
    rows = split.rows("train")
    user = int(np.argmax(np.bincount(split.dataset.users[rows])))
    own = split.dataset.items[rows][split.dataset.users[rows] == user]
    counts = np.zeros(split.dataset.n_items)
    for step in range(60):
        batch = sampler.batch(step)
        np.add.at(counts, batch.support.candidates[batch.tasks == user].ravel(), 1)
    share = counts[own] / counts[own].sum()
    deviation = np.sqrt(1 / len(own) / counts[own].sum())
    assert np.abs(share - 1 / len(own)).max() < 5 * deviation
    assert counts.sum() == counts[own].sum()


def test_the_number_of_shots_is_uniform_in_its_range(split: Split) -> None:
    sampler = EpisodeSampler(split, k_shot=(0, 4), task_batch=2000)
    counts = np.bincount(sampler.batch(0).support.mask.sum(axis=1), minlength=5)
    assert np.abs(counts / 2000 - 1 / 5).max() < 5 * np.sqrt(0.2 * 0.8 / 2000)


def test_item_tasks_tell_which_item_and_user_tasks_do_not_tell_which_user(split: Split) -> None:
    assert EpisodeSampler(split, "user").batch(0).support.tasks is None
    batch = EpisodeSampler(split, "item").batch(0)
    assert batch.support.tasks is not None
    assert (batch.support.tasks == batch.tasks).all()
    cold = evaluation_episodes(split, "test", "item_cold", "item", 3)
    assert cold.support.tasks is not None
    assert (split.item_group[cold.support.tasks] == 2).all()
    assert evaluation_episodes(split, "test", "user_cold", "user", 3).support.tasks is None


def test_implicit_feedback_has_only_ones_in_the_support_and_negatives_in_the_query(
    tiny_dataset: Dataset,
) -> None:
    liked = tiny_dataset.keep(tiny_dataset.ratings >= 3, "not bought")
    data = replace(
        liked, ratings=np.ones(len(liked), np.float32), feedback="implicit", rating_scale=None
    )
    split = Split.by_seed(data, 0)
    batch = EpisodeSampler(split, feedback="implicit", threshold=None).batch(0)
    assert (batch.support.labels[batch.support.mask] == 1).all()
    assert (batch.query_labels == batch.query_observed).all()
    assert (~batch.query_observed & batch.query_mask).any()
    test = evaluation_episodes(
        split, "test", "user_cold", feedback="implicit", threshold=None, k_shot=3
    )
    assert (test.query_labels.values == 1).all(), "a negative was sampled for testing"
    with pytest.raises(EpisodeError, match=r"episode\.feedback=implicit"):
        EpisodeSampler(split, feedback="binary")


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k_shot": 1000}, "larger than any history"),
        ({"k_shot": (500, 1000)}, "larger than any history"),
        ({"k_shot": (3, 2)}, "least <= most"),
        ({"k_shot": -1}, "least <= most"),
        ({"query_size": 0}, "query_size"),
        ({"negatives": 1.0}, "negatives"),
        ({"feedback": "rating", "negatives": 0.5}, "negatives=0"),
        ({"feedback": "implicit", "negatives": 0.0}, "negatives above 0"),
        ({"feedback": "binary", "threshold": None}, "threshold"),
    ],
)
def test_what_cannot_be_sampled_is_an_error_that_names_the_key(
    split: Split, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(EpisodeError, match=message):
        EpisodeSampler(split, **settings)  # type: ignore[arg-type]


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
