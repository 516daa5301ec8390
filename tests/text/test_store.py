from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections import namedtuple
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.errors import TextError
from metarec.text import FeatureStore, StoreError, TextEncoder
from metarec.text import store as module

TEXTS = [f"{'word ' * (row % 5)}{row}" for row in range(40)]


class Encoder:
    """Vectors that depend on the text and, in the last bits, on what shares the batch."""

    embedding_size = 3
    feature_key = "fake-1"

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.fail_at = fail_at

    def token_lengths(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([len(text.split()) for text in texts], np.int64)

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append(tuple(texts))
        company = hashlib.sha256("\x00".join(texts).encode()).digest()[0]
        return np.stack([vector(text) for text in texts]) + np.float32(1e-7 * company)

    @property
    def encoded(self) -> list[str]:
        return [text for call in self.calls for text in call]


class Failing(Encoder):
    def encode(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        raise AssertionError("the encoder was asked again")

    token_lengths = encode


def vector(text: str) -> np.ndarray:
    digest = hashlib.sha256(text.encode()).digest()
    return np.frombuffer(digest[:3], np.uint8).astype(np.float32) / 255


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def litter(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.tmp"))


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_the_fake_encoder_keeps_the_contract():
    assert isinstance(Encoder(), TextEncoder)


def test_features_are_the_vectors_of_the_texts_in_their_order(tmp_path):
    encoder = Encoder()
    texts = [*TEXTS, *TEXTS[:5], ""]
    features = FeatureStore(tmp_path, shard_size=8).features(texts, encoder, batch_size=4)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, [vector(text) for text in texts], atol=1e-4)
    assert sorted(encoder.encoded) == sorted(set(texts))


def test_batches_are_of_similar_length_and_the_longest_come_first(tmp_path):
    encoder = Encoder()
    FeatureStore(tmp_path, shard_size=8).features(TEXTS, encoder, batch_size=4)
    lengths = encoder.token_lengths(encoder.encoded).tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert {len(call) for call in encoder.calls} == {4}


def test_a_text_is_encoded_once_ever_across_stores_and_data_sets(tmp_path):
    first = FeatureStore(tmp_path).features(TEXTS, Encoder())
    again = FeatureStore(tmp_path).features(TEXTS[::-1], Failing())
    assert same_bits(again, first[::-1].copy())
    encoder = Encoder()
    FeatureStore(tmp_path).features([*TEXTS[5:], "new"], encoder)
    assert encoder.encoded == ["new"]


def test_no_texts_have_no_features_and_leave_no_folder(tmp_path):
    store = FeatureStore(tmp_path / "store")
    assert store.features([], Failing()).shape == (0, 3)
    assert not store.folder.exists()


def test_encoders_of_another_feature_key_share_nothing(tmp_path):
    FeatureStore(tmp_path).features(TEXTS, Encoder())
    other = Encoder()
    other.feature_key = "fake-2"
    FeatureStore(tmp_path).features(TEXTS, other)
    assert len(other.encoded) == len(TEXTS)
    other.feature_key = "../up"
    with pytest.raises(StoreError, match="cannot name a folder"):
        FeatureStore(tmp_path).features(TEXTS, other)


@pytest.mark.parametrize("after", range(10))
def test_an_interrupted_encoding_goes_on_and_ends_in_the_same_bits(tmp_path, after):
    whole = Encoder()
    expected = FeatureStore(tmp_path / "a", shard_size=8).features(TEXTS, whole, batch_size=4)
    assert len(whole.calls) == 10
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path / "b", shard_size=8).features(TEXTS, Encoder(after), batch_size=4)
    rest = Encoder()
    features = FeatureStore(tmp_path / "b", shard_size=8).features(TEXTS, rest, batch_size=4)
    assert same_bits(features, expected)
    # Two batches make a shard: no more than the unfinished one is lost.
    assert rest.calls == whole.calls[after - after % 2 :]
    assert [file.read_bytes() for file in shards(tmp_path / "a")] == [
        file.read_bytes() for file in shards(tmp_path / "b")
    ]


def test_the_bits_would_differ_if_the_rest_were_batched_anew(tmp_path):
    # What the plan is for: the test above could not fail with an encoder blind to its batch.
    expected = FeatureStore(tmp_path / "a", shard_size=8).features(TEXTS, Encoder(), batch_size=4)
    store = FeatureStore(tmp_path / "b", shard_size=8)
    store.features(TEXTS[::2], Encoder(), batch_size=4)
    assert not same_bits(store.features(TEXTS, Encoder(), batch_size=4), expected)


texts_strategy = st.lists(st.text(max_size=6), min_size=1, max_size=25, unique=True)


@settings(max_examples=25, deadline=None)
@given(
    calls=st.lists(texts_strategy, min_size=1, max_size=3),
    interruptions=st.lists(st.integers(0, 6), max_size=4),
    shard_size=st.integers(1, 7),
    batch_size=st.integers(1, 5),
)
def test_any_interruptions_of_any_calls_leave_the_bits_as_they_are(
    calls, interruptions, shard_size, batch_size
):
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        stop = iter(interruptions)
        for texts in calls:
            encoder = Encoder()
            expected = FeatureStore(a, shard_size).features(texts, encoder, batch_size)
            while (fail_at := next(stop, None)) is not None:
                try:
                    FeatureStore(b, shard_size).features(texts, Encoder(fail_at), batch_size)
                except KeyboardInterrupt:
                    continue
                break
            resumed = FeatureStore(b, shard_size).features(texts, Encoder(), batch_size)
            assert same_bits(resumed, expected)
            assert same_bits(FeatureStore(b).features(texts, Failing()), expected)


def test_an_unfinished_plan_is_finished_only_where_its_texts_are_asked_for(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path, shard_size=8).features(TEXTS, Encoder(fail_at=0))
    encoder = Encoder()
    FeatureStore(tmp_path).features(TEXTS[:1], encoder)
    assert len(encoder.encoded) == 8
    assert TEXTS[0] in encoder.encoded


def test_a_progress_bar_is_shown_where_asked_and_only_while_encoding(tmp_path, capsys):
    FeatureStore(tmp_path).features(TEXTS[:20], Encoder())
    assert capsys.readouterr().err == ""
    FeatureStore(tmp_path).features(TEXTS, Encoder(), progress=True)
    assert "20/20" in capsys.readouterr().err
    FeatureStore(tmp_path).features(TEXTS, Encoder(), progress=True)
    assert capsys.readouterr().err == ""


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)


