"""What a row of a table may be called, and which marks of significance its cells may carry."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from metarec.evaluation.metrics import LOWER_IS_BETTER
from metarec.report.labels import ADAPTING, JAX, LEARNERS, Variant, group_of, label_of
from metarec.report.selection import SIGNIFICANT

BETTER, WORSE = "+", "−"

_MARKDOWN = re.compile(r"<sup>([^<]*)</sup>")
_LATEX = re.compile(r"\\textsuperscript\{([^}]*)\}")
_SEEDS = re.compile(r" \(\d+ seeds?\)$")


def mark_in(cell: str) -> str:
    """The mark of significance in a cell as it is written, Markdown or LaTeX: +, − or none."""
    raised = "".join(_MARKDOWN.findall(cell) + _LATEX.findall(cell)).replace("$-$", WORSE)
    return "".join(mark for mark in (BETTER, WORSE) if mark in raised)


class Marks:
    """The marks that follow from the rows of a small record, and of those of its differences.

    A difference is marked where its corrected p is below the level and the mean and the effect size
    of the ranks point the same way, and a learner as its difference to the reference; where that is
    not there, any mark may be.

    Args:
        rows: of the small record.
        differences: of that of the differences, if there is one.
    """

    def __init__(
        self, rows: Collection[Mapping[str, Any]], differences: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        tested = [row for row in (*rows, *differences) if row.get("effect") is not None]
        self._differences: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for row in tested:
            self._differences.setdefault(_place(row), []).append(row)
        self._most = max((row.get("seeds") or 0 for row in rows), default=0)

    def allowed(self, row: Mapping[str, Any]) -> set[str]:
        """The marks that the cell of a row may have; of a row of fewer seeds, none too."""
        p = row.get("p_holm")
        if p is None or p >= SIGNIFICANT:
            return {""}
        tested = self._tested(row)
        if tested is None:
            return {"", BETTER, WORSE}
        higher = row["metric"].rpartition("/")[2].partition("@")[0] not in LOWER_IS_BETTER
        if tested["mean"] * tested["effect"] <= 0:
            mark = ""
        else:
            mark = BETTER if (tested["mean"] > 0) == higher else WORSE
        return {mark, ""} if (row.get("seeds") or 0) < self._most else {mark}

    def _tested(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The difference that a row's p is of: itself, or that of its learner to the reference."""
        if row.get("effect") is not None:
            return row
        found = self._differences.get(_place(row), ())
        return next((one for one in found if one["p_holm"] == row["p_holm"]), None)


def is_another(label: str, row: Mapping[str, Any]) -> bool:
    """Whether a row of a table is called by the name of another learner than its small record has.

    A column of its own may have what a learner gives without adapting, and a table of backends has
    a learner in PyTorch for both.

    Args:
        label: of the row, without raised characters.
        row: of the small record, whose number stands there.
    """
    names = _NAMES.get(_SEEDS.sub("", label))
    # what was aimed at, or published, has the learner's name and more in brackets
    named = row.get("learner", "").partition(" - ")[0].partition(" (")[0]
    learner, _, switched_off = named.partition(", ")
    learner = learner.removesuffix(JAX)
    if names is None or learner not in LEARNERS:
        return False
    same = learner in {one.learner for one in names}
    return not same or (not switched_off and not any(one.adapted for one in names))


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    learner = row["learner"].partition(" - ")[0]
    return learner, row["regime"], row["k_shot"], row["metric"]


def _names() -> dict[str, set[Variant]]:
    """The learners of PyTorch that stand behind each label.

    What adapts of a BERT is called alike as bi-encoder and as cross-encoder, and is left out.
    """
    found: dict[str, set[Variant]] = {}
    own = [name for name in LEARNERS if group_of(name) != ADAPTING]
    for name in (*own, *(f"{one}{JAX}" for one in own)):
        for adapted, kind in itertools.product((True, False), ("user", "item")):
            label = re.sub(r"\^\w", "", label_of(Variant(name, adapted), kind))
            found.setdefault(label, set()).add(Variant(name.removesuffix(JAX), adapted))
    return found


_NAMES = _names()
