"""The outer loop that every trained learner shares: one compiled step, validation, resuming."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax import Array

from metarec.jax.compiled import compiled
from metarec.jax.devices import Devices, everywhere, shared_out
from metarec.learner import MetaParameters, Training
from metarec.loops import RATE, Course, OuterLoop

Batch = tuple[Any, Any, Hashable]
"""Of an outer step: arrays with a leading task axis; arrays without; what makes another program."""
Gradients = Callable[[dict[str, Array], Any, Any, Any], tuple[Array, Mapping[str, Array]]]
"""(meta-parameters, and the three of a batch) to (loss, gradient of each meta-parameter)."""


def autograd(loss_of: Callable[[dict[str, Array], Any, Any, Any], Array]) -> Gradients:
    """The gradients of a loss that JAX can differentiate by itself."""
    return jax.value_and_grad(loss_of)


def outer_step(gradients: Gradients, optimizer: optax.GradientTransformation) -> Any:
    """One program of the whole outer step: adapt all tasks, meta-gradient, update.

    Args:
        gradients: of the outer loss.
        optimizer: of the meta-parameters.

    Returns:
        A compiled function of meta-parameters and the optimiser's state, whose memory it takes
        over, and of a batch; it returns the loss and both of them anew.
    """

    def step(
        parameters: dict[str, Array], state: Any, tasks: Any, shared: Any, program: Hashable
    ) -> tuple[Array, dict[str, Array], Any]:
        loss, values = gradients(parameters, tasks, shared, program)
        updates, state = optimizer.update(dict(values), state, parameters)
        found: Any = optax.apply_updates(parameters, updates)
        return loss, found, state

    return compiled(step, static=("program",), donate=("parameters", "state"))


def train(
    initial: Mapping[str, np.ndarray],
    gradients: Gradients,
    batch_at: Callable[[int], Batch],
    training: Training,
    settings: OuterLoop,
    statistics: MetaParameters,
    devices: Devices,
    description: str,
) -> MetaParameters:
    """Runs the outer loop and returns the meta-parameters that were best on meta-validation.

    As `metarec.torch.training.train`, with the same looks, log and checkpoints. While the devices
    work on a step, the episodes of the next one are drawn.

    Args:
        initial: the first meta-parameters.
        gradients: of the outer loss.
        batch_at: what the gradients see at a step, as NumPy arrays.
        training: validation, checkpoints, seed, progress.
        settings: of the outer loop.
        statistics: arrays that were fitted before and belong to the meta-parameters.
        devices: that share the tasks of a step out.
        description: what the progress bar says.

    Returns:
        The best meta-parameters on validation, or the last where there is no validation, with the
        statistics.

    Raises:
        LearnerError: if the loss is not finite.
    """
    course = Course(initial, training, settings, statistics, description)
    optimizer = build_optimizer(settings)
    parameters: dict[str, Array] = jax.device_put(course.now, devices.first)
    state = optimizer.init(parameters)

    def look(done: int) -> None:
        # copies: the step that follows takes the memory over
        now = {name: np.array(value) for name, value in parameters.items()}
        course.look(done, now, lambda: _named(state))

    if course.optimizer is None:
        look(0)
    else:
        state = _restored(state, course.optimizer)
    update, batch, mesh = None, None, None
    for step in course.steps():
        if batch is None or update is None or mesh is None:
            batch = batch_at(step)
            mesh = devices.mesh(len(jax.tree.leaves(batch[0])[0]))
            parameters, state = jax.device_put((parameters, state), everywhere(mesh))
            update = outer_step(gradients, optimizer)
        tasks, shared, program = batch
        tasks = jax.device_put(tasks, shared_out(mesh))
        shared = jax.device_put(shared, everywhere(mesh))
        loss, parameters, state = update(parameters, state, tasks, shared, program=program)
        if step + 1 < settings.steps:
            batch = batch_at(step + 1)  # while the devices work
        course.saw(step, float(loss))
        if course.due(step + 1):
            look(step + 1)
    return course.best


def build_optimizer(settings: OuterLoop) -> optax.GradientTransformation:
    """AdamW; what is meta-learned of learning rates is not decayed."""

    def decayed(parameters: Mapping[str, Any]) -> dict[str, bool]:
        return {name: not name.startswith(RATE) for name in parameters}

    falling = optax.cosine_decay_schedule(settings.learning_rate, max(settings.steps, 1))
    return optax.adamw(
        falling if settings.cosine else settings.learning_rate,
        weight_decay=settings.weight_decay,
        mask=decayed,
    )


def _named(state: Any) -> dict[str, np.ndarray]:
    """The arrays of an optimiser's state by where they stand in it."""
    return {
        jax.tree_util.keystr(path): np.array(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _restored(state: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The same state with other arrays, where its own lie."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.device_put(arrays[jax.tree_util.keystr(path)], leaf.sharding), state
    )
