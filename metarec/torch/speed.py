"""What PyTorch gives `experiments/speed.py` to time; a `metarec.speed.work.Backend`."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarec.errors import LearnerError
from metarec.inputs import Inputs
from metarec.learner import Training
from metarec.loops import InnerLoop
from metarec.speed.memory import resident_peak_bytes
from metarec.speed.work import LEARN2LEARN, USERS, Contender, StepArrays, StepWork, step_arrays
from metarec.torch import reference
from metarec.torch.catalogue import Catalogue
from metarec.torch.encoder import BertEncoder
from metarec.torch.episodic import episodes_of, outer_loss, weights_of
from metarec.torch.inner_loop import (
    Episodes,
    adapt,
    adapt_dual,
    masked_mean,
    pointwise_loss,
    query_scores,
)
from metarec.torch.maml import MAML
from metarec.torch.scorer import MLP


def steps(work: StepWork, device: str, compiled: bool) -> dict[str, Contender]:
    """The engines at a meta-training step; see `Backend.steps`.

    The operations counted are those of an engine's own products, so that those of the dual form are
    fewer than those of the naive algorithm, which `vmap` and learn2learn follow alike.
    """
    gram, vmap, learn2learn = (engine(work, device, name) for name in ("gram", "vmap", LEARN2LEARN))
    naive = gflop_of(vmap.call)
    found = {
        "torch gram": replace(gram, gflop=gflop_of(gram.call)),
        "torch vmap": replace(vmap, gflop=naive),
        LEARN2LEARN: replace(learn2learn, gflop=naive),
    }
    if compiled:
        for name in ("gram", "vmap"):
            step = _step(work, device, name, compiled=True)
            found[f"torch {name}, compiled"] = Contender(step, optional=True)
    return found


def engine(work: StepWork, device: str, engine: str) -> Contender:
    """One engine at a meta-training step; see `Backend.engine`."""
    return Contender(_step(work, device, engine), optional=engine == LEARN2LEARN)


def _step(
    work: StepWork, device: str, engine: str, compiled: bool = False
) -> Callable[[], tuple[Tensor, dict[str, Tensor]]]:
    arrays = step_arrays(work)
    parameters, episodes = _tensors(arrays, torch.device(device))
    loss_of = _loss_of(work, engine)
    if compiled:
        loss_of = torch.compile(loss_of)

    def step() -> tuple[Tensor, dict[str, Tensor]]:
        loss = loss_of(parameters, episodes)
        gradient = torch.autograd.grad(loss, list(parameters.values()))
        wait(device)
        return loss.detach(), dict(zip(parameters, gradient, strict=True))

    return step


def _loss_of(work: StepWork, engine: str) -> Callable[[dict[str, Tensor], Episodes], Tensor]:
    """The mean cross-entropy of the queries after the inner loop, as meta-training has it."""
    scorer = MLP(work.hidden_sizes, context=False)
    chosen: Any = engine
    inner = InnerLoop(work.inner_steps, work.inner_learning_rate, work.first_order, chosen)

    def loss_of(parameters: dict[str, Tensor], episodes: Episodes) -> Tensor:
        scores = query_scores(scorer, parameters, episodes, loss="bce", inner=inner)
        return outer_loss("pointwise", "bce", scores, episodes)

    return loss_of


def _tensors(arrays: StepArrays, device: torch.device) -> tuple[dict[str, Tensor], Episodes]:
    parameters, *of_episodes = arrays
    weights = {
        name: torch.tensor(value, device=device, requires_grad=True)
        for name, value in parameters.items()
    }
    return weights, Episodes(*(torch.tensor(value, device=device) for value in of_episodes))


def wait(device: str) -> None:
    """Until a GPU has done all that it was asked for."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def catalogue(work: StepWork, items: int, device: str) -> dict[str, Contender]:
    """Adapts to one user and scores a catalogue, user after user; see `Backend.catalogue`.

    `torch kept` is what the learners do (`metarec.torch.catalogue`), `torch anew` the same without
    anything kept: fast weights, then the whole network. learn2learn clones the module, adapts it
    (in first order, the cheaper, which ends in the same weights) and calls it on the catalogue.
    """
    arrays = step_arrays(replace(work, tasks=USERS))
    parameters, users = _tensors(arrays, torch.device(device))
    shared = {name: value.detach() for name, value in parameters.items()}
    features = np.random.default_rng(1).standard_normal((items, work.feature_size), np.float32)
    vectors = torch.tensor(features, device=device)
    scorer = MLP(work.hidden_sizes, context=False)
    inner = InnerLoop(work.inner_steps, work.inner_learning_rate, first_order=True)
    context = vectors.new_zeros(1, 1, work.feature_size)
    extra = vectors.new_zeros(items, 0)
    all_that_is_kept: list[Catalogue] = []

    def kept(user: int) -> Tensor:
        if not all_that_is_kept:
            all_that_is_kept.append(Catalogue(scorer, shared, vectors))
        _, support, state = adapt_dual(
            scorer, shared, *(value[[user]] for value in users[:3]), loss="bce", inner=inner
        )
        return all_that_is_kept[0].scores(support, state)[0]

    def anew(user: int) -> Tensor:
        fast = adapt(
            scorer, shared, *(value[[user]] for value in users[:3]), loss="bce", inner=inner
        )
        return scorer.score_catalogue(fast, context, vectors, extra)[0]

    def learn2learn(user: int) -> Tensor:
        algorithms = reference.import_learn2learn().algorithms
        module = reference.Module(scorer, parameters, {})
        support, labels, mask = (value[user] for value in users[:3])
        with torch.enable_grad():
            clone = algorithms.MAML(module, lr=inner.learning_rate, first_order=True).clone()
            for _ in range(inner.steps):
                losses = pointwise_loss("bce", clone(support), labels)
                clone.adapt(masked_mean(losses, mask))
        scores: Tensor = clone(vectors)
        return scores

    def contender(scores: Callable[[int], Tensor]) -> Contender:
        turn = itertools.cycle(range(USERS))

        @torch.no_grad()
        def call() -> Tensor:
            found = scores(next(turn))
            wait(device)
            return found

        call()  # what is kept is made in the first call
        return Contender(call, gflop=gflop_of(call))

    found = {"torch kept": contender(kept), "torch anew": contender(anew)}
    with contextlib.suppress(LearnerError):
        found[LEARN2LEARN] = contender(learn2learn)
    return found


