"""What JAX gives `experiments/speed.py` to time; a `metarec.speed.work.Backend`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metarec.inputs import Inputs
from metarec.jax.catalogue import Catalogue
from metarec.jax.devices import Devices, choose_devices, everywhere, shared_out
from metarec.jax.encoder import BertEncoder
from metarec.jax.episodic import (
    arrays_at,
    assembled,
    block_of,
    in_blocks,
    in_shares,
    outer_count,
    outer_sum,
)
from metarec.jax.inner_loop import Episodes, adapt, adapt_dual, query_scores
from metarec.jax.maml import MAML
from metarec.jax.scorer import MLP
from metarec.jax.training import build_optimizer, outer_step
from metarec.learner import Training
from metarec.loops import InnerLoop
from metarec.speed.memory import resident_peak_bytes
from metarec.speed.work import USERS, Contender, StepArrays, StepWork, step_arrays

Step = Callable[[dict[str, Array], Episodes], tuple[Array, dict[str, Array]]]


def steps(work: StepWork, device: str, compiled: bool) -> dict[str, Contender]:
    """The engines at a meta-training step, always compiled, in their first call."""
    parameters, episodes = _shared_out(work, device)
    found = {}
    for name in ("gram", "vmap"):
        step = jax.jit(_step(work, name, choose_devices(device)))
        found[f"jax {name}"] = Contender(
            _waiting(step, parameters, episodes), gflop=_gflop(step, parameters, episodes)
        )
    return found


def engine(work: StepWork, device: str, engine: str) -> Contender:
    """One engine at a meta-training step, compiled already, so that memory is the step's alone."""
    parameters, episodes = _shared_out(work, device)
    step = jax.jit(_step(work, engine, choose_devices(device)))
    program = step.lower(parameters, episodes).compile()
    return Contender(_waiting(program, parameters, episodes))


def _step(work: StepWork, engine: str, devices: Devices) -> Step:
    """The mean cross-entropy of the queries after the inner loop, and its meta-gradient."""
    scorer = MLP(work.hidden_sizes, context=False)
    chosen: Any = engine
    inner = InnerLoop(work.inner_steps, work.inner_learning_rate, work.first_order, chosen)

    def total(parameters: dict[str, Array], episodes: Episodes) -> Array:
        scores = query_scores(scorer, parameters, episodes, loss="bce", inner=inner)
        labels, mask = episodes.query_labels, episodes.query_mask
        return outer_sum("pointwise", "bce", scores, labels, mask)

    of_total = in_shares(in_blocks(total, block_of(devices)), devices)

    def step(parameters: dict[str, Array], episodes: Episodes) -> tuple[Array, dict[str, Array]]:
        count = outer_count("pointwise", episodes.query_labels, episodes.query_mask)
        found: Any = jax.tree.map(lambda x: x / count, of_total(parameters, episodes))
        return found

    return step


def _shared_out(work: StepWork, device: str) -> tuple[dict[str, Array], Episodes]:
    """The arrays of a step, where `metarec.jax.training.train` puts them."""
    parameters, *of_episodes = step_arrays(work)
    mesh = choose_devices(device).mesh(work.tasks)
    found: tuple[dict[str, Array], Episodes] = (
        jax.device_put(parameters, everywhere(mesh)),
        jax.device_put(Episodes(*map(jnp.asarray, of_episodes)), shared_out(mesh)),
    )
    return found


def _arrays(arrays: StepArrays, device: str) -> tuple[dict[str, Array], Episodes]:
    parameters, *of_episodes = arrays
    found: tuple[dict[str, Array], Episodes] = jax.device_put(
        (parameters, Episodes(*map(jnp.asarray, of_episodes))), choose_devices(device).first
    )
    return found


def _done(value: Any) -> Any:
    return jax.block_until_ready(value)  # type: ignore[no-untyped-call]


