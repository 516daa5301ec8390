"""The outer loop that every trained learner shares: Adam, validation, early stopping, resuming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from metarec.errors import LearnerError
from metarec.learner import MetaParameters, Training
from metarec.loops import RATE, OuterLoop

Gradients = Callable[[dict[str, Tensor], int], tuple[Tensor, Mapping[str, Tensor]]]
"""(meta-parameters, step) to (loss, gradient of each meta-parameter)."""


def choose_device(device: str) -> torch.device:
    """`auto` is a GPU where there is one, else the CPU; any other name is torch's own."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autograd(loss_of: Callable[[dict[str, Tensor], int], Tensor]) -> Gradients:
    """The gradients of a loss that torch can differentiate by itself."""

    def gradients(parameters: dict[str, Tensor], step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss = loss_of(parameters, step)
        values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return loss.detach(), {
            name: torch.zeros_like(parameter) if value is None else value
            for (name, parameter), value in zip(parameters.items(), values, strict=True)
        }

    return gradients


def train(
    initial: Mapping[str, np.ndarray],
    gradients: Gradients,
    training: Training,
    settings: OuterLoop,
    statistics: MetaParameters,
    device: torch.device,
    description: str,
) -> MetaParameters:
    """Runs the outer loop and returns the meta-parameters that were best on meta-validation.

    Looks at meta-validation before the first step and every `validate_every` steps, keeps a
    checkpoint then, and goes on from one if it finds it: an interrupted training ends in the same
    bits as an uninterrupted one. What it saw is appended to `training.log`.

    Args:
        initial: the first meta-parameters.
        gradients: of the outer loss at a step.
        training: validation, checkpoints, seed, progress.
        settings: of the outer loop.
        statistics: arrays that were fitted before and belong to the meta-parameters.
        device: where to train.
        description: what the progress bar says.

    Returns:
        The best meta-parameters on validation, or the last where there is no validation, with the
        statistics.

    Raises:
        LearnerError: if the loss is not finite.
    """
    parameters = {
        name: torch.tensor(value, device=device, requires_grad=True)
        for name, value in initial.items()
    }
    optimizer = _optimizer(parameters, settings)
    best = {name: np.array(value) for name, value in initial.items()}
    best_value, waited, first = -np.inf, 0, 0
    losses: list[float] = []
    training.log.clear()
    saved = training.checkpointer.load() if training.checkpointer else None
    if saved is not None:
        tensors, state = saved
        _restore(optimizer, parameters, tensors)
        best = {name: tensors[f"best/{name}"] for name in initial}
        best_value, waited, first = state["best"], state["waited"], state["step"]
        training.log.extend(state["log"])

    def look(step: int) -> bool:
        """Validates; returns whether to stop."""
        nonlocal best, best_value, waited
        now = {name: value.detach().cpu().numpy().copy() for name, value in parameters.items()}
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
            state = {"best": best_value, "waited": waited, "step": step, "log": training.log}
            training.checkpointer.save(_tensors(optimizer, parameters, best), state)
        return waited >= settings.patience

    stopped = waited >= settings.patience
    if first == 0:
        stopped = look(0)
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
        if stopped:
            break
        loss, values = gradients(parameters, step)
        losses.append(float(loss))
        if not np.isfinite(losses[-1]):
            raise LearnerError(
                f"{description}: the loss is {losses[-1]} at step {step}; lower "
                "learner.learning_rate or learner.inner_learning_rate"
            )
        for name, parameter in parameters.items():
            # the fused Adam reads memory in order, whatever a gradient's strides say
            parameter.grad = values[name].contiguous()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(step)
        optimizer.step()
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            stopped = look(step + 1)
    steps.close()
    return {**statistics, **best}


def _optimizer(parameters: Mapping[str, Tensor], settings: OuterLoop) -> torch.optim.Optimizer:
    decayed = [value for name, value in parameters.items() if not name.startswith(RATE)]
    groups: list[dict[str, Any]] = [{"params": decayed}] if decayed else []
    rates = [value for name, value in parameters.items() if name.startswith(RATE)]
    if rates:
        groups.append({"params": rates, "weight_decay": 0.0})
    # fused: one pass over each weight instead of a dozen
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


def _tensors(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    best: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    tensors = {f"best/{name}": value for name, value in best.items()}
    for name, parameter in parameters.items():
        tensors[f"now/{name}"] = parameter.detach().cpu().numpy()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{name}/{key}"] = value.detach().cpu().numpy()
    return tensors


def _restore(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    tensors: Mapping[str, np.ndarray],
) -> None:
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(tensors[f"now/{name}"]))
        prefix = f"optimizer/{name}/"
        for key, value in tensors.items():
            if key.startswith(prefix):
                # its steps too, which the fused Adam counts where the parameter lies
                state = torch.tensor(value, device=parameter.device)
                optimizer.state[parameter][key.removeprefix(prefix)] = state