def swap_with_another(file: Path) -> None:
    shutil.copy(shards(file.parent)[0], file)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, swap_with_another])
def test_a_damaged_shard_is_named_and_encoded_again_to_the_same_bits(tmp_path, damage):
    expected = FeatureStore(tmp_path, shard_size=8).features(TEXTS, Encoder(), batch_size=4)
    file = shards(tmp_path)[2]
    damage(file)
    encoder = Encoder()
    with pytest.warns(UserWarning, match=rf"{file.name} was truncated or altered.*again"):
        features = FeatureStore(tmp_path).features(TEXTS, encoder, batch_size=4)
    assert same_bits(features, expected)
    assert len(encoder.encoded) == 8
    assert same_bits(FeatureStore(tmp_path).features(TEXTS, Failing()), expected)


def test_a_damaged_plan_is_named_and_its_texts_are_planned_again(tmp_path):
    expected = FeatureStore(tmp_path).features(TEXTS, Encoder())
    (plan,) = tmp_path.rglob("*.plan.json")
    flip_a_bit(plan)
    with pytest.warns(UserWarning, match=rf"{plan.name} was truncated or altered"):
        features = FeatureStore(tmp_path).features(TEXTS, Encoder())
    assert same_bits(features, expected)


def test_a_store_that_is_removed_is_built_anew(tmp_path):
    store = FeatureStore(tmp_path / "store")
    store.features(TEXTS, Encoder())
    shutil.rmtree(store.folder)
    encoder = Encoder()
    store.features(TEXTS, encoder)
    assert len(encoder.encoded) == len(TEXTS)


