"""The hybrid learner: tables and small records of `experiments/hybrid.py`.

python -m metarec.report.hybrid results/hybrid results/hybrid_blocks --paper paper
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metarec.errors import RunError
from metarec.report.cells import Column, column_cells, grouped
from metarec.report.collect import failed_records, finished_records, results_of
from metarec.report.console import announce, command
from metarec.report.differences import with_differences
from metarec.report.export import write_table
from metarec.report.hybrid_margin import HYBRID, margin_table
from metarec.report.labels import Variant, label_of
from metarec.report.notes import notes_of
from metarec.report.provenance import Provenance, provenance_of
from metarec.report.table import Cell, Estimate, Row, Section, Source, Table, interval_text, number

if TYPE_CHECKING:
    from rich.console import Console

    from metarec.runs.store import Record

BLOCKS = "_blocks"
"""What the name of the experiment ends in that measures settings on blocks of years."""
METRIC = "catalogue/ndcg@10"
SETTINGS = {
    "as_it_is": "As it is",
    "no_text": "Without text",
    "no_attributes": "Without categories and entities",
    "no_neighbours": "Without item-kNN",
    "one_member": "One member",
    "ridge_only": "Tower by ridge regression alone",
}
"""Labels of settings; others have their own names."""
AIMS = {
    ("user_cold", 5): 0.51,
    ("user_cold", 10): 0.55,
    ("item_cold", 20): 0.24,
    ("both_cold", 5): 0.215,
}
"""What the learner was meant to reach with MeLU's states, by regime and K; set beforehand."""
WIDTH = 120


def means_of(records: Sequence[Record]) -> dict[str, float]:
    """nDCG@10 of each learner on the blocks: the mean over blocks of the mean over regimes.

    Raises:
        RunError: if a learner was not measured on all blocks.
    """
    table = _by_block(records)
    blocks = sorted({block for of in table.values() for block in of})
    for name, of in table.items():
        if missing := [block for block in blocks if block not in of]:
            raise RunError(f"{name} was not measured on the block {missing[0]}; run it there")
    return {
        name: float(np.mean([list(values.values()) for values in of.values()]))
        for name, of in table.items()
    }


def build_report(
    records: Sequence[Record],
    paper: Path,
    console: Console | None = None,
    allow_mixed_versions: bool = False,
) -> list[Path]:
    """Writes the table of the test and that of the blocks, as far as there are records of them.

    Args:
        records: of both experiments.
        paper: folder that gets `hybrid`, `hybrid_margin` and `hybrid_blocks`, each as
            `tables/*.tex` and `*.md` and `records/*.json`.
        console: where the tables and what was written are printed; nowhere if None.
        allow_mixed_versions: whether a table may hold records of different versions of the code.

    Returns:
        The files that were written.

    Raises:
        RunError: if there is nothing to report, or runs of a table differ in data or episodes.
    """
    blocks = [one for one in records if one.config.experiment.endswith(BLOCKS)]
    tested = [one for one in records if one not in blocks]
    made: list[tuple[Table, Provenance]] = []
    if tested:
        made += _test_tables(tested, allow_mixed_versions)
    measured = [one for one in blocks if one.status == "finished"]
    if len({one.code for one in measured}) > 1 and not allow_mixed_versions:
        raise RunError(
            "the records of the blocks are of several versions of the code: remove the outdated "
            "ones and run experiments/hybrid.py again, or give --allow-mixed-versions"
        )
    if measured:
        made.append(_blocks_table(measured))
    if not made:
        raise RunError("no record to report; run experiments/hybrid.py")
    written = [path for table, source in made for path in write_table(table, [source], paper)]
    if console is not None:
        announce(console, [table for table, _ in made], written, WIDTH)
    return written


