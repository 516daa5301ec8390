"""What PyTorch gives `experiments/speed.py` to time of a BERT that adapts.

    python -m metarec.torch.bert_speed <folder of a checkpoint> cpu

prints the MiB that a process needs at the most for some steps of `torch last_n`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metarec.features import Features
from metarec.inputs import Inputs
from metarec.loops import InnerLoop
from metarec.speed.memory import mark_of_process
from metarec.speed.work import AGAIN, LAST, LORA, BertWork, Contender
from metarec.text.checkpoint import Checkpoint, resolve
from metarec.torch.adapted_bert import AdaptedBert
from metarec.torch.adapted_part import AdaptedPart
from metarec.torch.batches import sent
from metarec.torch.bert_loop import UserTask, adapt, meta_gradients
from metarec.torch.bi_encoder import BiEncoder
from metarec.torch.prefix_cache import PrefixCache
from metarec.torch.scorer import MLP
from metarec.torch.speed import gflop_of, wait
from metarec.torch.text_batches import Prefix, Texts

_RATE = 0.01


def steps(work: BertWork, checkpoint: Checkpoint, device: str) -> dict[str, Contender]:
    """A meta-training step: `torch last_n` and `torch lora` with the frozen states kept.

    `torch last_n, prefix recomputed` computes them again, without gradients, whenever texts are
    scored. All three return loss and gradients on the device.
    """
    made = {
        LAST: _step(_scorer(work, checkpoint, "last_n", device), work, device),
        LORA: _step(_scorer(work, checkpoint, "lora", device), work, device),
        AGAIN: _step(_scorer(work, checkpoint, "last_n", device, again=True), work, device),
    }
    return {name: Contender(call, gflop=gflop_of(call)) for name, call in made.items()}


def user(work: BertWork, checkpoint: Checkpoint, device: str) -> dict[str, Contender]:
    """Adapting the last layer and the head to one user's shots, whose states are kept."""
    scorer = _scorer(work, checkpoint, "last_n", device)
    weights, (task, *_) = _weights(scorer), _tasks(scorer, work)

    def call() -> dict[str, Tensor]:
        fast = adapt(scorer, weights, task.shots, _inner(work), "bce")
        wait(device)
        return fast

    return {LAST: Contender(call, gflop=gflop_of(call))}


class _Again(AdaptedBert):
    """Without anything kept: what is frozen is computed whenever states are asked for."""

    def prefix(self, batch: Prefix) -> Prefix:
        return batch

    def states(self, weights: object, batch: Prefix) -> Tensor:
        given: dict[str, Tensor] = weights  # type: ignore[assignment]
        return super().states(given, super().prefix(batch))


class _Numbers(PrefixCache):
    """Token numbers alone, which are all of one length."""

    def __init__(self, bert: AdaptedBert, tokens: list[list[int]], padding: int) -> None:
        self._numbers = torch.tensor(tokens)

    def __call__(self, texts: np.ndarray) -> Texts:
        ids = self._numbers[torch.from_numpy(texts).long()]
        return Texts((Prefix(ids, torch.ones_like(ids)),), torch.arange(len(ids)))


def _scorer(
    work: BertWork, checkpoint: Checkpoint, adapted: str, device: str, again: bool = False
) -> BiEncoder:
    kind = _Again if again else AdaptedBert
    bert = kind(checkpoint, AdaptedPart(adapted), np.random.default_rng(0), device=device)
    rng = np.random.default_rng(0)
    count = work.tasks * (work.k_shot + work.query_size)
    tokens = rng.integers(1000, 20_000, (count, work.tokens)) % bert.vocabulary
    cache = (_Numbers if again else PrefixCache)(bert, tokens.tolist(), padding=0)
    size = bert.embedding_size
    label = np.array([0.5, 0.5], np.float32)
    statistics = {
        "inputs.label": label,
        "inputs.mean": np.zeros(size, np.float32),
        "inputs.scale": np.full(size, 0.05, np.float32),
    }
    inputs = Inputs(Features(np.zeros((1, size), np.float32)), "binary", statistics)
    return BiEncoder(bert, MLP(work.hidden_sizes), inputs, cache=cache)


def _weights(scorer: BiEncoder) -> dict[str, Tensor]:
    return {
        name: torch.tensor(value, device=scorer.device, requires_grad=True)
        for name, value in scorer.initial(np.random.default_rng(1)).items()
    }


def _tasks(scorer: BiEncoder, work: BertWork) -> list[UserTask]:
    both = work.k_shot + work.query_size
    labels = (np.arange(both) % 2).astype(np.float32)
    found = []
    for task in range(work.tasks):
        items = np.arange(task * both, (task + 1) * both, dtype=np.int32)
        shots, queries = items[: work.k_shot], items[work.k_shot :]
        given = labels[: work.k_shot], queries, labels[work.k_shot :]
        found.append(sent(UserTask.of(scorer, shots, *given), scorer.device))
    return found


def _inner(work: BertWork) -> InnerLoop:
    return InnerLoop(work.inner_steps, _RATE, first_order=True)


def _step(
    scorer: BiEncoder, work: BertWork, device: str
) -> Callable[[], tuple[Tensor, dict[str, Tensor]]]:
    weights, tasks = _weights(scorer), _tasks(scorer, work)

    def step() -> tuple[Tensor, dict[str, Tensor]]:
        found = meta_gradients(scorer, weights, tasks, _inner(work), "bce", "pointwise")
        wait(device)
        return found

    return step


def main(folder: str, device: str) -> None:
    """What the process does whose memory is measured."""
    work = BertWork()
    step = _step(_scorer(work, resolve(Path(folder)), "last_n", device), work, device)
    for _ in range(3):
        step()
    if device.startswith("cuda"):
        print(json.dumps(torch.cuda.max_memory_allocated(device) / 2**20))
    else:
        print(json.dumps(mark_of_process()))


if __name__ == "__main__":
    main(*sys.argv[1:])
