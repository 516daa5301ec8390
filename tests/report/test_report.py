from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from rich.console import Console

from metarec.errors import RunError
from metarec.report import build_report, export_records, update_readme
from metarec.report.__main__ import main
from metarec.report.files import write_text

MARKED = "# metarec\n\n<!-- main table: begin -->\nold\n<!-- main table: end -->\n\nrest\n"


@pytest.fixture
def records(make_record):
    made = []
    for name, quality, steps in (
        ("random", 0.05, None),
        ("ease", 0.4, None),
        ("transfer", 0.3, 0.2),
        ("maml", 0.35, 0.2),
    ):
        made.append(make_record(name, quality, without_steps=steps))
        made.append(
            make_record(
                name, quality, without_steps=steps, feedback="rating", regimes=("user_cold",)
            )
        )
        made.append(make_record(name, quality, kind="item", shots=(0, 10)))
    return made


def test_everything_is_written_where_the_paper_expects_it(records, tmp_path):
    written = build_report(records, tmp_path / "paper")
    names = {path.relative_to(tmp_path / "paper").as_posix() for path in written}
    assert {
        "tables/main.tex",
        "tables/main.md",
        "tables/rated.tex",
        "tables/item_tasks.tex",
        "tables/meta_minus_transfer.tex",
        "figures/k_shot.pdf",
        "figures/k_shot.png",
        "records/main.json",
        "records/k_shot.json",
    } <= names
    assert all(path.stat().st_size > 0 for path in written)
    on_disk = {path for path in (tmp_path / "paper").rglob("*") if path.is_file()}
    assert on_disk == set(written)


def test_the_same_records_give_the_same_bytes_in_any_order(records, tmp_path):
    one = build_report(records, tmp_path / "one")
    two = build_report(records[::-1], tmp_path / "two")
    assert [path.name for path in one] == [path.name for path in two]
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_no_file_names_a_folder_of_the_machine(records, tmp_path):
    for path in build_report(records, tmp_path / "paper"):
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_terminal_readme_and_paper_show_the_same_numbers(records, tmp_path):
    console = Console(width=150, color_system=None, force_terminal=False)
    with console.capture() as capture:
        build_report(records, tmp_path / "paper", console)
    printed = capture.get().partition("Mean over test tasks")[0]
    latex = (tmp_path / "paper/tables/main.tex").read_text().partition("Mean over test tasks")[0]
    markdown = (tmp_path / "paper/tables/main.md").read_text().partition("Mean over")[0]
    digits = [re.findall(r"\d?\.\d{3}", text) for text in (printed, latex, markdown)]
    assert digits[0] == digits[1] == digits[2]
    assert len(digits[0]) == 4 * (1 + 3 * 6)


def test_nothing_is_written_when_records_are_refused(make_record, tmp_path):
    mixed = [make_record("maml", code="1" * 64), make_record("ease", code="2" * 64)]
    with pytest.raises(RunError):
        build_report(mixed, tmp_path / "paper")
    assert not (tmp_path / "paper").exists()


