"""From records to blocks: what all learners were measured on, and which learners can be ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from metarec.errors import RunError, did_you_mean
from metarec.report.cells import regimes_of
from metarec.report.collect import Results, by_setting, dataset_of, results_of, setting_of
from metarec.report.labels import JAX, Variant, label_of, regime_label, sort_key

if TYPE_CHECKING:
    from metarec.runs.store import Record


@dataclass(frozen=True)
class Choice:
    """Which records and rows are ranked.

    Args:
        metric: column of the per-task results.
        tasks: kinds of task, `user` or `item`; empty for all, as in what follows.
        feedback: kinds of feedback.
        regimes: where the queries lie.
        learners: names; one that is named enters even if it is the twin of another.
        seeds: seeds.
        unadapted: whether learners without their adaptation are ranked too.
    """

    metric: str
    tasks: tuple[str, ...] = ()
    feedback: tuple[str, ...] = ()
    regimes: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    unadapted: bool = False


@dataclass(frozen=True, eq=False)
class Measured:
    """One regime of one data set, kind of task and feedback, as it was tested.

    Args:
        name: what tells it from the others, such as `Item tasks, item cold`.
        regime: where the queries lie.
        results: the runs.
        values: columns `learner`, `task`, `seed`, `value`, without learners that have no value.
    """

    name: str
    regime: str
    results: Results
    values: pd.DataFrame

    def seeds_of(self, variant: Variant) -> frozenset[int]:
        """The seeds with which a learner was measured."""
        return frozenset(self.values.loc[self.values["learner"] == variant.key, "seed"])


@dataclass(frozen=True, eq=False)
class Means:
    """The learners of a comparison on one block, or on its tasks.

    Args:
        measured: what they were measured on.
        by_task: a row a task, a column a learner: means over the seeds that all have.
        seeds: number of them.
        episodes: number of values of each learner.
    """

    measured: Measured
    by_task: pd.DataFrame
    seeds: int
    episodes: int


@dataclass(frozen=True, eq=False)
class Entrants:
    """Who is ranked on what, and who is not.

    Args:
        means: of those who are, on each block.
        variants: them, in the order of the tables.
        left_out: label and reason of those who are not.
    """

    means: tuple[Means, ...]
    variants: tuple[Variant, ...]
    left_out: tuple[tuple[str, str], ...]


def measured_of(
    records: Sequence[Record], failed: Sequence[Record], choice: Choice, flags: str, module: str
) -> list[Measured]:
    """What was tested: every regime of every data set, kind of task and feedback.

    Args:
        records: finished records of one version of the code, or of several on purpose.
        failed: failed ones.
        choice: which of them.
        flags: options with which `module` makes the table.
        module: what `python -m` makes the table with.

    Raises:
        RunError: if nothing is left, a name is not there, or runs differ in their episodes.
    """
    groups = [
        group
        for group in sorted(by_setting(records), key=_order)
        if _among(group[0].config.episode.task, choice.tasks)
        and _among(group[0].config.episode.feedback, choice.feedback)
    ]
    _check_names(choice, [record for group in groups for record in group])
    names = _names(groups)
    found, regimes = [], set()
    for group, name in zip(groups, names, strict=True):
        episode, data = group[0].config.episode, group[0].config.data.name
        own = [
            record
            for record in group
            if _among(record.learner, choice.learners) and _among(record.seed, choice.seeds)
        ]
        lost = [record for record in failed if record.config.data.name == data]
        results = results_of(own, lost, episode.task, (episode.feedback,), flags) if own else None
        if results is None:
            continue
        results = replace(results, module=module)
        for regime in regimes_of(results):
            regimes.add(regime)
            if not _among(regime, choice.regimes):
                continue
            values = results.select(choice.metric, "test", regime, episode.k_shot)
            known = values.groupby("learner")["value"].count()
            values = values[values["learner"].isin(known.index[known > 0])]
            if len(values):
                label = regime_label(regime)
                whole = f"{name}, {label.lower()}" if name else label
                found.append(Measured(whole, regime, results, values))
    for regime in choice.regimes:
        if regime not in regimes:
            raise RunError(f"no regime {regime!r} was tested{did_you_mean(regime, regimes)}")
    if not found:
        raise RunError(
            f"no learner has a test value of {choice.metric!r} among what was chosen of "
            f"{len(records)} finished records; metrics are columns of per_task.parquet, such as "
            "catalogue/ndcg@10"
        )
    return found


def entrants_of(measured: Sequence[Measured], choice: Choice) -> Entrants:
    """Who can be ranked on all blocks: those who have a value in each, with the usual seeds.

    The seeds of a block are those that most learners have; who lacks one is left out, and who has
    more is ranked by these alone. A learner that both PyTorch and JAX have run is ranked once.

    Args:
        measured: the blocks.
        choice: as it was made of the records.

    Raises:
        RunError: if the metric is undefined in different episodes for two learners.
    """
    kinds = {
        variant: one.results.config.episode.task
        for one in reversed(measured)
        for variant in one.results.variants
    }
    targets = {name: path for one in measured for name, path in one.results.targets.items()}
    left_out: dict[Variant, str] = {}
    present = [variant for variant in kinds if variant.adapted or choice.unadapted]
    for record in (record for one in measured for record in one.results.failed):
        if record.learner not in targets and _among(record.learner, choice.learners):
            left_out[Variant(record.learner)] = "its runs failed"
    entering = []
    for variant in sorted(present, key=lambda one: sort_key(one, targets[one.learner])):
        twin = replace(variant, learner=variant.learner.removesuffix(JAX))
        empty = [one.name for one in measured if not one.seeds_of(variant)]
        if twin != variant and twin in present and not choice.learners:
            left_out[variant] = f"computed by another backend as {label_of(twin, kinds[twin])} is"
        elif empty:
            left_out[variant] = f"no value in {_listed(empty)}"
        else:
            entering.append(variant)
    usual = {one.name: _usual_seeds(one, entering) for one in measured}
    for variant in tuple(entering):
        lacking = [
            f"{one.name}: {len(usual[one.name] & one.seeds_of(variant))} of {len(usual[one.name])}"
            for one in measured
            if not one.seeds_of(variant) >= usual[one.name]
        ]
        if lacking:
            left_out[variant] = f"too few seeds ({_listed(lacking)})"
            entering.remove(variant)
    return Entrants(
        means=tuple(_means(one, entering, usual[one.name]) for one in measured),
        variants=tuple(entering),
        left_out=tuple(
            (label_of(variant, kinds.get(variant, "user")), reason)
            for variant, reason in left_out.items()
        ),
    )


def _means(measured: Measured, variants: Sequence[Variant], seeds: frozenset[int]) -> Means:
    keys = [variant.key for variant in variants]
    here = measured.values["learner"].isin(keys) & measured.values["seed"].isin(list(seeds))
    wide = measured.values[here].pivot(index=["task", "seed"], columns="learner", values="value")
    wide = wide.reindex(columns=keys)
    undefined = wide.isna()
    differs = undefined.any(axis=1) & ~undefined.all(axis=1)
    if differs.any():
        task, seed = differs.index[differs][0]
        some = undefined.loc[(task, seed)]
        raise RunError(
            f"{measured.name}: the metric is undefined in different episodes for "
            f"{some.index[some][0]!r} and {some.index[~some][0]!r} (task {task}, seed {seed}); "
            "compare runs on the same episodes"
        )
    defined = wide.dropna()
    return Means(
        measured=measured,
        by_task=defined.groupby(level="task").mean(),
        seeds=len(seeds),
        episodes=len(defined),
    )


def _usual_seeds(measured: Measured, variants: Sequence[Variant]) -> frozenset[int]:
    """The seeds that most learners have; of equally frequent sets the largest."""
    counts = Counter(measured.seeds_of(variant) for variant in variants)
    return max(counts, key=lambda seeds: (counts[seeds], len(seeds), sorted(seeds)), default=_NONE)


_NONE: frozenset[int] = frozenset()


def _order(group: Sequence[Record]) -> tuple[str, bool, str, str]:
    """By data set, user tasks first; whatever the order of the records."""
    config = group[0].config
    setting = repr(setting_of(group[0]))
    return dataset_of(group), config.episode.task == "item", config.episode.feedback, setting


def _names(groups: Sequence[Sequence[Record]]) -> list[str]:
    """What tells each group from the others: nothing where there is one group of user tasks."""
    configs = [group[0].config for group in groups]
    data = [dataset_of(group) for group in groups]
    several_data = len({*data}) > 1
    several_feedback = len({config.episode.feedback for config in configs}) > 1
    named = []
    for own, config in zip(data, configs, strict=True):
        parts = [own] if several_data else []
        parts += ["item tasks"] if config.episode.task == "item" else []
        parts += [f"{config.episode.feedback} feedback"] if several_feedback else []
        name = ", ".join(parts)
        # the name of a data set is written as it is
        named.append(name if several_data else name[:1].upper() + name[1:])
    settings = [setting_of(group[0]) for group in groups]
    whole = []
    for name, setting in zip(named, settings, strict=True):
        same = [other for other, called in zip(settings, named, strict=True) if called == name]
        # what else differs, such as the seed of the split
        keys = [key for key in setting if len({repr(other.get(key)) for other in same}) > 1]
        parts = [name] if name else []
        whole.append(", ".join([*parts, *(f"{key} {setting[key]}" for key in keys)]))
    return whole


def _check_names(choice: Choice, records: Sequence[Record]) -> None:
    names = {record.learner for record in records}
    for learner in choice.learners:
        if learner not in names:
            raise RunError(f"no finished run of {learner!r}{did_you_mean(learner, names)}")
    seeds = {record.seed for record in records}
    for seed in choice.seeds:
        if seed not in seeds:
            raise RunError(f"no finished run with seed {seed}; there are {sorted(seeds)}")


def _among(value: Hashable, chosen: Sequence[Hashable]) -> bool:
    return not chosen or value in chosen


def _listed(names: Sequence[str], at_most: int = 3) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return "; ".join(names[:at_most]) + more
