"""Records of runs that never ran, for tests of what is made from records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metarec.runs.config import RunConfig
from metarec.runs.store import Record, write_record

REGIMES = ("warm", "user_cold", "item_cold", "both_cold")
CODE = "a" * 64


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


def fake_record(
    results: Path,
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
    """Writes a record with the real writer.

    Args:
        results: folder of the results.
        quality: about the learner's nDCG@10.
    """
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
    path = results / config.experiment / name
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
