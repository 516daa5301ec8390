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

import torch
from torch import Tensor

from metarec.engines import fastest_engine
from metarec.loops import Loss
from metarec.torch.inner_loop import gram_of, masked_mean, pointwise_loss
from metarec.torch.scorer import Parameters, Scorer, linear, upper

Displacement = dict[str, Tensor]
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

    def scores(self, lifted: Displacement, part: Part) -> Tensor:
        """[T, K] or [T, Q] scores."""
        ...

    def of_support(self) -> Space:
        """The space without the queries: what solves the inner problem."""
        ...

    def extended(self, displacement: Displacement) -> Displacement:
        """A displacement of the space without the queries, in this one."""
        ...

    def total(self, displacement: Displacement) -> dict[str, Tensor]:
        """The sum over the tasks, as weights of the scorer."""
        ...

    def moved(self, displacement: Displacement) -> dict[str, Tensor]:
        """The fast weights `phi + u`."""
        ...


def space_of(scorer: Scorer, parameters: Parameters, support: Tensor, query: Tensor) -> Space:
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
        self, scorer: Scorer, parameters: Parameters, support: Tensor, query: Tensor
    ) -> None:
        self.scorer, self.support, self.query = scorer, support, query
        self.parameters = {name: value.detach() for name, value in parameters.items()}

    def zero(self) -> Displacement:
        """Of the shape of the weights, for each task."""
        tasks = len(self.support)
        return {name: x.new_zeros(tasks, *x.shape) for name, x in self.parameters.items()}

    def lift(self, displacement: Displacement) -> Displacement:
        """The displacement itself."""
        return displacement

    def scores(self, lifted: Displacement, part: Part) -> Tensor:
        """By the scorer's own `forward` with fast weights."""
        rows = self.support if part == "support" else self.query
        return self.scorer.forward(self.moved(lifted), rows)

    def of_support(self) -> WeightSpace:
        """The same."""
        return self

    def extended(self, displacement: Displacement) -> Displacement:
        """The same."""
        return displacement

    def total(self, displacement: Displacement) -> dict[str, Tensor]:
        """The sum over the task axis."""
        return {name: value.sum(0) for name, value in displacement.items()}

    def moved(self, displacement: Displacement) -> dict[str, Tensor]:
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

    def __init__(self, parameters: Parameters, support: Tensor, query: Tensor) -> None:
        self.parameters = {name: value.detach() for name, value in parameters.items()}
        self.above = {k: x for k, x in self.parameters.items() if k not in self.FIRST}
        self.rows = torch.cat([support, query], dim=1)
        self.shots = support.shape[1]
        self.gram = gram_of(self.rows, self.rows)
        self.before = linear(self.parameters, 0, self.rows)

    def zero(self) -> Displacement:
        """`layer0` [T, N, H], and the layers above as they are."""
        tasks = len(self.rows)
        above = {name: x.new_zeros(tasks, *x.shape) for name, x in self.above.items()}
        return {"layer0": torch.zeros_like(self.before), **above}

    def lift(self, displacement: Displacement) -> Displacement:
        """`(Z Z' + 1) C`, by which the first layer's output moves."""
        return displacement | {"layer0": self.gram @ displacement["layer0"]}

    def scores(self, lifted: Displacement, part: Part) -> Tensor:
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
        first = torch.nn.functional.pad(displacement["layer0"], (0, 0, 0, missing))
        return displacement | {"layer0": first}

    def total(self, displacement: Displacement) -> dict[str, Tensor]:
        """The first layer's as one product over the rows of all tasks."""
        first = displacement["layer0"]
        return {
            "layer0.weight": self.rows.flatten(0, 1).mT @ first.flatten(0, 1),
            "layer0.bias": first.sum((0, 1)),
            **{name: displacement[name].sum(0) for name in self.above},
        }

    def moved(self, displacement: Displacement) -> dict[str, Tensor]:
        """[T, *shape] of each weight: here the first layer's are made after all."""
        first = displacement["layer0"]
        return {
            "layer0.weight": self.parameters["layer0.weight"] + self.rows.mT @ first,
            "layer0.bias": self.parameters["layer0.bias"] + first.sum(1),
            **{name: value + displacement[name] for name, value in self.above.items()},
        }


def total_loss(
    space: Space, lifted: Displacement, part: Part, labels: Tensor, mask: Tensor, loss: Loss
) -> Tensor:
    """The sum over tasks of the mean loss of a part: each task's gradient is its own."""
    scores = space.scores(lifted, part)
    return masked_mean(pointwise_loss(loss, scores, labels), mask).sum()


def differentiate(
    space: Space, at: Displacement, function: Callable[[Displacement], Tensor]
) -> tuple[Tensor, Displacement]:
    """The value of a function of lifted displacements, and its gradient as a displacement."""
    with torch.enable_grad():
        lifted = {name: x.detach().requires_grad_() for name, x in space.lift(at).items()}
        value = function(lifted)
        gradient = torch.autograd.grad(
            value, list(lifted.values()), allow_unused=True, materialize_grads=True
        )
    return value.detach(), dict(zip(lifted, gradient, strict=True))


def descend(
    displacement: Displacement, gradient: Displacement, rate: float, regularisation: float = 0.0
) -> Displacement:
    """`u - rate (gradient + regularisation u)`."""
    keep = 1 - rate * regularisation
    return {
        name: torch.sub(keep * x if regularisation else x, gradient[name], alpha=rate)
        for name, x in displacement.items()
    }
