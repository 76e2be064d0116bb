"""Does training on the demonstrations of a new ARC task help? One demonstration is held out and asked for.

    python benchmarks/adapt.py checkpoints/PROJECT/RUN FOLDER_OF_TASKS --steps 0 50 200

For each number of adaptation steps, the loss of the held-out demonstrations, the fraction of their cells that are
right, and pass@2. Tasks with a single demonstration are left out. The checkpoint must not have been
trained on these tasks.
"""
import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluate import evaluate  # isort: skip  # before PyTorch
from dataset.arc_tasks import read_tasks_to_solve


def without_last(puzzle: dict) -> dict:
    """The task in which the last demonstration is what is asked for."""
    return {"train": puzzle["train"][:-1], "test": puzzle["train"][-1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("tasks", type=Path, help="a task's file, a folder of them, or a challenges file")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 50, 200])
    parser.add_argument("--adapt", nargs="+", default=["embeddings", "all"], choices=("embeddings", "all"))
    parser.add_argument("--augmentations", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, help="of the embeddings; default: as in training")
    args = parser.parse_args()
    tasks = [task for task in read_tasks_to_solve(args.tasks) if len(task.puzzle["train"]) > 1]
    print(f"{len(tasks)} tasks")
    with TemporaryDirectory() as folder:
        where = Path(folder, "tasks")
        where.mkdir()
        for task in tasks:
            (where / f"{task.id}.json").write_text(json.dumps(without_last(task.puzzle)))
        rows = []
        for adapt, steps in [(adapt, steps) for adapt in args.adapt for steps in args.steps if steps or
                             adapt == args.adapt[0]]:
            began = time.monotonic()
            found = evaluate(checkpoint=args.checkpoint, solve=str(where), adapt_steps=steps, adapt=adapt,
                             adapt_augmentations=args.augmentations, global_batch_size=args.batch,
                             adapt_lr=args.rate, output_dir=str(Path(folder, "out")))
            rows.append(f"{adapt if steps else '-':>10} {steps:6d} {found['val/lm_loss']:10.4f} "
                        f"{found['val/accuracy']:10.4f} {found['eval/arc/pass@2']:8.3f} "
                        f"{time.monotonic() - began:8.0f}")
    print(f"{'adapt':>10} {'steps':>6} {'lm_loss':>10} {'cells':>10} {'pass@2':>8} {'seconds':>8}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
