"""The pieces of work that are timed, and what a framework provides to be timed at them."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from metarec.learner import Training
    from metarec.text.checkpoint import Checkpoint

LEARN2LEARN = "learn2learn"
"""The contender that all backends are held against."""
LAST, LORA, AGAIN = "torch last_n", "torch lora", "torch last_n, prefix recomputed"
"""The contenders over a BERT that adapts."""
OF_BERT = "metarec.torch.bert_speed"
"""The module that times them, and whose process tells how much memory they need."""
USERS = 8
"""Users that a catalogue is scored for, in turn."""


@dataclass(frozen=True)
class Contender:
    """One way to do a piece of work.

    Args:
        call: does it once, and returns when it is done.
        items: tasks or episodes that one call works on.
        gflop: of the matrix products of one call, 2 m n k each; None where they are not counted.
        optional: whether it may fail in the warm-up, and is then left out with its error as reason.
    """

    call: Callable[[], object]
    items: int = 1
    gflop: float | None = None
    optional: bool = False


@dataclass(frozen=True)
class StepWork:
    """A meta-training step on frozen features: adapt all tasks, loss of the queries, meta-gradient.

    The scorer is an MLP on the candidate's D features alone (`mlp_item`). The update of the outer
    optimiser is left out; `Backend.training` has everything.

    Args:
        tasks: B.
        k_shot: K shots of each task.
        query_size: Q.
        feature_size: D.
        hidden_sizes: of the MLP.
        inner_steps: gradient steps on the support set.
        inner_learning_rate: of the steps.
        first_order: whether the second derivatives are left out.
    """

    tasks: int = 32
    k_shot: int = 10
    query_size: int = 10
    feature_size: int = 384
    hidden_sizes: tuple[int, ...] = (64, 64)
    inner_steps: int = 5
    inner_learning_rate: float = 0.01
    first_order: bool = False


@dataclass(frozen=True)
class BertWork:
    """A meta-training step of MAML in first order over a BERT of which the last layer adapts.

    The texts have as many tokens as are allowed, drawn at random, and the head is an MLP.

    Args:
        tasks: B.
        k_shot: K texts of the support set of each task.
        query_size: Q texts.
        tokens: of a text, special ones included.
        inner_steps: gradient steps on the support set.
        hidden_sizes: of the head.
    """

    tasks: int = 8
    k_shot: int = 5
    query_size: int = 10
    tokens: int = 32
    inner_steps: int = 3
    hidden_sizes: tuple[int, ...] = (64, 64)


class StepArrays(NamedTuple):
    """Weights and episodes of a `StepWork`.

    Args:
        parameters: `layer<i>.weight` [in, out] and `layer<i>.bias` [out].
        support: [B, K, D].
        support_labels: [B, K] 1 and 0.
        support_mask: [B, K] 1 where there is a shot, else 0.
        query: [B, Q, D].
        query_labels: [B, Q].
        query_mask: [B, Q].
    """

    parameters: dict[str, np.ndarray]
    support: np.ndarray
    support_labels: np.ndarray
    support_mask: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray
    query_mask: np.ndarray


def step_arrays(
    work: StepWork, dtype: type[np.floating[Any]] = np.float32, ragged: bool = False
) -> StepArrays:
    """Draws weights and standardised features, always the same ones.

    Args:
        work: the sizes.
        dtype: of all arrays.
        ragged: give the tasks 0 to K shots in turn, and mask a query of each, as in real episodes;
            else everything is there.

    Returns:
        The arrays.
    """
    rng = np.random.default_rng(0)
    parameters = {}
    sizes = (work.feature_size, *work.hidden_sizes, 1)
    for layer, (wide, narrow) in enumerate(itertools.pairwise(sizes)):
        weight = rng.standard_normal((wide, narrow)) / np.sqrt(wide)
        parameters[f"layer{layer}.weight"] = weight.astype(dtype)
        parameters[f"layer{layer}.bias"] = np.zeros(narrow, dtype)

    def side(count: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        features = rng.standard_normal((work.tasks, count, work.feature_size))
        labels = rng.integers(0, 2, (work.tasks, count))
        return (features * mask[..., None]).astype(dtype), (labels * mask).astype(dtype), mask

    shots, queries = np.ones((2, work.tasks, 1), dtype)
    support_mask = np.repeat(shots, work.k_shot, axis=1)
    query_mask = np.repeat(queries, work.query_size, axis=1)
    if ragged:
        there = np.arange(work.tasks) % (work.k_shot + 1)
        support_mask = (np.arange(work.k_shot) < there[:, None]).astype(dtype)
        if work.query_size > 1:
            query_mask[np.arange(work.tasks), np.arange(work.tasks) % work.query_size] = 0
    return StepArrays(
        parameters, *side(work.k_shot, support_mask), *side(work.query_size, query_mask)
    )


@runtime_checkable
class Backend(Protocol):
    """What `metarec.<backend>.speed` provides: its functions, and nothing else, are called.

    To add a backend's rows, write that module and give the rows a place in
    `metarec.speed.rows.TABLE`. Contenders are called `<backend> <engine>`; `learn2learn` comes from
    PyTorch and is the same for all.
    """

    def steps(self, work: StepWork, device: str, compiled: bool) -> Mapping[str, Contender]:
        """The engines at a meta-training step; `compiled` adds compiled ones.

        Their calls return the loss and the gradient by name, on the device.
        """
        ...

    def engine(self, work: StepWork, device: str, engine: str) -> Contender:
        """One of them, which has not been called; its operations are not counted."""
        ...

    def catalogue(self, work: StepWork, items: int, device: str) -> Mapping[str, Contender]:
        """Adapts to one user and scores all items, call for call another user.

        Their calls return the [items] scores, on the device.
        """
        ...

    def training(
        self, training: Training, work: StepWork, outer_steps: int, device: str
    ) -> Contender:
        """The whole of `fit` without validation, as a run calls it."""
        ...

    def stages(self, training: Training, work: StepWork, device: str) -> Mapping[str, Contender]:
        """The parts of an outer step of `training`, to see which one takes how long."""
        ...

    def encoding(self, titles: Sequence[str], device: str) -> Contender:
        """All titles through the pretrained BERT; optional, since its weights may be missing."""
        ...

    def product(self, size: int, device: str) -> Contender:
        """The product of two square float32 matrices."""
        ...

    def solve(
        self, work: StepWork, arrays: StepArrays, engine: str
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Loss and meta-gradient on given arrays, in their dtype, on the CPU."""
        ...

    def operators(self, contender: Contender, device: str) -> dict[str, float]:
        """Share of the time of a call by operator, the largest first; empty where it is unknown."""
        ...

    def peak_bytes(self, call: Callable[[], object], device: str) -> int | None:
        """The most memory during a call above that before it; None where it is unknown."""
        ...


def backend_of(name: str) -> Backend:
    """The backend of this name."""
    backend: Any = importlib.import_module(f"metarec.{name}.speed")
    return backend


@runtime_checkable
class OfBert(Protocol):
    """What `metarec.torch.bert_speed` provides; a BERT that adapts is PyTorch's alone."""

    def steps(self, work: BertWork, checkpoint: Checkpoint, device: str) -> Mapping[str, Contender]:
        """A meta-training step of several kinds."""
        ...

    def user(self, work: BertWork, checkpoint: Checkpoint, device: str) -> Mapping[str, Contender]:
        """Adapting to one user."""
        ...


def of_bert() -> OfBert:
    """What is timed of a BERT that adapts."""
    found: Any = importlib.import_module(OF_BERT)
    return found
