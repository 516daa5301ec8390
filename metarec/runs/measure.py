"""What a run measures: validation and test in every regime, and the curve over K."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from metarec.episodes import Ragged
from metarec.evaluation.episodes import EvaluationEpisodes, evaluation_episodes
from metarec.evaluation.evaluate import Evaluation, chance, evaluate
from metarec.learner import Learner, MetaParameters
from metarec.runs.config import Part, RunConfig
from metarec.splits import Split

NDCG, RMSE = "catalogue/ndcg@10", "rated/rmse"
VALIDATION_TASKS = 64
"""Tasks of a regime that a look at meta-validation during training takes at the most."""

_COLD = ("user_cold", "item_cold", "both_cold")


@runtime_checkable
class Adapting(Protocol):
    """A learner whose adaptation can be switched off: the 0-step row of the tables.

    Attributes:
        adaptation: what the adaptation hangs on: the argument that holds the number of steps, or
            `support` for a learner that conditions on the support set without steps; None where
            there is nothing to switch off.
    """

    adaptation: str | None

    def without_adaptation(self) -> Learner:
        """The same learner with 0 steps, or blind to the support, for the same meta-parameters."""
        ...


@dataclass
class Measurements:
    """What was measured.

    Args:
        per_task: rows of `evaluate`, with `evaluation` (main or curve) and `adapted`.
        metrics: part, regime, metric to its mean over tasks, at `episode.k_shot`.
        without_adaptation: likewise with the adaptation off; empty where there is none.
        chance: part, regime, metric to its exact chance level on the same tasks.
        counts: part, regime to the number of tasks, and of those left out by reason.
        selection: what tuning maximises; None without validation.
    """

    per_task: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    without_adaptation: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    chance: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    counts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    selection: float | None = None


def measure_run(
    config: RunConfig,
    learner: Learner,
    meta_parameters: MetaParameters,
    split: Split,
    progress: bool = False,
) -> Measurements:
    """Evaluates a fitted learner on everything that its configuration asks for.

    First each part in each regime at `episode.k_shot`, then on test the curve over K, whose
    episodes keep the largest K in reserve and so have nested supports and the same queries. A
    learner that adapts is evaluated again without adapting on the same episodes.
    """
    learners: list[tuple[bool, Learner]] = [(True, learner)]
    if isinstance(learner, Adapting) and learner.adaptation:
        learners.append((False, learner.without_adaptation()))
    frames, result = [], Measurements()

    def measure_on(
        kind: Literal["main", "curve"], episodes: EvaluationEpisodes
    ) -> Iterator[tuple[bool, Evaluation]]:
        for adapted, one in learners:
            done = _evaluate(
                config, one, meta_parameters, episodes, split, cutoffs_of(config), progress
            )
            frames.append(done.per_task.assign(evaluation=kind, adapted=adapted))
            yield adapted, done

    for part in config.evaluation.parts:
        for regime in regimes_of(config):
            episodes = draw(config, split, part, regime, config.episode.k_shot)
            for adapted, done in measure_on("main", episodes):
                target = result.metrics if adapted else result.without_adaptation
                target.setdefault(part, {})[regime] = _numbers(done.summary()["mean"])
            level = chance(episodes, cutoffs_of(config)).drop(columns="task")
            level = level[[name for name in level if str(name).startswith("catalogue/")]]
            result.chance.setdefault(part, {})[regime] = _numbers(level.mean())
            result.counts.setdefault(part, {})[regime] = {
                "tasks": len(episodes),
                "left_out": dict(episodes.left_out),
            }
    if "test" in config.evaluation.parts:
        for episodes in curve(config, split):
            for _ in measure_on("curve", episodes):
                pass
    result.per_task = pd.concat(frames, ignore_index=True)
    if "validation" in result.metrics:
        result.selection = _selection(config, learner, result.metrics["validation"])
    return result


def validator(
    config: RunConfig, learner: Learner, split: Split
) -> Callable[[MetaParameters], float] | None:
    """The look at meta-validation that stops a training early.

    Returns:
        A function from meta-parameters to the selection metric on at most 64 tasks a regime: the
        mean over the cold regimes of nDCG@10 in the catalogue, or of minus the RMSE for a learner
        that predicts ratings from rating feedback. None where the split has no validation.
    """
    if len(split.rows("validation")) == 0:
        return None
    episodes = {
        regime: some_tasks(
            draw(config, split, "validation", regime, config.episode.k_shot),
            VALIDATION_TASKS,
            config.seed,
        )
        for regime in _selecting(config)
    }

    def validate(meta_parameters: MetaParameters) -> float:
        metrics = {
            regime: _numbers(
                _evaluate(config, learner, meta_parameters, one, split, (10,)).summary()["mean"]
            )
            for regime, one in episodes.items()
        }
        value = _selection(config, learner, metrics)
        return -math.inf if value is None else value

    return validate


def regimes_of(config: RunConfig) -> tuple[str, ...]:
    """The regimes of a run: those configured, or `item_cold` alone for item tasks."""
    return ("item_cold",) if config.episode.task == "item" else config.evaluation.regimes


def cutoffs_of(config: RunConfig) -> tuple[int, ...]:
    """The cutoffs of a run, with the 10 that selection needs."""
    return tuple(sorted({*config.evaluation.cutoffs, 10}))


def curve(config: RunConfig, split: Split) -> Iterator[EvaluationEpisodes]:
    """The test episodes of the curve over K, regime by regime."""
    of_items = config.episode.task == "item"
    shots = config.evaluation.item_k_curve if of_items else config.evaluation.k_curve
    regimes = ("item_cold",) if of_items else config.evaluation.curve_regimes
    if not config.evaluation.curve_regimes:
        return
    for regime in regimes:
        for k_shot in shots:
            yield draw(config, split, "test", regime, k_shot, reserve=max(shots))


def draw(
    config: RunConfig,
    split: Split,
    part: Part,
    regime: str,
    k_shot: int,
    reserve: int | None = None,
) -> EvaluationEpisodes:
    """Evaluation episodes as a run's configuration says."""
    episode = config.episode
    return evaluation_episodes(
        split,
        part,
        regime,
        task=episode.task,
        k_shot=k_shot,
        reserve=reserve,
        feedback=episode.feedback,
        threshold=4.0 if episode.threshold is None else episode.threshold,
        order=episode.order,
        seed=config.seed,
    )


