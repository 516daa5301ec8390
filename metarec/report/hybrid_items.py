"""How far the hybrid learner's result on new items hangs on which items are new.

python -m metarec.report.hybrid_items results/hybrid --paper paper

Intervals over users hold the cold items fixed, and say little of other items. Here the jackknife
leaves out one group of items after another. Learners are restored from their records, and fitted
again where nothing was trained; the data of the runs have to be at hand.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metarec.errors import MetarecError, RunError
from metarec.evaluation.items_left_out import jackknife_error, means_without
from metarec.report.cells import Column
from metarec.report.collect import finished_records, read_records, results_of
from metarec.report.console import announce
from metarec.report.export import write_table
from metarec.report.notes import source_notes
from metarec.report.provenance import provenance_of
from metarec.report.table import (
    Cell,
    Estimate,
    Row,
    Section,
    Source,
    Table,
    interval_text,
    number,
)
from metarec.runs.learners import build_learner
from metarec.runs.measure import Adapting, main_episodes
from metarec.runs.prepare import prepare, training_of

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from metarec.learner import Learner
    from metarec.runs.store import Record

METRIC = "catalogue/ndcg@10"
ROWS = ("Hybrid", "Hybrid, no support", "Predicted popularity")
REGIMES = ("item_cold", "both_cold")


def build_report(
    records: Sequence[Record],
    paper: Path,
    console: Console | None = None,
    groups: int = 20,
    progress: bool = False,
    allow_mixed_versions: bool = False,
) -> list[Path]:
    """Writes the table of errors over items, and prints it.

    Args:
        records: of `experiments/hybrid.py` on test; those of the hybrid learner and of predicted
            popularity are taken, at the seeds that both have.
        paper: folder that gets `tables/hybrid_items.tex` and `*.md`, and the small record.
        console: where the table is printed; nowhere if None.
        groups: of items.
        progress: whether to show progress bars.
        allow_mixed_versions: whether records of different versions of the code may stand together.

    Raises:
        RunError: if one of the two learners is missing, or the versions differ.
    """
    wanted = [one for one in records if one.learner in ("hybrid", "predicted_popularity")]
    own = finished_records(wanted, allow_mixed_versions)
    hybrid = {one.seed: one for one in own if one.learner == "hybrid"}
    popular = {one.seed: one for one in own if one.learner == "predicted_popularity"}
    seeds = sorted(hybrid.keys() & popular.keys())
    if not seeds:
        raise RunError(
            "hybrid and predicted_popularity are needed at the same seed; run experiments/hybrid.py"
        )
    found: dict[tuple[str, int], list[_OfSeed]] = {}
    for seed in seeds:
        for place, values in _of_seed(hybrid[seed], popular[seed], groups, progress).items():
            found.setdefault(place, []).append(values)
    used = [one for seed in seeds for one in (hybrid[seed], popular[seed])]
    results = results_of(used, (), "user", ("binary",))
    assert results is not None
    results = replace(results, module="metarec.report.hybrid_items")
    columns = [Column(f"{regime}, {k}", METRIC, regime, k) for regime, k in found]
    table = _table(found, groups, seeds, source_notes([(results, columns)])[1:])
    source = provenance_of(results)
    written = write_table(table, [source], paper)
    if console is not None:
        announce(console, [table], written, 120)
    return written


class _OfSeed(NamedTuple):
    """What one seed gave in a regime."""

    tasks: int
    """Users who have a value."""
    means: np.ndarray
    """[rows]"""
    without: np.ndarray
    """[rows, groups] means without a group."""


def _of_seed(
    hybrid: Record, popular: Record, groups: int, progress: bool
) -> dict[tuple[str, int], _OfSeed]:
    """What a seed gave, by regime and K."""
    materials = prepare(hybrid.config, needs_features=True)
    for record in (hybrid, popular):
        record.check_unchanged(materials.data_checksum, materials.feature_key)
    learner = build_learner(hybrid.config)
    assert isinstance(learner, Adapting)
    other = build_learner(popular.config)
    plain = other.fit(training_of(popular.config, materials, None, None, False))
    meta = hybrid.meta_parameters()
    pairs: list[tuple[Learner, Mapping[str, np.ndarray]]] = [
        (learner, meta), (learner.without_adaptation(), meta), (other, plain),
    ]  # fmt: skip
    found = {}
    for episodes in main_episodes(hybrid.config, materials.split):
        if episodes.regime not in REGIMES:
            continue
        values = [
            _values(hybrid, episodes.regime, episodes.k_shot, True),
            _values(hybrid, episodes.regime, episodes.k_shot, False),
            _values(popular, episodes.regime, episodes.k_shot, True),
        ]
        found[episodes.regime, episodes.k_shot] = _OfSeed(
            int(values[0].notna().sum()),
            np.array([own.mean() for own in values]),
            means_without(pairs, episodes, groups, metric=METRIC, progress=progress),
        )
    return found


def _values(record: Record, regime: str, k_shot: int, adapted: bool) -> pd.Series:
    frame = record.per_task
    own = (frame["part"] == "test") & (frame["regime"] == regime) & (frame["k_shot"] == k_shot)
    own &= (frame["evaluation"] == "main") & (frame["adapted"] == adapted)
    return frame.loc[own, METRIC]


def _table(
    found: Mapping[tuple[str, int], list[_OfSeed]],
    groups: int,
    seeds: Sequence[int],
    sources: Sequence[str],
) -> Table:
    rows: dict[str, list[Cell]] = {name: [] for name in ROWS}
    gains: dict[str, list[Cell]] = {f"minus {name.lower()}": [] for name in ROWS[1:]}
    for (regime, k_shot), of_seeds in found.items():
        means = np.mean([one.means for one in of_seeds], axis=0)
        without = np.mean([one.without for one in of_seeds], axis=0)
        counts = [one.tasks for one in of_seeds]
        for row, name in enumerate(ROWS):
            source = Source(name, regime, k_shot, METRIC)
            rows[name].append(_cell(means[row], without[row], source, counts))
        for row, name in enumerate(gains, start=1):
            source = Source(f"hybrid {name}", regime, k_shot, METRIC)
            apart = means[0] - means[row], without[0] - without[row]
            gains[name].append(_cell(*apart, source, counts, signed=True))
    estimates = [cell.estimate for cells in rows.values() for cell in cells]
    return Table(
        name="hybrid_items",
        title="The hybrid learner on new items: errors over items, nDCG@10",
        columns=(
            "Learner",
            *(f"{regime.replace('_', ' ')}, K = {k_shot}" for regime, k_shot in found),
        ),
        sections=(
            Section("", tuple(Row(name, tuple(cells)) for name, cells in rows.items())),
            Section("Hybrid", tuple(Row(name, tuple(cells)) for name, cells in gains.items())),
        ),
        notes=(
            f"Intervals: {half_width(groups):.2f} standard errors, as Student’s t with "
            f"{groups - 1} degrees of freedom has them, of the jackknife that leaves out one of "
            f"{groups} groups of cold items after another, from candidates and queries; means over "
            f"{len(seeds)} seeds. They are those of other cold items, where the intervals of "
            "`hybrid.md` are those of other users.",
            *sources,
        ),
        preliminary=any(estimate is not None and estimate.few for estimate in estimates),
    )


def half_width(groups: int) -> float:
    """Standard errors of a 95 % interval: Student's t with a degree of freedom a group, but one.

    Source: Kott, "The delete-a-group jackknife", J. Official Statistics 17, 2001.
    """
    from scipy import stats

    return float(stats.t.ppf(0.975, groups - 1))


def _cell(
    mean: float, without: np.ndarray, source: Source, counts: Sequence[int], signed: bool = False
) -> Cell:
    error = float(jackknife_error(without))
    half = half_width(without.shape[-1]) * error
    low, high = mean - half, mean + half
    return Cell(
        number(mean, signed=signed),
        interval_text(low, high, signed=signed) if not math.isnan(error) else "",
        estimate=Estimate(float(mean), low, high, max(counts), len(counts), sum(counts)),
        source=source,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m metarec.report.hybrid_items",
        description="Makes the table of errors over cold items, from records and data.",
    )
    parser.add_argument("results", nargs="+", type=Path, help="folder such as results/hybrid")
    parser.add_argument("--paper", type=Path, default=Path("paper"), help="where the files go")
    parser.add_argument("--groups", type=int, default=20, help="groups of items (default: 20)")
    parser.add_argument(
        "--allow-mixed-versions",
        action="store_true",
        help="let records of different versions of the code stand in one table",
    )
    options = parser.parse_args(arguments)
    from rich.console import Console

    console = Console()
    try:
        records = [record for folder in options.results for record in read_records(folder)]
        build_report(
            records, options.paper, console, options.groups, console.is_terminal,
            options.allow_mixed_versions,
        )  # fmt: skip
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
