"""Conditional neural process: means of codes, and a decoder that is folded but the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metarec.torch.amortised import Queries, Shots
from metarec.torch.layers import mlp
from metarec.torch.neural_process import Aggregate, decode, encode

T, N, K, R, D, X, H = 3, 4, 5, 4, 6, 1, 7


def normal(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


MASK = (torch.arange(K) < torch.tensor([[5], [2], [0]])).double()


def network(name: str, *sizes: int) -> dict[str, Tensor]:
    return {
        f"{name}{layer}.{part}": normal(*shape, seed=layer)
        for layer in range(len(sizes) - 1)
        for part, shape in (
            ("weight", (sizes[layer], sizes[layer + 1])),
            ("bias", (sizes[layer + 1],)),
        )
    }


def make_shots(channels: int) -> Shots:
    spread = MASK.unsqueeze(-1)
    return Shots(
        normal(T, K, D) * spread, (normal(T, K, seed=1) > 0) * MASK, MASK,
        normal(T, K, X, seed=2) * spread, normal(T, channels, D, seed=3),
    )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2])
def test_a_task_is_the_mean_of_the_codes_of_its_shots(channels: int) -> None:
    learned = network("encoder", D + X + 1, H, R)
    shots = make_shots(channels)
    rows = encode(learned, shots).rows
    for t, count in enumerate((5, 2, 0)):
        codes = [
            mlp(
                learned,
                "encoder",
                torch.cat([shots.vectors[t, k], shots.extra[t, k], shots.labels[t, k : k + 1]]),
            )
            for k in range(count)
        ]
        mean = sum(codes, torch.zeros(R).double()) / max(count, 1)
        torch.testing.assert_close(rows[t, :R], mean)
        assert float(rows[t, R]) == pytest.approx(float(torch.tensor(1.0 + count).double().log()))
        if channels > 1:
            torch.testing.assert_close(rows[t, R + 1 :], shots.context[t, 1])
    assert rows.shape[1] == R + 1 + (channels - 1) * D


def test_the_order_of_the_shots_does_not_matter() -> None:
    learned, shots = network("encoder", D + X + 1, H, R), make_shots(1)
    order = torch.tensor([3, 0, 4, 1, 2])
    mixed = Shots(*(value[:, order] for value in shots[:4]), shots.context)
    torch.testing.assert_close(encode(learned, mixed).rows, encode(learned, shots).rows)


def test_the_folded_decoder_is_the_network_on_candidate_and_task_together() -> None:
    learned = network("decoder", D + X + R, H, H, 1)
    state, catalogue = Aggregate(normal(T, R, seed=4)), normal(N, D + X, seed=5)
    together = torch.cat(
        [catalogue.expand(T, N, D + X), state.rows.unsqueeze(1).expand(T, N, R)], dim=-1
    )
    expected = mlp(learned, "decoder", together).squeeze(-1)
    shared = Queries(catalogue[:, :D], catalogue[:, D:])
    torch.testing.assert_close(decode(learned, state, shared), expected)
    of_tasks = Queries(*(value.expand(T, N, -1) for value in shared))
    torch.testing.assert_close(decode(learned, state, of_tasks), expected)