def _test_tables(
    records: Sequence[Record], allow_mixed_versions: bool
) -> list[tuple[Table, Provenance]]:
    finished = finished_records(records, allow_mixed_versions)
    found = results_of(finished, failed_records(records), "user", ("binary",))
    if found is None:
        raise RunError("none of the records is of user tasks with binary feedback")
    results = replace(found, module="metarec.report.hybrid")
    asked = dict.fromkeys(
        (one["regime"], one["k_shot"]) for one in results.records[0].content["episodes"]
    )
    columns = [
        Column(f"{regime.replace('_', ' ')}, K = {k}", METRIC, regime, k) for regime, k in asked
    ]
    cells, preliminary = column_cells(results, columns, HYBRID)
    first, *groups = grouped(results, cells)
    config = results.config
    aimed = (config.data.name, config.split.method) == ("ml-1m", "melu")
    aims = (Section("Aimed at", (Row("Hybrid", tuple(map(_aim, columns))),)),) if aimed else ()
    told = ("Aimed at: what was set for the hybrid learner before it was written.",)
    table = Table(
        name="hybrid",
        title=f"The hybrid learner on {config.data.name}, split by {config.split.method}, nDCG@10",
        columns=("Learner", *(column.head for column in columns)),
        sections=(first, *aims, *groups),
        notes=(*(told if aimed else ()), *notes_of(results, columns, preliminary, HYBRID)),
        preliminary=preliminary,
    )
    tables = [*with_differences(table, told), margin_table(results, columns)]
    return [(table, provenance_of(results)) for table in tables if table is not None]


def _aim(column: Column) -> Cell:
    aim = AIMS.get((column.regime, column.k_shot), math.nan)
    if math.isnan(aim):
        return Cell()
    return Cell(
        number(aim),
        estimate=Estimate(aim, math.nan, math.nan, 0, 0, 0),
        source=Source("hybrid (aimed at)", column.regime, column.k_shot, METRIC),
    )


def _blocks_table(records: Sequence[Record]) -> tuple[Table, Provenance]:
    """Settings and baselines on validation: means over blocks, and differences by block."""
    table = _by_block(records)
    means = means_of(records)
    base = next((name for name in table if name == "hybrid_as_it_is"), None)
    blocks = sorted({block for of in table.values() for block in of})
    tasks = _tasks(records)
    seeds = sorted({record.seed for record in records})
    if len(seeds) > 1:
        raise RunError(
            f"the blocks were measured at seeds {', '.join(map(str, seeds))}, and the table is of "
            "one; remove the records of the others"
        )
    rows: dict[str, list[Row]] = {"Settings": [], "Baselines": []}
    for name, of in table.items():
        cells = []
        for regime, k in _asked(records):
            values = [of[block][regime] for block in blocks]
            cells.append(_cell(values, Source(name, regime, k, METRIC), tasks[regime]))
        per_block = [float(np.mean(list(of[block].values()))) for block in blocks]
        every = sum(tasks.values())
        cells.append(_cell(per_block, Source(name, "all", 0, METRIC), every))
        cells.append(_range(per_block, table, base, name, every))
        mine = name.startswith("hybrid_")
        label = _setting(name) if mine else label_of(Variant(name))
        rows["Settings" if mine else "Baselines"].append(Row(label, tuple(cells)))
    for title, own in rows.items():
        if title == "Baselines":
            own.sort(key=lambda row: row.label)
    own_means = {name: mean for name, mean in means.items() if name.startswith("hybrid_")}
    best = max(own_means, key=lambda name: own_means[name], default=None)
    heads = [f"{regime.replace('_', ' ')}, K = {k}" for regime, k in _asked(records)]
    results = results_of(_one_block(records), (), "user", ("binary",))
    assert results is not None
    source = provenance_of(replace(results, records=tuple(records), module="metarec.report.hybrid"))
    split = f"{source.split.partition(',')[0]}; blocks {', '.join(blocks)}"
    return (
        Table(
            name="hybrid_blocks",
            title="Settings of the hybrid learner on blocks of pseudo-cold years, nDCG@10",
            columns=("Setting", *heads, "mean", "minus as it is"),
            sections=tuple(Section(title, tuple(own)) for title, own in rows.items() if own),
            notes=(
                "Means over blocks of years, whose movies and a share of the users were held out "
                f"of the warm state: {', '.join(blocks)}. The last column is the difference "
                "of the mean between a setting and the first, with the least and the largest over "
                "blocks.",
                *([f"Chosen by the mean: {_setting(best)}."] if best else []),
                "The learner stops early by looks at the same pseudo-cold items, which flatters "
                "its settings alike.",
                f"Validation only; {len(seeds)} seed ({', '.join(map(str, seeds))}). "
                f"{len(records)} records, code {', '.join(one[:12] for one in source.code)}, "
                f"by {source.command}.",
            ),
            # whether a claim can be made of them: of one seed, none
            preliminary=True,
            part="validation",
        ),
        replace(source, split=split),
    )


