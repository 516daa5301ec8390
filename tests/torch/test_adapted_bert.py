"""What adapts of a BERT: which weights, from which values, with which gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.errors import LearnerError
from metarec.text.checkpoint import Checkpoint
from metarec.torch.adapted_bert import AdaptedBert, Compute
from metarec.torch.adapted_part import ADAPTS, AdaptedPart, Adapts
from metarec.torch.bert import load
from metarec.torch.text_batches import Prefix, Texts, by_length

SIZE, WIDTH = 16, 24
IDS = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0], [1, 2, 0, 0]])
MASK = (IDS > 0).long()
DRAWN_ANEW = ("prefix",)
"""Kinds whose first weights change what the BERT says."""


def make(checkpoint: Checkpoint, kind: Adapts, seed: int = 0, **settings: Any) -> AdaptedBert:
    part = AdaptedPart(kind, rank=2, bottleneck=3, prefix_length=2, **settings)
    return AdaptedBert(checkpoint, part, np.random.default_rng(seed), attention="eager")


def states_of(bert: AdaptedBert, weights: dict[str, Tensor] | None = None) -> Tensor:
    return bert.states(weights or bert.initial, bert.prefix(Prefix(IDS, MASK)))


def off_the_start(bert: AdaptedBert) -> dict[str, Tensor]:
    """Weights near the first ones, of which a factor of each low-rank update is 0."""
    torch.manual_seed(1)
    return {
        name: (value + 0.1 * torch.randn_like(value)).requires_grad_()
        for name, value in bert.initial.items()
    }


def drawn_direction() -> Tensor:
    """[n, L, D] by which states are weighted; a sum of their squares is held by the last norm."""
    torch.manual_seed(2)
    return torch.randn(len(IDS), IDS.shape[1], SIZE) * MASK[..., None]


def test_every_kind_is_known() -> None:
    assert get_args(Adapts) == ADAPTS


@pytest.mark.parametrize("kind", ADAPTS)
@pytest.mark.parametrize("layers", [1, 2])
def test_before_a_step_the_states_are_those_of_transformers(
    small_bert: Checkpoint, kind: Adapts, layers: int
) -> None:
    """On every token; what stands on padding means nothing."""
    found = states_of(make(small_bert, kind, layers=layers))
    model = load(small_bert.folder, "eager")
    expected = model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    difference = (found - expected).abs()[MASK > 0].max()
    if kind in DRAWN_ANEW:
        assert difference > 1e-3
    else:
        assert difference < 1e-5


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("head", 0),
        # of a layer: query, key, value, output of attention and of the feed-forward layer, two
        # norms, and the wide layer between
        ("bitfit", 7 * SIZE + WIDTH),
        ("last_n", 4 * SIZE * SIZE + 2 * SIZE * WIDTH + 7 * SIZE + WIDTH + 2 * SIZE),
        ("lora", 2 * (2 * SIZE + SIZE * 2)),
        ("adalora", 2 * (2 * SIZE + SIZE * 2 + 2)),
        ("adapter", 2 * (SIZE * 3 + 3 + 3 * SIZE + SIZE)),
        ("prefix", 2 * 2 * SIZE),
    ],
)
def test_what_adapts_has_the_size_that_the_papers_give(
    small_bert: Checkpoint, kind: Adapts, expected: int
) -> None:
    assert make(small_bert, kind).parameters == expected
    assert make(small_bert, kind, layers=2).parameters == 2 * expected


def test_full_is_all_but_the_pooler(small_bert: Checkpoint) -> None:
    model = load(small_bert.folder)
    pooler = sum(value.numel() for value in model.pooler.parameters())
    every = sum(value.numel() for value in model.parameters())
    assert make(small_bert, "full").parameters == every - pooler


@pytest.mark.parametrize("kind", [kind for kind in ADAPTS if kind != "head"])
def test_what_adapts_moves_the_states_and_nothing_else_is_moved(
    small_bert: Checkpoint, kind: Adapts
) -> None:
    bert = make(small_bert, kind)
    before = states_of(bert)
    torch.manual_seed(1)
    moved = {name: value + torch.randn_like(value) for name, value in bert.initial.items()}
    assert (states_of(bert, moved) - before).abs()[MASK > 0].max() > 1e-2
    assert torch.equal(states_of(bert), before)


@pytest.mark.parametrize("kind", [kind for kind in ADAPTS if kind != "head"])
def test_gradients_reach_each_weight_and_are_those_of_finite_differences(
    small_bert: Checkpoint, kind: Adapts
) -> None:
    bert = make(small_bert, kind)
    weights, direction = off_the_start(bert), drawn_direction()

    def loss(given: dict[str, Tensor]) -> Tensor:
        return (states_of(bert, given) * direction).sum()

    gradients = torch.autograd.grad(loss(weights), list(weights.values()))
    for (name, value), gradient in zip(weights.items(), gradients, strict=True):
        # a key's bias shifts all logits of a query alike, and changes nothing
        if "key.bias" not in name and "position" not in name and "token_type" not in name:
            assert gradient.abs().max() > 1e-5, name
        assert gradient.shape == value.shape
    step, steps = 1e-3, {name: torch.randn_like(value) for name, value in weights.items()}
    with torch.no_grad():
        up, down = (
            loss({name: value + sign * step * steps[name] for name, value in weights.items()})
            for sign in (1, -1)
        )
    slope = sum((g * steps[name]).sum() for name, g in zip(weights, gradients, strict=True))
    assert float(up - down) / (2 * step) == pytest.approx(float(slope), rel=0.02, abs=0.02)


@pytest.mark.parametrize("kind", [kind for kind in ADAPTS if kind not in ("head", "full")])
def test_second_derivatives_pass_through_attention_that_is_written_out(
    small_bert: Checkpoint, kind: Adapts
) -> None:
    bert = make(small_bert, kind)
    weights = off_the_start(bert)
    loss = (states_of(bert, weights) * drawn_direction()).sum()
    first = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    total = sum((gradient**2).sum() for gradient in first)
    second = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    assert max(float(value.abs().max()) for value in second if value is not None) > 1e-4


def test_padding_changes_nothing(small_bert: Checkpoint) -> None:
    for kind in ADAPTS:
        bert = make(small_bert, kind)
        alone = bert.states(bert.initial, bert.prefix(Prefix(IDS[1:2, :3], MASK[1:2, :3])))
        assert torch.allclose(states_of(bert)[1:2, :3], alone, atol=1e-5), kind


def test_batches_by_length_pad_little_and_keep_the_order_of_the_texts(
    small_bert: Checkpoint,
) -> None:
    rows, place = by_length(np.array([2, 4, 3, 4, 1]), size=2)
    assert [batch.tolist() for batch in rows] == [[1, 3], [2, 0], [4]]
    assert np.concatenate(rows)[place].tolist() == [0, 1, 2, 3, 4]

    bert = make(small_bert, "last_n")
    together = bert.pooled(bert.initial, one_batch(bert), "mean")
    rows, place = by_length(MASK.sum(1).numpy(), size=2)
    apart = [Prefix(IDS[batch], MASK[batch]) for batch in rows]
    texts = Texts(tuple(bert.prefix(batch) for batch in apart), torch.from_numpy(place))
    assert len(texts) == len(IDS)
    torch.testing.assert_close(bert.pooled(bert.initial, texts, "mean"), together)


def one_batch(bert: AdaptedBert) -> Texts:
    return Texts((bert.prefix(Prefix(IDS, MASK)),), torch.arange(len(IDS)))


def test_which_of_two_texts_a_token_is_of_is_read(small_bert: Checkpoint) -> None:
    types = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0], [0, 1, 0, 0]])
    model = load(small_bert.folder, "eager")
    expected = model(input_ids=IDS, attention_mask=MASK, token_type_ids=types).last_hidden_state
    for kind in ("last_n", "full"):
        bert = make(small_bert, kind)
        found = bert.states(bert.initial, bert.prefix(Prefix(IDS, MASK, types)))
        assert (found - expected).abs()[MASK > 0].max() < 1e-5
        assert (found - states_of(bert)).abs()[MASK > 0].max() > 1e-3


@pytest.mark.parametrize("kind", ADAPTS)
def test_the_first_state_alone_is_that_of_all(small_bert: Checkpoint, kind: Adapts) -> None:
    """With its gradients."""
    part = AdaptedPart(kind, rank=2, bottleneck=3, prefix_length=2, layers=2)
    every, first = (
        AdaptedBert(small_bert, part, np.random.default_rng(0), first_only=first_only)
        for first_only in (False, True)
    )
    weights, direction = off_the_start(every), drawn_direction()[:, :1]
    found = states_of(first, weights)
    assert found.shape == (len(IDS), 1, SIZE)
    expected = states_of(every, weights)[:, :1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if weights:
        gradients, others = (
            torch.autograd.grad((one * direction).sum(), list(weights.values()))
            for one in (found, expected)
        )
        for one, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def gradients_of(bert: AdaptedBert) -> list[Tensor]:
    weights = off_the_start(bert)
    loss = (states_of(bert, weights) * drawn_direction()).sum()
    return list(torch.autograd.grad(loss, list(weights.values())))


@pytest.mark.parametrize("kind", ["bitfit", "last_n", "lora", "adapter", "prefix", "full"])
def test_states_that_are_computed_again_have_the_same_gradients(
    small_bert: Checkpoint, kind: Adapts
) -> None:
    """Also after the weights of the module were others in between."""
    plain, again = make(small_bert, kind), make(small_bert, kind)
    again.compute = Compute(checkpointing=True)
    for one, other in zip(gradients_of(plain), gradients_of(again), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_computing_again_keeps_less_for_the_gradient(small_bert: Checkpoint) -> None:
    kept = {}
    for checkpointing in (False, True):
        bert = make(small_bert, "full")
        bert.compute = Compute(checkpointing=checkpointing)
        weights = off_the_start(bert)
        sizes: list[int] = []

        def note(value: Tensor, sizes: list[int] = sizes) -> Tensor:
            # what is kept of the texts, not the weights
            sizes.append(value.numel() if value.shape[:1] == IDS.shape[:1] else 0)
            return value

        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            states_of(bert, weights)
        kept[checkpointing] = sum(sizes)
    assert kept[True] < kept[False] / 5


def test_second_derivatives_pass_through_what_is_computed_again(small_bert: Checkpoint) -> None:
    found = []
    for checkpointing in (False, True):
        bert = make(small_bert, "lora")
        bert.compute = Compute(checkpointing=checkpointing)
        weights = off_the_start(bert)
        loss = (states_of(bert, weights) * drawn_direction()).sum()
        first = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        total = sum((gradient**2).sum() for gradient in first)
        found.append(torch.autograd.grad(total, list(weights.values())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_and_its_results_are_float32(
    small_bert: Checkpoint, precision: Any
) -> None:
    """Here by a CPU's own half precision, which learners refuse for being slow."""
    bert, half = make(small_bert, "last_n"), make(small_bert, "last_n")
    half.compute = Compute(precision)
    found = states_of(half)
    assert found.dtype == torch.float32
    difference = (found - states_of(bert)).abs()[MASK > 0].max()
    assert 1e-5 < difference < 0.05
    for one, other in zip(gradients_of(bert), gradients_of(half), strict=True):
        assert other.dtype == torch.float32
        assert (one - other).norm() <= 0.1 * one.norm() + 1e-3


