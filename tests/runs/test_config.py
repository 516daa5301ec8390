from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarec.errors import ConfigError
from metarec.runs import EpisodeConfig, EvaluationConfig, LearnerConfig, RunConfig

EASE = {"name": "ease", "_target_": "metarec.baselines.ease.EASE", "regularisation": 100.0}
KNN = {"name": "item_knn", "_target_": "metarec.baselines.knn.ItemKNN", "neighbours": 20}
RERANK = {"shortlist": 100, "retriever": KNN}


def config_of(**sections: Any) -> RunConfig:
    return RunConfig.from_dict({"learner": EASE, **sections})


def test_what_is_left_out_has_its_default() -> None:
    config = config_of()
    assert config.data.name == "ml-latest-small"
    assert config.evaluation.k_curve == (0, 1, 3, 5, 10, 20)
    assert config == RunConfig(
        LearnerConfig("ease", "metarec.baselines.ease.EASE", {"regularisation": 100.0})
    )


def test_from_dict_inverts_to_dict_and_to_dict_is_plain_json() -> None:
    config = config_of(
        seed=3,
        episode={"k_shot": 5, "train_k_shot": 7},
        split={"method": "time", "test_from": "2015-01-01"},
        learner={**EASE, "search": {"regularisation": [1.0, 10.0]}},
        evaluation={**RERANK, "tasks": 64},
    )
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"sed": 1}, "unknown configuration key 'sed'; did you mean 'seed'"),
        ({"episode": {"kshot": 1}}, "'episode.kshot'; did you mean 'k_shot'"),
        ({"evaluation": {"regime": ["warm"]}}, "'evaluation.regime'; did you mean 'regimes'"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_it_and_the_nearest(
    sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(**sections)


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"seed": "one"}, "seed='one': an integer"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"seed": True}, "seed=True: an integer"),
        ({"experiment": "../elsewhere"}, "experiment='../elsewhere'"),
        ({"episode": {"feedback": "binari"}}, "episode.feedback='binari'.*did you mean 'binary'"),
        ({"episode": {"k_shot": 2.5}}, "episode.k_shot=2.5: an integer"),
        ({"episode": {"train_k_shot": [0, 1, 2]}}, "episode.train_k_shot"),
        ({"episode": {"threshold": None}}, "episode.threshold is missing"),
        ({"episode": {"threshold": float("nan")}}, "episode.threshold"),
        ({"evaluation": {"regimes": ["user"]}}, "evaluation.regimes='user'.*did you mean"),
        ({"evaluation": {"regimes": []}}, "evaluation.regimes is empty"),
        ({"evaluation": {"cutoffs": [5, 5]}}, "evaluation.cutoffs"),
        ({"evaluation": {"cutoffs": 10}}, "evaluation.cutoffs=10: a list of integers"),
        ({"evaluation": {"k_curve": [-1]}}, "evaluation.k_curve"),
        ({"split": {"users": [0.5, 0.5]}}, "split.users=.*: a list of 3 numbers"),
        ({"data": {"options": "file.csv"}}, "data.options='file.csv': a mapping"),
        ({"data": "ml-1m"}, "data='ml-1m': a section"),
        ({"backend": {"name": "tf"}}, "backend.name='tf'"),
        ({"learner": {"name": "ease"}}, "learner._target_ is missing"),
        ({"learner": {**EASE, "name": "a/b"}}, "learner.name='a/b'"),
        ({"learner": {**EASE, "search": {"regularisation": 3}}}, "learner.search.regularisation"),
        ({"evaluation": {"shortlist": -1}}, "evaluation.shortlist=-1 must be at least 0"),
        ({"evaluation": {"tasks": 0}}, "evaluation.tasks=0 must be at least 1"),
        ({"evaluation": {"look_tasks": 0}}, "evaluation.look_tasks=0 must be at least 1"),
        ({"evaluation": {"regime_k_shot": {"user": 5}}}, "regime_k_shot.user: .*'user_cold'"),
        ({"evaluation": {"regime_k_shot": {"warm": []}}}, "regime_k_shot.warm is empty"),
        ({"evaluation": {"regime_k_shot": {"warm": [5, "a"]}}}, "regime_k_shot.warm=.*whole"),
        ({"evaluation": {"shortlist": 100}}, "evaluation.shortlist=100 needs .*evaluation=rerank"),
        ({"evaluation": {"retriever": KNN}}, "evaluation.retriever=item_knn .*shortlist=100"),
        ({"evaluation": {**RERANK, "retriever": 3}}, "retriever=3: a section of keys or null"),
        ({"evaluation": {"retriever": {"name": "a"}}}, "evaluation.retriever._target_ is missing"),
        (
            {"evaluation": {**RERANK, "retriever": {**KNN, "name": "a/b"}}},
            "evaluation.retriever.name='a/b'",
        ),
        (
            {"evaluation": {**RERANK, "retriever": {**KNN, "search": {"neighbours": 3}}}},
            "evaluation.retriever.search.neighbours=3",
        ),
    ],
)
def test_a_value_that_cannot_be_is_an_error_that_names_its_key(
    sections: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        config_of(**sections)


def test_a_run_needs_a_learner() -> None:
    with pytest.raises(ConfigError, match="no learner"):
        RunConfig.from_dict({"seed": 1})


def test_rating_feedback_has_no_sampled_negatives_and_implicit_feedback_no_threshold() -> None:
    assert EpisodeConfig(feedback="rating", negatives=0.5).negatives == 0
    assert EpisodeConfig(feedback="implicit").threshold is None


@given(st.integers(0, 100), st.integers(0, 20), st.sampled_from(["user", "item"]))
def test_equal_configurations_have_equal_hashes_and_others_differ(
    seed: int, k_shot: int, task: str
) -> None:
    config = config_of(seed=seed, episode={"k_shot": k_shot, "task": task})
    again = RunConfig.from_dict(config.to_dict())
    other = config_of(seed=seed + 1, episode={"k_shot": k_shot, "task": task})
    assert config.hash("data", "features") == again.hash("data", "features")
    assert config.hash("data", "features") != other.hash("data", "features")


def test_the_hash_covers_data_and_features_but_neither_experiment_nor_search() -> None:
    config = config_of()
    name = config.hash("data", "features")
    assert config.hash("other data", "features") != name
    assert config.hash("data", "other features") != name
    assert config_of(learner={**EASE, "regularisation": 1.0}).hash("data", "features") != name
    renamed = config_of(experiment="other", learner={**EASE, "search": {"regularisation": [1.0]}})
    assert renamed.hash("data", "features") == name


TUNED = {"data": "ml-latest-small", "kind": "binary", "values": {"regularisation": 3.0}}


def test_a_run_knows_where_its_values_were_chosen_and_is_named_as_without() -> None:
    chosen = config_of(learner={**EASE, "regularisation": 3.0, "tuned": TUNED})
    assert chosen.learner.tuned_on == ("ml-latest-small", "binary")
    assert "tuned" not in chosen.learner.arguments
    assert RunConfig.from_dict(chosen.to_dict()) == chosen
    same = config_of(learner={**EASE, "regularisation": 3.0})
    assert same.learner.tuned_on is None
    assert "tuned" not in same.to_dict()["learner"]
    assert chosen.hash("data", "features") == same.hash("data", "features")
    drawn = {"shortlist": 100, "retriever": {**RERANK["retriever"], "tuned": TUNED}}
    assert config_of(evaluation=drawn).hash("", "") == config_of(evaluation=RERANK).hash("", "")


def test_values_that_the_call_changed_were_not_chosen_by_tuning() -> None:
    changed = config_of(learner={**EASE, "regularisation": 4.0, "tuned": TUNED})
    assert changed.learner.tuned_on is None


@pytest.mark.parametrize(
    "tuned", [{"data": "ml-latest-small"}, TUNED | {"values": 3.0}, TUNED | {"values": {}}]
)
def test_half_a_statement_of_what_was_tuned_is_an_error(tuned: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"learner\.tuned=.*leave it out of your own"):
        config_of(learner={**EASE, "tuned": tuned})


def test_a_retriever_is_a_learner_however_it_is_given() -> None:
    retriever = LearnerConfig("item_knn", "metarec.baselines.knn.ItemKNN", {"neighbours": 20})
    assert config_of(evaluation=RERANK).evaluation.retriever == retriever
    given = EvaluationConfig(shortlist=100, retriever=retriever)
    assert config_of(evaluation=RERANK).evaluation == given


def test_runs_without_a_shortlist_have_the_names_that_they_had_before_there_was_one() -> None:
    # as this configuration was called at commit 646480b
    before = "4fa885fd70b6041b"
    assert config_of().hash("data", "features").startswith(before)
    explicit = {"shortlist": 0, "retriever": None, "tasks": None}
    assert config_of(evaluation=explicit) == config_of()


def test_the_hash_covers_shortlist_retriever_and_tasks_but_not_what_tuning_would_try() -> None:
    def name(**evaluation: Any) -> str:
        return config_of(evaluation=evaluation).hash("data", "features")

    several = [
        name(),
        name(tasks=64),
        name(look_tasks=32),
        name(curve_unadapted=False),
        name(regime_k_shot={"item_cold": 20}),
        name(**RERANK),
        name(**RERANK, tasks=64),
        name(**{**RERANK, "shortlist": 50}),
        name(**{**RERANK, "retriever": {**KNN, "neighbours": 50}}),
        name(**{**RERANK, "retriever": EASE}),
    ]
    assert len(set(several)) == len(several)
    searched = {**KNN, "search": {"neighbours": [1, 2]}}
    assert name(**{**RERANK, "retriever": searched}) == name(**RERANK)
