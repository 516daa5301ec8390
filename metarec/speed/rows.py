"""The rows of the speed table: what is promised, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from metarec.speed.measure import Measured
from metarec.speed.work import AGAIN, LAST, LEARN2LEARN, LORA


class Published(NamedTuple):
    """A figure that others' code reached, on a machine like the one the bounds were set on.

    Args:
        name: of the code.
        per_second: tasks a second.
    """

    name: str
    per_second: float


@dataclass(frozen=True)
class Bound:
    """What is promised of a piece of work.

    Args:
        name: of the row.
        work: of what was measured.
        backend: `torch` or `jax`.
        contender: whose time the row holds.
        reference: the contender it is held against, or a published figure; None where a rate is
            promised as such.
        at_least: the reference's time over the contender's; where the reference is no contender,
            tasks or episodes a second.
        memory_at_most: share of the reference's peak memory that the contender may take; None
            where nothing is promised.
        mebibytes_at_most: of the whole process at its peak; None where nothing is promised.
    """

    name: str
    work: str
    backend: str
    contender: str
    reference: str | Published | None
    at_least: float
    memory_at_most: float | None = None
    mebibytes_at_most: float | None = None

    @property
    def is_rate(self) -> bool:
        """Whether the row counts tasks or episodes a second."""
        return self.reference is None or isinstance(self.reference, Published)


STEP_SECOND, STEP_FIRST, STEP_LARGE = "second-order step", "first-order step", "large step"
CATALOGUE, SAMPLING, TRAINING, ENCODING = "catalogue", "sampling", "training", "encoding"
BERT_STEP, BERT_USER = "BERT step", "BERT user"
FIRST_ORDER, SECOND_ORDER = "first order", "second order"

STEP_NAME = (
    "meta-training step, second order, B=32 tasks, K=Q=10, D=384, MLP 64-64-1, 5 inner steps"
)
AS_FAST = 1 / 1.1
"""At most 1.1 times the other's time."""

TABLE = (
    Bound(STEP_NAME, STEP_SECOND, "torch", "torch gram", LEARN2LEARN, 15.0),
    Bound(STEP_NAME, STEP_SECOND, "jax", "jax gram", LEARN2LEARN, 30.0),
    Bound(
        "the same, against PyTorch's", STEP_SECOND, "jax", "jax gram", "torch gram", AS_FAST
    ),
    Bound("the same, first order", STEP_FIRST, "torch", "torch gram", LEARN2LEARN, 15.0),
    Bound(
        "the same, second order, B=512", STEP_LARGE, "torch", "torch gram", "torch vmap", 4.0, 0.25
    ),
    Bound(
        "the same, second order, B=512, against PyTorch's",
        STEP_LARGE, "jax", "jax gram", "torch gram", AS_FAST,
    ),
    Bound(
        "adapt to one user (5 steps) and score a catalogue of 100,000 items, frozen features, "
        "`X·W0` of the catalogue kept from user to user",
        CATALOGUE, "torch", "torch kept", LEARN2LEARN, 2.5,
    ),
    Bound(
        "the same user and catalogue, against PyTorch's",
        CATALOGUE, "jax", "jax kept", "torch kept", 1.0,
    ),
    Bound(
        "sampling episodes, K=10, Q=20, one core", SAMPLING, "torch", "sampler", None, 20_000.0
    ),
    Bound(
        "meta-training, whole process with sampling, K=Q=10, 5 steps, the same scorer, first order",
        TRAINING, "torch", f"torch {FIRST_ORDER}", Published("RecBole-MetaRec FOMeLU", 420.0),
        4_000.0,
    ),
    Bound(
        "meta-training, whole process with sampling, K=Q=10, 5 steps, the same scorer, second "
        "order",
        TRAINING, "torch", f"torch {SECOND_ORDER}",
        Published("RecBole-MetaRec MeLU, second order", 0.4), 2_000.0,
    ),
    Bound("encoding 2,000 titles", ENCODING, "jax", "jax encoder", "torch encoder", 1.0),
    Bound(
        "first-order MAML over the last of MiniLM's six layers, 8 tasks of 5 + 10 texts of 32 "
        "tokens, 3 inner steps, the states below kept (MiB: the whole process)",
        BERT_STEP, "torch", LAST, AGAIN, 2.2, mebibytes_at_most=1.5e9 / 2**20,
    ),
    Bound("the same with LoRA on that layer", BERT_STEP, "torch", LORA, LAST, 1 / 1.3),
    Bound(
        "adapt that layer to one user, 5 texts, 3 steps: users", BERT_USER, "torch", LAST, None,
        4.0,
    ),
)  # fmt: skip
"""The rows, in the order of the file. A backend's rows join here, each beside its twin."""


