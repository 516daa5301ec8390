from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metarec.runs import RunConfig, load_records, run
from metarec.runs.share import covers

Make = Callable[..., RunConfig]

WITHOUT_CURVE = {"k_curve": []}
KNN = {"name": "item_knn", "_target_": "metarec.baselines.knn.ItemKNN"}
RERANK = {"shortlist": 10, "retriever": KNN}
TUNED = {"data": "tiny", "kind": "binary", "values": {"neighbours": 50}}


def run_in(tmp_path: Path, config: RunConfig, experiment: str, **options: Any) -> Any:
    return run(replace(config, experiment=experiment), tmp_path / "results", **options)


@pytest.mark.parametrize("evaluation", [{}, WITHOUT_CURVE, {"parts": ["test"]}])
def test_a_finished_run_of_another_experiment_is_copied(
    make_config: Make, fakes: ModuleType, tmp_path: Path, evaluation: dict[str, Any]
) -> None:
    first = run_in(tmp_path, make_config(), "one")
    fits = len(fakes.Walk.fitted)
    wanted = make_config(evaluation=evaluation)
    record = run_in(tmp_path, wanted, "two", share=["absent", "one"])
    assert len(fakes.Walk.fitted) == fits
    assert record.path == tmp_path / "results" / "two" / first.path.name
    assert record.content == first.content
    assert record.per_task.equals(first.per_task)
    assert record.meta_parameters().keys() == first.meta_parameters().keys()
    # a later call finds the copy, also where the other experiment is gone
    assert run_in(tmp_path, wanted, "two", share=["absent"]).path == record.path
    assert [one.path for one in load_records(tmp_path / "results", "two")] == [record.path]
    assert len(fakes.Walk.fitted) == fits


def test_without_being_told_nothing_is_shared(
    make_config: Make, fakes: ModuleType, tmp_path: Path
) -> None:
    run_in(tmp_path, make_config(), "one")
    fits = len(fakes.Walk.fitted)
    run_in(tmp_path, make_config(), "two")
    assert len(fakes.Walk.fitted) == fits + 1


def test_a_run_of_other_code_is_not_taken_over(
    make_config: Make, fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in(tmp_path, make_config(), "one")
    fits = len(fakes.Walk.fitted)
    monkeypatch.setattr("metarec.runs.environment.code_hash", lambda: "0" * 64)
    run_in(tmp_path, make_config(), "two", share=["one"])
    assert len(fakes.Walk.fitted) == fits + 1


def test_a_failed_run_is_not_taken_over_and_gives_way_to_a_copy(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: ModuleType
) -> None:
    wanted = make_config(evaluation=WITHOUT_CURVE)

    def fail(*_: object) -> None:
        raise RuntimeError("no luck")

    with monkeypatch.context() as broken:
        broken.setattr(fakes.Walk, "fit", fail)
        for experiment in ("one", "two"):
            with pytest.raises(RuntimeError):
                run_in(tmp_path, wanted, experiment, share=["one"])
    run_in(tmp_path, make_config(), "one")
    record = run_in(tmp_path, wanted, "two", share=["one"])
    assert record.status == "finished"
    assert [one.path for one in load_records(tmp_path / "results", "two")] == [record.path]


@pytest.mark.parametrize(
    ("have", "want", "enough"),
    [
        ({}, {}, True),
        ({}, WITHOUT_CURVE, True),
        (WITHOUT_CURVE, {}, False),
        ({}, {"curve_regimes": []}, True),
        ({}, {"k_curve": [0, 1]}, False),
        ({"parts": ["validation"]}, {}, False),
        ({}, {"cutoffs": [5]}, True),
        ({}, {"cutoffs": [20]}, False),
        ({}, {"regime_k_shot": {"user_cold": 5}}, False),
        ({"regime_k_shot": {"user_cold": 5}}, {}, False),
        ({"regime_k_shot": {"user_cold": [3, 5]}}, {}, True),
        # the first is what early stopping looks at
        ({"regime_k_shot": {"user_cold": [5, 3]}}, {}, False),
        # early stopping looks at the regimes: other regimes, other training
        ({}, {"regimes": ["user_cold"]}, False),
        ({}, {"regimes": ["both_cold", "item_cold", "user_cold", "warm"]}, True),
        ({}, {"chunk": 1}, True),
        # of another shortlist, or other tasks, the same metric is another number
        ({}, RERANK, False),
        (RERANK, {}, False),
        (RERANK, RERANK, True),
        (RERANK, RERANK | {"shortlist": 20}, False),
        (RERANK, RERANK | {"retriever": KNN | {"neighbours": 5}}, False),
        (RERANK, RERANK | {"retriever": KNN | {"search": {"neighbours": [5]}}}, True),
        (RERANK, RERANK | {"retriever": KNN | {"tuned": TUNED}}, True),
        ({}, {"tasks": 4}, False),
        ({"tasks": 4}, {}, False),
        ({"tasks": 4}, WITHOUT_CURVE | {"tasks": 4}, True),
        # early stopping looks at so many
        ({}, {"look_tasks": 4}, False),
        ({}, {"curve_unadapted": False}, True),
        ({"curve_unadapted": False}, {}, False),
        ({"curve_unadapted": False}, WITHOUT_CURVE, True),
    ],
)
def test_a_run_covers_what_it_has_measured(
    make_config: Make, have: dict[str, Any], want: dict[str, Any], enough: bool
) -> None:
    assert covers(make_config(evaluation=have), make_config(evaluation=want)) == enough


def test_where_values_were_tuned_makes_no_other_run(make_config: Make) -> None:
    plain, tuned = make_config(), make_config(arguments={"tuned": TUNED})
    assert covers(plain, tuned)
    assert covers(tuned, plain)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"episode": {"k_shot": 2}}, {"arguments": {"rate": 0.2}}]
)
def test_a_run_does_not_cover_another(make_config: Make, other: dict[str, Any]) -> None:
    assert not covers(make_config(), make_config(**other))


def test_under_a_protocol_a_cutoff_counts_as_measured_only_if_it_was(make_config: Make) -> None:
    protocol = {"name": "tanp", "history": [2, 100], "query": 1, "selection": "rated/ndcg@5"}
    few, more = (
        make_config(protocol=protocol, evaluation={"cutoffs": cutoffs})
        for cutoffs in ([5], [5, 10])
    )
    assert covers(more, few)
    assert not covers(few, more)


def test_a_record_that_cannot_be_read_is_passed_over(
    make_config: Make, fakes: ModuleType, tmp_path: Path
) -> None:
    record = run_in(tmp_path, make_config(), "one")
    config = record.path / "config.yaml"
    config.write_text(config.read_text() + "no_such_key: 1\n")
    assert run_in(tmp_path, make_config(), "two", share=["one"]).status == "finished"


def test_the_curve_of_users_does_not_matter_to_item_tasks(make_config: Make) -> None:
    episode = {"task": "item"}
    with_curve = make_config(episode=episode)
    assert covers(make_config(episode=episode, evaluation=WITHOUT_CURVE), with_curve)
    other = make_config(episode=episode, evaluation={"item_k_curve": [0]})
    assert not covers(other, with_curve)
