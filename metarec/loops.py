"""The loops of meta-learning, whatever computes them: settings, losses, side information."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64
from tqdm.auto import tqdm

from metarec.errors import LearnerError
from metarec.inputs import Inputs
from metarec.learner import Feedback, MetaParameters, Predicts, Training, require_features

Engine = Literal["auto", "gram", "vmap", "learn2learn"]
Loss = Literal["bce", "mse"]
OuterLoss = Literal["auto", "pointwise", "softmax"]

RATE = "rate."
"""Prefix of meta-learned learning rates among the meta-parameters; they are not decayed."""


@dataclass(frozen=True)
class InnerLoop:
    """Settings of the inner loop.

    Args:
        steps: gradient steps on the support set.
        learning_rate: of the steps, where rates are not given.
        first_order: do not differentiate through the inner gradients.
        engine: `gram`, `vmap`, `learn2learn`, or `auto` for the fastest that is exact.
        compile: whether `torch.compile` makes one program of the outer loss; measure before use
            (`experiments/speed.py`).
    """

    steps: int
    learning_rate: float
    first_order: bool = False
    engine: Engine = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or self.learning_rate < 0:
            raise LearnerError(
                f"inner steps ({self.steps}) and inner learning rate ({self.learning_rate}) must "
                "not be below 0"
            )
        if self.engine not in ("auto", "gram", "vmap", "learn2learn"):
            raise LearnerError(
                f"unknown engine {self.engine!r}; known: auto, gram, vmap, learn2learn"
            )


@dataclass(frozen=True)
class Proximal:
    """Settings of the inner problem and of the gradient through it.

    Args:
        steps: gradient steps towards the solution.
        learning_rate: of the steps.
        regularisation: lambda, how strongly the solution is held near the meta-parameters.
        cg_steps: steps of the conjugate gradient method.
    """

    steps: int
    learning_rate: float
    regularisation: float
    cg_steps: int

    def __post_init__(self) -> None:
        if self.steps < 0 or self.learning_rate < 0 or self.cg_steps < 1:
            raise LearnerError(
                f"learner.inner_steps={self.steps} and learner.inner_learning_rate="
                f"{self.learning_rate} must not be below 0, learner.cg_steps={self.cg_steps} must "
                "be at least 1"
            )
        if self.regularisation <= 0 or self.learning_rate * self.regularisation >= 2:
            raise LearnerError(
                f"learner.regularisation={self.regularisation} must be above 0, and times "
                f"learner.inner_learning_rate={self.learning_rate} below 2, or the steps diverge"
            )


@dataclass(frozen=True)
class OuterLoop:
    """Settings of the outer loop.

    Args:
        steps: number of outer steps, at the most.
        learning_rate: of Adam.
        weight_decay: decoupled (AdamW, Loshchilov & Hutter 2019). Meta-learned learning rates
            (names that start with `rate.`) are left out: they have no reason to be near 0.
        validate_every: steps between two looks at meta-validation.
        patience: looks without improvement after which training stops.
        cosine: let the learning rate fall to 0 along half a cosine over `steps` (Loshchilov &
            Hutter 2017, equation 5, without restarts).
    """

    steps: int = 1000
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    validate_every: int = 100
    patience: int = 5
    cosine: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or self.validate_every < 1 or self.patience < 1:
            raise LearnerError(
                f"learner.steps={self.steps} must be at least 0, learner.validate_every="
                f"{self.validate_every} and learner.patience={self.patience} at least 1"
            )
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise LearnerError(
                f"learner.learning_rate={self.learning_rate} must be above 0 and "
                f"learner.weight_decay={self.weight_decay} not below"
            )

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of an outer step."""
        if not self.cosine:
            return self.learning_rate
        return 0.5 * self.learning_rate * (1 + math.cos(math.pi * step / self.steps))


