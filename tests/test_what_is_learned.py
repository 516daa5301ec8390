"""Every learner learns of train alone, and its ledger says of what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from learner_rows import (
    LEARNERS,
    Make,
    bits,
    every_learner,
    fitted,
    make_training,
    tiny_split,
)

from metarec.audit.fits import lacking_fits
from metarec.data.dataset import CleaningReport
from metarec.learner import Feedback, MetaParameters, TaskKind, Training
from metarec.splits import Split


def train_alone(split: Split) -> Split:
    """The same split of the same users and items, without any interaction that is not train's."""
    data, rows = split.dataset, split.rows("train")
    kept = {name: getattr(data, name)[rows] for name in ("users", "items", "ratings")}
    return Split(
        replace(data, **kept, report=CleaningReport(read=len(rows), kept=len(rows))),
        split.user_group,
        split.item_group,
        split.part[rows],
        split.method,
        {},
    )


def with_other_cold_items(training: Training, same_words: bool) -> Training:
    """The same training, in which all that is known of items that are not train's is other.

    Args:
        training: as it is.
        same_words: whether texts keep their words in another order, so that there are as many
            texts of as many words: both decide how a BERT rounds the sums of a batch.
    """
    cold = np.ones(tiny_split().dataset.n_items, bool)
    cold[np.unique(tiny_split().dataset.items[tiny_split().rows("train")])] = False
    attributes, features = training.attributes, training.features
    assert attributes is not None
    assert features is not None
    assert cold.any()
    values = np.where(cold[:, None], 1 - attributes.values, attributes.values)
    if training.kind == "user":
        of_items = np.where(cold[:, None], -3 * features.candidates - 1, features.candidates)
        features = replace(features, candidates=of_items.astype(np.float32))

    def other(texts: tuple[str, ...]) -> tuple[str, ...]:
        changed = (" ".join(text.split()[::-1]) if same_words else "unheard of" for text in texts)
        return tuple(
            one if new else text for text, one, new in zip(texts, changed, cold, strict=True)
        )

    return replace(
        training,
        texts=other(training.texts),
        titles=other(training.titles),
        attributes=replace(attributes, values=values.astype(np.float32)),
        features=features,
    )


STORED = {
    "tfidf": ("words.data", "words.indices", "words.indptr"),
    "biased_mf": ("bias", "factors"),
    "biased_mf_mean": ("bias", "factors"),
    "hybrid": ("content", "user.in"),
}
"""Arrays with a row for each item, or one for likes and one for dislikes: cold ones are placed by
their text once all is learned."""


def learned_of(
    meta: MetaParameters, stored: tuple[str, ...], known: np.ndarray
) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The bits of what is learned, without the rows of cold items."""
    n_items = tiny_split().dataset.n_items
    found = {}
    for name, array in meta.items():
        if name in stored and name.startswith("words."):
            continue
        if name in stored:
            sides = 2 if name == "user.in" else 1
            axis = 1 if name == "user.in" else 0
            rows = np.concatenate([known + side * n_items for side in range(sides)])
            found[name] = array.take(rows, axis=axis)
        else:
            found[name] = array
    return bits(found)


@pytest.mark.parametrize(
    ("make", "kind", "feedback", "stored"),
    [
        pytest.param(make, kind, feedbacks[-1], STORED.get(name, ()), id=f"{name}-{kind}")
        for name, make, kinds, feedbacks in LEARNERS
        for kind in kinds
    ],
)
def test_what_is_not_train_has_no_part_in_what_is_learned(
    make: Make, kind: TaskKind, feedback: Feedback, stored: tuple[str, ...]
) -> None:
    """The ledger says what a fit noted; this, what it used."""
    _, meta, training = fitted(make, kind, feedback)
    alone = make_training(kind, feedback, split=train_alone(tiny_split()))
    learner = make()
    again = learner.fit(with_other_cold_items(alone, same_words="bert" in type(learner).__module__))
    assert learned_of(again, stored, training.known) == learned_of(meta, stored, training.known)


@every_learner
def test_the_ledger_names_what_the_audit_asks_for(
    make: Make, kind: TaskKind, feedback: Feedback
) -> None:
    learner, _, training = fitted(make, kind, feedback)
    target = f"{type(learner).__module__}.{type(learner).__qualname__}"
    assert lacking_fits(target, {entry.fit for entry in training.ledger.entries}) == []
