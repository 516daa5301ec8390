"""MAML++: learned rates by layer and step, a loss at every step, first order at first."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32

from metarec import loops
from metarec.errors import LearnerError
from metarec.inputs import Representation
from metarec.jax import episodic
from metarec.jax.devices import choose_devices
from metarec.jax.episodic import Adaptation, Adapted, ByStep, Objective
from metarec.jax.inner_loop import Episodes, Rates
from metarec.jax.scorer import Parameters, build_scorer
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import RATE, Engine, InnerLoop, Loss, OuterLoop, OuterLoss, step_weights
from metarec.weights import ScorerName, layer_of, rates_by_layer


class MAMLPlusPlus:
    """MAML++ (Antoniou, Edwards & Storkey 2019, section 4) on a scorer.

    MAML with what the paper adds to make it stable:

    - multi-step loss: the outer loss is a weighted sum of the losses after every step; the weights
      start equal and go, linearly over `multi_step_loss_steps` outer steps, to the last step alone
      (`step_weights`);
    - derivative-order annealing: first order for the first `first_order_steps` outer steps;
    - a meta-learned learning rate for each layer and step (LSLR), which is not decayed; weight and
      bias of a layer share it, so that the engine `gram` stays exact;
    - cosine annealing of the outer learning rate, over `steps`.

    Left out: what the paper does to batch normalisation (statistics and biases by step), as the
    scorers have none. Serves user and item tasks. At K=0 nothing adapts. A learner may take fewer
    steps at test than in training, but not more: there is no rate for them.

    Args: those of its twin, `metarec.torch.maml_plus_plus.MAMLPlusPlus`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "inner_steps"

    def __init__(
        self,
        inner_steps: int = 5,
        inner_learning_rate: float = 0.01,
        first_order_steps: int = 100,
        multi_step_loss_steps: int = 300,
        engine: Engine = "auto",
        scorer: ScorerName = "mlp",
        representation: Representation = "text",
        hidden_sizes: tuple[int, ...] = (64, 64),
        embedding_size: int = 64,
        outer_loss: OuterLoss = "auto",
        steps: int = 1000,
        learning_rate: float = 2e-3,
        weight_decay: float = 3.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        if inner_steps < 1 or first_order_steps < 0 or multi_step_loss_steps < 0:
            raise LearnerError(
                f"learner.inner_steps={inner_steps} must be at least 1, learner.first_order_steps="
                f"{first_order_steps} and learner.multi_step_loss_steps={multi_step_loss_steps} at "
                "least 0"
            )
        self.first_order_steps = first_order_steps
        self.multi_step_loss_steps = multi_step_loss_steps
        self.method = Adaptation(
            build_scorer(scorer, tuple(hidden_sizes), embedding_size),
            InnerLoop(inner_steps, inner_learning_rate, engine=engine),
            rates=functools.partial(by_layer, steps=inner_steps),
        )
        self.representation: Representation = representation
        self.outer = OuterLoop(
            steps, learning_rate, weight_decay, validate_every, patience, cosine=True
        )
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
            training, self.method, self.representation, self.outer, self.outer_loss, self.devices,
            "MAML++",
            initial_rates=lambda weights: rates_by_layer(weights, self.method.inner),
            objective=lambda loss, kind: multi_step_objective(self.method, loss, kind),
            by_step=phases(
                self.method.inner.steps, self.first_order_steps, self.multi_step_loss_steps
            ),
        )  # fmt: skip

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> MAMLPlusPlus:
        """The same learner with 0 inner steps: what adaptation is measured against."""
        twin = copy.copy(self)
        twin.method = self.method.off()
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Gradient steps at the learned rates on each task's support set."""
        return episodic.adapt(
            loops.inputs_of(self._side, meta_parameters, type(self).__name__),
            meta_parameters, support, self.method, self.devices,
        )  # fmt: skip

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates by each task's fast weights."""
        return episodic.score(fast_weights, candidates)


def multi_step_objective(method: Adaptation, loss: Loss, kind: OuterLoss) -> Objective:
    """The weighted sum of the outer losses after every inner step, in the order of its outer step.

    Args:
        method: scorer, inner loop and rates.
        loss: of the inner loop.
        kind: of the outer loss.
    """

    def objective(
        parameters: dict[str, Array], episodes: Episodes, weights: Array, program: tuple[bool, bool]
    ) -> Array:
        first_order, last_only = program
        now = replace(method, inner=replace(method.inner, first_order=first_order))
        if last_only:
            scores = now.query_scores(parameters, episodes, loss)
            return episodic.outer_loss(kind, loss, scores, episodes)
        every = now.query_scores(parameters, episodes, loss, every_step=True)
        losses = [episodic.outer_loss(kind, loss, scores, episodes) for scores in every]
        return (weights * jnp.stack(losses)).sum()

    return objective


def phases(inner_steps: int, first_order_steps: int, multi_step_loss_steps: int) -> ByStep:
    """What an outer step has of its own: the weights of the inner steps' losses, and its program.

    There are programs in first and in second order, and with the losses of all steps or the last.
    """

    def by_step(step: int) -> tuple[np.ndarray, tuple[bool, bool]]:
        weights = step_weights(step, inner_steps, multi_step_loss_steps)
        program = step < first_order_steps, not weights[:-1].any()
        return weights.astype(np.float32), program

    return by_step


def by_layer(parameters: Parameters, steps: int) -> Rates:
    """[steps] rates of each weight: those of its layer.

    Raises:
        LearnerError: if more steps are to be taken than have a rate.
    """
    layers = {name: value[:steps] for name, value in parameters.items() if name.startswith(RATE)}
    known = min(map(len, layers.values()))
    if known < steps:
        raise LearnerError(
            f"learner.inner_steps={steps}: a rate was learned for {known} steps, and there is none "
            "for more"
        )
    # weight and bias share one tensor, by which the engine gram is known to be exact
    return {name: layers[RATE + layer_of(name)] for name in episodic.weights_of(parameters)}
