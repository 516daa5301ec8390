"""Where JAX computes: one device for adapting, all of a kind for the outer step."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metarec.errors import LearnerError

TASKS = "tasks"
"""The axis of the mesh, along which the tasks of an outer step are shared out."""


@dataclass(frozen=True)
class Devices:
    """Devices of one kind.

    Args:
        all: of them, the first of which adapts and scores.
    """

    all: tuple[Any, ...]

    def __str__(self) -> str:
        """`cpu`, or `cuda (4 devices)`."""
        kind = {"gpu": "cuda"}.get(self.first.platform, self.first.platform)
        return kind if len(self.all) == 1 else f"{kind} ({len(self.all)} devices)"

    @property
    def first(self) -> Any:
        """The device that adapts and scores."""
        return self.all[0]

    def mesh(self, tasks: int) -> Mesh:
        """As many devices as share `tasks` tasks out evenly; warns where some are left over."""
        count = max(n for n in range(1, len(self.all) + 1) if tasks % n == 0)
        if count < len(self.all):
            warnings.warn(
                f"{tasks} tasks do not divide among {len(self.all)} devices: {count} "
                f"{'is' if count == 1 else 'are'} used; choose episode.task_batch as a multiple "
                f"of {len(self.all)}",
                stacklevel=2,
            )
        return Mesh(np.array(self.all[:count]), (TASKS,))


def choose_devices(device: str) -> Devices:
    """`auto` is all GPUs where JAX finds some, else the CPU; `cpu`, `cuda` or `cuda:1` as named.

    `cpu` may be several devices (`jax.config.update("jax_num_cpu_devices", 4)`), and `cuda` is all
    of them.

    Raises:
        LearnerError: if there is no such device.
    """
    if device == "auto":
        return Devices(tuple(jax.local_devices()))
    kind, _, number = device.partition(":")
    try:
        found = jax.local_devices(backend="gpu" if kind == "cuda" else kind)
    except RuntimeError:
        found = []
    if number:
        found = [one for one in found if number.isdigit() and one.id == int(number)]
    if not found:
        known = sorted({one.platform for one in jax.local_devices()} | {"cpu"})
        raise LearnerError(
            f"backend.device={device}: JAX finds no such device here, only {', '.join(known)}; "
            "choose backend.device=auto, or install JAX for it (pip install 'metarec[cuda]')"
        )
    return Devices(tuple(found))


def shared_out(mesh: Mesh) -> NamedSharding:
    """Arrays with a leading task axis, each device with its tasks."""
    return NamedSharding(mesh, PartitionSpec(TASKS))  # type: ignore[no-untyped-call]


def everywhere(mesh: Mesh) -> NamedSharding:
    """Arrays that each device has as a whole."""
    return NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]
