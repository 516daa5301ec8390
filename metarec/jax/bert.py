"""BERT in Flax, which reads the safetensors and config.json that transformers reads and writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from metarec.errors import TextError, did_you_mean

Parameters = Mapping[str, Any]
"""Nested dicts of float32 arrays, named as the modules below; a linear layer's kernel is
[in, out]."""

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_python": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}
"""What `hidden_act` may be, by the names of transformers."""

# Otherwise a GPU multiplies float32 in TF32, which keeps three decimals.
_PRECISION = jax.lax.Precision.HIGHEST


@dataclass(frozen=True)
class BertConfig:
    """The keys of config.json that the model depends on, by their names there."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12

    @classmethod
    def read(cls, folder: Path) -> BertConfig:
        """Reads `config.json` of a checkpoint folder.

        Keys that Devlin et al. (2019) did not write yet have the defaults of transformers.

        Raises:
            TextError: if a key is missing, has no possible value, or asks for another architecture.
        """
        file = folder / "config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TextError(f"{file} cannot be read as JSON ({error}); copy it again") from error
        for key, only in _ONLY.items():
            if (value := config.get(key, only)) != only:
                raise TextError(
                    f"{file}: {key} is {value!r}, and JAX computes BERT with {only!r} alone; "
                    "choose another checkpoint, or backend=torch"
                )
        sizes = {key: config.get(key, default) for key, default in _SIZES.items()}
        for key, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TextError(
                    f"{file}: {key} is {value!r}, not a positive number; place the config.json of "
                    "the same BERT checkpoint there"
                )
        if sizes["hidden_size"] % sizes["num_attention_heads"]:
            raise TextError(
                f"{file}: hidden_size {sizes['hidden_size']} is no multiple of num_attention_heads "
                f"{sizes['num_attention_heads']}; place the config.json of one checkpoint there"
            )
        activation = config.get("hidden_act", cls.hidden_act)
        if activation not in ACTIVATIONS:
            raise TextError(
                f"{file}: hidden_act is {activation!r}, which JAX does not compute here"
                f"{did_you_mean(str(activation), ACTIVATIONS)}. Choose another checkpoint, or "
                "backend=torch"
            )
        epsilon = config.get("layer_norm_eps", cls.layer_norm_eps)
        if not isinstance(epsilon, float | int) or not epsilon > 0:
            raise TextError(
                f"{file}: layer_norm_eps is {epsilon!r}, not a positive number; BERT's is 1e-12"
            )
        return cls(**sizes, hidden_act=activation, layer_norm_eps=float(epsilon))


# What must be so, where it is said at all.
_ONLY = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
_SIZES = {
    "vocab_size": None,
    "hidden_size": None,
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "intermediate_size": None,
    "max_position_embeddings": None,
    "type_vocab_size": BertConfig.type_vocab_size,
}


class BertOutput(NamedTuple):
    """What BERT makes of n token sequences.

    Attributes:
        last_hidden_state: [n, L, D] token states; on padding whatever comes of attending to the
            tokens, as in transformers.
        pooler_output: [n, D] tanh of a linear layer on the first state; None without its weights.
    """

    last_hidden_state: Float[Array, "n length d"]
    pooler_output: Float[Array, "n d"] | None


class Bert(nnx.Module):
    """BERT without dropout and without heads (Devlin et al. 2019), a stateless function of weights.

    Args:
        config: sizes and activation.
        pooler: whether there is a pooler.
        rngs: Flax's random numbers for weights that are drawn and not read.
    """

    def __init__(self, config: BertConfig, *, pooler: bool = True, rngs: nnx.Rngs) -> None:
        size = config.hidden_size
        self.words = nnx.Embed(config.vocab_size, size, rngs=rngs)
        self.positions = nnx.Embed(config.max_position_embeddings, size, rngs=rngs)
        self.types = nnx.Embed(config.type_vocab_size, size, rngs=rngs)
        self.norm = _norm(config, rngs)
        self.layers = nnx.List([_Layer(config, rngs) for _ in range(config.num_hidden_layers)])
        self.pooler = _linear(size, size, rngs) if pooler else None

    def __call__(
        self,
        ids: Int[Array, "n length"],
        mask: Bool[Array, "n length"],
        types: Int[Array, "n length"] | None = None,
    ) -> BertOutput:
        """Computes the token states.

        Args:
            ids: [n, L] token numbers; one outside of the vocabulary makes NaN.
            mask: [n, L] True where there is a token, False on padding.
            types: [n, L] token types, the segments of a sequence; None for 0 throughout.

        Returns:
            The last states and, with a pooler, what it makes of them.
        """
        position = self.positions.embedding[...][: ids.shape[1]]
        states = self.norm(
            self.words(ids) + self.types(jnp.zeros_like(ids) if types is None else types) + position
        )
        # Added to the logits of attention: none is left on padding. Not minus infinity, or a
        # sequence of padding alone would be NaN.
        least = jnp.finfo(states.dtype).min  # type: ignore[no-untyped-call]
        bias = jnp.where(mask, 0, least)[:, None, None, :]
        for layer in self.layers:
            states = layer(states, bias)
        pooled = None if self.pooler is None else jnp.tanh(self.pooler(states[:, 0]))
        return BertOutput(states, pooled)


