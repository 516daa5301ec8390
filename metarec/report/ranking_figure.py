"""The critical-difference diagram: learners by mean rank, and bars over those who do not differ."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from metarec.report.figures import (
    Suffix,
    foot_lines,
    line_height,
    raised,
    rendered,
    write_foot,
)
from metarec.report.labels import ADAPTING, GRADIENT, METRIC, WARM_UP
from metarec.report.ranking import Ranking
from metarec.report.ranking_table import block_note, omnibus_note, test_note, title_of

# Okabe and Ito's colours without the yellow, which is too light on paper, and a wine red.
_COLOURS = {
    "Floor": "#7F7F7F",
    "Collaborative": "#0072B2",
    "Content": "#56B4E9",
    "Transfer": "#000000",
    GRADIENT: "#D55E00",
    METRIC: "#CC79A7",
    WARM_UP: "#009E73",
    ADAPTING: "#882255",
    "Other": "#E69F00",
}

# In inches, and fonts in points.
_NARROW, _WIDE, _MANY, _EDGE = 6.8, 8.4, 20, 0.12
_ROW, _BAR, _GAP = 0.17, 0.085, 0.06
_TITLE, _LABEL, _TICK, _FOOT = 9.0, 8.0, 7.0, 6.5


def render_ranking(ranking: Ranking, suffix: Suffix) -> bytes:
    """Draws the diagram.

    Args:
        ranking: what to draw.
        suffix: `pdf`, or `png` at 200 dots an inch.

    Returns:
        The file's content; the same ranking gives the same bytes.
    """
    return rendered(lambda: draw(ranking), suffix)


def draw(ranking: Ranking) -> Any:
    """The figure, after Demšar (JMLR 7, 2006), figure 1, with the best rank on the left.

    A bar joins a group of whom no two differ and has a dot at each of its members: one that it only
    passes over differs from some of them.
    """
    # Not pyplot: that would choose a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    k = len(ranking.learners)
    # many learners need a long axis, to lie apart on it
    wide = _WIDE if k > _MANY else _NARROW
    figure = Figure(figsize=(wide, 1.0))
    canvas: Any = FigureCanvasAgg(figure)

    def width_of(text: str, size: float) -> float:
        written = figure.text(0, 0, text, fontsize=size)
        inches = float(written.get_window_extent(canvas.get_renderer()).width) / figure.dpi
        written.remove()
        return inches

    title = f"Preliminary: {title_of(ranking)}" if ranking.preliminary else title_of(ranking)
    title_lines = textwrap.wrap(title, int(12.3 * wide))
    lines = foot_lines(_notes(ranking), _warnings(ranking), width=int(20 * wide))
    half = (k + 1) // 2
    low, high = _limits(ranking)
    rows = bar_rows(ranking, room=0.02 * (high - low))
    legend = _legend_rows(ranking, wide, width_of)

    top = 0.1 + line_height(_TITLE) * len(title_lines)
    axis = top + (0.62 if ranking.test == "nemenyi" else 0.42)
    first = axis + 0.14 + _BAR * len(rows) + 0.1
    bottom = first + _ROW * (half - 1) + 0.22
    foot = line_height(_FOOT) * len(lines) + 0.02
    height = bottom + _ROW * len(legend) + 0.06 + foot
    figure.set_size_inches(wide, height)
    for place, line in enumerate(title_lines):
        down = 0.1 + line_height(_TITLE) * (place + 0.75)
        figure.text(_EDGE / wide, 1 - down / height, line, fontsize=_TITLE, fontweight="bold")

    # one coordinate system for all: inches, downwards
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, wide)
    axes.set_ylim(height, 0)
    axes.set_axis_off()

    labels = [raised(one.label) for one in ranking.learners]
    number = max(width_of(f"{one.mean_rank:.2f}", _TICK) for one in ranking.learners)
    named = [
        max(width_of(label, _LABEL) for label in own) for own in (labels[:half], labels[half:])
    ]
    begin = _EDGE + named[0] + _GAP + number + _GAP
    end = wide - _EDGE - named[1] - _GAP - number - _GAP
    inner = begin + 0.12, end - 0.12

    def x_of(rank: float) -> float:
        return inner[0] + (rank - low) / (high - low) * (inner[1] - inner[0])

    _draw_axis(axes, x_of, low, high, axis)
    if ranking.test == "nemenyi":
        _draw_difference(axes, x_of, low, ranking.critical_difference, top + 0.2)
    for place, (one, label) in enumerate(zip(ranking.learners, labels, strict=True)):
        left = place < half
        y = first + _ROW * (place if left else k - 1 - place)
        x, side = x_of(one.mean_rank), begin if left else end
        colour = _COLOURS.get(one.group, _COLOURS["Other"])
        axes.plot([x, x, side], [axis, y, y], color=colour, linewidth=0.9, zorder=1)
        align, away = ("right", -1) if left else ("left", 1)
        style: dict[str, Any] = {
            "horizontalalignment": align,
            "verticalalignment": "center_baseline",
        }
        axes.text(
            side + away * _GAP, y, f"{one.mean_rank:.2f}", fontsize=_TICK, color="#444444", **style
        )
        axes.text(side + away * (2 * _GAP + number), y, label, fontsize=_LABEL, **style)
    for row, groups in enumerate(rows):
        y = axis + 0.14 + _BAR * row
        for group in groups:
            at = [x_of(ranking.learners[place].mean_rank) for place in group]
            ends = [at[0] - 0.025, at[-1] + 0.025]
            axes.plot(ends, [y, y], color="#000000", linewidth=1.3, zorder=2, gid="group")
            axes.plot(at, [y] * len(at), "o", color="#000000", markersize=2.7, zorder=3)
    _draw_legend(axes, legend, bottom)
    write_foot(figure, _EDGE / wide, lines, _FOOT)
    return figure


def bar_rows(ranking: Ranking, room: float = 0.0) -> list[list[tuple[int, ...]]]:
    """The groups of at least two learners, put into as few rows as their order allows.

    Args:
        ranking: whose groups they are.
        room: ranks that two bars in a row keep apart.

    Returns:
        Rows of groups that do not overlap, each group by its places.
    """
    rows: list[list[tuple[int, ...]]] = []
    ranks = [one.mean_rank for one in ranking.learners]
    for group in ranking.cliques:
        if len(group) < 2:
            continue
        free = (row for row in rows if ranks[row[-1][-1]] + 2 * room < ranks[group[0]])
        row = next(free, None)
        if row is None:
            rows.append([group])
        else:
            row.append(group)
    return rows


def _limits(ranking: Ranking) -> tuple[float, float]:
    """Whole ranks that hold all mean ranks, and Nemenyi's difference where it is drawn."""
    ranks = [one.mean_rank for one in ranking.learners]
    low, high = math.floor(min(ranks)), math.ceil(max(ranks))
    if ranking.test == "nemenyi":
        high = max(high, math.ceil(low + ranking.critical_difference))
    return float(low), float(max(high, low + 1))


