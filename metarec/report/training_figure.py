"""The figure of the training curves: a small panel for each learner, on the same axes."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from metarec.report.figures import Suffix, rendered
from metarec.report.training import Panel, TrainingCurves

COLUMNS = 5
_SEED, _CHOSEN = "#56B4E9", "#000000"


def render_training(curves: TrainingCurves, suffix: Suffix) -> bytes:
    """Draws the curves.

    Args:
        curves: what to draw.
        suffix: `pdf`, or `png` at 200 dots an inch.

    Returns:
        The file's content; the same curves give the same bytes.
    """
    return rendered(lambda: draw(curves), suffix)


def draw(curves: TrainingCurves) -> Any:
    """The figure, whose panels share their axes."""
    # Not pyplot: that would choose a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(curves.panels))
    rows = math.ceil(len(curves.panels) / columns)
    # inches: margins hold the title, the labels and the note
    height = 1.25 * rows + 1.15
    figure = Figure(figsize=(6.8, height))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.09,
        right=0.99,
        bottom=0.75 / height,
        top=1 - 0.5 / height,
        wspace=0.12,
        hspace=0.45,
    )
    for place, axis in enumerate(axes.flat):
        if place >= len(curves.panels):
            axis.set_visible(False)
            continue
        _draw_panel(axis, curves.panels[place])
        # the last panel of a column has the numbers of its steps, also where a row is not full
        axis.tick_params(labelbottom=place + columns >= len(curves.panels), labelsize=6)
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].set_xlim(left=0)
    figure.text(0.01, 1 - 0.2 / height, curves.title, fontsize=10, fontweight="bold")
    figure.text(0.54, 0.42 / height, "Outer step", fontsize=8, ha="center")
    figure.text(0.005, 0.5, curves.y_label, fontsize=8, rotation=90, va="center")
    note = textwrap.fill(curves.note, 130)
    figure.text(0.01, 0.08 / height, note, fontsize=6.5, color="#444444")
    return figure


def _draw_panel(axis: Any, panel: Panel) -> None:
    for steps, values in panel.seeds:
        axis.plot(steps, values, color=_SEED, linewidth=0.7)
    for level, style in ((panel.adapted, "-"), (panel.unadapted, "--")):
        if not math.isnan(level):
            axis.axhline(level, color=_CHOSEN, linewidth=0.8, linestyle=style)
    axis.set_title(textwrap.fill(panel.label, 22), fontsize=6.5, pad=3)
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.5)
    axis.set_axisbelow(True)
