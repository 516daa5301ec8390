"""metarec: meta-learning on BERT for cold-start recommendation.

The few names that a notebook needs. Each is imported from the module that owns it when it is first
used, so that importing metarec costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarec.baselines.als import ALS as ALS
    from metarec.baselines.bert_cosine import BertCosine as BertCosine
    from metarec.baselines.biased_mf import BiasedMF as BiasedMF
    from metarec.baselines.ease import EASE as EASE
    from metarec.baselines.item_mean import ItemMean as ItemMean
    from metarec.baselines.knn import ItemKNN as ItemKNN
    from metarec.baselines.popularity import Popularity as Popularity
    from metarec.baselines.predicted_popularity import PredictedPopularity as PredictedPopularity
    from metarec.baselines.random import Random as Random
    from metarec.baselines.ridge import Ridge as Ridge
    from metarec.baselines.tfidf import TfidfCosine as TfidfCosine
    from metarec.data.dataset import Dataset as Dataset
    from metarec.data.registry import load_dataset as load_dataset
    from metarec.episodes import EpisodeSampler as EpisodeSampler
    from metarec.evaluation.episodes import evaluation_episodes as evaluation_episodes
    from metarec.evaluation.evaluate import evaluate as evaluate
    from metarec.runs import RunConfig as RunConfig
    from metarec.runs import load_records as load_records
    from metarec.runs.run import run as run
    from metarec.splits import Split as Split
    from metarec.torch.anil import ANIL as ANIL
    from metarec.torch.bert_maml import BertMAML as BertMAML
    from metarec.torch.bert_transfer import BertTransfer as BertTransfer
    from metarec.torch.cvar import CVAR as CVAR
    from metarec.torch.dropoutnet import DropoutNet as DropoutNet
    from metarec.torch.gar import GAR as GAR
    from metarec.torch.hybrid import Hybrid as Hybrid
    from metarec.torch.implicit_maml import ImplicitMAML as ImplicitMAML
    from metarec.torch.maml import MAML as MAML
    from metarec.torch.maml_plus_plus import MAMLPlusPlus as MAMLPlusPlus
    from metarec.torch.matching import Matching as Matching
    from metarec.torch.melu import MeLU as MeLU
    from metarec.torch.meta_embedding import MetaEmbedding as MetaEmbedding
    from metarec.torch.meta_sgd import MetaSGD as MetaSGD
    from metarec.torch.mwuf import MWUF as MWUF
    from metarec.torch.neural_process import ConditionalNeuralProcess as ConditionalNeuralProcess
    from metarec.torch.pretrained import PretrainedScorer as PretrainedScorer
    from metarec.torch.protocf import ProtoCF as ProtoCF
    from metarec.torch.prototypical import Prototypical as Prototypical
    from metarec.torch.r2d2 import R2D2 as R2D2
    from metarec.torch.reptile import Reptile as Reptile
    from metarec.torch.tanp import TaNP as TaNP
    from metarec.torch.transfer import Transfer as Transfer

__version__ = "0.1.0"

_OWNERS = {
    "Dataset": "metarec.data.dataset",
    "load_dataset": "metarec.data.registry",
    "Split": "metarec.splits",
    "EpisodeSampler": "metarec.episodes",
    "evaluation_episodes": "metarec.evaluation.episodes",
    "evaluate": "metarec.evaluation.evaluate",
    "load_records": "metarec.runs",
    "run": "metarec.runs.run",
    "RunConfig": "metarec.runs",
    "ANIL": "metarec.torch.anil",
    "BertMAML": "metarec.torch.bert_maml",
    "BertTransfer": "metarec.torch.bert_transfer",
    "ConditionalNeuralProcess": "metarec.torch.neural_process",
    "CVAR": "metarec.torch.cvar",
    "DropoutNet": "metarec.torch.dropoutnet",
    "GAR": "metarec.torch.gar",
    "Hybrid": "metarec.torch.hybrid",
    "ImplicitMAML": "metarec.torch.implicit_maml",
    "MAML": "metarec.torch.maml",
    "MAMLPlusPlus": "metarec.torch.maml_plus_plus",
    "Matching": "metarec.torch.matching",
    "MeLU": "metarec.torch.melu",
    "MetaEmbedding": "metarec.torch.meta_embedding",
    "MetaSGD": "metarec.torch.meta_sgd",
    "MWUF": "metarec.torch.mwuf",
    "PretrainedScorer": "metarec.torch.pretrained",
    "ProtoCF": "metarec.torch.protocf",
    "Prototypical": "metarec.torch.prototypical",
    "R2D2": "metarec.torch.r2d2",
    "Reptile": "metarec.torch.reptile",
    "TaNP": "metarec.torch.tanp",
    "Transfer": "metarec.torch.transfer",
    "ALS": "metarec.baselines.als",
    "BertCosine": "metarec.baselines.bert_cosine",
    "BiasedMF": "metarec.baselines.biased_mf",
    "EASE": "metarec.baselines.ease",
    "ItemMean": "metarec.baselines.item_mean",
    "ItemKNN": "metarec.baselines.knn",
    "Popularity": "metarec.baselines.popularity",
    "PredictedPopularity": "metarec.baselines.predicted_popularity",
    "Random": "metarec.baselines.random",
    "Ridge": "metarec.baselines.ridge",
    "TfidfCosine": "metarec.baselines.tfidf",
}

__all__ = ["__version__", *_OWNERS]


def __getattr__(name: str) -> Any:
    if name in _OWNERS:
        value = getattr(import_module(_OWNERS[name]), name)
        globals()[name] = value
        return value
    from metarec.errors import did_you_mean

    near = "" if name.startswith("_") else did_you_mean(name, _OWNERS)
    raise AttributeError(f"module 'metarec' has no attribute {name!r}{near}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OWNERS})
