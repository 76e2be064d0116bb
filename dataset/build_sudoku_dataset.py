"""Build a Sudoku data set (4×4, 6×6, 9×9, 16×16 or 25×25) in the published format from CSV files.

    python -m dataset.build_sudoku_dataset --subsample-size 1000 --num-aug 1000 --output-dir data/sudoku-1k-aug-1000
    python -m dataset.generate_sudoku --size 4 --output-dir data/sudoku4-csv            # CPU-sized, without network:
    python -m dataset.build_sudoku_dataset --source-dir data/sudoku4-csv --output-dir data/sudoku4

Tokens: 0 pad, 1 blank, digit + 1. In the files, digits above 9 are the letters A to P. A training group is one source
puzzle and --num-aug random symmetric copies of it. Test puzzles are neither augmented nor subsampled.
`--test-fraction 0.1` takes them from train.csv. Every row is checked, because a wrong answer in the source would only
show as a score that never reaches 100%.
"""
import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

if not __package__:  # run as a script: imports start at the project root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from dataset.builder import at_least, run
from dataset.kinds.kind import NO_TOKEN
from dataset.kinds.sudoku import BLANK, DIGITS, Sudoku, valid_grids
from dataset.source_csv import SourceRows, Split, builder_parser, read_splits, warn_of_overlap, write_dataset
from dataset.splitting import in_chunks, joined, row_keys
from dataset.symmetry import BOXES, random_sudoku_symmetries, sudoku_keys

CHUNK = 4096  # rows worked on at a time, so that arrays fit in the cache and memory does not grow with the data


def sudoku_size(rows: SourceRows) -> int:
    """The number of digits n, from rows of n² characters. Raises ValueError for other lengths."""
    sizes = {n * n: n for n in BOXES}
    length = rows.question.shape[1]
    if length not in sizes:
        raise ValueError(f"{rows.path}, line {rows.lines[0]}: the puzzle has {length} characters; "
                         f"{', '.join(f'{n * n} ({n}×{n})' for n in BOXES)} are supported")
    return sizes[length]


def checked_puzzles(rows: SourceRows) -> SourceRows:
    """The rows as digits, 0 for a blank. Raises ValueError that names the line of the first bad row."""
    size = sudoku_size(rows)
    kind = Sudoku(size * size, size + 2)
    question, answer = kind.tokens_of(rows.question), kind.tokens_of(rows.answer)
    rows.require((question != NO_TOKEN).all(axis=1),
                 f"the question may hold only 1 to {DIGITS[size - 1]}, and '.'{' or 0' * (size <= 9)} for a blank")
    rows.require(((answer != NO_TOKEN) & (answer != BLANK)).all(axis=1),
                 f"the answer may hold only 1 to {DIGITS[size - 1]}")
    question, answer = question - BLANK, answer - BLANK
    valid = [valid_grids(answer[start:start + CHUNK], kind.box)
             for start in range(0, len(answer), CHUNK)]
    rows.require(np.concatenate(valid), "the answer repeats a digit in a row, column or box")
    rows.require(((question == 0) | (question == answer)).all(axis=1),
                 "the answer contradicts a digit of the question")
    return replace(rows, question=question, answer=answer)


def of_difficulty(rows: SourceRows, least: float | None, most: float | None) -> SourceRows:
    """The rows with a rating of `least` to `most`; None: no bound. Raises ValueError if there are none."""
    if least is None and most is None:
        return rows
    bounds = {"--min-difficulty": least, "--max-difficulty": most}
    fits = (rows.rating >= (-np.inf if least is None else least)) & (rows.rating <= (np.inf if most is None else most))
    if not fits.any():
        asked = " and ".join(f"{option} {bound:g}" for option, bound in bounds.items() if bound is not None)
        raise ValueError(f"no row of {rows.path} is within {asked}; its ratings are {rows.rating.min():g} to "
                         f"{rows.rating.max():g}")
    return rows.select(fits)


def tasks_of(puzzles: SourceRows) -> np.ndarray:
    """Numbers (N,) that are equal for symmetric copies of a puzzle, and for puzzles with the same solution grid.

    For 4×4 puzzles the solution grid does not count: there are only 288, which would put all puzzles into one task.
    """
    size = sudoku_size(puzzles)
    copies = in_chunks(partial(sudoku_keys, box=BOXES[size]), puzzles.question)
    return copies if size == 4 else joined(copies, row_keys(puzzles.answer))


def fill_split(puzzles: SourceRows, num_aug: int, seed: int, inputs: np.ndarray,
               labels: np.ndarray) -> None:
    """Write the tokens of G checked puzzles, each with its copies, into `inputs` and `labels`.

    Both are (G * (1 + num_aug), L).
    """
    inputs[::1 + num_aug], labels[::1 + num_aug] = puzzles.question + 1, puzzles.answer + 1
    box = BOXES[sudoku_size(puzzles)]
    rng = np.random.default_rng([seed, 1])
    copies = len(puzzles.lines) * num_aug
    for start in range(0, copies, CHUNK):
        copy = np.arange(start, min(start + CHUNK, copies))
        group = copy // num_aug
        row = copy + group + 1  # all earlier copies and the originals up to its own come before it
        symmetries = random_sudoku_symmetries(len(copy), box, rng)
        inputs[row] = symmetries.apply(puzzles.question[group]) + 1
        labels[row] = symmetries.apply(puzzles.answer[group]) + 1


def build(args: argparse.Namespace) -> None:
    def wanted(rows: SourceRows) -> SourceRows:
        return of_difficulty(checked_puzzles(rows), args.min_difficulty, args.max_difficulty)

    files, rows = read_splits(args, wanted, tasks_of)
    size = sudoku_size(rows["test"])
    if args.num_aug and size == 4:
        raise ValueError("--num-aug is not for 4×4: its 288 solution grids form only two "
                         "symmetry orbits, so copies of training puzzles would show the "
                         "test grids; leave it out")
    if "train" in rows:
        warn_of_overlap(rows["train"].answer, rows["test"].answer, "solution grids")
    copies = {"train": args.num_aug, "test": 0}
    splits = {name: Split(len(puzzles.lines), 1 + copies[name], partial(fill_split, puzzles, copies[name], args.seed),
                          rating=puzzles.rating if args.keep_ratings else None)
              for name, puzzles in rows.items()}
    write_dataset("build_sudoku_dataset", args, files, splits, "sudoku", seq_len=size * size,
                  vocab_size=size + 2)


def main(argv: list[str] | None = None) -> None:
    parser = builder_parser(__doc__, "data/sudoku-extreme-full", "sapientinc/sudoku-extreme")
    parser.add_argument("--num-aug", type=at_least(0), default=0,
                        help="symmetric copies of a puzzle (default: 0)")
    parser.add_argument("--min-difficulty", type=float, help="leave out puzzles rated lower, in both splits")
    parser.add_argument("--max-difficulty", type=float, help="leave out puzzles rated higher, in both splits")
    parser.add_argument("--keep-ratings", action="store_true",
                        help="keep the ratings, for rating_curriculum")
    build(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(run(main))
