"""Outer steps on a GPU: what the CPU gives, without waiting for the host."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest
from twins import class_of, fit_elsewhere, make_training

from metarec.data.dataset import Dataset

STEPS = 2

# a learner of each family: class under metarec.jax, arguments
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "transfer": ("transfer.Transfer", {"hidden_sizes": (8, 4)}),
    "maml": ("maml.MAML", {"hidden_sizes": (8, 4), "inner_learning_rate": 0.1}),
    "maml_vmap": ("maml.MAML", {"hidden_sizes": (8, 4), "engine": "vmap"}),
    "maml_dot": ("maml.MAML", {"scorer": "dot", "embedding_size": 4}),
    "fomaml": ("maml.MAML", {"hidden_sizes": (8, 4), "first_order": True}),
    "anil": ("anil.ANIL", {"hidden_sizes": (8, 4)}),
    "imaml": ("implicit_maml.ImplicitMAML", {"hidden_sizes": (8, 4)}),
    "reptile": ("reptile.Reptile", {"hidden_sizes": (8, 4)}),
    "prototypical": ("prototypical.Prototypical", {"embedding_size": 4}),
    "r2d2": ("r2d2.R2D2", {"embedding_size": 4, "hidden_sizes": (6,)}),
    "tanp": ("tanp.TaNP", {"embedding_size": 4, "hidden_sizes": (6,), "clusters": 3}),
    "dropoutnet": ("dropoutnet.DropoutNet", {"embedding_size": 4, "hidden_sizes": (6,)}),
    "meta_embedding": ("meta_embedding.MetaEmbedding", {"embedding_size": 4}),
}


def made(names: list[str]) -> dict[str, Callable[..., Any]]:
    found = {}
    for name in names:
        path, arguments = LEARNERS[name]
        # by a ranking a bias has no gradient, and Adam makes steps of what rounding leaves
        loss = {} if name == "reptile" else {"outer_loss": "pointwise"}
        found[name] = functools.partial(class_of("jax", path), **arguments, **loss)
    return found


@pytest.mark.parametrize(
    ("device", "platform", "names"),
    [
        # that the test itself works, wherever it runs
        pytest.param("cpu", "cpu", ["maml", "dropoutnet"], id="cpu"),
        pytest.param("cuda", "gpu", list(LEARNERS), id="cuda", marks=pytest.mark.gpu),
    ],
)
def test_outer_steps_are_those_of_the_cpu_and_wait_for_nothing_on_the_host(
    device: str, platform: str, names: list[str], tiny_dataset: Dataset
) -> None:
    """In a process that sees the GPU, and optimises its programs as users have them."""
    plugins = {entry.name for entry in entry_points(group="jax_plugins")}
    if device == "cuda" and not any("cuda" in name for name in plugins):
        pytest.skip("JAX is installed without CUDA")
    training = make_training(tiny_dataset, task_batch=8)
    settings = {"steps": STEPS, "learning_rate": 0.01}
    found = fit_elsewhere(
        made(names), training, **settings, device=device,
        environment={
            "JAX_PLATFORMS": "cpu" if device == "cpu" else "",  # all that there are
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        },
    )  # fmt: skip
    for name, make in made(names).items():
        on_cpu = replace(training, log=[])
        expected = make(**settings, device="cpu", validate_every=1).fit(on_cpu)
        losses = [entry["loss"] for entry in on_cpu.log if "loss" in entry]
        ours = found[name]
        assert ours.platforms == {platform}
        assert len(losses) == STEPS
        np.testing.assert_allclose(ours.losses, losses, rtol=1e-4, err_msg=name)
        assert ours.meta.keys() == expected.keys()
        for weight, value in expected.items():
            # a step of Adam the other way would be off by 2e-2
            np.testing.assert_allclose(
                ours.meta[weight], value, rtol=0, atol=1e-3, err_msg=f"{name} {weight}"
            )
