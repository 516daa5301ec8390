"""A pretrained BERT of which a part adapts: the second of its three depths.

The layers below the lowest that adapts are frozen, so their token states are a function of the
text alone: `AdaptedBert.prefix` computes them once, and `AdaptedBert.states` goes on from there
with fast weights, as often as an inner loop asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from metarec.errors import LearnerError, did_you_mean
from metarec.text.checkpoint import Checkpoint
from metarec.torch.bert import Attention, load

Adapts = Literal["head", "bitfit", "last_n", "lora", "adalora", "adapter", "prefix", "full"]
ADAPTS: tuple[Adapts, ...] = (
    *("head", "bitfit", "last_n", "lora", "adalora", "adapter", "prefix", "full"),
)


@dataclass(frozen=True)
class AdaptedPart:
    """Which weights of a BERT adapt.

    `head`: none, only what stands on the BERT. `bitfit`: all biases (Ben Zaken, Ravfogel & Goldberg
    2022). `last_n`: all weights. `lora`: low-rank updates of the query and value projections (Hu et
    al. 2022, by peft). `adalora`: likewise as a singular value decomposition (Zhang et al. 2023, by
    peft; every rank is kept). `adapter`: bottlenecks after attention and feed-forward layer
    (Houlsby et al. 2019). `prefix`: keys and values that every token attends to (Li & Liang 2021).
    Each of these in the top `layers` layers. `full`: all weights of all layers and the embeddings.

    Args:
        kind: one of them.
        layers: number of top layers.
        rank: of the updates of `lora` and `adalora`.
        bottleneck: width of an `adapter`.
        prefix_length: keys and values of a `prefix`, in each layer.
    """

    kind: str = "last_n"
    layers: int = 1
    rank: int = 8
    bottleneck: int = 32
    prefix_length: int = 8

    def __post_init__(self) -> None:
        if self.kind not in ADAPTS:
            raise LearnerError(f"learner.adapted={self.kind!r}{did_you_mean(self.kind, ADAPTS)}")
        sizes = {
            "adapted_layers": self.layers,
            "rank": self.rank,
            "bottleneck": self.bottleneck,
            "prefix_length": self.prefix_length,
        }
        for name, size in sizes.items():
            if size < 1:
                raise LearnerError(f"learner.{name}={size} must be at least 1")

    def check_order(self, first_order: bool, attention: Attention) -> None:
        """Refuses what has no second derivative, or whose second derivative does not fit.

        Raises:
            LearnerError: naming the way out.
        """
        if first_order:
            return
        if self.kind == "full":
            raise LearnerError(
                "learner.adapted=full in second order would keep every layer's graph for every "
                "inner step; choose learner.first_order=true, or adapt a part (last_n, lora)"
            )
        if self.kind != "head" and attention != "eager":
            raise LearnerError(
                f"learner.adapted={self.kind} in second order needs learner.attention=eager: fused "
                "attention has no second derivative; or choose learner.first_order=true"
            )


@dataclass(frozen=True)
class Prefix:
    """What is known of n texts before anything adapts.

    Args:
        values: [n, L, D] token states below the lowest adapted layer; [n, L] token numbers where
            the embeddings adapt.
        mask: [n, L] 1 where there is a token, 0 on padding.
    """

    values: Tensor
    mask: Int64[Tensor, "n length"]

    def __getitem__(self, rows: Any) -> Prefix:
        """The same of some texts."""
        return Prefix(self.values[rows], self.mask[rows])


class AdaptedBert:
    """A BERT as two pure functions: what is frozen, and the rest with fast weights.

    Args:
        checkpoint: of a model whose layers are at `encoder.layer`, as those of BERT, RoBERTa,
            XLM-RoBERTa and ELECTRA.
        part: what adapts.
        rng: draws the weights that are not pretrained.
        attention: `eager` where second derivatives are wanted.
        device: where it computes.

    Attributes:
        initial: the weights that adapt, by name.
        embedding_size: D.
        frozen: number of layers below the lowest that adapts.

    Raises:
        LearnerError: if the checkpoint has other layers, or fewer than are to adapt.
        TextError: if it cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        part: AdaptedPart,
        rng: np.random.Generator,
        attention: Attention = "sdpa",
        device: torch.device | str = "cpu",
    ) -> None:
        # transformers, peft and torch's own layers draw from torch's global state: it stays
        with torch.random.fork_rng(devices=[]):
            self._model = load(checkpoint.folder, attention).to(device)
            self._upper, self.frozen = _upper_of(self._model, part, checkpoint.name)
            adapts = _prepare(self._upper.to(device), self._model, part, rng)
        self.part, self.checkpoint, self.device = part, checkpoint, torch.device(device)
        self.embedding_size: int = self._model.config.hidden_size
        # clones: they may be moved, and the module's own stay pretrained
        self.initial = {name: value.detach().clone() for name, value in adapts.items()}

    @property
    def parameters(self) -> int:
        """Number of weights that adapt."""
        return sum(value.numel() for value in self.initial.values())

    @torch.no_grad()
    def prefix(self, ids: Int64[Tensor, "n length"], mask: Int64[Tensor, "n length"]) -> Prefix:
        """Computes what does not adapt: once for each text.

        Args:
            ids: [n, L] token numbers.
            mask: [n, L] 1 where there is a token, 0 on padding.
        """
        if self.part.kind == "full":
            return Prefix(ids, mask)
        values = self._model.embeddings(input_ids=ids)
        if hasattr(self._model, "embeddings_project"):
            values = self._model.embeddings_project(values)  # ELECTRA's narrower ones
        added = _added(mask, values.dtype)
        for layer in self._model.encoder.layer[: self.frozen]:
            values = layer(values, added)
        return Prefix(values, mask)

    def states(
        self, weights: Mapping[str, Tensor], prefix: Prefix
    ) -> Float32[Tensor, "n length d"]:
        """The last hidden states of texts.

        Args:
            weights: those that adapt, all of `initial` by name.
            prefix: of the texts.

        Returns:
            [n, L, D] states; those on padding mean nothing.
        """
        if self.part.kind == "head":
            return prefix.values
        if self.part.kind == "full":
            given = {"input_ids": prefix.values, "attention_mask": prefix.mask}
            found: Any = torch.func.functional_call(self._model, dict(weights), (), given)
            states: Tensor = found.last_hidden_state
            return states
        inputs = prefix.values, _added(prefix.mask, prefix.values.dtype)
        result: Tensor = torch.func.functional_call(self._upper, dict(weights), inputs)
        return result


