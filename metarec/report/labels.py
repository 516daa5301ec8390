"""How learners, regimes and metrics are called in print, and in which order they stand."""

from __future__ import annotations

from dataclasses import dataclass

GROUPS = ("Chance", "Floor", "Collaborative", "Content", "Transfer", "Meta", "Other")
BASELINE_GROUPS = frozenset({"Floor", "Collaborative", "Content"})
"""The learners that may be the reference: neither meta, nor transfer, nor unknown."""

ONE_SEED = frozenset({"maml_learn2learn"})
"""Reference implementations that are run once on purpose; they do not make a table preliminary."""

REGIME_LABELS = {
    "warm": "Warm",
    "user_cold": "User cold",
    "item_cold": "Item cold",
    "both_cold": "Both cold",
}

_LEARNERS: dict[str, tuple[str, str]] = {
    "random": ("Floor", "Random"),
    "popularity": ("Floor", "Popularity"),
    "item_mean": ("Floor", "Item mean"),
    "item_knn": ("Collaborative", "Item-kNN"),
    "ease": ("Collaborative", "EASE^R"),
    "als": ("Collaborative", "ALS"),
    "tfidf_cosine": ("Content", "TF-IDF cosine"),
    "bert_cosine": ("Content", "BERT cosine"),
    "ridge": ("Content", "Ridge on BERT"),
    "predicted_popularity": ("Content", "Predicted popularity"),
    "transfer": ("Transfer", "Transfer"),
    "maml": ("Meta", "MAML"),
    "maml_learn2learn": ("Meta", "MAML, learn2learn"),
    "prototypical": ("Meta", "Prototypical"),
    "prototypical_no_projection": ("Meta", "Prototypical, no projection"),
}


@dataclass(frozen=True, order=True)
class Variant:
    """A learner with its adaptation on or off: what one row of a table shows.

    Args:
        learner: its name in the configs.
        adapted: false for its 0-step row.
    """

    learner: str
    adapted: bool = True

    @property
    def key(self) -> str:
        """One name for both, for frames and records."""
        return self.learner if self.adapted else f"{self.learner}, 0 steps"


def group_of(learner: str, target: str = "") -> str:
    """The group of a learner; of one that is not known, `Other`.

    Args:
        learner: its name.
        target: its class by dotted path; one from `metarec.baselines` counts as `Content`, so that
            a new baseline may become the reference.
    """
    if learner in _LEARNERS:
        return _LEARNERS[learner][0]
    return "Content" if target.startswith("metarec.baselines.") else "Other"


def label_of(variant: Variant) -> str:
    """What stands in the table: `EASE^R`, `MAML, 0 steps`; `^` raises the character after it."""
    name, adapted = variant.learner, variant.adapted
    label = _LEARNERS[name][1] if name in _LEARNERS else _from_name(name)
    if not adapted:
        return f"{label}, 0 steps"
    return f"{label}, fine-tuned" if name == "transfer" else label


def sort_key(variant: Variant, target: str = "") -> tuple[int, int, str, bool]:
    """Order of the rows: by group, then as listed, unknown ones last by name; 0 steps first."""
    known = list(_LEARNERS)
    name = variant.learner
    place = known.index(name) if name in _LEARNERS else len(known)
    return GROUPS.index(group_of(name, target)), place, name, variant.adapted


def metric_label(column: str) -> str:
    """`nDCG@10` for `catalogue/ndcg@10`; the metric's own name where no better one is known."""
    metric = column.rpartition("/")[2]
    name, at, cutoff = metric.partition("@")
    labels = {
        "ndcg": "nDCG",
        "auc": "AUC",
        "mae": "MAE",
        "rmse": "RMSE",
        "hr": "HR",
        "mrr": "MRR",
        "map": "MAP",
        "f1": "F1",
        "log_loss": "Log loss",
    }
    return f"{labels.get(name, name.capitalize())}{at}{cutoff}"


def regime_label(regime: str) -> str:
    """`User cold` for `user_cold`."""
    return REGIME_LABELS.get(regime, _from_name(regime))


def _from_name(name: str) -> str:
    words = name.replace("_", " ").replace("-", " ").strip()
    return words[:1].upper() + words[1:] if words else name
