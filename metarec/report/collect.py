"""From records to frames: which runs belong to a table, and whether they may stand in one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metarec.errors import RunError
from metarec.report.labels import Variant, sort_key

if TYPE_CHECKING:
    from metarec.runs.store import Record

RECALL = "shortlist/recall"
"""Column of the per-task results: the share of the relevant that was drawn for reranking."""

_EPISODE = ["seed", "evaluation", "part", "regime", "k_shot", "task"]
_COUNTS = ["n_candidates", "n_relevant", "n_query"]
_FOLDERS = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:)?(?:[/\\][^\s/\\'\":;,]+)+[/\\]")
_NEEDED = ["task", "part", "regime", "k_shot", *_COUNTS]


@dataclass(frozen=True)
class Results:
    """The runs of one table, checked: one data set, one split, the same episodes for every learner.

    Args:
        records: the finished records, by learner and seed.
        failed: the failed ones.
        per_task: all per-task results, with the columns `learner` (the key of the variant), `seed`,
            `evaluation` and `adapted`.
        variants: the rows of the table in their order.
        flags: options with which `module` makes the table.
        module: what `python -m` makes the table with.
    """

    records: tuple[Record, ...]
    failed: tuple[Record, ...]
    per_task: pd.DataFrame
    variants: tuple[Variant, ...]
    flags: str = ""
    module: str = "metarec.report"

    @property
    def targets(self) -> dict[str, str]:
        """The class of each learner by dotted path."""
        return {record.learner: record.config.learner.target for record in self.records}

    @property
    def config(self) -> Any:
        """The configuration of the first run, whose data, split and episodes are those of all."""
        return self.records[0].config

    def select(
        self, column: str, part: str, regime: str, k_shot: int, evaluation: str = "main"
    ) -> pd.DataFrame:
        """One metric of every learner on some episodes.

        Returns:
            Columns `learner`, `task`, `seed`, `value`, as `metarec.evaluation.significance` takes
            them, the counts `n_candidates`, `n_relevant`, `n_query`, and `recall` of the shortlist,
            NaN without one; empty if there is nothing.
        """
        here = self._episodes.get((evaluation, part, regime, k_shot))
        if here is None:
            return pd.DataFrame(columns=["learner", "task", "seed", *_COUNTS, "recall", "value"])
        chosen = here[["learner", "task", "seed", *_COUNTS]].copy()
        chosen["recall"] = here[RECALL] if RECALL in here.columns else np.nan
        chosen["value"] = here[column] if column in here.columns else np.nan
        return chosen.reset_index(drop=True)

    @cached_property
    def _episodes(self) -> dict[Any, pd.DataFrame]:
        return dict(iter(self.per_task.groupby(["evaluation", "part", "regime", "k_shot"])))


def subset(results: Results | None, learners: Collection[str]) -> Results | None:
    """The results of some learners only; None if none of them has a finished run."""
    if results is None:
        return None
    records = tuple(record for record in results.records if record.learner in learners)
    if not records:
        return None
    return replace(
        results,
        records=records,
        failed=tuple(record for record in results.failed if record.learner in learners),
        per_task=results.per_task[results.per_task["name"].isin(list(learners))],
        variants=tuple(variant for variant in results.variants if variant.learner in learners),
    )


def read_records(folder: Path) -> list[Record]:
    """The records of one run, of an experiment's folder, or of all experiments below a folder.

    Raises:
        RunError: if the folder is not there, or a record is broken.
    """
    from metarec.runs.store import RECORD, load_records, read_record

    if (folder / RECORD).is_file():
        return [read_record(folder)]
    if any(folder.glob(f"*/{RECORD}")):
        # load_records takes the results and an experiment's name; "." has neither.
        folder = folder if folder.name else folder.resolve()
        return load_records(folder.parent, folder.name)
    return load_records(folder)


def finished_records(records: Sequence[Record], allow_mixed_versions: bool) -> list[Record]:
    """The finished records that measured the test part, of one version of the code.

    Records that leave out the test part (the trials of tuning) publish nothing and are passed over.

    Raises:
        RunError: if none is left, or they are of different versions and that is not allowed.
    """
    # a folder that is named twice holds each run once
    distinct = {record.path.resolve(): record for record in records}.values()
    finished = [r for r in distinct if r.status == "finished" and _tests(r)]
    if not finished:
        failed = failed_records(records)
        why = f"; {len(failed)} failed: {_names(failed)}" if failed else ""
        raise RunError(
            f"no finished record to report among {len(records)}{why}; run `make paper` first, or "
            "name the folder of an experiment, such as results/paper"
        )
    versions = _by(finished, lambda record: record.code)
    if len(versions) > 1 and not allow_mixed_versions:
        raise RunError(
            f"the records are of {len(versions)} versions of the code: {_listed(versions, 12)}. "
            "Remove the folders of the outdated runs and run the experiment again (what is current "
            "is skipped), or accept the mixture with --allow-mixed-versions"
        )
    return finished


def failed_records(records: Iterable[Record]) -> list[Record]:
    """The failed records of runs that were to measure the test part."""
    return [record for record in records if record.status != "finished" and _tests(record)]


def results_of(
    records: Iterable[Record],
    failed: Iterable[Record],
    kind: str,
    feedback: tuple[str, ...],
    flags: str = "",
) -> Results | None:
    """The results of one kind of task and feedback, checked; None if there are none.

    Args:
        records: finished records.
        failed: failed ones.
        kind: `user` or `item`.
        feedback: the kinds of feedback that belong here.
        flags: options with which `python -m metarec.report` makes the table.

    Raises:
        RunError: if the runs differ in data, split or episodes, or a learner has a seed twice.
    """

    def belongs(record: Record) -> bool:
        episode = record.config.episode
        return episode.task == kind and episode.feedback in feedback

    own = sorted(filter(belongs, records), key=_record_key)
    if not own:
        return None
    what = f"{kind} tasks, {' or '.join(feedback)} feedback"
    check_one_setting(own, what)
    _check_distinct(own, what)
    frame = pd.concat([_per_task(record) for record in own], ignore_index=True)
    _check_same_episodes(frame, what)
    targets = {record.learner: record.config.learner.target for record in own}
    pairs = frame[["name", "adapted"]].drop_duplicates().itertuples(index=False, name=None)
    found = {Variant(str(name), bool(adapted)) for name, adapted in pairs}
    variants = sorted(found, key=lambda variant: sort_key(variant, targets[variant.learner]))
    return Results(
        records=tuple(own),
        failed=tuple(
            sorted((r for r in failed if belongs(r) and _of(r) == _of(own[0])), key=_record_key)
        ),
        per_task=frame,
        variants=tuple(variants),
        flags=flags,
    )


def check_one_setting(records: Sequence[Record], what: str) -> None:
    """Refuses records of different data, splits or episodes in one table.

    Args:
        records: what the table would hold.
        what: how the error calls the table.

    Raises:
        RunError: naming the key of the configuration, its values and the runs.
    """
    settings = {run_name(record): setting_of(record) for record in records}
    for key in setting_of(records[0]):
        values: dict[Hashable, list[Record]] = defaultdict(list)
        for record in records:
            values[_frozen(settings[run_name(record)][key])].append(record)
        if len(values) > 1:
            raise RunError(
                f"{what}: the records differ in {key}: {_listed(values)}. One table holds one "
                "setting: report them as experiments of their own"
            )


def run_name(record: Record) -> str:
    """The name of a record's folder."""
    return str(record.path.name)


