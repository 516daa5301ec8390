"""Biased matrix factorisation: what it recovers, where it puts new candidates, its readout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.baselines import BiasedMF
from metarec.baselines.biased_mf import _read_out, _steps
from metarec.errors import ConfigError
from metarec.features import Features
from metarec.learner import Support, Training

TASKS, CANDIDATES, KNOWN = 200, 60, 50


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, np.ndarray]:
    """True ratings [TASKS, CANDIDATES] of biases and two factors, and features that tell them."""
    rng = np.random.default_rng(0)
    content = rng.normal(size=(CANDIDATES, 3))
    bias, factors = content[:, 0], content[:, 1:]
    tasks = rng.normal(size=(TASKS, 2))
    ratings = 3.5 + 0.5 * rng.normal(size=(TASKS, 1)) + bias + tasks @ factors.T
    return ratings.astype(np.float32), content.astype(np.float32)


def training(world: tuple[np.ndarray, np.ndarray], share: float = 0.6) -> Training:
    """A share of the ratings of the known candidates; the last ten are new."""
    ratings, content = world
    rng = np.random.default_rng(1)
    tasks, candidates = np.nonzero(rng.random((TASKS, KNOWN)) < share)
    return Training(
        kind="user",
        feedback="rating",
        tasks=tasks.astype(np.int32),
        candidates=candidates.astype(np.int32),
        labels=ratings[tasks, candidates],
        n_tasks=TASKS,
        n_candidates=CANDIDATES,
        known=np.unique(candidates).astype(np.int32),
        texts=("",) * CANDIDATES,
        features=Features(content),
        sampler=None,  # type: ignore[arg-type]
    )


def predicted(
    learner: BiasedMF, seen: Training, ratings: np.ndarray, shots: np.ndarray
) -> np.ndarray:
    """[TASKS, CANDIDATES] from the ratings of some candidates."""
    candidates = np.tile(shots.astype(np.int32), (len(ratings), 1))
    support = Support(candidates, ratings[:, shots], np.ones(candidates.shape, bool))
    everything = np.arange(seen.n_candidates, dtype=np.int32)
    return learner.score(learner.adapt(learner.fit(seen), support), everything)


def learner(**more: Any) -> BiasedMF:
    sharp = {"regularisation": 0.1, "shrinkage": 0.1, "task_shrinkage": 0.1}
    return BiasedMF(
        **{"factors": 2, "content_regularisation": 0.1, "readout": "mean", **sharp, **more}
    )


def test_it_recovers_ratings_that_are_biases_and_factors(
    world: tuple[np.ndarray, np.ndarray],
) -> None:
    ratings, _ = world
    found = predicted(learner(), training(world), ratings, np.arange(20))
    error = np.abs(found - ratings)[:, 20:]
    assert error[:, : KNOWN - 20].mean() < 0.15, "known candidates"
    assert error[:, KNOWN - 20 :].mean() < 0.3, "new candidates, of which the content tells all"
    assert np.abs(ratings - ratings.mean())[:, KNOWN:].mean() > 1


def test_new_candidates_without_content_get_the_mean(
    world: tuple[np.ndarray, np.ndarray],
) -> None:
    ratings, content = world
    blind = replace(training(world), features=Features(np.zeros_like(content)))
    found = predicted(learner(content_regularisation=1e6), blind, ratings, np.arange(20))
    assert np.ptp(found[:, KNOWN:], axis=1).max() < 1e-6


def test_without_shots_a_task_is_the_mean_and_the_candidates_bias(
    world: tuple[np.ndarray, np.ndarray],
) -> None:
    seen, model = training(world), learner()
    meta = model.fit(seen)
    nothing = Support(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32), np.ones((1, 0)) > 0)
    found = model.score(model.adapt(meta, nothing), seen.known)
    assert found[0] == pytest.approx(meta["mean"][0] + meta["bias"][seen.known], abs=1e-5)


def test_a_median_of_skewed_ratings_has_the_smaller_absolute_error(
    world: tuple[np.ndarray, np.ndarray],
) -> None:
    """Ratings of which most are 5: their mean is a guess that is almost never right."""
    rng = np.random.default_rng(3)
    ratings = np.where(rng.random((TASKS, CANDIDATES)) < 0.7, 5, 1).astype(np.float32)
    seen = training((ratings, world[1]))
    errors = {}
    for readout in ("mean", "median"):
        model = BiasedMF(factors=2, regularisation=50.0, readout=readout)
        found = predicted(model, seen, ratings, np.arange(10))
        errors[readout] = np.abs(found - ratings)[:, 10:].mean()
    assert errors["median"] < errors["mean"] - 0.3
    assert errors["median"] == pytest.approx(0.3 * 4, abs=0.1), "that of always saying 5"


def test_the_same_seed_gives_the_same_bits(world: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (BiasedMF(factors=2).fit(training(world)) for _ in range(2))
    assert {name: value.tobytes() for name, value in first.items()} == {
        name: value.tobytes() for name, value in second.items()
    }


@settings(max_examples=50)
@given(
    pairs=st.lists(
        st.tuples(st.floats(1, 5), st.integers(1, 5)), min_size=1, max_size=200, unique_by=id
    ),
    asked=st.lists(st.floats(-2, 8), min_size=2, max_size=20),
)
def test_the_readout_never_turns_an_order_round(
    pairs: list[tuple[float, int]], asked: list[float]
) -> None:
    predictions, labels = (np.array(one, np.float64) for one in zip(*pairs, strict=True))
    means = np.sort(np.array(asked))
    found = _read_out(means[None, :], _steps(predictions, labels))[0]
    assert np.all(np.diff(found) >= 0.01 * np.diff(means) - 1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factors": 0}, "factors=0 must be at least 1"),
        ({"content_regularisation": 0.0}, "content_regularisation=0.0 must be above 0"),
        ({"readout": "mode"}, "readout='mode' is unknown"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BiasedMF(**arguments)
