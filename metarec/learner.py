"""The contract of every learner: fit on meta-train, adapt to a support set, score candidates.

A learner is written over *tasks* and *candidates*, so that one piece of code serves user tasks (a
new user; candidates are items) and item tasks (a new item; candidates are users).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int32

from metarec.consumed import Ledger
from metarec.errors import LearnerError

if TYPE_CHECKING:
    from metarec.attributes import Attributes, Entities
    from metarec.episodes import EpisodeSampler
    from metarec.features import Features
    from metarec.runs.resume import Checkpointer
    from metarec.text.tokens import EncoderSettings

TaskKind = Literal["user", "item"]
Feedback = Literal["rating", "binary", "implicit"]
Predicts = Literal["rating", "logit", "order"]

MetaParameters = Mapping[str, np.ndarray]
"""What `fit` learns: named arrays, saved as safetensors. Never changed by `adapt` or `score`."""


@dataclass(frozen=True)
class Support:
    """The labelled shots of T tasks, padded to K.

    Args:
        candidates: [T, K] index of each shot's candidate (item of a user task, user of an item
            task).
        labels: [T, K] rating, or 1 and 0 for binary and implicit feedback.
        mask: [T, K] true where there is a shot; what stands elsewhere must not matter.
        tasks: [T] index of the new item in item tasks, whose text is known. None in user tasks:
            what is known of a user is the support set and nothing else.
    """

    candidates: Int32[np.ndarray, "tasks k"]
    labels: Float32[np.ndarray, "tasks k"]
    mask: Bool[np.ndarray, "tasks k"]
    tasks: Int32[np.ndarray, " tasks"] | None = None

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.candidates)

    def __getitem__(self, rows: slice | np.ndarray) -> Support:
        """The support sets of some of the tasks."""
        tasks = None if self.tasks is None else self.tasks[rows]
        return Support(self.candidates[rows], self.labels[rows], self.mask[rows], tasks)

    def first(self, k_shot: int) -> Support:
        """The same tasks with their first `k_shot` shots: nested supports."""
        return Support(
            self.candidates[:, :k_shot], self.labels[:, :k_shot], self.mask[:, :k_shot], self.tasks
        )


@dataclass(frozen=True)
class Training:
    """All that a learner may see when it fits: meta-train and what is written about candidates.

    Args:
        kind: `user` (tasks are users, candidates items) or `item` (the converse).
        feedback: what the labels are.
        tasks: [n] task of each meta-train interaction.
        candidates: [n] candidate of each meta-train interaction.
        labels: [n] its label: the rating, or 1 and 0.
        n_tasks: size of the task axis, cold ones included.
        n_candidates: size of the candidate axis, cold ones included.
        known: indices of the candidates that occur in meta-train, ascending.
        texts: text of each item (index: item), whatever the kind of task; "" where there is none.
        features: features of candidates and tasks, or None if the learner asked for none.
        sampler: draws meta-train episodes.
        validate: score of meta-parameters on meta-validation tasks, higher is better; None if there
            is no validation.
        checkpointer: keeps and restores the state of an interrupted training; None to keep nothing.
        seed: seed of every random choice of the fit.
        progress: whether to show progress bars.
        attributes: categorical attributes of each item (index: item), whatever the kind of task;
            None where the data set has none.
        entities: columns of entities of each item, such as people; empty where there are none.
        titles: what names each item in a sentence (index: item); empty where `texts` do.
        encoder: which BERT made vectors of the texts, and how; None if none did.
        log: what the fit saw at each look at meta-validation.
        ledger: gets a note of every fit, for the audit.
    """

    kind: TaskKind
    feedback: Feedback
    tasks: Int32[np.ndarray, " n"]
    candidates: Int32[np.ndarray, " n"]
    labels: Float32[np.ndarray, " n"]
    n_tasks: int
    n_candidates: int
    known: Int32[np.ndarray, " known"]
    texts: tuple[str, ...]
    features: Features | None
    sampler: EpisodeSampler
    validate: Callable[[MetaParameters], float] | None = None
    checkpointer: Checkpointer | None = None
    seed: int = 0
    progress: bool = False
    attributes: Attributes | None = None
    entities: tuple[Entities, ...] = ()
    titles: tuple[str, ...] = ()
    encoder: EncoderSettings | None = None
    log: list[dict[str, float]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    def note(self, fit: str) -> None:
        """Notes in the ledger that a fit consumes these interactions and known candidates."""
        self.ledger.interactions(fit, self.kind, self.tasks, self.candidates, self.labels)
        self.ledger.indices(fit, "items" if self.kind == "user" else "users", self.known)


@runtime_checkable
class Learner(Protocol):
    """Anything that recommends to tasks it has not met.

    `fit` looks at meta-train only and returns meta-parameters. `adapt` and `score` are pure: they
    change neither the meta-parameters nor the learner, padded shots do not matter, and no task
    depends on another or on the order of tasks. The learner may keep, from `fit`, references to
    side information (features, text) but nothing learned: that lives in the meta-parameters.

    Attributes:
        serves: the kinds of task it takes.
        accepts: the feedback it takes.
        needs_features: whether `Training.features` must be there.
        trained: whether `fit` runs an outer loop (its meta-parameters are kept on disk).
    """

    serves: ClassVar[frozenset[str]]
    accepts: ClassVar[frozenset[str]]
    needs_features: ClassVar[bool]
    trained: ClassVar[bool]

    def predicts(self, feedback: Feedback) -> Predicts:
        """What the scores are: ratings, logits of a positive label, or only an order."""
        ...

    def fit(self, training: Training) -> MetaParameters:
        """Learns from meta-train; returns the meta-parameters."""
        ...

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Any:
        """Returns the fast weights of each task, whatever they are for this learner."""
        ...

    def score(
        self, fast_weights: Any, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] scores of the candidates, higher is better."""
        ...


def check_served(learner: Learner, kind: TaskKind, feedback: Feedback) -> None:
    """Raises LearnerError if the learner does not serve this kind of task or feedback."""
    name = type(learner).__name__
    if kind not in learner.serves:
        raise LearnerError(
            f"{name} serves {' and '.join(sorted(learner.serves))} tasks, not {kind} tasks; choose "
            f"episode.task={sorted(learner.serves)[0]} or another learner"
        )
    if feedback not in learner.accepts:
        raise LearnerError(
            f"{name} takes {', '.join(sorted(learner.accepts))} feedback, not {feedback}; choose "
            f"episode.feedback={sorted(learner.accepts)[0]} or another learner"
        )


def require_features(learner: str, training: Training) -> Features:
    """Returns the features of candidates and tasks; raises LearnerError where there are none."""
    if training.features is None:
        raise LearnerError(
            f"{learner} needs text features: give Training.features "
            "(metarec.features.build_features)"
        )
    return training.features