def _upper_of(model: Any, part: AdaptedPart, name: str) -> tuple[_Upper, int]:
    """The layers from the lowest that adapts, and the number of those below."""
    layers = getattr(getattr(model, "encoder", None), "layer", None)
    if layers is None:
        raise LearnerError(
            f"checkpoint {name!r} is a {type(model).__name__}, whose layers are not at "
            "encoder.layer; choose a BERT, RoBERTa, XLM-RoBERTa or ELECTRA"
        )
    if part.layers > len(layers):
        raise LearnerError(
            f"learner.adapted_layers={part.layers}: checkpoint {name!r} has {len(layers)} layers"
        )
    frozen = {"head": len(layers), "full": 0}.get(part.kind, len(layers) - part.layers)
    return _Upper(list(layers)[frozen:], part, model.config, frozen), frozen


class _Upper(nn.Module):
    """The layers from the lowest that adapts, and what is added to them."""

    def __init__(self, layers: list[nn.Module], part: AdaptedPart, config: Any, below: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)
        self.below = below
        self.prefix: nn.ParameterList | None = None
        if part.kind == "prefix":
            heads = config.num_attention_heads
            shape = 2, heads, part.prefix_length, config.hidden_size // heads
            self.prefix = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for _ in layers)

    def forward(self, values: Tensor, added: Tensor) -> Tensor:
        """[n, L, D] token states below to those above; `added` to the attention's logits."""
        kept = None
        if self.prefix is not None:
            kept = _Attended(dict(enumerate(self.prefix, start=self.below)))
            added = nn.functional.pad(added, (self.prefix[0].shape[2], 0))
        for layer in self.layer:
            values = layer(values, added, past_key_values=kept)
        return values


