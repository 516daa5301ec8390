"""The figure of how much is cold: a panel for each regime, a line for each learner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarec.report.cells import PRIMARY, row_label
from metarec.report.curve import Line
from metarec.report.figures import Suffix, foot_lines, raised, rendered, styles_of, write_foot
from metarec.report.labels import Variant, group_of, metric_label, regime_label
from metarec.report.selection import chance_of, interval_of
from metarec.report.sweeps_points import Point, regimes_in, variants_in
from metarec.report.table import Estimate, few_text

_NOTHING = Estimate(math.nan, math.nan, math.nan, 0, 0, 0)
_GREY = "#7F7F7F"


@dataclass(frozen=True)
class Shares:
    """A metric over the share that is cold.

    Args:
        title: what it shows.
        y_label: the metric in words.
        shares: the shares, ascending.
        panels: of each regime, by its title, chance and then the learners.
        note: how to read it.
        preliminary: whether there are too few seeds or episodes.
    """

    title: str
    y_label: str
    shares: tuple[float, ...]
    panels: dict[str, tuple[Line, ...]]
    note: str
    preliminary: bool


def shares_of(points: Sequence[Point], preliminary: bool) -> Shares:
    """What the figure shows.

    Args:
        points: `Sweeps.shares`.
        preliminary: as its table says.
    """
    variants = variants_in(points)
    panels = {}
    for regime in regimes_in(points):
        values = [
            one.results.select(PRIMARY, "test", regime, one.results.config.episode.k_shot)
            for one in points
        ]
        shortlist = points[0].results.config.evaluation.shortlist
        levels = tuple(chance_of(one, PRIMARY, shortlist) or _NOTHING for one in values)
        lines = [Line(None, "Chance", "Chance", levels)]
        for variant, own in variants.items():
            estimates = tuple(_estimate(one, variant) for one in values)
            group = group_of(variant.learner, own.targets[variant.learner])
            lines.append(Line(variant, row_label(own, variant), group, estimates))
        panels[regime_label(regime)] = tuple(lines)
    first = points[0].results.config
    seeds = len({record.seed for point in points for record in point.results.records})
    return Shares(
        title="Quality against the share of users and of items that is held out",
        y_label=metric_label(PRIMARY),
        shares=tuple(point.share for point in points),
        panels=panels,
        note=(
            f"K = {first.episode.k_shot}, {seeds} seed{'s' if seeds > 1 else ''}; dashed: without "
            "adaptation; dotted: chance; bands: 95 % bootstrap intervals over tasks. Each share "
            "has other test tasks, other candidates and less to train on, and each panel its own "
            "scale."
        ),
        preliminary=preliminary,
    )


def render_shares(shares: Shares, suffix: Suffix) -> bytes:
    """Draws the figure.

    Args:
        shares: what to draw.
        suffix: `pdf`, or `png` at 200 dots an inch.

    Returns:
        The file's content; the same shares give the same bytes.
    """
    return rendered(lambda: draw(shares), suffix)


def draw(shares: Shares) -> Any:
    """The figure: panels side by side, and what the lines are below them."""
    # Not pyplot: that would choose a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(2, len(shares.panels))
    rows = math.ceil(len(shares.panels) / columns)
    height = 2.3 * rows + 1.0
    figure = Figure(figsize=(6.8, height))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.095,
        right=0.74,
        bottom=0.95 / height,
        top=1 - 0.55 / height,
        wspace=0.24,
        hspace=0.34,
    )
    styles = styles_of([line for lines in shares.panels.values() for line in lines])
    for axis in axes.flat[len(shares.panels) :]:
        axis.set_visible(False)
    handles: dict[str, Any] = {}
    for axis, (title, lines) in zip(axes.flat, shares.panels.items(), strict=False):
        for line in lines:
            handles.setdefault(raised(line.label), _line(axis, shares.shares, line, styles))
        axis.set_title(title, fontsize=9)
        axis.set_xticks(shares.shares, [f"{100 * share:g}" for share in shares.shares])
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axis.set_axisbelow(True)
    for row in axes:
        row[0].set_ylabel(shares.y_label, fontsize=8)
    below = "Users and items that are test-cold, % of each"
    figure.text(0.41, 0.62 / height, below, ha="center", fontsize=8)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="center left",
        bbox_to_anchor=(0.745, 0.55),
        fontsize=7.5,
        frameon=False,
    )
    title = f"Preliminary: {shares.title}" if shares.preliminary else shares.title
    figure.text(0.02, 1 - 0.22 / height, title, fontsize=10, fontweight="bold")
    warnings = [few_text()] if shares.preliminary else []
    write_foot(figure, 0.02, foot_lines([shares.note], warnings, width=150), size=6.5)
    return figure


def _line(
    axis: Any, shares: Sequence[float], line: Line, styles: dict[str, tuple[str, str]]
) -> Any:
    """Draws one line with its band; returns what stands for it in the legend."""
    mean, low, high = (
        np.array([getattr(estimate, name) for estimate in line.estimates])
        for name in ("mean", "low", "high")
    )
    if line.variant is None:
        return axis.plot(shares, mean, color=_GREY, linestyle=":", linewidth=1.2)[0]
    colour, marker = styles[line.variant.learner]
    adapted = line.variant.adapted
    axis.fill_between(shares, low, high, color=colour, alpha=0.10, linewidth=0)
    return axis.plot(
        shares,
        mean,
        color=colour,
        linestyle="-" if adapted else "--",
        linewidth=1.5 if adapted else 1.2,
        marker=marker,
        markersize=4,
        markerfacecolor=colour if adapted else "white",
        markeredgewidth=1,
    )[0]


def _estimate(values: Any, variant: Variant) -> Estimate:
    found = interval_of(values, variant)
    if found is None:
        return _NOTHING
    return Estimate(found.mean, found.low, found.high, found.tasks, found.seeds, found.episodes)
