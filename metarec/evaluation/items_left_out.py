"""How far a result hangs on which items are cold: the jackknife over candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from tqdm.auto import tqdm

from metarec.episodes import Ragged
from metarec.errors import ConfigError
from metarec.evaluation.episodes import EvaluationEpisodes
from metarec.evaluation.evaluate import evaluate
from metarec.learner import Learner


def without_candidates(
    episodes: EvaluationEpisodes, positions: Int64[np.ndarray, " m"]
) -> EvaluationEpisodes:
    """The same episodes, in which some candidates are neither ranked nor asked for.

    Args:
        episodes: of an evaluation.
        positions: of the candidates in `episodes.candidates`.
    """
    out = np.zeros(len(episodes.candidates), bool)
    out[positions] = True
    n = len(episodes)
    rows, excluded = episodes.excluded.pairs()
    stays = ~out[excluded]
    both = (
        np.concatenate([rows[stays], np.repeat(np.arange(n), len(positions))]),
        np.concatenate([excluded[stays], np.tile(positions, n)]),
    )
    tasks, queries = episodes.query.pairs()
    asked = ~out[queries]

    def left(of: Ragged) -> Ragged:
        return Ragged.group(tasks[asked], of.values[asked], n)

    return replace(
        episodes,
        excluded=Ragged.group(both[0], both[1].astype(excluded.dtype), n),
        query=left(episodes.query),
        query_ratings=left(episodes.query_ratings),
        query_labels=left(episodes.query_labels),
    )


def means_without(
    learners: Sequence[tuple[Learner, Mapping[str, np.ndarray]]],
    episodes: EvaluationEpisodes,
    groups: int = 20,
    seed: int = 0,
    metric: str = "catalogue/ndcg@10",
    chunk: int = 256,
    progress: bool = False,
) -> Float64[np.ndarray, "learners groups"]:
    """The mean over tasks of a metric, with one group of candidates after another left out.

    Args:
        learners: each with its meta-parameters.
        episodes: of an evaluation.
        groups: into which the candidates are drawn, of about the same size.
        seed: of the draw.
        metric: column of `Evaluation.per_task`; `catalogue/<metric>@10`.
        chunk: tasks that are adapted and scored together.
        progress: whether to show a progress bar.

    Returns:
        [learners, groups].

    Raises:
        ConfigError: if there are fewer than two groups, or fewer candidates than groups.
    """
    n = len(episodes.candidates)
    if not 2 <= groups <= n:
        raise ConfigError(f"groups={groups}: 2 to {n} (candidates) are needed")
    parts = np.array_split(np.random.default_rng([seed, 17]).permutation(n), groups)
    found = np.zeros((len(learners), groups))
    bar = tqdm(parts, f"{episodes.regime} without items", disable=not progress, leave=False)
    for group, positions in enumerate(bar):
        left = without_candidates(episodes, np.sort(positions).astype(np.int64))
        for row, (learner, meta) in enumerate(learners):
            done = evaluate(learner, meta, left, cutoffs=(10,), chunk=chunk)
            found[row, group] = np.nanmean(done.per_task[metric].to_numpy(np.float64))
    return found


def jackknife_error(means: Shaped[np.ndarray, "... groups"]) -> Float64[np.ndarray, ...]:
    """Standard error of what was computed without one group after another (delete-a-group).

    `sqrt((G - 1) / G · sum_g (θ_g - mean θ)²)` over the last axis (Efron & Tibshirani 1993,
    equation 11.5; Kott 2001 for groups).
    """
    groups = means.shape[-1]
    apart = means - means.mean(axis=-1, keepdims=True)
    return np.asarray(np.sqrt((groups - 1) / groups * (apart**2).sum(axis=-1)))
