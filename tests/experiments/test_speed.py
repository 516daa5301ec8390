from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_checkpoint import small_encoder

from metarec.errors import LearnerError
from metarec.speed.settings import SpeedSettings
from metarec.torch import reference

Script = Callable[..., int]

has_learn2learn = importlib.util.find_spec("learn2learn") is not None

# The table of issue 3, in its order; its last row promises two rates.
PROMISED = [
    (
        "meta-training step, second order, B=32 tasks, K=Q=10, D=384, MLP 64-64-1, 5 inner steps",
        15,
    ),
    ("the same, first order", 15),
    ("the same, second order, B=512", 4),
    (
        "adapt to one user (5 steps) and score a catalogue of 100,000 items, frozen features, "
        "`X·W0` of the catalogue kept from user to user",
        2.5,
    ),
    ("sampling episodes, K=10, Q=20, one core", 20_000),
    (
        "meta-training, whole process with sampling, K=Q=10, 5 steps, the same scorer, first order",
        4_000,
    ),
    (
        "meta-training, whole process with sampling, K=Q=10, 5 steps, the same scorer, second "
        "order",
        2_000,
    ),
]
# The rows of issue 4, each beside its twin: JAX against learn2learn, and against PyTorch.
PROMISED_OF_JAX = [
    (PROMISED[0][0], 30),
    ("the same, against PyTorch's", 1 / 1.1),
    ("the same, second order, B=512, against PyTorch's", 1 / 1.1),
    ("the same user and catalogue, against PyTorch's", 1),
    ("encoding 2,000 titles", 1),
]
KEYS = [
    "name", "backend", "milliseconds", "reference", "reference_milliseconds", "ratio", "at_least",
    "gflop", "gflop_per_second", "peak_gflop_per_second", "peak_mebibytes",
]  # fmt: skip
TINY = [
    "text.checkpoint=absent",
    "speed.compile=false",
    "speed.repeats=3",
    "speed.least_milliseconds=0",
    "speed.memory_repeats=0",
    "speed.matrix_size=64",
    "speed.step={tasks:2,k_shot:2,query_size:2,feature_size:4,hidden_sizes:[3],inner_steps:2}",
    "speed.large_tasks=3",
    "speed.catalogue_items=20",
    "speed.sampling={k_shot:3,query_size:4,task_batch:8,batches:2}",
    "speed.training={task_batch:3,outer_steps:2,repeats:2}",
    "speed.titles=3",
    "speed.encoding_repeats=1",
]


def read(tmp_path: Path, name: str) -> Any:
    return json.loads((tmp_path / "results" / name).read_text())


