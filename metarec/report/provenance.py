"""Where the numbers of a table come from: data, code and command, but no path of a machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metarec.report.collect import (
    Results,
    checksum_of,
    commit_of,
    dataset_of,
    error_of,
    run_name,
)

if TYPE_CHECKING:
    from metarec.runs.store import Record


@dataclass(frozen=True)
class Provenance:
    """The source of a table.

    Args:
        command: what makes it again from the same records.
        data: name of the data set.
        data_checksum: checksum of the data that were read.
        split: how users and items were split.
        code: versions of the code, one unless a mixture was allowed.
        commit: commits of the working tree.
        runs: names of the runs of each learner, by seed.
        failed: error of each failed run.
    """

    command: str
    data: str
    data_checksum: str
    split: str
    code: tuple[str, ...]
    commit: tuple[str, ...]
    runs: dict[str, list[str]]
    failed: dict[str, str]


def folder_of(record: Record) -> str:
    """The folder of a record's experiment, as `folder_name` calls it."""
    return folder_name(record.path.parent)


def folder_name(folder: Path) -> str:
    """What tables call a folder: as it lies below the working directory, as in `results/paper`.

    Of one that lies elsewhere the last two parts: what a table says names no machine's folders.
    """
    if folder.is_absolute():
        here = Path.cwd()
        below = folder.is_relative_to(here)
        folder = folder.relative_to(here) if below else Path(*folder.parts[-2:])
    return folder.as_posix()


def provenance_of(results: Results) -> Provenance:
    """The source of the results."""
    records, config = results.records, results.config
    code = tuple(sorted({record.code for record in records}))
    folders = sorted({folder_of(record) for record in records})
    flags = f" {results.flags}" if results.flags else ""
    flags += " --allow-mixed-versions" if len(code) > 1 else ""
    runs: dict[str, list[str]] = {}
    for record in records:
        runs.setdefault(record.learner, []).append(run_name(record))
    split = config.split
    by = f"seed {split.seed}" if split.method == "seed" else split.method
    return Provenance(
        command=f"python -m {results.module} {' '.join(folders)}{flags}",
        data=dataset_of(records),
        data_checksum=checksum_of(records[0]),
        split=f"split by {by}",
        code=code,
        commit=tuple(sorted({commit_of(record) for record in records})),
        runs=runs,
        failed={run_name(record): error_of(record) for record in results.failed},
    )
