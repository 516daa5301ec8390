"""What is committed in `paper/` follows from the small records and trials that lie beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_helpers import failing

from metarec.audit.tables import check_tables
from metarec.audit.tuning import check_budgets, check_tunings

ROOT = Path(__file__).resolve().parents[2]
PAPERS = sorted(
    folder.parent for folder in (ROOT / "paper").rglob("records") if any(folder.glob("*.json"))
)


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_no_figure_of_a_committed_table_differs_from_its_small_record(paper: Path) -> None:
    found = list(check_tables(paper, []))
    assert found
    assert not failing(found)


def test_all_folders_of_tables_have_small_records() -> None:
    assert {folder.parent for folder in (ROOT / "paper").rglob("tables")} == set(PAPERS)


def test_what_tuning_chose_is_the_best_of_its_committed_trials_and_budgets_are_alike() -> None:
    paper, configs = ROOT / "paper", ROOT / "configs"
    found = [*check_tunings(paper, configs, {}), *check_budgets(paper, configs)]
    assert len(found) > len(list((configs / "learner" / "best").rglob("*.yaml")))
    assert not failing(found)
