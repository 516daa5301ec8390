"""What an encoder of texts does in any framework: settings, tokens, and batches by length."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from metarec.errors import TextError, did_you_mean
from metarec.text.checkpoint import Checkpoint
from metarec.text.store import check_texts

POOLINGS = ("cls", "mean")

EPSILON = 1e-12
"""The least that a vector is divided by when it is scaled to length 1."""

# One token between the special ones.
_SHORTEST = 3

_COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "data2vec-text")
"""Types of models whose first position is the one behind the number of their padding."""


@dataclass(frozen=True)
class EncoderSettings:
    """All that the vector of a text depends on besides the text; device and framework are no part.

    Args:
        checkpoint: as `metarec.text.resolve` returns it.
        pooling: `mean` of the token states, padding left out, special tokens included
            (Sentence-BERT, Reimers and Gurevych 2019, section 3), or the state of the first token,
            `cls`.
        max_length: tokens kept of a text, special tokens included.
        normalise: whether vectors are scaled to length 1.

    Attributes:
        embedding_size: D, the length of a vector, from the checkpoint's config.json.

    Raises:
        TextError: if there is no such pooling, or `max_length` is less than 3 or more than the
            checkpoint has positions.
    """

    checkpoint: Checkpoint
    pooling: str = "mean"
    max_length: int = 64
    normalise: bool = True
    embedding_size: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise TextError(
                f"there is no pooling {self.pooling!r}{did_you_mean(self.pooling, POOLINGS)}"
            )
        file = self.checkpoint.folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        positions = config.get("max_position_embeddings", self.max_length)
        if config.get("model_type") in _COUNT_FROM_PADDING:
            positions -= int(config.get("pad_token_id", 1)) + 1
        if not _SHORTEST <= self.max_length <= positions:
            raise TextError(
                f"max_length is {self.max_length}; with checkpoint {self.checkpoint.name!r} it may "
                f"be {_SHORTEST} (one token between the special ones) to {positions}"
            )
        object.__setattr__(self, "embedding_size", int(config["hidden_size"]))

    def as_dict(self) -> dict[str, str | int | bool]:
        """Returns the settings as JSON can write them, the checkpoint by the hash of its content.

        What is in it names the vectors in every feature store: another key, or another spelling of
        a value, and all of them are encoded again.
        """
        return {
            "checkpoint": self.checkpoint.content_hash,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "normalise": self.normalise,
            "dtype": "float32",
        }

    @property
    def feature_key(self) -> str:
        """SHA-256 of `as_dict()`; the tokenizer's files are in the checkpoint's hash."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Pair:
    """Two texts in one sequence.

    Args:
        tokens: token numbers, special tokens included.
        types: 0 for each token of the first text and 1 for each of the second; None where the
            checkpoint does not tell them apart.
    """

    tokens: list[int]
    types: list[int] | None = None


_REMEMBERED = 100_000
"""Items whose cut texts are kept."""


