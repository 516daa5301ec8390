"""Which part of a BERT adapts, and its layers from the lowest of that part."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from metarec.errors import LearnerError, did_you_mean
from metarec.torch.bert import Attention

Adapts = Literal["head", "bitfit", "last_n", "lora", "adalora", "adapter", "prefix", "full"]
ADAPTS: tuple[Adapts, ...] = (
    *("head", "bitfit", "last_n", "lora", "adalora", "adapter", "prefix", "full"),
)


_AS_GOOD_AS_EQUAL = 1e-3
"""Share of the largest state that rounding may change."""


@dataclass(frozen=True)
class AdaptedPart:
    """Which weights of a BERT adapt.

    `head`: none, only what stands on the BERT. `bitfit`: all biases (Ben Zaken, Ravfogel & Goldberg
    2022). `last_n`: all weights. `lora`: low-rank updates of the query and value projections (Hu et
    al. 2022, by peft). `adalora`: likewise as a singular value decomposition (Zhang et al. 2023, by
    peft; a few steps allocate no ranks, so that every one is kept, and no penalty keeps the factors
    orthogonal). `adapter`: bottlenecks after attention and feed-forward layer
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


def embedded(model: Any, given: Mapping[str, Tensor]) -> Tensor:
    """[n, L, D] embeddings of token numbers."""
    values: Tensor = model.embeddings(**given)
    if hasattr(model, "embeddings_project"):
        values = model.embeddings_project(values)  # ELECTRA's narrower ones
    return values


@torch.no_grad()
def check_layers(model: Any, name: str) -> None:
    """Refuses a model that is more than its embeddings and its layers, one after another.

    A layer norm behind the last layer, or positions that each layer adds, would be left out without
    a word. So the states of a few tokens are compared with the model's own.

    Args:
        model: of transformers.
        name: of its checkpoint.

    Raises:
        LearnerError: naming the models that serve.
    """
    kinds = "choose a BERT, RoBERTa, XLM-RoBERTa or ELECTRA"
    layers = getattr(getattr(model, "encoder", None), "layer", None)
    if layers is None:
        raise LearnerError(
            f"checkpoint {name!r} is a {type(model).__name__}, whose layers are not at "
            f"encoder.layer; {kinds}"
        )
    device = next(model.parameters()).device
    # no padding among them, wherever that is
    ids = torch.arange(3, 9, device=device)[None] % model.config.vocab_size
    mask = torch.ones_like(ids)
    try:
        wanted = model(input_ids=ids, attention_mask=mask).last_hidden_state
        values = embedded(model, {"input_ids": ids})
        for layer in layers:
            values = layer(values, added_to_logits(mask, values.dtype))
        apart = float((values - wanted).abs().max()) / max(float(wanted.abs().max()), 1e-6)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise LearnerError(
            f"checkpoint {name!r} is a {type(model).__name__}, whose layers cannot be computed one "
            f"after another ({error}); {kinds}"
        ) from error
    if apart > _AS_GOOD_AS_EQUAL:
        raise LearnerError(
            f"checkpoint {name!r} is a {type(model).__name__}, whose states are not those of its "
            f"layers one after another (they differ by {apart:.1g} of the largest); {kinds}"
        )


def upper_of(model: Any, part: AdaptedPart, name: str, first_only: bool) -> tuple[Upper, int]:
    """The layers from the lowest that adapts, and the number of those below."""
    layers = model.encoder.layer
    if part.layers > len(layers):
        raise LearnerError(
            f"learner.adapted_layers={part.layers}: checkpoint {name!r} has {len(layers)} layers"
        )
    # the last layer of a frozen BERT is not frozen with the others where it is computed in part
    of_head = len(layers) - int(first_only)
    frozen = {"head": of_head, "full": 0}.get(part.kind, len(layers) - part.layers)
    return Upper(model, list(layers)[frozen:], part, frozen, first_only), frozen


class Upper(nn.Module):
    """The layers from the lowest that adapts, and what is added to them."""

    def __init__(
        self, model: Any, layers: list[Any], part: AdaptedPart, below: int, first_only: bool
    ) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)
        self.below, self.first_only = below, first_only
        self.cache_name = _cache_name(layers)
        self.prefix: nn.ParameterList | None = None
        if part.kind == "full":
            self.embeddings = model.embeddings
            if hasattr(model, "embeddings_project"):
                self.embeddings_project = model.embeddings_project
        if part.kind == "prefix":
            heads, size = model.config.num_attention_heads, model.config.hidden_size
            shape = 2, heads, part.prefix_length, size // heads
            self.prefix = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for _ in layers)

    def forward(self, values: Tensor, added: Tensor, types: Tensor | None) -> Tensor:
        """Token states below, or token numbers where embeddings adapt, to those above.

        Args:
            values: [n, L, D] or [n, L].
            added: [n, 1, 1, L] to the attention's logits.
            types: [n, L] for the embeddings.
        """
        if hasattr(self, "embeddings"):
            given = (
                {"input_ids": values}
                if types is None
                else {"input_ids": values, "token_type_ids": types}
            )
            values = embedded(self, given)
        kept = None
        if self.prefix is not None:
            kept = _Attended(dict(enumerate(self.prefix, start=self.below)))
            added = nn.functional.pad(added, (self.prefix[0].shape[2], 0))
        for number, layer in enumerate(self.layer, start=1):
            attended: Any = kept
            last: Any = layer
            if self.first_only and number == len(self.layer):
                attended = _Others(last.attention.self, values, kept)
                values = values[:, :1]
            values = layer(values, added, **{self.cache_name: attended})
        return values


def _cache_name(layers: Sequence[nn.Module]) -> str:
    """What a layer calls its cache of keys and values: another name since transformers 5.24."""
    known = inspect.signature(layers[0].forward).parameters if layers else {}
    return "cache" if "cache" in known else "past_key_values"


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


class _Others:
    """Stands in for that cache where one token is computed: it attends to all of its text.

    Args:
        attention: of the layer.
        states: [n, L, D] that come into it.
        kept: a prefix before them.
    """

    def __init__(self, attention: Any, states: Tensor, kept: _Attended | None) -> None:
        self.attention, self.states, self.kept = attention, states, kept

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """[n, heads, L, d] keys and values of all tokens; given are those of the first."""
        shape = *self.states.shape[:-1], -1, self.attention.attention_head_size
        keys, values = (
            project(self.states).view(shape).transpose(1, 2)
            for project in (self.attention.key, self.attention.value)
        )
        return (keys, values) if self.kept is None else self.kept.update(keys, values, layer)


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


def weights_that_adapt(
    upper: Upper, part: AdaptedPart, size: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Adds what is not pretrained; returns the weights that adapt, by name."""
    if part.kind == "head":
        return {}
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
    if kind in ("full", "last_n", "bitfit"):
        return kind != "bitfit" or name.endswith(".bias")
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


def _inject(upper: Upper, part: AdaptedPart) -> None:
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


def added_to_logits(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, 1, 1, L] what is added to the attention's logits: 0, and on padding the least number."""
    least = torch.finfo(dtype).min
    return (1 - mask[:, None, None, :].to(dtype)) * least
