"""Training examples a second at 900 tokens, and their ratio to a bare NumPy gather of the same rows.

    python benchmarks/loader.py                      # on generated arrays of ARC's shape
    python benchmarks/loader.py --data data/…        # on a data set
"""
import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from dataset.common import write_split
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig

BATCH, ROUNDS, BATCHES = 768, 5, 40


def write_arrays(path: Path, groups: int = 400, puzzles: int = 50, examples: int = 3, tokens: int = 900) -> None:
    """A data set of ARC's shape: groups of augmented puzzles with a few examples each."""
    random = np.random.default_rng(0)
    total = groups * puzzles
    rows = random.integers(0, 12, (2, total * examples, tokens), dtype=np.uint8)
    write_split(path / "train", {
        "inputs": rows[0], "labels": rows[1], "puzzle_identifiers": np.arange(1, total + 1, dtype=np.int32),
        "puzzle_indices": np.arange(0, total * examples + 1, examples, dtype=np.int32),
        "group_indices": np.arange(0, total + 1, puzzles, dtype=np.int32)},
        vocab_size=12, num_puzzle_identifiers=total + 1)


def examples_per_second(step) -> float:
    started = time.perf_counter()
    for _ in range(BATCHES):
        step()
    return BATCHES * BATCH / (time.perf_counter() - started)


def measure(path: str) -> None:
    data = PuzzleDataset(PuzzleDatasetConfig(
        seed=0, dataset_paths=[path], global_batch_size=BATCH, test_set_mode=False))
    puzzle_set = next(iter(data.sets.values()))
    random = np.random.default_rng(0)

    def bare_gather():
        rows = random.integers(len(puzzle_set.inputs), size=BATCH)
        return puzzle_set.inputs[rows].astype(np.int32), puzzle_set.labels[rows].astype(np.int32)

    data.next_batch(), bare_gather()
    pairs = [(examples_per_second(data.next_batch), examples_per_second(bare_gather)) for _ in range(ROUNDS)]
    loader, bare = (statistics.median(column) for column in zip(*pairs))
    print(f"loader: {loader:,.0f} examples/s of {puzzle_set.inputs.shape[1]} tokens (median of {ROUNDS} rounds); "
          f"bare gather: {bare:,.0f}; ratio {loader / bare:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="data set folder (default: generated arrays)")
    path = parser.parse_args().data
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = folder
            write_arrays(Path(folder))
        measure(path)


if __name__ == "__main__":
    main()
