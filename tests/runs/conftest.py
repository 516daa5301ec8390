"""A small data set on disk, a quick configuration of it, and learners that can be broken."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from metarec.data.dataset import Dataset
from metarec.runs import RunConfig


@pytest.fixture
def tiny_files(tiny_dataset: Dataset, tmp_path: Path) -> dict[str, str]:
    """Options of the reader `csv` for the files of the tiny data set."""
    data = tiny_dataset
    interactions, items = tmp_path / "interactions.csv", tmp_path / "items.csv"
    frame = pd.DataFrame({"user": data.user_ids[data.users], "item": data.item_ids[data.items]})
    frame.assign(rating=data.ratings).to_csv(interactions, index=False)
    data.item_text.assign(item=data.item_ids).to_csv(items, index=False)
    return {"interactions": str(interactions), "items": str(items)}


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `fake_learners`, importable by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delitem(sys.modules, "fake_learners", raising=False)
    import fake_learners

    return fake_learners


@pytest.fixture
def make_config(tiny_files: dict[str, str], fakes: ModuleType) -> Callable[..., RunConfig]:
    """Makes a quick configuration of a fake learner; arguments replace whole keys of sections."""

    def make(target: str = "Walk", **sections: Any) -> RunConfig:
        arguments = sections.pop("arguments", {})
        values: dict[str, Any] = {
            "data": {"name": "csv", "options": tiny_files},
            "episode": {"k_shot": 3, "train_k_shot": [0, 3], "query_size": 4, "task_batch": 4},
            "evaluation": {"k_curve": [0, 1, 3], "item_k_curve": [0, 2], "chunk": 5},
            "learner": {
                "name": target.lower(),
                "_target_": target if "." in target else f"fake_learners.{target}",
                **arguments,
            },
        }
        for name, value in sections.items():
            values[name] = values.get(name, {}) | value if isinstance(value, dict) else value
        return RunConfig.from_dict(values)

    return make
