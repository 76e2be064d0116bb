"""Strategies decide how test puzzles are attempted: `strategy="{name: module@Class, option: value}"`.

A strategy chooses the puzzles that the rows of the batch work on, sees every supervision step, may end rows, and
returns final answers. So several seeds, symmetric views, stopping rules and searches can be written as strategies,
without a change to the evaluation loop.
"""
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dataset.example_set import ExampleSet

NOBODY = -1  # in place of the number of an example
STRATEGY_PARTS = ("begin", "draw", "present", "take")  # the methods that a class must have to be a strategy


@dataclass
class Attempts:
    """The N attempts that free rows begin next."""

    # (N,) number of the example in its set
    numbers: np.ndarray
    # (N,) number of the attempt at this example, as the strategy counts attempts
    attempts: np.ndarray
    # (N,) integers that decide the random numbers of the row
    seeds: np.ndarray


class Strategy(Protocol):
    """Built as `Class(**options)`.

    A strategy may also have, as `Single` does: `noise`, an `evaluators.latent_noise.LatentNoise` that is added to the
    latents before every supervision step; `rows`, the rows of a batch on one rank, in place of those of the data set;
    `upper_bound`, whether it looks at labels, so that metrics are named as upper bounds; `prepare(head, data)`, called
    before anything is scored; `metrics()`, more metrics by name, called on every rank at the end; `write(folder)`,
    after that and on rank 0, to write files; `told`, lines that `evaluate.py` prints then; and `keep_rows(rows)`, told
    that from now on there are only these rows of the batch, by number: without it, rows keep their places.
    """

    def begin(self, example_set: ExampleSet, numbers: np.ndarray, batch: int) -> None:
        """Begin a set. `numbers` (N,): this rank's examples of it; `batch`: size of a global batch."""

    def draw(self, most: int) -> Attempts:
        """Up to `most` attempts for the rows that are free. The set is done when there are none and no row is busy."""

    def present(self, fields: dict[str, np.ndarray], attempts: Attempts) -> dict[str, np.ndarray]:
        """What the model is shown of these attempts: the fields (N, …) of the examples, or another view of them."""

    def take(self, step) -> list:
        """Look at the rows after a supervision step (`evaluators.rows.RowStep`) and return the answers that are final,
        a list of `evaluators.rows.Answers`. `step.ended[row] = True` ends a row."""


class Single:
    """One attempt at each puzzle. Its answer is the one after the last supervision step."""

    noise: Any = None
    rows: int | None = None
    upper_bound = False

    def prepare(self, head, data) -> None:
        """Any model and data will do."""

    def metrics(self) -> dict[str, float]:
        return {}

    def begin(self, example_set: ExampleSet, numbers: np.ndarray, batch: int) -> None:
        self.waiting, self.batch = numbers, batch

    def draw(self, most: int) -> Attempts:
        numbers, self.waiting = self.waiting[:most], self.waiting[most:]
        return Attempts(numbers, np.zeros_like(numbers), numbers % self.batch)

    def present(self, fields: dict[str, np.ndarray], attempts: Attempts) -> dict[str, np.ndarray]:
        return fields

    def take(self, step) -> list:
        return [step.answers(step.ended)] if step.ended.any() else []
