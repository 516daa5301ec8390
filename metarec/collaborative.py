"""Collaborative embeddings: meta-train factorised by weighted alternating least squares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from metarec.errors import LearnerError
from metarec.learner import Training

_CHUNK = 4096
"""Systems that are solved at once: bounds the memory, changes no result."""


@dataclass(frozen=True)
class Factorisation:
    """Factors of the tasks and candidates of meta-train, `task @ candidate` predicting the target.

    The candidates are the exact ridge solution given the tasks (the last half step); the tasks are
    that given the candidates of one half step before. Who has no feedback that counts, cold ones
    included, has zeros.

    Args:
        tasks: [n_tasks, F].
        candidates: [n_candidates, F].
        counts: [n_candidates] feedback that counts: positives, or ratings.
        gram: [F, F] sum of the outer products of the candidates, weighing each new task.
        place: [n_candidates] row of `inverses`; 0 for candidates without feedback that counts.
        inverses: [known, F, F] inverse of the system that each candidate's factor solved.
        base: weight of every pair of task and candidate, with target 0.
        weight: what the weight of a pair whose feedback counts adds.
        centre: what is taken off a rating, and 0 for binary and implicit feedback.
        regularisation: weight of the squared norm of each factor.
        ratings: whether the labels are ratings.
    """

    tasks: Float32[np.ndarray, "n_tasks f"]
    candidates: Float32[np.ndarray, "n_candidates f"]
    counts: Int64[np.ndarray, " n_candidates"]
    gram: Float64[np.ndarray, "f f"]
    place: Int64[np.ndarray, " n_candidates"]
    inverses: Float64[np.ndarray, "known f f"]
    base: float
    weight: float
    centre: float
    regularisation: float
    ratings: bool

    @property
    def size(self) -> int:
        """F, the number of factors."""
        return self.candidates.shape[1]

    def fold_in(
        self,
        rows: Float32[np.ndarray, "tasks k f"] | Float64[np.ndarray, "tasks k f"],
        labels: Float32[np.ndarray, "tasks k"],
        mask: Bool[np.ndarray, "tasks k"],
        prior: np.ndarray | None = None,
    ) -> Float32[np.ndarray, "tasks f"]:
        """Factors of new tasks, by ridge regression towards a prior with the candidates fixed.

        Minimises `(x - p)' (base Y'Y + regularisation I) (x - p)` plus the weighted squared errors
        of the shots: with p = 0 this is the fold-in of Hu, Koren and Volinsky (2008, eq. 4), and
        without shots it is exactly p.

        Args:
            rows: [T, K, F] factors of the shots' candidates.
            labels: [T, K] rating, or 1 and 0.
            mask: [T, K] true where there is a shot.
            prior: p, [F] or [T, F]; None for 0.

        Returns:
            [T, F].
        """
        counts, target = self._feedback(labels, mask)
        exact = np.where(mask[..., None], rows, 0).astype(np.float64)
        start = np.zeros(self.size) if prior is None else np.asarray(prior, np.float64)
        start = np.broadcast_to(start, (len(rows), self.size))
        weight = self.weight * counts
        system = self.base * self.gram + self.regularisation * np.eye(self.size)
        system = system + exact.transpose(0, 2, 1) @ (weight[..., None] * exact)
        predicted = (exact @ start[..., None])[..., 0]
        right = exact.transpose(0, 2, 1) @ (target - weight * predicted)[..., None]
        return (start + np.linalg.solve(system, right)[..., 0]).astype(np.float32)

    def without(
        self,
        candidates: Int32[np.ndarray, "tasks n"],
        tasks: Int32[np.ndarray, " tasks"],
        labels: Float32[np.ndarray, "tasks n"],
        observed: Bool[np.ndarray, "tasks n"],
    ) -> Float32[np.ndarray, "tasks n f"]:
        """Factors of candidates as if the task had never been in meta-train.

        Given the other tasks' factors this is exact, by the formula of Sherman and Morrison (1950):
        `A' = A - d x x'` and `b' = b - t x` give `y' = y + v (d x'y - t) / (1 - d x'v)` with
        `v = A^-1 x`. In binary and implicit feedback a pair without a positive goes too, since its
        target of 0 would tell a sampled negative from a new candidate. The indirect trace that a
        task leaves in the factors of other tasks stays.

        Args:
            candidates: [T, N].
            tasks: [T] each task of meta-train; one that was not in it changes nothing.
            labels: [T, N] the labels in meta-train.
            observed: [T, N] whether the pair is a meta-train interaction.

        Returns:
            [T, N, F]; zeros where no other task's feedback counts.
        """
        counted, target = self._feedback(labels, observed)
        own = self.tasks[tasks].astype(np.float64)
        factors = self.candidates[candidates].astype(np.float64)
        drop = self.base + self.weight * counted
        places = self.place[candidates]
        # one product with all inverses of a task's candidates, never a solve
        solved = np.stack([self.inverses[place] @ x for place, x in zip(places, own, strict=True)])
        fit = np.einsum("tnf,tf->tn", factors, own)
        leverage = np.einsum("tnf,tf->tn", solved, own)
        step = (drop * fit - target) / (1 - drop * leverage)
        left = self.counts[candidates] - counted
        kept = np.where(left[..., None] > 0, factors + step[..., None] * solved, 0)
        return kept.astype(np.float32)

    def _feedback(
        self, labels: Float32[np.ndarray, "tasks n"], mask: Bool[np.ndarray, "tasks n"]
    ) -> tuple[Bool[np.ndarray, "tasks n"], Float64[np.ndarray, "tasks n"]]:
        """Which feedback counts, and its weighted target (`t` of `b = sum t y`)."""
        counted, value = _targets(np.where(mask, labels, 0), self.ratings, self.centre)
        return counted & mask, np.where(counted & mask, (self.base + self.weight) * value, 0)


def factorise(
    training: Training,
    factors: int = 32,
    regularisation: float = 3.0,
    alpha: float = 10.0,
    iterations: int = 10,
) -> Factorisation:
    """Factorises meta-train; one thread and one seed, so that the same bits come out.

    Each half step solves `(base Y'Y + regularisation I + sum c y y') x = sum t y` over the feedback
    that counts. Binary and implicit feedback (Hu, Koren and Volinsky 2008): positives count, with
    `base` 1, c = alpha and t = 1 + alpha; a label 0 is as an unobserved pair. Ratings (Zhou et al.
    2008): all count, with `base` 0, c = 1 and t the rating less the mean of meta-train; unlike
    there, the regularisation is not multiplied by the number of ratings, so that a task can be left
    out of a factor exactly (`Factorisation.without`). There are no biases.

    Args:
        training: meta-train.
        factors: F, number of factors.
        regularisation: weight of the squared norm of each factor.
        alpha: how much more a positive counts than an unobserved pair; not used for ratings.
        iterations: number of alternations.

    Returns:
        The factors, all zeros if no feedback counts. `Factorisation.inverses` takes 8 F² bytes a
        candidate (8 KiB at F = 32).

    Raises:
        LearnerError: if an argument is out of range.
    """
    from threadpoolctl import threadpool_limits

    if factors < 1 or iterations < 1 or not 0 < regularisation < np.inf or not 0 < alpha < np.inf:
        raise LearnerError(
            f"collaborative factors={factors} and iterations={iterations} must be at least 1, "
            f"regularisation={regularisation} and alpha={alpha} above 0"
        )
    training.note("factors")
    ratings = training.feedback == "rating"
    centre = float(np.mean(training.labels, dtype=np.float64)) if ratings else 0.0
    base, weight = (0.0, 1.0) if ratings else (1.0, alpha)
    counted, value = _targets(training.labels, ratings, centre)
    value = (base + weight) * value[counted]
    sides = training.tasks[counted], training.candidates[counted]
    sizes = training.n_tasks, training.n_candidates
    with threadpool_limits(1):
        of_tasks = _Half.group(sides[0], sides[1], value, sizes[0], base, weight, regularisation)
        of_candidates = _Half.group(
            sides[1], sides[0], value, sizes[1], base, weight, regularisation
        )
        rng = np.random.default_rng([training.seed, 11])
        # a draw for every candidate, so that nobody's start depends on who else is known
        right = rng.standard_normal((sizes[1], factors)) / np.sqrt(factors)
        right[np.bincount(sides[1], minlength=sizes[1]) == 0] = 0
        for _ in range(iterations):
            left = of_tasks.solve(right).astype(np.float32).astype(np.float64)
            right = of_candidates.solve(left)
        candidates = right.astype(np.float32)
        inverses = of_candidates.inverses(left)
        exact = candidates.astype(np.float64)
        gram = exact.T @ exact
    return Factorisation(
        tasks=left.astype(np.float32),
        candidates=candidates,
        counts=np.diff(of_candidates.offsets),
        gram=gram,
        place=of_candidates.place,
        inverses=inverses,
        base=base,
        weight=weight,
        centre=centre,
        regularisation=regularisation,
        ratings=ratings,
    )


def _targets(labels: np.ndarray, ratings: bool, centre: float) -> tuple[np.ndarray, np.ndarray]:
    """Which labels count (ratings all, else positives), and what they are predicted to be."""
    if ratings:
        return np.ones(labels.shape, bool), labels.astype(np.float64) - centre
    return labels > 0, np.ones(labels.shape)


@dataclass(frozen=True)
class _Half:
    """One side's half step: the feedback grouped by row, and how it weighs.

    Args:
        offsets: [n + 1] where the feedback of each row starts, and the end of the last.
        others: [m] the other side of each pair.
        targets: [m] the weighted target of each pair.
        rows: [known] the rows with feedback, ascending.
        place: [n] where each row stands among them; 0 for the others.
        base: weight of every pair.
        weight: what the feedback adds.
        regularisation: of the factors.
    """

    offsets: Int64[np.ndarray, " n_plus_1"]
    others: Int32[np.ndarray, " m"]
    targets: Float64[np.ndarray, " m"]
    rows: Int64[np.ndarray, " known"]
    place: Int64[np.ndarray, " n"]
    base: float
    weight: float
    regularisation: float

    @classmethod
    def group(
        cls,
        rows: Int32[np.ndarray, " m"],
        others: Int32[np.ndarray, " m"],
        targets: Float64[np.ndarray, " m"],
        n_rows: int,
        base: float,
        weight: float,
        regularisation: float,
    ) -> _Half:
        """Groups pairs by row."""
        order = np.lexsort((others, rows))
        counts = np.bincount(rows, minlength=n_rows)
        known = np.flatnonzero(counts)
        place = np.zeros(n_rows, np.int64)
        place[known] = np.arange(len(known))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(
            offsets, others[order], targets[order], known, place, base, weight, regularisation
        )

    def solve(self, factors: Float64[np.ndarray, "others f"]) -> Float64[np.ndarray, "n f"]:
        """Factors of the rows, given those of the other side."""
        solved = np.zeros((len(self.place), factors.shape[1]))
        for rows, systems, right in self._systems(factors):
            solved[rows] = np.linalg.solve(systems, right[..., None])[..., 0]
        return solved

    def inverses(
        self, factors: Float64[np.ndarray, "others f"]
    ) -> Float64[np.ndarray, "known f f"]:
        """Inverse of the system of each row with feedback."""
        width = factors.shape[1]
        inverses = [np.linalg.inv(systems) for _, systems, _ in self._systems(factors)]
        return np.concatenate([*inverses, np.zeros((0 if inverses else 1, width, width))])

    def _systems(
        self, factors: Float64[np.ndarray, "others f"]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows, [rows, F, F] systems and [rows, F] right sides, some rows at a time."""
        width = factors.shape[1]
        common = self.base * (factors.T @ factors) + self.regularisation * np.eye(width)
        for first in range(0, len(self.rows), _CHUNK):
            rows = self.rows[first : first + _CHUNK]
            systems = np.empty((len(rows), width, width))
            right = np.empty((len(rows), width))
            for number, row in enumerate(rows):
                pairs = slice(self.offsets[row], self.offsets[row + 1])
                own = factors[self.others[pairs]]
                systems[number] = common + self.weight * (own.T @ own)
                right[number] = self.targets[pairs] @ own
            yield rows, systems, right
