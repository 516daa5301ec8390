"""Speed: each piece of work beside its reference and its bound.

    python experiments/speed.py
    python experiments/speed.py speed.device=cuda results=results/gpu
    python experiments/speed.py 'speed.only=[catalogue]' speed.compile=false

Contenders take turns in one process, after a warm-up; what counts is the median over the repeats,
and ratios are between medians of the same run. Prints the speed table, all contenders, and the
parity of the engines in float64. Settings: `configs/experiment/speed.yaml`.

`<results>/speed.json` is a list of rows (`metarec.speed.rows.Row`), in the order of
`metarec.speed.rows.TABLE`. `ratio` is the reference's time over the row's own. Where a row is a
rate, `ratio` is that rate, tasks or episodes a second, and `milliseconds` those of one task or
episode; `reference` is then a published figure, or null. What does not apply is null. All else that
is known of the run is in `<results>/speed_details.json`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from metarec.episodes import EpisodeSampler
from metarec.errors import ConfigError, MetarecError, TextError, did_you_mean
from metarec.features import build_features
from metarec.learner import Training
from metarec.runs import RunConfig, environment
from metarec.runs.command_line import groups_in, lenient, run_script, with_choice
from metarec.runs.fields import conformed
from metarec.runs.prepare import prepare, training_of
from metarec.runs.resume import write_text
from metarec.speed.rows import BERT_STEP, BERT_USER, ENCODING, SAMPLING, TRAINING, reached
from metarec.speed.session import Session
from metarec.speed.settings import WORKS, SamplingWork, SpeedSettings, TrainingWork
from metarec.speed.show import limits, table_of_contenders, table_of_parity, table_of_rows
from metarec.speed.work import BertWork, StepWork
from metarec.text import Checkpoint, resolve

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def main(composed: DictConfig) -> None:
    values: Any = OmegaConf.to_container(composed, resolve=True)
    results, progress = Path(values.pop("results")), bool(values.pop("progress"))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if load is not None and load > 0.5:
        console.print(f"other work loads this machine ({load:.1f}): the figures will suffer")
    try:
        settings = settings_of(values.pop("speed"))
        config = RunConfig.from_dict(values)
        sampler = sampler_of(config, settings) if settings.measures(SAMPLING) else None
        training, features = None, "nothing"
        if settings.measures(TRAINING):
            training, features = meta_train(config, settings, progress)
        titles = titles_of(config, settings) if settings.measures(ENCODING) else []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bar = Progress(*columns, TimeElapsedColumn(), console=console, disable=not progress)
        session = Session(settings, tracker(bar, progress))
        with bar:
            session.measure(sampler, training, titles, checkpoint_of(config, settings))
    except MetarecError as error:
        sys.exit(f"error: {error}")
    about = {
        "machine": environment.machine(),
        "threads": environment.threads(),
        "versions": environment.versions(),
        "code": environment.code_hash(),
        "commit": environment.commit(),
        "load_before": load,
        "features": features,
    }
    rows = [asdict(row) for _, row in session.rows()]
    write_text(results / "speed.json", json.dumps(rows, indent=1) + "\n")
    details = json.dumps(about | session.details(), indent=1)
    write_text(results / "speed_details.json", details + "\n")
    show(session)
    console.print(f"\nThe training is on {escape(features)}.")
    console.print(f"wrote {results / 'speed.json'} and {results / 'speed_details.json'}")


def settings_of(values: dict[str, Any]) -> SpeedSettings:
    """The settings, each key and each value checked."""
    parts = {"step": StepWork, "bert": BertWork, "sampling": SamplingWork, "training": TrainingWork}
    for name, kind in parts.items():
        if isinstance(values.get(name), Mapping):
            values[name] = kind(**conformed(values[name], kind, f"speed.{name}"))
    settings = SpeedSettings(**conformed(values, SpeedSettings, "speed"))
    for work in settings.only or ():
        if work not in WORKS:
            raise ConfigError(f"speed.only: {work!r}{did_you_mean(work, WORKS)}")
    return settings


def sampler_of(config: RunConfig, settings: SpeedSettings) -> EpisodeSampler:
    """The sampler of the sampling row."""
    episode = config.episode
    return EpisodeSampler(
        prepare(config, needs_features=False).split,
        task=episode.task,
        k_shot=settings.sampling.k_shot,
        query_size=settings.sampling.query_size,
        task_batch=settings.sampling.task_batch,
        feedback=episode.feedback,
        threshold=episode.threshold,
        negatives=episode.negatives,
    )


def titles_of(config: RunConfig, settings: SpeedSettings) -> list[str]:
    """The titles of the encoding row: the first of the data set's items, or else their texts."""
    materials = prepare(config, needs_features=False)
    text = materials.dataset.item_text
    titles = text.get("title", materials.texts)
    return [str(title) for title in titles[: settings.titles]]


