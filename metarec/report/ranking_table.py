"""The table of a ranking, and the sentences that it shares with the figure."""

from __future__ import annotations

import string

from metarec.report.cells import TEST_HEADS
from metarec.report.labels import metric_label, regime_label
from metarec.report.ranking import Pair, Ranking
from metarec.report.selection import RESAMPLES
from metarec.report.table import MISSING, Cell, Row, Section, Table, number, p_text

_COLUMNS = 6
"""Blocks that the table has room for, each with a column of its values."""


def title_of(ranking: Ranking) -> str:
    """What is ranked by what over which blocks."""
    shots = " and ".join(map(str, ranking.k_shot))
    ranked = f"Mean ranks of {len(ranking.learners)} learners by {metric_label(ranking.metric)}"
    space = "\N{NO-BREAK SPACE}"
    return f"{ranked} over {blocks_of(ranking)}, K{space}={space}{shots}"


def blocks_of(ranking: Ranking) -> str:
    """The blocks in words: `134 test tasks, user cold`, or `8 blocks (data set × regime)`."""
    if ranking.block == "task":
        name = ranking.of[0]
        known = regime_label(name.lower().replace(" ", "_")) == name
        return f"{ranking.blocks} test tasks, {name.lower() if known else name}"
    return f"{ranking.blocks} blocks (data set × regime)"


def block_note(ranking: Ranking) -> str:
    """What a block is, and what follows from that for the tests."""
    if ranking.block == "task":
        return (
            f"A block is a test task ({ranking.of[0]}), ranked by its mean over seeds: the tests "
            "speak of other tasks of this data set and split. Ranks say who is better, not by how "
            "much: a constant score, which has its small expectation in every task, ranks above a "
            "learner that finds nothing in most and much in some."
        )
    return (
        "A block is a regime of a data set, kind of task and feedback, ranked by its mean over "
        f"tasks and seeds: {'; '.join(ranking.of)}. Blocks of one data set share users, items and "
        "training, so that they are not independent, as the tests take them to be."
    )


def omnibus_note(ranking: Ranking) -> str:
    """Whether anything differs."""
    k, n = len(ranking.learners), ranking.blocks
    f = "∞" if ranking.f is None else f"{ranking.f:.2f}"
    p = "< .001" if ranking.p < 0.001 else f"= {number(ranking.p)}"
    verdict = "" if ranking.p < ranking.alpha else ", so that no pair is called different"
    return (
        f"Friedman χ²({k - 1}) = {ranking.chi_square:.2f}, Iman–Davenport F({k - 1}, "
        f"{(k - 1) * (n - 1)}) = {f}, p {p}{verdict}."
    )


def test_note(ranking: Ranking) -> str:
    """How pairs are tested."""
    pairs, level = len(ranking.pairs), number(ranking.alpha).rstrip("0")
    cd = f"{ranking.critical_difference:.2f}"
    if ranking.test == "nemenyi":
        return f"Pairs differ by Nemenyi’s test: mean ranks at least CD = {cd} apart (p < {level})."
    return (
        f"Pairs differ by Wilcoxon’s signed-rank test over blocks, p < {level} after Holm’s "
        f"correction over {pairs} pairs, if mean ranks point the same way (Nemenyi’s CD would be "
        f"{cd})."
    )


def left_out_note(ranking: Ranking) -> str:
    """Who is not ranked, and why; empty if all are."""
    by_reason: dict[str, list[str]] = {}
    for label, reason in ranking.left_out:
        by_reason.setdefault(reason, []).append(label)
    # labels have commas
    listed = (f"{'; '.join(labels)}: {reason}." for reason, labels in by_reason.items())
    return " ".join(["Left out are", *listed]) if by_reason else ""


def ranking_table(ranking: Ranking) -> Table:
    """Learners by mean rank, with their groups and the test against the best.

    Args:
        ranking: what it shows.
    """
    best = ranking.learners[0].label
    by_block = ranking.of if ranking.block == "regime" and len(ranking.of) <= _COLUMNS else ()
    letters = group_letters(ranking)
    rows = []
    for place, one in enumerate(ranking.learners):
        interval = ""
        if one.low is not None and one.high is not None:
            interval = f"[{one.low:.2f},\N{NO-BREAK SPACE}{one.high:.2f}]"
        cells = [
            Cell(f"{one.mean_rank:.2f}", interval),
            *(Cell(number(value)) for value, _ in zip(one.values, by_block, strict=False)),
            Cell(str(one.first)),
            Cell(letters[place]),
            *_test_cells(ranking.pair(0, place) if place else None),
        ]
        rows.append(Row(one.label, tuple(cells)))
    corrected = "p (Holm)" if ranking.test == "wilcoxon" else "p (Nemenyi)"
    mean_rank = (
        f"Mean rank over the blocks with its 95 % bootstrap interval ({RESAMPLES:,} resamples of "
        "tasks; BCa)"
        if ranking.block == "task"
        else "Mean rank over the blocks"
    )
    notes = [
        f"{mean_rank}, 1 the best, ties sharing theirs; First: blocks in which nobody is better; "
        "Groups: learners that share a letter do not differ.",
        f"The last columns compare each learner with the first, {best}: corrected p, matched-pairs "
        "rank-biserial correlation over blocks, and blocks that it won, tied and lost.",
        block_note(ranking),
        omnibus_note(ranking),
        test_note(ranking),
        left_out_note(ranking),
        *ranking.notes,
    ]
    return Table(
        name=ranking.name,
        title=title_of(ranking),
        columns=("Learner", "Mean rank", *by_block, "First", "Groups", corrected, *TEST_HEADS[1:]),
        sections=(Section("", tuple(rows)),),
        notes=tuple(note for note in notes if note),
        preliminary=ranking.preliminary,
        cautions=ranking.cautions,
    )


def group_letters(ranking: Ranking) -> list[str]:
    """The groups of each learner: letters, or numbers where there are more groups than letters."""
    count = len(ranking.cliques)
    few = count <= len(string.ascii_lowercase)
    names = list(string.ascii_lowercase[:count]) if few else [str(n + 1) for n in range(count)]
    return [
        ("" if few else " ").join(
            name for name, clique in zip(names, ranking.cliques, strict=True) if place in clique
        )
        for place in range(len(ranking.learners))
    ]


def _test_cells(pair: Pair | None) -> tuple[Cell, Cell, Cell]:
    """Those of a learner against the first; of the first itself none."""
    if pair is None:
        return Cell(MISSING), Cell(MISSING), Cell(MISSING)
    counts = f"{pair.losses}/{pair.ties}/{pair.wins}"
    return Cell(p_text(pair.p)), Cell(number(-pair.effect, signed=True)), Cell(counts)