def some_tasks(episodes: EvaluationEpisodes, count: int, seed: int) -> EvaluationEpisodes:
    """The episodes of at most `count` tasks, drawn once, in their order."""
    if len(episodes) <= count:
        return episodes
    rows = np.sort(np.random.default_rng(seed).choice(len(episodes), count, replace=False))

    def pick(lists: Ragged) -> Ragged:
        chosen = [lists[row] for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in chosen])])
        return Ragged(offsets.astype(np.int64), np.concatenate(chosen))

    return replace(
        episodes,
        tasks=episodes.tasks[rows],
        support=episodes.support[rows],
        excluded=pick(episodes.excluded),
        query=pick(episodes.query),
        query_ratings=pick(episodes.query_ratings),
        query_labels=pick(episodes.query_labels),
    )


def _evaluate(
    config: RunConfig,
    learner: Learner,
    meta_parameters: MetaParameters,
    episodes: EvaluationEpisodes,
    split: Split,
    cutoffs: tuple[int, ...],
    progress: bool = False,
) -> Evaluation:
    return evaluate(
        learner,
        meta_parameters,
        episodes,
        cutoffs=cutoffs,
        chunk=config.evaluation.chunk,
        progress=progress,
        rating_scale=split.dataset.rating_scale,
    )


def _selecting(config: RunConfig) -> Sequence[str]:
    """The cold regimes among those of the run; all of them if none is cold."""
    regimes = regimes_of(config)
    return [regime for regime in regimes if regime in _COLD] or list(regimes)


def _selection(
    config: RunConfig, learner: Learner, metrics: Mapping[str, Mapping[str, float | None]]
) -> float | None:
    feedback = config.episode.feedback
    by_error = feedback == "rating" and learner.predicts(feedback) == "rating"
    values = [metrics[regime].get(RMSE if by_error else NDCG) for regime in _selecting(config)]
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    return -mean if by_error else mean


def _numbers(means: pd.Series) -> dict[str, float | None]:
    """For JSON, which has no NaN: a metric without a value is None."""
    return {str(name): None if math.isnan(value) else float(value) for name, value in means.items()}
