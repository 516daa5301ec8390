"""What the tests of learners share that PyTorch and JAX both have: data, gradients, scores."""

from __future__ import annotations

import copyreg
import importlib
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import jax
import numpy as np
import pytest
import torch

from metarec.attributes import Attributes
from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, labels_of
from metarec.features import build_features
from metarec.learner import Feedback, MetaParameters, Support, TaskKind, Training
from metarec.splits import Split
from metarec.torch import batches

THRESHOLD = 4.0


def class_of(backend: str, path: str) -> Any:
    """`module.Class` under `metarec.<backend>`."""
    module, _, name = path.partition(".")
    return getattr(importlib.import_module(f"metarec.{backend}.{module}"), name)


def make_training(
    data: Dataset,
    kind: TaskKind = "user",
    feedback: Feedback = "binary",
    *,
    size: int = 5,
    k_shot: int = 4,
    query_size: int = 6,
    task_batch: int = 6,
    **more: Any,
) -> Training:
    """Meta-train of a data set: random text features and attributes, supports of 0 to K shots."""
    split = Split.by_seed(data, 0)
    vectors = np.random.default_rng(0).normal(size=(data.n_items, size)).astype(np.float32)
    rows = split.rows("train")
    turn = 1 if kind == "user" else -1
    tasks, candidates = (data.users[rows], data.items[rows])[::turn]
    n_tasks, n_candidates = (data.n_users, data.n_items)[::turn]
    negatives = 0.0 if feedback == "rating" else 0.5
    sampler = EpisodeSampler(
        split, kind, (0, k_shot), query_size, task_batch, feedback, THRESHOLD, negatives
    )
    values = np.random.default_rng(4).integers(0, 2, (data.n_items, 5)).astype(np.float32)
    names = tuple(f"value{number}" for number in range(5))
    return Training(
        kind=kind,
        feedback=feedback,
        tasks=tasks,
        candidates=candidates,
        labels=labels_of(data.ratings[rows], feedback, THRESHOLD),
        n_tasks=n_tasks,
        n_candidates=n_candidates,
        known=sampler.known,
        texts=("",) * data.n_items,
        features=build_features(split, vectors, kind, feedback, THRESHOLD),
        sampler=sampler,
        attributes=Attributes(("genres", "decade"), values, np.array([0, 3, 5]), names, 0),
        **more,
    )


def make_support(training: Training, shots: Sequence[int] = (0, 1, 2, 4, 3)) -> Support:
    """A task for each number of shots."""
    rng, k_shot = np.random.default_rng(3), max(shots)
    candidates = np.stack([rng.choice(training.known, k_shot, replace=False) for _ in shots])
    ratings = rng.integers(1, 6, candidates.size).astype(np.float32)
    labels = labels_of(ratings, training.feedback, THRESHOLD).reshape(candidates.shape)
    mask = np.arange(k_shot) < np.array(shots)[:, None]
    tasks = np.arange(len(shots), dtype=np.int32) if training.kind == "item" else None
    return Support(candidates.astype(np.int32), labels, mask, tasks)


def scores(
    learner: Any, training: Training, meta: MetaParameters, support: Support | None = None
) -> np.ndarray:
    """[2, T, C] scores of all candidates, with adaptation and without."""
    learner.restore(training)
    support = make_support(training) if support is None else support
    everyone = np.arange(training.n_candidates, dtype=np.int32)
    both = learner, learner.without_adaptation()
    return np.stack([one.score(one.adapt(meta, support), everyone) for one in both])


