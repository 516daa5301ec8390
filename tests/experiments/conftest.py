"""Runs a script as the command line does, in this process, on a small data set."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra

from metarec.data.dataset import Dataset
from metarec.published_splits import STATES

ROOT = Path(__file__).resolve().parents[2]
FAKES = ROOT / "tests" / "runs"


@pytest.fixture
def tiny_overrides(tiny_dataset: Dataset, tmp_path: Path) -> list[str]:
    """Overrides by which a run takes a second: tiny data, few shots, results out of the way."""
    data = tiny_dataset
    interactions, items = tmp_path / "interactions.csv", tmp_path / "items.csv"
    frame = pd.DataFrame({"user": data.user_ids[data.users], "item": data.item_ids[data.items]})
    frame.assign(rating=data.ratings).to_csv(interactions, index=False)
    data.item_text.assign(item=data.item_ids).to_csv(items, index=False)
    return [
        "data=csv",
        f"data.options.interactions={interactions}",
        f"data.options.items={items}",
        "episode.k_shot=3",
        "episode.train_k_shot=[0,3]",
        "evaluation.k_curve=[0,3]",
        "evaluation.item_k_curve=[0,2]",
        f"results={tmp_path / 'results'}",
        "progress=false",
    ]


@pytest.fixture
def script(
    tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., int]:
    """Calls `experiments/<name>.py` with the tiny overrides and more; returns its exit status."""
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.delitem(sys.modules, "fake_learners", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(name: str, *arguments: str, tiny: bool = True) -> int:
        options = [argument for argument in arguments if argument.startswith("-")]
        overrides = [argument for argument in arguments if not argument.startswith("-")]
        file = str(ROOT / "experiments" / f"{name}.py")
        tiny_ones = tiny_overrides if tiny else []
        monkeypatch.setattr(sys, "argv", [file, *options, *tiny_ones, *overrides])
        GlobalHydra.instance().clear()
        try:
            runpy.run_path(file, run_name="__main__")
        except SystemExit as end:
            return status_of(end.code)
        return 0

    return call


@pytest.fixture
def states(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    """Folder of states as MeLU's, by which a quarter of users and a third of items are cold."""
    data = tiny_dataset
    found: dict[str, dict[str, list[str]]] = {name: {} for name in STATES}
    for user, item in zip(data.users.tolist(), data.items.tolist(), strict=True):
        cold = user % 4 == 0, item % 3 == 0
        if any(cold):
            cell = {(True, False): STATES[0], (False, True): STATES[1]}.get(cold, STATES[2])
            found[cell].setdefault(str(data.user_ids[user]), []).append(str(data.item_ids[item]))
    folder = tmp_path / "states"
    folder.mkdir()
    for name, state in found.items():
        (folder / f"{name}_state.json").write_text(json.dumps(state), encoding="utf-8")
    return folder


def status_of(code: Any) -> int:
    """A message instead of a number is status 1, and goes to stderr."""
    if isinstance(code, str):
        print(code, file=sys.stderr)
        return 1
    return code or 0
