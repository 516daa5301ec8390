"""A BERT that is small enough to be looked into."""

from __future__ import annotations

import pytest
import torch

from metarec.text.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint of three layers of two heads, 16 and 24 wide, 11 tokens, drawn at random."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=8, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return Checkpoint(folder, "small", "0" * 64)
