"""ANIL: meta-learned features, of which only the last layer adapts."""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int32

from metarec import loops
from metarec.inputs import Representation
from metarec.jax import episodic
from metarec.jax.devices import choose_devices
from metarec.jax.episodic import Adaptation, Adapted
from metarec.jax.scorer import build_scorer
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import Engine, InnerLoop, OuterLoop, OuterLoss
from metarec.weights import ScorerName


class ANIL:
    """Almost no inner loop (Raghu, Raghu, Bengio & Vinyals 2020, section 4) on a scorer.

    MAML of which only the head adapts, in training and at test: the last layer of an MLP, and what
    `Scorer.last` names of the other scorers. All else is what it is for every task, and learns in
    the outer loop alone. Serves user and item tasks. At K=0 nothing adapts.

    Args: those of its twin, `metarec.torch.anil.ANIL`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "inner_steps"

    def __init__(
        self,
        inner_steps: int = 5,
        inner_learning_rate: float = 0.1,
        first_order: bool = False,
        engine: Engine = "auto",
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
        chosen = build_scorer(scorer, tuple(hidden_sizes), embedding_size)
        self.method = Adaptation(
            chosen,
            InnerLoop(inner_steps, inner_learning_rate, first_order, engine),
            names=chosen.last,
        )
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
            training, self.method, self.representation, self.outer, self.outer_loss, self.devices,
            "ANIL",
        )  # fmt: skip

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> ANIL:
        """The same learner with 0 inner steps: what adaptation is measured against."""
        twin = copy.copy(self)
        twin.method = self.method.off()
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Gradient steps of the last layer on each task's support set."""
        return episodic.adapt(
            loops.inputs_of(self._side, meta_parameters, type(self).__name__),
            meta_parameters, support, self.method, self.devices,
        )  # fmt: skip

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates by each task's fast weights."""
        return episodic.score(fast_weights, candidates)
