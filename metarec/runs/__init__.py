"""Runs: one resolved configuration is one run, which leaves one record on disk."""

from __future__ import annotations

from metarec.runs.config import (
    BackendConfig,
    DataConfig,
    EpisodeConfig,
    EvaluationConfig,
    LearnerConfig,
    RunConfig,
    SplitConfig,
    TextConfig,
)
from metarec.runs.run import run
from metarec.runs.store import Record, load_records

__all__ = [
    "BackendConfig",
    "DataConfig",
    "EpisodeConfig",
    "EvaluationConfig",
    "LearnerConfig",
    "Record",
    "RunConfig",
    "SplitConfig",
    "TextConfig",
    "load_records",
    "run",
]
