"""What MAML and transfer learning over a BERT that adapts have in common: all but the training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from metarec import loops
from metarec.errors import LearnerError, did_you_mean
from metarec.inputs import Inputs, nonzero
from metarec.learner import Feedback, MetaParameters, Predicts, Support, Training
from metarec.loops import InnerLoop, OuterLoop, OuterLoss
from metarec.torch import bert_loop, episodic
from metarec.torch.adapted_bert import Compute
from metarec.torch.adapted_part import AdaptedPart
from metarec.torch.batches import ahead, sent
from metarec.torch.bert import ATTENTIONS, Attention
from metarec.torch.bert_loop import Shots, TextScorer, UserTask
from metarec.torch.bi_encoder import BiEncoder
from metarec.torch.cross_encoder import CrossEncoder
from metarec.torch.item_texts import ItemTexts, Loaded, Read
from metarec.torch.scorer import MLP, build_scorer
from metarec.torch.text_head import BERT, HEAD
from metarec.torch.training import choose_device, train
from metarec.weights import ScorerName

Reads = Literal["bi", "cross"]
READS: tuple[Reads, ...] = ("bi", "cross")
BLOCK = 1024
"""Candidates whose texts are in memory at once."""
_SEEN_PAIRS = 512
_SHORTEST_PAIR = 8


@dataclass(frozen=True)
class AdaptedTexts:
    """Fast weights of T tasks, and the shots that they come from.

    Args:
        scorer: whose weights they are.
        tasks: of each the fast weights, its shots on the scorer's device, and their items and
            labels.
    """

    scorer: TextScorer
    tasks: Sequence[tuple[Mapping[str, Tensor], Shots, np.ndarray, np.ndarray]]


class BertLearner:
    """A scorer over the texts of user tasks, of which a BERT is part and adapts too.

    Before the BERT adapts, the head of a bi-encoder is trained on its frozen vectors for
    `head_steps`, so that a random head does not tear at what is pretrained (Kumar et al. 2022,
    arXiv 2202.10054). Serves user tasks; at K=0 nothing adapts. In PyTorch only.

    Args:
        reads: `bi` encodes each text on its own, `cross` reads the titles that a user rated and
            the text of an item in one sequence.
        adapted: what of the BERT adapts beside the head; see
            `metarec.torch.adapted_part.AdaptedPart`.
        adapted_layers: number of top layers of which a part adapts.
        rank: of `lora` and `adalora`.
        bottleneck: width of an `adapter`.
        prefix_length: keys and values of a `prefix` in each layer.
        inner_steps: gradient steps on the support set.
        inner_learning_rate: of the head in these steps.
        bert_inner_learning_rate: of the BERT in these steps.
        first_order: leave the second derivatives of the inner loop out.
        attention: `sdpa` (fused), or `eager`, which has second derivatives.
        scorer: of a bi-encoder, see `metarec.torch.scorer.build_scorer`; that of a cross-encoder is
            an MLP on [CLS].
        hidden_sizes: of the scorer.
        embedding_size: of the projections of the scorers cosine and dot.
        pair_length: tokens of a user's and an item's text together, for `cross`.
        outer_loss: `pointwise`, `softmax` over a task's queries, or `auto`: softmax, but pointwise
            for ratings.
        head_steps: outer steps of the head alone, before; 0 for `cross`.
        task_batch: tasks of an outer step of head and BERT, the first of the batch that is drawn;
            the head alone sees all of it.
        steps: outer steps of head and BERT, at the most.
        learning_rate: of the head in the outer loop, alone and beside the BERT.
        bert_learning_rate: of the BERT in the outer loop.
        weight_decay: of the head in the outer loop; BERT's weights do not decay.
        validate_every: outer steps between two looks at meta-validation.
        patience: looks without improvement before stopping.
        precision: `fp32`, or on a GPU `bf16` or `fp16`.
        checkpointing: keep of a batch of texts only the input, and compute it again for gradients.
        compile: whether `torch.compile` makes one program of the layers that adapt.
        cache_memory_mib: budget of frozen token states in memory, in MiB.
        cache_disk_mib: likewise on disk, in `prefixes` of metarec's cache.
        device: `auto`, `cpu`, `cuda`, …

    Raises:
        LearnerError: for a value that cannot be, or a combination that cannot be computed.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"user"})
    accepts: ClassVar[frozenset[str]] = frozenset({"rating", "binary", "implicit"})
    needs_features: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    adaptation: ClassVar[str | None] = "inner_steps"
    meta: ClassVar[bool]
    """Whether training goes through the inner loop."""

    def __init__(
        self,
        reads: str = "bi",
        adapted: str = "last_n",
        adapted_layers: int = 1,
        rank: int = 8,
        bottleneck: int = 32,
        prefix_length: int = 8,
        inner_steps: int = 3,
        inner_learning_rate: float = 0.01,
        bert_inner_learning_rate: float = 0.01,
        first_order: bool = True,
        attention: str = "sdpa",
        scorer: ScorerName = "mlp",
        hidden_sizes: tuple[int, ...] = (64, 64),
        embedding_size: int = 64,
        pair_length: int = 128,
        outer_loss: OuterLoss = "auto",
        head_steps: int = 1000,
        task_batch: int = 8,
        steps: int = 100,
        learning_rate: float = 1e-3,
        bert_learning_rate: float = 1e-4,
        weight_decay: float = 1.0,
        validate_every: int = 25,
        patience: int = 2,
        precision: str = "fp32",
        checkpointing: bool = False,
        compile: bool = False,
        cache_memory_mib: float = 1024.0,
        cache_disk_mib: float = 0.0,
        device: str = "auto",
    ) -> None:
        if reads not in READS:
            raise LearnerError(f"learner.reads={reads!r}{did_you_mean(reads, READS)}")
        if reads == "cross" and head_steps:
            raise LearnerError(
                f"learner.head_steps={head_steps}: a cross-encoder has no head that is trained "
                "beforehand, as a bi-encoder has; set learner.head_steps=0"
            )
        if reads == "cross" and scorer != "mlp":
            raise LearnerError(
                f"learner.scorer={scorer!r}: a cross-encoder scores [CLS] by an MLP; set "
                "learner.scorer=mlp, or learner.reads=bi"
            )
        if head_steps < 0 or bert_inner_learning_rate < 0:
            raise LearnerError(
                f"learner.head_steps={head_steps} and learner.bert_inner_learning_rate="
                f"{bert_inner_learning_rate} must not be below 0"
            )
        if min(bert_learning_rate, task_batch) <= 0:
            raise LearnerError(
                f"learner.bert_learning_rate={bert_learning_rate} and learner.task_batch="
                f"{task_batch} must be above 0"
            )
        if attention not in ATTENTIONS:
            raise LearnerError(
                f"learner.attention={attention!r} is unknown{did_you_mean(attention, ATTENTIONS)}"
            )
        if reads == "cross" and pair_length < _SHORTEST_PAIR:
            raise LearnerError(
                f"learner.pair_length={pair_length} leaves no room for a user and an item; choose "
                f"{_SHORTEST_PAIR} or more"
            )
        self.device = choose_device(device)
        self.attention: Attention = attention
        self.reads, self.pair_length = reads, pair_length
        self.part = AdaptedPart(adapted, adapted_layers, rank, bottleneck, prefix_length)
        self.compute = Compute(precision, checkpointing, compile)
        if self.meta:
            self.part.check_order(first_order, self.attention)
            self.compute.check(self.device, first_order)
        else:
            self.compute.check(self.device, first_order=True)
        self.inner = InnerLoop(inner_steps, inner_learning_rate, first_order)
        self.bert_inner_learning_rate = bert_inner_learning_rate
        self.scorer = (
            MLP(tuple(hidden_sizes), context=False)
            if reads == "cross"
            else build_scorer(scorer, tuple(hidden_sizes), embedding_size)
        )
        self.head_steps, self.task_batch = head_steps, task_batch
        self.bert_learning_rate = bert_learning_rate
        self.outer = OuterLoop(steps, learning_rate, weight_decay, validate_every, patience)
        self.outer_loss: OuterLoss = outer_loss
        self.budgets = cache_memory_mib, cache_disk_mib
        self._texts: ItemTexts | None = None
        self._loaded: Loaded | None = None
        self._read: Read | None = None

    def predicts(self, feedback: Feedback) -> Predicts:
        """Ratings, or logits (only an order after softmax training)."""
        return loops.predicts(feedback, self.outer_loss)

    def fit(self, training: Training) -> MetaParameters:
        """Trains head and BERT; returns the meta-parameters that were best on meta-validation."""
        self.restore(training)
        kind = loops.chosen_loss(self.outer_loss, training.feedback)
        inputs = self._inputs(training)
        scorer = self._scorer(inputs)
        initial = scorer.initial(np.random.default_rng([training.seed, 1]))
        if self.head_steps:
            initial |= self._head(training, inputs)
        loss = loops.pointwise(training.feedback)
        inner = self.inner if self.meta else replace(self.inner, steps=0)
        tasks_at = ahead(
            lambda step: self._tasks(scorer, training, step), self.device, self.outer.steps
        )

        def gradients(
            parameters: dict[str, Tensor], step: int
        ) -> tuple[Tensor, Mapping[str, Tensor]]:
            return bert_loop.meta_gradients(
                scorer, parameters, tasks_at(step), inner, loss, kind, self._rate
            )

        try:
            return train(
                initial, gradients, training, self.outer, inputs.statistics, self.device,
                type(self).__name__, pretrained=(BERT, self.bert_learning_rate),
            )  # fmt: skip
        except LearnerError as error:
            if self.compute.precision != "fp16":
                raise
            raise LearnerError(
                f"{error}; or choose learner.precision=bf16 or fp32, since numbers of fp16 end at "
                "65,504"
            ) from error

    def restore(self, training: Training) -> None:
        """Gives the texts and the feedback to a learner that was not fitted here."""
        self._texts, self._read = ItemTexts.of(training, type(self).__name__), None

    def over(self, texts: ItemTexts, catalogue: int) -> BertLearner:
        """The same learner, with the same BERT, over the texts of one user and a catalogue.

        Args:
            texts: of the catalogue, and after them those of the user's shots.
            catalogue: number of texts of the catalogue; they may come again with another user.
        """
        read = Read.of_call(self._bert_of(texts), texts, catalogue)
        twin = copy.copy(self)
        twin._texts, twin._read = texts, read
        return twin

    def check(self, meta_parameters: MetaParameters) -> None:
        """Refuses meta-parameters of another learner or another BERT.

        Raises:
            LearnerError: naming one that is missing, not known, or of another shape.
        """
        name, known = type(self).__name__, self._known()
        size = (known.encoder.embedding_size,)
        wanted = {"inputs.label": (2,), "inputs.mean": size, "inputs.scale": size}
        if wanted.keys() <= meta_parameters.keys():
            inputs = Inputs.restore(known.features, known.feedback, meta_parameters)
            drawn = self._scorer(inputs).initial(np.random.default_rng(0))
            wanted |= {weight: value.shape for weight, value in drawn.items()}
        found = {weight: value.shape for weight, value in meta_parameters.items()}
        for weight in [*wanted, *found]:
            if found.get(weight) != wanted.get(weight):
                has, needs = (str(one.get(weight, "missing")) for one in (found, wanted))
                raise LearnerError(
                    f"these are not the meta-parameters of this {name} with this BERT: the shape "
                    f"of {weight} is {has}, and should be {needs}"
                )

    def without_adaptation(self) -> BertLearner:
        """The same learner with 0 inner steps: what adaptation is measured against."""
        twin = copy.copy(self)
        twin.inner = replace(self.inner, steps=0)
        return twin

    def adapt(self, meta_parameters: MetaParameters, support: Support) -> AdaptedTexts:
        """Gradient steps on each task's support set, one task after another."""
        known = self._known()
        inputs = Inputs.restore(known.features, known.feedback, meta_parameters)
        scorer, loss = self._scorer(inputs), loops.pointwise(known.feedback)
        weights = {
            name: value.requires_grad_()
            for name, value in episodic.tensors_of(meta_parameters, self.device).items()
        }
        first_order = replace(self.inner, first_order=True)
        tasks = []
        for row in range(len(support)):
            seen = support.mask[row]
            items, labels = support.candidates[row][seen], support.labels[row][seen]
            shots = Shots.of(scorer, items, labels).map(self._there)
            fast = bert_loop.adapt(scorer, weights, shots, first_order, loss, self._rate)
            tasks.append(
                ({name: value.detach() for name, value in fast.items()}, shots, items, labels)
            )
        return AdaptedTexts(scorer, tasks)

    @torch.no_grad()
    def score(
        self, fast_weights: AdaptedTexts, candidates: Int32[np.ndarray, " c"]
    ) -> Float32[np.ndarray, "tasks c"]:
        """[T, C] scores of the candidates by each task's fast weights."""
        scorer = fast_weights.scorer
        scores = np.empty((len(fast_weights.tasks), len(candidates)), np.float32)
        for row, (weights, shots, items, labels) in enumerate(fast_weights.tasks):
            for start in range(0, len(candidates), BLOCK):
                block = candidates[start : start + BLOCK]
                texts = scorer.texts_of_candidates(items, labels, block).map(self._there)
                found = scorer.query_scores(weights, shots.texts, shots.context_weights, texts)
                scores[row, start : start + BLOCK] = found.float().cpu().numpy()
        return scorer.inputs.to_rating(scores)

    def _tasks(self, scorer: TextScorer, training: Training, step: int) -> tuple[UserTask, ...]:
        """The episodes of a step, without their padding, on the host and ready to be sent."""
        batch = training.sampler.batch(step)
        shots, rows = batch.support, range(min(len(batch.tasks), self.task_batch))
        tasks = (
            UserTask.of(
                scorer,
                shots.candidates[row][shots.mask[row]],
                shots.labels[row][shots.mask[row]],
                batch.query[row][batch.query_mask[row]],
                batch.query_labels[row][batch.query_mask[row]],
            )
            for row in rows
        )
        pinned = self.device.type == "cuda"
        return tuple(task.map(_pinned) if pinned else task for task in tasks)

    def _there(self, values: Tensor) -> Tensor:
        return sent(values, self.device)

    def _rate(self, name: str) -> float:
        """The inner learning rate of a weight."""
        bert = name.startswith(BERT)
        return self.bert_inner_learning_rate if bert else self.inner.learning_rate

    def _head(self, training: Training, inputs: Inputs) -> dict[str, np.ndarray]:
        """The head after training on the frozen vectors, as `MAML` and `Transfer` train it."""
        alone = replace(training, validate=None, checkpointer=None, log=[])
        inner = self.inner if self.meta else replace(self.inner, steps=0)
        found = episodic.fit(
            alone, episodic.Adaptation(self.scorer, inner), "text",
            replace(self.outer, steps=self.head_steps), self.outer_loss, self.device,
            f"{type(self).__name__}, head", inputs=inputs,
        )  # fmt: skip
        return {
            f"{HEAD}{name}": value
            for name, value in found.items()
            if not name.startswith("inputs.")
        }

    def _inputs(self, training: Training) -> Inputs:
        """Statistics of the vectors: frozen features, or the states of [CLS] of some pairs."""
        inputs = Inputs.fit(training)
        if self.reads == "bi":
            return inputs
        scorer, step = self._scorer(inputs), 0
        seen: list[np.ndarray] = []
        while sum(len(states) for states in seen) < _SEEN_PAIRS:
            for task in self._tasks(scorer, training, step):
                with torch.no_grad():
                    queries = task.queries.map(self._there)
                    states = scorer.bert.pooled(scorer.bert.initial, queries, "cls")
                seen.append(states.cpu().numpy())
            step += 1
        pairs: Any = np.concatenate(seen)
        found = {"inputs.mean": pairs.mean(axis=0), "inputs.scale": nonzero(pairs.std(axis=0))}
        return replace(inputs, statistics={**inputs.statistics, **found})

    def _scorer(self, inputs: Inputs) -> BiEncoder | CrossEncoder:
        """The scorer on what was read of the texts, which is read when it is first needed."""
        if self._read is None:
            texts = self._known()
            self._read = Read.of_training(self._bert_of(texts), texts, *self.budgets)
        return self._read.scorer(self.scorer, inputs)

    def _known(self) -> ItemTexts:
        if self._texts is None:
            raise LearnerError(
                f"{type(self).__name__} knows no texts yet: call fit first, or "
                "learner.restore(training) before adapting with saved meta-parameters"
            )
        return self._texts

    def _bert_of(self, texts: ItemTexts) -> Loaded:
        """The BERT that reads the texts, loaded once."""
        if self._loaded is None or not self._loaded.serves(texts):
            self._loaded = Loaded.of(
                texts, self.part, self.attention, self.device, self.compute,
                self.pair_length if self.reads == "cross" else None, self.budgets[0],
            )  # fmt: skip
        return self._loaded


def _pinned(values: Tensor) -> Tensor:
    return values if values.is_cuda else values.pin_memory()
