from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from metarec.data.dataset import Dataset
from metarec.errors import ConfigError, DataError, EpisodeError, LearnerError, RunError, TextError
from metarec.runs import Record, RunConfig, load_records, run
from metarec.runs.prepare import prepare
from metarec.runs.resume import Checkpointer

Make = Callable[..., RunConfig]


def same_results(one: Record, other: Record) -> bool:
    """Whether two records hold the same bits, wherever they lie."""
    pd.testing.assert_frame_equal(one.per_task, other.per_task, check_exact=True)
    here, there = one.meta_parameters(), other.meta_parameters()
    assert here.keys() == there.keys()
    for name in here:
        np.testing.assert_array_equal(here[name], there[name], strict=True)
    keys = ("metrics", "without_adaptation", "selection", "log", "counts", "hash")
    return all(one.content[key] == other.content[key] for key in keys)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, saves: int) -> None:
    """Ctrl-C arrives once the training has kept so many states."""
    save, count = Checkpointer.save, [0]

    def counting(self: Checkpointer, *arguments: Any) -> None:
        save(self, *arguments)
        count[0] += 1
        if count[0] == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpointer, "save", counting)


def test_a_run_leaves_its_record(make_config: Make, tmp_path: Path) -> None:
    config = make_config(seed=2)
    record = run(config, tmp_path / "results")
    assert record.path.parent == tmp_path / "results" / "benchmark"
    assert record.path.name == f"walk-user-binary-s2-{record.hash[:12]}"
    assert sorted(file.name for file in record.path.iterdir()) == [
        "checkpoint",
        "config.yaml",
        "per_task.parquet",
        "record.json",
    ]
    assert RunConfig.from_dict(yaml.safe_load((record.path / "config.yaml").read_text())) == config
    assert record.status == "finished"
    assert record.meta_parameters().keys() == {"scores"}
    content = json.loads((record.path / "record.json").read_text())
    for key in ("commit", "code", "versions", "machine", "device", "threads", "data_checksum"):
        assert key in content
    assert content["dataset"] == record.dataset == prepare(config, False).dataset.name
    assert content["peak_memory_bytes"] > 0
    assert content["seconds"]["total"] >= content["seconds"]["fit"] > 0
    assert content["parameters"] == record.meta_parameters()["scores"].size


@pytest.mark.parametrize(
    ("threshold", "warned"), [(2.0, True), (3.0, False), (5.0, False), (6.0, True)]
)
def test_a_threshold_of_another_scale_is_warned_of(
    threshold: float, warned: bool, make_config: Make, tmp_path: Path
) -> None:
    config = make_config(episode={"threshold": threshold})
    told = rf"threshold={threshold:g} is meant for .*: the ratings of '\w+' are 1 to 5, and \d+%"
    expected = pytest.warns(UserWarning, match=told) if warned else nullcontext()
    # where nothing is liked there is nothing to stop training by either
    unable = pytest.raises(ConfigError, match="lower the threshold")
    with expected, unable if threshold > 5 else nullcontext():
        run(config, tmp_path / "results")


def test_what_a_run_measures(make_config: Make, tmp_path: Path) -> None:
    record = run(make_config(), tmp_path / "results")
    frame = record.per_task
    regimes = ["both_cold", "item_cold", "user_cold", "warm"]
    main = frame[frame["evaluation"] == "main"]
    assert set(main["k_shot"]) == {3}
    for part in ("validation", "test"):
        assert sorted(main[main["part"] == part]["regime"].unique()) == regimes
        assert record.metrics[part].keys() == set(regimes)
    curve = frame[frame["evaluation"] == "curve"]
    assert set(curve["part"]) == {"test"}
    assert set(curve["regime"]) == {"user_cold"}
    assert set(curve["k_shot"]) == {0, 1, 3}
    tasks = curve[curve["adapted"]].groupby("k_shot")["task"].apply(tuple)
    assert tasks.nunique() == 1
    queries = curve[curve["adapted"]].groupby("k_shot")["n_query"].apply(tuple)
    assert queries.nunique() == 1


