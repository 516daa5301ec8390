"""The proximal inner problem of implicit MAML, and the gradient through its solution.

For each task the inner problem is `w* = argmin_w L(w) + lambda / 2 |w - phi|^2`, with L the loss of
the support set. Writing g for the gradient of the outer loss at w* and H for the Hessian of L
there, the gradient by phi is `(I + H / lambda)^-1 g` (Rajeswaran et al. 2019, lemma 1): it depends
on w* alone and not on the way there.

All tasks are solved at once, as displacements `u = w - phi` (`metarec.torch.spaces`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metarec.loops import Loss, Proximal
from metarec.torch.inner_loop import Episodes
from metarec.torch.scorer import Parameters, Scorer
from metarec.torch.spaces import Displacement, Space, descend, differentiate, space_of, total_loss


def solve(
    space: Space, labels: Tensor, mask: Tensor, loss: Loss, settings: Proximal
) -> Displacement:
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
    outer_loss: Callable[[Tensor], Tensor],
    settings: Proximal,
) -> tuple[Tensor, dict[str, Tensor]]:
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
    x = {name: torch.zeros_like(value) for name, value in right.items()}
    residual, direction = right, right
    # lifted twins are carried along, as lifting is linear: one product with the Gram matrix a step
    residual_lifted = direction_lifted = space.lift(right)
    squared = _dot(residual, residual_lifted)
    for step in range(steps):
        product = operator(direction_lifted)
        image = _add(direction, 1.0, product)
        curvature = _dot(image, direction_lifted)
        going = (curvature > 0) & (squared > 0)
        size = torch.where(going, squared / curvature, 0)
        x = _add(x, size, direction)
        if step + 1 == steps:
            break
        image_lifted = _add(direction_lifted, 1.0, space.lift(product))
        residual = _add(residual, -size, image)
        residual_lifted = _add(residual_lifted, -size, image_lifted)
        last, squared = squared, torch.where(going, _dot(residual, residual_lifted), 0)
        turn = torch.where(going, squared / last, 0)
        direction = _add(residual, turn, direction)
        direction_lifted = _add(residual_lifted, turn, direction_lifted)
    return x


def _hessian(
    space: Space, at: Displacement, function: Callable[[Displacement], Tensor]
) -> Callable[[Displacement], Displacement]:
    """The map from a lifted displacement to the Hessian times it, a displacement.

    The Hessian in lifted coordinates is symmetric, so that reverse mode gives its products.
    """
    with torch.enable_grad():
        lifted = {name: x.detach().requires_grad_() for name, x in space.lift(at).items()}
        points = list(lifted.values())
        gradient = torch.autograd.grad(
            function(lifted), points, create_graph=True, allow_unused=True, materialize_grads=True
        )

    def product(direction: Displacement) -> Displacement:
        values = torch.autograd.grad(
            gradient, points, [direction[name] for name in lifted],
            retain_graph=True, allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        return dict(zip(lifted, values, strict=True))

    return product


def _dot(left: Displacement, lifted: Displacement) -> Tensor:
    """[T] inner products of displacements, the second lifted."""
    return torch.stack([(x * lifted[name]).flatten(1).sum(1) for name, x in left.items()]).sum(0)


def _add(values: Displacement, size: Tensor | float, more: Displacement) -> Displacement:
    """`values + size * more`, with one size or one for each task."""
    if isinstance(size, float):
        return {name: torch.add(x, more[name], alpha=size) for name, x in values.items()}
    return {
        name: torch.addcmul(x, more[name], size.view(-1, *[1] * (x.dim() - 1)))
        for name, x in values.items()
    }
