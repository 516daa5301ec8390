"""Warm-up learners in JAX beside their twins in PyTorch: gradients, scores, programs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from twins import class_of, gradients_of_twins, make_support, make_training, scores

from metarec.data.dataset import Dataset
from metarec.jax import warm_up as jax_warm_up
from metarec.jax.compiled import RecompilationError, no_recompilation
from metarec.learner import Feedback, MetaParameters, Support, TaskKind, Training
from metarec.torch import warm_up as torch_warm_up

F, STEP = 4, 3
SIZES: dict[str, int] = {"size": 6, "k_shot": 5, "task_batch": 4}
SHOTS = (0, 1, 2, 3, 4, 5, 5)

SMALL: dict[str, Any] = {"embedding_size": F, "hidden_sizes": (7,), "device": "cpu"}
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "meta_embedding": ("meta_embedding.MetaEmbedding", {"warm_up_steps": 2}),
    "meta_embedding_warm": ("meta_embedding.MetaEmbedding", {"cold_weight": 0.0}),
    "meta_embedding_cold": ("meta_embedding.MetaEmbedding", {"cold_weight": 1.0}),
    "mwuf": ("mwuf.MWUF", {"warm_up_steps": 2, "warm_up_learning_rate": 0.1}),
    "dropoutnet": ("dropoutnet.DropoutNet", {"output_size": 5}),
    "dropoutnet_labels": ("dropoutnet.DropoutNet", {"target": "labels", "hidden_sizes": (6, 5)}),
    "cvar": ("cvar.CVAR", {"latent_size": 3, "warm_up_steps": 2}),
    "gar": ("gar.GAR", {"fake_weight": 0.3}),
}
CLASSES = sorted({path for path, _ in LEARNERS.values()})
every_learner = pytest.mark.parametrize("name", LEARNERS)
one_of_a_class = pytest.mark.parametrize(
    "name", ["meta_embedding", "mwuf", "dropoutnet", "cvar", "gar"]
)


def make(backend: str, name: str, **more: Any) -> Any:
    path, arguments = LEARNERS[name]
    return class_of(backend, path)(**{**SMALL, **arguments, **more})


@every_learner
@pytest.mark.parametrize(("kind", "feedback"), [("user", "binary"), ("item", "rating")])
def test_losses_and_gradients_are_those_of_the_twin(
    name: str, kind: TaskKind, feedback: Feedback, tiny_dataset: Dataset
) -> None:
    training = make_training(tiny_dataset, kind, feedback, **SIZES)
    # untrained weights would leave the last layers, so all below, next to nothing; and a bias that
    # a ranking does not see has rounding for a gradient
    (gradients,) = gradients_of_twins(
        (torch_warm_up, jax_warm_up), (make("torch", name), make("jax", name)), training, [STEP],
        noise=0.3, relative=1e-9, rounding=1e-14,
    )  # fmt: skip
    reached = {key for key, gradient in gradients.items() if np.abs(gradient).max() > 1e-6}
    assert reached >= {key for key in gradients if key.endswith("0.weight")}


@pytest.mark.parametrize("path", CLASSES)
def test_the_twins_take_the_same_arguments_and_serve_the_same(path: str) -> None:
    one, other = (class_of(backend, path) for backend in ("torch", "jax"))
    assert str(inspect.signature(one)) == str(inspect.signature(other))
    for attribute in ("serves", "accepts", "needs_features", "trained", "adaptation"):
        assert getattr(one, attribute) == getattr(other, attribute)
    for feedback in ("rating", "binary", "implicit"):
        assert one(device="cpu").predicts(feedback) == other(device="cpu").predicts(feedback)


@dataclass(frozen=True)
class Fitted:
    """Twins fitted alike.

    Args:
        training: of both.
        learners: by backend.
        meta: meta-parameters by backend.
    """

    training: Training
    learners: dict[str, Any]
    meta: dict[str, MetaParameters]

    def scores(
        self, backend: str, source: str, support: Support, count: int, off: bool = False
    ) -> np.ndarray:
        """[T, count] scores by a backend of what a source learned."""
        learner = self.learners[backend]
        if off:
            learner = learner.without_adaptation()
        candidates = np.arange(count, dtype=np.int32)
        return learner.score(learner.adapt(self.meta[source], support), candidates)


@pytest.fixture(scope="module")
def fitted(tiny_dataset: Dataset) -> Callable[[str, TaskKind, Feedback], Fitted]:
    """Fits twins, those in JAX without compiling a program twice."""

    @functools.cache
    def fit(name: str, kind: TaskKind, feedback: Feedback) -> Fitted:
        training = make_training(tiny_dataset, kind, feedback, **SIZES)
        learners = {
            backend: make(backend, name, steps=5, learning_rate=0.03)
            for backend in ("torch", "jax")
        }
        with no_recompilation():
            meta = {backend: learner.fit(training) for backend, learner in learners.items()}
        return Fitted(training, learners, meta)

    return fit


@one_of_a_class
@pytest.mark.parametrize(("kind", "feedback"), [("user", "rating"), ("item", "implicit")])
def test_what_one_backend_learned_scores_the_same_in_the_other(
    name: str, kind: TaskKind, feedback: Feedback, fitted: Any
) -> None:
    found: Fitted = fitted(name, kind, feedback)
    support = make_support(found.training, SHOTS)
    for source in ("torch", "jax"):
        expected, ours = (
            scores(found.learners[backend], found.training, found.meta[source], support)
            for backend in ("torch", "jax")
        )
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    first, second = found.meta["torch"], found.meta["jax"]
    assert {key: value.shape for key, value in first.items()} == {
        key: value.shape for key, value in second.items()
    }
    for key, value in first.items():
        # Adam makes steps of what is rounding in the gradient of a bias that no loss sees
        if not key.endswith("bias"):
            np.testing.assert_allclose(second[key], value, rtol=1e-3, atol=1e-4, err_msg=key)


@one_of_a_class
@pytest.mark.parametrize(("kind", "feedback"), [("user", "rating"), ("item", "implicit")])
def test_padded_tasks_and_catalogues_share_programs(
    name: str, kind: TaskKind, feedback: Feedback, fitted: Any
) -> None:
    found: Fitted = fitted(name, kind, feedback)
    support = make_support(found.training, SHOTS)
    whole = found.scores("jax", "jax", support, 32)
    again = make("jax", name)
    again.restore(found.training)
    # another learner of the same settings is the same method
    other = Fitted(found.training, {"jax": again}, found.meta)
    with no_recompilation():
        part = other.scores("jax", "jax", support[:5], 27)
        other.scores("jax", "torch", support, 20, off=True)
        with pytest.raises(RecompilationError, match="seen"):
            other.scores("jax", "jax", support[:4], 32)
    np.testing.assert_allclose(part, whole[:5, :27], rtol=1e-6, atol=1e-6)


def test_validation_compiles_nothing_twice(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset, "item", "binary", **SIZES)
    # a method of its own, which no other test has compiled
    learner = make("jax", "gar", steps=4, validate_every=2, warm_up_learning_rate=0.0123)
    support, looks = make_support(training, SHOTS), []

    def validate(meta: MetaParameters) -> float:
        looks.append(learner.score(learner.adapt(meta, support), training.known))
        return float(len(looks))

    with no_recompilation():
        learner.fit(replace(training, validate=validate))
    assert len(looks) == 3
    assert not np.allclose(looks[0], looks[1])


def test_a_catalogue_of_any_size_is_scored_as_its_parts(
    fitted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax_warm_up, "ROWS", 8)
    found: Fitted = fitted("dropoutnet", "user", "rating")
    support = make_support(found.training, SHOTS)
    whole = found.scores("torch", "jax", support, found.training.n_candidates)
    for size in (0, 1, 7, 9, 16, 25):
        part = found.scores("jax", "jax", support, size)
        assert part.shape == (7, size)
        np.testing.assert_allclose(part, whole[:, :size], rtol=1e-5, atol=1e-5)
