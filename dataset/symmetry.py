"""Symmetries of puzzles, applied to whole batches, each with its inverse.

Dihedral transforms of a grid are numbered as in the published code: 0 identity, 1-3 `np.rot90` that many times,
4 left-right flip, 5 up-down flip, 6 transposition, 7 anti-transposition. A Sudoku symmetry relabels the digits and
permutes bands, stacks, rows of a band and columns of a stack; it transposes too, where the boxes are square.

Every rearrangement of cells is an index permutation p over the flat grid, applied as x[p], so that inverting and
composing work alike for both kinds. Check: `pytest tests/test_symmetry.py`.
"""
from dataclasses import dataclass
from itertools import permutations

import numpy as np

DIHEDRAL_INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
ROUNDS = 4  # of colour refinement
BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # Sudoku size (digits n): rows and columns of a box


def dihedral(grids: np.ndarray, transform: int) -> np.ndarray:
    """(..., H, W) grids under one of the 8 transforms; H and W change places in 1, 3, 6 and 7."""
    if transform < 4:
        return np.rot90(grids, transform, axes=(-2, -1))
    if transform < 6:
        return np.flip(grids, axis=-1 if transform == 4 else -2)
    return np.swapaxes(grids if transform == 6 else np.flip(grids, axis=(-2, -1)), -2, -1)


def inverse_dihedral(grids: np.ndarray, transform: int) -> np.ndarray:
    return dihedral(grids, DIHEDRAL_INVERSE[transform])


def dihedral_indices(side: int) -> np.ndarray:
    """(8, side²) index permutations: flat square grids (..., side²) become grids[..., indices[transform]]."""
    cells = np.arange(side * side).reshape(side, side)
    return np.stack([dihedral(cells, transform).ravel() for transform in range(8)])


def invert(indices: np.ndarray) -> np.ndarray:
    """Inverses of (..., L) index permutations."""
    return np.argsort(indices, axis=-1)


def compose(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """(..., L) index permutations that do `first` and after it `then`."""
    return np.take_along_axis(first, then, axis=-1)


@dataclass(frozen=True)
class Symmetries:
    """B symmetries, one for each row that they are applied to: cells change places, and tokens are renamed."""

    # (B, L) index permutations of the cells
    positions: np.ndarray
    # (B, V) uint8, the token that takes the place of each token
    tokens: np.ndarray

    def apply(self, boards: np.ndarray) -> np.ndarray:
        """(B, L) tokens. Negative ones, which say that no answer is asked for, are moved and not renamed."""
        moved = np.take_along_axis(boards, self.positions, axis=1)
        if moved.dtype.kind == "u":
            return np.take_along_axis(self.tokens, moved, axis=1)
        renamed = np.take_along_axis(self.tokens, moved.clip(0), axis=1)
        return np.where(moved < 0, moved, renamed.astype(moved.dtype))

    def invert(self, boards: np.ndarray) -> np.ndarray:
        """The (B, L) tokens that `apply` made these from."""
        return self.inverse().apply(boards)

    def inverse(self) -> "Symmetries":
        return Symmetries(invert(self.positions), invert(self.tokens).astype(np.uint8))


def random_dihedral(count: int, side: int, vocab_size: int, rng: np.random.Generator) -> Symmetries:
    """`count` uniform draws of the 8 rotations and reflections of a square; each of the V tokens keeps its name."""
    names = np.tile(np.arange(vocab_size, dtype=np.uint8), (count, 1))
    return Symmetries(dihedral_indices(side)[rng.integers(8, size=count)], names)


def sudoku_keys(puzzles: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """(N,) uint64 of puzzles (N, n²), 0 for a blank: equal for those that become each other by a symmetry.

    Colour refinement: a cell is known by whether it holds a digit, then, ROUNDS times, by the cells in its row, column
    and box and those with its digit. What no symmetry changes tells nearly all puzzles apart, full grids excepted.
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
    """A bijection of uint64 numbers that is far from linear (the finaliser of SplitMix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def random_sudoku_symmetries(count: int, box: tuple[int, int], rng: np.random.Generator) -> Symmetries:
    """`count` uniform draws for boxes of (rows, columns); the tokens are the digits 0 to n, where 0 is a blank.

    Each takes the same amount of the random stream, so that drawing in chunks gives what one large draw would.
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
    """Line orders (B, n) that keep bands of `thickness` lines together, from keys (B, 1 + bands) in [0, 1)."""
    bands = _choose_permutations(keys[:, 0], keys.shape[1] - 1)
    within = _choose_permutations(keys[:, 1:], thickness)
    return (bands[:, :, None] * thickness + within).reshape(len(keys), -1)


def _choose_permutations(keys: np.ndarray, length: int) -> np.ndarray:
    table = np.array(list(permutations(range(length))))
    return table[(keys * len(table)).astype(np.intp)]
