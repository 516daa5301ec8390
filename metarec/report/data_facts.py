"""The numbers of a data set card: sizes, texts, episodes, and how cold each regime is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int32, Int64, Shaped
from scipy import sparse

from metarec.data import Dataset
from metarec.episodes import labels_of
from metarec.errors import EpisodeError
from metarec.evaluation.episodes import EvaluationEpisodes, Part, evaluation_episodes
from metarec.learner import Feedback, TaskKind
from metarec.splits import REGIMES, Split
from metarec.text import default_template

LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""The quantiles that a card shows: least, quartiles and tenths, most."""

_DAY = 24 * 60 * 60
_LOOKED_AT = 5_000  # tasks of a regime whose nearest others are looked for
_AT_ONCE = 20_000_000  # pairs of a task and another that are in memory at once

Quantiles = Float64[np.ndarray, " levels"]


def quantiles(values: Shaped[np.ndarray, " n"]) -> Quantiles:
    """Returns the values at `LEVELS`; NaN where there are none."""
    if len(values) == 0:
        return np.full(len(LEVELS), np.nan)
    return np.quantile(values.astype(np.float64), LEVELS)


@dataclass(frozen=True)
class Sizes:
    """How many interactions there are, of whom and of what.

    Args:
        density: share of the user-item pairs that are interactions.
        ratings: rating to how often it occurs; empty for implicit feedback.
        of_users: quantiles of the interactions of a user.
        of_items: quantiles of the interactions of an item.
        top_tenth: share of the interactions that the most popular tenth of the items has.
        first: date of the first interaction, in UTC; None without times.
        last: date of the last.
        within_a_day: share of users all of whose interactions lie within 24 hours; NaN without
            times.
    """

    density: float
    ratings: Mapping[float, int]
    of_users: Quantiles
    of_items: Quantiles
    top_tenth: float
    first: str | None
    last: str | None
    within_a_day: float


