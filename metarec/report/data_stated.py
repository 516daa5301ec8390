"""What a data set's card says without its files: the registry's facts, the reader's words."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

from metarec.data.cleaning import clean
from metarec.data.registry import Card
from metarec.errors import ConfigError
from metarec.report.data_tables import facts_section, how_to_get

NOT_MEASURED = "Not measured here: the files are not at hand; with them, run"
"""Begins the line by which a card without figures is known."""

OF_ANY = ("csv", "recbole")
"""The readers of any data set, of which nothing is known without its files."""

_SECTION = re.compile(r"^(Args|Returns|Raises):\n", re.MULTILINE)
_ARGUMENT = re.compile(r"^(\w+): ", re.MULTILINE)
_ELSEWHERE = re.compile(r"(?:as in `(?P<where>[\w.]+)`|likewise)(?:; (?P<more>.+))?\.?")
_REST = re.compile(r"\s*Otherwise as `([\w.]+)`\.")


def stated_card(card: Card, measure: str, command: str = "", title: str | None = None) -> str:
    """Writes the card of a data set whose files are not at hand: no figure of ours is in it.

    Args:
        card: what the registry knows.
        measure: the command that makes the card with figures, where the files are.
        command: what makes this card again; "" leaves it out.
        title: its heading; None takes the name of the data set.

    Returns:
        Markdown: source, terms and sizes as they are stated, the options of the reader, and what
        is cleaned away.

    Raises:
        ConfigError: for a reader of any data set, of which nothing is known.
    """
    if card.name in OF_ANY:
        raise ConfigError(
            f"{card.name!r} reads any data set, of which nothing is stated; leave --stated out"
        )
    reader = card.load_reader()
    facts = {
        "What": card.title,
        "Cite": card.citation,
        "Terms": card.licence,
        "Stated size": card.size.removeprefix("as stated: "),
        "How to get it": how_to_get(card),
        "Card": f"made by `{command}`, never by hand" if command else "",
    }
    sections = [
        f"# {title or card.name}",
        facts_section(facts),
        f"**{NOT_MEASURED}** `{measure}`, which counts sizes, cleaning, splits and how cold each "
        "regime is.",
        "## Reader",
        f"`{_call(card)}`. {_section(reader, 'Returns')}",
        _options(card),
        "## Cleaning",
        *_prose(reader),
        *_prose(clean),
        "Every row that is read is kept, or is counted by the reason for which it was dropped. "
        "What can be chosen about it stands among the options.",
    ]
    return "\n\n".join(sections) + "\n"


def needed_options(card: Card) -> list[str]:
    """The options that a reader has no default for."""
    return [name for name, one in card.options().items() if one.default is inspect.Parameter.empty]


def _call(card: Card) -> str:
    folder = ["folder"] if "folder" in card.options() else []
    needed = [f"{name}=…" for name in needed_options(card)]
    return f"load_dataset({', '.join([repr(card.name), *folder, *needed])})"


def _options(card: Card) -> str:
    told = described(card.load_reader())
    lines = []
    for name, parameter in card.options().items():
        needed = parameter.default is inspect.Parameter.empty
        usual = "needed" if needed else f"by default `{parameter.default!r}`"
        lines.append(f"- `{name}` ({usual}): {told[name]}")
    return "\n".join(lines)


def described(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring of a function says of each argument.

    Args:
        function: with a docstring in Google's style. `as in X` and `likewise` are followed to the
            words of X.

    Returns:
        Argument to its text, in one line.
    """
    parts = _ARGUMENT.split(_section(function, "Args", joined=False))[1:]
    told, last = {}, ""
    for name, text in zip(parts[::2], map(_joined, parts[1::2]), strict=True):
        elsewhere = _ELSEWHERE.fullmatch(text)
        if elsewhere is not None:
            last = elsewhere["where"] or last
            more = f"; {elsewhere['more'].rstrip('.')}." if elsewhere["more"] else "."
            text = described(_named(last, function))[name].rstrip(".") + more
        told[name] = text
    return told


def _prose(function: Callable[..., Any]) -> list[str]:
    """The paragraphs of a docstring after its first sentence; `Otherwise as X` adds those of X."""
    whole = _SECTION.split(inspect.getdoc(function) or "")[0]
    paragraphs = [_joined(text) for text in whole.strip().split("\n\n")[1:]]
    rest = [name for text in paragraphs for name in _REST.findall(text)]
    own = [_REST.sub("", text) for text in paragraphs]
    return [*own, *(text for name in rest for text in _prose(_named(name, function)))]


def _section(function: Callable[..., Any], name: str, joined: bool = True) -> str:
    parts = _SECTION.split(inspect.getdoc(function) or "")
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    text = textwrap.dedent(sections.get(name, "")).strip()
    return _joined(text) if joined else text


def _joined(text: str) -> str:
    return " ".join(text.split())


def _named(name: str, beside: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a dotted name, or of a name in the module of another."""
    module, _, own = name.rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module or beside.__module__), own)
    return found
