"""Shortest paths of mazes, against a search through all of them."""
import random
from collections import Counter

import numpy as np
import pytest

from dataset.maze_paths import neighbours, other_paths, path_cells, shortest_paths, some_numbers


def test_neighbours_of_a_corner_an_edge_and_the_middle():
    near = neighbours(3)
    assert (sorted(near[0]), sorted(near[5]), sorted(near[4])) == ([1, 3], [2, 4, 8], [1, 3, 5, 7])


def test_shortest_paths_are_counted():
    free = {0, 1, 2, 3, 5, 6, 7, 8}  # a ring of 3 × 3
    moves, paths = shortest_paths(free, 0, 3)
    assert moves == {0: 0, 1: 1, 3: 1, 2: 2, 6: 2, 5: 3, 7: 3, 8: 4}
    assert paths[8] == 2 and all(paths[cell] == 1 for cell in free - {8})
    assert shortest_paths({0, 1, 8}, 0, 3)[0] == {0: 0, 1: 1}


def every_path(free: set[int], start: int, goal: int, side: int) -> list[list[int]]:
    """The cells between start and goal of all shortest paths, by growing every walk until some reach the goal."""
    walks = [[start]]
    while walks:
        walks = [[*walk, cell] for walk in walks for cell in neighbours(side)[walk[-1]]
                 if cell in free and cell not in walk]
        found = [walk[1:-1] for walk in walks if walk[-1] == goal]
        if found:
            return found
    return []


def drawn(side: int, seed: int) -> tuple[set[int], int, int]:
    """Free cells with a start and a goal that can be reached from it."""
    rng = random.Random(seed)
    free = {cell for cell in range(side * side) if rng.random() < 0.8}
    start = rng.choice(sorted(free))
    return free, start, max(shortest_paths(free, start, side)[0].items(), key=lambda item: item[1])[0]


@pytest.mark.parametrize("seed", range(8))
def test_every_number_is_another_shortest_path_and_there_are_no_more(seed):
    free, start, goal = drawn(5, seed)
    moves, paths = shortest_paths(free, start, 5)
    numbered = [path_cells(goal, number, moves, paths, 5)[::-1] for number in range(paths[goal])]
    assert sorted(numbered) == sorted(every_path(free, start, goal, 5))


def test_others_are_distinct_shortest_paths_and_not_the_known_one():
    free, start, goal = {*range(16)}, 0, 15
    every = {frozenset(cells) for cells in every_path(free, start, goal, 4)}  # 20
    known = {1, 2, 3, 7, 11}
    for most, expected in ((5, 5), (19, 19), (64, 19)):
        found = [frozenset(cells) for cells in other_paths(free, start, goal, 4, known, most, random.Random(0))]
        assert len({*found}) == len(found) == expected and {*found} <= every - {frozenset(known)}
    assert other_paths({0, 1, 2}, 0, 2, 3, {1}, 8, random.Random(0)) == []


def test_others_are_drawn_evenly():
    free, draws = {*range(16)}, 3800
    rng = random.Random(0)
    counts = Counter(frozenset(cells) for _ in range(draws)
                     for cells in other_paths(free, 0, 15, 4, {1, 2, 3, 7, 11}, 2, rng))
    assert len(counts) == 19
    expected = 2 * draws / 19
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 42  # 99.9% of chi-squared, 18


def test_numbers_beyond_64_bits_are_drawn():
    numbers = some_numbers(10**40, 50, random.Random(0))
    assert len({*numbers}) == 50 and max(numbers) > 2**64 and max(numbers) < 10**40
    assert np.quantile([float(number) for number in numbers], 0.5) == pytest.approx(5e39, rel=0.5)
