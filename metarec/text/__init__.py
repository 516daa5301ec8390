"""Text of items and users: templates, checkpoints, tokens, and the store of what encoders made."""

from __future__ import annotations

from metarec.text.checkpoint import Checkpoint, resolve
from metarec.text.store import FeatureStore, StoreError, TextEncoder
from metarec.text.templates import RenderedText, Template, default_template, title_template
from metarec.text.tokens import EncoderSettings, Tokenizer, encode_by_length

__all__ = [
    "Checkpoint",
    "EncoderSettings",
    "FeatureStore",
    "RenderedText",
    "StoreError",
    "Template",
    "TextEncoder",
    "Tokenizer",
    "default_template",
    "encode_by_length",
    "resolve",
    "title_template",
]
