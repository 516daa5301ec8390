"""Rankings: what cannot be ranked is an error. That ties are right is told in test_metrics.py."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from metarec.errors import ConfigError, EpisodeError, ScoreError
from metarec.evaluation.rankings import Rankings, SortedScores, check_not_nan, gains_of


def test_a_nan_score_is_an_error_that_names_task_and_learner() -> None:
    scores = np.zeros((2, 3), np.float32)
    scores[1, 2] = np.nan
    with pytest.raises(ScoreError, match="NaN as the score of candidate 2 of task row 1"):
        Rankings.from_scores(scores, (np.array([0]), np.array([0])))
    with pytest.raises(ScoreError, match="TaNP gave NaN as the score of candidate 2 of task 77"):
        check_not_nan(scores, np.array([5, 77]), "TaNP")


def test_a_nan_score_of_an_excluded_candidate_is_an_error_too() -> None:
    relevant, excluded = (np.array([0]), np.array([0])), (np.array([0]), np.array([1]))
    with pytest.raises(ScoreError):
        Rankings.from_scores(np.array([[1, np.nan]]), relevant, excluded)


@pytest.mark.parametrize(
    ("relevant", "excluded", "message"),
    [
        (([0], [1]), ([0], [1]), "both relevant and excluded"),
        (([0, 0], [1, 1]), ([0], [2]), "relevant twice"),
        (([0], [3]), ([0], [2]), "out of range"),
        (([1], [0]), ([0], [2]), "out of range"),
        (([0], [0]), ([0], [-1]), "out of range"),
        (([0], [0, 1]), ([0], [2]), "1 task rows for 2 candidates"),
    ],
)
def test_impossible_pairs_are_an_error(
    relevant: tuple[list[int], list[int]], excluded: tuple[list[int], list[int]], message: str
) -> None:
    with pytest.raises(EpisodeError, match=message):
        Rankings.from_scores(
            np.zeros((1, 3)),
            (np.array(relevant[0]), np.array(relevant[1])),
            (np.array(excluded[0]), np.array(excluded[1])),
        )


def test_a_relevant_candidate_needs_a_positive_gain() -> None:
    with pytest.raises(EpisodeError, match="positive"):
        Rankings.from_scores(
            np.zeros((1, 2)), (np.array([0]), np.array([0])), gains=np.array([0.0])
        )


def test_gains_follow_their_formula() -> None:
    ratings = np.array([4.0, 5.0], np.float32)
    assert gains_of(ratings, "binary").tolist() == [1, 1]
    assert gains_of(ratings, "linear", lowest=1.0).tolist() == [3, 4]
    assert gains_of(ratings, "exponential").tolist() == [2**4 - 1, 2**5 - 1]
    # The import hook of the tests refuses an unknown literal before the function does.
    with pytest.raises((ConfigError, TypeCheckError), match="binarry"):
        gains_of(ratings, "binarry")  # type: ignore[arg-type]


def test_a_task_that_ranks_nobody_shows_nobody() -> None:
    everyone = (np.zeros(3, int), np.arange(3))
    rows, _, _ = SortedScores.from_scores(np.ones((1, 3)), everyone).top(2)
    assert len(rows) == 0
    assert len(SortedScores.from_scores(np.ones((2, 0))).top(2)[0]) == 0
