"""Model-agnostic meta-learning: weights from which a few gradient steps on a support set go far."""

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


class MAML:
    """MAML (Finn, Abbeel & Levine 2017) on a scorer over text features.

    Minimises over meta-parameters the loss of the queries after `inner_steps` gradient steps on the
    support set, differentiating through the steps (second order) unless told otherwise. Serves user
    and item tasks. At K=0 nothing adapts.

    Args: those of its twin, `metarec.torch.maml.MAML`; `compile` changes nothing, since the whole
    outer step is always one compiled program.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "inner_steps"

    def __init__(
        self,
        inner_steps: int = 3,
        inner_learning_rate: float = 0.01,
        first_order: bool = False,
        engine: Engine = "auto",
        compile: bool = False,
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
            InnerLoop(inner_steps, inner_learning_rate, first_order, engine),
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
            "MAML",
        )  # fmt: skip

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> MAML:
        """The same learner with 0 inner steps: what adaptation is measured against."""
        twin = copy.copy(self)
        twin.method = self.method.off()
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Gradient steps on each task's support set; see `inner_loop.adapt`."""
        return episodic.adapt(
            loops.inputs_of(self._side, meta_parameters, type(self).__name__),
            meta_parameters, support, self.method, self.devices,
        )  # fmt: skip

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates by each task's fast weights."""
        return episodic.score(fast_weights, candidates)
