"""A frozen BERT that turns texts into vectors: the first of the three depths of BERT."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from metarec.errors import TextError
from metarec.text.checkpoint import DEFAULT, Checkpoint, resolve
from metarec.text.tokens import EPSILON, EncoderSettings, Tokenizer, encode_by_length
from metarec.torch.bert import load


class BertEncoder:
    """Encodes each text on its own by a pretrained BERT whose weights stay as they are.

    Tokenizer and weights are read when they are first needed: where a feature store has all that is
    asked for, neither is. Any checkpoint of transformers' `AutoModel` with token states works.

    Args:
        checkpoint: as `metarec.text.resolve` returns it, or what that takes.
        pooling: `mean` of the token states, padding left out, special tokens included
            (Sentence-BERT, Reimers and Gurevych 2019, section 3), or the state of the first token,
            `cls`.
        max_length: tokens kept of a text, special tokens included.
        normalise: whether vectors are scaled to length 1.
        device: `auto` (CUDA where there is one), or a torch device.

    Raises:
        TextError: if the checkpoint cannot be used, there is no such pooling or device, or
            `max_length` is more than the checkpoint has positions.
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

        Args:
            texts: n texts; "" is encoded from its special tokens alone.
            batch_size: texts encoded at once.

        Returns:
            [n, D] vectors, in the order of the texts.

        Raises:
            TextError: if an entry is no text, `batch_size` is not positive, or the checkpoint's
                weights do not fit its config.
        """
        tokens = self._tokenizer.tokenise(texts)
        return encode_by_length(tokens, batch_size, self._encode_batch, self.embedding_size)

    @torch.inference_mode()
    def _encode_batch(self, tokens: Sequence[Sequence[int]]) -> Float32[np.ndarray, "n d"]:
        shape = len(tokens), max(len(row) for row in tokens)
        padded = torch.full(shape, self._tokenizer.padding)
        mask = torch.zeros(shape, dtype=torch.int64)
        for row, ids in enumerate(tokens):
            padded[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        mask = mask.to(self.device)
        states = self._model(
            input_ids=padded.to(self.device), attention_mask=mask
        ).last_hidden_state
        vectors = pool(states, mask, self.pooling)
        if self.normalise:
            vectors = torch.nn.functional.normalize(vectors, dim=-1, eps=EPSILON)
        result: np.ndarray = vectors.float().cpu().numpy()
        return result

    @cached_property
    def _model(self) -> Any:
        return load(self.checkpoint.folder).to(self.device)


def pool(
    states: Float32[torch.Tensor, "n length d"], mask: Int64[torch.Tensor, "n length"], pooling: str
) -> Float32[torch.Tensor, "n d"]:
    """Makes one vector of the token states of each text.

    Args:
        states: [n, L, D] last hidden states.
        mask: [n, L] 1 where there is a token, 0 on padding.
        pooling: `cls`, the first state, or `mean`, `sum_l mask_l h_l / sum_l mask_l`.

    Returns:
        [n, D] vectors.
    """
    if pooling == "cls":
        return states[:, 0]
    weight = mask.to(states.dtype)[..., None]
    return (states * weight).sum(dim=1) / weight.sum(dim=1)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TextError(f"there is no device {name!r}; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TextError(f"device {name!r}: this machine has no CUDA device; use auto or cpu")
    return device
