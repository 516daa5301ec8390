"""Warm-up learners in JAX beside their twins in PyTorch: gradients, scores, programs."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, labels_of
from metarec.features import build_features
from metarec.jax import warm_up as jax_warm_up
from metarec.jax.compiled import RecompilationError, no_recompilation
from metarec.learner import Feedback, MetaParameters, Support, TaskKind, Training
from metarec.splits import Split
from metarec.torch import warm_up as torch_warm_up

F, D, K, STEP = 4, 6, 5, 3

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


def kind_of(backend: str, path: str) -> Any:
    module, _, name = path.partition(".")
    return getattr(importlib.import_module(f"metarec.{backend}.{module}"), name)


def make(backend: str, name: str, **more: Any) -> Any:
    path, arguments = LEARNERS[name]
    return kind_of(backend, path)(**{**SMALL, **arguments, **more})


def make_training(data: Dataset, kind: TaskKind, feedback: Feedback) -> Training:
    split = Split.by_seed(data, 0)
    vectors = np.random.default_rng(0).normal(size=(data.n_items, D)).astype(np.float32)
    threshold = 4.0 if feedback == "binary" else None
    rows = split.rows("train")
    turn = 1 if kind == "user" else -1
    sides = (data.users[rows], data.items[rows])[::turn]
    sizes = (data.n_users, data.n_items)[::turn]
    sampler = EpisodeSampler(
        split, kind, (0, K), 6, 4, feedback, threshold, 0.0 if feedback == "rating" else 0.5
    )
    return Training(
        kind=kind,
        feedback=feedback,
        tasks=sides[0],
        candidates=sides[1],
        labels=labels_of(data.ratings[rows], feedback, threshold),
        n_tasks=sizes[0],
        n_candidates=sizes[1],
        known=sampler.known,
        texts=("",) * data.n_items,
        features=build_features(split, vectors, kind, feedback, threshold),
        sampler=sampler,
    )


def make_support(training: Training) -> Support:
    """Seven tasks with 0 to 5 shots."""
    rng = np.random.default_rng(3)
    candidates = np.stack([rng.choice(training.known, K, replace=False) for _ in range(7)])
    ratings = rng.integers(1, 6, candidates.size).astype(np.float32)
    labels = labels_of(ratings, training.feedback, 4.0).reshape(candidates.shape)
    mask = np.arange(K) < np.array([0, 1, 2, 3, 4, 5, 5])[:, None]
    tasks = np.arange(7, dtype=np.int32) if training.kind == "item" else None
    return Support(candidates.astype(np.int32), labels, mask, tasks)


def handed_to_train(module: Any, learner: Any, training: Training) -> tuple[Any, ...]:
    """What fitting a learner gives to the outer loop."""
    handed: list[tuple[Any, ...]] = []

    def train(*arguments: Any) -> MetaParameters:
        handed.append(arguments)
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train", train)
        learner.fit(training)
    return handed[0]


def in_float64(found: Any) -> Any:
    """Arrays of floats in float64, masks as they are."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, None if a.dtype == np.bool_ else np.float64), found
    )


@every_learner
@pytest.mark.parametrize(("kind", "feedback"), [("user", "binary"), ("item", "rating")])
def test_losses_and_gradients_are_those_of_the_twin(
    name: str,
    kind: TaskKind,
    feedback: Feedback,
    tiny_dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
        return torch.from_numpy(np.asarray(array, np.float64))

    monkeypatch.setattr(torch_warm_up, "_tensor", tensor)
    training = make_training(tiny_dataset, kind, feedback)
    first, theirs, *_ = handed_to_train(torch_warm_up, make("torch", name), training)
    mine, ours, batch_at, *_ = handed_to_train(jax_warm_up, make("jax", name), training)
    assert list(mine) == list(first)
    for key, value in first.items():
        np.testing.assert_array_equal(mine[key], value)
        assert mine[key].dtype == np.float32

    rng = np.random.default_rng(1)
    # untrained weights would leave the last layers, so all below, next to nothing
    learned = {key: value + 0.3 * rng.normal(size=value.shape) for key, value in first.items()}
    leaves = {key: torch.from_numpy(value).requires_grad_() for key, value in learned.items()}
    expected, gradients = theirs(leaves, STEP)
    assert expected.dtype == torch.float64
    with jax.enable_x64(True):
        tasks, shared, program = batch_at(STEP)
        loss, found = jax.jit(ours, static_argnums=3)(
            in_float64(learned), in_float64(tasks), in_float64(shared), program
        )
        assert loss.dtype == jnp.float64
        np.testing.assert_allclose(loss, expected, rtol=1e-10)
        assert set(found) == set(gradients)
        for key, gradient in gradients.items():
            # a bias that a ranking does not see has rounding for a gradient
            atol = 1e-9 * float(gradient.abs().max()) + 1e-14
            np.testing.assert_allclose(found[key], gradient, rtol=1e-8, atol=atol, err_msg=key)
    reached = {key for key, gradient in gradients.items() if float(gradient.abs().max()) > 1e-6}
    assert reached >= {key for key in learned if key.endswith("0.weight")}


@pytest.mark.parametrize("path", CLASSES)
def test_the_twins_take_the_same_arguments_and_serve_the_same(path: str) -> None:
    one, other = (kind_of(backend, path) for backend in ("torch", "jax"))
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
        training = make_training(tiny_dataset, kind, feedback)
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
    support, count = make_support(found.training), found.training.n_candidates
    for source in ("torch", "jax"):
        for off in (False, True):
            expected, scores = (
                found.scores(backend, source, support, count, off) for backend in ("torch", "jax")
            )
            assert scores.dtype == np.float32
            np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
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
    support = make_support(found.training)
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
    training = make_training(tiny_dataset, "item", "binary")
    # a method of its own, which no other test has compiled
    learner = make("jax", "gar", steps=4, validate_every=2, warm_up_learning_rate=0.0123)
    support, looks = make_support(training), []

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
    support = make_support(found.training)
    whole = found.scores("torch", "jax", support, found.training.n_candidates)
    for size in (0, 1, 7, 9, 16, 25):
        part = found.scores("jax", "jax", support, size)
        assert part.shape == (7, size)
        np.testing.assert_allclose(part, whole[:, :size], rtol=1e-5, atol=1e-5)
