"""The figure of what of a BERT adapts: quality over K, and against the seconds of a user."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarec.report.choices import ADAPT, MEMORY, SCORE, Study
from metarec.report.figures import Suffix, foot_lines, rendered, write_foot
from metarec.report.labels import ADAPTED, Variant, label_of, metric_label
from metarec.report.selection import chance_of, interval_of
from metarec.report.table import few_text

# Okabe and Ito's colours without the yellow, which is too light on paper, and a wine red; each with
# a marker, for print in grey.
_STYLES = {
    "head": ("#000000", "o"),
    "bitfit": ("#E69F00", "s"),
    "last_n": ("#56B4E9", "v"),
    "lora": ("#009E73", "^"),
    "adalora": ("#0072B2", "D"),
    "adapter": ("#D55E00", "P"),
    "prefix": ("#CC79A7", "X"),
    "full": ("#882255", "p"),
}
_SPARE = ("#8C564B", "h")
_GREY = "#7F7F7F"
_LARGEST = 110.0
"""Area of the marker of the most memory, in square points."""


@dataclass(frozen=True)
class Entry:
    """One choice.

    Args:
        label: what adapts.
        adapted: likewise, as the configuration has it.
        meta: whether it is MAML, or else transfer.
        means: its metric at each K; NaN where it was not measured.
        seconds: to adapt to a user and to score the candidates; NaN if unknown.
        gib: peak memory; NaN if unknown.
    """

    label: str
    adapted: str
    meta: bool
    means: tuple[float, ...]
    seconds: float
    gib: float


@dataclass(frozen=True)
class Comparison:
    """What the figure shows.

    Args:
        title: what it shows.
        y_label: the metric.
        shots: the K, ascending.
        k_shot: that of the lower panels.
        panels: the choices of each reader, by its title.
        retriever: how the retriever is called.
        own_order: the metric of its own order at each K; NaN where it was not measured.
        chance: the metric of a constant score at each K.
        note: how to read it.
        warnings: sentences that stand below it.
    """

    title: str
    y_label: str
    shots: tuple[int, ...]
    k_shot: int
    panels: dict[str, tuple[Entry, ...]]
    retriever: str
    own_order: tuple[float, ...]
    chance: tuple[float, ...]
    note: str
    warnings: tuple[str, ...] = ()


def comparison_of(study: Study, preliminary: bool = False) -> Comparison:
    """What the figure shows of the runs.

    Args:
        study: the runs.
        preliminary: whether there are too few seeds or episodes; title and a warning say so.
    """
    by_shots = [
        study.results.select(one.metric, "test", one.regime, one.k_shot, one.evaluation)
        for one in study.columns
    ]
    metric = study.column.metric

    def means(variant: Variant) -> tuple[float, ...]:
        found = (interval_of(values, variant) for values in by_shots)
        return tuple(math.nan if one is None else one.mean for one in found)

    panels = {}
    for title, choices in study.by_reader().items():
        entries = []
        for choice in choices:
            if choice.variant not in study.results.variants:
                continue
            cost = {name: one.mean for name, one in study.costs(choice.learner).items()}
            seconds = cost.get(ADAPT, math.nan) + cost.get(SCORE, math.nan)
            own = means(choice.variant), seconds, cost.get(MEMORY, math.nan)
            entries.append(Entry(choice.part, choice.adapted, choice.meta, *own))
        if entries:
            panels[title] = tuple(entries)
    levels = (chance_of(values, metric, study.shortlist) for values in by_shots)
    seeds = len({record.seed for record in study.results.records})
    users = by_shots[0]["task"].nunique()
    title = f"What of a BERT adapts: quality after reranking {study.shortlist} candidates"
    return Comparison(
        title=f"Preliminary: {title}" if preliminary else title,
        y_label=metric_label(metric),
        shots=study.shots,
        k_shot=study.k_shot,
        panels=panels,
        retriever=label_of(study.retriever),
        own_order=means(study.retriever),
        chance=tuple(math.nan if one is None else one.mean for one in levels),
        note=(
            f"{users} test users, {seeds} seed{'s' if seeds > 1 else ''}, nested supports; lower "
            f"panels: K = {study.k_shot}, seconds to adapt and to score, lines join MAML and "
            "transfer. Intervals: table."
        ),
        warnings=(few_text(),) if preliminary else (),
    )


def render_comparison(comparison: Comparison, suffix: Suffix) -> bytes:
    """Draws the figure.

    Args:
        comparison: what to draw.
        suffix: `pdf`, or `png` at 200 dots an inch.

    Returns:
        The file's content; the same comparison gives the same bytes.
    """
    return rendered(lambda: draw(comparison), suffix)


def draw(comparison: Comparison) -> Any:
    """The figure: a column for each reader, over K above and against seconds below."""
    # Not pyplot: that would choose a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.8, 5.6))
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(comparison.panels), sharex="row", sharey="row", squeeze=False)
    figure.subplots_adjust(
        left=0.095, right=0.775, bottom=0.125, top=0.885, wspace=0.08, hspace=0.3
    )
    # the widest memory is that of all panels, so that sizes compare
    most = max(
        (entry.gib for entries in comparison.panels.values() for entry in entries if entry.gib > 0),
        default=math.nan,
    )
    for column, (title, entries) in enumerate(comparison.panels.items()):
        _over_shots(axes[0, column], comparison, entries)
        _against_seconds(axes[1, column], comparison, entries, most)
        axes[0, column].set_title(title, fontsize=9)
    _plain_seconds(axes[1, 0])
    # Not from 0, where the choices would lie on each other: chance shows how far they are from it.
    axes[1, 0].margins(0.1)
    for row in axes:
        row[0].set_ylabel(comparison.y_label)
        row[0].yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        for axis in row:
            axis.grid(axis="y", color="#DDDDDD", linewidth=0.6)
            axis.set_axisbelow(True)
    middle = (0.095 + 0.775) / 2
    upper, lower = axes[0, 0].get_position().y0, axes[1, 0].get_position().y0
    shots = "K, shots in the support set (log scale of K + 1)"
    seconds = f"Seconds of a user, adapt and score (log scale), K = {comparison.k_shot}"
    figure.text(middle, upper - 0.065, shots, ha="center", fontsize=8)
    figure.text(middle, lower - 0.065, seconds, ha="center", fontsize=8)
    figure.text(0.02, 0.955, comparison.title, fontsize=10, fontweight="bold")
    write_foot(figure, 0.02, foot_lines([comparison.note], comparison.warnings, 160), size=6.5)
    _legends(figure, comparison, most)
    return figure


def _over_shots(axis: Any, comparison: Comparison, entries: Sequence[Entry]) -> None:
    x = np.log2(np.array(comparison.shots, dtype=np.float64) + 1)
    axis.plot(x, comparison.chance, color=_GREY, linestyle=":", linewidth=1.2)
    axis.plot(x, comparison.own_order, color=_GREY, linewidth=2.2, alpha=0.7)
    for entry in entries:
        colour, marker = _style(entry)
        axis.plot(
            x,
            entry.means,
            color=colour,
            linestyle="-" if entry.meta else "--",
            linewidth=1.3 if entry.meta else 1.0,
            marker=marker,
            markersize=4,
            markerfacecolor=colour if entry.meta else "white",
            markeredgewidth=0.9,
        )
    axis.set_xticks(x, [str(k) for k in comparison.shots])
    axis.minorticks_off()


def _against_seconds(
    axis: Any, comparison: Comparison, entries: Sequence[Entry], most: float
) -> None:
    at = comparison.shots.index(comparison.k_shot)
    axis.set_xscale("log")
    axis.axhline(comparison.own_order[at], color=_GREY, linewidth=2.2, alpha=0.7)
    for entry in entries:
        colour, marker = _style(entry)
        for twin in entries:
            if entry.meta and not twin.meta and twin.adapted == entry.adapted:
                ends = [entry.seconds, twin.seconds], [entry.means[at], twin.means[at]]
                axis.plot(*ends, color=colour, linewidth=0.6, alpha=0.8, zorder=1)
        axis.scatter(
            entry.seconds,
            entry.means[at],
            s=_area(entry.gib, most),
            color=colour if entry.meta else "white",
            edgecolor=colour,
            marker=marker,
            linewidth=0.9,
            zorder=3 if entry.meta else 2,
        )


def _plain_seconds(axis: Any) -> None:
    """Seconds as plain numbers, at 1, 2 and 5 of a decade where there are few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_xlim()
    few = high / low < 100
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=15))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _area(gib: float, most: float) -> float:
    """Area of a marker, proportional to memory; small where that is unknown."""
    return _LARGEST / 4 if math.isnan(gib) else _LARGEST * gib / most