def _setting(name: str) -> str:
    """The label of a learner's setting."""
    setting = name.removeprefix("hybrid_")
    return SETTINGS.get(setting, setting.replace("_", " "))


def _by_block(records: Sequence[Record]) -> dict[str, dict[str, dict[str, float]]]:
    """Learner, block and regime to the mean of validation; settings in the order of the runs."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for record in records:
        if not record.config.experiment.endswith(BLOCKS):
            continue
        years = record.config.split.validation_years
        block = "all" if years is None else "–".join(map(str, dict.fromkeys(years)))
        metrics = record.metrics["validation"]
        own = {regime: values[METRIC] for regime, values in metrics.items()}
        found.setdefault(record.learner, {})[block] = {
            regime: math.nan if value is None else value for regime, value in own.items()
        }
    first = ["hybrid_as_it_is", *(f"hybrid_{name}" for name in SETTINGS)]
    order = {name: number for number, name in enumerate(dict.fromkeys(first))}
    return dict(sorted(found.items(), key=lambda one: (order.get(one[0], len(order)), one[0])))


def _asked(records: Sequence[Record]) -> list[tuple[str, int]]:
    """The regimes of the means, with their shots."""
    entries = records[0].content["episodes"]
    found: dict[str, int] = {}
    for one in entries:
        found.setdefault(one["regime"], one["k_shot"])
    return list(found.items())


def _tasks(records: Sequence[Record]) -> dict[str, int]:
    """Tasks of each regime, over all blocks."""
    first = records[0].learner
    found: dict[str, int] = {}
    for record in records:
        if record.learner == first:
            for regime, counts in record.content["counts"]["validation"].items():
                found[regime] = found.get(regime, 0) + int(counts["tasks"])
    return found


def _one_block(records: Sequence[Record]) -> list[Record]:
    return [one for one in records if one.config.split == records[0].config.split]


def _cell(values: Sequence[float], source: Source, tasks: int) -> Cell:
    mean = float(np.mean(values))
    return Cell(
        number(mean), estimate=Estimate(mean, math.nan, math.nan, tasks, 1, tasks), source=source
    )


def _range(
    values: Sequence[float],
    table: dict[str, dict[str, dict[str, float]]],
    base: str | None,
    name: str,
    tasks: int,
) -> Cell:
    if base is None or name == base:
        return Cell()
    firsts = [float(np.mean(list(of.values()))) for _, of in sorted(table[base].items())]
    apart = [value - first for value, first in zip(values, firsts, strict=True)]
    mean, low, high = float(np.mean(apart)), min(apart), max(apart)
    return Cell(
        number(mean, signed=True),
        interval_text(low, high, signed=True),
        estimate=Estimate(mean, low, high, tasks, 1, tasks),
        source=Source(f"{name} - {base}", "all", 0, METRIC),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command(
        "metarec.report.hybrid",
        "Makes the tables of the hybrid learner, from records only.",
        "results/hybrid and results/hybrid_blocks",
        build_report,
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
