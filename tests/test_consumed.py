from __future__ import annotations

import time

import numpy as np
import pytest

from metarec.consumed import Ledger, indices_hash, interactions_hash


@pytest.fixture
def triples() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    users, items = (rng.integers(0, 50, 200).astype(np.int32) for _ in range(2))
    return users, items, rng.integers(0, 2, 200).astype(np.float32)


def test_neither_order_nor_kind_of_task_nor_dtype_changes_the_hash(
    triples: tuple[np.ndarray, ...],
) -> None:
    users, items, labels = triples
    order = np.random.default_rng(1).permutation(len(users))
    ledger = Ledger()
    ledger.interactions("one", "user", users, items, labels)
    ledger.interactions("one", "item", items[order], users[order], labels[order])
    ledger.interactions("one", "user", users.astype(np.int64), items, labels.astype(np.float64))
    (entry,) = ledger.entries
    assert (entry.fit, entry.what, entry.count) == ("one", "interactions", 200)
    assert entry.hash == interactions_hash(users, items, labels)


@pytest.mark.parametrize("side", [0, 1, 2])
def test_every_user_item_and_label_is_in_the_hash(
    triples: tuple[np.ndarray, ...], side: int
) -> None:
    changed = [array.copy() for array in triples]
    changed[side][7] += 1
    assert interactions_hash(*changed) != interactions_hash(*triples)
    assert interactions_hash(*(array[1:] for array in triples)) != interactions_hash(*triples)
    assert indices_hash(np.array([2, 1])) == indices_hash(np.array([1, 2], np.int32))


def test_a_fit_that_consumes_two_things_has_two_entries(triples: tuple[np.ndarray, ...]) -> None:
    ledger = Ledger()
    ledger.interactions("popularity", "user", *triples)
    ledger.interactions("popularity", "user", *(array[1:] for array in triples))
    assert [entry.count for entry in ledger.entries] in ([199, 200], [200, 199])
    assert Ledger(ledger.entries).entries == ledger.entries


def test_a_million_interactions_are_noted_in_a_second() -> None:
    rng = np.random.default_rng(0)
    users, items = (rng.integers(0, 6000, 1_000_000).astype(np.int32) for _ in range(2))
    labels = np.ones(len(users), np.float32)
    ledger = Ledger()
    begin = time.perf_counter()
    for fit in ("learner", "popularity", "normaliser"):
        ledger.interactions(fit, "user", users, items, labels)
    # half of it on a quiet core
    assert time.perf_counter() - begin < 2
    assert len({entry.hash for entry in ledger.entries}) == 1
