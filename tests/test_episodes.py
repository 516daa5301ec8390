"""Episodes: bounds, disjointness, static shapes, purity in (seed, step)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, Ragged
from metarec.errors import EpisodeError
from metarec.learner import TaskKind
from metarec.splits import Split


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
    with pytest.raises(EpisodeError, match=r"episode\.feedback=implicit"):
        EpisodeSampler(split, feedback="binary")


@pytest.mark.parametrize("kind", ["user", "item"])
def test_transposed_is_the_sampler_of_the_other_side(split: Split, kind: TaskKind) -> None:
    settings = {"k_shot": (1, 5), "query_size": 6, "task_batch": 9, "negatives": 0.3, "seed": 4}
    other: TaskKind = "item" if kind == "user" else "user"
    found = EpisodeSampler(split, kind, **settings).transposed()
    assert found.kind == other
    batch, expected = found.batch(7), EpisodeSampler(split, other, **settings).batch(7)
    assert (batch.tasks == expected.tasks).all()
    assert (batch.support.candidates == expected.support.candidates).all()
    assert (batch.support.mask == expected.support.mask).all()
    assert (batch.query == expected.query).all()
    assert (batch.query_labels == expected.query_labels).all()
    assert (
        found.transposed().batch(7).query == EpisodeSampler(split, kind, **settings).batch(7).query
    ).all()


def test_transposed_lowers_the_shots_to_what_the_longest_history_allows(split: Split) -> None:
    rows = split.rows("train")
    longest = {
        "user": np.bincount(split.dataset.users[rows]).max(),
        "item": np.bincount(split.dataset.items[rows]).max(),
    }
    short: TaskKind = "user" if longest["user"] < longest["item"] else "item"
    assert longest["user"] != longest["item"]
    many = max(longest.values()) - 1
    found = EpisodeSampler(split, "item" if short == "user" else "user", int(many)).transposed()
    assert found.kind == short
    assert found.least == found.most == longest[short] - 1
    batch = found.batch(0)
    assert (batch.support.mask.sum(axis=1) == longest[short] - 1).all()
    assert (batch.query_observed & batch.query_mask).any(axis=1).all()


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


@given(
    lists=st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6),
    start=st.integers(0, 6),
    length=st.integers(0, 6),
)
def test_the_pairs_of_ragged_lists_are_their_values_with_the_number_of_the_list(
    lists: list[list[int]], start: int, length: int
) -> None:
    numbers = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    values = np.array([value for one in lists for value in one], np.int64)
    ragged = Ragged.group(numbers, values, len(lists))
    for part in (None, slice(start, start + length)):
        kept = lists if part is None else lists[part]
        rows, found = ragged.pairs(part)
        assert list(zip(rows.tolist(), found.tolist(), strict=True)) == [
            (row, value) for row, one in enumerate(kept) for value in one
        ]
