from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarec.errors import ConfigError
from metarec.runs import LearnerConfig, RunConfig
from metarec.runs.search import STARTUP, Choices, Domain, Proposals, Range, domain_of

LOG = {"low": 0.001, "high": 0.1, "log": True}
SPACE: dict[str, Domain] = {
    "rate": domain_of(LOG, "rate"),
    "steps": domain_of({"low": 1, "high": 5}, "steps"),
    "kind": domain_of(["a", None, [64, 64]], "kind"),
}
DEFAULTS = {"rate": 0.01, "steps": 2, "kind": None}


def asked(
    space: dict[str, Domain], defaults: dict[str, Any], count: int, seed: int = 0
) -> list[dict[str, Any]]:
    """The values of so many proposals, each told a score that hangs on nothing else."""
    proposals, found = Proposals(space, defaults, seed), []
    while len(found) < count and (values := proposals.ask()) is not None:
        found.append(values)
        proposals.tell(-float(len(repr(values))))
    return found


def test_a_list_is_of_values_of_any_kind() -> None:
    assert domain_of([0.1, "a", None, True, [64, 64]], "x") == Choices(
        (0.1, "a", None, True, [64, 64])
    )


@pytest.mark.parametrize(
    ("value", "expected", "size"),
    [
        (LOG, Range(0.001, 0.1, log=True), math.inf),
        ({"low": -1.0, "high": 0.5}, Range(-1.0, 0.5), math.inf),
        ({"low": 1, "high": 5}, Range(1, 5), 5),
        ({"low": 1, "high": 5, "step": 2}, Range(1, 5, step=2), 3),
        ({"low": 8, "high": 64, "log": True}, Range(8, 64, log=True), 57),
        ({"low": 0, "high": 1, "step": 0.25}, Range(0, 1, step=0.25), 5),
        ({"low": 0.0, "high": 0.3, "step": 0.1}, Range(0.0, 0.3, step=0.1), 4),
    ],
)
def test_a_range_has_ends_and_perhaps_a_log_or_steps(
    value: dict[str, Any], expected: Range, size: float
) -> None:
    found = domain_of(value, "x")
    assert found == expected
    assert found.size == size
    assert all(end in found for end in found.ends)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"=3: a list of the values to try is needed, or a range such as \{low"),
        ("abc", "='abc': a list"),
        ([], r"=\[\]: a list"),
        ([1, 2, 1], "1 stands there twice"),
        ({"low": 1.0}, r"\.high=None: a range needs a number there"),
        ({"low": "1e-4", "high": 1.0}, r"\.low='1e-4': a range needs a number"),
        ({"low": True, "high": 2}, r"\.low=True: a range needs a number"),
        ({"low": 0.0, "high": math.inf}, r"\.high=inf: a range needs a number"),
        ({"low": 0, "high": 1, "stepp": 1}, r"'learner\.search\.rate\.stepp'; did you mean 'step'"),
        ({"low": 1.0, "high": 1.0}, "low=1.0 must be below high=1.0"),
        ({"low": 0.0, "high": 1.0, "log": True}, "low=0.0 must be above 0 where log is true"),
        ({"low": 0.1, "high": 1.0, "log": 1}, r"\.log=1: true or false"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "log and step exclude each other"),
        ({"low": 0, "high": 5, "step": 2}, "no whole number of steps of 2 leads from low=0"),
        ({"low": 0, "high": 5, "step": 0}, "no whole number of steps of 0"),
        ({"low": 0, "high": 5, "step": -1}, "no whole number of steps of -1"),
    ],
)
def test_what_is_neither_is_an_error_that_names_the_argument(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        LearnerConfig("x", "module.X", {}, {"rate": value})
    assert "learner.search.rate" in str(error.value)


def test_a_configuration_with_ranges_is_read_back_from_what_it_writes() -> None:
    search = {"rate": LOG, "steps": {"low": 1, "high": 5, "step": 1}, "kind": ["a", None]}
    config = RunConfig(LearnerConfig("x", "module.X", {"rate": 0.01}, search))
    assert RunConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["learner"]["search"] == search


@pytest.mark.parametrize("value", [0.0001, 1, True, "0.01", None])
def test_a_range_holds_numbers_between_its_ends_alone(value: Any) -> None:
    assert value not in domain_of(LOG, "x")


def test_a_range_of_whole_numbers_holds_its_steps_alone() -> None:
    domain = domain_of({"low": 1, "high": 7, "step": 3}, "x")
    assert [value for value in (0, 1, 2, 3, 4, 4.0, 5, 6, 7, 8) if value in domain] == [1, 4, 7]


def test_the_defaults_are_proposed_first_and_then_other_values_of_the_space() -> None:
    found = asked(SPACE, DEFAULTS, 20)
    assert found[0] == DEFAULTS
    assert len({repr(values) for values in found}) == 20
    for values in found:
        assert values.keys() == SPACE.keys()
        assert all(values[name] in domain for name, domain in SPACE.items())
        assert isinstance(values["steps"], int)
        # three digits are enough, and can be read
        assert values["rate"] == float(f"{values['rate']:.3g}")


def test_numbers_in_steps_are_those_that_one_would_write() -> None:
    space = {"x": domain_of({"low": 0.0, "high": 1.0, "step": 0.1}, "x")}
    found = asked(space, {"x": 0}, 100)
    assert sorted(values["x"] for values in found) == [n / 10 for n in range(11)]


def test_a_log_range_is_searched_by_factors() -> None:
    space = {"x": domain_of({"low": 0.0001, "high": 1.0, "log": True}, "x")}
    proposals, found = Proposals(space, {"x": 0.01}, seed=0), []
    for _ in range(60):
        found.append((proposals.ask() or {})["x"])
        # a failure teaches nothing, so that all are drawn at random
        proposals.tell(None)
    assert 0.3 < sum(value < 0.01 for value in found) / len(found) < 0.7


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.lists(st.integers(0, 9), min_size=1, unique=True), max_size=3
    ),
    st.integers(0, 5),
)
def test_a_finite_space_is_gone_through_without_repetition(
    values: dict[str, list[int]], seed: int
) -> None:
    space = {name: domain_of(own, name) for name, own in values.items()}
    size = math.prod(len(own) for own in values.values())
    defaults = {name: own[0] for name, own in values.items()}
    found = asked(space, defaults, 12, seed)
    assert found[0] == defaults
    assert len({repr(one) for one in found}) == len(found) == min(12, size)


