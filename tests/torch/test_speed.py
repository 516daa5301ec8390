"""What is timed does what it says: the same result by each contender, operations counted right."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import pytest
import torch

from metarec.engines import fastest_engine
from metarec.speed.work import LEARN2LEARN, StepWork, step_arrays
from metarec.torch import speed
from metarec.torch.scorer import MLP

WORK = StepWork(tasks=3, k_shot=4, query_size=5, feature_size=7, hidden_sizes=(6, 2), inner_steps=3)
ENGINES = ["gram", "vmap"]
if importlib.util.find_spec("learn2learn") is not None:
    ENGINES.append(LEARN2LEARN)


def result(engine: str, work: StepWork, device: str = "cpu") -> Any:
    return speed.engine(work, device, engine).call()


@pytest.mark.parametrize("first_order", [True, False])
def test_the_engines_do_the_same_work(first_order: bool) -> None:
    work = StepWork(tasks=3, inner_steps=2, first_order=first_order)
    (loss, gradient), *others = (result(engine, work) for engine in ENGINES)
    assert loss > 0
    for its_loss, its_gradient in others:
        torch.testing.assert_close(its_loss, loss)
        for name, value in gradient.items():
            torch.testing.assert_close(its_gradient[name], value, rtol=1e-4, atol=1e-6)


def test_the_fastest_exact_engine_of_this_work_is_the_one_in_the_table() -> None:
    scorer = MLP(WORK.hidden_sizes, context=False)
    parameters = {name: torch.from_numpy(v) for name, v in step_arrays(WORK).parameters.items()}
    assert fastest_engine(scorer.dual, parameters, rates=None, names=None) == "gram"


def test_operations_are_those_of_the_naive_algorithm_in_first_order() -> None:
    work = StepWork(
        tasks=3, k_shot=4, query_size=5, feature_size=7, hidden_sizes=(6, 2), inner_steps=3,
        first_order=True,
    )  # fmt: skip
    sizes = (work.feature_size, *work.hidden_sizes, 1)
    weights = sum(wide * narrow for wide, narrow in itertools.pairwise(sizes))
    # a pass over a row multiplies each weight once forward, once for the gradient of the weight,
    # and once, but for the first layer, for that of the layer's input
    a_row = 2 * weights + (weights - sizes[0] * sizes[1])
    rows = work.tasks * (work.inner_steps * work.k_shot + work.query_size)
    found = speed.steps(work, "cpu", compiled=False)
    assert found["torch vmap"].gflop == pytest.approx(2 * rows * a_row / 1e9)
    assert found[LEARN2LEARN].gflop == found["torch vmap"].gflop


def test_the_dual_form_needs_fewer_operations_where_features_are_wide() -> None:
    wide = speed.steps(StepWork(tasks=2), "cpu", compiled=False)
    assert wide["torch gram"].gflop is not None
    assert wide["torch vmap"].gflop is not None
    assert 0 < wide["torch gram"].gflop < wide["torch vmap"].gflop / 2


def test_work_in_place_is_counted_too() -> None:
    a, b, c = torch.ones(2, 3, 5), torch.ones(2, 3, 4), torch.ones(2, 4, 5)
    assert speed.gflop_of(lambda: a.baddbmm_(b, c)) == pytest.approx(2 * 2 * 3 * 4 * 5 / 1e9)


def test_all_contenders_score_the_catalogue_alike_user_for_user() -> None:
    contenders = speed.catalogue(WORK, items=50, device="cpu")
    assert set(contenders) >= {"torch kept", "torch anew"}
    users = [[contender.call() for contender in contenders.values()] for _ in range(3)]
    for scores, *others in users:
        assert scores.shape == (50,)
        for other in others:
            torch.testing.assert_close(other, scores, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(users[0][0], users[1][0])


def test_what_is_kept_of_the_catalogue_saves_the_first_layer() -> None:
    contenders = speed.catalogue(StepWork(), items=2000, device="cpu")
    sizes = (384, 64, 64, 1)
    weights = sum(wide * narrow for wide, narrow in itertools.pairwise(sizes))
    anew, kept = contenders["torch anew"].gflop, contenders["torch kept"].gflop
    assert anew is not None
    assert kept is not None
    assert anew == pytest.approx(2 * 2000 * weights / 1e9, rel=0.05)
    # K (D + H) instead of D H products for each item there
    saved = 2000 * (384 * 64 - 10 * (384 + 64))
    assert anew - kept == pytest.approx(2 * saved / 1e9, rel=0.05)


def test_the_profile_names_operators_and_what_is_between_them() -> None:
    found = speed.operators(speed.engine(StepWork(tasks=2), "cpu", "gram"), "cpu")
    assert any(name.startswith("aten::") for name in found)
    assert "between operators" in found
    assert 0 < sum(found.values()) <= 1 + 1e-6


@pytest.mark.gpu
def test_a_gpu_does_the_same_and_tells_its_memory() -> None:
    work = StepWork(tasks=8)
    for engine in ENGINES:
        (loss, gradient), (on_gpu, its) = (result(engine, work, name) for name in ("cpu", "cuda"))
        torch.testing.assert_close(on_gpu.cpu(), loss, rtol=1e-4, atol=1e-5)
        for name, value in gradient.items():
            torch.testing.assert_close(its[name].cpu(), value, rtol=1e-3, atol=1e-5)
    step = speed.engine(work, "cuda", "vmap")
    peak = speed.peak_bytes(step.call, "cuda")
    assert peak is not None
    assert peak > work.tasks * 384 * 64 * 4
    assert speed.catalogue(WORK, items=50, device="cuda")["torch kept"].call().is_cuda
    assert speed.product(64, "cuda").call().is_cuda