def _tests(record: Record) -> bool:
    return "test" in record.config.evaluation.parts


def _of(record: Record) -> tuple[str, str]:
    """What a run was about, which it knows before it reads anything: data set and split."""
    return record.config.data.name, record.config.split.method


def dataset_of(records: Sequence[Record]) -> str:
    """What the data set of records calls itself; older ones know its configuration's name alone."""
    named = (record.content.get("dataset") for record in records)
    told = sorted({str(name) for name in named if name is not None})
    return told[0] if told else records[0].dataset


def _record_key(record: Record) -> tuple[str, int, str]:
    return record.learner, record.seed, run_name(record)


def _per_task(record: Record) -> pd.DataFrame:
    frame: pd.DataFrame = record.per_task
    if record.config.protocol is not None:
        # a task ranked its own queries, all of which count by their ratings
        frame = frame.assign(n_candidates=frame["n_query"], n_relevant=frame["n_query"])
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        raise RunError(
            f"{run_name(record)}/per_task.parquet lacks the column {missing[0]!r}; remove the "
            "run's folder and run it again"
        )
    frame = frame.assign(name=record.learner, seed=record.seed)
    if "evaluation" not in frame.columns:
        frame["evaluation"] = "main"
    adapted = frame["adapted"].astype(bool) if "adapted" in frame.columns else True
    frame["adapted"] = adapted
    keys = {flag: Variant(record.learner, flag).key for flag in (True, False)}
    return frame.assign(learner=frame["adapted"].map(keys))


def by_setting(records: Iterable[Record]) -> list[list[Record]]:
    """The records that may stand in one table, for each kind of task and setting.

    Args:
        records: of any data sets, splits, kinds of task and feedback.
    """
    groups: dict[Hashable, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.config.episode.task, _frozen(setting_of(record))].append(record)
    return list(groups.values())


