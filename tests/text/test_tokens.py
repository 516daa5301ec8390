from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarec.errors import TextError
from metarec.text import Checkpoint, EncoderSettings, Tokenizer, encode_by_length
from metarec.text.tokens import Pair

WORDS = ["heat", "fargo", "the", "of", "love", "war", "##s"]
PAD, UNKNOWN, CLS, SEP = 0, 1, 2, 3
HEAT, LOVE, S = (5 + WORDS.index(word) for word in ("heat", "love", "##s"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """A tokenizer and a configuration; nothing here needs weights."""
    config = {"model_type": "bert", "hidden_size": 16, "max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return Checkpoint(tmp_path, "tiny", content_hash="0" * 64)


@pytest.fixture
def tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return Tokenizer(checkpoint.folder, max_length=8)


def test_neither_a_framework_nor_transformers_is_imported_with_it():
    code = "import sys, metarec.text; print(*{'torch', 'jax', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_feature_key_is_the_sha_256_of_the_settings_as_json(checkpoint):
    # To the byte: with another key all that was ever encoded would be encoded again.
    written = (
        f'{{"checkpoint": "{"0" * 64}", "dtype": "float32", "max_length": 64, '
        '"normalise": true, "pooling": "mean"}'
    )
    assert EncoderSettings(checkpoint).feature_key == hashlib.sha256(written.encode()).hexdigest()
    assert EncoderSettings(checkpoint).as_dict() == json.loads(written)


def test_the_feature_key_covers_all_that_changes_a_vector_and_nothing_else(checkpoint, tmp_path):
    other = dataclasses.replace(checkpoint, content_hash="1" * 64)
    settings = [
        EncoderSettings(checkpoint),
        EncoderSettings(other),
        EncoderSettings(checkpoint, pooling="cls"),
        EncoderSettings(checkpoint, max_length=63),
        EncoderSettings(checkpoint, normalise=False),
    ]
    assert len({one.feature_key for one in settings}) == 5

    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "config.json").write_text((tmp_path / "config.json").read_text())
    moved = Checkpoint(tmp_path / "moved", "another name", checkpoint.content_hash)
    assert EncoderSettings(moved).feature_key == settings[0].feature_key


def test_the_embedding_size_is_the_checkpoints(checkpoint):
    assert EncoderSettings(checkpoint).embedding_size == 16


def test_settings_stay_as_they_are(checkpoint):
    with pytest.raises(dataclasses.FrozenInstanceError):
        EncoderSettings(checkpoint).pooling = "cls"


def test_an_unknown_pooling_is_named_with_the_nearest(checkpoint):
    with pytest.raises(TextError, match=r"no pooling 'means'; did you mean 'mean'"):
        EncoderSettings(checkpoint, pooling="means")


def test_max_length_leaves_room_for_a_token_and_is_at_most_the_positions(checkpoint):
    for possible in (3, 64):
        assert EncoderSettings(checkpoint, max_length=possible).max_length == possible
    for wrong in (-1, 2, 65):
        with pytest.raises(TextError, match=rf"max_length is {wrong}; .*'tiny' .* 3 .* to 64"):
            EncoderSettings(checkpoint, max_length=wrong)


def test_where_the_checkpoint_names_no_positions_max_length_has_no_upper_bound(checkpoint):
    (checkpoint.folder / "config.json").write_text('{"hidden_size": 16}')
    assert EncoderSettings(checkpoint, max_length=9999).max_length == 9999
    with pytest.raises(TextError, match="max_length is 2"):
        EncoderSettings(checkpoint, max_length=2)


def test_tokens_have_the_special_ones_around_them_and_no_padding(tokenizer):
    texts = ["Heat", "", "loves zebra"]
    assert tokenizer.tokenise(texts) == [
        [CLS, HEAT, SEP],
        [CLS, SEP],
        [CLS, LOVE, S, UNKNOWN, SEP],
    ]


def test_a_long_text_is_cut_to_max_length_and_keeps_its_special_tokens(tokenizer):
    assert tokenizer.tokenise(["love " * 6, "love " * 7, "love " * 600]) == 3 * [
        [CLS, *6 * [LOVE], SEP]
    ]


def test_lengths_count_special_tokens_and_what_is_cut_is_counted(tokenizer):
    texts = ["", "Fargo", "heat heats", "love " * 6, "love " * 7, "love " * 600]
    lengths = tokenizer.lengths(texts)
    assert lengths.tolist() == [2, 3, 5, 8, 9, 602]
    assert lengths.dtype == np.int64
    assert tokenizer.count_truncated(texts) == 2


def test_counting_and_cutting_do_not_disturb_each_other(tokenizer):
    # transformers sets the truncation on the one tokenizer in Rust, where it stays.
    long = ["love " * 20]
    for _ in range(2):
        assert len(tokenizer.tokenise(long)[0]) == 8
        assert tokenizer.lengths(long).tolist() == [22]


def test_without_texts_there_is_nothing_to_read_a_tokenizer_for(tokenizer):
    assert tokenizer.tokenise([]) == []
    assert tokenizer.lengths([]).tolist() == []
    assert tokenizer.count_truncated([]) == 0
    assert "_loaded" not in vars(tokenizer)


def test_padding_is_the_tokenizers_token_or_0(tokenizer, checkpoint):
    assert tokenizer.padding == PAD
    tokenizer._loaded.pad_token = "[MASK]"
    assert tokenizer.padding == 4
    tokenizer._loaded.pad_token = None
    assert tokenizer.padding == 0


def test_what_is_no_text_is_refused(tokenizer):
    for method in (tokenizer.tokenise, tokenizer.lengths, tokenizer.count_truncated):
        with pytest.raises(TextError, match="one text was given where a sequence of texts is due"):
            method("heat")
        with pytest.raises(TextError, match=r"text 1 .* has half a character"):
            method(["heat", "\ud83d"])


def test_a_broken_tokenizer_is_named(tokenizer):
    (tokenizer.folder / "tokenizer.json").write_text("{")
    folder = tokenizer.folder.name
    with pytest.raises(TextError, match=rf"the tokenizer in checkpoint folder .*{folder} cannot"):
        tokenizer.lengths(["heat"])


def first_and_length(batch):
    """Vectors that tell which text they are of."""
    return np.array([[row[0], len(row)] for row in batch], np.float32)


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 40))
def test_each_text_gets_its_own_vector_whatever_the_batches(lengths, batch_size):
    tokens = [[number] * length for number, length in enumerate(lengths)]
    vectors = encode_by_length(tokens, batch_size, first_and_length, embedding_size=2)
    assert vectors.tolist() == [[number, length] for number, length in enumerate(lengths)]
    assert vectors.dtype == np.float32


