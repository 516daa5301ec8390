from __future__ import annotations

import pytest

from metarec.errors import ConfigError
from metarec.evaluation.protocols import PROTOCOLS, Protocol, protocol


def test_the_default_protocol_ranks_the_catalogue_in_all_regimes_and_warns_of_nothing() -> None:
    default = protocol("catalogue")
    assert default.regimes == ("warm", "user_cold", "item_cold", "both_cold")
    assert default.primary == "catalogue/ndcg@10"
    assert default.warning(7000, 30) is None


def test_the_legacy_protocol_warns_with_its_exact_chance_level() -> None:
    text = protocol("legacy").warning(10.2, 5)
    assert text is not None
    assert "10 candidates of which 5 relevant" in text
    for level in ("precision@5 0.500", "hr@5 0.996", "ndcg@5 0.500", "mrr@5 0.704", "auc 0.500"):
        assert level in text


def test_a_protocol_of_prediction_errors_has_no_chance_level_to_print() -> None:
    text = Protocol("mae", candidates="rated", metrics=("mae",)).warning(10, 5)
    assert text is not None
    assert "Chance" not in text


def test_columns_and_cutoffs_are_those_of_the_metrics() -> None:
    found = Protocol("x", candidates="rated", metrics=("mae", "hr@20", "ndcg@5", "mrr@5", "auc"))
    assert found.primary == "rated/mae"
    assert not found.higher_is_better
    assert found.columns[1] == "rated/hr@20"
    assert found.cutoffs == (5, 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ("ndgc@10",)}, "ndgc@10"),
        ({"metrics": ("ndcg",)}, "ndcg"),
        ({"metrics": ("ndcg@0",)}, "ndcg@0"),
        ({"metrics": ("auc@5",)}, "auc@5"),
        ({"metrics": ("mae",)}, "candidates=rated"),
        ({"metrics": ()}, "needs a metric"),
        ({"k_shot": (-1,)}, "k_shot"),
        ({"regimes": ("user_kold",)}, "did you mean 'user_cold'"),
    ],
)
def test_a_protocol_that_cannot_be_measured_is_an_error(
    arguments: dict[str, tuple[str, ...]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Protocol("x", **arguments)  # type: ignore[arg-type]


def test_an_unknown_protocol_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'legacy'"):
        protocol("legasy")
    assert all(name == found.name for name, found in PROTOCOLS.items())
