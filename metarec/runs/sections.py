"""The sections of a run's configuration, as plain typed fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from metarec.errors import ConfigError, did_you_mean
from metarec.runs.fields import conform, conformed
from metarec.runs.search import domain_of

Regime = Literal["warm", "user_cold", "item_cold", "both_cold"]
Part = Literal["validation", "test"]


@dataclass(frozen=True)
class DataConfig:
    """Which data set, and what of it.

    Args:
        name: as in `load_dataset`.
        folder: where the publisher's files are; None for what is packaged or named in the options.
        options: options of the reader; those that are None are left to the reader.
        min_user_interactions: k-core filter: least interactions of a user.
        min_item_interactions: least interactions of an item.
        max_user_interactions: users with more are left out, before the k-core; None for no limit.
    """

    name: str = "ml-latest-small"
    folder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    min_user_interactions: int = 1
    min_item_interactions: int = 1
    max_user_interactions: int | None = None

    def __post_init__(self) -> None:
        conform(self, "data")
        for name in ("min_user_interactions", "min_item_interactions"):
            at_least(f"data.{name}", getattr(self, name), 1)
        if self.max_user_interactions is not None:
            least = max(1, self.min_user_interactions)
            at_least("data.max_user_interactions", self.max_user_interactions, least)


@dataclass(frozen=True)
class TextConfig:
    """How item text becomes features.

    Args:
        checkpoint: `minilm`, a folder, or the name of a checkpoint on the hub.
        pooling: `mean` over the tokens, or the vector of the first (`cls`).
        max_length: tokens, beyond which a text is cut.
        normalise: whether features have length 1.
        template: such as `{title} ({year})`; None for all fields of the data set.
        download: whether a checkpoint may be downloaded.
    """

    checkpoint: str = "minilm"
    pooling: Literal["mean", "cls"] = "mean"
    max_length: int = 64
    normalise: bool = True
    template: str | None = None
    download: bool = False

    def __post_init__(self) -> None:
        conform(self, "text")
        at_least("text.max_length", self.max_length, 1)


@dataclass(frozen=True)
class SplitConfig:
    """Who is cold.

    Args:
        method: `seed` draws, `time` cuts at points in time; `melu` and `recbole_metarec` read what
            these published (`metarec.published_splits`).
        seed: of the draw; not that of the run, so that a task is the same over seeds of runs.
        users: fractions of users that are warm, validation-cold and test-cold.
        items: likewise for items.
        warm_holdout: fractions of warm interactions held out for validation and for test.
        validation_from: for `time`: seconds since 1970, an ISO date, or a quantile of the times.
        test_from: likewise.
        without_train: for `seed`: whether a warm item whose users are all cold is set `aside` or
            `cold`.
        source: for `melu` the folder of its states, for `recbole_metarec` the file of its tasks.
        validation_users: for `melu`: fraction of the warm users that are validation-cold.
        validation_years: for `melu`: first and last year of release of the warm movies that are
            validation-cold; None for none.
    """

    method: Literal["seed", "time", "melu", "recbole_metarec"] = "seed"
    seed: int = 0
    users: tuple[float, float, float] = (0.7, 0.1, 0.2)
    items: tuple[float, float, float] = (0.8, 0.1, 0.1)
    warm_holdout: tuple[float, float] = (0.05, 0.1)
    validation_from: int | float | str | None = 0.8
    test_from: int | float | str = 0.9
    without_train: Literal["aside", "cold"] = "aside"
    source: str | None = None
    validation_users: float = 0.0
    validation_years: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        conform(self, "split")
        at_least("split.seed", self.seed, 0)
        if not 0 <= self.validation_users < 1:
            raise ConfigError(f"split.validation_users={self.validation_users}: 0 to below 1")


@dataclass(frozen=True)
class EpisodeConfig:
    """What an episode is.

    Args:
        task: `user` or `item` tasks.
        feedback: `rating`, `binary` or `implicit`.
        threshold: lowest rating that counts as liked; None for implicit feedback.
        k_shot: shots in validation and test.
        train_k_shot: shots in meta-training: a number, or (least, most).
        query_size: queries of a meta-training episode.
        task_batch: episodes of a meta-training batch.
        negatives: share of sampled negatives among the queries of meta-training; 0 for rating
            feedback, whatever is given here, since a sampled negative has no rating.
        order: whether a task's shots are drawn at random or are its earliest (`time`).
    """

    task: Literal["user", "item"] = "user"
    feedback: Literal["rating", "binary", "implicit"] = "binary"
    threshold: float | None = 4.0
    k_shot: int = 10
    train_k_shot: int | tuple[int, int] = (0, 20)
    query_size: int = 64
    task_batch: int = 32
    negatives: float = 0.8
    order: Literal["random", "time"] = "random"

    def __post_init__(self) -> None:
        conform(self, "episode")
        at_least("episode.k_shot", self.k_shot, 0)
        at_least("episode.query_size", self.query_size, 1)
        at_least("episode.task_batch", self.task_batch, 1)
        if self.feedback == "rating":
            object.__setattr__(self, "negatives", 0.0)
        if self.feedback == "implicit":
            object.__setattr__(self, "threshold", None)
        if self.feedback == "binary" and self.threshold is None:
            raise ConfigError(
                "episode.threshold is missing: binary feedback needs the lowest rating that counts "
                "as liked (4 for MovieLens)"
            )


@dataclass(frozen=True)
class LearnerConfig:
    """Which learner, with which arguments.

    Args:
        name: what records and tables call it.
        target: dotted path of its class, such as `metarec.baselines.ease.EASE`.
        arguments: arguments of the class.
        search: for tuning: argument to the values to try, a list or a range. Not part of a run's
            hash.
        tuned: where arguments were chosen, as tuning writes it: `data` set, `kind` of episode or
            protocol, and the `values` that were chosen. Not part of a run's hash.
    """

    name: str
    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        conform(self, "learner")
        check_learner(self.name, self.search, "learner")
        check_tuned(self.tuned, "learner")

    @property
    def tuned_on(self) -> tuple[str, str] | None:
        """Data set and kind of episode, if the arguments are still those that tuning chose."""
        chosen = self.tuned.get("values", {})
        kept = all(self.arguments.get(name) == value for name, value in chosen.items())
        return (self.tuned["data"], self.tuned["kind"]) if self.tuned and kept else None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], section: str = "learner") -> LearnerConfig:
        """Takes name, _target_, search and tuned; all other keys are arguments of the class.

        Args:
            values: by key.
            section: where they stand in the configuration, for messages.

        Raises:
            ConfigError: for a value that cannot be, naming its key.
        """
        rest = dict(values)
        for key in ("name", "_target_"):
            if key not in rest:
                group = "learner" if section == "learner" else f"learner/best/binary@{section}"
                raise ConfigError(
                    f"{section}.{key} is missing; choose a learner, as in {group}=ease, or give "
                    f"{section}.name and {section}._target_"
                )
        name, target = rest.pop("name"), rest.pop("_target_")
        search = rest.pop("search", None) or {}
        values = {"name": name, "target": target, "search": search}
        values |= {"tuned": rest.pop("tuned", None) or {}, "arguments": rest}
        fitting = conformed(values, cls, section)
        check_learner(fitting["name"], fitting["search"], section)
        check_tuned(fitting["tuned"], section)
        return cls(**fitting)

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`."""
        return {
            **self.what_runs(),
            "search": dict(self.search),
            **({"tuned": dict(self.tuned)} if self.tuned else {}),
        }

    def what_runs(self) -> dict[str, Any]:
        """`to_dict` without `search` and `tuned`, which decide nothing of a run."""
        return {"name": self.name, "_target_": self.target, **self.arguments}


