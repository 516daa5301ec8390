"""What records of the experiment on what of a BERT adapts have in common, for tests."""

from __future__ import annotations

import numpy as np
import pandas as pd

RECALL = "shortlist/recall"
SHOTS = (1, 3, 5, 10)
TARGET = "metarec.baselines.knn.ItemKNN"
KNN = {"name": "item_knn", "_target_": TARGET, "neighbours": 20}
EVALUATION = {
    "parts": ["test"], "regimes": ["user_cold"], "k_curve": list(SHOTS),
    "shortlist": 100, "retriever": KNN,
}  # fmt: skip


def with_recall(frame: pd.DataFrame) -> pd.DataFrame:
    """Six tenths of the relevant are drawn."""
    drawn = np.floor(0.6 * frame["n_relevant"])
    return frame.assign(**{RECALL: drawn / frame["n_relevant"]})


COMMON = {
    "regimes": ("user_cold",), "shots": SHOTS, "alter": with_recall,
    "experiment": "what_to_adapt", "evaluation": EVALUATION,
}  # fmt: skip
"""What the fixture `make_record` takes for all of them."""


def measured_at(seconds: float, gib: float, parameters: int) -> dict[str, object]:
    """The costs in a record: at K = 10 `seconds` to adapt and a quarter of it to score."""
    return {
        "parameters": parameters,
        "peak_memory_bytes": int(gib * 2**30),
        "threads": 1,
        "machine": {"processor": "a processor", "cpus": 2},
        "device": "cpu",
        "seconds_per_task": {
            "adapt": 9.0,
            "score": 9.0,
            "curve": {
                str(k): {"adapt": k / 10 * seconds, "score": seconds / 4} for k in SHOTS
            },
        },
    }  # fmt: skip
