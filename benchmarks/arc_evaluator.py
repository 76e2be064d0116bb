"""Predictions a second of the ARC evaluator, their ratio to a plain loop over predictions, and its memory.

    python benchmarks/arc_evaluator.py               # 400 tasks × 1,000 augmentations
    python benchmarks/arc_evaluator.py --right 0     # every prediction another grid: the most memory there can be

Tasks are random grids of 5×5 to 30×30. A third of the predictions is right; the others have random cells and thus are
candidates of their own. Generating the batches is not timed.
"""
import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from dataset.arc import (
    COLOURS,
    FIRST_COLOUR,
    SIDE,
    VOCAB_SIZE,
    augmentation_name,
    decode_grid,
    encode_recoloured,
    invert_augmentation,
    parse_augmentation,
)
from dataset.common import PuzzleDatasetMetadata
from dataset.symmetry import dihedral
from evaluators.arc import ARC

BATCH, TIMED = 768, 24  # rows of a batch, and batches in which both sides are timed
Pairs = list[tuple[np.ndarray, np.ndarray]]


def random_tasks(count: int) -> Pairs:
    random = np.random.default_rng(0)
    return [tuple(random.integers(0, COLOURS, random.integers(5, SIDE + 1, 2)) for _ in range(2)) for _ in range(count)]


def draw_augmentations(task: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Transforms (count,), in order, and permutations (count, 10)."""
    random = np.random.default_rng(task)
    return np.sort(random.integers(0, 8, count)), random.permuted(np.tile(np.arange(COLOURS), (count, 1)), axis=1)


def write_dataset(folder: Path, pairs: Pairs, augmentations: int) -> PuzzleDatasetMetadata:
    """What the evaluator reads of a data set."""
    puzzles = {f"task{i}": {"train": [], "test": [{"input": a.tolist(), "output": b.tolist()}]}
               for i, (a, b) in enumerate(pairs)}
    names = ["<blank>"] + [augmentation_name(task, *augmentation) for i, task in enumerate(puzzles)
                           for augmentation in zip(*draw_augmentations(i, augmentations))]
    (folder / "test_puzzles.json").write_text(json.dumps(puzzles))
    (folder / "identifiers.json").write_text(json.dumps(names))
    return PuzzleDatasetMetadata(
        pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=VOCAB_SIZE, seq_len=SIDE * SIDE,
        num_puzzle_identifiers=len(names), total_groups=len(pairs), mean_puzzle_examples=1,
        total_puzzles=len(names) - 1, sets=["all"])


def augmented(grid: np.ndarray, transforms: np.ndarray, permutations: np.ndarray) -> np.ndarray:
    """(count, 900) tokens."""
    groups = [(dihedral(grid, t), permutations[transforms == t]) for t in range(8)]
    tokens = [encode_recoloured(moved, p, *np.zeros((2, len(p)), int)) for moved, p in groups]
    return np.concatenate(tokens).reshape(-1, SIDE * SIDE)


def batches(pairs: Pairs, augmentations: int, right: float) -> Iterator[dict[str, torch.Tensor]]:
    """Batches as the evaluation loop hands them over, task by task."""
    for i, pair in enumerate(pairs):
        random = np.random.default_rng((1, i))
        inputs, preds = (augmented(grid, *draw_augmentations(i, augmentations)) for grid in pair)
        wrong = (random.random(preds.shape) < 0.02) & (random.random((len(preds), 1)) >= right)
        wrong &= preds >= FIRST_COLOUR
        preds[wrong] = random.integers(FIRST_COLOUR, VOCAB_SIZE, wrong.sum())
        for rows in np.array_split(np.arange(len(preds)), -(-len(preds) // BATCH)):
            yield {"inputs": torch.from_numpy(inputs[rows].astype(np.int32)),
                   "preds": torch.from_numpy(preds[rows].astype(np.int32)),
                   "puzzle_identifiers": torch.from_numpy((1 + i * augmentations + rows).astype(np.int32)),
                   "q_halt_logits": torch.from_numpy(random.normal(size=len(rows)).astype(np.float32))}


def plain_loop(names: list[str], batch: dict[str, torch.Tensor], votes: dict) -> None:
    """The same votes, one prediction after the other."""
    q = batch["q_halt_logits"].double().sigmoid().tolist()
    fields = (batch[name].numpy() for name in ("inputs", "preds", "puzzle_identifiers"))
    for tokens, pred, identifier, confidence in zip(*fields, q):
        task, *augmentation = parse_augmentation(names[identifier])
        question, answer = ((grid.shape, grid.tobytes()) for grid in (
            invert_augmentation(decode_grid(x), *augmentation) for x in (tokens, pred)))
        votes.setdefault((task, question), {}).setdefault(answer, []).append(confidence)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--augmentations", type=int, default=1000)
    parser.add_argument("--right", type=float, default=1 / 3, help="fraction of predictions that are (default: 1/3)")
    args = parser.parse_args()
    pairs = random_tasks(args.tasks)
    with tempfile.TemporaryDirectory() as folder:
        metadata = write_dataset(Path(folder), pairs, args.augmentations)
        before, started = peak_mb(), time.perf_counter()
        evaluator = ARC(folder, metadata)
        print(f"start: {time.perf_counter() - started:.1f} s")
        names, votes = json.loads((Path(folder) / "identifiers.json").read_text()), {}

        seconds, predictions, loop_seconds, loop_predictions = 0.0, 0, 0.0, 0
        for number, batch in enumerate(batches(pairs, args.augmentations, args.right)):
            started = time.perf_counter()
            evaluator.update_batch(batch, batch)
            seconds, predictions = seconds + time.perf_counter() - started, predictions + len(batch["preds"])
            if number < TIMED:
                started = time.perf_counter()
                plain_loop(names, batch, votes)
                loop_seconds += time.perf_counter() - started
                loop_predictions += len(batch["preds"])
        started = time.perf_counter()
        metrics = evaluator.result(Path(folder), 0, 1, None)
        found = time.perf_counter() - started
    rate, loop_rate = predictions / seconds, loop_predictions / loop_seconds
    print(f"votes: {predictions:,} predictions at {rate:,.0f}/s; plain loop: {loop_rate:,.0f}/s over "
          f"{loop_predictions:,}; ratio {rate / loop_rate:.1f}")
    print(f"result: {found:.1f} s, pass@1 {metrics['pass@1']:.3f}; {len(evaluator.votes.numbers):,} candidates")
    print(f"peak memory: {peak_mb():,.0f} MB, of which {peak_mb() - before:,.0f} MB since the evaluator was made")


if __name__ == "__main__":
    main()
