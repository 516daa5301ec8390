"""The figure: quality against K, drawn to the same bytes from the same records."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from metarec.report.curve import Curve, Line
from metarec.report.table import WARNING, few_text

Suffix = Literal["pdf", "png"]
SUFFIXES: tuple[Suffix, ...] = get_args(Suffix)

# Lines that hide what the others show; their numbers are in the small records.
_LEFT_OUT = frozenset(
    {"random", "item_mean", "tfidf_cosine", "maml_learn2learn", "prototypical_no_projection"}
)
# Okabe and Ito's colours, which all common colour visions tell apart, without the yellow, which is
# too light on paper; each with a marker, for print in grey. A 0-step line has its learner's colour.
_STYLES = {
    "popularity": ("#7F7F7F", "s"),
    "item_knn": ("#56B4E9", "v"),
    "ease": ("#0072B2", "o"),
    "als": ("#009E73", "^"),
    "bert_cosine": ("#882255", "P"),
    "ridge": ("#E69F00", "X"),
    "predicted_popularity": ("#B0B0B0", "D"),
    "transfer": ("#000000", "d"),
    "maml": ("#D55E00", "o"),
    "prototypical": ("#CC79A7", "s"),
}
_SPARE = (("#8C564B", "*"), ("#6A3D9A", "h"), ("#1B6B6B", "<"), ("#5C6B1B", ">"))

_SETTINGS: dict[Any, Any] = {
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "pdf.fonttype": 42,
    "savefig.facecolor": "white",
    "svg.hashsalt": "metarec",
}


def drawn_lines(curve: Curve) -> list[Line]:
    """The lines of the figure: chance, and every learner but a few that would hide the others."""
    return [
        line
        for line in curve.lines
        if (line.variant is None or line.variant.learner not in _LEFT_OUT)
        and not all(np.isnan(estimate.mean) for estimate in line.estimates)
    ]


def render_k_shot(curve: Curve, suffix: Suffix) -> bytes:
    """Draws the curve.

    Lines are named at their right ends in their own colours; bands are the 95 % intervals; 0-step
    lines are dashed and chance is dotted. The axis of K is logarithmic in K + 1.

    Args:
        curve: what to draw.
        suffix: `pdf`, or `png` at 200 dots an inch.

    Returns:
        The file's content, without date or name of a program: the same curve gives the same bytes.
    """
    return rendered(lambda: _draw(curve), suffix)


def rendered(draw: Callable[[], Any], suffix: Suffix) -> bytes:
    """The bytes of a figure in the paper's style, without date or name of a program.

    Args:
        draw: makes the figure.
        suffix: `pdf`, or `png` at 200 dots an inch.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        figure = draw()
        file = io.BytesIO()
        metadata: dict[str, Any] = (
            {"Creator": None, "Producer": None, "CreationDate": None}
            if suffix == "pdf"
            else {"Software": None}
        )
        figure.savefig(file, format=suffix, dpi=200, metadata=metadata)
    return file.getvalue()


def foot_lines(notes: Sequence[str], warnings: Sequence[str], width: int) -> list[tuple[str, bool]]:
    """The lines at the foot of a figure, and whether each is bold: the warnings, which are last.

    Args:
        notes: sentences, each of which begins a line.
        warnings: sentences that `Warning: ` is put before.
        width: letters of a line.
    """
    bold = (f"{WARNING}: {text}" for text in warnings)
    return [
        *((line, False) for text in notes for line in textwrap.wrap(text, width)),
        # bold letters are wider
        *((line, True) for text in bold for line in textwrap.wrap(text, int(0.88 * width))),
    ]


def write_foot(figure: Any, left: float, lines: Sequence[tuple[str, bool]], size: float) -> None:
    """Writes lines at the foot of a figure.

    Args:
        figure: of matplotlib.
        left: where the lines begin, as a share of the width.
        lines: as `foot_lines` gives them.
        size: of the font in points.
    """
    height = line_height(size) / figure.get_figheight()
    for place, (text, bold) in enumerate(reversed(lines)):
        figure.text(
            left,
            0.012 + place * height,
            text,
            fontsize=size,
            fontweight="bold" if bold else "normal",
            color="#000000" if bold else "#444444",
        )


