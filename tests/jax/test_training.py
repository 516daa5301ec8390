"""The outer step in JAX: one program, PyTorch's results, the same on several devices."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from twins import class_of, fit_elsewhere, make_training

from metarec.data.dataset import Dataset
from metarec.errors import LearnerError
from metarec.jax import episodic as jax_episodic
from metarec.jax import training as jax_training
from metarec.jax.compiled import RecompilationError, compiled, no_recompilation
from metarec.jax.devices import Devices, choose_devices
from metarec.jax.inner_loop import Episodes as JaxEpisodes
from metarec.jax.maml import MAML
from metarec.jax.prototypical import Prototypical
from metarec.jax.scorer import build_scorer as build_in_jax
from metarec.learner import MetaParameters
from metarec.loops import InnerLoop, OuterLoop
from metarec.runs.resume import Checkpointer
from metarec.speed.work import StepWork, step_arrays
from metarec.torch import episodic as torch_episodic
from metarec.torch import training as torch_training
from metarec.torch.inner_loop import Episodes as TorchEpisodes
from metarec.torch.scorer import build_scorer as build_in_torch

WORK = StepWork(tasks=8, k_shot=4, query_size=5, feature_size=6, hidden_sizes=(8, 4), inner_steps=3)
INNER = InnerLoop(3, 0.1)


def batches(steps: int) -> list[list[np.ndarray]]:
    """Episodes in float64, others at each step."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(steps):
        arrays = list(step_arrays(WORK, np.float64, ragged=True)[1:])
        for side in (0, 3):
            arrays[side] = rng.standard_normal(arrays[side].shape) * arrays[side + 2][..., None]
            arrays[side + 1] = rng.integers(0, 2, arrays[side + 1].shape) * arrays[side + 2]
        found.append(arrays)
    return found


