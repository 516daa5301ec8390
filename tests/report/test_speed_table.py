"""The published speed table: from the files of a measurement to the paper and the README."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from metarec.errors import RunError
from metarec.report.speed_table import main, publish
from metarec.speed.rows import TABLE, Bound, Row

MARKED = "before\n<!-- speed: begin -->\n<!-- speed: end -->\nafter\n"


def works_of(bound: Bound) -> tuple[str, str]:
    return bound.work, bound.contender


def parity_of(engine: str, loss: float, meta_gradient: float) -> dict[str, Any]:
    return {
        "order": "second order", "inner_steps": 5, "engine": engine, "reference": "learn2learn",
        "loss": loss, "meta_gradient": meta_gradient,
    }  # fmt: skip


def measured(folder: Path, **changes: Any) -> Path:
    rows = [
        Row(
            bound.name, bound.backend, 2.0, "other", 50.0, 25.0 + place, bound.at_least,
            1.0, 40.0, 160.0, None,
        )
        for place, bound in enumerate(TABLE)
    ]  # fmt: skip
    works: dict[str, dict[str, dict[str, Any]]] = {bound.work: {} for bound in TABLE}
    for place, bound in enumerate(TABLE):
        works[bound.work][bound.contender] = {"seconds_of_first_call": 1.5 + place}
    works["large step"]["torch gram"]["peak_mebibytes"] = [70.0, 71.0, 90.0]
    works["large step"]["torch vmap"] = {"peak_mebibytes": [400.0]}
    details = {
        "machine": {"processor": "a processor", "cpus": 2},
        "threads": 2,
        "versions": {"torch": "9.9", "jax": "0.9"},
        "code": "c0de",
        "commit": "0123456789abcdef",
        "load_before": 0.1,
        "features": "text",
        "works": works,
        "parity": [
            parity_of("torch gram", 1e-16, 4e-15),
            parity_of("jax gram", 3e-16, 2e-15),
        ],
    } | changes
    (folder / "speed.json").write_text(json.dumps([asdict(row) for row in rows]))
    (folder / "speed_details.json").write_text(json.dumps(details))
    return folder


def test_a_table_of_some_of_the_work_has_a_name_of_its_own(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- speed_bert: begin -->\n<!-- speed_bert: end -->\n")
    table = publish(measured(tmp_path), tmp_path / "paper", readme, "speed_bert")
    assert (tmp_path / "paper" / "tables" / "speed_bert.md").read_text(encoding="utf-8") == table
    assert table.strip() in readme.read_text()
    assert sorted(file.name for file in (tmp_path / "paper").rglob("*.*")) == [
        "speed_bert.json", "speed_bert.md",
    ]  # fmt: skip


def test_table_record_and_readme_show_each_row_as_measured(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(MARKED, encoding="utf-8")
    table = publish(measured(tmp_path), tmp_path / "paper", readme)
    lines = table.splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == len(TABLE) + 2
    for place, (line, bound) in enumerate(zip(lines[2:], TABLE, strict=False)):
        unit = "/s" if bound.is_rate else "×"
        assert bound.name in line
        assert f"| {25 + place}{unit} |" in line
        assert "| 25% |" in line
        own = [at for at, one in enumerate(TABLE) if works_of(one) == works_of(bound)]
        assert line.endswith(f"| {1.5 + own[-1]:.3g} |")
    (large,) = (place for place, bound in enumerate(TABLE) if bound.memory_at_most is not None)
    assert "| 71 of 400 |" in lines[2 + large]
    assert "3e-16 in the loss and 4e-15 in the meta-gradient" in table
    assert "Commit 0123456789ab" in table
    assert table.strip() in readme.read_text(encoding="utf-8")
    assert (tmp_path / "paper" / "tables" / "speed.md").read_text(encoding="utf-8") == table
    parity = (tmp_path / "paper" / "tables" / "parity.md").read_text(encoding="utf-8").splitlines()
    assert parity[2] == "| second order | 5 | torch gram | learn2learn | 1.0e-16 | 4.0e-15 |"
    assert parity[3] == "| second order | 5 | jax gram | learn2learn | 3.0e-16 | 2.0e-15 |"
    record = json.loads((tmp_path / "paper" / "records" / "speed.json").read_text())
    assert record["rows"] == json.loads((tmp_path / "speed.json").read_text())
    assert record["commit"] == "0123456789abcdef"


def test_what_was_not_measured_is_asked_for(tmp_path: Path, capsys: Any) -> None:
    assert main([str(tmp_path), "--paper", str(tmp_path / "paper")]) == 1
    assert "run python experiments/speed.py first" in capsys.readouterr().err
    assert not (tmp_path / "paper").exists()


def test_files_of_another_version_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    measured(tmp_path, parity=[{"loss": 1e-16}])
    with pytest.raises(RunError, match=r"not of this version .*meta_gradient"):
        publish(tmp_path, tmp_path / "paper")
    assert not (tmp_path / "paper").exists()
