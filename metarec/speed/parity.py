"""The parity table: how far the engines are from each other, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from metarec.errors import LearnerError
from metarec.speed.work import LEARN2LEARN, StepWork, backend_of, step_arrays


@dataclass(frozen=True)
class Parity:
    """How far an engine is from the reference on the same weights and episodes.

    Args:
        order: `first order` or `second order`.
        inner_steps: gradient steps.
        engine: `<backend> <engine>`.
        reference: the engine it is compared with.
        loss: relative difference, `|a - b| / |b|`.
        meta_gradient: the largest relative difference over the weights, `|a - b| / |b|` in the
            Euclidean norm.
    """

    order: str
    inner_steps: int
    engine: str
    reference: str
    loss: float
    meta_gradient: float


def parity(
    engines: Sequence[tuple[str, str]], work: StepWork, inner_steps: Sequence[int]
) -> list[Parity]:
    """Compares engines, first and second order, on episodes with 0 to K shots.

    Args:
        engines: backend and engine of each. The first that is installed is the reference.
        work: the sizes.
        inner_steps: each number of steps to compare.

    Returns:
        A row for each order, number of steps, and engine but the reference; an engine that is not
        installed is left out.
    """
    arrays = step_arrays(work, np.float64, ragged=True)
    rows = []
    for first_order in (True, False):
        for steps in inner_steps:
            asked = replace(work, first_order=first_order, inner_steps=steps)
            solved = {}
            for backend, engine in engines:
                name = engine if engine == LEARN2LEARN else f"{backend} {engine}"
                try:
                    solved[name] = backend_of(backend).solve(asked, arrays, engine)
                except LearnerError:
                    continue
            (reference, (loss, gradient)), *others = solved.items()
            rows += [
                Parity(
                    order="first order" if first_order else "second order",
                    inner_steps=steps,
                    engine=name,
                    reference=reference,
                    loss=abs(its_loss - loss) / abs(loss),
                    meta_gradient=max(
                        float(np.linalg.norm(its[key] - value) / np.linalg.norm(value))
                        for key, value in gradient.items()
                    ),
                )
                for name, (its_loss, its) in others
            ]
    return rows
