"""Whether query sets are what the data give, and whether anything of train is among them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64, Shaped

from metarec.audit.finding import Finding, fails
from metarec.episodes import Ragged
from metarec.evaluation.episodes import EvaluationEpisodes, Part
from metarec.evaluation.evaluate import chance
from metarec.runs.config import RunConfig
from metarec.runs.measure import curve, look_episodes, main_episodes
from metarec.runs.sections import ProtocolConfig
from metarec.runs.store import Record
from metarec.splits import REGIMES, Split

QUERIES = "query sets"
_KEPT = 4
Place = tuple[str, str, str, int]
"""`main` or `curve`, part, regime and K."""


@dataclass(frozen=True)
class Redrawn:
    """The episodes of a run, drawn again from the data.

    Args:
        evaluations: what names each evaluation, to its episodes.
        looks: `part/regime` to the key of the episodes that early stopping looks at.
        violations: what is wrong with them, whoever measured on them.
    """

    evaluations: dict[Place, EvaluationEpisodes]
    looks: dict[str, str]
    violations: tuple[str, ...]


class Redraws:
    """Draws the episodes of runs again; those of runs that share them once."""

    def __init__(self) -> None:
        self._kept: dict[str, Redrawn] = {}

    def of(self, config: RunConfig, split: Split, checksum: str, looked: bool = True) -> Redrawn:
        """The episodes of a run.

        Args:
            config: of the run.
            split: of its data.
            checksum: of its data.
            looked: whether its training looked at validation.
        """
        asked = (config.split, config.episode, config.evaluation, config.protocol, config.seed)
        key = f"{checksum} {looked} {asked!r}"
        if key not in self._kept:
            self._kept[key] = _redrawn(config, split, looked)
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return self._kept[key]


def check_queries(record: Record, redrawn: Redrawn) -> Iterator[Finding]:
    """Compares a record with the data: its episodes, its rows per task, the chance levels.

    Episodes and chance are computed by the code that ran; `violations` judges them apart from it.
    """
    name = record.path.name
    problems = [
        *redrawn.violations,
        *_differences(record, redrawn),
        *_rows(record, redrawn),
        *_chances(record, redrawn),
    ]
    yield from (fails(QUERIES, name, problem) for problem in problems)
    if not problems:
        yield Finding(QUERIES, name)


def violations(
    split: Split,
    episodes: EvaluationEpisodes,
    protocol: ProtocolConfig | None = None,
    reserve: int | None = None,
    limit: int | None = None,
) -> list[str]:
    """What is wrong with evaluation episodes, by the data and the parts of the split alone.

    Nothing here calls what draws episodes: it is said a second time.

    Args:
        split: of the data.
        episodes: to be judged.
        protocol: the published one that they follow, if any: tasks may then have items that no
            train user has rated, and are not asked for all that they have; how many tasks there
            are is not judged then.
        reserve: interactions of a task that are kept for supports; None for its shots.
        limit: tasks that there are at most; None for all.

    Returns:
        A sentence each; empty if all is well.
    """
    data, regime = split.dataset, episodes.regime
    also = ("both_cold",) if protocol is not None and regime == "user_cold" else ()
    code = data.users.astype(np.int64) * data.n_items + data.items
    order = np.argsort(code, kind="stable")

    def rows_of(
        tasks: Int32[np.ndarray, " m"], candidates: Int32[np.ndarray, " m"]
    ) -> Int64[np.ndarray, " m"]:
        sides = (tasks, candidates) if episodes.kind == "user" else (candidates, tasks)
        wanted = sides[0].astype(np.int64) * data.n_items + sides[1]
        place = np.searchsorted(code, wanted, sorter=order)
        rows = order[np.minimum(place, len(order) - 1)]
        return np.where(code[rows] == wanted, rows, -1)

    numbers, positions = episodes.query.pairs()
    query = rows_of(episodes.tasks[numbers], episodes.candidates[positions])
    lines, places = np.nonzero(episodes.support.mask)
    shots = rows_of(episodes.tasks[lines], episodes.support.candidates[lines, places])
    first = 1 if episodes.part == "validation" else 1 + len(REGIMES)
    lawful = [first + REGIMES.index(one) for one in (regime, *also)]
    own = [0, *range(first, first + len(REGIMES))]
    part_of_query, part_of_shots = split.part[query], split.part[shots]
    in_train = split.part == 0
    excluded, excluded_positions = episodes.excluded.pairs()
    width = len(episodes.candidates)
    banned = np.isin(numbers * width + positions, excluded * width + excluded_positions)
    found = {
        "are no interactions of the data": query < 0,
        "are interactions of train": (query >= 0) & (part_of_query == 0),
        f"are not of {episodes.part}/{regime}": (query >= 0)
        & ~np.isin(part_of_query, [0, *lawful]),
        "are in the support set too": (query >= 0) & np.isin(query, shots),
        "are left out of the candidates": banned,
        "have another rating than the data": data.ratings[query] != episodes.query_ratings.values,
        "are relevant though their rating is not, or the reverse": (query >= 0)
        & (_relevance(data.ratings[query], episodes) != episodes.query_labels.values),
        "have a user that is in train": _meets(data.users, query, in_train)
        & (regime in ("user_cold", "both_cold")),
        "have an item that is in train": _meets(data.items, query, in_train)
        & (regime in ("item_cold", "both_cold")),
    }
    where = f"{episodes.part}/{regime}, K={episodes.k_shot}"
    problems = [
        f"{where}: {int(bad.sum())} queries {what}" for what, bad in found.items() if bad.any()
    ]
    if len(np.unique(query)) < len(query):
        problems.append(f"{where}: a query occurs twice")
    astray = (shots < 0) | ~np.isin(part_of_shots, own)
    if astray.any():
        problems.append(f"{where}: {int(astray.sum())} shots are neither of train nor of the part")
    labels = episodes.support.labels[lines, places]
    mislabelled = (shots >= 0) & (_label(data.ratings[shots], episodes) != labels)
    if mislabelled.any():
        problems.append(f"{where}: {int(mislabelled.sum())} shots have another label than the data")
    if protocol is None:
        kept = episodes.k_shot if reserve is None else reserve
        incomplete = _incomplete(split, episodes, kept, limit)
        problems += [f"{where}: {problem}" for problem in incomplete]
    elif protocol.query is not None:
        # of a known user all that the split holds out
        held_out = np.bincount(
            data.users[split.rows(episodes.part, "warm")], minlength=data.n_users
        )
        due = held_out[episodes.tasks] if regime == "warm" else protocol.query
        if (episodes.query.lengths != due).any():
            problems.append(f"{where}: tasks have other than the {protocol.query} queries due")
    return problems


def _relevance(
    ratings: Float32[np.ndarray, " n"], episodes: EvaluationEpisodes
) -> Float32[np.ndarray, " n"]:
    """[n] 1 where a rating is relevant; without a threshold, all are."""
    least = -np.inf if episodes.threshold is None else episodes.threshold
    return (ratings >= least).astype(np.float32)


def _label(
    ratings: Float32[np.ndarray, " n"], episodes: EvaluationEpisodes
) -> Float32[np.ndarray, " n"]:
    """[n] what a shot of a rating says."""
    return ratings if episodes.feedback == "rating" else _relevance(ratings, episodes)


def _incomplete(
    split: Split, episodes: EvaluationEpisodes, reserve: int, limit: int | None
) -> Iterator[str]:
    """What tasks are not asked for, or need not rank, though they should.

    A task has all that it did in the regime among its queries, or left out of what it ranks; and of
    what is left out, nothing that it did not do.
    """
    data, regime, part = split.dataset, episodes.regime, episodes.part
    of_users = episodes.kind == "user"
    tasks = _able(split, part, regime, of_users, reserve)
    expected = len(tasks) if limit is None else min(limit, len(tasks))
    if len(episodes) != expected or not np.isin(episodes.tasks, tasks).all():
        yield f"{len(episodes)} tasks are not {expected} of the {len(tasks)} that can be asked"
        return
    by_task, by_candidate = (data.users, data.items) if of_users else (data.items, data.users)
    if not of_users:
        catalogue = np.unique(data.users[split.part == 0])
    elif regime in ("warm", "user_cold"):
        catalogue = np.unique(data.items[split.part == 0])
    else:
        catalogue = split.items_of(part)
    if not np.array_equal(episodes.candidates, catalogue):
        yield f"{len(episodes.candidates)} candidates are not the {len(catalogue)} of the regime"
        return

    def marked(rows: Int64[np.ndarray, " m"]) -> set[int]:
        mine = rows[np.isin(by_task[rows], episodes.tasks)]
        number = np.searchsorted(episodes.tasks, by_task[mine])
        place = np.searchsorted(catalogue, by_candidate[mine])
        inside = catalogue[np.minimum(place, len(catalogue) - 1)] == by_candidate[mine]
        return set((number[inside] * len(catalogue) + place[inside]).tolist())

    def cells(pairs: tuple[np.ndarray, np.ndarray]) -> set[int]:
        return set((pairs[0] * len(catalogue) + pairs[1]).tolist())

    asked, out = cells(episodes.query.pairs()), cells(episodes.excluded.pairs())
    own = marked(split.rows(part, regime))
    if regime == "warm":
        known = marked(split.rows("train"))
        if part == "test":
            known |= marked(split.rows("validation", "warm"))
        lawful, needed = known, known
    elif regime == "user_cold" or not of_users:
        # the support, and what is kept for longer ones: as much of each task
        counts = _distinct(episodes.excluded)
        if (counts != reserve).any():
            span = f"{counts.min()} to {counts.max()}"
            yield f"{span} candidates are left out of a task, not {reserve}"
        lines, places = np.nonzero(episodes.support.mask)
        shots = np.searchsorted(catalogue, episodes.support.candidates[lines, places])
        lawful, needed = own, cells((lines, shots))
    else:
        lawful, needed = set[int](), set[int]()
    if astray := out - lawful:
        yield f"{len(astray)} candidates are left out that the task may well be recommended"
    if ranked := needed - out:
        yield f"{len(ranked)} candidates are ranked that the task is known to have"
    if unasked := own - asked - out:
        yield f"{len(unasked)} interactions of the tasks are neither asked for nor left out"


def _able(
    split: Split, part: Part, regime: str, of_users: bool, reserve: int
) -> Int64[np.ndarray, " n"]:
    """The tasks that have enough interactions for the support, and something to be asked."""
    by_task = split.dataset.users if of_users else split.dataset.items
    asked = np.bincount(by_task[split.rows(part, regime)], minlength=1 + int(by_task.max()))
    if regime == "user_cold" or not of_users:
        return np.flatnonzero(asked > reserve)
    pool = split.rows(part, "user_cold") if regime == "both_cold" else split.rows("train")
    known = np.bincount(by_task[pool], minlength=len(asked))
    return np.flatnonzero((asked > 0) & (known >= reserve))


def _meets(
    side: Int32[np.ndarray, " n"], rows: Int64[np.ndarray, " m"], train: Shaped[np.ndarray, " n"]
) -> Shaped[np.ndarray, " m"]:
    """[m] whether the user, or item, of each row occurs in train."""
    return np.isin(side[rows], side[train])


def _redrawn(config: RunConfig, split: Split, looked: bool) -> Redrawn:
    evaluations: dict[Place, EvaluationEpisodes] = {}
    for kind, drawn in (("main", main_episodes), ("curve", curve)):
        if kind == "curve" and "test" not in config.evaluation.parts:
            continue
        for one in drawn(config, split):
            evaluations[kind, one.part, one.regime, one.k_shot] = one
    looks = list(look_episodes(config, split)) if looked and len(split.rows("validation")) else []
    problems = []
    of_items = config.episode.task == "item"
    shots = config.evaluation.item_k_curve if of_items else config.evaluation.k_curve
    for (kind, *_), one in evaluations.items():
        reserve = max(shots) if kind == "curve" else None
        problems += violations(split, one, config.protocol, reserve, config.evaluation.tasks)
    for one in looks:
        problems += violations(split, one, config.protocol, limit=config.evaluation.look_tasks)
    return Redrawn(
        evaluations,
        {f"{one.part}/{one.regime}": one.key for one in looks},
        tuple(dict.fromkeys(problems)),
    )


def _differences(record: Record, redrawn: Redrawn) -> Iterator[str]:
    named: list[dict[str, Any]] | None = record.content.get("episodes")
    if named is None:
        return
    noted = {
        (one["evaluation"], one["part"], one["regime"], one["k_shot"]): one["key"] for one in named
    }
    for place in sorted({*noted, *redrawn.evaluations}):
        evaluation, part, regime, k_shot = place
        where = f"{evaluation} {part}/{regime}, K={k_shot}"
        if place not in noted:
            yield f"{where}: the record names no episodes"
        elif place not in redrawn.evaluations:
            yield f"{where}: was measured, but the configuration does not ask for it"
        elif noted[place] != redrawn.evaluations[place].key:
            yield f"{where}: the query sets are not those that the data give"


def _rows(record: Record, redrawn: Redrawn) -> Iterator[str]:
    """What the rows per task say of their episodes."""
    keys = ["evaluation", "part", "regime", "k_shot"]
    seen = set()
    place: Any
    for (*place, adapted), here in record.per_task.groupby([*keys, "adapted"], sort=False):
        evaluation, part, regime, k_shot = place
        where = f"{evaluation} {part}/{regime}, K={k_shot}"
        seen.add(tuple(place))
        episodes = redrawn.evaluations.get((evaluation, part, regime, int(k_shot)))
        if episodes is None:
            yield f"{where}: has results per task, but the configuration does not ask for it"
        elif not (
            np.array_equal(here["task"], episodes.tasks)
            and np.array_equal(here["n_query"], episodes.query.lengths)
        ):
            yield f"{where} (adapted: {bool(adapted)}): tasks or queries are not those of the data"
        else:
            for column, counts in _counted(record.config, episodes).items():
                if column not in here or not np.array_equal(here[column], counts):
                    yield f"{where} (adapted: {bool(adapted)}): {column} is not that of the data"
    for evaluation, part, regime, k_shot in sorted({*redrawn.evaluations} - seen):
        yield f"{evaluation} {part}/{regime}, K={k_shot}: has no results per task"


def _counted(config: RunConfig, episodes: EvaluationEpisodes) -> dict[str, np.ndarray]:
    """The counts per task that episodes alone decide; those of a shortlist hang on what drew it."""
    if config.protocol is not None or config.evaluation.shortlist:
        return {}
    numbers, labels = episodes.query_labels.pairs()
    return {
        "n_candidates": len(episodes.candidates) - _distinct(episodes.excluded),
        "n_relevant": np.bincount(numbers[labels == 1], minlength=len(episodes)),
    }


def _distinct(lists: Ragged) -> Int64[np.ndarray, " n"]:
    """[n] how many different values each list has."""
    numbers = np.unique(np.stack(lists.pairs()), axis=1)[0]
    return np.bincount(numbers.astype(np.int64), minlength=len(lists))


def _chances(record: Record, redrawn: Redrawn) -> Iterator[str]:
    """Levels of chance that are not those of the episodes; a shortlist, or protocol, has others."""
    config = record.config
    if config.protocol is not None or config.evaluation.shortlist:
        return
    noted = record.content.get("chance", {})
    for (kind, part, regime, k_shot), episodes in redrawn.evaluations.items():
        if kind != "main" or k_shot != config.shots(regime)[0]:
            continue
        found = noted.get(part, {}).get(regime, {})
        levels = _levels(episodes, config.cutoffs)
        # sums of logarithms differ in the last bits from one machine to another
        agree = found.keys() == levels.keys() and all(
            value == found[name]
            if value is None or found[name] is None
            else math.isclose(value, found[name], rel_tol=1e-9)
            for name, value in levels.items()
        )
        if not agree:
            yield f"main {part}/{regime}: the levels of chance are not those of the data"


def _levels(episodes: EvaluationEpisodes, cutoffs: Sequence[int]) -> dict[str, float | None]:
    """The mean over tasks of what a constant score has in the catalogue; None without a value."""
    means = chance(episodes, cutoffs).mean()
    return {
        str(name): None if np.isnan(value) else float(value)
        for name, value in means.items()
        if str(name).startswith("catalogue/")
    }
