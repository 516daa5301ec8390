"""Attributes: which columns are categorical, and a vocabulary that only meta-train decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from metarec import attributes
from metarec.attributes import Attributes, build_attributes, build_entities
from metarec.data.dataset import Dataset
from metarec.splits import Split


def split_with(data: Dataset, **columns: list[str | None]) -> Split:
    """The same split of the data, whatever is written about the items."""
    return Split.by_seed(replace(data, item_text=pd.DataFrame(columns, dtype=object)), 0)


def built(split: Split) -> Attributes:
    found = build_attributes(split)
    assert found is not None
    return found


def train_items(split: Split) -> np.ndarray:
    return np.unique(split.dataset.items[split.rows("train")])


def test_genres_are_categorical_and_titles_are_not(tiny_dataset: Dataset) -> None:
    found = built(Split.by_seed(tiny_dataset, 0))
    assert found.names == ("genres",)
    assert found.vocabulary == ("Comedy", "Crime", "Drama", "Horror", "Romance", "War")
    assert found.offsets.tolist() == [0, 6]
    for item, text in enumerate(tiny_dataset.item_text["genres"]):
        expected = [float(name in text.split(", ")) for name in found.vocabulary]
        assert found.values[item].tolist() == expected


@pytest.mark.parametrize("separator", [", ", "|"])
def test_both_separators_split_and_a_repeated_value_counts_once(
    tiny_dataset: Dataset, separator: str
) -> None:
    texts: list[str | None] = [separator.join(["a", "b", "a"])] * tiny_dataset.n_items
    found = built(split_with(tiny_dataset, kind=texts))
    assert found.vocabulary == ("a", "b")
    assert (found.values == 1).all()


def test_years_become_decades_and_other_numbers_do_not(tiny_dataset: Dataset) -> None:
    n = tiny_dataset.n_items
    years: list[str | None] = [str(1985 + item % 20) for item in range(n)]
    ages: list[str | None] = [str(item % 3 * 7) for item in range(n)]
    found = built(split_with(tiny_dataset, year=years, age=ages))
    assert found.names == ("year", "age")
    assert found.vocabulary == ("1980s", "1990s", "2000s", "0", "14", "7")
    assert found.offsets.tolist() == [0, 3, 6]
    assert found.values[0].tolist() == [1, 0, 0, 1, 0, 0]
    mixed: list[str | None] = [*years[:-1], "unknown"]
    assert "1985" in built(split_with(tiny_dataset, year=mixed)).vocabulary


def test_the_vocabulary_is_that_of_meta_train_and_the_rest_is_counted(
    tiny_dataset: Dataset,
) -> None:
    train = train_items(Split.by_seed(tiny_dataset, 0))
    cold = np.setdiff1d(np.arange(tiny_dataset.n_items), train)
    texts: list[str | None] = ["seen"] * tiny_dataset.n_items
    for item in cold:
        texts[item] = "seen, only cold"
    found = built(split_with(tiny_dataset, kind=texts))
    assert found.vocabulary == ("seen",)
    assert found.unseen == len(cold) > 0
    assert (found.values == 1).all()


def test_missing_text_has_no_value(tiny_dataset: Dataset) -> None:
    texts: list[str | None] = ["a"] * tiny_dataset.n_items
    texts[3] = None
    texts[4] = ""
    found = built(split_with(tiny_dataset, kind=texts))
    assert np.flatnonzero(found.values[:, 0] == 0).tolist() == [3, 4]


def test_a_column_is_categorical_if_its_values_repeat_and_are_few(tiny_dataset: Dataset) -> None:
    train = train_items(Split.by_seed(tiny_dataset, 0))
    assert len(train) >= 4
    texts: list[str | None] = [None] * tiny_dataset.n_items
    for number, item in enumerate(train[: len(train) // 2 * 2]):
        texts[item] = f"pair {number // 2}"
    assert built(split_with(tiny_dataset, kind=texts)).size == len(train) // 2
    texts[train[0]] = "alone"
    assert build_attributes(split_with(tiny_dataset, kind=texts)) is None

    many: list[str | None] = [", ".join(f"v{value}" for value in range(500))] * len(texts)
    assert built(split_with(tiny_dataset, kind=many)).size == 500
    many = [f"{text}, v500" for text in many]
    assert build_attributes(split_with(tiny_dataset, kind=many)) is None


def test_a_data_set_without_item_text_has_none(tiny_dataset: Dataset) -> None:
    bare = replace(tiny_dataset, item_text=pd.DataFrame(index=range(tiny_dataset.n_items)))
    assert build_attributes(Split.by_seed(bare, 0)) is None
    texts: list[str | None] = [None] * tiny_dataset.n_items
    assert build_attributes(split_with(tiny_dataset, kind=texts)) is None


def test_people_are_entities_and_titles_and_categories_are_not(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = tiny_dataset.n_items
    # three items a person, who may have a part in parentheses
    people: list[str | None] = [
        f"Person {item // 3}{' (screenplay)' if item % 2 else ''}" for item in range(n)
    ]
    people[0] = "Person 0, Person 0 (story), Person 1"
    people[1] = None
    titles: list[str | None] = [f"Film {item}" for item in range(n)]
    many: list[str | None] = [f"a{item % 2}" for item in range(n)]
    split = split_with(tiny_dataset, title=titles, director=people, kind=many)
    assert built(split).names == ("kind",)
    # the tiny data have too few people to be more than categories
    monkeypatch.setattr(attributes, "MOST_VALUES", 2)
    (found,) = build_entities(split)
    assert found.name == "director"
    named = [{0, 1}, set[int](), *({item // 3} for item in range(2, n))]
    known = sorted({person for own in named for person in own}, key=str)
    by_item = [{known[value] for value in found.values[found.items == item]} for item in range(n)]
    assert found.size == len(known)
    assert by_item == named
    assert np.all(np.diff(found.items) >= 0)
