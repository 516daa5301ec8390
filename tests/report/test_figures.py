from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarec.report.assemble import assemble
from metarec.report.curve import Curve
from metarec.report.figures import _apart, _draw, drawn_lines, render_k_shot


@pytest.fixture
def curve(make_record) -> Curve:
    records = [
        make_record(name, quality, without_steps=steps, regimes=("user_cold",))
        for name, quality, steps in (
            ("random", 0.05, None),
            ("popularity", 0.1, None),
            ("ease", 0.3, None),
            ("maml", 0.25, 0.1),
            ("mine_1", 0.2, None),
            ("mine_2", 0.2, None),
        )
    ]
    made = assemble(records).curve
    assert made is not None
    return made


def test_the_curve_is_measured_on_nested_supports_at_every_k(curve):
    assert curve.shots == (0, 1, 3, 5, 10, 20)
    assert curve.regime == "user_cold"
    for line in curve.lines:
        assert len(line.estimates) == 6


def test_estimates_are_those_of_the_curve_episodes(make_record):
    record = make_record("ease", 0.3)
    frame = record.per_task
    here = frame[(frame["evaluation"] == "curve") & (frame["k_shot"] == 10)]
    made = assemble([record]).curve
    assert made is not None
    found = made.lines[1].estimates[made.shots.index(10)]
    assert found.mean == pytest.approx(here["catalogue/ndcg@10"].mean())


def test_0_step_lines_are_dashed_chance_is_dotted_and_the_rest_solid(curve):
    axes = _draw(curve).axes[0]
    styles = [line.get_linestyle() for line in axes.get_lines()]
    drawn = drawn_lines(curve)
    expected = [
        ":" if line.variant is None else "-" if line.variant.adapted else "--" for line in drawn
    ]
    assert styles == expected
    assert styles.count("--") == styles.count(":") == 1


def test_every_line_is_named_beside_its_end_in_its_colour(curve):
    axes = _draw(curve).axes[0]
    texts = [text for text in axes.texts if text.get_text()]
    assert len(texts) == len(axes.get_lines())
    assert {text.get_color() for text in texts} == {line.get_color() for line in axes.get_lines()}
    assert "MAML, 0 steps" in {text.get_text() for text in texts}


def test_learners_have_colours_and_markers_of_their_own(curve):
    axes = _draw(curve).axes[0]
    looks = [
        (line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.get_lines()
    ]
    assert len(set(looks)) == len(looks)


def test_bands_are_the_intervals(curve):
    axes = _draw(curve).axes[0]
    lines = [line for line in drawn_lines(curve) if line.variant is not None]
    assert len(axes.collections) == len(lines)
    for band, line in zip(axes.collections, lines, strict=True):
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.max() == pytest.approx(max(e.high for e in line.estimates))
        assert heights.min() == pytest.approx(min(e.low for e in line.estimates))


def test_the_random_learner_leaves_its_place_to_chance(curve):
    names = [line.variant.learner for line in drawn_lines(curve) if line.variant]
    assert "random" not in names
    assert drawn_lines(curve)[0].label == "Chance"


@pytest.mark.parametrize("suffix", ["pdf", "png"])
def test_a_picture_has_the_same_bytes_each_time_and_no_date(curve, suffix):
    one, two = render_k_shot(curve, suffix), render_k_shot(curve, suffix)
    assert one == two
    assert one.startswith({"pdf": b"%PDF", "png": b"\x89PNG"}[suffix])
    assert not re.search(rb"CreationDate|ModDate|matplotlib|Matplotlib", one)


def test_a_user_s_own_style_does_not_leak_into_the_paper(curve):
    import matplotlib

    plain = render_k_shot(curve, "png")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        assert render_k_shot(curve, "png") == plain


@given(st.lists(st.floats(0, 1), min_size=1, max_size=15), st.floats(0.01, 0.06))
def test_names_are_moved_apart_in_order(places, gap):
    descending = np.sort(np.array(places))[::-1]
    moved = _apart(descending, gap)
    assert (moved[:-1] - moved[1:] >= gap - 1e-9).all()


@given(st.integers(1, 10))
def test_names_that_are_apart_already_stay_in_place(n):
    places = 1 - 0.1 * np.arange(n)
    assert _apart(places, 0.05) == pytest.approx(places)
