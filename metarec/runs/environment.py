"""What a record says of the code, the versions and the machine that made it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGES = (
    "metarec",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "implicit",
    "torch",
    "transformers",
    "jax",
    "flax",
    "optax",
    "learn2learn",
)
_PACKAGE = Path(__file__).resolve().parent.parent


@cache
def code_hash() -> str:
    """SHA-256 over the code that decides results: `metarec/**/*.py` without what reads or times it.

    That is `report/`, `audit/` and `speed/`.
    """
    digest = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        name = file.relative_to(_PACKAGE).as_posix()
        if not name.startswith(("report/", "audit/", "speed/")) and not name.endswith("/speed.py"):
            digest.update(f"{name}\n{len(file.read_bytes())}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def commit() -> str | None:
    """The git commit of the code, with `+dirty` if files differ from it; None outside of git."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None
    return head + ("+dirty" if _git("status", "--porcelain", "--", str(_PACKAGE)) else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def versions() -> dict[str, str]:
    """Version of Python and of each package that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def threads() -> int:
    """The most threads that a numerical library in this process uses."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return os.cpu_count() or 1
    return max((pool["num_threads"] for pool in threadpool_info()), default=1)


@cache
def machine() -> dict[str, Any]:
    """Processor, number of processors and system."""
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_bytes() -> int | None:
    """The most memory that this process had resident so far, earlier runs in it included."""
    # first Linux's own mark: that of getrusage begins with the size of the process that started us
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_memory_bytes() -> int | None:
    """The most memory that PyTorch held on a GPU since `forget_device_peak`; None without one."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    devices = range(torch.cuda.device_count())
    return max(int(torch.cuda.max_memory_allocated(device)) for device in devices)


def forget_device_peak() -> None:
    """Begins anew to measure the peak on every GPU, as where a run begins."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
