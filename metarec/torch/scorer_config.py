"""All that a saved scorer is, but for its weights: what `config.json` says."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from metarec.errors import PretrainedError, did_you_mean
from metarec.learner import Feedback, MetaParameters
from metarec.text.tokens import EncoderSettings
from metarec.torch.bert_learner import BertLearner
from metarec.torch.bert_maml import BertMAML
from metarec.torch.bert_transfer import BertTransfer
from metarec.torch.maml import MAML
from metarec.torch.text_head import HEAD
from metarec.torch.transfer import Transfer

LEARNERS: Mapping[str, type[BertLearner]] = {"BertMAML": BertMAML, "BertTransfer": BertTransfer}
"""What a config.json may name: nothing that it says is imported."""

SCORING = (
    *("reads", "adapted", "adapted_layers", "rank", "bottleneck", "prefix_length"),
    *("inner_steps", "inner_learning_rate", "bert_inner_learning_rate", "outer_loss"),
    *("scorer", "hidden_sizes", "embedding_size", "pair_length"),
)
"""The learners' arguments that decide a score; the others are about training and about speed."""

_ON_FEATURES: Mapping[str, tuple[type[Any], str]] = {
    "maml.MAML": (MAML, "BertMAML"),
    "transfer.Transfer": (Transfer, "BertTransfer"),
}
_RENAMED = {
    "fine_tune_steps": "inner_steps",
    "fine_tune_learning_rate": "inner_learning_rate",
}

_TEXT = ("checkpoint", "pooling", "max_length", "normalise", "template", "title_template")


