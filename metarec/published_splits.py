"""Splits that publications give away as files: MeLU's states, RecBole-MetaRec's tasks."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int8, Int64

from metarec.data import Dataset
from metarec.errors import SplitError
from metarec.splits import TEST, UNUSED, VALIDATION, WARM, Split

STATES = ("user_cold", "item_cold", "user_and_item_cold")
_FEW = 0.001
PARTS = {"train": WARM, "valid": VALIDATION, "test": TEST}


def melu(
    dataset: Dataset,
    folder: str | Path,
    validation_users: float = 0.0,
    validation_years: tuple[int, int] | None = None,
    warm_queries: int = 10,
    warm_history: tuple[int, int] = (13, 100),
    seed: int = 0,
) -> Split:
    """The 2x2 of MeLU (Lee et al., KDD 2019): cold users, and movies released 1998 to 2000.

    Test is as published: `user_cold`, `item_cold` and `both_cold` are the states of these names.
    The publication has no validation. Here a part of the warm state can be pseudo-cold, drawn
    anew for each block of years; without it (the default) all of the warm state but the queries of
    the warm cell is train.

    Args:
        dataset: MovieLens 1M.
        folder: where `user_cold_state.json`, `item_cold_state.json` and
            `user_and_item_cold_state.json` are: user to a list of movies.
        validation_users: fraction of the warm users that are validation-cold.
        validation_years: first and last year of release of the warm movies that are
            validation-cold.
        warm_queries: interactions that are held out of the warm state of each user whose warm
            interactions are `warm_history` in number: the warm cell of test, the same whoever is
            pseudo-cold, and where somebody is, as many of what is left as that of validation. What
            of the former falls to pseudo-cold users or movies is unused, so that what is tuned
            never sees the queries of test.
        warm_history: least and most of them.
        seed: of the draws.

    Raises:
        SplitError: if a file is missing or does not belong to the data set.
    """
    folder = Path(folder)
    states = {name: _state(folder / f"{name}_state.json") for name in STATES}
    users, items = _index(dataset.user_ids), _index(dataset.item_ids)
    cold_users = {user for name in ("user_cold", "user_and_item_cold") for user in states[name]}
    cold_items = {
        item
        for name in ("item_cold", "user_and_item_cold")
        for of in states[name].values()
        for item in of
    }
    user_group = np.full(dataset.n_users, WARM, np.int8)
    item_group = np.full(dataset.n_items, WARM, np.int8)
    user_group[_positions(cold_users, users, "user", folder)] = TEST
    item_group[_positions(cold_items, items, "item", folder)] = TEST
    _check_states(dataset, states, user_group, item_group, folder)

    rng_users, rng_test, rng_validation = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)
    )
    asked = warm_queries, warm_history
    tested = _warm_queries(dataset, user_group, item_group, *asked, rng_test)
    if not (validation_users > 0 or validation_years is not None):
        return Split.from_groups(dataset, user_group, item_group, test=tested)
    if validation_users:
        warm = np.flatnonzero(user_group == WARM)
        count = round(validation_users * len(warm))
        user_group[rng_users.permutation(warm)[:count]] = VALIDATION
    if validation_years is not None:
        years = _years(dataset)
        first, last = validation_years
        block = (item_group == WARM) & (years >= first) & (years <= last)
        if not block.any():
            raise SplitError(
                f"split.validation_years={validation_years}: no warm movie was released then; the "
                f"warm ones are of {np.nanmin(years):.0f} to {np.nanmax(years):.0f}"
            )
        item_group[block] = VALIDATION
    held_out = _warm_queries(dataset, user_group, item_group, *asked, rng_validation, but=tested)
    warm = (user_group[dataset.users] == WARM) & (item_group[dataset.items] == WARM)
    split = Split.from_groups(
        dataset, user_group, item_group, validation=held_out, test=tested[warm[tested]]
    )
    return _without(split, tested[~warm[tested]])


def recbole_metarec(dataset: Dataset, file: str | Path) -> Split:
    """The users and queries that RecBole-MetaRec draws: users cold, items as they come.

    Items that no train user has are cold with their users, so that no query is lost.

    Args:
        dataset: what was split.
        file: a CSV with the columns `part` (train, valid, test), `user_id` and `query_item_ids`
            (separated by spaces).

    Returns:
        The split, whose `queries` are the file's; users that are not in the file are set aside
        with their interactions.

    Raises:
        SplitError: if the file is missing or does not belong to the data set.
    """
    file = Path(file)
    users, items = _index(dataset.user_ids), _index(dataset.item_ids)
    user_group = np.full(dataset.n_users, -1, np.int8)
    pairs: set[tuple[int, int]] = set()
    for line, row in enumerate(_rows(file), 2):
        try:
            user = users[row["user_id"]]
            user_group[user] = PARTS[row["part"]]
            pairs |= {(user, items[item]) for item in row["query_item_ids"].split()}
        except KeyError as error:
            raise SplitError(
                f"{file}, line {line}: {error} is no column, part, user or item of data set "
                f"{dataset.name!r}"
            ) from error
    queries = np.array(
        [pair in pairs for pair in zip(dataset.users.tolist(), dataset.items.tolist(), strict=True)]
    )
    if queries.sum() != len(pairs):
        raise SplitError(
            f"{file}: {len(pairs) - int(queries.sum())} of {len(pairs)} queries are no "
            f"interactions of data set {dataset.name!r}"
        )
    return Split.from_groups(
        dataset, user_group, _groups_of_items(dataset, user_group), queries=queries
    )


def _groups_of_items(
    dataset: Dataset, user_group: Int8[np.ndarray, " users"]
) -> Int8[np.ndarray, " items"]:
    """Warm with a warm user, else test-cold with a test user, else validation-cold."""
    group = np.full(dataset.n_items, -1, np.int8)
    for code in (VALIDATION, TEST, WARM):
        group[dataset.items[user_group[dataset.users] == code]] = code
    return group


def _warm_queries(
    dataset: Dataset,
    user_group: Int8[np.ndarray, " users"],
    item_group: Int8[np.ndarray, " items"],
    count: int,
    history: tuple[int, int],
    rng: np.random.Generator,
    but: Int64[np.ndarray, " taken"] | None = None,
) -> Int64[np.ndarray, " held_out"]:
    """`count` interactions of each warm user with a history of that length, in the warm state.

    Those of `but` are taken already: they count neither as history nor as held out.
    """
    free = (user_group[dataset.users] == WARM) & (item_group[dataset.items] == WARM)
    if but is not None:
        free[but] = False
    warm = rng.permutation(np.flatnonzero(free))
    warm = warm[np.argsort(dataset.users[warm], kind="stable")]
    lengths = np.bincount(dataset.users[warm], minlength=dataset.n_users)
    place = np.arange(len(warm)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    least, most = history
    own = lengths[dataset.users[warm]]
    return np.sort(warm[(place < count) & (own >= max(least, count + 1)) & (own <= most)])


def _without(split: Split, rows: Int64[np.ndarray, " rows"]) -> Split:
    """The split in which these are unused, for a reason of their own."""
    rows = rows[split.part[rows] != UNUSED]
    part = split.part.copy()
    part[rows] = UNUSED
    told = {"query of test, of a validation-cold user or item": len(rows)} if len(rows) else {}
    return replace(split, part=part, unused={**split.unused, **told})


def _check_states(
    dataset: Dataset,
    states: Mapping[str, Mapping[str, Sequence[str]]],
    user_group: Int8[np.ndarray, " users"],
    item_group: Int8[np.ndarray, " items"],
    folder: Path,
) -> None:
    """Raises SplitError unless the states are the cells of cold and warm users and items."""
    of_user = user_group[dataset.users] == TEST
    of_item = item_group[dataset.items] == TEST
    cells: Mapping[str, Bool[np.ndarray, " n"]] = {
        "user_cold": of_user & ~of_item,
        "item_cold": ~of_user & of_item,
        "user_and_item_cold": of_user & of_item,
    }
    for name, cell in cells.items():
        rows = np.flatnonzero(cell)
        given = {(user, item) for user, of in states[name].items() for item in of}
        found = set(
            zip(
                dataset.user_ids[dataset.users[rows]].tolist(),
                dataset.item_ids[dataset.items[rows]].tolist(),
                strict=True,
            )
        )
        # three pairs of the published states name the twin of a movie that is listed twice
        if len(found ^ given) > _FEW * len(given):
            raise SplitError(
                f"{folder / name}_state.json is not of data set {dataset.name!r}: it lacks "
                f"{len(found - given)} interactions of its users and movies, and "
                f"{len(given - found)} of its own are not there"
            )


def _state(file: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SplitError(
            f"{file} cannot be read ({error}); split=melu takes the states of the MeLU repository "
            "(split.source=FOLDER)"
        ) from error
    return {str(user): [str(item) for item in items] for user, items in content.items()}


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))
    except OSError as error:
        raise SplitError(
            f"{file} cannot be read ({error}); split=recbole_metarec takes a CSV with the columns "
            "part, user_id, query_item_ids (split.source=FILE)"
        ) from error


def _years(dataset: Dataset) -> np.ndarray:
    if "year" not in dataset.item_text:
        raise SplitError(
            f"split.validation_years needs the items' year, which data set {dataset.name!r} lacks"
        )
    return np.array([float(year or "nan") for year in dataset.item_text["year"]])


def _index(ids: np.ndarray) -> dict[str, int]:
    return {str(one): position for position, one in enumerate(ids.tolist())}


def _positions(ids: set[str], index: Mapping[str, int], what: str, folder: Path) -> list[int]:
    """Positions of those that occur: MeLU lists movies that nobody rated."""
    found = sorted(index[one] for one in ids if one in index)
    if len(found) < 0.9 * len(ids):
        raise SplitError(
            f"{folder}: {len(ids) - len(found)} of {len(ids)} cold {what}s are not in the data "
            "set; are the states those of these data?"
        )
    return found