def _waiting(call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A call that returns when the device is done."""
    return lambda: _done(call(*arguments))


def catalogue(work: StepWork, items: int, device: str) -> dict[str, Contender]:
    """Adapts to one user and scores a catalogue, user after user.

    `jax kept` is what the learners do (`metarec.jax.catalogue`), `jax anew` the same without
    anything kept: fast weights, then the whole network.
    """
    shared, users = _arrays(step_arrays(replace(work, tasks=USERS)), device)
    features = np.random.default_rng(1).standard_normal((items, work.feature_size), np.float32)
    vectors = jax.device_put(features, choose_devices(device).first)
    scorer = MLP(work.hidden_sizes, context=False)
    inner = InnerLoop(work.inner_steps, work.inner_learning_rate, first_order=True)
    context = jnp.zeros((1, 1, work.feature_size), vectors.dtype)
    extra = jnp.zeros((items, 0), vectors.dtype)
    # views of the users cost a device more than the users themselves: they are cut out before
    shots = [tuple(value[user : user + 1] for value in users[:3]) for user in range(USERS)]
    kept = Catalogue(scorer, shared, vectors, devices=choose_devices(device))

    @jax.jit
    def state_of(parameters: dict[str, Array], *shots: Array) -> Any:
        return adapt_dual(scorer, parameters, *shots, loss="bce", inner=inner)

    @jax.jit
    def anew(parameters: dict[str, Array], vectors: Array, *shots: Array) -> Array:
        fast = adapt(scorer, parameters, *shots, loss="bce", inner=inner)
        return scorer.score_catalogue(fast, context, vectors, extra)[0]

    def contender(scores: Callable[[int], Any]) -> Contender:
        turn = itertools.cycle(range(USERS))
        return Contender(lambda: _done(scores(next(turn))))

    return {
        "jax kept": contender(lambda user: kept.scores(*state_of(shared, *shots[user]))[0]),
        "jax anew": contender(lambda user: anew(shared, vectors, *shots[user])),
    }


def training(training: Training, work: StepWork, outer_steps: int, device: str) -> Contender:
    """All of `MAML.fit` without validation, its compilation included."""

    def fit() -> object:
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
        return learner.fit(training)

    return Contender(fit, items=outer_steps * work.tasks)


def stages(training: Training, work: StepWork, device: str) -> dict[str, Contender]:
    """The parts of an outer step, each on the episodes of one step."""
    inputs, devices = Inputs.fit(training), choose_devices(device)
    mesh = devices.mesh(training.sampler.task_batch)
    where, tasks = everywhere(mesh), shared_out(mesh)
    scorer = MLP(work.hidden_sizes, context=False)
    batch = training.sampler.batch(0)
    arrays = jax.device_put(arrays_at(inputs, training, 0), tasks)
    initial = scorer.initial(inputs, np.random.default_rng(0))
    parameters: dict[str, Array] = jax.device_put(initial, where)
    step = _step(work, "auto", devices)

    def gradients(parameters: Any, arrays: Any, shared: Any, program: Any) -> Any:
        return step(parameters, assembled(scorer, arrays))

    only = jax.jit(lambda parameters, arrays: gradients(parameters, arrays, (), None))
    optimizer = build_optimizer(MAML(device=device).outer)
    update = outer_step(gradients, optimizer)
    state = [parameters, jax.device_put(optimizer.init(parameters), where)]

    def whole() -> object:
        # what went in was given away: the next step takes what came out
        copied = state if state[0] is not parameters else jax.tree.map(jnp.copy, state)
        loss, *state[:] = update(*copied, arrays, (), program=None)
        return _done(loss)

    parts: dict[str, Callable[[], object]] = {
        "sampling": lambda: training.sampler.batch(0),
        "inputs": lambda: inputs.of_batch(batch),
        "sampling, inputs and arrays": lambda: _done(
            jax.device_put(arrays_at(inputs, training, 0), tasks)
        ),
        "loss and gradient": _waiting(only, parameters, arrays),
        "loss, gradient and optimiser": whole,
    }
    return {name: Contender(call, items=work.tasks) for name, call in parts.items()}


def encoding(titles: Sequence[str], device: str) -> Contender:
    """All titles through the pretrained BERT; see `Backend.encoding`."""
    encoder = BertEncoder(device=device)
    return Contender(lambda: encoder.encode(titles), items=len(titles), optional=True)


def product(size: int, device: str) -> Contender:
    """The product of two square matrices."""
    left, right = jax.device_put(np.ones((2, size, size), np.float32), choose_devices(device).first)
    return Contender(_waiting(jax.jit(jnp.matmul), left, right), gflop=2 * size**3 / 1e9)


def solve(work: StepWork, arrays: StepArrays, engine: str) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and meta-gradient on given arrays, in their dtype, on the CPU."""
    one = Devices((choose_devices("cpu").first,))
    with jax.enable_x64(arrays.support.dtype == np.float64):
        loss, gradient = jax.jit(_step(work, engine, one))(*_arrays(arrays, "cpu"))
        return float(loss), {name: np.asarray(value) for name, value in gradient.items()}


def operators(contender: Contender, device: str) -> dict[str, float]:
    """Nothing: one compiled program has no operators to tell apart."""
    return {}


def peak_bytes(call: Callable[[], object], device: str) -> int | None:
    """Peak memory of a call; None on a GPU, whose memory JAX takes as a whole."""
    return resident_peak_bytes(call) if device == "cpu" else None


def _gflop(function: Callable[..., Any], *arguments: Any) -> float:
    """Billions of operations of the matrix products in a call."""
    return _operations(jax.make_jaxpr(function)(*arguments).jaxpr) / 1e9


def _operations(jaxpr: Any) -> int:
    """2 m n k of each product in a program, those in programs within it included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = int(np.prod([shape[axis] for axis in contracted]))
            total += 2 * depth * int(np.prod(equation.outvars[0].aval.shape))
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "shard_map":
            times = equation.params["mesh"].size
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * _operations(inner)
    return total
