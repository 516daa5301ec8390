"""What every learner promises: a learner joins with one row of `LEARNERS` in `learner_rows.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from learner_rows import (
    EVERY,
    N_TASKS,
    Make,
    bits,
    every_adapting_learner,
    every_learner,
    everything,
    fitted,
    make_support,
    make_training,
    score,
)

from metarec.errors import LearnerError
from metarec.learner import Feedback, Learner, Support, TaskKind, check_served
from metarec.runs.measure import Adapting


@every_learner
def test_scores_are_finite_float32_of_tasks_by_candidates(
    make: Make, kind: TaskKind, feedback: Feedback
) -> None:
    learner, meta, training = fitted(make, kind, feedback)
    scores = score(learner, meta, make_support(training), everything(training))
    assert scores.shape == (N_TASKS, training.n_candidates)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


@every_learner
def test_it_says_what_it_serves(make: Make, kind: TaskKind, feedback: Feedback) -> None:
    learner, _, _ = fitted(make, kind, feedback)
    assert isinstance(learner, Learner)
    check_served(learner, kind, feedback)
    assert learner.predicts(feedback) in ("rating", "logit", "order")


@pytest.mark.parametrize(
    ("make", "kinds", "feedbacks"), [row[1:] for row in EVERY], ids=[row[0] for row in EVERY]
)
def test_what_it_does_not_serve_is_an_error(
    make: Make, kinds: tuple[str, ...], feedbacks: tuple[str, ...]
) -> None:
    learner = make()
    assert learner.serves == set(kinds)
    assert learner.accepts == set(feedbacks)
    for kind in get_args(TaskKind):
        for feedback in get_args(Feedback):
            if kind not in kinds or feedback not in feedbacks:
                with pytest.raises(LearnerError, match=type(learner).__name__):
                    check_served(learner, kind, feedback)


@every_learner
def test_adapting_and_scoring_leave_the_meta_parameters_untouched(
    make: Make, kind: TaskKind, feedback: Feedback
) -> None:
    learner, meta, training = fitted(make, kind, feedback)
    before = bits(meta)
    first = score(learner, meta, make_support(training), everything(training))
    assert bits(meta) == before
    again = score(learner, meta, make_support(training), everything(training))
    assert np.array_equal(first, again)


@every_learner
def test_the_order_of_tasks_does_not_matter(make: Make, kind: TaskKind, feedback: Feedback) -> None:
    learner, meta, training = fitted(make, kind, feedback)
    support = make_support(training)
    order = np.random.default_rng(0).permutation(N_TASKS)
    straight = score(learner, meta, support, everything(training))
    permuted = score(learner, meta, support[order], everything(training))
    # a matrix product over all tasks may round differently in another place of the matrix
    assert permuted == pytest.approx(straight[order], rel=1e-6, abs=1e-6)


@every_learner
def test_what_stands_beside_the_shots_does_not_matter(
    make: Make, kind: TaskKind, feedback: Feedback
) -> None:
    learner, meta, training = fitted(make, kind, feedback)
    support = make_support(training)
    garbage = Support(
        np.where(support.mask, support.candidates, training.n_candidates - 1).astype(np.int32),
        np.where(support.mask, support.labels, np.nan).astype(np.float32),
        support.mask,
        support.tasks,
    )
    clean = score(learner, meta, support, everything(training))
    assert np.array_equal(clean, score(learner, meta, garbage, everything(training)))


@every_learner
def test_wider_padding_does_not_matter(make: Make, kind: TaskKind, feedback: Feedback) -> None:
    learner, meta, training = fitted(make, kind, feedback)
    support = make_support(training)
    narrow = score(learner, meta, support, everything(training))
    wide = Support(
        np.pad(support.candidates, ((0, 0), (0, 3))),
        np.pad(support.labels, ((0, 0), (0, 3))),
        np.pad(support.mask, ((0, 0), (0, 3))),
        support.tasks,
    )
    assert score(learner, meta, wide, everything(training)) == pytest.approx(
        narrow, rel=1e-5, abs=1e-5
    )


@every_learner
def test_tasks_may_be_scored_in_chunks(make: Make, kind: TaskKind, feedback: Feedback) -> None:
    learner, meta, training = fitted(make, kind, feedback)
    support = make_support(training)
    whole = score(learner, meta, support, everything(training))
    chunks = [
        score(learner, meta, support[start : start + 2], everything(training))
        for start in range(0, N_TASKS, 2)
    ]
    # a matrix product of fewer rows may round differently
    assert np.concatenate(chunks) == pytest.approx(whole, rel=1e-5, abs=1e-5)


@every_learner
def test_candidates_may_be_scored_in_chunks(make: Make, kind: TaskKind, feedback: Feedback) -> None:
    learner, meta, training = fitted(make, kind, feedback)
    support = make_support(training)
    some = np.array([7, 2, 11, 2], dtype=np.int32)
    whole = score(learner, meta, support, everything(training))
    part = score(learner, meta, support, some)
    # texts that are padded beside others, and products of fewer rows, may round differently
    assert part == pytest.approx(whole[:, some], rel=3e-5, abs=3e-5)


@every_learner
def test_without_shots_all_users_are_scored_alike(
    make: Make, kind: TaskKind, feedback: Feedback
) -> None:
    learner, meta, training = fitted(make, kind, feedback)
    support = make_support(training)
    empty = score(learner, meta, support.first(0), everything(training))
    masked = Support(support.candidates, support.labels, np.zeros_like(support.mask), support.tasks)
    assert empty == pytest.approx(
        score(learner, meta, masked, everything(training)), rel=1e-5, abs=1e-5
    )
    if kind == "user":
        # some processors' matrix products round a row by its place among the others
        alike = np.broadcast_to(empty[0], empty.shape)
        assert empty == pytest.approx(alike, rel=1e-5, abs=1e-6)


@every_adapting_learner
def test_without_shots_nothing_adapts_and_with_shots_it_does(
    make: Make, kind: TaskKind, feedback: Feedback
) -> None:
    learner, meta, training = fitted(make, kind, feedback)
    assert isinstance(learner, Adapting)
    support, off = make_support(training), learner.without_adaptation()
    unadapted = score(off, meta, support, everything(training))
    empty = score(learner, meta, support.first(0), everything(training))
    assert empty == pytest.approx(score(off, meta, support.first(0), everything(training)))
    adapted = score(learner, meta, support, everything(training))
    # the first task has no shot
    assert adapted[0] == pytest.approx(unadapted[0], rel=1e-5, abs=1e-5)
    assert (np.abs(adapted[1:] - unadapted[1:]).max(1) > 1e-4).any()


@every_learner
def test_fitting_twice_gives_the_same_bits(make: Make, kind: TaskKind, feedback: Feedback) -> None:
    _, meta, _ = fitted(make, kind, feedback)
    assert bits(make().fit(make_training(kind, feedback))) == bits(meta)


@every_learner
def test_meta_parameters_survive_the_disk(
    make: Make, kind: TaskKind, feedback: Feedback, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    learner, meta, training = fitted(make, kind, feedback)
    save_file({name: np.ascontiguousarray(a) for name, a in meta.items()}, tmp_path / "meta")
    loaded = load_file(tmp_path / "meta")
    support = make_support(training)
    assert np.array_equal(
        score(learner, loaded, support, everything(training)),
        score(learner, meta, support, everything(training)),
    )


@pytest.mark.parametrize("make", [row[1] for row in EVERY], ids=[row[0] for row in EVERY])
def test_features_that_are_needed_and_missing_are_an_error(make: Make) -> None:
    learner = make()
    kind: TaskKind = "user" if "user" in learner.serves else "item"
    training = replace(make_training(kind, "binary"), features=None)
    if learner.needs_features:
        with pytest.raises(LearnerError, match="features"):
            learner.fit(training)
    elif not learner.trained:
        assert learner.fit(training)
