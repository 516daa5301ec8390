"""`python -m metarec.data`: lists the data sets, says how to get each, downloads on request."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence

from metarec.data.download import download
from metarec.data.registry import DATASETS, Card
from metarec.errors import ConfigError, MetarecError, did_you_mean


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status.

    Args:
        arguments: what follows `python -m metarec.data`; None takes the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m metarec.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the data sets that metarec reads")
    info = commands.add_parser("info", help="terms, size, options, and how to get a data set")
    info.add_argument("name")
    fetch = commands.add_parser("download", help="download a data set from its publisher")
    fetch.add_argument("name")
    fetch.add_argument("--to", required=True, metavar="FOLDER", help="it goes to FOLDER/NAME")
    fetch.add_argument("--category", help="which part of a data set that comes in categories")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "list":
            _list()
        elif chosen.command == "info":
            _info(_card(chosen.name))
        else:
            card = _card(chosen.name)
            print(f"{card.title}\nterms: {card.licence}")
            folder = download(card, chosen.to, chosen.category)
            part = "" if chosen.category is None else f", category={chosen.category!r}"
            print(f"ready: load_dataset({card.name!r}, folder={str(folder)!r}{part})")
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _card(name: str) -> Card:
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}{did_you_mean(name, DATASETS)}")
    return DATASETS[name]


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what", "size", "how to get it")
    for card in DATASETS.values():
        table.add_row(card.name, card.title, card.size, card.how)
    Console().print(table)


def _info(card: Card) -> None:
    print(f"{card.name}: {card.title}")
    print(f"size:     {card.size}")
    print(f"terms:    {card.licence}")
    print(f"get it:   {card.how}")
    if card.url is not None:
        print(f"from:     {card.url}")
        print(f"checksum: {card.checksum or 'not known; the download prints the sha256'}")
    for file in card.files:
        print(f"from:     {file}")
    if card.citation:
        print(f"cite:     {card.citation}")
    print("options of load_dataset:")
    for name, parameter in card.options().items():
        needed = parameter.default is inspect.Parameter.empty
        print(f"  {name}{' (needed)' if needed else f' = {parameter.default!r}'}")


if __name__ == "__main__":
    sys.exit(main())
