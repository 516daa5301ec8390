from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from choice_records import COMMON, TARGET, measured_at
from fake_records import fake_record

from metarec.report.labels import ADAPTED
from metarec.runs.store import Record

MakeRecord = Callable[..., Record]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    # How exact an interval is is the business of significance.py; here it has to be fast.
    tables = ("meta_minus_transfer", "adaptation", "choices_tables", "ranking")
    for module in ("selection", "notes", *tables):
        monkeypatch.setattr(f"metarec.report.{module}.RESAMPLES", 200)


@pytest.fixture
def make_record(tmp_path: Path) -> MakeRecord:
    """Writes a record with the real writer; `quality` is about the learner's nDCG@10."""
    return partial(fake_record, tmp_path / "results")


@pytest.fixture
def make_choice(make_record: MakeRecord) -> MakeRecord:
    """Writes a record of what adapts, in the form of the experiment."""

    def make(adapted="lora", reads="bi", meta=True, quality=0.3, seed=0, name=None, **given):
        kind = "maml" if meta else "transfer"
        suffix = "" if reads == "bi" else "_cross"
        name = name or f"bert_{kind}{suffix}_{adapted}"
        arguments = {
            "reads": reads, "adapted": adapted, "inner_steps": 3, "steps": 60,
            "bert_inner_learning_rate": 0.0 if adapted == "head" else 0.03,
        } | given.pop("arguments", {})  # fmt: skip
        target = f"metarec.torch.bert_{kind}.Bert{'MAML' if meta else 'Transfer'}"
        place = list(ADAPTED).index(adapted) if adapted in ADAPTED else 0
        cost = (0.1 + place / 10) * (4 if reads == "cross" else 1)
        values = {
            "without_steps": quality - 0.05,
            "more": measured_at(cost, 1 + place / 10, 20_000 * (place + 1)),
        }
        own = COMMON | values | given
        return make_record(name, quality, seed=seed, target=target, arguments=arguments, **own)

    return make


@pytest.fixture
def own_order(make_record: MakeRecord) -> MakeRecord:
    """Writes a record of the retriever by itself."""

    def make(seed=0, quality=0.25, **given):
        values = {"more": measured_at(0.001, 0.5, 10_000_000)}
        own = COMMON | values | given
        return make_record("item_knn", quality, seed=seed, target=TARGET, **own)

    return make


@pytest.fixture
def plan(make_choice: MakeRecord, own_order: MakeRecord) -> Callable[..., list[Record]]:
    """The records of a small plan of the experiment."""

    def make(adapted=("head", "lora"), reads=("bi",), meta=(False, True), seeds=(0, 1)):
        records = [own_order(seed) for seed in seeds]
        for reader in reads:
            for part in adapted:
                for learner in meta:
                    quality = 0.26 + 0.03 * list(ADAPTED).index(part) / 7
                    quality += 0.02 * learner + 0.03 * (reader == "cross")
                    for seed in seeds:
                        records.append(make_choice(part, reader, learner, quality, seed))
        return records

    return make
