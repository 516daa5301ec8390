"""Each leak is planted in the code that runs, and is to be named by the audit afterwards."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from audit_helpers import leaking

from metarec.audit import audit
from metarec.baselines import popularity as popularity_module
from metarec.episodes import EpisodeSampler, Ragged, labels_of
from metarec.errors import RunError
from metarec.evaluation.episodes import EvaluationEpisodes, evaluation_episodes
from metarec.features import Features
from metarec.inputs import Inputs
from metarec.learner import MetaParameters, Training
from metarec.runs import Record, RunConfig, measure, prepare, tuning
from metarec.splits import Split

Ran = Callable[..., Record]
Problems = Callable[..., dict[str, str]]
FITS, QUERIES = "what the fits consumed", "query sets"


@pytest.mark.parametrize(
    ("target", "sections"),
    [
        ("metarec.baselines.Popularity", {}),
        ("metarec.baselines.Popularity", {"episode": {"task": "item"}}),
        ("metarec.baselines.ItemMean", {"episode": {"feedback": "rating", "negatives": 0}}),
        ("metarec.baselines.EASE", {"episode": {"feedback": "implicit"}}),
        ("fake_learners.Walk", {}),
        ("fake_learners.Walk", {"evaluation": {"tasks": 5, "look_tasks": 4}}),
        ("fake_learners.Walk", {"evaluation": {"parts": ["validation"], "k_curve": [1, 3]}}),
        ("metarec.baselines.Popularity", {"evaluation": {"parts": ["validation"]}}),
    ],
)
def test_a_clean_run_passes(
    target: str, sections: dict[str, Any], ran: Ran, problems: Problems
) -> None:
    record = ran(target, **sections)
    assert problems() == {}
    fits = {entry["fit"] for entry in record.content["consumed"]}
    assert {"learner", "vocabulary"} <= fits
    assert ("early stopping" in fits) == (target == "fake_learners.Walk")


def test_what_runs_share_stands_in_the_record_of_each(ran: Ran) -> None:
    first, second = ran(), ran(seed=1)
    for record in (first, second):
        (entry,) = [one for one in record.content["consumed"] if one["fit"] == "vocabulary"]
        assert entry["what"] == "items"


def test_a_retriever_notes_its_fits_too(ran: Ran, problems: Problems) -> None:
    retriever = {"name": "ease", "_target_": "metarec.baselines.EASE"}
    record = ran(evaluation={"shortlist": 5, "retriever": retriever})
    assert "retriever: matrix" in {one["fit"] for one in record.content["consumed"]}
    assert problems() == {}


def test_a_sampler_that_draws_from_all_of_the_data(
    ran: Ran, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampler(split: Split, **arguments: Any) -> EpisodeSampler:
        return EpisodeSampler(leaking(split), **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "EpisodeSampler", sampler)
        ran("fake_learners.Walk")
    told = problems()[FITS]
    assert "sampler of user tasks: consumed the interactions of all of the data" in told


def test_a_popularity_that_counts_all_of_the_data(
    ran: Ran, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = popularity_module.popularity

    def over_everything(training: Training, of: str) -> np.ndarray:
        data = training.sampler._split.dataset
        labels = labels_of(data.ratings, training.feedback, 4.0)
        return count(replace(training, tasks=data.users, candidates=data.items, labels=labels), of)

    with monkeypatch.context() as patch:
        patch.setattr(popularity_module, "popularity", over_everything)
        ran()
    told = problems()[FITS]
    assert "popularity: consumed the interactions of all of the data, not those of train" in told
    assert "learner: " not in told


@pytest.mark.parametrize("what", ["items", "interactions"])
def test_a_normaliser_that_is_fitted_on_what_is_cold(
    what: str, ran: Ran, problems: Problems, monkeypatch: pytest.MonkeyPatch, fakes: Any
) -> None:
    def fit(self: Any, training: Training) -> MetaParameters:
        data = training.sampler._split.dataset
        seen = replace(training, features=Features(np.eye(training.n_candidates, dtype=np.float32)))
        if what == "items":
            seen = replace(seen, known=np.arange(training.n_candidates, dtype=np.int32))
        else:
            labels = labels_of(data.ratings, training.feedback, 4.0)
            seen = replace(seen, tasks=data.users, candidates=data.items, labels=labels)
        Inputs.fit(seen)
        return {"scores": np.zeros(training.n_candidates, np.float32)}

    with monkeypatch.context() as patch:
        patch.setattr(fakes.Walk, "fit", fit)
        ran("fake_learners.Walk")
    assert f"normaliser: consumed the {what} of all of the data" in problems()[FITS]


def test_a_vocabulary_of_all_items(
    ran: Ran, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = prepare.build_attributes
    with monkeypatch.context() as patch:
        patch.setattr(
            prepare, "build_attributes", lambda split, ledger: build(leaking(split), ledger)
        )
        ran()
    assert "vocabulary: consumed the items of all of the data" in problems()[FITS]


def test_an_early_stopping_that_looks_at_test(
    ran: Ran, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = measure.draw

    def of_test(config: Any, split: Any, part: Any, *others: Any) -> EvaluationEpisodes:
        return draw(config, split, "test", *others)

    with monkeypatch.context() as patch:
        patch.setattr(measure, "draw", of_test)
        ran("fake_learners.Walk", evaluation={"parts": ["test"], "curve_regimes": []})
    told = problems()
    assert "early stopping: looked at test/user_cold, which is not validation" in told[FITS]
    assert QUERIES not in told


def test_an_early_stopping_that_calls_test_validation(
    ran: Ran, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = measure.look_episodes

    def disguised(config: Any, split: Any) -> Any:
        for one in look(config, split):
            test = measure.draw(config, split, "test", one.regime, one.k_shot)
            yield replace(test, part="validation")

    with monkeypatch.context() as patch:
        patch.setattr(measure, "look_episodes", disguised)
        ran("fake_learners.Walk")
    assert "looked at other episodes of validation/user_cold" in problems()[FITS]


def test_a_query_set_that_contains_train(
    ran: Ran, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leak stays where it is while the audit draws again: its own checks have to see it."""
    monkeypatch.setattr(measure, "evaluation_episodes", with_train)
    ran()
    told = problems()[QUERIES]
    assert "test/warm, K=3: 1 queries are interactions of train" in told


