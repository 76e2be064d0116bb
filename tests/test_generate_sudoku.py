"""The solver against brute force, and what the generated files promise."""
import random
from itertools import permutations, product

import numpy as np
import pytest

from dataset.generate_sudoku import CLUES, LARGE, count_solutions, main, orbit_key, solutions
from dataset.kinds.sudoku import digits_of, valid_grids
from dataset.sudoku_search import random_grid
from dataset.symmetry import BOXES, random_sudoku_symmetries
from helpers import generated


@pytest.fixture(scope="module")
def grids4() -> np.ndarray:
    """All 4×4 solution grids (288, 16), sieved from all 24⁴ stacks of four rows."""
    rows = np.array(list(permutations(range(1, 5))))
    stacks = rows[np.array(list(product(range(24), repeat=4)))].reshape(-1, 16)
    return stacks[valid_grids(stacks, BOXES[4])]


def digits(text: str) -> tuple[int, ...]:
    return tuple(digits_of(text))


def test_the_solver_finds_all_4x4_grids(grids4):
    assert set(solutions("." * 16)) == set(map(tuple, grids4.tolist()))
    assert count_solutions([0] * 16, limit=1000) == 288


def test_the_solver_counts_like_brute_force(grids4):
    rng = np.random.default_rng(0)
    for clues in range(17):
        question = np.where(rng.permutation(16) < clues, grids4[rng.integers(288)], 0)
        if clues % 3 == 0:  # most of these contradict themselves
            question[rng.integers(16)] = rng.integers(1, 5)
        expected = ((grids4 == question) | (question == 0)).all(axis=1).sum()
        assert count_solutions(question, limit=1000) == expected
        assert count_solutions(question) == min(expected, 2)


def test_the_solver_refuses_contradictions_and_digits_out_of_range():
    assert count_solutions("11" + "." * 79) == 0
    assert count_solutions("5" + "." * 15) == 0
    assert count_solutions("." * 81, limit=5) == 5


def test_the_solver_agrees_with_real_puzzles(shared):
    for line in (shared / "data" / "sudoku" / "test.csv").read_text().splitlines()[1:15]:
        _, question, answer, _ = line.split(",")
        assert list(solutions(question)) == [digits(answer)]


@pytest.mark.parametrize("size", BOXES)
def test_the_orbit_key_is_the_same_for_symmetric_grids(size):
    grid = np.array(random_grid(size, random.Random(0)), np.uint8)
    copies = random_sudoku_symmetries(100, BOXES[size], np.random.default_rng(0)).apply(np.tile(grid, (100, 1)))
    assert {orbit_key(tuple(copy)) for copy in copies.tolist()} == {orbit_key(tuple(grid.tolist()))}


@pytest.mark.parametrize("size, train, test", [(4, 300, 40), (6, 60, 20), (9, 40, 10)])
def test_generated_puzzles_keep_their_promises(tmp_path, size, train, test):
    splits = generated(main, tmp_path / "csv", "--size", size, "--train", train, "--test", test)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": train, "test": test}
    rows = splits["train"] + splits["test"]
    assert len({question for question, _, _ in rows}) == len(rows)
    assert valid_grids(np.array([digits(answer) for _, answer, _ in rows]), BOXES[size]).all()
    for question, answer, rating in rows:
        assert all(given in (".", digit) for given, digit in zip(question, answer))
        assert count_solutions(question) == 1
        assert rating == question.count(".")
    clues = [size ** 2 - rating for _, _, rating in rows]
    assert CLUES[size][0] <= min(clues) and max(clues) == CLUES[size][1] and len(set(clues)) > 4
    keys = {split: {digits(answer) if size == 4 else orbit_key(digits(answer)) for _, answer, _ in rows}
            for split, rows in splits.items()}
    assert not keys["train"] & keys["test"]


@pytest.mark.parametrize("size, train, test", [(16, 6, 2), (25, 1, 1)])
def test_large_puzzles_have_one_solution_and_a_grid_of_their_own(tmp_path, size, train, test):
    """A second solver, which knows no singles, counts the solutions. It needs many clues for that."""
    clues = {16: 145, 25: 400}[size]
    splits = generated(main, tmp_path / "csv", "--size", size, "--train", train, "--test", test, "--clues", clues)
    rows = splits["train"] + splits["test"]
    assert [len(splits[split]) for split in ("train", "test")] == [train, test]
    assert len({orbit_key(digits(answer)) for _, answer, _ in rows}) == train + test
    assert valid_grids(np.array([digits(answer) for _, answer, _ in rows]), BOXES[size]).all()
    for question, answer, rating in rows:
        assert list(solutions(question)) == [digits(answer)] and rating == size ** 2 - clues == question.count(".")
    assert not (tmp_path / "csv.part").exists()


def test_large_puzzles_aim_at_the_clues_of_their_range(tmp_path):
    rows = generated(main, tmp_path / "csv", "--size", 16, "--train", 6, "--test", 1)["train"]
    assert LARGE == (16, 25) and len({rating for *_, rating in rows}) > 3
    assert all(CLUES[16][0] <= 256 - rating <= CLUES[16][1] + 5 for *_, rating in rows)
    assert {*"".join(answer for _, answer, _ in rows)} == {*"123456789ABCDEFG"}


def test_4x4_grids_are_divided_256_to_32(tmp_path):
    splits = generated(main, tmp_path / "csv", "--size", 4, "--train", 600, "--test", 80)
    grids = {split: len({answer for _, answer, _ in rows}) for split, rows in splits.items()}
    assert grids == {"train": 256, "test": 32}


def test_clues_are_a_lower_bound_that_minimal_puzzles_exceed(tmp_path):
    """Down to 4 clues all four digits may be gone from a question but one: each must still be tried as another."""
    for clues in (4, 12):
        splits = generated(main, tmp_path / str(clues), "--size", 4, "--train", 200, "--test", 20, "--clues", clues)
        rows = splits["train"] + splits["test"]
        counts = [16 - rating for _, _, rating in rows]
        assert min(counts) == clues and all(count_solutions(question) == 1 for question, _, _ in rows)
        assert max(counts) == clues if clues == 12 else max(counts) <= 8


def test_the_files_are_a_function_of_the_seed(tmp_path):
    options = ("--size", 6, "--train", 10, "--test", 5)
    first = generated(main, tmp_path / "a", *options)
    assert generated(main, tmp_path / "b", *options) == first != generated(main, tmp_path / "c", *options, "--seed", 1)


def test_what_cannot_be_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"only 512 of 600 distinct 4×4 puzzles found on 32 grids"):
        generated(main, tmp_path / "a", "--size", 4, "--train", 10, "--test", 600, "--clues", 15)
    with pytest.raises(ValueError, match="--test: 0 is not a whole number of 1 or more"):
        generated(main, tmp_path / "a", "--train", 10, "--test", 0)
    with pytest.raises(ValueError, match="--clues 16 leaves no blank; choose 1 to 15"):
        generated(main, tmp_path / "a", "--size", 4, "--clues", 16)
    assert not (tmp_path / "a").exists()
    generated(main, tmp_path / "a", "--train", 10, "--test", 5)
    assert "python -m dataset.build_sudoku_dataset --source-dir" in capsys.readouterr().out
    with pytest.raises(ValueError, match="exists already"):
        generated(main, tmp_path / "a", "--train", 10, "--test", 5)
