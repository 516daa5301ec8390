"""MAML over a BERT: the language model itself adapts in the inner loop."""

from __future__ import annotations

from typing import ClassVar

from metarec.torch.bert_learner import BertLearner


class BertMAML(BertLearner):
    """MAML (Finn, Abbeel & Levine 2017) on a scorer of which a BERT is part.

    In first order unless told otherwise; arguments as `metarec.torch.bert_learner.BertLearner`.
    """

    meta: ClassVar[bool] = True
