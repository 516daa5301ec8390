"""A trained scorer of texts as a folder that can be moved, shared and loaded without any data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from jaxtyping import Float32

from metarec.errors import LearnerError, PretrainedError, TextError, did_you_mean
from metarec.features import Features
from metarec.learner import MetaParameters, Predicts, Support
from metarec.text.checkpoint import Checkpoint, looks_like_a_path
from metarec.text.tokens import EncoderSettings
from metarec.torch import scorer_files as files
from metarec.torch.item_texts import ItemTexts
from metarec.torch.scorer_config import ScorerConfig

TAGS = ("recommendation", "cold-start", "few-shot")

_OPTIONS = (
    *("device", "revision", "token", "cache_dir", "force_download", "local_files_only"),
)  # fmt: skip


class PretrainedScorer(
    ModelHubMixin, library_name="metarec", pipeline_tag="text-ranking", tags=list(TAGS)
):
    """A scorer of items for a user who is known by a few of them: texts in, scores out.

    It adapts to each user anew, as the learner did that it was trained by; no call changes what
    another one sees. `save_pretrained(folder)` writes it with its BERT, its tokenizer and its model
    card; `PretrainedScorer.from_pretrained(folder)` reads it on any machine, without a network and
    without the data; `push_to_hub("user/name")` shares it.

    Args:
        config: what it is.
        meta_parameters: what was learned, by name.
        checkpoint: the BERT that all began with.
        card: the model card, with its metadata; None for one that says how to use it.
        device: `auto`, `cpu`, `cuda`, …

    Raises:
        LearnerError: if the meta-parameters are not those of such a learner.
        TextError: if the BERT cannot be loaded.
    """

    def __init__(
        self,
        config: ScorerConfig,
        meta_parameters: MetaParameters,
        checkpoint: Checkpoint,
        card: str | None = None,
        device: str = "auto",
    ) -> None:
        self.config = config
        self.card = _plain_card(config) if card is None else card
        self._weights = {name: np.asarray(value) for name, value in meta_parameters.items()}
        self._encoder = EncoderSettings(
            checkpoint, config.pooling, config.max_length, config.normalise
        )
        self._learner = config.build(device)
        # loads the BERT, which all calls then have in common
        self._learner.over(self._texts((), (), ()), catalogue=0).check(self._weights)

    def __repr__(self) -> str:
        config = self.config
        of_bert = ", ".join(f"{name}={config.arguments[name]!r}" for name in ("reads", "adapted"))
        return (
            f"PretrainedScorer({config.learner}, {of_bert}, feedback={config.feedback!r}, "
            f"checkpoint={config.checkpoint!r}, device={str(self.device)!r})"
        )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._learner.device

    @property
    def predicts(self) -> Predicts:
        """What scores are: ratings, logits of a positive label, or only an order."""
        return self._learner.predicts(self.config.feedback)

    def scores(
        self,
        shots: Sequence[str],
        labels: Sequence[Any] | np.ndarray,
        candidates: Sequence[str],
        titles: Sequence[str] | None = None,
    ) -> Float32[np.ndarray, " n"]:
        """Adapts to one user, and scores candidates for them.

        What is frozen of the candidates is kept for the next call with the same ones.

        Args:
            shots: texts of the K items that are known of the user; none for a user of whom nothing
                is known. A cross-encoder reads those of one label in this order.
            labels: of each shot: 1 (liked) or 0 for binary feedback, 1 for implicit feedback, or
                ratings.
            candidates: texts of N items.
            titles: what names each shot in a sentence, for a cross-encoder; None for the texts.

        Returns:
            [N] scores, higher is better; see `predicts`.

        Raises:
            LearnerError: if there is not one label, and one title, for each shot, or a label does
                not fit the feedback.
            TextError: if a text is none.
        """
        asked, shown = _several(candidates, "candidates"), _several(shots, "shots")
        named = () if titles is None else _several(titles, "titles")
        given = self._labels(labels, len(shown))
        if named and len(named) != len(shown):
            raise LearnerError(f"{len(named)} titles for {len(shown)} shots; give one for each")
        if not asked:
            return np.zeros(0, np.float32)
        learner = self._learner.over(self._texts(asked, shown, named), catalogue=len(asked))
        numbers = np.arange(len(asked) + len(shown), dtype=np.int32)
        support = Support(
            numbers[None, len(asked) :], given[None], np.ones((1, len(shown)), dtype=bool)
        )
        # whatever the caller has switched off, adapting needs gradients
        with torch.inference_mode(False), torch.enable_grad():
            fast_weights = learner.adapt(self._weights, support)
        return learner.score(fast_weights, numbers[: len(asked)])[0]

    def rank(
        self,
        shots: Sequence[str],
        labels: Sequence[Any] | np.ndarray,
        candidates: Sequence[str],
        k: int = 10,
        titles: Sequence[str] | None = None,
    ) -> list[tuple[str, float]]:
        """The best candidates for one user, without the shots themselves.

        Args:
            shots: as in `scores`.
            labels: as in `scores`.
            candidates: texts of items.
            k: how many, at the most.
            titles: as in `scores`.

        Returns:
            Text and score of each, the best first; equal scores in the order of the candidates.

        Raises:
            LearnerError: as `scores`, or if k is negative.
            TextError: as `scores`.
        """
        if k < 0:
            raise LearnerError(f"k={k} must not be below 0")
        asked, seen = _several(candidates, "candidates"), set(_several(shots, "shots"))
        scores = self.scores(shots, labels, asked, titles)
        best = [row for row in np.argsort(-scores, kind="stable") if asked[row] not in seen]
        return [(asked[row], float(scores[row])) for row in best[:k]]

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes the scorer: `config.json`, `model.safetensors`, `bert/` and `README.md`.

        Args:
            save_directory: a folder that is new, empty, or has a scorer, which is replaced with its
                card.
            **options: of `huggingface_hub.ModelHubMixin.save_pretrained`; with `push_to_hub=True`
                and `repo_id="user/name"` it is pushed too. `model_card_kwargs` become metadata of
                the card.

        Returns:
            The address of the commit where it was pushed, else None.

        Raises:
            PretrainedError: if the folder has something else.
        """
        folder = Path(save_directory)
        files.check_free(folder)
        (folder / files.CARD).unlink(missing_ok=True)
        return super().save_pretrained(folder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Pushes the scorer to the Hugging Face hub, as `save_pretrained` writes it.

        Args:
            repo_id: such as `user/name`; the repository is made where there is none, and is public
                unless `private=True` is given.
            **options: of `huggingface_hub.ModelHubMixin.push_to_hub`.

        Returns:
            The address of the commit.
        """
        # what another BERT left there would be read with this one
        return super().push_to_hub(repo_id, **{"delete_patterns": [f"{files.BERT}/*"], **options})

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        device: str = "auto",
        **unknown: Any,
    ) -> PretrainedScorer:
        """Reads a scorer from a folder, or downloads it from the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: a folder, or the name of a repository on the hub.
            force_download: download again what is in the local cache.
            token: for a repository that is private; None for that of this machine's login.
            cache_dir: the local cache; None for that of the hub's library.
            local_files_only: take what is in the local cache, without the network.
            revision: a branch, tag or commit.
            device: `auto`, `cpu`, `cuda`, …
            **unknown: refused.

        Raises:
            PretrainedError: if there is no such scorer, or files are missing, broken, of another
                checkpoint or of a newer metarec.
        """
        for name in unknown:
            raise PretrainedError(f"from_pretrained has no {name!r}{did_you_mean(name, _OPTIONS)}")
        name = str(pretrained_model_name_or_path)
        folder = Path(name).expanduser()
        if not folder.is_dir():
            of_folder = isinstance(pretrained_model_name_or_path, Path) or folder.exists()
            if of_folder or looks_like_a_path(name):
                raise PretrainedError(f"the scorer's folder {folder} is not there or is no folder")
            folder = files.downloaded(
                name, local_files_only, token, revision=revision, cache_dir=cache_dir,
                force_download=force_download,
            )  # fmt: skip
        try:
            return cls(*files.read(folder), device=device)
        except (TextError, LearnerError) as error:
            raise PretrainedError(f"the scorer in {folder} cannot be loaded: {error}") from error

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes all but the card, which `ModelHubMixin.save_pretrained` asks for afterwards."""
        files.write(save_directory, self.config, self._weights, self._encoder.checkpoint)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card.

        Args:
            *args: none.
            **kwargs: further metadata.
        """
        card = ModelCard(self.card)
        for name, value in kwargs.items():
            setattr(card.data, name, value)
        return card

    def _texts(
        self, candidates: tuple[str, ...], shots: tuple[str, ...], titles: tuple[str, ...]
    ) -> ItemTexts:
        config = self.config
        return ItemTexts(
            texts=candidates + shots,
            titles=("",) * len(candidates) + titles if titles else (),
            feedback=config.feedback,
            scale=config.scale,
            encoder=self._encoder,
            features=Features(np.zeros((0, self._encoder.embedding_size), np.float32)),
        )

    def _labels(self, labels: Sequence[Any] | np.ndarray, count: int) -> np.ndarray:
        try:
            found = np.asarray(labels, np.float32).reshape(-1)
        except (TypeError, ValueError) as error:
            raise LearnerError(f"labels={labels!r}: numbers are needed") from error
        if len(found) != count:
            raise LearnerError(f"{len(found)} labels for {count} shots; give one for each")
        low, high = self.config.scale
        fits, wanted = {
            "binary": (np.isin(found, (0, 1)), "1 (liked) or 0 (not liked)"),
            "implicit": (found == 1, "1 (chosen)"),
            "rating": ((low <= found) & (found <= high), f"a rating of {low:g} to {high:g}"),
        }[self.config.feedback]
        if not fits.all():
            raise LearnerError(
                f"a label is {found[~fits][0]:g}: this scorer takes {self.config.feedback} "
                f"feedback, of which each label is {wanted}"
            )
        return found


def _several(texts: Sequence[str], name: str) -> tuple[str, ...]:
    if isinstance(texts, str):
        raise LearnerError(f"{name}={texts!r} is one text; give a list of texts")
    return tuple(texts)


def _plain_card(config: ScorerConfig) -> str:
    """The card of a scorer of which no record is at hand."""
    return f"""---
library_name: metarec
pipeline_tag: text-ranking
tags:
{chr(10).join(f"- {tag}" for tag in TAGS)}
---

# A scorer of items for new users, by {config.learner}

```python
import metarec

scorer = metarec.PretrainedScorer.from_pretrained("…")
scorer.rank(shots=["…"], labels=[1], candidates=["…", "…"])
```

Nothing was noted of its data, its terms and its quality: `python -m metarec.runs.pretrained` writes
a card that says all that from the record of a run.
"""
