"""Splits that publications give away: small files in their formats, and the real ones at hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metarec import published_splits
from metarec.data import Dataset, load_dataset
from metarec.errors import SplitError
from metarec.splits import REGIMES, UNUSED


@pytest.fixture
def dataset(tiny_dataset: Dataset) -> Dataset:
    """The small data set with a year of each item, the later the higher its index."""
    years = [str(1960 + number // 2) for number in range(tiny_dataset.n_items)]
    return replace(tiny_dataset, item_text=tiny_dataset.item_text.assign(year=years))


def write_states(dataset: Dataset, folder: Path) -> tuple[set[int], set[int]]:
    """States of the last tenth of the items and every fourth user, as MeLU publishes them."""
    users = set(range(0, dataset.n_users, 4))
    items = set(range(dataset.n_items * 9 // 10, dataset.n_items))
    states: dict[str, dict[str, list[str]]] = {name: {} for name in published_splits.STATES}
    for user, item in zip(dataset.users.tolist(), dataset.items.tolist(), strict=True):
        cell = {
            (True, False): "user_cold",
            (False, True): "item_cold",
            (True, True): "user_and_item_cold",
        }.get((user in users, item in items))
        if cell is not None:
            own = states[cell].setdefault(str(dataset.user_ids[user]), [])
            own.append(str(dataset.item_ids[item]))
    for name, content in states.items():
        (folder / f"{name}_state.json").write_text(json.dumps(content), encoding="utf-8")
    return users, items


def test_melu_s_states_are_the_test_cells_and_all_else_trains(
    dataset: Dataset, tmp_path: Path
) -> None:
    users, items = write_states(dataset, tmp_path)
    split = published_splits.melu(dataset, tmp_path, warm_queries=3, warm_history=(5, 40))
    of_user = np.isin(dataset.users, list(users))
    of_item = np.isin(dataset.items, list(items))
    cells = {
        "user_cold": of_user & ~of_item,
        "item_cold": ~of_user & of_item,
        "both_cold": of_user & of_item,
    }
    for regime, cell in cells.items():
        assert set(split.rows("test", regime)) <= set(np.flatnonzero(cell))
        assert len(split.rows("test", regime)) + len(split.rows("unused")) >= cell.sum()
    assert len(split.rows("validation")) == 0
    warm = split.rows("test", "warm")
    assert set(np.bincount(dataset.users[warm])) <= {0, 3}
    in_state = np.bincount(dataset.users[~of_user & ~of_item], minlength=dataset.n_users)
    held_out = np.bincount(dataset.users[warm], minlength=dataset.n_users) > 0
    assert (held_out == ((in_state >= 5) & (in_state <= 40))).all()
    assert len(split.rows("train")) + len(warm) + sum(split.unused.values()) == len(dataset) - sum(
        len(split.rows("test", regime)) for regime in REGIMES[1:]
    )


def test_a_block_of_years_is_pseudo_cold_and_leaves_test_as_it_is(
    dataset: Dataset, tmp_path: Path
) -> None:
    users, items = write_states(dataset, tmp_path)
    split = published_splits.melu(
        dataset,
        tmp_path,
        validation_users=0.2,
        validation_years=(1980, 1985),
        warm_queries=3,
        warm_history=(5, 40),
    )
    years = dataset.item_text["year"].astype(int).to_numpy()
    cold = set(split.items_of("validation").tolist())
    assert cold == set(np.flatnonzero((years >= 1980) & (years <= 1985)).tolist()) - items
    assert set(split.items_of("test").tolist()) == items
    assert set(split.users_of("test").tolist()) == users
    assert len(split.users_of("validation")) == round(0.2 * (dataset.n_users - len(users)))
    assert len(split.rows("validation", "warm")) > 0
    # what is tuned never sees the queries of any cell of test
    final = published_splits.melu(dataset, tmp_path, warm_queries=3, warm_history=(5, 40))
    for regime in REGIMES:
        asked = final.rows("test", regime)
        assert len(asked) > 0
        assert set(split.part[asked]) <= set(split.part[split.rows("test")]) | {UNUSED}
    kept = split.rows("test", "warm")
    assert 0 < len(kept) < len(final.rows("test", "warm"))
    assert split.unused["query of test, of a validation-cold user or item"] > 0
    other = published_splits.melu(
        dataset,
        tmp_path,
        validation_users=0.2,
        validation_years=(1980, 1985),
        warm_queries=3,
        warm_history=(5, 40),
        seed=1,
    )
    assert set(other.users_of("validation")) != set(split.users_of("validation"))


def test_states_of_other_data_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    write_states(dataset, tmp_path)
    file = tmp_path / "user_cold_state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    first = next(iter(state))
    file.write_text(json.dumps({**state, first: state[first][:1]}), encoding="utf-8")
    with pytest.raises(SplitError, match=r"user_cold_state\.json is not of data set"):
        published_splits.melu(dataset, tmp_path)
    file.write_text(json.dumps({f"nobody {n}": [] for n in range(99)}), encoding="utf-8")
    with pytest.raises(SplitError, match="cold users are not in the data set"):
        published_splits.melu(dataset, tmp_path)
    file.unlink()
    with pytest.raises(SplitError, match=r"user_cold_state\.json cannot be read.*split\.source"):
        published_splits.melu(dataset, tmp_path)


def test_years_in_which_nothing_was_released_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    write_states(dataset, tmp_path)
    with pytest.raises(SplitError, match=r"no warm movie was released then.*1960 to"):
        published_splits.melu(dataset, tmp_path, validation_years=(1900, 1910))
    yearless = replace(dataset, item_text=dataset.item_text.drop(columns="year"))
    with pytest.raises(SplitError, match="year, which data set"):
        published_splits.melu(yearless, tmp_path, validation_years=(1980, 1985))


def write_tasks(dataset: Dataset, file: Path) -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    asked, lines = {}, ["part,user_id,query_item_ids"]
    for user in range(dataset.n_users):
        own = dataset.items[dataset.users == user]
        chosen = dataset.item_ids[rng.choice(own, 3, replace=False)]
        asked[str(dataset.user_ids[user])] = [str(item) for item in chosen]
        part = ("train", "train", "train", "valid", "test")[user % 5]
        lines.append(f"{part},{dataset.user_ids[user]},{' '.join(map(str, chosen))}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return asked


def test_recbole_s_users_and_queries_are_those_of_its_file(
    dataset: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "split.csv"
    asked = write_tasks(dataset, file)
    split = published_splits.recbole_metarec(dataset, file)
    assert split.users_of("test").tolist() == list(range(4, dataset.n_users, 5))
    assert split.users_of("validation").tolist() == list(range(3, dataset.n_users, 5))
    assert split.queries is not None
    rows = np.flatnonzero(split.queries)
    found = {
        (dataset.user_ids[dataset.users[row]], dataset.item_ids[dataset.items[row]]) for row in rows
    }
    assert found == {(user, item) for user, items in asked.items() for item in items}
    # no query of a test user is lost: an item of no train user is cold with them
    of_test = np.isin(dataset.users, split.users_of("test"))
    assert not (split.part[of_test] == 9).any()


def test_a_file_of_other_data_names_its_line(dataset: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    write_tasks(dataset, file)
    text = file.read_text(encoding="utf-8")
    file.write_text(text + "test,nobody,1 2\n", encoding="utf-8")
    with pytest.raises(SplitError, match=rf"line {dataset.n_users + 2}: 'nobody' is no"):
        published_splits.recbole_metarec(dataset, file)
    with pytest.raises(SplitError, match=r"absent\.csv cannot be read.*split\.source"):
        published_splits.recbole_metarec(dataset, tmp_path / "absent.csv")


@pytest.mark.shared_data("ml-1m")
def test_the_published_states_have_the_sizes_of_the_paper(shared_data: Path) -> None:
    data = load_dataset("ml-1m", folder=shared_data / "ml-1m")
    split = published_splits.melu(data, shared_data / "ml-1m" / "melu")
    card = split.card().set_index(["part", "regime"])
    assert card.loc[("test", "item_cold"), ["interactions", "users", "items"]].tolist() == [
        157_456,
        4_769,
        733,
    ]
    assert card.loc[("test", "both_cold"), ["interactions", "users"]].tolist() == [38_603, 1_197]
    # 17 are of movies that only cold users rated
    assert card.loc[("test", "user_cold"), ["interactions", "users"]].tolist() == [163_685, 1_208]
    assert split.unused == {"the item has no train interaction: its users are cold or held out": 26}


@pytest.mark.shared_data("ml-100k")
def test_the_published_tasks_are_those_of_users_with_13_to_100_interactions(
    shared_data: Path,
) -> None:
    data = load_dataset("recbole", folder=shared_data / "ml-100k")
    data = data.without_heavy_users(100).k_core(13)
    file = shared_data / "ml-100k" / "recbole_metarec_split_1128.csv"
    split = published_splits.recbole_metarec(data, file)
    assert [len(split.users_of(group)) for group in ("warm", "validation", "test")] == [466, 58, 58]
    assert split.queries is not None
    assert split.queries.sum() == 5_820
