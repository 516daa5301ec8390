"""Where JAX computes: one device for adapting, all of a kind for outer steps and catalogues.

XLA computes most of a small program on one core of a CPU. So each core is made a device of its own
(one of the host devices that JAX simulates), and tasks are shared out among them as among GPUs.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metarec.errors import LearnerError

TASKS = "tasks"
"""The axis of the mesh, along which the tasks of an outer step are shared out."""

MOST_CORES = 8
"""Devices that are made of a CPU, at the most; more were not tried."""


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

    `cpu` is a device for each core, or each of `OMP_NUM_THREADS`, or as many as
    `jax.config.update("jax_num_cpu_devices", 4)` asked for before; `cuda` is all there are.

    Raises:
        LearnerError: if there is no such device.
    """
    _one_a_core()
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


def _one_a_core() -> None:
    """Makes a device of each core, a power of two, unless JAX was told otherwise before."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    cores = min(allowed or 1, MOST_CORES, int(threads) if threads.isdecimal() else MOST_CORES)
    count = 1 << (max(cores, 1).bit_length() - 1)
    configured: int = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    if configured < 1 and "device_count" not in os.environ.get("XLA_FLAGS", ""):
        # too late where JAX computed before: then the CPU stays what it is
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)  # type: ignore[no-untyped-call]


def map_shares(
    function: Callable[..., Any], mesh: Mesh, shared: Sequence[bool], out_axis: int | None
) -> Callable[..., Any]:
    """A function that each device computes of its own share.

    Args:
        function: of arrays in trees.
        mesh: of the devices.
        shared: of each argument, whether its leading axis is shared out, or each device has it all.
        out_axis: along which the devices' results are one array; None where all have the same.
    """
    own, whole = PartitionSpec(TASKS), PartitionSpec()  # type: ignore[no-untyped-call]
    out = whole if out_axis is None else PartitionSpec(*[None] * out_axis, TASKS)  # type: ignore[no-untyped-call]
    # unchecked: a scan may start from zeros that are the same everywhere and end in what is not
    found: Callable[..., Any] = jax.shard_map(
        function, mesh=mesh, check_vma=False, out_specs=out,
        in_specs=tuple(own if each else whole for each in shared),
    )  # fmt: skip
    return found


def shared_out(mesh: Mesh) -> NamedSharding:
    """Arrays with a leading task axis, each device with its tasks."""
    return NamedSharding(mesh, PartitionSpec(TASKS))  # type: ignore[no-untyped-call]


def everywhere(mesh: Mesh) -> NamedSharding:
    """Arrays that each device has as a whole."""
    return NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]
