"""`experiments/what_to_adapt.py` from end to end, over a BERT of a few words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_checkpoint import small_encoder

from metarec.runs import load_records

Script = Callable[..., int]

WORDS = ("the", "silent", "golden", "last", "harbour", "winter", "garden", "case", "liked", "drama")
TINY = [
    f"text.checkpoint={small_encoder(WORDS).checkpoint.folder}",
    "text.max_length=8",
    "evaluation.k_curve=[1,3]",
    "evaluation.shortlist=10",
    "evaluation.tasks=5",
    "episode.train_k_shot=[1,3]",
    "episode.query_size=4",
    "episode.task_batch=2",
    "plan.paper=paper",
    "plan.workers=1",
    "plan.fresh=false",
    "plan.seeds=[0]",
    "plan.retrievers=[popularity,item_knn]",
    "plan.rates=[0.1,1.0]",
    "plan.tuning_steps=1",
    "plan.head_steps=2",
    "plan.values={steps:2,validate_every:1,hidden_sizes:[4],pair_length:16}",
]


def test_it_draws_tunes_runs_and_reports(
    script: Script,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("METAREC_CACHE", str(tmp_path / "cache"))
    own = [
        "plan.rates_of={lora:[0.2,2.0]}",
        "plan.seeds=[0,1]",
        "plan.seeds_of={head:{cross:1},lora:{bi:1,cross:1}}",
    ]
    given = [*TINY, "plan.adapted=[head,lora]", *own]
    assert script("what_to_adapt", *given) == 0
    results = tmp_path / "results"
    chosen = load_records(results, "what_to_adapt_validation")
    # nothing is chosen by test
    assert all(record.metrics.keys() == {"validation"} for record in chosen)
    assert len(chosen) == 2 * 2 + 2
    baselines = {
        name: [one.content["selection"] for one in chosen if one.learner == name]
        for name in ("popularity", "item_knn")
    }
    best = max(baselines, key=lambda name: sum(baselines[name]))
    trials = {
        one.config.learner.arguments["bert_inner_learning_rate"]: one.content["selection"]
        for one in chosen
        if one.learner == "bert_maml_lora"
    }
    assert trials.keys() == {0.2, 2.0}

    records = load_records(results, "what_to_adapt")
    # the retriever, and two choices by two learners that read in two ways; of the seeds as many as
    # are asked for
    seeds = [one.seed for one in records if one.learner == "bert_maml_head"]
    assert sorted(seeds) == [0, 1]
    assert len(records) == 2 + 2 * 2 * 2 + 2
    for record in records:
        evaluation = record.config.evaluation
        assert evaluation.retriever is not None
        assert (evaluation.retriever.name, evaluation.shortlist) == (best, 10)
        assert record.metrics.keys() == {"test"}
        frame = record.per_task
        assert set(frame.loc[frame["evaluation"] == "curve", "k_shot"]) == {1, 3}
        assert "shortlist/recall" in frame
        if "lora" in record.learner:
            rate = record.config.learner.arguments["bert_inner_learning_rate"]
            assert trials[rate] == max(trials.values())
    timed = load_records(results, "what_to_adapt_seconds")
    assert {one.learner for one in timed} == {one.learner for one in records}
    assert {one.seed for one in timed} == {0}
    steps = {one.learner: one.config.learner.arguments.get("steps") for one in timed}
    assert {steps[one] for one in steps if one.startswith("bert")} == {1}
    twins = {
        (one.config.learner.arguments["reads"], one.config.learner.arguments["adapted"]): {}
        for one in records
        if one.learner.startswith("bert")
    }
    for one in records:
        if one.learner.startswith("bert"):
            arguments = one.config.learner.arguments
            twins[arguments["reads"], arguments["adapted"]][one.learner] = (
                dict(arguments), one.content["parameters"],
            )  # fmt: skip
    for pair in twins.values():
        (first, count), (second, other_count) = pair.values()
        assert (first, count) == (second, other_count)

    printed = capsys.readouterr().out
    assert f"{best} draws the candidates" in printed
    table = (tmp_path / "paper" / "tables" / "what_to_adapt.md").read_text()
    assert "Chance" in table
    assert "users in runs of their own, one at a time" in table
    assert (tmp_path / "paper" / "figures" / "what_to_adapt.png").stat().st_size > 1000
    assert json.loads((tmp_path / "paper" / "records" / "what_to_adapt.json").read_text())

    # what is finished is not run again
    times = {record.path: (record.path / "record.json").stat().st_mtime for record in records}
    assert script("what_to_adapt", *given) == 0
    again = load_records(results, "what_to_adapt")
    assert {record.path: (record.path / "record.json").stat().st_mtime for record in again} == times


def test_a_run_that_fails_is_named_when_the_others_are_done(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*TINY, "plan.adapted=[head]", "plan.reads=[bi]"]
    assert script("what_to_adapt", *given, "plan.values={steps:1,patience:0,hidden_sizes:[4]}") == 1
    captured = capsys.readouterr()
    assert "bert_transfer_head, seed 0" in captured.err
    assert "patience=0" in captured.err
    records = load_records(tmp_path / "results", "what_to_adapt")
    assert [one.learner for one in records if one.status == "finished"] == ["item_knn"]


def test_another_experiment_has_no_such_plan(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("what_to_adapt", "experiment=paper") == 1
    assert "choose experiment=what_to_adapt" in capsys.readouterr().err
