"""Displacements from the meta-parameters to what each task's gradient steps lead to.

For learners that do not differentiate through their steps: Reptile and implicit MAML.

A displacement `u = w - phi` of T tasks is a dict of arrays with a leading task axis. In
`WeightSpace` there is one array for each weight. In `RowSpace`, for an MLP on fixed inputs, the
first layer's part is `Z' C` for the task's rows Z (support, then query): gradients, steps and
conjugate directions are all of that form, so that C, [N, H], is all that is kept, and no fast
weight of the size of the first layer is made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array, lax

from metarec.engines import fastest_engine
from metarec.jax.inner_loop import gram_of, masked_mean, pointwise_loss
from metarec.jax.scorer import Parameters, Scorer, linear, upper
from metarec.loops import Loss

Displacement = dict[str, Array]
Part = Literal["support", "query"]


@runtime_checkable
class Space(Protocol):
    """Where displacements of T tasks live."""

    def zero(self) -> Displacement:
        """No displacement."""
        ...

    def lift(self, displacement: Displacement) -> Displacement:
        """The linear map to the coordinates in which scores are computed and differentiated.

        A gradient in these coordinates is a displacement: it is the map's adjoint that makes it one
        (the gradient by the output rows of a layer is the C of its gradient `Z' C` by the weight).
        So `<a, b> = sum(a * lift(b))`.
        """
        ...

    def scores(self, lifted: Displacement, part: Part) -> Array:
        """[T, K] or [T, Q] scores."""
        ...

    def of_support(self) -> Space:
        """The space without the queries: what solves the inner problem."""
        ...

    def extended(self, displacement: Displacement) -> Displacement:
        """A displacement of the space without the queries, in this one."""
        ...

    def total(self, displacement: Displacement) -> dict[str, Array]:
        """The sum over the tasks, as weights of the scorer."""
        ...

    def moved(self, displacement: Displacement) -> dict[str, Array]:
        """The fast weights `phi + u`."""
        ...


def space_of(scorer: Scorer, parameters: Parameters, support: Array, query: Array) -> Space:
    """The smallest space that is exact for the scorer: see `WeightSpace` and `RowSpace`."""
    if scorer.dual == "mlp" and fastest_engine("mlp", parameters, None, None) == "gram":
        return RowSpace(parameters, support, query)
    return WeightSpace(scorer, parameters, support, query)


class WeightSpace:
    """The displacement of every weight: for any scorer.

    Args:
        scorer: whose weights adapt.
        parameters: phi.
        support: [T, K, in].
        query: [T, Q, in].
    """

    def __init__(
        self, scorer: Scorer, parameters: Parameters, support: Array, query: Array
    ) -> None:
        self.scorer, self.support, self.query = scorer, support, query
        self.parameters = lax.stop_gradient(dict(parameters))

    def zero(self) -> Displacement:
        """Of the shape of the weights, for each task."""
        tasks = len(self.support)
        return {k: jnp.zeros((tasks, *x.shape), x.dtype) for k, x in self.parameters.items()}

    def lift(self, displacement: Displacement) -> Displacement:
        """The displacement itself."""
        return displacement

    def scores(self, lifted: Displacement, part: Part) -> Array:
        """By the scorer's own `forward` with fast weights."""
        rows = self.support if part == "support" else self.query
        return self.scorer.forward(self.moved(lifted), rows)

    def of_support(self) -> WeightSpace:
        """The same."""
        return self

    def extended(self, displacement: Displacement) -> Displacement:
        """The same."""
        return displacement

    def total(self, displacement: Displacement) -> dict[str, Array]:
        """The sum over the task axis."""
        return {name: value.sum(0) for name, value in displacement.items()}

    def moved(self, displacement: Displacement) -> dict[str, Array]:
        """[T, *shape] of each weight."""
        return {name: value + displacement[name] for name, value in self.parameters.items()}