@dataclass(frozen=True)
class ScorerConfig:
    """What decides the scores of a user's candidates, beside weights.

    Args:
        learner: one of `LEARNERS`.
        arguments: of the learner, all of `SCORING`.
        feedback: what labels are.
        scale: lowest and highest label.
        checkpoint: what the BERT that all began with is called; the hash of its content is in the
            file.
        pooling: how the BERT makes a vector of a text.
        max_length: tokens kept of a text.
        normalise: whether vectors are scaled to length 1.
        template: how the texts of items were written in training; None where that is not known.
        title_template: likewise their titles, which a cross-encoder reads.

    Raises:
        PretrainedError: for a value that cannot be.
    """

    learner: str
    arguments: Mapping[str, Any]
    feedback: Feedback
    scale: tuple[float, float] = (0.0, 1.0)
    checkpoint: str = "minilm"
    pooling: str = "mean"
    max_length: int = 64
    normalise: bool = True
    template: str | None = None
    title_template: str | None = None

    def __post_init__(self) -> None:
        if self.learner not in LEARNERS:
            raise PretrainedError(
                f"there is no learner {self.learner!r} for a saved scorer"
                f"{did_you_mean(self.learner, LEARNERS)}"
            )
        defaults = _defaults(LEARNERS[self.learner])
        _check(self.arguments, {name: defaults[name] for name in SCORING}, "arguments")
        low, high = self.scale
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise PretrainedError(f"scale is {list(self.scale)}: lowest and highest label")

    @classmethod
    def of(
        cls,
        target: str,
        arguments: Mapping[str, Any],
        encoder: EncoderSettings,
        feedback: Feedback,
        scale: tuple[float, float],
        template: str | None = None,
        title_template: str | None = None,
    ) -> ScorerConfig:
        """The configuration of a learner that was trained on user tasks over text.

        A learner on frozen features becomes the same scorer over a BERT of which nothing adapts;
        `weights_of` renames its weights.

        Args:
            target: the learner's class, such as `metarec.torch.maml.MAML`.
            arguments: what it was made with; those that decide no score are left out.
            encoder: made the features that it was trained on, or is what adapts.
            feedback: what its labels were.
            scale: lowest and highest label.
            template: how texts were written.
            title_template: how titles were written.

        Raises:
            PretrainedError: if such a learner cannot be saved.
        """
        name, frozen = learner_of(target, arguments)
        own = _defaults(LEARNERS[name] if frozen is None else frozen)
        for argument in arguments:
            if argument not in own:
                raise PretrainedError(
                    f"{target} has no argument {argument!r}{did_you_mean(argument, own)}"
                )
        given = {_RENAMED.get(key, key): value for key, value in {**own, **arguments}.items()}
        if frozen is not None:
            given = _defaults(LEARNERS[name]) | given | {"adapted": "head"}
        taken = {key: _plain(given[key]) for key in SCORING}
        return cls(
            name, taken, feedback, scale if feedback == "rating" else (0.0, 1.0),
            encoder.checkpoint.name, encoder.pooling, encoder.max_length, encoder.normalise,
            template, title_template,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScorerConfig:
        """The inverse of `to_dict`.

        Raises:
            PretrainedError: for a key that is unknown or missing, or a value that cannot be.
        """
        kinds: dict[str, Any] = {"learner": "", "arguments": {}, "feedback": "", "text": {}}
        _check(values, {**kinds, "scale": (0.0,)}, "")
        text, scale = values["text"], values["scale"]
        optional = {name: "" for name in _TEXT[4:] if text.get(name) is not None}
        required = {"checkpoint": "", "pooling": "", "max_length": 1, "normalise": True}
        _check(text, {**required, **dict.fromkeys(_TEXT[4:]), **optional}, "text")
        feedback, known = values["feedback"], get_args(Feedback)
        if feedback not in known:
            raise PretrainedError(f"feedback is {feedback!r}{did_you_mean(feedback, known)}")
        if len(scale) != 2:
            raise PretrainedError(f"scale is {scale}: lowest and highest label")
        return cls(values["learner"], values["arguments"], feedback, (scale[0], scale[1]), **text)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can write it."""
        return {
            "learner": self.learner,
            "arguments": dict(self.arguments),
            "feedback": self.feedback,
            "scale": list(self.scale),
            "text": {name: getattr(self, name) for name in _TEXT},
        }

    def build(self, device: str = "auto") -> BertLearner:
        """Makes the learner, which does not know its texts yet.

        Raises:
            LearnerError: for an argument that cannot be, or a device that is not there.
        """
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.arguments.items()
        }
        return LEARNERS[self.learner](**given, head_steps=0, device=device)


def weights_of(
    target: str, arguments: Mapping[str, Any], meta_parameters: MetaParameters
) -> MetaParameters:
    """Meta-parameters of a learner under the names that they have in a saved scorer.

    Args:
        target: its class.
        arguments: what it was made with.
        meta_parameters: what it learned.

    Raises:
        PretrainedError: if such a learner cannot be saved.
    """
    _, frozen = learner_of(target, arguments)
    if frozen is None:
        return meta_parameters
    return {
        name if name.startswith("inputs.") else HEAD + name: value
        for name, value in meta_parameters.items()
    }


def learner_of(target: str, arguments: Mapping[str, Any]) -> tuple[str, type[Any] | None]:
    """What a trained learner becomes in a saved scorer.

    Args:
        target: its class, such as `metarec.torch.maml.MAML`.
        arguments: what it was made with.

    Returns:
        A name among `LEARNERS`; and the class, if it was trained on frozen features.

    Raises:
        PretrainedError: if such a learner cannot be saved.
    """
    dotted = target.replace(":", ".")
    own = dotted.removeprefix("metarec.torch.").removeprefix("metarec.jax.")
    seen = arguments.get("representation", "text")
    if own in _ON_FEATURES and seen == "text":
        trained, name = _ON_FEATURES[own]
        return name, trained
    for name, kind in LEARNERS.items():
        if dotted == f"{kind.__module__}.{name}":
            return name, None
    what = f"{target} with representation={seen}" if own in _ON_FEATURES else target
    raise PretrainedError(
        f"{what} cannot be saved as a scorer of texts; can be: BertMAML and BertTransfer "
        "(metarec.torch.bert_maml, metarec.torch.bert_transfer), and MAML and Transfer of either "
        "backend with representation=text, on user tasks"
    )


def _defaults(kind: type[Any]) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters
    return {name: _plain(one.default) for name, one in parameters.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check(values: Mapping[str, Any], examples: Mapping[str, Any], where: str) -> None:
    """Refuses keys that are unknown or missing, and values of another type than their example's.

    None as an example lets None pass.
    """
    prefix = f"{where}." if where else ""
    for name in values:
        if name not in examples:
            raise PretrainedError(f"unknown key {prefix}{name}{did_you_mean(name, examples)}")
    for name, example in examples.items():
        if name not in values:
            raise PretrainedError(f"the key {prefix}{name} is missing")
        if not _alike(values[name], example):
            raise PretrainedError(
                f"{prefix}{name} is {values[name]!r}, which should be of the type of {example!r}"
            )


def _alike(value: Any, example: Any) -> bool:
    if isinstance(example, list | tuple):
        return isinstance(value, list | tuple) and all(_alike(one, example[0]) for one in value)
    if isinstance(example, Mapping):
        return isinstance(value, Mapping)
    if isinstance(example, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(example)
