"""What a run works on: data set, split, texts, features, meta-training episodes.

What runs have in common is made once a process.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from metarec.attributes import Attributes, Entities, build_attributes, build_entities
from metarec.consumed import Entry, Ledger
from metarec.data import Dataset, load_dataset
from metarec.data.registry import DATASETS
from metarec.episodes import EpisodeSampler, labels_of
from metarec.errors import ConfigError, TextError
from metarec.features import Features, build_features
from metarec.learner import MetaParameters, Training
from metarec.published_splits import melu, recbole_metarec
from metarec.runs.config import RunConfig
from metarec.runs.resume import Checkpointer
from metarec.runs.sections import (
    BackendConfig,
    DataConfig,
    EpisodeConfig,
    SplitConfig,
    TextConfig,
)
from metarec.splits import Split
from metarec.text import (
    EncoderSettings,
    FeatureStore,
    Template,
    TextEncoder,
    default_template,
    resolve,
    title_template,
)


@dataclass(frozen=True, eq=False)
class Materials:
    """What a run works on.

    Args:
        split: of the data set.
        texts: text of each item; "" where there is none.
        data_checksum: of the data set after the k-core filter.
        features: of candidates and tasks, None if the learner needs none.
        feature_key: covers the checkpoint, the settings of the encoder and every text; "" without
            features.
        split_checksum: of a split that files give; "" of one that the configuration decides.
        attributes: categorical attributes of the items, None where there are none.
        entities: columns of entities of the items.
        titles: what names each item in a sentence; empty where there are no titles.
        encoder: what made the features; None without features.
        consumed: what vocabulary and profiles were fitted on.
    """

    split: Split
    texts: tuple[str, ...]
    data_checksum: str
    features: Features | None
    feature_key: str
    split_checksum: str = ""
    attributes: Attributes | None = None
    entities: tuple[Entities, ...] = ()
    titles: tuple[str, ...] = ()
    encoder: EncoderSettings | None = None
    consumed: tuple[Entry, ...] = ()

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.split.dataset

    def run_hash(self, config: RunConfig) -> str:
        """What names a run of a configuration on these; see `RunConfig.hash`."""
        return config.hash(self.data_checksum, self.feature_key, self.split_checksum)


def prepare(config: RunConfig, needs_features: bool, progress: bool = False) -> Materials:
    """Loads, filters, splits, renders and, if needed, encodes.

    Args:
        config: of the run.
        needs_features: whether the learner needs text features.
        progress: whether to show a progress bar while texts are encoded.

    Returns:
        The materials, shared with other runs of this process.
    """
    named = [config.data.folder, *config.data.options.values()]
    data_key = _key(config.data, *_stamps(*named))
    dataset, checksum = _once("data", data_key, lambda: _load(config.data))
    split_key = _key(data_key, config.split, *_stamps(config.split.source))
    split = _once("split", split_key, lambda: _split(config, dataset))
    given = split.checksum if split.method == "given" else ""
    text_key = _key(data_key, config.text.template)
    texts = _once("texts", text_key, lambda: _render(config.text, dataset))
    (attributes, entities), vocabulary = _once(
        "attributes", split_key, lambda: _noted(lambda ledger: _columns(split, ledger))
    )
    titles = _once("titles", data_key, lambda: _titles(dataset))
    if not needs_features:
        return Materials(
            split, texts, checksum, None, "", given, attributes, entities, consumed=vocabulary
        )
    if not any(texts):
        raise TextError(
            f"data set {dataset.name!r} has no item text, which learner {config.learner.name!r} "
            "needs; give a table of items with text (data.options.items), or choose a learner that "
            "needs none"
        )
    encode_key = _key(text_key, config.text, config.backend.device)
    vectors, feature_key = _once("vectors", encode_key, lambda: _encode(config, texts, progress))
    episode = config.episode
    settings = (episode.task, episode.feedback, episode.threshold)
    features_key = _key(split_key, encode_key, *settings)
    features, profiles = _once(
        "features",
        features_key,
        lambda: _noted(lambda ledger: build_features(split, vectors, *settings, ledger)),
    )
    encoder = _once("encoder", encode_key, lambda: _settings(config.text))
    return Materials(
        split, texts, checksum, features, feature_key, given, attributes, entities, titles,
        encoder, (*vocabulary, *profiles),
    )  # fmt: skip


def training_of(
    config: RunConfig,
    materials: Materials,
    validate: Callable[[MetaParameters], float] | None,
    checkpointer: Checkpointer | None,
    progress: bool,
    ledger: Ledger | None = None,
) -> Training:
    """What the learner of a run may see when it fits; all fits are noted in the ledger."""
    ledger = Ledger(materials.consumed) if ledger is None else ledger
    episode, split, data = config.episode, materials.split, materials.dataset
    rows = split.rows("train")
    labels = labels_of(data.ratings[rows], episode.feedback, episode.threshold)
    _check_threshold(episode, data, float(labels.mean()))
    sides = (data.users[rows], data.items[rows])
    sizes = (data.n_users, data.n_items)
    tasks, candidates = sides if episode.task == "user" else sides[::-1]
    n_tasks, n_candidates = sizes if episode.task == "user" else sizes[::-1]
    sampler = EpisodeSampler(
        split,
        task=episode.task,
        k_shot=episode.train_k_shot,
        query_size=episode.query_size,
        task_batch=episode.task_batch,
        feedback=episode.feedback,
        threshold=episode.threshold,
        negatives=episode.negatives,
        seed=config.seed,
        ledger=ledger,
    )
    return Training(
        kind=episode.task,
        feedback=episode.feedback,
        tasks=tasks,
        candidates=candidates,
        labels=labels,
        n_tasks=n_tasks,
        n_candidates=n_candidates,
        known=sampler.known,
        texts=materials.texts,
        features=materials.features,
        sampler=sampler,
        validate=validate,
        checkpointer=checkpointer,
        seed=config.seed,
        progress=progress,
        attributes=materials.attributes,
        entities=materials.entities,
        titles=materials.titles,
        encoder=materials.encoder,
        ledger=ledger,
    )


def _check_threshold(episode: EpisodeConfig, data: Dataset, liked: float) -> None:
    """Warns of a threshold of another scale, as 4 of 5 where ratings are 0 or 1, or go to 10."""
    if episode.feedback != "binary" or episode.threshold is None or data.rating_scale is None:
        return
    low, high = data.rating_scale
    if liked > 0 and episode.threshold >= (low + high) / 2:
        return
    warnings.warn(
        f"episode.threshold={episode.threshold:g} is meant for another scale: the ratings of "
        f"{data.name!r} are {low:g} to {high:g}, and {liked:.0%} of train counts as liked; give "
        "the lowest rating that says so",
        stacklevel=3,
    )


def make_encoder(config: TextConfig, backend: BackendConfig) -> TextEncoder:
    """The encoder of a configuration; its weights are loaded when a text is new to the store."""
    encoder = importlib.import_module(f"metarec.{backend.name}.encoder").BertEncoder
    found: TextEncoder = encoder(
        resolve(config.checkpoint, config.download),
        pooling=config.pooling,
        max_length=config.max_length,
        normalise=config.normalise,
        device=backend.device,
    )
    return found


def feature_key_of(encoder: str, texts: tuple[str, ...]) -> str:
    """What names the features of a run: SHA-256 of the encoder's own key and of every text."""
    return hashlib.sha256(json.dumps([encoder, *texts]).encode()).hexdigest()