def training(training: Training, work: StepWork, outer_steps: int, device: str) -> Contender:
    """All of `MAML.fit` without validation; see `Backend.training`."""

    def fit(outer_steps: int) -> object:
        learner = MAML(
            inner_steps=work.inner_steps,
            inner_learning_rate=work.inner_learning_rate,
            first_order=work.first_order,
            scorer="mlp_item",
            hidden_sizes=work.hidden_sizes,
            steps=outer_steps,
            validate_every=outer_steps,
            device=device,
        )
        found = learner.fit(training)
        wait(device)
        return found

    return Contender(
        lambda: fit(outer_steps),
        items=outer_steps * work.tasks,
        gflop=outer_steps * gflop_of(lambda: fit(1)),
    )


def stages(training: Training, work: StepWork, device: str) -> dict[str, Contender]:
    """The parts of an outer step, each on the episodes of one step; see `Backend.stages`."""
    inputs = Inputs.fit(training)
    scorer = MLP(work.hidden_sizes, context=False)
    where = torch.device(device)
    batch = training.sampler.batch(0)
    episodes = episodes_of(inputs, training, 0, scorer, where)
    parameters = {
        name: torch.tensor(value, device=where, requires_grad=True)
        for name, value in scorer.initial(inputs, np.random.default_rng(0)).items()
    }
    optimizer = torch.optim.AdamW(list(parameters.values()))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)

    def part(call: Callable[[], object]) -> Contender:
        def timed() -> None:
            call()
            wait(device)

        return Contender(timed, items=work.tasks)

    loss_of = _loss_of(work, "auto")

    def loss_and_gradient() -> object:
        loss = loss_of(weights_of(parameters), episodes)
        return torch.autograd.grad(loss, list(parameters.values()))

    return {
        "sampling": part(lambda: training.sampler.batch(0)),
        "inputs": part(lambda: inputs.of_batch(batch)),
        "sampling, inputs and tensors": part(
            lambda: episodes_of(inputs, training, 0, scorer, where)
        ),
        "loss and gradient": part(loss_and_gradient),
        "optimiser": part(optimizer.step),
    }


def encoding(titles: Sequence[str], device: str) -> Contender:
    """All titles through the pretrained BERT; see `Backend.encoding`."""
    encoder = BertEncoder(device=device)
    return Contender(lambda: encoder.encode(titles), items=len(titles), optional=True)


def product(size: int, device: str) -> Contender:
    """The product of two square matrices; see `Backend.product`."""
    left, right = torch.ones(2, size, size, device=device)

    def call() -> Tensor:
        found = left @ right
        wait(device)
        return found

    return Contender(call, gflop=2 * size**3 / 1e9)


def solve(work: StepWork, arrays: StepArrays, engine: str) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and meta-gradient; see `Backend.solve`."""
    parameters, episodes = _tensors(arrays, torch.device("cpu"))
    loss = _loss_of(work, engine)(parameters, episodes)
    gradient = torch.autograd.grad(loss, list(parameters.values()))
    return loss.item(), {
        name: value.numpy() for name, value in zip(parameters, gradient, strict=True)
    }


def operators(contender: Contender, device: str) -> dict[str, float]:
    """Share of the time of a call by operator; see `Backend.operators`.

    On a GPU the time that its kernels run. What is left to 1 is Python, autograd and, on a GPU,
    waiting for the next kernel, all of it somewhat more than without the profiler.
    """
    # read when the profiler is loaded; it would report its start and end on stderr
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    calls = 3
    with profile(activities=activities) as profiler:
        begin = time.perf_counter()
        for _ in range(calls):
            contender.call()
        passed = time.perf_counter() - begin
    times = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        for event in profiler.key_averages()
    }
    largest = sorted(times, key=times.__getitem__, reverse=True)[:6]
    between = max(0.0, passed - sum(times.values()))
    return {key: times[key] / passed for key in largest} | {"between operators": between / passed}


def peak_bytes(call: Callable[[], object], device: str) -> int | None:
    """Peak memory of a call, of the GPU where there is one; see `Backend.peak_bytes`."""
    if not device.startswith("cuda"):
        return resident_peak_bytes(call)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def gflop_of(call: Callable[[], object]) -> float:
    """Billions of operations of the matrix products in a call."""
    from torch.utils.flop_counter import FlopCounterMode

    def baddbmm(
        values: tuple[int, ...], left: tuple[int, int, int], right: tuple[int, int, int],
        out_shape: object = None, **settings: object,
    ) -> int:  # fmt: skip
        batch, rows, inner = left
        return 2 * batch * rows * inner * right[2]

    # which PyTorch counts when it makes a tensor of its own, and forgets when it works in place
    more: Mapping[Any, Any] = {torch.ops.aten.baddbmm_: baddbmm}
    with FlopCounterMode(display=False, custom_mapping=dict(more)) as counter:
        call()
    return counter.get_total_flops() / 1e9
