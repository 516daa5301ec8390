from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from metarec.errors import RunError
from metarec.report import build_report, update_headers
from metarec.report.__main__ import main
from metarec.report.headers import BEGIN, NOTHING, WIDTH, measured, small_records, with_measured

ROOT = Path(__file__).resolve().parents[2]
LEARNERS = sorted((ROOT / "configs" / "learner").glob("*.yaml"))

HEADER = "# MAML.\n#\n#   python x\n#\n# A paper.\n{}\nname: maml # Measured: never\n"
MEASURED = re.compile(
    r"# Measured: (?P<metric>nDCG@10|MAE) (?P<values>[a-z_ .0-9,]+), "
    r"(?:K=(?P<k>\d+)|protocol=\w+), (?:adapted=(?P<adapted>\w+), reranking, )?"
    r"(?:MovieLens-1M, split=melu, )?"
    r"(?P<seeds>\d+) seeds?(?P<best>, as learner=best/\w+/\w+)? "
    r"\(paper/records/(?P<record>\w+)\.json\)\."
)
METRICS = {"nDCG@10": "catalogue/ndcg@10", "MAE": "rated/mae"}


def entry_of(text: str) -> str:
    """What the header of a learner says of its measurement, on one line."""
    header = text[: re.search(r"^[^#]", text, re.MULTILINE).start()]
    lines = header.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(BEGIN))
    return " ".join(
        [lines[start], *(line.removeprefix("#").strip() for line in lines[start + 1 :])]
    )


@pytest.mark.parametrize("file", LEARNERS, ids=lambda file: file.stem)
def test_every_learner_says_what_was_measured_as_the_record_has_it(file: Path) -> None:
    entry = entry_of(file.read_text(encoding="utf-8"))
    if entry == f"{BEGIN} {NOTHING}":
        records = small_records(ROOT / "paper")
        assert measured(file.stem, records, ROOT / "paper") == NOTHING, "a record knows it"
        return
    found = MEASURED.fullmatch(entry)
    assert found is not None, entry
    # what was tuned was measured with the values of tuning
    kind = {
        **dict.fromkeys(("family", "scorers", "main"), "binary"),
        **dict.fromkeys(("family_items", "item_tasks"), "item"),
        **dict.fromkeys(("protocol_melu", "protocol_mamo"), "rating"),
    }.get(found["record"])
    best = f"best/{kind}/{file.stem}"
    written = kind and (ROOT / "configs" / "learner" / f"{best}.yaml").is_file()
    assert found["best"] == (f", as learner={best}" if written else None)
    record = json.loads((ROOT / "paper" / "records" / f"{found['record']}.json").read_text())
    rows = [dict(zip(record["columns"], row, strict=True)) for row in record["rows"]]
    for value in found["values"].split(", "):
        name, _, figure = value.rpartition(" ")
        (row,) = [
            row
            for row in rows
            if row["learner"] == "_".join(filter(None, [file.stem, found["adapted"]]))
            and row["regime"] == name.replace("item tasks", "item_cold")
            and (found["k"] is None or row["k_shot"] == int(found["k"]))
            and row["metric"] == METRICS[found["metric"]]
        ]
        assert figure == f"{row['mean']:.3f}".removeprefix("0")
        assert row["seeds"] == int(found["seeds"])


@pytest.fixture
def paper(make_record, tmp_path):
    records = [
        make_record("ease", 0.4),
        make_record("maml", 0.3),
        make_record("maml", 0.3, seed=1),
        make_record("protocf", 0.2, kind="item", shots=(0, 5)),
    ]
    build_report(records, tmp_path / "paper")
    return tmp_path / "paper"


def test_the_figures_are_those_of_the_record_at_its_shots(paper):
    content = json.loads((paper / "records/main.json").read_text())
    means = {(row[0], row[1]): row[4] for row in content["rows"]}
    one, two = (f"{means['maml', regime]:.3f}".removeprefix("0") for regime in
                ("user_cold", "both_cold"))  # fmt: skip
    assert measured("maml", small_records(paper), paper) == (
        f"nDCG@10 user_cold {one}, both_cold {two}, K=10, 2 seeds (paper/records/main.json)."
    )


