"""Runs: one resolved configuration is one run, which leaves one record on disk."""

from __future__ import annotations

from metarec.runs.config import RunConfig
from metarec.runs.run import run
from metarec.runs.sections import (
    BackendConfig,
    DataConfig,
    EpisodeConfig,
    EvaluationConfig,
    LearnerConfig,
    ProtocolConfig,
    SplitConfig,
    TextConfig,
)
from metarec.runs.store import Record, load_records

__all__ = [
    "BackendConfig",
    "DataConfig",
    "EpisodeConfig",
    "EvaluationConfig",
    "LearnerConfig",
    "ProtocolConfig",
    "Record",
    "RunConfig",
    "SplitConfig",
    "TextConfig",
    "load_records",
    "run",
]
