"""The texts of items as a BERT that adapts reads them: of a whole training, or of one call."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from metarec.errors import LearnerError, TextError
from metarec.features import Features
from metarec.inputs import Inputs
from metarec.learner import Feedback, Training, require_features
from metarec.pairs import UserItemPairs
from metarec.text.store import default_folder
from metarec.text.tokens import EncoderSettings, Pair, Tokenizer
from metarec.torch.adapted_bert import AdaptedBert, Compute
from metarec.torch.adapted_part import AdaptedPart
from metarec.torch.bert import Attention
from metarec.torch.bi_encoder import BiEncoder
from metarec.torch.cross_encoder import CrossEncoder
from metarec.torch.prefix_cache import PairCache, PrefixCache, TextCache
from metarec.torch.scorer import Scorer
from metarec.torch.text_batches import Texts


@dataclass(frozen=True)
class ItemTexts:
    """What is written about the items of user tasks, and what must be known to read it.

    Args:
        texts: what is read of each item (index: item).
        titles: what names each item in a user's text; empty where `texts` do.
        feedback: what labels are.
        scale: lowest and highest label.
        encoder: which BERT reads, and how.
        features: what the BERT made of the texts before it adapted; without rows where only scores
            are wanted.
        seed: draws the weights that are not pretrained.
        progress: whether to show progress bars.
    """

    texts: tuple[str, ...]
    titles: tuple[str, ...]
    feedback: Feedback
    scale: tuple[float, float]
    encoder: EncoderSettings
    features: Features
    seed: int = 0
    progress: bool = False

    @classmethod
    def of(cls, training: Training, name: str) -> ItemTexts:
        """Those of a training.

        Args:
            training: with features, and the encoder that made them.
            name: of the learner, for messages.

        Raises:
            LearnerError: if it has none.
        """
        features = require_features(name, training)
        if training.encoder is None:
            raise LearnerError(
                f"{name} adapts the BERT that made the features: give Training.encoder "
                "(metarec.text.EncoderSettings)"
            )
        training.note("scale")
        scale = float(training.labels.min()), float(training.labels.max())
        return cls(
            training.texts, training.titles, training.feedback, scale, training.encoder, features,
            training.seed, training.progress,
        )  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was read once, for whatever texts.

    Args:
        encoder: how it reads.
        seed: drew the weights of the BERT that are not pretrained.
        cross: whether it reads a user and an item in one sequence.
        bert: of which a part adapts.
        tokenizer: as long as a text, or such a sequence, may be.
        catalogue: what is frozen of the latest catalogue.
    """

    encoder: EncoderSettings
    seed: int
    cross: bool
    bert: AdaptedBert
    tokenizer: Tokenizer
    catalogue: CatalogueCache

    @classmethod
    def of(
        cls,
        texts: ItemTexts,
        part: AdaptedPart,
        attention: Attention,
        device: torch.device,
        compute: Compute,
        pair_length: int | None,
        memory_mib: float,
    ) -> Loaded:
        """Reads the checkpoint.

        Args:
            texts: whose encoder and seed are taken.
            part: what of the BERT adapts.
            attention: how it is computed.
            device: where.
            compute: in which precision.
            pair_length: tokens of a user's and an item's text together; None for a bi-encoder.
            memory_mib: budget of the frozen states of a catalogue, in MiB.

        Raises:
            LearnerError: if the checkpoint has no such part, or no such long pairs.
            TextError: if it cannot be loaded.
        """
        encoder, cross = texts.encoder, pair_length is not None
        longest = encoder
        if pair_length is not None:
            try:
                longest = replace(encoder, max_length=pair_length)
            except TextError as error:
                raise LearnerError(f"learner.pair_length={pair_length}: {error}") from error
        bert = AdaptedBert(
            encoder.checkpoint, part, np.random.default_rng([texts.seed, 2]), attention, device,
            compute, first_only=cross,
        )  # fmt: skip
        tokenizer = Tokenizer(encoder.checkpoint.folder, longest.max_length)
        kept = CatalogueCache(bert, tokenizer, memory_mib)
        return cls(encoder, texts.seed, cross, bert, tokenizer, kept)

    def serves(self, texts: ItemTexts) -> bool:
        """Whether these texts would be read by the same."""
        return self.encoder == texts.encoder and self.seed == texts.seed


