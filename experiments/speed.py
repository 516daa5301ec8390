"""Speed: episodes sampled a second on one core, and the MAML step beside learn2learn's.

    python experiments/speed.py

Medians over repeats, one after another in one process. Writes `<results>/speed.json`; settings:
`configs/experiment/speed.yaml`.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from metarec.episodes import EpisodeSampler
from metarec.errors import MetarecError
from metarec.runs import RunConfig, environment
from metarec.runs.overrides import lenient, with_choice
from metarec.runs.prepare import prepare
from metarec.runs.resume import write_text

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

console = Console(soft_wrap=True, highlight=False)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def main(composed: DictConfig) -> None:
    values: Any = OmegaConf.to_container(composed, resolve=True)
    results = Path(values.pop("results"))
    values.pop("progress")
    settings = values.pop("speed")
    try:
        config = RunConfig.from_dict(values)
        measured = {
            "episode_sampling": sampling(
                config, repeats=settings["repeats"], **settings["sampling"]
            ),
            "maml_step": maml_step(**settings["maml_step"]),
        }
    except MetarecError as error:
        sys.exit(f"error: {error}")
    about = {
        "machine": environment.machine(),
        "threads": environment.threads(),
        "versions": environment.versions(),
        "code": environment.code_hash(),
        "commit": environment.commit(),
        "settings": settings,
    }
    write_text(results / "speed.json", json.dumps(measured | about, indent=1) + "\n")
    rate = measured["episode_sampling"]["episodes_per_second"]
    console.print(f"episode sampling: {rate:,.0f} episodes a second on one core")
    for order, engines in measured["maml_step"].items():
        for engine, milliseconds in engines.items():
            shown = milliseconds if isinstance(milliseconds, str) else f"{milliseconds:.1f} ms"
            console.print(f"MAML step, {order}, {engine}: {shown}")
    console.print(f"wrote {results / 'speed.json'}")


def sampling(
    config: RunConfig, repeats: int, k_shot: int, query_size: int, task_batch: int, batches: int
) -> dict[str, Any]:
    """Episodes a second that the sampler draws from meta-train, on one core."""
    sampler = EpisodeSampler(
        prepare(config, needs_features=False).split,
        task=config.episode.task,
        k_shot=k_shot,
        query_size=query_size,
        task_batch=task_batch,
        feedback=config.episode.feedback,
        threshold=config.episode.threshold,
        negatives=config.episode.negatives,
    )

    def draw() -> None:
        for step in range(batches):
            sampler.batch(step)

    with one_core():
        seconds = timed(draw, repeats)
    rates = [task_batch * batches / value for value in seconds]
    return {"episodes_per_second": statistics.median(rates), "repeats": rates}


def maml_step(
    tasks: int,
    k_shot: int,
    query_size: int,
    feature_size: int,
    hidden_sizes: list[int],
    inner_steps: int,
    repeats: int,
) -> dict[str, dict[str, float | str]]:
    """Milliseconds of one outer step (loss and meta-gradient) on frozen features, by engine."""
    import torch

    from metarec.torch import reference
    from metarec.torch.inner_loop import Engine, Episodes, masked_mean, pointwise_loss, query_scores

    rng = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    def labels(count: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, 2, (tasks, count)).astype(np.float32))

    episodes = Episodes(
        support=normal(tasks, k_shot, feature_size),
        support_labels=labels(k_shot),
        support_mask=torch.ones(tasks, k_shot),
        query=normal(tasks, query_size, feature_size),
        query_labels=labels(query_size),
        query_mask=torch.ones(tasks, query_size),
    )
    sizes = [feature_size, *hidden_sizes, 1]
    parameters = {}
    for layer, (wide, narrow) in enumerate(itertools.pairwise(sizes)):
        parameters[f"layer{layer}.weight"] = normal(wide, narrow) / wide**0.5
        parameters[f"layer{layer}.bias"] = torch.zeros(narrow)
    for value in parameters.values():
        value.requires_grad_()

    def loss(scores: torch.Tensor) -> torch.Tensor:
        losses = pointwise_loss("bce", scores, episodes.query_labels)
        return masked_mean(losses.flatten(), episodes.query_mask.flatten())

    def step_of(engine: Engine, first_order: bool) -> Callable[[], None]:
        if engine == "learn2learn":
            module = reference.Module(parameters)

            def step() -> None:
                module.zero_grad()
                scores = reference.query_scores_learn2learn(
                    module,
                    episodes,
                    loss="bce",
                    steps=inner_steps,
                    learning_rate=0.01,
                    first_order=first_order,
                )
                torch.autograd.backward(loss(scores))

            return step

        def own_step() -> None:
            scores = query_scores(
                parameters,
                episodes,
                loss="bce",
                steps=inner_steps,
                learning_rate=0.01,
                first_order=first_order,
                engine=engine,
            )
            torch.autograd.grad(loss(scores), list(parameters.values()))

        return own_step

    measured: dict[str, dict[str, float | str]] = {}
    engines: tuple[Engine, ...] = ("gram", "vmap", "learn2learn")
    for order in ("second order", "first order"):
        measured[order] = {}
        for engine in engines:
            if engine == "learn2learn" and importlib.util.find_spec("learn2learn") is None:
                measured[order][engine] = "learn2learn is not installed (make learn2learn)"
                continue
            seconds = timed(step_of(engine, order == "first order"), repeats)
            measured[order][engine] = 1000 * statistics.median(seconds)
    return measured


def timed(action: Callable[[], None], repeats: int) -> list[float]:
    """Seconds of each repeat, after one that does not count."""
    action()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return seconds


@contextmanager
def one_core() -> Iterator[None]:
    """Keeps this process on one core, where the system allows it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


if __name__ == "__main__":
    groups = [folder.name for folder in CONFIGS.iterdir() if folder.is_dir()]
    sys.argv[1:] = with_choice("experiment=speed", lenient(sys.argv[1:], groups))
    main()
