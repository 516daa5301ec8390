"""A saved scorer on disk: what is written where, and what is checked before it is believed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

import metarec
from metarec.errors import PretrainedError
from metarec.learner import MetaParameters
from metarec.text import checkpoint as checkpoints
from metarec.text.checkpoint import Checkpoint
from metarec.torch.scorer_config import ScorerConfig
from metarec.writing import replacing

FORMAT = 1
"""Of `config.json`; a higher one is of a newer metarec."""
CONFIG, WEIGHTS, BERT, CARD = "config.json", "model.safetensors", "bert", "README.md"


def write(
    folder: Path, config: ScorerConfig, weights: MetaParameters, checkpoint: Checkpoint
) -> None:
    """Writes all but the card; `config.json` last, without which nothing counts.

    Args:
        folder: where it goes.
        config: what the scorer is.
        weights: its meta-parameters.
        checkpoint: the BERT that all began with, which is copied.
    """
    from safetensors.numpy import save_file

    copied = checkpoints.copy(checkpoint, folder / BERT)
    # asarray and not ascontiguousarray, which would give an axis to a number
    plain = {name: np.asarray(value, order="C") for name, value in weights.items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(plain, temporary)
    content = {
        "format": FORMAT,
        "metarec": metarec.__version__,
        **config.to_dict(),
        "sha256": {BERT: copied.content_hash, WEIGHTS: _sha256(folder / WEIGHTS)},
    }
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[ScorerConfig, MetaParameters, Checkpoint, str | None]:
    """Reads what `write` wrote, and the card; None where there is none.

    Raises:
        PretrainedError: if files are missing, broken, of another checkpoint or of a newer metarec.
        TextError: if the BERT is not whole.
    """
    from safetensors.numpy import load_file

    config, hashes = _config(folder / CONFIG)
    bert, weights, card = folder / BERT, folder / WEIGHTS, folder / CARD
    for needed, there in ((bert, bert.is_dir()), (weights, weights.is_file())):
        if not there:
            raise PretrainedError(f"{needed} is missing; copy or download the scorer again")
    found = checkpoints.resolve(bert)
    for file, digest in ((BERT, found.content_hash), (WEIGHTS, _sha256(weights))):
        if digest != hashes[file]:
            raise PretrainedError(
                f"{folder / file} is not what the scorer was saved with (SHA-256 {digest}, "
                f"{CONFIG} says {hashes[file]}): broken, or of another scorer; copy or download "
                "the scorer again"
            )
    checkpoint = Checkpoint(bert, config.checkpoint, found.content_hash)
    text = card.read_text(encoding="utf-8") if card.is_file() else None
    return config, dict(load_file(weights)), checkpoint, text


def check_free(folder: Path) -> None:
    """Refuses a folder in which files of something else would be replaced.

    Raises:
        PretrainedError: naming one of them.
    """
    if not folder.is_dir():
        if folder.exists():
            raise PretrainedError(f"{folder} is no folder; choose another one")
        return
    held = {one.name for one in folder.iterdir() if not one.name.startswith(".")}
    if _is_ours(folder / CONFIG):
        return
    # without config.json and card, which are written last, it is one that was broken off
    foreign = sorted(held - {BERT, WEIGHTS}) if BERT in held else sorted(held)
    if foreign:
        raise PretrainedError(
            f"{folder} has {foreign[0]} and no scorer of metarec; choose a new or empty folder"
        )


def downloaded(name: str, local_files_only: bool, token: str | bool | None, **options: Any) -> Path:
    """The folder of the hub's cache that has a repository, brought up to date before.

    Args:
        name: of the repository.
        local_files_only: whether to do without the network.
        token: for a repository that is private.
        **options: of `huggingface_hub.snapshot_download`; `cache_dir` must be among them.

    Raises:
        PretrainedError: if it is neither there nor can be downloaded.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    problem = None if local_files_only else checkpoints.in_the_way(name, token)
    try:
        return Path(
            snapshot_download(
                name, allow_patterns=[CONFIG, WEIGHTS, CARD, f"{BERT}/*"], token=token,
                local_files_only=local_files_only or problem is not None, **options,
            )
        )  # fmt: skip
    except HFValidationError as error:
        raise PretrainedError(
            f"{name!r} is neither a folder nor a name that the hub allows"
        ) from error
    except Exception as error:
        cause = problem or error
        raise PretrainedError(
            f"{name!r} is no folder and not in the Hugging Face cache "
            f"({options['cache_dir'] or constants.HF_HUB_CACHE}), and "
            + (
                "local_files_only=True forbids to download it"
                if local_files_only
                else f"could not be downloaded ({checkpoints.in_a_line(cause)}): check the name "
                "and the connection"
            )
        ) from cause


def _config(file: Path) -> tuple[ScorerConfig, dict[str, str]]:
    """What config.json says, and the hashes of what stands beside it."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PretrainedError(
            f"there is no {file}; a scorer that was saved whole has one: copy, download or save it "
            "again"
        ) from error
    except (OSError, ValueError) as error:
        raise PretrainedError(
            f"{file} cannot be read as JSON ({error}); copy or download the scorer again"
        ) from error
    if not isinstance(values, dict) or not {"format", "metarec"} <= values.keys():
        raise PretrainedError(
            f"{file} is not that of a scorer of metarec; a BERT alone is given as text.checkpoint"
        )
    format_, version, hashes = (values.pop(key, None) for key in ("format", "metarec", "sha256"))
    if not isinstance(format_, int) or format_ > FORMAT:
        raise PretrainedError(
            f"{file} has format {format_}, of metarec {version}; this is metarec "
            f"{metarec.__version__}, which reads up to format {FORMAT}: update it"
        )
    if not isinstance(hashes, dict) or hashes.keys() != {BERT, WEIGHTS}:
        raise PretrainedError(f"{file}: sha256 must have those of {BERT} and {WEIGHTS}")
    try:
        return ScorerConfig.from_dict(values), hashes
    except PretrainedError as error:
        raise PretrainedError(f"{file}: {error}") from error


def _is_ours(file: Path) -> bool:
    try:
        return "metarec" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
