"""What several baselines do alike: clean shots, weigh labels, count."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32
from scipy.sparse import csr_array

from metarec.errors import ConfigError, did_you_mean
from metarec.learner import Support, Training

BOTH = frozenset({"user", "item"})
ANY_FEEDBACK = frozenset({"rating", "binary", "implicit"})

CENTRES = ("none", "global", "task")
PRIORS = ("popularity", "none")
COUNTS = ("positives", "all")


def require(
    learner: str, name: str, value: float | int, low: float | int, strict: bool = False
) -> None:
    """Raises ConfigError unless a hyperparameter is finite and at least (strictly above) `low`."""
    if not np.isfinite(value) or value < low or (strict and value == low):
        raise ConfigError(
            f"{learner}: {name}={value!r} must be {'above' if strict else 'at least'} {low:g}"
        )


def require_choice(learner: str, name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises ConfigError unless a hyperparameter is one of the known names."""
    if value not in known:
        raise ConfigError(f"{learner}: {name}={value!r} is unknown{did_you_mean(value, known)}")


def clean(support: Support) -> Support:
    """Returns the support with index 0 and label 0 wherever there is no shot."""
    return Support(
        np.where(support.mask, support.candidates, 0).astype(np.int32),
        np.where(support.mask, support.labels, 0).astype(np.float32),
        support.mask,
        support.tasks,
    )


def fit_weights(
    training: Training, centre: str, dislike_weight: float
) -> Float64[np.ndarray, " 3"]:
    """Fits how much an interaction counts by its label: slope, intercept, and whether per task.

    Binary feedback counts 1 for a liked candidate and `dislike_weight` for another; implicit
    feedback counts 1; a rating counts as it is, or less the mean of meta-train (`global`) or of its
    task's shots (`task`).

    Args:
        training: whose feedback and labels decide.
        centre: what is taken off ratings.
        dislike_weight: weight of a label 0 of binary feedback.

    Returns:
        The coefficients that `weigh` takes.
    """
    if training.feedback == "binary":
        return np.array([1 - dislike_weight, dislike_weight, 0.0])
    if training.feedback == "implicit" or centre == "none":
        return np.array([1.0, 0.0, 0.0])
    if centre == "task":
        return np.array([1.0, 0.0, 1.0])
    training.note("centre")
    return np.array([1.0, -np.mean(training.labels, dtype=np.float64), 0.0])


def weigh(weights: Float64[np.ndarray, " 3"], support: Support) -> Float64[np.ndarray, "tasks k"]:
    """Returns [T, K] weight of each shot, 0 where there is none."""
    slope, intercept, per_task = weights
    labels = np.where(support.mask, support.labels, 0).astype(np.float64)
    value = np.where(support.mask, slope * labels + intercept, 0)
    if per_task:
        shots = np.maximum(support.mask.sum(axis=1, keepdims=True), 1)
        value = np.where(support.mask, value - value.sum(axis=1, keepdims=True) / shots, 0)
    return value


def interactions(training: Training, weights: Float64[np.ndarray, " 3"] | None = None) -> csr_array:
    """Returns the [n, n_candidates] sparse matrix of meta-train, one row a task that occurs.

    Args:
        training: whose interactions are meant.
        weights: coefficients from `fit_weights`; None to take labels as they are.
    """
    training.note("matrix")
    present, row = np.unique(training.tasks, return_inverse=True)
    values = training.labels.astype(np.float64)
    if weights is not None:
        slope, intercept, per_task = weights
        values = slope * values + intercept
        if per_task:
            count = np.bincount(row, minlength=len(present))
            values -= (np.bincount(row, values, len(present)) / count)[row]
    matrix = csr_array(
        (values, (row, training.candidates)), shape=(len(present), training.n_candidates)
    )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def shots(support: Support, values: Float64[np.ndarray, "tasks k"], n_candidates: int) -> csr_array:
    """Returns the [T, n_candidates] sparse matrix of the support: `values` where a shot is."""
    row, column = np.nonzero(support.mask)
    matrix = csr_array(
        (values[row, column], (row, support.candidates[row, column])),
        shape=(len(support), n_candidates),
    )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def popularity(training: Training, of: str) -> Float32[np.ndarray, " n_candidates"]:
    """Counts the meta-train interactions of each candidate: all, or those labelled above 0."""
    training.note("popularity")
    counted = training.candidates
    if of == "positives":
        counted = counted[training.labels > 0]
    return np.bincount(counted, minlength=training.n_candidates).astype(np.float32)


def fit_prior(training: Training, prior: str) -> Float32[np.ndarray, " n_candidates"]:
    """Returns what a task without a shot that counts is scored with: popularity, or all ties."""
    if prior == "none":
        return np.zeros(training.n_candidates, dtype=np.float32)
    return popularity(training, "positives")


def with_prior(
    scores: Float64[np.ndarray, "tasks n_candidates"],
    informed: Bool[np.ndarray, " tasks"],
    prior: Float32[np.ndarray, " n_candidates"],
    weight: float,
    candidates: Int32[np.ndarray, " c"],
) -> Float32[np.ndarray, "tasks c"]:
    """Returns the scores of candidates, and the prior for the tasks that are not informed.

    Args:
        scores: [T, n_candidates] of every candidate.
        informed: [T] whether any shot of the task counts.
        prior: [n_candidates] from `fit_prior`.
        weight: of the prior beside the scores of an informed task: its logarithm, standardised over
            the candidates that somebody likes and in standard deviations of the task's scores of
            these.
        candidates: [C] whose scores are wanted.
    """
    ranked = scores[:, candidates]
    liked = prior > 0
    if weight and liked.any():
        logs = np.log1p(prior.astype(np.float64))
        standard = (logs - logs[liked].mean()) / (logs[liked].std() or 1.0)
        spread = scores[:, liked].std(axis=1, keepdims=True)
        ranked = ranked + weight * spread * standard[candidates]
    return np.where(informed[:, None], ranked, prior[candidates]).astype(np.float32)


def shrunk_means(
    training: Training, shrinkage: float
) -> tuple[Float64[np.ndarray, " n_candidates"], float]:
    """Returns the mean label of each candidate, drawn to the global mean, and the global mean.

    `(sum of labels + shrinkage * global mean) / (number + shrinkage)`; the global mean where a
    candidate is unknown.
    """
    training.note("means")
    mean = float(np.mean(training.labels, dtype=np.float64))
    number = np.bincount(training.candidates, minlength=training.n_candidates)
    residual = np.bincount(
        training.candidates, training.labels.astype(np.float64) - mean, training.n_candidates
    )
    return mean + residual / np.maximum(number + shrinkage, 1e-12), mean


def unit_rows(
    matrix: Float32[np.ndarray, "n d"] | Float64[np.ndarray, "n d"],
) -> Float64[np.ndarray, "n d"]:
    """Returns the rows at length 1; a row of zeros stays."""
    exact = matrix.astype(np.float64)
    length = np.sqrt((exact * exact).sum(axis=1, keepdims=True))
    return exact / np.where(length > 0, length, 1)


def tied(n_tasks: int, n_candidates: int) -> Float32[np.ndarray, "tasks c"]:
    """Returns scores that are all 0."""
    return np.zeros((n_tasks, n_candidates), dtype=np.float32)
