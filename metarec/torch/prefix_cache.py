"""Token states below the lowest adapted layer, computed once for each distinct text."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int32
from tqdm.auto import tqdm

from metarec.errors import LearnerError
from metarec.torch.adapted_bert import AdaptedBert, Prefix

MEBIBYTE = 1 << 20
_BATCH = 64


class PrefixCache:
    """What is frozen of each text, reused by every inner step, episode and epoch.

    The states lie one after another without padding, 4 D bytes a token: in memory where they are
    within its budget, else in a file that is mapped into memory and used again by the next run.

    Args:
        bert: whose frozen layers compute them.
        tokens: token numbers of n texts; what occurs twice is computed and kept once.
        padding: the token that fills up a batch.
        memory_mib: budget of states in memory, in MiB.
        disk_mib: budget of states on disk.
        folder: where the file lies; needed where memory does not do.
        progress: whether to show a bar.

    Attributes:
        mebibytes: size of the states.
        file: where they lie; None if in memory.

    Raises:
        LearnerError: if neither budget does, naming the size.
    """

    def __init__(
        self,
        bert: AdaptedBert,
        tokens: Sequence[Sequence[int]],
        padding: int,
        memory_mib: float = 1024.0,
        disk_mib: float = 0.0,
        folder: Path | None = None,
        progress: bool = False,
    ) -> None:
        places: dict[tuple[int, ...], int] = {}
        rows = [places.setdefault(tuple(row), len(places)) for row in tokens]
        self._rows = np.array(rows, np.int32)
        self._tokens = list(places)
        lengths = [len(row) for row in self._tokens]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._bert, self._padding = bert, padding
        # where the embeddings adapt, token numbers are all that is fixed
        self._states: np.ndarray | None = None
        self.file: Path | None = None
        shape = (int(self._starts[-1]), 0 if bert.part.kind == "full" else bert.embedding_size)
        self.mebibytes = 4 * shape[0] * shape[1] / MEBIBYTE
        if not shape[1]:
            return
        if self.mebibytes <= memory_mib:
            self._states = np.empty(shape, np.float32)
            self._fill(self._states, progress)
            return
        if self.mebibytes > disk_mib or folder is None:
            raise LearnerError(
                f"the token states of {len(self._tokens):,} texts are {self.mebibytes:,.0f} MiB, "
                f"more than learner.cache_memory_mib={memory_mib:g} and learner.cache_disk_mib="
                f"{disk_mib:g} allow; raise one of them, or shorten text.max_length"
            )
        self.file = folder / f"{self._key()}.npy"
        if not self.file.exists():
            self._write(self.file, shape, progress)
        self._states = np.load(self.file, mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        """Number of distinct texts."""
        return len(self._tokens)

    def __call__(self, texts: Int32[np.ndarray, " n"]) -> Prefix:
        """What is known of texts, padded to the longest of them.

        Args:
            texts: [n] their places in `tokens`.
        """
        rows = self._rows[texts]
        starts, ends = self._starts[rows], self._starts[rows + 1]
        longest = int((ends - starts).max(initial=1))
        mask = np.arange(longest) < (ends - starts)[:, None]
        if self._states is None:
            ids = np.full(mask.shape, self._padding, np.int64)
            ids[mask] = np.concatenate([self._tokens[row] for row in rows] or [[]])
            return self._prefix(ids, mask)
        values: Float32[np.ndarray, "n length d"]
        values = np.zeros((*mask.shape, self._states.shape[1]), np.float32)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            values[row, : end - start] = self._states[start:end]
        return self._prefix(values, mask)

    def _prefix(self, values: np.ndarray, mask: np.ndarray) -> Prefix:
        device = self._bert.device
        kept = torch.from_numpy(values).to(device), torch.from_numpy(mask.astype(np.int64))
        return Prefix(kept[0], kept[1].to(device))

    def _fill(self, states: np.ndarray, progress: bool) -> None:
        """Computes all states, texts of similar length together."""
        order = sorted(range(len(self._tokens)), key=lambda row: -len(self._tokens[row]))
        batches = range(0, len(order), _BATCH)
        for at in tqdm(batches, "frozen layers", disable=not progress, leave=False):
            rows = order[at : at + _BATCH]
            shape = len(rows), len(self._tokens[rows[0]])
            ids, mask = np.full(shape, self._padding, np.int64), np.zeros(shape, bool)
            for place, row in enumerate(rows):
                ids[place, : len(self._tokens[row])] = self._tokens[row]
                mask[place, : len(self._tokens[row])] = True
            given = self._prefix(ids, mask)
            found = self._bert.prefix(given.values, given.mask).values.cpu().numpy()
            for place, row in enumerate(rows):
                length = len(self._tokens[row])
                states[self._starts[row] : self._starts[row + 1]] = found[place, :length]

    def _write(self, file: Path, shape: tuple[int, int], progress: bool) -> None:
        """Fills a file under another name and renames it: a killed run leaves no half of one."""
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
        os.close(handle)
        try:
            states = np.lib.format.open_memmap(name, mode="w+", dtype=np.float32, shape=shape)
            self._fill(states, progress)
            states.flush()
            Path(name).replace(file)
        finally:
            Path(name).unlink(missing_ok=True)

    def _key(self) -> str:
        """SHA-256 of all that the states depend on."""
        digest = hashlib.sha256(
            f"{self._bert.checkpoint.content_hash} {self._bert.frozen}".encode()
        )
        for row in self._tokens:
            digest.update(np.array([len(row), *row], np.int64).tobytes())
        return digest.hexdigest()
