"""Similarities of candidates by who interacted with both, and sparse matrices as named arrays."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int32
from scipy.sparse import csr_array

from metarec.learner import MetaParameters


def pack(name: str, matrix: csr_array) -> dict[str, np.ndarray]:
    """Returns a sparse matrix as named arrays, as meta-parameters are kept."""
    return {
        f"{name}.data": np.asarray(matrix.data),
        f"{name}.indices": np.asarray(matrix.indices).astype(np.int32),
        f"{name}.indptr": np.asarray(matrix.indptr).astype(np.int64),
        f"{name}.shape": np.array(matrix.shape, dtype=np.int64),
    }


def unpack(name: str, meta_parameters: MetaParameters) -> csr_array:
    """Returns the sparse matrix that `pack` took apart."""
    data, indices, indptr, shape = (
        meta_parameters[f"{name}.{part}"] for part in ("data", "indices", "indptr", "shape")
    )
    return csr_array((data, indices, indptr), shape=(int(shape[0]), int(shape[1])))


def similarities(
    by_task: csr_array,
    by_candidate: csr_array,
    block: Int32[np.ndarray, " b"],
    neighbours: int | None,
    shrinkage: float,
) -> Float64[np.ndarray, "b n_candidates"]:
    """Shrunk cosines of some candidates with all: `x_i . x_j / (|x_i| |x_j| + shrinkage)`.

    Args:
        by_task: [n_tasks, n_candidates] meta-train.
        by_candidate: its transpose.
        block: the candidates.
        neighbours: how many of the nearest each keeps (more on a tie at the edge); None for all.
        shrinkage: draws similarities on few interactions to 0.

    Returns:
        [b, n_candidates], 0 beyond the neighbours and of a candidate with itself.
    """
    squares = np.bincount(by_task.indices, by_task.data**2, by_task.shape[1])
    lengths = np.sqrt(squares)
    dots = (by_candidate[block] @ by_task).toarray()
    scale = lengths[block][:, None] * lengths[None, :] + shrinkage
    similarity = np.where(scale > 0, dots / np.where(scale > 0, scale, 1), 0)
    similarity[np.arange(len(block)), block] = 0
    known = np.flatnonzero(lengths)
    last = len(known) - (neighbours or len(known))
    if last > 0:
        edge = np.partition(similarity[:, known], last, axis=1)[:, last]
        similarity[similarity < edge[:, None]] = 0
    return np.asarray(similarity)
