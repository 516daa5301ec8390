"""One run of `experiments/speed.py`: what is measured, and what the rows are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from metarec.episodes import EpisodeSampler
from metarec.learner import Training
from metarec.speed.measure import Measured, interleaved, one_core
from metarec.speed.memory import peak_mebibytes, peak_of_process
from metarec.speed.parity import Parity, parity
from metarec.speed.rows import (
    BERT_STEP,
    BERT_USER,
    CATALOGUE,
    ENCODING,
    FIRST_ORDER,
    SAMPLING,
    SECOND_ORDER,
    STEP_FIRST,
    STEP_LARGE,
    STEP_SECOND,
    TABLE,
    TRAINING,
    Bound,
    Row,
    row_of,
)
from metarec.speed.settings import SpeedSettings
from metarec.speed.work import LAST, LEARN2LEARN, OF_BERT, Contender, backend_of, of_bert
from metarec.text.checkpoint import Checkpoint

PARITY_TASKS, PARITY_STEPS = 12, (1, 5)

Track = Callable[[str, int], Callable[[], None]]
"""(description, turns) to what is called after each turn."""


def untracked(description: str, turns: int) -> Callable[[], None]:
    """Says nothing of what is measured."""
    return lambda: None


@dataclass
class Session:
    """Measures what the settings ask for.

    Args:
        settings: what, and how often.
        track: told what is measured, for a progress bar.
        works: what was measured, by work.
        stages: milliseconds a task of each part of an outer step, by contender of the training.
        products: the machine's own GFLOP/s, before and after all else, by backend.
        parity: of the engines.
    """

    settings: SpeedSettings
    track: Track = untracked
    works: dict[str, Measured] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    products: dict[str, list[float]] = field(default_factory=dict)
    parity: list[Parity] = field(default_factory=list)

    def measure(
        self,
        sampler: EpisodeSampler | None,
        training: Training | None,
        titles: Sequence[str] = (),
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Measures everything.

        Args:
            sampler: whose episodes are drawn; None to leave that out.
            training: whose meta-training is timed; None to leave that out.
            titles: that the encoders encode; none to leave that out.
            checkpoint: of a BERT that adapts; None to leave that out.
        """
        self.compare_engines()
        self.time_product()
        for name in (STEP_SECOND, STEP_FIRST, STEP_LARGE):
            if self.settings.measures(name):
                self.time_steps(name)
        if self.settings.measures(CATALOGUE):
            self.time_catalogue()
        if sampler is not None:
            self.time_sampling(sampler)
        if training is not None:
            self.time_training(training)
        if titles:
            self.time_encoding(titles)
        if checkpoint is not None and "torch" in self.settings.backends:
            self.time_bert(checkpoint)
        self.time_product()

    def compare_engines(self) -> None:
        """The parity of the engines, learn2learn the reference."""
        engines = [("torch", LEARN2LEARN)]
        engines += [(name, kind) for name in self.settings.backends for kind in ("gram", "vmap")]
        work = self.settings.step
        work = replace(work, tasks=min(work.tasks, PARITY_TASKS))
        self.parity = parity(engines, work, PARITY_STEPS)

    def time_product(self) -> None:
        """The machine's own rate."""
        contenders = {
            name: backend_of(name).product(self.settings.matrix_size, self.settings.device)
            for name in self.settings.backends
        }
        measured = self._timed("matrix product", contenders)
        for name, contender in contenders.items():
            rate = (contender.gflop or 0) / measured.milliseconds(name) * 1000
            self.products.setdefault(name, []).append(rate)

    def time_steps(self, name: str) -> None:
        """Times the engines, sees which operators take the time, and measures memory."""
        settings, work = self.settings, self.settings.step_of(name)
        contenders: dict[str, Contender] = {}
        compiled = settings.compile and name != STEP_LARGE
        for backend in settings.backends:
            contenders |= backend_of(backend).steps(work, settings.device, compiled)
        if name == STEP_LARGE:
            # its loop takes seconds, and just so many times those of the small step
            contenders.pop(LEARN2LEARN)
        measured = self.works[name] = self._timed(name, contenders)
        needing: dict[str, None] = {}
        for bound in TABLE:
            if bound.work == name and bound.contender in measured.contenders:
                contender = measured.contenders[bound.contender]
                measured.operators[bound.contender] = backend_of(bound.backend).operators(
                    contender, settings.device
                )
                needing[bound.contender] = None
                if bound.memory_at_most is not None and isinstance(bound.reference, str):
                    needing[bound.reference] = None
        advance = self.track(f"{name}: memory", settings.memory_repeats * len(needing))
        for _ in range(settings.memory_repeats):
            for name_of_engine in needing:
                backend, _, engine = name_of_engine.partition(" ")
                peak = peak_mebibytes(backend, engine, settings.device, work)
                if peak is not None:
                    measured.mebibytes.setdefault(name_of_engine, []).append(peak)
                advance()

    def time_catalogue(self) -> None:
        """Times adapting to a user and scoring all items."""
        settings = self.settings
        contenders: dict[str, Contender] = {}
        for name in settings.backends:
            contenders |= backend_of(name).catalogue(
                settings.step, settings.catalogue_items, settings.device
            )
        self.works[CATALOGUE] = self._timed(CATALOGUE, contenders)

    def time_sampling(self, sampler: EpisodeSampler) -> None:
        """Times drawing episodes from meta-train, on one core."""

        def draw() -> None:
            for step in range(self.settings.sampling.batches):
                sampler.batch(step)

        items = sampler.task_batch * self.settings.sampling.batches
        with one_core():
            self.works[SAMPLING] = self._timed(SAMPLING, {"sampler": Contender(draw, items)})

    def time_training(self, training: Training) -> None:
        """Times whole trainings, then each part of an outer step by itself."""
        settings, sizes = self.settings, self.settings.training
        contenders, parts = {}, {}
        for backend in settings.backends:
            for order in (FIRST_ORDER, SECOND_ORDER):
                name, module = f"{backend} {order}", backend_of(backend)
                work = replace(
                    settings.step, tasks=sizes.task_batch, first_order=order == FIRST_ORDER
                )
                contenders[name] = module.training(
                    training, work, sizes.outer_steps, settings.device
                )
                parts[name] = module.stages(training, work, settings.device)
        self.works[TRAINING] = self._timed(TRAINING, contenders, sizes.repeats)
        for name, stages in parts.items():
            measured = self._timed(f"{TRAINING}, {name}: parts", stages)
            self.stages[name] = {stage: measured.milliseconds(stage) for stage in stages}

    def time_encoding(self, titles: Sequence[str]) -> None:
        """Times the encoders of the backends on titles."""
        contenders = {
            f"{name} encoder": backend_of(name).encoding(titles, self.settings.device)
            for name in self.settings.backends
        }
        self.works[ENCODING] = self._timed(ENCODING, contenders, self.settings.encoding_repeats)

    def time_bert(self, checkpoint: Checkpoint) -> None:
        """Times a BERT that adapts, which is PyTorch's alone, and measures its memory."""
        settings, bert = self.settings, of_bert()
        if settings.measures(BERT_STEP):
            contenders = bert.steps(settings.bert, checkpoint, settings.device)
            measured = self._timed(BERT_STEP, contenders, settings.bert_repeats)
            self.works[BERT_STEP] = measured
            advance = self.track(f"{BERT_STEP}: memory", settings.memory_repeats)
            for _ in range(settings.memory_repeats):
                peak = peak_of_process(OF_BERT, str(checkpoint.folder), settings.device)
                if peak is not None:
                    measured.mebibytes.setdefault(LAST, []).append(peak)
                advance()
        if settings.measures(BERT_USER):
            contenders = bert.user(settings.bert, checkpoint, settings.device)
            self.works[BERT_USER] = self._timed(BERT_USER, contenders, settings.bert_repeats)

    def rows(self) -> list[tuple[Bound, Row]]:
        """Each bound of what was measured, and its row, in the order of the table."""
        peaks = {name: max(rates) for name, rates in self.products.items()}
        found = []
        for bound in TABLE:
            if bound.work in self.works and bound.backend in self.settings.backends:
                row = row_of(bound, self.works[bound.work], peaks)
                found += [] if row is None else [(bound, row)]
        return found

    def details(self) -> dict[str, Any]:
        """All that was measured, for JSON."""
        return {
            "settings": asdict(self.settings),
            "sizes_as_promised": self.settings.as_promised,
            "product_gflop_per_second": self.products,
            "works": {name: measured.details() for name, measured in self.works.items()},
            "milliseconds_of_parts_of_training": self.stages,
            "parity": [asdict(row) for row in self.parity],
        }

    def _timed(
        self, description: str, contenders: Mapping[str, Contender], repeats: int | None = None
    ) -> Measured:
        repeats = self.settings.repeats if repeats is None else repeats
        advance = self.track(description, len(contenders) * (1 + repeats))
        seconds = self.settings.least_milliseconds / 1000
        return interleaved(contenders, repeats, seconds, advance)