class RowSpace:
    """The first layer's displacement `Z' C` (and `1' C` of the bias) as C: exact for an MLP.

    Args:
        parameters: phi, `layer<i>.weight` and `layer<i>.bias` alone.
        support: [T, K, in].
        query: [T, Q, in].
    """

    FIRST = ("layer0.weight", "layer0.bias")

    def __init__(self, parameters: Parameters, support: Array, query: Array) -> None:
        self.parameters = lax.stop_gradient(dict(parameters))
        self.above = {k: x for k, x in self.parameters.items() if k not in self.FIRST}
        self.rows = jnp.concatenate([support, query], axis=1)
        self.shots = support.shape[1]
        self.gram = gram_of(self.rows, self.rows)
        self.before = linear(self.parameters, 0, self.rows)

    def zero(self) -> Displacement:
        """`layer0` [T, N, H], and the layers above as they are."""
        tasks = len(self.rows)
        above = {k: jnp.zeros((tasks, *x.shape), x.dtype) for k, x in self.above.items()}
        return {"layer0": jnp.zeros_like(self.before), **above}

    def lift(self, displacement: Displacement) -> Displacement:
        """`(Z Z' + 1) C`, by which the first layer's output moves."""
        return displacement | {"layer0": self.gram @ displacement["layer0"]}

    def scores(self, lifted: Displacement, part: Part) -> Array:
        """The layers above on the rows of the part."""
        at = slice(self.shots) if part == "support" else slice(self.shots, None)
        above = {name: value + lifted[name] for name, value in self.above.items()}
        return upper(self.parameters | above, self.before[:, at] + lifted["layer0"][:, at])

    def of_support(self) -> RowSpace:
        """With the rows of the shots alone."""
        twin = copy.copy(self)
        twin.rows = self.rows[:, : self.shots]
        twin.gram = self.gram[:, : self.shots, : self.shots]
        twin.before = self.before[:, : self.shots]
        return twin

    def extended(self, displacement: Displacement) -> Displacement:
        """With a C of 0 for the queries."""
        missing = self.rows.shape[1] - self.shots
        first = jnp.pad(displacement["layer0"], ((0, 0), (0, missing), (0, 0)))
        return displacement | {"layer0": first}

    def total(self, displacement: Displacement) -> dict[str, Array]:
        """The first layer's as one product over the rows of all tasks."""
        first = displacement["layer0"]
        return {
            "layer0.weight": _flat(self.rows).T @ _flat(first),
            "layer0.bias": first.sum((0, 1)),
            **{name: displacement[name].sum(0) for name in self.above},
        }

    def moved(self, displacement: Displacement) -> dict[str, Array]:
        """[T, *shape] of each weight: here the first layer's are made after all."""
        first = displacement["layer0"]
        return {
            "layer0.weight": self.parameters["layer0.weight"]
            + jnp.swapaxes(self.rows, 1, 2) @ first,
            "layer0.bias": self.parameters["layer0.bias"] + first.sum(1),
            **{name: value + displacement[name] for name, value in self.above.items()},
        }


def total_loss(
    space: Space, lifted: Displacement, part: Part, labels: Array, mask: Array, loss: Loss
) -> Array:
    """The sum over tasks of the mean loss of a part: each task's gradient is its own."""
    scores = space.scores(lifted, part)
    return masked_mean(pointwise_loss(loss, scores, labels), mask).sum()


def differentiate(
    space: Space, at: Displacement, function: Callable[[Displacement], Array]
) -> tuple[Array, Displacement]:
    """The value of a function of lifted displacements, and its gradient as a displacement."""
    return jax.value_and_grad(function)(space.lift(at))


def descend(
    displacement: Displacement, gradient: Displacement, rate: float, regularisation: float = 0.0
) -> Displacement:
    """`u - rate (gradient + regularisation u)`."""
    keep = 1 - rate * regularisation
    return {name: keep * x - rate * gradient[name] for name, x in displacement.items()}


def _flat(values: Array) -> Array:
    """[T N, ...] the rows of all tasks."""
    return values.reshape(-1, values.shape[-1])
