"""Token states below the lowest adapted layer, computed once for each distinct text or pair."""

from __future__ import annotations

import hashlib
import importlib.metadata
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int32
from torch import Tensor
from tqdm.auto import tqdm

from metarec.errors import LearnerError
from metarec.text.tokens import Pair
from metarec.torch.adapted_bert import AdaptedBert
from metarec.torch.text_batches import Prefix, Texts, by_length
from metarec.writing import replacing

MEBIBYTE = 1 << 20
BATCH = 16
"""Texts of a batch."""
FORMAT = 1
"""Raised when the frozen layers are computed differently: what is on disk is then not used."""
_MEASURED_EVERY = 16
"""Pairs to be kept between two looks at how much a folder holds, which has thousands of files."""
TextCache = Callable[[np.ndarray], Texts]
"""From the numbers of texts to what is frozen of them."""


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
        self.file = None if folder is None else folder / f"{self._key()}.npy"
        if self.file is None or not self.file.exists():
            kept = 0.0 if folder is None else _kept_in(folder) / MEBIBYTE
            if self.file is None or kept + self.mebibytes > disk_mib:
                beside = f" beside the {kept:,.0f} MiB in {folder}" if kept else ""
                raise LearnerError(
                    f"the token states of {len(self._tokens):,} texts are {self.mebibytes:,.0f} "
                    f"MiB, more than learner.cache_memory_mib={memory_mib:g} and "
                    f"learner.cache_disk_mib={disk_mib:g} allow{beside}; raise one of them, "
                    "remove what is kept, or shorten text.max_length"
                )
            self._write(self.file, shape, progress)
        self._states = np.load(self.file, mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        """Number of distinct texts."""
        return len(self._tokens)

    def __call__(self, texts: Int32[np.ndarray, " n"]) -> Texts:
        """What is known of texts, on the CPU.

        Args:
            texts: [n] their places in `tokens`.
        """
        rows = self._rows[texts]
        batches, place = by_length(np.diff(self._starts)[rows], BATCH)
        found = tuple(self._batch(rows[batch]) for batch in batches)
        return Texts(found, torch.from_numpy(place))

    def _batch(self, rows: np.ndarray) -> Prefix:
        tokens = [self._tokens[row] for row in rows]
        if self._states is None:
            return padded(tokens, self._padding)
        shape = len(rows), max(len(one) for one in tokens), self._states.shape[1]
        values, mask = np.zeros(shape, np.float32), np.zeros(shape[:2], np.int64)
        for place, row in enumerate(rows):
            start, end = self._starts[row], self._starts[row + 1]
            values[place, : end - start] = self._states[start:end]
            mask[place, : end - start] = 1
        return Prefix(torch.from_numpy(values), torch.from_numpy(mask))

    def _there(self, values: Tensor) -> Tensor:
        return values.to(self._bert.device)

    def _fill(self, states: np.ndarray, progress: bool) -> None:
        """Computes all states, texts of similar length together."""
        batches, _ = by_length(np.diff(self._starts), BATCH)
        for rows in tqdm(batches, "frozen layers", disable=not progress, leave=False):
            given = padded([self._tokens[row] for row in rows], self._padding)
            found = self._bert.prefix(given.map(self._there)).values.cpu().numpy()
            for place, row in enumerate(rows):
                start, end = self._starts[row], self._starts[row + 1]
                states[start:end] = found[place, : end - start]

    def _write(self, file: Path, shape: tuple[int, int], progress: bool) -> None:
        with replacing(file) as name:
            states = np.lib.format.open_memmap(name, mode="w+", dtype=np.float32, shape=shape)
            self._fill(states, progress)
            states.flush()

    def _key(self) -> str:
        """SHA-256 of all that the states depend on."""
        digest = _settings(self._bert)
        for row in self._tokens:
            digest.update(np.array([len(row), *row], np.int64).tobytes())
        return digest.hexdigest()


class PairCache:
    """What is frozen of the pairs of an episode, which are too many to be computed beforehand.

    The pairs that are asked for together are computed and kept together: in files, in memory, or
    not at all where both budgets are at their end. Files are shared by all runs that have the same
    episodes, whatever they adapt above the same layer. Where a file cannot be written, as on a full
    disk, a warning says so and no more are. Threads may ask at the same time: on a GPU the next
    step is drawn while validation is looked at.

    Args:
        bert: whose frozen layers compute them.
        padding: the token that fills up a batch.
        memory_mib: budget of states in memory, in MiB.
        disk_mib: budget of the folder.
        folder: where the files lie; None for none.
    """

    def __init__(
        self,
        bert: AdaptedBert,
        padding: int,
        memory_mib: float = 1024.0,
        disk_mib: float = 0.0,
        folder: Path | None = None,
    ) -> None:
        self._bert, self._padding, self._folder = bert, padding, folder
        self._memory, self._disk = memory_mib * MEBIBYTE, disk_mib * MEBIBYTE
        self._room, self._asked, self._held = 0.0, 0, 0
        # the least recently used first: pairs of training do not come again
        self._kept: dict[str, tuple[np.ndarray, ...]] = {}
        self._lock = threading.Lock()

    def __call__(self, pairs: Sequence[Pair]) -> Texts:
        """What is known of pairs, on the CPU or where the frozen layers compute.

        Args:
            pairs: of one episode.
        """
        batches, place = by_length(np.array([len(pair.tokens) for pair in pairs], np.int64), BATCH)
        given = [
            padded(
                [pairs[row].tokens for row in rows],
                self._padding,
                [pairs[row].types or [] for row in rows] if pairs[0].types else None,
            )
            for rows in batches
        ]
        order = torch.from_numpy(place)
        if self._bert.part.kind == "full":
            return Texts(tuple(given), order)
        key = self._key(given)
        states = self._held_in_memory(key) or self._read(key, len(given))
        if states is None:
            found = [self._bert.prefix(one.map(self._there)).values for one in given]
            states = tuple(values.cpu().numpy() for values in found)
            with self._lock:
                self._keep(key, states)
        return Texts(
            tuple(
                Prefix(torch.from_numpy(values), one.mask)
                for values, one in zip(states, given, strict=True)
            ),
            order,
        )

    def _there(self, values: Tensor) -> Tensor:
        return values.to(self._bert.device)

    def _held_in_memory(self, key: str) -> tuple[np.ndarray, ...] | None:
        with self._lock:
            states = self._kept.pop(key, None)
            if states is not None:
                self._kept[key] = states
        return states

    def _keep(self, key: str, states: tuple[np.ndarray, ...]) -> None:
        size = _bytes_of(states)
        if self._folder is not None and size <= self._left() and self._write(key, states):
            self._room -= size
        # another thread may have kept the same in the meantime
        elif size <= self._memory and key not in self._kept:
            while self._held + size > self._memory:
                self._held -= _bytes_of(self._kept.pop(next(iter(self._kept))))
            self._kept[key] = states
            self._held += size

    def _write(self, key: str, states: tuple[np.ndarray, ...]) -> bool:
        """Writes states; where that fails, which it would again, nothing more is written."""
        assert self._folder is not None
        try:
            for number, values in enumerate(states):
                with replacing(self._folder / f"{key}.{number}.npy") as name, name.open("wb") as to:
                    np.save(to, values, allow_pickle=False)
        except OSError as error:
            warnings.warn(
                f"the states of frozen layers cannot be kept in {self._folder}: {error}; they are "
                "computed again where memory does not hold them",
                stacklevel=2,
            )
            self._disk = self._room = 0.0
            return False
        return True

    def _left(self) -> float:
        """Bytes that the folder has room for; other processes write there too."""
        if self._folder is not None and self._disk and self._asked % _MEASURED_EVERY == 0:
            self._room = self._disk - _kept_in(self._folder)
        self._asked += 1
        return self._room

    def _read(self, key: str, count: int) -> tuple[np.ndarray, ...] | None:
        if self._folder is None:
            return None
        files = [self._folder / f"{key}.{number}.npy" for number in range(count)]
        if not all(file.exists() for file in files):
            return None
        return tuple(np.load(file, allow_pickle=False) for file in files)

    def _key(self, batches: Sequence[Prefix]) -> str:
        """SHA-256 of all that the states depend on."""
        digest = _settings(self._bert)
        for batch in batches:
            for values in (batch.values, batch.mask, batch.types):
                if values is not None:
                    digest.update(np.array(values.shape, np.int64).tobytes())
                    digest.update(values.numpy().tobytes())
        return digest.hexdigest()


def _settings(bert: AdaptedBert) -> hashlib._Hash:
    """The digest of all that frozen states depend on besides the texts."""
    settings = (
        FORMAT,
        *(importlib.metadata.version(package) for package in ("torch", "transformers")),
        bert.checkpoint.content_hash,
        bert.frozen,
        bert.compute.precision,
        bert.attention,
        bert.device.type,
    )
    return hashlib.sha256(repr(settings).encode())


def _bytes_of(states: Sequence[np.ndarray]) -> int:
    return sum(values.nbytes for values in states)


def _kept_in(folder: Path) -> int:
    """Bytes of the states in a folder."""
    return sum(file.stat().st_size for file in folder.glob("*.npy"))


def padded(
    tokens: Sequence[Sequence[int]], padding: int, types: Sequence[Sequence[int]] | None = None
) -> Prefix:
    """Token numbers of n texts side by side.

    Args:
        tokens: of each text.
        padding: the token that fills up.
        types: likewise, which of two texts each token is of.
    """
    shape = len(tokens), max(len(row) for row in tokens)
    ids, mask = np.full(shape, padding, np.int64), np.zeros(shape, np.int64)
    kinds = None if types is None else np.zeros(shape, np.int64)
    for place, row in enumerate(tokens):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
        if kinds is not None and types is not None:
            kinds[place, : len(row)] = types[place]
    return Prefix(
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        None if kinds is None else torch.from_numpy(kinds),
    )