def apply(
    graph: nnx.GraphDef[Bert],
    parameters: Parameters,
    ids: Int[Array, "n length"],
    mask: Bool[Array, "n length"],
    types: Int[Array, "n length"] | None = None,
) -> BertOutput:
    """`Bert` as a pure function of its parameters; for `graph` and the rest see `load`, `Bert`."""
    return nnx.merge(graph, parameters)(ids, mask, types)


def load(folder: Path) -> tuple[nnx.GraphDef[Bert], Parameters]:
    """Reads a BERT checkpoint, from transformers or in its format.

    Names may have the prefix `bert.` or none, and layer norms may call their weights `gamma` and
    `beta`. The heads of tasks, such as `cls.`, are left out; a pooler may be absent.

    Args:
        folder: with config.json and model.safetensors, or the shards of its index.

    Returns:
        What the model consists of besides its weights, hashable; and the weights, in float32, not
        yet on a device. `apply` takes both.

    Raises:
        TextError: if the config asks for what `Bert` is not, or the weights are not of it: the
            message names file and key.
    """
    config = BertConfig.read(folder)
    weights = _Weights(folder)
    pooler = weights.has("pooler.")
    parameters: dict[str, Any] = dict(_parameters(config, weights, pooler))
    weights.check_all_taken()
    graph, _ = nnx.split(
        nnx.eval_shape(lambda: Bert(config, pooler=pooler, rngs=nnx.Rngs(0))),
    )
    return graph, parameters