def test_a_learner_of_item_tasks_has_its_figure_at_the_most_shots(paper):
    said = measured("protocf", small_records(paper), paper)
    content = json.loads((paper / "records/item_tasks.json").read_text())
    (mean,) = [row[4] for row in content["rows"] if row[0] == "protocf" and row[2] == 5
               and row[3] == "catalogue/ndcg@10"]  # fmt: skip
    figure = f"{mean:.3f}".removeprefix("0")
    assert said == f"nDCG@10 item tasks {figure}, K=5, 1 seed (paper/records/item_tasks.json)."


def test_the_family_is_named_before_the_main_table(paper, make_record):
    build_report([make_record("maml", seed=2), make_record("ease", seed=2)], paper, tables="family")
    assert "1 seed (paper/records/family.json)." in measured("maml", small_records(paper), paper)


def test_it_is_named_as_what_it_was_measured(paper, tmp_path):
    records, configs = small_records(paper), tmp_path / "configs"
    for kind, name in (("binary", "maml"), ("binary", "protocf")):
        (configs / "learner" / "best" / kind).mkdir(parents=True, exist_ok=True)
        (configs / "learner" / "best" / kind / f"{name}.yaml").touch()
    assert "2 seeds, as learner=best/binary/maml (" in measured("maml", records, paper, configs)
    # of item tasks, whose values are others
    assert "as learner" not in measured("protocf", records, paper, configs)
    assert "as learner" not in measured("ease", records, paper, configs)


def test_what_no_record_knows_is_not_measured_yet(paper):
    assert measured("anil", small_records(paper), paper) == NOTHING
    assert measured("maml", {}, paper) == NOTHING


@pytest.mark.parametrize(
    "before",
    [
        f"{BEGIN} not yet.",
        f"{BEGIN} nDCG@10 user_cold .123, K=10, 3\n#   seeds (paper/records/main.json).",
    ],
)
@pytest.mark.parametrize("after", ["", "\n# Its trade-offs."])
def test_the_entry_is_replaced_and_nothing_else(before, after):
    text = HEADER.format(before + after)
    assert with_measured(text, "new.") == HEADER.format(f"{BEGIN} new.{after}")


def test_a_header_without_the_entry_gets_it_at_its_end():
    text = HEADER.format("").replace("\n\n", "\n")
    assert with_measured(text, "new.") == HEADER.format(f"{BEGIN} new.")


def test_a_long_entry_is_wrapped_and_found_again():
    what = f"nDCG@10 user_cold .123, both_cold .103, K=10, 3 seeds ({'long/' * 8}main.json)."
    text = with_measured(HEADER.format(f"{BEGIN} {NOTHING}"), what)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert entry_of(text) == f"{BEGIN} {what}"
    assert with_measured(text, NOTHING) == HEADER.format(f"{BEGIN} {NOTHING}")


def test_headers_are_written_once_and_only_where_they_change(paper, tmp_path):
    learners = tmp_path / "configs" / "learner"
    learners.mkdir(parents=True)
    for name in ("maml", "anil"):
        (learners / f"{name}.yaml").write_text(HEADER.format(f"{BEGIN} {NOTHING}"))
    assert update_headers(tmp_path / "configs", paper) == [learners / "maml.yaml"]
    assert "main.json" in (learners / "maml.yaml").read_text()
    assert update_headers(tmp_path / "configs", paper) == []


def test_the_command_brings_headers_up_to_date(make_record, tmp_path, monkeypatch, capsys):
    make_record("maml", without_steps=0.1)
    make_record("ease")
    learners = tmp_path / "configs" / "learner"
    learners.mkdir(parents=True)
    (learners / "maml.yaml").write_text(HEADER.format(f"{BEGIN} {NOTHING}"))
    monkeypatch.chdir(tmp_path)
    assert main(["results/paper", "--tables", "family", "--configs", "configs"]) == 0
    assert "headers changed in configs: 1" in capsys.readouterr().out
    assert "(paper/records/family.json)." in (learners / "maml.yaml").read_text()


def test_a_folder_without_configurations_and_a_broken_record_are_errors(paper, tmp_path):
    with pytest.raises(RunError, match="no configurations of learners"):
        update_headers(tmp_path / "nowhere", paper)
    (paper / "records" / "main.json").write_text("{")
    with pytest.raises(RunError, match=r"main\.json cannot be read"):
        small_records(paper)
