"""Published protocols: a task's own ratings are its support and its query."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.baselines.item_mean import ItemMean
from metarec.data.cleaning import CleaningReport
from metarec.data.dataset import Dataset
from metarec.errors import EpisodeError
from metarec.evaluation.rated import evaluate_rated, rated_episodes
from metarec.splits import Split


@pytest.fixture(scope="module")
def split(tiny_dataset: Dataset) -> Split:
    return Split.by_seed(
        tiny_dataset,
        users=(0.6, 0.2, 0.2),
        items=(1.0, 0.0, 0.0),
        warm_holdout=(0.0, 0.0),
        without_train="cold",
    )


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 5),
    st.sampled_from([(None, 3), (2, None), (2, 3), (0, 2)]),
    st.sampled_from(["random", "time"]),
)
def test_support_and_query_are_the_user_s_own_and_never_meet(
    split: Split, seed: int, sizes: tuple[int | None, int | None], order: str
) -> None:
    support, query = sizes
    episodes = rated_episodes(
        split, history=(5, 40), support=support, query=query, order=order, seed=seed
    )
    data = split.dataset
    test = np.concatenate([split.rows("test", "user_cold"), split.rows("test", "both_cold")])
    for number, user in enumerate(episodes.tasks):
        own = test[data.users[test] == user]
        shots = episodes.support.candidates[number][episodes.support.mask[number]]
        asked = episodes.query[number]
        assert set(shots) | set(asked) <= set(data.items[own])
        assert not set(shots) & set(asked)
        assert 5 <= len(own) <= 40
        if support is None or query is None:
            assert len(shots) + len(asked) == len(own)
        assert support is None or len(shots) == support
        assert query is None or len(asked) == query
        rating = dict(zip(data.items[own], data.ratings[own], strict=True))
        assert [rating[item] for item in asked] == episodes.query_ratings[number].tolist()
        labels = episodes.support.labels[number][episodes.support.mask[number]]
        assert [rating[item] for item in shots] == labels.tolist()
    again = rated_episodes(
        split, history=(5, 40), support=support, query=query, order=order, seed=seed
    )
    assert again.key == episodes.key


def test_in_time_order_the_support_is_the_earliest(split: Split) -> None:
    data = split.dataset
    assert data.times is not None
    episodes = rated_episodes(split, history=(5, 40), support=None, query=2, order="time")
    when = {
        (user, item): time
        for user, item, time in zip(data.users, data.items, data.times, strict=True)
    }
    for number, user in enumerate(episodes.tasks):
        shots = episodes.support.candidates[number][episodes.support.mask[number]]
        last = max(when[user, item] for item in shots)
        assert all(when[user, item] >= last for item in episodes.query[number])


def test_who_has_too_few_or_too_many_is_counted(split: Split) -> None:
    everyone = rated_episodes(split, history=(2, 1000), query=1)
    lengths = [
        int(everyone.support.mask[number].sum() + len(everyone.query[number]))
        for number in range(len(everyone))
    ]
    middle = (min(lengths) + 1, max(lengths) - 1)
    some = rated_episodes(split, history=middle, query=1)
    assert set(some.left_out) == {
        f"fewer than {middle[0]} interactions",
        f"more than {middle[1]} interactions",
    }
    assert len(everyone) == len(some) + sum(some.left_out.values()) - sum(
        everyone.left_out.values()
    )
    with pytest.raises(EpisodeError, match=r"protocol\.history"):
        rated_episodes(split, history=(900, 1000))


def test_a_split_that_says_what_is_asked_is_obeyed(split: Split) -> None:
    rng = np.random.default_rng(0)
    queries = rng.random(len(split.dataset)) < 0.4
    given_split = Split.from_groups(
        split.dataset, split.user_group, split.item_group, queries=queries
    )
    episodes = rated_episodes(given_split, history=(1, 1000), query=3)
    data = split.dataset
    asked = {
        (user, item)
        for number, user in enumerate(episodes.tasks)
        for item in episodes.query[number].tolist()
    }
    rows = np.flatnonzero(queries & np.isin(data.users, episodes.tasks))
    assert asked == set(zip(data.users[rows], data.items[rows].tolist(), strict=True))


def test_the_warm_queries_are_those_held_out_and_the_rest_of_train_is_the_support(
    tiny_dataset: Dataset,
) -> None:
    split = Split.by_seed(tiny_dataset)
    episodes = rated_episodes(split, "test", "warm", history=(2, 1000), query=3)
    data = split.dataset
    held_out, train = split.rows("test", "warm"), split.rows("train")
    for number, user in enumerate(episodes.tasks):
        assert set(episodes.query[number]) == set(
            data.items[held_out[data.users[held_out] == user]]
        )
        shots = episodes.support.candidates[number][episodes.support.mask[number]]
        assert set(shots) == set(data.items[train[data.users[train] == user]])


def test_the_support_of_a_cold_cell_is_cold(tiny_dataset: Dataset) -> None:
    split = Split.by_seed(tiny_dataset, users=(0.5, 0.2, 0.3), items=(0.5, 0.2, 0.3))
    for regime in ("item_cold", "both_cold"):
        episodes = rated_episodes(split, "test", regime, history=(2, 1000), query=1, unseen="drop")
        items = episodes.support.candidates[episodes.support.mask]
        assert (split.item_group[items] == 2).all()


def test_errors_are_those_of_the_predictions_and_do_not_depend_on_the_chunk(split: Split) -> None:
    from metarec.runs import EpisodeConfig, LearnerConfig, RunConfig
    from metarec.runs.prepare import Materials, training_of

    config = RunConfig(
        LearnerConfig("item_mean", "metarec.baselines.item_mean.ItemMean"),
        episode=EpisodeConfig(feedback="rating", train_k_shot=(0, 3)),
    )
    materials = Materials(split, ("",) * split.dataset.n_items, "", None, "")
    learner = ItemMean()
    fitted = learner.fit(training_of(config, materials, None, None, False))
    episodes = rated_episodes(split, history=(5, 40), query=3)
    scale = split.dataset.rating_scale
    found = [
        evaluate_rated(learner, fitted, episodes, (1, 2), chunk, rating_scale=scale).per_task
        for chunk in (1, 64)
    ]
    assert found[0].equals(found[1])
    scores = learner.score(learner.adapt(fitted, episodes.support), episodes.candidates)
    for number in range(len(episodes)):
        asked = episodes.query[number]
        error = np.abs(scores[number, asked].clip(*scale) - episodes.query_ratings[number])
        assert found[0]["rated/mae"][number] == pytest.approx(error.mean())
    assert (found[0]["n_query"] == 3).all()
    assert found[0]["best_rated/chance/precision@1"].to_numpy() == pytest.approx(1 / 3)


def test_the_data_of_a_report_add_up_after_heavy_users_are_left_out(tiny_dataset: Dataset) -> None:
    most = int(np.median(np.bincount(tiny_dataset.users)))
    left = tiny_dataset.without_heavy_users(most)
    assert np.bincount(left.users).max() <= most
    assert isinstance(left.report, CleaningReport)
    assert left.report.dropped[f"users of more than {most} interactions"] == len(
        tiny_dataset
    ) - len(left)