def test_a_query_set_that_is_not_what_the_data_give(
    ran: Ran, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(measure, "evaluation_episodes", with_train)
        ran()
    told = problems()[QUERIES]
    assert "main test/warm, K=3: the query sets are not those that the data give" in told
    assert "user_cold" not in told


Change = Callable[[EvaluationEpisodes], EvaluationEpisodes]


def only_what_is_asked(episodes: EvaluationEpisodes) -> EvaluationEpisodes:
    """Candidates are the queries of all tasks and what is left out, and nothing else."""
    kept = np.union1d(episodes.query.values, episodes.excluded.values)

    def moved(lists: Ragged) -> Ragged:
        return Ragged(lists.offsets, np.searchsorted(kept, lists.values))

    return replace(
        episodes,
        candidates=episodes.candidates[kept],
        query=moved(episodes.query),
        excluded=moved(episodes.excluded),
    )


def without_hard_candidates(episodes: EvaluationEpisodes) -> EvaluationEpisodes:
    """Of the first task, half of what it is not asked for is left out."""
    asked, out = episodes.query[0], episodes.excluded[0]
    others = np.setdiff1d(np.arange(len(episodes.candidates)), np.union1d(asked, out))
    numbers, values = episodes.excluded.pairs()
    more = others[::2]
    numbers = np.concatenate([numbers, np.zeros(len(more), np.int64)])
    excluded = Ragged.group(numbers, np.concatenate([values, more]), len(episodes))
    return replace(episodes, excluded=excluded)


def one_query_a_task(episodes: EvaluationEpisodes) -> EvaluationEpisodes:
    """The best rated query of each task, and no other."""
    offsets = episodes.query.offsets
    best = [
        start + int(np.argmax(episodes.query_ratings.values[start:stop]))
        for start, stop in itertools.pairwise(offsets)
    ]

    def one(lists: Ragged) -> Ragged:
        return Ragged(np.arange(len(best) + 1, dtype=np.int64), lists.values[best])

    return replace(
        episodes,
        query=one(episodes.query),
        query_ratings=one(episodes.query_ratings),
        query_labels=one(episodes.query_labels),
    )


def all_relevant(episodes: EvaluationEpisodes) -> EvaluationEpisodes:
    labels = episodes.query_labels
    ones = Ragged(labels.offsets, np.ones_like(labels.values))
    return replace(episodes, query_labels=ones)


def shots_that_are_all_liked(episodes: EvaluationEpisodes) -> EvaluationEpisodes:
    labels = np.ones_like(episodes.support.labels)
    return replace(episodes, support=replace(episodes.support, labels=labels))


def known_items_ranked(episodes: EvaluationEpisodes) -> EvaluationEpisodes:
    nothing = Ragged(np.zeros(len(episodes) + 1, np.int64), np.zeros(0, np.int64))
    return replace(episodes, excluded=nothing)


def half_of_the_tasks(episodes: EvaluationEpisodes) -> EvaluationEpisodes:
    return measure.some_tasks(episodes, len(episodes) // 2, seed=0)


def test_queries_that_are_kept_for_longer_supports_than_there_are(
    ran: Ran, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hiding(*arguments: Any, **settings: Any) -> EvaluationEpisodes:
        return evaluation_episodes(*arguments, **settings | {"reserve": settings["k_shot"] + 1})

    monkeypatch.setattr(measure, "evaluation_episodes", hiding)
    ran(evaluation={"regimes": ["user_cold"], "curve_regimes": []})
    told = problems()[QUERIES]
    assert re.search("test/user_cold, K=3: .* (left out of a task, not 3|that can be asked)", told)


@pytest.mark.parametrize(
    ("leak", "told"),
    [
        (half_of_the_tasks, r"test/user_cold, K=3: \d+ tasks are not \d+ of the \d+ that can be"),
        (only_what_is_asked, r"test/user_cold, K=3: \d+ candidates are not the \d+ of the regime"),
        (without_hard_candidates, r"test/warm, K=3: \d+ candidates are left out that the task may"),
        (one_query_a_task, r"test/item_cold, K=3: \d+ interactions of the tasks are neither asked"),
        (all_relevant, r"test/warm, K=3: \d+ queries are relevant though their rating is not"),
        (shots_that_are_all_liked, r"test/warm, K=3: \d+ shots have another label than the data"),
        (known_items_ranked, r"test/warm, K=3: \d+ candidates are ranked that the task is known"),
    ],
)
def test_an_evaluation_that_is_made_easier_or_other_than_it_should_be(
    leak: Change, told: str, ran: Ran, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It too stays where it is while the audit draws again."""

    def leaking_episodes(*arguments: Any, **settings: Any) -> EvaluationEpisodes:
        return leak(evaluation_episodes(*arguments, **settings))

    monkeypatch.setattr(measure, "evaluation_episodes", leaking_episodes)
    ran()
    assert re.search(told, problems()[QUERIES])


def with_train(split: Split, part: str, regime: str, **settings: Any) -> EvaluationEpisodes:
    """Episodes whose first query of `warm` is exchanged for an interaction of train."""
    episodes = evaluation_episodes(split, part, regime, **settings)  # type: ignore[arg-type]
    if regime != "warm":
        return episodes
    data, query = split.dataset, episodes.query.values.copy()
    rows = split.rows("train")
    own = rows[data.users[rows] == episodes.tasks[0]]
    free = np.setdiff1d(data.items[own], episodes.support.candidates[0])
    query[0] = np.searchsorted(episodes.candidates, free[0])
    row = own[data.items[own] == free[0]]
    ratings = episodes.query_ratings.values.copy()
    ratings[0] = data.ratings[row][0]
    return replace(
        episodes,
        query=Ragged(episodes.query.offsets, query),
        query_ratings=Ragged(episodes.query_ratings.offsets, ratings),
        # evaluate refuses a query that is left out; a leak would have mended that too
        excluded=without_first(episodes, int(query[0])),
    )


def without_first(episodes: EvaluationEpisodes, position: int) -> Ragged:
    """The positions left out, but for one of the first task."""
    numbers, values = episodes.excluded.pairs()
    kept = ~((numbers == 0) & (values == position))
    return Ragged.group(numbers[kept], values[kept], len(episodes))


def test_results_of_other_tasks(ran: Ran, problems: Problems) -> None:
    record = ran()
    frame = record.per_task
    frame.loc[0, "n_query"] += 1
    frame.to_parquet(record.path / "per_task.parquet", index=False)
    assert "tasks or queries are not those of the data" in problems()[QUERIES]


@pytest.mark.parametrize("column", ["n_relevant", "n_candidates"])
def test_counts_that_were_edited(column: str, ran: Ran, problems: Problems) -> None:
    record = ran()
    frame = record.per_task
    frame.loc[0, column] -= 1
    frame.to_parquet(record.path / "per_task.parquet", index=False)
    assert f"{column} is not that of the data" in problems()[QUERIES]


def test_levels_of_chance_that_were_edited(ran: Ran, problems: Problems) -> None:
    record = ran()
    record.content["chance"]["test"]["user_cold"]["catalogue/chance/ndcg@10"] *= 2
    (record.path / "record.json").write_text(json.dumps(record.content))
    assert "test/user_cold: the levels of chance are not those" in problems()[QUERIES]


@pytest.mark.parametrize(
    ("key", "value"), [("name", "ours"), ("of", "all")], ids=["another learner", "another value"]
)
def test_a_run_that_passes_for_another(key: str, value: str, ran: Ran, problems: Problems) -> None:
    record = ran()
    file = record.path / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["learner"][key] = value
    file.write_text(yaml.safe_dump(config))
    assert "its configuration is not the one that it was run with" in problems()["configuration"]


def test_a_run_that_was_put_in_place_of_another(
    ran: Ran, problems: Problems, results: Path
) -> None:
    record = ran()
    record.path.rename(record.path.with_name("ours-user-binary-s0-0123456789ab"))
    assert f"is called {record.path.name}" in problems()["configuration"]


@pytest.mark.parametrize("where", ["catalogue/ndcg@10", "rated/ndcg@5"])
def test_a_mean_that_was_edited(where: str, ran: Ran, problems: Problems) -> None:
    record = ran()
    metrics = record.content["metrics"]["test"]["user_cold"]
    metrics[where] = float(np.nextafter(metrics[where], 1))
    (record.path / "record.json").write_text(json.dumps(record.content))
    told = problems()["means of the record"]
    assert f"test/user_cold, {where}: the record says {metrics[where]}" in told


def test_a_selection_that_is_not_that_of_validation(ran: Ran, problems: Problems) -> None:
    record = ran()
    content = {**record.content, "selection": record.selection + 0.01}
    (record.path / "record.json").write_text(json.dumps(content))
    assert f"the record says {content['selection']}" in problems()["selection"]


def test_a_trial_that_measures_test(ran: Ran, problems: Problems) -> None:
    ran(experiment="tuning")
    assert "a trial of tuning measured test and validation" in problems()["trials"]


@pytest.mark.parametrize("experiment", ["hybrid_blocks", "what_to_adapt_validation"])
def test_what_chooses_and_measures_test_though_it_is_no_tuning(
    experiment: str, ran: Ran, problems: Problems
) -> None:
    ran(experiment=experiment)
    assert f"a trial of {experiment} measured test and validation" in problems()["trials"]


def test_a_tuning_that_is_told_how_its_trials_do_on_test(
    make_config: Callable[..., RunConfig],
    results: Path,
    problems: Problems,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By name, and in disguise: test users that are called validation."""
    config = make_config(
        "metarec.baselines.EASE",
        learner={"regularisation": 100.0, "search": {"regularisation": [10.0, 100.0]}},
    )
    run, draw = tuning.run, measure.draw

    def on_both(trial: RunConfig, *others: Any) -> Record:
        evaluation = replace(trial.evaluation, parts=("validation", "test"))
        return run(replace(trial, evaluation=evaluation), *others)

    def disguised(config: Any, split: Any, part: Any, *others: Any) -> EvaluationEpisodes:
        return replace(draw(config, split, "test", *others), part=part)

    for module, name, leak, check, told in (
        (tuning, "run", on_both, "trials", "a trial of tuning measured test and validation"),
        (measure, "draw", disguised, QUERIES, "validation/user_cold, K=3: the query sets are not"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, leak)
            tuning.tune(config, tuning.TuningSettings(2), results)
        assert told in problems()[check]
        shutil.rmtree(results)
    tuning.tune(config, tuning.TuningSettings(2), results)
    assert problems() == {}


def test_an_old_record_fails_unless_that_is_allowed(ran: Ran, problems: Problems) -> None:
    record = ran()
    old = {name: value for name, value in record.content.items()}
    del old["consumed"], old["episodes"]
    (record.path / "record.json").write_text(json.dumps(old))
    assert "older than the audit" in problems()[FITS]
    assert problems(allow_old=True) == {}


@pytest.mark.parametrize("fit", ["learner", "sampler of user tasks", "popularity"])
def test_a_fit_that_notes_nothing(fit: str, ran: Ran, problems: Problems) -> None:
    record = ran()
    content = {**record.content}
    content["consumed"] = [one for one in content["consumed"] if one["fit"] != fit]
    (record.path / "record.json").write_text(json.dumps(content))
    assert f"{fit}: the record does not say what it consumed" in problems()[FITS]


def test_what_a_class_that_is_not_metarecs_read_is_left_open(ran: Ran, tmp_path: Path) -> None:
    """Its record says what it was handed; `Popularity` of metarec notes what it read."""
    targets = ("fake_learners.Walk", "metarec.baselines.Popularity")
    ours = {ran(target).path.name: target for target in targets}
    found = audit([tmp_path / "results"])
    results = {ours[one.what]: one.result for one in found if one.check == FITS}
    assert results == {targets[0]: "open", targets[1]: "holds"}


def test_other_data_than_those_of_the_run(ran: Ran, problems: Problems, tmp_path: Path) -> None:
    ran()
    lines = (tmp_path / "interactions.csv").read_text().splitlines()
    (tmp_path / "interactions.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert "give its folder: --folder csv=" in problems()["data"]


def test_a_folder_of_data_that_no_record_has_is_an_error(ran: Ran, results: Path) -> None:
    ran()
    with pytest.raises(RunError, match=r"no record is of data set 'cvs'.*did you mean 'csv'"):
        audit([results], data={"cvs": "somewhere"})


def test_a_published_split_that_is_no_longer_that_of_the_run(ran: Ran, problems: Problems) -> None:
    record = ran()
    file = record.path / "record.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "split_checksum": "0" * 64}))
    assert "split" in problems()["data"]


def test_nothing_to_audit_is_an_error(results: Path) -> None:
    with pytest.raises(RunError, match="no results in"):
        audit([results])
    results.mkdir()
    with pytest.raises(RunError, match=r"no finished record to audit in .*make paper"):
        audit([results])
