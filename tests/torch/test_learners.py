"""MAML, transfer and prototypical learning train, stop early, resume in the same bits, adapt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, labels_of
from metarec.errors import LearnerError
from metarec.evaluation.episodes import evaluation_episodes
from metarec.features import build_features
from metarec.learner import Feedback, MetaParameters, Support, TaskKind, Training
from metarec.splits import Split
from metarec.torch.anil import ANIL
from metarec.torch.implicit_maml import ImplicitMAML
from metarec.torch.maml import MAML
from metarec.torch.maml_plus_plus import MAMLPlusPlus
from metarec.torch.matching import Matching
from metarec.torch.meta_sgd import MetaSGD
from metarec.torch.neural_process import ConditionalNeuralProcess
from metarec.torch.prototypical import Prototypical
from metarec.torch.r2d2 import R2D2
from metarec.torch.reptile import Reptile
from metarec.torch.tanp import TaNP
from metarec.torch.transfer import Transfer

SMALL = {"steps": 40, "validate_every": 10, "learning_rate": 3e-3}
SCORER = {"hidden_sizes": (8,)}
FAST = {"learning_rate": 1e-2, "hidden_sizes": (16,)}


class Memory:
    """Keeps its states as a checkpointer does, and fails after some saves as a killed process."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.states: list[tuple[dict[str, np.ndarray], dict[str, Any]]] = []
        self.fail_after = fail_after

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        return self.states[-1] if self.states else None

    def save(self, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        copies = {name: np.array(value) for name, value in tensors.items()}
        self.states.append((copies, {**state, "log": list(state["log"])}))
        if len(self.states) == self.fail_after:
            raise KeyboardInterrupt


def make_training(
    data: Dataset, kind: TaskKind = "user", feedback: Feedback = "binary", **others: Any
) -> tuple[Split, Training]:
    """Text features that know the genres, so that there is something to learn."""
    split = Split.by_seed(data, 0)
    names = ["Comedy", "Crime", "Drama", "Horror", "Romance", "War"]
    genres = data.item_text["genres"]
    text = np.stack([genres.str.contains(name).to_numpy() for name in names], axis=1)
    noise = np.random.default_rng(0).normal(size=(data.n_items, 6))
    features = build_features(split, (text + 0.1 * noise).astype(np.float32), kind, feedback, 4.0)
    rows = split.rows("train")
    sides = data.users[rows], data.items[rows]
    tasks, candidates = sides if kind == "user" else sides[::-1]
    sizes = (data.n_users, data.n_items) if kind == "user" else (data.n_items, data.n_users)
    sampler = EpisodeSampler(
        split, kind, k_shot=(0, 8), query_size=8, task_batch=8, feedback=feedback,
        negatives=0.0 if feedback == "rating" else 0.5,
    )  # fmt: skip
    return split, Training(
        kind, feedback, tasks, candidates, labels_of(data.ratings[rows], feedback, 4.0), *sizes,
        sampler.known, (), features, sampler, **others,
    )  # fmt: skip


LEARNERS = pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: MAML(**SMALL, **SCORER, inner_learning_rate=0.1), id="maml"),
        pytest.param(lambda: Transfer(**SMALL, **SCORER), id="transfer"),
        pytest.param(lambda: ANIL(**SMALL, **SCORER), id="anil"),
        pytest.param(lambda: Reptile(**SMALL, **SCORER), id="reptile"),
        pytest.param(lambda: MetaSGD(**SMALL, **SCORER), id="meta_sgd"),
        pytest.param(
            lambda: MAMLPlusPlus(**SMALL, **SCORER, first_order_steps=15, multi_step_loss_steps=25),
            id="maml_plus_plus",
        ),
        pytest.param(lambda: ImplicitMAML(**SMALL, **SCORER), id="imaml"),
        pytest.param(lambda: Prototypical(**SMALL, embedding_size=4), id="prototypical"),
        pytest.param(lambda: Matching(**SMALL, embedding_size=4), id="matching"),
        pytest.param(lambda: R2D2(**SMALL, embedding_size=4), id="r2d2"),
        pytest.param(
            lambda: ConditionalNeuralProcess(**SMALL | FAST, outer_loss="pointwise"), id="cnp"
        ),
        pytest.param(lambda: TaNP(**SMALL | FAST), id="tanp"),
    ],
)


@LEARNERS
def test_a_killed_training_goes_on_and_ends_in_the_same_bits(
    make: Any, tiny_dataset: Dataset
) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.5, 0.4] * 3)
    validate = {"validate": lambda _: next(scores)}
    whole = make().fit(make_training(tiny_dataset, **validate)[1])
    scores = iter([0.1, 0.3, 0.2, 0.5, 0.4])
    memory = Memory(fail_after=3)
    with pytest.raises(KeyboardInterrupt):
        make().fit(make_training(tiny_dataset, **validate, checkpointer=memory)[1])
    assert memory.states[-1][1]["step"] == 20
    memory.fail_after = None
    _, training = make_training(tiny_dataset, **validate, checkpointer=memory)
    resumed = make().fit(training)
    assert set(whole) == set(resumed)
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name], strict=True)
    assert [entry["step"] for entry in training.log] == [0, 10, 20, 30, 40]


@LEARNERS
def test_training_lowers_the_loss_of_the_queries(make: Any, tiny_dataset: Dataset) -> None:
    _, training = make_training(tiny_dataset)
    make().fit(training)
    losses = [entry["loss"] for entry in training.log if "loss" in entry]
    assert losses[-1] < losses[0]


