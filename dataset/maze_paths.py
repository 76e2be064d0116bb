"""The shortest paths of a maze: how many moves they take, how many there are, and some of them, drawn evenly.

A maze is a square, its cells numbered row by row. Paths can be far more than 2^63, so they are counted in Python's own
integers. Every shortest path has a number below their count; drawing distinct numbers draws distinct paths evenly.
"""
import random
from functools import cache


@cache
def neighbours(side: int) -> list[list[int]]:
    """The cells beside each cell of a flat grid."""
    def beside(cell: int) -> list[int]:
        row, column = divmod(cell, side)
        around = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        return [r * side + c for r, c in around if 0 <= r < side and 0 <= c < side]
    return [beside(cell) for cell in range(side * side)]


def shortest_paths(free: set[int], start: int, side: int) -> tuple[dict[int, int], dict[int, int]]:
    """Breadth-first search: moves from `start` to each reachable cell, and how many shortest paths lead there."""
    moves, paths = {start: 0}, {start: 1}
    queue = [start]
    for cell in queue:
        for beside in neighbours(side)[cell]:
            if beside in free and beside not in moves:
                moves[beside], paths[beside] = moves[cell] + 1, 0
                queue.append(beside)
            if moves.get(beside) == moves[cell] + 1:
                paths[beside] += paths[cell]
    return moves, paths


def path_cells(goal: int, number: int, moves: dict[int, int], paths: dict[int, int], side: int) -> list[int]:
    """The cells between the start and `goal` on the shortest path of this number, from 0 to `paths[goal]` - 1.

    `moves` and `paths` are those of `shortest_paths`.
    """
    cells, cell = [], goal
    while moves[cell] > 1:
        for before in neighbours(side)[cell]:
            if moves.get(before) != moves[cell] - 1:
                continue
            if number < paths[before]:
                break
            number -= paths[before]
        cell = before
        cells.append(cell)
    return cells


def some_numbers(count: int, most: int, rng: random.Random) -> list[int]:
    """All numbers below `count` or, where these are more than `most`, as many distinct ones, drawn evenly."""
    if count <= most:
        return list(range(count))
    drawn: dict[int, None] = {}
    while len(drawn) < most:
        drawn[rng.randrange(count)] = None
    return list(drawn)


def other_paths(free: set[int], start: int, goal: int, side: int, known: set[int], most: int, rng: random.Random
                ) -> list[list[int]]:
    """Up to `most` shortest paths from `start` to `goal` other than the one with the cells `known`, drawn evenly, each
    as the cells between the two. `free` includes start and goal."""
    moves, paths = shortest_paths(free, start, side)
    numbers = some_numbers(paths[goal], most + 1, rng)
    found = (path_cells(goal, number, moves, paths, side) for number in numbers)
    return [cells for cells in found if {*cells} != known][:most]