def gradients_of_twins(
    modules: tuple[ModuleType, ModuleType],
    learners: tuple[Any, Any],
    training: Training,
    steps: Iterable[int],
    *,
    noise: float,
    relative: float = 1e-8,
    rounding: float = 1e-15,
) -> Iterator[dict[str, np.ndarray]]:
    """Holds losses to 1e-10 and gradients to 1e-8, both in float64, at steps of the outer loop.

    What the learners' `fit` hands to the outer loop is compared; the loop is not run. The first
    meta-parameters of the twins must be the same bits.

    Args:
        modules: of PyTorch and of JAX, where the learners' outer loop is started.
        learners: of PyTorch and of JAX.
        training: of both.
        steps: whose episodes they see.
        noise: added to the first meta-parameters, much of which is 0; its standard deviation.
        relative: how far a gradient may be off, as a share of the largest of its array.
        rounding: how far it may be off where all of the array should be 0.

    Yields:
        The gradients by meta-parameter, at each of the steps.
    """
    in_torch, in_jax = modules
    with pytest.MonkeyPatch.context() as patch:
        # what the backends compute with is float64, and so is what they make of the arrays
        patch.setattr(batches, "floats", lambda a: np.array(a, np.float64))
        # the warm-up learners have none: their arrays are float32 to begin with
        patch.setattr(in_jax, "_float", lambda a: np.asarray(a, np.float64), raising=False)
        first, theirs, *_ = _handed_to_train(in_torch, learners[0], training)
        start, ours, batch_at, *_ = _handed_to_train(in_jax, learners[1], training)
        assert list(start) == list(first)
        for name, value in first.items():
            assert start[name].dtype == value.dtype == np.float32
            np.testing.assert_array_equal(start[name], value, err_msg=name)

        rng = np.random.default_rng(1)
        weights = {k: v + noise * rng.standard_normal(v.shape) for k, v in first.items()}
        leaves = {k: torch.from_numpy(v).requires_grad_() for k, v in weights.items()}
        for step in steps:
            expected, gradients = theirs(leaves, step)
            assert expected.dtype == torch.float64
            expected_of = {name: value.detach().numpy() for name, value in gradients.items()}
            with jax.enable_x64(True):
                tasks, shared, program = batch_at(step)
                seen = _in_float64((weights, tasks, shared))
                loss, found = jax.device_get(jax.jit(ours, static_argnums=3)(*seen, program))
            assert loss.dtype == np.float64
            assert float(loss) == pytest.approx(float(expected), rel=1e-10, abs=0)
            assert found.keys() == expected_of.keys() == weights.keys()
            for name, value in expected_of.items():
                atol = relative * np.abs(value).max() + rounding
                np.testing.assert_allclose(found[name], value, rtol=1e-8, atol=atol, err_msg=name)
            yield expected_of


def _handed_to_train(module: ModuleType, learner: Any, training: Training) -> tuple[Any, ...]:
    """What fitting a learner gives to the outer loop, which is not run."""
    handed: list[tuple[Any, ...]] = []

    def train(*arguments: Any) -> MetaParameters:
        handed.append(arguments)
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train", train)
        learner.fit(training)
    (arguments,) = handed
    return arguments


def _in_float64(found: Any) -> Any:
    """Arrays of floats in float64, all others as they are."""

    def exact(array: Any) -> np.ndarray:
        array = np.asarray(array)
        return array.astype(np.float64) if array.dtype.kind == "f" else array

    return jax.tree.map(exact, found)


@dataclass(frozen=True)
class FitElsewhere:
    """What a fit in a process of its own came to.

    Args:
        losses: of each outer step.
        meta: the meta-parameters that it ended in.
        scores: of all candidates by them, as `scores` gives them.
        platforms: where the tasks of the outer steps lay.
        parts: on how many devices, each with tasks of its own; one number where all arrays and
            steps are alike.
    """

    losses: list[float]
    meta: MetaParameters
    scores: np.ndarray
    platforms: set[str]
    parts: set[int]


def fit_elsewhere(
    learners: Mapping[str, Callable[..., Any]],
    training: Training,
    *,
    host_devices: int = 1,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> dict[str, FitElsewhere]:
    """Fits learners by `fit_here.py`, on devices that this process does not have.

    Args:
        learners: classes of JAX or partial ones, by name.
        training: of all of them; must not validate.
        host_devices: how many JAX makes of the CPU.
        environment: variables that are other than in this process.
        settings: of all learners.
    """
    script, root = Path(__file__).with_name("fit_here.py"), Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(host_devices)],
        input=_pickled((dict(learners), training, settings)),
        env={**os.environ, "PYTHONPATH": str(root), **(environment or {})},
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = pickle.loads(done.stdout)
    return {name: FitElsewhere(**values) for name, values in found.items()}


def _pickled(found: Any) -> bytes:
    """Read-only mappings, which Python does not pickle, as dictionaries."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file)
    pickler.dispatch_table = {
        **copyreg.dispatch_table,
        MappingProxyType: lambda proxy: (dict, (dict(proxy),)),
    }
    pickler.dump(found)
    return file.getvalue()
