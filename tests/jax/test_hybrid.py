"""The hybrid learner in JAX beside its twin in PyTorch: loss, gradients, fits, programs."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from twins import make_support, make_training, scores

from metarec.data.dataset import Dataset
from metarec.hybrid import SHARED, Interactions, contents, first_encoder, first_tower
from metarec.jax import hybrid as in_jax
from metarec.jax.compiled import no_recompilation
from metarec.learner import Training
from metarec.torch import hybrid as in_torch

SMALL: dict[str, Any] = {
    "embedding_size": 4, "hidden_size": 6, "tower_size": 5, "task_batch": 4, "pseudo_cold": 5,
    "knn_shrinkage": 1.0, "warm_steps": 8, "steps": 8, "validate_every": 4, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def training(tiny_dataset: Dataset) -> Training:
    return make_training(tiny_dataset)


@pytest.mark.parametrize("phase", ["warm", "cold"])
def test_losses_and_gradients_are_those_of_the_twin(phase: str, training: Training) -> None:
    sizes = in_torch.Hybrid(**SMALL).sizes
    known = Interactions(training, sizes)
    content = contents(training, sizes, known.likes)
    encoder = first_encoder(sizes, known.likes, training.n_candidates, 0)
    fixed: dict[str, np.ndarray] = {}
    if phase == "warm":
        weights, batch = encoder, known.warm(3)
    else:
        items = encoder.pop("items")
        weights = first_tower(sizes, content, known.known, known.likes, items, 0)
        fixed = {**encoder, "content": content, "known": known.known}
        batch = known.cold(3, content.shape[1])
    rng = np.random.default_rng(0)
    weights = {name: one + 0.3 * rng.standard_normal(one.shape) for name, one in weights.items()}
    drawn = {one.name: exact(getattr(batch, one.name)) for one in fields(batch)}
    fixed = {name: exact(value) for name, value in fixed.items()}

    leaves = {name: torch.from_numpy(value).requires_grad_() for name, value in weights.items()}
    beside = {name: torch.from_numpy(value) for name, value in (fixed | drawn).items()}
    of_torch = in_torch.warm_loss if phase == "warm" else in_torch.cold_loss
    expected = of_torch({**beside, **leaves}, beside)
    expected.backward()
    with jax.enable_x64(True):
        tasks = {k: jnp.asarray(v) for k, v in drawn.items() if k not in SHARED}
        shared = {k: jnp.asarray(v) for k, v in (fixed | drawn).items() if k not in tasks}

        def loss(learned: dict[str, Any]) -> Any:
            if phase == "warm":
                return in_jax.warm_loss(learned, tasks)
            return in_jax.cold_loss(learned, tasks, shared)

        found, gradients = jax.device_get(jax.jit(jax.value_and_grad(loss))(weights))
    assert float(found) == pytest.approx(float(expected.detach()), rel=1e-10)
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        np.testing.assert_allclose(gradients[name], leaf.grad, rtol=1e-8, atol=1e-14, err_msg=name)
        # a bias that is the same for all items does not change their ranking
        assert np.abs(gradients[name]).max() > 1e-6 or name in ("tower.1.bias", "tower.linear.bias")


def test_fits_end_alike_and_meta_parameters_cross_backends(training: Training) -> None:
    twins = in_torch.Hybrid(**SMALL), in_jax.Hybrid(**SMALL)
    first, second = (one.fit(training) for one in twins)
    assert first.keys() == second.keys()
    assert {k: (v.dtype, v.shape) for k, v in first.items()} == {
        k: (v.dtype, v.shape) for k, v in second.items()
    }
    # Adam makes whole steps of gradients that are nothing but rounding: by their scores, then
    own = [scores(one, training, meta) for one, meta in zip(twins, (first, second), strict=True)]
    np.testing.assert_allclose(*own, rtol=1e-2, atol=1e-2)
    crossed = [scores(one, training, first) for one in twins]
    np.testing.assert_allclose(*crossed, rtol=1e-5, atol=1e-5)


def test_nothing_is_compiled_again(training: Training) -> None:
    learner = in_jax.Hybrid(**SMALL)
    with no_recompilation():
        meta = learner.fit(training)
    support = make_support(training)
    with no_recompilation():
        for _ in range(2):
            learner.score(learner.adapt(meta, support), training.known)


def test_the_twins_take_the_same_arguments_and_serve_the_same() -> None:
    one, other = in_torch.Hybrid, in_jax.Hybrid
    assert str(inspect.signature(one)) == str(inspect.signature(other))
    for attribute in ("serves", "accepts", "needs_features", "trained", "adaptation"):
        assert getattr(one, attribute) == getattr(other, attribute)


def exact(array: np.ndarray) -> np.ndarray:
    """float64 where it is of floats."""
    return array.astype(np.float64) if array.dtype.kind == "f" else array
