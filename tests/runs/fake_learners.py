"""Learners for tests of runs: quick, and as breakable as the test wants them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training


class Walk:
    """A trained learner: walks at random over scores of candidates, one episode batch a step."""

    serves: ClassVar[frozenset[str]] = frozenset({"user", "item"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = False
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "inner_steps"

    fitted: ClassVar[list[int]] = []
    """First step of every fit in this process."""

    def __init__(
        self, steps: int = 6, inner_steps: int = 1, rate: float = 0.1, device: str = "auto"
    ) -> None:
        self.steps, self.inner_steps, self.rate, self.device = steps, inner_steps, rate, device

    def predicts(self, feedback: Feedback) -> Predicts:
        return "rating" if feedback == "rating" else "order"

    def fit(self, training: Training) -> MetaParameters:
        scores = np.zeros(training.n_candidates, np.float32)
        first = 0
        kept = training.checkpointer.load() if training.checkpointer else None
        if kept is not None:
            tensors, state = kept
            scores, first = tensors["scores"], state["step"]
            training.log.extend(state["log"])
        type(self).fitted.append(first)
        for step in range(first, self.steps):
            batch = training.sampler.batch(step)
            rng = np.random.default_rng([training.seed, step])
            update = batch.query_labels * batch.query_mask * rng.random(batch.query.shape)
            np.add.at(scores, batch.query, (self.rate * update).astype(np.float32))
            entry = {"step": float(step)}
            if training.validate is not None and step % 2 == 0:
                entry["validation"] = training.validate({"scores": scores})
            training.log.append(entry)
            if training.checkpointer:
                state = {"step": step + 1, "log": training.log}
                training.checkpointer.save({"scores": scores}, state)
        return {"scores": scores}

    def without_adaptation(self) -> Walk:
        return Walk(self.steps, 0, self.rate, self.device)

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> Mapping[str, Any]:
        shots = (support.labels * support.mask).sum(axis=1) * self.inner_steps
        return {"scores": meta_parameters["scores"], "shots": shots.astype(np.float32)}

    def score(self, fast_weights: Mapping[str, Any], candidates: np.ndarray) -> np.ndarray:
        noise = np.sin(fast_weights["shots"][:, None] * (1 + candidates)).astype(np.float32)
        return (fast_weights["scores"][candidates][None] + 0.1 * noise).astype(np.float32)


class Broken(Walk):
    """A learner whose training fails."""

    def fit(self, training: Training) -> MetaParameters:
        type(self).fitted.append(0)
        raise RuntimeError("the loss is NaN at step 3")


class Telling(Walk):
    """A learner that says in its log in which process it is trained, and by how many threads."""

    def __init__(self, mebibytes: int = 0, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.mebibytes = mebibytes

    def fit(self, training: Training) -> MetaParameters:
        taken = np.ones((self.mebibytes, 2**17))
        threads = float(os.environ.get("OMP_NUM_THREADS", "0"))
        training.log.append({"process": float(os.getpid()), "threads": threads})
        return {"scores": np.zeros(training.n_candidates, np.float32) + len(taken)}


class Killed(Walk):
    """A learner whose process dies, as it does where memory is short."""

    def fit(self, training: Training) -> MetaParameters:
        os._exit(9)


class WithFeatures(Walk):
    """A learner that wants text features."""

    needs_features: ClassVar[bool] = True

    def fit(self, training: Training) -> MetaParameters:
        assert training.features is not None
        return {"scores": training.features.candidates.sum(axis=1)}
