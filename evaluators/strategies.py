"""What is made of the supervision steps of each puzzle: `strategy="{name: module@Class, option: value}"`.

A strategy draws what the rows work on, sees every supervision step, may end rows, and gives final answers. So seeds,
symmetric views, stopping rules and searches are classes of their own, which the evaluation loop need not know.
"""
from dataclasses import dataclass
from typing import Protocol

import numpy as np

NOBODY = -1  # in place of the number of an example
STRATEGY_PARTS = ("begin", "draw", "take")  # by which a class is known as one


@dataclass
class Attempts:
    """What N rows work on next."""

    # which examples of the set (N,)
    numbers: np.ndarray
    # which attempt at each (N,), as the strategy counts them
    attempts: np.ndarray
    # (N,) integers, of which the rows' random numbers are functions
    seeds: np.ndarray


class Strategy(Protocol):
    """`Class(**options)`."""

    def begin(self, numbers: np.ndarray, batch: int) -> None:
        """Take up this rank's examples of a set (N,), of which a global batch holds `batch`."""

    def draw(self, most: int) -> Attempts:
        """What rows that are free work on, `most` of them at most. None, where no row is busy either: it is done."""

    def take(self, step) -> list:
        """Look at the rows after a supervision step (`evaluators.rows.RowStep`). Returns the answers that are final by
        now, a list of `evaluators.rows.Answers`. May end rows: `step.ended[row] = True`."""


class Single:
    """One attempt at each puzzle, whose answer is that after its last supervision step."""

    def begin(self, numbers: np.ndarray, batch: int) -> None:
        self.waiting, self.batch = numbers, batch

    def draw(self, most: int) -> Attempts:
        numbers, self.waiting = self.waiting[:most], self.waiting[most:]
        return Attempts(numbers, np.zeros_like(numbers), numbers % self.batch)

    def take(self, step) -> list:
        return [step.answers(step.ended)] if step.ended.any() else []
