"""The report on sweeps, from made-up records of the experiment."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console

from metarec.audit.tables import check_tables
from metarec.errors import RunError
from metarec.evaluation.significance import holm
from metarec.report.labels import Variant
from metarec.report.selection import difference_of
from metarec.report.sweeps import build_report, main
from metarec.report.sweeps_figure import draw, shares_of
from metarec.report.sweeps_points import common, sweeps_of
from metarec.report.sweeps_signal import adaptation_sweep, families_of, signal_tables
from metarec.report.sweeps_tables import seed_and_time_table, shares_tables, shots_tables

NDCG = "catalogue/ndcg@10"
NO_CURVE = {"shots": (), "evaluation": {"k_curve": []}}
SHARES = (0.1, 0.3)
TABLES = (
    *("sweep_shots", "sweep_cold_share", "sweep_cold_share_common", "sweep_seed_time"),
    *("sweep_signal", "sweep_signal_pairs", "sweep_adaptation"),
)
FILES = tuple(
    file
    for name in TABLES
    for file in (name, f"{name}_differences")
    if file == name or name not in ("sweep_signal_pairs", "sweep_adaptation")
)
"""Each table of learners is followed by what they differ by from the reference."""
REGIMES, SHOTS = ("warm", "user_cold", "both_cold"), (0, 3, 20)


@pytest.fixture
def make(make_record):
    """A record of the experiment; `share` of users and items is cold, 0: as usual."""

    def record(learner="maml", quality=0.3, seed=0, share=0.0, method="seed", **given):
        fractions = [0.9 - share, 0.1, share]
        cold = {"users": fractions, "items": fractions} if share else {}
        unadapted = None if learner == "ease" else quality - 0.1
        own = {
            "experiment": "sweeps",
            "split": {"method": method} | cold,
            "without_steps": unadapted,
            "regimes": REGIMES,
            "shots": SHOTS,
            "target": f"metarec.torch.of.{learner.partition('_')[0]}",
            # the larger the share, the more tasks
            "n_tasks": int(100 * share) or (9 if method == "time" else 20),
        }
        own |= NO_CURVE if share or method == "time" else {}
        name = learner.partition("_")
        if learner != "ease":
            own["arguments"] = {"representation": name[2] or "text"}
        return make_record(learner, quality, seed=seed, **(own | given))

    return record


@pytest.fixture
def plan(make):
    """The records of a small plan: all sweeps of EASE and MAML, and two learners by signal."""

    def records(seeds=(0,), **given):
        found = []
        for seed in seeds:
            for name, quality in (("ease", 0.3), ("maml", 0.4)):
                found.append(make(name, quality, seed, **given))
                found += [make(name, quality - x, seed, share=x, **given) for x in SHARES]
                found.append(make(name, quality, seed, method="time", **given))
            for name, quality in (
                *(("transfer", 0.35), ("transfer_both", 0.36)),
                *(("maml_collaborative", 0.3), ("maml_both", 0.45)),
            ):
                found.append(make(name, quality, seed, **(given | NO_CURVE)))
        return found

    return records


def cells_of(table, title=None):
    return {
        row.label: dict(zip(table.columns[1:], row.cells, strict=True))
        for section in table.sections
        if title in (None, section.title)
        for row in section.rows
    }


def mean_of(record, regime, adapted=True, tasks=None, part="test", evaluation="main", k=10):
    frame = record.per_task
    here = (frame["part"] == part) & (frame["regime"] == regime) & (frame["adapted"] == adapted)
    here &= (frame["evaluation"] == evaluation) & (frame["k_shot"] == k)
    if tasks is not None:
        here &= frame["task"].isin(tasks)
    return frame.loc[here, NDCG].mean()


def test_every_sweep_has_its_files_which_follow_from_the_records_in_any_order(
    plan, tmp_path, monkeypatch
):
    records = plan()
    monkeypatch.chdir(tmp_path)
    console = Console(width=400, color_system=None, force_terminal=False)
    with console.capture() as capture:
        written = build_report(records[::-1], tmp_path / "paper", console)
    for text in ("Sweep over the number of shots", "Split by seed against by time", "wrote "):
        assert text in capture.get()
    expected = [
        file
        for name in FILES
        for file in (f"tables/{name}.tex", f"tables/{name}.md", f"records/{name}.json")
    ]
    expected += [f"figures/{name}.{suffix}" for name in TABLES[:2] for suffix in ("pdf", "png")]
    assert [path.relative_to(tmp_path / "paper").as_posix() for path in written] == expected
    for path in written:
        assert str(tmp_path).encode() not in path.read_bytes(), path.name

    # by the small records alone, and made again from the folder by the command that they name
    for known in ([], records):
        findings = list(check_tables(tmp_path / "paper", known))
        assert len(findings) == len(FILES) * (3 if known else 2)
        assert {one.result for one in findings} == {"holds" if known else "open"}
    small = json.loads((tmp_path / "paper/records/sweep_cold_share.json").read_text())
    assert [source["split"] for source in small["sources"]] == [
        *("split by seed 0, 10 % cold", "split by seed 0, 30 % cold"),
    ]


def test_over_k_the_learners_that_were_measured_there_stand_with_chance_and_0_steps(plan):
    records = plan(seeds=(0, 1))
    (table,) = shots_tables(sweeps_of(records).base)
    assert table.columns == ("Learner", *(f"K = {k}" for k in SHOTS))
    rows = cells_of(table)
    assert list(rows) == [
        *("Chance", "EASE^R", "MAML, 0 steps", "MAML"),
    ]
    base = [one for one in records if one.learner == "maml" and one.config.evaluation.k_curve]
    base = [one for one in base if one.config.split.users == (0.7, 0.1, 0.2)]
    for k in SHOTS:
        means = [mean_of(one, "user_cold", evaluation="curve", k=k) for one in base]
        assert rows["MAML"][f"K = {k}"].estimate.mean == pytest.approx(np.mean(means))
    assert rows["MAML"]["K = 0"].source.k_shot == 0
    assert "at K = 0 it is empty" in table.notes[0]


def test_a_table_of_several_settings_says_whose_values_tuning_chose(make):
    tuned = {"data": "tiny", "kind": "binary", "values": {"rate": 0.1}}
    chosen = {"arguments": {"representation": "text", "rate": 0.1, "tuned": tuned}}
    records = [
        make(name, quality, share=share, **given)
        for name, quality, given in (("ease", 0.3, {}), ("maml", 0.4, chosen))
        for share in (0.1, 0.2)
    ]
    table, _ = shares_tables(sweeps_of(records).shares)
    told = "Tuning chose values on validation of tiny (learner=best/binary/…) for maml."
    assert told in " ".join(table.notes)


def test_shares_stand_side_by_side_in_every_regime_and_are_said_to_be_no_one_test(make):
    records = [
        make(name, quality, share=share)
        for name, quality in (("ease", 0.3), ("maml", 0.4))
        for share in (0.3, 0.1, 0.2)
    ]
    sweeps = sweeps_of(records)
    table, _ = shares_tables(sweeps.shares)
    assert [head.replace("\xa0", " ") for head in table.columns] == [
        *("Learner", "10 % cold", "20 % cold", "30 % cold"),
    ]
    titles = ["Warm", "User cold", "Both cold"]
    assert [section.title for section in table.sections] == titles
    for section in table.sections:
        assert [row.label for row in section.rows] == [
            *("Chance", "EASE^R", "MAML, 0 steps", "MAML"),
        ]
    cell = cells_of(table, "Both cold")["MAML"][table.columns[3]]
    assert cell.estimate.mean == pytest.approx(mean_of(records[3], "both_cold"))
    assert cell.estimate.tasks == 30
    assert cell.source.regime == "both_cold, 30 % cold"
    text = table.to_markdown().replace("\xa0", " ")
    assert "Columns are not one test" in text
    assert "10 % cold: warm 10 (" in text
    assert "30 % cold: warm 30 (" in text


def test_the_tasks_that_all_shares_have_are_compared_by_themselves(make):
    records = [make(share=share) for share in (0.1, 0.3)]
    sweeps = sweeps_of(records)
    assert [point.tasks("user_cold") for point in common(sweeps.shares)] == [10, 10]
    _, table = shares_tables(sweeps.shares)
    row = cells_of(table, "User cold")["MAML"]
    found = [cell.estimate.mean for cell in row.values()]
    assert found == pytest.approx([mean_of(one, "user_cold", tasks=range(10)) for one in records])
    assert "the same in all columns, but not what they hold" in table.to_markdown()


def test_without_a_task_that_all_shares_have_there_is_no_such_table(make):
    def moved(frame):
        return frame.assign(task=frame["task"] + 1000)

    records = [make(share=0.1), make(share=0.3, alter=moved)]
    assert len(shares_tables(sweeps_of(records).shares)) == 1


def test_by_time_stands_beside_the_split_by_seed_with_about_as_many_cold_tasks(plan):
    sweeps = sweeps_of(plan())
    table = seed_and_time_table(sweeps.splits)
    # 9 tasks by time, 20 usually, 10 and 30 by shares
    assert table.columns == ("Learner", "By seed, 10\xa0% cold", "By time")
    assert "nothing of the future is in train" in table.to_markdown()
    (caution,) = table.cautions[-1:]
    assert caution.startswith("By time: only 9 (warm), 9 (user cold)")


def test_one_split_alone_is_no_sweep(make):
    sweeps = sweeps_of([make(share=0.1)])
    assert not sweeps.shares
    assert seed_and_time_table(sweeps.splits) is None
    assert shares_tables(sweeps.shares) == []


def test_a_learner_over_several_signals_is_compared_with_itself(plan):
    base = sweeps_of(plan()).base
    assert families_of(base.results) == {
        "maml": {"text": "maml", "collaborative": "maml_collaborative", "both": "maml_both"},
        "transfer": {"text": "transfer", "both": "transfer_both"},
    }
    means, differences = signal_tables(base)
    assert [section.title for section in means.sections] == [
        *("", "Baselines: collaborative"),
        *("MAML: text, collaborative, both", "Transfer: text, both"),
    ]
    assert [(s.title, [row.label for row in s.rows]) for s in differences.sections] == [
        ("MAML", ["Both − text", "Both − collaborative", "Collaborative − text"]),
        ("Transfer", ["Both − text"]),
    ]
    values = base.results.select(NDCG, "test", "user_cold", 10)
    pairs = (
        *(("maml_both", "maml"), ("maml_both", "maml_collaborative")),
        *(("maml_collaborative", "maml"), ("transfer_both", "transfer")),
    )
    found = [difference_of(values, Variant(a), Variant(b), NDCG) for a, b in pairs]
    corrected = holm(np.array([one.p for one in found]))
    cells = [row.cells[1] for section in differences.sections for row in section.rows]
    assert [cell.estimate.mean for cell in cells] == [one.mean for one in found]
    assert [cell.estimate.p for cell in cells] == list(corrected)
    assert [cell.source.learner for cell in cells] == [f"{a} - {b}" for a, b in pairs]
    assert [cell.mark for cell in cells][:3] == ["+", "+", "−"]


def test_adapting_is_compared_with_not_adapting_on_test_in_every_setting(plan):
    records = plan()
    table = adaptation_sweep(sweeps_of(records).points)
    assert [section.title.replace("\xa0", " ") for section in table.sections] == [
        *("20 % of users, 10 % of items cold", "10 % cold", "30 % cold", "By time"),
    ]
    rows = cells_of(table, table.sections[2].title)
    assert list(rows) == ["MAML"]
    (record,) = [
        one for one in records if one.learner == "maml" and one.config.split.users[2] == 0.3
    ]
    gain = mean_of(record, "both_cold") - mean_of(record, "both_cold", adapted=False)
    assert rows["MAML"]["Both cold"].estimate.mean == pytest.approx(gain)
    assert rows["MAML"]["Both cold"].source.regime == "both_cold, 30 % cold"
    assert table.part == "test"


def test_what_makes_no_claim_says_so(plan):
    sweeps = sweeps_of(plan(n_tasks=20, regimes=("user_cold",), shots=(0,)))
    tables = [
        *shots_tables(sweeps.base), *signal_tables(sweeps.base), *shares_tables(sweeps.shares),
        seed_and_time_table(sweeps.splits), adaptation_sweep(sweeps.points),
    ]  # fmt: skip
    assert sorted(table.name for table in tables) == sorted(TABLES)
    for table in tables:
        assert "> Warning: preliminary" in table.to_markdown(), table.name
    for table in tables[3:]:
        assert "only 20 (user cold) test tasks" in table.to_latex(), table.name
    texts = [text.get_text() for text in draw(shares_of(sweeps.shares, True)).texts]
    assert any(text.startswith("Warning: preliminary") for text in texts)
    assert any(text.startswith("Preliminary: ") for text in texts)


def test_what_stands_on_enough_has_no_warning(make):
    records = [
        make(seed=seed, share=share, n_tasks=120, regimes=("user_cold",))
        for share in SHARES
        for seed in range(5)
    ]
    sweeps = sweeps_of(records)
    for table in (*shares_tables(sweeps.shares), adaptation_sweep(sweeps.points)):
        assert not table.warnings, table.name
    texts = [text.get_text() for text in draw(shares_of(sweeps.shares, False)).texts]
    assert not any("reliminary" in text for text in texts)


def test_settings_of_other_seeds_are_told(make):
    records = [make(seed=seed, share=share) for share in SHARES for seed in (0, 1)]
    lacking, _ = shares_tables(sweeps_of(records[:-1]).shares)
    told = "other seeds (10\xa0% cold: 0, 1; 30\xa0% cold: 0)"
    assert any(told in one for one in lacking.cautions)
    whole, _ = shares_tables(sweeps_of(records).shares)
    assert not any("other seeds" in one for one in whole.cautions)


def test_a_run_of_which_another_has_measured_all_is_passed_over(make):
    records = [make(), make(**NO_CURVE), make("maml_both", **NO_CURVE)]
    sweeps = sweeps_of(records)
    assert len(sweeps.base.results.records) == 2
    assert len(shots_tables(sweeps.base)) == 1


def test_failed_runs_are_listed_under_the_tables_of_their_setting(make):
    records = [make(share=share) for share in SHARES]
    records.append(make("transfer", share=0.3, error="LearnerError: out of luck"))
    table, _ = shares_tables(sweeps_of(records).shares)
    assert "out of luck" in table.to_markdown()
    assert "transfer-user" in table.to_markdown()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": {"name": "ml-1m"}}, r"differ in data\.name"),
        ({"episode": {"k_shot": 5}}, r"differ in episode\.k_shot"),
        ({"split": {"seed": 1}}, r"differ in split\.seed"),
        ({"kind": "item"}, r"differ in episode\.task"),
        ({"code": "b" * 64}, "versions of the code"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, tmp_path, given, message):
    with pytest.raises(RunError, match=message):
        build_report([make(), make("transfer", **given)], tmp_path / "paper")
    assert not (tmp_path / "paper").exists()


def test_where_nothing_was_swept_the_error_says_what_to_run(make, tmp_path):
    with pytest.raises(RunError, match=r"nothing was swept.*experiments/sweeps\.py"):
        build_report([make("ease", **NO_CURVE)], tmp_path)


def test_item_tasks_are_swept_too(make):
    records = [
        make(name, quality, share=share, kind="item", shots=(0, 3))
        for name, quality in (("ease", 0.3), ("maml", 0.4))
        for share in SHARES
    ]
    sweeps = sweeps_of(records)
    (shots,) = shots_tables(sweeps.base)
    assert shots.columns == ("Learner", "K = 0", "K = 3")
    assert "item tasks" in shots.title
    assert [section.title for section in shares_tables(sweeps.shares)[0].sections] == ["Item cold"]


def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["results/nothing"]) == 1
    assert capsys.readouterr().err.startswith("error: no results in")
