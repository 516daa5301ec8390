"""MAML++: learned rates by layer and step, a loss at every step, first order at first."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.errors import LearnerError
from metarec.inputs import Representation
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import RATE, Engine, InnerLoop, Loss, OuterLoop, OuterLoss, step_weights
from metarec.torch import episodic
from metarec.torch.episodic import Adaptation, Adapted, Objective
from metarec.torch.inner_loop import Episodes, Rates
from metarec.torch.scorer import Parameters, build_scorer
from metarec.torch.training import choose_device
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

    Args:
        inner_steps: gradient steps on the support set.
        inner_learning_rate: what every rate starts from.
        first_order_steps: outer steps before second derivatives come in.
        multi_step_loss_steps: outer steps until the loss of the last step counts alone; 0 for it
            alone from the first.
        engine: `gram`, `vmap`, `learn2learn`, or `auto`; see `metarec.torch.maml.MAML`.
        scorer: see `metarec.torch.scorer.build_scorer`.
        representation: what is seen of a candidate: `text`, `collaborative` factors, or `both`.
        hidden_sizes: of the scorer.
        embedding_size: of the projections of the scorers cosine and dot.
        outer_loss: `pointwise` (cross-entropy or squared error), `softmax` over a task's queries,
            or `auto`: softmax, but pointwise for ratings.
        steps: outer steps, at the most.
        learning_rate: of the outer loop.
        weight_decay: of the outer loop.
        validate_every: outer steps between two looks at meta-validation.
        patience: looks without improvement before stopping.
        device: `auto`, `cpu`, `cuda`, …
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
        self.device = choose_device(device)
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits (only an order after softmax training)."""
        return loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Meta-trains; returns the meta-parameters that were best on meta-validation."""
        self._side = training
        return episodic.fit(
            training, self.method, self.representation, self.outer, self.outer_loss, self.device,
            "MAML++",
            initial_rates=lambda weights: rates_by_layer(weights, self.method.inner),
            objective=lambda loss, kind: multi_step_objective(
                self.method, loss, kind, self.first_order_steps, self.multi_step_loss_steps
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
            meta_parameters, support, self.method, self.device,
        )  # fmt: skip

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates by each task's fast weights."""
        return episodic.score(fast_weights, candidates)


def multi_step_objective(
    method: Adaptation,
    loss: Loss,
    kind: OuterLoss,
    first_order_steps: int,
    multi_step_loss_steps: int,
) -> Objective:
    """The weighted sum of the outer losses after every inner step, in the order of its outer step.

    Args:
        method: scorer, inner loop and rates.
        loss: of the inner loop.
        kind: of the outer loss.
        first_order_steps: outer steps in first order.
        multi_step_loss_steps: see `step_weights`.
    """

    def objective(parameters: dict[str, Tensor], episodes: Episodes, step: int) -> Tensor:
        inner = replace(method.inner, first_order=step < first_order_steps)
        now = replace(method, inner=inner)
        weights = step_weights(step, inner.steps, multi_step_loss_steps)
        if not weights[:-1].any():
            scores = now.query_scores(parameters, episodes, loss)
            return episodic.outer_loss(kind, loss, scores, episodes)
        every = now.query_scores(parameters, episodes, loss, every_step=True)
        losses = [
            weight * episodic.outer_loss(kind, loss, scores, episodes)
            for weight, scores in zip(weights.tolist(), every, strict=True)
        ]
        return torch.stack(losses).sum()

    return objective


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
