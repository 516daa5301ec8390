"""The memory that a meta-training step needs, in a process of its own.

    python -m metarec.speed.memory '{"backend": "torch", "engine": "gram", "device": "cpu",
                                     "work": {"tasks": 512}}'

prints MiB: the peak during the first step above the size before it. A step of two tasks comes
first, so that what is loaded once does not count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from metarec.errors import RunError
from metarec.speed.work import StepWork, backend_of

_PROC = Path("/proc/self")


def peak_mebibytes(backend: str, engine: str, device: str, work: StepWork) -> float | None:
    """Peak memory of a step above the size before it, measured in a process of its own.

    Args:
        backend: `torch` or `jax`.
        engine: of the backend.
        device: `cpu`, `cuda`, …
        work: the step.

    Returns:
        MiB; None where the system does not tell.

    Raises:
        RunError: if the process fails.
    """
    asked = {"backend": backend, "engine": engine, "device": device, "work": asdict(work)}
    return peak_of_process("metarec.speed.memory", json.dumps(asked))


def main(asked: str) -> None:
    """What the process does."""
    values = json.loads(asked)
    sizes = values["work"]
    sizes["hidden_sizes"] = tuple(sizes.get("hidden_sizes", StepWork.hidden_sizes))
    work = StepWork(**sizes)
    backend = backend_of(values["backend"])
    small = replace(work, tasks=min(work.tasks, 2))
    backend.engine(small, values["device"], values["engine"]).call()
    contender = backend.engine(work, values["device"], values["engine"])
    peak = backend.peak_bytes(contender.call, values["device"])
    print(json.dumps(None if peak is None else peak / 2**20))


def resident_peak_bytes(call: Callable[[], object]) -> int | None:
    """The most resident memory of this process during a call, above that before it.

    Linux can set its own high-water mark back, and then this is exact. Elsewhere the mark of the
    whole process counts, which is too little where the process was larger before.
    """
    try:
        (_PROC / "clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, KeyError):
        return _growth_of_the_mark(call)
    call()
    return _status("VmHWM") - before


def peak_of_process(module: str, *arguments: str) -> float | None:
    """The most memory that a module needs that is run in a process of its own.

    Args:
        module: prints MiB, or null, in its last line.
        arguments: of its command line.

    Raises:
        RunError: if the process fails.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RunError(f"memory by {module}: {done.stderr.strip().splitlines()[-1]}")
    found: float | None = json.loads(done.stdout.splitlines()[-1])
    return found


def mark_of_process() -> float | None:
    """MiB of this process at the most so far; None where the system does not tell."""
    try:
        # the other mark is inherited from the process that started this one
        return _status("VmHWM") / 2**20
    except (OSError, KeyError):
        pass
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _status(key: str) -> int:
    lines = (_PROC / "status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return int(values[key].split()[0]) * 1024


def _growth_of_the_mark(call: Callable[[], object]) -> int | None:
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


if __name__ == "__main__":
    main(sys.argv[1])
