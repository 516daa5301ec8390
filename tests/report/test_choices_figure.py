from __future__ import annotations

import math
import re

import pytest
from choice_records import SHOTS

from metarec.report.choices import study_of
from metarec.report.choices_figure import Comparison, comparison_of, draw, render_comparison
from metarec.report.choices_tables import choices_table


@pytest.fixture
def comparison(plan) -> Comparison:
    return comparison_of(study_of(plan(("head", "lora", "full"), ("bi", "cross"), seeds=(0,))))


def test_what_is_drawn_is_what_the_table_says(plan):
    study = study_of(plan(reads=("bi", "cross")))
    made, table = comparison_of(study), choices_table(study)
    for section in table.sections[1:]:
        entries = {
            f"{entry.label}, {'MAML' if entry.meta else 'transfer'}": entry
            for entry in made.panels[section.title]
        }
        assert set(entries) == {row.label for row in section.rows}
        for row in section.rows:
            entry = entries[row.label]
            cells = dict(zip(table.columns[1:], row.cells, strict=True))
            assert entry.means == tuple(cells[f"K = {k}"].estimate.mean for k in SHOTS)
            assert entry.seconds == pytest.approx(
                cells["Adapt, s"].estimate.mean + cells["Score, s"].estimate.mean
            )
            assert entry.gib == cells["GiB"].estimate.mean
    chance, own_order = (row.cells for row in table.sections[0].rows)
    assert made.chance == tuple(cell.estimate.mean for cell in chance[1:5])
    assert made.own_order == tuple(cell.estimate.mean for cell in own_order[1:5])


def test_each_reader_has_a_column_on_the_same_axes(comparison):
    axes = draw(comparison).axes
    assert [axis.get_title() for axis in axes] == ["Bi-encoder", "Cross-encoder", "", ""]
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert axes[2].get_ylim() == axes[3].get_ylim()
    assert axes[2].get_xlim() == axes[3].get_xlim()
    assert axes[2].get_xscale() == "log"


def test_one_reader_and_one_part_are_enough(plan):
    made = comparison_of(study_of(plan(("lora",), seeds=(0,))))
    assert list(made.panels) == ["Bi-encoder"]
    axes = draw(made).axes
    assert [axis.get_title() for axis in axes] == ["Bi-encoder", ""]
    # chance, the retriever, transfer and MAML
    assert len(axes[0].get_lines()) == 4


def test_maml_is_solid_and_filled_transfer_dashed_and_open_levels_grey(comparison):
    chance, own_order, *lines = draw(comparison).axes[0].get_lines()
    assert (chance.get_linestyle(), own_order.get_linestyle()) == (":", "-")
    assert chance.get_color() == own_order.get_color() == "#7F7F7F"
    entries = comparison.panels["Bi-encoder"]
    for line, entry in zip(lines, entries, strict=True):
        assert line.get_linestyle() == ("-" if entry.meta else "--")
        assert (line.get_markerfacecolor() == "white") != entry.meta
        assert tuple(line.get_ydata()) == entry.means
    looks = {
        (line.get_color(), line.get_marker(), line.get_linestyle(), entry.adapted)
        for line, entry in zip(lines, entries, strict=True)
    }
    assert len({(colour, marker) for colour, marker, *_ in looks}) == 3
    assert len(looks) == len(lines) == 6


def test_points_lie_at_their_seconds_and_are_as_large_as_their_memory(comparison):
    below = draw(comparison).axes[3]
    entries = comparison.panels["Cross-encoder"]
    at = comparison.shots.index(comparison.k_shot)
    for points, entry in zip(below.collections, entries, strict=True):
        assert points.get_offsets().tolist() == [[entry.seconds, entry.means[at]]]
    sizes = [points.get_sizes()[0] / entry.gib for points, entry in
             zip(below.collections, entries, strict=True)]  # fmt: skip
    assert sizes == pytest.approx([sizes[0]] * len(sizes))
    # the retriever's level, and a line from MAML to transfer for each part
    assert len(below.get_lines()) == 1 + 3


def test_the_legend_names_what_is_drawn_once(comparison):
    texts = [text.get_text() for legend in draw(comparison).legends for text in legend.get_texts()]
    assert texts[:3] == ["Head alone", "LoRA", "Whole BERT"]
    assert texts[3:7] == ["MAML (filled)", "Transfer (open)", "Item-kNN,\nown order", "Chance"]
    assert texts[7:] == ["1 GiB", "1.7 GiB"]


def test_what_was_not_measured_is_left_out(make_choice):
    made = comparison_of(study_of([make_choice(more={}), make_choice("full", error="E: x")]))
    (entry,) = made.panels["Bi-encoder"]
    assert math.isnan(entry.seconds)
    assert math.isnan(entry.gib)
    assert all(math.isnan(value) for value in made.own_order)
    texts = [text.get_text() for legend in draw(made).legends for text in legend.get_texts()]
    assert texts == ["LoRA", "MAML (filled)", "Chance"]
    assert render_comparison(made, "png")


def test_title_and_note_say_what_is_shown(plan):
    study = study_of(plan(("lora",), seeds=(0,)))
    made = comparison_of(study)
    assert made.title == "What of a BERT adapts: quality after reranking 100 candidates"
    assert comparison_of(study, preliminary=True).title == f"Preliminary: {made.title}"
    assert "30 test users, 1 seed, nested supports" in made.note
    assert {made.title, made.note} <= {text.get_text() for text in draw(made).texts}


@pytest.mark.parametrize("suffix", ["pdf", "png"])
def test_a_picture_has_the_same_bytes_each_time_and_no_date(comparison, suffix):
    one, two = render_comparison(comparison, suffix), render_comparison(comparison, suffix)
    assert one == two
    assert one.startswith({"pdf": b"%PDF", "png": b"\x89PNG"}[suffix])
    assert not re.search(rb"CreationDate|ModDate|matplotlib|Matplotlib", one)
