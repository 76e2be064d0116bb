"""Build a maze data set in the published format from CSV files.

    python -m dataset.build_maze_dataset --output-dir data/maze-30x30-hard-1k
    python -m dataset.generate_maze --side 10 --output-dir data/maze10-csv              # CPU-sized, without network:
    python -m dataset.build_maze_dataset --source-dir data/maze10-csv --output-dir data/maze10

A question is a square grid, written row by row: '#' wall, ' ' free, 'S' start, 'G' goal. Its answer marks the path with
'o'. Tokens: 0 pad, 1 to 5 the characters "# SGo". A training group is one maze and its 7 rotations and reflections
(with --no-aug only the maze itself). Test mazes are neither augmented nor subsampled. `--test-fraction 0.1` takes them
from train.csv.

Of a maze with several shortest paths, the answer marks one. `--paths K` keeps up to K of them: the answer, and K - 1
others, distinct and drawn evenly (dataset/maze_paths.py). They stand in a field of their own, `other_labels`
(N, K - 1, L); `labels` is what it is without them. Where a maze has fewer, its answer fills the places that are left.
They are for arch=ldt. K = 64 takes 58 kB a maze of 30×30; LDT turns mazes itself, so it needs no copies on disk:

    python -m dataset.build_maze_dataset --paths 64 --no-aug --output-dir data/maze-30x30-hard-1k-paths64
"""
import argparse
import math
import random
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

if not __package__:  # run as a script: imports start at the project root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from dataset.builder import at_least, run
from dataset.kinds.kind import NO_TOKEN
from dataset.kinds.maze import CHARACTERS, FREE, GOAL, PATH, START, WALL, Maze, are_paths, shortest_moves
from dataset.maze_paths import other_paths
from dataset.source_csv import SourceRows, Split, builder_parser, read_splits, warn_of_overlap, write_dataset
from dataset.splitting import variant_keys
from dataset.symmetry import dihedral_indices

VOCAB_SIZE = len(CHARACTERS) + 1
CHUNK = 4096  # mazes whose paths are checked at a time, which limits memory


def maze_side(rows: SourceRows) -> int:
    length = rows.question.shape[1]
    side = math.isqrt(length)
    if side * side != length:
        raise ValueError(f"{rows.path}, line {rows.lines[0]}: the maze has {length} characters, "
                         "not a square number; write it row by row, blanks at the ends included")
    return side


def checked_mazes(rows: SourceRows) -> SourceRows:
    """The rows as tokens. Raises ValueError that names the line of the first bad row."""
    side = maze_side(rows)
    kind = Maze(side * side, VOCAB_SIZE)
    question, answer = kind.tokens_of(rows.question), kind.tokens_of(rows.answer)
    rows.require((question <= GOAL).all(axis=1), "the question may hold only '#', ' ', 'S', 'G'")
    rows.require((answer != NO_TOKEN).all(axis=1), "the answer may hold only "
                                                   "'#', ' ', 'S', 'G', 'o'")
    for token, name in ((START, "S"), (GOAL, "G")):
        rows.require((question == token).sum(axis=1) == 1, "the question must hold "
                                                           f"exactly one {name}")
    rows.require(((answer == question) | ((answer == PATH) & (question == FREE))).all(axis=1),
                 "the answer may differ from the question only by an 'o' on a blank cell")
    grids = answer.reshape(-1, side, side)
    paths = [are_paths(grids[start:start + CHUNK]) for start in range(0, len(grids), CHUNK)]
    rows.require(np.concatenate(paths), "the cells marked 'o' are not one path from S to "
                                        "G; mark each step once")
    return replace(rows, question=question, answer=answer)


def tasks_of(mazes: SourceRows) -> np.ndarray:
    """Numbers (N,) that are equal for mazes that are rotations or reflections of each other."""
    return variant_keys(mazes.question, dihedral_indices(maze_side(mazes)))


def fill_split(mazes: SourceRows, views: np.ndarray, inputs: np.ndarray,
               labels: np.ndarray) -> None:
    """Write the tokens of G mazes in all views into `inputs` and `labels`, each (G * copies, L).

    `views` (copies, L): an index permutation for each copy.
    """
    for copy, view in enumerate(views):
        inputs[copy::len(views)], labels[copy::len(views)] = mazes.question[:, view], mazes.answer[:, view]


def other_answers(mazes: SourceRows, count: int, seed: int) -> np.ndarray:
    """(G, count, L) uint8: other shortest paths of G mazes as answers; the answer itself where there are no more."""
    side, rng = maze_side(mazes), random.Random(seed)
    others = mazes.answer[:, None].repeat(count, axis=1)
    for question, answer, found in zip(mazes.question, mazes.answer, others):
        free, marked = {*np.flatnonzero(question != WALL).tolist()}, {*np.flatnonzero(answer == PATH).tolist()}
        start, goal = (int(np.flatnonzero(question == token)[0]) for token in (START, GOAL))
        for board, cells in zip(found, other_paths(free, start, goal, side, marked, count, rng)):
            board[:] = question
            board[cells] = PATH
    return others


def with_others(split: Split, mazes: SourceRows, views: np.ndarray, paths: int, seed: int) -> Split:
    """The split with up to `paths` - 1 more solutions of each maze, in all `views`.

    Raises ValueError where an answer is not a shortest path itself.
    """
    if paths == 1:
        return split
    grids = mazes.question.reshape(-1, maze_side(mazes), maze_side(mazes))
    moves = (mazes.answer == PATH).sum(axis=1) + 1
    mazes.require(moves == shortest_moves(grids), "--paths draws from the shortest paths, and the answer is longer")
    others = other_answers(mazes, paths - 1, seed)

    def fill(array: np.ndarray) -> None:
        for copy, view in enumerate(views):
            array[copy::len(views)] = others[:, :, view]

    return replace(split, others=paths - 1, fill_others=fill)


def build(args: argparse.Namespace) -> None:
    files, rows = read_splits(args, checked_mazes, tasks_of)
    side = maze_side(rows["test"])
    views = {"train": dihedral_indices(side)[:8 if args.aug else 1], "test": dihedral_indices(side)[:1]}
    if "train" in rows:
        seen = rows["train"].question[:, views["train"]].reshape(-1, side * side)
        warn_of_overlap(seen, rows["test"].question, "mazes")
    splits = {name: with_others(Split(len(mazes.lines), len(views[name]), partial(fill_split, mazes, views[name])),
                                mazes, views[name], args.paths, args.seed)
              for name, mazes in rows.items()}
    write_dataset("build_maze_dataset", args, files, splits, "maze", seq_len=side * side,
                  vocab_size=VOCAB_SIZE)


def main(argv: list[str] | None = None) -> None:
    parser = builder_parser(__doc__, "data/maze-30x30-hard-1k", "sapientinc/maze-30x30-hard-1k")
    parser.add_argument("--aug", action=argparse.BooleanOptionalAction, default=True,
                        help="train on all 8 rotations and reflections (default), or "
                             "on the mazes as they are")
    parser.add_argument("--paths", type=at_least(1), default=1, metavar="K",
                        help="keep up to K shortest paths of each maze, the answer among them (default: 1)")
    build(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(run(main))