def test_the_same_seed_and_scores_give_the_same_proposals_and_another_seed_does_not() -> None:
    first = asked(SPACE, DEFAULTS, 10)
    assert first == asked(SPACE, DEFAULTS, 10)
    assert first != asked(SPACE, DEFAULTS, 10, seed=1)


def test_proposals_do_not_hang_on_how_many_are_asked_for() -> None:
    assert asked(SPACE, DEFAULTS, 6) == asked(SPACE, DEFAULTS, 10)[:6]


def test_proposals_hang_on_scores_once_there_are_some() -> None:
    upwards, downwards = Proposals(SPACE, DEFAULTS, 0), Proposals(SPACE, DEFAULTS, 0)
    found = []
    for number in range(12):
        pair = upwards.ask(), downwards.ask()
        found.append(pair[0] == pair[1])
        if number < STARTUP:
            assert found[-1]
        for proposals, values, sign in ((upwards, pair[0], 1.0), (downwards, pair[1], -1.0)):
            assert values is not None
            proposals.tell(sign * values["rate"])
    assert not all(found)


def test_scores_draw_the_proposals_towards_what_is_good() -> None:
    proposals, found = Proposals({"rate": SPACE["rate"]}, {"rate": 0.001}, 0), []
    for _ in range(40):
        values = proposals.ask() or {}
        found.append(abs(math.log(values["rate"] / 0.03)))
        proposals.tell(-found[-1])
    assert sum(found[20:]) < 0.7 * sum(found[:20])


def test_with_nothing_to_search_the_defaults_are_all_there_is() -> None:
    assert asked({}, {}, 8) == [{}]


def test_a_default_outside_of_its_space_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"learner\.search\.rate does not hold learner\.rate=0\.5"
    ):
        Proposals(SPACE, DEFAULTS | {"rate": 0.5}, 0)


def test_optuna_is_imported_when_it_is_used_and_says_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = (
        "import sys, metarec.runs.tuning, metarec.runs.tuning_files; print('optuna' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
    asked(SPACE, DEFAULTS, 6)
    assert capfd.readouterr() == ("", "")
