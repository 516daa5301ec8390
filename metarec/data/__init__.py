"""Reading, checking and cleaning of interactions: every reader gives a `Dataset`."""

from __future__ import annotations

from metarec.data.dataset import CleaningReport, Dataset
from metarec.data.registry import load_dataset

__all__ = ["CleaningReport", "Dataset", "load_dataset"]
