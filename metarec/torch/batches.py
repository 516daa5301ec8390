"""Batches on their way to a device: drawn one step ahead there, and sent without waiting."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Batch = TypeVar("Batch")
"""Tensors, also within dicts and tuples, and in what has a `map` over its tensors; anything else in
them stays as it is."""


def ahead(draw: Callable[[int], Batch], device: torch.device, steps: int) -> Callable[[int], Batch]:
    """The batch of each step on the device, the next one drawn while a step is computed.

    On the CPU nothing is drawn ahead, since a second thread would only take from the first. The
    batches are the same either way, as `draw` is a pure function of the step. What it raises is
    raised to whoever asks for that step.

    Args:
        draw: from a step to its batch, in memory of the host (`staged`); may run in a thread of its
            own, one step at a time, beside a step that is asked for out of turn.
        device: where the batches are to be.
        steps: number of steps; nothing is drawn beyond the last.

    Returns:
        From a step to its batch.
    """
    if not overlaps(device):
        return lambda step: sent(draw(step), device)
    # its thread ends with the function that is returned
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    following: dict[int, Future[Batch]] = {}

    def at(step: int) -> Batch:
        drawn = following.pop(step, None)
        following.clear()
        batch = draw(step) if drawn is None else drawn.result()
        if step + 1 < steps:
            following[step + 1] = pool.submit(draw, step + 1)
        return sent(batch, device)

    return at


def overlaps(device: torch.device) -> bool:
    """Whether a device computes while the host does something else."""
    return device.type != "cpu"


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor of the same type on a device; nothing waits for a GPU."""
    return sent(staged(array, device), device)


def staged(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on the host; for CUDA in pinned memory, else in the array's own.

    Only from pinned memory a copy goes on without the host. Torch keeps it for the next batch: what
    is large and sent once, as a catalogue, should not be staged.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def sent(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device; what is pinned is copied there while the host goes on."""
    found: Any = batch
    if isinstance(batch, Tensor):
        found = batch.to(device, non_blocking=batch.is_pinned())
    elif isinstance(batch, dict):
        found = {name: sent(value, device) for name, value in batch.items()}
    elif isinstance(batch, tuple):
        values = (sent(value, device) for value in batch)
        found = tuple(values) if type(batch) is tuple else type(batch)(*values)
    elif hasattr(batch, "map"):
        found = batch.map(lambda tensor: sent(tensor, device))
    return found


class OnItsWay:
    """A number that a device sends to the host; only who reads it waits, and for it alone.

    Reading a tensor on a GPU would wait for everything that was queued there since.

    Args:
        value: [] on any device.
    """

    def __init__(self, value: Tensor) -> None:
        self._value, self._arrived = value.detach(), None
        if value.device.type == "cuda":
            here = torch.empty((), dtype=value.dtype, pin_memory=True)
            self._value = here.copy_(self._value, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(value.device))

    def __float__(self) -> float:
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._value)


def floats(array: np.ndarray) -> np.ndarray:
    """float32, row after row in memory: what learners compute with."""
    return np.asarray(array, dtype=np.float32, order="C")
