"""Transfer learning with a BERT: fine-tuned on meta-train, then on each support set."""

from __future__ import annotations

from typing import ClassVar

from metarec.torch.bert_learner import BertLearner


class BertTransfer(BertLearner):
    """The twin of `metarec.torch.bert_maml.BertMAML` without an inner loop in training.

    The same weights adapt, on the same episodes, in the same steps; arguments as
    `metarec.torch.bert_learner.BertLearner`, where the inner loop is the fine-tuning.
    """

    meta: ClassVar[bool] = False
