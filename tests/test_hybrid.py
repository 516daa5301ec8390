"""What both backends of the hybrid learner share: draws, contents, first weights, neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.attributes import Entities
from metarec.baselines import ItemKNN
from metarec.consumed import INTERACTIONS, Ledger, interactions_hash
from metarec.errors import LearnerError
from metarec.features import Features
from metarec.hybrid import (
    Interactions,
    Neighbours,
    Sizes,
    contents,
    first_encoder,
    first_tower,
    kept,
    ridge,
    rows_of,
    subsets,
    with_new_inputs,
)
from metarec.learner import Support, Training

USERS, ITEMS, NEW = 30, 20, 4


class Sampler:
    """The one thing that is asked of a sampler: how many shots it draws."""

    most = 6


def sizes(**more: Any) -> Sizes:
    small: dict[str, Any] = {
        "members": 2, "embedding_size": 3, "hidden_size": 4, "tower_size": 5, "dropout": 0.5,
        "tower_dropout": 0.5, "task_batch": 8, "pseudo_cold": 5, "text_weight": 1.0,
        "attributes": True,
    }  # fmt: skip
    return Sizes(**{**small, **more})


@pytest.fixture(scope="module")
def training() -> Training:
    """Users who each know a random half of the items but the last, which are new."""
    rng = np.random.default_rng(0)
    tasks, candidates = np.nonzero(rng.random((USERS, ITEMS - NEW)) < 0.5)
    items, values = np.nonzero(rng.random((ITEMS, 6)) < 0.3)
    return Training(
        kind="user",
        feedback="binary",
        tasks=tasks.astype(np.int32),
        candidates=candidates.astype(np.int32),
        labels=(rng.random(len(tasks)) < 0.6).astype(np.float32),
        n_tasks=USERS,
        n_candidates=ITEMS,
        known=np.unique(candidates).astype(np.int32),
        texts=("",) * ITEMS,
        features=Features(rng.normal(size=(ITEMS, 4)).astype(np.float32)),
        sampler=Sampler(),  # type: ignore[arg-type]
        entities=(Entities("people", items, values, 6),),
    )


def test_each_fit_says_what_it_consumed(training: Training) -> None:
    """So that the audit can tell whether it was meta-train."""
    seen = replace(training, ledger=Ledger())
    drawn = Interactions(seen, sizes())
    contents(seen, sizes(), drawn.likes)
    Neighbours(0.5, 3, 1.0).fit(seen)
    expected = interactions_hash(training.tasks, training.candidates, training.labels)
    found = {one.fit: one.hash for one in seen.ledger.entries if one.what == INTERACTIONS}
    assert found == dict.fromkeys(("batches of users", "contents", "neighbours"), expected)


def history(training: Training, user: int) -> dict[int, float]:
    rows = training.tasks == user
    pairs = zip(training.candidates[rows], training.labels[rows], strict=True)
    return {int(item): float(label) for item, label in pairs}


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=20), width=st.integers(1, 8),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_subset_has_distinct_places_below_its_count(
    counts: list[int], width: int, seed: int
) -> None:
    rng, of = np.random.default_rng(seed), np.array(counts)
    number = np.minimum(rng.integers(0, width + 1, len(of)), of)
    picked, mask = subsets(rng, of, number, width)
    assert mask.sum(axis=1).tolist() == number.tolist()
    for places, own, count in zip(picked, mask, counts, strict=True):
        assert len(set(places[own])) == own.sum()
        assert np.all(places[own] < count)


def test_every_subset_is_equally_likely() -> None:
    n = 6000
    picked, _ = subsets(np.random.default_rng(1), np.full(n, 4), np.full(n, 2), 3)
    _, found = np.unique(np.sort(picked[:, :2], axis=1), axis=0, return_counts=True)
    assert len(found) == 6
    assert np.abs(found - n / 6).max() < 5 * np.sqrt(n / 6), "five standard deviations"


@pytest.mark.parametrize("phase", ["warm", "cold"])
def test_a_batch_holds_histories_in_two_parts(phase: str, training: Training) -> None:
    known = Interactions(training, sizes())
    pasts = [history(training, user) for user in range(USERS)]
    for step in range(5):
        batch = known.warm(step) if phase == "warm" else known.cold(step, 4)
        items = known.known[batch.items]
        for place in np.ndindex(batch.mask.shape[:2]):
            rows = batch.support[place][batch.mask[place] == 1]
            support = {int(row % ITEMS): float(row // ITEMS) for row in rows}
            assert len(support) == len(rows)
            assert len(support) <= 6
            ranked = {int(item) for item in items[batch.asked[place]]}
            assert not ranked & support.keys()
            liked = {int(item) for item in items[batch.likes[place] == 1]}
            assert any(
                support.items() <= past.items()
                and liked == {item for item in ranked if past.get(item) == 1}
                for past in pasts
            ), "support and likes are of one user"
        if phase == "warm":
            assert len(items) == len(known.known)
            assert batch.asked.sum() == batch.asked.size - batch.mask.sum()
        else:
            assert len(items) == 5, "and all of them are ranked"
            assert batch.asked.all()


def test_a_draw_hangs_on_seed_and_step_alone(training: Training) -> None:
    first, again = (Interactions(training, sizes()).warm(3) for _ in range(2))
    other = Interactions(replace(training, seed=1), sizes()).warm(3)
    assert np.array_equal(first.support, again.support)
    assert np.array_equal(first.keep_hidden, again.keep_hidden)
    assert not np.array_equal(first.support, other.support)


def test_dropout_keeps_the_mean() -> None:
    found = kept(np.random.default_rng(0), (20000,), 0.25)
    assert set(np.unique(found)) == {np.float32(0), np.float32(1 / 0.75)}
    assert found.mean() == pytest.approx(1, abs=0.02)
    assert (kept(np.random.default_rng(0), (5,), 0.0) == 1).all()


def test_entities_tell_how_liked_their_other_items_are(training: Training) -> None:
    likes = Interactions(training, sizes()).likes
    found = contents(training, sizes(text_weight=0.0), likes)
    logs = np.log1p(likes) - np.log1p(likes).mean()
    (people,) = training.entities
    of = [set(people.values[people.items == item]) for item in range(ITEMS)]
    table = np.zeros((ITEMS, 4))
    for item in range(ITEMS):
        means, numbers = [], []
        for person in of[item]:
            others = [i for i in range(ITEMS - NEW) if i != item and person in of[i]]
            if others:
                means.append(sum(logs[i] for i in others) / (len(others) + 1))
                numbers.append(len(others))
        table[item] = sum(means), max(means, default=0), sum(numbers), len(of[item])
    known = table[: ITEMS - NEW]
    assert found == pytest.approx((table - known.mean(0)) / known.std(0), abs=1e-5)


def test_what_is_liked_of_an_item_itself_does_not_show_in_its_contents(training: Training) -> None:
    likes = Interactions(training, sizes()).likes
    alone = replace(
        training, entities=(Entities("people", np.arange(ITEMS), np.arange(ITEMS), ITEMS),)
    )
    found = contents(alone, sizes(text_weight=0.0), likes)
    assert np.ptp(found, axis=0) == pytest.approx(0), "nobody has another item"


def test_that_an_item_is_new_does_not_show_in_its_entities(training: Training) -> None:
    """A person without another known item is the same, whoever of the two is known."""
    likes = Interactions(training, sizes()).likes
    items, values = np.arange(ITEMS), np.arange(ITEMS)
    values[ITEMS - 1] = values[0] = 0
    people = replace(training, entities=(Entities("people", items, values, ITEMS),))
    found = contents(people, sizes(text_weight=0.0), likes)
    assert np.array_equal(found[1], found[ITEMS - 2])
    assert np.array_equal(found[1], found[0]), "known, with a new item beside it"
    assert not np.array_equal(found[1], found[ITEMS - 1]), "new, with a known item beside it"


def test_the_tower_begins_with_a_ridge_regression(training: Training) -> None:
    known = Interactions(training, sizes())
    content = contents(training, sizes(), known.likes)
    items = first_encoder(sizes(), known.likes, ITEMS, 0)["items"]
    first = first_tower(sizes(), content, known.known, known.likes, items, 0)
    rows = content[known.known].astype(np.float64)
    expected = np.linalg.solve(
        rows.T @ rows + 300 * np.eye(rows.shape[1]), rows.T @ items[1][:, :-1]
    )
    assert first["tower.linear.weight"][1][:, :-1] == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert not first["tower.1.weight"].any()


def test_new_items_get_input_embeddings_and_known_ones_keep_theirs(training: Training) -> None:
    known = Interactions(training, sizes())
    content = contents(training, sizes(), known.likes)
    before = first_encoder(sizes(), known.likes, ITEMS, 0)["user.in"]
    table = with_new_inputs(before, content, known.known).reshape(2, 2, ITEMS, 3)
    before = before.reshape(table.shape)
    assert np.array_equal(table[:, :, known.known], before[:, :, known.known])
    new = np.arange(ITEMS - NEW, ITEMS)
    expected = content[new] @ ridge(content[known.known], before[1, 0][known.known].astype(float))
    assert table[1, 0][new] == pytest.approx(expected, abs=1e-5)


def test_neighbours_are_those_of_item_knn_standardised(training: Training) -> None:
    neighbours, knn = Neighbours(0.5, 5, 2.0), ItemKNN(neighbours=5, shrinkage=2.0, prior="none")
    known = training.known
    meta = {"known": known, "content": np.zeros((ITEMS, 1)), **neighbours.fit(training)}
    # a like, a like of a new item, a dislike; one without a like
    support = Support(
        np.array([[2, ITEMS - 1, 5], [3, 0, 0]], np.int32),
        np.array([[1, 1, 0], [0, 1, 1]], np.float32),
        np.array([[True, True, True], [True, False, False]]),
    )
    found = neighbours.of(meta, support, ignore=False)
    assert found is not None
    plain = knn.score(knn.adapt(knn.fit(training), support), known)[0]
    assert found[0, known] == pytest.approx(0.5 * (plain - plain.mean()) / plain.std(), abs=1e-5)
    assert not found[0, ITEMS - NEW :].any()
    assert not found[1].any()
    blind = neighbours.of(meta, support, ignore=True)
    assert blind is not None
    assert not blind.any()
    assert Neighbours(0.0, 5, 2.0).of(meta, support, ignore=False) is None


def test_a_row_is_that_of_candidate_and_label() -> None:
    support = Support(
        np.array([[3, 4]], np.int32), np.array([[1, np.nan]], np.float32), np.array([[True, False]])
    )
    rows, mask = rows_of(support, 10, ignore=False)
    assert rows.tolist() == [[13, 0]]
    assert mask.tolist() == [[1, 0]]
    assert not rows_of(support, 10, ignore=True)[1].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 0}, "learner.members=0 must be at least 1"),
        ({"dropout": 1.0}, "learner.dropout=1.0: a share in"),
        ({"text_weight": 0.0, "attributes": False}, "leaves nothing to know a new item by"),
    ],
)
def test_sizes_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LearnerError, match=message):
        sizes(**arguments)


def test_without_text_something_else_has_to_be_known(training: Training) -> None:
    likes = Interactions(training, sizes()).likes
    with pytest.raises(LearnerError, match=r"leave learner\.text_weight above 0"):
        contents(replace(training, entities=()), sizes(text_weight=0.0), likes)
