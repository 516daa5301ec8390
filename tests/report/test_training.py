from __future__ import annotations

import math
import re

import pytest

from metarec.report.assemble import assemble
from metarec.report.training import TrainingCurves
from metarec.report.training_figure import COLUMNS, draw, render_training

NDCG = "catalogue/ndcg@10"


def measured(*values):
    cold = ("user_cold", "item_cold", "both_cold")
    return {"validation": {"warm": {NDCG: 0.9}} | {
        regime: {NDCG: value} for regime, value in zip(cold, values, strict=True)
    }}  # fmt: skip


def log_of(*values):
    looks = [{"step": 100.0 * at, "validation": value} for at, value in enumerate(values)]
    return [*looks, {"step": 1000.0, "loss": 1.0}, {"step": 2000.0, "validation": None}]


@pytest.fixture
def curves(make_record) -> TrainingCurves:
    more = {
        "log": log_of(0.1, 0.3, 0.2),
        "metrics": measured(0.2, 0.3, None),
        "without_adaptation": measured(0.1, 0.2, 0.3),
    }
    records = [
        make_record("cnp", seed=1, without_steps=0.1, more=more | {"log": log_of(0.2, 0.4)}),
        make_record("cnp", without_steps=0.1, more=more),
        make_record("maml", more={"log": log_of(0.1, 0.2)}),
        make_record("ease"),
        make_record("maml", kind="item", more=more),
        make_record("protocf", kind="item", more=more | {"metrics": {
            "validation": {"item_cold": {NDCG: 0.4}}}}),
    ]  # fmt: skip
    made = assemble(records, tables="family").training
    assert made is not None
    return made


def test_every_trained_learner_has_a_panel_once_with_all_its_seeds(curves):
    labels = [panel.label for panel in curves.panels]
    assert labels == ["MAML", "CNP", "ProtoCF, item tasks"]
    assert curves.panels[1].seeds == (
        ((0.0, 100.0, 200.0), (0.1, 0.3, 0.2)),
        ((0.0, 100.0), (0.2, 0.4)),
    )


def test_levels_are_means_over_the_cold_regimes_that_have_a_value(curves):
    maml, cnp, protocf = curves.panels
    assert cnp.adapted == pytest.approx((0.2 + 0.3) / 2)
    assert cnp.unadapted == pytest.approx((0.1 + 0.2 + 0.3) / 3)
    assert protocf.adapted == 0.4
    assert math.isnan(maml.adapted)


def test_without_a_training_there_is_no_figure(make_record):
    assert assemble([make_record("ease")], tables="family").training is None


def test_panels_share_their_axes_and_hold_seeds_and_levels(curves):
    figure = draw(curves)
    axes = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in axes] == [panel.label for panel in curves.panels]
    assert len({(axis.get_xlim(), axis.get_ylim()) for axis in axes}) == 1
    styles = [line.get_linestyle() for line in axes[1].get_lines()]
    # two seeds, adapted, unadapted
    assert styles == ["-", "-", "-", "--"]
    assert axes[1].get_lines()[3].get_ydata()[0] == pytest.approx(curves.panels[1].unadapted)
    assert len(axes[0].get_lines()) == 1


def test_a_full_figure_has_rows_of_panels(curves):
    many = TrainingCurves("training", "T", "y", curves.panels * 4, "n")
    axes = draw(many).axes
    assert sum(axis.get_visible() for axis in axes) == 12
    assert len(axes) == COLUMNS * 3


@pytest.mark.parametrize("suffix", ["pdf", "png"])
def test_the_same_curves_give_the_same_bytes(curves, suffix):
    one, two = render_training(curves, suffix), render_training(curves, suffix)
    assert one == two
    assert not re.search(rb"CreationDate|ModDate|matplotlib|Matplotlib", one)
