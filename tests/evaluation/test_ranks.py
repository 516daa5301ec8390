from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import TypeCheckError
from numpy.testing import assert_allclose
from scipy import stats

from metarec.errors import ConfigError, RunError
from metarec.evaluation.ranks import (
    block_ranks,
    cliques,
    compare_all,
    critical_difference,
    friedman,
    nemenyi,
    pairwise,
    smallest_p,
)
from metarec.evaluation.significance import holm

# Demšar (JMLR 7, 2006), table 6: AUC of C4.5 and three variants on 14 data sets. In the last
# but one his unrounded values break the tie that three digits show (ranks 2 and 3).
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
C45 = ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"]

# Eighths, so that sums and differences are exact; few of them, so that there are ties.
VALUES = st.tuples(st.integers(2, 8), st.integers(2, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(-4, 4).map(lambda n: n / 8))
)


def frame(values: np.ndarray, names: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(values, columns=names or [f"l{place}" for place in range(values.shape[1])])


def square(n: int, *pairs: tuple[int, int]) -> np.ndarray:
    """Who differs, from the pairs that do."""
    differs = np.zeros((n, n), dtype=bool)
    for one, other in pairs:
        differs[one, other] = differs[other, one] = True
    return differs


def test_ranks_and_statistics_are_those_of_demsars_example() -> None:
    ranks = block_ranks(DEMSAR)
    assert_allclose(ranks.mean(axis=0), [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    found = friedman(ranks, correct_ties=False)
    assert found.chi_square == pytest.approx(9.28, abs=0.005)
    assert found.f == pytest.approx(3.69, abs=0.005)
    # the critical value of F(3, 39) at .05, as he gives it
    assert stats.f.ppf(0.95, 3, 39) == pytest.approx(2.85, abs=0.005)
    assert found.p < 0.05


@pytest.mark.parametrize(
    ("learners", "alpha", "q"),
    [(2, 0.05, 1.960), (3, 0.05, 2.343), (4, 0.05, 2.569), (10, 0.05, 3.164),
     (2, 0.10, 1.645), (4, 0.10, 2.291), (10, 0.10, 2.920)],
)  # fmt: skip
def test_critical_values_are_those_of_demsars_table_5(learners, alpha, q) -> None:
    # one block with k (k + 1) = 6 would make the standard error 1
    error = math.sqrt(learners * (learners + 1) / (6 * 14))
    assert critical_difference(learners, 14, alpha) / error == pytest.approx(q, abs=1e-3)


def test_nemenyis_groups_are_those_of_demsars_figure_1() -> None:
    found = compare_all(frame(DEMSAR, C45), test="nemenyi", alpha=0.10)
    assert found.critical_difference == pytest.approx(1.12, abs=0.005)
    assert found.learners == ("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")
    assert found.cliques == ((0, 1, 2), (2, 3))
    # at .05 not even the best and the worst differ
    at_5 = critical_difference(4, 14, 0.05)
    assert at_5 == pytest.approx(1.25, abs=0.005)
    assert np.ptp(found.mean_ranks) < at_5


def test_nemenyis_p_is_the_level_at_the_critical_difference() -> None:
    for alpha in (0.05, 0.10):
        gap = np.array([critical_difference(5, 30, alpha)])
        assert_allclose(nemenyi(gap, 5, 30), alpha, rtol=1e-6)


@given(VALUES)
def test_ranks_of_a_block_sum_to_those_of_an_order(values: np.ndarray) -> None:
    n, k = values.shape
    assert_allclose(block_ranks(values).sum(axis=1), np.full(n, k * (k + 1) / 2))


@given(VALUES, st.randoms(use_true_random=False))
def test_ranks_follow_a_permutation_of_learners_and_blocks(values: np.ndarray, random) -> None:
    n, k = values.shape
    blocks, learners = random.sample(range(n), n), random.sample(range(k), k)
    moved = values[blocks][:, learners]
    assert_allclose(block_ranks(moved), block_ranks(values)[blocks][:, learners])
    one, other = friedman(block_ranks(values)), friedman(block_ranks(moved))
    assert_allclose([other.chi_square, other.p], [one.chi_square, one.p])


@given(VALUES, st.data())
def test_a_constant_added_to_a_block_changes_nothing(values: np.ndarray, data) -> None:
    n, _ = values.shape
    shift = data.draw(arrays(np.float64, (n, 1), elements=st.integers(-3, 3).map(float)))
    one, other = compare_all(frame(values)), compare_all(frame(values + shift))
    assert one.learners == other.learners
    assert one.cliques == other.cliques
    assert_allclose(one.ranks, other.ranks)
    pd.testing.assert_frame_equal(one.pairs, other.pairs)


@given(VALUES)
def test_lower_is_better_is_higher_is_better_of_the_negative(values: np.ndarray) -> None:
    assert_allclose(block_ranks(values, higher_is_better=False), block_ranks(-values))
    less = compare_all(frame(values), higher_is_better=False)
    more = compare_all(frame(-values))
    assert less.learners == more.learners
    assert less.cliques == more.cliques
    assert_allclose(less.pairs["effect_size"], -more.pairs["effect_size"])
    assert_allclose(less.pairs["wins"], more.pairs["wins"])


def test_equal_values_share_the_mean_of_their_ranks_and_rounding_breaks_no_tie() -> None:
    values = np.array([[0.1 + 0.2, 0.3, 0.5, 0.0]])
    assert_allclose(block_ranks(values), [[2.5, 2.5, 1, 4]])


@pytest.mark.parametrize("ties", [False, True])
def test_friedmans_statistic_is_that_of_scipy(ties: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (12, 5)) / 8 if ties else rng.random((12, 5))
    found, expected = friedman(block_ranks(values)), stats.friedmanchisquare(*values.T)
    assert_allclose([found.chi_square, found.p_chi_square], [*expected])


def test_f_is_that_of_a_two_way_analysis_of_variance_of_the_ranks() -> None:
    ranks = block_ranks(np.random.default_rng(1).integers(0, 4, (9, 4)) / 8)
    n, k = ranks.shape
    grand = ranks.mean()
    between = n * ((ranks.mean(axis=0) - grand) ** 2).sum()
    residual = ((ranks - ranks.mean(axis=0)) ** 2).sum()
    assert friedman(ranks).f == pytest.approx(between / (k - 1) / (residual / (k - 1) / (n - 1)))


def test_the_f_form_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(2)
    p = [friedman(block_ranks(rng.random((20, 4)))).p for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_where_all_blocks_rank_alike_the_p_value_is_the_chance_of_that() -> None:
    found = friedman(block_ranks(np.tile([3.0, 1.0, 2.0], (4, 1))))
    assert math.isinf(found.f)
    assert found.p == pytest.approx((1 / math.factorial(3)) ** 3)
    # two of three tie, so that a block has three orders
    assert friedman(block_ranks(np.tile([1.0, 1.0, 2.0], (4, 1)))).p == pytest.approx((1 / 3) ** 3)


def test_where_all_learners_tie_nothing_differs() -> None:
    found = compare_all(frame(np.ones((8, 3))))
    assert (found.omnibus.chi_square, found.omnibus.p) == (0, 1)
    assert found.cliques == ((0, 1, 2),)
    assert (found.pairs["p"] == 1).all()
    assert (found.pairs["effect_size"] == 0).all()
    assert (found.pairs["ties"] == 8).all()


@pytest.mark.parametrize("blocks", [8, 30, 80])
def test_pairs_are_tested_by_wilcoxon_with_holm_over_all_of_them(blocks: int) -> None:
    rng = np.random.default_rng(3)
    values = rng.random((blocks, 5)) + np.array([0, 0, 0.2, 0.3, 0.6])
    found = pairwise(frame(values))
    assert len(found) == 10
    places = list(combinations(range(5), 2))
    expected = [stats.wilcoxon(values[:, a], values[:, b]).pvalue for a, b in places]
    assert_allclose(found["p"], expected)
    assert_allclose(found["p_holm"], holm(np.array(expected)))
    assert_allclose(found["wins"], [(values[:, a] > values[:, b]).sum() for a, b in places])
    assert (found[["wins", "ties", "losses"]].sum(axis=1) == blocks).all()


def test_ties_of_a_few_blocks_are_tested_too() -> None:
    values = np.array([[0.5, 0.5, 0.1], [0.2, 0.1, 0.1], [0.3, 0.2, 0.1], [0.4, 0.2, 0.1]])
    found = pairwise(frame(values)).set_index(["learner", "other"])
    assert found.loc[("l0", "l1"), ["wins", "ties", "losses"]].tolist() == [3, 1, 0]
    assert 0 < found.loc[("l0", "l1"), "p"] <= 1


def test_the_effect_size_is_the_rank_biserial_correlation() -> None:
    # differences .1, .2 and −.3 have ranks 1, 2 and 3
    found = pairwise(frame(np.array([[0.1, 0.0], [0.2, 0.0], [0.0, 0.3]])))
    assert found["effect_size"].item() == pytest.approx((1 + 2 - 3) / (1 + 2 + 3))


def test_only_what_differs_by_all_three_is_called_different() -> None:
    rng = np.random.default_rng(4)
    good = rng.random((40, 1)) + 0.1 * rng.random((40, 4)) + np.array([0.3, 0.3, 0, 0])
    found = compare_all(frame(good))
    assert sorted(map(sorted, ([found.learners[p] for p in c] for c in found.cliques))) == [
        ["l0", "l1"],
        ["l2", "l3"],
    ]
    # one pair differs, but nothing does by Friedman's test
    alike = rng.random((12, 8))
    alike[:, 1] = alike[:, 0] - 0.001
    found = compare_all(frame(alike))
    assert found.omnibus.p > 0.05
    assert not found.pairs["differs"].any()


def test_a_pair_whose_ranks_and_mean_ranks_disagree_is_not_called_different() -> None:
    # a beats b by far in most blocks, and in the others falls behind all by little
    many = np.array([[1.0, 0.5, 0.1, 0.2, 0.3, 0.4]])
    few = np.array([[0.40, 0.45, 0.41, 0.42, 0.43, 0.44]])
    values = np.concatenate([np.repeat(many, 30, axis=0), np.repeat(few, 10, axis=0)])
    values += np.random.default_rng(0).normal(0, 1e-4, values.shape)
    found = compare_all(frame(values, list("abcdef")))
    pair = found.pairs.set_index(["learner", "other"]).loc[("b", "a")]
    assert found.learners[:2] == ("b", "a")
    assert pair["wins"] < pair["losses"]
    assert pair["p_holm"] < 0.05
    assert found.omnibus.p < 0.05
    assert not pair["differs"]
    for _, row in found.pairs[found.pairs["differs"]].iterrows():
        one, other = (found.learners.index(row[name]) for name in ("learner", "other"))
        assert found.mean_ranks[one] < found.mean_ranks[other]
        assert row["effect_size"] > 0


def test_the_smallest_p_is_reached_where_one_wins_every_block() -> None:
    for blocks in (5, 6, 8):
        values = (
            np.arange(blocks)[:, None] + np.array([1.0, 0.0]) * np.arange(1, blocks + 1)[:, None]
        )
        assert pairwise(frame(values))["p_holm"].item() == pytest.approx(smallest_p(blocks, 1))
    # with 5 blocks no pair can differ at .05, with 6 a single one can, of 3 pairs none
    assert smallest_p(5, 1) > 0.05 > smallest_p(6, 1)
    assert smallest_p(6, 3) > 0.05
    assert smallest_p(3, 100) == 1


@pytest.mark.parametrize(
    ("differs", "expected"),
    [
        (square(3), ((0, 1, 2),)),
        (square(3, (0, 1), (0, 2), (1, 2)), ((0,), (1,), (2,))),
        (square(3, (0, 2)), ((0, 1), (1, 2))),
        (square(4, (0, 2), (0, 3), (1, 3)), ((0, 1), (1, 2), (2, 3))),
        # the one in the middle differs from both of its neighbours, who do not differ
        (square(3, (0, 1), (1, 2)), ((0, 2), (1,))),
        (square(1), ((0,),)),
    ],
)
def test_groups_are_the_largest_of_whom_no_two_differ(differs, expected) -> None:
    assert cliques(differs) == expected


@given(st.integers(2, 6), st.data())
def test_groups_are_those_that_trying_all_finds(n: int, data) -> None:
    pairs = data.draw(st.sets(st.sampled_from(list(combinations(range(n), 2)))))
    differs = square(n, *pairs)
    alike = [
        set(group)
        for size in range(1, n + 1)
        for group in combinations(range(n), size)
        if not any(differs[one, other] for one, other in combinations(group, 2))
    ]
    largest = [group for group in alike if not any(group < other for other in alike)]
    assert cliques(differs) == tuple(sorted(tuple(sorted(group)) for group in largest))


def test_learners_are_ordered_by_mean_rank_and_equal_ones_as_given() -> None:
    found = compare_all(frame(np.array([[1.0, 2, 2], [1.0, 2, 2]]), ["c", "b", "a"]))
    assert found.learners == ("b", "a", "c")
    assert_allclose(found.mean_ranks, [1.5, 1.5, 3])
    assert list(found.pairs["learner"]) == ["b", "b", "a"]
    assert list(found.pairs["other"]) == ["a", "c", "c"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((5, 1)), "1 learners and 5 blocks"),
        (np.ones((1, 3)), "3 learners and 1 blocks"),
        (np.array([[1.0, 2], [1, np.nan]]), "'l1' has no finite value in block 1"),
    ],
)
def test_what_cannot_be_ranked_is_an_error(values: np.ndarray, message: str) -> None:
    with pytest.raises(RunError, match=message):
        compare_all(frame(values))


def test_an_unknown_test_or_level_is_an_error() -> None:
    # The import hook of the tests refuses an unknown literal before the function does.
    with pytest.raises((ConfigError, TypeCheckError), match="nemeny"):
        compare_all(frame(DEMSAR), test="nemeny")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"alpha=1\.5"):
        compare_all(frame(DEMSAR), alpha=1.5)
