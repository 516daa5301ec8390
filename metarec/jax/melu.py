"""MeLU: embeddings of item attributes, and decision layers that adapt to each user."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32

from metarec import loops
from metarec.engines import Dual
from metarec.errors import LearnerError
from metarec.features import Features, attribute_features
from metarec.inputs import Inputs
from metarec.jax import episodic
from metarec.jax.devices import choose_devices
from metarec.jax.episodic import Adaptation, Adapted
from metarec.jax.scorer import Parameters, linear, upper
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training, check_served
from metarec.loops import Engine, InnerLoop, OuterLoop, OuterLoss
from metarec.weights import decision_layers, initial_attributes, last_layer


class MeLU:
    """MeLU (Lee, Im, Jang, Cho & Chung 2019, section 3) on attributes of items.

    Each categorical attribute of an item is embedded, the embeddings stand side by side, and
    decision layers with ReLU score them. The inner loop adapts the decision layers alone; the outer
    loop learns all (algorithm 1), second order as in MAML.

    Serves user tasks only: its candidates are items with attributes. The paper embeds attributes of
    the user beside those of the item; here what is known of a user is the support set and nothing
    else, so there are none, and adaptation alone can tell users apart. The loss follows the
    feedback, as for MAML; the paper predicts ratings by squared error. The outer optimiser is
    AdamW. It needs attributes (`Training.attributes`) and no text features. At K=0 nothing adapts.

    Args: those of its twin, `metarec.torch.melu.MeLU`.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = False
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "inner_steps"

    def __init__(
        self,
        inner_steps: int = 5,
        inner_learning_rate: float = 0.03,
        first_order: bool = False,
        engine: Engine = "auto",
        hidden_sizes: tuple[int, ...] = (64, 64),
        embedding_size: int = 32,
        outer_loss: OuterLoss = "auto",
        steps: int = 1000,
        learning_rate: float = 3e-4,
        weight_decay: float = 1.0,
        validate_every: int = 100,
        patience: int = 5,
        device: str = "auto",
    ) -> None:
        self.hidden_sizes = tuple(hidden_sizes)
        self.embedding_size = embedding_size
        self.inner = InnerLoop(inner_steps, inner_learning_rate, first_order, engine)
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.outer_loss: OuterLoss = outer_loss
        self.devices = choose_devices(device)
        self._features: Features | None = None
        self._feedback: Feedback = "binary"
        self._method: Adaptation | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits (only an order after softmax training)."""
        return loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Meta-trains; returns the meta-parameters that were best on meta-validation.

        Raises:
            LearnerError: if the items have no attributes, or the tasks are not users.
        """
        self.restore(training)
        side, method = self._known()
        training.note("normaliser")
        label = [training.labels.mean(), max(float(training.labels.std()), 1e-6)]
        # means of 0 and scales of 1: what the scorer sees are the attributes themselves
        inputs = Inputs(
            side,
            training.feedback,
            {
                "inputs.label": np.array(label, np.float32),
                "inputs.mean": np.zeros(side.size, np.float32),
                "inputs.scale": np.ones(side.size, np.float32),
            },
        )
        return episodic.fit(
            training, method, "text", self.outer, self.outer_loss, self.devices, "MeLU",
            inputs=inputs,
        )  # fmt: skip

    def restore(self, training: Training) -> None:
        """Gives the side information (attributes) to a learner that was not fitted here.

        Raises:
            LearnerError: if the items have no attributes, or the tasks are not users.
        """
        check_served(self, training.kind, training.feedback)
        if training.attributes is None:
            raise LearnerError(
                "MeLU needs categorical attributes of the items (Training.attributes), such as "
                "genres or years, and there are none: see metarec.attributes.build_attributes"
            )
        offsets = tuple(training.attributes.offsets.tolist())
        scorer = AttributeMLP(offsets, self.embedding_size, self.hidden_sizes)
        self._method = Adaptation(scorer, self.inner, names=decision_layers)
        self._features, self._feedback = attribute_features(training.attributes), training.feedback

    def without_adaptation(self) -> MeLU:
        """The same learner with 0 inner steps: what adaptation is measured against."""
        twin = copy.copy(self)
        twin.inner = replace(self.inner, steps=0)
        twin._method = None if self._method is None else self._method.off()
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Adapted:
        """Gradient steps of the decision layers on each task's support set."""
        side, method = self._known()
        inputs = Inputs.restore(side, self._feedback, meta_parameters)
        return episodic.adapt(inputs, meta_parameters, support, method, self.devices)

    def score(
        self, fast_weights: Adapted, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates by each task's fast weights."""
        return episodic.score(fast_weights, candidates)

    def _known(self) -> tuple[Features, Adaptation]:
        if self._features is None or self._method is None:
            raise LearnerError(
                "MeLU knows no attributes yet: call fit first, or learner.restore(training) before "
                "adapting with saved meta-parameters"
            )
        return self._features, self._method


@dataclass(frozen=True)
class AttributeMLP:
    """Embeddings of categorical attributes side by side, and an MLP with ReLU on them.

    The embedding of an attribute is the mean of those of the values that the item has; 0 where it
    has none.

    Args:
        offsets: where the values of each attribute start in the input, and the end of the last.
        embedding_size: S, of each attribute's embedding.
        hidden_sizes: width of each hidden layer.
    """

    offsets: tuple[int, ...]
    embedding_size: int = 32
    hidden_sizes: tuple[int, ...] = (64, 64)
    dual: ClassVar[Dual | None] = "mlp"
    context: ClassVar[bool] = False

    def initial(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws `embedding` [A, S] from a standard normal, and the layers of the MLP."""
        return initial_attributes(self.offsets, self.embedding_size, self.hidden_sizes, rng)

    def assemble(self, vectors: Array, context: Array, extra: Array) -> Array:
        """[..., A] the attributes alone."""
        return vectors

    def embed(self, parameters: Parameters, inputs: Array) -> Array:
        """[..., columns S] the embeddings of the attributes side by side."""
        widths = [end - start for start, end in zip(self.offsets, self.offsets[1:], strict=False)]
        ends = np.cumsum(widths)[:-1]
        tables = jnp.split(parameters["embedding"], ends, axis=-2)
        columns = jnp.split(inputs, ends, axis=-1)
        return jnp.concatenate(
            [x @ table for x, table in zip(columns, tables, strict=True)], axis=-1
        )

    def forward(self, parameters: Parameters, inputs: Array) -> Array:
        """[..., N] scores of [..., N, A] inputs."""
        return upper(parameters, linear(parameters, 0, self.embed(parameters, inputs)))

    def score_catalogue(
        self, parameters: Parameters, context: Array, vectors: Array, extra: Array
    ) -> Array:
        """[T, N] scores; the catalogue is embedded once where the embeddings are shared."""
        hidden = linear(parameters, 0, self.embed(parameters, vectors))
        return upper(parameters, jnp.broadcast_to(hidden, (len(context), *hidden.shape[-2:])))

    def last(self, parameters: Parameters) -> frozenset[str]:
        """Weight and bias of the last layer."""
        return last_layer(parameters)
