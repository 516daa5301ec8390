"""The frozen prefix of texts: computed once, kept within a budget, in memory or on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarec.errors import LearnerError
from metarec.text.checkpoint import Checkpoint
from metarec.text.tokens import Pair
from metarec.torch.adapted_bert import AdaptedBert
from metarec.torch.adapted_part import AdaptedPart
from metarec.torch.prefix_cache import BATCH, MEBIBYTE, PairCache, PrefixCache, padded
from metarec.torch.text_batches import Prefix, Texts

SIZE = 16
TOKENS = [[1, 5, 6, 2], [1, 2], [1, 7, 2], [1, 5, 6, 2], [1, 9, 8, 7, 2]]
DISTINCT = 14
"""Tokens of the distinct texts."""
EVERY = np.arange(len(TOKENS), dtype=np.int32)


def values_of(texts: Texts) -> torch.Tensor:
    """Of texts that are one batch, in their order."""
    (batch,) = texts.batches
    return batch.values[texts.order]


def mask_of(texts: Texts) -> torch.Tensor:
    (batch,) = texts.batches
    return batch.mask[texts.order]


def by_itself(bert: AdaptedBert, tokens: list[int], types: list[int] | None = None) -> torch.Tensor:
    return bert.prefix(padded([tokens], 0, None if types is None else [types])).values[0]


@pytest.fixture(scope="module")
def bert(small_bert: Checkpoint) -> AdaptedBert:
    return AdaptedBert(small_bert, AdaptedPart("last_n"), np.random.default_rng(0))


def test_the_states_are_those_of_the_frozen_layers(bert: AdaptedBert) -> None:
    cache = PrefixCache(bert, TOKENS, padding=0)
    found = cache(EVERY)
    values, mask = values_of(found), mask_of(found)
    assert values.shape == (5, 5, SIZE)
    for row, tokens in enumerate(TOKENS):
        alone = by_itself(bert, tokens)
        assert mask[row].tolist() == [1] * len(tokens) + [0] * (5 - len(tokens))
        torch.testing.assert_close(values[row, : len(tokens)], alone, atol=1e-5, rtol=0)


def test_texts_come_in_the_order_asked_for_padded_to_the_longest(bert: AdaptedBert) -> None:
    cache = PrefixCache(bert, TOKENS, padding=0)
    some, every = cache(np.array([2, 1, 2], np.int32)), cache(EVERY)
    assert mask_of(some).tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 1]]
    assert torch.equal(values_of(some)[0], values_of(every)[2, :3])
    assert torch.equal(values_of(some)[0], values_of(some)[2])


def test_many_texts_come_in_batches_of_similar_length(bert: AdaptedBert) -> None:
    cache = PrefixCache(bert, TOKENS, padding=0)
    texts = cache(np.tile(EVERY, BATCH).astype(np.int32))
    assert len(texts) == 5 * BATCH
    assert [len(batch.mask) for batch in texts.batches] == [BATCH] * 5
    assert [batch.mask.shape[1] for batch in texts.batches] == [5, 4, 4, 3, 2]
    pooled = bert.pooled(bert.initial, texts, "mean")
    torch.testing.assert_close(pooled[5:10], pooled[:5])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts of each batch whose frozen layers are computed."""
    sizes: list[int] = []
    prefix = AdaptedBert.prefix

    def counted(self: AdaptedBert, batch: Prefix) -> Any:
        sizes.append(len(batch.mask))
        return prefix(self, batch)

    monkeypatch.setattr(AdaptedBert, "prefix", counted)
    return sizes


def test_a_text_that_occurs_twice_is_computed_and_kept_once(
    bert: AdaptedBert, calls: list[int]
) -> None:
    cache = PrefixCache(bert, TOKENS, padding=0)
    assert len(cache) == sum(calls) == 4
    assert cache.mebibytes == 4 * SIZE * DISTINCT / MEBIBYTE
    found = cache(EVERY)
    assert sum(calls) == 4
    assert torch.equal(values_of(found)[0], values_of(found)[3])