@dataclass(frozen=True)
class Row:
    """A row of `speed.json`, key for key.

    Args:
        name: of the work.
        backend: `torch` or `jax`.
        milliseconds: of a step or a user; of a task or an episode where the row is a rate.
        reference: what it is held against; None where nothing is, or it was left out.
        reference_milliseconds: likewise.
        ratio: `reference_milliseconds / milliseconds`; where the row is a rate, tasks or episodes
            a second.
        at_least: what is promised of `ratio`.
        gflop: matrix products of what `milliseconds` times.
        gflop_per_second: reached.
        peak_gflop_per_second: of a product of two large matrices, in the same run.
        peak_mebibytes: peak memory of a step above that before it, in a process of its own; of the
            whole process where the name says so.
    """

    name: str
    backend: str
    milliseconds: float
    reference: str | None
    reference_milliseconds: float | None
    ratio: float | None
    at_least: float
    gflop: float | None
    gflop_per_second: float | None
    peak_gflop_per_second: float | None
    peak_mebibytes: float | None


def row_of(
    bound: Bound, measured: Measured, peak_gflop_per_second: Mapping[str, float]
) -> Row | None:
    """The row of a bound; None if its contender was left out.

    Args:
        bound: what is promised.
        measured: its work.
        peak_gflop_per_second: of matrix products, by backend.
    """
    if bound.contender not in measured.contenders:
        return None
    milliseconds = measured.milliseconds(bound.contender)
    reference, reference_milliseconds = None, None
    if isinstance(bound.reference, Published):
        reference, reference_milliseconds = bound.reference.name, 1000 / bound.reference.per_second
    elif isinstance(bound.reference, str) and bound.reference in measured.contenders:
        reference = bound.reference
        reference_milliseconds = measured.milliseconds(reference)
    ratio = None
    if bound.is_rate:
        ratio = 1000 / milliseconds
    elif reference_milliseconds is not None:
        ratio = reference_milliseconds / milliseconds
    contender = measured.contenders[bound.contender]
    gflop = None if contender.gflop is None else contender.gflop / contender.items
    memory = measured.mebibytes.get(bound.contender)
    return Row(
        name=bound.name,
        backend=bound.backend,
        milliseconds=milliseconds,
        reference=reference,
        reference_milliseconds=reference_milliseconds,
        ratio=ratio,
        at_least=bound.at_least,
        gflop=gflop,
        gflop_per_second=None if gflop is None else gflop / milliseconds * 1000,
        peak_gflop_per_second=None if gflop is None else peak_gflop_per_second[bound.backend],
        peak_mebibytes=median(memory) if memory else None,
    )


def share_of_memory(bound: Bound, measured: Measured) -> float | None:
    """Peak memory of the contender over that of the reference; None where one is not known."""
    mine = measured.mebibytes.get(bound.contender)
    theirs = measured.mebibytes.get(bound.reference) if isinstance(bound.reference, str) else None
    if not mine or not theirs or median(theirs) <= 0:
        return None
    return median(mine) / median(theirs)


def reached(bound: Bound, row: Row, measured: Measured) -> bool | None:
    """Whether a row keeps what is promised; None where that was not measured."""
    if row.ratio is None:
        return None
    if bound.mebibytes_at_most is not None:
        if row.peak_mebibytes is None:
            return None
        return row.ratio >= bound.at_least and row.peak_mebibytes <= bound.mebibytes_at_most
    if bound.memory_at_most is None:
        return row.ratio >= bound.at_least
    share = share_of_memory(bound, measured)
    if share is None:
        return None
    return row.ratio >= bound.at_least and share <= bound.memory_at_most