@pytest.mark.parametrize(
    ("compute", "device", "first_order", "message"),
    [
        (Compute("bf16"), "cpu", True, r"precision=bf16 needs a GPU.*precision=fp32"),
        (Compute("fp16"), "cpu", True, r"precision=fp16 needs a GPU"),
        (Compute(compile=True), "cpu", False, r"compile=true has no second derivative"),
    ],
)
def test_what_the_device_or_the_order_lacks_is_refused(
    compute: Compute, device: str, first_order: bool, message: str
) -> None:
    with pytest.raises(LearnerError, match=message):
        compute.check(torch.device(device), first_order)
    Compute(checkpointing=True).check(torch.device(device), first_order)


def test_the_first_weights_are_those_of_the_generator_alone(small_bert: Checkpoint) -> None:
    for kind in ("lora", "adalora", "adapter", "prefix"):
        state = torch.random.get_rng_state()
        one, same, other = (make(small_bert, kind, seed).initial for seed in (0, 0, 1))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("kind", "first_order", "attention", "message"),
    [
        ("full", False, "eager", r"full in second order.*first_order=true"),
        ("lora", False, "sdpa", r"lora in second order needs learner.attention=eager"),
    ],
)
def test_an_impossible_pair_names_the_way_out(
    kind: Adapts, first_order: bool, attention: Any, message: str
) -> None:
    with pytest.raises(LearnerError, match=message):
        AdaptedPart(kind).check_order(first_order, attention)


