"""Transfer learning: a scorer pretrained on meta-train, fine-tuned on the support set."""

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
from metarec.loops import InnerLoop, OuterLoop, OuterLoss
from metarec.weights import ScorerName


class Transfer:
    """The scorer of MAML, its episodes and outer steps, without an inner loop in training.

    The outer loop minimises the loss of the queries before any gradient step, MAML's the loss after
    the inner loop. With rates, steps on the support set and weight decay tuned for each by itself,
    the paired difference between the two is what meta-learning buys.
    Serves user and item tasks.

    Args: those of its twin, `metarec.torch.transfer.Transfer`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "fine_tune_steps"

    def __init__(
        self,
        fine_tune_steps: int = 3,
        fine_tune_learning_rate: float = 0.01,
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
        self.method = Adaptation(
            build_scorer(scorer, tuple(hidden_sizes), embedding_size),
            InnerLoop(fine_tune_steps, fine_tune_learning_rate),
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
        """Pretrains on meta-train episodes; returns the weights best on meta-validation."""
        self._side = training
        return episodic.fit(
            training, self.method.off(), self.representation, self.outer, self.outer_loss,
            self.devices, "transfer",
        )  # fmt: skip

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> Transfer:
        """The same learner without fine-tuning."""
        twin = copy.copy(self)
        twin.method = self.method.off()
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Fine-tunes a copy of the weights on each task's support set."""
        return episodic.adapt(
            loops.inputs_of(self._side, meta_parameters, type(self).__name__),
            meta_parameters, support, self.method, self.devices,
        )  # fmt: skip

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates by each task's fine-tuned weights."""
        return episodic.score(fast_weights, candidates)
