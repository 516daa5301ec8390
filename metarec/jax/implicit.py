"""The proximal inner problem of implicit MAML, and the gradient through its solution.

For each task the inner problem is `w* = argmin_w L(w) + lambda / 2 |w - phi|^2`, with L the loss of
the support set. Writing g for the gradient of the outer loss at w* and H for the Hessian of L
there, the gradient by phi is `(I + H / lambda)^-1 g` (Rajeswaran et al. 2019, lemma 1): it depends
on w* alone and not on the way there.

All tasks are solved at once, as displacements `u = w - phi` (`metarec.jax.spaces`).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from metarec.jax.inner_loop import Episodes
from metarec.jax.scorer import Parameters, Scorer
from metarec.jax.spaces import Displacement, Space, descend, differentiate, space_of, total_loss
from metarec.loops import Loss, Proximal


def solve(space: Space, labels: Array, mask: Array, loss: Loss, settings: Proximal) -> Displacement:
    """Gradient steps on the inner problem: `u <- u - lr (grad L(phi + u) + lambda u)`, from 0.

    Args:
        space: of the tasks.
        labels: [T, K] of the support set.
        mask: [T, K].
        loss: L, a mean over a task's shots; a task without shots stays at 0.
        settings: steps, learning rate and lambda.

    Returns:
        The displacement after the last step.
    """
    now = space.zero()
    for _ in range(settings.steps):
        _, gradient = differentiate(
            space, now, lambda lifted: total_loss(space, lifted, "support", labels, mask, loss)
        )
        now = descend(now, gradient, settings.learning_rate, settings.regularisation)
    return now


def implicit_gradients(
    scorer: Scorer,
    parameters: Parameters,
    episodes: Episodes,
    *,
    loss: Loss,
    outer_loss: Callable[[Array], Array],
    settings: Proximal,
) -> tuple[Array, dict[str, Array]]:
    """The outer loss at the solutions of the inner problems, and its implicit gradient.

    Args:
        scorer: whose weights adapt, all of them.
        parameters: phi.
        episodes: T episodes.
        loss: of the inner problem.
        outer_loss: from the queries' [T, Q] scores to the outer loss.
        settings: of the inner problem.

    Returns:
        The loss, and the sum over tasks of `(I + H / lambda)^-1 g` for each weight: the
        meta-gradient, as far as the steps and the conjugate gradients have converged.
    """
    space = space_of(scorer, parameters, episodes.support, episodes.query)
    labels, mask = episodes.support_labels, episodes.support_mask
    solution = space.extended(solve(space.of_support(), labels, mask, loss, settings))
    value, gradient = differentiate(
        space, solution, lambda lifted: outer_loss(space.scores(lifted, "query"))
    )
    hessian = _hessian(
        space, solution, lambda lifted: total_loss(space, lifted, "support", labels, mask, loss)
    )

    def scaled(lifted: Displacement) -> Displacement:
        return {name: x / settings.regularisation for name, x in hessian(lifted).items()}

    return value, space.total(conjugate_gradient(space, scaled, gradient, settings.cg_steps))


def conjugate_gradient(
    space: Space,
    operator: Callable[[Displacement], Displacement],
    right: Displacement,
    steps: int,
) -> Displacement:
    """Solves `(I + operator) x = right` for each task (Hestenes & Stiefel 1952), from x = 0.

    A task stops, keeping its x, where the residual is 0 or the direction has no positive curvature:
    the Hessian of a network may be indefinite.

    Args:
        space: whose inner product is meant.
        operator: from a lifted displacement to a displacement; linear and symmetric, for each task
            by itself.
        right: the right-hand sides.
        steps: at the most.
    """
    x = {name: jnp.zeros_like(value) for name, value in right.items()}
    residual, direction = right, right
    # lifted twins are carried along, as lifting is linear: one product with the Gram matrix a step
    residual_lifted = direction_lifted = space.lift(right)
    squared = _dot(residual, residual_lifted)
    for step in range(steps):
        product = operator(direction_lifted)
        image = _add(direction, 1.0, product)
        curvature = _dot(image, direction_lifted)
        going = (curvature > 0) & (squared > 0)
        size = jnp.where(going, squared / curvature, 0)
        x = _add(x, size, direction)
        if step + 1 == steps:
            break
        image_lifted = _add(direction_lifted, 1.0, space.lift(product))
        residual = _add(residual, -size, image)
        residual_lifted = _add(residual_lifted, -size, image_lifted)
        last, squared = squared, jnp.where(going, _dot(residual, residual_lifted), 0)
        turn = jnp.where(going, squared / last, 0)
        direction = _add(residual, turn, direction)
        direction_lifted = _add(residual_lifted, turn, direction_lifted)
    return x


def _hessian(
    space: Space, at: Displacement, function: Callable[[Displacement], Array]
) -> Callable[[Displacement], Displacement]:
    """The map from a lifted displacement to the Hessian times it, a displacement."""
    _, product = jax.linearize(jax.grad(function), space.lift(at))
    found: Callable[[Displacement], Displacement] = product
    return found


def _dot(left: Displacement, lifted: Displacement) -> Array:
    """[T] inner products of displacements, the second lifted."""
    return sum(  # type: ignore[return-value]
        (x * lifted[name]).reshape(len(x), -1).sum(1) for name, x in left.items()
    )


def _add(values: Displacement, size: Array | float, more: Displacement) -> Displacement:
    """`values + size * more`, with one size or one for each task."""
    if isinstance(size, float):
        return {name: x + size * more[name] for name, x in values.items()}
    return {
        name: x + size.reshape(-1, *[1] * (x.ndim - 1)) * more[name] for name, x in values.items()
    }