def test_the_means_of_the_record_are_those_of_its_tasks(make_config: Make, tmp_path: Path) -> None:
    record = run(make_config(), tmp_path / "results")
    frame = record.per_task
    rows = frame[(frame["evaluation"] == "main") & frame["adapted"]]
    for part, regimes in record.metrics.items():
        for regime, metrics in regimes.items():
            here = rows[(rows["part"] == part) & (rows["regime"] == regime)]
            mean = here["catalogue/ndcg@10"].mean()
            assert metrics["catalogue/ndcg@10"] == pytest.approx(mean, rel=1e-12)
            assert record.content["counts"][part][regime]["tasks"] == len(here)
            chance = record.chance[part][regime]["catalogue/chance/auc"]
            assert chance == pytest.approx(0.5)
    cold = [record.metrics["validation"][r]["catalogue/ndcg@10"] for r in ("user_cold",
            "item_cold", "both_cold")]  # fmt: skip
    assert record.selection == pytest.approx(np.mean(cold))


def test_a_learner_that_adapts_is_measured_without_adapting_too(
    make_config: Make, tmp_path: Path
) -> None:
    record = run(make_config(), tmp_path / "results")
    frame = record.per_task
    keys = ["evaluation", "part", "regime", "k_shot", "task", "n_query"]
    pd.testing.assert_frame_equal(
        frame[frame["adapted"]][keys].reset_index(drop=True).sort_values(keys, ignore_index=True),
        frame[~frame["adapted"]][keys].reset_index(drop=True).sort_values(keys, ignore_index=True),
    )
    with_steps, without = record.metrics["test"]["user_cold"], record.without_adaptation["test"]
    assert with_steps["catalogue/auc"] != without["user_cold"]["catalogue/auc"]


def test_a_learner_without_adaptation_is_measured_once(make_config: Make, tmp_path: Path) -> None:
    config = make_config("metarec.baselines.popularity.Popularity")
    config = replace(config, learner=replace(config.learner, name="popularity"))
    record = run(config, tmp_path / "results")
    assert record.per_task["adapted"].all()
    assert record.without_adaptation == {}
    assert not (record.path / "checkpoint").exists()


def test_ratings_are_selected_by_their_error(make_config: Make, tmp_path: Path) -> None:
    record = run(make_config(episode={"feedback": "rating"}), tmp_path / "results")
    errors = [
        record.metrics["validation"][regime]["rated/rmse"]
        for regime in ("user_cold", "item_cold", "both_cold")
    ]
    assert record.selection == pytest.approx(-np.mean(errors))


def test_item_tasks_have_one_regime_and_a_curve_of_their_own(
    make_config: Make, tmp_path: Path
) -> None:
    record = run(make_config(episode={"task": "item"}), tmp_path / "results")
    assert set(record.per_task["regime"]) == {"item_cold"}
    curve = record.per_task[record.per_task["evaluation"] == "curve"]
    assert set(curve["k_shot"]) == {0, 2}


def test_seconds_per_task_are_those_of_test_and_of_every_k_of_the_curve(
    make_config: Make, tmp_path: Path
) -> None:
    seconds = run(make_config(), tmp_path / "results").seconds_per_task
    assert list(seconds) == ["adapt", "score", "curve"]
    assert list(seconds["curve"]) == ["0", "1", "3"]
    for one in ({**seconds}, *seconds["curve"].values()):
        assert 0 < one["adapt"] < 1
        assert 0 < one["score"] < 1
    validation = make_config(evaluation={"parts": ["validation"]})
    assert run(validation, tmp_path / "results").seconds_per_task == {}


@pytest.mark.parametrize(
    ("curve", "measured"),
    [
        # 2 parts in 4 regimes, and each K of the curve, with and without adapting
        ([0, 1], 8 + 2),
        # its largest K is that of the main evaluation, with the same reserve
        ([0, 1, 3], 8 + 2),
        # more in reserve: fewer candidates and queries, so other episodes at K=3 too
        ([0, 3, 4], 8 + 3),
    ],
)
def test_what_the_curve_has_in_common_with_the_main_evaluation_is_measured_once(
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    curve: list[int],
    measured: int,
) -> None:
    from metarec.runs import measure

    calls, evaluate = [], measure.evaluate

    def counting(*arguments: Any, **options: Any) -> Any:
        calls.append(options["cutoffs"])
        return evaluate(*arguments, **options)

    monkeypatch.setattr(measure, "evaluate", counting)
    record = run(make_config(evaluation={"k_curve": curve}), tmp_path / "results")
    # looks at validation ask for nothing but the cutoff 10
    assert calls.count((5, 10)) == 2 * measured
    frame = record.per_task.query("part == 'test' and regime == 'user_cold' and k_shot == 3")
    main, again = (frame[frame["evaluation"] == kind] for kind in ("main", "curve"))
    assert len(main)
    if max(curve) == 3:
        pd.testing.assert_frame_equal(
            main.drop(columns="evaluation").reset_index(drop=True),
            again.drop(columns="evaluation").reset_index(drop=True),
        )