def line_height(size: float) -> float:
    """Inches of a line of text, by the size of its font in points."""
    return 1.35 * size / 72


def raised(text: str) -> str:
    """A label as matplotlib writes it: `^` raises the letter after it."""
    return re.sub(r"\^(\w)", r"$^\\mathrm{\1}$", text)


def _draw(curve: Curve) -> Any:
    # Not pyplot: that would choose a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 4.4))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.09, 0.16, 0.65, 0.75))
    x = np.log2(np.array(curve.shots, dtype=np.float64) + 1)
    lines = drawn_lines(curve)
    styles = styles_of(lines)
    for line in lines:
        colour, marker = styles[line.variant.learner] if line.variant else ("#7F7F7F", "")
        mean, low, high = (
            np.array([getattr(estimate, name) for estimate in line.estimates])
            for name in ("mean", "low", "high")
        )
        if line.variant is None:
            axes.plot(x, mean, color=colour, linestyle=":", linewidth=1.2)
            continue
        adapted = line.variant.adapted
        axes.fill_between(x, low, high, color=colour, alpha=0.10, linewidth=0)
        axes.plot(
            x,
            mean,
            color=colour,
            linestyle="-" if adapted else "--",
            linewidth=1.5 if adapted else 1.2,
            marker=marker,
            markersize=4,
            markerfacecolor=colour if adapted else "white",
            markeredgewidth=1,
        )
    axes.set_xticks(x, [str(k) for k in curve.shots])
    axes.minorticks_off()
    axes.set_xlim(x[0] - 0.1, x[-1] + 0.1)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("K, shots in the support set (log scale of K + 1)")
    axes.set_ylabel(curve.y_label)
    title = f"Preliminary: {curve.title}" if curve.preliminary else curve.title
    figure.text(0.09, 0.945, title, fontsize=10, fontweight="bold")
    warnings = [few_text()] if curve.preliminary else []
    write_foot(figure, 0.09, foot_lines([curve.note], warnings, width=125), size=7.0)
    _name_lines(axes, x[-1], lines, styles)
    return figure


def _name_lines(
    axes: Any, right: float, lines: Sequence[Line], styles: dict[str, tuple[str, str]]
) -> None:
    """Writes each line's name at its right end, moved apart where ends are close."""
    bottom, top = axes.get_ylim()
    ends = np.array([_end(line) for line in lines])
    order = np.argsort(-ends, kind="stable")
    places = _apart((ends[order] - bottom) / (top - bottom), gap=0.052)
    for index, place in zip(order, places, strict=True):
        line = lines[index]
        colour = styles[line.variant.learner][0] if line.variant else "#7F7F7F"
        dashed = line.variant is not None and not line.variant.adapted
        axes.annotate(
            raised(line.label),
            xy=(1.0, (ends[index] - bottom) / (top - bottom)),
            xytext=(1.055, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            fontsize=8,
            color=colour,
            fontstyle="italic" if dashed else "normal",
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "linestyle": "--" if dashed else "-",
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )


def _end(line: Line) -> float:
    known = [estimate.mean for estimate in line.estimates if not np.isnan(estimate.mean)]
    return known[-1]


def _apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Moves descending places as little as needed so that neighbours are `gap` apart.

    Least squares under that constraint is isotonic regression of the places plus their offsets:
    neighbours that would overlap form a block around their mean (pool adjacent violators).
    """
    shifted = places + gap * np.arange(len(places))
    blocks: list[list[float]] = []
    for value in shifted:
        blocks.append([float(value)])
        while len(blocks) > 1 and np.mean(blocks[-2]) < np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    fitted = np.concatenate([np.full(len(block), np.mean(block)) for block in blocks])
    apart = fitted - gap * np.arange(len(places))
    # The stack as a whole stays within the axes where it fits there.
    if apart[-1] < 0:
        apart = np.maximum(apart, gap * np.arange(len(apart))[::-1])
    return np.asarray(apart)


def styles_of(lines: Sequence[Line]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each learner, the same in every figure of learners."""
    styles = dict(_STYLES)
    unknown = sorted({line.variant.learner for line in lines if line.variant} - set(styles))
    for place, learner in enumerate(unknown):
        styles[learner] = _SPARE[place % len(_SPARE)]
    return styles
