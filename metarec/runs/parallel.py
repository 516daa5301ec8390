"""Many runs at once: processes of one thread each, which on small products beats threads."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from metarec.errors import ConfigError, MetarecError, RunError
from metarec.runs.config import RunConfig
from metarec.runs.run import finished, run
from metarec.runs.store import RECORD, Record, read_record

if TYPE_CHECKING:
    from rich.console import Console

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Args:
        number: of the configuration in the list.
        record: of the finished run; None if it failed.
        failure: the record of the failed run, None if there is none.
        error: what made it fail; None if it did not.
        trace: the traceback of an error that metarec did not raise on purpose.
        seconds: that the run took; next to nothing if it was finished before.
    """

    number: int
    record: Record | None
    failure: Record | None
    error: str | None
    trace: str | None
    seconds: float


def run_many(
    configs: Sequence[RunConfig],
    results: str | Path,
    workers: int,
    share: Sequence[str] = (),
    fresh: bool = False,
) -> Iterator[Outcome]:
    """Runs configurations, several at a time, and yields what came of each as it ends.

    A failed run leaves its error in its record, and the others go on. The order of the runs and
    their number at a time change no result.

    Args:
        configs: what to run, in the order in which they start.
        results: where the records go.
        workers: processes; with 1 everything runs in this process, with all its threads.
        share: experiments whose finished runs may be taken over; see `run`.
        fresh: whether each run has a process of its own, which takes some seconds to start, unless
            it is finished: then `peak_memory_bytes` is that of the run, and a run whose process is
            killed, as for want of memory, fails alone. With 1 worker each has all threads.

    Yields:
        The outcome of each run.

    Raises:
        ConfigError: if there is not even one worker.
    """
    if workers < 1:
        raise ConfigError(f"workers={workers}: at least 1 is needed")
    if workers == 1 and not fresh:
        for number, config in enumerate(configs):
            yield _outcome(number, config, results, share)
        return
    pool: Executor = ThreadPoolExecutor(workers) if fresh else _processes(workers)
    call = _alone if fresh else _outcome
    with nullcontext() if workers == 1 else _one_thread(), pool:
        left = list(enumerate(configs))
        if fresh:
            done = {number: found for number, one in left if (found := _done(number, one, results))}
            left = [(number, config) for number, config in left if number not in done]
            yield from done.values()
        futures = {
            pool.submit(call, number, config, results, share): (number, config)
            for number, config in left
        }
        broken = []
        try:
            for future in as_completed(futures):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    broken.append(futures[future])
            # One that is killed takes the others of its pool along: each again, by itself.
            for number, config in sorted(broken, key=lambda one: one[0]):
                yield _alone(number, config, results, share)
        finally:
            for future in futures:
                future.cancel()


@dataclass(frozen=True)
class Ran:
    """What came of many runs.

    Args:
        records: of those that finished, in the order of the configurations.
        failed: records of those that failed, where they left any.
        failures: name and error of each that failed.
    """

    records: list[Record]
    failed: list[Record]
    failures: list[str]

    def all(self, what: str) -> list[Record]:
        """The records, if all finished.

        Raises:
            RunError: if one failed, naming the first.
        """
        if self.failures:
            count = len(self.records) + len(self.failures)
            raise RunError(
                f"{len(self.failures)} of {count} {what} failed; first {self.failures[0]}"
            )
        return self.records


def run_all(
    configs: Sequence[RunConfig],
    results: str | Path,
    workers: int,
    console: Console,
    name: Callable[[RunConfig], str],
    what: str = "runs",
    share: Sequence[str] = (),
    fresh: bool = False,
    progress: bool = True,
) -> Ran:
    """Runs all with a bar; a failure is printed when it happens, and the others run.

    Args:
        configs: as for `run_many`, and so `results`, `workers`, `share` and `fresh`.
        results: see there.
        workers: see there.
        console: where failures are printed.
        name: what a failed run is called.
        what: the runs are, for the bar.
        share: see there.
        fresh: see there.
        progress: whether to show the bar.
    """
    from rich.markup import escape

    records: dict[int, Record] = {}
    failed, failures = [], []
    outcomes = run_many(list(configs), results, workers, share, fresh)
    for outcome in tqdm(outcomes, what, total=len(configs), disable=not progress):
        if outcome.record is not None:
            records[outcome.number] = outcome.record
            continue
        if outcome.failure is not None:
            failed.append(outcome.failure)
        failures.append(f"{name(configs[outcome.number])}: {outcome.error}")
        console.print(f"[red]failed[/red] {escape(failures[-1])}")
        if outcome.trace:
            console.print(escape(outcome.trace))
    return Ran([records[number] for number in sorted(records)], failed, failures)


def _processes(workers: int) -> ProcessPoolExecutor:
    # a fresh interpreter each: a fork would take along a framework's threads in whatever state
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _done(number: int, config: RunConfig, results: str | Path) -> Outcome | None:
    """The outcome of a run that is finished already, which needs no process of its own."""
    begin = time.perf_counter()
    try:
        record = finished(config, results)
    except Exception:
        # the run itself will say what is wrong, and leave a record of it
        return None
    if record is None:
        return None
    return Outcome(number, record, None, None, None, time.perf_counter() - begin)


def _alone(number: int, config: RunConfig, results: str | Path, share: Sequence[str]) -> Outcome:
    """The outcome of a run in a process that ends with it."""
    begin = time.perf_counter()
    # Not one pool with max_tasks_per_child=1: a process that is killed breaks all of its pool.
    try:
        with _processes(1) as pool:
            return pool.submit(_outcome, number, config, results, share).result()
    except BrokenProcessPool as problem:
        error = f"{type(problem).__name__}: the process of the run was killed; is memory short?"
        return Outcome(number, None, None, error, None, time.perf_counter() - begin)


def _outcome(number: int, config: RunConfig, results: str | Path, share: Sequence[str]) -> Outcome:
    begin = time.perf_counter()
    record, failure, error, trace = None, None, None, None
    try:
        record = run(config, results, share=share)
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
        failure = _failure(config, results)
        if not isinstance(problem, MetarecError):
            trace = traceback.format_exc()
    return Outcome(number, record, failure, error, trace, time.perf_counter() - begin)


def _failure(config: RunConfig, results: str | Path) -> Record | None:
    """The record that a run of this configuration left when it failed."""
    found = None
    for folder in sorted((Path(results) / config.experiment).glob(f"*/{RECORD}")):
        try:
            record = read_record(folder.parent)
        except MetarecError:
            # of another version, say; it is not the one
            continue
        if record.status == "failed" and record.config.to_dict() == config.to_dict():
            found = record
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that start within hold their linear algebra to one thread."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
