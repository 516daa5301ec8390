"""`run`: from a configuration to a record, once."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metarec.consumed import Ledger
from metarec.errors import RunError
from metarec.learner import Learner, check_served
from metarec.runs import environment
from metarec.runs.config import RunConfig
from metarec.runs.learners import build_learner, build_retriever
from metarec.runs.prepare import Materials, prepare, training_of
from metarec.runs.resume import Checkpointer
from metarec.runs.share import taken_over
from metarec.runs.store import Record, is_finished, read_record, write_record


def run(
    config: RunConfig,
    results: str | Path = "results",
    progress: bool = False,
    resume: bool = True,
    share: Sequence[str] = (),
) -> Record:
    """Runs a configuration, unless it is finished already.

    A run is named by the hash of its configuration, data and features. A finished one is not run
    again, and its record is returned; an interrupted one goes on from its last checkpoint and ends
    in the same bits; a failed one leaves a record with the error, and is tried again next time.

    Args:
        config: what to run.
        results: the record goes to `results/<experiment>/<run>/`.
        progress: whether to show progress bars.
        resume: false to start an interrupted run anew.
        share: other experiments, whose finished runs are taken over where they have measured all
            that this one asks for.

    Returns:
        The record of the finished run.

    Raises:
        RunError: if there cannot be a folder of results.
        Exception: whatever made the run fail, after the record of the failure was written.
    """
    begin = time.perf_counter()
    root = Path(results) / config.experiment
    # until data and features are known, the configuration alone has to name the run
    provisional = root / run_name(config, config.hash("", ""))
    path = provisional
    hash_, materials = config.hash("", ""), None
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"results={results}: {root} cannot be made ({error}); choose a folder that can be "
            "written to"
        ) from error
    try:
        learner, materials = _prepared(config, progress)
        hash_ = materials.run_hash(config)
        path = root / run_name(config, hash_)
        shutil.rmtree(provisional, ignore_errors=True)
        if is_finished(path):
            return read_record(path)
        others = [Path(results) / experiment for experiment in share]
        found = taken_over(config, materials, root, others) if others else None
        if found is not None:
            if found.path != path:
                # what an earlier call left here failed
                shutil.rmtree(path, ignore_errors=True)
            return found
        return _run(config, learner, materials, path, hash_, progress, resume, begin)
    except Exception as error:
        _record_failure(config, path, hash_, materials, error, begin)
        raise


def finished(config: RunConfig, results: str | Path = "results") -> Record | None:
    """The record of a run that is finished already; None of any other.

    Args:
        config: of the run.
        results: as for `run`.

    Raises:
        Exception: whatever would make the run fail before it begins.
    """
    _, materials = _prepared(config, progress=False)
    path = Path(results) / config.experiment / run_name(config, materials.run_hash(config))
    return read_record(path) if is_finished(path) else None


def _prepared(config: RunConfig, progress: bool) -> tuple[Learner, Materials]:
    learner = build_learner(config)
    check_served(learner, config.episode.task, config.episode.feedback)
    retriever = build_retriever(config)
    needing = [one for one in (learner, retriever) if one is not None and one.needs_features]
    return learner, prepare(config, bool(needing), progress)


def run_name(config: RunConfig, hash_: str) -> str:
    """The name of a run's folder."""
    episode = config.episode
    return f"{config.learner.name}-{episode.task}-{episode.feedback}-s{config.seed}-{hash_[:12]}"


def _run(
    config: RunConfig,
    learner: Learner,
    materials: Materials,
    path: Path,
    hash_: str,
    progress: bool,
    resume: bool,
    begin: float,
) -> Record:
    # evaluation takes pandas and more along, which skipping a finished run does not need
    from metarec.runs.measure import measure_run, validator
    from metarec.runs.retrieval import Retrieval

    environment.forget_device_peak()
    checkpointer = Checkpointer(path / "training", environment.code_hash())
    if not resume:
        checkpointer.discard()
    retrieval = Retrieval(config, materials, progress)
    ledger, validate = Ledger(materials.consumed), None
    if learner.trained:
        validate = validator(config, learner, materials.split, retrieval, ledger)
    training = training_of(config, materials, validate, checkpointer, progress, ledger)
    training.note("learner")
    start = time.perf_counter()
    meta_parameters = learner.fit(training)
    fitted = time.perf_counter()
    measured = measure_run(config, learner, meta_parameters, materials.split, retrieval, progress)
    end = time.perf_counter()
    content = _common(config, hash_, materials) | {
        "status": "finished",
        "metrics": measured.metrics,
        "without_adaptation": measured.without_adaptation,
        "chance": measured.chance,
        "selection": measured.selection,
        "counts": measured.counts,
        "consumed": [asdict(entry) for entry in (*ledger.entries, *retrieval.consumed)],
        "episodes": measured.episodes,
        "seconds_per_task": measured.seconds_per_task,
        "log": [
            {name: value if math.isfinite(value) else None for name, value in entry.items()}
            for entry in training.log
        ],
        "device": str(getattr(learner, "devices", getattr(learner, "device", "cpu"))),
        "seconds": {"fit": fitted - start, "evaluate": end - fitted, "total": end - begin},
        "parameters": sum(
            value.size
            for name, value in meta_parameters.items()
            # statistics of the inputs are no parameters
            if not name.startswith("inputs.")
        ),
    }
    kept = meta_parameters if learner.trained else None
    record = write_record(path, config, content, measured.per_task, kept)
    checkpointer.discard()
    return record


def _record_failure(
    config: RunConfig,
    path: Path,
    hash_: str,
    materials: Materials | None,
    error: Exception,
    begin: float,
) -> None:
    content = _common(config, hash_, materials) | {
        "status": "failed",
        "error": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
        "seconds": {"total": time.perf_counter() - begin},
    }
    try:
        write_record(path, config, content)
    except OSError as second:
        # a full disk must not hide what went wrong first
        error.add_note(f"the record of this failure could not be written: {second}")


def _common(config: RunConfig, hash_: str, materials: Materials | None) -> dict[str, Any]:
    return {
        "status": "",
        "learner": config.learner.name,
        "seed": config.seed,
        "experiment": config.experiment,
        "hash": hash_,
        "dataset": materials.dataset.name if materials else None,
        "data_checksum": materials.data_checksum if materials else None,
        "feature_key": materials.feature_key if materials else None,
        "split_checksum": materials.split_checksum if materials else None,
        "commit": environment.commit(),
        "code": environment.code_hash(),
        "versions": environment.versions(),
        "machine": environment.machine(),
        "threads": environment.threads(),
        "peak_memory_bytes": environment.peak_memory_bytes(),
        "peak_device_memory_bytes": environment.peak_device_memory_bytes(),
    }
