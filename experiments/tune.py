"""Tunes learners on validation: eight trials each, the first with the defaults.

    python experiments/tune.py learner=maml
    python experiments/tune.py -m learner=item_knn,ease,als,transfer,maml episode=binary,item

Each kind of episode is tuned by itself: `item` for item tasks, else the feedback, whatever part of
the call set them. Under a publication's protocol it is its name, as in `protocol=melu`,
so that its values replace no others. Writes the best values to
`configs/learner/best/<episode>/<name>.yaml`, where `learner=best/<episode>/<name>` and `make paper`
find them, all trials to `paper/records/tuning/<episode>/<name>.json`, and at the end the tables of
all that is there, `paper/tables/tuning_<episode>.*`. What is finished is not run again, so that an
interrupted call goes on. Settings: `configs/experiment/tuning.yaml`.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metarec.errors import MetarecError
from metarec.report.tuning import build_report
from metarec.runs import RunConfig
from metarec.runs.overrides import lenient, with_choice
from metarec.runs.tuning import Trial, Tuning, TuningSettings, tune
from metarec.runs.tuning_files import kind_of, write_tuning

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

console = Console(soft_wrap=True, highlight=False)
failed: list[str] = []
# paper and kind of episode to the learners that were tuned
tuned: dict[tuple[str, str], list[str]] = {}


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def main(composed: DictConfig) -> None:
    values: Any = OmegaConf.to_container(composed, resolve=True)
    results, progress = values.pop("results"), bool(values.pop("progress"))
    settings = values.pop("tuning")
    name, episode = values["learner"]["name"], ""
    try:
        config = RunConfig.from_dict(values)
        episode = kind_of(config)
        tuning = tune(config, TuningSettings.from_dict(settings), results, progress)
        group = "episode" if config.protocol is None else "protocol"
        command = f"python experiments/tune.py learner={name} {group}={episode}"
        written = write_tuning(tuning, episode, command)
    except Exception as error:
        failed.append(f"{name} ({episode})" if episode else name)
        if not isinstance(error, MetarecError):
            traceback.print_exc()
        console.print(f"[red]failed[/red] {name}: {type(error).__name__}: {escape(str(error))}")
        return
    tuned.setdefault((tuning.settings.paper, episode), []).append(name)
    console.print(table_of(tuning))
    console.print(f"{name}, trials run: {len(tuning.trials)}, in {tuning.seconds:.0f} s")
    if tuning.shortfall:
        console.print(f"[yellow]fewer trials[/yellow]: {tuning.shortfall}")
    for file in written:
        console.print(f"wrote {escape(str(file))}")


def table_of(tuning: Tuning) -> Table:
    table = Table(title=f"Trials of {tuning.config.learner.name} on validation")
    for column in ("trial", "values", "selection", "seconds"):
        table.add_column(column)
    for number, trial in enumerate(tuning.trials):
        values = ", ".join(f"{key}={value}" for key, value in trial.values.items()) or "defaults"
        style = "bold" if number == tuning.chosen else None
        seconds = f"{trial.seconds:.1f}"
        table.add_row(str(number), escape(values), score_of(trial), seconds, style=style)
    return table


def score_of(trial: Trial) -> str:
    if trial.selection is not None:
        return f"{trial.selection:.4f}"
    return escape(f"failed: {trial.error}" if trial.error else "–")


if __name__ == "__main__":
    groups = [folder.name for folder in CONFIGS.iterdir() if folder.is_dir()]
    sys.argv[1:] = with_choice("experiment=tuning", lenient(sys.argv[1:], groups))
    main()
    try:
        for (paper, episode), names in tuned.items():
            build_report(Path(paper), console, episode, names)
    except MetarecError as error:
        failed.append(f"the tables: {error}")
    if failed:
        console.print(f"[red]failed[/red]: {', '.join(map(escape, failed))}")
    sys.exit(1 if failed else 0)
