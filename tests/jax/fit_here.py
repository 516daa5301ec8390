"""Fits learners of JAX in this process; `twins.fit_elsewhere` runs it.

Its argument is the number of devices that JAX makes of the CPU. What else it is asked for comes
pickled in its standard input, and what it finds goes pickled to its standard output.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import optax
from twins import scores

from metarec.jax import training as jax_training
from metarec.jax.training import Gradients
from metarec.learner import Training

outer_step = jax_training.outer_step


class Watched:
    """The outer step of a fit: where its tasks lie, and that it waits for nothing on the host."""

    def __init__(self, gradients: Gradients, optimizer: optax.GradientTransformation) -> None:
        self.update = outer_step(gradients, optimizer)
        self.platforms: set[str] = set()
        self.parts: set[int] = set()
        self.calls = 0

    def __call__(self, parameters: Any, state: Any, tasks: Any, shared: Any, program: Any) -> Any:
        for array in jax.tree.leaves(tasks):
            self.platforms |= {device.platform for device in array.devices()}
            # devices that hold the same rows count once
            self.parts.add(len({str(shard.index) for shard in array.addressable_shards}))
        # compiling, at the first call, may bring constants along
        with jax.transfer_guard("disallow" if self.calls else "allow"):
            found = self.update(parameters, state, tasks, shared, program=program)
        self.calls += 1
        return found


def fit(make: Callable[..., Any], training: Training, settings: dict[str, Any]) -> dict[str, Any]:
    """What `twins.FitElsewhere` tells of the fit of a learner."""
    watched: list[Watched] = []

    def watch(gradients: Gradients, optimizer: optax.GradientTransformation) -> Watched:
        watched.append(Watched(gradients, optimizer))
        return watched[-1]

    jax_training.outer_step = watch
    training = replace(training, log=[])
    learner = make(**settings, validate_every=1)
    meta = learner.fit(training)
    (step,) = watched
    return {
        "losses": [entry["loss"] for entry in training.log if "loss" in entry],
        "meta": meta,
        "scores": scores(learner, training, meta),
        "platforms": step.platforms,
        "parts": step.parts,
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    learners, training, settings = pickle.load(sys.stdin.buffer)
    found = {name: fit(make, training, settings) for name, make in learners.items()}
    pickle.dump(found, sys.stdout.buffer)
