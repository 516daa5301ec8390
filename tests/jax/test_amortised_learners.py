"""The learners without gradient steps: PyTorch and JAX side by side, gradients included."""

from __future__ import annotations

import inspect
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from twins import class_of, gradients_of_twins, make_support, make_training, scores

import metarec.jax.amortised as in_jax
import metarec.torch.amortised as in_torch
from metarec.collaborative import factorise
from metarec.data.dataset import Dataset
from metarec.inputs import Inputs
from metarec.jax.compiled import bound, no_recompilation
from metarec.jax.layers import normalized
from metarec.jax.protocf import distillation
from metarec.learner import Feedback, TaskKind, Training
from metarec.torch.protocf import distillation as distillation_in_torch

# name, class under metarec.<backend>, arguments
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "prototypical": ("prototypical.Prototypical", {"embedding_size": 4}),
    "prototypical_multiple": (
        "prototypical.Prototypical",
        {"embedding_size": 4, "prototypes": 2, "projection": "linear"},
    ),
    "prototypical_none": ("prototypical.Prototypical", {"projection": "none"}),
    "matching": ("matching.Matching", {"embedding_size": 4, "hidden_sizes": (6,)}),
    "r2d2": ("r2d2.R2D2", {"embedding_size": 4, "hidden_sizes": (6,)}),
    "cnp": (
        "neural_process.ConditionalNeuralProcess",
        {"embedding_size": 4, "hidden_sizes": (6,)},
    ),
    "tanp": ("tanp.TaNP", {"embedding_size": 4, "hidden_sizes": (6, 5), "clusters": 3}),
    "tanp_film": (
        "tanp.TaNP",
        {"embedding_size": 4, "hidden_sizes": (6,), "modulation": "film", "temperature": 2.0},
    ),
    "protocf": ("protocf.ProtoCF", {"embedding_size": 4, "hidden_sizes": (6,), "groups": 3}),
    "protocf_dot": (
        "protocf.ProtoCF",
        {"embedding_size": 4, "similarity": "dot", "distillation_weight": 0.0},
    ),
}
VARIANTS = ("prototypical_multiple", "tanp_film", "protocf_dot")
# each on user and item tasks, its variants on one of them
EPISODES: list[tuple[str, TaskKind]] = [
    *((name, "item") for name in LEARNERS if name != "prototypical_none"),
    *((name, "user") for name in ("prototypical", "matching", "r2d2", "cnp", "tanp")),
]


def make(backend: str, name: str, **arguments: Any) -> Any:
    path, settings = LEARNERS[name]
    return class_of(backend, path)(**settings, device="cpu", **arguments)


def feedback_of(kind: TaskKind) -> Feedback:
    """Both kinds of labels are met, and both outer losses."""
    return "binary" if kind == "user" else "rating"


def step_with_an_empty_support(training: Training) -> int:
    for step in range(100):
        counts = training.sampler.batch(step).support.mask.sum(1)
        if counts.min() == 0 and len(set(counts.tolist())) > 2:
            return step
    raise AssertionError("no such step")


@pytest.mark.parametrize(("name", "kind"), EPISODES)
def test_losses_and_gradients_are_those_of_pytorch(
    tiny_dataset: Dataset, name: str, kind: TaskKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make_training(tiny_dataset, kind, feedback_of(kind))
    step = step_with_an_empty_support(training)
    exact = SimpleNamespace(tasks=factorise(training).tasks.astype(np.float64))
    monkeypatch.setattr("metarec.torch.protocf.factorise", lambda training: exact)
    twins = make("torch", name), make("jax", name)
    # away from 0, where much begins
    (gradients,) = gradients_of_twins((in_torch, in_jax), twins, training, [step], noise=0.1)
    assert max(np.abs(value).max() for value in gradients.values()) > 1e-3


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_has_the_arguments_and_promises_of_its_twin(name: str) -> None:
    ours, theirs = type(make("jax", name)), type(make("torch", name))
    assert ours.__name__ == theirs.__name__
    assert inspect.signature(ours) == inspect.signature(theirs)
    for promise in ("serves", "accepts", "needs_features", "trained", "adaptation"):
        assert getattr(ours, promise) == getattr(theirs, promise)
    for feedback in ("rating", "binary", "implicit"):
        for kind in ("auto", "pointwise"):
            twins = (make(backend, name, outer_loss=kind) for backend in ("jax", "torch"))
            assert len({twin.predicts(feedback) for twin in twins}) == 1


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in VARIANTS])
def test_meta_parameters_score_the_same_in_both_backends(tiny_dataset: Dataset, name: str) -> None:
    """Whichever trained them; and both train the same, in one program."""
    kind: TaskKind = "user" if name in ("matching", "tanp", "prototypical") else "item"
    training = make_training(tiny_dataset, kind, "binary")
    # a bias has no gradient by softmax, and Adam makes steps of what rounding leaves
    settings = {"steps": 3, "outer_loss": "pointwise"}
    theirs = make("torch", name, **settings).fit(training)
    with no_recompilation():
        ours = make("jax", name, **settings).fit(training)
    assert ours.keys() == theirs.keys()
    for weight, value in theirs.items():
        assert ours[weight].dtype == np.float32
        np.testing.assert_allclose(ours[weight], value, rtol=1e-4, atol=1e-4)
    for meta in (theirs, ours):
        found = scores(make("jax", name), training, meta)
        expected = scores(make("torch", name), training, meta)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert np.abs(found[0] - found[1]).max() > 1e-3


