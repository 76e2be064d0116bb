"""The order in which training sees the examples: an endless stream that depends on nothing but the data and the seed.

An epoch goes through all groups in random order, except those held out (dataset/held_out.py). It takes one random
puzzle of each group, with the examples of that puzzle in random order. For latent episodes, an epoch is all examples in
random order. To resume, it is enough to save the position (epoch, offset).
"""
from collections.abc import Sequence

import numpy as np

from dataset.example_set import ExampleSet
from dataset.held_out import held_out_groups


class TrainStream:
    """An endless stream of numbers of training examples, which are numbered through all sets."""

    def __init__(self, sets: Sequence[ExampleSet], seed: int, held_out: int = 0):
        self.seed, self.epoch, self.offset = seed, 0, 0
        self.held_out = held_out_groups(sets, held_out)
        self.examples_per_epoch = self._take_up(sets)
        self._order = self._epoch_order()

    def _take_up(self, sets: Sequence[ExampleSet]) -> float:
        """Store where puzzles and groups start. Returns the expected number of examples in an epoch.

        It is a mean, since an epoch takes one puzzle of each group, and puzzles may differ in size.
        """
        self.starts, self.sizes, *groups = self._concatenated(sets)
        self.group_starts, self.group_sizes = (np.delete(of_all, self.held_out) for of_all in groups)
        examples_before = np.append(0, self.sizes.cumsum())
        examples = examples_before[self.group_starts + self.group_sizes] - examples_before[self.group_starts]
        return float((examples / self.group_sizes).sum())

    @staticmethod
    def _concatenated(sets: Sequence[ExampleSet]):
        """The first example and the size of each puzzle, then the first puzzle and the size of each group.

        Examples and puzzles are numbered through all sets.
        """
        rows = np.cumsum([0] + [len(s) for s in sets])
        puzzles = np.cumsum([0] + [len(s.puzzle_identifiers) for s in sets])
        return (np.concatenate([s.puzzle_indices[:-1] + r for s, r in zip(sets, rows)]),
                np.concatenate([np.diff(s.puzzle_indices) for s in sets]),
                np.concatenate([s.group_indices[:-1] + p for s, p in zip(sets, puzzles)]),
                np.concatenate([np.diff(s.group_indices) for s in sets]))

    def _epoch_order(self) -> np.ndarray:
        """The numbers of this epoch's examples in order. They depend on nothing but the seed and the epoch."""
        random = np.random.default_rng((self.seed, self.epoch))
        groups = random.permutation(len(self.group_starts))
        puzzles = self.group_starts[groups] + random.integers(self.group_sizes[groups])
        sizes = self.sizes[puzzles]
        place = np.repeat(np.arange(len(puzzles)), sizes)  # for each example, the place of its puzzle in this epoch
        within = np.arange(len(place)) - (np.cumsum(sizes) - sizes)[place]
        rows = self.starts[puzzles][place] + within
        return rows[np.lexsort((random.random(len(rows)), place))]

    def take(self, count: int) -> np.ndarray:
        """The next `count` numbers of the stream."""
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
    """A stream whose epochs take every example once. The order of 10 million examples takes 80 MB of memory."""

    def _take_up(self, sets: Sequence[ExampleSet]) -> float:
        starts, sizes, group_starts, group_sizes = self._concatenated(sets)
        trained = np.ones(sum(map(len, sets)), bool)
        for group in self.held_out:
            puzzles = slice(group_starts[group], group_starts[group] + group_sizes[group])
            for start, size in zip(starts[puzzles], sizes[puzzles]):
                trained[start:start + size] = False
        self.examples = np.flatnonzero(trained) if len(self.held_out) else len(trained)
        return float(trained.sum())

    def _epoch_order(self) -> np.ndarray:
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.examples)
