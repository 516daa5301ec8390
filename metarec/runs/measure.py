"""What a run measures: validation and test in every regime, and the curve over K."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from metarec.consumed import Ledger
from metarec.episodes import Ragged
from metarec.errors import ConfigError, did_you_mean
from metarec.evaluation.episodes import EvaluationEpisodes, evaluation_episodes
from metarec.evaluation.evaluate import Evaluation, chance, evaluate
from metarec.evaluation.metrics import LOWER_IS_BETTER
from metarec.evaluation.rated import evaluate_rated, rated_episodes
from metarec.evaluation.shortlist import Shortlist
from metarec.learner import Learner, MetaParameters
from metarec.runs.config import RunConfig
from metarec.runs.retrieval import Retrieval
from metarec.runs.sections import Part
from metarec.splits import Split

NDCG, RMSE = "catalogue/ndcg@10", "rated/rmse"
LOOKS = "early stopping"
"""What looks at meta-validation during a training, in the ledger."""

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
        counts: part, regime to the number of `tasks`, of those `left_out` by reason, and with a
            shortlist the mean of its `recall`.
        seconds_per_task: mean wall seconds that the learner took to `adapt` to a task and to
            `score` its candidates, over the test tasks of all regimes at `episode.k_shot`; under
            `curve` likewise by K, as a string. Empty without test.
        selection: what tuning maximises; None without validation.
        episodes: what names the episodes of each evaluation: `evaluation` (main or curve), `part`,
            `regime`, `k_shot`, `tasks` (their number) and `key`.
    """

    per_task: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    without_adaptation: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    chance: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    counts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    seconds_per_task: dict[str, Any] = field(default_factory=dict)
    selection: float | None = None
    episodes: list[dict[str, Any]] = field(default_factory=list)


def measure_run(
    config: RunConfig,
    learner: Learner,
    meta_parameters: MetaParameters,
    split: Split,
    retrieval: Retrieval,
    progress: bool = False,
) -> Measurements:
    """Evaluates a fitted learner on everything that its configuration asks for.

    First each part in each regime at `episode.k_shot`, or as `evaluation.regime_k_shot` says, then
    on test the curve over K, whose episodes keep the largest K in reserve and so have nested
    supports and the same queries. A learner that adapts is evaluated again without adapting on the
    same episodes. Episodes that are asked for twice, such as those of the curve where its largest K
    is `episode.k_shot`, are measured once.
    """
    measuring = _Measuring(config, learner, meta_parameters, split, retrieval, progress)
    result = Measurements()
    tested: list[Evaluation] = []
    for episodes in main_episodes(config, split):
        part, regime = episodes.part, episodes.regime
        found = measuring.of("main", episodes)
        if part == "test":
            tested.append(found[True])
        if regime in result.metrics.get(part, {}):
            continue  # at other shots, which stand per task alone
        for adapted, done in found.items():
            target = result.metrics if adapted else result.without_adaptation
            target.setdefault(part, {})[regime] = _numbers(done.summary()["mean"])
        shortlist = retrieval.shortlist(episodes)
        result.chance.setdefault(part, {})[regime] = (
            _chance(episodes, config.cutoffs, shortlist)
            if config.protocol is None
            else _chance_of_rated(found[True])
        )
        result.counts.setdefault(part, {})[regime] = _counts(episodes, shortlist)
    if tested:
        by_shots: dict[str, list[Evaluation]] = {}
        for episodes in curve(config, split):
            found = measuring.of("curve", episodes)
            by_shots.setdefault(str(episodes.k_shot), []).append(found[True])
        seconds = {shots: _seconds_per_task(found) for shots, found in by_shots.items()}
        result.seconds_per_task = {**_seconds_per_task(tested), "curve": seconds}
    result.per_task = pd.concat(measuring.frames, ignore_index=True)
    result.episodes = measuring.episodes
    if "validation" in result.metrics:
        result.selection = _selection(config, learner, result.metrics["validation"])
    return result


def validator(
    config: RunConfig, learner: Learner, split: Split, retrieval: Retrieval, ledger: Ledger
) -> Callable[[MetaParameters], float] | None:
    """The look at meta-validation that stops a training early; its episodes go into the ledger.

    Returns:
        A function from meta-parameters to the selection metric on `look_tasks` of a regime: the
        mean over the cold regimes of nDCG@10 in the catalogue, or of minus the RMSE for a learner
        that predicts ratings from rating feedback and ranks the whole catalogue. None where the
        split has no validation.
    """
    if len(split.rows("validation")) == 0:
        return None
    episodes = {one.regime: one for one in look_episodes(config, split)}
    for one in episodes.values():
        ledger.episodes(LOOKS, f"{one.part}/{one.regime}", len(one), one.key)
    # now, so that no retriever is fitted on the clock of the learner
    shortlists = {regime: retrieval.shortlist(one) for regime, one in episodes.items()}
    cutoffs = (10,) if config.protocol is None else config.evaluation.cutoffs

    def validate(meta_parameters: MetaParameters) -> float:
        metrics = {}
        for regime, one in episodes.items():
            found = _evaluate(
                config, learner, meta_parameters, one, split, cutoffs, shortlists[regime]
            )
            metrics[regime] = _numbers(found.summary()["mean"])
        value = _selection(config, learner, metrics)
        if value is None:
            raise ConfigError(_no_selection(config, learner))
        return value

    return validate