def checkpoint_of(config: RunConfig, settings: SpeedSettings) -> Checkpoint | None:
    """The BERT of the rows over one that adapts; None, said so, where it is not at hand."""
    if not (settings.measures(BERT_STEP) or settings.measures(BERT_USER)):
        return None
    try:
        return resolve(config.text.checkpoint, config.text.download)
    except TextError as error:
        console.print(f"left out what needs a BERT: {escape(str(error))}")
        return None


def meta_train(config: RunConfig, settings: SpeedSettings, progress: bool) -> tuple[Training, str]:
    """What `fit` gets in the training row, and what its features are.

    Where the texts cannot be encoded, random numbers take the place of their features.
    """
    step = settings.step
    episode = replace(
        config.episode,
        k_shot=step.k_shot,
        train_k_shot=(step.k_shot, step.k_shot),
        query_size=step.query_size,
        task_batch=settings.training.task_batch,
    )
    config = replace(config, episode=episode)
    try:
        materials = prepare(config, needs_features=True, progress=progress)
        of = f"text features of {config.text.checkpoint}"
    except TextError as error:
        materials = prepare(config, needs_features=False)
        size = (materials.dataset.n_items, step.feature_size)
        drawn = np.random.default_rng(0).standard_normal(size, np.float32)
        features = build_features(
            materials.split, drawn, episode.task, episode.feedback, episode.threshold
        )
        materials = replace(materials, features=features)
        of = f"random numbers, for want of text features ({error})"
    return training_of(config, materials, validate=None, checkpointer=None, progress=False), of


def tracker(bar: Progress, progress: bool) -> Callable[[str, int], Callable[[], None]]:
    """A bar for each thing that is measured, or a line where there is no terminal."""

    def track(description: str, turns: int) -> Callable[[], None]:
        if progress and not console.is_terminal:
            console.print(f"measuring {description}")
            return lambda: None
        task = bar.add_task(description, total=turns)
        return lambda: bar.advance(task)

    return track


def show(session: Session) -> None:
    """The speed table, what limits a row that missed its bound, and the other two tables."""
    console.print("\n[bold]Speed[/bold]", table_of_rows(session.rows(), session.works))
    for name, rates in session.products.items():
        console.print(f"{name}'s product of large float32 matrices: {max(rates):,.0f} GFLOP/s")
    if not session.settings.as_promised:
        console.print("The sizes are not those in the names: the bounds do not apply.")
    for bound, row in session.rows():
        measured = session.works[bound.work]
        if reached(bound, row, measured) is False:
            known = limits(bound, row, measured, session.stages.get(bound.contender, {}))
            console.print(f"[red]missed[/red]: {escape(f'{row.name}: {known}')}")
    console.print("\n[bold]All that was timed[/bold]", table_of_contenders(session.works))
    console.print(
        "\n[bold]Parity in float64[/bold] (relative differences)", table_of_parity(session.parity)
    )


def script(arguments: list[str]) -> int:
    """Measures with the overrides of a call; returns the exit status."""
    sys.argv[1:] = with_choice("experiment=speed", lenient(arguments, groups_in(CONFIGS)))
    main()
    return 0


if __name__ == "__main__":
    run_script(script)
