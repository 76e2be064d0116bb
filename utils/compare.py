"""Runs side by side: a table of what they ended with, by the settings in which they differ, and their curves.

    python pretrain.py -m experiment=ablate_sudoku4 seed=0,1                        # or any runs
    python -m utils.compare checkpoints/ablate-sudoku4/* --output ablations         # ablations.md, .csv and .png
    python -m utils.compare votes_0 votes_30 --metrics eval/arc/pass@2 --output votes           # of evaluate.py

Runs that differ in nothing but their seed, name and place are one row. A row is named by what it does not have in
common with most of the runs, an evaluation by its folder too. The first metric is drawn.
"""
import argparse
import csv
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
from utils.plots import plot_comparison
from utils.strict_json import read_metrics

SAME_RUN = ("seed", "run_name", "project_name", "checkpoint", "log_", "device", "debug", "use_wandb")  # starts of keys
METRICS = ("val/exact_accuracy", "val/accuracy", "val/loss", "train/steps", "train/examples_per_s")


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

    def last(self, metric: str) -> float | None:
        _, values = self.curve(metric)
        return values[-1] if values else None


def read_run(directory: Path) -> FinishedRun:
    """A run, or the output of `evaluate.py`. Raises ValueError where a directory holds neither."""
    config, metrics = directory / "config.yaml", directory / "metrics.jsonl"
    if (directory / "metrics.json").is_file():
        of_run = _settings(directory.parent / "config.yaml") if (directory.parent / "config.yaml").is_file() else {}
        return FinishedRun(directory, of_run | {"evaluation": directory.name},
                           [{"step": 0} | read_metrics((directory / "metrics.json").read_text())])
    if not config.is_file() or not metrics.is_file() or not metrics.stat().st_size:
        raise ValueError(f"{directory} is not the directory of a run, which has config.yaml and metrics.jsonl, nor of "
                         "an evaluation, which has metrics.json")
    return FinishedRun(directory, _settings(config), [read_metrics(line) for line in metrics.read_text().splitlines()])


def _settings(config: Path) -> dict[str, str]:
    settings = OmegaConf.create(read_settings(config))
    return {key: str(OmegaConf.select(settings, key)) for key in leaf_keys(settings) if not key.startswith(SAME_RUN)}


def grouped(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs of the same settings under what is special about these; first what most have in common."""
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    usual = {key: Counter(run.settings.get(key) for run in runs).most_common(2) for key in keys}
    groups = defaultdict(list)
    for run in runs:
        special = [f"{key}={run.settings.get(key)}" for key in keys
                   if run.settings.get(key) != usual[key][0][0] or usual[key][0][1] == usual[key][-1][1] < len(runs)]
        groups[", ".join(special)].append(run)
    return dict(sorted(groups.items(), key=lambda group: group[0] != ""))


def table(groups: dict[str, list[FinishedRun]], metrics: Sequence[str]) -> list[dict[str, str | float | None]]:
    """A row a group: of its last metrics the mean, and under `metric ±` the deviation where there are several runs."""
    rows = []
    for special, runs in groups.items():
        row = {"settings": special or "(what most have in common)", "runs": str(len(runs)),
               "steps": "/".join(dict.fromkeys(run.steps for run in runs))}
        for metric in metrics:
            values = [value for run in runs if (value := run.last(metric)) is not None]
            row[metric] = float(np.mean(values)) if values else None
            row[f"{metric} ±"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, str | float | None]], metrics: Sequence[str]) -> str:
    def cell(row: dict, metric: str) -> str:
        mean, deviation = row[metric], row[f"{metric} ±"]
        return "" if mean is None else f"{mean:.4g}" + (f" ± {deviation:.2g}" if deviation is not None else "")

    names = ["settings", "runs", "steps"]
    lines = [[*names, *metrics], ["---"] * (len(names) + len(metrics)),
             *([*(row[name] for name in names), *(cell(row, metric) for metric in metrics)] for row in rows)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text + ("\n±: standard deviation over the runs of a row.\n" if "±" in text else "")


def compare(directories: Sequence[Path], metrics: Sequence[str], output: Path) -> None:
    """Print the table, and write it as `output`.md and .csv, and the curves of the first metric as .png."""
    runs = [read_run(directory) for directory in directories]
    names = sorted({name for run in runs for line in run.lines for name in line})
    needed = metrics[:1] if metrics is METRICS else metrics  # of the usual ones, some runs have some
    missing = [metric for metric in needed if metric not in names]
    if missing:
        raise ValueError(f"no run has {', '.join(missing)}; there are {', '.join(names)}")
    groups = grouped(runs)
    rows = table(groups, metrics)
    text = markdown(rows, metrics)
    print(text, end="")
    output.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{output}.md").write_text(text)
    with open(f"{output}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: spreadsheet_text(value) if isinstance(value, str) else value
                          for key, value in row.items()} for row in rows)
    plot_comparison({row["settings"]: [run.curve(metrics[0]) for run in runs]
                     for row, runs in zip(rows, groups.values())}, metrics[0], Path(f"{output}.png"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of runs")
    parser.add_argument("--metrics", nargs="+", default=METRICS, help="columns, by their names in metrics.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="path of what to write, without .md, .csv, .png")
    args = parser.parse_args(argv)
    try:
        compare(args.runs, args.metrics, args.output)
    except (ValueError, OSError) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