@dataclass(frozen=True)
class Read:
    """Texts that a BERT has read: what is frozen of them, and what pairs are made of.

    Args:
        loaded: read them.
        cache: of texts, or of pairs for a cross-encoder.
        pairs: writes those; None for a bi-encoder.
    """

    loaded: Loaded
    cache: TextCache | PairCache
    pairs: UserItemPairs | None = None

    @classmethod
    def of_training(
        cls, loaded: Loaded, texts: ItemTexts, memory_mib: float, disk_mib: float
    ) -> Read:
        """All texts of a training, which come again and again.

        Args:
            loaded: reads them.
            texts: of the items.
            memory_mib: budget of frozen states in memory, in MiB.
            disk_mib: likewise on disk.
        """
        bert, padding = loaded.bert, loaded.tokenizer.padding
        folder = default_folder("prefixes") if disk_mib else None
        if loaded.cross:
            cache = PairCache(bert, padding, memory_mib, disk_mib, folder)
            return cls(loaded, cache, _pairs(loaded, texts))
        tokens = loaded.tokenizer.tokenise(texts.texts)
        return cls(
            loaded, PrefixCache(bert, tokens, padding, memory_mib, disk_mib, folder, texts.progress)
        )

    @classmethod
    def of_call(cls, loaded: Loaded, texts: ItemTexts, catalogue: int) -> Read:
        """The texts of one call, read when they are asked for; those of a catalogue may come again.

        Args:
            loaded: reads them.
            texts: of the catalogue, and after them those of a user's shots.
            catalogue: number of texts of the catalogue.
        """
        if loaded.cross:
            # of a pair with another user nothing is the same
            cache = PairCache(loaded.bert, loaded.tokenizer.padding, memory_mib=0.0)
            return cls(loaded, cache, _pairs(loaded, texts))
        own, shots = texts.texts[:catalogue], texts.texts[catalogue:]
        return cls(loaded, loaded.catalogue.beside(own, shots))

    def scorer(self, head: Scorer, inputs: Inputs) -> BiEncoder | CrossEncoder:
        """A scorer of the texts by a head on the BERT."""
        bert, encoder = self.loaded.bert, self.loaded.encoder
        if self.pairs is not None:
            assert isinstance(self.cache, PairCache)
            return CrossEncoder(bert, head, inputs, pairs=self.pairs, cache=self.cache)
        assert not isinstance(self.cache, PairCache)
        return BiEncoder(bert, head, inputs, encoder.pooling, encoder.normalise, cache=self.cache)


class CatalogueCache:
    """What is frozen of a catalogue, which is the same from user to user; not of a user's shots.

    States are computed when they are asked for, and those of the latest catalogue are kept. They
    are the same bits whether they were kept or not.

    Args:
        bert: whose frozen layers compute them.
        tokenizer: of the checkpoint.
        memory_mib: budget in MiB, beyond which states are computed again.
    """

    def __init__(self, bert: AdaptedBert, tokenizer: Tokenizer, memory_mib: float = 1024.0) -> None:
        self._bert, self._tokenizer, self._memory = bert, tokenizer, memory_mib
        self._latest: tuple[tuple[str, ...], list[Pair], PairCache] | None = None

    def beside(self, catalogue: tuple[str, ...], shots: tuple[str, ...]) -> TextCache:
        """From texts, numbered from the first of the catalogue to the last of the shots.

        Args:
            catalogue: its texts.
            shots: those of a user's shots. They are asked for by themselves.
        """
        latest = self._latest
        if latest is None or latest[0] != catalogue:
            latest = catalogue, self._tokens(catalogue), self._cache(self._memory)
            self._latest = latest
        _, tokens, kept = latest
        own, once = self._tokens(shots), self._cache(0.0)

        def read(texts: np.ndarray) -> Texts:
            if len(texts) and texts[0] >= len(tokens):
                return once([own[text - len(tokens)] for text in texts.tolist()])
            return kept([tokens[text] for text in texts.tolist()])

        return read

    def _tokens(self, texts: tuple[str, ...]) -> list[Pair]:
        return [Pair(row) for row in self._tokenizer.tokenise(texts)]

    def _cache(self, memory_mib: float) -> PairCache:
        return PairCache(self._bert, self._tokenizer.padding, memory_mib)


def _pairs(loaded: Loaded, texts: ItemTexts) -> UserItemPairs:
    return UserItemPairs(
        loaded.tokenizer, texts.titles or texts.texts, texts.texts, texts.feedback, texts.scale
    )
