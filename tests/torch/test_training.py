"""The outer loop: what is decayed, and how its learning rate falls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler
from metarec.learner import MetaParameters, Training
from metarec.loops import OuterLoop
from metarec.splits import Split
from metarec.torch.training import train


def run(
    data: Dataset, initial: Mapping[str, float], slope: float, outer: OuterLoop
) -> MetaParameters:
    """Trains on a loss with the same constant slope by every meta-parameter."""
    arrays = {name: np.array([value], np.float32) for name, value in initial.items()}
    return run_along(
        data,
        arrays,
        lambda parameters: {
            name: torch.full_like(value, slope) for name, value in parameters.items()
        },
        outer,
    )


def run_along(
    data: Dataset,
    initial: Mapping[str, np.ndarray],
    slopes: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    outer: OuterLoop,
) -> MetaParameters:
    """Trains by given gradients."""
    sampler = EpisodeSampler(Split.by_seed(data, 0), "user", k_shot=(0, 2), query_size=4)
    none = np.zeros(0, np.int32)
    training = Training(
        "user", "rating", none, none, np.zeros(0, np.float32), 1, 1, none, (), None, sampler
    )

    def gradients(parameters: dict[str, Tensor], step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        return torch.zeros(()), slopes(parameters)

    return train(initial, gradients, training, outer, {}, torch.device("cpu"), "test")


def test_learning_rates_are_not_decayed_and_weights_are(tiny_dataset: Dataset) -> None:
    """Without a gradient AdamW multiplies what it decays by (1 - lr wd) a step."""
    outer = OuterLoop(steps=10, learning_rate=0.1, weight_decay=0.5)
    found = run(tiny_dataset, {"weight": 2.0, "rate.weight": 2.0}, 0.0, outer)
    assert found["weight"] == pytest.approx(2.0 * (1 - 0.1 * 0.5) ** 10, rel=1e-6)
    assert found["rate.weight"] == 2.0


def test_learning_rates_learn_as_weights_do(tiny_dataset: Dataset) -> None:
    """Adam goes `learning_rate` a step along a constant slope."""
    outer = OuterLoop(steps=10, learning_rate=0.1)
    found = run(tiny_dataset, {"weight": 0.0, "rate.weight": 0.0}, 3.0, outer)
    assert found["weight"] == pytest.approx(-10 * 0.1, rel=1e-5)
    assert found["rate.weight"] == pytest.approx(-10 * 0.1, rel=1e-5)


def test_a_cosine_takes_the_learning_rate_to_0(tiny_dataset: Dataset) -> None:
    outer = OuterLoop(steps=10, learning_rate=0.1, cosine=True)
    rates = [0.1 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    assert [outer.learning_rate_at(step) for step in range(10)] == pytest.approx(rates)
    assert rates[0] == 0.1
    found = run(tiny_dataset, {"weight": 0.0}, 3.0, outer)
    assert found["weight"] == pytest.approx(-sum(rates), rel=1e-5)
    constant = replace(outer, cosine=False)
    assert [constant.learning_rate_at(step) for step in (0, 9)] == [0.1, 0.1]


def test_a_gradient_counts_by_its_places_and_not_by_its_memory(tiny_dataset: Dataset) -> None:
    """Adam goes against the sign of each slope; a transposed gradient lies otherwise in memory."""
    slopes = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, 6.0]])
    given = {
        "turned": slopes.T.contiguous().T,
        "expanded": torch.tensor([[1.0, -2.0]]).expand(3, 2),
    }
    initial = {name: np.zeros(value.shape, np.float32) for name, value in given.items()}
    outer = OuterLoop(steps=10, learning_rate=0.1)
    found = run_along(tiny_dataset, initial, lambda parameters: given, outer)
    for name, value in given.items():
        np.testing.assert_allclose(found[name], -10 * 0.1 * value.sign().numpy(), rtol=1e-5)
