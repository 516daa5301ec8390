"""Intervals and paired tests over tasks: all seeds of a task stay together.

The unit is the task (a user or an item), not the episode: the value of a task is its mean over
seeds, and tasks are resampled with all their seeds, since seeds of one task are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64

from metarec.errors import ConfigError, RunError, did_you_mean

MIN_SEEDS = 5
MIN_EPISODES = 600
"""Below either a table is preliminary, and bolds nothing."""

Method = Literal["bca", "percentile"]

# Differences of means over seeds below this are rounding, not differences.
_ROUNDING = 1e-12
# Numbers that one chunk of resamples may hold, to bound memory.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean over tasks with its bootstrap interval.

    Args:
        mean: mean over tasks of the mean over seeds.
        low: lower end of the interval.
        high: upper end of the interval.
        tasks: number of tasks that have a value.
        undefined: number of tasks that have none (NaN in every seed).
        seeds: number of seeds.
        episodes: number of values: tasks times seeds, less NaN.
    """

    mean: float
    low: float
    high: float
    tasks: int
    undefined: int
    seeds: int
    episodes: int

    @property
    def preliminary(self) -> bool:
        """Whether there are too few seeds or episodes to bold anything."""
        return self.seeds < MIN_SEEDS or self.episodes < MIN_EPISODES


def bootstrap(
    values: Float64[np.ndarray, " tasks"],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Method = "bca",
) -> tuple[float, float]:
    """Bootstrap interval of the mean of independent values.

    Args:
        values: [T] one value a task, without NaN.
        confidence: coverage of the interval, in (0, 1).
        resamples: number of bootstrap samples.
        seed: seed of the resampling.
        method: `bca`, bias-corrected and accelerated (Efron, JASA 82, 1987, eq. 2.3), since metrics
            per task are skewed; or `percentile`.

    Returns:
        The ends of the interval: the mean twice for equal values, NaN for fewer than 2.

    Raises:
        ConfigError: if an argument is out of range or the method unknown.
        RunError: if a value is NaN or infinite.
    """
    if method not in ("bca", "percentile"):
        raise ConfigError(
            f"unknown bootstrap method {method!r}{did_you_mean(method, ('bca', 'percentile'))}"
        )
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigError(
            f"confidence={confidence} must be in (0, 1), resamples={resamples} positive"
        )
    if not np.isfinite(values).all():
        raise RunError("a value to resample is NaN or infinite; leave undefined tasks out first")
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return mean, mean

    means = _resampled_means(values, resamples, np.random.default_rng(seed))
    levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca":
        normal = NormalDist()
        # Half of the ties, so that the interval of -x is that of x, mirrored. The same values
        # summed in another order differ in the last bits.
        tied = np.isclose(means, mean, rtol=1e-12, atol=1e-12 * float(np.abs(values).max()))
        below = (np.sum((means < mean) & ~tied) + 0.5 * np.sum(tied)) / resamples
        bias = normal.inv_cdf(float(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples)))
        deviation = values - mean
        acceleration = float((deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5))
        z = np.array([bias + normal.inv_cdf(level) for level in levels])
        levels = np.array([normal.cdf(x) for x in bias + z / (1 - acceleration * z)])
    low, high = np.quantile(means, levels)
    return float(low), float(high)


def interval(
    values: pd.DataFrame,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Method = "bca",
) -> Interval:
    """Mean over tasks with its bootstrap interval; tasks are resampled, with all their seeds.

    Args:
        values: columns `task`, `seed`, `value`, a row an episode; NaN values are left out, and
            tasks with nothing else are counted as undefined.
        confidence: as in `bootstrap`, and so the other arguments.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.
        method: `bca` or `percentile`.

    Raises:
        RunError: if a column is missing or a (task, seed) occurs twice.
    """
    frame = _checked(values, ["task", "seed"])
    means = _task_means(frame)
    defined = means[~np.isnan(means)]
    low, high = bootstrap(defined, confidence, resamples, seed, method)
    return Interval(
        mean=float(defined.mean()) if len(defined) else float("nan"),
        low=low,
        high=high,
        tasks=len(defined),
        undefined=len(means) - len(defined),
        seeds=int(frame["seed"].nunique()),
        episodes=int(frame["value"].notna().sum()),
    )


