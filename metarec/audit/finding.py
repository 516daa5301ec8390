"""`Finding`: what one check of the audit found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console

Result = Literal["holds", "open", "fails"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        check: which check.
        what: the run, the file or the table that was checked.
        problem: what is wrong or could not be checked; "" if it holds.
        result: `holds`, `fails`, or `open` where what it needs is not at hand.
    """

    check: str
    what: str
    problem: str = ""
    result: Result = "holds"


def fails(check: str, what: str, problem: str) -> Finding:
    """A finding that something is wrong."""
    return Finding(check, what, problem, "fails")


def undecided(check: str, what: str, problem: str) -> Finding:
    """A finding that something could not be checked."""
    return Finding(check, what, problem, "open")


def show(findings: Sequence[Finding], console: Console) -> None:
    """Prints the findings: what holds by the number of each check, all others one by one."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("Check", "What", "Result", title="Audit")
    for check, count in Counter(one.check for one in findings if one.result == "holds").items():
        table.add_row(check, f"{count} checked", "[green]holds[/green]")
    colours = {"open": "yellow", "fails": "red"}
    for result, colour in colours.items():
        for one in findings:
            if one.result == result:
                text = f"[{colour}]{result}[/{colour}]: {escape(one.problem)}"
                table.add_row(one.check, escape(one.what), text)
    console.print(table)