def _no_selection(config: RunConfig, learner: Learner) -> str:
    """Why a training cannot be stopped, and what to do."""
    if config.protocol is None:
        return (
            f"{config.learner.name} has no value of nDCG@10 in any cold regime of validation; give "
            "validation more users and items (split.users, split.items), or lower the threshold"
        )
    predicted = learner.predicts(config.episode.feedback)
    return (
        f"protocol.selection={config.protocol.selection!r} has no value on validation for "
        f"{config.learner.name}, which predicts {predicted!r} from {config.episode.feedback} "
        "feedback: choose a protocol.selection that it has, or a learner that predicts ratings"
    )


def main_episodes(config: RunConfig, split: Split) -> Iterator[EvaluationEpisodes]:
    """The episodes of each part and regime."""
    for part in config.evaluation.parts:
        for regime in config.regimes:
            for k_shot in config.shots(regime):
                yield _limited(config, draw(config, split, part, regime, k_shot))


def look_episodes(config: RunConfig, split: Split) -> Iterator[EvaluationEpisodes]:
    """The episodes of meta-validation that early stopping looks at."""
    for regime in _selecting(config):
        every = draw(config, split, "validation", regime, config.shots(regime)[0])
        yield some_tasks(every, config.evaluation.look_tasks, config.seed)


def curve(config: RunConfig, split: Split) -> Iterator[EvaluationEpisodes]:
    """The test episodes of the curve over K, regime by regime."""
    of_items = config.episode.task == "item"
    shots = config.evaluation.item_k_curve if of_items else config.evaluation.k_curve
    regimes = ("item_cold",) if of_items else config.evaluation.curve_regimes
    if not config.evaluation.curve_regimes or config.protocol is not None:
        return
    for regime in regimes:
        for k_shot in shots:
            yield _limited(config, draw(config, split, "test", regime, k_shot, max(shots)))


def draw(
    config: RunConfig,
    split: Split,
    part: Part,
    regime: str,
    k_shot: int,
    reserve: int | None = None,
) -> EvaluationEpisodes:
    """Evaluation episodes as a run's configuration says; a protocol has shots of its own."""
    episode, protocol = config.episode, config.protocol
    if protocol is not None:
        return rated_episodes(
            split,
            part,
            regime,
            history=protocol.history,
            support=protocol.support,
            query=protocol.query,
            unseen=protocol.unseen,
            feedback=episode.feedback,
            threshold=4.0 if episode.threshold is None else episode.threshold,
            order=episode.order,
            seed=config.seed,
        )
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
        chosen = [lists[row] for row in rows.tolist()]
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


class _Measuring:
    """Evaluates a learner on episodes, with and without adapting; once on those that come again.

    Args:
        config: of the run, and so the others.

    Attributes:
        frames: the rows of all evaluations that were asked for.
        episodes: what names their episodes.
    """

    def __init__(
        self,
        config: RunConfig,
        learner: Learner,
        meta_parameters: MetaParameters,
        split: Split,
        retrieval: Retrieval,
        progress: bool,
    ) -> None:
        self.config, self.meta_parameters, self.split = config, meta_parameters, split
        self.retrieval, self.progress = retrieval, progress
        self.learners = {True: learner}
        if isinstance(learner, Adapting) and learner.adaptation:
            self.learners[False] = learner.without_adaptation()
        self.frames: list[pd.DataFrame] = []
        self.episodes: list[dict[str, Any]] = []
        self._done: dict[str, dict[bool, Evaluation]] = {}

    def of(
        self, kind: Literal["main", "curve"], episodes: EvaluationEpisodes
    ) -> dict[bool, Evaluation]:
        """The evaluation on some episodes by whether the learner adapts; keeps their rows."""
        found = self._done.setdefault(episodes.key, {})
        # what was measured already costs nothing, so that the curve has it where it has its K
        every = kind == "main" or self.config.evaluation.curve_unadapted or False in found
        about = {"evaluation": kind, "part": episodes.part, "regime": episodes.regime}
        named = {"k_shot": episodes.k_shot, "tasks": len(episodes), "key": episodes.key}
        self.episodes.append(about | named)
        for adapted, learner in self.learners.items():
            if not adapted and not every:
                continue
            if adapted not in found:
                found[adapted] = self._evaluated(learner, episodes)
            row = found[adapted].per_task.assign(evaluation=kind, adapted=adapted)
            self.frames.append(row)
        return found

    def _evaluated(self, learner: Learner, episodes: EvaluationEpisodes) -> Evaluation:
        return _evaluate(
            self.config,
            learner,
            self.meta_parameters,
            episodes,
            self.split,
            self.config.cutoffs,
            self.retrieval.shortlist(episodes),
            self.progress,
        )