def test_the_script_writes_the_table_of_the_issue(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("speed", *TINY) == 0
    every = read(tmp_path, "speed.json")
    for row in every:
        assert list(row) == KEYS
        assert row["milliseconds"] > 0
    rows, of_jax = (
        [row for row in every if row["backend"] == backend] for backend in ("torch", "jax")
    )
    assert len(rows) + len(of_jax) == len(every)
    assert [(row["name"], row["at_least"]) for row in rows] == PROMISED
    found = [(row["name"], row["at_least"]) for row in of_jax]
    # without the weights of the encoder there is nothing to encode
    assert found in (PROMISED_OF_JAX, PROMISED_OF_JAX[:-1])
    assert [row["reference"] for row in of_jax[1:4]] == ["torch gram"] * 2 + ["torch kept"]
    steps, rates = rows[:4], rows[4:]
    for row in steps:
        assert row["gflop_per_second"] == pytest.approx(row["gflop"] / row["milliseconds"] * 1000)
        assert row["peak_gflop_per_second"] > 0
        if row["reference"] is not None:
            times = row["reference_milliseconds"], row["milliseconds"]
            assert row["ratio"] == pytest.approx(times[0] / times[1])
    assert steps[2]["reference"] == "torch vmap"
    if has_learn2learn:
        assert [row["reference"] for row in steps[:2]] == ["learn2learn"] * 2
        assert steps[3]["reference"] == "learn2learn"
    for row in rates:
        assert row["ratio"] == pytest.approx(1000 / row["milliseconds"])
    assert rates[0]["reference"] is None
    assert rates[0]["gflop"] is None
    assert rates[1]["reference_milliseconds"] == pytest.approx(1000 / 420)
    assert rates[2]["reference_milliseconds"] == pytest.approx(1000 / 0.4)
    printed = capsys.readouterr().out
    assert "random numbers, for want of text features" in printed
    assert "the bounds do not apply" in printed


def test_the_details_hold_every_contender_the_machine_and_the_parity_table(
    script: Script, tmp_path: Path
) -> None:
    assert script("speed", *TINY, "speed.only=[first-order step,training]") == 0
    assert [row["backend"] for row in read(tmp_path, "speed.json")] == ["torch"] * 3
    details = read(tmp_path, "speed_details.json")
    assert {"machine", "threads", "versions", "code", "commit", "settings"} <= set(details)
    assert details["settings"]["step"]["hidden_sizes"] == [3]
    assert details["sizes_as_promised"] is False
    engines = details["works"]["first-order step"]
    assert {"torch gram", "torch vmap", "jax gram", "jax vmap", "learn2learn"} == set(engines)
    assert len(engines["torch gram"]["seconds_of_a_call"]) == 3
    assert len(details["works"]["training"]["torch second order"]["seconds_of_a_call"]) == 2
    parts = details["milliseconds_of_parts_of_training"]
    assert parts["torch first order"]["sampling"] > 0
    assert len(details["product_gflop_per_second"]["torch"]) == 2
    asked = {(row["order"], row["inner_steps"], row["engine"]) for row in details["parity"]}
    assert {("second order", 5, "torch vmap"), ("first order", 1, "jax gram")} <= asked
    assert max(row["loss"] for row in details["parity"]) < 1e-10
    assert max(row["meta_gradient"] for row in details["parity"]) < 1e-8


def test_without_learn2learn_its_rows_have_no_reference(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise LearnerError("learn2learn is not installed")

    monkeypatch.setattr(reference, "import_learn2learn", missing)
    assert script("speed", *TINY) == 0
    rows = [row for row in read(tmp_path, "speed.json") if row["backend"] == "torch"]
    assert [row["name"] for row in rows] == [name for name, _ in PROMISED]
    for row in (rows[0], rows[1], rows[3]):
        assert (row["reference"], row["ratio"]) == (None, None)
    step = read(tmp_path, "speed_details.json")["works"]["second-order step"]
    assert "learn2learn is not installed" in step["learn2learn"]["left_out"]


def test_a_bert_that_adapts_has_the_rows_of_issue_5(script: Script, tmp_path: Path) -> None:
    folder = small_encoder(("drama",)).checkpoint.folder
    sizes = "speed.bert={tasks:2,k_shot:2,query_size:2,tokens:6,inner_steps:2,hidden_sizes:[3]}"
    given = [f"text.checkpoint={folder}", "speed.only=[BERT step,BERT user]", sizes]
    kept = [one for one in TINY if not one.startswith("text.checkpoint")]
    assert script("speed", *kept, *given, "speed.bert_repeats=2", "speed.memory_repeats=1") == 0
    step, lora, user = read(tmp_path, "speed.json")
    assert [row["at_least"] for row in (step, lora, user)] == [2.2, 1 / 1.3, 4.0]
    assert step["reference"] == "torch last_n, prefix recomputed"
    assert lora["reference"] == "torch last_n"
    assert user["ratio"] == pytest.approx(1000 / user["milliseconds"])
    # the whole process, PyTorch included
    assert 100 < step["peak_mebibytes"] < 1.5e9 / 2**20
    works = read(tmp_path, "speed_details.json")["works"]
    gflop = {name: work["gflop"] for name, work in works["BERT step"].items()}
    # layers below are computed again for each text that is scored
    assert gflop["torch last_n, prefix recomputed"] > gflop["torch last_n"] > 0


def test_without_a_checkpoint_the_rows_of_bert_are_left_out_and_said_so(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("speed", *TINY, "speed.only=[BERT step]") == 0
    assert read(tmp_path, "speed.json") == []
    assert "left out what needs a BERT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("speed.only=[catalog]", "did you mean 'catalogue'"),
        ("speed.repeat=3", "did you mean 'repeats'"),
        ("speed.step.inner_step=3", "did you mean 'inner_steps'"),
    ],
)
def test_an_unknown_key_or_work_is_an_error_that_names_the_nearest(
    script: Script, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("speed", override) == 1
    assert message in capsys.readouterr().err


def test_the_yaml_has_the_sizes_that_the_bounds_are_for() -> None:
    file = Path(__file__).resolve().parents[2] / "configs" / "experiment" / "speed.yaml"
    values = yaml.safe_load(file.read_text())["speed"]
    defaults = SpeedSettings()
    assert values.pop("step") == {
        "tasks": defaults.step.tasks,
        "k_shot": defaults.step.k_shot,
        "query_size": defaults.step.query_size,
        "feature_size": defaults.step.feature_size,
        "hidden_sizes": list(defaults.step.hidden_sizes),
        "inner_steps": defaults.step.inner_steps,
        "inner_learning_rate": defaults.step.inner_learning_rate,
    }
    of_bert = values.pop("bert")
    assert of_bert | {"hidden_sizes": tuple(of_bert["hidden_sizes"])} == vars(defaults.bert)
    assert values.pop("sampling") == vars(defaults.sampling)
    assert values.pop("training") == vars(defaults.training)
    assert values.pop("backends") == list(defaults.backends)
    assert values == {name: getattr(defaults, name) for name in values}
    assert defaults.as_promised
