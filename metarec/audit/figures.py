"""Whether the means of a record follow from its results per task, to the last digit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from metarec.audit.finding import Finding, fails
from metarec.evaluation.metrics import LOWER_IS_BETTER
from metarec.runs.store import Record

MEANS = "means of the record"
SELECTION = "selection"
TRIALS = "trials"
CHOOSING = ("tuning", "_validation", "_blocks", "_grids")
"""What the names of experiments end in that values are chosen by."""
_POOLED = "rated/pooled_"
_COLD = ("user_cold", "item_cold", "both_cold")


def check_means(record: Record) -> Iterator[Finding]:
    """Computes each mean of a record again; coverages are no means of tasks and are passed over."""
    name = record.path.name
    frame = record.per_task
    frame = frame[frame["evaluation"] == "main"]
    problems = []
    for adapted, found in ((True, record.metrics), (False, record.without_adaptation)):
        for part, regimes in found.items():
            for regime, metrics in regimes.items():
                own = (frame["part"] == part) & (frame["regime"] == regime)
                own &= frame["k_shot"].isin(_shots(record, regime))
                here = frame[own & (frame["adapted"] == adapted)]
                for metric, value in metrics.items():
                    expected = _mean(here, metric)
                    if expected is not _UNKNOWN and value != expected:
                        problems.append(
                            f"{part}/{regime}, {metric}: the record says {value}, its tasks "
                            f"{expected}"
                        )
    yield from (fails(MEANS, name, problem) for problem in problems)
    if not problems:
        yield Finding(MEANS, name)


def check_selection(record: Record) -> Iterator[Finding]:
    """Whether what tuning maximises is the one of validation, and a trial measured nothing else."""
    name = record.path.name
    experiment = record.config.experiment
    if experiment.endswith(CHOOSING):
        parts = sorted({*record.config.evaluation.parts, *record.per_task["part"].unique()})
        if parts != ["validation"]:
            yield fails(TRIALS, name, f"a trial of {experiment} measured {' and '.join(parts)}")
        else:
            yield Finding(TRIALS, name)
    if "validation" not in record.metrics:
        return
    possible = _selections(record)
    if record.selection in possible:
        yield Finding(SELECTION, name)
    else:
        told = " or ".join(map(str, possible))
        problem = f"the record says {record.selection}, its validation tasks {told}"
        yield fails(SELECTION, name, problem)


def _shots(record: Record, regime: str) -> list[int]:
    """The shots of the means in a record; those of a protocol are what its tasks have."""
    if record.config.protocol is not None:
        return [int(k_shot) for k_shot in record.per_task["k_shot"].unique()]
    return [record.config.shots(regime)[0]]


_UNKNOWN = object()


def _mean(frame: pd.DataFrame, metric: str) -> object:
    """The mean over tasks, None where it has no value, or that nothing of it is known."""
    if metric in frame.columns:
        values = frame[metric].to_numpy(np.float64)
        weights = np.ones(len(values))
        power = 1
    elif metric.startswith(_POOLED) and f"rated/{metric.removeprefix(_POOLED)}" in frame.columns:
        values = frame[f"rated/{metric.removeprefix(_POOLED)}"].to_numpy(np.float64)
        weights = frame["n_query"].to_numpy()
        power = 2 if metric.endswith("rmse") else 1
    else:
        return _UNKNOWN
    seen = ~np.isnan(values)
    total = int(weights[seen].sum())
    if total == 0:
        return None
    return float((math.fsum(values[seen] ** power * weights[seen]) / total) ** (1 / power))


def _selections(record: Record) -> list[float | None]:
    """What the selection may be: for ratings it hangs on whether the learner predicts them."""
    config = record.config
    frame = record.per_task
    own = (frame["evaluation"] == "main") & (frame["part"] == "validation") & frame["adapted"]
    by_regime = {
        str(name): here[here["k_shot"].isin(_shots(record, str(name)))]
        for name, here in frame[own].groupby("regime")
    }
    if config.protocol is not None:
        column = config.protocol.selection
        sign = -1 if column.partition("/")[2] in LOWER_IS_BETTER else 1
        return [_mean_of_regimes(by_regime, column, sign)]
    cold = {name: here for name, here in by_regime.items() if name in _COLD} or by_regime
    found = [_mean_of_regimes(cold, "catalogue/ndcg@10", 1)]
    if config.episode.feedback == "rating" and not config.evaluation.shortlist:
        found.append(_mean_of_regimes(cold, "rated/rmse", -1))
    return found


def _mean_of_regimes(by_regime: Mapping[str, pd.DataFrame], column: str, sign: int) -> float | None:
    means = [_mean(here, column) for here in by_regime.values()]
    known = [float(value) for value in means if isinstance(value, float)]
    return sign * math.fsum(known) / len(known) if known else None