def test_too_little_space_is_seen_before_anything_is_encoded(tmp_path, monkeypatch):
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000, 9_000, 1_000))
    message = r"no disk space .*fake-1: [\d,]+ bytes needed, 1,000 free.*METAREC_CACHE"
    with pytest.raises(StoreError, match=message):
        FeatureStore(tmp_path).features(TEXTS, Encoder(fail_at=0))
    assert not shards(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_meanwhile_keeps_what_is_finished(tmp_path, monkeypatch, code):
    expected = FeatureStore(tmp_path / "a", shard_size=8).features(TEXTS, Encoder())
    replaced = []

    def replace(source: Path, target: Path) -> None:
        if len(replaced) == 3:
            raise OSError(code, os.strerror(code))
        replaced.append(target)
        os.rename(source, target)

    store = FeatureStore(tmp_path / "b", shard_size=8)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(StoreError, match=r"no disk space for the feature store .*fake-1"):
            store.features(TEXTS, Encoder())
    assert not litter(tmp_path)
    assert len(shards(tmp_path / "b")) == 2
    encoder = Encoder()
    assert same_bits(store.features(TEXTS, encoder), expected)
    assert len(encoder.encoded) == len(TEXTS) - 2 * 8


def test_a_store_that_is_a_file_is_named_with_the_remedy(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match=r"store.* cannot be used .*set METAREC_CACHE"):
        FeatureStore(tmp_path / "store").features(TEXTS, Encoder())


def test_an_os_error_of_the_encoder_is_not_blamed_on_the_store(tmp_path):
    class Broken(Encoder):
        def encode(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
            raise FileNotFoundError("weights")

    with pytest.raises(FileNotFoundError, match="weights"):
        FeatureStore(tmp_path).features(TEXTS, Broken())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_no_number_is_refused_with_its_text(tmp_path, bad):
    class Sick(Encoder):
        def encode(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
            vectors = super().encode(texts)
            vectors[[text == TEXTS[7] for text in texts], 1] = bad
            return vectors

    with pytest.raises(StoreError, match=f"NaN or infinity for '{TEXTS[7]}'"):
        FeatureStore(tmp_path).features(TEXTS, Sick())


def test_vectors_of_another_size_are_refused(tmp_path):
    class Wide(Encoder):
        def encode(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
            return np.zeros((len(texts), 4), np.float32)

    with pytest.raises(StoreError, match=r"shape \(40, 4\) for 40 texts .* of 3"):
        FeatureStore(tmp_path).features(TEXTS, Wide())


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", float("nan")], r"text 1 is nan \(float\).*Template"),
        (["a", None], r"text 1 is None"),
        (["\ud800"], "half a character at 0"),
        ("a text", r"a sequence of texts is due: \['a text'\]"),
    ],
)
def test_what_is_no_text_is_named(texts, message):
    with pytest.raises(TextError, match=message):
        module.check_texts(texts)


def test_sizes_must_be_positive(tmp_path):
    with pytest.raises(StoreError, match="shard_size is 0"):
        FeatureStore(tmp_path, shard_size=0)
    with pytest.raises(StoreError, match="batch_size is 0"):
        FeatureStore(tmp_path).features(TEXTS, Encoder(), batch_size=0)


def test_the_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("METAREC_CACHE", str(tmp_path))
    assert FeatureStore().folder == tmp_path / "features"
    monkeypatch.delenv("METAREC_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FeatureStore().folder == tmp_path / ".cache" / "metarec" / "features"


@pytest.mark.skipif(os.name != "posix", reason="the store's lock needs fcntl")
def test_stores_used_at_once_stay_whole_and_put_each_text_in_one_plan(tmp_path):
    def work(first: int) -> np.ndarray:
        texts = TEXTS[first : first + 25]
        return FeatureStore(tmp_path, shard_size=4).features(texts, Encoder(), batch_size=2)

    # The lock is one of open files, so threads exclude each other as processes do.
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, (0, 5, 10, 15)))
    features = FeatureStore(tmp_path).features(TEXTS, Failing())
    for first, result in zip((0, 5, 10, 15), results, strict=True):
        assert same_bits(features[first : first + 25], result)
    index = FeatureStore(tmp_path)._read_index(tmp_path / Encoder.feature_key)
    planned = [text for plan in index.plans.values() for text in plan.texts]
    assert sorted(planned) == sorted(set(TEXTS))
    assert not litter(tmp_path)