class Course:
    """How far an outer loop has come: the best meta-parameters, the looks, what a checkpoint holds.

    Looks at meta-validation before the first step and every `validate_every` steps, keeps a
    checkpoint then, and goes on from one if there is one: an interrupted training ends in the same
    bits as an uninterrupted one. What it saw is appended to `training.log`.

    Args:
        initial: the first meta-parameters.
        training: validation, checkpoints, progress.
        settings: of the outer loop.
        statistics: arrays that were fitted before and belong to the meta-parameters.
        description: what the progress bar and errors say.

    Attributes:
        now: the meta-parameters to start with: the first ones, or those of the checkpoint.
        optimizer: arrays of the optimiser's state in the checkpoint, by name; None without one.
    """

    def __init__(
        self,
        initial: Mapping[str, np.ndarray],
        training: Training,
        settings: OuterLoop,
        statistics: MetaParameters,
        description: str,
    ) -> None:
        self.now = {name: np.array(value) for name, value in initial.items()}
        self.optimizer: dict[str, np.ndarray] | None = None
        self._best = dict(self.now)
        self._value, self._waited, self._step = -np.inf, 0, 0
        self._losses: list[float] = []
        self._training, self._settings = training, settings
        self._statistics, self._description = statistics, description
        training.log.clear()
        saved = training.checkpointer.load() if training.checkpointer else None
        if saved is not None:
            tensors, kept = saved
            self.now = {name: tensors[f"now/{name}"] for name in initial}
            self._best = {name: tensors[f"best/{name}"] for name in initial}
            self.optimizer = {
                name.removeprefix("optimizer/"): value
                for name, value in tensors.items()
                if name.startswith("optimizer/")
            }
            self._value, self._waited, self._step = kept["best"], kept["waited"], kept["step"]
            training.log.extend(kept["log"])

    @property
    def best(self) -> MetaParameters:
        """The best meta-parameters on validation, or the last where there is no validation."""
        return {**self._statistics, **self._best}

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that are left, with a bar, until patience is at its end."""
        settings = self._settings
        with tqdm(
            initial=self._step,
            total=settings.steps,
            desc=self._description,
            unit="step",
            disable=not self._training.progress,
            leave=False,
        ) as bar:
            for step in range(self._step, settings.steps):
                if self._waited >= settings.patience:
                    return
                yield step
                bar.update()

    def saw(self, step: int, loss: float) -> None:
        """Takes note of the loss of a step.

        Raises:
            LearnerError: if it is not finite.
        """
        self._losses.append(loss)
        if not math.isfinite(loss):
            raise LearnerError(
                f"{self._description}: the loss is {loss} at step {step}; lower "
                "learner.learning_rate or learner.inner_learning_rate"
            )

    def due(self, done: int) -> bool:
        """Whether to look at meta-validation after so many steps."""
        return done % self._settings.validate_every == 0 or done == self._settings.steps

    def look(
        self,
        done: int,
        now: Mapping[str, np.ndarray],
        optimizer: Callable[[], Mapping[str, np.ndarray]],
    ) -> None:
        """Validates the meta-parameters after so many steps, and keeps a checkpoint.

        Args:
            done: number of steps.
            now: the meta-parameters, copies that nothing will write to.
            optimizer: gives the arrays of the optimiser's state by name.
        """
        training = self._training
        entry = {"step": float(done)}
        if self._losses:
            entry["loss"] = float(np.mean(self._losses))
            self._losses.clear()
        if training.validate is None:
            self._best = dict(now)
        else:
            value = training.validate({**self._statistics, **now})
            entry["validation"] = value
            if value > self._value:
                self._best, self._value, self._waited = dict(now), value, 0
            else:
                self._waited += 1
        training.log.append(entry)
        if training.checkpointer:
            tensors = {f"best/{name}": value for name, value in self._best.items()}
            tensors |= {f"now/{name}": value for name, value in now.items()}
            tensors |= {f"optimizer/{name}": value for name, value in optimizer().items()}
            kept = {"best": self._value, "waited": self._waited, "step": done, "log": training.log}
            training.checkpointer.save(tensors, kept)


def pointwise(feedback: Feedback) -> Loss:
    """The loss of a kind of feedback: squared error for ratings, cross-entropy for the others."""
    return "mse" if feedback == "rating" else "bce"


def predicts(feedback: Feedback, kind: OuterLoss) -> Predicts:
    """What a scorer that was trained by this outer loss predicts."""
    if feedback == "rating":
        return "rating"
    return "logit" if chosen_loss(kind, feedback) == "pointwise" else "order"


def chosen_loss(kind: OuterLoss, feedback: Feedback) -> OuterLoss:
    """`auto` is softmax for labels of 1 and 0, which ranks, and pointwise for ratings.

    Raises:
        LearnerError: if ratings are to be learned by softmax, or the name is unknown.
    """
    if kind not in ("auto", "pointwise", "softmax"):
        raise LearnerError(f"learner.outer_loss={kind!r}; known: auto, pointwise, softmax")
    if kind == "softmax" and feedback == "rating":
        raise LearnerError(
            "learner.outer_loss=softmax ranks positives; rating feedback needs pointwise or auto"
        )
    if kind == "auto":
        return "pointwise" if feedback == "rating" else "softmax"
    return kind


def side_of(side: Training | None, name: str) -> Training:
    """The side information of a learner that was fitted, or was given it by `restore`.

    Raises:
        LearnerError: if it knows none.
    """
    if side is None or side.features is None:
        raise LearnerError(
            f"{name} knows no features yet: call fit first, or learner.restore(training) before "
            "adapting with saved meta-parameters"
        )
    return side


def inputs_of(side: Training | None, meta_parameters: MetaParameters, name: str) -> Inputs:
    """The inputs of a learner that was fitted or restored; see `side_of`."""
    known = side_of(side, name)
    return Inputs.restore(require_features(name, known), known.feedback, meta_parameters)


def step_weights(
    step: int, inner_steps: int, annealing_steps: int
) -> Float64[np.ndarray, " inner_steps"]:
    """Weight of the loss after each inner step (Antoniou et al. 2019).

    Args:
        step: outer step.
        inner_steps: N.
        annealing_steps: outer steps M after which the last step counts alone.

    Returns:
        `max(1 - step / M, 0) / N`, and for the last inner step what is missing to a sum of 1.
    """
    left = max(1 - step / annealing_steps, 0.0) if annealing_steps else 0.0
    weights = np.full(inner_steps, left / inner_steps)
    weights[-1] = 1 - weights[:-1].sum()
    return weights
