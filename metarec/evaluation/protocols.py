"""`Protocol`: what a run measures, in which regimes, with which candidates and shots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from metarec.errors import ConfigError, did_you_mean
from metarec.evaluation.metrics import CUTOFF_METRICS, LOWER_IS_BETTER, chance_level
from metarec.splits import REGIMES

Candidates = Literal["catalogue", "rated"]

PREDICTION_METRICS = ("mae", "rmse", "log_loss")


@dataclass(frozen=True)
class Protocol:
    """A published or a house set-up of measuring, by name.

    Args:
        name: how tables call it.
        candidates: `catalogue` ranks every candidate that is not excluded; `rated` only what the
            task itself rated (legacy).
        regimes: where the queries lie.
        k_shot: numbers of shots.
        metrics: metrics to report, the first is the primary one: learners are tuned, and the best
            baseline is chosen, by it.

    Raises:
        ConfigError: if a regime, a metric or the kind of candidates is unknown.
    """

    name: str
    candidates: Candidates = "catalogue"
    regimes: tuple[str, ...] = REGIMES
    k_shot: tuple[int, ...] = (10,)
    metrics: tuple[str, ...] = ("ndcg@10", "recall@10", "auc")

    def __post_init__(self) -> None:
        if self.candidates not in ("catalogue", "rated"):
            raise ConfigError(
                f"protocol {self.name!r}: unknown candidates {self.candidates!r}"
                f"{did_you_mean(self.candidates, ('catalogue', 'rated'))}"
            )
        for regime in self.regimes:
            if regime not in REGIMES:
                raise ConfigError(
                    f"protocol {self.name!r}: unknown regime {regime!r}"
                    f"{did_you_mean(regime, REGIMES)}"
                )
        if not self.metrics or not self.regimes or not self.k_shot or min(self.k_shot) < 0:
            raise ConfigError(
                f"protocol {self.name!r} needs a metric, a regime and a k_shot of at least 0"
            )
        known = ["auc", *PREDICTION_METRICS, *(f"{name}@k" for name in CUTOFF_METRICS)]
        for metric in self.metrics:
            name, at, cutoff = metric.partition("@")
            has_cutoff = name in CUTOFF_METRICS
            valid = has_cutoff or name in known
            if (
                not valid
                or has_cutoff != (cutoff.isdecimal() and int(cutoff) > 0)
                or (at and not has_cutoff)
            ):
                raise ConfigError(
                    f"protocol {self.name!r}: unknown metric {metric!r}"
                    f"{did_you_mean(metric, known)}"
                )
            if name in PREDICTION_METRICS and self.candidates == "catalogue":
                raise ConfigError(
                    f"protocol {self.name!r}: {metric} is measured on what was rated; use "
                    f"candidates=rated"
                )

    @property
    def primary(self) -> str:
        """The column of the primary metric in the per-task results, such as `catalogue/ndcg@10`."""
        return self.columns[0]

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the primary metric is better."""
        return self.metrics[0] not in LOWER_IS_BETTER

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the metrics in the per-task results."""
        return tuple(f"{self.candidates}/{metric}" for metric in self.metrics)

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """The cutoffs of the metrics, ascending."""
        return tuple(sorted({int(m.partition("@")[2]) for m in self.metrics if "@" in m}))

    def warning(self, n_candidates: float | int, n_relevant: float | int) -> str | None:
        """What must stand beside a table of this protocol: None for `catalogue`.

        Args:
            n_candidates: candidates of a typical task (`n_query` of the per-task results).
            n_relevant: relevant ones of a typical task; both are rounded for the example.

        Returns:
            One paragraph that names the exact chance level of each ranking metric.
        """
        if self.candidates == "catalogue":
            return None
        n = max(1, int(np.rint(n_candidates)))
        relevant = min(max(1, int(np.rint(n_relevant))), n)
        ranking = [metric for metric in self.metrics if metric not in PREDICTION_METRICS]
        levels = ", ".join(
            f"{metric} {chance_level(metric, n, relevant):.3f}" for metric in ranking
        )
        text = (
            f"Protocol {self.name}: candidates=rated ranks only what each task has rated itself, "
            f"which no recommender can know beforehand; do not read it as recommendation quality."
        )
        if not ranking:
            return text
        return (
            f"{text} Chance level with {n} candidates of which {relevant} relevant: {levels}. The "
            f"exact levels of these tasks are in the columns rated/chance/."
        )


PROTOCOLS = {
    "catalogue": Protocol("catalogue"),
    "legacy": Protocol(
        "legacy",
        candidates="rated",
        metrics=("ndcg@5", "precision@5", "hr@5", "mrr@5", "auc", "mae", "rmse"),
    ),
}
"""The protocols that are built in, by name."""


def protocol(name: str) -> Protocol:
    """The built-in protocol of this name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}{did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]
