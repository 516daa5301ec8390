"""Many learners over many blocks: mean ranks, Friedman's test, pairwise tests, and who ties.

After Demšar (JMLR 7, 2006), section 3.2; pairs are tested by Wilcoxon's signed-rank test with
Holm's correction, as Benavoli, Corani and Mangili (JMLR 17, 2016) advise, since the outcome for a
pair then depends on these two alone. Nemenyi's test of mean ranks is the alternative.

A block is what all learners were measured on once: a data set and regime, or a single task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from scipy import stats

from metarec.errors import ConfigError, RunError, did_you_mean
from metarec.evaluation.significance import holm, rank_biserial, wilcoxon

PairTest = Literal["wilcoxon", "nemenyi"]
PAIR_TESTS: tuple[PairTest, ...] = get_args(PairTest)

MIN_BLOCKS = 5
"""With fewer a comparison over blocks says little, whatever its test."""

# Means over seeds that differ in no more than these decimals are equal but for rounding.
_DECIMALS = 12


@dataclass(frozen=True)
class Omnibus:
    """Whether anything differs.

    Args:
        chi_square: Friedman's statistic.
        p_chi_square: its p value.
        f: that of Iman and Davenport, which is less conservative.
        p: its p value, by which metarec decides.
    """

    chi_square: float
    p_chi_square: float
    f: float
    p: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """All learners against each other over blocks.

    Args:
        learners: by mean rank, the best first; equal ones in the order of the columns.
        mean_ranks: of them; 1 is the best.
        ranks: [blocks, learners] in the same order.
        omnibus: Friedman's test.
        pairs: as `pairwise` gives it, with learners in the same order, and `differs`.
        cliques: each largest group of learners of whom no two differ, as places in `learners`; a
            learner that differs from all others is a group by itself.
        test: which test `differs` comes from.
        alpha: its level.
        critical_difference: Nemenyi's, of mean ranks.
    """

    learners: tuple[str, ...]
    mean_ranks: Float64[np.ndarray, " learners"]
    ranks: Float64[np.ndarray, "blocks learners"]
    omnibus: Omnibus
    pairs: pd.DataFrame
    cliques: tuple[tuple[int, ...], ...]
    test: PairTest
    alpha: float
    critical_difference: float

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.ranks)

    @property
    def smallest_p(self) -> float:
        """The least p value that a pair can get by Wilcoxon's test after Holm's correction."""
        return smallest_p(self.blocks, len(self.pairs))


def compare_all(
    values: pd.DataFrame,
    higher_is_better: bool = True,
    test: PairTest = "wilcoxon",
    alpha: float = 0.05,
) -> Comparison:
    """Ranks learners within blocks and tests all pairs.

    Two learners differ where Friedman's test in Iman and Davenport's form rejects at `alpha`, the
    test of the pair does, and, for Wilcoxon's, its ranks point the same way as the mean ranks.

    Args:
        values: a row a block, a column a learner, without NaN.
        higher_is_better: whether the highest value ranks first.
        test: `wilcoxon` with Holm's correction over all pairs, or `nemenyi`.
        alpha: level of the tests.

    Raises:
        ConfigError: if the test is unknown or the level not in (0, 1).
        RunError: if there are fewer than 2 learners or blocks, or a value is NaN or infinite.
    """
    if test not in PAIR_TESTS:
        raise ConfigError(f"unknown test {test!r}{did_you_mean(test, PAIR_TESTS)}")
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha={alpha} must be in (0, 1)")
    blocks, learners = values.shape
    if blocks < 2 or learners < 2:
        raise RunError(
            f"{learners} learners and {blocks} blocks: ranks take at least 2 learners that have a "
            "value in each of at least 2 blocks"
        )
    array = values.to_numpy(np.float64)
    if not np.isfinite(array).all():
        block, learner = np.argwhere(~np.isfinite(array))[0]
        raise RunError(
            f"{values.columns[learner]!r} has no finite value in block {values.index[block]!r}; "
            "leave the learner out first"
        )
    ranks = block_ranks(array, higher_is_better)
    order = np.argsort(ranks.mean(axis=0), kind="stable")
    ranks, array = ranks[:, order], array[:, order]
    names = [str(values.columns[place]) for place in order]
    omnibus = friedman(ranks)
    pairs = pairwise(pd.DataFrame(array, columns=names), higher_is_better)
    mean_ranks = ranks.mean(axis=0)
    gaps = _gaps(mean_ranks)
    difference = critical_difference(learners, blocks, alpha)
    if test == "nemenyi":
        differs = gaps >= difference
    else:
        sign = 1 if higher_is_better else -1
        agrees = sign * pairs["effect_size"].to_numpy(np.float64) * gaps > 0
        differs = (pairs["p_holm"].to_numpy(np.float64) < alpha) & agrees
    differs &= omnibus.p < alpha
    return Comparison(
        learners=tuple(names),
        mean_ranks=mean_ranks,
        ranks=ranks,
        omnibus=omnibus,
        pairs=pairs.assign(p_nemenyi=nemenyi(gaps, learners, blocks), differs=differs),
        cliques=cliques(_square(differs, learners)),
        test=test,
        alpha=alpha,
        critical_difference=difference,
    )


def block_ranks(
    values: Float64[np.ndarray, "blocks learners"], higher_is_better: bool = True
) -> Float64[np.ndarray, "blocks learners"]:
    """Ranks of the learners within each block, from 1, the best; equal values share their mean.

    Values are equal if they agree to 12 decimals, so that rounding breaks no tie.

    Args:
        values: finite.
        higher_is_better: whether the highest value ranks first.
    """
    rounded = np.round(values, _DECIMALS)
    return stats.rankdata(-rounded if higher_is_better else rounded, axis=1).astype(np.float64)


def friedman(ranks: Float64[np.ndarray, "blocks learners"], correct_ties: bool = True) -> Omnibus:
    """Friedman's test (JASA 32, 1937) and its F form (Iman and Davenport, Comm. Stat. A9, 1980).

    With R the sums of ranks of k learners over n blocks, A the sum of all squared ranks and
    C = n k (k + 1)² / 4, chi² = (k − 1) (ΣR² − n C) / (A − C): Conover (Practical Nonparametric
    Statistics, 1999, section 5.8), exact with ties. Without ties it is Demšar's chi²; A is then
    n k (k + 1) (2k + 1) / 6, also where `correct_ties` is false. F = (n − 1) chi² / (n (k − 1) −
    chi²) with k − 1 and (k − 1)(n − 1) degrees of freedom.

    Where all blocks rank alike, F is infinite and p is (1/m)^(n − 1), with m the number of
    different orders of the ranks of a block: k! without ties, k! / Π t! where t learners tie. Where
    all learners tie everywhere, both statistics are 0 and p is 1.

    Args:
        ranks: as `block_ranks` gives them, at least 2 blocks and learners.
        correct_ties: false for the statistic as Demšar prints it.
    """
    n, k = ranks.shape
    centre = n * k * (k + 1) ** 2 / 4
    squares = float((ranks**2).sum()) if correct_ties else n * k * (k + 1) * (2 * k + 1) / 6
    if squares - centre < 1e-9:
        return Omnibus(0.0, 1.0, 0.0, 1.0)
    between = float((ranks.sum(axis=0) ** 2).sum()) - n * centre
    chi_square = max((k - 1) * between / (squares - centre), 0.0)
    p_chi_square = float(stats.chi2.sf(chi_square, k - 1))
    left = n * (k - 1) - chi_square
    if left < 1e-9 * n * k:
        tied = np.unique(ranks[0], return_counts=True)[1]
        orders = math.lgamma(k + 1) - sum(math.lgamma(size + 1) for size in tied.tolist())
        return Omnibus(chi_square, p_chi_square, math.inf, math.exp(-(n - 1) * orders))
    f = (n - 1) * chi_square / left
    p = float(stats.f.sf(f, k - 1, (k - 1) * (n - 1)))
    return Omnibus(chi_square, p_chi_square, f, p)


def pairwise(values: pd.DataFrame, higher_is_better: bool = True) -> pd.DataFrame:
    """Wilcoxon's signed-rank test of each pair of learners over blocks, with Holm over all pairs.

    Args:
        values: a row a block, a column a learner, without NaN.
        higher_is_better: whether a higher value is a win.

    Returns:
        A row a pair: `learner`, `other`, both in the order of the columns; `p`, `p_holm`;
        `effect_size`, the rank-biserial correlation of learner minus other; `wins`, `ties` and
        `losses` of the learner, in blocks.
    """
    # zeros are ties here too, in the sense of block_ranks
    array = np.round(values.to_numpy(np.float64), _DECIMALS)
    rows = []
    for one, other in combinations(range(array.shape[1]), 2):
        difference = np.round(array[:, one] - array[:, other], _DECIMALS)
        better = difference if higher_is_better else -difference
        rows.append(
            {
                "learner": values.columns[one],
                "other": values.columns[other],
                "p": wilcoxon(difference),
                "effect_size": rank_biserial(difference),
                "wins": int((better > 0).sum()),
                "ties": int((better == 0).sum()),
                "losses": int((better < 0).sum()),
            }
        )
    columns = ["learner", "other", "p", "p_holm", "effect_size", "wins", "ties", "losses"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["p_holm"] = holm(frame["p"].to_numpy(np.float64))
    return frame


def critical_difference(learners: int, blocks: int, alpha: float = 0.05) -> float:
    """The difference of mean ranks from which on Nemenyi's test calls two learners different.

    CD = q √(k (k + 1) / (6 n)), with q the quantile of the studentised range with infinitely many
    degrees of freedom, over √2: Nemenyi (thesis, Princeton, 1963), as in Demšar, section 3.2.2.

    Args:
        learners: k.
        blocks: n.
        alpha: level of the test, over all pairs.
    """
    q = float(stats.studentized_range.ppf(1 - alpha, learners, np.inf)) / math.sqrt(2)
    return q * _standard_error(learners, blocks)


def nemenyi(
    gaps: Float64[np.ndarray, " pairs"], learners: int, blocks: int
) -> Float64[np.ndarray, " pairs"]:
    """The p values of Nemenyi's test, corrected over all pairs by its distribution.

    Args:
        gaps: absolute differences of mean ranks.
        learners: k.
        blocks: n.
    """
    spread = math.sqrt(2) * gaps / _standard_error(learners, blocks)
    return np.asarray(stats.studentized_range.sf(spread, learners, np.inf), np.float64)


def smallest_p(blocks: int, tests: int) -> float:
    """The least p value of Wilcoxon's two-sided test, 2/2ⁿ, after Holm's correction.

    Where it is not below the level, no pair can differ, however large the differences are.

    Args:
        blocks: n.
        tests: that are corrected for.
    """
    return min(1.0, tests * 2.0 ** (1 - blocks))


def cliques(differs: Bool[np.ndarray, "learners learners"]) -> tuple[tuple[int, ...], ...]:
    """Each largest group of learners of whom no two differ, in order of their members.

    Not only neighbours in rank form groups: the test of a pair may find the first and the third
    alike and the second different from both. They are the maximal cliques of the graph of those
    who do not differ (Bron and Kerbosch, Communications of the ACM 16, 1973, with pivots).

    Args:
        differs: symmetric, its diagonal false.

    Returns:
        Groups of places, each ascending; every learner is in at least one.
    """
    alike = [
        {other for other in range(len(differs)) if other != one and not differs[one, other]}
        for one in range(len(differs))
    ]
    found: list[tuple[int, ...]] = []

    def extend(members: Sequence[int], possible: set[int], done: set[int]) -> None:
        if not possible and not done:
            found.append(tuple(sorted(members)))
            return
        pivot = max(possible | done, key=lambda one: len(alike[one] & possible))
        for one in sorted(possible - alike[pivot]):
            extend([*members, one], possible & alike[one], done & alike[one])
            possible = possible - {one}
            done = done | {one}

    extend([], set(range(len(differs))), set())
    return tuple(sorted(found))


def _standard_error(learners: int, blocks: int) -> float:
    return math.sqrt(learners * (learners + 1) / (6 * blocks))


def _gaps(mean_ranks: Float64[np.ndarray, " learners"]) -> Float64[np.ndarray, " pairs"]:
    """Mean rank of the second of each pair minus that of the first."""
    first, second = np.triu_indices(len(mean_ranks), k=1)
    return mean_ranks[second] - mean_ranks[first]


def _square(
    pairs: Bool[np.ndarray, " pairs"], learners: int
) -> Bool[np.ndarray, "learners learners"]:
    square = np.zeros((learners, learners), dtype=bool)
    square[np.triu_indices(learners, k=1)] = pairs
    return square | square.T