def test_a_learner_made_anew_is_not_compiled_anew(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset, "item", "rating")
    meta = make("torch", "protocf", steps=0).fit(training)
    expected = scores(make("jax", "protocf"), training, meta)
    programs = in_jax._encode._cache_size(), in_jax._decode._cache_size()
    with no_recompilation():
        again = scores(make("jax", "protocf"), training, meta)
    np.testing.assert_array_equal(again, expected)
    assert (in_jax._encode._cache_size(), in_jax._decode._cache_size()) == programs


def test_bound_functions_are_equal_where_their_settings_are() -> None:
    one = bound(max, key=abs, default=0)
    assert one == bound(max, default=0, key=abs)
    assert hash(one) == hash(bound(max, default=0, key=abs))
    assert one != bound(max, key=abs, default=1)
    assert one([-3, 2]) == -3


def test_one_program_decodes_all_chunks_of_a_catalogue(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make_training(tiny_dataset, "user", "rating")
    learner = make("jax", "cnp", steps=0)
    meta = learner.fit(training)
    state = learner.adapt(meta, make_support(training))
    everyone = np.arange(training.n_candidates, dtype=np.int32)
    whole = learner.score(state, everyone)
    monkeypatch.setattr(in_jax, "CANDIDATES_AT_ONCE", 7)
    before = in_jax._decode._cache_size()
    np.testing.assert_allclose(learner.score(state, everyone), whole, rtol=1e-6, atol=1e-6)
    assert in_jax._decode._cache_size() == before + 1
    assert learner.score(state, everyone[:0]).shape == (5, 0)


def test_every_step_has_random_numbers_of_its_own(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset, "user", "binary")
    inputs = Inputs.fit(training)

    def drawn(seed: int, step: int) -> float:
        seeded = replace(training, seed=seed)
        episode = in_jax.episode_of(
            inputs, seeded, step, lambda batch, rng: rng.random(len(batch.tasks))
        )
        return float(episode.beside[0])

    assert drawn(0, 1) == drawn(0, 1)
    assert len({drawn(0, 1), drawn(0, 2), drawn(1, 1)}) == 3


def test_items_unknown_to_the_teacher_are_left_out_as_in_pytorch() -> None:
    rng = np.random.default_rng(0)
    group, every, order = rng.normal(size=(6, 4)), rng.normal(size=(6, 3)), rng.permutation(6)
    of_both = jax.jit(jax.value_and_grad(distillation))
    for known in (6, 4, 2, 1, 0):
        factors = every.copy()
        factors[order[known:]] = 0
        tensor = torch.from_numpy(group).requires_grad_()
        expected = distillation_in_torch(tensor, torch.from_numpy(factors))
        with jax.enable_x64(True):
            found, gradient = jax.device_get(of_both(group, factors))
        assert float(found) == pytest.approx(float(expected.detach()), rel=1e-12, abs=1e-15)
        if known < 2:
            assert found == 0
            assert (gradient == 0).all()
        else:
            expected.backward()
            np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-10, atol=1e-12)


def test_a_vector_of_zeros_stays_what_it_is_and_has_a_gradient() -> None:
    vectors = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(normalized(vectors), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda v: normalized(v)[0].sum()))(vectors)
    assert np.isfinite(gradient).all()
    assert (gradient[1] == 0).all()