def intervals(
    per_task: pd.DataFrame,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Method = "bca",
) -> pd.DataFrame:
    """`interval` of each learner.

    Args:
        per_task: columns `learner`, `task`, `seed`, `value`.
        confidence: as in `bootstrap`, and so the other arguments.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.
        method: `bca` or `percentile`.

    Returns:
        One row a learner (the index, in order of appearance), with the fields of `Interval` and
        `preliminary`.
    """
    frame = _checked(per_task, ["learner", "task", "seed"])
    rows = {}
    for learner in dict.fromkeys(per_task["learner"]):
        own = frame[frame["learner"] == learner]
        found = interval(own, confidence, resamples, seed, method)
        rows[learner] = {**vars(found), "preliminary": found.preliminary}
    result = pd.DataFrame.from_dict(rows, orient="index")
    result.index.name = "learner"
    return result


def compare(
    per_task: pd.DataFrame,
    reference: str,
    higher_is_better: bool = True,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Method = "bca",
) -> pd.DataFrame:
    """Paired test of every learner against a reference, on the same tasks and seeds.

    The difference of a task is the mean over seeds of learner minus reference. The test is
    Wilcoxon's signed-rank test (Biometrics Bulletin 1, 1945), two-sided, without the tasks whose
    difference is 0; if all are 0, p = 1. p values are corrected by Holm over the learners. The
    effect size is the matched-pairs rank-biserial correlation (Kerby, Comprehensive Psychology 3,
    2014): rank sum of the tasks that rose minus that of those that fell, over their sum, in
    [-1, 1].

    Args:
        per_task: columns `learner`, `task`, `seed`, `value`; NaN where the metric is undefined for
            the episode, for every learner alike. A learner whose every value is NaN (the metric
            does not apply to it) keeps its row, empty, and does not count in the correction.
        reference: the learner that the others are compared with.
        higher_is_better: whether a higher value is a win.
        confidence: as in `bootstrap`, and so the other arguments.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.
        method: `bca` or `percentile`.

    Returns:
        One row a learner but the reference (the index, in order of appearance): `difference`,
        `low`, `high`, `p`, `p_holm`, `effect_size`, `wins`, `ties`, `losses`, `tasks`, `seeds`.

    Raises:
        RunError: if the reference is absent or has no value, a (learner, task, seed) occurs twice,
            or learners were measured on different tasks or seeds.
    """
    frame = _checked(per_task, ["learner", "task", "seed"])
    learners = list(dict.fromkeys(per_task["learner"]))
    if reference not in learners:
        raise RunError(
            f"no values of the reference {reference!r}{did_you_mean(reference, learners)}"
        )
    base = frame[frame["learner"] == reference].reset_index(drop=True)
    if base["value"].isna().all():
        raise RunError(f"the metric is undefined in every episode of the reference {reference!r}")

    rows = {}
    for learner in learners:
        if learner == reference:
            continue
        own = frame[frame["learner"] == learner].reset_index(drop=True)
        _check_same_tasks(own, base, learner, reference)
        applies = not own["value"].isna().all()
        if applies:
            _check_same_undefined(own, base, learner, reference)
        paired = base[["task", "seed"]].assign(value=own["value"] - base["value"])
        found = interval(paired, confidence, resamples, seed, method)
        means = _task_means(paired)
        difference = means[~np.isnan(means)]
        difference[np.abs(difference) < _ROUNDING] = 0
        better = difference if higher_is_better else -difference
        rows[learner] = {
            "difference": found.mean,
            "low": found.low,
            "high": found.high,
            "p": wilcoxon(difference) if applies else float("nan"),
            "p_holm": float("nan"),
            "effect_size": rank_biserial(difference) if applies else float("nan"),
            "wins": int((better > 0).sum()),
            "ties": int((better == 0).sum()),
            "losses": int((better < 0).sum()),
            "tasks": found.tasks,
            "seeds": found.seeds,
        }
    columns = ["difference", "low", "high", "p", "p_holm", "effect_size"]
    columns += ["wins", "ties", "losses", "tasks", "seeds"]
    result = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    result.index.name = "learner"
    result["p_holm"] = holm(result["p"].to_numpy(np.float64))
    return result


