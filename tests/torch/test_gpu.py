"""Outer steps on a GPU: what the CPU gives, without waiting for the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import learner_rows
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metarec.learner import MetaParameters, TaskKind
from metarec.torch import (
    amortised,
    batches,
    bert_learner,
    bert_loop,
    episodic,
    hybrid,
    training,
    warm_up,
)
from metarec.torch.adapted_part import ADAPTS
from metarec.torch.training import Gradients

# torch says so of the mode in which waiting for a GPU is an error
pytestmark = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")

STEPS = 3  # the third step of MAML++ is of second order
# what compute otherwise than the first row of their class
OTHERS = {
    "maml_dot", "maml_fusion_attention", "maml_both", "maml_vmap", "fomaml", "reptile_dot",
    "maml_plus_plus_fusion", "imaml_dot", "dropoutnet_labels", "prototypical_multiple",
}  # fmt: skip
FIRST = {name.removesuffix("-jax") for name, *_ in learner_rows.IN_JAX}
ROWS = {
    name: (*make.args, kinds)
    for name, make, kinds, _ in learner_rows.LEARNERS
    if name in FIRST | OTHERS or getattr(make, "func", None) is learner_rows.made_in_torch
}
KINDS = [(name, kind) for name, (*_, kinds) in ROWS.items() for kind in kinds]
on_devices = pytest.mark.parametrize(
    ("device", "name", "kind"),
    [
        # that the tests themselves work, wherever they run
        *(pytest.param("cpu", name, row[-1][0], id=f"cpu-{name}") for name, row in ROWS.items()),
        *(
            pytest.param("cuda", *case, id="-".join(["cuda", *case]), marks=pytest.mark.gpu)
            for case in KINDS
        ),
    ],
)

# Adam makes steps of what rounding leaves of a gradient that is 0, as that of a bias by a ranking
WITHOUT_GRADIENT = {
    "gar": ("bias", "of_items1.bias"),
    "hybrid": ("tower.linear.bias", "tower.1.bias"),
}


def make(name: str, device: str, outer_loss: str = "pointwise") -> Any:
    path, arguments, _ = ROWS[name]
    given = {"steps": STEPS, "learning_rate": 0.01, "validate_every": 1, "device": device}
    learner = learner_rows.made(path, {**arguments, **given})
    if hasattr(learner, "outer_loss"):
        learner.outer_loss = outer_loss
    return learner


@dataclass(frozen=True)
class Fit:
    """What a fit came to.

    Args:
        losses: of each outer step.
        meta: the meta-parameters that it ended in.
        scores: [2, T, C] by them, with adaptation and without.
    """

    losses: list[float]
    meta: MetaParameters
    scores: np.ndarray


def fit(name: str, kind: TaskKind, device: str) -> Fit:
    given, learner = learner_rows.make_training(kind, "binary"), make(name, device)
    meta = learner.fit(given)
    losses = [entry["loss"] for entry in given.log if "loss" in entry]
    return Fit(losses, meta, scores(learner, kind, meta))


on_cpu = cache(partial(fit, device="cpu"))


def scores(learner: Any, kind: TaskKind, meta: MetaParameters) -> np.ndarray:
    given = learner_rows.make_training(kind, "binary")
    support, everyone = learner_rows.make_support(given), learner_rows.everything(given)
    both = learner, learner.without_adaptation()
    return np.stack([one.score(one.adapt(meta, support), everyone) for one in both])


def train_by(monkeypatch: pytest.MonkeyPatch, train: Callable[..., MetaParameters]) -> None:
    for module in (amortised, bert_learner, episodic, hybrid, warm_up):
        monkeypatch.setattr(module, "train", train)


@contextmanager
def waiting_is_an_error(device: str) -> Iterator[None]:
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_devices
def test_outer_steps_are_those_of_the_cpu_and_wait_for_nothing_on_the_host(
    device: str, name: str, kind: TaskKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their episodes drawn ahead, which on the CPU they are not, and which changes no bit."""
    expected, lay = on_cpu(name, kind), set()

    def train(initial: Any, gradients: Gradients, *others: Any, **more: Any) -> MetaParameters:
        def watched(
            parameters: dict[str, Tensor], step: int
        ) -> tuple[Tensor, Mapping[str, Tensor]]:
            with waiting_is_an_error(device):
                loss, values = gradients(parameters, step)
            lay.update(value.device.type for value in (loss, *values.values()))
            return loss, values

        return training.train(initial, watched, *others, **more)

    train_by(monkeypatch, train)
    monkeypatch.setattr(batches, "overlaps", lambda device: True)
    found = fit(name, kind, device)
    assert lay == {device}
    assert len(found.losses) == STEPS
    # a step of Adam the other way would be off by 2e-2
    relative, absolute = (0.0, 0.0) if device == "cpu" else (1e-4, 1e-3)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=relative)
    assert found.meta.keys() == expected.meta.keys()
    for weight in expected.meta.keys() - WITHOUT_GRADIENT.get(name, ()):
        np.testing.assert_allclose(
            found.meta[weight], expected.meta[weight], rtol=0, atol=absolute, err_msg=weight
        )


@on_devices
def test_tasks_adapt_and_are_scored_as_on_the_cpu(device: str, name: str, kind: TaskKind) -> None:
    """By the same meta-parameters."""
    expected, learner = on_cpu(name, kind), make(name, device)
    learner.restore(learner_rows.make_training(kind, "binary"))
    off = 0.0 if device == "cpu" else 1e-3
    found = scores(learner, kind, expected.meta)
    np.testing.assert_allclose(found, expected.scores, rtol=off, atol=off)


