"""What was measured, in the header of each learner's configuration: copied from the records."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarec.errors import RunError
from metarec.report.cells import PRIMARY
from metarec.report.files import write_text
from metarec.report.labels import metric_label
from metarec.report.table import number

BEGIN = "# Measured:"
NOTHING = "not yet."
WIDTH = 100

MAE = "rated/mae"

# The first of these that knows a learner is named: the most seeds first, user tasks first, and what
# predicts ratings alone by the protocol that measures these.
_SOURCES = (
    *(("family", "user"), ("scorers", "user"), ("main", "user")),
    *(("family_items", "item"), ("item_tasks", "item")),
    ("what_to_adapt", "reranking"),
    ("protocol_melu", "rating"),
    ("protocol_mamo", "rating"),
    ("hybrid", "states"),
)
_REGIMES = {
    "user": ("user_cold", "both_cold"),
    "item": ("item_cold",),
    "reranking": ("user_cold",),
    "rating": ("user_cold", "both_cold"),
    "states": ("user_cold",),
}
_METRICS = {kind: MAE if kind == "rating" else PRIMARY for kind in _REGIMES}
_BEST = {"user": "binary", "item": "item", "rating": "rating"}
"""The folder in `learner/best/` whose learners a source measures, if there is one."""

ADAPTED = "last_n"
"""What of a BERT adapts where a configuration does not say otherwise."""


@dataclass(frozen=True)
class _Figure:
    k_shot: int
    mean: float
    seeds: int


def replace_measured(configs: Path, paper: Path) -> list[Path]:
    """See `metarec.report.update_headers`."""
    files = sorted((configs / "learner").glob("*.yaml"))
    if not files:
        raise RunError(f"no configurations of learners in {configs / 'learner'}")
    records = small_records(paper)
    changed = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        updated = with_measured(text, measured(file.stem, records, paper, configs))
        if updated != text:
            changed.append(write_text(file, updated))
    return changed


def small_records(paper: Path) -> dict[str, Any]:
    """The small records of a paper that headers may name, by their name.

    Raises:
        RunError: if one cannot be read.
    """
    found = {}
    for name, _ in _SOURCES:
        file = paper / "records" / f"{name}.json"
        if not file.is_file():
            continue
        try:
            found[name] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{file} cannot be read ({error}); make the tables again") from error
    return found


def measured(
    learner: str, records: Mapping[str, Any], paper: Path, configs: Path | None = None
) -> str:
    """What the header of a learner says, such as `nDCG@10 user_cold .267, K=10, 3 seeds (…)`.

    A protocol has shots of its own, as many as a user's history leaves, so that its K is not said.
    Of a BERT that adapts, the figures are those of `ADAPTED`, after reranking.

    Args:
        learner: its name.
        records: as `small_records` gives them.
        paper: the paper's folder, by whose name the record is called.
        configs: the folder of the configurations: the learner is named as the experiments choose
            it, which is that of `best/` where there is one. What stands there now counts: after
            tuning anew the tables have to be made anew too.
    """
    for name, kind in _SOURCES:
        if name not in records:
            continue
        row = f"{learner}_{ADAPTED}" if kind == "reranking" else learner
        figures = _figures(records[name], row, _METRICS[kind])
        shown = {regime: figures[regime] for regime in _REGIMES[kind] if regime in figures}
        if not shown:
            continue
        values = ", ".join(
            f"{'item tasks' if kind == 'item' else regime} {number(figure.mean)}"
            for regime, figure in shown.items()
        )
        k_shot, seeds = next((one.k_shot, one.seeds) for one in shown.values())
        how = name.replace("_", "=", 1) if kind == "rating" else f"K={k_shot}"
        how += ", MovieLens-1M, split=melu" if kind == "states" else ""
        how += f", adapted={ADAPTED}, reranking" if kind == "reranking" else ""
        fits = f"{seeds} seed{'s' if seeds > 1 else ''}"
        best = f"best/{_BEST[kind]}/{learner}" if kind in _BEST else None
        if configs is not None and best and (configs / "learner" / f"{best}.yaml").is_file():
            fits += f", as learner={best}"
        return (
            f"{metric_label(_METRICS[kind])} {values}, {how}, {fits} "
            f"({paper.resolve().name}/records/{name}.json)."
        )
    return NOTHING


def with_measured(text: str, what: str) -> str:
    """A configuration whose header says what was measured, in place of what it said.

    Args:
        text: of a YAML file that opens with comments.
        what: as `measured` gives it.
    """
    lines = text.splitlines()
    end = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    entry = textwrap.wrap(
        f"{BEGIN} {what}",
        WIDTH,
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    start = next((at for at, line in enumerate(lines[:end]) if line.startswith(BEGIN)), end)
    after = min(start + 1, end)
    while after < end and lines[after].startswith("#   "):
        after += 1
    return "\n".join([*lines[:start], *entry, *lines[after:], ""])


def _figures(record: Mapping[str, Any], learner: str, metric: str) -> dict[str, _Figure]:
    """The learner's figures in a metric by regime; of a curve over K, that of the most shots."""
    figures: dict[str, _Figure] = {}
    for values in record["rows"]:
        row = dict(zip(record["columns"], values, strict=True))
        if row["learner"] != learner or row["metric"] != metric:
            continue
        figure = _Figure(row["k_shot"], row["mean"], row["seeds"])
        known = figures.get(row["regime"])
        if known is None or figure.k_shot > known.k_shot:
            figures[row["regime"]] = figure
    return figures