def wilcoxon(differences: Float64[np.ndarray, " tasks"]) -> float:
    """Two-sided p value of Wilcoxon's signed-rank test; 1 if no difference is other than 0."""
    differences = differences[differences != 0]
    if len(differences) == 0:
        return 1.0
    from scipy.stats import wilcoxon as signed_rank

    return float(signed_rank(differences).pvalue)


def rank_biserial(differences: Float64[np.ndarray, " tasks"]) -> float:
    """Matched-pairs rank-biserial correlation (Kerby 2014), in [-1, 1]; 0 if all are 0."""
    differences = differences[differences != 0]
    if len(differences) == 0:
        return 0.0
    ranks = pd.Series(np.abs(differences)).rank().to_numpy()
    return float((ranks * np.sign(differences)).sum() / ranks.sum())


def holm(p: Float64[np.ndarray, " tests"]) -> Float64[np.ndarray, " tests"]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979); NaN is no test."""
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    corrected = np.full(len(p), np.nan)
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return corrected


def _resampled_means(
    values: Float64[np.ndarray, " tasks"], resamples: int, rng: np.random.Generator
) -> Float64[np.ndarray, " resamples"]:
    n = len(values)
    means = np.empty(resamples)
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        drawn = rng.integers(n, size=(min(step, resamples - start), n), dtype=np.int32)
        means[start : start + step] = values[drawn].mean(axis=1)
    return means


def _checked(values: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The rows in the order of the keys, so that their order in the input does not matter."""
    missing = [name for name in [*keys, "value"] if name not in values.columns]
    if missing:
        raise RunError(
            f"per-task values lack the column {missing[0]!r}; there are {list(values.columns)}"
        )
    frame = values[[*keys, "value"]].sort_values(keys, kind="stable", ignore_index=True)
    twice = frame.duplicated(keys)
    if twice.any():
        first = frame.loc[twice, keys].iloc[0].to_dict()
        raise RunError(f"{int(twice.sum())} per-task values occur twice, first {first}")
    return frame.astype({"value": np.float64})


def _task_means(frame: pd.DataFrame) -> Float64[np.ndarray, " tasks"]:
    """[T] mean over the seeds in which the task has a value, NaN without any."""
    return frame.groupby("task")["value"].mean().to_numpy(np.float64, copy=True)


def _check_same_tasks(own: pd.DataFrame, base: pd.DataFrame, learner: str, reference: str) -> None:
    keys = ["task", "seed"]
    if own[keys].equals(base[keys]):
        return
    mine, theirs = (set(frame[keys].itertuples(index=False, name=None)) for frame in (own, base))
    raise RunError(
        f"{learner!r} and {reference!r} were measured on different tasks or seeds: "
        f"{len(mine - theirs)} (task, seed) only of {learner!r}, {len(theirs - mine)} only of "
        f"{reference!r}; compare runs on the same episodes"
    )


def _check_same_undefined(
    own: pd.DataFrame, base: pd.DataFrame, learner: str, reference: str
) -> None:
    differs = own["value"].isna() != base["value"].isna()
    if differs.any():
        raise RunError(
            f"the metric is undefined in different episodes for {learner!r} and {reference!r} "
            f"({int(differs.sum())} of {len(base)}); compare runs on the same episodes"
        )