def test_a_limit_on_tasks_leaves_the_same_ones_to_every_seed(
    make_config: Make, tmp_path: Path
) -> None:
    limited = {"tasks": 4}
    records = [
        run(make_config(seed=seed, evaluation=limited), tmp_path / "results") for seed in (0, 1)
    ]
    keys = ["evaluation", "part", "regime", "k_shot", "adapted"]
    one, other = (record.per_task.groupby(keys)["task"].apply(tuple) for record in records)
    assert set(one.map(len)) == {4}
    assert one.equals(other)
    everyone = run(make_config(), tmp_path / "results")
    for part, regimes in records[0].content["counts"].items():
        for regime, counts in regimes.items():
            whole = everyone.content["counts"][part][regime]
            beyond = counts["left_out"].pop("beyond evaluation.tasks")
            assert counts["tasks"] + beyond == whole["tasks"]
            assert counts["left_out"] == whole["left_out"]
    # the training does not know of the limit
    assert records[0].log == everyone.log


def test_a_finished_run_is_never_run_again(
    make_config: Make, fakes: ModuleType, tmp_path: Path
) -> None:
    first = run(make_config(), tmp_path / "results")
    before = (first.path / "record.json").stat().st_mtime_ns
    assert fakes.Walk.fitted == [0]
    again = run(make_config(), tmp_path / "results")
    assert fakes.Walk.fitted == [0]
    assert again.path == first.path
    assert (again.path / "record.json").stat().st_mtime_ns == before


def test_another_seed_argument_or_data_set_is_another_run(
    make_config: Make, tiny_files: dict[str, str], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    names = {run(make_config(), results).path.name}
    names.add(run(make_config(seed=1), results).path.name)
    names.add(run(make_config(arguments={"rate": 0.2}), results).path.name)
    lines = Path(tiny_files["interactions"]).read_text().splitlines()
    Path(tiny_files["interactions"]).write_text("\n".join(lines[:-1]) + "\n")
    names.add(run(make_config(), results).path.name)
    assert len(names) == 4


def test_the_seed_varies_training_and_orders_but_not_who_is_cold(
    make_config: Make, tmp_path: Path
) -> None:
    one, other = (run(make_config(seed=seed), tmp_path / "results") for seed in (0, 1))
    tasks = [
        set(record.per_task.query("regime == 'user_cold' and part == 'test'")["task"])
        for record in (one, other)
    ]
    assert tasks[0] == tasks[1]
    scores = [record.meta_parameters()["scores"] for record in (one, other)]
    assert not np.array_equal(*scores)


@pytest.mark.parametrize("saves", [1, 4, 6])
def test_an_interrupted_run_goes_on_and_ends_in_the_same_bits(
    make_config: Make,
    fakes: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    saves: int,
) -> None:
    whole = run(make_config(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, saves)
        with pytest.raises(KeyboardInterrupt):
            run(make_config(), tmp_path / "broken")
    assert load_records(tmp_path / "broken") == []
    resumed = run(make_config(), tmp_path / "broken")
    assert fakes.Walk.fitted == [0, 0, saves]
    assert same_results(whole, resumed)
    assert not (resumed.path / "training").exists()


def test_a_run_killed_outright_goes_on_in_another_process(
    make_config: Make, fakes: ModuleType, tmp_path: Path
) -> None:
    config = make_config()
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_dict()))
    program = f"""
import json, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from metarec.runs import RunConfig, run
from metarec.runs.resume import Checkpointer
save = Checkpointer.save
def save_and_die(self, tensors, state):
    save(self, tensors, state)
    if state["step"] == 3:
        os._exit(9)
Checkpointer.save = save_and_die
run(RunConfig.from_dict(json.load(open({str(file)!r}))), {str(tmp_path / "killed")!r})
"""
    root = Path(__file__).resolve().parents[2]
    died = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=120,
        check=False,
    )
    assert died.returncode == 9
    resumed = run(config, tmp_path / "killed")
    assert fakes.Walk.fitted == [3]
    assert same_results(run(config, tmp_path / "whole"), resumed)


