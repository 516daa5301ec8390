"""What one experiment has run already, another takes over instead of running it again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metarec.errors import MetarecError
from metarec.runs import environment
from metarec.runs.config import RunConfig
from metarec.runs.prepare import Materials
from metarec.runs.store import RECORD, Record, is_finished, read_record
from metarec.writing import replacing


def taken_over(
    config: RunConfig, materials: Materials, root: Path, others: Sequence[Path]
) -> Record | None:
    """A finished run that has measured all that a configuration asks for.

    It may have measured more, such as the curve over K. A run of another experiment counts only if
    it was made by this very code, and is copied, so that an experiment's folder holds all its
    records.

    Args:
        config: what is to be run.
        materials: its data and features, which must be those of the finished run.
        root: folder of the configuration's own experiment.
        others: folders of the experiments to look at.

    Returns:
        The record in `root`; None if there is no such run.
    """
    for folder in (root, *others):
        for record in _finished(folder, config):
            same_materials = (
                record.data_checksum == materials.data_checksum
                and record.content.get("feature_key") == materials.feature_key
                and record.content.get("split_checksum", "") == materials.split_checksum
            )
            same_code = folder == root or record.code == environment.code_hash()
            if same_materials and same_code and covers(record.config, config):
                return record if folder == root else _copied(record, root)
    return None


def covers(measured: RunConfig, wanted: RunConfig) -> bool:
    """Whether a run has measured at least what another asks for, with the same training.

    Args:
        measured: configuration of the run that there is.
        wanted: of the one that is to be.
    """
    if _without_evaluation(measured) != _without_evaluation(wanted):
        return False
    # regimes and first shots decide what early stopping looks at, so that they have to be the same
    if set(measured.regimes) != set(wanted.regimes):
        return False
    for regime in wanted.regimes:
        had, asked = measured.shots(regime), wanted.shots(regime)
        if had[0] != asked[0] or not set(asked) <= set(had):
            return False
    have, want = measured.evaluation, wanted.evaluation
    curve = _curve(wanted)
    return (
        set(want.parts) <= set(have.parts)
        and set(wanted.cutoffs) <= set(measured.cutoffs)
        and _ranked(wanted) == _ranked(measured)
        and (not curve or curve == _curve(measured))
        and (not curve or have.curve_unadapted or not want.curve_unadapted)
    )


def _without_evaluation(config: RunConfig) -> dict[str, Any]:
    content = config.to_dict()
    del content["experiment"], content["evaluation"]
    return content | {"learner": config.learner.what_runs()}


def _curve(config: RunConfig) -> tuple[Any, ...]:
    """Shots and regimes of the curve over K, empty where there is none."""
    evaluation = config.evaluation
    of_items = config.episode.task == "item"
    shots = evaluation.item_k_curve if of_items else evaluation.k_curve
    if "test" not in evaluation.parts or not evaluation.curve_regimes or not shots:
        return ()
    return shots, () if of_items else tuple(sorted(evaluation.curve_regimes))


def _ranked(config: RunConfig) -> tuple[Any, ...]:
    """What is ranked, and for how many tasks: the shortlist, who draws it, and the limits."""
    evaluation, retriever = config.evaluation, config.evaluation.retriever
    drawn_by = None if retriever is None else retriever.what_runs()
    return evaluation.shortlist, drawn_by, evaluation.tasks, evaluation.look_tasks


def _finished(folder: Path, config: RunConfig) -> Iterator[Record]:
    """The finished runs of the same learner, kind of task and seed, by their names."""
    episode = config.episode
    name = f"{config.learner.name}-{episode.task}-{episode.feedback}-s{config.seed}-*"
    for path in sorted(folder.glob(name)):
        if is_finished(path):
            try:
                yield read_record(path)
            except MetarecError:
                # of another version, say: it cannot be taken over
                continue


def _copied(record: Record, root: Path) -> Record:
    """Copies a run's files, each atomically and `record.json` last: without it nothing counts."""
    target = root / record.path.name
    # what lies there failed
    shutil.rmtree(target, ignore_errors=True)
    files = [file for file in record.path.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: (file.name == RECORD, file)):
        with replacing(target / file.relative_to(record.path)) as temporary:
            shutil.copyfile(file, temporary)
    return read_record(target)
