"""What is timed in JAX does the work that PyTorch's contenders do; products are counted right."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarec.jax import speed
from metarec.jax.episodic import in_blocks
from metarec.speed.work import USERS, Contender, StepWork, step_arrays
from metarec.torch import speed as torch_speed

WORK = StepWork(tasks=3, k_shot=4, query_size=5, feature_size=7, hidden_sizes=(6, 2), inner_steps=3)


@pytest.mark.parametrize("first_order", [False, True])
def test_a_step_is_that_of_pytorch(first_order: bool) -> None:
    work = StepWork(tasks=3, inner_steps=2, first_order=first_order)
    call: Any = torch_speed.engine(work, "cpu", "gram").call
    loss, gradient = call()
    for name, contender in speed.steps(work, "cpu", compiled=False).items():
        its_loss, its_gradient = contender.call()  # type: ignore[misc]
        assert its_loss == pytest.approx(float(loss), rel=1e-5), name
        for weight, value in gradient.items():
            np.testing.assert_allclose(its_gradient[weight], value, rtol=1e-3, atol=1e-6)


def test_all_contenders_score_the_catalogue_alike_user_for_user() -> None:
    def scores(contender: Contender) -> np.ndarray:
        return np.stack([np.asarray(contender.call()) for _ in range(USERS)])

    theirs = scores(torch_speed.catalogue(WORK, items=50, device="cpu")["torch kept"])
    # making PyTorch's took two calls: it comes to the first two users last
    expected = np.roll(theirs, 2, axis=0)
    assert not np.allclose(expected[0], expected[1])
    for name, contender in speed.catalogue(WORK, items=50, device="cpu").items():
        np.testing.assert_allclose(scores(contender), expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_products_are_counted_also_in_loops() -> None:
    left, right = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))

    def twice(left: jax.Array, right: jax.Array) -> jax.Array:
        return jax.lax.map(lambda both: both[0] @ both[1], (left, right)) + left @ right

    assert speed._gflop(twice, left, right) == pytest.approx(2 * 2 * 3 * 4 * 5 * 6 / 1e9)


def test_the_dual_form_needs_fewer_operations_where_features_are_wide() -> None:
    wide = speed.steps(StepWork(tasks=2), "cpu", compiled=False)
    gram, vmap = (wide[f"jax {name}"].gflop for name in ("gram", "vmap"))
    assert gram is not None
    assert vmap is not None
    assert 0 < gram < vmap / 2


@pytest.mark.parametrize("block", [None, 1, 2, 3, 4, 12, 100])
def test_blocks_of_tasks_add_up_to_all_tasks(block: int | None) -> None:
    """To the last digits of float64; a block that does not divide the tasks is left out."""
    work = StepWork(tasks=12, feature_size=7, hidden_sizes=(6, 2), inner_steps=2)
    parameters, *arrays = step_arrays(work, np.float64, ragged=True)

    def total(parameters: dict[str, jax.Array], tasks: Any) -> jax.Array:
        support, _, mask, *_ = tasks
        hidden = jnp.tanh(support @ parameters["layer0.weight"])
        return (hidden.sum(-1) * mask).sum()

    with jax.enable_x64(True):
        value, gradient = jax.jit(in_blocks(total, block))(parameters, arrays)
        expected, its_gradient = jax.value_and_grad(total)(parameters, arrays)
        assert float(value) == pytest.approx(float(expected), rel=1e-12)
        np.testing.assert_allclose(
            gradient["layer0.weight"], its_gradient["layer0.weight"], rtol=1e-10, atol=1e-12
        )