def test_the_best_meta_parameters_on_validation_are_returned_and_training_stops_early(
    tiny_dataset: Dataset,
) -> None:
    seen: list[MetaParameters] = []
    values = [0.1, 0.9, 0.5, 0.4, 0.3]

    def validate(meta_parameters: MetaParameters) -> float:
        seen.append(meta_parameters)
        return values[len(seen) - 1]

    _, training = make_training(tiny_dataset, validate=validate)
    learner = MAML(steps=1000, validate_every=5, patience=3, hidden_sizes=(8,))
    best = learner.fit(training)
    assert len(seen) == 5, "looks after 3 without improvement"
    np.testing.assert_array_equal(best["layer0.weight"], seen[1]["layer0.weight"])
    assert (best["layer0.weight"] != seen[4]["layer0.weight"]).any()


def test_a_loss_that_is_not_finite_says_what_to_lower(tiny_dataset: Dataset) -> None:
    _, training = make_training(tiny_dataset, feedback="rating")
    with pytest.raises(LearnerError, match=r"inner_learning_rate"):
        MAML(inner_learning_rate=1e6, inner_steps=5, **SMALL, **SCORER).fit(training)


def test_maml_adapts_better_than_its_own_0_step_row_where_tastes_differ(
    tiny_dataset: Dataset,
) -> None:
    """On queries of meta-train tasks: what the outer loop minimises, measured."""
    _, training = make_training(tiny_dataset)
    learner = MAML(
        inner_learning_rate=0.3,
        steps=150,
        hidden_sizes=(16,),
        learning_rate=5e-3,
        weight_decay=0.0,
        outer_loss="pointwise",
    )
    meta_parameters = learner.fit(training)
    losses = {True: 0.0, False: 0.0}
    for step in range(1000, 1010):
        batch = training.sampler.batch(step)
        everyone = np.arange(training.n_candidates, dtype=np.int32)
        for adapted, used in ((True, learner), (False, learner.without_adaptation())):
            scores = used.score(used.adapt(meta_parameters, batch.support), everyone)
            logits = np.take_along_axis(scores, batch.query, axis=1)
            signed = np.where(batch.query_labels == 1, -logits, logits)
            losses[adapted] += np.logaddexp(0, signed)[batch.query_mask].mean()
    assert losses[True] < losses[False]


def test_a_prototype_is_the_mean_of_the_shots_of_its_class(tiny_dataset: Dataset) -> None:
    """Without a projection: logit = |e - d|² - |e - l|², each mean with the origin as one shot."""
    split, training = make_training(tiny_dataset)
    learner = Prototypical(projection="none", prior_strength=1.0, dislike_weight=1.0)
    meta_parameters = learner.fit(training)
    episodes = evaluation_episodes(split, "test", "user_cold", k_shot=4)
    scores = learner.score(learner.adapt(meta_parameters, episodes.support), episodes.candidates)
    assert training.features is not None
    known = training.features.candidates[training.known]
    vectors = (training.features.candidates - known.mean(0)) / known.std(0) / np.sqrt(6)
    for t in range(3):
        shots = vectors[episodes.support.candidates[t]]
        liked = episodes.support.labels[t] == 1
        like = shots[liked].sum(0) / (1 + liked.sum())
        dislike = shots[~liked].sum(0) / (1 + (~liked).sum())
        e = vectors[episodes.candidates]
        expected = ((e - dislike) ** 2).sum(1) - ((e - like) ** 2).sum(1)
        np.testing.assert_allclose(scores[t], expected, rtol=1e-3, atol=1e-4)


def test_saved_meta_parameters_need_the_features_back(tiny_dataset: Dataset) -> None:
    _, training = make_training(tiny_dataset)
    fitted = MAML(**SMALL, **SCORER)
    meta_parameters = fitted.fit(training)
    other = MAML(**SMALL, **SCORER)
    support = training.sampler.batch(0).support
    with pytest.raises(LearnerError, match="call fit first"):
        other.adapt(meta_parameters, support)
    other.restore(training)
    everyone = np.arange(training.n_candidates, dtype=np.int32)
    np.testing.assert_array_equal(
        other.score(other.adapt(meta_parameters, support), everyone),
        fitted.score(fitted.adapt(meta_parameters, support), everyone),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: MAML(inner_steps=-1),
        lambda: MAML(steps=-1),
        lambda: MAML(learning_rate=0.0),
        lambda: MAML(engine="fast"),  # type: ignore[arg-type]
        lambda: Transfer(fine_tune_learning_rate=-1.0),
        lambda: Prototypical(projection="deep"),  # type: ignore[arg-type]
    ],
)
def test_arguments_out_of_range_are_errors(make: Any) -> None:
    with pytest.raises(Exception, match=r"inner|steps|learning_rate|engine|projection"):
        make()


def test_softmax_needs_labels_of_1_and_0(tiny_dataset: Dataset) -> None:
    _, training = make_training(tiny_dataset, feedback="rating")
    with pytest.raises(LearnerError, match="softmax"):
        MAML(outer_loss="softmax", **SMALL, **SCORER).fit(training)


def test_no_shot_is_served(tiny_dataset: Dataset) -> None:
    _, training = make_training(tiny_dataset)
    learner = MAML(**SMALL, **SCORER)
    meta_parameters = learner.fit(training)
    none = np.zeros((2, 0))
    support = Support(none.astype(np.int32), none.astype(np.float32), none.astype(bool))
    scores = learner.score(learner.adapt(meta_parameters, support), training.known)
    np.testing.assert_array_equal(scores[0], scores[1])
