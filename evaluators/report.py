"""Reports the metrics of an evaluation on the terminal and in files."""
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.strict_json import as_json


def report(metrics: Mapping[str, float], by_step: Sequence[Mapping[str, float]],
           settings: Mapping[str, object],
           folder: Path) -> None:
    """Print the metrics and write them to `metrics.json`, after the `settings` that differ from training.

    `by_step`: the metrics after each supervision step, for a second table and `steps.jsonl`; []: neither is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(as_json({**settings, **metrics}, indent=1) + "\n")
    if not metrics:
        print("  nothing is scored, since no answer is known; the files of "
              f"evaluators are in {folder}")
    width = max(map(len, metrics), default=0)
    print("\n".join(f"  {name:{width}s}  {value:.6g}" for name, value in metrics.items()))
    print(f"metrics: {folder / 'metrics.json'}")
    if by_step:
        (folder / "steps.jsonl").write_text("".join(as_json(line) + "\n" for line in by_step))
        rows = [list(by_step[0]),
                *([f"{value:.6g}" for value in line.values()] for line in by_step)]
        print("\n".join(" ".join(f"{cell:>15}" for cell in row) for row in rows))
        print(f"metrics by step: {folder / 'steps.jsonl'}")
