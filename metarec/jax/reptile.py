"""Reptile: the meta-parameters move towards what each task's gradient steps lead to."""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
from jax import Array
from jaxtyping import Float32, Int32

from metarec import loops
from metarec.errors import LearnerError
from metarec.inputs import Representation
from metarec.jax import episodic
from metarec.jax.devices import choose_devices
from metarec.jax.episodic import Adaptation, Adapted
from metarec.jax.inner_loop import Episodes
from metarec.jax.scorer import build_scorer
from metarec.jax.spaces import (
    Displacement,
    Part,
    Space,
    descend,
    differentiate,
    space_of,
    total_loss,
)
from metarec.jax.training import Gradients
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import InnerLoop, Loss, OuterLoop
from metarec.weights import ScorerName


class Reptile:
    """Reptile (Nichol, Achiam & Schulman 2018, batched version, section 3) on a scorer.

    In training each task takes gradient steps on all its labelled rows, in two minibatches:
    `inner_steps` on the support, as at test, then as many on the queries. They lead from phi to
    phi~, and the pseudo-gradient `(phi - mean phi~) / (2 inner_steps inner_learning_rate)`, a mean
    of gradients, goes to the outer optimiser (AdamW; the paper has SGD, and Adam in the inner
    loop). That later steps see other rows than the first ones is what makes Reptile more than joint
    training: its expectation then contains the gradient of how well one minibatch helps with the
    other (section 5.1).

    There is no outer loss to choose: the inner loss (cross-entropy or squared error) is all that is
    minimised. Serves user and item tasks. At K=0 nothing adapts.

    With an MLP scorer all is computed in the dual form (`metarec.jax.spaces`): the mean move of
    the first layer is one matrix product, without a fast weight for each task.

    Args: those of its twin, `metarec.torch.reptile.Reptile`.
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
        scorer: ScorerName = "mlp",
        representation: Representation = "text",
        hidden_sizes: tuple[int, ...] = (64, 64),
        embedding_size: int = 64,
        steps: int = 1000,
        learning_rate: float = 3e-4,
        weight_decay: float = 3.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        if inner_steps < 1 or inner_learning_rate <= 0:
            raise LearnerError(
                f"learner.inner_steps={inner_steps} must be at least 1 and "
                f"learner.inner_learning_rate={inner_learning_rate} above 0: Reptile learns by them"
            )
        self.method = Adaptation(
            build_scorer(scorer, tuple(hidden_sizes), embedding_size),
            InnerLoop(inner_steps, inner_learning_rate),
        )
        self.representation: Representation = representation
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.devices = choose_devices(device)
        self._side: Training | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits."""
        return loops.predicts(feedback, "pointwise")

    def fit(self, training: Training) -> MetaParameters:
        """Meta-trains; returns the meta-parameters that were best on meta-validation."""
        self._side = training
        return episodic.fit(
            training, self.method, self.representation, self.outer, "pointwise", self.devices,
            "Reptile", gradients=lambda loss, kind: pseudo_gradients(self.method, loss),
        )  # fmt: skip

    def restore(self, training: Training) -> None:
        """Gives the side information (features, feedback) to a learner that was not fitted here."""
        self._side = training

    def without_adaptation(self) -> Reptile:
        """The same learner with 0 inner steps: what adaptation is measured against."""
        twin = copy.copy(self)
        twin.method = self.method.off()
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Gradient steps on each task's support set."""
        return episodic.adapt(
            loops.inputs_of(self._side, meta_parameters, type(self).__name__),
            meta_parameters, support, self.method, self.devices,
        )  # fmt: skip

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates by each task's fast weights."""
        return episodic.score(fast_weights, candidates)


def pseudo_gradients(method: Adaptation, loss: Loss) -> Gradients:
    """The loss of the queries after the steps on the support, and the pseudo-gradient."""
    inner = method.inner

    def gradients(
        parameters: dict[str, Array], episodes: Episodes, shared: object, program: object
    ) -> tuple[Array, dict[str, Array]]:
        space = space_of(method.scorer, parameters, episodes.support, episodes.query)
        of_support = episodes.support_labels, episodes.support_mask
        of_query = episodes.query_labels, episodes.query_mask
        now, _ = run(space, space.zero(), "support", *of_support, loss, inner)
        now, value = run(space, now, "query", *of_query, loss, inner)
        tasks = len(episodes.support)
        scale = -1 / (2 * inner.steps * inner.learning_rate * tasks)
        return value / tasks, {name: scale * move for name, move in space.total(now).items()}

    return gradients


def run(
    space: Space,
    start: Displacement,
    part: Part,
    labels: Array,
    mask: Array,
    loss: Loss,
    inner: InnerLoop,
) -> tuple[Displacement, Array]:
    """Gradient steps on a part of each task; where they lead, and the sum of losses at the start.

    Args:
        space: of the tasks.
        start: displacement before the first step.
        part: `support` or `query`.
        labels: [T, K] or [T, Q] of the part.
        mask: likewise.
        loss: a mean over the part.
        inner: steps, at least 1, and learning rate.
    """
    values, now = [], start
    for _ in range(inner.steps):
        value, gradient = differentiate(
            space, now, lambda lifted: total_loss(space, lifted, part, labels, mask, loss)
        )
        values.append(value)
        now = descend(now, gradient, inner.learning_rate)
    return now, values[0]
