"""A frozen BERT that turns texts into vectors: the first of the three depths of BERT."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float32, Int32, Int64

from metarec.errors import TextError, did_you_mean
from metarec.jax.bert import BertConfig, Parameters, apply, load
from metarec.text.checkpoint import DEFAULT, Checkpoint, resolve
from metarec.text.store import check_texts

POOLINGS = ("cls", "mean")

BLOCK = 32
"""Texts that a compiled program takes, less padding: few, so that texts of similar length share a
block, and enough for full matrix products."""

_EPSILON = 1e-12


class BertEncoder:
    """Encodes each text on its own by a pretrained BERT whose weights stay as they are.

    The twin of `metarec.torch.encoder.BertEncoder`: the same vectors within 1e-5, hence the same
    feature key. Tokenizer and weights are read when they are first needed: where a feature store
    has all that is asked for, neither is.

    Args:
        checkpoint: as `metarec.text.resolve` returns it, or what that takes; its architecture is
            BERT.
        pooling: `mean` of the token states, padding left out, special tokens included
            (Sentence-BERT, Reimers and Gurevych 2019, section 3), or the state of the first token,
            `cls`.
        max_length: tokens kept of a text, special tokens included.
        normalise: whether vectors are scaled to length 1.
        device: `auto` (the first that JAX finds: CUDA where there is one), `cpu`, `cuda` or such as
            `cuda:1`.

    Raises:
        TextError: if the checkpoint cannot be used or is no BERT, there is no such pooling or
            device, or `max_length` is more than the checkpoint has positions.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | str | Path = DEFAULT,
        pooling: str = "mean",
        max_length: int = 64,
        normalise: bool = True,
        device: str = "auto",
    ) -> None:
        self.checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else resolve(checkpoint)
        if pooling not in POOLINGS:
            raise TextError(f"there is no pooling {pooling!r}{did_you_mean(pooling, POOLINGS)}")
        self._config = BertConfig.read(self.checkpoint.folder)
        positions = self._config.max_position_embeddings
        if not 3 <= max_length <= positions:
            raise TextError(
                f"max_length is {max_length}; with checkpoint {self.checkpoint.name!r} it may be 3 "
                f"(one token between the special ones) to {positions}"
            )
        self.pooling = pooling
        self.max_length = max_length
        self.normalise = normalise
        self.device = _device(device)

    def __repr__(self) -> str:
        return (
            f"BertEncoder({self.checkpoint.name!r}, pooling={self.pooling!r}, "
            f"max_length={self.max_length}, normalise={self.normalise}, "
            f"device={str(self.device)!r})"
        )

    @property
    def embedding_size(self) -> int:
        """D, the length of a vector."""
        return self._config.hidden_size

    @property
    def settings(self) -> dict[str, str | int | bool]:
        """All that a vector depends on besides its text; device and framework are no part of it."""
        return {
            "checkpoint": self.checkpoint.content_hash,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "normalise": self.normalise,
            "dtype": "float32",
        }

    @property
    def feature_key(self) -> str:
        """SHA-256 of `settings`; the tokenizer's files are in the checkpoint's hash."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def token_lengths(self, texts: Sequence[str]) -> Int64[np.ndarray, " n"]:
        """Counts the tokens of texts before any is cut off.

        Args:
            texts: n texts.

        Returns:
            [n] number of tokens of each, special tokens included; above `max_length` where `encode`
            cuts.

        Raises:
            TextError: if an entry is no text.
        """
        return np.array([len(tokens) for tokens in self._tokenise(texts, cut=False)], np.int64)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Number of texts that `encode` cuts off at `max_length` tokens."""
        return int((self.token_lengths(texts) > self.max_length).sum())

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Float32[np.ndarray, "n d"]:
        """Encodes texts, the longest first, in batches of similar length.

        A batch is computed in blocks of `BLOCK` texts, padded to the next of `bucket_lengths`, so
        that whatever the batch size there is one compiled program a bucket.

        Args:
            texts: n texts; "" is encoded from its special tokens alone.
            batch_size: texts handed to the device at once.

        Returns:
            [n, D] vectors, in the order of the texts.

        Raises:
            TextError: if an entry is no text, the checkpoint's weights do not fit its config, or
                its tokenizer not its vocabulary.
        """
        tokens = self._tokenise(texts, cut=True)
        longest_first = sorted(range(len(tokens)), key=lambda row: -len(tokens[row]))
        vectors = np.empty((len(tokens), self.embedding_size), np.float32)
        for start in range(0, len(tokens), batch_size):
            rows = longest_first[start : start + batch_size]
            vectors[rows] = self._encode_batch([tokens[row] for row in rows])
        return vectors

    def _tokenise(self, texts: Sequence[str], cut: bool) -> list[list[int]]:
        check_texts(texts)
        if not len(texts):
            return []
        limit = (
            {"truncation": True, "max_length": self.max_length} if cut else {"truncation": False}
        )
        encoded = self._tokenizer(
            list(texts),
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            # Says nothing of texts that are longer than the model: they are counted.
            verbose=False,
            **limit,
        )
        tokens: list[list[int]] = encoded["input_ids"]
        return tokens

    def _encode_batch(self, tokens: Sequence[Sequence[int]]) -> Float32[np.ndarray, "n d"]:
        program, parameters = self._program
        blocks = [
            program(parameters, *self._padded(tokens[start : start + BLOCK]))
            for start in range(0, len(tokens), BLOCK)
        ]
        # The device computes while the next block is padded; here it is waited for.
        return np.concatenate([np.asarray(block) for block in blocks])[: len(tokens)]

    def _padded(
        self, tokens: Sequence[Sequence[int]]
    ) -> tuple[Int32[np.ndarray, "block length"], Int32[np.ndarray, " block"]]:
        """Token numbers and lengths of a block; rows that no text fills have a length of 1."""
        longest = max(len(row) for row in tokens)
        bucket = next(length for length in self._buckets if length >= longest)
        ids = np.full((BLOCK, bucket), self._tokenizer.pad_token_id or 0, np.int32)
        lengths = np.ones(BLOCK, np.int32)
        for row, numbers in enumerate(tokens):
            ids[row, : len(numbers)] = numbers
            lengths[row] = len(numbers)
        # JAX would not say so: it makes NaN.
        if (most := ids.max()) >= self._config.vocab_size:
            raise TextError(
                f"the tokenizer in checkpoint folder {self.checkpoint.folder} has token {most}, "
                f"and config.json a vocab_size of {self._config.vocab_size}; place the tokenizer "
                "of the same checkpoint in it"
            )
        return ids, lengths

    @cached_property
    def _buckets(self) -> tuple[int, ...]:
        return bucket_lengths(self.max_length)

    @cached_property
    def _tokenizer(self) -> Any:
        # Seconds of import, which nothing else here needs.
        from transformers import AutoTokenizer

        folder = self.checkpoint.folder
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
        except (OSError, ValueError, KeyError) as error:
            raise TextError(
                f"the tokenizer in checkpoint folder {folder} cannot be loaded ({error}); copy "
                "tokenizer.json or vocab.txt, and tokenizer_config.json, from the source again"
            ) from error

    @cached_property
    def _program(self) -> tuple[Callable[..., Array], Parameters]:
        """Jitted `(parameters, ids, lengths) -> vectors`, and the parameters on the device."""
        graph, parameters = load(self.checkpoint.folder)

        @jax.jit
        def encode(
            parameters: Parameters, ids: Int32[Array, "n length"], lengths: Int32[Array, " n"]
        ) -> Float32[Array, "n d"]:
            mask = jnp.arange(ids.shape[1]) < lengths[:, None]
            states = apply(graph, parameters, ids, mask).last_hidden_state
            vectors = pool(states, mask, self.pooling)
            if self.normalise:
                norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
                vectors = vectors / jnp.maximum(norm, _EPSILON)
            return vectors

        return encode, jax.device_put(parameters, self.device)