def test_possible_pairs_pass() -> None:
    AdaptedPart("full").check_order(True, "sdpa")
    AdaptedPart("lora").check_order(False, "eager")
    AdaptedPart("head").check_order(False, "sdpa")


def test_an_unknown_kind_is_named_with_the_nearest() -> None:
    with pytest.raises(LearnerError, match=r"learner\.adapted='lara'.*lora"):
        AdaptedPart("lara")
    with pytest.raises(LearnerError, match=r"learner\.rank=0 must be at least 1"):
        AdaptedPart("lora", rank=0)


def test_more_layers_than_there_are_is_an_error(small_bert: Checkpoint) -> None:
    with pytest.raises(LearnerError, match=r"adapted_layers=4: checkpoint 'small' has 3 layers"):
        make(small_bert, "last_n", layers=4)


@pytest.mark.parametrize("family", ["Roberta", "XLMRoberta", "Electra"])
@pytest.mark.parametrize("kind", ["head", "last_n", "lora"])
def test_other_models_of_the_family_start_from_what_transformers_says(
    tmp_path: Path, family: str, kind: Adapts
) -> None:
    """Their positions and embeddings are made otherwise; ELECTRA's embeddings may be narrower."""
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": 11, "hidden_size": SIZE, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": WIDTH, "max_position_embeddings": 12, "initializer_range": 0.3,
        "pad_token_id": 0,
    }  # fmt: skip
    if family == "Electra":
        sizes["embedding_size"] = 8
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes)
    getattr(transformers, f"{family}Model")(config).save_pretrained(tmp_path)
    found = states_of(make(Checkpoint(tmp_path, family, "0" * 64), kind))
    expected = load(tmp_path, "eager")(input_ids=IDS, attention_mask=MASK).last_hidden_state
    assert (found - expected).abs()[MASK > 0].max() < 1e-5


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("RobertaPreLayerNorm", r"states are not those of its layers one after another"),
        ("XLMRobertaXL", r"states are not those of its layers one after another"),
        ("MPNet", r"layers cannot be computed one after another"),
    ],
)
def test_a_model_that_is_more_than_its_layers_is_an_error(
    tmp_path: Path, family: str, message: str
) -> None:
    """A norm behind the last layer, or a bias of positions, would be left out without a word."""
    import transformers

    config = getattr(transformers, f"{family}Config")(
        vocab_size=11, hidden_size=SIZE, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=WIDTH, max_position_embeddings=12, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    getattr(transformers, f"{family}Model")(config).save_pretrained(tmp_path)
    with pytest.raises(LearnerError, match=rf"{family}Model, whose {message}.*choose a BERT"):
        make(Checkpoint(tmp_path, family, "0" * 64), "last_n")


def test_a_model_with_other_layers_is_an_error(tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(vocab_size=11, dim=16, n_layers=1, n_heads=2, hidden_dim=24)
    DistilBertModel(config).save_pretrained(tmp_path)
    with pytest.raises(LearnerError, match=r"'distil' is a DistilBertModel.*choose a BERT"):
        make(Checkpoint(tmp_path, "distil", "0" * 64), "last_n")