def _evaluate(
    config: RunConfig,
    learner: Learner,
    meta_parameters: MetaParameters,
    episodes: EvaluationEpisodes,
    split: Split,
    cutoffs: tuple[int, ...],
    shortlist: Shortlist | None,
    progress: bool = False,
) -> Evaluation:
    if config.protocol is not None:
        return evaluate_rated(
            learner,
            meta_parameters,
            episodes,
            cutoffs=cutoffs,
            chunk=config.evaluation.chunk,
            progress=progress,
            rating_scale=split.dataset.rating_scale,
        )
    return evaluate(
        learner,
        meta_parameters,
        episodes,
        cutoffs=cutoffs,
        chunk=config.evaluation.chunk,
        progress=progress,
        rating_scale=split.dataset.rating_scale,
        shortlist=shortlist,
    )


def _limited(config: RunConfig, episodes: EvaluationEpisodes) -> EvaluationEpisodes:
    """At most `evaluation.tasks` of the tasks: for every learner and every seed the same ones."""
    most = config.evaluation.tasks
    if most is None or len(episodes) <= most:
        return episodes
    left_out = {**episodes.left_out, "beyond evaluation.tasks": len(episodes) - most}
    return replace(some_tasks(episodes, most, config.split.seed), left_out=left_out)


def _chance(
    episodes: EvaluationEpisodes, cutoffs: tuple[int, ...], shortlist: Shortlist | None
) -> dict[str, float | None]:
    level = chance(episodes, cutoffs, shortlist).mean()
    return _numbers(level[[name for name in level.index if name.startswith("catalogue/")]])


def _chance_of_rated(evaluation: Evaluation) -> dict[str, float | None]:
    means = evaluation.summary()["mean"]
    return _numbers(means[[name for name in means.index if "/chance/" in name]])


def _counts(episodes: EvaluationEpisodes, shortlist: Shortlist | None) -> dict[str, Any]:
    counts: dict[str, Any] = {"tasks": len(episodes), "left_out": dict(episodes.left_out)}
    if shortlist is not None:
        counts |= _numbers(pd.Series({"recall": pd.Series(shortlist.recall(episodes)).mean()}))
    return counts


def _seconds_per_task(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    tasks = sum(len(one.per_task) for one in evaluations)
    return {
        name: math.fsum(one.seconds[name] for one in evaluations) / tasks
        for name in ("adapt", "score")
    }


def _selecting(config: RunConfig) -> Sequence[str]:
    """The cold regimes among those of the run; all of them if none is cold."""
    regimes = config.regimes
    if config.protocol is not None:
        return list(regimes)
    return [regime for regime in regimes if regime in _COLD] or list(regimes)


def _selection(
    config: RunConfig, learner: Learner, metrics: Mapping[str, Mapping[str, float | None]]
) -> float | None:
    if config.protocol is not None:
        return _selection_of_protocol(config.protocol.selection, metrics)
    feedback = config.episode.feedback
    predicted = feedback == "rating" and learner.predicts(feedback) == "rating"
    # ranks behind a shortlist are no ratings
    by_error = predicted and not config.evaluation.shortlist
    values = [metrics[regime].get(RMSE if by_error else NDCG) for regime in _selecting(config)]
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    return -mean if by_error else mean


def _selection_of_protocol(
    column: str, metrics: Mapping[str, Mapping[str, float | None]]
) -> float | None:
    """The mean over all regimes of the protocol's own metric, higher is better."""
    values = []
    for regime, found in metrics.items():
        if column not in found:
            raise ConfigError(
                f"protocol.selection={column!r} is not measured in {regime}"
                f"{did_you_mean(column, list(found))}"
            )
        values.append(found[column])
    known = [value for value in values if value is not None]
    if not known:
        return None
    sign = -1 if column.partition("/")[2] in LOWER_IS_BETTER else 1
    return sign * math.fsum(known) / len(known)


def _numbers(means: pd.Series) -> dict[str, float | None]:
    """For JSON, which has no NaN: a metric without a value is None."""
    return {str(name): None if math.isnan(value) else float(value) for name, value in means.items()}