def test_batches_are_full_the_longest_first_and_equals_in_their_order():
    tokens = [[1], [2, 2], [3], [4, 4, 4], [5, 5]]
    batches = []

    def encode(batch):
        batches.append(batch)
        return first_and_length(batch)

    encode_by_length(tokens, 2, encode, embedding_size=2)
    assert batches == [[[4, 4, 4], [2, 2]], [[5, 5], [1]], [[3]]]


def test_without_texts_there_are_no_batches():
    def encode(batch):
        raise AssertionError("there is nothing to encode")

    vectors = encode_by_length([], 4, encode, embedding_size=2)
    assert vectors.shape == (0, 2)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_holds_at_least_one_text(batch_size):
    with pytest.raises(TextError, match=f"batch_size is {batch_size}; it must be at least 1"):
        encode_by_length([[1]], batch_size, first_and_length, embedding_size=2)


def test_threads_that_share_a_tokenizer_cut_as_one_does(checkpoint):
    tokenizer = Tokenizer(checkpoint.folder, max_length=8)
    users = ["heat of love war the fargo", "love"] * 50
    items = ["fargo the war of heat love heats", "heat"] * 50

    def pairs(_: int) -> list[Pair]:
        # each its own items, so that no thread finds what another has shortened
        tokenizer._short.clear()
        return tokenizer.tokenise_pairs(users, items)

    expected = pairs(0)
    with ThreadPoolExecutor(4) as threads:
        assert all(found == expected for found in threads.map(pairs, range(40)))


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert"])
def test_models_that_count_positions_from_their_padding_have_fewer(checkpoint, kind):
    file = checkpoint.folder / "config.json"
    config = json.loads(file.read_text()) | {"model_type": kind, "pad_token_id": 1}
    file.write_text(json.dumps(config))
    assert EncoderSettings(checkpoint, max_length=62)
    with pytest.raises(TextError, match="to 62"):
        EncoderSettings(checkpoint, max_length=63)
