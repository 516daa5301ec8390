"""Implicit MAML: the meta-gradient at the solution of the inner problem, whatever led there."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar

import jax
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32

from metarec import loops
from metarec.inputs import Representation
from metarec.jax import episodic
from metarec.jax.compiled import compiled
from metarec.jax.devices import choose_devices
from metarec.jax.episodic import Adaptation, Adapted
from metarec.jax.implicit import implicit_gradients, solve
from metarec.jax.inner_loop import Episodes
from metarec.jax.scorer import Scorer, build_scorer
from metarec.jax.spaces import space_of
from metarec.jax.training import Gradients
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import InnerLoop, Loss, OuterLoop, OuterLoss, Proximal
from metarec.weights import ScorerName


class ImplicitMAML:
    """Implicit MAML (Rajeswaran, Finn, Kakade & Levine 2019, algorithms 1 and 2) on a scorer.

    The inner problem is the loss of the support set plus `regularisation / 2 |w - phi|^2`; it is
    solved by `inner_steps` gradient steps, and the meta-gradient `(I + H / regularisation)^-1 g` by
    `cg_steps` of the conjugate gradient method with exact products of the Hessian H
    (`metarec.jax.implicit`). It does not differentiate through the steps, so that there may be
    many. The outer optimiser is AdamW. Serves user and item tasks. At K=0 nothing adapts.

    All weights adapt. With an MLP scorer all is computed in the dual form, else with a fast weight
    for each task.

    Args: those of its twin, `metarec.torch.implicit_maml.ImplicitMAML`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "inner_steps"

    def __init__(
        self,
        inner_steps: int = 5,
        inner_learning_rate: float = 0.03,
        regularisation: float = 30.0,
        cg_steps: int = 5,
        scorer: ScorerName = "mlp",
        representation: Representation = "text",
        hidden_sizes: tuple[int, ...] = (64, 64),
        embedding_size: int = 64,
        outer_loss: OuterLoss = "auto",
        steps: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 1.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        self.proximal = Proximal(inner_steps, inner_learning_rate, regularisation, cg_steps)
        self.scorer = build_scorer(scorer, tuple(hidden_sizes), embedding_size)
        self.representation: Representation = representation
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.outer_loss: OuterLoss = outer_loss
        self.devices = choose_devices(device)
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits (only an order after softmax training)."""
        return loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Meta-trains; returns the meta-parameters that were best on meta-validation."""
        self._side = training
        return episodic.fit(
            training, Adaptation(self.scorer, InnerLoop(0, 0.0)), self.representation, self.outer,
            self.outer_loss, self.devices, "implicit MAML", gradients=self._gradients,
        )  # fmt: skip

    def _gradients(self, loss: Loss, kind: OuterLoss) -> Gradients:
        def gradients(
            parameters: dict[str, Array], episodes: Episodes, shared: object, program: object
        ) -> tuple[Array, dict[str, Array]]:
            return implicit_gradients(
                self.scorer, parameters, episodes, loss=loss, settings=self.proximal,
                outer_loss=lambda scores: episodic.outer_loss(kind, loss, scores, episodes),
            )  # fmt: skip

        return gradients

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> ImplicitMAML:
        """The same learner with 0 inner steps: what adaptation is measured against."""
        twin = copy.copy(self)
        twin.proximal = replace(self.proximal, steps=0)
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """The solution of each task's inner problem."""
        inputs = loops.inputs_of(self._side, meta_parameters, type(self).__name__)
        device = self.devices.first
        weights = episodic.weights_of(episodic.arrays_of(meta_parameters, device))
        shots = jax.device_put(episodic.shots_of(inputs, support), device)
        fast = weights
        if self.proximal.steps and support.mask.any():
            loss = loops.pointwise(inputs.feedback)
            fast = _solved(weights, shots, self.scorer, loss, self.proximal)
        return Adapted(len(support), fast, shots[-1], inputs, self.scorer, device)

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates by each task's fast weights."""
        return episodic.score(fast_weights, candidates)


def _solve(
    weights: dict[str, Array],
    shots: tuple[Array, ...],
    scorer: Scorer,
    loss: Loss,
    proximal: Proximal,
) -> dict[str, Array]:
    """The fast weights of each task at the solution of its inner problem."""
    vectors, contexts, extras, labels, mask, _ = shots
    rows = scorer.assemble(vectors, contexts, extras)
    space = space_of(scorer, weights, rows, rows[:, :0])
    return space.moved(solve(space, labels, mask, loss, proximal))


_solved = compiled(_solve, static=("scorer", "loss", "proximal"))