@dataclass(frozen=True)
class BackendConfig:
    """What computes the framework learners.

    Args:
        name: `torch` or `jax`.
        device: `auto`, `cpu`, `cuda`, …
    """

    name: Literal["torch", "jax"] = "torch"
    device: str = "auto"

    def __post_init__(self) -> None:
        conform(self, "backend")


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured.

    Args:
        regimes: of user tasks; item tasks have the regime `item_cold` only.
        cutoffs: the k of the metrics that have one.
        k_curve: shots at which the curve over K is measured on test, with nested supports; empty
            for no curve.
        item_k_curve: likewise for item tasks.
        curve_regimes: regimes of the curve of user tasks; empty for no curve.
        parts: `validation`, `test`, or both.
        chunk: tasks that are adapted and scored at once: less needs less memory.
        shortlist: candidates that a retriever draws for each task and the learner reranks; 0: the
            learner ranks the whole catalogue.
        retriever: the learner that draws them, one that is fitted without training.
        tasks: tasks of a regime at the most, drawn once by `split.seed`, so that they are the same
            for every learner and every seed of a run; None for all.
        look_tasks: likewise at each look at meta-validation during training, drawn by the seed of
            the run.
        curve_unadapted: whether the curve is also measured without adapting at every K, as the rest
            is; or else where the rest has the same episodes, which then cost nothing.
        regime_k_shot: shots in a regime, where they are not `episode.k_shot`; of several the first
            are those of selection and of the means in the record.
    """

    regimes: tuple[Regime, ...] = ("warm", "user_cold", "item_cold", "both_cold")
    cutoffs: tuple[int, ...] = (5, 10)
    k_curve: tuple[int, ...] = (0, 1, 3, 5, 10, 20)
    item_k_curve: tuple[int, ...] = (0, 1, 3, 5, 10)
    curve_regimes: tuple[Regime, ...] = ("user_cold",)
    parts: tuple[Part, ...] = ("validation", "test")
    chunk: int = 16
    shortlist: int = 0
    retriever: LearnerConfig | None = None
    tasks: int | None = None
    look_tasks: int = 64
    curve_unadapted: bool = True
    regime_k_shot: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        conform(self, "evaluation")
        at_least("evaluation.look_tasks", self.look_tasks, 1)
        at_least("evaluation.chunk", self.chunk, 1)
        at_least("evaluation.shortlist", self.shortlist, 0)
        at_least("evaluation.tasks", 1 if self.tasks is None else self.tasks, 1)
        if self.shortlist and self.retriever is None:
            raise ConfigError(
                f"evaluation.shortlist={self.shortlist} needs a learner that draws it: choose "
                "evaluation=rerank, add +learner/best/binary@evaluation.retriever=item_knn, or set "
                "evaluation.shortlist=0 to rank the whole catalogue"
            )
        if self.retriever is not None and not self.shortlist:
            raise ConfigError(
                f"evaluation.retriever={self.retriever.name} has nothing to draw with "
                "evaluation.shortlist=0: set evaluation.shortlist=100, or leave the retriever out "
                "(choose another evaluation, or set evaluation.retriever=null)"
            )
        for name, least in (("cutoffs", 1), ("k_curve", 0), ("item_k_curve", 0)):
            values = getattr(self, name)
            if len(set(values)) < len(values) or min(values, default=least) < least:
                raise ConfigError(
                    f"evaluation.{name}={list(values)}: different numbers of at least {least} are "
                    "needed"
                )
        for regime, k_shot in self.regime_k_shot.items():
            key = f"evaluation.regime_k_shot.{regime}"
            if regime not in self.regimes:
                raise ConfigError(
                    f"{key}: is none of evaluation.regimes={list(self.regimes)}"
                    f"{did_you_mean(regime, self.regimes)}"
                )
            several = k_shot if isinstance(k_shot, list | tuple) else [k_shot]
            for one in several:
                if not isinstance(one, int):
                    raise ConfigError(f"{key}={k_shot!r}: a whole number is needed, or a list")
                at_least(key, one, 0)
            if not several:
                raise ConfigError(f"{key} is empty; leave it out for episode.k_shot")
        for name in ("regimes", "cutoffs", "parts"):
            if not getattr(self, name):
                raise ConfigError(f"evaluation.{name} is empty; leave it out for the default")


@dataclass(frozen=True)
class ProtocolConfig:
    """A published way of measuring: each task ranks and rates what it rated itself.

    A task's interactions in its regime are its own support and query; the catalogue is not ranked.

    Args:
        name: what records and tables call it.
        history: least and most interactions of a task in its regime; others are left out, and
            counted.
        support: shots of a task; None for all that are not queries.
        query: queries of a task; None for all that are no shots.
        unseen: whether interactions with items that no train user has are kept in the tasks, or
            dropped from them.
        selection: column of the metric that early stopping and tuning look at, on validation.
    """

    name: str
    history: tuple[int, int] = (13, 100)
    support: int | None = None
    query: int | None = 10
    unseen: Literal["keep", "drop"] = "keep"
    selection: str = "rated/mae"

    def __post_init__(self) -> None:
        conform(self, "protocol")
        if (self.support is None) == (self.query is None) and self.support is None:
            raise ConfigError("protocol.support and protocol.query are both null; give one of them")
        for name in ("support", "query"):
            value = getattr(self, name)
            at_least(f"protocol.{name}", 1 if value is None else value, 0)
        least, most = self.history
        needed = (self.support or 0) + (1 if self.query is None else self.query)
        if least < needed or most < least:
            raise ConfigError(
                f"protocol.history={list(self.history)}: least and most, of which the least must "
                f"be enough for the support and the query ({needed})"
            )


def check_learner(name: str, search: Mapping[str, Any], section: str) -> None:
    """Raises ConfigError unless a learner's name names a folder and its search has domains."""
    if not re.fullmatch(r"[A-Za-z0-9_.]+", name):
        raise ConfigError(
            f"{section}.name={name!r}: it names folders; use letters, digits, _ and ."
        )
    for argument, values in search.items():
        domain_of(values, f"{section}.search.{argument}")


def check_tuned(tuned: Mapping[str, Any], section: str) -> None:
    """Raises ConfigError unless what says where a learner was tuned says all of it, or nothing."""
    wanted = {"data": str, "kind": str, "values": Mapping}
    fits = tuned.keys() == wanted.keys() and bool(tuned["values"])
    if tuned and not (fits and all(isinstance(tuned[key], kind) for key, kind in wanted.items())):
        raise ConfigError(
            f"{section}.tuned={dict(tuned)!r}: written by tuning, with the data set, the kind of "
            "episode and the values that were chosen; leave it out of your own"
        )


def at_least(key: str, value: int, least: int) -> None:
    """Raises ConfigError, naming the key, for a value below the least."""
    if value < least:
        raise ConfigError(f"{key}={value} must be at least {least}")
