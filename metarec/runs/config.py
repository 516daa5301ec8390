"""`RunConfig`: everything that decides the result of a run, as plain typed fields."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from metarec.errors import ConfigError
from metarec.runs.fields import conform, conformed
from metarec.runs.sections import (
    BackendConfig,
    DataConfig,
    EpisodeConfig,
    EvaluationConfig,
    LearnerConfig,
    ProtocolConfig,
    SplitConfig,
    TextConfig,
    at_least,
)


@dataclass(frozen=True)
class RunConfig:
    """One run: one learner, one data set, one split, one seed.

    Args:
        learner: which learner.
        data: which data set.
        text: how text becomes features.
        split: who is cold.
        episode: what an episode is.
        backend: what computes.
        evaluation: what is measured.
        protocol: of a publication; None for that of this framework.
        seed: of the learner, of the meta-training episodes and of the orders of evaluation.
        experiment: folder of the record within the results.

    Raises:
        ConfigError: for a value that cannot be, naming its key.
    """

    learner: LearnerConfig
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    protocol: ProtocolConfig | None = None
    seed: int = 0
    experiment: str = "benchmark"

    def __post_init__(self) -> None:
        conform(self, "")
        at_least("seed", self.seed, 0)
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.experiment) or not self.experiment.strip("."):
            raise ConfigError(
                f"experiment={self.experiment!r}: it names a folder; use letters, digits, _, -, ."
            )
        if self.protocol is not None and self.evaluation.shortlist:
            raise ConfigError(
                f"protocol={self.protocol.name} ranks what a task rated itself: choose another "
                "evaluation than rerank, or leave the protocol out"
            )
        if self.protocol is not None and self.episode.task != "user":
            raise ConfigError(f"protocol={self.protocol.name} is one of user tasks, not of items")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Builds the configuration from nested dictionaries, as YAML gives them.

        Args:
            values: section to its keys; what is left out has its default. The section `learner` has
                `name`, `_target_`, optionally `search`, and the arguments of the class, and so has
                `evaluation.retriever`.

        Raises:
            ConfigError: for an unknown key, naming it and the nearest known one, or a value that
                cannot be.
        """
        built: dict[str, Any] = {}
        for key, value in values.items():
            kind = _SECTIONS.get(key)
            if key == "protocol" and value is None:
                continue
            if kind is not None and not isinstance(value, Mapping):
                raise ConfigError(f"{key}={value!r}: a section of keys is needed")
            if key == "learner":
                built[key] = LearnerConfig.from_dict(value)
            elif kind is not None:
                built[key] = kind(**conformed(value, kind, key))
            else:
                built[key] = value
        built = conformed(built, cls, "")
        if "learner" not in built:
            raise ConfigError("no learner; choose one, as in learner=ease")
        return cls(**built)

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`: plain dictionaries, lists, numbers and strings."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

    @property
    def regimes(self) -> tuple[str, ...]:
        """The regimes that are measured: those configured, or `item_cold` alone for item tasks."""
        return ("item_cold",) if self.episode.task == "item" else self.evaluation.regimes

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """The cutoffs that are measured, with the 10 that selection needs in a catalogue."""
        if self.protocol is not None:
            return self.evaluation.cutoffs
        return tuple(sorted({*self.evaluation.cutoffs, 10}))

    def shots(self, regime: str) -> tuple[int, ...]:
        """Shots at which a regime is measured; the first are those of the means in the record."""
        own = self.evaluation.regime_k_shot.get(regime, self.episode.k_shot)
        return (own,) if isinstance(own, int) else tuple(own)

    def hash(self, data_checksum: str, feature_key: str, split_checksum: str = "") -> str:
        """What names the run: everything that decides its result.

        Args:
            data_checksum: of the data set as loaded and filtered.
            feature_key: of the features; "" if the learner needs none.
            split_checksum: of a split that files give; "" of one that the configuration decides.

        Returns:
            SHA-256 in hexadecimal over this configuration without `experiment` and the `search` and
            `tuned` of learner and retriever, the checksums and the key.
        """
        content = self.to_dict()
        del content["experiment"]
        content["learner"] = self.learner.what_runs()
        if self.evaluation.retriever is not None:
            content["evaluation"]["retriever"] = self.evaluation.retriever.what_runs()
        for section, kind, names in _LATER:
            for name in names:
                if content[section][name] == _default(kind, name):
                    del content[section][name]
        if content["protocol"] is None:
            del content["protocol"]
        content |= {"data_checksum": data_checksum, "feature_key": feature_key}
        if split_checksum:
            content["split_checksum"] = split_checksum
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_SECTIONS: Mapping[str, type[Any]] = {
    "learner": LearnerConfig,
    "data": DataConfig,
    "text": TextConfig,
    "split": SplitConfig,
    "episode": EpisodeConfig,
    "backend": BackendConfig,
    "evaluation": EvaluationConfig,
    "protocol": ProtocolConfig,
}


# Without them, a run has the name that it had before there were these.
_LATER: tuple[tuple[str, type[Any], tuple[str, ...]], ...] = (
    ("data", DataConfig, ("max_user_interactions",)),
    ("split", SplitConfig, ("without_train", "source", "validation_users", "validation_years")),
    (
        "evaluation",
        EvaluationConfig,
        ("shortlist", "retriever", "tasks", "look_tasks", "curve_unadapted", "regime_k_shot"),
    ),
)


def _default(kind: type[Any], name: str) -> Any:
    (own,) = (item for item in fields(kind) if item.name == name)
    return own.default_factory() if callable(own.default_factory) else own.default


def _plain(value: Any) -> Any:
    if isinstance(value, LearnerConfig):
        return _plain(value.to_dict())
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
