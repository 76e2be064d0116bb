"""Guesses against a search without shortcuts, and hard puzzles: on any number of cores, and after a stop."""
import random
from functools import partial

import pytest

from dataset.generate_sudoku import count_solutions, divide_grids, main, parse_question, sparse_puzzle
from dataset.sudoku_guesses import guesses, hard_puzzle, hard_puzzles
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
    counted = [guesses(parse_question(line.split(",")[1])) for line in lines]
    assert counted == [by_hand(parse_question(line.split(",")[1])) for line in lines] and len(set(counted)) > 1
    assert guesses(parse_question(lines[0].split(",")[2])) == 0


def test_a_question_without_solution_is_refused():
    with pytest.raises(ValueError, match="no solution"):
        guesses(parse_question("12345678." + "........9" + "." * 63))


@pytest.fixture(scope="module")
def make():
    return partial(sparse_puzzle, divide_grids(9, 6, 2, random.Random(0))["train"], 0)


def test_each_puzzle_depends_on_its_number_alone_and_takes_enough_guesses(make):
    question, answer, rating = hard_puzzle(3, make, 2, "seed")
    assert (question, answer, rating) == hard_puzzle(3, make, 2, "seed") and rating >= 2
    assert guesses(parse_question(question)) == rating and count_solutions(question) == 1


def test_a_stopped_command_goes_on_where_it_was(make, tmp_path):
    whole = hard_puzzles(make, 5, 1, "seed", tmp_path / "whole.txt", map)

    def stopping(task, numbers):
        for number in numbers:
            if number == 3:
                raise KeyboardInterrupt
            yield task(number)

    with pytest.raises(KeyboardInterrupt):
        hard_puzzles(make, 5, 1, "seed", tmp_path / "part.txt", stopping)
    with (tmp_path / "part.txt").open("a") as file:
        file.write("..half a line")
    made = []

    def counting(task, numbers):
        made.extend(numbers)
        return map(task, numbers)

    assert hard_puzzles(make, 5, 1, "seed", tmp_path / "part.txt", counting) == whole and made == [3, 4]
    with pytest.raises(ValueError, match="holds puzzles of other settings"):
        hard_puzzles(make, 5, 2, "seed", tmp_path / "part.txt", map)


def test_the_files_hold_hard_puzzles_and_are_the_same_on_two_cores(tmp_path):
    options = ("--size", 9, "--train", 3, "--test", 2, "--min-guesses", 2)
    one, two = (generated(main, tmp_path / str(count), *options, "--num-workers", count) for count in (1, 2))
    assert one == two and [len(rows) for rows in one.values()] == [3, 2]
    for rows in one.values():
        assert all(rating >= 2 and guesses(parse_question(question)) == rating for question, _, rating in rows)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("options, message", [
    (["--size", "6", "--min-guesses", "2"], "use --size 9"), (["--num-workers", "2"], "without --min-guesses")])
def test_settings_without_effect_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(["--output-dir", str(tmp_path / "data"), *options])
