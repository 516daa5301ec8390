"""`Checkpointer`: the state of an interrupted training; and atomic writing."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metarec.writing import replacing

_STATE = "state.safetensors"


class Checkpointer:
    """Keeps the latest state of a training in a folder, so that a killed run goes on from there.

    Args:
        folder: where the state lies.
        code: what identifies the code that wrote it; the state of other code is not gone on from,
            since the result would be that of neither.
    """

    def __init__(self, folder: str | Path, code: str = "") -> None:
        self.folder, self.code = Path(folder), code

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Returns the tensors and the state that were saved last, or None where there are none."""
        from safetensors import SafetensorError, safe_open

        file = self.folder / _STATE
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="numpy") as stored:
                content = dict(stored.metadata() or {})
                if content.get("code") != self.code:
                    return None
                return {name: stored.get_tensor(name) for name in stored.keys()}, json.loads(  # noqa: SIM118
                    content["state"]
                )
        except (SafetensorError, KeyError, ValueError) as error:
            warnings.warn(
                f"the training state {file} is broken ({error}); the training starts anew",
                stacklevel=2,
            )
            return None

    def save(self, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Replaces what was saved before; killed at any moment, one of the two is there, whole.

        Args:
            tensors: arrays by name.
            state: whatever else is needed to go on; must survive JSON.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        metadata = {"code": self.code, "state": json.dumps(state)}
        save_tensors(self.folder / _STATE, tensors, metadata)

    def discard(self) -> None:
        """Removes the state."""
        shutil.rmtree(self.folder, ignore_errors=True)


def save_tensors(
    file: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays as safetensors, atomically."""
    from safetensors.numpy import save_file

    # asarray and not ascontiguousarray, which would give an axis to a number
    plain = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    with replacing(file) as temporary:
        save_file(plain, temporary, dict(metadata) if metadata else None)


def load_tensors(file: Path) -> dict[str, np.ndarray]:
    """Reads arrays from safetensors."""
    from safetensors.numpy import load_file

    return dict(load_file(file))


def write_text(file: Path, content: str) -> None:
    """Writes a text file, atomically."""
    with replacing(file) as temporary:
        temporary.write_text(content, encoding="utf-8")
