"""Learners that need only NumPy, SciPy or scikit-learn: the floor, collaborative and content ones.

Each is written over tasks and candidates and keeps the contract of `metarec.learner.Learner`. Names
are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarec.baselines.als import ALS
    from metarec.baselines.bert_cosine import BertCosine
    from metarec.baselines.biased_mf import BiasedMF
    from metarec.baselines.ease import EASE
    from metarec.baselines.item_mean import ItemMean
    from metarec.baselines.knn import ItemKNN
    from metarec.baselines.popularity import Popularity
    from metarec.baselines.predicted_popularity import PredictedPopularity
    from metarec.baselines.random import Random
    from metarec.baselines.ridge import Ridge
    from metarec.baselines.tfidf import TfidfCosine

__all__ = [
    "ALS",
    "EASE",
    "BertCosine",
    "BiasedMF",
    "ItemKNN",
    "ItemMean",
    "Popularity",
    "PredictedPopularity",
    "Random",
    "Ridge",
    "TfidfCosine",
]

_MODULES = {
    "ALS": "als",
    "EASE": "ease",
    "BertCosine": "bert_cosine",
    "BiasedMF": "biased_mf",
    "ItemKNN": "knn",
    "ItemMean": "item_mean",
    "Popularity": "popularity",
    "PredictedPopularity": "predicted_popularity",
    "Random": "random",
    "Ridge": "ridge",
    "TfidfCosine": "tfidf",
}


def __getattr__(name: str) -> Any:
    """Imports a learner when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
