"""A frozen BERT that turns texts into vectors: the first of the three depths of BERT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float32, Int32, Int64

from metarec.errors import LearnerError, TextError
from metarec.jax.bert import BertConfig, Parameters, apply, load
from metarec.jax.compiled import compiled
from metarec.jax.devices import choose_devices
from metarec.text.checkpoint import DEFAULT, Checkpoint, resolve
from metarec.text.tokens import EPSILON, EncoderSettings, Tokenizer, encode_by_length

BLOCK = 32
"""Texts that a compiled program takes, less padding: few, so that texts of similar length share a
block, and enough for full matrix products."""


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
        found = checkpoint if isinstance(checkpoint, Checkpoint) else resolve(checkpoint)
        # The first to read config.json: it says what is wrong with one.
        self._config = BertConfig.read(found.folder)
        self._settings = EncoderSettings(found, pooling, max_length, normalise)
        self._tokenizer = Tokenizer(found.folder, max_length)
        self.device = _device(device)

    def __repr__(self) -> str:
        return (
            f"BertEncoder({self.checkpoint.name!r}, pooling={self.pooling!r}, "
            f"max_length={self.max_length}, normalise={self.normalise}, "
            f"device={str(self.device)!r})"
        )

    @property
    def checkpoint(self) -> Checkpoint:
        """Where tokenizer and weights are."""
        return self._settings.checkpoint

    @property
    def pooling(self) -> str:
        """`mean` or `cls`."""
        return self._settings.pooling

    @property
    def max_length(self) -> int:
        """Tokens kept of a text, special tokens included."""
        return self._settings.max_length

    @property
    def normalise(self) -> bool:
        """Whether vectors are scaled to length 1."""
        return self._settings.normalise

    @property
    def embedding_size(self) -> int:
        """D, the length of a vector."""
        return self._settings.embedding_size

    @property
    def settings(self) -> dict[str, str | int | bool]:
        """All that a vector depends on besides its text; device and framework are no part of it."""
        return self._settings.as_dict()

    @property
    def feature_key(self) -> str:
        """SHA-256 of `settings`; the tokenizer's files are in the checkpoint's hash."""
        return self._settings.feature_key

    def token_lengths(self, texts: Sequence[str]) -> Int64[np.ndarray, " n"]:
        """Returns [n] number of tokens of each text before any is cut off (`Tokenizer.lengths`)."""
        return self._tokenizer.lengths(texts)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Number of texts that `encode` cuts off at `max_length` tokens."""
        return self._tokenizer.count_truncated(texts)

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
            TextError: if an entry is no text, `batch_size` is not positive, the checkpoint's
                weights do not fit its config, or its tokenizer not its vocabulary.
        """
        tokens = self._tokenizer.tokenise(texts)
        return encode_by_length(tokens, batch_size, self._encode_batch, self.embedding_size)

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
    ) -> tuple[Int32[np.ndarray, "block bucket"], Int32[np.ndarray, " block"], int]:
        """Token numbers and lengths of a block, and its bucket; empty rows have a length of 1."""
        longest = max(len(row) for row in tokens)
        bucket = next(length for length in self._buckets if length >= longest)
        ids = np.full((BLOCK, bucket), self._tokenizer.padding, np.int32)
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
        return ids, lengths, bucket

    @cached_property
    def _buckets(self) -> tuple[int, ...]:
        return bucket_lengths(self.max_length)

    @cached_property
    def _program(self) -> tuple[Callable[..., Array], Parameters]:
        """Compiled `(parameters, ids, lengths, bucket) -> vectors`; parameters on the device."""
        graph, parameters = load(self.checkpoint.folder)

        # The graph is closed over: as a static argument it would be hashed for each block, which
        # takes half a millisecond.
        def encode(
            parameters: Parameters,
            ids: Int32[Array, "n length"],
            lengths: Int32[Array, " n"],
            bucket: int,
        ) -> Float32[Array, "n d"]:
            mask = jnp.arange(bucket) < lengths[:, None]
            states = apply(graph, parameters, ids, mask).last_hidden_state
            vectors = pool(states, mask, self.pooling)
            if self.normalise:
                norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
                vectors = vectors / jnp.maximum(norm, EPSILON)
            return vectors

        # The bucket, although it is the shape of `ids`, is static: another bucket is meant to be
        # another program, and a second one for the same bucket is a recompilation.
        program = compiled(encode, static=("bucket",))
        return program, jax.device_put(parameters, self.device)


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
    kind, _, number = name.partition(":")
    # JAX has more names, such as tpu; the twin in PyTorch has these.
    if name != "auto" and (kind not in ("cpu", "cuda") or not (number or "0").isdecimal()):
        raise TextError(f"there is no device {name!r}; use auto, cpu or cuda")
    try:
        found: jax.Device = choose_devices(name).first
    except LearnerError as error:
        raise TextError(
            f"device {name!r}: JAX finds no {'CUDA' if kind == 'cuda' else 'such'} device on this "
            "machine; use auto or cpu, or install JAX for it (pip install 'metarec[cuda]')"
        ) from error
    return found