def test_what_memory_does_not_hold_lies_on_disk_and_is_found_again(
    bert: AdaptedBert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = PrefixCache(bert, TOKENS, padding=0)
    settings: dict[str, Any] = {"memory_mib": 0.0, "disk_mib": 1.0, "folder": tmp_path / "cache"}
    on_disk = PrefixCache(bert, TOKENS, 0, **settings)
    assert in_memory.file is None
    assert on_disk.file is not None
    assert [on_disk.file] == list((tmp_path / "cache").iterdir())
    assert torch.equal(values_of(on_disk(EVERY)), values_of(in_memory(EVERY)))

    def never(*arguments: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(AdaptedBert, "prefix", never)
    again = PrefixCache(bert, TOKENS, 0, **settings)
    assert torch.equal(values_of(again(EVERY)), values_of(in_memory(EVERY)))
    with pytest.raises(AssertionError, match="computed again"):
        PrefixCache(bert, TOKENS[:2], 0, **settings)
    assert [on_disk.file] == list((tmp_path / "cache").iterdir())


def test_more_than_both_budgets_is_an_error_that_names_the_size(bert: AdaptedBert) -> None:
    with pytest.raises(LearnerError, match=r"4 texts are 0 MiB.*cache_memory_mib=0 .*disk_mib=0"):
        PrefixCache(bert, TOKENS, padding=0, memory_mib=0.0)


def test_the_budget_on_disk_is_that_of_the_folder(bert: AdaptedBert, tmp_path: Path) -> None:
    size = DISTINCT * SIZE * 4 / MEBIBYTE
    settings: dict[str, Any] = {"memory_mib": 0.0, "folder": tmp_path}
    PrefixCache(bert, TOKENS, 0, **settings, disk_mib=1.5 * size)
    other = [[*row, 3] for row in TOKENS]
    with pytest.raises(LearnerError, match=r"allow beside the 0 MiB in .*remove what is kept"):
        PrefixCache(bert, other, 0, **settings, disk_mib=1.5 * size)
    assert len(list(tmp_path.iterdir())) == 1
    # what is there needs no more room
    assert len(PrefixCache(bert, TOKENS, 0, **settings, disk_mib=1.5 * size)) == 4


def test_states_of_another_attention_are_others(small_bert: Checkpoint, tmp_path: Path) -> None:
    """They differ by rounding: what a run computes may not depend on who ran before."""
    part = AdaptedPart("last_n")
    for attention in ("sdpa", "eager", "sdpa"):
        bert = AdaptedBert(small_bert, part, np.random.default_rng(0), attention)
        PrefixCache(bert, TOKENS, 0, memory_mib=0.0, disk_mib=1.0, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_where_the_embeddings_adapt_token_numbers_are_kept(small_bert: Checkpoint) -> None:
    full = AdaptedBert(small_bert, AdaptedPart("full"), np.random.default_rng(0))
    cache = PrefixCache(full, TOKENS, padding=0, memory_mib=0.0)
    found = cache(EVERY)
    assert cache.mebibytes == 0
    assert values_of(found)[2].tolist() == [1, 7, 2, 0, 0]
    pooled = full.pooled(full.initial, found, "mean")
    alone = full.states(full.initial, full.prefix(padded([TOKENS[2]], 0)))[0].mean(0)
    torch.testing.assert_close(pooled[2], alone, atol=1e-5, rtol=0)


PAIRS = [Pair([1, 5, 2, 6, 2], [0, 0, 0, 1, 1]), Pair([1, 2, 7, 8, 9, 2], [0, 0, 1, 1, 1, 1])]


def test_the_states_of_pairs_are_those_of_the_frozen_layers(bert: AdaptedBert) -> None:
    texts = PairCache(bert, padding=0)(PAIRS)
    values = values_of(texts)
    for row, pair in enumerate(PAIRS):
        alone = by_itself(bert, pair.tokens, pair.types)
        torch.testing.assert_close(values[row, : len(pair.tokens)], alone, atol=1e-5, rtol=0)


def test_pairs_without_types_are_read_as_one_text(bert: AdaptedBert) -> None:
    texts = PairCache(bert, padding=0)([Pair(pair.tokens) for pair in PAIRS])
    alone = by_itself(bert, PAIRS[0].tokens)
    torch.testing.assert_close(values_of(texts)[0, :5], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("memory_mib", "disk_mib", "computed"), [(1.0, 0.0, 1), (0.0, 1.0, 1), (0.0, 0.0, 2)]
)
def test_pairs_of_an_episode_are_computed_once_within_the_budgets(
    bert: AdaptedBert, tmp_path: Path, calls: list[int],
    memory_mib: float, disk_mib: float, computed: int,
) -> None:  # fmt: skip
    cache = PairCache(bert, 0, memory_mib, disk_mib, tmp_path if disk_mib else None)
    first, second = cache(PAIRS), cache(PAIRS)
    assert torch.equal(values_of(first), values_of(second))
    assert len(calls) == computed
    assert len(list(tmp_path.iterdir())) == (1 if disk_mib else 0)
    # another process, and other pairs
    cache = PairCache(bert, 0, memory_mib, disk_mib, tmp_path if disk_mib else None)
    assert torch.equal(values_of(cache(PAIRS)), values_of(first))
    assert len(calls) == computed + (0 if disk_mib else 1)
    cache(PAIRS[:1])
    assert len(calls) == computed + (1 if disk_mib else 2)


def test_of_pairs_in_memory_the_least_recently_used_give_way(
    bert: AdaptedBert, calls: list[int]
) -> None:
    first, second, third = ([Pair([2, word, 3], [0, 0, 1])] for word in (5, 6, 7))
    size = 4 * SIZE * 3 / MEBIBYTE
    cache = PairCache(bert, 0, memory_mib=2.5 * size)
    for pairs in (first, second, first, third):
        cache(pairs)
    assert len(calls) == 3
    cache(first)  # used later than the second, which gave way
    assert len(calls) == 3
    cache(second)
    assert len(calls) == 4


def test_on_a_full_disk_pairs_are_kept_in_memory_and_no_more_is_written(
    bert: AdaptedBert, tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def full(*_: object, **__: object) -> None:
        attempts.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.save", full)
    cache = PairCache(bert, 0, 1.0, 1.0, tmp_path)
    with pytest.warns(UserWarning, match=f"{tmp_path}.*No space left"):
        first = cache(PAIRS)
    assert torch.equal(values_of(cache(PAIRS)), values_of(first))
    cache(PAIRS[:1])
    assert (len(calls), len(attempts)) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def test_threads_may_ask_for_pairs_at_the_same_time(bert: AdaptedBert) -> None:
    """Room for two of six: each thread throws out what another is about to read."""
    asked = [[Pair([2, word, 3], [0, 0, 1])] for word in range(5, 11)]
    expected = [values_of(PairCache(bert, 0, 0.0)(pairs)) for pairs in asked]
    size = 4 * SIZE * 3 / MEBIBYTE
    cache = PairCache(bert, 0, memory_mib=2.5 * size)

    def ask(start: int) -> bool:
        places = [(start + step) % len(asked) for step in range(200)]
        return all(torch.equal(values_of(cache(asked[at])), expected[at]) for at in places)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))
    assert len(cache._kept) == 2
    assert cache._held == 2 * 4 * SIZE * 3


def test_processes_that_write_to_one_folder_share_its_budget(
    bert: AdaptedBert, tmp_path: Path
) -> None:
    size = 4 * SIZE * 3 / MEBIBYTE
    budget = {"memory_mib": 0.0, "disk_mib": 2.5 * (size + 128 / MEBIBYTE), "folder": tmp_path}
    caches = [PairCache(bert, 0, **budget) for _ in range(4)]
    for word, cache in enumerate(caches, start=5):
        cache([Pair([2, word, 3], [0, 0, 1])])
    assert len(list(tmp_path.iterdir())) == 2


def test_files_of_one_layer_are_no_other_layers(small_bert: Checkpoint, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in (AdaptedPart("last_n"), AdaptedPart("last_n", layers=2), AdaptedPart("head")):
        bert = AdaptedBert(small_bert, part, rng)
        PairCache(bert, 0, 0.0, 1.0, tmp_path)(PAIRS)
    assert len(list(tmp_path.iterdir())) == 3
    for kind in ("lora", "head"):
        # of a BERT whose last layer is computed in part, that layer is not kept
        bert = AdaptedBert(small_bert, AdaptedPart(kind), rng, first_only=True)
        PairCache(bert, 0, 0.0, 1.0, tmp_path)(PAIRS)
    assert len(list(tmp_path.iterdir())) == 3