def losses_of_bert(device: str, **arguments: Any) -> list[float]:
    """Of the outer steps of MAML over the small BERT."""
    path, given, _ = ROWS["bert_maml"]
    own = {"steps": STEPS, "validate_every": 1, "outer_loss": "pointwise", "device": device}
    training_of_user = learner_rows.make_training("user", "binary")
    learner_rows.made(path, {**given, **own, **arguments}).fit(training_of_user)
    return [entry["loss"] for entry in training_of_user.log if "loss" in entry]


@pytest.mark.parametrize(
    ("device", "precision", "off"),
    [
        # that the test itself works, wherever it runs
        pytest.param("cpu", "fp32", 1e-6, id="cpu-fp32"),
        *(
            pytest.param("cuda", *case, id=f"cuda-{case[0]}", marks=pytest.mark.gpu)
            for case in (("fp32", 1e-3), ("fp16", 2e-2), ("bf16", 1e-1))
        ),
    ],
)
@pytest.mark.parametrize("adapted", ADAPTS)
def test_whatever_adapts_of_a_bert_is_computed_as_on_the_cpu_in_every_precision(
    adapted: str, device: str, precision: str, off: float
) -> None:
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bf16")
    expected = losses_of_bert("cpu", adapted=adapted)
    found = losses_of_bert(device, adapted=adapted, precision=precision)
    assert len(found) == STEPS
    np.testing.assert_allclose(found, expected, rtol=off)


@pytest.mark.gpu
@pytest.mark.parametrize("how", [{"compile": True}, {"checkpointing": True}], ids=str)
def test_a_compiled_or_checkpointed_bert_is_the_same_on_a_gpu(how: dict[str, bool]) -> None:
    np.testing.assert_allclose(losses_of_bert("cuda", **how), losses_of_bert("cuda"), rtol=1e-3)


class Waiting(TorchDispatchMode):
    """Fails where CUDA would wait for what torch's device `meta` does without."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        found = func(*args, **given)
        assert func is not torch.ops.aten._linalg_check_errors.default
        if func is torch.ops.aten._to_copy.default and found.device != args[0].device:
            assert given.get("non_blocking"), "a copy that is not `batches.sent`"
        return found


@pytest.mark.parametrize(
    ("name", "kind"),
    # a BERT computes what is frozen of it on its device, before a step
    [pytest.param(*case, id="-".join(case)) for case in KINDS if not case[0].startswith("bert")],
)
def test_the_host_reads_nothing_of_an_outer_step(
    name: str, kind: TaskKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On torch's device `meta`, whose tensors have no values: what asks for one fails."""
    steps: list[int] = []

    def train(initial: Mapping[str, np.ndarray], gradients: Gradients, *_: Any) -> MetaParameters:
        parameters = {
            name: torch.tensor(value, device="meta", requires_grad=True)
            for name, value in initial.items()
        }
        for step in (0, STEPS - 1):
            with Waiting():
                loss, values = gradients(parameters, step)
            assert loss.shape == ()
            for weight, value in parameters.items():
                assert values[weight].device == value.device
                assert values[weight].shape == value.shape
            steps.append(step)
        return dict(initial)

    train_by(monkeypatch, train)
    # as they are for CUDA, so that `batches.sent` copies without waiting
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: True)
    # by softmax, which the tests above do without
    make(name, "meta", "auto").fit(learner_rows.make_training(kind, "binary"))
    # of each phase, where there are two
    assert steps == [0, STEPS - 1] * (len(steps) // 2)
    assert steps


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("bert")])
def test_the_host_reads_nothing_of_an_outer_step_over_a_bert(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, computed = torch.device("meta"), []
    gradients_of = bert_loop.meta_gradients

    def elsewhere(
        scorer: Any, weights: Mapping[str, Tensor], tasks: Any, *others: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        scorer.bert._upper.to(there)
        scorer.bert.device = there
        object.__setattr__(scorer, "_standard", tuple(one.to(there) for one in scorer._standard))
        own = {key: torch.empty_like(value, device=there) for key, value in weights.items()}
        given = tuple(task.map(lambda value: value.to(there)) for task in tasks)
        with Waiting():
            loss, found = gradients_of(
                scorer, {key: value.requires_grad_() for key, value in own.items()}, given, *others
            )
        computed.append({value.device.type for value in (loss, *found.values())})
        raise StopIteration

    monkeypatch.setattr(bert_loop, "meta_gradients", elsewhere)
    with pytest.raises(StopIteration):
        make(name, "cpu", "auto").fit(learner_rows.make_training("user", "binary"))
    assert computed == [{"meta"}]


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    "waits",
    [
        pytest.param(lambda x: float(x.sum()), id="float"),
        pytest.param(lambda x: bool(x.any()), id="bool"),
        pytest.param(lambda x: x[x > 0], id="mask"),
        pytest.param(lambda x: x.tolist(), id="tolist"),
        pytest.param(lambda x: x.cpu(), id="cpu"),
        pytest.param(lambda x: torch.ones(3).to(x), id="to"),
        pytest.param(lambda x: torch.linalg.solve(x.diag(), x), id="solve"),
    ],
)
def test_waiting_is_seen(waits: Callable[[Tensor], Any], device: str) -> None:
    """By what the tests above rely on."""
    values = torch.ones(3, device=device)
    if device == "meta":
        with Waiting(), pytest.raises((AssertionError, NotImplementedError, RuntimeError)):
            waits(values)
        return
    with waiting_is_an_error(device), pytest.raises(RuntimeError, match="synchronizing"):
        waits(values)
