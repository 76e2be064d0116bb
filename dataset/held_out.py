"""Puzzles held out of training, on which checkpoints, recipes and thresholds are chosen. Test sets then choose nothing.

Whole groups are held out, so no augmentation of a held-out puzzle is trained on. Which groups they are depends on the
data and on their number alone, not on the seed of a run: runs of several seeds are compared on the same puzzles.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataset.example_set import ExampleSet


def held_out_sets(sets: Mapping[str, ExampleSet], count: int) -> dict[str, ExampleSet]:
    """The held-out examples of each set that has any, under its name."""
    held_out, first = held_out_groups(list(sets.values()), count), 0
    found: dict[str, ExampleSet] = {}
    for name, one in sets.items():
        end = first + len(one.group_indices) - 1
        own = held_out[(held_out >= first) & (held_out < end)] - first
        found |= {name: HeldOutSet.chosen(one, own)} if len(own) else {}
        first = end
    return found


def held_out_groups(sets: Sequence[ExampleSet], count: int) -> np.ndarray:
    """The numbers (count,) of the groups that are held out, in order. Groups are numbered through all sets.

    Raises ValueError where no group would be left to train on.
    """
    groups = sum(len(one.group_indices) - 1 for one in sets)
    if count >= groups:
        raise ValueError(f"val_puzzles={count} leaves nothing to train on: the training data have {groups} groups, "
                         f"each a puzzle with its augmentations; use at most {groups - 1}")
    return np.sort(np.random.default_rng(0).choice(groups, count, replace=False))


@dataclass
class HeldOutSet(ExampleSet):
    """The held-out examples of one set: those of the first puzzle of each group, which builders write as it was given,
    before its augmentations. Where an epoch takes every example, those of all puzzles of the group."""

    of: ExampleSet
    numbers: np.ndarray  # (N,) their numbers in that set

    @classmethod
    def chosen(cls, of: ExampleSet, groups: np.ndarray) -> "HeldOutSet":
        """The examples of these groups, numbered within the set `of`."""
        first = of.group_indices[groups]
        last = first + 1 if of.ONE_PUZZLE_A_GROUP else of.group_indices[groups + 1]
        puzzles = np.concatenate([np.arange(a, b) for a, b in zip(first, last)])
        numbers = np.concatenate([np.arange(of.puzzle_indices[p], of.puzzle_indices[p + 1]) for p in puzzles])
        sizes = np.diff(of.puzzle_indices)[puzzles]
        return cls(of.path, of.split_dir, of.name, of.metadata, of.puzzle_identifiers[puzzles],
                   np.append(0, sizes.cumsum()), np.arange(len(puzzles) + 1), of, numbers,
                   numbering=of.numbering)

    def fields(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return self.of.fields(self.numbers[rows])

    def padding(self) -> dict[str, float]:
        return self.of.padding()
