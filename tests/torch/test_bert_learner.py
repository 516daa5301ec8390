"""Learners over a BERT that adapts: what they train, what they refuse, what they start from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_checkpoint import small_encoder
from torch import Tensor

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler
from metarec.errors import LearnerError
from metarec.features import build_features
from metarec.learner import MetaParameters, Support, Training
from metarec.loops import InnerLoop
from metarec.runs.resume import Checkpointer
from metarec.splits import Split
from metarec.torch import bert_loop
from metarec.torch.adapted_bert import AdaptedBert
from metarec.torch.adapted_part import ADAPTS, AdaptedPart
from metarec.torch.bert_learner import BertLearner
from metarec.torch.bert_maml import BertMAML
from metarec.torch.bert_transfer import BertTransfer
from metarec.torch.encoder import BertEncoder
from metarec.torch.maml import MAML
from metarec.torch.text_head import BERT, HEAD
from metarec.torch.transfer import Transfer

WORDS = ("the", "silent", "golden", "last", "harbour", "winter", "garden", "case", "liked", ":")
SMALL: dict[str, Any] = {
    "hidden_sizes": (4,), "steps": 3, "head_steps": 4, "inner_learning_rate": 0.1,
    "bert_inner_learning_rate": 0.1, "rank": 2, "bottleneck": 3, "prefix_length": 2,
    "pair_length": 24, "validate_every": 1, "outer_loss": "pointwise",
}  # fmt: skip
CROSS = {"reads": "cross", "head_steps": 0}


@pytest.fixture
def training(tiny_dataset: Dataset) -> Training:
    """Binary user tasks, with the features that the small BERT makes of the titles."""
    data, split = tiny_dataset, Split.by_seed(tiny_dataset, 0)
    rows = split.rows("train")
    settings = small_encoder(WORDS)
    texts = tuple(data.item_text["title"])
    vectors = BertEncoder(settings.checkpoint, max_length=settings.max_length).encode(texts)
    sampler = EpisodeSampler(split, "user", k_shot=(0, 4), query_size=6, task_batch=3, seed=0)
    return Training(
        "user", "binary", data.users[rows], data.items[rows],
        (data.ratings[rows] >= 4).astype(np.float32), data.n_users, data.n_items, sampler.known,
        texts, build_features(split, vectors, "user", "binary", 4.0), sampler,
        titles=texts, encoder=settings,
    )  # fmt: skip


def some_support() -> Support:
    candidates = np.array([[3, 8, 1], [5, 2, 9]], np.int32)
    labels = np.array([[1, 0, 1], [0, 0, 1]], np.float32)
    return Support(candidates, labels, np.array([[True, True, True], [True, True, False]]))


EVERY = np.arange(30, dtype=np.int32)


def scores(learner: Any, meta: MetaParameters) -> np.ndarray:
    found: np.ndarray = learner.score(learner.adapt(meta, some_support()), EVERY)
    return found


def parts(meta: MetaParameters) -> set[str]:
    return {name.partition(".")[0] for name in meta}


@pytest.mark.parametrize("adapted", ADAPTS)
@pytest.mark.parametrize("kind", [BertMAML, BertTransfer])
@pytest.mark.parametrize("how", [{}, CROSS], ids=["bi", "cross"])
def test_each_choice_trains_bert_and_head_and_adapts_both(
    training: Training, kind: type[BertLearner], adapted: str, how: dict[str, Any]
) -> None:
    learner = kind(**{**SMALL, **how, "adapted": adapted})
    meta = learner.fit(training)
    expected = {"head", "inputs"} if adapted == "head" else {"bert", "head", "inputs"}
    assert parts(meta) == expected
    losses = [entry["loss"] for entry in training.log if "loss" in entry]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    moved = scores(learner, meta) - scores(learner.without_adaptation(), meta)
    assert np.abs(moved).max(axis=1).min() > 1e-5
    if adapted != "head":
        # also where the head stands still
        learner.inner = replace(learner.inner, learning_rate=0.0)
        moved = scores(learner, meta) - scores(learner.without_adaptation(), meta)
        assert np.abs(moved).max(axis=1).min() > 1e-7


@pytest.mark.parametrize("adapted", [kind for kind in ADAPTS if kind != "full"])
def test_second_order_is_another_training(training: Training, adapted: str) -> None:
    settings = {**SMALL, "adapted": adapted, "attention": "eager", "head_steps": 0}
    first = BertMAML(**settings).fit(training)
    second = BertMAML(**settings, first_order=False).fit(training)
    assert first.keys() == second.keys()
    assert any(not np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("adapted", [kind for kind in ADAPTS if kind != "full"])
@pytest.mark.parametrize("how", [{}, CROSS], ids=["bi", "cross"])
def test_meta_gradients_of_second_order_are_those_of_finite_differences(
    training: Training, adapted: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the steps of the inner loop and the whole BERT, on the tasks of a training."""
    exact, seen = bert_loop.meta_gradients, []

    def noted(*given: Any) -> Any:
        seen.append(given)
        return exact(*given)

    with monkeypatch.context() as patch:
        patch.setattr(bert_loop, "meta_gradients", noted)
        settings = {**SMALL, **how, "head_steps": 0, "inner_learning_rate": 0.3, "steps": 1}
        settings |= {"adapted": adapted, "attention": "eager", "first_order": False}
        BertMAML(**{**settings, "bert_inner_learning_rate": 0.3}).fit(training)
    ((scorer, weights, tasks, inner, *others),) = seen
    torch.manual_seed(0)
    # off the start, where a factor of each low-rank update is 0
    start = {name: w.detach() + 0.1 * torch.randn_like(w) for name, w in weights.items()}

    def loss_and_gradients(moved: float, how: InnerLoop, along: dict[str, Tensor]) -> Any:
        given = {
            name: (value + moved * along.get(name, torch.zeros(()))).requires_grad_()
            for name, value in start.items()
        }
        return exact(scorer, given, tasks, how, *others)

    _, found = loss_and_gradients(0.0, inner, {})
    _, first = loss_and_gradients(0.0, replace(inner, first_order=True), {})
    size = float(torch.sqrt(sum((value**2).sum() for value in found.values())))
    step = 1e-3 / size
    up, down = (float(loss_and_gradients(sign * step, inner, found)[0]) for sign in (1, -1))
    of_first_order = float(sum((first[name] * found[name]).sum() for name in found))
    # far nearer to what is found than to what first order gives along the same direction
    assert abs((up - down) / (2 * step) - size**2) < 0.15 * abs(of_first_order - size**2)


