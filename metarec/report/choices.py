"""The runs of the experiment on what of a BERT adapts, checked: one choice a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from metarec.errors import RunError
from metarec.report.cells import PRIMARY, Column, curve_regime, curve_shots
from metarec.report.collect import (
    RECALL,
    Results,
    failed_records,
    finished_records,
    results_of,
    run_name,
)
from metarec.report.labels import ADAPTED, Variant
from metarec.report.provenance import folder_of
from metarec.report.table import Estimate

if TYPE_CHECKING:
    from metarec.runs.store import Record

READERS = {"bi": "Bi-encoder", "cross": "Cross-encoder"}
"""How the BERT reads a user and an item, in the order of the tables."""

PARAMETERS, MEMORY = "trainable_parameters", "peak_memory_gib"
ADAPT, SCORE = "seconds_per_task/adapt", "seconds_per_task/score"

SECONDS = "_seconds"
"""How the name of the experiment ends whose runs only say how long a task takes."""

_META = {"BertTransfer": False, "BertMAML": True}
_MODULE = "metarec.report.what_to_adapt"


@dataclass(frozen=True)
class Choice:
    """One part of a BERT that adapts, by one learner.

    Args:
        learner: its name in the records.
        reads: a key of `READERS`.
        adapted: what adapts, a key of `ADAPTED`.
        meta: whether it is MAML, or else transfer learning.
        layers: number of top layers of which a part adapts.
    """

    learner: str
    reads: str
    adapted: str
    meta: bool
    layers: int = 1

    @property
    def part(self) -> str:
        """What adapts, in words."""
        if self.adapted == "last_n":
            return "Last layer" if self.layers == 1 else f"Last {self.layers} layers"
        return ADAPTED.get(self.adapted, self.adapted)

    @property
    def label(self) -> str:
        """What adapts, and by which learner."""
        return f"{self.part}, {'MAML' if self.meta else 'transfer'}"

    @property
    def variant(self) -> Variant:
        """Its rows among the results."""
        return Variant(self.learner)

    @property
    def unadapted(self) -> Variant:
        """Those without adaptation, after 0 inner steps."""
        return Variant(self.learner, adapted=False)


@dataclass(frozen=True)
class Study:
    """The runs of the experiment.

    Args:
        results: all of them.
        choices: the rows, in the order of the tables; those whose runs all failed too.
        others: the learners that are no choice, such as the retriever by itself.
        retriever: who drew the candidates; it may have no run of its own.
        regime: where the queries lie.
        shots: the K of the curve, ascending.
        k_shot: that of the costs and the differences.
        timings: runs of the same learners, each alone on the machine, that only say the seconds of
            a task; without them those of the results do.
    """

    results: Results
    choices: tuple[Choice, ...]
    others: tuple[Variant, ...]
    retriever: Variant
    regime: str
    shots: tuple[int, ...]
    k_shot: int
    timings: tuple[Record, ...] = ()

    @property
    def shortlist(self) -> int:
        """Candidates that were drawn for each task."""
        return int(self.results.config.evaluation.shortlist)

    @property
    def columns(self) -> tuple[Column, ...]:
        """nDCG@10 at each K."""
        return tuple(Column(f"K = {k}", PRIMARY, self.regime, k, "curve") for k in self.shots)

    @property
    def column(self) -> Column:
        """The column at the K of the costs and the differences."""
        return self.columns[self.shots.index(self.k_shot)]

    def by_reader(self) -> dict[str, list[Choice]]:
        """The choices of each reader."""
        return {
            title: own
            for reads, title in READERS.items()
            if (own := [choice for choice in self.choices if choice.reads == reads])
        }

    def twin(self, choice: Choice, **changes: Any) -> Choice | None:
        """The choice that differs from another in what is given; None if it was not run."""
        wanted = _place(replace(choice, **changes))
        return next((one for one in self.choices if _place(one) == wanted), None)

    def costs(self, learner: str) -> dict[str, Estimate]:
        """What a learner costs: means over its seeds of what its records have.

        Returns:
            By `PARAMETERS`, `ADAPT`, `SCORE` (seconds of a task) and `MEMORY` (GiB).
        """
        own = [record for record in self.results.records if record.learner == learner]
        values: dict[str, list[float]] = {PARAMETERS: [], ADAPT: [], SCORE: [], MEMORY: []}
        for record in own:
            peak = record.content.get("peak_memory_bytes")
            for name, value in (
                (PARAMETERS, record.content.get("parameters")),
                (MEMORY, None if peak is None else peak / 2**30),
            ):
                if value is not None:
                    values[name].append(float(value))
        timed = [record for record in self.timings if record.learner == learner] or own
        for record in timed:
            seconds = record.seconds_per_task.get("curve", {}).get(str(self.k_shot), {})
            for name, key in ((ADAPT, "adapt"), (SCORE, "score")):
                if key in seconds:
                    values[name].append(float(seconds[key]))
        tasks = max((self._tasks_of(record) for record in timed), default=0)
        return {
            name: _mean(found, tasks if name in (ADAPT, SCORE) else 0)
            for name, found in values.items()
            if found
        }

    def _tasks_of(self, record: Record) -> int:
        """The tasks of a run at the K of the costs."""
        frame = record.per_task
        here = (frame["evaluation"] == "curve") & (frame["k_shot"] == self.k_shot)
        here &= (frame["part"] == "test") & frame["adapted"]
        return int(frame.loc[here, "task"].nunique())


def study_of(records: Sequence[Record], allow_mixed_versions: bool = False) -> Study:
    """Checks the records of the experiment and orders its choices.

    Args:
        records: finished and failed ones; what was not tested, such as trials, is passed over.
            Those of an experiment whose name ends in `_seconds` only say how long a task takes.
        allow_mixed_versions: whether they may be of different versions of the code.

    Raises:
        RunError: as `metarec.report.build_report`; and if a run ranked the whole catalogue, there
            is no curve over K, no BERT adapts, two learners are the same choice, or the texts of
            the choices differ.
    """
    timings = [record for record in records if record.config.experiment.endswith(SECONDS)]
    records = [record for record in records if not record.config.experiment.endswith(SECONDS)]
    finished, failed = finished_records(records, allow_mixed_versions), failed_records(records)
    for record in finished:
        _check_reranks(record)
    results = results_of(finished, failed, "user", ("binary", "implicit", "rating"))
    if results is None:
        raise RunError(
            "a BERT adapts to user tasks only, and there is no finished record of one; name the "
            "folder of experiments/what_to_adapt.py, such as results/what_to_adapt"
        )
    also = sorted({folder_of(record) for record in timings})
    results = replace(results, module=_MODULE, flags=" ".join(also))
    regime = curve_regime(results)
    shots = curve_shots(results, regime) if regime else []
    if not shots:
        raise RunError(
            "the records have no curve over K: run experiments/what_to_adapt.py, or set "
            "evaluation.k_curve and evaluation.curve_regimes"
        )
    choices = _choices([*results.records, *results.failed])
    if not any(choice.variant in results.variants for choice in choices):
        raise RunError(
            f"no BERT adapts in the {len(results.records)} finished records; run "
            "experiments/what_to_adapt.py, and name its folder, such as results/what_to_adapt"
        )
    _check_one_text(results.records)
    names = {choice.learner for choice in choices}
    retriever = Variant(results.config.evaluation.retriever.name)
    others = [one for one in results.variants if one.learner not in names and one.adapted]
    k_shot = results.config.episode.k_shot
    return Study(
        results=results,
        choices=tuple(choices),
        others=tuple(sorted(others, key=lambda variant: variant != retriever)),
        retriever=retriever,
        regime=regime,
        shots=tuple(shots),
        k_shot=k_shot if k_shot in shots else shots[-1],
        timings=tuple(finished_records(timings, allow_mixed_versions)) if timings else (),
    )


def choice_of(config: Any) -> Choice | None:
    """What adapts in a run; None if its learner has no BERT that adapts.

    Args:
        config: of the run.
    """
    target = config.learner.target.replace(":", ".").rpartition(".")[2]
    arguments = config.learner.arguments
    # what is not given is what the class takes by itself
    reads = arguments.get("reads", "bi")
    if target not in _META or reads not in READERS:
        return None
    return Choice(
        learner=config.learner.name,
        reads=reads,
        adapted=arguments.get("adapted", "last_n"),
        meta=_META[target],
        layers=arguments.get("adapted_layers", 1),
    )


def _choices(records: Iterable[Record]) -> list[Choice]:
    found: dict[tuple[int, int, str, bool], Choice] = {}
    named: dict[str, Choice] = {}
    for record in records:
        choice = choice_of(record.config)
        if choice is None:
            continue
        same, place = named.setdefault(choice.learner, choice), _place(choice)
        if same != choice:
            raise RunError(
                f"{choice.learner!r} is two choices: {_described(same)} and {_described(choice)} "
                f"({run_name(record)}); give one of them a learner.name of its own"
            )
        if found.setdefault(place, choice) != choice:
            raise RunError(
                f"{found[place].learner!r} and {choice.learner!r} are the same choice: "
                f"{_described(choice)}; report them as experiments of their own"
            )
    return [found[place] for place in sorted(found)]


def _described(choice: Choice) -> str:
    return f"{choice.label}, {READERS[choice.reads].lower()}"


def _place(choice: Choice) -> tuple[int, int, str, bool]:
    """Where a choice stands: reader, what adapts, transfer before MAML."""
    known = list(ADAPTED)
    place = known.index(choice.adapted) if choice.adapted in ADAPTED else len(known)
    return list(READERS).index(choice.reads), place, choice.adapted, choice.meta


def _check_reranks(record: Record) -> None:
    if not record.config.evaluation.shortlist:
        raise RunError(
            f"{run_name(record)} ranked the whole catalogue, where the choices rerank what a "
            "retriever drew: run experiments/what_to_adapt.py, or set evaluation=rerank"
        )
    if RECALL not in record.per_task.columns:
        raise RunError(
            f"{run_name(record)}/per_task.parquet lacks the column {RECALL!r}; remove the run's "
            "folder and run it again"
        )


def _check_one_text(records: Sequence[Record]) -> None:
    """Refuses choices over different checkpoints or texts in one table."""
    texts: dict[Any, str] = {}
    for record in records:
        if choice_of(record.config) is not None:
            texts.setdefault(replace(record.config.text, download=False), run_name(record))
    if len(texts) > 1:
        (first, one), (second, other) = list(texts.items())[:2]
        key = next(key for key, value in vars(first).items() if value != getattr(second, key))
        raise RunError(
            f"the records differ in text.{key}: {getattr(first, key)!r} ({one}), "
            f"{getattr(second, key)!r} ({other}). One table holds one BERT: report them as "
            "experiments of their own"
        )


def _mean(values: Sequence[float], tasks: int) -> Estimate:
    mean = math.fsum(values) / len(values)
    return Estimate(mean, math.nan, math.nan, tasks, len(values), tasks * len(values))
