"""Which engine computes an inner loop, whatever the framework: the fastest that is exact."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

from metarec.errors import LearnerError
from metarec.loops import Engine, InnerLoop
from metarec.weights import depth, first_layer

Dual = Literal["mlp", "linear"]
"""The dual form of a scorer: of an MLP on fixed inputs, or of scores linear in all weights."""


def choose_engine(
    dual: Dual | None,
    parameters: Collection[str],
    inner: InnerLoop,
    rates: Mapping[str, Any] | None,
    names: frozenset[str] | None,
) -> Engine:
    """The engine to use; for `auto` the fastest that is exact.

    Args:
        dual: which dual form the scorer has; None for none.
        parameters: names of all weights.
        inner: the inner loop.
        rates: arrays of learning rates by weight; None for one rate.
        names: of the weights that adapt; None for all.

    Raises:
        LearnerError: if `gram` was asked for and is not exact here.
    """
    if inner.engine in ("vmap", "learn2learn"):
        return inner.engine
    fastest = fastest_engine(dual, parameters, rates, names)
    if inner.engine == "gram" and fastest != "gram":
        raise LearnerError(
            "learner.engine=gram needs an MLP scorer of which only whole upper layers adapt, at "
            "one learning rate a layer and step, or the bilinear one, of which all adapts, at one "
            "rate; choose learner.engine=auto or vmap"
        )
    return fastest


def fastest_engine(
    dual: Dual | None,
    parameters: Collection[str],
    rates: Mapping[str, Any] | None,
    names: frozenset[str] | None,
) -> Literal["gram", "vmap"]:
    """`gram` where it is exact, else `vmap`; arguments as `choose_engine`."""
    adapted = set(parameters) if names is None else set(names)
    if dual == "linear":
        return "gram" if rates is None and adapted == set(parameters) else "vmap"
    if dual is None or not all(name.startswith("layer") for name in adapted):
        return "vmap"
    layers = range(first_layer(parameters, names), depth(parameters))
    if adapted != {f"layer{layer}.{part}" for layer in layers for part in ("weight", "bias")}:
        return "vmap"
    if rates is not None:
        for layer in layers:
            rate = rates[f"layer{layer}.weight"]
            one_a_step = not rate.shape or math.prod(rate.shape) == rate.shape[0]
            if rate is not rates[f"layer{layer}.bias"] or not one_a_step:
                return "vmap"
    return "gram"
