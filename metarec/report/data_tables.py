"""The sections of a data set card, in Markdown: sizes, cleaning, splits with their episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

from metarec.data import Dataset
from metarec.data.registry import Card
from metarec.evaluation.episodes import Part
from metarec.learner import Feedback
from metarec.report.data_facts import (
    Quantiles,
    Regime,
    regimes_of,
    rendered_text,
    share_of_relevant,
    sizes_of,
    texts_of,
    train_counts,
)
from metarec.splits import GROUPS, REGIMES, Split

_MOST_RATINGS = 25  # distinct ratings, beyond which they are no scale to be listed
_LEVELS = ("least", "10 %", "25 %", "median", "75 %", "90 %", "most")


def facts_section(facts: Mapping[str, str]) -> str:
    """What is known of a data set, a line a fact; empty ones are left out."""
    return "\n".join(f"- **{label}**: {fact}" for label, fact in facts.items() if fact)


def how_to_get(card: Card) -> str:
    """How to get the files of a data set, and from where."""
    source = card.url or " and ".join(card.files)
    return f"{card.how} ({source})" if source else card.how


def sizes_section(data: Dataset, feedback: Feedback, threshold: float | None) -> str:
    """How much there is, and how long the texts are."""
    sizes = sizes_of(data)
    facts = [
        f"- {len(data):,} interactions of {data.n_users:,} users with {data.n_items:,} items: "
        f"{_percent(sizes.density)} of all pairs",
        f"- the most popular tenth of the items has {_percent(sizes.top_tenth)} of them",
    ]
    if feedback == "binary":
        relevant = _percent(share_of_relevant(data, feedback, threshold))
        facts.append(
            f"- {relevant} of the ratings are {threshold:g} or more, which counts as liked"
        )
    else:
        facts.append("- implicit feedback: every interaction counts as liked")
    if sizes.first is None:
        facts.append("- no times in the files that were read")
    else:
        facts.append(
            f"- from {sizes.first} to {sizes.last}; {_percent(sizes.within_a_day)} of the users "
            "have all their interactions within 24 hours"
        )
    tables = ["\n".join(facts)]
    head = ("interactions", *_LEVELS)
    rows = [("of a user", *_counts(sizes.of_users)), ("of an item", *_counts(sizes.of_items))]
    tables.append(_table(head, rows))
    if 0 < len(sizes.ratings) <= _MOST_RATINGS:
        shares = [
            (f"{rating:g}", f"{count:,}", _percent(count / len(data)))
            for rating, count in sizes.ratings.items()
        ]
        tables.append(_table(("rating", "how often", "share"), shares))
    return "\n\n".join([*tables, _texts(data)])


def _texts(data: Dataset) -> str:
    whole = rendered_text(data)
    if whole is None:
        return "Nothing is written about the items."
    rows = [
        (label, _percent(text.known), f"{text.distinct:,}", *_counts(text.words[[3, 5, 6]]))
        for label, text in [
            ("item, as encoded", whole),
            *((f"item, {text.field}", text) for text in texts_of(data.item_text)),
            *((f"user, {text.field}", text) for text in texts_of(data.user_text)),
        ]
    ]
    head = ("text of an", "known", "different", "words, median", "90 %", "most")
    return f"{_table(head, rows)}\n\nAs encoded by default: `{whole.field}`"


def cleaning_section(data: Dataset) -> str:
    """Every row that was read, kept or dropped, and what else the reader noticed."""
    report = data.report
    rows = [("read", f"{report.read:,}")]
    rows += [(f"dropped: {reason}", f"−{count:,}") for reason, count in report.dropped.items()]
    rows.append(("kept", f"{report.kept:,}"))
    parts = [_table(("rows", "count"), rows)]
    if report.notes:
        notes = [(note, f"{count:,}") for note, count in report.notes.items()]
        parts.append(_table(("also seen", "count"), notes))
    return "\n\n".join(parts)


def split_section(
    split: Split, k_shot: int, feedback: Feedback, threshold: float | None
) -> list[str]:
    """Who is where, the episodes of both parts, and how cold those of test are."""
    parts = [_parts(split, threshold), _known(split)]
    found = {part: regimes_of(split, part, k_shot, feedback, threshold) for part in get_args(Part)}
    parts.append(_episodes([regime for regimes in found.values() for regime in regimes], k_shot))
    if found["test"]:
        parts.append(_coldness(found["test"], k_shot))
    return parts


def _parts(split: Split, threshold: float | None) -> str:
    card = split.card(threshold)
    total = len(split.dataset)
    rows = []
    for row in card.to_dict("records"):
        cells = [" ".join((row["part"], row["regime"])).strip(), f"{row['interactions']:,}"]
        cells += [_percent(row["interactions"] / total), f"{row['users']:,}", f"{row['items']:,}"]
        if threshold is not None:
            cells.append(f"{row['positives']:,}")
        rows.append(cells)
    head = ["part and regime", "interactions", "share", "users", "items"]
    if threshold is not None:
        head.append("liked")
    why = "; ".join(f"{count:,} ({reason})" for reason, count in split.unused.items())
    return _table(head, rows) + (f"\n\nUnused: {why}." if why else "")


def _known(split: Split) -> str:
    groups = [
        f"{label} {len(split.users_of(group)):,} users and {len(split.items_of(group)):,} items"
        for label, group in zip(
            ("known", "cold in validation", "cold in test"), GROUPS, strict=True
        )
    ]
    of_users, of_items = train_counts(split)
    rows = [
        ("of a known user", *_counts(of_users)),
        ("of a known item", *_counts(of_items)),
    ]
    table = _table(("train interactions", *_LEVELS), rows)
    return f"{'; '.join(groups).capitalize()}.\n\n{table}"


def _episodes(regimes: Sequence[Regime], k_shot: int) -> str:
    rows = []
    for regime in regimes:
        few = sum(n for reason, n in regime.left_out.items() if reason.startswith("fewer than"))
        rows.append(
            [
                _name(regime),
                f"{regime.tasks:,}",
                f"{few:,}",
                f"{sum(regime.left_out.values()) - few:,}",
                _middle(regime.history),
                f"{regime.candidates:,}",
                _middle(regime.ranked),
                _middle(regime.relevant),
                f"{regime.without_relevant:,}",
                "–" if math.isnan(regime.chance) else f"{regime.chance:.4f}",
            ]
        )
    head = [f"episodes, K = {k_shot}", "tasks", f"fewer than {k_shot}", "no query", "history"]
    head += ["candidates", "ranked a task", "liked a task", "without liked", "chance"]
    missing = [
        f"{part} {kind}"
        for part in get_args(Part)
        for kind in (*REGIMES, "item tasks")
        if f"{part} {kind}" not in {row[0] for row in rows}
    ]
    none = f"No task has enough interactions in: {', '.join(missing)}." if missing else ""
    return "\n\n".join(part for part in (_table(head, rows) if rows else "", none) if part)


def _coldness(regimes: Sequence[Regime], k_shot: int) -> str:
    rows = [
        [
            _name(regime),
            *map(
                _middle,
                (
                    regime.of_task,
                    regime.of_candidate,
                    regime.of_relevant,
                    regime.of_shot,
                    regime.shared,
                ),
            ),
        ]
        for regime in regimes
    ]
    head = ("how cold, in train interactions", "of the task", "of a candidate", "of a liked one")
    return _table((*head, "of a shot", f"shared of {k_shot} shots"), rows)


def legend(k_shot: int, feedback: Feedback, threshold: float | None) -> str:
    """What the columns of `split_section` mean."""
    liked = "any interaction" if feedback == "implicit" else f"rated {threshold:g} or more"
    lines = [
        "Cells with brackets are the median and, in brackets, the first and third quartile.",
        f"- **tasks**: users, or items in item tasks, with {k_shot} interactions for the support "
        "and one more as query; **fewer than** and **no query** are left out.",
        "- **history**: the interactions that the support is drawn from.",
        "- **candidates**: what the regime ranks; **ranked a task** is less what the task is known "
        "to have.",
        f"- **liked a task**: its relevant queries ({liked}); **chance** is the precision of a "
        "random ranking, over the tasks that have any.",
        "- **of the task**, **of a candidate**, **of a liked one**, **of a shot**: how many "
        "interactions each has in meta-train. 0 is cold: nothing but text, or the support, tells "
        "of it.",
        f"- **shared of {k_shot} shots**: how many of a task's shots the known user (item, in item "
        "tasks) has who shares the most; where they are few, collaborative filtering has little "
        "to go by.",
    ]
    return "\n".join((lines[0], "", *lines[1:]))


def _name(regime: Regime) -> str:
    return f"{regime.part} {regime.regime if regime.task == 'user' else 'item tasks'}"


def _middle(values: Quantiles) -> str:
    low, middle, high = (_count(values[at]) for at in (2, 3, 4))
    return middle if low == high else f"{middle} ({low}–{high})"


def _counts(values: Quantiles) -> list[str]:
    return [_count(value) for value in values]


def _count(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    aligned = ["---", *["--:"] * (len(head) - 1)]
    cells = ([cell.replace("|", r"\|") for cell in row] for row in (head, aligned, *rows))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
