"""In which order training sees the examples: an endless seeded stream with a cursor.

Each epoch is a permutation of the groups. From each group comes one puzzle, drawn at random, with its examples in
random order. Of latent episodes an epoch is a permutation of all examples. The stream is a function of the seed alone,
so its cursor (epoch, offset) is all there is to save.
"""
from collections.abc import Sequence

import numpy as np

from dataset.example_set import ExampleSet


class TrainStream:
    """Numbers of the training examples, counted through all sets, as one endless seeded stream with a cursor."""

    def __init__(self, sets: Sequence[ExampleSet], seed: int):
        self.seed, self.epoch, self.offset = seed, 0, 0
        self.examples_per_epoch = self._take_up(sets)
        self._order = self._epoch_order()

    def _take_up(self, sets: Sequence[ExampleSet]) -> float:
        """Note where puzzles and groups start. Returns the expected number of examples in an epoch: an epoch takes one
        puzzle of each group, and they may differ in size."""
        self.starts, self.sizes, self.group_starts, self.group_sizes = self._concatenated(sets)
        mean_sizes = np.add.reduceat(self.sizes, self.group_starts) / self.group_sizes
        return float(mean_sizes.sum())

    @staticmethod
    def _concatenated(sets: Sequence[ExampleSet]):
        """First row and size of each puzzle, first puzzle and size of each group. Rows and puzzles are numbered through
        all sets."""
        rows = np.cumsum([0] + [len(s) for s in sets])
        puzzles = np.cumsum([0] + [len(s.puzzle_identifiers) for s in sets])
        return (np.concatenate([s.puzzle_indices[:-1] + r for s, r in zip(sets, rows)]),
                np.concatenate([np.diff(s.puzzle_indices) for s in sets]),
                np.concatenate([s.group_indices[:-1] + p for s, p in zip(sets, puzzles)]),
                np.concatenate([np.diff(s.group_indices) for s in sets]))

    def _epoch_order(self) -> np.ndarray:
        """The rows of this epoch in order, a function of (seed, epoch)."""
        random = np.random.default_rng((self.seed, self.epoch))
        groups = random.permutation(len(self.group_starts))
        puzzles = self.group_starts[groups] + random.integers(self.group_sizes[groups])
        sizes = self.sizes[puzzles]
        place = np.repeat(np.arange(len(puzzles)), sizes)  # of the puzzle of each example in this epoch
        within = np.arange(len(place)) - (np.cumsum(sizes) - sizes)[place]
        rows = self.starts[puzzles][place] + within
        return rows[np.lexsort((random.random(len(rows)), place))]

    def take(self, count: int) -> np.ndarray:
        """The next `count` row numbers; moves the cursor."""
        parts = []
        while count:
            part = self._order[self.offset:self.offset + count]
            parts.append(part)
            self.offset += len(part)
            count -= len(part)
            if self.offset == len(self._order):
                self.epoch, self.offset = self.epoch + 1, 0
                self._order = self._epoch_order()
        return np.concatenate(parts)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "offset": self.offset}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.offset = state["epoch"], state["offset"]
        self._order = self._epoch_order()


class WindowStream(TrainStream):
    """A stream in which an epoch takes every example once. The order of 10 million examples takes 80 MB."""

    def _take_up(self, sets: Sequence[ExampleSet]) -> float:
        self.examples = sum(map(len, sets))
        return float(self.examples)

    def _epoch_order(self) -> np.ndarray:
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.examples)
