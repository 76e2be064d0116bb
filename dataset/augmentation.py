"""A fresh symmetry for every example that enters a row in training (`augment=fresh`), in place of copies on disk.

The symmetries of a global batch depend on nothing but the seed and the place of the batch in the training stream. So a
resumed run draws the same, and each rank the part of its rows, with no state to save.
"""
from collections.abc import Sequence

import numpy as np

from dataset.common import BOARDS
from dataset.example_set import ExampleSet, say_once
from dataset.kinds.kind import Kind, Symmetry, kind_of, on_boards
from dataset.kinds.sudoku import Sudoku
from dataset.puzzle_set import PuzzleSet

SALT = 0xA06  # so that these random numbers differ from those of the order of the examples


def part_of(symmetry: Symmetry, rows: slice) -> Symmetry:
    """The symmetries of some rows, where `symmetry` is a dataclass of arrays with one entry a row each."""
    return type(symmetry)(**{name: array[rows] for name, array in vars(symmetry).items()})


class FreshSymmetries:
    """Draws symmetries of the kind of puzzle that the sets hold.

    Raises ValueError where the kind has no symmetries, or where the sets are of several kinds or no puzzles.
    """

    def __init__(self, sets: Sequence[ExampleSet], seed: int, trust_code: bool = False):
        self.seed, self.kind = seed, self._kind_of(sets, trust_code)
        try:
            self.kind.symmetries(1, np.random.default_rng(seed))
        except ValueError as error:
            raise ValueError(f"augment=fresh: {error}; use augment=null") from error
        if isinstance(self.kind, Sudoku) and self.kind.size == 4:
            say_once("notice: augment=fresh on 4×4 Sudokus shows the test's solution grids in training, since all 288 "
                     "form two orbits; use augment=null for a fair score")

    @staticmethod
    def _kind_of(sets: Sequence[ExampleSet], trust_code: bool) -> Kind:
        if not all(isinstance(each, PuzzleSet) for each in sets):
            raise ValueError("augment=fresh draws symmetries of puzzles, and the data hold none; use augment=null")
        first, *others = (kind_of(each, trust_code) for each in sets)
        for other, each in zip(others, sets[1:]):
            if type(other) is not type(first):
                raise ValueError(f"augment=fresh draws symmetries of one kind of puzzle, and {sets[0].path} holds "
                                 f"{first}, {each.path} {other}; use augment=null, or data of one kind")
        return first

    def change(self, fields: dict[str, np.ndarray], place: tuple[int, int], batch: int, rows: slice
               ) -> dict[str, np.ndarray]:
        """The fields of the `rows` of a global batch of `batch` examples, each puzzle changed with its answer.

        `place`: epoch and offset of the batch in the training stream.
        """
        drawn = part_of(self.kind.symmetries(batch, np.random.default_rng((self.seed, SALT, *place))), rows)
        return fields | {name: on_boards(drawn.apply, fields[name]) for name in BOARDS if name in fields}
