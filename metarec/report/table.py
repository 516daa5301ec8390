"""`Table`: formatted once, so that terminal, README and paper agree to the digit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metarec.evaluation.significance import MIN_EPISODES, MIN_SEEDS
from metarec.report.labels import ONE_SEED

if TYPE_CHECKING:
    from rich.console import Group

MISSING = "–"
WARNING = "Warning"
REFERENCE, BETTER, WORSE = "†", "+", "−"
"""Marks of a cell: the reference baseline; significantly better or worse than it."""


@dataclass(frozen=True)
class Estimate:
    """A published number and what it stands on.

    Args:
        mean: mean over tasks of the mean over seeds, or of a difference.
        low: lower end of its 95 % interval; NaN without one.
        high: upper end.
        tasks: tasks that have a value.
        seeds: seeds.
        episodes: values: tasks times seeds, less undefined ones.
        p: p value of the paired test, corrected by Holm; NaN without a test.
        effect: rank-biserial correlation of that test, in [-1, 1]; NaN without a test.
        wins: of a difference, tasks in which the first is better; 0 without a test.
        ties: tasks without a difference.
        losses: tasks in which it is worse.
    """

    mean: float
    low: float
    high: float
    tasks: int
    seeds: int
    episodes: int
    p: float = math.nan
    effect: float = math.nan
    wins: int = 0
    ties: int = 0
    losses: int = 0

    @property
    def few(self) -> bool:
        """Whether there are too few seeds or episodes to make a claim."""
        return self.seeds < MIN_SEEDS or self.episodes < MIN_EPISODES

    def agrees(self) -> bool:
        """Whether the mean of a difference and the ranks of its test point the same way.

        They need not: a learner may lose a little on most tasks and win much on a few. Then the
        test speaks against the mean, and neither may be called significant.
        """
        return self.mean * self.effect > 0


@dataclass(frozen=True)
class Source:
    """What a cell is about, for the small records.

    Args:
        learner: the row's learner, `chance`, or the names of a pair.
        regime: where the queries lie.
        k_shot: shots.
        metric: column of the per-task results.
    """

    learner: str
    regime: str
    k_shot: int
    metric: str

    @property
    def learner_of_row(self) -> str:
        """The learner alone, adapted or not, itself or minus another."""
        return self.learner.partition(" - ")[0].partition(", ")[0]


@dataclass(frozen=True)
class Cell:
    """One formatted number.

    Args:
        value: the mean, or what stands there instead.
        interval: `[low, high]`, or nothing.
        mark: one of the marks, or nothing.
        bold: whether it is the best and significantly so.
        estimate: the number itself.
        source: what it is about.
        versus: the difference to the reference of its column, for the table of differences.
    """

    value: str = MISSING
    interval: str = ""
    mark: str = ""
    bold: bool = False
    estimate: Estimate | None = None
    source: Source | None = None
    versus: Cell | None = None


@dataclass(frozen=True)
class Row:
    """A label and its cells."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Section:
    """Rows under a heading; the heading may be empty."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table for terminal, README and paper.

    Args:
        name: its file name and its LaTeX label `tab:<name>`.
        title: what it shows.
        columns: headings, that of the labels first.
        sections: the rows.
        notes: sentences under the table.
        preliminary: whether there are too few seeds or episodes to make a claim: then the title
            says so, a warning is printed, and nothing is bold.
        part: `test` or `validation`, whose episodes are too few.
        cautions: further warnings, each a sentence.
        shown: whether commands print it; or else its files alone have it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    preliminary: bool = False
    part: str = "test"
    cautions: tuple[str, ...] = ()
    shown: bool = True

    @property
    def full_title(self) -> str:
        """The title, with `Preliminary:` before it where that is so."""
        return f"Preliminary: {self.title}" if self.preliminary else self.title

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is printed as a warning in each form of the table."""
        few = f"{few_text(self.part, self._least())} Nothing is bold."
        return (*([few] if self.preliminary else []), *self.cautions)

    def _least(self) -> tuple[int, int] | None:
        """The fewest seeds, and the fewest episodes, of a cell with an interval."""
        estimates = [
            cell.estimate
            for section in self.sections
            for row in section.rows
            for cell in row.cells
            if cell.estimate is not None
            and not math.isnan(cell.estimate.low)
            and cell.estimate.episodes
            and (cell.source is None or cell.source.learner_of_row not in ONE_SEED)
        ]
        if not estimates:
            return None
        return min(one.seeds for one in estimates), min(one.episodes for one in estimates)

    def _cells(self, row: Row) -> tuple[Cell, ...]:
        """The cells as they are printed: those of a preliminary table are never bold."""
        if not self.preliminary:
            return row.cells
        return tuple(replace(cell, bold=False) for cell in row.cells)

    def to_latex(self) -> str:
        """A `table` environment that needs booktabs and nothing else."""
        width = len(self.columns)
        height = sum(len(section.rows) + 1 for section in self.sections)
        # What fits between margins of an inch on letter paper.
        size, small = (
            (r"\footnotesize", r"\scriptsize")
            if width <= 5 and height <= 40
            else (r"\scriptsize", r"\tiny")
        )
        lines = [
            "% Made by metarec.report from the records; do not edit.",
            r"\begin{table}[tp]",
            r"\centering",
            rf"\caption{{{_latex(self.full_title)}.}}",
            rf"\label{{tab:{self.name}}}",
            size,
            rf"\setlength{{\tabcolsep}}{{{3 if width <= 8 else 2}pt}}",
            rf"\begin{{tabular}}{{@{{}}l{'l' * (width - 1)}@{{}}}}",
            r"\toprule",
            " & ".join(_latex(column) for column in self.columns) + r" \\",
            r"\midrule",
        ]
        for place, section in enumerate(self.sections):
            if section.title:
                if place:
                    lines.append(r"\addlinespace")
                heading = rf"\emph{{{_latex(section.title)}}}"
                lines.append(rf"\multicolumn{{{width}}}{{@{{}}l}}{{{heading}}} \\")
            for row in section.rows:
                printed = (_latex_cell(cell, small) for cell in self._cells(row))
                cells = [_latex(row.label), *printed]
                lines.append(" & ".join(cells) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        if self.notes or self.warnings:
            lines += [r"\par\smallskip", r"\begin{minipage}{\linewidth}", r"\scriptsize"]
            lines += [rf"\textbf{{{WARNING}:}} {_latex(text)}" for text in self.warnings]
            lines += [_latex(note) for note in self.notes]
            lines.append(r"\end{minipage}")
        return "\n".join([*lines, r"\end{table}", ""])

    def to_markdown(self) -> str:
        """A GitHub table with its title above and its notes below."""
        lines = [
            f"**{_markdown(self.full_title)}**",
            "",
            *(line for text in self.warnings for line in (f"> {WARNING}: {_markdown(text)}", "")),
            "| " + " | ".join(_markdown(column) for column in self.columns) + " |",
            "| --- |" + " --- |" * (len(self.columns) - 1),
        ]
        for section in self.sections:
            if section.title:
                empty = " |" * (len(self.columns) - 1)
                lines.append(f"| *{_markdown(section.title)}* |{empty}")
            for row in section.rows:
                cells = [_markdown(row.label), *map(_markdown_cell, self._cells(row))]
                lines.append("| " + " | ".join(cells) + " |")
        if self.notes:
            lines += ["", f"<sub>{' '.join(_markdown(note) for note in self.notes)}</sub>"]
        return "\n".join([*lines, ""])

    def to_rich(self, width: int = 120) -> Group:
        """What `rich.console.Console.print` takes.

        Args:
            width: columns of the terminal; where too few, intervals stand in a second line.
        """
        from rich import box
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        def cell_text(cell: Cell, between: str) -> Text:
            text = Text(cell.value + cell.mark, style="bold" if cell.bold else "")
            return text.append(between + cell.interval, style="dim") if cell.interval else text

        rows = [row for section in self.sections for row in section.rows]
        titles = (len(section.title) for section in self.sections)
        labels = max([len(self.columns[0]), *titles, *(len(row.label) + 2 for row in rows)])
        widths = [
            max([len(head), *(_cell_width(row.cells[place]) for row in rows)])
            for place, head in enumerate(self.columns[1:])
        ]
        between = " " if labels + sum(widths) + 2 * len(widths) + 2 <= width else "\n"
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
        for place, head in enumerate(self.columns):
            table.add_column(Text(head), no_wrap=place == 0)
        for section in self.sections:
            if section.title:
                table.add_row(Text(section.title, style="italic"))
            for row in section.rows:
                label = Text(("  " if section.title else "") + row.label)
                table.add_row(label, *(cell_text(cell, between) for cell in self._cells(row)))
        warnings = [Text(f"{WARNING}: {text}", style="bold yellow") for text in self.warnings]
        notes = Text(" ".join(self.notes), style="dim")
        return Group(Text(self.full_title, style="bold"), *warnings, table, Text(), notes)


def few_text(part: str = "test", least: tuple[int, int] | None = None) -> str:
    """The warning of a table, or figure, of too few seeds or episodes.

    Args:
        part: `test` or `validation`, whose episodes they are.
        least: the fewest seeds and the fewest episodes that there are.
    """
    counted = f" (the fewest: {least[0]} and {least[1]})" if least else ""
    return (
        f"preliminary, since there are fewer than {MIN_SEEDS} seeds or {MIN_EPISODES} {part} "
        f"episodes{counted}; nothing here is a claim."
    )


def number(value: float, signed: bool = False) -> str:
    """Three decimals without a leading zero: `.412`, `1.025`, `−.003`; `–` for NaN."""
    if math.isnan(value):
        return MISSING
    text = f"{abs(value):.3f}"
    sign = "" if float(text) == 0 else "−" if value < 0 else "+" if signed else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def significant(value: float) -> str:
    """Three digits, without a leading zero: `.0420`, `12.3`, `1,234`."""
    text = f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"
    return text[1:] if text.startswith("0.") else text


def duration(value: float) -> str:
    """As `significant`, but `<.001` for what is less."""
    return "<.001" if value < 0.001 else significant(value)


def count_text(value: float) -> str:
    """`16.5 k`, `22.7 M`: three digits; small counts as they are."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{significant(value / size)} {unit}"
    return f"{value:.0f}"


def hundredths(value: float) -> str:
    """Two decimals without a leading zero: `.29`, `1.38`."""
    text = f"{value:.2f}"
    return text[1:] if text.startswith("0.") else text


def interval_text(low: float, high: float, signed: bool = False) -> str:
    """`[.380, .444]`, or nothing where there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return ""
    # A no-break space: a terminal must not break the interval.
    return f"[{number(low, signed)},\N{NO-BREAK SPACE}{number(high, signed)}]"


def p_text(p: float) -> str:
    """`.034`, `<.001`; `–` for NaN."""
    return "<.001" if p < 0.001 else number(p)


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    "−": "$-$",
    "–": "--",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "’": "'",
    "χ": r"$\chi$",
    "²": "$^2$",
    "∞": r"$\infty$",
    "\N{NO-BREAK SPACE}": "~",
}


def _latex(text: str) -> str:
    raised = re.split(r"\^(\w)", text)
    parts = [
        rf"\textsuperscript{{{part}}}" if place % 2 else _escaped(part)
        for place, part in enumerate(raised)
    ]
    return "".join(parts)


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_cell(cell: Cell, small: str) -> str:
    value = _latex(cell.value)
    value = rf"\textbf{{{value}}}" if cell.bold else value
    if cell.mark:
        value += rf"\textsuperscript{{{_escaped(cell.mark)}}}"
    return rf"{value} {{{small} {_escaped(cell.interval)}}}" if cell.interval else value


def _markdown(text: str) -> str:
    escaped = re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text)
    return re.sub(r"\^(\w)", r"<sup>\1</sup>", escaped)


def _markdown_cell(cell: Cell) -> str:
    value = f"**{_markdown(cell.value)}**" if cell.bold else _markdown(cell.value)
    parts = [value + (f"<sup>{cell.mark}</sup>" if cell.mark else "")]
    if cell.interval:
        parts.append(f"<sub>{cell.interval}</sub>")
    return " ".join(parts)


def _cell_width(cell: Cell) -> int:
    return len(cell.value) + len(cell.mark) + (1 + len(cell.interval) if cell.interval else 0)
