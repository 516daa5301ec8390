"""The frozen prefix of texts: computed once, kept within a budget, in memory or on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarec.errors import LearnerError
from metarec.text.checkpoint import Checkpoint
from metarec.torch.adapted_bert import AdaptedBert, AdaptedPart
from metarec.torch.prefix_cache import MEBIBYTE, PrefixCache

SIZE = 16
TOKENS = [[1, 5, 6, 2], [1, 2], [1, 7, 2], [1, 5, 6, 2], [1, 9, 8, 7, 2]]
DISTINCT = 14
"""Tokens of the distinct texts."""
EVERY = np.arange(len(TOKENS), dtype=np.int32)


@pytest.fixture(scope="module")
def bert(small_bert: Checkpoint) -> AdaptedBert:
    return AdaptedBert(small_bert, AdaptedPart("last_n"), np.random.default_rng(0))


def test_the_states_are_those_of_the_frozen_layers(bert: AdaptedBert) -> None:
    cache = PrefixCache(bert, TOKENS, padding=0)
    found = cache(EVERY)
    assert found.values.shape == (5, 5, SIZE)
    for row, tokens in enumerate(TOKENS):
        ids = torch.tensor([tokens])
        alone = bert.prefix(ids, torch.ones_like(ids)).values[0]
        assert found.mask[row].tolist() == [1] * len(tokens) + [0] * (5 - len(tokens))
        torch.testing.assert_close(found.values[row, : len(tokens)], alone, atol=1e-5, rtol=0)


def test_texts_come_in_the_order_asked_for_padded_to_the_longest(bert: AdaptedBert) -> None:
    cache = PrefixCache(bert, TOKENS, padding=0)
    some, every = cache(np.array([2, 1, 2], np.int32)), cache(EVERY)
    assert some.mask.tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 1]]
    assert torch.equal(some.values[0], every.values[2, :3])
    assert torch.equal(some.values[0], some.values[2])


def test_a_text_that_occurs_twice_is_computed_and_kept_once(
    bert: AdaptedBert, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    prefix = AdaptedBert.prefix

    def counted(self: AdaptedBert, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        computed.append(len(ids))
        return prefix(self, ids, mask)

    monkeypatch.setattr(AdaptedBert, "prefix", counted)
    cache = PrefixCache(bert, TOKENS, padding=0)
    assert len(cache) == sum(computed) == 4
    assert cache.mebibytes == 4 * SIZE * DISTINCT / MEBIBYTE
    found = cache(EVERY)
    assert sum(computed) == 4
    assert torch.equal(found.values[0], found.values[3])


def test_what_memory_does_not_hold_lies_on_disk_and_is_found_again(
    bert: AdaptedBert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = PrefixCache(bert, TOKENS, padding=0)
    settings: dict[str, Any] = {"memory_mib": 0.0, "disk_mib": 1.0, "folder": tmp_path / "cache"}
    on_disk = PrefixCache(bert, TOKENS, 0, **settings)
    assert in_memory.file is None
    assert on_disk.file is not None
    assert [on_disk.file] == list((tmp_path / "cache").iterdir())
    assert torch.equal(on_disk(EVERY).values, in_memory(EVERY).values)

    def never(*arguments: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(AdaptedBert, "prefix", never)
    again = PrefixCache(bert, TOKENS, 0, **settings)
    assert torch.equal(again(EVERY).values, in_memory(EVERY).values)
    with pytest.raises(AssertionError, match="computed again"):
        PrefixCache(bert, TOKENS[:2], 0, **settings)
    assert [on_disk.file] == list((tmp_path / "cache").iterdir())


def test_more_than_both_budgets_is_an_error_that_names_the_size(bert: AdaptedBert) -> None:
    with pytest.raises(LearnerError, match=r"4 texts are 0 MiB.*cache_memory_mib=0 .*disk_mib=0"):
        PrefixCache(bert, TOKENS, padding=0, memory_mib=0.0)


def test_where_the_embeddings_adapt_token_numbers_are_kept(small_bert: Checkpoint) -> None:
    full = AdaptedBert(small_bert, AdaptedPart("full"), np.random.default_rng(0))
    cache = PrefixCache(full, TOKENS, padding=0, memory_mib=0.0)
    found = cache(EVERY)
    assert cache.mebibytes == 0
    assert found.values[2].tolist() == [1, 7, 2, 0, 0]
    states = full.states(full.initial, found)
    ids = torch.tensor([TOKENS[2]])
    alone = full.states(full.initial, full.prefix(ids, torch.ones_like(ids)))
    torch.testing.assert_close(states[2, :3], alone[0], atol=1e-5, rtol=0)
