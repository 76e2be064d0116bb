"""The order in which training sees the examples: an endless stream that depends on nothing but the data and the seed.

An epoch goes through all groups in random order, except those held out (dataset/held_out.py). It takes one random
puzzle of each group, with the examples of that puzzle in random order. For latent episodes, an epoch is all examples in
random order. To resume, it is enough to save the position (epoch, offset).

A stage of `rating_curriculum` takes only the groups with a rating of at least `min_rating`, over and over, each time in
another order. An epoch is as long as it is without, so that the number of steps stays; a stage may end within one.
"""
from collections.abc import Sequence
from math import inf

import numpy as np

from dataset.example_set import ExampleSet
from dataset.held_out import held_out_groups
from utils.curriculum import RatingStage


class TrainStream:
    """An endless stream of numbers of training examples, which are numbered through all sets."""

    def __init__(self, sets: Sequence[ExampleSet], seed: int, held_out: int = 0,
                 stages: Sequence[RatingStage] = (), epochs: int = 1):
        """`stages` end at fractions of `epochs`. Raises ValueError where the sets have no ratings for them."""
        self.seed, self.epoch, self.offset = seed, 0, 0
        self.held_out = held_out_groups(sets, held_out)
        self.examples_per_epoch = self._take_up(sets)
        # the epoch at which each stage ends, and the groups that it takes
        self.stages = [(stage.until * epochs, self._rated(sets, stage.min_rating)) for stage in stages]
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

    def _rated(self, sets: Sequence[ExampleSet], least: float) -> np.ndarray:
        """The groups with at least this rating, among those that are trained on."""
        for one in sets:
            if one.rating is None:
                raise ValueError(f"rating_curriculum needs ratings, and {one.split_dir} has none; build the data set "
                                 "again with --keep-ratings, or use rating_curriculum=[]")
        rating = np.delete(np.concatenate([one.rating for one in sets]), self.held_out)
        if not (rating >= least).any():
            raise ValueError(f"rating_curriculum: no training puzzle is rated {least:g} or higher, the highest "
                             f"{rating.max():g}; use a lower min_rating")
        return np.flatnonzero(rating >= least)

    def _groups(self, random: np.random.Generator) -> np.ndarray:
        """The groups of this epoch in order, as many as there are."""
        total, first, parts = len(self.group_starts), 0, []
        for last_epoch, groups in (*self.stages, (inf, np.arange(total))):
            end = round(total * min(max(last_epoch - self.epoch, 0), 1))
            rounds = -(-(end - first) // len(groups))
            orders = [groups[random.permutation(len(groups))] for _ in range(rounds)]
            parts.append(np.concatenate([groups[:0], *orders])[:end - first])
            first = end
        return np.concatenate(parts)

    def _epoch_order(self) -> np.ndarray:
        """The numbers of this epoch's examples in order. They depend on nothing but the seed, the epoch and the stages.
        """
        random = np.random.default_rng((self.seed, self.epoch))
        groups = self._groups(random)
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
            if self.offset >= len(self._order):  # beyond it where more epochs than before have moved the stages
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
