"""What is published is made again, and a digit that was changed by hand is found."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from audit_helpers import failing
from fake_records import fake_record

from metarec.audit import Finding
from metarec.audit.tables import TABLES, check_tables
from metarec.report import __main__ as report
from metarec.report import critical_difference
from metarec.report.speed_table import cells_of, note_of
from metarec.report.tuning import build_report
from metarec.runs.store import Record, load_records
from metarec.runs.tuning_files import TUNING
from metarec.speed.rows import TABLE, Row

Publish = Callable[..., list[Record]]
FILES = ["tables/main.md", "tables/main.tex", "records/main.json"]
SUFFIXES = ("json", "md", "tex")
HOLDS = {
    name: "holds"
    for name in (
        "k_shot.json",
        *(f"{table}.{suffix}" for table in ("main", "main_differences") for suffix in SUFFIXES),
    )
}


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("selection", "notes"):
        monkeypatch.setattr(f"metarec.report.{module}.RESAMPLES", 50)


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """Folder of the paper."""
    return tmp_path / "paper"


@pytest.fixture
def publish(tmp_path: Path, paper: Path) -> Publish:
    """Publishes fake records: two learners, each in a folder of its own if there are two."""

    def call(*folders: str) -> list[Record]:
        records = [
            recorded(tmp_path / folder, learner)
            for learner, folder in zip(("ease", "popularity"), folders * 2, strict=False)
        ]
        named = [str(tmp_path / folder) for folder in folders]
        assert report.main([*named, "--paper", str(paper)]) == 0
        return records

    return call


def recorded(folder: Path, learner: str, **others: int) -> Record:
    """A small record in the folder of an experiment."""
    small = {"n_tasks": 8, "shots": (0, 3), "experiment": folder.name, **others}
    return fake_record(folder.parent, learner, **small)


def results(paper: Path, records: Sequence[Record]) -> dict[str, str]:
    """The result of each check, by what was checked."""
    return {one.what: one.result for one in check_tables(paper, records)}


def problem(paper: Path, records: Sequence[Record] = ()) -> str:
    """What fails."""
    return failing(list(check_tables(paper, records))).get(TABLES, "")


def with_another_digit(file: Path) -> None:
    """Changes the last digit of the last number of a table, or of a small record."""
    text = file.read_text()
    ends = r"\d(?=, 8, 1, 8,)" if file.suffix == ".json" else r"\d(?=\])"
    place = [match.start() for match in re.finditer(ends, text)][-1]
    digit = (int(text[place]) + 1) % 10
    file.write_text(f"{text[:place]}{digit}{text[place + 1 :]}")


def test_tables_that_follow_from_their_records_hold(publish: Publish, paper: Path) -> None:
    assert results(paper, publish("results/paper")) == HOLDS


@pytest.mark.parametrize("file", FILES)
def test_a_changed_last_digit_is_found(file: str, publish: Publish, paper: Path) -> None:
    records = publish("results/paper")
    with_another_digit(paper / file)
    name = re.escape(Path(file).name)
    told = rf"{name}: line \d+ is not what the records give: .*, not .*\n"
    assert re.fullmatch(told, problem(paper, records))


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_was_removed_is_found(file: str, publish: Publish, paper: Path) -> None:
    records = publish("results/paper")
    # another small record still names the command
    (paper / file).unlink()
    folder, name = file.split("/")
    told = f"{name}: is not in {folder}/, but its records are here\n"
    assert problem(paper, records) == told


def test_records_may_lie_elsewhere_than_when_the_table_was_made(
    publish: Publish, paper: Path, tmp_path: Path
) -> None:
    publish("results/paper")
    shutil.move(tmp_path / "results", tmp_path / "elsewhere")
    records = load_records(tmp_path / "elsewhere")
    assert results(paper, records) == HOLDS
    with_another_digit(paper / "tables" / "main.md")
    assert "main.md" in problem(paper, records)


def test_records_may_lie_several_folders_below_the_working_directory(
    publish: Publish, paper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records = publish("results/other-data/paper")
    assert "results/other-data/paper" in (paper / "tables" / "main.md").read_text()
    assert results(paper, records) == HOLDS


def test_a_table_over_two_folders_of_one_name_is_made_again_from_both(
    publish: Publish, paper: Path
) -> None:
    assert results(paper, publish("a/paper", "b/paper")) == HOLDS


def test_a_folder_of_the_same_name_that_lacks_the_runs_is_not_taken_for_theirs(
    publish: Publish, paper: Path, tmp_path: Path
) -> None:
    records = publish("results/paper")
    others = [
        recorded(tmp_path / folder, "ease", seed=1)
        for folder in ("other/paper", "other/results/paper")
    ]
    assert results(paper, [*records, *others]) == HOLDS


def test_which_of_two_equal_folders_a_table_is_of_is_left_open(
    publish: Publish, paper: Path, tmp_path: Path
) -> None:
    records = publish("results/paper")
    shutil.copytree(tmp_path / "results", tmp_path / "copy" / "results")
    records += load_records(tmp_path / "copy" / "results")
    one, *tables = [one for one in check_tables(paper, records) if one.result != "holds"]
    assert (one.what, one.result) == ("python -m metarec.report results/paper", "open")
    assert {table.result for table in tables} == {"open"}
    assert "audit one at a time" in one.problem


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_without_its_records_a_table_is_compared_with_its_small_record(
    suffix: str, publish: Publish, paper: Path
) -> None:
    publish("results/paper")
    assert results(paper, []) == {name: "open" for name in HOLDS if "json" not in name}
    told = {one.problem for one in check_tables(paper, []) if one.what.startswith("main.")}
    assert told == {"prints what main.json says, whose runs are not in the folders given"}
    with_another_digit(paper / "tables" / f"main.{suffix}")
    assert re.search(rf"main\.{suffix}: .*: prints .*, but main\.json says", problem(paper))


INTERVAL = re.compile(r" <sub>\[[^]]*\]</sub>")


@pytest.mark.parametrize(
    ("pattern", "instead", "told"),
    [
        (INTERVAL, "", "but main.json says"),
        (re.compile(r"\| \.\d{2}(\d)(?= )"), "| .0", "but main.json says"),
        (re.compile(r"[^|]*\|(?=\n\n)"), " |", "leaves out 1 rows of main.json"),
    ],
    ids=["an interval is missing", "a mean has fewer digits", "the last cell is empty"],
)
def test_without_its_records_no_number_may_be_missing_or_shorter(
    pattern: re.Pattern[str], instead: str, told: str, publish: Publish, paper: Path
) -> None:
    publish("results/paper")
    file = paper / "tables" / "main.md"
    text = file.read_text()
    edited = pattern.sub(instead, text, count=1)
    assert edited != text
    file.write_text(edited)
    (one,) = [one for one in check_tables(paper, []) if one.what == "main.md"]
    assert one.result == "fails"
    assert told in one.problem


def test_a_table_that_is_made_of_more_than_records_is_left_open_and_its_figures_compared(
    publish: Publish, paper: Path
) -> None:
    records = publish("results/paper")
    (paper / "records" / "k_shot.json").unlink()
    module = "metarec.report.hybrid_items"
    for small in (paper / "records").glob("main*.json"):
        small.write_text(small.read_text().replace("metarec.report ", f"{module} "))
    command = f"python -m {module} results/paper"
    tables = {name: "open" for name in HOLDS if "json" not in name}
    assert results(paper, records) == {command: "open", **tables}
    (one,) = [one for one in check_tables(paper, records) if one.what == command]
    assert "needs more than records" in one.problem
    with_another_digit(paper / "tables" / "main.md")
    assert "main.md" in problem(paper, records)


def test_a_table_that_nothing_is_kept_of_fails(paper: Path) -> None:
    (paper / "tables").mkdir(parents=True)
    (paper / "tables" / "mine.md").write_text("| a |\n| --- |\n| .5 |\n")
    (one,) = check_tables(paper, [])
    told = "there is no mine.json: nothing says what it is of"
    assert one == Finding(TABLES, "mine.md", told, "fails")


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_a_table_of_ranks_is_made_again_from_its_small_record(
    suffix: str, tmp_path: Path, paper: Path
) -> None:
    records = [
        recorded(tmp_path / "results" / "paper", learner)
        for learner in ("ease", "popularity", "maml")
    ]
    critical_difference.build_report(records, paper)
    named = {f"critical_difference.{suffix}": "open" for suffix in ("md", "tex")}
    # whether the small record follows from runs is not known without them
    assert results(paper, []) == named
    with_records = [one.result for one in check_tables(paper, records) if one.what in named]
    assert with_records == ["holds"] * 2
    table = paper / "tables" / f"critical_difference.{suffix}"
    table.write_text(re.sub(r"\d\.(\d)\d", r"9.\g<1>9", table.read_text(), count=1))
    assert f"critical_difference.{suffix}: line" in problem(paper)


def test_a_table_of_speed_prints_its_small_record(paper: Path) -> None:
    row = Row(
        TABLE[0].name, TABLE[0].backend, 2.0, "other", 50.0, 25.0, TABLE[0].at_least,
        1.0, 40.0, 160.0, None,
    )  # fmt: skip
    for folder in ("records", "tables"):
        (paper / folder).mkdir(parents=True)
    about = {
        "machine": {"processor": "a processor", "cpus": 2},
        "versions": {"torch": "9.9", "jax": "0.9"},
        "parity": [{"loss": 1e-16, "meta_gradient": 2e-16}],
        "commit": "0123456789abcdef",
    }
    content = {"rows": [asdict(row)], **about}
    small = paper / "records" / "speed_bert.json"
    small.write_text(json.dumps(content))
    table = paper / "tables" / "speed_bert.md"
    cells = [*cells_of(asdict(row)), "70", "1.5"]
    lines = [f"| {' | '.join(one)} |" for one in (["head"] * 10, ["---"] * 10, cells)]
    lines += ["", note_of(content["rows"], content)]
    table.write_text("\n".join(lines))
    assert results(paper, []) == {"speed_bert.md": "open"}
    table.write_text("\n".join(lines).replace("| 25", "| 26"))
    told = "prints 26×, but its small record says 25×"
    assert told in problem(paper)
    table.write_text("\n".join(lines).replace("160 GFLOP/s", "161 GFLOP/s"))
    assert "speed_bert.md: its note is" in problem(paper)
    table.write_text("\n".join(lines[:2]))
    assert "prints 0 rows, but its small record has 1" in problem(paper)
    table.unlink()
    assert "is not in tables/" in problem(paper)
    small.write_text(json.dumps(content | {"rows": [asdict(row) | {"name": "another"}]}))
    table.write_text("\n".join(lines))
    assert "speed_bert.json is not of this version" in problem(paper)


@pytest.mark.parametrize("content", [{}, [], {"rows": []}])
def test_a_record_that_is_none_of_a_table_is_no_reason_to_stop(
    content: object, paper: Path
) -> None:
    for folder in ("records", "tables"):
        (paper / folder).mkdir(parents=True)
    (paper / "records" / "mine.json").write_text(json.dumps(content))
    (paper / "tables" / "mine.md").write_text("| a |\n| --- |\n| .5 |\n")
    assert problem(paper) == "mine.md: mine.json is no small record of a table\n"


def test_a_ranking_that_is_broken_fails(tmp_path: Path, paper: Path) -> None:
    records = [recorded(tmp_path / "results" / "paper", name) for name in ("ease", "maml")]
    critical_difference.build_report(records, paper)
    small = paper / "records" / "critical_difference.json"
    small.write_text(small.read_text().replace('"pairs"', '"peers"'))
    assert "critical_difference.json" in problem(paper)


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_a_table_of_tuning_is_made_again_from_its_small_records(suffix: str, paper: Path) -> None:
    trials = [{"values": {}, "selection": 0.25}, {"values": {"rate": 0.1}, "selection": 0.5}]
    small = {"learner": "maml", "selection": "nDCG@10", "chosen": 1, "trials": trials}
    file = paper / TUNING / "binary" / "maml.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(small))
    build_report(paper)
    holds = {"tuning_binary.md": "holds", "tuning_binary.tex": "holds"}
    assert results(paper, []) == holds
    table = paper / "tables" / f"tuning_binary.{suffix}"
    table.write_text(table.read_text().replace(".500", ".501"))
    assert f"tuning_binary.{suffix}: line" in problem(paper)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("| Popularity |", "| MAML |", "calls MAML what main.json calls popularity"),
        ("<sup>−</sup>", "<sup>+</sup>", "Popularity: has + at"),
        ("<sup>−</sup>", "", "Popularity: has no mark at"),
        ("| EASE<sup>R</sup> |", "| EASE<sup>R</sup>, own order |", ""),
    ],
)
def test_names_and_marks_of_a_table_are_those_of_its_small_record(
    publish: Publish, paper: Path, old: str, new: str, told: str
) -> None:
    """Popularity, an order of its own, is behind EASE in each of the eight tasks."""
    publish("results/one")
    tables, records = paper / "tables" / "main.md", paper / "records"
    for name in ("main", "main_differences"):
        small = json.loads((records / f"{name}.json").read_text())
        place = {column: at for at, column in enumerate(small["columns"])}
        for row in small["rows"]:
            if row[0].startswith("popularity"):
                row[place["p_holm"]] = 0.01
            if "effect" in place and row[place["effect"]] is not None:
                row[place["mean"]], row[place["effect"]] = -0.1, -1.0
        (records / f"{name}.json").write_text(json.dumps(small))
    text = tables.read_text()
    lines = [
        re.sub(r"(\.\d+)(†|<sup>.*?</sup>)?( <sub>)", r"\1<sup>−</sup>\3", line)
        if line.startswith("| Popularity")
        else line
        for line in text.splitlines()
    ]
    tables.write_text("\n".join(lines) + "\n")
    assert "main.md" not in problem(paper)
    tables.write_text(tables.read_text().replace(old, new))
    assert (f"main.md: {told}" in problem(paper)) if told else ("main.md" not in problem(paper))
