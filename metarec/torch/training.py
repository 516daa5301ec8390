"""The outer loop that every trained learner shares: Adam, validation, early stopping, resuming."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from metarec.errors import LearnerError
from metarec.learner import MetaParameters, Training
from metarec.loops import RATE, Course, OuterLoop
from metarec.torch.batches import OnItsWay

Gradients = Callable[[dict[str, Tensor], int], tuple[Tensor, Mapping[str, Tensor]]]
"""(meta-parameters, step) to (loss, gradient of each meta-parameter)."""


def choose_device(device: str) -> torch.device:
    """`auto` is a GPU where there is one, else the CPU; any other name is torch's own.

    Raises:
        LearnerError: if there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise LearnerError(f"there is no device {device!r}; use auto, cpu or cuda") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise LearnerError(f"device {device!r}: this machine has no CUDA device; use auto or cpu")
    return found


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
    pretrained: tuple[str, float] | None = None,
) -> MetaParameters:
    """Runs the outer loop and returns the meta-parameters that were best on meta-validation.

    What it sees on the way, and how it goes on after an interruption, is `metarec.loops.Course`.

    Args:
        initial: the first meta-parameters.
        gradients: of the outer loss at a step.
        training: validation, checkpoints, seed, progress.
        settings: of the outer loop.
        statistics: arrays that were fitted before and belong to the meta-parameters.
        device: where to train.
        description: what the progress bar says.
        pretrained: how the names of pretrained weights start, and the learning rate of those; they
            are not decayed. None if all weights are new.

    Returns:
        The best meta-parameters on validation, or the last where there is no validation, with the
        statistics.

    Raises:
        LearnerError: if the loss is not finite.
    """
    course = Course(initial, training, settings, statistics, description)
    # the fused Adam reads memory in order, whatever strides say: of weights, and of gradients below
    parameters = {
        name: torch.tensor(np.ascontiguousarray(value), device=device, requires_grad=True)
        for name, value in course.now.items()
    }
    optimizer = _optimizer(parameters, settings, pretrained)

    def look(done: int) -> None:
        now = {name: value.detach().cpu().numpy().copy() for name, value in parameters.items()}
        course.look(done, now, lambda: _state(optimizer, parameters))

    if course.optimizer is None:
        look(0)
    else:
        _restore(optimizer, parameters, course.optimizer)
    seen: tuple[int, OnItsWay] | None = None
    for step in course.steps():
        loss, values = gradients(parameters, step)
        # that of the step before: a GPU then has this one to work on while the host waits
        if seen is not None:
            course.saw(seen[0], float(seen[1]))
        seen = step, OnItsWay(loss)
        for name, parameter in parameters.items():
            parameter.grad = values[name].contiguous()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(step) * group["factor"]
        optimizer.step()
        if course.due(step + 1):
            course.saw(step, float(loss))
            seen = None
            look(step + 1)
    return course.best


def _optimizer(
    parameters: Mapping[str, Tensor], settings: OuterLoop, pretrained: tuple[str, float] | None
) -> torch.optim.Optimizer:
    start, rate = pretrained or ("", settings.learning_rate)
    named = {name for name in parameters if start and name.startswith(start)}
    rates = {name for name in parameters if name.startswith(RATE)}
    groups = [
        (set(parameters) - named - rates, settings.weight_decay, 1.0),
        (rates, 0.0, 1.0),
        (named, 0.0, rate / settings.learning_rate),
    ]
    # fused: one pass over each weight instead of a dozen
    return torch.optim.AdamW(
        [
            {
                "params": [value for name, value in parameters.items() if name in names],
                "weight_decay": decay,
                "factor": factor,
            }
            for names, decay, factor in groups
            if names
        ],
        lr=settings.learning_rate,
        fused=True,
    )


def _state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[str, np.ndarray]:
    return {
        f"{name}/{key}": value.detach().cpu().numpy()
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def _restore(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    state: Mapping[str, np.ndarray],
) -> None:
    for name, parameter in parameters.items():
        for key, value in state.items():
            if key.startswith(f"{name}/"):
                # its steps too, which the fused Adam counts where the parameter lies
                found = torch.tensor(value, device=parameter.device)
                optimizer.state[parameter][key.removeprefix(f"{name}/")] = found
