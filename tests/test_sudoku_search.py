"""Guesses against a search without shortcuts, singles against brute force, and grids drawn at random."""
import random

import numpy as np
import pytest

from dataset.generate_sudoku import count_solutions, divide_grids, hard_puzzle, main, solutions
from dataset.kinds.sudoku import digits_of, valid_grids
from dataset.sudoku_search import (
    Search,
    candidates_of,
    fill_singles,
    guesses,
    is_implied,
    random_grid,
    settled,
)
from dataset.symmetry import BOXES
from helpers import generated


def by_hand(question: list[int]) -> int:
    """Guesses by the definition alone, written as simply as can be."""
    size = 9
    unit_of = [[[r * 9 + c for c in range(9)] for r in range(9)], [[r * 9 + c for r in range(9)] for c in range(9)],
               [[(b // 3 * 3 + i) * 9 + b % 3 * 3 + j for i in range(3) for j in range(3)] for b in range(9)]]
    units = [unit for kind in unit_of for unit in kind]

    def solve(grid: list[int]) -> tuple[bool, int]:
        while True:
            can = [{grid[cell]} if grid[cell] else {d for d in range(1, size + 1) if not any(
                grid[other] == d for unit in units if cell in unit for other in unit)} for cell in range(81)]
            if not all(can) or any(grid[a] == grid[b] != 0 for unit in units for a in unit for b in unit if a < b):
                return False, 0
            if any(not any(d in can[cell] for cell in unit) for unit in units for d in range(1, 10)):
                return False, 0
            sure = [(cell, *can[cell]) for cell in range(81) if not grid[cell] and len(can[cell]) == 1]
            sure += [(place[0], d) for unit in units for d in range(1, 10)
                     if len(place := [cell for cell in unit if d in can[cell]]) == 1 and not grid[place[0]]]
            if not sure:
                break
            grid = list(grid)
            grid[sure[0][0]] = sure[0][1]
        if all(grid):
            return True, 0
        cell, tried = min((c for c in range(81) if not grid[c]), key=lambda c: len(can[c])), 0
        for digit in sorted(can[cell]):
            found, more = solve([*grid[:cell], digit, *grid[cell + 1:]])
            tried += 1 + more
            if found:
                return True, tried
        return False, tried

    return solve(question)[1]


def test_guesses_are_those_of_a_search_by_the_definition(shared):
    lines = (shared / "data" / "sudoku-extreme" / "test.csv").read_text().splitlines()[1:5]
    counted = [guesses(digits_of(line.split(",")[1])) for line in lines]
    assert counted == [by_hand(digits_of(line.split(",")[1])) for line in lines] and len(set(counted)) > 1
    assert guesses(digits_of(lines[0].split(",")[2])) == 0


def test_a_question_without_solution_is_refused():
    with pytest.raises(ValueError, match="no solution"):
        guesses(digits_of("12345678." + "........9" + "." * 63))


def questions(size: int, count: int, seed: int) -> list[list[int]]:
    """Random digits taken from random grids; every third question may contradict itself."""
    rng, found = random.Random(seed), []
    for number in range(count):
        grid = random_grid(size, rng)
        question = [digit if rng.random() < 0.4 else 0 for digit in grid]
        if number % 3 == 0:
            question[rng.randrange(size * size)] = rng.randint(1, size)
        found.append(question)
    return found


def test_singles_lose_no_solution_and_refuse_only_what_has_none():
    """Brute force: all solutions of a question are among the candidates that are left."""
    refused = 0
    for question in questions(4, 120, 0):
        candidates, every = candidates_of(question), [*solutions(question)]
        if fill_singles(candidates, 4, settled(candidates)):
            assert all(bits >> digit & 1 for solution in every for bits, digit in zip(candidates, solution))
        else:
            assert not every
            refused += 1
    assert refused > 5


def test_the_search_finds_a_solution_wherever_there_is_one():
    for question in questions(6, 60, 1):
        candidates, first = candidates_of(question), next(solutions(question), None)
        found = Search().solve(candidates, 6, settled(candidates))
        assert (found is None) == (first is None)
        assert found is None or all(given in (0, bits.bit_length() - 1) for given, bits in zip(question, found))


def test_a_search_gives_up_after_so_many_guesses():
    search = Search(most=3)
    assert search.solve(candidates_of([0] * 81), 9, []) is None and search.tried == 3


def test_a_digit_is_implied_only_if_no_solution_has_another_there():
    implied = 0
    for number in range(20):
        rng = random.Random(number)
        grid = random_grid(4, rng)
        question = [digit if rng.random() < 0.6 else 0 for digit in grid]
        cell = next(cell for cell, digit in enumerate(question) if digit)
        digits = {solution[cell] for solution in solutions([*question[:cell], 0, *question[cell + 1:]])}
        assert is_implied(question, cell) <= (digits == {grid[cell]})
        implied += is_implied(question, cell)
    assert 0 < implied < 20


@pytest.mark.parametrize("size", [4, 9, 16])
def test_random_grids_are_valid_and_differ_by_their_seed(size):
    grids = np.array([random_grid(size, random.Random(seed)) for seed in (0, 1, 0)])
    assert valid_grids(grids, BOXES[size]).all()
    assert (grids[0] == grids[2]).all() and (grids[0] != grids[1]).any()


def test_each_puzzle_depends_on_its_number_alone_and_takes_enough_guesses():
    grids = divide_grids(9, 6, 2, random.Random(0))["train"]
    question, answer, rating = hard_puzzle(3, grids, 0, 2, "seed")
    assert (question, answer, rating) == hard_puzzle(3, grids, 0, 2, "seed") and rating >= 2
    assert guesses(digits_of(question)) == rating and count_solutions(question) == 1


def test_the_files_hold_hard_puzzles_and_are_the_same_on_two_cores(tmp_path):
    options = ("--size", 9, "--train", 3, "--test", 2, "--min-guesses", 2)
    one, two = (generated(main, tmp_path / str(count), *options, "--num-workers", count) for count in (1, 2))
    assert one == two and [len(rows) for rows in one.values()] == [3, 2]
    for rows in one.values():
        assert all(rating >= 2 and guesses(digits_of(question)) == rating for question, _, rating in rows)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("options, message", [
    (["--size", "6", "--min-guesses", "2"], "hardly any guess; use --size 9"),
    (["--size", "16", "--min-guesses", "2"], "16×16 puzzles are made without guesses; use --size 9"),
    (["--num-workers", "2"], "no effect with --size 4 without --min-guesses")])
def test_settings_without_effect_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(["--output-dir", str(tmp_path / "data"), *options])
