"""Text of items and users: templates, checkpoints, and the store of what an encoder made of it."""

from __future__ import annotations

from metarec.text.checkpoint import Checkpoint, resolve
from metarec.text.store import FeatureStore, StoreError, TextEncoder
from metarec.text.templates import RenderedText, Template, default_template

__all__ = [
    "Checkpoint",
    "FeatureStore",
    "RenderedText",
    "StoreError",
    "Template",
    "TextEncoder",
    "default_template",
    "resolve",
]