class _Attended:
    """Stands in for transformers' cache of keys and values: the prefix of each layer."""

    def __init__(self, prefixes: Mapping[int, Tensor]) -> None:
        self.prefixes = prefixes

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """[n, heads, L, d] keys and values with the prefix before them."""
        own = self.prefixes[layer].unsqueeze(1).expand(-1, len(keys), -1, -1, -1)
        return torch.cat([own[0], keys], dim=2), torch.cat([own[1], values], dim=2)


class _Bottleneck(nn.Module):
    """`x + up(gelu(down(x)))`, which is x at first, since `up` starts at 0."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(size, width), nn.Linear(width, size)

    def forward(self, values: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return values + self.up(nn.functional.gelu(self.down(values)))


_NEW = {"lora": "lora_", "adalora": "lora_", "adapter": ".dense.1.", "prefix": "prefix."}
"""What is in the names of weights that are not pretrained."""


def _prepare(
    upper: _Upper, model: Any, part: AdaptedPart, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Adds what is not pretrained; returns the weights that adapt, by name."""
    if part.kind == "head":
        return {}
    if part.kind == "full":
        return {name: p for name, p in model.named_parameters() if not name.startswith("pooler.")}
    size: int = model.config.hidden_size
    if part.kind in ("lora", "adalora"):
        _inject(upper, part)
    if part.kind == "adapter":
        _insert(upper, size, part.bottleneck)
    found: dict[str, Tensor] = {
        name: value for name, value in upper.named_parameters() if _adapts(name, part.kind)
    }
    if part.kind in _NEW:
        for name, value in found.items():
            # drawn here, so that nothing depends on torch's global state
            drawn = _scale(name, part.kind, size) * rng.standard_normal(tuple(value.shape))
            value.data.copy_(torch.from_numpy(drawn.astype(np.float32)))
    return found


def _adapts(name: str, kind: str) -> bool:
    if kind in ("last_n", "bitfit"):
        return kind == "last_n" or name.endswith(".bias")
    # AdaLoRA counts its ranks in a parameter
    return _NEW[kind] in name and "ranknum" not in name


def _scale(name: str, kind: str, size: int) -> float:
    """Standard deviation of a weight that is not pretrained; 0 where the update must start at 0."""
    if kind == "prefix":
        return 0.02
    drawn = ["lora_A", "down.weight"] + (["lora_B"] if kind == "adalora" else [])
    return 1 / float(np.sqrt(size)) if any(part in name for part in drawn) else 0.0


def _insert(upper: Any, size: int, width: int) -> None:
    """A bottleneck after the attention and after the feed-forward layer."""
    for layer in upper.layer:
        for output in (layer.attention.output, layer.output):
            bottleneck = _Bottleneck(size, width).to(output.dense.weight.device)
            output.dense = nn.Sequential(output.dense, bottleneck)


def _inject(upper: _Upper, part: AdaptedPart) -> None:
    """LoRA or AdaLoRA on the query and value projections, by peft."""
    # seconds of import
    from peft import AdaLoraConfig, LoraConfig, inject_adapter_in_model

    targets = ["query", "value"]
    config: Any = LoraConfig(r=part.rank, lora_alpha=part.rank, target_modules=targets)
    if part.kind == "adalora":
        config = AdaLoraConfig(
            init_r=part.rank, target_r=part.rank, lora_alpha=part.rank, total_step=1,
            target_modules=targets,
        )  # fmt: skip
    inject_adapter_in_model(config, upper)
    upper.eval()


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, 1, 1, L] what is added to the attention's logits: 0, and on padding the least number."""
    least = torch.finfo(dtype).min
    return (1 - mask[:, None, None, :].to(dtype)) * least
