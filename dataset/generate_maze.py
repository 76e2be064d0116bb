"""Generate square mazes with one shortest path, or with many, as train.csv and test.csv.

    python -m dataset.generate_maze --side 10 --train 1000 --test 200 --output-dir data/maze10-csv

Corridors are carved as a random tree and a few walls are opened, so that a maze has dead ends and detours. Start and
goal are at least as many moves apart as the side has cells, and a single path between them is shortest: the answer is
well defined by construction. With `--paths K`, more walls are opened, at least K paths are shortest, and the answer is
one of them, drawn evenly. Questions are distinct up to the 8 symmetries of the square, within and across the splits.
The rating is the number of moves of the path.
"""
import argparse
import random
import sys
from pathlib import Path

if not __package__:  # run as a script: imports start at the project root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dataset.builder import at_least, run
from dataset.maze_paths import neighbours, path_cells, shortest_paths
from dataset.source_csv import generator_parser, write_generated
from dataset.symmetry import dihedral_indices

STALE_DRAWS = 1000  # mazes drawn again in a row before a side counts as exhausted
CARVED = 10_000  # mazes carved in vain before a number of paths counts as too many


def carve(side: int, rng: random.Random, opened: int) -> set[int]:
    """Free cells of a random maze: a tree that touches itself nowhere, then `opened` more cells."""
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
    return free.union(rng.sample(walls, min(opened, len(walls))))


def draw_maze(side: int, rng: random.Random, at_least_paths: int = 1) -> tuple[str, str, int]:
    """A question, its answer and the number of moves, at least `side`. One path is shortest or, where more than one are
    asked for, at least so many are."""
    several = at_least_paths > 1
    for _ in range(CARVED):
        free = carve(side, rng, 2 * side if several else side // 2)
        start = rng.choice(sorted(free))
        moves, paths = shortest_paths(free, start, side)
        goals = [cell for cell in moves if moves[cell] >= side
                 and (paths[cell] >= at_least_paths if several else paths[cell] == 1)]
        if goals:
            break
    else:
        raise ValueError(f"--paths {at_least_paths}: no maze of side {side} with so many shortest paths found; "
                         "ask for fewer, or for a larger --side")
    goal = rng.choice(goals)
    question = [" " if cell in free else "#" for cell in range(side * side)]
    question[start], question[goal] = "S", "G"
    answer = question.copy()
    for cell in path_cells(goal, rng.randrange(paths[goal]) if several else 0, moves, paths, side):
        answer[cell] = "o"
    return "".join(question), "".join(answer), moves[goal]


def draw_distinct(side: int, count: int, rng: random.Random, paths: int = 1) -> list[tuple[str, str, int]]:
    """`count` mazes of which no two are one another's rotation or reflection."""
    views = dihedral_indices(side).tolist()
    mazes: dict[str, tuple[str, str, int]] = {}
    stale = 0
    while len(mazes) < count:
        maze = draw_maze(side, rng, paths)
        canonical = min("".join(maze[0][cell] for cell in view) for view in views)
        stale = stale + 1 if canonical in mazes else 0
        if stale == STALE_DRAWS:
            raise ValueError(f"only {len(mazes)} of {count} distinct mazes of side {side} found; "
                             "ask for fewer, or for a larger --side")
        mazes.setdefault(canonical, maze)
    return list(mazes.values())


def generate(args: argparse.Namespace) -> None:
    mazes = draw_distinct(args.side, args.train + args.test, random.Random(args.seed), args.paths)
    splits = {"train": mazes[:args.train], "test": mazes[args.train:]}
    write_generated(args, f"generated_{args.side}x{args.side}", splits,
                    "dataset.build_maze_dataset")


def main(argv: list[str] | None = None) -> None:
    parser = generator_parser(__doc__, train=1000, test=200)
    parser.add_argument("--side", type=at_least(4), default=10,
                        help="cells along each side (default: 10)")
    parser.add_argument("--paths", type=at_least(1), default=1,
                        help="shortest paths of a maze: 1 (default) for one alone, K for at least K")
    generate(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(run(main))