def _load(config: DataConfig) -> tuple[Dataset, str]:
    options = dict(config.options)
    if config.name in DATASETS:
        # null is a value, such as rating=null; but not of what must be given
        for name, parameter in DATASETS[config.name].options().items():
            if parameter.default is parameter.empty and options.get(name) is None:
                options.pop(name, None)
    dataset = load_dataset(config.name, config.folder, **options)
    if config.max_user_interactions is not None:
        dataset = dataset.without_heavy_users(config.max_user_interactions)
    if max(config.min_user_interactions, config.min_item_interactions) > 1:
        dataset = dataset.k_core(config.min_user_interactions, config.min_item_interactions)
    return dataset, dataset.checksum


def _split(config: RunConfig, dataset: Dataset) -> Split:
    split = config.split
    if split.method == "time":
        return Split.by_time(dataset, split.validation_from, split.test_from)
    if split.method in ("melu", "recbole_metarec"):
        return _published(split, dataset)
    return Split.by_seed(
        dataset, split.seed, split.users, split.items, split.warm_holdout, split.without_train
    )


def _published(config: SplitConfig, dataset: Dataset) -> Split:
    of_melu = config.method == "melu"
    if config.source is None:
        what = "the folder of its states" if of_melu else "the file of its tasks"
        raise ConfigError(
            f"split.method={config.method} needs {what}: give split.source=… "
            f"(paper/protocols/{config.method}.md)"
        )
    if not of_melu:
        return recbole_metarec(dataset, config.source)
    return melu(
        dataset,
        config.source,
        config.validation_users,
        config.validation_years,
        seed=config.seed,
    )


def _render(config: TextConfig, dataset: Dataset) -> tuple[str, ...]:
    template = default_template(dataset) if config.template is None else Template(config.template)
    if template is None:
        return ("",) * dataset.n_items
    return template.render(dataset.item_text).texts


def _titles(dataset: Dataset) -> tuple[str, ...]:
    template = title_template(dataset)
    return () if template is None else template.render(dataset.item_text).texts


def _settings(config: TextConfig) -> EncoderSettings:
    checkpoint = resolve(config.checkpoint, config.download)
    return EncoderSettings(checkpoint, config.pooling, config.max_length, config.normalise)


def _encode(
    config: RunConfig, texts: tuple[str, ...], progress: bool
) -> tuple[Float32[np.ndarray, "items d"], str]:
    encoder = make_encoder(config.text, config.backend)
    vectors = FeatureStore().features(texts, encoder, progress=progress)
    return vectors, feature_key_of(encoder.feature_key, texts)


def _columns(split: Split, ledger: Ledger) -> tuple[Attributes | None, tuple[Entities, ...]]:
    return build_attributes(split, ledger), build_entities(split, ledger)


def _noted(make: Callable[[Ledger], Any]) -> tuple[Any, tuple[Entry, ...]]:
    """What is made, and what that consumed: it stands in the record of each run that shares it."""
    ledger = Ledger()
    return make(ledger), ledger.entries


_KEPT = 3
_made: dict[str, dict[str, Any]] = {}


def _once(kind: str, key: str, make: Callable[[], Any]) -> Any:
    """What was made for this key before, or now; the latest few of a kind are kept."""
    kept = _made.setdefault(kind, {})
    value = kept.pop(key) if key in kept else make()
    kept[key] = value
    while len(kept) > _KEPT:
        del kept[next(iter(kept))]
    return value


def _key(*parts: Any) -> str:
    return "\n".join(map(repr, parts))


def _stamps(*named: Any) -> list[tuple[str, int, int]]:
    """Sizes and times of the files that a configuration names: a changed file is read again."""
    stamps = []
    for path in (Path(value) for value in named if isinstance(value, str) and value):
        try:
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            found = [(file, file.stat()) for file in files if file.is_file()]
        except OSError:
            continue
        stamps += [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in found]
    return stamps
