"""The tables that `experiments/speed.py` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from rich import box
from rich.table import Table
from rich.text import Text

from metarec.speed.measure import Measured
from metarec.speed.parity import Parity
from metarec.speed.rows import Bound, Row, reached, share_of_memory

NONE = "–"


def table_of_rows(rows: Sequence[tuple[Bound, Row]], works: Mapping[str, Measured]) -> Table:
    """The speed table: each row beside its bound.

    Args:
        rows: what was promised and what was measured.
        works: all that was measured, by work.
    """
    table = _table(
        "work", "backend", "ms", "against", "ms", "ratio or a second", "at least", "reached",
        "GFLOP", "GFLOP/s", "of peak", "MiB",
    )  # fmt: skip
    for bound, row in rows:
        kept = reached(bound, row, works[bound.work])
        verdict = {None: Text("not measured"), True: Text("yes", "green")}
        table.add_row(
            row.name,
            row.backend,
            number(row.milliseconds),
            row.reference or NONE,
            number(row.reference_milliseconds),
            _ratio(row.ratio, bound),
            _ratio(row.at_least, bound),
            verdict.get(kept, Text("no", "red")),
            number(row.gflop),
            number(row.gflop_per_second),
            _share(row.gflop_per_second, row.peak_gflop_per_second),
            number(row.peak_mebibytes) + _memory(bound, works[bound.work]),
        )
    return table


def table_of_contenders(works: Mapping[str, Measured]) -> Table:
    """All that was timed, compiled engines and references included."""
    table = _table("work", "contender", "ms", "fastest", "slowest", "first call, s", "GFLOP", "MiB")
    for work, measured in works.items():
        for name, contender in measured.contenders.items():
            each = [1000 * seconds / contender.items for seconds in measured.seconds[name]]
            memory = measured.mebibytes.get(name)
            table.add_row(
                work,
                name,
                number(median(each)),
                number(min(each)),
                number(max(each)),
                number(measured.first_seconds[name]),
                number(None if contender.gflop is None else contender.gflop / contender.items),
                number(median(memory) if memory else None),
            )
        for name, reason in measured.left_out.items():
            table.add_row(work, name, Text(f"left out: {reason}", "dim"))
    return table


def table_of_parity(rows: Sequence[Parity]) -> Table:
    """The parity table, in float64."""
    table = _table("order", "inner steps", "engine", "against", "loss", "meta-gradient")
    for row in rows:
        table.add_row(
            row.order, str(row.inner_steps), row.engine, row.reference,
            f"{row.loss:.1e}", f"{row.meta_gradient:.1e}",
        )  # fmt: skip
    return table


def limits(bound: Bound, row: Row, measured: Measured, stages: Mapping[str, float]) -> str:
    """What is known of what limits a row.

    Args:
        bound: of the row.
        row: what was measured.
        measured: its work.
        stages: milliseconds a task of each part of a training; empty for another work.
    """
    known = []
    share = share_of_memory(bound, measured)
    if share is not None and bound.memory_at_most is not None:
        known.append(f"memory {share:.2f} of the reference's, at most {bound.memory_at_most}")
    if row.gflop_per_second and row.peak_gflop_per_second:
        reached_rate = row.gflop_per_second / row.peak_gflop_per_second
        known.append(f"{reached_rate:.0%} of the machine's rate of products")
    operators = measured.operators.get(bound.contender, {})
    if operators:
        parts = (f"{name} {part:.0%}" for name, part in operators.items())
        known.append(f"time by operator: {', '.join(parts)}")
    if stages:
        parts = (f"{name} {value:.3f}" for name, value in stages.items())
        known.append(f"ms a task by itself: {', '.join(parts)}")
    return "; ".join(known) or "nothing is known"


def number(value: float | None) -> str:
    """Three digits, thousands by comma; – for none."""
    if value is None:
        return NONE
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _ratio(value: float | None, bound: Bound) -> str:
    unit = "/s" if bound.is_rate else "×"
    return NONE if value is None else number(value) + unit


def _share(part: float | None, whole: float | None) -> str:
    return NONE if part is None or not whole else f"{part / whole:.0%}"


def _memory(bound: Bound, measured: Measured) -> str:
    if bound.mebibytes_at_most is not None:
        return f" (at most {number(bound.mebibytes_at_most)})"
    share = share_of_memory(bound, measured)
    if share is None or bound.memory_at_most is None:
        return ""
    return f" ({share:.2f} of it; at most {bound.memory_at_most})"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    texts = ("work", "backend", "against", "contender", "engine", "order", "reached")
    for column in columns:
        table.add_column(column, justify="left" if column in texts else "right")
    return table
