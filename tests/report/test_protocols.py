"""The report on published protocols, from made-up records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metarec.audit.tables import check_tables
from metarec.errors import RunError
from metarec.evaluation.significance import holm, interval, wilcoxon
from metarec.report.protocols import build_report, main
from metarec.report.protocols_figures import (
    MAE,
    MELU,
    P5,
    RECBOLE_METAREC,
    TABLES,
    TOOLKIT_100K,
)
from metarec.report.protocols_results import studies_of
from metarec.report.protocols_tables import BEATS, tables_of
from metarec.report.table import number

CELLS = ("warm", "user_cold", "item_cold", "both_cold")
RECBOLE = {"name": "recbole_metarec", "query": 10}
TARGETS = {"item_mean": "metarec.baselines.item_mean.ItemMean"}


def rated(frame: pd.DataFrame, tasks=None, k_shot=90) -> pd.DataFrame:
    """What `evaluate_rated` leaves of a task, by the quality that `make_record` has drawn."""
    value = frame["catalogue/ndcg@10"]
    ranked = {f"best_rated/{name}@5": value for name in ("precision", "ndcg", "mrr", "map")}
    graded = {f"graded/ndcg@{k}": value for k in (1, 3)}
    chance = {
        f"{name.replace('/', '/chance/')}": 0.704 if "mrr" in name else 0.5
        for name in (*ranked, *graded)
    }
    kept = ["task", "kind", "part", "regime", "evaluation", "adapted"]
    made = frame[kept].assign(k_shot=k_shot, n_support=20, n_query=10, **ranked, **graded, **chance)
    made["rated/mae"] = np.nan if tasks == "order" else 1 - value
    return made if tasks is None or tasks == "order" else made[made["task"].isin(tasks)]


@pytest.fixture
def recbole(make_record):
    """Writes a record on a random split, of some of 40 users, or on the published one."""

    def make(learner="maml", quality=0.6, split=None, seed=None, tasks=None, k_shot=90, **given):
        drawn = {"method": "recbole_metarec", "source": "a.csv"} if split is None else {}
        own = {"regimes": ("user_cold",), "shots": (), "n_tasks": 40, "protocol": RECBOLE} | given
        return make_record(
            learner,
            quality,
            seed=split if seed is None else seed,
            feedback="rating",
            target=TARGETS.get(learner, "metarec.torch.maml.MAML"),
            split=drawn or {"seed": split},
            alter=lambda frame: rated(frame, tasks, k_shot),
            experiment="protocols",
            **own,
        )

    return make


@pytest.fixture
def melu(make_record):
    def make(learner="maml", quality=0.3, seed=0, **given):
        return make_record(
            learner,
            quality,
            seed=seed,
            feedback="rating",
            target=TARGETS.get(learner, "metarec.torch.maml.MAML"),
            regimes=CELLS,
            shots=(),
            split={"method": "melu", "source": "states"},
            protocol={"name": "melu", "unseen": "drop"},
            alter=lambda frame: rated(frame, "order" if learner == "random" else None),
            experiment="protocols",
            **given,
        )

    return make


@pytest.fixture
def splits(recbole):
    """Three learners on two splits, whose users overlap and whose longest supports differ."""
    users = [range(0, 20), range(10, 30)]
    return [
        recbole(learner, quality, split=number, tasks=list(own), k_shot=80 + number)
        for number, own in enumerate(users)
        for learner, quality in (("item_mean", 0.6), ("maml", 0.64), ("random", 0.5))
    ]


def only_table(records):
    ((table, *_),) = [tables_of(study) for study in studies_of(records)]
    return table


def rows_of(table):
    return {
        (section.title, row.label): dict(zip(table.columns[1:], row.cells, strict=True))
        for section in table.sections
        for row in section.rows
    }


def row_of(table, label):
    (found,) = [cells for (_, name), cells in rows_of(table).items() if name == label]
    return found


def values_of(record, metric=P5):
    frame = record.per_task
    here = (frame["part"] == "test") & frame["adapted"]
    return frame.loc[here].set_index("task")[metric]


def test_figures_of_others_stand_above_our_own_on_the_same_split(recbole):
    records = [recbole("item_mean", 0.6, seed=s) for s in (0, 1)]
    table = only_table([*records, *(recbole("maml", seed=s, without_steps=0.5) for s in (0, 1))])
    rows = rows_of(table)
    labels = [label for _, label in rows]
    toolkit = ("MeLU, toolkit", "MAMO, toolkit", "TaNP, toolkit")
    again = ("FOMeLU", "MAMO", "TaNP", "Random ranker", "Item mean, unshrunk")
    assert labels == ["Chance", *toolkit, *again, "Item mean", "MAML, 0 steps", "MAML"]
    for one in (*TOOLKIT_100K, *RECBOLE_METAREC):
        kind = "Published" if one in TOOLKIT_100K else "Published code, run again on this split"
        shown = rows[kind, one.label]
        assert [shown[head].value for head in ("P@5", "nDCG@5", "MRR@5")] == [
            number(value) for value in one.values.values()
        ]
        assert not any(cell.interval for cell in shown.values())
    chance = row_of(table, "Chance")
    assert [cell.value for cell in chance.values()] == [".500", ".500", ".704", "–", "–", "–"]
    means = pd.concat([values_of(record) for record in records]).groupby(level="task").mean()
    assert row_of(table, "Item mean")["P@5"].estimate.mean == pytest.approx(means.mean())
    assert row_of(table, "Item mean")["P@5"].mark == "†"
    assert table.preliminary
    assert any("FOMeLU P@5 ±.002" in note for note in table.notes)


def test_the_same_queries_at_many_seeds_are_no_more_episodes(recbole):
    """The published split gives the queries too: 40 tasks at 15 seeds are 40 episodes."""
    table = only_table(
        [
            recbole(learner, quality, seed=seed)
            for learner, quality in (("item_mean", 0.5), ("maml", 0.7))
            for seed in range(15)
        ]
    )
    row = row_of(table, "MAML")
    assert row["P@5"].estimate.episodes == 40
    assert row["P@5, minus item mean"].estimate.episodes == 40
    assert table.preliminary
    assert "the fewest: 15 and 40" in table.warnings[0]


def test_queries_that_each_seed_draws_are_episodes_of_their_own(melu, recbole):
    records = [melu(name, seed=seed) for name in ("item_mean", "maml") for seed in range(2)]
    (first, *_) = tables_of(studies_of(records)[0])
    assert row_of(first, "MAML")["User cold"].estimate.episodes == 2 * 30
    # the split holds the queries of the warm cell out, and all else that is warm is support
    assert row_of(first, "MAML")["Warm"].estimate.episodes == 30
    users = list(range(40))
    records = [
        recbole(name, split=number, tasks=users)
        for name in ("item_mean", "maml")
        for number in range(15)
    ]
    table = only_table(records)
    assert row_of(table, "MAML")["P@5"].estimate.episodes == 600
    assert not table.preliminary


def test_splits_are_pooled_by_user_and_compared_with_the_item_mean(splits):
    table = only_table(splits)
    assert table.name == "protocol_recbole_metarec_splits"
    by_learner = {
        learner: pd.concat(
            [
                values_of(record).rename("value").reset_index().assign(seed=record.seed)
                for record in splits
                if record.learner == learner
            ]
        )
        for learner in ("item_mean", "maml", "random")
    }
    maml = by_learner["maml"]
    found = interval(maml, resamples=200)
    cell = row_of(table, "MAML")["P@5"].estimate
    assert cell.mean == pytest.approx(maml.groupby("task")["value"].mean().mean())
    assert (cell.low, cell.high) == pytest.approx((found.low, found.high))
    assert (cell.tasks, cell.seeds, cell.episodes) == (30, 2, 40)

    paired = {
        name: by_learner[name].assign(
            value=by_learner[name]["value"].to_numpy() - by_learner["item_mean"]["value"].to_numpy()
        )
        for name in ("random", "maml")
    }
    own = {name: one.groupby("task")["value"].mean() for name, one in paired.items()}
    corrected = holm(np.array([wilcoxon(one.to_numpy()) for one in own.values()]))
    for name, label, p in zip(own, ("Random", "MAML"), corrected, strict=True):
        cell = row_of(table, label)["P@5, minus item mean"]
        assert cell.estimate.mean == pytest.approx(own[name].mean())
        assert cell.estimate.p == pytest.approx(p)
        assert cell.estimate.wins == (own[name] > 0).sum()
        assert cell.mark == ("+" if name == "maml" else "−")
        assert cell.source.learner == f"{name} - item_mean"
        assert cell.interval.startswith("[+" if name == "maml" else "[−")
    notes = " ".join(table.notes)
    assert "2 splits by seed (0, 1). Test tasks: 30 users, 40 pairs" in notes
    assert "Pooled over 2 splits: a task is a user" in notes
    assert "All seeds share one split" not in notes
    assert "Published code" not in table.to_markdown()


def test_a_learner_that_lacks_a_split_is_compared_on_the_others(splits, recbole):
    one = recbole("anil", 0.7, split=0, tasks=list(range(20)), k_shot=80)
    table = only_table([*splits, one])
    assert row_of(table, "ANIL (1 seed)")["P@5, minus item mean"].estimate.seeds == 1


def test_the_published_split_and_random_ones_are_tables_of_their_own(splits, recbole, melu):
    records = [*splits, recbole("item_mean", seed=0), melu("item_mean")]
    studies = studies_of(records[::-1])
    assert [(*one.key, one.k_shot) for one in studies] == [
        ("recbole_metarec", "recbole_metarec", 90),
        ("recbole_metarec", "seed", 81),
        ("melu", "melu", 90),
    ]
    names = [table.name for study in studies for table in tables_of(study)]
    assert names == [
        *("protocol_recbole_metarec", "protocol_recbole_metarec_splits"),
        *("protocol_melu", "protocol_melu_ndcg_1", "protocol_melu_ndcg_3"),
    ]
    more = tables_of(studies_of([melu("item_mean"), melu("maml")])[0])
    names = [f"protocol_melu{metric}" for metric in ("", "_ndcg_1", "_ndcg_3")]
    assert [table.name for table in more] == [
        file for name in names for file in (name, f"{name}_differences")
    ]


def test_what_beats_the_best_reproduction_of_melu_is_marked_cell_by_cell(melu):
    records = [
        # in the warm cell better than .68, in both_cold worse than .89
        melu("maml", 0.4, seed=seed, by_regime={"both_cold": -0.3})
        for seed in (0, 1)
    ]
    records += [melu("item_mean", 0.3, seed=seed) for seed in (0, 1)]
    records += [melu("random", 0.3, seed=seed) for seed in (0, 1)]
    table = only_table(records)
    rows = rows_of(table)
    paper, other = MELU
    assert [cell.value for cell in rows["Published", paper.label].values()] == [
        *(".750", ".790", ".920", ".920"),
    ]
    assert [cell.value for cell in rows["Reproduced by others", other.label].values()] == [
        *(".680", ".740", ".900", ".890"),
    ]
    for head, regime in zip(table.columns[1:], CELLS, strict=True):
        cell = row_of(table, "MAML")[head]
        beats = cell.estimate.high < other.values[MAE, regime]
        assert beats == (regime != "both_cold")
        assert cell.mark.endswith(BEATS) == beats
        assert cell.mark.startswith("+" if beats else "−")
    assert [cell.value for cell in row_of(table, "Random").values()] == ["–"] * 4
    assert [cell.value for cell in row_of(table, "Chance").values()] == ["–"] * 4
    assert any(BEATS in note for note in table.notes)
    by_name = {one.name: one for one in tables_of(studies_of(records)[0])}
    ndcg = by_name["protocol_melu_ndcg_1"]
    assert BEATS not in ndcg.to_markdown()
    assert [cell.value for cell in row_of(ndcg, "Chance").values()] == [".500"] * 4
    assert "Published" not in [section.title for section in ndcg.sections]


def test_files_are_the_same_in_any_order_and_each_figure_follows_from_its_record(
    splits, recbole, melu, tmp_path
):
    records = [*splits, recbole("item_mean", seed=0), recbole("maml", seed=0)]
    records += [melu("item_mean"), melu("maml", without_steps=0.2)]
    one = build_report(records, tmp_path / "one")
    two = build_report(records[::-1], tmp_path / "two")
    assert len(one) == 8 * 3
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
        assert str(tmp_path).encode() not in first.read_bytes(), first.name
        assert first.suffix != ".tex" or first.read_text().isascii(), first.name
    findings = list(check_tables(tmp_path / "one", []))
    # two forms of five tables, and of the differences of MeLU's three
    assert len(findings) == 16
    assert {finding.result for finding in findings} == {"open"}
    assert all("prints what protocol_" in finding.problem for finding in findings)

    content = json.loads(
        (tmp_path / "one/records/protocol_recbole_metarec_splits.json").read_text()
    )
    (source,) = content["sources"]
    assert source["command"] == "python -m metarec.report.protocols results/protocols"
    assert source["split"] == "2 splits by seed (0, 1)"
    assert len(source["runs"]["maml"]) == 2
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
    differences = [row for row in rows if row["learner"] == "maml - item_mean"]
    assert {row["metric"] for row in differences} == {P5, "best_rated/ndcg@5", "best_rated/mrr@5"}
    assert all(row["wins"] + row["ties"] + row["losses"] == 30 for row in differences)


def test_every_protocol_with_a_page_has_tables():
    pages = Path(__file__).resolve().parents[2] / "paper" / "protocols"
    names = {page.stem for page in pages.glob("*.md")} - {"README"}
    assert {key[0] for key in TABLES} == names


def test_a_data_set_that_has_tables_apart_is_never_pooled_with_others(splits, recbole):
    other = [
        recbole(learner, 0.7, split=0, data={"name": "ml-1m"}) for learner in ("item_mean", "maml")
    ]
    mamo = {"name": "mamo", "history": [20, 100], "support": 15, "query": 5}
    other += [
        recbole(learner, 0.7, split=0, protocol=mamo, data={"name": reader}, more={"dataset": name})
        for learner in ("item_mean", "maml")
        for reader, name in (("ml-1m", "ml-1m"), ("recbole", "ml-100k"))
    ]
    names = [table.name for study in studies_of([*splits, *other]) for table in tables_of(study)]
    assert names == [
        *("protocol_recbole_metarec_splits", "protocol_recbole_metarec_ml_1m"),
        *("protocol_mamo", "protocol_mamo_ml_100k"),
    ]


def test_failed_runs_have_a_row_that_says_so(splits, recbole):
    failed = recbole("tanp", split=0, error="LearnerError: the loss is NaN")
    table = only_table([*splits, failed])
    assert [cell.value for cell in row_of(table, "TaNP (failed)").values()] == ["–"] * 6
    assert "the loss is NaN" in " ".join(table.notes)


def test_without_the_item_mean_nothing_is_compared(splits):
    table = only_table([record for record in splits if record.learner != "item_mean"])
    assert table.columns == ("Learner", "P@5", "nDCG@5", "MRR@5")
    assert any("nothing was tested" in note for note in table.notes)


def test_what_cannot_stand_in_one_table_is_refused(splits, recbole, make_record):
    other = recbole("maml", split=9, protocol={**RECBOLE, "history": [20, 100]})
    with pytest.raises(RunError, match="differ in a key of `protocol`"):
        studies_of([*splits, other])
    other = recbole("maml", split=9, data={"min_user_interactions": 5})
    with pytest.raises(RunError, match=r"differ in data\.min_user_interactions"):
        studies_of([*splits, other])
    for k_shot in (80, 81):
        other = recbole(f"anil_{k_shot}", split=0, tasks=list(range(30)), k_shot=k_shot)
        with pytest.raises(RunError, match="measured on different tasks"):
            studies_of([*splits, other])
    other = recbole("maml", split=0, protocol={**RECBOLE, "name": "mine"})
    with pytest.raises(RunError, match="no tables of protocol 'mine' split by 'seed'"):
        studies_of([*splits, other])
    with pytest.raises(RunError, match=r"no record of a published protocol.*protocols\.py"):
        studies_of([make_record()])
    older = recbole("anil", split=0, tasks=list(range(20)), code="b" * 64)
    with pytest.raises(RunError, match="2 versions of the code"):
        studies_of([*splits, older])


def test_the_command_prints_every_table_and_writes_it(splits, tmp_path, monkeypatch, capsys):
    build_report(splits, tmp_path / "elsewhere")
    assert capsys.readouterr().out == ""
    monkeypatch.chdir(tmp_path)
    assert main(["results/protocols"]) == 0
    out = capsys.readouterr().out
    assert "RecBole-MetaRec’s protocol on random splits" in out
    assert "Warning: protocol_recbole_metarec_splits: preliminary" in out
    assert Path("paper/tables/protocol_recbole_metarec_splits.tex").is_file()
    assert main(["results/nothing"]) == 1
    assert "error: " in capsys.readouterr().err
