from __future__ import annotations

import re

import pytest

from metarec.errors import RunError
from metarec.report.assemble import assemble
from metarec.report.collect import error_of, finished_records, results_of

BASELINE = "metarec.baselines.ease:EASE"
KNN = {"name": "item_knn", "_target_": "metarec.baselines.knn.ItemKNN", "neighbours": 20}
RERANK = {"shortlist": 100, "retriever": KNN}


def test_records_of_two_code_versions_are_refused_with_versions_runs_and_remedy(make_record):
    one = make_record("maml", code="1" * 64)
    two = make_record("ease", code="2" * 64)
    with pytest.raises(RunError, match=r"2 versions.*111111111111 .*222222222222 ") as caught:
        finished_records([one, two], allow_mixed_versions=False)
    for hint in (one.path.name, two.path.name, "--allow-mixed-versions", "Remove"):
        assert hint in str(caught.value)


def test_code_versions_are_mixed_on_demand_and_the_note_names_both(make_record):
    records = [make_record("maml", code="1" * 64), make_record("ease", code="2" * 64)]
    tables = assemble(records, allow_mixed_versions=True).tables
    assert [table.name for table in tables] == ["main", "main_differences"]
    for table in tables:
        notes = " ".join(table.notes)
        assert "code 111111111111 and 222222222222" in notes
        assert "--allow-mixed-versions" in notes


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"data": {"name": "other"}}, "data.name"),
        ({"data": {"min_user_interactions": 5}}, "data.min_user_interactions"),
        ({"split": {"seed": 1}}, "split.seed"),
        ({"episode": {"threshold": 3.5}}, "episode.threshold"),
        ({"episode": {"k_shot": 5}}, "episode.k_shot"),
        ({"evaluation": RERANK}, "evaluation.shortlist"),
    ],
)
def test_one_table_holds_one_data_set_split_and_episode_setting(make_record, overrides, key):
    records = [make_record("maml"), make_record("ease", **overrides)]
    with pytest.raises(RunError, match=rf"differ in {re.escape(key)}.*ease-user.*maml-user"):
        assemble(records)


def test_a_setting_of_training_may_differ_between_learners(make_record):
    records = [make_record("maml"), make_record("ease", episode={"task_batch": 8})]
    assert assemble(records).tables[0].name == "main"


def test_learners_of_one_table_rerank_what_the_same_retriever_drew(make_record):
    other = RERANK | {"retriever": KNN | {"neighbours": 50}}
    same = RERANK | {"retriever": KNN | {"search": {"neighbours": [50]}}}
    maml = make_record("maml", evaluation=RERANK)
    assert assemble([maml, make_record("ease", evaluation=same)]).tables[0].name == "main"
    with pytest.raises(RunError, match=r"differ in evaluation\.retriever"):
        assemble([maml, make_record("als", evaluation=other)])


def test_where_the_data_lay_does_not_matter(make_record):
    records = [make_record("maml"), make_record("ease", data={"folder": "elsewhere"})]
    assert assemble(records).tables[0].name == "main"


def test_a_learner_and_seed_must_not_occur_twice(make_record):
    records = [make_record("maml"), make_record("maml", episode={"task_batch": 8})]
    with pytest.raises(RunError, match=r"'maml' with seed 0 occurs 2 times: paper/maml-user"):
        assemble(records)


def test_learners_on_different_tasks_are_refused_by_name(make_record):
    shorter = make_record("ease", alter=lambda frame: frame[frame["task"] != 3])
    with pytest.raises(
        RunError, match=r"'ease' and 'maml' were measured on different tasks.*such as 3"
    ):
        assemble([make_record("maml"), shorter])


def test_learners_on_different_candidates_are_refused_by_name(make_record):
    def more(frame):
        return frame.assign(n_candidates=frame["n_candidates"] + (frame["task"] == 4))

    with pytest.raises(RunError, match=r"'ease' and 'maml' ranked different.*first for task 4"):
        assemble([make_record("maml"), make_record("ease", alter=more)])


def test_a_task_must_not_occur_twice_in_a_run(make_record):
    import pandas as pd

    twice = make_record("ease", alter=lambda frame: pd.concat([frame, frame]))
    with pytest.raises(RunError, match="task 0 occurs twice for 'ease'"):
        assemble([make_record("maml"), twice])


def test_a_per_task_file_without_a_column_is_named(make_record):
    broken = make_record("ease", alter=lambda frame: frame.drop(columns="n_relevant"))
    with pytest.raises(RunError, match=r"ease-user-binary-s0-\w+/per_task.parquet.*'n_relevant'"):
        assemble([broken])


def test_no_finished_record_is_an_error_that_says_what_failed(make_record):
    failed = make_record("maml", error="ValueError: boom")
    with pytest.raises(RunError, match=r"1 failed: paper/maml-user.*make paper"):
        assemble([failed])
    with pytest.raises(RunError, match="no finished record to report among 0"):
        assemble([])


def test_trials_of_tuning_are_passed_over(make_record):
    trial = make_record("maml", evaluation={"parts": ["validation"]}, code="9" * 64)
    run = make_record("maml")
    assert finished_records([trial, run], allow_mixed_versions=False) == [run]


def test_rows_stand_by_group_and_0_steps_before_the_adapted_row(make_record):
    names = ["prototypical", "maml", "ridge", "als", "random", "ease"]
    records = [make_record(name, without_steps=0.1 if name == "maml" else None) for name in names]
    results = results_of(records, [], "user", ("binary",))
    assert results is not None
    assert [variant.key for variant in results.variants] == [
        "random",
        "ease",
        "als",
        "ridge",
        "maml, 0 steps",
        "maml",
        "prototypical",
    ]


def test_an_error_is_one_line_without_folders_of_the_machine(make_record):
    text = "OSError: no /home/me/work/data/ratings.csv; see results/paper\nTraceback ..."
    failed = make_record("maml", error=text)
    assert error_of(failed) == "OSError: no ratings.csv; see results/paper"
