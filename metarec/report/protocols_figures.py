"""Figures of others on published protocols, and which tables there are: nothing is measured here.

The figures are those of the papers, and of codes that others, or we, ran again. What they were
measured on is in `paper/protocols/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PAPER = "Published"
REPRODUCED = "Reproduced by others"
RERUN = "Published code, run again on this split"
KINDS = (PAPER, REPRODUCED, RERUN)
"""Where a figure is from, in the order of the tables."""

MAE = "rated/mae"
P5, NDCG5, MRR5 = (f"best_rated/{name}@5" for name in ("precision", "ndcg", "mrr"))

Place = tuple[str, str]
"""A metric, as a column of the per-task results, and a regime."""


@dataclass(frozen=True)
class Figures:
    """A row of figures that are not metarec's.

    Args:
        key: what small records call it.
        label: what tables call it.
        kind: one of `KINDS`.
        values: the figures by metric and regime.
        spread: what the source gives after ±, in words; nothing where it gives none.
        to_beat: whether a cell is marked that is better than the figure of its column.
    """

    key: str
    label: str
    kind: str
    values: Mapping[Place, float]
    spread: str = ""
    to_beat: bool = False


@dataclass(frozen=True)
class Shown:
    """One table of a protocol.

    Args:
        name: its file name.
        title: what it shows.
        columns: heading, metric and regime of each column.
        differences: those of the columns of which a column has the differences to the reference;
            without any, these have a table of their own.
        figures: rows of others.
    """

    name: str
    title: str
    columns: tuple[tuple[str, str, str], ...]
    differences: tuple[tuple[str, str, str], ...] = ()
    figures: tuple[Figures, ...] = ()


CELLS = (
    ("Warm", "warm"),
    ("User cold", "user_cold"),
    ("Item cold", "item_cold"),
    ("Both cold", "both_cold"),
)


def _mae(*values: float) -> dict[Place, float]:
    """MAE in the four cells of MeLU."""
    return {(MAE, regime): value for (_, regime), value in zip(CELLS, values, strict=True)}


def _at_5(*values: float) -> dict[Place, float]:
    """P@5, nDCG@5 and MRR@5 of new users."""
    places = [(metric, "user_cold") for metric in (P5, NDCG5, MRR5)]
    return dict(zip(places, values, strict=True))


MELU = (
    # Lee et al., KDD 2019, to two digits
    Figures("MeLU (paper)", "MeLU (Lee et al., 2019)", PAPER, _mae(0.75, 0.79, 0.92, 0.92)),
    # README of github.com/waterhorse1/MELU_pytorch: the best third-party run on MeLU's own states
    # that the project knows of; ± is 1.96 standard errors over tasks
    Figures(
        "MeLU (reproduction)",
        "MeLU, best reproduction",
        REPRODUCED,
        _mae(0.68, 0.74, 0.90, 0.89),
        spread="±.01, ±.01, ±.01 and ±.02 in the four cells",
        to_beat=True,
    ),
)

# The toolkit's own tables, asset/result/MovieLens-100K.md at commit 0c06f494 and MovieLens-1M.md at
# 9e220d4d (empty at 3c8a84bc), of rating data and its own split
TOOLKIT_100K = (
    Figures("MeLU (toolkit)", "MeLU, toolkit", PAPER, _at_5(0.5345, 0.5331, 0.7359)),
    Figures("MAMO (toolkit)", "MAMO, toolkit", PAPER, _at_5(0.6103, 0.5929, 0.7144)),
    Figures("TaNP (toolkit)", "TaNP, toolkit", PAPER, _at_5(0.5806, 0.5994, 0.8070)),
)
TOOLKIT_1M = (
    Figures("MeLU (toolkit)", "MeLU, toolkit", PAPER, _at_5(0.4946, 0.4899, 0.6904)),
    # the same digits for both, as they stand there
    Figures("MAMO (toolkit)", "MAMO, toolkit", PAPER, _at_5(0.5923, 0.6079, 0.8073)),
    Figures("TaNP (toolkit)", "TaNP, toolkit", PAPER, _at_5(0.5923, 0.6079, 0.8073)),
)

RECBOLE_METAREC = (
    # RecBole-MetaRec's code and settings, run again on its split of seed 1128 with three seeds
    # (issue 6); it takes ties in the order of its file, and so does the item mean of this section
    Figures("FOMeLU (rerun)", "FOMeLU", RERUN, _at_5(0.515, 0.507, 0.695), spread="P@5 ±.002"),
    Figures("MAMO (rerun)", "MAMO", RERUN, _at_5(0.489, 0.483, 0.668)),
    Figures("TaNP (rerun)", "TaNP", RERUN, _at_5(0.485, 0.484, 0.687)),
    Figures("random (rerun)", "Random ranker", RERUN, _at_5(0.499, 0.499, 0.704)),
    Figures("item mean (rerun)", "Item mean, unshrunk", RERUN, _at_5(0.621, 0.643, 0.843)),
)

_AT_5 = tuple((head, metric, "user_cold") for head, metric in (
    ("P@5", P5), ("nDCG@5", NDCG5), ("MRR@5", MRR5),
))  # fmt: skip

_TANP = tuple(
    (f"{head}@{k}", f"{metric}@{k}", "user_cold")
    for k in (5, 7, 10)
    for head, metric in (
        ("P", "best_rated/precision"),
        ("nDCG", "graded/ndcg"),
        ("MAP", "best_rated/map"),
    )
)

_MAMO = (("MAE", MAE, "user_cold"), ("nDCG@3", "graded/ndcg@3", "user_cold"))

TABLES: Mapping[tuple[str, ...], tuple[Shown, ...]] = {
    ("recbole_metarec", "recbole_metarec"): (
        Shown(
            "protocol_recbole_metarec",
            "RecBole-MetaRec’s protocol on its own split: new users rank ten of their ratings",
            _AT_5,
            differences=_AT_5,
            figures=(*TOOLKIT_100K, *RECBOLE_METAREC),
        ),
    ),
    ("recbole_metarec", "seed"): (
        Shown(
            "protocol_recbole_metarec_splits",
            "RecBole-MetaRec’s protocol on random splits: new users rank ten of their ratings",
            _AT_5,
            differences=_AT_5,
        ),
    ),
    ("recbole_metarec", "seed", "ml-1m"): (
        Shown(
            "protocol_recbole_metarec_ml_1m",
            "RecBole-MetaRec’s protocol on random splits of MovieLens-1M: new users rank ten of "
            "their ratings",
            _AT_5,
            differences=_AT_5,
            figures=TOOLKIT_1M,
        ),
    ),
    ("melu", "melu"): (
        Shown(
            "protocol_melu",
            "MeLU’s protocol on its own states, MAE of ten ratings (lower is better)",
            tuple((head, MAE, regime) for head, regime in CELLS),
            figures=MELU,
        ),
        *(
            Shown(
                f"protocol_melu_ndcg_{k}",
                f"MeLU’s protocol on its own states, nDCG@{k} of ten ratings",
                tuple((head, f"graded/ndcg@{k}", regime) for head, regime in CELLS),
            )
            for k in (1, 3)
        ),
    ),
    ("tanp", "seed"): (
        Shown(
            "protocol_tanp",
            "TaNP’s protocol: new users with 20 shots rank all their other ratings",
            _TANP[:3],
            differences=(_TANP[1],),
        ),
        Shown(
            "protocol_tanp_deeper",
            "TaNP’s protocol at 7 and 10: new users with 20 shots rank all their other ratings",
            _TANP[3:],
        ),
    ),
    ("mamo", "seed"): (
        Shown(
            "protocol_mamo",
            "MAMO’s protocol: five ratings of new users from fifteen",
            _MAMO,
            differences=_MAMO[:1],
        ),
    ),
    ("mamo", "seed", "ml-100k"): (
        Shown(
            "protocol_mamo_ml_100k",
            "MAMO’s protocol on random splits of MovieLens-100K: five ratings of new users from "
            "fifteen",
            _MAMO,
            differences=_MAMO[:1],
        ),
    ),
}
"""The tables of each protocol and way of splitting, and of a data set that has tables apart."""
