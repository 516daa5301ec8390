"""Factorisation: each side a ridge solution, new tasks folded in, and a task left out exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from metarec.collaborative import Factorisation, factorise
from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, labels_of
from metarec.errors import LearnerError
from metarec.learner import Feedback, TaskKind, Training
from metarec.splits import Split

REGULARISATION, ALPHA = 2.0, 5.0
FEEDBACK: tuple[Feedback, ...] = ("rating", "binary", "implicit")


def training_of(data: Dataset, kind: TaskKind = "user", feedback: Feedback = "binary") -> Training:
    split = Split.by_seed(data, 0)
    rows = split.rows("train")
    sides, sizes = (data.users[rows], data.items[rows]), (data.n_users, data.n_items)
    if kind == "item":
        sides, sizes = sides[::-1], sizes[::-1]
    negatives = 0.0 if feedback == "rating" else 0.5
    sampler = EpisodeSampler(split, kind, feedback=feedback, negatives=negatives)
    labels = labels_of(data.ratings[rows], feedback, 4.0)
    return Training(kind, feedback, *sides, labels, *sizes, sampler.known, (), None, sampler)


def fitted(
    data: Dataset, kind: TaskKind = "user", feedback: Feedback = "binary"
) -> tuple[Training, Factorisation]:
    training = training_of(data, kind, feedback)
    return training, factorise(training, 4, REGULARISATION, ALPHA, iterations=6)


def half_step(
    training: Training, tasks: np.ndarray, candidate: int, leave: int | None = None
) -> np.ndarray:
    """The candidate's factor given the tasks' by the normal equations; `leave` a task out."""
    x = tasks.astype(np.float64)
    seen = training.candidates == candidate
    seen &= training.tasks != (-1 if leave is None else leave)
    system = REGULARISATION * np.eye(4)
    if training.feedback == "rating":
        own = x[training.tasks[seen]]
        target = training.labels[seen].astype(np.float64) - training.labels.mean(dtype=np.float64)
        return np.linalg.solve(system + own.T @ own, own.T @ target)
    if leave is not None:
        x = np.delete(x, leave, axis=0)
    own = tasks.astype(np.float64)[training.tasks[seen & (training.labels > 0)]]
    return np.linalg.solve(system + x.T @ x + ALPHA * own.T @ own, (1 + ALPHA) * own.sum(axis=0))


@pytest.mark.parametrize("kind", ["user", "item"])
@pytest.mark.parametrize("feedback", FEEDBACK)
def test_candidates_are_the_ridge_solution_given_the_tasks(
    tiny_dataset: Dataset, kind: TaskKind, feedback: Feedback
) -> None:
    training, found = fitted(tiny_dataset, kind, feedback)
    for candidate in range(training.n_candidates):
        expected = half_step(training, found.tasks, candidate)
        np.testing.assert_allclose(found.candidates[candidate], expected, rtol=1e-5, atol=1e-7)


def test_binary_factors_approach_the_minimum_of_the_objective(tiny_dataset: Dataset) -> None:
    training = training_of(tiny_dataset)

    def objective(iterations: int) -> float:
        found = factorise(training, 4, REGULARISATION, ALPHA, iterations)
        predicted = found.tasks.astype(np.float64) @ found.candidates.astype(np.float64).T
        liked = training.labels > 0
        pairs = training.tasks[liked], training.candidates[liked]
        total = np.square(predicted).sum() - np.square(predicted[pairs]).sum()
        total += (1 + ALPHA) * np.square(1 - predicted[pairs]).sum()
        norms = np.square(found.tasks).sum() + np.square(found.candidates).sum()
        return float(total + REGULARISATION * norms)

    values = [objective(iterations) for iterations in (1, 2, 4, 8, 16)]
    assert all(after < before for before, after in itertools.pairwise(values))


@pytest.mark.parametrize("kind", ["user", "item"])
@pytest.mark.parametrize("feedback", FEEDBACK)
def test_a_task_is_left_out_as_if_the_half_step_were_solved_without_it(
    tiny_dataset: Dataset, kind: TaskKind, feedback: Feedback
) -> None:
    training, found = fitted(tiny_dataset, kind, feedback)
    batch = training.sampler.batch(0)
    observed = batch.query_observed & batch.query_mask
    left = found.without(batch.query, batch.tasks, batch.query_labels, observed)
    for t, n in zip(*np.nonzero(batch.query_mask), strict=True):
        candidate, task = int(batch.query[t, n]), int(batch.tasks[t])
        expected = half_step(training, found.tasks, candidate, task)
        np.testing.assert_allclose(left[t, n], expected, rtol=1e-4, atol=1e-6)
    if feedback == "binary":  # a pair without a positive goes as well: a 0, or none at all
        assert (observed & (batch.query_labels == 0)).any()
        assert (~observed & batch.query_mask).any()
    assert np.abs(left - found.candidates[batch.query]).max() > 1e-3, "nothing was left out"


def test_a_candidate_that_only_the_task_liked_is_as_cold(tiny_dataset: Dataset) -> None:
    training, _ = fitted(tiny_dataset)
    candidate = int(training.candidates[np.flatnonzero(training.labels > 0)[0]])
    liked = np.flatnonzero((training.candidates == candidate) & (training.labels > 0))
    training.labels[liked[1:]] = 0
    found = factorise(training, 4, REGULARISATION, ALPHA)
    assert (found.candidates[candidate] != 0).all()
    pair = np.array([[candidate]], np.int32), training.tasks[liked[:1]]
    one, seen = np.ones((1, 1), np.float32), np.ones((1, 1), bool)
    assert (found.without(*pair, one, seen) == 0).all()


@pytest.mark.parametrize("kind", ["user", "item"])
@pytest.mark.parametrize("feedback", FEEDBACK)
def test_who_has_no_feedback_that_counts_has_zeros(
    tiny_dataset: Dataset, kind: TaskKind, feedback: Feedback
) -> None:
    training, found = fitted(tiny_dataset, kind, feedback)
    counts = training.labels > 0
    for factors, rows in (
        (found.tasks, training.tasks[counts]),
        (found.candidates, training.candidates[counts]),
    ):
        informed = np.isin(np.arange(len(factors)), rows)
        assert (factors[~informed] == 0).all()
        assert (factors[informed] != 0).all()
        assert (~informed).any()


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_fold_in_is_exactly_the_prior_without_shots(
    tiny_dataset: Dataset, feedback: Feedback
) -> None:
    _, found = fitted(tiny_dataset, "user", feedback)
    rng = np.random.default_rng(0)
    rows, labels = np.full((3, 2, 4), np.nan, np.float32), np.full((3, 2), np.nan, np.float32)
    for prior in (rng.normal(size=4).astype(np.float32), rng.normal(size=(3, 4)), None):
        folded = found.fold_in(rows, labels, np.zeros((3, 2), bool), prior)
        expected = np.zeros(4) if prior is None else prior
        assert (folded == np.broadcast_to(expected, (3, 4)).astype(np.float32)).all()


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_fold_in_minimises_the_ridge_objective(tiny_dataset: Dataset, feedback: Feedback) -> None:
    training, found = fitted(tiny_dataset, "user", feedback)
    rng = np.random.default_rng(0)
    chosen = np.unique(training.candidates)[None, :5]
    labels = np.array([[1, 0, 1, 1, 0]], np.float32) + 2 * (feedback == "rating")
    if feedback == "implicit":
        labels[:] = 1
    mask = np.array([[True, True, True, False, True]])
    prior = rng.normal(size=4)
    folded = found.fold_in(found.candidates[chosen], labels, mask, prior)[0].astype(np.float64)
    y = found.candidates.astype(np.float64)
    own, shots = y[chosen[0]][mask[0]], labels[0][mask[0]].astype(np.float64)
    if feedback == "rating":
        precision, weight, target = REGULARISATION * np.eye(4), np.ones(4), shots - found.centre
    else:
        precision, weight, target = REGULARISATION * np.eye(4) + y.T @ y, ALPHA * shots, shots
    # half the gradient of (x - p)' P (x - p) + sum of c (y x)^2 - 2 t y x
    scaled = target if feedback == "rating" else (1 + ALPHA) * target
    gradient = precision @ (folded - prior) + own.T @ (weight * (own @ folded) - scaled)
    assert np.abs(gradient).max() < 1e-4 * np.abs(precision @ prior).max()
    assert np.abs(folded - prior).max() > 1e-2


def test_the_fold_in_of_a_task_of_meta_train_is_its_own_half_step(tiny_dataset: Dataset) -> None:
    training, found = fitted(tiny_dataset)
    task = int(training.tasks[0])
    own = training.tasks == task
    labels, mask = training.labels[own][None], np.ones((1, int(own.sum())), bool)
    folded = found.fold_in(found.candidates[training.candidates[own]][None], labels, mask)
    # nearly, since the candidates have moved by one last half step
    similarity = folded[0] @ found.tasks[task]
    similarity /= np.linalg.norm(folded[0]) * np.linalg.norm(found.tasks[task])
    assert similarity > 0.99


def test_the_same_bits_come_out_twice(tiny_dataset: Dataset) -> None:
    (_, one), (training, two) = fitted(tiny_dataset), fitted(tiny_dataset)
    assert (one.tasks == two.tasks).all()
    assert (one.candidates == two.candidates).all()
    assert (factorise(training, 3).candidates.shape[1]) == 3


def test_nothing_that_counts_gives_zeros(tiny_dataset: Dataset) -> None:
    training = training_of(tiny_dataset)
    training.labels[:] = 0
    found = factorise(training, 4)
    assert (found.tasks == 0).all()
    assert (found.candidates == 0).all()
    batch = training.sampler.batch(0)
    left = found.without(
        batch.query, batch.tasks, np.zeros_like(batch.query_labels), batch.query_observed
    )
    assert (left == 0).all()


@pytest.mark.parametrize(
    "settings", [{"factors": 0}, {"iterations": 0}, {"regularisation": 0.0}, {"alpha": -1.0}]
)
def test_a_setting_out_of_range_is_an_error_that_names_it(
    tiny_dataset: Dataset, settings: dict[str, float]
) -> None:
    with pytest.raises(
        LearnerError, match=f"{next(iter(settings))}={next(iter(settings.values()))}"
    ):
        factorise(training_of(tiny_dataset), **settings)  # type: ignore[arg-type]
