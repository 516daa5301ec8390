"""The learners with gradient steps, from `fit` to `score`: PyTorch and JAX side by side."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
import torch

import metarec.jax.episodic as in_jax
import metarec.torch.episodic as in_torch
from metarec.attributes import Attributes
from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, labels_of
from metarec.features import build_features
from metarec.jax.compiled import no_recompilation
from metarec.learner import Feedback, Learner, MetaParameters, Support, TaskKind, Training
from metarec.splits import Split

SIZE = 5

# name, class under metarec.<backend>, arguments; the outer steps that are compared
LEARNERS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "transfer": ("transfer.Transfer", {"hidden_sizes": (6,)}, (0,)),
    "maml": ("maml.MAML", {"hidden_sizes": (6, 3), "inner_learning_rate": 0.1}, (0, 3)),
    "maml_both": ("maml.MAML", {"hidden_sizes": (6,), "representation": "both"}, (0,)),
    "maml_dot": ("maml.MAML", {"scorer": "dot", "embedding_size": 4}, (0,)),
    "fomaml": ("maml.MAML", {"hidden_sizes": (6, 3), "first_order": True}, (0,)),
    "anil": ("anil.ANIL", {"hidden_sizes": (6, 3)}, (0,)),
    "meta_sgd": ("meta_sgd.MetaSGD", {"hidden_sizes": (6,), "inner_steps": 2}, (0,)),
    # each of its phases: first order, all losses, the last loss
    "maml_plus_plus": (
        "maml_plus_plus.MAMLPlusPlus",
        {
            "hidden_sizes": (6,),
            "inner_steps": 2,
            "first_order_steps": 2,
            "multi_step_loss_steps": 4,
        },
        (0, 2, 5),
    ),
    "reptile": ("reptile.Reptile", {"hidden_sizes": (6, 3), "inner_steps": 2}, (0,)),
    "reptile_dot": ("reptile.Reptile", {"scorer": "dot", "embedding_size": 4}, (0,)),
    "imaml": ("implicit_maml.ImplicitMAML", {"hidden_sizes": (6, 3), "inner_steps": 3}, (0,)),
    "imaml_dot": ("implicit_maml.ImplicitMAML", {"scorer": "dot", "embedding_size": 4}, (0,)),
    "melu": ("melu.MeLU", {"hidden_sizes": (6, 3), "embedding_size": 2}, (0,)),
}
EPISODES: list[tuple[str, TaskKind]] = [
    *((name, "user") for name in LEARNERS),
    *((name, "item") for name in LEARNERS if name not in ("melu", "maml_both")),
]


def make(backend: str, name: str, **arguments: Any) -> Learner:
    path, settings, _ = LEARNERS[name]
    module, _, kind = path.partition(".")
    found = getattr(importlib.import_module(f"metarec.{backend}.{module}"), kind)
    learner: Learner = found(**settings, device="cpu", **arguments)
    return learner


def make_training(data: Dataset, kind: TaskKind, feedback: Feedback) -> Training:
    split = Split.by_seed(data, 0)
    vectors = np.random.default_rng(0).normal(size=(data.n_items, SIZE)).astype(np.float32)
    features = build_features(split, vectors, kind, feedback, 4.0)
    rows = split.rows("train")
    sides = data.users[rows], data.items[rows]
    tasks, candidates = sides if kind == "user" else sides[::-1]
    sizes = (data.n_users, data.n_items) if kind == "user" else (data.n_items, data.n_users)
    sampler = EpisodeSampler(
        split, kind, k_shot=(0, 4), query_size=6, task_batch=6, feedback=feedback,
        negatives=0.0 if feedback == "rating" else 0.5,
    )  # fmt: skip
    values = np.random.default_rng(4).integers(0, 2, (data.n_items, 5)).astype(np.float32)
    names = tuple(f"value{number}" for number in range(5))
    attributes = Attributes(("genres", "decade"), values, np.array([0, 3, 5]), names, 0)
    return Training(
        kind, feedback, tasks, candidates, labels_of(data.ratings[rows], feedback, 4.0), *sizes,
        sampler.known, (), features, sampler, attributes=attributes,
    )  # fmt: skip


class Fitting:
    """What a learner's `fit` hands to the outer loop, which is not run."""

    def __init__(self, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.initial: Mapping[str, np.ndarray] = {}
        self.arguments: tuple[Any, ...] = ()

        def train(initial: Mapping[str, np.ndarray], *arguments: Any) -> MetaParameters:
            self.initial, self.arguments = initial, arguments
            return {}

        monkeypatch.setattr(module, "train", train)


@pytest.mark.parametrize(("name", "kind"), EPISODES)
def test_losses_and_gradients_are_those_of_pytorch(
    tiny_dataset: Dataset, name: str, kind: TaskKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, on real episodes with empty and unequal supports; JAX takes blocks of two."""
    training = make_training(tiny_dataset, kind, "binary" if kind == "user" else "rating")
    monkeypatch.setattr(
        in_torch, "_tensor", lambda a, device: torch.from_numpy(np.array(a, np.float64))
    )
    monkeypatch.setattr(in_jax, "_float", lambda a: np.asarray(a, np.float64))
    monkeypatch.setattr(in_jax, "BLOCK", 2)
    theirs = Fitting(in_torch, monkeypatch)
    make("torch", name).fit(training)
    ours = Fitting(in_jax, monkeypatch)
    make("jax", name).fit(training)
    assert list(theirs.initial) == list(ours.initial)
    for weight, value in theirs.initial.items():
        np.testing.assert_array_equal(ours.initial[weight], value)

    rng = np.random.default_rng(1)
    weights = {k: v + 0.05 * rng.standard_normal(v.shape) for k, v in ours.initial.items()}
    tensors = {k: torch.from_numpy(v).requires_grad_() for k, v in weights.items()}
    for step in LEARNERS[name][2]:
        expected, gradients = theirs.arguments[0](tensors, step)
        with jax.enable_x64(True):
            of_loss, batch_at = ours.arguments[:2]
            loss, found = jax.device_get(
                jax.jit(of_loss, static_argnums=3)(weights, *batch_at(step))
            )
        assert float(loss) == pytest.approx(float(expected), rel=1e-10, abs=0)
        assert found.keys() == gradients.keys()
        for weight, value in gradients.items():
            scale = float(value.abs().max())
            np.testing.assert_allclose(
                found[weight], value.detach(), rtol=1e-8, atol=1e-8 * scale + 1e-15, err_msg=weight
            )
        assert max(float(value.abs().max()) for value in gradients.values()) > 1e-3


def some_support(training: Training) -> Support:
    """Supports of 0 to 4 shots, of five tasks."""
    support = training.sampler.batch(0).support[:5]
    mask = np.arange(support.mask.shape[1]) < np.array([[0], [1], [2], [4], [3]])
    candidates = np.random.default_rng(2).choice(training.known, mask.shape).astype(np.int32)
    labels = np.random.default_rng(3).integers(0, 2, mask.shape).astype(np.float32)
    return Support(candidates, labels, mask, support.tasks)


def scores(learner: Any, training: Training, meta: MetaParameters) -> np.ndarray:
    learner.restore(training)
    everyone = np.arange(training.n_candidates, dtype=np.int32)
    off = learner.without_adaptation()
    return np.stack(
        [one.score(one.adapt(meta, some_support(training)), everyone) for one in (learner, off)]
    )


@pytest.mark.parametrize("name", LEARNERS)
def test_meta_parameters_score_the_same_in_both_backends(tiny_dataset: Dataset, name: str) -> None:
    """Whichever trained them."""
    kind: TaskKind = "item" if name in ("maml", "reptile", "meta_sgd") else "user"
    training = make_training(tiny_dataset, kind, "binary")
    settings = {"steps": 3} if name.startswith("reptile") else {"steps": 3, "outer_loss": "auto"}
    with no_recompilation():
        ours = make("jax", name, **settings).fit(training)
    theirs = make("torch", name, **settings).fit(training)
    assert ours.keys() == theirs.keys()
    for meta in (ours, theirs):
        in_both = [scores(make(backend, name), training, meta) for backend in ("jax", "torch")]
        np.testing.assert_allclose(*in_both, rtol=1e-5, atol=1e-5)
        assert np.abs(in_both[0][0, 1:] - in_both[0][1, 1:]).max() > 1e-5


def test_a_kept_catalogue_is_scored_as_in_pytorch(tiny_dataset: Dataset) -> None:
    """The scorer that sees the candidate alone, user after user, with what is kept of the items."""
    training = make_training(tiny_dataset, "user", "binary")
    settings = {"scorer": "mlp_item", "hidden_sizes": (6, 3), "steps": 2, "device": "cpu"}
    learners = [
        importlib.import_module(f"metarec.{backend}.maml").MAML(**settings)
        for backend in ("torch", "jax")
    ]
    meta = learners[0].fit(training)
    learners[1].restore(training)
    support = replace(some_support(training))
    items = np.arange(training.n_candidates, dtype=np.int32)
    for tasks in (slice(1, 2), slice(3, 4), slice(0, 5)):
        for candidates in (items, items[::-2].copy()):
            expected, found = (
                one.score(one.adapt(meta, support[tasks]), candidates) for one in learners
            )
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
