"""TF-IDF cosine: items whose words are those of the liked ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int32
from scipy.sparse import csr_array

from metarec.baselines._shared import (
    ANY_FEEDBACK,
    CENTRES,
    clean,
    fit_weights,
    require,
    require_choice,
    shots,
    weigh,
)
from metarec.errors import LearnerError
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.neighbours import pack, unpack


@dataclass(frozen=True)
class TfidfTasks:
    """Profiles of T tasks.

    Args:
        profiles: [T, words] sparse weighted sums of the support's rows.
        words: [n_items, words] sparse TF-IDF rows.
    """

    profiles: csr_array
    words: csr_array


@dataclass(kw_only=True)
class TfidfCosine:
    """Scores by the cosine of an item's TF-IDF row with the weighted mean of the support's rows.

    Vocabulary and document frequencies come from the texts of known items only. Serves user tasks:
    users have no text. Without a shot of weight all items are tied.

    Args:
        sublinear_tf: whether 1 + log of the term frequency stands for it.
        min_df: least number of known items that a word must occur in.
        ngrams: longest sequence of words that counts as a term.
        dislike_weight: weight of label 0 in binary feedback.
        centre: what is taken off ratings: nothing, the `global` mean, or the mean of the `task`.
    """

    sublinear_tf: bool = True
    min_df: int = 2
    ngrams: int = 1
    dislike_weight: float = 0.0
    centre: str = "global"

    serves: ClassVar[frozenset[str]] = frozenset({"user"})
    accepts: ClassVar[frozenset[str]] = ANY_FEEDBACK
    needs_features: ClassVar[bool] = False
    trained: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("TfidfCosine", "min_df", self.min_df, 1)
        require("TfidfCosine", "ngrams", self.ngrams, 1)
        require("TfidfCosine", "dislike_weight", self.dislike_weight, -1)
        require_choice("TfidfCosine", "centre", self.centre, CENTRES)

    def predicts(self, feedback: Feedback) -> Predicts:
        """Only an order."""
        return "order"

    def fit(self, training: Training) -> MetaParameters:
        """Fits the vocabulary on the texts of known items, and applies it to all items' texts."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectoriser = TfidfVectorizer(
            sublinear_tf=self.sublinear_tf,
            min_df=self.min_df,
            ngram_range=(1, self.ngrams),
            dtype=np.float64,
        )
        try:
            training.note("vocabulary of words")
            vectoriser.fit([training.texts[item] for item in training.known])
        except ValueError as error:
            raise LearnerError(
                f"TfidfCosine: no word occurs in min_df={self.min_df} known items' texts; lower "
                "min_df, or give the items text"
            ) from error
        words = csr_array(vectoriser.transform(training.texts))
        words.sort_indices()
        return {
            "weights": fit_weights(training, self.centre, self.dislike_weight),
            **pack("words", words),
        }

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> TfidfTasks:
        """Returns the profile of each task; its length does not matter to the cosine's order."""
        support = clean(support)
        words = unpack("words", meta_parameters)
        folded = shots(support, weigh(meta_parameters["weights"], support), words.shape[0])
        return TfidfTasks((folded @ words).tocsr(), words)

    def score(
        self, fast_weights: TfidfTasks, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """Returns [T, C] cosines; 0 for items without a known word."""
        profiles = fast_weights.profiles
        length = np.sqrt(np.asarray((profiles * profiles).sum(axis=1)).reshape(-1, 1))
        products = (profiles @ fast_weights.words[candidates].T).toarray()
        return np.asarray(products / np.where(length > 0, length, 1), dtype=np.float32)
