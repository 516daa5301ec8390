"""A saved scorer: the learner's own scores, wherever it lies; and what is refused."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from small_checkpoint import small_encoder

from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, labels_of
from metarec.errors import LearnerError, PretrainedError
from metarec.features import build_features
from metarec.jax import maml as in_jax
from metarec.learner import Feedback, Support, Training
from metarec.splits import Split
from metarec.torch import adapted_bert
from metarec.torch.bert_learner import BertLearner
from metarec.torch.bert_maml import BertMAML
from metarec.torch.bert_transfer import BertTransfer
from metarec.torch.encoder import BertEncoder
from metarec.torch.maml import MAML
from metarec.torch.pretrained import PretrainedScorer
from metarec.torch.scorer_config import SCORING, ScorerConfig, weights_of
from metarec.torch.transfer import Transfer

WORDS = ("the", "silent", "golden", "last", "harbour", "winter", "garden", "case", "liked", "loved")
SMALL: dict[str, Any] = {
    "hidden_sizes": (9,), "steps": 2, "head_steps": 3, "inner_learning_rate": 0.1, "rank": 2,
    "bert_inner_learning_rate": 0.03, "pair_length": 24, "validate_every": 1,
}  # fmt: skip
CROSS = {"reads": "cross", "head_steps": 0}
ON_FEATURES = {"hidden_sizes": (4,), "steps": 3}

Learned = tuple[Any, dict[str, np.ndarray], PretrainedScorer]


def make_training(data: Dataset, feedback: Feedback = "binary") -> Training:
    """User tasks, with the features that the small BERT makes of titles and genres."""
    split = Split.by_seed(data, 0)
    rows = split.rows("train")
    settings = small_encoder(WORDS, max_length=12)
    titles = tuple(data.item_text["title"])
    texts = tuple(data.item_text["title"] + " " + data.item_text["genres"])
    vectors = BertEncoder(settings.checkpoint, max_length=settings.max_length).encode(texts)
    threshold = 4.0 if feedback == "binary" else None
    sampler = EpisodeSampler(
        split, "user", k_shot=(0, 4), query_size=6, task_batch=3, seed=0, feedback=feedback,
        threshold=threshold, negatives=0.0 if feedback == "rating" else 0.5,
    )  # fmt: skip
    return Training(
        "user", feedback, data.users[rows], data.items[rows],
        labels_of(data.ratings[rows], feedback, threshold), data.n_users, data.n_items,
        sampler.known, texts, build_features(split, vectors, "user", feedback, threshold), sampler,
        titles=titles, encoder=settings,
    )  # fmt: skip


def saved(kind: type[Any], arguments: dict[str, Any], training: Training) -> Learned:
    """A learner that was trained, and the scorer that it becomes."""
    learner = kind(**arguments)
    meta = dict(learner.fit(training))
    target = f"{kind.__module__}.{kind.__name__}"
    assert training.encoder is not None
    scale = float(training.labels.min()), float(training.labels.max())
    config = ScorerConfig.of(target, arguments, training.encoder, training.feedback, scale)
    weights = weights_of(target, arguments, meta)
    return learner, meta, PretrainedScorer(config, weights, training.encoder.checkpoint)


@pytest.fixture
def training(tiny_dataset: Dataset) -> Training:
    return make_training(tiny_dataset)


@pytest.fixture
def scorer(training: Training) -> PretrainedScorer:
    """A bi-encoder whose last layer adapts."""
    return saved(BertTransfer, SMALL, training)[2]


def same_scores(
    learned: Learned, training: Training, items: list[int], labels: list[float]
) -> None:
    """The scorer's scores of all texts are the learner's of all items, for one user."""
    learner, meta, scorer = learned
    shots, given = np.array([items], np.int32), np.array([labels], np.float32)
    support = Support(shots, given, np.ones(shots.shape, bool))
    own = learner.score(learner.adapt(meta, support), np.arange(80, dtype=np.int32))[0]
    found = scorer.scores(
        [training.texts[item] for item in items], labels, training.texts,
        [training.titles[item] for item in items],
    )  # fmt: skip
    assert np.ptp(own) > 1e-4
    np.testing.assert_allclose(found, own, atol=2e-5, rtol=2e-5)


def files_of(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (BertMAML, {"adapted": "head"}),
        (BertTransfer, {"adapted": "last_n", "adapted_layers": 2}),
        (BertMAML, {"adapted": "lora"}),
        (BertTransfer, {"adapted": "full"}),
        (BertMAML, {"scorer": "cosine", "embedding_size": 3}),
        (BertMAML, {**CROSS, "adapted": "last_n"}),
        (BertTransfer, {**CROSS, "adapted": "lora"}),
        (BertTransfer, {**CROSS, "adapted": "full"}),
    ],
)
@pytest.mark.parametrize("shots", [([4, 9, 31], [1, 0, 1]), ([], [])], ids=["K=3", "K=0"])
def test_it_scores_as_the_learner_that_was_trained(
    training: Training, kind: type[BertLearner], how: dict[str, Any], shots: Any
) -> None:
    same_scores(saved(kind, {**SMALL, **how}, training), training, *shots)


@pytest.mark.parametrize("how", [{}, CROSS], ids=["bi", "cross"])
def test_it_scores_ratings_as_the_learner(tiny_dataset: Dataset, how: dict[str, Any]) -> None:
    training = make_training(tiny_dataset, "rating")
    learned = saved(BertTransfer, {**SMALL, **how}, training)
    assert learned[2].predicts == "rating"
    assert learned[2].config.scale == (1.0, 5.0)
    same_scores(learned, training, [4, 9, 31], [5, 1, 3])


def test_it_scores_implicit_feedback_as_the_learner(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset, "implicit")
    learned = saved(BertTransfer, SMALL, training)
    assert learned[2].config.scale == (0.0, 1.0)
    same_scores(learned, training, [4, 9], [1, 1])


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (MAML, {**ON_FEATURES, "inner_steps": 2, "inner_learning_rate": 0.1}),
        (MAML, {**ON_FEATURES, "scorer": "fusion_learned", "first_order": True}),
        (Transfer, {**ON_FEATURES, "fine_tune_steps": 2, "fine_tune_learning_rate": 0.2}),
        (in_jax.MAML, {**ON_FEATURES, "inner_learning_rate": 0.1}),
    ],
)
def test_a_learner_on_frozen_features_is_the_same_over_a_bert_of_which_nothing_adapts(
    training: Training, kind: type[Any], arguments: dict[str, Any]
) -> None:
    learned = saved(kind, arguments, training)
    same_scores(learned, training, [4, 9, 31], [1, 0, 1])
    assert learned[2].config.arguments["adapted"] == "head"
    steps = arguments.get("fine_tune_steps", arguments.get("inner_steps", 3))
    assert learned[2].config.arguments["inner_steps"] == steps


@pytest.mark.parametrize("how", [{}, {**CROSS, "adapted": "lora"}], ids=["bi", "cross"])
def test_what_was_saved_and_moved_scores_in_the_same_bits(
    training: Training, how: dict[str, Any], tmp_path: Path
) -> None:
    scorer = saved(BertMAML, {**SMALL, **how}, training)[2]
    scorer.save_pretrained(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "elsewhere" / "there")
    loaded = PretrainedScorer.from_pretrained(tmp_path / "elsewhere" / "there", device="cpu")
    assert loaded.config == scorer.config
    assert loaded.card == scorer.card
    user = list(training.texts[:3]), [1, 0, 1], training.texts
    np.testing.assert_array_equal(loaded.scores(*user), scorer.scores(*user))
    assert loaded.rank(*user) == scorer.rank(*user)
    assert loaded._encoder.checkpoint.folder == tmp_path / "elsewhere" / "there" / "bert"
    loaded.save_pretrained(tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "elsewhere" / "there")


def test_the_folder_has_all_that_is_needed_and_no_path_of_this_machine(
    scorer: PretrainedScorer, training: Training, tmp_path: Path
) -> None:
    scorer.save_pretrained(tmp_path / "scorer")
    files = files_of(tmp_path / "scorer")
    assert {"README.md", "config.json", "model.safetensors", "bert/vocab.txt"} <= files.keys()
    assert not any(name.endswith((".pkl", ".bin", ".pt", ".tmp")) for name in files)
    assert training.encoder is not None
    for place in (tmp_path, training.encoder.checkpoint.folder, Path.home(), Path.cwd()):
        for name in ("config.json", "README.md", "bert/config.json"):
            assert str(place).encode() not in files[name]
    content = json.loads(files["config.json"])
    assert content["format"] == 1
    assert content["text"]["checkpoint"] == "small"
    assert content["arguments"].keys() == set(SCORING)


def test_the_bert_is_read_once_and_a_catalogue_once(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, prefixes = [], []
    load, prefix = adapted_bert.load, adapted_bert.AdaptedBert.prefix
    monkeypatch.setattr(adapted_bert, "load", lambda *a: read.append(a) or load(*a))
    monkeypatch.setattr(
        adapted_bert.AdaptedBert,
        "prefix",
        lambda self, batch: prefixes.append(len(batch.values)) or prefix(self, batch),
    )
    scorer = saved(BertTransfer, SMALL, training)[2]
    assert len(read) == 2  # that of the training, and that of the scorer
    prefixes.clear()
    first = scorer.scores([training.texts[3]], [1], training.texts)
    assert sum(prefixes) == 80 + 1
    prefixes.clear()
    scorer.scores([training.texts[5]], [0], training.texts)
    assert sum(prefixes) == 1
    scorer.scores([], [], training.texts[:7])
    np.testing.assert_array_equal(scorer.scores([training.texts[3]], [1], training.texts), first)
    assert len(read) == 2


def test_no_call_changes_another(scorer: PretrainedScorer, training: Training) -> None:
    texts = training.texts
    one = [texts[3], texts[8]], [1, 0], texts[10:20]
    first = scorer.scores(*one)
    scorer.scores([texts[4]], [0], texts)
    np.testing.assert_array_equal(scorer.scores(*one), first)
    with torch.no_grad():
        np.testing.assert_array_equal(scorer.scores(*one), first)
    with torch.inference_mode():
        np.testing.assert_array_equal(scorer.scores(*one), first)


def test_ranking_is_by_score_without_the_shots(
    scorer: PretrainedScorer, training: Training
) -> None:
    texts = training.texts[:12]
    shots, labels = [texts[2], texts[5]], np.array([1, 0])
    scores = dict(zip(texts, scorer.scores(shots, labels, texts).tolist(), strict=True))
    ranked = scorer.rank(shots, labels, texts, k=20)
    assert len(ranked) == 10
    assert {text for text, _ in ranked} == set(texts) - set(shots)
    assert [score for _, score in ranked] == sorted((scores[t] for t, _ in ranked), reverse=True)
    assert all(score == scores[text] for text, score in ranked)
    assert scorer.rank(shots, labels, texts, k=3) == ranked[:3]
    assert scorer.rank(shots, labels, texts, k=0) == []


def test_without_candidates_there_are_no_scores(scorer: PretrainedScorer) -> None:
    assert scorer.scores(["the case"], [1], []).shape == (0,)
    assert scorer.rank([], [], []) == []


@pytest.mark.parametrize(
    ("shots", "labels", "message"),
    [
        (["a"], [1, 0], "2 labels for 1 shots"),
        (["a", "b"], [1], "1 labels for 2 shots"),
        (["a"], [4.5], r"a label is 4\.5: this scorer takes binary feedback, .* 1 \(liked\) or 0"),
        (["a"], [float("nan")], "a label is nan"),
        (["a"], ["good"], r"labels=\['good'\]: numbers are needed"),
        ("a case", [1], "shots='a case' is one text; give a list"),
    ],
)
def test_shots_that_do_not_fit_are_refused(
    scorer: PretrainedScorer, shots: Any, labels: Any, message: str
) -> None:
    with pytest.raises(LearnerError, match=message):
        scorer.scores(shots, labels, ["the garden"])


def test_labels_of_other_feedback_and_titles_that_are_too_few_are_refused(
    tiny_dataset: Dataset,
) -> None:
    ratings = saved(BertTransfer, SMALL, make_training(tiny_dataset, "rating"))[2]
    with pytest.raises(LearnerError, match=r"a label is 0: .* a rating of 1 to 5"):
        ratings.scores(["a", "b"], [4, 0], ["c"])
    chosen = saved(BertTransfer, SMALL, make_training(tiny_dataset, "implicit"))[2]
    with pytest.raises(LearnerError, match=r"a label is 0: .* implicit feedback, .* 1 \(chosen\)"):
        chosen.scores(["a", "b"], [1, 0], ["c"])
    with pytest.raises(LearnerError, match="1 titles for 2 shots"):
        chosen.scores(["a", "b"], [1, 1], ["c"], titles=["A"])
    with pytest.raises(LearnerError, match="k=-1"):
        chosen.rank([], [], ["c"], k=-1)


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("metarec.torch.anil.ANIL", {}),
        ("metarec.torch.maml.MAML", {"representation": "both"}),
        ("metarec.baselines.ease.EASE", {}),
        ("elsewhere.bert_maml.BertMAML", {}),
    ],
)
def test_other_learners_are_refused_with_what_can_be_saved(
    training: Training, target: str, arguments: dict[str, Any]
) -> None:
    assert training.encoder is not None
    with pytest.raises(PretrainedError, match=rf"{target}.* cannot be saved .* MAML and Transfer"):
        ScorerConfig.of(target, arguments, training.encoder, "binary", (0.0, 1.0))


def test_an_argument_that_the_learner_does_not_have_is_refused(training: Training) -> None:
    assert training.encoder is not None
    with pytest.raises(PretrainedError, match=r"'inner_step'; did you mean 'inner_steps'"):
        ScorerConfig.of(
            "metarec.torch.maml.MAML", {"inner_step": 1}, training.encoder, "binary", (0.0, 1.0)
        )


def test_each_argument_of_the_learners_decides_a_score_or_is_known_not_to() -> None:
    """Whoever adds an argument decides whether a saved scorer needs it."""
    of_training = {
        *("first_order", "head_steps", "head_learning_rate", "task_batch", "steps"),
        *("learning_rate", "bert_learning_rate", "weight_decay", "validate_every", "patience"),
    }
    of_speed = {
        *("attention", "precision", "checkpointing", "compile", "device"),
        *("cache_memory_mib", "cache_disk_mib"),
    }
    arguments = set(inspect.signature(BertLearner).parameters)
    assert set(SCORING) <= arguments <= {*SCORING} | of_training | of_speed


def test_meta_parameters_of_another_learner_are_refused(scorer: PretrainedScorer) -> None:
    weights, checkpoint = dict(scorer._weights), scorer._encoder.checkpoint
    head = weights.pop("head.layer0.bias")
    with pytest.raises(LearnerError, match=r"head\.layer0\.bias is missing, and should be \(9,\)"):
        PretrainedScorer(scorer.config, weights, checkpoint)
    weights |= {"head.layer0.bias": head, "head.layer9.bias": head}
    with pytest.raises(LearnerError, match=r"head\.layer9\.bias is \(9,\), and should be missing"):
        PretrainedScorer(scorer.config, weights, checkpoint)
    with pytest.raises(LearnerError, match=r"inputs\.label is missing"):
        PretrainedScorer(scorer.config, {}, checkpoint)


def change(key: str, value: Any) -> Callable[[Path], None]:
    """Sets a key of config.json; `a.b` is b in a, and None removes it."""

    def changed(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        place, *names = content, *key.split(".")
        for name in names[:-1]:
            place = place[name]
        place[names[-1]] = value
        if value is None:
            del place[names[-1]]
        (folder / "config.json").write_text(json.dumps(content))

    return changed


def flip(name: str) -> Callable[[Path], None]:
    def flipped(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(bytes(content))

    return flipped


def remove(name: str) -> Callable[[Path], None]:
    def removed(folder: Path) -> None:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return removed


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (flip("model.safetensors"), r"model\.safetensors is not what .*SHA-256 .* broken"),
        (flip("bert/model.safetensors"), r"bert is not what the scorer was saved with"),
        (flip("bert/vocab.txt"), r"bert is not what the scorer was saved with"),
        (remove("model.safetensors"), r"model\.safetensors is missing; copy or download"),
        (remove("bert"), r"bert is missing"),
        (remove("bert/model.safetensors"), r"cannot be loaded: .* has no weights"),
        (remove("config.json"), r"there is no .*config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"not that of a scorer"),
        (change("metarec", None), r"is not that of a scorer of metarec"),
        (change("format", 2), r"format 2, of metarec .* reads up to format 1: update it"),
        (change("feedbak", "x"), r"unknown key feedbak; did you mean 'feedback'"),
        (change("arguments.inner_step", 1), r"unknown key arguments\.inner_step; .*inner_steps"),
        (change("text.max_len", 1), r"unknown key text\.max_len; did you mean 'max_length'"),
        (change("arguments.rank", None), r"the key arguments\.rank is missing"),
        (change("arguments.rank", "2"), r"arguments\.rank is '2', which should be of the type"),
        (change("arguments.hidden_sizes", [8]), r"the shape of head\.layer0\.weight"),
        (change("arguments.adapted", "lor"), r"learner\.adapted='lor'; did you mean 'lora'"),
        (change("learner", "BertMALM"), r"no learner 'BertMALM' .* 'BertMAML'"),
        (change("learner", "os.system"), r"no learner 'os\.system'"),
        (change("feedback", "likes"), r"feedback is 'likes'"),
        (change("scale", [0.0]), r"scale is \[0\.0\]"),
        (change("text.pooling", "max"), r"no pooling 'max'"),
        (change("sha256", {}), r"sha256 must have those"),
    ],
)
def test_what_is_broken_is_told(
    scorer: PretrainedScorer, tmp_path: Path, breaks: Callable[[Path], None], message: str
) -> None:
    scorer.save_pretrained(tmp_path / "scorer")
    breaks(tmp_path / "scorer")
    with pytest.raises(PretrainedError, match=message):
        PretrainedScorer.from_pretrained(tmp_path / "scorer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("./nowhere",), r"folder nowhere is not there"),
        ((Path("nowhere"),), r"folder nowhere is not there"),
        (("a name",), r"neither a folder nor a name that the hub allows"),
        (("user/name",), r"not in the Hugging Face cache .* could not be downloaded"),
    ],
)
def test_a_scorer_that_is_nowhere_is_told(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PretrainedError, match=message):
        PretrainedScorer.from_pretrained(*arguments)
    with pytest.raises(PretrainedError, match="'devise'; did you mean 'device'"):
        PretrainedScorer.from_pretrained(*arguments, devise="cpu")


def test_a_device_that_is_not_there_is_told(scorer: PretrainedScorer, tmp_path: Path) -> None:
    scorer.save_pretrained(tmp_path / "scorer")
    with pytest.raises(PretrainedError, match="there is no device 'gpu'; use auto, cpu or cuda"):
        PretrainedScorer.from_pretrained(tmp_path / "scorer", device="gpu")


def test_a_folder_with_something_else_stays_as_it_is(
    scorer: PretrainedScorer, training: Training, tmp_path: Path
) -> None:
    assert training.encoder is not None
    shutil.copytree(training.encoder.checkpoint.folder, tmp_path / "bert")
    (tmp_path / "file").write_text("mine")
    before = files_of(tmp_path)
    for folder in (tmp_path / "bert", tmp_path / "file"):
        with pytest.raises(PretrainedError, match=r"choose a"):
            scorer.save_pretrained(folder)
    assert files_of(tmp_path) == before


def test_a_scorer_takes_the_place_of_another_with_its_card(
    scorer: PretrainedScorer, tmp_path: Path
) -> None:
    scorer.save_pretrained(tmp_path / "new")
    folder = tmp_path / "old"
    scorer.save_pretrained(folder)
    (folder / "README.md").write_text("---\n{}\n---\nof another")
    # of another BERT, and would be read in place of vocab.txt
    (folder / "bert" / "tokenizer.json").write_text("{}")
    scorer.save_pretrained(folder)
    assert files_of(folder) == files_of(tmp_path / "new")
    PretrainedScorer.from_pretrained(folder).save_pretrained(folder)
    assert files_of(folder) == files_of(tmp_path / "new")
    for last in ("config.json", "README.md"):  # as when the writing was broken off
        (folder / last).unlink()
    scorer.save_pretrained(folder)
    assert files_of(folder) == files_of(tmp_path / "new")


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_a_file_of_somebody_else_is_not_replaced_whatever_it_is_called(
    scorer: PretrainedScorer, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(PretrainedError, match=f"has {name} and no scorer"):
        scorer.save_pretrained(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_the_card_is_kept_and_takes_metadata(scorer: PretrainedScorer, tmp_path: Path) -> None:
    assert "library_name: metarec" in scorer.card
    scorer.save_pretrained(tmp_path / "scorer", model_card_kwargs={"license": "mit"})
    card = ModelCard.load(tmp_path / "scorer" / "README.md")
    assert (card.data.library_name, card.data.license) == ("metarec", "mit")
    edited = (tmp_path / "scorer" / "README.md").read_text() + "\nEdited.\n"
    (tmp_path / "scorer" / "README.md").write_text(edited)
    assert PretrainedScorer.from_pretrained(tmp_path / "scorer").card == edited
    (tmp_path / "scorer" / "README.md").unlink()
    assert PretrainedScorer.from_pretrained(tmp_path / "scorer").card == scorer.card


class Hub:
    """Stands in for `HfApi`: keeps what was pushed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, []

    def __call__(self, token: str | None = None) -> Hub:
        return self

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        self.calls.append(("create", repo_id, options))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, folder_path: Path, **options: Any) -> str:
        self.calls.append(("upload", options["repo_id"], options))
        shutil.copytree(folder_path, self.folder)
        return "https://huggingface.co/user/name/commit/1"


