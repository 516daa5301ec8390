"""The audit: what was fitted on, what was asked, and what was published, derived again.

    python experiments/audit.py results/paper

Hashes, query sets and means are derived from the data and from results per task; tables are made
again from the records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from metarec.audit.figures import check_means, check_selection
from metarec.audit.finding import Finding, fails, show
from metarec.audit.fits import check_fits
from metarec.audit.queries import Redraws, check_queries
from metarec.audit.tables import check_tables
from metarec.audit.tuning import check_budgets, check_tunings, check_values
from metarec.errors import MetarecError, RunError, did_you_mean
from metarec.report.collect import read_records
from metarec.runs.measure import LOOKS
from metarec.runs.prepare import prepare
from metarec.runs.run import run_name
from metarec.runs.store import Record

__all__ = ["Finding", "audit", "show"]

DATA, NAMES = "data", "configuration"


def audit(
    folders: Sequence[Path],
    paper: Path | None = None,
    configs: Path = Path("configs"),
    data: Mapping[str, str] | None = None,
    allow_old: bool = False,
    progress: bool = False,
) -> list[Finding]:
    """Checks records, and the paper that was made of them.

    Args:
        folders: experiments such as `results/paper`, or of several of them.
        paper: folder of the paper; None to check the records alone.
        configs: folder of the configurations, which hold the values that tuning chose.
        data: where data sets lie now, by their name; by default where the runs found them.
        allow_old: whether records from before the audit, which do not say what their fits consumed,
            are no failures.
        progress: whether to show a progress bar.

    Returns:
        What was found, check by check; the audit is passed if no finding `fails`.

    Raises:
        RunError: if there is no finished record, or a folder is given of data that none is of.
    """
    records = [record for folder in folders for record in read_records(folder)]
    finished = [record for record in records if record.status == "finished"]
    if not finished:
        raise RunError(
            f"no finished record to audit in {', '.join(map(str, folders))}; run an experiment "
            "first, as in make paper, or name its folder, such as results/paper"
        )
    names = {name for record in finished for name in _names_of(record)}
    if unknown := sorted({*(data or {})} - names):
        raise RunError(
            f"no record is of data set {unknown[0]!r}, whose folder is given"
            f"{did_you_mean(unknown[0], sorted(names))}"
        )
    findings: list[Finding] = []
    redraws = Redraws()
    # runs that share data, split and episodes stand side by side
    finished.sort(key=lambda record: (record.path.parent, _shared(record), record.path))
    for record in tqdm(finished, desc="audit", unit="record", disable=not progress, leave=False):
        findings += _of_record(record, redraws, data or {}, allow_old)
    if paper is not None:
        trials = {one.path.name: one for one in finished if one.config.experiment == "tuning"}
        findings += check_tunings(paper, configs, trials)
        findings += check_budgets(paper, configs)
        findings += check_values(configs, finished)
        findings += check_tables(paper, records)
    return findings


def _of_record(
    record: Record, redraws: Redraws, folders: Mapping[str, str], allow_old: bool
) -> Iterator[Finding]:
    config, name = record.config, record.path.name
    checksums = (record.content.get(key, "") for key in ("feature_key", "split_checksum"))
    if config.hash(str(record.data_checksum), *checksums) != record.content["hash"]:
        yield fails(NAMES, name, "its configuration is not the one that it was run with")
    elif name != run_name(config, record.content["hash"]):
        yield fails(NAMES, name, f"is called {run_name(config, record.content['hash'])}")
    else:
        yield Finding(NAMES, name)
    for called in _names_of(record):
        if called in folders:
            config = replace(config, data=replace(config.data, folder=folders[called]))
    try:
        materials = prepare(config, needs_features=False)
        if materials.data_checksum != record.data_checksum:
            problem = (
                f"the data set {config.data.name} that is read now is not the one of the run; give "
                f"its folder: --folder {config.data.name}=…"
            )
            yield fails(DATA, name, problem)
            return
        if record.content.get("split_checksum", "") != materials.split_checksum:
            problem = f"the split that split.source={config.split.source} gives is not the run's"
            yield fails(DATA, name, problem)
            return
        yield Finding(DATA, name)
        consumed = record.content.get("consumed") or ()
        looked = any(entry["fit"] == LOOKS for entry in consumed)
        redrawn = redraws.of(config, materials.split, materials.data_checksum, looked)
        yield from check_fits(record, materials.split, redrawn, allow_old)
        yield from check_queries(record, redrawn)
        yield from check_means(record)
        yield from check_selection(record)
    except MetarecError as error:
        yield fails(DATA, name, f"cannot be audited: {error}")


def _names_of(record: Record) -> tuple[str, str]:
    """What data may be called: as in the configuration, or as the data set calls itself."""
    return record.config.data.name, record.dataset


def _shared(record: Record) -> str:
    config = record.config
    return repr((config.data, config.split, config.episode, config.evaluation, config.seed))
