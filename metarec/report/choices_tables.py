"""The tables of what of a BERT adapts: choices and costs, differences, MAML minus transfer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metarec.evaluation.significance import holm, interval
from metarec.report.cells import (
    CHANCE,
    HOW_TESTED,
    PRIMARY,
    TEST_HEADS,
    Column,
    column_cells,
    difference_cell,
    fewer_seeds,
    test_cells,
)
from metarec.report.choices import ADAPT, MEMORY, PARAMETERS, SCORE, Choice, Study, choice_of
from metarec.report.collect import RECALL
from metarec.report.labels import Variant, label_of, metric_label
from metarec.report.notes import (
    effects_note,
    machine_text,
    notes_of,
    source_notes,
    threads_text,
)
from metarec.report.selection import RESAMPLES, difference_of
from metarec.report.table import (
    BETTER,
    MISSING,
    WORSE,
    Cell,
    Estimate,
    Row,
    Section,
    Source,
    Table,
    count_text,
    hundredths,
    number,
    significant,
)

NAME = "what_to_adapt"
RATE = "bert_inner_learning_rate"

_SETTINGS = (
    *("head_steps", "head_learning_rate", "steps", "learning_rate", "bert_learning_rate"),
    *("inner_steps", "inner_learning_rate", "first_order"),
    *("adapted_layers", "rank", "bottleneck", "prefix_length"),
)


def choices_table(study: Study) -> Table:
    """Choices by K, nDCG@10 after reranking, and what each costs."""
    results, columns = study.results, study.columns
    known = results.variants.__contains__
    # tests are corrected over the rows, so that those without adaptation are tested by themselves
    adapting = (*study.others, *(choice.variant for choice in study.choices))
    still = (study.retriever, *(choice.unadapted for choice in study.choices))
    (cells, preliminary), (before, few_before) = (
        column_cells(replace(results, variants=tuple(filter(known, own))), shown, study.retriever)
        for own, shown in ((adapting, columns), (still, (study.column,)))
    )

    nothing = Cell()
    first = [Row(CHANCE, (nothing, *cells(None), *[nothing] * 4))]
    for variant in study.others:
        own_order = ", own order" if variant == study.retriever else ""
        label = f"{label_of(variant)}{own_order}{fewer_seeds(results, variant.learner)}"
        # what a baseline holds in memory is no weight that is trained
        first.append(
            Row(label, (nothing, *cells(variant), nothing, *_cost_cells(study, variant)[1:]))
        )
    sections = [Section("", tuple(first))]
    for title, choices in study.by_reader().items():
        rows = []
        for choice in choices:
            trained, *costs = _cost_cells(study, choice.variant)
            quality = cells(choice.variant) if known(choice.variant) else [nothing] * len(columns)
            (zero,) = before(choice.unadapted) if known(choice.unadapted) else (nothing,)
            # its interval is in the small record: ten columns are wide enough
            zero = replace(zero, interval="")
            rows.append(Row(_labelled(study, choice), (trained, *quality, zero, *costs)))
        sections.append(Section(title, tuple(rows)))
    return Table(
        name=NAME,
        title=(
            f"What of a BERT adapts to a new user, {metric_label(PRIMARY)} of the catalogue after "
            f"reranking {study.shortlist} candidates, and what it costs"
        ),
        columns=(
            "What adapts",
            "Trained",
            *(column.head for column in columns),
            *("0 steps", "Adapt, s", "Score, s", "GiB"),
        ),
        sections=tuple(sections),
        notes=(
            *_how_to_read(study),
            *notes_of(results, columns, preliminary or few_before, study.retriever),
        ),
        preliminary=preliminary or few_before,
    )


def differences_table(study: Study) -> Table | None:
    """What each choice adds to the head alone, and what adapting adds to 0 steps.

    Returns:
        The table; None where neither was measured.
    """
    column = study.column
    heads = {
        choice: (choice.variant, head.variant)
        for choice in study.choices
        if choice.adapted != "head" and (head := study.twin(choice, adapted="head")) is not None
    }
    steps = {choice: (choice.variant, choice.unadapted) for choice in study.choices}
    families = {
        "Minus head alone": _differences(study, heads, column),
        "Minus 0 steps": _differences(study, steps, column),
    }
    families = {title: found for title, found in families.items() if found}
    if not families:
        return None
    estimates = [estimate for found in families.values() for _, estimate in found.values()]
    preliminary = any(one.few for one in estimates)
    sections = [
        Section(
            title,
            tuple(
                Row(
                    _labelled(study, choice),
                    tuple(
                        cell
                        for found in families.values()
                        for cell in _difference_cells(found.get(choice), column, preliminary)
                    ),
                )
                for choice in choices
            ),
        )
        for title, choices in study.by_reader().items()
    ]
    notes = [
        "Minus head alone: the same reader and learner, of which only the head on a frozen BERT "
        "adapts; what adapting the BERT adds. Minus 0 steps: the same trained weights, without a "
        "step on the user’s support; what adapting adds.",
        f"{_how_tested()} {HOW_TESTED}",
        *source_notes([(study.results, [column])]),
    ]
    return Table(
        name=f"{NAME}_differences",
        title=(
            "What adapting a BERT adds to its head alone, and adapting to no step: paired "
            f"differences in {metric_label(PRIMARY)}, K = {study.k_shot}"
        ),
        columns=(
            "What adapts",
            *(head for title in families for head in (title, *TEST_HEADS)),
        ),
        sections=tuple(sections),
        notes=tuple(notes),
        preliminary=preliminary,
    )


def meta_table(study: Study) -> Table | None:
    """MAML minus transfer for each choice at each K; None where no choice has both."""
    pairs = {
        choice: (choice.variant, transfer.variant)
        for choice in study.choices
        if choice.meta and (transfer := study.twin(choice, meta=False)) is not None
    }
    by_column = {column: _differences(study, pairs, column) for column in study.columns}
    estimates = [estimate for found in by_column.values() for _, estimate in found.values()]
    if not estimates:
        return None
    preliminary = any(one.few for one in estimates)
    sections = []
    for title, choices in study.by_reader().items():
        rows = [
            Row(
                choice.part,
                tuple(
                    _difference_cells(found.get(choice), column, preliminary)[0]
                    for column, found in by_column.items()
                ),
            )
            for choice in choices
            if any(choice in found for found in by_column.values())
        ]
        if rows:
            sections.append(Section(title, tuple(rows)))
    notes = [
        "MAML trains through the steps that adapt it, transfer without them; both adapt the same "
        "weights in the same steps to a test user.",
        f"{_how_tested()} {effects_note(NAME)}",
        *source_notes([(study.results, study.columns)]),
    ]
    return Table(
        name=f"{NAME}_meta",
        title=(
            "MAML minus transfer by what of a BERT adapts, paired difference in "
            f"{metric_label(PRIMARY)}"
        ),
        columns=("What adapts", *(column.head for column in study.columns)),
        sections=tuple(sections),
        notes=tuple(notes),
        preliminary=preliminary,
    )


def recalls_of(study: Study) -> dict[int, tuple[Source, Estimate]]:
    """The share of the relevant that the retriever drew, by K."""
    found = {}
    for column in study.columns:
        values = study.results.select(RECALL, "test", study.regime, column.k_shot, "curve")
        # every learner reranks the same shortlists
        own = interval(values.drop_duplicates(["task", "seed"]), resamples=RESAMPLES)
        source = Source(study.retriever.learner, study.regime, column.k_shot, RECALL)
        found[column.k_shot] = (
            source,
            Estimate(own.mean, own.low, own.high, own.tasks, own.seeds, own.episodes),
        )
    return found


def rates_of(study: Study) -> dict[str, tuple[Source, Estimate]]:
    """The inner learning rate of the BERT of each learner, but of those whose head alone adapts."""
    found = {}
    for choice in study.choices:
        own = [one for one in study.results.records if one.learner == choice.learner]
        given = {
            float(record.config.learner.arguments[RATE])
            for record in own
            if RATE in record.config.learner.arguments
        }
        if choice.adapted == "head" or len(given) != 1:
            continue
        estimate = Estimate(given.pop(), math.nan, math.nan, 0, len(own), 0)
        source = Source(choice.learner, study.regime, study.k_shot, RATE)
        found[choice.learner] = source, estimate
    return found


def _how_to_read(study: Study) -> list[str]:
    recalls = ", ".join(
        f"{number(estimate.mean)} at K = {k}" for k, (_, estimate) in recalls_of(study).items()
    )
    retriever = label_of(study.retriever)
    notes = [
        f"{retriever} draws {study.shortlist} candidates for each user, all rows rerank these, and "
        "the rest of the catalogue stays behind in its order. Of the relevant items it draws "
        f"{recalls}; no row can find the others.",
        f"BERT: {_checkpoint(study)}. Beside what is named, a head on the BERT adapts "
        f"in every row; Trained counts the weights of both. {_settings(study)}{_adalora(study)}",
        f"0 steps: the same weights at K = {study.k_shot} without adaptation. Adapt and Score: "
        f"wall seconds of a test user at K = {study.k_shot}, {_timed(study)}, to adapt "
        f"to the support and to score the {study.shortlist} candidates; GiB: peak resident memory "
        f"of a run’s process, training included, mean over seeds; {_machine(study)}. A bi-encoder "
        "has read the catalogue beforehand, which is in neither; a cross-encoder reads its pairs, "
        "frozen layers included, while it scores.",
    ]
    rates = _chosen_rates(study)
    return [*notes, *([rates] if rates else [])]


def _timed(study: Study) -> str:
    if not study.timings:
        return "means over users and seeds"
    tasks = study.timings[0].config.evaluation.tasks
    timed = {record.learner for record in study.timings}
    names = dict.fromkeys(record.learner for record in study.results.records)
    others = [label_of(Variant(name)) for name in names if name not in timed]
    beside = f" ({', '.join(others)}: over the users and seeds of its other runs)" if others else ""
    return (
        f"means over {tasks} users in runs of their own, one at a time with "
        f"{threads_text(study.timings)}{beside}"
    )


def _chosen_rates(study: Study) -> str:
    found = {learner: estimate.mean for learner, (_, estimate) in rates_of(study).items()}
    by_part: dict[str, dict[float, list[str]]] = {}
    for choice in study.choices:
        if choice.learner in found:
            rates = by_part.setdefault(choice.part, {})
            rates.setdefault(found[choice.learner], []).append(choice.learner)
    # one rate for a part, unless its learners were given several
    by_rate: dict[float, list[str]] = {}
    for part, rates in by_part.items():
        for rate, learners in rates.items():
            name = f"{part} ({', '.join(learners)})" if len(rates) > 1 else part
            by_rate.setdefault(rate, []).append(name)
    if not by_rate:
        return ""
    listed = "; ".join(f"{rate:g} for {', '.join(by_rate[rate])}" for rate in sorted(by_rate))
    experiment = study.results.config.experiment
    return (
        "The inner learning rate of the BERT is the one that was best on validation for each part, "
        "by MAML (as a bi-encoder where there is one) at the first seed; transfer takes the same, "
        f"and nothing of it was tuned by itself (records of {experiment}_validation): {listed}. "
        "That of the head was not tuned: it is the same whatever adapts."
    )


def _adalora(study: Study) -> str:
    """What its rows are, where there are any."""
    if all(choice.adapted != "adalora" for choice in study.choices):
        return ""
    return (
        " AdaLoRA: the form of a singular value decomposition; in so few steps no rank is pruned, "
        "and no penalty keeps its factors orthogonal."
    )


def _checkpoint(study: Study) -> str:
    """The checkpoint of all choices, without the folders of a machine."""
    name = next(
        str(record.config.text.checkpoint)
        for record in study.results.records
        if choice_of(record.config) is not None
    )
    here = Path(name).is_absolute() or name.startswith((".", "~"))
    return Path(name).name if here else name


def _settings(study: Study) -> str:
    """The arguments of the learners, as their records have them."""
    given: dict[str, dict[Any, None]] = {}
    for record in study.results.records:
        if choice_of(record.config) is not None:
            for name in _SETTINGS:
                if name in record.config.learner.arguments:
                    given.setdefault(name, {})[record.config.learner.arguments[name]] = None
    if not given:
        return ""
    values = (f"{name} {' or '.join(map(str, given[name]))}" for name in _SETTINGS if name in given)
    return f"Settings: {', '.join(values)}."


def _machine(study: Study) -> str:
    """Where the choices were measured."""
    return machine_text([one for one in study.results.records if choice_of(one.config) is not None])


def _differences(
    study: Study, pairs: Mapping[Choice, tuple[Variant, Variant]], column: Column
) -> dict[Choice, tuple[tuple[Variant, Variant], Estimate]]:
    """The differences of the pairs that were measured, with p values after Holm over all."""
    values = study.results.select(
        column.metric, "test", column.regime, column.k_shot, column.evaluation
    )
    found = {
        choice: estimate
        for choice, (one, other) in pairs.items()
        if (estimate := difference_of(values, one, other, column.metric)) is not None
    }
    p_holm = holm(np.array([estimate.p for estimate in found.values()], np.float64))
    return {
        choice: (pairs[choice], replace(estimate, p=float(p)))
        for (choice, estimate), p in zip(found.items(), p_holm, strict=True)
    }


def _difference_cells(
    found: tuple[tuple[Variant, Variant], Estimate] | None, column: Column, preliminary: bool
) -> tuple[Cell, ...]:
    """The cell of a difference and those of its test."""
    if found is None:
        return (Cell(),) * (1 + len(TEST_HEADS))
    (one, other), estimate = found
    difference = difference_cell(one, other, column, estimate, bold=not preliminary)
    return difference, *test_cells(estimate)


def _how_tested() -> str:
    return (
        f"Mean difference over test tasks with its 95 % bootstrap interval ({RESAMPLES:,} "
        "resamples of tasks, each with all its seeds; BCa); p of Wilcoxon’s signed-rank test over "
        f"tasks after Holm’s correction over the rows of a column; {BETTER} and {WORSE}: p < .05, "
        f"where mean and ranks point the same way. {MISSING}: nothing to compare with."
    )


def _cost_cells(study: Study, variant: Variant) -> tuple[Cell, Cell, Cell, Cell]:
    """Weights that are trained, seconds to adapt and to score, and memory."""
    costs = study.costs(variant.learner)

    def cell(name: str, shown: Callable[[float], str]) -> Cell:
        if name not in costs:
            return Cell()
        source = Source(variant.learner, study.regime, study.k_shot, name)
        return Cell(shown(costs[name].mean), estimate=costs[name], source=source)

    return (
        cell(PARAMETERS, count_text),
        cell(ADAPT, significant),
        cell(SCORE, significant),
        cell(MEMORY, hundredths),
    )


def _labelled(study: Study, choice: Choice) -> str:
    if choice.learner not in study.results.targets:
        return f"{choice.label} (failed)"
    return choice.label + fewer_seeds(study.results, choice.learner)
