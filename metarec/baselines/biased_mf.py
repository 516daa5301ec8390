"""Biased matrix factorisation of ratings, with new candidates placed by what is written of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, Integer

from metarec.baselines._shared import BOTH, clean, require, require_choice
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training, require_features

READOUTS = ("mean", "median")

_BIAS_ROUNDS = 10
"""Alternations of the biases, after which they move by less than a thousandth of a rating."""
_TRUST = 20.0
"""Ratings of a candidate at which its own factors count half in the regression on its content."""
_HELD_OUT = 0.1
"""Share of tasks and of candidates that are left out of a first fit, for the readout."""
_BINS = 40
"""Places of the readout's steps, each with the same number of ratings."""
_OWN = 0.01
"""Weight of the predicted mean beside its median, so that the readout keeps the order."""


@dataclass(frozen=True)
class MFTasks:
    """T tasks folded in.

    Args:
        bias: [T] of each task.
        factors: [T, F] of each task.
        meta_parameters: what `fit` learned.
    """

    bias: Float64[np.ndarray, " tasks"]
    factors: Float64[np.ndarray, "tasks factors"]
    meta_parameters: MetaParameters


@dataclass(kw_only=True)
class BiasedMF:
    """Predicts `mean + bias of task + bias of candidate + product of factors` (Koren et al. 2009).

    Biases first, then the factors of what they leave, both by alternating least squares. A new
    task's bias is the shrunk mean of its shots' residuals, and its factors are a ridge regression
    of the rest on the candidates' factors. Bias and factors of an unknown candidate are predicted
    from its text feature and its attributes, by a ridge regression over the known ones, each with
    the weight `n / (n + 20)` of its n ratings.

    The mean of a rating is the best guess for the squared error; for the absolute error it is the
    median. `readout=median` maps the predicted mean to the median of the ratings that had such a
    prediction: a rising step function for known candidates and one for unknown ones, fitted on the
    queries of a tenth of the tasks and on a tenth of the candidates of meta-train, which a first
    fit leaves out. Serves user tasks and item tasks.

    Args:
        factors: number of factors.
        regularisation: weight of the squared norms of the factors.
        shrinkage: number of residuals of 0 that each candidate is given for its bias.
        task_shrinkage: likewise each task.
        content_regularisation: weight of the squared norm of the regression on the content.
        iterations: alternations of the factors.
        readout: `mean`, or `median` for the least absolute error.
    """

    factors: int = 16
    regularisation: float = 8.0
    shrinkage: float = 3.0
    task_shrinkage: float = 5.0
    content_regularisation: float = 100.0
    iterations: int = 8
    readout: str = "median"

    serves: ClassVar[frozenset[str]] = BOTH
    accepts: ClassVar[frozenset[str]] = frozenset({"rating"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("BiasedMF", "factors", self.factors, 1)
        require("BiasedMF", "regularisation", self.regularisation, 0, strict=True)
        require("BiasedMF", "shrinkage", self.shrinkage, 0)
        require("BiasedMF", "task_shrinkage", self.task_shrinkage, 0)
        require("BiasedMF", "content_regularisation", self.content_regularisation, 0, strict=True)
        require("BiasedMF", "iterations", self.iterations, 1)
        require_choice("BiasedMF", "readout", self.readout, READOUTS)

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings."""
        return "rating"

    def fit(self, training: Training) -> MetaParameters:
        """Factorises meta-train, regresses on the content and fits the readout."""
        content = _content_of(training)
        training.note("factors, biases and readout")
        ratings = _Ratings(
            training.tasks.astype(np.int64),
            training.candidates.astype(np.int64),
            training.labels.astype(np.float64),
        )
        sizes = (training.n_tasks, training.n_candidates)
        found = self._factorised(ratings, sizes, content, training.seed)
        if self.readout == "median":
            found |= self._readout(ratings, sizes, content, training.seed)
        return found

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> MFTasks:
        """Returns bias and factors of each task; both are 0 without shots."""
        support = clean(support)
        residuals = support.labels - (
            meta_parameters["mean"][0] + meta_parameters["bias"][support.candidates]
        )
        residuals = np.where(support.mask, residuals, 0)
        number = support.mask.sum(axis=1) + self.task_shrinkage
        bias = residuals.sum(axis=1) / np.where(number > 0, number, 1)
        rows = meta_parameters["factors"][support.candidates] * support.mask[:, :, None]
        left = np.where(support.mask, residuals - bias[:, None], 0)
        system = rows.transpose(0, 2, 1) @ rows + self.regularisation * np.eye(rows.shape[2])
        right = rows.transpose(0, 2, 1) @ left[:, :, None]
        return MFTasks(bias, np.linalg.solve(system, right)[:, :, 0], meta_parameters)

    def score(
        self, fast_weights: MFTasks, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] predicted ratings, not clipped to their scale."""
        meta = fast_weights.meta_parameters
        means = (
            meta["mean"][0]
            + meta["bias"][candidates][None, :]
            + fast_weights.bias[:, None]
            + fast_weights.factors @ meta["factors"][candidates].T
        )
        if "readout.known" in meta:
            known = meta["known"][candidates]
            means[:, known] = _read_out(means[:, known], meta["readout.known"])
            means[:, ~known] = _read_out(means[:, ~known], meta["readout.new"])
        return np.asarray(means, dtype=np.float32)

    def _factorised(
        self,
        ratings: _Ratings,
        sizes: tuple[int, int],
        content: Float64[np.ndarray, "n_candidates d"],
        seed: int,
    ) -> dict[str, np.ndarray]:
        """Mean, biases and factors of the candidates, and which of them are known."""
        n_tasks, n_candidates = sizes
        mean = float(ratings.labels.mean())
        of_task, of_candidate = np.zeros(n_tasks), np.zeros(n_candidates)
        counts = np.bincount(ratings.candidates, minlength=n_candidates)
        of_tasks = np.bincount(ratings.tasks, minlength=n_tasks)
        for _ in range(_BIAS_ROUNDS):
            left = ratings.labels - mean - of_task[ratings.tasks]
            sums = np.bincount(ratings.candidates, left, n_candidates)
            of_candidate = sums / np.maximum(counts + self.shrinkage, 1e-12)
            left = ratings.labels - mean - of_candidate[ratings.candidates]
            sums = np.bincount(ratings.tasks, left, n_tasks)
            of_task = sums / np.maximum(of_tasks + self.task_shrinkage, 1e-12)
        residuals = ratings.labels - mean - of_task[ratings.tasks]
        residuals -= of_candidate[ratings.candidates]
        factors = self._alternated(ratings, residuals, sizes, seed)
        known = counts > 0
        weights = counts[known] / (counts[known] + _TRUST)
        target = np.column_stack([of_candidate, factors])
        target[~known] = _regressed(
            content[known], target[known], weights, self.content_regularisation, content[~known]
        )
        return {
            "mean": np.array([mean]),
            "bias": target[:, 0],
            "factors": target[:, 1:],
            "known": known,
        }

    def _alternated(
        self,
        ratings: _Ratings,
        residuals: Float64[np.ndarray, " n"],
        sizes: tuple[int, int],
        seed: int,
    ) -> Float64[np.ndarray, "n_candidates factors"]:
        """The candidates' factors of the residuals, by alternating least squares."""
        from scipy.sparse import csr_array

        matrix = csr_array((residuals, (ratings.tasks, ratings.candidates)), shape=sizes)
        places = csr_array(
            (np.ones(len(residuals)), (ratings.tasks, ratings.candidates)), shape=sizes
        )
        sides = (matrix, places), (matrix.T.tocsr(), places.T.tocsr())
        rng = np.random.default_rng([seed, 5])
        factors = 0.1 * rng.standard_normal((sizes[1], self.factors))
        for _ in range(self.iterations):
            for values, where in sides:
                squares = np.einsum("cf,cg->cfg", factors, factors).reshape(len(factors), -1)
                system = np.asarray(where @ squares).reshape(-1, self.factors, self.factors)
                system = system + self.regularisation * np.eye(self.factors)
                right = np.asarray(values @ factors)
                factors = np.linalg.solve(system, right[:, :, None])[:, :, 0]
        return factors

    def _readout(
        self,
        ratings: _Ratings,
        sizes: tuple[int, int],
        content: Float64[np.ndarray, "n_candidates d"],
        seed: int,
    ) -> dict[str, np.ndarray]:
        """The steps from predicted mean to median, by tasks and candidates that are left out."""
        rng = np.random.default_rng([seed, 6])
        out_task = np.zeros(sizes[0], bool)
        out_task[_drawn(np.unique(ratings.tasks), rng)] = True
        out_candidate = np.zeros(sizes[1], bool)
        out_candidate[_drawn(np.unique(ratings.candidates), rng)] = True
        of_task, of_candidate = out_task[ratings.tasks], out_candidate[ratings.candidates]
        kept = ~of_task & ~of_candidate
        if not kept.any():
            kept[:] = True
        first = self._factorised(ratings.where(kept), sizes, content, seed)
        # half of what a left-out task rated is its support, all else that is left out is asked for
        shots = of_task & ~of_candidate & (rng.random(len(kept)) < 0.5)
        asked = (of_task | of_candidate) & ~shots
        support = ratings.where(shots | (kept & np.isin(ratings.tasks, ratings.tasks[asked])))
        predictions = self._predictions(first, support, ratings.where(asked))
        known = first["known"][ratings.candidates[asked]]
        labels = ratings.labels[asked]
        steps = {
            name: _steps(predictions[rows], labels[rows])
            for name, rows in (("readout.known", known), ("readout.new", ~known))
        }
        for name, other in (("readout.known", "readout.new"), ("readout.new", "readout.known")):
            if not steps[name].size:
                steps[name] = steps[other]
        return steps if all(one.size for one in steps.values()) else {}

    def _predictions(
        self, meta_parameters: MetaParameters, support: _Ratings, asked: _Ratings
    ) -> Float64[np.ndarray, " asked"]:
        """The predicted means of interactions, from the support of their tasks."""
        tasks, rows = np.unique(asked.tasks, return_inverse=True)
        own = support.where(np.isin(support.tasks, tasks))
        row = np.searchsorted(tasks, own.tasks)
        order = np.argsort(row, kind="stable")
        lengths = np.bincount(row, minlength=len(tasks))
        mask = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        candidates = np.zeros(mask.shape, np.int32)
        labels = np.zeros(mask.shape, np.float32)
        candidates[mask], labels[mask] = own.candidates[order], own.labels[order]
        found = self.adapt(meta_parameters, Support(candidates, labels, mask))
        products = (found.factors[rows] * meta_parameters["factors"][asked.candidates]).sum(axis=1)
        biases = meta_parameters["bias"][asked.candidates] + found.bias[rows]
        return np.asarray(meta_parameters["mean"][0] + biases + products)


@dataclass(frozen=True)
class _Ratings:
    """Ratings of candidates by tasks."""

    tasks: Int64[np.ndarray, " n"]
    candidates: Int64[np.ndarray, " n"]
    labels: Float64[np.ndarray, " n"]

    def where(self, mask: Bool[np.ndarray, " n"]) -> _Ratings:
        """Some of them."""
        return _Ratings(self.tasks[mask], self.candidates[mask], self.labels[mask])


def _content_of(training: Training) -> Float64[np.ndarray, "n_candidates d"]:
    """[n_candidates, D] what is written of each: a column of 1, text feature, attributes."""
    features = require_features("BiasedMF", training).candidates.astype(np.float64)
    known = features[training.known]
    scale = known.std()
    blocks = [
        np.ones((len(features), 1)),
        (features - known.mean(axis=0)) / (scale if scale > 0 else 1),
    ]
    if training.kind == "user" and training.attributes is not None:
        blocks.append(training.attributes.values.astype(np.float64))
    return np.concatenate(blocks, axis=1)


def _regressed(
    content: Float64[np.ndarray, "known d"],
    target: Float64[np.ndarray, "known t"],
    weights: Float64[np.ndarray, " known"],
    regularisation: float,
    new: Float64[np.ndarray, "new d"],
) -> Float64[np.ndarray, "new t"]:
    weighted = content * weights[:, None]
    system = weighted.T @ content + regularisation * np.eye(content.shape[1])
    return np.asarray(new @ np.linalg.solve(system, weighted.T @ target))


def _drawn(indices: Integer[np.ndarray, " n"], rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(indices)[: max(1, round(_HELD_OUT * len(indices)))]


def _steps(
    predictions: Float64[np.ndarray, " n"], labels: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, "2 bins"]:
    """Where each step of the readout begins, and its median, which never falls."""
    if len(labels) == 0:
        return np.zeros((2, 0))
    order = np.argsort(predictions, kind="stable")
    parts = np.array_split(order, min(_BINS, len(order)))
    begins = [predictions[part[0]] for part in parts]
    medians = np.maximum.accumulate([np.median(labels[part]) for part in parts])
    return np.array([begins, medians])


def _read_out(
    means: Float64[np.ndarray, "tasks c"], steps: Float64[np.ndarray, "2 bins"]
) -> Float64[np.ndarray, "tasks c"]:
    step = np.maximum(np.searchsorted(steps[0], means, side="right") - 1, 0)
    return np.asarray((1 - _OWN) * steps[1][step] + _OWN * means)