def test_only_tables_with_records_are_written(make_record, tmp_path):
    written = build_report([make_record("ease", feedback="rating")], tmp_path / "paper")
    assert {path.stem for path in written} == {
        "rated",
        "rated_warm",
        "rated_item_cold",
        "rated_both_cold",
    }


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = write_text(tmp_path / "main.tex", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(RunError, match=r"cannot write .*main\.tex: No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_small_records_trace_every_number_to_its_runs(records, tmp_path):
    written = export_records(records, tmp_path / "records")
    assert sum(path.stat().st_size for path in written) < 200_000
    content = json.loads((tmp_path / "records/main.json").read_text())
    (source,) = content["sources"]
    assert source["code"] == ["a" * 64]
    assert source["runs"]["maml"] == [
        record.path.name
        for record in records
        if (record.learner, record.config.episode.task, record.config.episode.feedback)
        == ("maml", "user", "binary")
    ]
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
    assert len(rows) == 4 * 7
    row = next(row for row in rows if row["learner"] == "maml" and row["regime"] == "warm")
    frame = next(r for r in records if r.path.name == source["runs"]["maml"][0]).per_task
    here = frame[
        (frame["part"] == "test")
        & (frame["regime"] == "warm")
        & (frame["evaluation"] == "main")
        & frame["adapted"]
    ]
    assert row["mean"] == pytest.approx(here["catalogue/ndcg@10"].mean(), rel=1e-5)
    assert row["low"] < row["mean"] < row["high"]
    assert (row["tasks"], row["seeds"], row["episodes"]) == (30, 1, 30)


def test_the_readme_gets_the_table_between_its_markers_and_keeps_the_rest(tmp_path):
    readme = write_text(tmp_path / "README.md", MARKED)
    update_readme(readme, "| new |\n")
    update_readme(readme, "| newer |\n")
    assert readme.read_text() == (
        "# metarec\n\n<!-- main table: begin -->\n\n| newer |\n\n<!-- main table: end -->\n\nrest\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no markers", r"begin -->' 0 times"),
        (MARKED + MARKED, r"begin -->' 2 times"),
        ("<!-- main table: end --> <!-- main table: begin -->", "swap them"),
    ],
)
def test_a_readme_without_proper_markers_is_left_alone(tmp_path, text, message):
    readme = write_text(tmp_path / "README.md", text)
    with pytest.raises(RunError, match=message):
        update_readme(readme, "| new |")
    assert readme.read_text() == text


def test_a_missing_readme_is_named(tmp_path):
    with pytest.raises(RunError, match=r"README\.md"):
        update_readme(tmp_path / "README.md", "| new |")


@pytest.mark.parametrize("folder", ["results/paper", "results"])
def test_the_command_reads_an_experiment_and_updates_the_readme(
    make_record, tmp_path, monkeypatch, capsys, folder
):
    make_record("ease", shots=())
    monkeypatch.chdir(tmp_path)
    readme = write_text(tmp_path / "README.md", MARKED)
    assert main([folder, "--paper", "paper", "--readme", "README.md"]) == 0
    assert "EASE^R" in capsys.readouterr().out
    assert (tmp_path / "paper/tables/main.md").read_text().strip() in readme.read_text()


def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["results/nothing"]) == 1
    assert capsys.readouterr().err.startswith("error: no results in")


def test_the_command_refuses_mixed_versions_unless_told(make_record, tmp_path, monkeypatch, capsys):
    make_record("maml", code="1" * 64)
    make_record("ease", code="2" * 64)
    monkeypatch.chdir(tmp_path)
    assert main(["results/paper"]) == 1
    assert "--allow-mixed-versions" in capsys.readouterr().err
    assert main(["results/paper", "--allow-mixed-versions"]) == 0


def test_a_folder_that_is_named_twice_holds_each_run_once(make_record, tmp_path, monkeypatch):
    make_record("ease")
    monkeypatch.chdir(tmp_path)
    assert main(["results/paper", "results/paper"]) == 0


def test_the_readme_gets_no_table_that_an_earlier_call_left(
    make_record, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    readme = write_text(tmp_path / "README.md", MARKED)
    make_record("ease")
    assert main(["results/paper", "--readme", "README.md"]) == 0
    before = readme.read_text()
    (item,) = [make_record("ease", kind="item", experiment="items")]
    assert main([str(item.path.parent), "--readme", "README.md"]) == 1
    assert "leave --readme out" in capsys.readouterr().err
    assert readme.read_text() == before


def test_a_learner_that_failed_on_item_tasks_leaves_the_difference_on_users(make_record, tmp_path):
    records = [make_record(name, kind=kind) for name, kind in (
        ("maml", "user"), ("transfer", "user"), ("maml", "item"),
    )]  # fmt: skip
    build_report(records, tmp_path / "paper")
    table = (tmp_path / "paper" / "tables" / "meta_minus_transfer.md").read_text()
    assert "User tasks" in table
    assert "Item tasks" not in table


def test_importing_the_report_is_light():
    heavy = "matplotlib", "scipy", "sklearn", "torch", "rich", "pandas"
    code = (
        "import sys; before = set(sys.modules); import metarec.report; "
        f"print([name for name in {heavy!r} if name in sys.modules and name not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.strip()
    # `import metarec` itself may load pandas; the report must add nothing to it.
    assert "matplotlib" not in loaded
    assert "scipy" not in loaded
    assert "rich" not in loaded
