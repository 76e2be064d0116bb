"""Runs side by side: a table of what they ended with, by the settings in which they differ, and their curves.

    python pretrain.py -m experiment=ablate_sudoku4 seed=0,1                        # or any runs
    python -m utils.compare checkpoints/ablate-sudoku4 --output ablations           # ablations.md, .csv, .png and
                                                                                    # ablations_curves.png
    python -m utils.compare votes_0 votes_30 --metrics eval/arc/pass@2 --output votes           # of evaluate.py

A folder that is not itself a run stands for all runs below it. Runs whose settings are the same but for seed, name and
place make one row. Each setting that differs between rows has a column; so has the folder of an evaluation. The first
metric is drawn, and orders the rows, the best first. The pictures label a row with the settings that most rows lack.
`…_curves.png` has loss, exact accuracy, steps to halt and examples a second of all runs, by step and by time.
"""
import argparse
import csv
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: imports start at the project root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from omegaconf import OmegaConf

from utils.command_line import leaf_keys
from utils.foreign import printable, read_settings, spreadsheet_text
from utils.plots import Curves, plot_comparison, plot_curves
from utils.strict_json import read_metrics

# Keys that begin so do not make it another run.
SAME_RUN = ("seed", "run_name", "project_name", "checkpoint", "log_", "device", "debug",
            "use_wandb", "max_")
METRICS = ("val/exact_accuracy", "val/accuracy", "val/loss", "train/steps", "train/examples_per_s")
CURVES = {"loss": "loss", "exact accuracy": "exact_accuracy", "squared error": "mse",
          "supervision steps to halt": "steps", "examples a second": "examples_per_s"}  # panels of …_curves.png
LOWER_IS_BETTER = "loss|mse|mae|error|steps$"
USUAL = "(what most have in common)"


