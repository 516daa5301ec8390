"""Tunes learners on validation: eight trials each, the first with the defaults.

    python experiments/tune.py learner=maml
    python experiments/tune.py -m learner=item_knn,ease,als,transfer,maml episode=binary,item

Each kind of episode is tuned by itself: `item` for item tasks, else the feedback, whatever part of
the call set them. Under a publication's protocol it is its name, as in `protocol=melu`,
so that its values replace no others. Writes the best values to
`configs/learner/best/<episode>/<name>.yaml`, where `learner=best/<episode>/<name>` and `make paper`
find them, all trials to `paper/records/tuning/<episode>/<name>.json`, and at the end the tables of
all that is there, `paper/tables/tuning_<episode>.*`. Values tuned on other data need folders of
their own (`tuning.configs`, `tuning.paper`). What is finished is not run again, so that an
interrupted call goes on. Settings: `configs/experiment/tuning.yaml`.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metarec.errors import ConfigError, MetarecError
from metarec.report.tuning import build_report
from metarec.runs import RunConfig
from metarec.runs.command_line import groups_in, lenient, run_script, with_choice
from metarec.runs.prepare import prepare
from metarec.runs.tuning import Trial, Tuning, TuningSettings, tune
from metarec.runs.tuning_files import TUNING, kind_of, write_tuning

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

PATHS = ("data.folder", "split.source")
SILENT = ("experiment", "results", "progress")

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
        given = TuningSettings.from_dict(settings)
        check_own(config, given, episode)
        tuning = tune(config, given, results, progress)
        written = write_tuning(tuning, episode, command_of(HydraConfig.get().overrides.task))
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


def command_of(overrides: Sequence[str]) -> str:
    """The call as it can be repeated elsewhere: the learner first, no path of this machine."""
    told = []
    for override in (one.lstrip("+") for one in overrides):
        key, _, value = override.partition("=")
        if key in SILENT or key.startswith("tuning."):
            continue
        here = key in PATHS or Path(value.strip("'\"")).is_absolute()
        told.append(f"{key}=…" if here else override)
    told.sort(key=lambda override: not override.startswith("learner="))
    return " ".join(["python experiments/tune.py", *told])


def check_own(config: RunConfig, settings: TuningSettings, episode: str) -> None:
    """Refuses to replace values that were tuned on other data, or on the same as read otherwise.

    Raises:
        ConfigError: naming the file and where else the new ones may go.
    """
    file = Path(settings.paper) / TUNING / episode / f"{config.learner.name}.json"
    if not file.exists():
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    here = prepare(config, needs_features=False)
    told = [f"{before['data']} (checksum {before['data_checksum'][:12]})"]
    told.append(f"{here.dataset.name} (checksum {here.data_checksum[:12]})")
    if before["data_checksum"] != here.data_checksum:
        raise ConfigError(
            f"{file} has the trials on {told[0]}, which those on {told[1]} would replace; remove "
            "it, or give them folders of their own: tuning.configs=FOLDER tuning.paper=FOLDER"
        )


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


def script(arguments: list[str]) -> int:
    """All tunings of a call, and then their tables; returns the exit status."""
    sys.argv[1:] = with_choice("experiment=tuning", lenient(arguments, groups_in(CONFIGS)))
    main()
    try:
        for (paper, episode), names in tuned.items():
            build_report(Path(paper), console, episode, names)
    except MetarecError as error:
        failed.append(f"the tables: {error}")
    if failed:
        console.print(f"[red]failed[/red]: {', '.join(map(escape, failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(script)