def pool(
    states: Float32[Array, "n length d"], mask: Bool[Array, "n length"], pooling: str
) -> Float32[Array, "n d"]:
    """Makes one vector of the token states of each text.

    Args:
        states: [n, L, D] last hidden states.
        mask: [n, L] True where there is a token, False on padding.
        pooling: `cls`, the first state, or `mean`, `sum_l mask_l h_l / sum_l mask_l`.

    Returns:
        [n, D] vectors.
    """
    if pooling == "cls":
        return states[:, 0]
    weight = mask.astype(states.dtype)[..., None]
    return (states * weight).sum(axis=1) / weight.sum(axis=1)


def bucket_lengths(max_length: int) -> tuple[int, ...]:
    """The lengths that texts are padded to: steps of a quarter of a power of two, at least 2.

    Args:
        max_length: the most tokens of a text.

    Returns:
        Lengths in rising order, the last of which is `max_length`: 4, 6, …, 16, 20, …, 32, 40, ….
    """
    lengths = [4]
    while lengths[-1] < max_length:
        power = 1 << (lengths[-1].bit_length() - 1)
        lengths.append(lengths[-1] + max(2, power // 4))
    return (*(length for length in lengths if length < max_length), max_length)


def _device(name: str) -> jax.Device:
    if name == "auto":
        return jax.local_devices()[0]
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number or "0").isdecimal():
        raise TextError(f"there is no device {name!r}; use auto, cpu or cuda")
    try:
        return jax.local_devices(backend=kind)[int(number or 0)]
    except (RuntimeError, IndexError) as error:
        raise TextError(
            f"device {name!r}: JAX finds no {'CUDA' if kind == 'cuda' else 'such'} device on this "
            "machine; use auto or cpu, or install JAX for it (pip install 'metarec[cuda]')"
        ) from error