class Tokenizer:
    """The tokenizer of a checkpoint, which is read when it is first needed; threads may share it.

    Args:
        folder: of the checkpoint.
        max_length: tokens kept of a text, special tokens included.
    """

    def __init__(self, folder: Path, max_length: int) -> None:
        self.folder = folder
        self.max_length = max_length
        self._short: dict[str, str] = {}
        # the library keeps where it cuts off as a state of the tokenizer
        self._alone = threading.RLock()

    @property
    def padding(self) -> int:
        """The number of the token that fills up a batch; 0 where the tokenizer has none."""
        return self._loaded.pad_token_id or 0

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Makes token numbers of texts, cut off at `max_length`.

        Args:
            texts: n texts; "" is its special tokens alone.

        Returns:
            For each text its token numbers, special tokens included, without padding.

        Raises:
            TextError: if an entry is no text, or the tokenizer cannot be loaded.
        """
        return self._tokenise(texts, truncation=True, max_length=self.max_length)

    def tokenise_pairs(self, users: Sequence[str], items: Sequence[str]) -> list[Pair]:
        """Makes token numbers of a user's and an item's text in one sequence, the item whole.

        What is beyond `max_length` is cut off at the end of the user's text. An item that leaves no
        room for a user is cut off too, as it would be alone.

        Args:
            users: n texts.
            items: n texts.

        Returns:
            For each pair its token numbers, special tokens included, without padding, and what part
            each token is of, where the checkpoint tells them apart.

        Raises:
            TextError: if an entry is no text, or the tokenizer cannot be loaded.
        """
        check_texts(users)
        check_texts(items)
        if not len(users):
            return []
        if not self._loaded.is_fast:
            raise TextError(
                f"the tokenizer of checkpoint folder {self.folder} is one in Python "
                f"({type(self._loaded).__name__}), which does not say where a pair may be cut off: "
                "choose learner.reads=bi, or a checkpoint with tokenizer.json"
            )
        with self._alone:
            room = self.max_length - int(self._loaded.num_special_tokens_to_add(pair=True))
            encoded = self._loaded(
                list(users),
                [self._shortened(item, room) for item in items],
                truncation="only_first",
                max_length=self.max_length,
                padding=False,
                return_attention_mask=False,
                verbose=False,
            )
        tokens = encoded["input_ids"]
        types = encoded.get("token_type_ids", [None] * len(tokens))
        return [Pair(*pair) for pair in zip(tokens, types, strict=True)]

    def _shortened(self, item: str, room: int) -> str:
        """The text as far as so many tokens reach, which leave one for a user's text."""
        if (found := self._short.get(item)) is None:
            if len(self._short) >= _REMEMBERED:
                self._short.clear()
            room = max(room - 1, 0)
            cut = self._loaded(
                item, truncation=True, max_length=room, add_special_tokens=False,
                return_offsets_mapping=True, verbose=False,
            )  # fmt: skip
            ends = sorted({end for _, end in cut["offset_mapping"]} | {0}, reverse=True)
            found = item[: ends[0]]
            # A character of several tokens, cut within, takes more of them: one less, until it fits
            while len(cut["input_ids"]) == room and self._length(found) > room:
                found = item[: ends[ends.index(len(found)) + 1]]
            self._short[item] = found
        return found

    def _length(self, text: str) -> int:
        """Tokens of a text alone, without special ones."""
        return len(self._loaded(text, add_special_tokens=False, verbose=False)["input_ids"])

    def lengths(self, texts: Sequence[str]) -> Int64[np.ndarray, " n"]:
        """Counts the tokens of texts before any is cut off.

        Args:
            texts: n texts.

        Returns:
            [n] number of tokens of each, special tokens included; above `max_length` where
            `tokenise` cuts.

        Raises:
            TextError: if an entry is no text, or the tokenizer cannot be loaded.
        """
        tokens = self._tokenise(texts, truncation=False)
        return np.array([len(row) for row in tokens], np.int64)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Number of texts that `tokenise` cuts off; see `lengths`."""
        return int((self.lengths(texts) > self.max_length).sum())

    def _tokenise(self, texts: Sequence[str], **limit: Any) -> list[list[int]]:
        check_texts(texts)
        if not len(texts):
            return []
        with self._alone:
            encoded = self._loaded(
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

    @cached_property
    def _loaded(self) -> Any:
        # Seconds of import, which nothing else here needs.
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, use_fast=True)
        except (OSError, ValueError, KeyError) as error:
            raise TextError(
                f"the tokenizer in checkpoint folder {self.folder} cannot be loaded ({error}); "
                "copy tokenizer.json or vocab.txt, and tokenizer_config.json, from the source again"
            ) from error


def encode_by_length(
    tokens: Sequence[Sequence[int]],
    batch_size: int,
    encode_batch: Callable[[list[Sequence[int]]], Float32[np.ndarray, "rows d"]],
    embedding_size: int,
) -> Float32[np.ndarray, "n d"]:
    """Encodes tokenised texts, the longest first, in batches of similar length.

    So little is padded, and what does not fit into memory shows at once.

    Args:
        tokens: the token numbers of n texts.
        batch_size: texts in a batch; the last may have fewer.
        encode_batch: makes [rows, D] vectors of the token numbers of a batch, whose longest text
            comes first; texts of the same length keep their order.
        embedding_size: D, the length of a vector.

    Returns:
        [n, D] vectors, in the order of `tokens`; without texts [0, D].

    Raises:
        TextError: if `batch_size` is not positive.
    """
    if batch_size < 1:
        raise TextError(f"batch_size is {batch_size}; it must be at least 1")
    longest_first = sorted(range(len(tokens)), key=lambda row: -len(tokens[row]))
    vectors = np.empty((len(tokens), embedding_size), np.float32)
    for start in range(0, len(tokens), batch_size):
        rows = longest_first[start : start + batch_size]
        vectors[rows] = encode_batch([tokens[row] for row in rows])
    return vectors