@pytest.mark.parametrize("cosine", [False, True])
def test_50_steps_end_where_pytorch_does(tiny_dataset: Dataset, cosine: bool) -> None:
    """To 1e-6, in float64, with AdamW and a rate that falls or does not."""
    initial = step_arrays(WORK, np.float64).parameters | {"rate.layer0": np.full(3, 0.1)}
    settings = OuterLoop(50, 0.01, 0.5, validate_every=50, cosine=cosine)
    given = batches(50)
    training = make_training(tiny_dataset)

    def rates(parameters: Any) -> Any:
        return {name: parameters["rate.layer0"] for name in parameters if name[:4] != "rate"}

    def torch_loss(parameters: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        scorer = build_in_torch("mlp_item", WORK.hidden_sizes)
        method = torch_episodic.Adaptation(scorer, INNER, rates)
        episodes = TorchEpisodes(*map(torch.tensor, given[step]))
        scores = method.query_scores(parameters, episodes, "bce")
        return torch_episodic.outer_loss("softmax", "bce", scores, episodes)

    def jax_loss(parameters: Any, tasks: Any, shared: Any, program: Any) -> jax.Array:
        scorer = build_in_jax("mlp_item", WORK.hidden_sizes)
        method = jax_episodic.Adaptation(scorer, INNER, rates)
        scores = method.query_scores(parameters, JaxEpisodes(*tasks), "bce")
        return jax_episodic.outer_loss("softmax", "bce", scores, JaxEpisodes(*tasks))

    theirs = torch_training.train(
        initial, torch_training.autograd(torch_loss), training, settings, {},
        torch.device("cpu"), "test",
    )  # fmt: skip
    with jax.enable_x64(True), no_recompilation():
        ours = jax_training.train(
            initial, jax_training.autograd(jax_loss), lambda step: (given[step], (), None),
            training, settings, {}, choose_devices("cpu"), "test",
        )  # fmt: skip
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert np.abs(value - initial[name]).max() > 1e-3, name
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("transfer.Transfer", {"hidden_sizes": (8,)}),
        ("maml.MAML", {"hidden_sizes": (8,)}),
        ("reptile.Reptile", {"hidden_sizes": (8,)}),
        ("prototypical.Prototypical", {"embedding_size": 4}),
        ("dropoutnet.DropoutNet", {"embedding_size": 4, "hidden_sizes": (8,)}),
    ],
)
def test_a_fit_compiles_its_outer_step_once(
    tiny_dataset: Dataset,
    path: str,
    arguments: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`no_recompilation` sees traces; a trace is compiled again for arrays in another layout."""
    made: list[Any] = []

    def outer_step(*given: Any) -> Any:
        made.append(build(*given))
        return made[-1]

    build = jax_training.outer_step
    monkeypatch.setattr(jax_training, "outer_step", outer_step)
    training = make_training(tiny_dataset)
    with no_recompilation():
        class_of("jax", path)(**arguments, steps=6, validate_every=2).fit(training)
    assert [entry["step"] for entry in training.log] == [0, 2, 4, 6]
    assert [update._cache_size() for update in made] == [1]


def test_a_second_compilation_names_the_argument_at_fault() -> None:
    @compiled
    def total(weights: dict[str, jax.Array], batch: list[jax.Array]) -> jax.Array:
        return weights["layer0.bias"].sum() + batch[1].sum()

    bias, rows = jnp.zeros(3), jnp.zeros((2, 4))
    with no_recompilation():
        total({"layer0.bias": bias}, [rows, rows])
        total({"layer0.bias": bias + 1}, [rows, rows])
        with pytest.raises(RecompilationError, match=r"total is compiled again: batch\[1\]") as why:
            total({"layer0.bias": bias}, [rows, rows[:1]])
    assert "was float32[2,4] and is float32[1,4]" in str(why.value)
    assert "weights" not in str(why.value)


def test_other_static_arguments_make_another_program() -> None:
    def power(values: jax.Array, exponent: int) -> jax.Array:
        return values**exponent

    made = compiled(power, static=("exponent",))
    with no_recompilation():
        assert made(jnp.full(2, 3.0), exponent=2).tolist() == [9, 9]
        assert made(jnp.full(2, 3.0), exponent=3).tolist() == [27, 27]
        with pytest.raises(RecompilationError, match="values was"):
            made(jnp.full(3, 3.0), exponent=3)


def test_an_interrupted_training_ends_in_the_same_bits(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    learner = MAML(hidden_sizes=(8,), steps=6, validate_every=2)

    def rising(start: int, broken_at: int = -1) -> Callable[[MetaParameters], float]:
        looks = itertools.count(start)

        def validate(meta_parameters: MetaParameters) -> float:
            look = next(looks)
            if look == broken_at:
                raise KeyboardInterrupt
            return float(look)

        return validate

    whole = learner.fit(make_training(tiny_dataset, validate=rising(0)))
    keeper = Checkpointer(tmp_path / "checkpoint")
    with pytest.raises(KeyboardInterrupt):
        learner.fit(make_training(tiny_dataset, checkpointer=keeper, validate=rising(0, 2)))
    resumed = learner.fit(make_training(tiny_dataset, checkpointer=keeper, validate=rising(2)))
    for name in whole:
        assert np.array_equal(resumed[name], whole[name]), name


def test_a_loss_that_is_not_finite_is_an_error(tiny_dataset: Dataset) -> None:
    with pytest.raises(LearnerError, match=r"the loss is (nan|inf).*inner_learning_rate"):
        MAML(hidden_sizes=(8,), steps=3, inner_learning_rate=1e30).fit(make_training(tiny_dataset))


def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(LearnerError, match=r"backend\.device=auto"):
        choose_devices("cpu:77")
    with pytest.raises(LearnerError, match=r"backend\.device=abacus"):
        choose_devices("abacus")


LEARNERS = {
    "maml": functools.partial(MAML, hidden_sizes=(8, 4), inner_learning_rate=0.1),
    "prototypical": functools.partial(Prototypical, embedding_size=4),
}


def test_tasks_shared_out_over_four_devices_give_what_one_device_gives(
    tiny_dataset: Dataset,
) -> None:
    training = make_training(tiny_dataset, task_batch=8)
    settings = {"steps": 5, "learning_rate": 0.01, "device": "cpu"}
    one, four = (
        fit_elsewhere(LEARNERS, training, host_devices=count, **settings) for count in (1, 4)
    )
    for name in LEARNERS:
        alone, shared = one[name], four[name]
        assert (alone.parts, shared.parts) == ({1}, {4})
        assert len(alone.losses) == 5
        start = LEARNERS[name](**settings | {"steps": 0}).fit(training)
        assert max(np.abs(alone.meta[weight] - start[weight]).max() for weight in start) > 1e-2
        np.testing.assert_allclose(shared.losses, alone.losses, rtol=0, atol=1e-6)
        assert shared.meta.keys() == alone.meta.keys()
        for weight, value in alone.meta.items():
            np.testing.assert_allclose(
                shared.meta[weight], value, rtol=0, atol=1e-6, err_msg=f"{name} {weight}"
            )
        assert np.abs(alone.scores[0] - alone.scores[1]).max() > 1e-3
        np.testing.assert_allclose(shared.scores, alone.scores, rtol=0, atol=1e-5)


def test_tasks_that_do_not_divide_leave_devices_out_and_say_so() -> None:
    devices = Devices(tuple(jax.local_devices()[:1]) * 3)
    with pytest.warns(UserWarning, match=r"8 tasks do not divide among 3 devices: 2 are used"):
        assert devices.mesh(8).devices.size == 2
    with pytest.warns(UserWarning, match=r"7 tasks .* 3 devices: 1 is used.*a multiple of 3"):
        assert devices.mesh(7).devices.size == 1
    # a warning would be an error
    assert devices.mesh(9).devices.size == 3
