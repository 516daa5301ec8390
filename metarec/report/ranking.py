"""`Ranking`: learners ranked over blocks, as its figure, its table and its small record show it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from metarec.errors import RunError
from metarec.evaluation.ranks import MIN_BLOCKS, Comparison, compare_all
from metarec.evaluation.significance import MIN_EPISODES, MIN_SEEDS, bootstrap
from metarec.report.blocks import Entrants
from metarec.report.labels import group_of, label_of
from metarec.report.selection import RESAMPLES, higher_is_better

_DIGITS = 6


@dataclass(frozen=True)
class Ranked:
    """One learner.

    Args:
        learner: its key in the records.
        label: how it is called.
        group: its group of learners.
        mean_rank: over the blocks; 1 is the best.
        low: lower end of the 95 % bootstrap interval over tasks; None where blocks are no tasks.
        high: upper end.
        first: blocks in which no other learner is better.
        values: what it was ranked by in each block; empty where blocks are tasks.
    """

    learner: str
    label: str
    group: str
    mean_rank: float
    low: float | None
    high: float | None
    first: int
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two learners, of whom the first has the better mean rank.

    Args:
        p: p value of the test, after its correction over all pairs.
        effect: rank-biserial correlation over blocks, positive where the first ranks better.
        wins: blocks in which the first is better.
        ties: blocks in which they are equal.
        losses: blocks in which it is worse.
    """

    p: float
    effect: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Ranking:
    """Learners ranked over blocks.

    Args:
        name: of its files.
        metric: column of the per-task results.
        block: `regime`, of data sets and kinds of task and feedback, or `task`, of one of these.
        of: names of the blocks; where blocks are tasks, of the regime that they are from.
        blocks: number of blocks.
        k_shot: shots, more than one where the records differ.
        seeds: number of seeds, the least of all blocks.
        episodes: values of each learner, the least of all regimes.
        learners: by mean rank, the best first.
        pairs: of the first and second learner, the first and third, and so on.
        cliques: groups of learners, by place, of whom no two differ; all of them, and each largest.
        chi_square: Friedman's statistic.
        f: that of Iman and Davenport; None where it is infinite.
        p: its p value.
        test: of the pairs, `wilcoxon` or `nemenyi`.
        alpha: its level.
        critical_difference: Nemenyi's, of mean ranks.
        smallest_p: the least that Wilcoxon's test can give after Holm's correction.
        left_out: label and reason of each learner that is not ranked.
        notes: where it comes from.
        sources: likewise, as in the small records of the tables.
    """

    name: str
    metric: str
    block: str
    of: tuple[str, ...]
    blocks: int
    k_shot: tuple[int, ...]
    seeds: int
    episodes: int
    learners: tuple[Ranked, ...]
    pairs: tuple[Pair, ...]
    cliques: tuple[tuple[int, ...], ...]
    chi_square: float
    f: float | None
    p: float
    test: str
    alpha: float
    critical_difference: float
    smallest_p: float
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    sources: tuple[Mapping[str, Any], ...]

    @property
    def preliminary(self) -> bool:
        """Whether there are too few seeds or episodes to make a claim."""
        return self.seeds < MIN_SEEDS or self.episodes < MIN_EPISODES

    @property
    def cautions(self) -> tuple[str, ...]:
        """What the blocks are too few for."""
        found = []
        if self.blocks < MIN_BLOCKS:
            found.append(
                f"there are {self.blocks} blocks: ranks over fewer than {MIN_BLOCKS} say little."
            )
        if self.test == "wilcoxon" and self.smallest_p >= self.alpha:
            found.append(
                f"no pair can differ: over {self.blocks} blocks Wilcoxon’s test, after Holm’s "
                f"correction over {len(self.pairs)} pairs, has no p below {self.smallest_p:.2g}."
            )
        return tuple(found)

    def pair(self, one: int, other: int) -> Pair:
        """Two learners by their places, the first of which is before the second."""
        k = len(self.learners)
        return self.pairs[one * k - one * (one + 1) // 2 + other - one - 1]


def ranking_of(
    entrants: Entrants,
    name: str,
    metric: str,
    by_task: bool,
    test: Any,
    notes: Sequence[str],
    sources: Sequence[Mapping[str, Any]],
    alpha: float = 0.05,
) -> Ranking:
    """Ranks learners over blocks.

    Args:
        entrants: who is ranked on what; one block of it where blocks are tasks.
        name: of the files.
        metric: column of the per-task results.
        by_task: whether its tasks are the blocks, or else its regimes.
        test: of the pairs, a `PairTest`.
        notes: as `Ranking` has them.
        sources: likewise.
        alpha: level of the tests.

    Raises:
        RunError: if fewer than two learners can be ranked, or on fewer than two blocks.
    """
    means = {one.measured.name: one.by_task for one in entrants.means}
    if by_task:
        (values,) = means.values()
    else:
        values = pd.DataFrame({block: frame.mean() for block, frame in means.items()}).T
    if min(values.shape) < 2:
        left = "; ".join(f"{label}: {reason}" for label, reason in entrants.left_out)
        raise RunError(
            f"{name}: {values.shape[1]} learners have a value in each of {len(values)} blocks, and "
            f"a ranking takes two of both{f' (left out: {left})' if left else ''}; choose among "
            "learners, regimes and seeds, or take tasks as the blocks"
        )
    compared = compare_all(values, higher_is_better(metric), test, alpha)
    variants = {variant.key: variant for variant in entrants.variants}
    configs = [one.measured.results.config for one in entrants.means]
    targets = {
        learner: target
        for one in entrants.means
        for learner, target in one.measured.results.targets.items()
    }
    learners = []
    for place, key in enumerate(compared.learners):
        variant, ranks = variants[key], compared.ranks[:, place]
        low, high = bootstrap(ranks, resamples=RESAMPLES) if by_task else (None, None)
        learners.append(
            Ranked(
                learner=key,
                label=label_of(variant, configs[0].episode.task),
                group=group_of(variant.learner, targets[variant.learner]),
                mean_rank=float(compared.mean_ranks[place]),
                low=low,
                high=high,
                first=int((ranks == compared.ranks.min(axis=1)).sum()),
                values=() if by_task else tuple(map(float, values[key])),
            )
        )
    return Ranking(
        name=name,
        metric=metric,
        block="task" if by_task else "regime",
        of=tuple(means),
        blocks=compared.blocks,
        k_shot=tuple(sorted({config.episode.k_shot for config in configs})),
        seeds=min(one.seeds for one in entrants.means),
        episodes=min(one.episodes for one in entrants.means),
        learners=tuple(learners),
        pairs=tuple(_pairs(compared, higher_is_better(metric))),
        cliques=compared.cliques,
        chi_square=compared.omnibus.chi_square,
        f=None if math.isinf(compared.omnibus.f) else compared.omnibus.f,
        p=compared.omnibus.p,
        test=compared.test,
        alpha=alpha,
        critical_difference=compared.critical_difference,
        smallest_p=compared.smallest_p,
        left_out=entrants.left_out,
        notes=tuple(notes),
        sources=tuple(sources),
    )


def _pairs(compared: Comparison, more_is_better: bool) -> list[Pair]:
    p = "p_holm" if compared.test == "wilcoxon" else "p_nemenyi"
    sign = 1 if more_is_better else -1
    return [
        Pair(
            float(row[p]), sign * float(row["effect_size"]), row["wins"], row["ties"], row["losses"]
        )
        for row in compared.pairs.to_dict(orient="records")
    ]


def to_json(ranking: Ranking) -> str:
    """The small record of a ranking, from which figure and table are made again."""
    content = {field.name: getattr(ranking, field.name) for field in fields(ranking)}
    tables = {name: content.pop(name) for name in ("learners", "pairs")}
    text = json.dumps(_plain(content), indent=1, ensure_ascii=False)[:-2]
    for name, rows in tables.items():
        columns = json.dumps([field.name for field in fields(rows[0])])
        # one learner, or pair, a line, so that a change of one is a change of one line
        lines = ",\n".join(
            "   " + json.dumps(_plain(list(vars(row).values())), ensure_ascii=False) for row in rows
        )
        text += f',\n "{name}": {{\n  "columns": {columns},\n  "rows": [\n{lines}\n  ]\n }}'
    return f"{text}\n}}\n"


def from_json(text: str) -> Ranking:
    """The ranking of a small record.

    Raises:
        RunError: if it is none.
    """
    try:
        content = json.loads(text)
        learners, pairs = (
            [dict(zip(content[name]["columns"], row, strict=True)) for row in content[name]["rows"]]
            for name in ("learners", "pairs")
        )
        content |= {
            "learners": tuple(Ranked(**one | {"values": tuple(one["values"])}) for one in learners),
            "pairs": tuple(Pair(**one) for one in pairs),
        }
        for name in ("of", "k_shot", "notes", "sources"):
            content[name] = tuple(content[name])
        for name in ("cliques", "left_out"):
            content[name] = tuple(map(tuple, content[name]))
        return Ranking(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"this is no record of a ranking ({type(error).__name__}: {error}); name a file that "
            "python -m metarec.report.critical_difference wrote, or make it again from the results"
        ) from error


def _plain(value: Any) -> Any:
    """For JSON, with numbers of so many digits that text and figure do not change."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{_DIGITS}g}")
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
