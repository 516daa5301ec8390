"""The outer loop that every trained learner shares: one compiled step, validation, resuming."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from tqdm.auto import tqdm

from metarec.errors import LearnerError
from metarec.jax.compiled import compiled
from metarec.jax.devices import Devices, everywhere, shared_out
from metarec.learner import MetaParameters, Training
from metarec.loops import RATE, OuterLoop

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
    optimizer = build_optimizer(settings)
    parameters: dict[str, Array] = jax.device_put(dict(initial), devices.first)
    state = optimizer.init(parameters)
    best = {name: np.array(value) for name, value in initial.items()}
    best_value, waited, first = -np.inf, 0, 0
    losses: list[float] = []
    training.log.clear()
    saved = training.checkpointer.load() if training.checkpointer else None
    if saved is not None:
        tensors, kept = saved
        now = {name: tensors[f"now/{name}"] for name in initial}
        parameters = jax.device_put(now, devices.first)
        state = _restored(state, tensors)
        best = {name: tensors[f"best/{name}"] for name in initial}
        best_value, waited, first = kept["best"], kept["waited"], kept["step"]
        training.log.extend(kept["log"])

    def look(step: int) -> bool:
        """Validates; returns whether to stop."""
        nonlocal best, best_value, waited
        # copies: the step that follows takes the memory over
        now = {name: np.array(value) for name, value in parameters.items()}
        entry = {"step": float(step)}
        if losses:
            entry["loss"] = float(np.mean(losses))
            losses.clear()
        if training.validate is None:
            best = now
        else:
            value = training.validate({**statistics, **now})
            entry["validation"] = value
            if value > best_value:
                best, best_value, waited = now, value, 0
            else:
                waited += 1
        training.log.append(entry)
        if training.checkpointer:
            tensors = {f"best/{name}": value for name, value in best.items()}
            tensors |= {f"now/{name}": value for name, value in now.items()} | _named(state)
            kept = {"best": best_value, "waited": waited, "step": step, "log": training.log}
            training.checkpointer.save(tensors, kept)
        return waited >= settings.patience

    stopped = waited >= settings.patience
    if first == 0:
        stopped = look(0)
    if stopped or first >= settings.steps:
        return {**statistics, **best}
    tasks, shared, program = batch_at(first)
    mesh = devices.mesh(len(jax.tree.leaves(tasks)[0]))
    parameters, state = jax.device_put((parameters, state), everywhere(mesh))
    update = outer_step(gradients, optimizer)
    steps = tqdm(
        range(first, settings.steps),
        initial=first,
        total=settings.steps,
        desc=description,
        unit="step",
        disable=not training.progress,
        leave=False,
    )
    for step in steps:
        tasks = jax.device_put(tasks, shared_out(mesh))
        shared = jax.device_put(shared, everywhere(mesh))
        loss, parameters, state = update(parameters, state, tasks, shared, program=program)
        if step + 1 < settings.steps:
            tasks, shared, program = batch_at(step + 1)  # while the devices work
        losses.append(float(loss))
        if not np.isfinite(losses[-1]):
            raise LearnerError(
                f"{description}: the loss is {losses[-1]} at step {step}; lower "
                "learner.learning_rate or learner.inner_learning_rate"
            )
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            stopped = look(step + 1)
            if stopped:
                break
    steps.close()
    return {**statistics, **best}


def build_optimizer(settings: OuterLoop) -> optax.GradientTransformation:
    """AdamW; what is meta-learned of learning rates is not decayed."""

    def decayed(parameters: Mapping[str, Any]) -> dict[str, bool]:
        return {name: not name.startswith(RATE) for name in parameters}

    def falling(count: Array) -> Array:
        return 0.5 * settings.learning_rate * (1 + jnp.cos(jnp.pi * count / settings.steps))

    return optax.adamw(
        falling if settings.cosine else settings.learning_rate,
        weight_decay=settings.weight_decay,
        mask=decayed,
    )


def _named(state: Any) -> dict[str, np.ndarray]:
    """The arrays of an optimiser's state by where they stand in it."""
    return {
        f"optimizer/{jax.tree_util.keystr(path)}": np.array(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _restored(state: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(tensors[f"optimizer/{jax.tree_util.keystr(path)}"]), state
    )
