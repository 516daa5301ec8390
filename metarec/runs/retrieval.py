"""`Retrieval`: the candidates that a run's learner reranks, drawn by a baseline."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from metarec.consumed import Entry, Ledger
from metarec.evaluation.episodes import EvaluationEpisodes
from metarec.evaluation.shortlist import Shortlist, draw_shortlist
from metarec.learner import Learner, MetaParameters
from metarec.runs.config import RunConfig
from metarec.runs.learners import build_retriever
from metarec.runs.prepare import Materials, training_of

_KEPT = 4
"""Shortlists that are kept: those of meta-validation in three cold regimes, and one."""


class Retrieval:
    """Draws shortlists as a run's configuration says.

    The retriever is fitted when the first of them is drawn; episodes that come again soon have
    theirs at once.

    Args:
        config: of the run.
        materials: what it works on.
        progress: whether to show progress bars.

    Raises:
        ConfigError: if the retriever would have to be trained, or cannot be made.
    """

    def __init__(self, config: RunConfig, materials: Materials, progress: bool = False) -> None:
        self.config, self.materials, self.progress = config, materials, progress
        self._retriever = build_retriever(config)
        self._drawn: dict[str, Shortlist] = {}
        self._ledger = Ledger()

    @property
    def consumed(self) -> tuple[Entry, ...]:
        """What the fits of the retriever consumed; nothing if there is none."""
        return tuple(replace(one, fit=f"retriever: {one.fit}") for one in self._ledger.entries)

    def shortlist(self, episodes: EvaluationEpisodes) -> Shortlist | None:
        """What the learner reranks in some episodes; None if it ranks the whole catalogue."""
        if self._retriever is None:
            return None
        found = self._drawn.pop(episodes.key, None)
        if found is None:
            found = self._draw(self._retriever, episodes)
        self._drawn[episodes.key] = found
        while len(self._drawn) > _KEPT:
            del self._drawn[next(iter(self._drawn))]
        return found

    def _draw(self, retriever: Learner, episodes: EvaluationEpisodes) -> Shortlist:
        evaluation = self.config.evaluation
        return draw_shortlist(
            retriever, self._fitted, episodes, evaluation.shortlist, evaluation.chunk
        )

    @cached_property
    def _fitted(self) -> MetaParameters:
        assert self._retriever is not None
        training = training_of(self.config, self.materials, None, None, self.progress, self._ledger)
        training.note("learner")
        return self._retriever.fit(training)
