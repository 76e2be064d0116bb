"""Generate square mazes with a unique shortest path, as train.csv and test.csv.

    python -m dataset.generate_maze --side 10 --train 1000 --test 200 --output-dir data/maze10-csv

Corridors are carved as a random tree and a few walls are opened, so that a maze has dead ends and detours. Start and
goal are at least as many moves apart as the side has cells, and a single path between them is shortest: the answer is
well defined by construction. Questions are distinct up to the 8 symmetries of the square, within and across the
splits. The rating is the number of moves of the path.
"""
import argparse
import random
import sys
from functools import cache
from pathlib import Path

if not __package__:  # run as a script: imports start at the project root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dataset.builder import at_least, run
from dataset.source_csv import generator_parser, write_generated
from dataset.symmetry import dihedral_indices

STALE_DRAWS = 1000  # mazes drawn again in a row before a side counts as exhausted


@cache
def neighbours(side: int) -> list[list[int]]:
    """The cells beside each cell of a flat grid."""
    def beside(cell: int) -> list[int]:
        row, column = divmod(cell, side)
        around = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        return [r * side + c for r, c in around if 0 <= r < side and 0 <= c < side]
    return [beside(cell) for cell in range(side * side)]


def carve(side: int, rng: random.Random) -> set[int]:
    """Free cells of a random maze: a tree that touches itself nowhere, then `side` // 2 more cells."""
    near = neighbours(side)
    trail = [rng.randrange(side * side)]
    free = set(trail)
    while trail:
        steps = [cell for cell in near[trail[-1]] if cell not in free and sum(n in free for n in near[cell]) == 1]
        if steps:
            trail.append(rng.choice(steps))
            free.add(trail[-1])
        else:
            trail.pop()
    walls = [cell for cell in range(side * side) if cell not in free]
    return free.union(rng.sample(walls, min(side // 2, len(walls))))


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


def draw_maze(side: int, rng: random.Random) -> tuple[str, str, int]:
    """A question, its answer and the number of moves, at least `side`."""
    goals: list[int] = []
    while not goals:
        free = carve(side, rng)
        start = rng.choice(sorted(free))
        moves, paths = shortest_paths(free, start, side)
        goals = [cell for cell in moves if paths[cell] == 1 and moves[cell] >= side]
    goal = rng.choice(goals)
    question = [" " if cell in free else "#" for cell in range(side * side)]
    question[start], question[goal] = "S", "G"
    answer = question.copy()
    cell = goal
    while moves[cell] > 1:
        cell = next(n for n in neighbours(side)[cell] if moves.get(n) == moves[cell] - 1)
        answer[cell] = "o"
    return "".join(question), "".join(answer), moves[goal]


def draw_distinct(side: int, count: int, rng: random.Random) -> list[tuple[str, str, int]]:
    """`count` mazes of which no two are one another's rotation or reflection."""
    views = dihedral_indices(side).tolist()
    mazes: dict[str, tuple[str, str, int]] = {}
    stale = 0
    while len(mazes) < count:
        maze = draw_maze(side, rng)
        canonical = min("".join(maze[0][cell] for cell in view) for view in views)
        stale = stale + 1 if canonical in mazes else 0
        if stale == STALE_DRAWS:
            raise ValueError(f"only {len(mazes)} of {count} distinct mazes of side {side} found; "
                             "ask for fewer, or for a larger --side")
        mazes.setdefault(canonical, maze)
    return list(mazes.values())


def generate(args: argparse.Namespace) -> None:
    mazes = draw_distinct(args.side, args.train + args.test, random.Random(args.seed))
    splits = {"train": mazes[:args.train], "test": mazes[args.train:]}
    write_generated(args, f"generated_{args.side}x{args.side}", splits,
                    "dataset.build_maze_dataset")


def main(argv: list[str] | None = None) -> None:
    parser = generator_parser(__doc__, train=1000, test=200)
    parser.add_argument("--side", type=at_least(4), default=10,
                        help="cells along each side (default: 10)")
    generate(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(run(main))
