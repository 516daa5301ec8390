"""A pretrained BERT by transformers; its twin in Flax is `metarec.jax.bert`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch

from metarec.errors import TextError

Attention = Literal["sdpa", "eager"]
"""Fused attention, which has no second derivative, or attention written out, which has."""
ATTENTIONS: tuple[Attention, ...] = ("sdpa", "eager")


def load(folder: Path, attention: Attention = "sdpa") -> Any:
    """Reads a checkpoint of transformers' `AutoModel`.

    Args:
        folder: holds config.json and the weights as safetensors.
        attention: how attention is computed.

    Returns:
        The model on the CPU in float32, in evaluation mode, no weight of it requiring a gradient.

    Raises:
        TextError: if the folder cannot be loaded, or weights and configuration do not fit.
    """
    # Seconds of import, which nothing else here needs.
    from transformers import AutoModel
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    # Its report of unused weights (a pooler, a language model's head) is no news here, and that of
    # missing ones is an error below.
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model, loaded = AutoModel.from_pretrained(
                folder,
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise TextError(
            f"checkpoint folder {folder} cannot be loaded ({error}); config.json and the weights "
            "must be of one checkpoint"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    # transformers would fill these in at random.
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
    wrong = sorted(str(key) for key in loaded["mismatched_keys"])
    if missing or wrong:
        raise TextError(
            f"the weights in checkpoint folder {folder} do not fit its config.json: "
            f"{len(missing)} missing, {len(wrong)} of another shape, such as "
            f"{(missing + wrong)[0]}; place weights and config of one checkpoint in it"
        )
    return model.eval().requires_grad_(False)
