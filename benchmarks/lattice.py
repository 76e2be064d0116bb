"""How far an LDT deduces: it goes along the true path of puzzles, where every guess is the true digit.

    python benchmarks/lattice.py checkpoints/RUN --puzzles 64 --drop-below 0.1 0.03

`solved` boards were completed, `lost` ones lost a true digit by a deduction. `guesses` is how often deduction was stuck
before a board was solved, `steps` how many supervision steps that took: the fewer guesses, the more is deduced, and the
shorter a search is. Beside it stand the same figures of a program that only knows naked singles (a digit is dropped
wherever a row, column or box holds it), or hidden ones, too (a digit is placed where it has one place left).

The puzzles are those that the run held out of training (`val_puzzles`), or with `--data` test puzzles of a data set.
"""
import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from config.restored import Restored
from dataset.kinds.kind import kind_of
from dataset.kinds.sudoku import BLANK, Sudoku
from dataset.puzzle_dataset import Batch
from dataset.sudoku_search import peers_and_units
from losses.head import LossHead
from utils.distributed import World

MOST_STEPS = 200


@torch.no_grad()
def along_the_true_path(head: LossHead, batch: Batch) -> dict[str, float]:
    """What becomes of puzzles (B, L) whose guesses are all true: shares of `solved` and `lost`, and of those that are
    solved the mean `guesses` and `steps`. `head`: of an LDT with true_decisions=1 and lost_ends=1."""
    head.train()  # which tells it the answers
    carry = head.initial_carry(batch)
    rows = len(batch["inputs"])
    running, solved = torch.ones(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
    lost, steps, guesses, before = solved.clone(), torch.zeros(rows), torch.zeros(rows), torch.zeros(rows)
    for _ in range(MOST_STEPS):
        carry, outputs = head.step(carry, batch)
        steps += running
        ends = carry.halted & running
        guesses += running & ~ends & (outputs["deductions"] == before)
        solved |= ends & outputs["solved"]
        lost |= ends & ~outputs["solved"] & (carry.steps < MOST_STEPS)
        running, before = running & ~ends, outputs["deductions"]
        if not running.any():
            break
    return {"solved": solved.float().mean().item(), "lost": lost.float().mean().item(),
            "guesses": guesses[solved].mean().item(), "steps": steps[solved].mean().item()}


def guesses_of_singles(kind: Sudoku, inputs: np.ndarray, labels: np.ndarray, hidden: bool) -> float:
    """Mean guesses along the true path of puzzles (N, L) by naked and, if wanted, `hidden` singles. A guess is at the
    first cell with the fewest candidates."""
    return float(np.mean([_guesses(kind.size, *puzzle, hidden) for puzzle in zip(inputs, labels)]))


def _guesses(size: int, puzzle: np.ndarray, answer: np.ndarray, hidden: bool) -> int:
    _, units = peers_and_units(size)
    possible = np.ones((size * size, size), bool)
    given = np.flatnonzero(puzzle != BLANK)
    possible[given] = np.eye(size, dtype=bool)[puzzle[given] - BLANK - 1]
    guesses = 0
    while True:
        deduce(possible, units, hidden)
        left = possible.sum(1)
        if (left == 1).all():
            return guesses
        cell = np.where(left > 1, left, size + 1).argmin()
        possible[cell] = np.eye(size, dtype=bool)[answer[cell] - BLANK - 1]
        guesses += 1


def deduce(possible: np.ndarray, units: list[list[int]], hidden: bool) -> None:
    """Drop candidates (L, size) by singles until nothing changes. `units`: the cells of each row, column and box."""
    before = -1
    while before != (before := possible.sum()):
        for cells in units:
            own = possible[cells]  # (size, digits)
            single = own.sum(1) == 1
            own[~single] &= ~own[single].any(0)
            if hidden:
                placed = own & (own.sum(0) == 1)
                own[placed.any(1)] = placed[placed.any(1)]
            possible[cells] = own


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", help="a data set; its test puzzles in place of those held out")
    parser.add_argument("--puzzles", type=int, default=64)
    parser.add_argument("--drop-below", type=float, nargs="+", default=[0.1])
    args = parser.parse_args(arguments)
    for limit in args.drop_below:
        restored = Restored.read(args.checkpoint, arch={
            "drop_below": limit, "true_decisions": 1.0, "lost_ends": 1.0, "halt_max_steps": MOST_STEPS, "dropout": 0,
            "second_pass": False, "conflict_above": 1.0, "doubt_below": 0})
        data = restored.open_data([args.data], "test", World(), args.puzzles) if args.data else \
            restored.open_held_out(World(), args.puzzles)
        batch = data.first_batch()
        found = along_the_true_path(restored.head(data, World()), batch)
        print(f"drop_below={limit}: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    kind = kind_of(next(iter(data.sets.values())))
    if isinstance(kind, Sudoku):
        inputs, labels = batch["inputs"].numpy(), batch["labels"].numpy()
        naked, both = (guesses_of_singles(kind, inputs, labels, hidden) for hidden in (False, True))
        print(f"by naked singles {naked:.3g} guesses, by hidden ones, too, {both:.3g}")


if __name__ == "__main__":
    main()
