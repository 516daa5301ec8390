"""From records of published protocols to results: one protocol a table, its splits pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from metarec.errors import RunError
from metarec.report.collect import (
    Results,
    check_one_setting,
    failed_records,
    finished_records,
    results_of,
    run_name,
)
from metarec.report.labels import sort_key
from metarec.report.protocols_figures import TABLES
from metarec.report.provenance import Provenance, provenance_of

if TYPE_CHECKING:
    from metarec.runs.store import Record

MODULE = "metarec.report.protocols"


@dataclass(frozen=True)
class Study:
    """The runs of one protocol on its published split, or on splits that were drawn.

    Args:
        key: of `TABLES`: the protocol, how users and items were split, and the data set where it
            has tables apart.
        results: of all its splits. A task is a user, whatever the split; with several splits,
            `seed` counts the pairs of a split and the seed of a run.
        splits: the seeds of the splits.
        k_shot: shots of a task; where all but the queries are support, the most.
    """

    key: tuple[str, ...]
    results: Results
    splits: tuple[int, ...]
    k_shot: int

    @property
    def protocol(self) -> str:
        """Its name."""
        return self.key[0]

    @property
    def pooled(self) -> bool:
        """Whether there are several splits."""
        return len(self.splits) > 1

    @property
    def provenance(self) -> Provenance:
        """Where its numbers come from."""
        found = provenance_of(self.results)
        if not self.pooled:
            return found
        listed = ", ".join(map(str, self.splits))
        return replace(found, split=f"{len(self.splits)} splits by seed ({listed})")


def studies_of(records: Sequence[Record], allow_mixed_versions: bool = False) -> list[Study]:
    """Checks the records and puts those of one protocol together, in the order of the tables.

    Args:
        records: finished and failed ones; those without a protocol, and what was not tested, are
            passed over.
        allow_mixed_versions: whether they may be of different versions of the code.

    Raises:
        RunError: if there is nothing to report, a protocol has no tables, versions are mixed, or
            records of a protocol differ in data, episodes or protocol, or, split by split and seed
            by seed, were measured on different tasks.
    """
    records = [record for record in records if record.config.protocol is not None]
    if not records:
        raise RunError(
            "no record of a published protocol; run experiments/protocols.py, and name its folder, "
            "such as results/protocols"
        )
    finished, failed = finished_records(records, allow_mixed_versions), failed_records(records)
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in finished:
        groups.setdefault(_key(record), []).append(record)
    for key, group in groups.items():
        if key not in TABLES:
            pairs = dict.fromkeys(one[:2] for one in TABLES)
            known = ", ".join(f"{protocol} split by {method}" for protocol, method in pairs)
            raise RunError(
                f"no tables of protocol {key[0]!r} split by {key[1]!r} ({run_name(group[0])}); "
                f"there are those of {known}"
            )
    return [
        _study(key, groups[key], [record for record in failed if _key(record) == key])
        for key in TABLES
        if key in groups
    ]


def _study(key: tuple[str, ...], records: Sequence[Record], failed: Sequence[Record]) -> Study:
    what = f"protocol {key[0]}, split by {', '.join(key[1:])}"
    # that apart, records of several splits must agree
    check_one_setting([_unsplit(record) for record in records], what)
    for record in records[1:]:
        if record.config.protocol != records[0].config.protocol:
            raise RunError(
                f"{what}: {run_name(records[0])} and {run_name(record)} differ in a key of "
                "`protocol`. One table holds one protocol: report them as experiments of their own"
            )
    splits = sorted({record.config.split.seed for record in records})
    parts = [
        _of_split([record for record in records if record.config.split.seed == seed], what)
        for seed in splits
    ]
    k_shot = _shots(records[0].config, parts)
    # nothing of another split may stand for the seed of a run
    pairs = [
        (split, seed) for split, part in zip(splits, parts, strict=True) for seed in _seeds(part)
    ]
    place = {pair: number for number, pair in enumerate(pairs)}
    frames = [
        part.per_task.assign(
            seed=part.per_task["seed"].map({seed: place[split, seed] for seed in _seeds(part)}),
            k_shot=k_shot,
        )
        for split, part in zip(splits, parts, strict=True)
    ]
    targets = {name: path for part in parts for name, path in part.targets.items()}
    variants = {variant for part in parts for variant in part.variants}
    results = replace(
        parts[0],
        records=tuple(record for part in parts for record in part.records),
        failed=tuple(sorted(failed, key=run_name)),
        per_task=pd.concat(frames, ignore_index=True),
        variants=tuple(sorted(variants, key=lambda one: sort_key(one, targets[one.learner]))),
        module=MODULE,
    )
    return Study(key, results, tuple(splits), k_shot)


def _of_split(records: Sequence[Record], what: str) -> Results:
    """The results of one split, whose episodes are the same for every learner."""
    found = results_of(records, (), "user", ("rating", "binary", "implicit"))
    if found is None:
        raise RunError(f"{what}: there is no user task among the records")
    # the longest support names them: where it differs, `results_of` does not look further
    for where, here in found.per_task.groupby(["seed", "part", "regime"]):
        if here["k_shot"].nunique() > 1:
            names = [one["learner"].iloc[0] for _, one in here.groupby("k_shot")]
            raise RunError(
                f"{what}, seed {where[0]}, {where[1]}/{where[2]}: {names[0]!r} and {names[1]!r} "
                "were measured on different tasks; remove the outdated run's folder and run again"
            )
    return found


def _seeds(part: Results) -> list[int]:
    return sorted({record.seed for record in part.records})


def _shots(config: Any, parts: Sequence[Results]) -> int:
    """The shots of a task; of those that have all but the queries, the most."""
    if config.protocol.support is not None:
        return int(config.protocol.support)
    return max(int(part.per_task["k_shot"].max()) for part in parts)


def _unsplit(record: Record) -> Record:
    split = replace(record.config.split, seed=0)
    return replace(record, config=replace(record.config, split=split))


def _key(record: Record) -> tuple[str, ...]:
    config = record.config
    assert config.protocol is not None
    key = config.protocol.name, config.split.method
    apart = (*key, record.dataset)
    return apart if apart in TABLES else key