class _Layer(nnx.Module):
    """Self-attention and two linear layers, each with a residual and a norm after it."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        size, wide = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        self.activation = config.hidden_act
        self.qkv = _linear(size, 3 * size, rngs)
        self.out = _linear(size, size, rngs)
        self.attention_norm = _norm(config, rngs)
        self.up = _linear(size, wide, rngs)
        self.down = _linear(wide, size, rngs)
        self.output_norm = _norm(config, rngs)

    def __call__(
        self, states: Float[Array, "n length d"], bias: Float[Array, "n 1 1 length"]
    ) -> Float[Array, "n length d"]:
        states = self.attention_norm(states + self.out(self._attend(states, bias)))
        activated = ACTIVATIONS[self.activation](self.up(states))
        return self.output_norm(states + self.down(activated))

    def _attend(
        self, states: Float[Array, "n length d"], bias: Float[Array, "n 1 1 length"]
    ) -> Float[Array, "n length d"]:
        n, length, size = states.shape
        # One product for the three.
        qkv = self.qkv(states).reshape(n, length, 3, self.heads, size // self.heads)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scale = (size // self.heads) ** -0.5
        logits = jnp.einsum("nqhd,nkhd->nhqk", query * scale, key, precision=_PRECISION)
        attention = jax.nn.softmax(logits + bias)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", attention, value, precision=_PRECISION)
        return mixed.reshape(n, length, size)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, precision=_PRECISION, rngs=rngs)


def _norm(config: BertConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance, of squares, loses digits where the mean is large.
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs
    )


_HEADED = "bert."
_BODY = ("embeddings.", "encoder.", "pooler.")
_OLD = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Counters that old versions saved, no weights.
_BUFFERS = {"embeddings.position_ids", "embeddings.token_type_ids"}


class _Weights:
    """The weights of a checkpoint by their present names, each taken once."""

    def __init__(self, folder: Path) -> None:
        self._read: dict[str, np.ndarray] = {}
        # What to tell a user: where a weight is, and what it is called there.
        self._origin: dict[str, tuple[Path, str]] = {}
        self._files = _files(folder)
        found = [(file, name, weight) for file in self._files for name, weight in _tensors(file)]
        headed = any(name.startswith(_HEADED) for _, name, _ in found)
        for file, original, weight in found:
            if headed and not original.startswith(_HEADED):
                continue
            name = original.removeprefix(_HEADED)
            for old, new in _OLD.items():
                if name.endswith(old):
                    name = name.removesuffix(old) + new
            if not name.startswith(_BODY) or name in _BUFFERS:
                continue
            if name in self._read:
                _, other = self._origin[name]
                raise TextError(
                    f"{file} has {original!r} and {other!r}, which are the same weight; keep one"
                )
            self._read[name] = weight
            self._origin[name] = file, original

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self._read)

    def take(self, name: str, *shape: int) -> np.ndarray:
        if name not in self._read:
            raise TextError(
                f"{self._files[0]} lacks {name!r}, which config.json asks for; "
                "place weights and config of one BERT checkpoint in the folder"
            )
        weight = self._read.pop(name)
        if weight.shape != shape:
            file, original = self._origin[name]
            raise TextError(
                f"{file}: {original!r} has shape {list(weight.shape)}, and by config.json it has "
                f"{list(shape)}; place weights and config of one BERT checkpoint in the folder"
            )
        return weight.astype(np.float32)

    def check_all_taken(self) -> None:
        if self._read:
            file, original = self._origin[min(self._read)]
            raise TextError(
                f"{file} has {original!r}, which by config.json is no part of BERT "
                f"({len(self._read)} such weights); place weights and config of one BERT "
                "checkpoint in the folder"
            )


def _files(folder: Path) -> list[Path]:
    """The file with the weights; or the index of several, and they."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [index, *(folder / name for name in sorted(set(shards)))]


def _tensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    if file.suffix == ".json":
        return
    try:
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping: it has keys() alone)
                yield name, opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise TextError(
            f"{file} is missing, truncated or no safetensors file ({error}); copy or download it "
            "again"
        ) from error


def _parameters(
    config: BertConfig, weights: _Weights, pooler: bool
) -> Iterator[tuple[str, dict[Any, Any]]]:
    """The weights by the names of `Bert`."""
    size, wide = config.hidden_size, config.intermediate_size

    def embedding(name: str, rows: int) -> dict[str, np.ndarray]:
        return {"embedding": weights.take(f"embeddings.{name}_embeddings.weight", rows, size)}

    def norm(name: str) -> dict[str, np.ndarray]:
        name += ".LayerNorm"
        return {
            "scale": weights.take(f"{name}.weight", size),
            "bias": weights.take(f"{name}.bias", size),
        }

    def linear(inputs: int, outputs: int, *names: str) -> dict[str, np.ndarray]:
        kernels = [weights.take(f"{name}.weight", outputs, inputs).T for name in names]
        biases = [weights.take(f"{name}.bias", outputs) for name in names]
        return {
            "kernel": np.ascontiguousarray(np.concatenate(kernels, axis=1)),
            "bias": np.concatenate(biases),
        }

    def layer(name: str) -> dict[str, dict[str, np.ndarray]]:
        qkv = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        return {
            "qkv": linear(size, size, *qkv),
            "out": linear(size, size, f"{name}.attention.output.dense"),
            "attention_norm": norm(f"{name}.attention.output"),
            "up": linear(size, wide, f"{name}.intermediate.dense"),
            "down": linear(wide, size, f"{name}.output.dense"),
            "output_norm": norm(f"{name}.output"),
        }

    yield "words", embedding("word", config.vocab_size)
    yield "positions", embedding("position", config.max_position_embeddings)
    yield "types", embedding("token_type", config.type_vocab_size)
    yield "norm", norm("embeddings")
    layers = range(config.num_hidden_layers)
    yield "layers", {number: layer(f"encoder.layer.{number}") for number in layers}
    if pooler:
        yield "pooler", linear(size, size, "pooler.dense")
