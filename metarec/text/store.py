"""The feature store: each distinct text is encoded once ever, and what came of it kept on disk.

One folder a feature key (checkpoint, tokenizer, pooling, length, normalisation) holds plans and
shards. Before anything is encoded, a plan puts the new texts in a fixed order and cuts them into
shards; a shard is encoded in batches of its own rows, checked, and written under a temporary name
that is then renamed. An interrupted encoding therefore goes on with the same batches, and ends in
the same bits, as one that was never interrupted: padding and the order of sums depend on what
shares a batch, so what shares a batch must not depend on where the interruption was.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from metarec.errors import TextError

_FORMAT = 1
_PLAN = ".plan.json"
_KEY = re.compile(r"[0-9A-Za-z_-]{1,128}")
_DIGEST = 32
# Room for headers, the plan's quotes and the file system's blocks.
_OVERHEAD = 8192


class StoreError(TextError):
    """A feature store that cannot be read or written, or an encoder with unusable vectors."""


@runtime_checkable
class TextEncoder(Protocol):
    """Anything that turns texts into vectors, such as `metarec.torch.encoder.BertEncoder`."""

    @property
    def embedding_size(self) -> int:
        """D, the length of a vector."""
        ...

    @property
    def feature_key(self) -> str:
        """Names all that a vector depends on besides its text; letters, digits, `-` and `_`."""
        ...

    def token_lengths(self, texts: Sequence[str]) -> Int64[np.ndarray, " n"]:
        """Returns [n] number of tokens of each text, by which batches are put together."""
        ...

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Float32[np.ndarray, "n d"]:
        """Returns [n, D] vectors."""
        ...


def default_folder(of: str = "features") -> Path:
    """Returns a folder in that which METAREC_CACHE names, or in ~/.cache/metarec."""
    cache = os.environ.get("METAREC_CACHE")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache" / "metarec") / of


def check_texts(texts: Sequence[object]) -> None:
    """Refuses what is no text.

    Args:
        texts: to be encoded.

    Raises:
        TextError: if an entry is no str, or cannot be written as UTF-8, or if all is one str.
    """
    if isinstance(texts, str):
        raise TextError(f"one text was given where a sequence of texts is due: [{texts[:40]!r}]")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextError(
                f"text {row} is {text!r} ({type(text).__name__}), not a str; render texts with a "
                'Template, which writes missing ones as ""'
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextError(
                f"text {row} ({text[:40]!a}) has half a character at {error.start}; read its "
                "file with the right encoding"
            ) from error


@dataclass(frozen=True)
class _Plan:
    """Texts in the order of their shards."""

    name: str
    texts: tuple[str, ...]
    shard_size: int

    def shard(self, number: int) -> tuple[str, ...]:
        return self.texts[number * self.shard_size : (number + 1) * self.shard_size]

    def shard_name(self, number: int) -> str:
        return f"{self.name}-{number:05d}.safetensors"

    def content(self) -> bytes:
        plan = {"format": _FORMAT, "shard_size": self.shard_size, "texts": self.texts}
        return json.dumps(plan).encode("ascii")


@dataclass
class _Index:
    """Where each text of a feature key is: plan and position in it."""

    plans: dict[str, _Plan] = field(default_factory=dict)
    places: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, plan: _Plan) -> None:
        self.plans[plan.name] = plan
        for position, text in enumerate(plan.texts):
            # The first plan of a text keeps it, or its vector could change in the last bit.
            self.places.setdefault(text, (plan.name, position))


class FeatureStore:
    """Vectors of texts, on disk; safe to share between data sets, runs and processes.

    A text that is in the store is never encoded again; neither the encoder's weights nor its
    tokenizer are loaded where everything asked for is there. Processes that run at once may both
    encode a shard, and then write the same content.

    Args:
        folder: where the vectors are kept; None for `default_folder()`.
        shard_size: texts in one file, hence the most that an interruption costs. Only new texts are
            cut by it.

    Raises:
        StoreError: if `shard_size` is not positive.
    """

    def __init__(self, folder: str | Path | None = None, shard_size: int = 512) -> None:
        if shard_size < 1:
            raise StoreError(f"shard_size is {shard_size}; it must be at least 1")
        self.folder = default_folder() if folder is None else Path(folder).expanduser()
        self.shard_size = shard_size
        self._indices: dict[str, _Index] = {}

    def features(
        self,
        texts: Sequence[str],
        encoder: TextEncoder,
        batch_size: int = 64,
        progress: bool = False,
    ) -> Float32[np.ndarray, "n d"]:
        """Returns the vector of each text, encoding those that are not in the store yet.

        Vectors are the same to the bit whether or not an encoding was interrupted, given the batch
        size, and within 1e-5 across batch sizes. "" is a text like any other.

        Args:
            texts: n texts; the same text may occur more than once.
            encoder: makes the vectors of new texts.
            batch_size: texts encoded at once, at most `shard_size`; batches are of similar length.
            progress: whether to show a progress bar while encoding.

        Returns:
            [n, D] features.

        Raises:
            TextError: if an entry of `texts` is no text.
            StoreError: if the folder cannot be read or written, its disk is full, or the encoder
                returns vectors of a wrong shape, or NaN.
        """
        check_texts(texts)
        if batch_size < 1:
            raise StoreError(f"batch_size is {batch_size}; it must be at least 1")
        features = np.empty((len(texts), encoder.embedding_size), np.float32)
        if not len(texts):
            return features
        folder = self._folder_of(encoder.feature_key)
        index = self._planned(folder, texts, encoder)
        rows_of: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for row, text in enumerate(texts):
            name, position = index.places[text]
            number, within = divmod(position, index.plans[name].shard_size)
            rows_of.setdefault((name, number), []).append((row, within))
        absent = []
        for (name, number), rows in rows_of.items():
            vectors = _read(folder, index.plans[name], number, encoder.embedding_size)
            if vectors is None:
                absent.append((name, number))
            else:
                _fill(features, vectors, rows)
        for (name, number), vectors in self._encoded(
            folder, index, sorted(absent), encoder, batch_size, progress
        ):
            _fill(features, vectors, rows_of[name, number])
        return features

    def _folder_of(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise StoreError(
                f"feature key {key!r} cannot name a folder; use letters, digits, - and _ only"
            )
        return self.folder / key

    def _planned(self, folder: Path, texts: Sequence[str], encoder: TextEncoder) -> _Index:
        """The index with every text in it; new ones get a plan, longest first."""
        index = self._read_index(folder)
        new = [text for text in dict.fromkeys(texts) if text not in index.places]
        if not new:
            return index
        length_of = dict(zip(new, encoder.token_lengths(new).tolist(), strict=True))
        with _naming(folder), _locked(folder):
            # Another process may have planned some of them while these were being measured.
            index = self._read_index(folder)
            new = [text for text in new if text not in index.places]
            if new:
                # The longest first: what does not fit into memory shows at once.
                new.sort(key=lambda text: (-length_of[text], text))
                draft = _Plan("", tuple(new), self.shard_size)
                content = draft.content()
                plan = _Plan(_name_of(content), draft.texts, draft.shard_size)
                _check_space(folder, len(content) + _bytes_of(len(new), encoder.embedding_size))
                _write(folder / (plan.name + _PLAN), content)
                index.add(plan)
        return index

    def _read_index(self, folder: Path) -> _Index:
        with _naming(folder):
            names = sorted(file.name.removesuffix(_PLAN) for file in folder.glob(f"*{_PLAN}"))
            index = self._indices.get(folder.name)
            if index is None or not index.plans.keys() <= set(names):
                index = self._indices[folder.name] = _Index()
            for name in names:
                if name not in index.plans and (plan := _read_plan(folder / (name + _PLAN))):
                    index.add(plan)
        return index

    def _encoded(
        self,
        folder: Path,
        index: _Index,
        shards: Sequence[tuple[str, int]],
        encoder: TextEncoder,
        batch_size: int,
        progress: bool,
    ) -> Iterator[tuple[tuple[str, int], Float32[np.ndarray, "n d"]]]:
        """Encodes shards and writes each as soon as it is whole."""
        if not shards:
            return
        from tqdm import tqdm

        size = encoder.embedding_size
        left = sum(len(index.plans[name].shard(number)) for name, number in shards)
        _check_space(folder, _bytes_of(left, size))
        with tqdm(total=left, desc="encoding texts", unit="text", disable=not progress) as bar:
            for name, number in shards:
                plan = index.plans[name]
                texts = plan.shard(number)
                # Another process may have written it meanwhile.
                vectors = _read(folder, plan, number, size)
                if vectors is None:
                    vectors = np.empty((len(texts), size), np.float32)
                    for start in range(0, len(texts), batch_size):
                        batch = texts[start : start + batch_size]
                        vectors[start : start + batch_size] = _encode(encoder, batch)
                        bar.update(len(batch))
                    _check_space(folder, _bytes_of(len(texts), size))
                    _write(folder / plan.shard_name(number), _shard_content(texts, vectors))
                else:
                    bar.update(len(texts))
                yield (name, number), vectors


def _fill(
    features: Float32[np.ndarray, "n d"],
    vectors: Float32[np.ndarray, "rows d"],
    rows: Sequence[tuple[int, int]],
) -> None:
    to, source = np.array(rows).T
    features[to] = vectors[source]


def _encode(encoder: TextEncoder, batch: Sequence[str]) -> Float32[np.ndarray, "n d"]:
    vectors = encoder.encode(batch, batch_size=len(batch))
    if vectors.shape != (len(batch), encoder.embedding_size):
        raise StoreError(
            f"{type(encoder).__name__} returned vectors of shape {vectors.shape} for {len(batch)} "
            f"texts with an embedding_size of {encoder.embedding_size}; nothing of them was kept"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        text = batch[int(np.argmin(finite))]
        raise StoreError(
            f"{type(encoder).__name__} returned NaN or infinity for {text[:60]!r}; nothing of the "
            "batch was kept. Check the checkpoint's weights"
        )
    return vectors


def _digests(texts: Sequence[str]) -> bytes:
    return b"".join(hashlib.sha256(text.encode()).digest() for text in texts)


def _seal(texts: bytes, vectors: Float32[np.ndarray, "n d"]) -> bytes:
    return hashlib.sha256(texts + np.ascontiguousarray(vectors).tobytes()).digest()


def _shard_content(texts: Sequence[str], vectors: Float32[np.ndarray, "n d"]) -> bytes:
    from safetensors.numpy import save

    digests = _digests(texts)
    content: bytes = save(
        {
            "features": vectors,
            "texts": np.frombuffer(digests, np.uint8).reshape(-1, _DIGEST),
            "seal": np.frombuffer(_seal(digests, vectors), np.uint8),
        }
    )
    return content


def _read(folder: Path, plan: _Plan, number: int, size: int) -> Float32[np.ndarray, "n d"] | None:
    """The vectors of a shard; None if it is not there, or broken, which is said."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file = folder / plan.shard_name(number)
    texts = plan.shard(number)
    digests = _digests(texts)
    with _naming(folder):
        try:
            tensors = load(file.read_bytes())
        except FileNotFoundError:
            return None
        except SafetensorError:
            tensors = {}
        vectors = tensors.get("features")
        if (
            tensors.keys() == {"features", "texts", "seal"}
            and vectors is not None
            and vectors.dtype == np.float32
            and vectors.shape == (len(texts), size)
            and tensors["texts"].tobytes() == digests
            and tensors["seal"].tobytes() == _seal(digests, vectors)
        ):
            return vectors
        _remove_broken(file)
    return None