def _notes(ranking: Ranking) -> list[str]:
    seeds = f"{ranking.seeds} seed{'s' if ranking.seeds > 1 else ''}"
    names = "; ".join(label for label, _ in ranking.left_out)
    return [
        f"{block_note(ranking)} {seeds}.",
        f"{omnibus_note(ranking)} {test_note(ranking)}",
        "A bar joins learners of whom no two differ; dots are its members.",
        *([f"Left out, for reasons in the table: {names}."] if names else []),
    ]


def _warnings(ranking: Ranking) -> list[str]:
    from metarec.report.table import few_text

    return [*([few_text()] if ranking.preliminary else []), *ranking.cautions]


def _draw_axis(
    axes: Any, x_of: Callable[[float], float], low: float, high: float, y: float
) -> None:
    axes.plot([x_of(low), x_of(high)], [y, y], color="#000000", linewidth=0.9, zorder=2)
    inches = (x_of(high) - x_of(low)) / (high - low)
    step = next((step for step in (1, 2, 5, 10) if step * inches >= 0.24), 20)
    for rank in range(int(low), int(high) + 1):
        x = x_of(float(rank))
        named = rank % step == 0 or rank in (low, high)
        named &= rank in (low, high) or min(rank - low, high - rank) * inches >= 0.2
        length = 0.06 if named else 0.03
        axes.plot([x, x], [y - length, y], color="#000000", linewidth=0.8, zorder=2)
        if named:
            axes.text(
                x, y - 0.08, str(rank), fontsize=_TICK,
                horizontalalignment="center", verticalalignment="bottom",
            )  # fmt: skip
    middle = (x_of(low) + x_of(high)) / 2
    axes.text(
        middle, y - 0.23, "← better      mean rank      worse →", fontsize=_TICK, color="#444444",
        horizontalalignment="center", verticalalignment="bottom",
    )  # fmt: skip


def _draw_difference(
    axes: Any, x_of: Callable[[float], float], low: float, difference: float, y: float
) -> None:
    """Nemenyi's critical difference, as a ruler."""
    ends = [x_of(low), x_of(low + difference)]
    axes.plot(ends, [y, y], color="#000000", linewidth=1.4, gid="difference")
    for x in ends:
        axes.plot([x, x], [y - 0.04, y + 0.04], color="#000000", linewidth=1.4)
    axes.text(
        ends[0], y - 0.06, f"CD = {difference:.2f}", fontsize=_TICK, verticalalignment="bottom"
    )


def _legend_rows(
    ranking: Ranking, wide: float, width_of: Callable[[str, float], float]
) -> list[list[tuple[str, str, float]]]:
    """Name, colour and place of the groups of learners, in rows that fit the width."""
    present = {one.group for one in ranking.learners}
    rows: list[list[tuple[str, str, float]]] = [[]]
    x = _EDGE
    for group in [name for name in _COLOURS if name in present]:
        width = 0.28 + width_of(group, _TICK) + 0.16
        if rows[-1] and x + width > wide - _EDGE:
            rows.append([])
            x = _EDGE
        rows[-1].append((group, _COLOURS[group], x))
        x += width
    return rows


def _draw_legend(axes: Any, rows: Sequence[Sequence[tuple[str, str, float]]], top: float) -> None:
    for place, row in enumerate(rows):
        y = top + _ROW * place
        for group, colour, x in row:
            axes.plot([x, x + 0.22], [y, y], color=colour, linewidth=2.0)
            axes.text(x + 0.28, y, group, fontsize=_TICK, verticalalignment="center_baseline")