def test_pushing_gives_the_folder_to_the_hub(
    scorer: PretrainedScorer, training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", hub)
    address = scorer.push_to_hub("user/name", private=True)
    assert address.endswith("/commit/1")
    (create, name, made), (upload, _, sent) = hub.calls
    assert (create, name, made["private"], upload) == ("create", "user/name", True, "upload")
    assert sent["delete_patterns"] == ["bert/*"]
    scorer.save_pretrained(tmp_path / "scorer")
    assert files_of(tmp_path / "hub") == files_of(tmp_path / "scorer")

    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **options: asked.append((name, options)) or str(tmp_path / "hub"),
    )
    loaded = PretrainedScorer.from_pretrained("user/name", revision="main")
    user = [training.texts[0]], [1], training.texts[:5]
    np.testing.assert_array_equal(loaded.scores(*user), scorer.scores(*user))
    assert asked[0][0] == "user/name"
    assert asked[0][1]["revision"] == "main"
    assert not asked[0][1]["local_files_only"]
    PretrainedScorer.from_pretrained("user/name", local_files_only=True)
    assert asked[1][1]["local_files_only"]


def test_saving_can_push_at_once(
    scorer: PretrainedScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", hub)
    scorer.save_pretrained(tmp_path / "scorer", push_to_hub=True, repo_id="user/name")
    assert files_of(tmp_path / "hub") == files_of(tmp_path / "scorer")


def test_a_restored_learner_reads_the_bert_once(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    load = adapted_bert.load
    monkeypatch.setattr(adapted_bert, "load", lambda *a: read.append(a) or load(*a))
    learner = BertTransfer(**SMALL)
    meta = learner.fit(training)
    learner.restore(training)
    learner.adapt(meta, Support(*(np.zeros((1, 0), kind) for kind in (np.int32, np.float32, bool))))
    assert len(read) == 1
    learner.restore(replace(training, seed=1))
    learner.fit(replace(training, seed=1))
    assert len(read) == 2
