"""`Record`: what a run left on disk, and how it is written and read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from metarec.errors import ConfigError, RunError
from metarec.runs.config import RunConfig
from metarec.runs.resume import load_tensors, save_tensors, write_text
from metarec.writing import replacing

if TYPE_CHECKING:
    import pandas as pd

RECORD, CONFIG, PER_TASK = "record.json", "config.yaml", "per_task.parquet"
META_PARAMETERS = Path("checkpoint") / "meta_parameters.safetensors"

Metrics = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Part, regime, metric to a number; None where the metric has no value."""


@dataclass(frozen=True, eq=False)
class Record:
    """What one run left on disk.

    Args:
        path: its folder.
        config: the resolved configuration.
        status: `finished` or `failed`.
        hash: of configuration, data and features; a part of the folder's name.
        content: all of `record.json`.
    """

    path: Path
    config: RunConfig
    status: Literal["finished", "failed"]
    hash: str
    content: Mapping[str, Any] = field(repr=False)

    @property
    def learner(self) -> str:
        """The learner's name."""
        return self.config.learner.name

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config.seed

    @property
    def metrics(self) -> Metrics:
        """Mean of each metric over tasks at `episode.k_shot`, by part and regime."""
        return _metrics(self.content, "metrics")

    @property
    def without_adaptation(self) -> Metrics:
        """Likewise with the adaptation off; empty for learners that have none."""
        return _metrics(self.content, "without_adaptation")

    @property
    def chance(self) -> Metrics:
        """The exact chance level of each catalogue metric on the same tasks."""
        return _metrics(self.content, "chance")

    @property
    def selection(self) -> float | None:
        """What tuning maximises, measured on validation; higher is better."""
        return self.content.get("selection")

    @property
    def code(self) -> str:
        """SHA-256 over the code that made it; a table does not mix records of different code."""
        return str(self.content.get("code", ""))

    @property
    def commit(self) -> str | None:
        """The git commit of that code, with `+dirty` if files differed from it."""
        return self.content.get("commit")

    @property
    def dataset(self) -> str:
        """What the data set calls itself; of a general reader that says more than its name."""
        return str(self.content.get("dataset") or self.config.data.name)

    @property
    def data_checksum(self) -> str | None:
        """Of the data set; None if the run failed before it was read."""
        return self.content.get("data_checksum")

    def check_unchanged(self, data_checksum: str, feature_key: str) -> None:
        """Refuses data, texts or a checkpoint that are no longer those of the run.

        Args:
            data_checksum: of the data set as it is read now.
            feature_key: of texts and checkpoint as they are now.

        Raises:
            RunError: naming which of them, and both hashes.
        """
        for what, then, now in (
            ("data", self.data_checksum, data_checksum),
            ("texts or the checkpoint", self.content.get("feature_key"), feature_key),
        ):
            if then != now:
                raise RunError(
                    f"the {what} are no longer those of the run {self.path} (SHA-256 {then}, now "
                    f"{now}): what is made of them would not be what was measured. Put them back, "
                    "or run again"
                )

    @property
    def seconds(self) -> Mapping[str, float]:
        """`fit`, `evaluate` and `total`."""
        return dict(self.content.get("seconds", {}))

    @property
    def seconds_per_task(self) -> Mapping[str, Any]:
        """Mean seconds of a test task: `adapt` and `score`, and under `curve` the same by K."""
        return dict(self.content.get("seconds_per_task", {}))

    @property
    def log(self) -> list[dict[str, float]]:
        """What the training noted, such as the validation score of a step."""
        return list(self.content.get("log", []))

    @property
    def error(self) -> str | None:
        """What went wrong, None for a finished run."""
        return self.content.get("error")

    @cached_property
    def per_task(self) -> pd.DataFrame:
        """One row a task, part, regime, K and evaluation.

        Columns: those of `evaluate`, `evaluation` (`main`, or `curve` with the largest K in
        reserve), and `adapted` (false in the 0-step rows).

        Raises:
            RunError: if there is none, or it cannot be read.
        """
        import pandas as pd

        file = self.path / PER_TASK
        try:
            return pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise RunError(
                f"the results per task {file} cannot be read ({error}); remove the folder and run "
                "again"
            ) from error

    def meta_parameters(self) -> dict[str, np.ndarray]:
        """Loads what a trained learner learned.

        Raises:
            RunError: if the run kept none: learners that are fitted in closed form are fitted anew.
        """
        file = self.path / META_PARAMETERS
        if not file.exists():
            raise RunError(f"the run {self.path} kept no meta-parameters")
        return load_tensors(file)


def check_one_version(records: Iterable[Record], what: str) -> None:
    """Refuses to compare runs that different versions of the code have made.

    Args:
        records: that are compared.
        what: they are.

    Raises:
        RunError: naming the versions and the folder to remove.
    """
    by_code: dict[str, Record] = {}
    for record in records:
        by_code.setdefault(record.code, record)
    if len(by_code) > 1:
        named = ", ".join(f"{code[:12]} ({one.path})" for code, one in sorted(by_code.items()))
        raise RunError(
            f"the {what} are of {len(by_code)} versions of the code: {named}. Remove the folders "
            "of the outdated ones and run again; what is current is skipped"
        )


def load_records(folder: str | Path = "results", experiment: str | None = None) -> list[Record]:
    """Reads the records of finished and failed runs.

    Args:
        folder: the results.
        experiment: only those of one experiment; None for all.

    Returns:
        The records, ordered by their folder.

    Raises:
        RunError: if the folder is not there, or a record is broken.
    """
    root = Path(folder)
    if not root.is_dir():
        raise RunError(f"no results in {root}; run an experiment first, as in make paper")
    pattern = f"{experiment or '*'}/*/{RECORD}"
    return [read_record(file.parent) for file in sorted(root.glob(pattern))]


def read_record(path: Path) -> Record:
    """Reads the record in a run's folder.

    Raises:
        RunError: if it cannot be read, naming file and remedy.
    """
    import yaml

    file = path / RECORD
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        config = RunConfig.from_dict(yaml.safe_load((path / CONFIG).read_text(encoding="utf-8")))
        return Record(path, config, content["status"], content["hash"], content)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, ConfigError) as error:
        raise RunError(
            f"the record {file} cannot be read ({type(error).__name__}: {error}); remove the "
            "folder and run again"
        ) from error


def write_record(
    path: Path,
    config: RunConfig,
    content: Mapping[str, Any],
    per_task: pd.DataFrame | None = None,
    meta_parameters: Mapping[str, np.ndarray] | None = None,
) -> Record:
    """Writes a run's files, each atomically and `record.json` last: without it nothing counts."""
    import yaml

    if meta_parameters is not None:
        save_tensors(path / META_PARAMETERS, meta_parameters)
    if per_task is not None:
        with replacing(path / PER_TASK) as temporary:
            per_task.to_parquet(temporary, index=False, compression="zstd")
    write_text(
        path / CONFIG,
        f"# The resolved configuration of the run {path.name}\n"
        + yaml.safe_dump(config.to_dict(), sort_keys=False),
    )
    write_text(path / RECORD, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return read_record(path)


def is_finished(path: Path) -> bool:
    """Whether a folder holds the record of a finished run."""
    try:
        content = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(content.get("status") == "finished")


def _metrics(content: Mapping[str, Any], name: str) -> Metrics:
    metrics: Metrics = content.get(name, {})
    return metrics
