"""`SpeedSettings`: what `experiments/speed.py` measures, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from metarec.speed.rows import (
    BERT_STEP,
    BERT_USER,
    CATALOGUE,
    ENCODING,
    SAMPLING,
    STEP_FIRST,
    STEP_LARGE,
    STEP_SECOND,
    TRAINING,
)
from metarec.speed.work import BertWork, StepWork

WORKS = (
    *(STEP_SECOND, STEP_FIRST, STEP_LARGE, CATALOGUE, SAMPLING, TRAINING, ENCODING),
    *(BERT_STEP, BERT_USER),
)


@dataclass(frozen=True)
class SamplingWork:
    """Drawing episodes from meta-train.

    Args:
        k_shot: K.
        query_size: Q.
        task_batch: episodes of a batch.
        batches: of a call.
    """

    k_shot: int = 10
    query_size: int = 20
    task_batch: int = 256
    batches: int = 80


@dataclass(frozen=True)
class TrainingWork:
    """Meta-training as a run does it, but for validation; sizes as in `StepWork`.

    Args:
        task_batch: tasks of an outer step.
        outer_steps: of a call.
        repeats: of the call, which is long.
    """

    task_batch: int = 32
    outer_steps: int = 300
    repeats: int = 5


@dataclass(frozen=True)
class SpeedSettings:
    """What is measured, and how often. The defaults are the sizes that the bounds are for.

    Args:
        device: `cpu`, `cuda`, …
        backends: whose rows are made.
        only: the works that are measured; all of `WORKS` where it is None.
        compile: whether compiled engines are measured too, at the small steps; it takes minutes.
        repeats: of which the median is taken.
        least_milliseconds: of a turn; a shorter call is repeated and its mean counts.
        memory_repeats: processes in which the memory of a step is measured; 0 for none.
        matrix_size: of the product whose rate stands for the machine's.
        step: the meta-training step.
        large_tasks: B of the large step.
        catalogue_items: size of the catalogue.
        sampling: of episodes.
        training: the whole process.
        titles: how many the encoders encode.
        encoding_repeats: of that, which takes seconds.
        bert: the meta-training step over a BERT that adapts.
        bert_repeats: of that, which takes seconds.
    """

    device: str = "cpu"
    backends: tuple[str, ...] = ("torch", "jax")
    only: tuple[str, ...] | None = None
    compile: bool = True
    repeats: int = 15
    least_milliseconds: float = 50.0
    memory_repeats: int = 3
    matrix_size: int = 2048
    step: StepWork = field(default_factory=StepWork)
    large_tasks: int = 512
    catalogue_items: int = 100_000
    sampling: SamplingWork = field(default_factory=SamplingWork)
    training: TrainingWork = field(default_factory=TrainingWork)
    titles: int = 2000
    encoding_repeats: int = 5
    bert: BertWork = field(default_factory=BertWork)
    bert_repeats: int = 5

    def step_of(self, work: str) -> StepWork:
        """The step of a work of this name."""
        tasks = self.large_tasks if work == STEP_LARGE else self.step.tasks
        return replace(self.step, tasks=tasks, first_order=work == STEP_FIRST)

    def measures(self, work: str) -> bool:
        """Whether a work is among those that were asked for."""
        return self.only is None or work in self.only

    @property
    def as_promised(self) -> bool:
        """Whether the sizes are those that names and bounds of the rows are for."""
        mine, promised = self, SpeedSettings()
        return (
            (mine.step, mine.large_tasks, mine.catalogue_items, mine.titles, mine.bert)
            == (
                *(promised.step, promised.large_tasks, promised.catalogue_items, promised.titles),
                promised.bert,
            )
        ) and (mine.sampling.k_shot, mine.sampling.query_size) == (
            promised.sampling.k_shot,
            promised.sampling.query_size,
        )