def setting_of(record: Record) -> dict[str, Any]:
    """What all records of a table have in common: data, split, episodes and shortlist, by name."""
    config = record.config
    setting = {f"data.{name}": value for name, value in _fields(config.data).items()}
    # Where the files lay does not matter, their checksum does.
    setting.pop("data.folder", None)
    setting["the data's checksum"] = checksum_of(record)
    setting |= {f"split.{name}": value for name, value in _fields(config.split).items()}
    for name in ("feedback", "threshold", "k_shot", "order"):
        setting[f"episode.{name}"] = getattr(config.episode, name)
    evaluation, retriever = config.evaluation, config.evaluation.retriever
    setting["evaluation.shortlist"] = evaluation.shortlist
    drawn_by = None if retriever is None else (retriever.target, retriever.arguments)
    setting["evaluation.retriever"] = drawn_by
    return setting


def checksum_of(record: Record) -> str:
    """Checksum of the data that the run read."""
    return str(record.data_checksum or "")


def commit_of(record: Record) -> str:
    """Commit of the working tree that the run was made with, `unknown` outside git."""
    return str(record.commit or "unknown")


def error_of(record: Record) -> str:
    """First line of what a failed run died of."""
    text = (record.error or "no error was recorded").strip()
    # The folders of a machine are nobody's business; the name of a file is.
    first = _FOLDERS.sub("", text.splitlines()[0])
    return first if len(first) <= 160 else f"{first[:157]}..."


def _fields(part: Any) -> dict[str, Any]:
    return dict(sorted(vars(part).items()))


def _frozen(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), _frozen(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return value if isinstance(value, Hashable) else repr(value)


def _check_distinct(records: Sequence[Record], what: str) -> None:
    for (learner, seed), same in _by(records, lambda record: (record.learner, record.seed)).items():
        if len(same) > 1:
            raise RunError(
                f"{what}: {learner!r} with seed {seed} occurs {len(same)} times: {_names(same)}. "
                "They differ in their configuration: remove the outdated run's folder, or give one "
                "of them a learner.name or experiment of its own"
            )


def _check_same_episodes(frame: pd.DataFrame, what: str) -> None:
    """Every learner must have been measured, seed by seed, on the very same episodes."""
    for (seed, evaluation, part, regime, k_shot), here in frame.groupby(_EPISODE[:-1], sort=True):
        where = f"{what}, {part}/{regime}, K={k_shot}, seed {seed} ({evaluation})"
        learners = here["learner"].nunique()
        if len(here) % learners == 0:
            ordered = here.sort_values(["learner", "task"])[["task", *_COUNTS]].to_numpy(np.int64)
            side_by_side = ordered.reshape(learners, -1, ordered.shape[1])
            tasks = side_by_side[0, :, 0]
            if (side_by_side == side_by_side[0]).all() and (tasks[1:] > tasks[:-1]).all():
                continue
        # Something differs: find out what, for the message.
        first: tuple[str, pd.DataFrame] | None = None
        for learner, rows in here.groupby("learner", sort=True):
            own = rows[["task", *_COUNTS]].sort_values("task", ignore_index=True)
            if own["task"].duplicated().any():
                task = own.loc[own["task"].duplicated(), "task"].iloc[0]
                raise RunError(
                    f"{where}: task {task} occurs twice for {learner!r}; its per_task.parquet is "
                    "broken: remove the run's folder and run it again"
                )
            if first is None:
                first = str(learner), own
                continue
            name, base = first
            mine, theirs = set(own["task"]), set(base["task"])
            if mine != theirs:
                raise RunError(
                    f"{where}: {name!r} and {learner!r} were measured on different tasks: "
                    f"{len(theirs - mine)} only of {name!r}{_some(theirs - mine)}, "
                    f"{len(mine - theirs)} only of {learner!r}{_some(mine - theirs)}; remove the "
                    "outdated run's folder and run it again"
                )
            if not np.array_equal(own.to_numpy(np.int64), base.to_numpy(np.int64)):
                wrong = own.loc[(own != base).any(axis=1), "task"].iloc[0]
                raise RunError(
                    f"{where}: {name!r} and {learner!r} ranked different candidates or queries, "
                    f"first for task {wrong}; remove the outdated run's folder and run it again"
                )


def _by(records: Sequence[Record], key: Callable[[Record], Hashable]) -> dict[Any, list[Record]]:
    groups: dict[Any, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return dict(groups)


def _listed(groups: Mapping[Any, Sequence[Record]], shorten: int | None = None) -> str:
    def shown(value: Any) -> str:
        return str(value)[:shorten]

    return "; ".join(f"{shown(value)} ({_names(same)})" for value, same in groups.items())


def _names(records: Sequence[Record], at_most: int = 4) -> str:
    names = ["/".join(record.path.parts[-2:]) for record in records]
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def _some(tasks: set[Any]) -> str:
    return f" (such as {min(tasks)})" if tasks else ""
