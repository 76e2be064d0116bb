"""Symmetries against explicit formulas and brute force."""
from itertools import product
from random import Random

import numpy as np
import pytest

from dataset.generate_sudoku import solutions
from dataset.kinds.sudoku import valid_grids
from dataset.sudoku_search import random_grid
from dataset.symmetry import (
    BOXES,
    DIHEDRAL_INVERSE,
    Symmetries,
    compose,
    dihedral,
    dihedral_indices,
    inverse_dihedral,
    invert,
    random_sudoku_symmetries,
    sudoku_keys,
)

# where cell (row, column) of the result comes from in a grid of `height` rows and `width` columns
ORIGIN = [
    lambda r, c, height, width: (r, c),
    lambda r, c, height, width: (c, width - 1 - r),
    lambda r, c, height, width: (height - 1 - r, width - 1 - c),
    lambda r, c, height, width: (height - 1 - c, r),
    lambda r, c, height, width: (r, width - 1 - c),
    lambda r, c, height, width: (height - 1 - r, c),
    lambda r, c, height, width: (c, r),
    lambda r, c, height, width: (height - 1 - c, width - 1 - r),
]


def units(size: int) -> list[frozenset[int]]:
    height, width = BOXES[size]
    cells = list(product(range(size), repeat=2))
    kinds = [lambda r, c: ("row", r), lambda r, c: ("column", c), lambda r, c: ("box", r // height, c // width)]
    named: dict[tuple, set[int]] = {}
    for kind, (r, c) in product(kinds, cells):
        named.setdefault(kind(r, c), set()).add(r * size + c)
    return [frozenset(unit) for unit in named.values()]


@pytest.mark.parametrize("transform", range(8))
def test_dihedral_moves_cells_as_the_formula_says(transform):
    grids = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    moved = dihedral(grids, transform)
    for batch, r, c in np.ndindex(moved.shape):
        assert moved[batch, r, c] == grids[batch][ORIGIN[transform](r, c, 3, 5)]
    np.testing.assert_array_equal(inverse_dihedral(moved, transform), grids)


def test_dihedral_indices_are_the_group_of_the_square():
    indices = dihedral_indices(3)
    grid = np.random.default_rng(0).integers(0, 9, 9)
    for transform, index in enumerate(indices):
        np.testing.assert_array_equal(grid[index].reshape(3, 3), dihedral(grid.reshape(3, 3), transform))
    elements = {tuple(index) for index in indices}
    assert len(elements) == 8
    for first, then in product(indices, indices):
        np.testing.assert_array_equal(grid[compose(first, then)], grid[first][then])
        assert tuple(compose(first, then)) in elements
    np.testing.assert_array_equal(invert(indices), indices[list(DIHEDRAL_INVERSE)])


@pytest.mark.parametrize("size, arrangements", [(4, 128), (6, 48 * 72)])
def test_sudoku_draws_reach_every_symmetry_and_keep_units_together(size, arrangements):
    """4×4: (2!·2!²)² and transposition; 6×6: rows 3!·2!³, columns 2!·3!², and none."""
    draws = random_sudoku_symmetries(60_000, BOXES[size], np.random.default_rng(1))
    positions = np.unique(draws.positions, axis=0)
    assert len(positions) == arrangements
    expected = set(units(size))
    for position in positions[:200]:
        assert {frozenset(position[list(unit)]) for unit in expected} == expected
    assert len(np.unique(draws.tokens, axis=0)) == (24 if size == 4 else 720)
    assert (draws.tokens[:, 0] == 0).all()


def test_9x9_draws_keep_units_together_and_transpose_half_the_time():
    draws = random_sudoku_symmetries(200, BOXES[9], np.random.default_rng(2))
    expected = set(units(9))
    for position in draws.positions:
        assert {frozenset(position[list(unit)]) for unit in expected} == expected
    first_rows = np.sort(draws.positions[:, :9] // 9, axis=1)
    transposed = (first_rows[:, 0] != first_rows[:, -1]).sum()
    assert 70 < transposed < 130


def test_apply_and_inverse():
    rng = np.random.default_rng(3)
    grids = rng.integers(0, 10, (50, 81)).astype(np.uint8)
    symmetries = random_sudoku_symmetries(50, BOXES[9], rng)
    moved = symmetries.apply(grids)
    assert moved.dtype == np.uint8
    for row, cell in ((0, 0), (7, 33), (49, 80)):
        assert moved[row, cell] == symmetries.tokens[row, grids[row, symmetries.positions[row, cell]]]
    np.testing.assert_array_equal(symmetries.inverse().apply(moved), grids)
    assert isinstance(symmetries.inverse().inverse(), Symmetries)
    np.testing.assert_array_equal(symmetries.inverse().inverse().positions, symmetries.positions)


@pytest.mark.parametrize("size", BOXES)
def test_symmetric_copies_of_valid_grids_are_valid(size):
    grid = np.array(random_grid(size, Random(0)), np.uint8)
    symmetries = random_sudoku_symmetries(500, BOXES[size], np.random.default_rng(4))
    copies = symmetries.apply(np.tile(grid, (500, 1)))
    assert valid_grids(copies, BOXES[size]).all()
    assert len(np.unique(copies, axis=0)) > (50 if size == 4 else 400)


def test_drawing_in_chunks_gives_the_same_symmetries():
    whole = random_sudoku_symmetries(100, BOXES[9], np.random.default_rng(5))
    rng = np.random.default_rng(5)
    chunks = [random_sudoku_symmetries(count, BOXES[9], rng) for count in (1, 60, 39)]
    np.testing.assert_array_equal(whole.positions, np.concatenate([chunk.positions for chunk in chunks]))
    np.testing.assert_array_equal(whole.tokens, np.concatenate([chunk.tokens for chunk in chunks]))


def test_the_4x4_grids_form_two_orbits():
    """The reason why the builder refuses to augment 4×4."""
    remaining = set(solutions([0] * 16))
    assert len(remaining) == 288
    draws = random_sudoku_symmetries(20_000, BOXES[4], np.random.default_rng(6))
    orbits = []
    while remaining:
        grid = np.array(min(remaining), np.uint8)
        orbits.append(set(map(tuple, draws.apply(np.tile(grid, (20_000, 1))).tolist())))
        remaining -= orbits[-1]
    assert sorted(map(len, orbits)) == [96, 192]


@pytest.mark.parametrize("size", sorted(BOXES))
def test_keys_of_sudokus_are_those_of_their_symmetric_copies_and_of_no_others(size):
    """4×4 is compared with brute force: the smallest of 128 arrangements, digits numbered as they come."""
    random = np.random.default_rng(0)
    grids = np.array([random_grid(size, Random(seed)) for seed in range(4)])
    puzzles = np.where(random.random((200, size**2)) < 0.4, grids[random.integers(4, size=200)], 0)
    keys = sudoku_keys(puzzles, BOXES[size])
    for seed in range(3):
        copies = random_sudoku_symmetries(200, BOXES[size], np.random.default_rng(seed)).apply(puzzles.astype(np.uint8))
        assert np.array_equal(sudoku_keys(copies, BOXES[size]), keys)
    if size > 4:
        assert len(np.unique(keys)) == len(np.unique(puzzles, axis=0)) == 200
        return
    arrangements = np.unique(random_sudoku_symmetries(20_000, BOXES[4], random).positions, axis=0)

    def renumbered(puzzle: list[int]) -> tuple[int, ...]:
        numbers = {0: 0}
        return tuple(numbers.setdefault(digit, len(numbers)) for digit in puzzle)

    orbits = [min(map(renumbered, puzzle[arrangements].tolist())) for puzzle in puzzles]
    assert len(set(zip(orbits, keys.tolist()))) == len(set(orbits)) == len(np.unique(keys)) < 200