def test_an_interrupted_run_may_be_started_anew(
    make_config: Make, fakes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(make_config(), tmp_path / "results")
    run(make_config(), tmp_path / "results", resume=False)
    assert fakes.Walk.fitted == [0, 0]


def test_a_failed_run_leaves_its_error_and_is_tried_again(
    make_config: Make, fakes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="NaN at step 3"):
        run(make_config("Broken"), tmp_path / "results")
    (record,) = load_records(tmp_path / "results")
    assert record.status == "failed"
    assert record.error == "RuntimeError: the loss is NaN at step 3"
    assert "fake_learners.py" in record.content["traceback"]
    monkeypatch.setattr(fakes.Broken, "fit", fakes.Walk.fit)
    assert run(make_config("Broken"), tmp_path / "results").status == "finished"
    (record,) = load_records(tmp_path / "results")
    assert record.error is None


def test_a_run_that_fails_before_its_data_is_read_leaves_its_error_until_it_succeeds(
    make_config: Make, tiny_files: dict[str, str], tmp_path: Path
) -> None:
    file = Path(tiny_files["interactions"])
    content = file.read_text()
    file.unlink()
    with pytest.raises(DataError):
        run(make_config(), tmp_path / "results")
    (record,) = load_records(tmp_path / "results")
    assert record.error is not None
    assert file.name in record.error
    file.write_text(content)
    run(make_config(), tmp_path / "results")
    assert [record.status for record in load_records(tmp_path / "results")] == ["finished"]


def test_a_full_disk_does_not_hide_what_went_wrong_first(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_space(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(RuntimeError, match="NaN") as caught:
        run(make_config("Broken"), tmp_path / "results")
    assert "could not be written" in caught.value.__notes__[0]


def test_an_argument_that_the_learner_does_not_take_is_an_error(
    make_config: Make, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"learner\.stepz.*did you mean 'steps'"):
        run(make_config(arguments={"stepz": 3}), tmp_path / "results")


def test_a_task_that_the_learner_does_not_serve_is_an_error(
    make_config: Make, fakes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fakes.Walk, "serves", frozenset({"user"}))
    with pytest.raises(LearnerError, match=r"episode\.task=user"):
        run(make_config(episode={"task": "item"}), tmp_path / "results")


def test_more_shots_than_any_history_is_an_error(make_config: Make, tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="k_shot"):
        run(make_config(episode={"k_shot": 1000}), tmp_path / "results")


def test_features_of_a_data_set_without_text_are_an_error(
    make_config: Make, tiny_files: dict[str, str], tmp_path: Path
) -> None:
    options = {"interactions": tiny_files["interactions"], "items": None}
    with pytest.raises(TextError, match="no item text"):
        run(make_config("WithFeatures", data={"options": options}), tmp_path / "results")


class Lengths:
    """A text encoder: vectors of the number of characters."""

    embedding_size = 2

    def __init__(self, key: str) -> None:
        self.feature_key = key

    def token_lengths(self, texts: Any) -> np.ndarray:
        return np.array([len(text) for text in texts], np.int64)

    def encode(self, texts: Any, batch_size: int = 64) -> np.ndarray:
        return np.array([[len(text), 1] for text in texts], np.float32)


def test_features_come_from_the_store_and_their_key_names_the_run(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from metarec.runs import prepare

    monkeypatch.setenv("METAREC_CACHE", str(tmp_path / "cache"))
    records = []
    for key in ("one", "two"):
        monkeypatch.setattr(prepare, "make_encoder", lambda text, backend, key=key: Lengths(key))
        prepare._made.clear()
        records.append(run(make_config("WithFeatures"), tmp_path / "results"))
        assert (tmp_path / "cache" / "features" / key).is_dir()
    lengths = records[0].meta_parameters()["scores"] - 1
    assert lengths.min() > 0
    assert records[0].content["feature_key"]
    assert records[0].hash != records[1].hash


def test_a_retriever_that_needs_features_gets_them(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from metarec.runs import prepare

    monkeypatch.setenv("METAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "make_encoder", lambda text, backend: Lengths("one"))
    retriever = {"name": "bert_cosine", "_target_": "metarec.baselines.bert_cosine.BertCosine"}
    rerank = {"shortlist": 10, "retriever": retriever}
    record = run(make_config(evaluation=rerank), tmp_path / "results")
    assert record.content["feature_key"]
    assert record.content["counts"]["test"]["both_cold"]["recall"] > 0


def test_the_curve_may_leave_out_what_does_not_adapt(make_config: Make, tmp_path: Path) -> None:
    """At `k_shot` the curve has the same episodes as what stands beside it, which is measured."""
    evaluation = {"regimes": ["user_cold"], "parts": ["test"], "k_curve": [1, 3]}
    both, one = (
        run(make_config(evaluation=evaluation | more, episode={"k_shot": 3}), tmp_path / "results")
        for more in ({}, {"curve_unadapted": False})
    )
    assert one.metrics == both.metrics
    assert one.content["without_adaptation"] == both.content["without_adaptation"] != {}
    rows = both.per_task
    kept = rows[(rows["k_shot"] == 3) | rows["adapted"]]
    assert len(kept) < len(rows)
    assert set(kept.loc[~kept["adapted"], "evaluation"]) == {"main", "curve"}
    pd.testing.assert_frame_equal(one.per_task, kept.reset_index(drop=True))


def test_a_look_at_validation_takes_so_many_tasks(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from metarec.runs import measure

    seen: list[int] = []
    some_tasks = measure.some_tasks

    def counted(episodes: Any, count: int, seed: int) -> Any:
        seen.append(count)
        return some_tasks(episodes, count, seed)

    monkeypatch.setattr(measure, "some_tasks", counted)
    run(make_config(evaluation={"look_tasks": 3}), tmp_path / "results")
    assert seen
    assert set(seen) == {3}


def test_where_there_can_be_no_results_nothing_is_run(
    make_config: Make, fakes: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    fits = len(fakes.Walk.fitted)
    with pytest.raises(RunError, match=r"results=.*file: .* cannot be made"):
        run(make_config(), tmp_path / "file")
    assert len(fakes.Walk.fitted) == fits


def test_a_training_that_nothing_can_stop_is_an_error(make_config: Make, tmp_path: Path) -> None:
    protocol = {"name": "own", "history": [4, 100], "query": 2, "selection": "rated/mae"}
    # it ranks, and has no error of ratings
    wanted = make_config(protocol=protocol, evaluation={"regimes": ["user_cold"]})
    with pytest.raises(ConfigError, match=r"selection='rated/mae' has no value .*predicts 'order'"):
        run(wanted, tmp_path / "results")


def test_a_published_split_that_changed_is_another_run(
    make_config: Make, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    source, data = tmp_path / "split.csv", tiny_dataset

    def write(first: int) -> None:
        lines = ["part,user_id,query_item_ids"]
        for user, name in enumerate(data.user_ids):
            part = "train" if user < 40 else "valid" if user < 50 else "test"
            items = data.item_ids[data.items[data.users == user]][first : first + 2]
            lines.append(f"{part},{name},{' '.join(items)}")
        source.write_text("\n".join(lines) + "\n")

    protocol = {"name": "own", "history": [4, 100], "query": 2, "selection": "graded/ndcg@5"}
    wanted = make_config(
        "metarec.baselines.popularity.Popularity",
        split={"method": "recbole_metarec", "source": str(source)},
        protocol=protocol,
        evaluation={"regimes": ["user_cold"]},
    )
    records = []
    for first in (0, 3, 0):
        write(first)
        records.append(run(wanted, tmp_path / "results"))
    assert records[0].content["episodes"] != records[1].content["episodes"]
    assert records[0].path != records[1].path
    assert records[2].path == records[0].path


def test_an_option_that_is_null_on_purpose_reaches_the_reader(
    make_config: Make, tiny_files: dict[str, str], tmp_path: Path
) -> None:
    from metarec.runs import prepare

    config = make_config(
        data={"options": {**tiny_files, "rating": None}}, episode={"feedback": "implicit"}
    )
    assert prepare.prepare(config, needs_features=False).dataset.feedback == "implicit"
    with pytest.raises(ConfigError, match="needs interactions="):
        run(make_config(data={"options": {"interactions": None}}), tmp_path / "results")


def test_the_same_data_is_loaded_once_a_process(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from metarec.runs import prepare

    prepare._made.clear()
    loads: list[str] = []
    load = prepare.load_dataset

    def counting(name: str, *arguments: Any, **options: Any) -> Any:
        loads.append(name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(prepare, "load_dataset", counting)
    for seed in range(3):
        run(make_config(seed=seed, evaluation={"parts": ["validation"]}), tmp_path / "results")
    assert loads == ["csv"]


@pytest.mark.parametrize("task", ["user", "item"])
def test_the_training_knows_the_attributes_of_items(make_config: Make, task: str) -> None:
    from metarec.attributes import build_attributes
    from metarec.runs import prepare

    config = make_config(episode={"task": task})
    materials = prepare.prepare(config, needs_features=False)
    found = prepare.training_of(config, materials, None, None, False).attributes
    expected = build_attributes(materials.split)
    assert found is not None
    assert expected is not None
    assert found.names == ("genres",)
    assert (found.values == expected.values).all()
    assert prepare.prepare(config, needs_features=False).attributes is found
