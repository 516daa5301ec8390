"""`Shortlist`: a few candidates of each task, drawn by a fast learner for a slow one to rerank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from metarec.episodes import Ragged
from metarec.errors import ConfigError, EpisodeError
from metarec.evaluation.episodes import EvaluationEpisodes
from metarec.evaluation.lists import top_n
from metarec.evaluation.rankings import check_scores, sums
from metarec.learner import Learner, MetaParameters, check_served


@dataclass(frozen=True, eq=False)
class Shortlist:
    """The candidates that a retriever drew for each task, and its order of all others.

    The others stay in the retriever's order behind those that were drawn, so that the whole
    catalogue is ranked and every metric is what it is elsewhere.

    Args:
        positions: for each task the positions in `episodes.candidates` that were drawn, the
            retriever's best first.
        behind: [T, C] the retriever's order of the whole catalogue: -1 for its best score, -2 for
            the next one, and so on; candidates that it ties are tied.
    """

    positions: Ragged
    behind: Float32[np.ndarray, "tasks c"]

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.behind)

    def order(self, task: int, scores: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " c"]:
        """The order of a whole catalogue, once its shortlist is reranked.

        Args:
            task: row of the task.
            scores: [n] score of each candidate that was drawn, in the order of `positions`.

        Returns:
            [C] scores that say no more than the order: 1 and above for the candidates that were
            drawn, -1 and below for the others; ties stay ties.
        """
        ordered = self.behind[task].copy()
        ordered[self.positions[task]] = 1 + _ranks(scores)
        return ordered

    def recall(self, episodes: EvaluationEpisodes) -> Float64[np.ndarray, " tasks"]:
        """The share of each task's relevant queries that was drawn: what reranking can reach.

        Args:
            episodes: those of the shortlist.

        Returns:
            [T] in [0, 1]; NaN where no query is relevant.
        """
        self.check(episodes)
        drawn = np.zeros(self.behind.shape, dtype=bool)
        drawn[self.positions.pairs()] = True
        rows, queries = episodes.query.pairs()
        relevant = episodes.query_labels.values == 1
        rows, queries = rows[relevant], queries[relevant]
        count = sums(rows, np.ones(len(rows)), len(self))
        return sums(rows, drawn[rows, queries], len(self)) / np.where(count > 0, count, np.nan)

    def check(self, episodes: EvaluationEpisodes) -> None:
        """Raises EpisodeError if the shortlist is not one of such episodes."""
        expected = (len(episodes.tasks), len(episodes.candidates))
        if self.behind.shape != expected or len(self.positions) != len(self):
            raise EpisodeError(
                f"the shortlist is one of {self.behind.shape[0]} tasks with {self.behind.shape[1]} "
                f"candidates, the episodes have {expected[0]} with {expected[1]}: draw it for them"
            )


def draw_shortlist(
    retriever: Learner,
    meta_parameters: MetaParameters,
    episodes: EvaluationEpisodes,
    size: int,
    chunk: int = 64,
) -> Shortlist:
    """Draws the candidates of each task that a retriever ranks highest.

    What the episode excludes is never drawn. Of candidates that the retriever ties, those with the
    lower position are drawn first.

    Args:
        retriever: scores the whole catalogue, after it has adapted to the task's support.
        meta_parameters: what its `fit` returned.
        episodes: the tasks.
        size: candidates that are drawn for a task; all of them where it has fewer.
        chunk: tasks that are adapted and scored together.

    Raises:
        ConfigError: if `size` or `chunk` is below 1.
        LearnerError: if the retriever does not serve the tasks or the feedback.
        ScoreError: if its scores are not float32 [T, C], or one is NaN.
    """
    if size < 1 or chunk < 1:
        raise ConfigError(
            f"evaluation.shortlist={size} and evaluation.chunk={chunk} must be at least 1 where a "
            "shortlist is drawn"
        )
    check_served(retriever, episodes.kind, episodes.feedback)
    n_tasks, n_candidates = len(episodes.tasks), len(episodes.candidates)
    behind = np.empty((n_tasks, n_candidates), np.float32)
    lengths, drawn = [np.zeros(1, np.int64)], [np.zeros(0, np.int64)]
    for start in range(0, n_tasks, chunk):
        part = slice(start, min(start + chunk, n_tasks))
        found = retriever.score(
            retriever.adapt(meta_parameters, episodes.support[part]), episodes.candidates
        )
        scores = check_scores(found, episodes.tasks[part], n_candidates, type(retriever).__name__)
        best = top_n(scores, size, episodes.excluded.pairs(part))
        lengths.append(np.diff(best.offsets))
        drawn.append(best.candidates)
        for task, line in zip(range(part.start, part.stop), scores, strict=True):
            ranks = _ranks(line)
            behind[task] = ranks - (ranks.max(initial=0) + 1)
    return Shortlist(Ragged(np.cumsum(np.concatenate(lengths)), np.concatenate(drawn)), behind)


def _ranks(scores: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """Dense ranks from 0 for the lowest score; equal scores have equal ranks."""
    # float32 holds every whole number up to 2^24, and no catalogue is as large
    return np.unique(scores, return_inverse=True)[1].astype(np.float32)
