from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from metarec.errors import RunError
from metarec.runs import RunConfig, load_records, run

Make = Callable[..., RunConfig]


@pytest.fixture
def results(make_config: Make, tmp_path: Path) -> Path:
    """Two finished runs of two experiments, and one that failed."""
    quick = make_config(evaluation={"parts": ["validation"]})
    run(quick, tmp_path / "results")
    run(replace(quick, experiment="other", seed=1), tmp_path / "results")
    with pytest.raises(RuntimeError):
        run(make_config("Broken"), tmp_path / "results")
    return tmp_path / "results"


def test_records_are_read_in_the_order_of_their_folders(results: Path) -> None:
    records = load_records(results)
    names = [(record.learner, record.seed, record.status) for record in records]
    assert names == [("broken", 0, "failed"), ("walk", 0, "finished"), ("walk", 1, "finished")]
    assert [record.seed for record in load_records(results, "other")] == [1]
    assert load_records(results, "none") == []


def test_a_record_says_what_made_it(results: Path) -> None:
    record = load_records(results, "other")[0]
    assert record.config.experiment == "other"
    assert len(record.code) == 64
    assert len(record.data_checksum or "") == 64
    assert record.seconds.keys() == {"fit", "evaluate", "total"}
    assert record.log[0]["step"] == 0
    assert {"task", "evaluation", "adapted"} <= set(record.per_task.columns)


def test_a_folder_without_record_does_not_count(results: Path) -> None:
    for record in load_records(results):
        (record.path / "record.json").unlink()
    assert load_records(results) == []


def test_no_results_are_an_error() -> None:
    with pytest.raises(RunError, match="make paper"):
        load_records("nowhere")


@pytest.mark.parametrize("file", ["record.json", "config.yaml"])
def test_a_broken_record_is_an_error_that_names_it(results: Path, file: str) -> None:
    path = load_records(results, "other")[0].path
    (path / file).write_text('{"status": "fin')
    with pytest.raises(RunError, match=path.name):
        load_records(results)


def test_results_per_task_that_are_lost_are_an_error(results: Path) -> None:
    record = load_records(results, "other")[0]
    (record.path / "per_task.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"per_task\.parquet"):
        _ = record.per_task


def test_a_run_without_meta_parameters_says_so(results: Path) -> None:
    failed = load_records(results)[0]
    with pytest.raises(RunError, match="no meta-parameters"):
        failed.meta_parameters()
