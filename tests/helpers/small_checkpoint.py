"""A checkpoint that is small enough to be looked into, with weights drawn at random."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from metarec.text.checkpoint import Checkpoint
from metarec.text.tokens import EncoderSettings

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@functools.cache
def small_encoder(words: tuple[str, ...], max_length: int = 8) -> EncoderSettings:
    """A BERT of two layers of two heads, 6 wide, whose tokenizer knows some words.

    As wide as the features of the tests of contracts, which it is said to have made.
    """
    from transformers import BertConfig, BertModel

    folder = Path(tempfile.mkdtemp(prefix="metarec-bert-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_vocabulary(folder, words)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(words), hidden_size=6, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=8, max_position_embeddings=40,
        initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return EncoderSettings(Checkpoint(folder, "small", "0" * 64), max_length=max_length)


def write_vocabulary(folder: Path, words: Sequence[str]) -> None:
    """The tokenizer's file."""
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *words]) + "\n")
