"""A catalogue scored by what is kept of it equals one scored by fast weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metarec.loops import InnerLoop
from metarec.torch import catalogue as catalogue_module
from metarec.torch.catalogue import Catalogue
from metarec.torch.inner_loop import adapt, adapt_dual
from metarec.torch.scorer import MLP
from metarec.weights import first_layer, initial_layers, last_layer

SCORER = MLP((8, 4), context=False)
INNER = InnerLoop(steps=3, learning_rate=0.3)


def draw(
    tasks: int = 3, shots: int = 4, candidates: int = 11, size: int = 6
) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return {
        "support": torch.from_numpy(rng.normal(size=(tasks, shots, size))),
        "labels": torch.from_numpy(rng.integers(0, 2, (tasks, shots)).astype(float)),
        "mask": torch.from_numpy((np.arange(shots) < np.array([0, 2, 4])[:, None]).astype(float)),
        "inputs": torch.from_numpy(rng.normal(size=(candidates, size))),
    }


def weights(size: int = 6) -> dict[str, torch.Tensor]:
    drawn = initial_layers((size, 8, 4, 1), np.random.default_rng(1))
    return {name: torch.from_numpy(value.astype(np.float64)) for name, value in drawn.items()}


@pytest.mark.parametrize("adapts", ["all", "last"])
@pytest.mark.parametrize("rows", [4, 4096])
def test_scores_equal_those_of_the_fast_weights(
    adapts: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_module, "ROWS", rows)
    parameters, drawn = weights(), draw()
    names = None if adapts == "all" else last_layer(parameters)
    shots = drawn["support"], drawn["labels"], drawn["mask"]
    fast = adapt(SCORER, parameters, *shots, loss="bce", inner=INNER, names=names)
    expected = SCORER.forward(fast, drawn["inputs"].expand(3, -1, -1))
    _, features, state = adapt_dual(
        SCORER, parameters, *shots, loss="bce", inner=INNER, names=names
    )
    kept = Catalogue(SCORER, parameters, drawn["inputs"], first_layer(parameters, names))
    torch.testing.assert_close(kept.scores(features, state), expected)
    unadapted = SCORER.forward(parameters, drawn["inputs"])
    torch.testing.assert_close(kept.scores(None, None, tasks=2), unadapted.expand(2, -1))
    assert not torch.allclose(expected[2], unadapted)
