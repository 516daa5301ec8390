"""Whether every fit consumed train and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from metarec.audit.finding import Finding, fails, undecided
from metarec.audit.queries import Redrawn
from metarec.consumed import INTERACTIONS, indices_hash, interactions_hash
from metarec.runs import EpisodeConfig
from metarec.runs.measure import LOOKS
from metarec.runs.store import Record
from metarec.splits import Split

FITS = "what the fits consumed"

_OF_CLASS: dict[str, tuple[str, ...]] = {
    "Popularity": ("popularity",),
    "ItemMean": ("means",),
    "ItemKNN": ("matrix",),
    "EASE": ("matrix",),
    "ALS": ("matrix",),
    "BiasedMF": ("factors, biases and readout",),
    "Ridge": ("normaliser",),
    "PredictedPopularity": ("normaliser", "popularity"),
    "TfidfCosine": ("vocabulary of words",),
    "MeLU": ("normaliser",),
    "Hybrid": ("batches of users", "contents", "neighbours"),
    "MetaEmbedding": ("factors",),
    "MWUF": ("factors",),
    "DropoutNet": ("factors",),
    "CVAR": ("factors",),
    "GAR": ("factors",),
}
"""What each class of learner fits at the least, whatever its arguments."""

_INPUTS = frozenset({"normaliser", "factors"})
"""One of which is fitted by every other learner of a backend: what it reads."""

_FIRST = {"validation": 1, "test": 5}


def check_fits(
    record: Record, split: Split, redrawn: Redrawn, allow_old: bool = False
) -> Iterator[Finding]:
    """Compares what each fit of a run noted with what train is by the data.

    Args:
        record: of the run.
        split: of its data.
        redrawn: its episodes, for the looks of early stopping.
        allow_old: whether a record from before the notes is no failure.
    """
    name = record.path.name
    entries: list[dict[str, Any]] | None = record.content.get("consumed")
    if entries is None:
        problem = "the record is older than the audit: it does not say what its fits consumed"
        yield (undecided if allow_old else fails)(FITS, name, problem)
        return
    episode = record.config.episode
    problems = []
    expected = _of_rows(split, np.flatnonzero(split.part == 0), episode)
    fits = {one["fit"] for one in entries}
    lacking = [
        needed for needed in ("learner", f"sampler of {episode.task} tasks") if needed not in fits
    ]
    lacking += lacking_fits(record.config.learner.target, fits)
    problems += [f"{needed}: the record does not say what it consumed" for needed in lacking]
    for one in entries:
        fit, what = one["fit"], one["what"]
        if what in expected:
            if (one["count"], one["hash"]) != expected[what]:
                problems.append(f"{fit}: {_leak(split, episode, one, expected[what][0])}")
        elif not what.startswith("validation/"):
            problems.append(f"{fit}: looked at {what}, which is not validation")
        elif one["hash"] != redrawn.looks.get(what):
            problems.append(f"{fit}: looked at other episodes of {what} than the data give")
    if record.log and any("validation" in step for step in record.log) and LOOKS not in fits:
        problems.append(f"{LOOKS}: the record does not say what it looked at")
    yield from (fails(FITS, name, problem) for problem in problems)
    if not problems and not _is_ours(record.config.learner.target):
        problem = (
            f"{record.config.learner.target} is no class of metarec: the record says what it was "
            "handed, not what it read"
        )
        yield undecided(FITS, name, problem)
    elif not problems:
        yield Finding(FITS, name)


def lacking_fits(target: str, fits: Collection[str]) -> list[str]:
    """What a learner of metarec fits and a record says nothing of.

    Args:
        target: dotted path of its class; of classes that are not metarec's nothing is known.
        fits: what the record notes.
    """
    if not _is_ours(target):
        return []
    rest = target.replace(":", ".").partition(".")[2]
    name = rest.rpartition(".")[2]
    if name in _OF_CLASS:
        return [needed for needed in _OF_CLASS[name] if needed not in fits]
    if rest.startswith("baselines.") or _INPUTS & {*fits}:
        return []
    return [" or ".join(sorted(_INPUTS))]


def _is_ours(target: str) -> bool:
    """Whether a dotted path leads into metarec."""
    return target.replace(":", ".").partition(".")[0] == "metarec"


def _of_rows(
    split: Split, rows: Shaped[np.ndarray, " m"], episode: EpisodeConfig
) -> dict[str, tuple[int, str]]:
    """What a fit that consumes some rows of the data has to note: number and hash."""
    data = split.dataset
    users, items = data.users[rows], data.items[rows]
    labels = _labels(data.ratings[rows], episode)
    found = {INTERACTIONS: (len(rows), interactions_hash(users, items, labels))}
    for what, side in (("users", users), ("items", items)):
        distinct = np.unique(side)
        found[what] = len(distinct), indices_hash(distinct)
    return found


def _labels(ratings: Float32[np.ndarray, " m"], episode: EpisodeConfig) -> np.ndarray:
    """What a fit sees of ratings; written anew, as all that an audit compares with."""
    if episode.feedback == "rating":
        return ratings
    if episode.feedback == "implicit":
        return np.ones(len(ratings))
    return np.where(ratings >= episode.threshold, 1.0, 0.0)


def _leak(split: Split, episode: EpisodeConfig, entry: dict[str, Any], count: int) -> str:
    """What was consumed instead of train, where that has a name."""
    what = entry["what"]
    part = split.part
    of = {name: (part >= first) & (part < first + 4) for name, first in _FIRST.items()}
    train = part == 0
    suspects = {
        "all of the data": np.ones(len(part), bool),
        "train and validation": train | of["validation"],
        "train and test": train | of["test"],
        "train, validation and test": train | of["test"] | of["validation"],
        "validation": of["validation"],
        "test": of["test"],
    }
    for name, mask in suspects.items():
        found = _of_rows(split, np.flatnonzero(mask), episode)
        if found[what] == (entry["count"], entry["hash"]):
            return f"consumed the {what} of {name}, not those of train"
    return f"consumed {entry['count']:,} {what} that are not the {count:,} of train"
