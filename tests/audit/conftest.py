"""Runs to be audited: small, quick, and with whatever leak a test plants in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from audit_helpers import failing

from metarec.audit import audit
from metarec.data.dataset import Dataset
from metarec.runs import Record, RunConfig, run

FAKES = Path(__file__).resolve().parents[1] / "runs"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `fake_learners` of the tests of runs."""
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.delitem(sys.modules, "fake_learners", raising=False)
    import fake_learners

    return fake_learners


@pytest.fixture
def make_config(
    tiny_dataset: Dataset, fakes: ModuleType, tmp_path: Path
) -> Callable[..., RunConfig]:
    """A quick configuration of a learner; arguments replace keys of sections."""
    data = tiny_dataset
    interactions, items = tmp_path / "interactions.csv", tmp_path / "items.csv"
    frame = pd.DataFrame({"user": data.user_ids[data.users], "item": data.item_ids[data.items]})
    frame.assign(rating=data.ratings).to_csv(interactions, index=False)
    data.item_text.assign(item=data.item_ids).to_csv(items, index=False)
    options = {"interactions": str(interactions), "items": str(items)}

    def make(target: str = "metarec.baselines.Popularity", **sections: Any) -> RunConfig:
        values: dict[str, Any] = {
            "experiment": "paper",
            "data": {"name": "csv", "options": options},
            "episode": {"k_shot": 3, "train_k_shot": [0, 3], "query_size": 4, "task_batch": 4},
            "evaluation": {
                "regimes": ["warm", "user_cold", "item_cold"],
                "k_curve": [0, 3],
                "item_k_curve": [0, 2],
            },
            "learner": {"name": target.rpartition(".")[2].lower(), "_target_": target},
        }
        for name, value in sections.items():
            values[name] = values[name] | value if isinstance(value, dict) else value
        return RunConfig.from_dict(values)

    return make


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Where runs go."""
    return tmp_path / "results"


@pytest.fixture
def ran(make_config: Callable[..., RunConfig], results: Path) -> Callable[..., Record]:
    """Runs a configuration."""

    def call(target: str = "metarec.baselines.Popularity", **sections: Any) -> Record:
        return run(make_config(target, **sections), results)

    return call


@pytest.fixture
def problems(results: Path) -> Callable[[], dict[str, str]]:
    """Audits the records alone; what fails, by the check."""

    def call(**options: Any) -> dict[str, str]:
        return failing(audit([results], **options))

    return call