def _remove_broken(file: Path) -> None:
    file.unlink(missing_ok=True)
    warnings.warn(
        f"{file} was truncated or altered, and is removed; its texts are encoded again",
        UserWarning,
        stacklevel=5,
    )


def _name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGEST]


def _read_plan(file: Path) -> _Plan | None:
    """A plan; None if it is broken, which is said, and the file removed."""
    content = file.read_bytes()
    name = file.name.removesuffix(_PLAN)
    if _name_of(content) != name:
        _remove_broken(file)
        return None
    plan = json.loads(content)
    if plan["format"] != _FORMAT:
        raise StoreError(
            f"{file} has format {plan['format']}, and this metarec reads {_FORMAT}; use the "
            "metarec that wrote it, or another folder"
        )
    return _Plan(name, tuple(plan["texts"]), plan["shard_size"])


def _bytes_of(texts: int, size: int) -> int:
    return texts * (size * 4 + _DIGEST) + _OVERHEAD


def _check_space(folder: Path, needed: int) -> None:
    with _naming(folder):
        if shutil.disk_usage(folder).free < needed:
            raise _no_space(folder, needed)


def _no_space(folder: Path, needed: int) -> StoreError:
    free = shutil.disk_usage(folder).free
    return StoreError(
        f"no disk space for the feature store {folder}: {needed:,} bytes needed, {free:,} free. "
        "Make room, or set METAREC_CACHE to a folder on another disk; what was encoded so far is "
        "kept"
    )


def _write(file: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all, whoever else writes it."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    with _naming(file.parent):
        try:
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _no_space(file.parent, len(content)) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Turns what the file system refuses into one error that names the folder."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the feature store {folder} cannot be used ({error}); make the folder readable and "
            "writable, or set METAREC_CACHE to another"
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds off other processes that plan; where locks do not exist, two plans may share texts."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / "lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL):
                raise
        yield
