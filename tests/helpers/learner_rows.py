"""All learners as tests take them: a learner joins with one row of `LEARNERS`.

`tests/test_learner_contract.py` holds each to what every learner promises,
`tests/test_what_is_learned.py` to learning of train alone.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_checkpoint import small_encoder

from metarec import baselines
from metarec.attributes import Attributes
from metarec.data.dataset import CleaningReport, Dataset
from metarec.episodes import EpisodeSampler, labels_of
from metarec.features import Features, build_features
from metarec.learner import (
    Feedback,
    Learner,
    MetaParameters,
    Support,
    TaskKind,
    Training,
)
from metarec.splits import Split

BOTH = ("user", "item")
ANY = ("rating", "binary", "implicit")


def made(name: str, arguments: dict[str, Any], backend: str = "torch") -> Learner:
    module, _, kind = name.partition(".")
    found = getattr(importlib.import_module(f"metarec.{backend}.{module}"), kind)
    learner: Learner = found(**arguments)
    return learner


def of(name: str, **arguments: Any) -> functools.partial[Learner]:
    """How to make a learner that each backend has: `module.Class` under `metarec.<backend>`."""
    return functools.partial(made, name, arguments)


def made_in_torch(name: str, arguments: dict[str, Any]) -> Learner:
    return made(name, arguments)


def bert(kind: str, **arguments: Any) -> functools.partial[Learner]:
    """How to make a learner over a small BERT, which PyTorch alone has."""
    small = {"hidden_sizes": (4,), "head_steps": 3, "steps": 2, "pair_length": 24, "rank": 2}
    rates = {"bert_inner_learning_rate": 0.1, "inner_learning_rate": 0.1, "task_batch": 4}
    name = {"maml": "bert_maml.BertMAML", "transfer": "bert_transfer.BertTransfer"}[kind]
    return functools.partial(made_in_torch, name, {**small, **rates, **arguments})


# name, how to make it, kinds of task that it serves, feedback that it takes
LEARNERS: list[tuple[str, Callable[..., Learner], tuple[str, ...], tuple[str, ...]]] = [
    ("random", baselines.Random, BOTH, ANY),
    ("popularity", baselines.Popularity, BOTH, ANY),
    ("popularity_all", lambda: baselines.Popularity(of="all"), BOTH, ANY),
    ("item_mean", baselines.ItemMean, BOTH, ("rating", "binary")),
    (
        "item_mean_unshrunk",
        lambda: baselines.ItemMean(shrinkage=0.0, task_shrinkage=0.0),
        BOTH,
        ("rating", "binary"),
    ),
    ("item_knn", lambda: baselines.ItemKNN(neighbours=5, dislike_weight=0.3), BOTH, ANY),
    ("item_knn_all", lambda: baselines.ItemKNN(neighbours=None, centre="task"), BOTH, ANY),
    ("ease", lambda: baselines.EASE(regularisation=5.0), BOTH, ANY),
    ("ease_centred", lambda: baselines.EASE(centre="global", prior="none"), BOTH, ANY),
    ("als", lambda: baselines.ALS(factors=4, iterations=3), BOTH, ("binary", "implicit")),
    (
        "als_dislikes",
        lambda: baselines.ALS(factors=4, iterations=3, dislike_weight=0.5),
        BOTH,
        ("binary", "implicit"),
    ),
    ("tfidf", lambda: baselines.TfidfCosine(min_df=1), ("user",), ANY),
    ("bert_cosine", lambda: baselines.BertCosine(dislike_weight=-0.5), BOTH, ANY),
    ("ridge", baselines.Ridge, BOTH, ANY),
    ("ridge_popularity", lambda: baselines.Ridge(bias="popularity"), BOTH, ANY),
    ("predicted_popularity", baselines.PredictedPopularity, BOTH, ANY),
    ("biased_mf", lambda: baselines.BiasedMF(factors=3), BOTH, ("rating",)),
    ("biased_mf_mean", lambda: baselines.BiasedMF(factors=3, readout="mean"), BOTH, ("rating",)),
    ("transfer", of("transfer.Transfer", hidden_sizes=(8,), steps=5), BOTH, ANY),
    ("maml", of("maml.MAML", hidden_sizes=(8, 4), inner_learning_rate=0.1, steps=5), BOTH, ANY),
    ("maml_item", of("maml.MAML", hidden_sizes=(8,), scorer="mlp_item", steps=5), BOTH, ANY),
    ("maml_cosine", of("maml.MAML", scorer="cosine", embedding_size=4, steps=5), BOTH, ANY),
    ("maml_dot", of("maml.MAML", scorer="dot", embedding_size=4, steps=5), BOTH, ANY),
    ("maml_bilinear", of("maml.MAML", scorer="bilinear", steps=5), BOTH, ANY),
    ("maml_fusion", of("maml.MAML", hidden_sizes=(8,), scorer="fusion_fixed", steps=5), BOTH, ANY),
    (
        "maml_fusion_attention",
        of("maml.MAML", hidden_sizes=(8,), scorer="fusion_attention", steps=5),
        BOTH,
        ANY,
    ),
    ("maml_both", of("maml.MAML", hidden_sizes=(8,), representation="both", steps=5), BOTH, ANY),
    (
        "maml_collaborative",
        of("maml.MAML", hidden_sizes=(8,), representation="collaborative", steps=5),
        BOTH,
        ANY,
    ),
    ("maml_vmap", of("maml.MAML", hidden_sizes=(8,), engine="vmap", steps=5), BOTH, ANY),
    ("fomaml", of("maml.MAML", hidden_sizes=(8,), first_order=True, steps=5), BOTH, ANY),
    ("anil", of("anil.ANIL", hidden_sizes=(8, 4), steps=5), BOTH, ANY),
    ("anil_cosine", of("anil.ANIL", scorer="cosine", embedding_size=4, steps=5), BOTH, ANY),
    ("reptile", of("reptile.Reptile", hidden_sizes=(8, 4), steps=5), BOTH, ANY),
    ("reptile_dot", of("reptile.Reptile", scorer="dot", embedding_size=4, steps=5), BOTH, ANY),
    ("meta_sgd", of("meta_sgd.MetaSGD", hidden_sizes=(8, 4), steps=5), BOTH, ANY),
    ("meta_sgd_dot", of("meta_sgd.MetaSGD", scorer="dot", embedding_size=4, steps=5), BOTH, ANY),
    (
        "maml_plus_plus",
        of("maml_plus_plus.MAMLPlusPlus", hidden_sizes=(8, 4), steps=5, first_order_steps=2),
        BOTH,
        ANY,
    ),
    (
        "maml_plus_plus_fusion",
        of("maml_plus_plus.MAMLPlusPlus", hidden_sizes=(8,), scorer="fusion_learned", steps=5),
        BOTH,
        ANY,
    ),
    ("imaml", of("implicit_maml.ImplicitMAML", hidden_sizes=(8, 4), steps=5), BOTH, ANY),
    (
        "imaml_dot",
        of("implicit_maml.ImplicitMAML", scorer="dot", embedding_size=4, steps=5),
        BOTH,
        ANY,
    ),
    ("meta_embedding", of("meta_embedding.MetaEmbedding", embedding_size=4, steps=5), BOTH, ANY),
    ("mwuf", of("mwuf.MWUF", hidden_sizes=(8,), embedding_size=4, steps=5), BOTH, ANY),
    ("dropoutnet", of("dropoutnet.DropoutNet", embedding_size=4, steps=5), BOTH, ANY),
    ("dropoutnet_labels", of("dropoutnet.DropoutNet", target="labels", steps=5), BOTH, ANY),
    ("cvar", of("cvar.CVAR", hidden_sizes=(8,), embedding_size=4, steps=5), BOTH, ANY),
    ("gar", of("gar.GAR", hidden_sizes=(8,), embedding_size=4, steps=5), BOTH, ANY),
    (
        "hybrid",
        of(
            "hybrid.Hybrid",
            embedding_size=4,
            hidden_size=6,
            tower_size=5,
            task_batch=4,
            pseudo_cold=5,
            warm_steps=5,
            steps=5,
            knn_shrinkage=1.0,
        ),
        ("user",),
        ("binary", "implicit"),
    ),
    ("melu", of("melu.MeLU", hidden_sizes=(8, 4), embedding_size=3, steps=5), ("user",), ANY),
    ("prototypical", of("prototypical.Prototypical", embedding_size=4, steps=5), BOTH, ANY),
    (
        "prototypical_multiple",
        of("prototypical.Prototypical", embedding_size=4, prototypes=3, steps=5),
        BOTH,
        ANY,
    ),
    (
        "prototypical_both",
        of("prototypical.Prototypical", embedding_size=4, representation="both", steps=5),
        BOTH,
        ANY,
    ),
    ("prototypical_no_projection", of("prototypical.Prototypical", projection="none"), BOTH, ANY),
    ("matching", of("matching.Matching", embedding_size=4, hidden_sizes=(8,), steps=5), BOTH, ANY),
    ("r2d2", of("r2d2.R2D2", embedding_size=4, hidden_sizes=(8,), steps=5), BOTH, ANY),
    (
        "r2d2_collaborative",
        of("r2d2.R2D2", embedding_size=4, representation="collaborative", steps=5),
        BOTH,
        ANY,
    ),
    (
        "cnp",
        of("neural_process.ConditionalNeuralProcess", embedding_size=4, hidden_sizes=(8,), steps=5),
        BOTH,
        ANY,
    ),
    (
        "cnp_both",
        of(
            "neural_process.ConditionalNeuralProcess",
            embedding_size=4,
            hidden_sizes=(8,),
            representation="both",
            steps=5,
        ),
        BOTH,
        ANY,
    ),
    ("tanp", of("tanp.TaNP", embedding_size=4, hidden_sizes=(8, 4), steps=5), BOTH, ANY),
    (
        "tanp_film",
        of("tanp.TaNP", embedding_size=4, hidden_sizes=(8,), modulation="film", steps=5),
        BOTH,
        ANY,
    ),
    ("bert_maml", bert("maml"), ("user",), ANY),
    (
        "bert_maml_second_order",
        bert("maml", first_order=False, attention="eager", adapted="lora"),
        ("user",),
        ANY,
    ),
    ("bert_maml_cross", bert("maml", reads="cross", head_steps=0), ("user",), ANY),
    ("bert_transfer", bert("transfer", adapted="full"), ("user",), ANY),
    ("bert_transfer_head", bert("transfer", adapted="head"), ("user",), ANY),
    ("protocf", of("protocf.ProtoCF", embedding_size=4, groups=3, steps=5), ("item",), ANY),
    (
        "protocf_dot",
        of("protocf.ProtoCF", embedding_size=4, similarity="dot", representation="both", steps=5),
        ("item",),
        ANY,
    ),
]

WORDS = ("drama", "comedy", "space", "war", "music", "noir")
THRESHOLD = 4.0
N_TASKS, K_SHOT, FEATURE_SIZE = 7, 5, 6


@lru_cache
def tiny_split() -> Split:
    rng = np.random.default_rng(0)
    n_users, n_items = 40, 30
    pairs = np.sort(rng.choice(n_users * n_items, size=500, replace=False))
    users, items = pairs // n_items, pairs % n_items
    dataset = Dataset(
        name="tiny",
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        ratings=rng.integers(1, 6, len(pairs)).astype(np.float32),
        times=None,
        user_ids=np.array([f"u{u}" for u in range(n_users)]),
        item_ids=np.array([f"i{i}" for i in range(n_items)]),
        item_text=pd.DataFrame(
            {"title": [f"{WORDS[i % 6]} {WORDS[i * 5 % 4]} film{i % 7}" for i in range(n_items)]}
        ),
        user_text=None,
        feedback="rating",
        rating_scale=(1.0, 5.0),
        report=CleaningReport(read=len(pairs), kept=len(pairs)),
    )
    return Split.by_seed(dataset, seed=1)


def make_training(
    kind: TaskKind, feedback: Feedback, seed: int = 0, split: Split | None = None
) -> Training:
    """The training of a tiny data set of 40 users and 30 items."""
    split = tiny_split() if split is None else split
    data = split.dataset
    rows = split.rows("train")
    tasks, candidates = (data.users, data.items) if kind == "user" else (data.items, data.users)
    threshold = THRESHOLD if feedback == "binary" else None
    vectors = np.random.default_rng(5).normal(size=(data.n_items, FEATURE_SIZE))
    features: Features = build_features(
        split, vectors.astype(np.float32), kind, feedback, threshold
    )
    sampler = EpisodeSampler(
        split,
        kind,
        k_shot=(0, K_SHOT),
        query_size=6,
        task_batch=4,
        feedback=feedback,
        threshold=threshold,
        negatives=0.0 if feedback == "rating" else 0.5,
        seed=seed,
    )
    return Training(
        kind=kind,
        feedback=feedback,
        tasks=tasks[rows],
        candidates=candidates[rows],
        labels=labels_of(data.ratings[rows], feedback, threshold),
        n_tasks=data.n_users if kind == "user" else data.n_items,
        n_candidates=data.n_items if kind == "user" else data.n_users,
        known=np.unique(candidates[rows]).astype(np.int32),
        texts=tuple(data.item_text["title"]),
        features=features,
        sampler=sampler,
        seed=seed,
        attributes=make_attributes(data.n_items),
        titles=tuple(title.split()[0] for title in data.item_text["title"]),
        encoder=small_encoder((*WORDS, *(f"film{number}" for number in range(7)))),
    )


def make_attributes(n_items: int) -> Attributes:
    """A genre or two of four, or none, and one of three decades."""
    items = np.arange(n_items)
    values = np.zeros((n_items, 7), np.float32)
    values[items, items % 4] = 1
    values[items[::3], 3] = 1
    values[0, :4] = 0
    values[items, 4 + items % 3] = 1
    names = tuple(f"value{number}" for number in range(7))
    return Attributes(("genres", "decade"), values, np.array([0, 4, 7]), names, 0)


def make_support(training: Training, k_shot: int = K_SHOT) -> Support:
    """Shots of seven new tasks: none, some or all of `k_shot`, in known candidates."""
    rng = np.random.default_rng(3)
    candidates = np.stack(
        [rng.choice(training.known, size=k_shot, replace=False) for _ in range(N_TASKS)]
    )
    labels = labels_of(
        rng.integers(1, 6, candidates.size).astype(np.float32),
        training.feedback,
        THRESHOLD,
    ).reshape(candidates.shape)
    mask = np.arange(k_shot) < np.array([0, 1, 2, 3, 4, 5, 5])[:, None]
    tasks = np.arange(N_TASKS, dtype=np.int32) if training.kind == "item" else None
    return Support(candidates.astype(np.int32), labels, mask, tasks)


# Twins in JAX, the first row of each class; `tests/jax/` holds them beside PyTorch's.
CLASSES = {
    make.args[0]: (f"{name}-jax", functools.partial(make, "jax"), kinds, feedbacks)
    for name, make, kinds, feedbacks in reversed(LEARNERS)
    if isinstance(make, functools.partial) and make.func is made
}
IN_JAX = list(reversed(CLASSES.values()))
EVERY = [*LEARNERS, *IN_JAX]
EPISODES_IN_JAX = {("user", "binary"), ("item", "rating")}
ROWS = [
    pytest.param(make, kind, feedback, id=f"{name}-{kind}-{feedback}")
    for name, make, kinds, feedbacks in EVERY
    for kind in kinds
    for feedback in feedbacks
    if not name.endswith("-jax") or (kind, feedback) in EPISODES_IN_JAX
]
every_learner = pytest.mark.parametrize(("make", "kind", "feedback"), ROWS)
# those whose adaptation can be switched off: the 0-step row of the tables
every_adapting_learner = pytest.mark.parametrize(
    ("make", "kind", "feedback"),
    [row for row in ROWS if getattr(row.values[0](), "adaptation", None)],
)
Make = Callable[..., Learner]


@cache
def fitted(
    make: Make, kind: TaskKind, feedback: Feedback
) -> tuple[Learner, MetaParameters, Training]:
    learner, training = make(), make_training(kind, feedback)
    return learner, learner.fit(training), training


def score(
    learner: Learner, meta: MetaParameters, support: Support, candidates: np.ndarray
) -> np.ndarray:
    return learner.score(learner.adapt(meta, support), candidates)


def everything(training: Training) -> np.ndarray:
    return np.arange(training.n_candidates, dtype=np.int32)


def bits(meta: MetaParameters) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in meta.items()}