@pytest.mark.parametrize("kind", [BertMAML, BertTransfer])
def test_the_head_alone_is_trained_first_as_on_frozen_features(
    training: Training, kind: type[BertLearner]
) -> None:
    """Without a step of the BERT it is MAML, or transfer, over the feature store."""
    ours = kind(**{**SMALL, "steps": 0, "weight_decay": 0.5})
    meta = ours.fit(training)
    shared = {"hidden_sizes": (4,), "steps": 4, "weight_decay": 0.5, "outer_loss": "pointwise"}
    frozen = (
        MAML(inner_learning_rate=0.1, first_order=True, **shared)
        if kind is BertMAML
        else Transfer(fine_tune_learning_rate=0.1, **shared)
    )
    expected = frozen.fit(training)
    for name, value in expected.items():
        own = name if name.startswith("inputs.") else HEAD + name
        np.testing.assert_array_equal(meta[own], value)
    head = kind(**{**SMALL, "adapted": "head"})
    head.restore(training)
    kept = {name: value for name, value in meta.items() if not name.startswith(BERT)}
    np.testing.assert_allclose(scores(head, kept), scores(frozen, expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", [{}, CROSS], ids=["bi", "cross"])
def test_how_it_is_computed_changes_nothing_but_rounding(
    training: Training, how: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAREC_CACHE", str(tmp_path))
    plain = BertMAML(**{**SMALL, **how}).fit(training)
    settings = {"checkpointing": True, "cache_memory_mib": 0.0, "cache_disk_mib": 10.0}
    other = BertMAML(**{**SMALL, **how, **settings}).fit(training)
    assert list((tmp_path / "prefixes").iterdir())
    for name, value in plain.items():
        np.testing.assert_allclose(other[name], value, atol=1e-5, rtol=1e-4)


def test_compiled_it_is_the_same(training: Training) -> None:
    settings = {**SMALL, "steps": 1, "head_steps": 0}
    plain = BertMAML(**settings).fit(training)
    try:
        compiled = BertMAML(**settings, compile=True).fit(training)
    except Exception as error:
        if "compiler" not in str(error).lower():
            raise
        pytest.skip("no C++ compiler")
    for name, value in plain.items():
        np.testing.assert_allclose(compiled[name], value, atol=1e-4, rtol=1e-3)


def test_an_interrupted_training_ends_in_the_same_bits(training: Training, tmp_path: Any) -> None:
    whole = BertMAML(**SMALL).fit(training)

    class KilledError(Exception):
        pass

    def killing(meta: MetaParameters) -> float:
        killing.looks += 1  # type: ignore[attr-defined]
        if killing.looks > 2:  # type: ignore[attr-defined]
            raise KilledError
        return 0.0

    killing.looks = 0  # type: ignore[attr-defined]
    kept = replace(training, checkpointer=Checkpointer(tmp_path / "kept", "code"), log=[])
    with pytest.raises(KilledError):
        BertMAML(**SMALL).fit(replace(kept, validate=killing))
    resumed = BertMAML(**SMALL).fit(kept)
    assert [entry["step"] for entry in kept.log][-1] == 3
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value)


def test_the_pretrained_weights_have_a_rate_of_their_own_and_do_not_decay(
    training: Training,
) -> None:
    still = {"steps": 2, "head_steps": 0, "weight_decay": 10.0, "bert_learning_rate": 1e-9}
    meta = BertTransfer(**{**SMALL, **still}).fit(training)
    assert training.encoder is not None
    bert = AdaptedBert(training.encoder.checkpoint, AdaptedPart(), np.random.default_rng(0))
    for name, value in bert.initial.items():
        np.testing.assert_allclose(meta[BERT + name], value.numpy(), atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reads": "tri"}, r"learner\.reads='tri'"),
        ({"reads": "cross"}, r"head_steps=4: a cross-encoder .* set learner\.head_steps=0"),
        ({"bert_learning_rate": 0.0}, r"bert_learning_rate=0.0 and .* must be above 0"),
        ({"first_order": False}, r"last_n in second order needs learner\.attention=eager"),
        (
            {"first_order": False, "adapted": "full", "attention": "eager"},
            r"full in second order .* choose learner\.first_order=true",
        ),
        ({"precision": "bf16", "device": "cpu"}, r"precision=bf16 needs a GPU"),
        ({"precision": "fp16", "device": "cpu"}, r"precision=fp16 needs a GPU"),
        ({"precision": "fp8", "device": "cpu"}, r"learner\.precision='fp8' is unknown"),
        ({"attention": "eagr"}, r"learner\.attention='eagr' is unknown; did you mean 'eager'"),
        ({**CROSS, "scorer": "cosine"}, r"scorer='cosine': a cross-encoder .* MLP; set .*=mlp"),
        ({**CROSS, "pair_length": 4}, r"pair_length=4 leaves no room .* choose 8 or more"),
    ],
)
def test_what_cannot_be_computed_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LearnerError, match=message):
        BertMAML(**{**SMALL, **settings})


def test_longer_pairs_than_the_checkpoint_has_positions_are_refused(training: Training) -> None:
    with pytest.raises(LearnerError, match=r"learner\.pair_length=41: .* to 40"):
        BertMAML(**{**SMALL, **CROSS, "pair_length": 41}).fit(training)


def test_transfer_has_no_second_order_to_refuse() -> None:
    assert BertTransfer(**{**SMALL, "first_order": False})


def test_without_the_encoder_of_the_features_it_says_what_to_give(training: Training) -> None:
    with pytest.raises(LearnerError, match=r"BertMAML .* give Training\.encoder"):
        BertMAML(**SMALL).fit(replace(training, encoder=None))
