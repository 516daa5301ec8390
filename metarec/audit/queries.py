"""Whether query sets are what the data give, and whether anything of train is among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from metarec.audit.finding import Finding, fails
from metarec.evaluation.episodes import EvaluationEpisodes
from metarec.runs.config import RunConfig
from metarec.runs.measure import curve, look_episodes, main_episodes
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
    """Compares the episodes of a record, and its rows per task, with those that the data give."""
    name = record.path.name
    problems = [*redrawn.violations, *_differences(record, redrawn), *_rows(record, redrawn)]
    yield from (fails(QUERIES, name, problem) for problem in problems)
    if not problems:
        yield Finding(QUERIES, name)


def violations(split: Split, episodes: EvaluationEpisodes, also: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with evaluation episodes, by the data and the parts of the split alone.

    Nothing here calls what draws episodes: it is said a second time.

    Args:
        split: of the data.
        episodes: to be judged.
        also: regimes whose interactions may be queries too.

    Returns:
        A sentence each; empty if all is well.
    """
    data, regime = split.dataset, episodes.regime
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
    return problems


def _meets(
    side: Int32[np.ndarray, " n"], rows: Int64[np.ndarray, " m"], train: Shaped[np.ndarray, " n"]
) -> Shaped[np.ndarray, " m"]:
    """[m] whether the user, or item, of each row occurs in train."""
    return np.isin(side[rows], side[train])


def _redrawn(config: RunConfig, split: Split, looked: bool) -> Redrawn:
    # the tasks of a published protocol may have items that no train user has rated
    also = ("both_cold",) if config.protocol is not None else ()
    evaluations: dict[Place, EvaluationEpisodes] = {}
    for kind, drawn in (("main", main_episodes), ("curve", curve)):
        if kind == "curve" and "test" not in config.evaluation.parts:
            continue
        for one in drawn(config, split):
            evaluations[kind, one.part, one.regime, one.k_shot] = one
    looks = list(look_episodes(config, split)) if looked and len(split.rows("validation")) else []
    problems = []
    for one in (*evaluations.values(), *looks):
        problems += violations(split, one, also if one.regime == "user_cold" else ())
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
    for evaluation, part, regime, k_shot in sorted({*redrawn.evaluations} - seen):
        yield f"{evaluation} {part}/{regime}, K={k_shot}: has no results per task"
