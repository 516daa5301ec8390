"""A split that leaks, and what an audit says of it."""

from __future__ import annotations

import numpy as np

from metarec.audit import Finding
from metarec.splits import Split


class Leaking(Split):
    """A split whose train has all that is in the data."""

    def rows(self, part: str, regime: str | None = None) -> np.ndarray:
        return np.arange(len(self.dataset)) if part == "train" else super().rows(part, regime)


def leaking(split: Split) -> Leaking:
    """The same split, all of whose interactions pass for train."""
    return Leaking(
        split.dataset, split.user_group, split.item_group, split.part, split.method, split.unused
    )


def failing(findings: list[Finding]) -> dict[str, str]:
    """What fails, by the check."""
    found: dict[str, str] = {}
    for one in findings:
        if one.result == "fails":
            found[one.check] = f"{found.get(one.check, '')}{one.what}: {one.problem}\n"
    return found
