"""What a cross-encoder reads: what a user liked, in words, beside the text of an item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from metarec.learner import Feedback
from metarec.text.tokens import Pair, Tokenizer

BINARY = ("disliked", "liked")
IMPLICIT = ("chose", "chose")
RATINGS = ("hated", "disliked", "found middling", "liked", "loved")
"""Words for ratings, from the lowest fifth of the scale to the highest."""


@dataclass(frozen=True)
class UserItemPairs:
    """Writes a user's shots and an item as one sequence.

    The best liked come first, and within a word titles by the alphabet, so that the order of the
    shots does not matter; a text that is too long loses what is last.

    Args:
        tokenizer: whose `max_length` holds for both texts together.
        titles: what stands for an item in a user's text (index: item).
        texts: what is read of an item that is scored (index: item).
        feedback: what the labels are.
        scale: lowest and highest label, for ratings.
    """

    tokenizer: Tokenizer
    titles: Sequence[str]
    texts: Sequence[str]
    feedback: Feedback
    scale: tuple[float, float] = (1.0, 5.0)

    def user(self, shots: Int32[np.ndarray, " k"], labels: Float32[np.ndarray, " k"]) -> str:
        """The text of a user.

        Args:
            shots: [K] items.
            labels: [K] ratings, or 1 and 0.

        Returns:
            The text; "" at K=0.
        """
        words = {"binary": BINARY, "implicit": IMPLICIT}.get(self.feedback, RATINGS)
        low, high = self.scale if self.feedback == "rating" else (0.0, 1.0)
        share = (labels - low) / max(high - low, 1e-6)
        levels = np.clip((share * len(words)).astype(int), 0, len(words) - 1)
        parts = []
        for word in dict.fromkeys(reversed(words)):
            own = [level for level, name in enumerate(words) if name == word]
            items = np.unique(shots[np.isin(levels, own)])
            titles = sorted(self._title(item) for item in items.tolist())
            if titles:
                parts.append(f"{word}: {'; '.join(titles)}.")
        return " ".join(parts)

    def _title(self, item: int) -> str:
        return self.titles[item] or self.texts[item]

    def of_shots(
        self, shots: Int32[np.ndarray, " k"], labels: Float32[np.ndarray, " k"]
    ) -> list[Pair]:
        """Each shot beside what is known of the user without it.

        Args:
            shots: [K] items.
            labels: [K] ratings, or 1 and 0.
        """
        others = [np.arange(len(shots)) != shot for shot in range(len(shots))]
        users = [self.user(shots[rest], labels[rest]) for rest in others]
        return self.tokenizer.tokenise_pairs(users, [self.texts[item] for item in shots])

    def of_candidates(
        self,
        shots: Int32[np.ndarray, " k"],
        labels: Float32[np.ndarray, " k"],
        candidates: Int32[np.ndarray, " n"],
    ) -> list[Pair]:
        """Each candidate beside all that is known of the user.

        Args:
            shots: [K] items.
            labels: [K] ratings, or 1 and 0.
            candidates: [N] items.
        """
        users = [self.user(shots, labels)] * len(candidates)
        return self.tokenizer.tokenise_pairs(users, [self.texts[item] for item in candidates])
