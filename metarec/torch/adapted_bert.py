"""A pretrained BERT of which a part adapts: the second of its three depths.

The layers below the lowest that adapts are frozen, so their token states are a function of the
text alone: `AdaptedBert.prefix` computes them once, and `AdaptedBert.states` goes on from there
with fast weights, as often as an inner loop asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from metarec.errors import LearnerError, did_you_mean
from metarec.text.checkpoint import Checkpoint
from metarec.torch.adapted_part import (
    AdaptedPart,
    added_to_logits,
    check_layers,
    embedded,
    upper_of,
    weights_that_adapt,
)
from metarec.torch.bert import Attention, load
from metarec.torch.encoder import pool
from metarec.torch.text_batches import Prefix, Texts

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Compute:
    """How a BERT that adapts is computed; no part of what it computes, but for rounding.

    Args:
        precision: `fp32`, or on a GPU `bf16` or `fp16`: matrix products in that type, weights and
            results in float32 (autocast).
        checkpointing: keep of each batch of texts only its input, and compute its states again when
            gradients are needed: memory is that of one batch, for a third more time.
        compile: whether `torch.compile` makes one program of the layers that adapt.
    """

    precision: str = "fp32"
    checkpointing: bool = False
    compile: bool = False

    def check(self, device: torch.device, first_order: bool) -> None:
        """Refuses what the device or the order does not have.

        Raises:
            LearnerError: naming the way out.
        """
        if self.precision not in PRECISIONS:
            raise LearnerError(
                f"learner.precision={self.precision!r} is unknown"
                f"{did_you_mean(self.precision, PRECISIONS)}"
            )
        if self.precision != "fp32" and device.type == "cpu":
            raise LearnerError(
                f"learner.precision={self.precision} needs a GPU, and is not supported on CPUs; "
                "choose learner.precision=fp32"
            )
        if self.precision == "bf16" and device.type == "cuda" and not _has_bf16():
            raise LearnerError(
                "learner.precision=bf16: this GPU has no bf16; choose learner.precision=fp16 or "
                "fp32"
            )
        if self.compile and not first_order:
            raise LearnerError(
                "learner.compile=true has no second derivative; choose learner.first_order=true or "
                "learner.compile=false"
            )


class AdaptedBert:
    """A BERT as two pure functions: what is frozen, and the rest with fast weights.

    Args:
        checkpoint: of a model whose layers are at `encoder.layer`, as those of BERT, RoBERTa,
            XLM-RoBERTa and ELECTRA.
        part: what adapts.
        rng: draws the weights that are not pretrained.
        attention: `eager` where second derivatives are wanted.
        device: where it computes.
        compute: how.
        first_only: whether only the state of the first token, [CLS], is wanted: the last layer then
            computes it alone, which is the same for a sixth of the products.

    Attributes:
        initial: the weights that adapt, by name.
        embedding_size: D.
        vocabulary: number of tokens.
        frozen: number of layers below the lowest that adapts.

    Raises:
        LearnerError: if the checkpoint has other layers, or fewer than are to adapt, or its states
            are not those of its layers one after another.
        TextError: if it cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        part: AdaptedPart,
        rng: np.random.Generator,
        attention: Attention = "sdpa",
        device: torch.device | str = "cpu",
        compute: Compute | None = None,
        first_only: bool = False,
    ) -> None:
        # transformers, peft and torch's own layers draw from torch's global state: it stays
        with torch.random.fork_rng(devices=[]):
            self._model = load(checkpoint.folder, attention).to(device)
            check_layers(self._model, checkpoint.name)
            self._upper, self.frozen = upper_of(self._model, part, checkpoint.name, first_only)
            adapts = weights_that_adapt(
                self._upper.to(device), part, self._model.config.hidden_size, rng
            )
        self.part, self.checkpoint, self.device = part, checkpoint, torch.device(device)
        self.compute, self.attention = compute or Compute(), attention
        self.embedding_size: int = self._model.config.hidden_size
        self.vocabulary: int = self._model.config.vocab_size
        # clones: they may be moved, and the module's own stay pretrained
        self.initial = {name: value.detach().clone() for name, value in adapts.items()}
        self._adapted = torch.compile(self._upwards) if self.compute.compile else self._upwards

    @property
    def parameters(self) -> int:
        """Number of weights that adapt."""
        return sum(value.numel() for value in self.initial.values())

    @torch.no_grad()
    def prefix(self, batch: Prefix) -> Prefix:
        """Computes what does not adapt: once for each text.

        Args:
            batch: whose values are [n, L] token numbers.
        """
        if self.part.kind == "full":
            return batch
        given = {"input_ids": batch.values}
        if batch.types is not None:
            given["token_type_ids"] = batch.types
        with self._autocast():
            values = embedded(self._model, given)
            added = added_to_logits(batch.mask, values.dtype)
            for layer in self._model.encoder.layer[: self.frozen]:
                values = layer(values, added)
        return Prefix(values.float(), batch.mask)

    def states(self, weights: Mapping[str, Tensor], batch: Prefix) -> Float32[Tensor, "n length d"]:
        """The last hidden states of a batch of texts.

        Args:
            weights: those that adapt, all of `initial` by name.
            batch: of texts, as `prefix` returns it.

        Returns:
            [n, L, D] states; those on padding mean nothing. [n, 1, D] where only the first are
            wanted.
        """
        if not len(self._upper.layer):
            return batch.values
        names, values = list(weights), list(weights.values())
        if not self.compute.checkpointing or not torch.is_grad_enabled():
            return self._adapted(batch, names, *values)
        result: Tensor = checkpoint(
            self._adapted, batch, names, *values, use_reentrant=False, preserve_rng_state=False
        )
        return result

    def pooled(
        self, weights: Mapping[str, Tensor], texts: Texts, pooling: str
    ) -> Float32[Tensor, "n d"]:
        """One vector of each text.

        Args:
            weights: those that adapt.
            texts: N texts.
            pooling: as in `metarec.torch.encoder.pool`; `cls` where only the first state is wanted.

        Returns:
            [N, D] vectors in the order of the texts.
        """
        vectors = []
        for batch in texts.batches:
            states = self.states(weights, batch)
            # of the first state alone there is nothing to pool
            mask = batch.mask[:, : states.shape[1]]
            vectors.append(pool(states, mask, pooling))
        return torch.cat(vectors).index_select(0, texts.order)

    def _upwards(self, batch: Prefix, names: list[str], *weights: Tensor) -> Tensor:
        """What `states` returns; the weights are arguments, so that it can be computed again."""
        fast = dict(zip(names, weights, strict=True))
        with self._autocast():
            inputs = batch.values, added_to_logits(batch.mask, torch.float32), batch.types
            states: Tensor = torch.func.functional_call(self._upper, fast, inputs)
        return states.float()

    def _autocast(self) -> Any:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if self.compute.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, kinds[self.compute.precision])


def _has_bf16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)
