"""Symmetries of puzzles and their inverses, applied to whole batches.

Dihedral transforms of a grid have the numbers of the published code: 0 identity, 1-3 `np.rot90` that many times,
4 left-right flip, 5 up-down flip, 6 transposition, 7 anti-transposition.

A Sudoku symmetry renames the digits. It permutes the bands (rows of boxes), the stacks (columns of boxes), the rows in
each band and the columns in each stack. If boxes are square, it may also transpose.

Every rearrangement of cells is an index permutation p over the flat grid, applied as x[p]. So both kinds of symmetry
are inverted and composed in the same way.
"""
from dataclasses import dataclass
from itertools import permutations

import numpy as np

DIHEDRAL_INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
ROUNDS = 4  # rounds of colour refinement in `sudoku_keys`
# number of digits n of a Sudoku: rows and columns of a box
BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3), 16: (4, 4), 25: (5, 5)}


def dihedral(grids: np.ndarray, transform: int) -> np.ndarray:
    """Apply one of the 8 transforms to grids (..., H, W). Transforms 1, 3, 6 and 7 swap H and W."""
    if transform < 4:
        return np.rot90(grids, transform, axes=(-2, -1))
    if transform < 6:
        return np.flip(grids, axis=-1 if transform == 4 else -2)
    return np.swapaxes(grids if transform == 6 else np.flip(grids, axis=(-2, -1)), -2, -1)


def inverse_dihedral(grids: np.ndarray, transform: int) -> np.ndarray:
    return dihedral(grids, DIHEDRAL_INVERSE[transform])


def dihedral_indices(side: int) -> np.ndarray:
    """Index permutations (8, side²) of flat square grids (..., side²), to apply as grids[..., indices[transform]]."""
    cells = np.arange(side * side).reshape(side, side)
    return np.stack([dihedral(cells, transform).ravel() for transform in range(8)])


def invert(indices: np.ndarray) -> np.ndarray:
    """The inverses of index permutations (..., L)."""
    return np.argsort(indices, axis=-1)


def compose(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Index permutations (..., L) that apply `first` and then `then`."""
    return np.take_along_axis(first, then, axis=-1)


@dataclass(frozen=True)
class Symmetries:
    """B symmetries, one for each board of a batch. A symmetry moves cells and renames tokens."""

    # (B, L) index permutations of the cells
    positions: np.ndarray
    # (B, V) uint8, the new name of each token
    tokens: np.ndarray

    def apply(self, boards: np.ndarray) -> np.ndarray:
        """Apply each symmetry to its board of tokens (B, L). Negative values (ignored labels) move unchanged."""
        moved = np.take_along_axis(boards, self.positions, axis=1)
        if moved.dtype.kind == "u":
            return np.take_along_axis(self.tokens, moved, axis=1)
        renamed = np.take_along_axis(self.tokens, moved.clip(0), axis=1)
        return np.where(moved < 0, moved, renamed.astype(moved.dtype))

    def invert(self, boards: np.ndarray) -> np.ndarray:
        """The boards (B, L) from which `apply` made these."""
        return self.inverse().apply(boards)

    def inverse(self) -> "Symmetries":
        return Symmetries(invert(self.positions), invert(self.tokens).astype(np.uint8))


def random_dihedral(count: int, side: int, vocab_size: int, rng: np.random.Generator) -> Symmetries:
    """`count` random rotations and reflections of a square, drawn uniformly. Tokens keep their names."""
    names = np.tile(np.arange(vocab_size, dtype=np.uint8), (count, 1))
    return Symmetries(dihedral_indices(side)[rng.integers(8, size=count)], names)


def sudoku_keys(puzzles: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """Keys (N,) uint64 of Sudoku puzzles (N, n²) of digits, 0 for a blank. Symmetric puzzles have equal keys.

    The method is colour refinement. At first, the colour of a cell tells whether it holds a digit. Then, ROUNDS times,
    a cell gets a new colour from the colours of the cells in its row, in its column, in its box and with its digit. No
    symmetry changes the collection of colours. It differs between nearly all puzzles, but not between full grids.
    """
    height, width = box
    size = height * width
    digits = puzzles.reshape(-1, size, size)
    colours = mix_bits((digits > 0) + np.uint64(1))
    same = [digits == digit for digit in range(1, size + 1)]
    for _ in range(ROUNDS):
        boxes = colours.reshape(-1, size // height, height, size // width, width).sum(axis=(2, 4))
        of_digit = sum(mask * (colours * mask).sum(axis=(1, 2), keepdims=True) for mask in same)
        lines = mix_bits(colours.sum(axis=2, keepdims=True)) + mix_bits(colours.sum(axis=1, keepdims=True))
        seen = mix_bits(boxes).repeat(height, axis=1).repeat(width, axis=2)
        colours = mix_bits(colours + mix_bits(lines + np.uint64(1)) + mix_bits(seen + np.uint64(2))
                           + mix_bits(of_digit + np.uint64(3)))
    return mix_bits(colours.sum(axis=(1, 2)))


def mix_bits(numbers: np.ndarray) -> np.ndarray:
    """Hash uint64 numbers so that no two collide (the finaliser of SplitMix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def random_sudoku_symmetries(count: int, box: tuple[int, int],
                             rng: np.random.Generator) -> Symmetries:
    """`count` random Sudoku symmetries, drawn uniformly. `box`: rows and columns of a box. Tokens are the digits 0 to
    n, where 0 is a blank.

    Each symmetry takes the same amount of random numbers, so that drawing in chunks gives the same as one large draw.
    """
    height, width = box
    size = height * width
    keys = rng.random((count, size + (1 + width) + (1 + height) + 1))
    digit_keys, row_keys, column_keys, transpose_keys = np.split(keys, [size, size + 1 + width, -1], axis=1)
    rows = _permuted_lines(row_keys, height)
    columns = _permuted_lines(column_keys, width)
    transposed = (transpose_keys < 0.5) & (height == width)
    row_stride, column_stride = np.where(transposed, 1, size), np.where(transposed, size, 1)
    positions = (rows * row_stride)[:, :, None] + (columns * column_stride)[:, None, :]
    digits = np.zeros((count, size + 1), np.uint8)
    digits[:, 1:] = np.argsort(digit_keys, axis=1) + 1
    return Symmetries(positions.reshape(count, size * size), digits)


def _permuted_lines(keys: np.ndarray, thickness: int) -> np.ndarray:
    """Permutations (B, n) of rows that keep bands of `thickness` rows together, from random `keys` (B, 1 + bands).

    The first key, in [0, 1), chooses the order of the bands, and each other key the order in one band.
    """
    bands = _choose_permutations(keys[:, 0], keys.shape[1] - 1)
    within = _choose_permutations(keys[:, 1:], thickness)
    return (bands[:, :, None] * thickness + within).reshape(len(keys), -1)


def _choose_permutations(keys: np.ndarray, length: int) -> np.ndarray:
    table = np.array(list(permutations(range(length))))
    return table[(keys * len(table)).astype(np.intp)]
