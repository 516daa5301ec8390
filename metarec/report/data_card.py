"""A data set's card: source, terms, sizes, cleaning, episodes, and how cold each regime is.

    python -m metarec.report.data_card ml-latest-small
    python -m metarec.report.data_card ml-1m --folder FOLDER --option extra=true
    python -m metarec.report.data_card online-retail --folder FOLDER --min-user-interactions 8
    python -m metarec.report.data_card book-crossing --stated --threshold 8

writes `paper/data/<name>.md`. Figures only: no row of the data is in it. `--stated` writes what is
known without the files.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from metarec.data import Dataset, load_dataset
from metarec.data.registry import DATASETS, Card
from metarec.errors import ConfigError, MetarecError, SplitError, did_you_mean
from metarec.learner import Feedback
from metarec.report.data_stated import NOT_MEASURED, OF_ANY, needed_options, stated_card
from metarec.report.data_tables import (
    cleaning_section,
    facts_section,
    how_to_get,
    legend,
    sizes_section,
    split_section,
)
from metarec.report.files import write_text
from metarec.splits import Split


def data_card(
    data: Dataset,
    name: str,
    command: str = "",
    title: str | None = None,
    k_shot: int = 10,
    threshold: float | None = 4.0,
) -> str:
    """Writes the card of a data set.

    Args:
        data: the data set, filtered as it will be used.
        name: by which `load_dataset` knows its reader.
        command: what makes the card again; "" leaves it out.
        title: its heading; None takes the name of the data set.
        k_shot: shots of the episodes.
        threshold: lowest rating that counts as relevant; of no meaning for implicit feedback.

    Returns:
        Markdown, the same whenever the data set is.

    Raises:
        SplitError: if the data set cannot be split.
    """
    feedback: Feedback = "implicit" if data.feedback == "implicit" else "binary"
    threshold = None if feedback == "implicit" else threshold
    sections = [
        f"# {title or data.name}",
        _head(data, name, command),
        "## Sizes",
        sizes_section(data, feedback, threshold),
        "## Cleaning",
        cleaning_section(data),
        "## Split by seed 0",
        "The default: 10 % of the users are cold in validation and 20 % in test, 10 % of the items "
        "each; 5 % and 10 % of the interactions of known users with known items are held out.",
        *split_section(Split.by_seed(data), k_shot, feedback, threshold),
        "## Split in time",
        *_in_time(data, k_shot, feedback, threshold),
        "## How to read the tables",
        legend(k_shot, feedback, threshold),
    ]
    return "\n\n".join(sections) + "\n"


def _head(data: Dataset, name: str, command: str) -> str:
    card = DATASETS[data.name if data.name in DATASETS else name]
    known = card.name not in OF_ANY
    facts = {
        "What": card.title if known else f"{data.name}, read as `{name}`",
        "Cite": card.citation,
        "Terms": card.licence if known else data.licence,
        "Stated size": card.size if known else "",
        "How to get it": how_to_get(card) if known else "",
        "Read as": _read_as(name, card),
        "Checksum": f"`{data.checksum}` (SHA-256 of the data set as read)",
        "Card": f"made by `{command}`, never by hand" if command else "",
    }
    return facts_section(facts)


def _read_as(name: str, card: Card) -> str:
    """By what name it is loaded, where that is not its own."""
    if name == card.name:
        return ""
    return (
        f"`load_dataset({name!r}, …)`; sizes and checksum are those of the files that were read, "
        "not of the publisher's"
    )


def _in_time(data: Dataset, k_shot: int, feedback: Feedback, threshold: float | None) -> list[str]:
    if data.times is None:
        return ["The files that were read have no times, so that they cannot be split in time."]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            split = Split.by_time(data)
        except SplitError as error:
            return [f"It cannot be split at 80 % and 90 % of its interactions: {error}."]
    text = "Validation begins when 80 % of the interactions are past, test at 90 %."
    if caught:
        text += f" Mind: {caught[0].message}."
    return [text, *split_section(split, k_shot, feedback, threshold)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m metarec.report.data_card",
        description="Writes the card of a data set: terms, sizes, cleaning, episodes, coldness.",
    )
    parser.add_argument("name", help="as in load_dataset")
    parser.add_argument("--folder", type=Path, help="where the publisher's files are")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the reader, such as category=All_Beauty; may be repeated",
    )
    for side in ("user", "item"):
        parser.add_argument(
            f"--min-{side}-interactions",
            type=int,
            default=1,
            metavar="N",
            help=f"k-core filter, as data.min_{side}_interactions of a run",
        )
    parser.add_argument("--k-shot", type=int, default=10, help="shots of an episode")
    parser.add_argument("--threshold", type=float, default=4.0, help="lowest rating that is liked")
    parser.add_argument(
        "--as",
        dest="title",
        metavar="NAME",
        help="what the card is called, where options make it another than the usual data set",
    )
    parser.add_argument(
        "--stated",
        action="store_true",
        help="write what is known without the files; the other options go into the command that "
        "measures with them",
    )
    parser.add_argument("--to", type=Path, default=Path("paper/data"), help="where the card goes")
    chosen = parser.parse_args(arguments)
    try:
        card, title, what = _stated(chosen) if chosen.stated else _measured(chosen)
        path = write_text(chosen.to / f"{title}.md", card)
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {path}: {what}")
    return 0


def _measured(chosen: argparse.Namespace) -> tuple[str, str, str]:
    """The card, what it is called, and what it is of."""
    data = load_dataset(chosen.name, chosen.folder, **_options(chosen.option))
    users, items = chosen.min_user_interactions, chosen.min_item_interactions
    if max(users, items) > 1:
        data = data.k_core(users, items)
    title = _title(chosen, data.name)
    command = _command(chosen)
    card = data_card(data, chosen.name, command, title, chosen.k_shot, chosen.threshold)
    return card, title, repr(data)


def _stated(chosen: argparse.Namespace) -> tuple[str, str, str]:
    """Likewise, without the files; a card with figures is never replaced by it."""
    if chosen.name not in DATASETS:
        raise ConfigError(f"unknown data set {chosen.name!r}{did_you_mean(chosen.name, DATASETS)}")
    if chosen.folder is not None:
        raise ConfigError("--stated is for files that are not at hand: leave it or --folder out")
    known, title = DATASETS[chosen.name], _title(chosen, chosen.name)
    path = chosen.to / f"{title}.md"
    if path.is_file() and NOT_MEASURED not in path.read_text(encoding="utf-8"):
        raise ConfigError(f"{path} has figures, which --stated would remove; remove it first")
    given = _options(chosen.option)
    missing = [f"{name}={name.upper()}" for name in needed_options(known) if name not in given]
    with_files = {
        "stated": False,
        "folder": Path() if "folder" in known.options() else None,
        "option": [*missing, *chosen.option],
    }
    measure = _command(argparse.Namespace(**{**vars(chosen), **with_files}))
    return stated_card(known, measure, _command(chosen), title), title, "without the files"


def _title(chosen: argparse.Namespace, usual: str) -> str:
    title = chosen.title or usual
    if not re.fullmatch(r"[\w.-]+", title):
        raise ConfigError(f"the card cannot be called {title!r}; give --as NAME")
    return title


def _options(given: Sequence[str]) -> dict[str, Any]:
    options = {}
    for option in given:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"--option {option}: KEY=VALUE is needed, such as extra=true")
        options[key] = yaml.safe_load(value)
    return options


def _command(chosen: argparse.Namespace) -> str:
    """The command line without where things are on this machine."""
    words = ["python -m metarec.report.data_card", shlex.quote(chosen.name)]
    if chosen.stated:
        words.append("--stated")
    if chosen.folder is not None:
        words.append("--folder FOLDER")
    words += [f"--option {shlex.quote(option)}" for option in chosen.option]
    for key, usual in (
        ("min_user_interactions", 1),
        ("min_item_interactions", 1),
        ("k_shot", 10),
        ("threshold", 4.0),
    ):
        if getattr(chosen, key) != usual:
            words.append(f"--{key.replace('_', '-')} {getattr(chosen, key):g}")
    if chosen.title is not None:
        words.append(f"--as {shlex.quote(chosen.title)}")
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
