"""From a finished run to a scorer that can be shared: its folder, or a repository on the hub.

    python -m metarec.runs.pretrained results/benchmark/<run> my-scorer
    python -m metarec.runs.pretrained results/benchmark/<run> my-scorer --push user/name

The folder has weights, BERT, tokenizer and a model card with the numbers of the record. Nothing is
sent anywhere without `--push`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metarec.episodes import labels_of
from metarec.errors import MetarecError, PretrainedError, RunError
from metarec.runs.learners import learner_class
from metarec.runs.model_card import model_card
from metarec.runs.prepare import Materials, feature_key_of, prepare
from metarec.runs.store import RECORD, Record, read_record
from metarec.text import EncoderSettings, default_template, resolve, title_template

if TYPE_CHECKING:
    from metarec.torch.pretrained import PretrainedScorer


def pretrained(record: Record, name: str = "scorer", device: str = "auto") -> PretrainedScorer:
    """Makes a scorer of texts of a finished run, with a model card that says how good it is.

    The data of the run must be at hand: what they are is in the card.

    Args:
        record: of a run on user tasks over text.
        name: by which the scorer is loaded in the card's example: a folder or `user/name`.
        device: `auto`, `cpu`, `cuda`, …

    Raises:
        PretrainedError: if what was trained is no scorer of texts.
        RunError: if the run did not finish, or data, texts or checkpoint are no longer those that
            it had.
    """
    from metarec.torch.pretrained import PretrainedScorer
    from metarec.torch.scorer_config import ScorerConfig, learner_of, weights_of

    config = record.config
    if record.status != "finished":
        raise RunError(f"the run {record.path} failed ({record.error}); run it again")
    if config.episode.task != "user":
        raise PretrainedError(
            f"the run {record.path} is of {config.episode.task} tasks; a scorer of texts serves "
            "user tasks: choose a run with episode.task=user"
        )
    if config.protocol is not None:
        raise PretrainedError(
            f"the run {record.path} is of protocol={config.protocol.name}, whose tasks rank what "
            "they rated themselves: its card could not say how good the scorer is in a catalogue. "
            "Choose a run without a protocol"
        )
    kind = learner_class(config)
    target, arguments = f"{kind.__module__}.{kind.__qualname__}", config.learner.arguments
    given = {key: value for key, value in arguments.items() if key != "device"}
    learner_of(target, given)
    text = config.text
    # the run has used it, and so it is on this machine
    checkpoint = resolve(text.checkpoint, download=False)
    encoder = EncoderSettings(checkpoint, text.pooling, text.max_length, text.normalise)
    materials = prepare(config, needs_features=False)
    record.check_unchanged(
        materials.data_checksum, feature_key_of(encoder.feature_key, materials.texts)
    )
    title = title_template(materials.dataset)
    written = text.template or str(default_template(materials.dataset))
    saved = ScorerConfig.of(
        target, given, encoder, config.episode.feedback, _scale(record, materials),
        written, None if title is None else title.pattern,
    )  # fmt: skip
    return PretrainedScorer(
        saved,
        weights_of(target, given, record.meta_parameters()),
        checkpoint,
        model_card(record, materials, saved, checkpoint, name),
        device,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m metarec.runs.pretrained",
        description="Writes the scorer that a run trained as a folder: weights, BERT, model card.",
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("folder", type=Path, help="where the scorer goes: new, empty, or a scorer")
    parser.add_argument("--push", metavar="USER/NAME", help="push it to the Hugging Face hub too")
    parser.add_argument("--private", action="store_true", help="push to a private repository")
    options = parser.parse_args(arguments)
    try:
        if options.push is not None:
            _check_pushable(options.push)
        if not (options.run / RECORD).is_file():
            raise RunError(f"{options.run} is no folder of a run: it has no {RECORD}")
        record = read_record(options.run)
        scorer = pretrained(record, options.push or options.folder.resolve().name, "cpu")
        scorer.save_pretrained(options.folder)
        files = [file for file in options.folder.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / (1 << 20)
        print(f"wrote {options.folder} ({size:,.1f} MiB): {scorer!r}")
        print(f"load it: metarec.PretrainedScorer.from_pretrained({str(options.folder)!r})")
        if options.push is not None:
            print(f"pushing to {options.push} ({'private' if options.private else 'public'})")
            print(f"pushed {_push(scorer, options.push, options.private)}")
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _scale(record: Record, materials: Materials) -> tuple[float, float]:
    """Lowest and highest label of meta-train."""
    episode, data = record.config.episode, materials.dataset
    ratings = data.ratings[materials.split.rows("train")]
    labels = labels_of(ratings, episode.feedback, episode.threshold)
    return float(np.min(labels)), float(np.max(labels))


def _check_pushable(name: str) -> None:
    """Refuses at once what the hub would refuse at the end."""
    from huggingface_hub import get_token

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise PretrainedError(f"--push {name}: the name of a repository is needed, user/name")
    if not get_token():
        raise PretrainedError(
            f"--push {name}: there is no token of the Hugging Face hub; log in with `hf auth login`"
            ", or set HF_TOKEN to a token that may write"
        )


def _push(scorer: PretrainedScorer, name: str, private: bool) -> str:
    try:
        return scorer.push_to_hub(
            name, private=private or None, commit_message="A scorer, by metarec"
        )
    except Exception as error:
        # the hub's clients have errors of their own
        raise PretrainedError(
            f"{name} could not be pushed ({type(error).__name__}: {error}); the folder is written, "
            "and `hf upload` pushes it as it is"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
