"""Are training, resuming and evaluation bit for bit what they were? Short runs here and in another checkout, compared.

    git worktree add ../before COMMIT
    python benchmarks/same_numbers.py ../before

It takes about four minutes on two cores. Both checkouts use this Python, and the data that this one makes. Compared are
all tensors and plain values of checkpoints and saved outputs, and all logged metrics that are no times. A key that only
one of the checkouts has is told, and is no difference. Ends with status 1 where a number differs.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.preemption import AT_LIMIT

ROOT = Path(__file__).resolve().parents[1]
SMALL = "arch.hidden_size=64 arch.num_heads=2 arch.halt_max_steps=4"
SUDOKU = ("data_paths=[{data}/sudoku] epochs=2 eval_interval=1 global_batch_size=64 val_puzzles=0 "
          "checkpoint.monitor=val/exact_accuracy")
# name of a run, and its settings; a run that ends early is resumed, where its name ends in "resumed"
RUNS = {
    "sudoku": f"experiment=demo_sudoku4 {SUDOKU}",
    "resumed": f"experiment=demo_sudoku4 {SUDOKU} max_steps=4",
    "muon": f"experiment=sic_sudoku {SUDOKU} {SMALL} arch.H_cycles=1 arch.L_cycles=2 max_steps=4",
    "eqr": f"experiment=eqr_sudoku {SUDOKU} {SMALL} arch.H_cycles=1 arch.L_cycles=2",
    "hrm": f"experiment=hrm_sudoku {SUDOKU} {SMALL}",
    "maze": f"experiment=maze_cpu data_paths=[{{data}}/maze] epochs=2 eval_interval=1 max_steps=6 {SMALL}",
    "oscillators": f"experiment=demo_regression data_paths=[{{data}}/oscillators] max_steps=12 {SMALL}",
    "lorenz": f"experiment=demo_latents data_paths=[{{data}}/lorenz] max_steps=12 {SMALL}",
}
# evaluations: the run, and settings; 150 puzzles are no whole number of batches
EVALUATIONS = {
    "sudoku-steps": ("sudoku", "per_step=true eval_save_outputs=[preds,q_halt_logits,inputs]"),
    "sudoku-deep": ("sudoku", "halt_max_steps=24 global_batch_size=50 eval_save_outputs=[preds,logits]"),
    "eqr-noise": ("eqr", "per_step=true global_batch_size=32"),
    "maze-rules": ("maze", "global_batch_size=32 evaluators=[{{name: maze@Maze}}]"),
    "ridge": ("oscillators", "evaluators=[{{name: ridge@Ridge}}] per_step=true"),
    "rollouts": ("lorenz", ""),
}
GENERATED = {"sudoku": ("generate_sudoku --size 4 --train 400 --test 150", "build_sudoku_dataset"),
             "maze": ("generate_maze --side 10 --train 60 --test 70", "build_maze_dataset"),
             "oscillators": ("generate_oscillators", None), "lorenz": ("generate_lorenz", None)}
NOT_COMPARED = ("config", "versions", "data_fingerprints", "data_metadata", "ranks", "time", "train/examples_per_s")


def run(checkout: Path, *words: str, statuses: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run([sys.executable, *words], cwd=checkout, capture_output=True, text=True,
                          check=False, env=os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"})
    if done.returncode not in statuses:
        raise SystemExit(f"{checkout}: {' '.join(words)} ended with status {done.returncode}\n{done.stderr[-2000:]}")


def make_data(folder: Path) -> None:
    for name, (generate, build) in GENERATED.items():
        source = folder / (f"{name}-csv" if build else name)
        run(ROOT, "-m", f"dataset.{generate.split()[0]}", *generate.split()[1:], "--output-dir", str(source))
        if build:
            run(ROOT, "-m", f"dataset.{build}", "--source-dir", str(source), "--output-dir", str(folder / name))


def compute(checkout: Path, data: Path, out: Path) -> None:
    """All runs and evaluations of a checkout, each in a folder of `out`."""
    shared = ["use_wandb=false", f"log_dir={out / 'logs'}"]
    for name, settings in RUNS.items():
        words = [f"checkpoint.path={out / name}", *shared]
        run(checkout, "pretrain.py", *settings.format(data=data).split(), *words, statuses=(0, AT_LIMIT))
        if name.endswith("resumed"):
            run(checkout, "pretrain.py", f"checkpoint.path={out / name}", "checkpoint.resume=true")
    for name, (of_run, settings) in EVALUATIONS.items():
        options = settings.format().replace(": ", ":").split()
        run(checkout, "evaluate.py", f"checkpoint={out / of_run}", f"output_dir={out / name}", *options)


def values(file: Path) -> Iterator[tuple[str, object]]:
    """The leaves of a file, each by its place."""
    if file.suffix in (".ckpt", ".pt"):
        yield from leaves(torch.load(file, weights_only=True), "")
    else:
        for number, line in enumerate(file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]):
            yield from leaves(json.loads(line), f"{number}/")


def leaves(value: object, place: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in NOT_COMPARED:
                yield from leaves(part, f"{place}{key}/")
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from leaves(part, f"{place}{number}/")
    else:
        yield place.rstrip("/"), value


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def compare(before: Path, here: Path) -> int:
    """Tell every difference. Returns how many there are."""
    same = differing = 0
    only: set[str] = set()
    for file in sorted(before.rglob("*")):
        if file.suffix not in (".ckpt", ".pt", ".json", ".jsonl"):
            continue
        then, now = dict(values(file)), dict(values(here / file.relative_to(before)))
        only |= then.keys() ^ now.keys()
        for place in then.keys() & now.keys():
            if equal(then[place], now[place]):
                same += 1
            else:
                differing += 1
                print(f"differs: {file.relative_to(before)}: {place}")
    for place in sorted(only):
        print(f"in one checkout only: {place}")
    print(f"{same} values are equal, {differing} differ")
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        make_data(data)
        for checkout, out in ((args.before.resolve(), "before"), (ROOT, "here")):
            compute(checkout, data, Path(folder, out))
        return int(compare(Path(folder, "before"), Path(folder, "here")) > 0)


if __name__ == "__main__":
    sys.exit(main())
