"""How learners, regimes and metrics are called in print, and in which order they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Tables = Literal["main", "family"]
"""Which tables: those of `make paper`, or those of `make paper-full`."""

GRADIENT = "Meta, gradient-based"
METRIC = "Meta, metric-based and amortised"
WARM_UP = "Warm-up"
ADAPTING = "BERT that adapts"
GROUPS = (
    *("Chance", "Floor", "Collaborative", "Content", "Transfer"),
    *(GRADIENT, METRIC, WARM_UP, ADAPTING, "Other"),
)
BASELINE_GROUPS = frozenset({"Floor", "Collaborative", "Content"})
"""The learners that may be the reference: neither meta, nor transfer, nor unknown."""

ONE_SEED = frozenset({"maml_learn2learn"})
"""Reference implementations that are run once on purpose; they do not make a table preliminary."""

JAX = "_jax"
"""Ends the names of the runs of a plan with `backend: jax`."""

REGIME_LABELS = {
    "warm": "Warm",
    "user_cold": "User cold",
    "item_cold": "Item cold",
    "both_cold": "Both cold",
}

ADAPTED = {
    "head": "Head alone",
    "bitfit": "BitFit",
    "last_n": "Last layers",
    "lora": "LoRA",
    "adalora": "AdaLoRA",
    "adapter": "Adapter",
    "prefix": "Prefix",
    "full": "Whole BERT",
}
"""What of a BERT adapts, in the order of the tables."""


def _adapting() -> Iterator[tuple[str, tuple[str, str]]]:
    """The learners over a BERT that adapts, and what the experiment on their parts calls them."""
    for reads, suffix in (("", ""), ("_cross", ", cross-encoder")):
        for name, title in (
            ("bert_transfer", "Transfer over BERT"),
            ("bert_maml", "MAML over BERT"),
        ):
            yield f"{name}{reads}", (ADAPTING, f"{title}{suffix}")
        for adapted, part in ADAPTED.items():
            for name, title in (("bert_transfer", "transfer"), ("bert_maml", "MAML")):
                yield f"{name}{reads}_{adapted}", (ADAPTING, f"{part}, {title}{suffix}")


LEARNERS: dict[str, tuple[str, str]] = {
    "random": ("Floor", "Random"),
    "popularity": ("Floor", "Popularity"),
    "item_mean": ("Floor", "Item mean"),
    "item_mean_unshrunk": ("Floor", "Item mean, unshrunk"),
    "item_knn": ("Collaborative", "Item-kNN"),
    "ease": ("Collaborative", "EASE^R"),
    "als": ("Collaborative", "ALS"),
    "biased_mf": ("Collaborative", "Biased MF"),
    "tfidf_cosine": ("Content", "TF-IDF cosine"),
    "bert_cosine": ("Content", "BERT cosine"),
    "ridge": ("Content", "Ridge on BERT"),
    "predicted_popularity": ("Content", "Predicted popularity"),
    "transfer": ("Transfer", "Transfer"),
    "transfer_collaborative": ("Transfer", "Transfer over collaborative"),
    "transfer_both": ("Transfer", "Transfer over both"),
    "maml": (GRADIENT, "MAML"),
    "maml_learn2learn": (GRADIENT, "MAML, learn2learn"),
    "maml_item_only": (GRADIENT, "MAML, MLP of the item alone"),
    "maml_cosine": (GRADIENT, "MAML, cosine"),
    "maml_dot": (GRADIENT, "MAML, dot product"),
    "maml_bilinear": (GRADIENT, "MAML, bilinear"),
    "maml_fusion_fixed": (GRADIENT, "MAML, fusion, fixed weights"),
    "maml_fusion_learned": (GRADIENT, "MAML, fusion, learned weights"),
    "maml_fusion_attention": (GRADIENT, "MAML, fusion, attention"),
    "maml_collaborative": (GRADIENT, "MAML over collaborative"),
    "maml_both": (GRADIENT, "MAML over both"),
    "fomaml": (GRADIENT, "MAML, first order"),
    "anil": (GRADIENT, "ANIL"),
    "reptile": (GRADIENT, "Reptile"),
    "meta_sgd": (GRADIENT, "Meta-SGD"),
    "maml_plus_plus": (GRADIENT, "MAML++"),
    "imaml": (GRADIENT, "iMAML"),
    "melu": (GRADIENT, "MeLU"),
    "prototypical": (METRIC, "Prototypical"),
    "prototypical_multiple": (METRIC, "Prototypical, several prototypes"),
    "prototypical_no_projection": (METRIC, "Prototypical, no projection"),
    "matching": (METRIC, "Matching"),
    "r2d2": (METRIC, "R2-D2"),
    "r2d2_collaborative": (METRIC, "R2-D2 over collaborative"),
    "r2d2_both": (METRIC, "R2-D2 over both"),
    "cnp": (METRIC, "CNP"),
    "tanp": (METRIC, "TaNP"),
    "protocf": (METRIC, "ProtoCF"),
    "meta_embedding": (WARM_UP, "Meta-Embedding"),
    "mwuf": (WARM_UP, "MWUF"),
    "dropoutnet": (WARM_UP, "DropoutNet"),
    "cvar": (WARM_UP, "CVAR"),
    "gar": (WARM_UP, "GAR"),
    "hybrid": (WARM_UP, "Hybrid"),
    **dict(_adapting()),
}

SCORERS: dict[str, tuple[str, ...]] = {
    "MAML over text, by scorer": (
        *("maml", "maml_item_only", "maml_cosine", "maml_dot", "maml_bilinear"),
        *("maml_fusion_fixed", "maml_fusion_learned", "maml_fusion_attention"),
    ),
    "MAML, MLP, by representation": ("maml_collaborative", "maml_both"),
    "Others by representation": (
        *("transfer", "transfer_collaborative", "transfer_both"),
        *("r2d2", "r2d2_collaborative", "r2d2_both"),
    ),
}
"""The table of scorers and representations: section to its learners."""

VARIANTS_OF_SCORERS = frozenset(
    {name for names in SCORERS.values() for name in names} - {"maml", "transfer", "r2d2"}
)
"""The learners that stand in the table of scorers and not in that of the family."""


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
        return self.learner if self.adapted else f"{self.learner}, {_switched_off(self.learner)}"


def group_of(learner: str, target: str = "") -> str:
    """The group of a learner; of one that is not known, `Other`.

    Args:
        learner: its name.
        target: its class by dotted path; one from `metarec.baselines` counts as `Content`, so that
            a new baseline may become the reference.
    """
    if _in_torch(learner) in LEARNERS:
        return LEARNERS[_in_torch(learner)][0]
    return "Content" if target.startswith("metarec.baselines.") else "Other"


def label_of(variant: Variant, kind: str = "user") -> str:
    """What stands in the table: `EASE^R`, `MAML, 0 steps`; `^` raises the character after it.

    Args:
        variant: the learner, with its adaptation on or off.
        kind: of task: on item tasks, learners that warm up are `no warm-up` without support.
    """
    name, adapted = variant.learner, variant.adapted
    known = LEARNERS.get(_in_torch(name))
    label = _from_name(name) if known is None else known[1]
    if known is not None and name.endswith(JAX):
        label = f"{label}, JAX"
    group = group_of(name)
    if not adapted:
        warm_up = group == WARM_UP and kind == "item"
        return f"{label}, {'no warm-up' if warm_up else _switched_off(name)}"
    return f"{label}, fine-tuned" if group == "Transfer" else label


def _switched_off(learner: str) -> str:
    """How a learner is called that does not adapt: metric-based ones have no steps to leave out."""
    return "no support" if group_of(learner) in (METRIC, WARM_UP) else "0 steps"


def sort_key(variant: Variant, target: str = "") -> tuple[int, int, str, bool]:
    """Order of the rows: by group, then as listed, unknown ones last by name; unadapted first.

    A learner in JAX stands after its twin in PyTorch.
    """
    known = list(LEARNERS)
    name, twin = variant.learner, _in_torch(variant.learner)
    place = known.index(twin) if twin in LEARNERS else len(known)
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


def _in_torch(learner: str) -> str:
    """The name of the same learner in PyTorch."""
    return learner.removesuffix(JAX)


def _from_name(name: str) -> str:
    words = name.replace("_", " ").replace("-", " ").strip()
    return words[:1].upper() + words[1:] if words else name
