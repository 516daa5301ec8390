"""One run, or with `-m` a sweep: each leaves a record, and what is finished is skipped.

    python experiments/benchmark.py data=ml-1m data.folder=… learner=maml episode.k_shot=5 seed=1
    python experiments/benchmark.py -m learner=ease,maml seed=0,1,2

Configuration: `configs/config.yaml`. A failed run leaves its error in its record, a sweep goes on,
and the exit status says so at the end.
"""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from metarec.errors import MetarecError
from metarec.runs import Record, RunConfig, run
from metarec.runs.command_line import groups_in, lenient, run_script

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
# what the scripts take for themselves, beside the configuration of a run
OF_SCRIPTS = ("results", "progress", "plan", "tuning", "speed")

console = Console(soft_wrap=True, highlight=False)
finished: list[str] = []
failed: list[str] = []


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def main(composed: DictConfig) -> None:
    values: Any = OmegaConf.to_container(composed, resolve=True)
    settings = {key: values.pop(key, None) for key in OF_SCRIPTS}
    name = " ".join(one.lstrip("+") for one in HydraConfig.get().overrides.task)
    begin = time.time()
    try:
        config = RunConfig.from_dict(values)
        record = run(config, settings["results"], bool(settings["progress"]))
    except Exception as error:
        failed.append(name)
        if not isinstance(error, MetarecError):
            traceback.print_exc()
        console.print(
            f"[red]failed[/red] {escape(name)}: {type(error).__name__}: {escape(str(error))}"
        )
        return
    finished.append(name)
    skipped = (record.path / "record.json").stat().st_mtime < begin
    console.print(f"{'finished before:' if skipped else 'finished'} {escape(str(record.path))}")
    console.print(summary(record))


def summary(record: Record) -> str:
    part = "test" if "test" in record.metrics else "validation"
    evaluation = record.config.evaluation
    if evaluation.retriever is not None:
        recall = line_of(record, part, "shortlist/recall")
        drawn = f"({evaluation.shortlist} drawn by {evaluation.retriever.name})"
        return f"{line_of(record, part, 'catalogue/ndcg@10')}\n{recall} {drawn}"
    if record.config.protocol is not None:
        shown = ["rated/mae"]
        if record.config.protocol.selection != "rated/mae":
            # the ranking of what was rated means nothing without the level of a constant score
            own = record.config.protocol.selection
            shown += [own, own.replace("/", "/chance/", 1)]
        return "\n".join(line_of(record, part, metric) for metric in shown)
    if record.config.episode.feedback != "rating":
        return line_of(record, part, "catalogue/ndcg@10")
    # the ranking of what was rated means nothing without the level of a constant score
    metrics = ("rated/rmse", "rated/ndcg@10", "rated/chance/ndcg@10")
    return "\n".join(line_of(record, part, metric) for metric in metrics)


def line_of(record: Record, part: str, metric: str) -> str:
    means = (
        f"{regime} {'–' if metrics.get(metric) is None else format(metrics[metric], '.4f')}"
        for regime, metrics in record.metrics[part].items()
    )
    return f"  {part} {metric}: {', '.join(means)}"


def script(arguments: list[str]) -> int:
    """All runs of a call, and at the end what became of them; returns the exit status."""
    sys.argv[1:] = lenient(arguments, groups_in(CONFIGS))
    main()
    if len(finished) + len(failed) > 1:
        console.print(f"{len(finished)} runs finished, {len(failed)} failed")
        for one in failed:
            console.print(f"  [red]failed[/red] {escape(one)}")
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(script)
