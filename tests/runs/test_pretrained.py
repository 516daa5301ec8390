"""From a record to a folder that can be shared, and the card that says what the record says."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard
from small_checkpoint import small_encoder

import metarec
from metarec.errors import PretrainedError, RunError
from metarec.evaluation.significance import bootstrap
from metarec.learner import Support
from metarec.runs import Record, RunConfig, run
from metarec.runs.learners import build_learner
from metarec.runs.model_card import RANKING, REGIMES
from metarec.runs.prepare import prepare, training_of
from metarec.runs.pretrained import main, pretrained
from metarec.torch.pretrained import PretrainedScorer

Make = Callable[..., RunConfig]

WORDS = ("the", "silent", "golden", "last", "harbour", "winter", "garden", "genres", "comedy")
TRANSFER = "metarec.torch.transfer.Transfer"
BERT: dict[str, Any] = {"hidden_sizes": [6], "steps": 2, "validate_every": 1}
RERANK = {
    "shortlist": 10,
    "retriever": {"name": "popularity", "_target_": "metarec.baselines.popularity.Popularity"},
    "regimes": ["user_cold"],
    "parts": ["test"],
    "curve_regimes": [],
}


@pytest.fixture
def make_text(make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    """Makes a configuration of a learner over the small BERT."""
    monkeypatch.setenv("METAREC_CACHE", str(tmp_path / "cache"))

    def make(target: str = TRANSFER, name: str = "transfer", **sections: Any) -> RunConfig:
        folder = small_encoder(WORDS, max_length=12).checkpoint.folder
        text = {"checkpoint": str(folder), "max_length": 12}
        config = make_config(target, text=text, **sections)
        return replace(config, learner=replace(config.learner, name=name))

    return make


@pytest.fixture
def record(make_text: Make, tmp_path: Path) -> Record:
    return run(make_text(arguments=dict(BERT)), tmp_path / "results")


def rows_of(card: str) -> dict[str, list[str]]:
    """Cells of the table of quality by regime and what stands in the second column."""
    found, regime = {}, ""
    for line in card.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("| ") and "(`" in cells[0]:
            regime = re.search(r"`(\w+)`", cells[0])[1]
        own = cells if line.startswith("| ") and "(`" in line else ["", *cells]
        if line.startswith("|") and own[1] in ("this scorer", "0 steps", "Chance"):
            found[f"{regime}/{own[1]}"] = own[2:]
    return found


def test_the_scorer_of_a_run_scores_as_its_learner(record: Record) -> None:
    config = record.config
    materials = prepare(config, needs_features=True)
    learner: Any = build_learner(config)
    learner.restore(training_of(config, materials, None, None, False))
    support = Support(
        np.array([[5, 11]], np.int32), np.array([[1, 0]], np.float32), np.ones((1, 2), bool)
    )
    expected = learner.score(
        learner.adapt(record.meta_parameters(), support), np.arange(80, dtype=np.int32)
    )[0]
    texts = materials.texts
    scorer = pretrained(record)
    found = scorer.scores([texts[5], texts[11]], [1, 0], texts)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert scorer.config.template == "{title}[. Genres: {genres}]"
    assert scorer.config.title_template == "{title}"


def test_the_card_has_the_numbers_of_the_record(record: Record, tmp_path: Path) -> None:
    pretrained(record).save_pretrained(tmp_path / "scorer")
    card = ModelCard.load(tmp_path / "scorer" / "README.md")
    rows, part = rows_of(card.text), "test"
    assert record.metrics[part].keys() == set(REGIMES)
    for regime, metrics in record.metrics[part].items():
        for who, found, prefix in (
            ("this scorer", metrics, ""),
            ("0 steps", record.without_adaptation[part][regime], ""),
            ("Chance", record.chance[part][regime], "chance/"),
        ):
            cells = rows[f"{regime}/{who}"]
            for cell, metric in zip(cells, RANKING, strict=True):
                value = found[f"catalogue/{prefix}{metric}"]
                assert cell.split(" ")[0] == ("–" if value is None else f"{value:.4f}")
        low, high = re.search(r"\[(.*), (.*)\]", rows[f"{regime}/this scorer"][0]).groups()
        assert float(low) <= metrics["catalogue/ndcg@10"] <= float(high)
        tasks = record.content["counts"][part][regime]["tasks"]
        assert f"{REGIMES[regime]} (`{regime}`), {tasks} tasks" in card.text
    exact = {(one.dataset_config, one.metric_type): one for one in card.data.eval_results}
    for (regime, metric), one in exact.items():
        assert one.metric_value == record.metrics[part][regime][f"catalogue/{metric}"]
        assert one.dataset_split == part
        assert one.dataset_args == {"k_shot": 3}
    assert len(exact) > 4 * 5


def test_the_card_says_where_it_is_from_and_names_no_folder(record: Record, tmp_path: Path) -> None:
    pretrained(record).save_pretrained(tmp_path / "scorer")
    card = ModelCard.load(tmp_path / "scorer" / "README.md")
    assert card.data.library_name == "metarec"
    assert {"recommendation", "cold-start", "transfer"} <= set(card.data.tags)
    assert card.data.license == "other"
    assert card.data.base_model is None  # what a folder holds has no name on the hub
    for fact in (
        record.data_checksum, record.commit, record.code, record.path.name, "80 items",
        f"{record.content['parameters']:,} parameters", "steps: 2",
        "by seed 0", "0 to 3 shots", "Terms", "that of the data set", "{title}[. Genres: {genres}]",
    ):  # fmt: skip
        assert str(fact) in card.text
    checkpoint = record.config.text.checkpoint
    for place in (tmp_path, checkpoint, Path.home(), Path.cwd()):
        for name in ("README.md", "config.json"):
            assert str(place) not in (tmp_path / "scorer" / name).read_text()
    # texts of a data set whose terms are not known are not shown
    assert "Harbour" not in card.text


def test_the_card_says_on_what_values_were_tuned_where_the_record_does(
    make_text: Make, tmp_path: Path
) -> None:
    values = {"data": "elsewhere", "kind": "binary", "values": {"steps": 2}}
    for tuned in ({}, values):
        config = make_text(arguments={**BERT, "tuned": tuned})
        card = pretrained(run(config, tmp_path / f"results-{bool(tuned)}")).card
        assert ("chosen by tuning on validation of elsewhere" in card) == bool(tuned)
        # it is no argument of the class
        assert "tuned:" not in card


@pytest.mark.parametrize("feedback", ["binary", "rating", "implicit"])
def test_the_example_of_the_card_runs(
    make_text: Make, feedback: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = {"feedback": feedback}
    quick = {"parts": ["validation"], "regimes": ["user_cold"], "curve_regimes": []}
    config = make_text(arguments=dict(BERT), episode=episode, evaluation=quick)
    pretrained(run(config, tmp_path / "results"), "my-scorer").save_pretrained(
        tmp_path / "my-scorer"
    )
    card = (tmp_path / "my-scorer" / "README.md").read_text()
    assert ("RMSE" in card) == (feedback == "rating")
    assert "Test was not measured" in card
    example = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(example, {})
    lines = printed.getvalue().splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"-?\d+\.\d{3}  title \d\. Genres: genres \d", line) for line in lines)


def test_a_cross_encoder_that_reranks_says_so(make_text: Make, tmp_path: Path) -> None:
    arguments = {**BERT, "reads": "cross", "head_steps": 0, "pair_length": 24}
    target = "metarec.torch.bert_transfer.BertTransfer"
    record = run(
        make_text(target, "bert_transfer_cross", arguments=arguments, evaluation=RERANK),
        tmp_path / "results",
    )
    scorer = pretrained(record)
    assert scorer.config.arguments["reads"] == "cross"
    recall = record.content["counts"]["test"]["user_cold"]["recall"]
    assert "`popularity` drew 10 candidates for each task" in scorer.card
    assert f"{recall:.4f} (new users, known items)" in scorer.card
    assert "titles=[" in scorer.card
    assert "beyond\n24 tokens of a user's and an item's text together is cut off" in scorer.card
    assert rows_of(scorer.card).keys() == {
        f"user_cold/{who}" for who in ("this scorer", "0 steps", "Chance")
    }


def test_the_command_writes_a_folder_that_loads(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(record.path), str(tmp_path / "scorer")]) == 0
    said = capsys.readouterr().out
    assert f"wrote {tmp_path / 'scorer'} (" in said
    assert f"from_pretrained('{tmp_path / 'scorer'}')" in said
    loaded = metarec.PretrainedScorer.from_pretrained(tmp_path / "scorer")
    assert isinstance(loaded, PretrainedScorer)
    assert 'from_pretrained("scorer")' in loaded.card


def test_the_command_pushes_only_when_told(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pushed: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        PretrainedScorer,
        "push_to_hub",
        lambda self, name, **options: pushed.append((name, options["private"])) or "address",
    )
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    arguments = [str(record.path), str(tmp_path / "scorer")]
    assert main([*arguments, "--push", "user/name"]) == 1
    assert "no token of the Hugging Face hub; log in with" in capsys.readouterr().err
    assert not (tmp_path / "scorer").exists()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    assert main([*arguments, "--push", "name"]) == 1
    assert "--push name: the name of a repository is needed" in capsys.readouterr().err
    assert main(arguments) == 0
    assert not pushed
    assert main([*arguments, "--push", "user/name", "--private"]) == 0
    assert pushed == [("user/name", True)]
    assert "pushed address" in capsys.readouterr().out
    assert 'from_pretrained("user/name")' in (tmp_path / "scorer" / "README.md").read_text()


def test_a_push_that_fails_says_what_is_written(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("403 Forbidden")

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    monkeypatch.setattr(PretrainedScorer, "push_to_hub", fail)
    folder = tmp_path / "scorer"
    assert main([str(record.path), str(folder), "--push", "user/name"]) == 1
    assert "could not be pushed (OSError: 403 Forbidden); the folder is written" in (
        capsys.readouterr().err
    )
    assert (folder / "config.json").is_file()


def test_a_folder_that_is_no_run_is_told(tmp_path: Path, capsys: Any) -> None:
    assert main([str(tmp_path), str(tmp_path / "scorer")]) == 1
    assert "is no folder of a run: it has no record.json" in capsys.readouterr().err


def test_other_learners_and_item_tasks_are_refused(
    make_config: Make, make_text: Make, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    with pytest.raises(PretrainedError, match=r"fake_learners\.Walk cannot be saved .* BertMAML"):
        pretrained(run(make_config(), results))
    items = make_text(arguments=dict(BERT), episode={"task": "item"})
    with pytest.raises(PretrainedError, match=r"of item tasks; .* episode\.task=user"):
        pretrained(run(items, results))


def test_a_run_that_failed_is_refused(make_config: Make, fakes: ModuleType, tmp_path: Path) -> None:
    results = tmp_path / "results"
    with pytest.raises(RuntimeError):
        run(make_config("Broken"), results)
    (record,) = metarec.load_records(results)
    with pytest.raises(RunError, match=r"failed \(RuntimeError: the loss is NaN"):
        pretrained(record)


def test_the_card_says_the_shots_of_each_regime_and_pools_no_others(
    make_text: Make, tmp_path: Path
) -> None:
    shots = {"regime_k_shot": {"user_cold": [1, 4], "both_cold": 2}}
    found = run(make_text(arguments=dict(BERT), evaluation=shots), tmp_path / "results")
    card = pretrained(found).card
    assert "1 shots (new users, known items)" in card
    assert "2 shots (new users, new items)" in card
    args = {one.dataset_config: one.dataset_args for one in ModelCard(card).data.eval_results}
    assert args["user_cold"] == {"k_shot": 1}
    assert args["warm"] == {"k_shot": 3}
    frame = found.per_task
    here = (frame["evaluation"] == "main") & (frame["part"] == "test") & frame["adapted"]
    here &= (frame["regime"] == "user_cold") & (frame["k_shot"] == 1)
    low, high = bootstrap(frame.loc[here, "catalogue/ndcg@10"].dropna().to_numpy(np.float64))
    assert f"[{low:.4f}, {high:.4f}]" in rows_of(card)["user_cold/this scorer"][0]


def test_a_run_under_a_protocol_is_no_scorer_of_a_catalogue(
    make_text: Make, tmp_path: Path
) -> None:
    protocol = {"name": "own", "history": [4, 100], "query": 2, "selection": "graded/ndcg@5"}
    wanted = make_text(
        arguments=dict(BERT), protocol=protocol, evaluation={"regimes": ["user_cold"]}
    )
    found = run(wanted, tmp_path / "results")
    with pytest.raises(PretrainedError, match=r"protocol=own, .* Choose a run without a protocol"):
        pretrained(found)


@pytest.mark.parametrize("key", ["data_checksum", "feature_key"])
def test_data_or_texts_that_are_no_longer_those_of_the_run_are_refused(
    record: Record, key: str
) -> None:
    changed = replace(record, content={**record.content, key: "0" * 64})
    with pytest.raises(RunError, match=r"are no longer those of the run .*SHA-256 0000"):
        pretrained(changed)
