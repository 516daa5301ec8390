from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from choice_records import COMMON, TARGET, measured_at

from metarec.report.labels import ADAPTED
from metarec.runs.config import RunConfig
from metarec.runs.store import Record, write_record

REGIMES = ("warm", "user_cold", "item_cold", "both_cold")
CODE = "a" * 64

MakeRecord = Callable[..., Record]


def episodes(
    seed: int, kind: str, n_tasks: int, regimes: tuple[str, ...], shots: tuple[int, ...]
) -> pd.DataFrame:
    """What every learner meets with this seed: the same tasks, candidates and queries."""
    rng = np.random.default_rng(seed)
    blocks = [("main", part, r, 10) for part in ("validation", "test") for r in regimes]
    curve = "item_cold" if kind == "item" else "user_cold"
    blocks += [("curve", "test", curve, k) for k in shots]
    frames = []
    for evaluation, part, regime, k in blocks:
        n_query = rng.integers(4, 30, n_tasks)
        frames.append(
            pd.DataFrame(
                {
                    "task": np.arange(n_tasks),
                    "kind": kind,
                    "part": part,
                    "regime": regime,
                    "k_shot": k,
                    "n_candidates": rng.integers(200, 300, n_tasks),
                    "n_relevant": n_query - rng.integers(0, 3, n_tasks),
                    "n_query": n_query,
                    "evaluation": evaluation,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    # How exact an interval is is the business of significance.py; here it has to be fast.
    for module in ("selection", "notes", "difference", "adaptation", "choices_tables", "ranking"):
        monkeypatch.setattr(f"metarec.report.{module}.RESAMPLES", 200)


@pytest.fixture
def make_record(tmp_path: Path) -> MakeRecord:
    """Writes a record with the real writer; `quality` is about the learner's nDCG@10."""

    def make(
        learner: str = "maml",
        quality: float = 0.3,
        seed: int = 0,
        kind: str = "user",
        feedback: str = "binary",
        target: str = "metarec.torch.maml:MAML",
        n_tasks: int = 30,
        regimes: tuple[str, ...] = REGIMES,
        shots: tuple[int, ...] = (0, 1, 3, 5, 10, 20),
        without_steps: float | None = None,
        by_regime: dict[str, float] | None = None,
        validation: float | None = None,
        error: str | None = None,
        code: str = CODE,
        folder: str | None = None,
        more: dict[str, Any] | None = None,
        arguments: dict[str, Any] | None = None,
        alter: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame,
        **overrides: Any,
    ) -> Record:
        config = RunConfig.from_dict(
            {
                "learner": {"name": learner, "_target_": target, **(arguments or {})},
                "episode": {"task": kind, "feedback": feedback} | overrides.pop("episode", {}),
                "seed": seed,
                "experiment": "paper",
            }
            | overrides
        )
        regimes = ("item_cold",) if kind == "item" else regimes
        name = folder or f"{learner}-{kind}-{feedback}-s{seed}-{config.hash('', '')[:12]}"
        content = {
            "status": "failed" if error else "finished",
            "hash": "0" * 64,
            "code": code,
            "commit": "1234567890abcdef+dirty",
            "data_checksum": "c" * 64,
            **(more or {}),
        }
        path = tmp_path / "results" / config.experiment / name
        if error:
            return write_record(path, config, content | {"error": error})
        frames = []
        for adapted, level in ((True, quality), (False, without_steps)):
            if level is None:
                continue
            frame = episodes(seed, kind, n_tasks, regimes, shots)
            # The difficulty of a task is the same for every learner: hence paired tests.
            ease = np.random.default_rng(99).normal(0, 0.05, n_tasks)[frame["task"]]
            noise = np.random.default_rng([*learner.encode(), seed, adapted])
            value = level + ease + noise.normal(0, 0.02, len(frame))
            if by_regime:
                value += frame["regime"].map(by_regime).fillna(0).to_numpy()
            if validation is not None:
                value = np.where(frame["part"] == "validation", validation + ease, value)
            gain = np.log2(frame["k_shot"].to_numpy() + 1) / 4
            value = np.where(frame["evaluation"] == "curve", value * (0.4 + 0.6 * gain), value)
            value = value.clip(0, 1)
            predicts = feedback == "rating" and learner not in ("random", "popularity")
            frame["catalogue/ndcg@10"] = value
            frame["catalogue/auc"] = 0.5 + value / 2
            frame["rated/auc"] = 0.5 + value / 2
            frame["rated/ndcg@5"] = value
            frame["rated/mae"] = 1 - value if predicts else np.nan
            frame["rated/rmse"] = 1.2 - value if predicts else np.nan
            frames.append(frame.assign(adapted=adapted))
        return write_record(path, config, content, alter(pd.concat(frames, ignore_index=True)))

    return make


@pytest.fixture
def make_choice(make_record: MakeRecord) -> MakeRecord:
    """Writes a record of what adapts, in the form of the experiment."""

    def make(adapted="lora", reads="bi", meta=True, quality=0.3, seed=0, name=None, **given):
        kind = "maml" if meta else "transfer"
        suffix = "" if reads == "bi" else "_cross"
        name = name or f"bert_{kind}{suffix}_{adapted}"
        arguments = {
            "reads": reads, "adapted": adapted, "inner_steps": 3, "steps": 60,
            "bert_inner_learning_rate": 0.0 if adapted == "head" else 0.03,
        } | given.pop("arguments", {})  # fmt: skip
        target = f"metarec.torch.bert_{kind}.Bert{'MAML' if meta else 'Transfer'}"
        place = list(ADAPTED).index(adapted) if adapted in ADAPTED else 0
        cost = (0.1 + place / 10) * (4 if reads == "cross" else 1)
        values = {
            "without_steps": quality - 0.05,
            "more": measured_at(cost, 1 + place / 10, 20_000 * (place + 1)),
        }
        own = COMMON | values | given
        return make_record(name, quality, seed=seed, target=target, arguments=arguments, **own)

    return make


@pytest.fixture
def own_order(make_record: MakeRecord) -> MakeRecord:
    """Writes a record of the retriever by itself."""

    def make(seed=0, quality=0.25, **given):
        values = {"more": measured_at(0.001, 0.5, 10_000_000)}
        own = COMMON | values | given
        return make_record("item_knn", quality, seed=seed, target=TARGET, **own)

    return make


@pytest.fixture
def plan(make_choice: MakeRecord, own_order: MakeRecord) -> Callable[..., list[Record]]:
    """The records of a small plan of the experiment."""

    def make(adapted=("head", "lora"), reads=("bi",), meta=(False, True), seeds=(0, 1)):
        records = [own_order(seed) for seed in seeds]
        for reader in reads:
            for part in adapted:
                for learner in meta:
                    quality = 0.26 + 0.03 * list(ADAPTED).index(part) / 7
                    quality += 0.02 * learner + 0.03 * (reader == "cross")
                    for seed in seeds:
                        records.append(make_choice(part, reader, learner, quality, seed))
        return records

    return make