@dataclass(frozen=True)
class FinishedRun:
    directory: Path
    # value of each setting that makes it another run, by dotted key
    settings: dict[str, str]
    # of metrics.jsonl
    lines: list[dict]

    @property
    def steps(self) -> str:
        """Empty for an evaluation, which has none."""
        return str(self.lines[-1]["step"] or "")

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric; empty where the run has none."""
        points = [(line["step"], line[metric]) for line in self.lines if metric in line]
        return [step for step, _ in points], [value for _, value in points]

    def seconds(self, metric: str) -> list[float]:
        """When each value of a metric was logged, in seconds since the first line; empty where no times are logged."""
        times = [line["time"] for line in self.lines if metric in line and "time" in line]
        return [time - self.lines[0]["time"] for time in times]

    def last(self, metric: str) -> float | None:
        _, values = self.curve(metric)
        return values[-1] if values else None


def runs_in(folder: Path) -> list[Path]:
    """The runs that a folder stands for.

    It is the folder itself if that is a run or an evaluation. Otherwise it is all runs below it, at any depth, or, if
    there are no runs, all evaluations. Runs that are not whole yet, and those that a later run replaced, do not count.
    Raises ValueError where nothing is found.
    """
    if _is_run(folder) or _is_evaluation(folder):
        return [folder]
    below = sorted({file.parent for file in folder.rglob("metrics.json*")
                    if not re.search(r"\.old\d+(/|$)", str(file.parent.relative_to(folder)))})
    found = list(filter(_is_run, below)) or list(filter(_is_evaluation, below))
    if not found:
        raise ValueError(f"{folder} is not the directory of a run (config.yaml, "
                         "metrics.jsonl) or of an evaluation (metrics.json), and has none in "
                         "it; name one, or a folder of some")
    return found


def _is_run(directory: Path) -> bool:
    config, metrics = directory / "config.yaml", directory / "metrics.jsonl"
    return config.is_file() and metrics.is_file() and metrics.stat().st_size > 0


def _is_evaluation(directory: Path) -> bool:
    return (directory / "metrics.json").is_file()


def read_run(directory: Path) -> FinishedRun:
    """A run, or the output of `evaluate.py`."""
    if _is_evaluation(directory):
        of_run = _settings(directory.parent / "config.yaml") if (directory.parent / "config.yaml").is_file() else {}
        return FinishedRun(directory, of_run | {"evaluation": directory.name},
                           [{"step": 0} | read_metrics((directory / "metrics.json").read_text())])
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return FinishedRun(directory, _settings(directory / "config.yaml"),
                       [read_metrics(line) for line in lines])


def _settings(config: Path) -> dict[str, str]:
    settings = OmegaConf.create(read_settings(config))
    return {key: str(OmegaConf.select(settings, key))
            for key in leaf_keys(settings) if not key.startswith(SAME_RUN)}


@dataclass(frozen=True)
class Row:
    """Runs of the same settings."""

    runs: list[FinishedRun]
    # value of each setting in which rows differ, by dotted key
    settings: dict[str, str]
    # what is special about it among the rows
    label: str

    def ends(self, metric: str) -> list[float]:
        """What its runs ended with."""
        return [value for run in self.runs if (value := run.last(metric)) is not None]

    def mean(self, metric: str) -> float | None:
        ends = self.ends(metric)
        return float(np.mean(ends)) if ends else None

    def cells(self, metrics: Sequence[str]) -> dict[str, str | float | None]:
        """The row of the table: the settings, how many runs, their steps, and for each metric two columns.

        `metric` is the mean of the runs' last values, `metric ±` their standard deviation (None for a single run).
        """
        cells: dict[str, str | float | None] = {
            **self.settings, "runs": str(len(self.runs)),
            "steps": "/".join(dict.fromkeys(run.steps for run in self.runs))}
        for metric in metrics:
            ends = self.ends(metric)
            cells |= {metric: self.mean(metric),
                      f"{metric} ±": float(np.std(ends, ddof=1)) if len(ends) > 1 else None}
        return cells


def grouped(runs: Sequence[FinishedRun], metric: str) -> list[Row]:
    """Runs of the same settings together, the best by a metric first, those without it last."""
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    differing = [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]
    usual = {key: Counter(run.settings.get(key, "") for run in runs).most_common(2)
             for key in differing}
    members = defaultdict(list)
    for run in runs:
        members[tuple(run.settings.get(key, "") for key in differing)].append(run)
    rows = []
    for values, group in members.items():
        settings = dict(zip(differing, values))
        special = [f"{key}={value}" for key, value in settings.items()
                   if value != usual[key][0][0] or usual[key][0][1] == usual[key][1][1]]
        rows.append(Row(group, settings, ", ".join(special) or USUAL))
    sign = 1 if re.search(LOWER_IS_BETTER, metric) else -1
    return sorted(rows, key=lambda row: math.inf if (mean := row.mean(metric)) is None or math.isnan(mean)
                  else sign * mean)


def markdown(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    def cell(cells: dict, name: str) -> str:
        if name not in metrics or cells[name] is None:
            return cells[name] or ""
        deviation = cells[f"{name} ±"]
        return f"{cells[name]:.4g}" + (f" ± {deviation:.2g}" if deviation is not None else "")

    names = [*rows[0].settings, "runs", "steps", *metrics]
    lines = [names, ["---"] * len(names),
             *([cell(row.cells(metrics), name) for name in names] for row in rows)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text + ("\n±: standard deviation over the runs of a row.\n" if "±" in text else "")


def compare(folders: Sequence[Path], metrics: Sequence[str], output: Path) -> None:
    """Print the table, and write it as `output`.md and .csv, the first metric as .png and, of runs, their curves as
    _curves.png."""
    runs = [read_run(directory)
            for directory in dict.fromkeys(run for folder in folders for run in runs_in(folder))]
    names = sorted({name for run in runs for line in run.lines for name in line})
    needed = metrics[:1] if metrics is METRICS else metrics  # of the usual ones, some runs have some
    missing = [metric for metric in needed if metric not in names]
    if missing:
        there = [name for name in names if name not in ("epoch", "step", "time")]
        raise ValueError(f"no run has {', '.join(missing)}, which evaluations give; choose with --metrics among "
                         f"{', '.join(there)}")
    rows = grouped(runs, metrics[0])
    text = markdown(rows, metrics)
    print(text, end="")
    output.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{output}.md").write_text(text)
    cells = [{spreadsheet_text(name): spreadsheet_text(cell) if isinstance(cell, str) else cell
              for name, cell in row.cells(metrics).items()} for row in rows]
    with open(f"{output}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, cells[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)
    plot_comparison([(row.label, [run.curve(metrics[0]) for run in row.runs]) for row in rows], metrics[0],
                    Path(f"{output}.png"))
    if curves := panels(rows):
        plot_curves(curves, Path(f"{output}_curves.png"))


def panels(rows: Sequence[Row]) -> list[Curves]:
    """The curves that the runs have, of training and, where it tells something else, of evaluations."""
    found = []
    for title, name in CURVES.items():
        splits = {"train": f"train/{name}", "test": f"val/{name}"}
        if name == "steps":  # an evaluation gives each puzzle all of them
            del splits["test"]
        curves = [(row.label, [(split, *run.curve(metric)[:1], run.seconds(metric), run.curve(metric)[1])
                               for run in row.runs for split, metric in splits.items() if run.seconds(metric)])
                  for row in rows]
        if any(of_row for _, of_row in curves):
            found.append(Curves(title, curves))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of runs, "
                                                           "or folders of several")
    parser.add_argument("--metrics", nargs="+", default=METRICS,
                        help="columns, by their names in metrics.jsonl")
    parser.add_argument("--output", type=Path, required=True,
                        help="path of what to write, without .md, .csv, .png, _curves.png")
    args = parser.parse_args(argv)
    try:
        compare(args.runs, args.metrics, args.output)
    except (ValueError, OSError) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
