"""Tunes learners on validation: eight trials each, the first with the defaults.

    python experiments/tune.py learner=maml
    python experiments/tune.py -m learner=item_knn,ease,als,transfer,maml episode=binary,item

Each kind of episode is tuned by itself. Writes the best values to
`configs/learner/best/<episode>/<name>.yaml`, where `learner=best/<episode>/<name>` and `make paper`
find them, and all trials to `paper/records/tuning/<episode>/<name>.json`. Settings:
`configs/experiment/tuning.yaml`.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metarec.errors import MetarecError
from metarec.runs import RunConfig
from metarec.runs.overrides import lenient, with_choice
from metarec.runs.tuning import Tuning, tune, write_tuning

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

console = Console(soft_wrap=True, highlight=False)
failed: list[str] = []


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def main(composed: DictConfig) -> None:
    values: Any = OmegaConf.to_container(composed, resolve=True)
    results, progress = values.pop("results"), bool(values.pop("progress"))
    settings = values.pop("tuning")
    name = values["learner"]["name"]
    episode = HydraConfig.get().runtime.choices["episode"]
    try:
        config = RunConfig.from_dict(values)
        tuning = tune(config, settings["trials"], settings["seed"], results, progress)
        written = write_tuning(
            tuning,
            episode,
            Path(settings["configs"]),
            Path(settings["paper"]),
            f"python experiments/tune.py learner={name} episode={episode}",
        )
    except Exception as error:
        failed.append(name)
        if not isinstance(error, MetarecError):
            traceback.print_exc()
        console.print(f"[red]failed[/red] {name}: {type(error).__name__}: {escape(str(error))}")
        return
    console.print(table_of(tuning))
    for file in written:
        console.print(f"wrote {escape(str(file))}")


def table_of(tuning: Tuning) -> Table:
    table = Table(title=f"Trials of {tuning.config.learner.name} on validation")
    for column in ("trial", "values", "selection"):
        table.add_column(column)
    for number, trial in enumerate(tuning.trials):
        values = ", ".join(f"{key}={value}" for key, value in trial.values.items()) or "defaults"
        score = escape(trial.error or "–")
        if trial.selection is not None:
            score = f"{trial.selection:.4f}"
        style = "bold" if number == tuning.chosen else None
        table.add_row(str(number), escape(values), score, style=style)
    return table


if __name__ == "__main__":
    groups = [folder.name for folder in CONFIGS.iterdir() if folder.is_dir()]
    sys.argv[1:] = with_choice("experiment=tuning", lenient(sys.argv[1:], groups))
    main()
    if failed:
        console.print(f"[red]failed[/red]: {', '.join(failed)}")
    sys.exit(1 if failed else 0)