def sizes_of(data: Dataset) -> Sizes:
    """Counts the interactions of a data set."""
    of_users = np.bincount(data.users, minlength=data.n_users)
    of_items = np.bincount(data.items, minlength=data.n_items)
    values, counts = np.unique(data.ratings, return_counts=True)
    top = np.sort(of_items)[::-1][: max(1, data.n_items // 10)]
    within = np.nan
    if data.times is not None:
        times = pd.Series(data.times).groupby(data.users)
        within = float((times.max() - times.min() < _DAY).mean())
    return Sizes(
        density=len(data) / (data.n_users * data.n_items),
        ratings={}
        if data.feedback == "implicit"
        else {float(value): int(count) for value, count in zip(values, counts, strict=True)},
        of_users=quantiles(of_users),
        of_items=quantiles(of_items),
        top_tenth=float(top.sum() / len(data)),
        first=None if data.times is None else _date(data.times.min()),
        last=None if data.times is None else _date(data.times.max()),
        within_a_day=within,
    )


def _date(seconds: np.int64) -> str:
    return str(pd.Timestamp(int(seconds), unit="s").date())


@dataclass(frozen=True)
class Text:
    """What a field says of items or users.

    Args:
        field: its name.
        known: share of the items or users that have it.
        distinct: how many different texts there are.
        words: quantiles of its words, where it is known.
    """

    field: str
    known: float
    distinct: int
    words: Quantiles


def texts_of(frame: pd.DataFrame | None) -> list[Text]:
    """Looks at each field of `Dataset.item_text` or `Dataset.user_text`."""
    if frame is None:
        return []
    return [_text(str(name), frame[name].tolist()) for name in frame.columns]


def rendered_text(data: Dataset) -> Text | None:
    """The text that an encoder reads of an item by default, all fields in one."""
    template = default_template(data)
    if template is None:
        return None
    texts = template.render(data.item_text).texts
    return _text(str(template), [text or None for text in texts])


def _text(field: str, values: list[str | None]) -> Text:
    known = [str(value) for value in values if value is not None and value == value]
    words = np.array([len(text.split()) for text in known], dtype=np.int64)
    return Text(field, len(known) / max(1, len(values)), len(set(known)), quantiles(words))


@dataclass(frozen=True)
class Regime:
    """The episodes of a part and regime, and what is known of those in them from meta-train.

    Args:
        task: `user` or `item` tasks.
        part: `validation` or `test`.
        regime: where the queries lie.
        tasks: how many there are.
        left_out: tasks without an episode, by reason.
        history: quantiles of the interactions of a task that its support is drawn from.
        candidates: how many the regime has.
        ranked: quantiles of the candidates that a task ranks.
        relevant: quantiles of its relevant queries.
        without_relevant: tasks that have none.
        chance: mean over the other tasks of the share of relevant candidates: the precision of a
            random ranking.
        of_task: quantiles of the train interactions of a task itself.
        of_candidate: quantiles of the train interactions of a candidate.
        of_relevant: quantiles of the train interactions of a relevant query.
        of_shot: quantiles of the train interactions of what is in a support set.
        shared: quantiles over tasks (5,000 of them, evenly spaced, where there are more) of the
            most shots that one known user (in item tasks: item) shares with the task, other than
            the task itself.
    """

    task: TaskKind
    part: Part
    regime: str
    tasks: int
    left_out: Mapping[str, int]
    history: Quantiles
    candidates: int
    ranked: Quantiles
    relevant: Quantiles
    without_relevant: int
    chance: float
    of_task: Quantiles
    of_candidate: Quantiles
    of_relevant: Quantiles
    of_shot: Quantiles
    shared: Quantiles


def regimes_of(
    split: Split,
    part: Part,
    k_shot: int = 10,
    feedback: Feedback = "binary",
    threshold: float | None = 4.0,
) -> list[Regime]:
    """Draws the episodes of each regime, with seed 0, and of item tasks, and counts in them.

    Args:
        split: whose episodes are drawn.
        part: `validation` or `test`.
        k_shot: shots of every task.
        feedback: what the labels are.
        threshold: lowest rating that counts as relevant; None for implicit feedback.

    Returns:
        One a regime that has an episode: user tasks in the order of `REGIMES`, then item tasks.
    """
    found = []
    asked: list[tuple[TaskKind, str]] = [("user", regime) for regime in REGIMES]
    for task, regime in [*asked, ("item", "item_cold")]:
        try:
            episodes = evaluation_episodes(
                split, part, regime, task, k_shot, feedback=feedback, threshold=threshold
            )
        except EpisodeError:  # no task of the regime has enough interactions
            continue
        found.append(_regime(split, episodes))
    return found


def _regime(split: Split, episodes: EvaluationEpisodes) -> Regime:
    data, rows = split.dataset, split.rows("train")
    of_users = np.bincount(data.users[rows], minlength=data.n_users)
    of_items = np.bincount(data.items[rows], minlength=data.n_items)
    of_tasks, of_candidates = of_users, of_items
    if episodes.kind == "item":
        of_tasks, of_candidates = of_items, of_users
    histories = np.bincount(_support_rows(split, episodes), minlength=len(of_tasks))
    numbers, query = episodes.query.pairs()
    relevant = episodes.query_labels.values > 0
    counts = np.bincount(numbers[relevant], minlength=len(episodes))
    ranked = len(episodes.candidates) - episodes.excluded.lengths
    has = counts > 0
    return Regime(
        task=episodes.kind,
        part=episodes.part,
        regime=episodes.regime,
        tasks=len(episodes),
        left_out=episodes.left_out,
        history=quantiles(histories[episodes.tasks]),
        candidates=len(episodes.candidates),
        ranked=quantiles(ranked),
        relevant=quantiles(counts),
        without_relevant=int((~has).sum()),
        chance=float((counts[has] / ranked[has]).mean()) if has.any() else float("nan"),
        of_task=quantiles(of_tasks[episodes.tasks]),
        of_candidate=quantiles(of_candidates[episodes.candidates]),
        of_relevant=quantiles(of_candidates[episodes.candidates[query[relevant]]]),
        of_shot=quantiles(of_candidates[episodes.support.candidates.ravel()]),
        shared=quantiles(most_shared(split, episodes, _LOOKED_AT)),
    )


def _support_rows(split: Split, episodes: EvaluationEpisodes) -> Int32[np.ndarray, " m"]:
    """The task of each interaction that a support may be drawn from."""
    data = split.dataset
    if episodes.kind == "item":
        return data.items[split.rows(episodes.part, "item_cold")]
    new = episodes.regime in ("user_cold", "both_cold")
    return data.users[split.rows(episodes.part, "user_cold") if new else split.rows("train")]


def most_shared(
    split: Split, episodes: EvaluationEpisodes, most_tasks: int | None = None
) -> Int64[np.ndarray, " tasks"]:
    """For each task the most of its shots that any one other task has in meta-train.

    Where nobody shares more than a few, what is known of others says little about the task.

    Args:
        split: whose `train` part tells what others have.
        episodes: of one regime.
        most_tasks: how many tasks to look at, evenly spaced; None for all.
    """
    data, rows = split.dataset, split.rows("train")
    sides = (data.users[rows], data.items[rows])
    sizes = (data.n_users, data.n_items)
    by_task, by_candidate = sides if episodes.kind == "user" else sides[::-1]
    n_tasks, n_candidates = sizes if episodes.kind == "user" else sizes[::-1]
    ones = np.ones(len(rows), dtype=np.int32)
    known = sparse.csr_matrix((ones, (by_candidate, by_task)), shape=(n_candidates, n_tasks))
    count = min(len(episodes), most_tasks or len(episodes))
    looked_at = np.linspace(0, len(episodes) - 1, count).round().astype(np.int64)
    shots, tasks = episodes.support.candidates[looked_at], episodes.tasks[looked_at]
    others_of_shots = np.bincount(by_candidate, minlength=n_candidates)[shots].sum()
    chunk = max(1, int(_AT_ONCE * count / max(1, others_of_shots)))
    most = np.zeros(count, dtype=np.int64)
    for start in range(0, count, chunk):
        part = shots[start : start + chunk]
        at = np.repeat(np.arange(len(part)), part.shape[1])
        chosen = sparse.csr_matrix(
            (np.ones(part.size, dtype=np.int32), (at, part.ravel())),
            shape=(len(part), n_candidates),
        )
        pairs = (chosen @ known).tocoo()
        others = pairs.col != tasks[start : start + chunk][pairs.row]
        np.maximum.at(most, start + pairs.row[others], pairs.data[others])
    return most


def train_counts(split: Split) -> tuple[Quantiles, Quantiles]:
    """Quantiles of the train interactions of a known user, and of a known item."""
    data, rows = split.dataset, split.rows("train")
    of_users = np.bincount(data.users[rows], minlength=data.n_users)
    of_items = np.bincount(data.items[rows], minlength=data.n_items)
    return quantiles(of_users[split.users_of("warm")]), quantiles(of_items[split.items_of("warm")])


def share_of_relevant(data: Dataset, feedback: Feedback, threshold: float | None) -> float:
    """Share of the interactions that count as relevant."""
    kind: Feedback = "implicit" if feedback == "implicit" else "binary"
    return float((labels_of(data.ratings, kind, threshold) > 0).mean())
