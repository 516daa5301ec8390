"""MeLU embeds attributes, adapts its decision layers, and says what it lacks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from metarec.attributes import Attributes
from metarec.data.dataset import Dataset
from metarec.engines import choose_engine
from metarec.episodes import EpisodeSampler, labels_of
from metarec.errors import LearnerError
from metarec.features import attribute_features
from metarec.learner import TaskKind, Training
from metarec.loops import InnerLoop
from metarec.splits import Split
from metarec.torch.melu import AttributeMLP, MeLU
from metarec.weights import decision_layers

GENRES, DECADES = 6, 3


def make_attributes(data: Dataset) -> Attributes:
    """Genres, of which an item may have none or several, and one decade."""
    items = np.arange(data.n_items)
    values = np.zeros((data.n_items, GENRES + DECADES), np.float32)
    values[items, items % GENRES] = 1
    values[items[::4], 1] = 1
    values[0, :GENRES] = 0
    values[items, GENRES + items % DECADES] = 1
    names = tuple(f"value{number}" for number in range(GENRES + DECADES))
    return Attributes(("genres", "year"), values, np.array([0, GENRES, GENRES + DECADES]), names, 0)


def make_training(data: Dataset, kind: TaskKind = "user") -> Training:
    split = Split.by_seed(data, 0)
    rows = split.rows("train")
    sampler = EpisodeSampler(
        split, kind, k_shot=(0, 8), query_size=8, task_batch=8, feedback="binary", negatives=0.5
    )
    sides = (data.users[rows], data.items[rows])
    sizes = (data.n_users, data.n_items)
    if kind == "item":
        sides, sizes = sides[::-1], sizes[::-1]
    labels = labels_of(data.ratings[rows], "binary", 4.0)
    return Training(
        kind, "binary", *sides, labels, *sizes, sampler.known, (), None, sampler,
        attributes=make_attributes(data),
    )  # fmt: skip


def test_what_is_embedded_is_the_mean_of_the_values_of_each_attribute(
    tiny_dataset: Dataset,
) -> None:
    attributes = make_attributes(tiny_dataset)
    features = attribute_features(attributes).candidates
    table = np.random.default_rng(0).standard_normal((GENRES + DECADES, 5))
    scorer = AttributeMLP((0, GENRES, GENRES + DECADES), embedding_size=5)
    found = scorer.embed(
        {"embedding": torch.from_numpy(table)}, torch.from_numpy(features).double()
    )
    for item, values in enumerate(attributes.values):
        own = np.flatnonzero(values)
        genres, decade = own[own < GENRES], own[own >= GENRES]
        of_genres = table[genres].mean(0) if len(genres) else np.zeros(5)
        expected = np.concatenate([of_genres, table[decade].mean(0)])
        np.testing.assert_allclose(found[item], expected, atol=1e-6)
    assert {len(np.flatnonzero(row[:GENRES])) for row in attributes.values} == {0, 1, 2}


def test_only_the_decision_layers_adapt_and_all_learn(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset)
    first = MeLU(hidden_sizes=(8, 4), embedding_size=3, steps=0).fit(training)
    learner = MeLU(hidden_sizes=(8, 4), embedding_size=3, steps=3)
    meta_parameters = learner.fit(training)
    layers = {f"layer{layer}.{part}" for layer in range(3) for part in ("weight", "bias")}
    learned = {name for name in first if (first[name] != meta_parameters[name]).any()}
    assert learned == {"embedding", *layers}
    weights = {
        name: torch.from_numpy(value)
        for name, value in meta_parameters.items()
        if not name.startswith("inputs.")
    }
    assert decision_layers(weights) == layers
    scorer = AttributeMLP((0, GENRES, GENRES + DECADES), 3, (8, 4))
    inner = InnerLoop(1, 0.1)
    assert choose_engine(scorer.dual, weights, inner, None, decision_layers(weights)) == "gram"
    assert choose_engine(scorer.dual, weights, inner, None, None) == "vmap"


def test_one_step_by_hand_gives_its_scores(tiny_dataset: Dataset) -> None:
    """Without hidden layers: w - lr * mean((sigma(z w + b) - y) z), z the embedded attributes."""
    training = make_training(tiny_dataset)
    rate = 0.5
    learner = MeLU(1, rate, hidden_sizes=(), embedding_size=3, steps=3)
    meta_parameters = learner.fit(training)
    support = training.sampler.batch(0).support
    everyone = np.arange(training.n_candidates, dtype=np.int32)
    scores = learner.score(learner.adapt(meta_parameters, support), everyone)
    assert training.attributes is not None
    table = meta_parameters["embedding"]
    values = attribute_features(training.attributes).candidates
    parts = [(slice(GENRES), table[:GENRES]), (slice(GENRES, None), table[GENRES:])]
    embedded = np.concatenate([values[:, at] @ part for at, part in parts], axis=1)
    for task in range(len(support)):
        weight, bias = meta_parameters["layer0.weight"][:, 0], meta_parameters["layer0.bias"]
        own = support.mask[task]
        if own.any():
            z, y = embedded[support.candidates[task][own]], support.labels[task][own]
            residual = 1 / (1 + np.exp(-(z @ weight + bias))) - y
            weight, bias = weight - rate * residual @ z / len(y), bias - rate * residual.mean()
        np.testing.assert_allclose(scores[task], embedded @ weight + bias, rtol=1e-4, atol=1e-5)


def test_what_it_lacks_is_said(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset)
    learner = MeLU(hidden_sizes=(8,), steps=1)
    with pytest.raises(LearnerError, match=r"attributes.*genres"):
        learner.fit(replace(training, attributes=None))
    with pytest.raises(LearnerError, match="MeLU serves user tasks, not item tasks"):
        learner.fit(make_training(tiny_dataset, "item"))
    meta_parameters = learner.fit(training)
    other = MeLU(hidden_sizes=(8,))
    support = training.sampler.batch(0).support
    with pytest.raises(LearnerError, match="call fit first"):
        other.adapt(meta_parameters, support)
    other.restore(training)
    np.testing.assert_array_equal(
        other.score(other.adapt(meta_parameters, support), training.known),
        learner.score(learner.adapt(meta_parameters, support), training.known),
    )
