"""The learners with gradient steps, from `fit` to `score`: PyTorch and JAX side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from twins import class_of, gradients_of_twins, make_support, make_training, scores

import metarec.jax.episodic as in_jax
import metarec.torch.episodic as in_torch
from metarec.data.dataset import Dataset
from metarec.jax.compiled import no_recompilation
from metarec.learner import TaskKind

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


def make(backend: str, name: str, **arguments: Any) -> Any:
    path, settings, _ = LEARNERS[name]
    return class_of(backend, path)(**settings, device="cpu", **arguments)


@pytest.mark.parametrize(("name", "kind"), EPISODES)
def test_losses_and_gradients_are_those_of_pytorch(
    tiny_dataset: Dataset, name: str, kind: TaskKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, on real episodes with empty and unequal supports; JAX takes blocks of two."""
    training = make_training(tiny_dataset, kind, "binary" if kind == "user" else "rating")
    monkeypatch.setattr(in_jax, "BLOCK", 2)
    twins = make("torch", name), make("jax", name)
    for gradients in gradients_of_twins(
        (in_torch, in_jax), twins, training, LEARNERS[name][2], noise=0.05
    ):
        assert max(np.abs(value).max() for value in gradients.values()) > 1e-3


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
    learners = [class_of(backend, "maml.MAML")(**settings) for backend in ("torch", "jax")]
    meta = learners[0].fit(training)
    learners[1].restore(training)
    support = make_support(training)
    items = np.arange(training.n_candidates, dtype=np.int32)
    for tasks in (slice(1, 2), slice(3, 4), slice(0, 5)):
        for candidates in (items, items[::-2].copy()):
            expected, found = (
                one.score(one.adapt(meta, support[tasks]), candidates) for one in learners
            )
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
