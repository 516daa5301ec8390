"""Records to tables and figures: everything published is made here, and from records only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from metarec.report.assemble import Report
    from metarec.report.labels import Tables
    from metarec.runs.store import Record

# What makes figures and statistics is imported when it is used: `import metarec` stays cheap.


def build_report(
    records: Sequence[Record],
    paper: Path,
    console: Console | None = None,
    allow_mixed_versions: bool = False,
    tables: Tables = "main",
) -> list[Path]:
    """Writes the tables, the figure and the small records of a paper; prints the first table.

    Tables of too few seeds or episodes carry a warning, which is printed too.

    Every file is a pure function of the records and is replaced as a whole. A table without records
    (say, of item tasks) is not written.

    Args:
        records: the records, of any experiment, kind of task and feedback; failed ones are listed
            under the table they belong to.
        paper: folder that gets `tables/*.tex` and `*.md`, `figures/*.pdf` and `*.png`, and
            `records/*.json`.
        console: where the first table and what was written are printed; nowhere if None.
        allow_mixed_versions: whether records of different versions of the code may stand in one
            table, which then says so.
        tables: those of `make paper` (`main`), or the `family` of learners of `make paper-full`.

    Returns:
        The files that were written.

    Raises:
        RunError: if there is no finished record; or the records mix code versions, data sets or
            splits, hold a learner and seed twice, or were measured on different tasks. Nothing is
            written then.
    """
    from metarec.report.assemble import assemble
    from metarec.report.console import warn
    from metarec.report.export import small_records
    from metarec.report.files import write_bytes, write_text

    report = assemble(records, allow_mixed_versions, tables)
    small = small_records(report)
    written = []
    for table in report.tables:
        written.append(write_text(paper / "tables" / f"{table.name}.tex", table.to_latex()))
        written.append(write_text(paper / "tables" / f"{table.name}.md", table.to_markdown()))
    for name, picture in _pictures(report):
        written.append(write_bytes(paper / "figures" / name, picture))
    written += _write_all(paper / "records", small)
    if console is not None:
        for table in report.tables[:1]:
            console.print(table.to_rich(console.width))
        warn(console, report.tables)
        if report.failed:
            console.print(f"left out, since they failed: {report.failed} runs", style="bold red")
        for path in written:
            console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return written


def export_records(
    records: Sequence[Record],
    folder: Path,
    allow_mixed_versions: bool = False,
    tables: Tables = "main",
) -> list[Path]:
    """Writes, for each table and figure, one small JSON file with every published number.

    A number comes with its interval, episodes, tasks and seeds; a learner with the names of its
    runs, their code version and commit. So a published figure can be traced without `results/`.

    Args:
        records: as in `build_report`, and so are the errors.
        folder: where the files go, `paper/records`.
        allow_mixed_versions: as in `build_report`.
        tables: as in `build_report`.

    Returns:
        The files that were written.
    """
    from metarec.report.assemble import assemble
    from metarec.report.export import small_records

    return _write_all(folder, small_records(assemble(records, allow_mixed_versions, tables)))


def update_readme(readme: Path, table_markdown: str) -> None:
    """Puts a table between the markers of a README, in place of what stands there.

    Args:
        readme: a file with the lines `<!-- main table: begin -->` and `<!-- main table: end -->`.
        table_markdown: what is to stand between them.

    Raises:
        RunError: if the file is missing, or a marker is missing, repeated or out of order.
    """
    from metarec.report.readme import replace_table

    replace_table(readme, table_markdown)


def update_headers(configs: Path, paper: Path) -> list[Path]:
    """Puts what was measured into the headers of the learners' configurations.

    The line `# Measured: …` of each `learner/<name>.yaml` names its figures and the small record
    that they come from, or says `not yet`.

    Args:
        configs: folder of the configurations.
        paper: folder of the paper, whose `records/` are read.

    Returns:
        The files that changed.

    Raises:
        RunError: if there are no such configurations, or a small record is broken.
    """
    from metarec.report.headers import replace_measured

    return replace_measured(configs, paper)


def _pictures(report: Report) -> Iterator[tuple[str, bytes]]:
    if report.curve is not None:
        from metarec.report.figures import render_k_shot

        yield "k_shot.pdf", render_k_shot(report.curve, "pdf")
        yield "k_shot.png", render_k_shot(report.curve, "png")
    if report.training is not None:
        from metarec.report.training_figure import render_training

        yield "training.pdf", render_training(report.training, "pdf")
        yield "training.png", render_training(report.training, "png")


def _write_all(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    from metarec.report.files import write_text

    return [write_text(folder / name, text) for name, text in texts.items()]