def _style(entry: Entry) -> tuple[str, str]:
    return _STYLES.get(entry.adapted, _SPARE)


def _legends(figure: Any, comparison: Comparison, most: float) -> None:
    """To the right: what adapts, how lines are drawn, and what the sizes mean."""
    from matplotlib.lines import Line2D

    entries = [entry for own in comparison.panels.values() for entry in own]
    first = {entry.adapted: entry for entry in reversed(entries)}
    known = [first.pop(name) for name in ADAPTED if name in first]
    parts = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5, label=entry.label)
        for entry in (*known, *first.values())
        for colour, marker in [_style(entry)]
    ]

    def line(style: Any, label: str, colour: str = "#000000", width: float = 1.2) -> Any:
        return Line2D([], [], color=colour, linestyle=style, linewidth=width, label=label)

    learners = [
        line(style, label)
        for meta, style, label in ((True, "-", "MAML (filled)"), (False, "--", "Transfer (open)"))
        if any(entry.meta == meta for entry in entries)
    ]
    levels = [line(":", "Chance", _GREY)]
    if not all(math.isnan(value) for value in comparison.own_order):
        levels.insert(0, line("-", f"{comparison.retriever},\nown order", _GREY, 2.2))
    least = min((entry.gib for entry in entries if entry.gib > 0), default=math.nan)
    # the least and the most memory, once where they are the same
    named = {f"{gib:.2g} GiB": gib for gib in (least, most) if not math.isnan(gib)}
    sizes = [
        Line2D(
            [], [], color=_GREY, marker="o", linestyle="", label=label,
            markersize=math.sqrt(_area(gib, most)),
        )
        for label, gib in named.items()
    ]  # fmt: skip
    for top, title, handles, spacing in (
        (0.885, "What adapts", parts, 0.35),
        (0.6, "Learner", [*learners, *levels], 0.35),
        (0.385, "Peak memory", sizes, 0.9),
    ):
        if handles:
            figure.legend(
                handles=handles,
                title=title,
                loc="upper left",
                bbox_to_anchor=(0.785, top),
                frameon=False,
                fontsize=7.5,
                title_fontsize=8,
                alignment="left",
                borderaxespad=0,
                borderpad=0,
                labelspacing=spacing,
            )
