"""A frozen BERT that turns texts into vectors: the first of the three depths of BERT."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from metarec.errors import TextError, did_you_mean
from metarec.text.checkpoint import DEFAULT, Checkpoint, resolve
from metarec.text.store import check_texts

POOLINGS = ("cls", "mean")

_EPSILON = 1e-12


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
        self.checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else resolve(checkpoint)
        if pooling not in POOLINGS:
            raise TextError(f"there is no pooling {pooling!r}{did_you_mean(pooling, POOLINGS)}")
        config = json.loads((self.checkpoint.folder / "config.json").read_text(encoding="utf-8"))
        positions = config.get("max_position_embeddings", max_length)
        if not 3 <= max_length <= positions:
            raise TextError(
                f"max_length is {max_length}; with checkpoint {self.checkpoint.name!r} it may be 3 "
                f"(one token between the special ones) to {positions}"
            )
        self.pooling = pooling
        self.max_length = max_length
        self.normalise = normalise
        self.device = _device(device)
        self._embedding_size = int(config["hidden_size"])

    def __repr__(self) -> str:
        return (
            f"BertEncoder({self.checkpoint.name!r}, pooling={self.pooling!r}, "
            f"max_length={self.max_length}, normalise={self.normalise}, "
            f"device={str(self.device)!r})"
        )

    @property
    def embedding_size(self) -> int:
        """D, the length of a vector."""
        return self._embedding_size

    @property
    def settings(self) -> dict[str, str | int | bool]:
        """All that a vector depends on besides its text; the device is no part of it."""
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

        Args:
            texts: n texts; "" is encoded from its special tokens alone.
            batch_size: texts encoded at once.

        Returns:
            [n, D] vectors, in the order of the texts.

        Raises:
            TextError: if an entry is no text, or the checkpoint's weights do not fit its config.
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

    @torch.inference_mode()
    def _encode_batch(self, tokens: Sequence[Sequence[int]]) -> Float32[np.ndarray, "n d"]:
        shape = len(tokens), max(len(row) for row in tokens)
        padded = torch.full(shape, self._tokenizer.pad_token_id or 0)
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
            vectors = torch.nn.functional.normalize(vectors, dim=-1, eps=_EPSILON)
        result: np.ndarray = vectors.float().cpu().numpy()
        return result

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
    def _model(self) -> Any:
        from transformers import AutoModel
        from transformers.utils import logging

        folder = self.checkpoint.folder
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        verbosity = logging.get_verbosity()
        # Its report of unused weights (a pooler, a language model's head) is no news here, and that
        # of missing ones is an error below.
        logging.set_verbosity_error()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                model, loaded = AutoModel.from_pretrained(
                    folder,
                    attn_implementation="sdpa",
                    use_safetensors=True,
                    local_files_only=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise TextError(
                f"checkpoint folder {folder} cannot be loaded ({error}); config.json and the "
                "weights must be of one checkpoint"
            ) from error
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
        # transformers would fill these in at random.
        missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
        wrong = sorted(str(key) for key in loaded["mismatched_keys"])
        if missing or wrong:
            raise TextError(
                f"the weights in checkpoint folder {folder} do not fit its config.json: "
                f"{len(missing)} missing, {len(wrong)} of another shape, such as "
                f"{(missing + wrong)[0]}; place weights and config of one checkpoint in it"
            )
        return model.eval().requires_grad_(False).to(self.device)


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
