"""Batches: what is drawn ahead is what would be drawn at once, and so are errors."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.torch import batches

CPU = torch.device("cpu")
STEPS = 5


class Part(NamedTuple):
    values: Tensor
    rng: np.random.Generator


class Whole(NamedTuple):
    part: Part
    named: dict[str, Tensor]


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is drawn for ahead, as a GPU is."""
    monkeypatch.setattr(batches, "overlaps", lambda device: True)


class Draws:
    """A draw that remembers where each step was drawn, and fails at one of them."""

    def __init__(self, broken: int | None = None) -> None:
        self.drawn: list[int] = []
        self.threads: set[str] = set()
        self.broken = broken

    def __call__(self, step: int) -> Whole:
        self.drawn.append(step)
        self.threads.add(threading.current_thread().name.partition("_")[0])
        if step == self.broken:
            raise ValueError(f"no episodes at step {step}")
        rng = np.random.default_rng(step)
        values = batches.staged(rng.standard_normal(3), CPU)
        return Whole(Part(values, rng), {"step": batches.staged(np.array([step]), CPU)})


def test_a_number_on_its_way_is_the_number() -> None:
    value = torch.tensor(2.5, requires_grad=True)
    assert float(batches.OnItsWay(value)) == 2.5


@pytest.mark.gpu
def test_a_number_on_its_way_from_a_gpu_is_that_of_its_time() -> None:
    value = torch.tensor(2.5, device="cuda")
    on_its_way = batches.OnItsWay(value)
    value += 1
    assert float(on_its_way) == 2.5


def test_on_the_cpu_nothing_is_drawn_ahead() -> None:
    draws = Draws()
    at = batches.ahead(draws, CPU, STEPS)
    assert int(at(0).named["step"]) == 0
    assert draws.drawn == [0]
    assert draws.threads == {threading.current_thread().name}


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize(
    "asked", [range(STEPS), (3, 4), (0, 0, 1), (4, 1, 3), (1, 2, 7, 8)], ids=str
)
def test_what_is_drawn_ahead_is_what_would_be_drawn_at_once(asked: tuple[int, ...]) -> None:
    """In order, from the middle as after a resume, and out of order."""
    draws = Draws()
    at = batches.ahead(draws, CPU, STEPS)
    for step in asked:
        found, expected = at(step), Draws()(step)
        assert torch.equal(found.part.values, expected.part.values)
        assert found.part.rng.random() == expected.part.rng.random()
        assert int(found.named["step"]) == step
    assert "batches" in draws.threads
    assert set(draws.drawn) <= {*asked, *range(STEPS)}, "beyond the last"


@pytest.mark.usefixtures("forced")
def test_in_order_each_step_is_drawn_once_and_the_next_while_one_is_computed() -> None:
    draws, reached = Draws(), threading.Event()

    def draw(step: int) -> Whole:
        if step == 1:
            reached.set()
        return draws(step)

    at = batches.ahead(draw, CPU, STEPS)
    at(0)
    assert reached.wait(timeout=60), "nobody has asked for step 1 yet"
    for step in range(1, STEPS):
        at(step)
    assert draws.drawn == list(range(STEPS))


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("broken", [0, 2])
def test_an_error_reaches_whoever_asks_for_that_step(broken: int) -> None:
    draws = Draws(broken)
    at = batches.ahead(draws, CPU, STEPS)
    for step in range(broken):
        at(step)
    with pytest.raises(ValueError, match=f"no episodes at step {broken}"):
        at(broken)
    assert int(at(broken + 1).named["step"]) == broken + 1, "and nobody else"


@pytest.mark.usefixtures("forced")
def test_its_thread_ends_with_it() -> None:
    def named() -> set[threading.Thread]:
        return {one for one in threading.enumerate() if one.name.startswith("batches")}

    before = named()
    at = batches.ahead(Draws(), CPU, STEPS)
    at(0)
    (ours,) = named() - before
    del at
    ours.join(timeout=60)
    assert not ours.is_alive()


def test_all_tensors_of_a_batch_are_sent_and_nothing_else() -> None:
    batch = Draws()(0)
    found = batches.sent(batch, torch.device("meta"))
    assert found.part.values.is_meta
    assert found.named["step"].is_meta
    assert found.part.rng is batch.part.rng
    assert batches.sent(batch, CPU).part.values is batch.part.values


def test_arrays_keep_their_type_and_floats_are_float32() -> None:
    for array in (np.array([True, False]), np.arange(3), np.zeros((2, 0), np.float64)):
        found = batches.on_device(array, CPU)
        np.testing.assert_array_equal(found.numpy(), array, strict=True)
    turned = np.arange(6.0).reshape(2, 3).T
    assert batches.floats(turned).dtype == np.float32
    assert batches.floats(turned).flags.c_contiguous
    assert batches.floats(np.array(2.5)).shape == ()


def test_for_cuda_the_memory_is_pinned_and_the_copy_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told by what torch is asked for, as there may be no GPU here."""
    asked: list[object] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: asked.append("pin") or tensor)
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: True)
    monkeypatch.setattr(
        Tensor, "to", lambda tensor, device, non_blocking: asked.append(non_blocking) or tensor
    )
    batches.on_device(np.zeros(2), torch.device("cuda"))
    assert asked == ["pin", True]


@pytest.mark.gpu
def test_a_gpu_gets_the_values() -> None:
    device = torch.device("cuda")
    at = batches.ahead(
        lambda step: batches.staged(np.full(1 << 20, step, np.float32), device), device, 50
    )
    found = [at(step) for step in range(50)]
    assert all((values == step).all() for step, values in enumerate(found))
