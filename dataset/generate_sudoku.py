"""Generate Sudoku puzzles (4×4, 6×6, 9×9, 16×16 or 25×25) with a proven unique solution, as train.csv and test.csv.

    python -m dataset.generate_sudoku --size 4 --train 4000 --test 512 --output-dir data/sudoku4-csv
    python -m dataset.generate_sudoku --size 9 --train 1000 --test 500 --min-guesses 5 --output-dir data/hard9-csv
    python -m dataset.generate_sudoku --size 16 --train 1000 --test 100 --output-dir data/sudoku16-csv

A puzzle is a solution grid from which digits were taken away in random order while the solution stays unique, down to
a number of clues drawn for it from a range (CLUES) or given by --clues; where no digit can go, more remain. The rating
is the number of blanks. With --min-guesses, no digit more can go, unless --clues says so, and the rating is the guesses
that a search takes (dataset/sudoku_search.py).

In 16×16 and 25×25 puzzles, letters stand for digits above 9, A for 10. A digit goes only where the others prove it
without a guess, so that a puzzle takes half a second or three. These puzzles, and those of --min-guesses, are made on
all cores, and a stopped command goes on when it is given again.

Questions are distinct, and train and test share no solution grid. For 6×6 and 9×9 they share none up to symmetry
either: grids with the same invariant, `orbit_key`, stay in one split. The 288 grids of 4×4 form only two orbits, so
they are dealt out one by one, 256 to train and 32 to test. Each puzzle of 16×16 or 25×25 has a grid of its own, drawn
from so many that no two are alike.
"""
import argparse
import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from itertools import combinations, islice
from math import isqrt
from pathlib import Path

if not __package__:  # run as a script: imports start at the project root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dataset.builder import at_least, run, workers
from dataset.kept_rows import Row, kept_rows
from dataset.kinds.sudoku import digits_of, text_of
from dataset.source_csv import SPLITS, generator_parser, write_generated
from dataset.sudoku_search import guesses, is_implied, random_grid, units_of_cells
from dataset.symmetry import BOXES

# fewest and most clues that a puzzle of this size aims at
CLUES = {4: (4, 9), 6: (8, 20), 9: (26, 40), 16: (100, 160), 25: (290, 400)}
LARGE = (16, 25)  # sizes whose puzzles are made one by one, each with a grid of its own
SMALLEST_POOL = 100  # solution grids to divide, so that even a few puzzles find both splits served
STALE_DRAWS = 1000  # puzzles drawn again in a row before a split counts as exhausted

Grid = tuple[int, ...]  # n² digits row by row, 0 for a blank


def solutions(question: str | Sequence[int], rng: random.Random | None = None) -> Iterator[Grid]:
    """All solutions of n² digits (0 or '.' for a blank), by backtracking on the cell with fewest candidates.

    With `rng`, digits are tried in random order. A question that contradicts itself has none.
    """
    grid = digits_of(question) if isinstance(question, str) else [int(digit) for digit in question]
    size = isqrt(len(grid))
    units = units_of_cells(size)
    free = [(1 << (size + 1)) - 2] * (3 * size)  # a unit's missing digits as bits 1 to n
    for digit, cell in zip(grid, units):
        for unit in cell if digit else ():
            if not free[unit] >> digit & 1:
                return
            free[unit] ^= 1 << digit
    yield from _search(grid, [cell for cell, digit in enumerate(grid) if not digit],
                       units, free, rng)


def _search(grid: list[int], blanks: list[int], units, free: list[int],
            rng: random.Random | None) -> Iterator[Grid]:
    if not blanks:
        yield tuple(grid)
        return
    cell, candidates = _most_constrained(blanks, units, free)
    rest = [blank for blank in blanks if blank != cell]
    digits = [digit for digit in range(1, candidates.bit_length()) if candidates >> digit & 1]
    if rng:
        rng.shuffle(digits)
    for grid[cell] in digits:
        bit = 1 << grid[cell]
        for unit in units[cell]:
            free[unit] ^= bit
        yield from _search(grid, rest, units, free, rng)
        for unit in units[cell]:
            free[unit] ^= bit


def _most_constrained(blanks: list[int], units, free: list[int]) -> tuple[int, int]:
    """The blank cell with the fewest candidates, and these as bits."""
    best, mask, fewest = -1, 0, 99
    for cell in blanks:
        row, column, box = units[cell]
        bits = free[row] & free[column] & free[box]
        if (count := bits.bit_count()) < fewest:
            best, mask, fewest = cell, bits, count
            if count <= 1:
                break
    return best, mask


def count_solutions(question: str | Sequence[int], limit: int = 2) -> int:
    """Number of solutions of n² digits, 0 or '.' for a blank, counted up to `limit`."""
    return sum(1 for _ in islice(solutions(question), limit))


def remove_clues(solution: Grid, clues: int, rng: random.Random) -> Grid:
    """A question with this one solution and `clues` clues, or more where none of them can be spared.

    In a large one, a clue stays as well where only guesses would tell whether it can be spared.
    """
    question = list(solution)
    large = isqrt(len(solution)) in LARGE
    for cell in rng.sample(range(len(question)), len(question)):
        if sum(map(bool, question)) == clues:
            break
        if large:
            question[cell] *= not is_implied(question, cell)
            continue
        question[cell] = 0
        if _has_another(question, cell, solution[cell]):
            question[cell] = solution[cell]
    return tuple(question)


def _has_another(question: list[int], cell: int, digit: int) -> bool:
    """Has the question a solution with another digit in this blank cell? Cheaper than finding the known one again."""
    others = set(range(1, isqrt(len(question)) + 1)) - {digit}
    return any(count_solutions([*question[:cell], other, *question[cell + 1:]], 1)
               for other in others)


def orbit_key(solution: Grid) -> Hashable:
    """Equal for grids that a Sudoku symmetry maps onto one another; unequal for nearly all others of 9×9.

    Two rows are permutations of the digits, hence a permutation from one to the other, whose cycle lengths no
    relabelling changes. Those of row pairs inside and across bands, and of columns, make the key.
    """
    size = isqrt(len(solution))
    height, width = BOXES[size]
    rows = [solution[start:start + size] for start in range(0, size * size, size)]
    keys = _line_key(rows, height), _line_key(list(zip(*rows)), width)
    return tuple(sorted(keys)) if height == width else keys


def _line_key(lines: list[Grid], thickness: int) -> Hashable:
    inside: dict[int, list] = defaultdict(list)
    across: list[tuple] = []
    for first, second in combinations(range(len(lines)), 2):
        together = first // thickness == second // thickness
        (inside[first // thickness] if together else across).append(_cycle_lengths(lines[first], lines[second]))
    return tuple(sorted(tuple(sorted(band)) for band in inside.values())), tuple(sorted(across))


def _cycle_lengths(first: Grid, second: Grid) -> Grid:
    """Sorted cycle lengths of the permutation that takes each digit of one line to the digit beside it in the other."""
    following = dict(zip(first, second))
    lengths = []
    while following:
        digit, length = next(iter(following)), 0
        while digit in following:
            digit, length = following.pop(digit), length + 1
        lengths.append(length)
    return tuple(sorted(lengths))


def divide_grids(size: int, train: int, test: int, rng: random.Random) -> dict[str, list[Grid]]:
    """Solution grids of each split, none in both: not even up to symmetry, where size is not 4."""
    if size == 4:
        grids = list(solutions([0] * 16))
        rng.shuffle(grids)
        return {"train": grids[32:], "test": grids[:32]}
    pool = {next(solutions([0] * size ** 2, rng)): None
            for _ in range(max(train + test, SMALLEST_POOL))}
    orbits: dict[Hashable, list[Grid]] = defaultdict(list)
    for grid in pool:
        orbits[orbit_key(grid)].append(grid)
    share = len(pool) * min(test / (train + test), 0.5)
    divided: dict[str, list[Grid]] = {"train": [], "test": []}
    for orbit in rng.sample(list(orbits.values()), len(orbits)):
        divided["test" if len(divided["test"]) < share else "train"] += orbit
    return divided


def make_puzzles(grids: list[Grid], count: int, clues: int | None,
                 rng: random.Random) -> list[tuple[str, str, int]]:
    """`count` rows (question, answer, rating) with distinct questions, from the grids in turn."""
    size = max(grids[0])
    rows: dict[Grid, Grid] = {}
    stale = 0
    while len(rows) < count:
        solution = grids[(len(rows) + stale) % len(grids)]
        question = remove_clues(solution, clues or rng.randint(*CLUES[size]), rng)
        stale = stale + 1 if question in rows else 0
        if stale == STALE_DRAWS:
            raise ValueError(f"only {len(rows)} of {count} distinct {size}×{size} puzzles found on "
                             f"{len(grids)} grids; ask for fewer, or for another number of --clues")
        rows[question] = solution
    return [(text_of(question), text_of(solution), question.count(0)) for question, solution in rows.items()]


def hard_puzzle(number: int, grids: list[Grid], clues: int, fewest: int, seed: str) -> Row:
    """The first puzzle that takes at least `fewest` guesses, of those that this number's own random numbers make on the
    grids. Its rating is the guesses."""
    rng = random.Random(f"{seed}/{number}")
    while True:
        solution = rng.choice(grids)
        question = remove_clues(solution, clues, rng)
        rating = guesses(question)
        if rating >= fewest:
            return text_of(question), text_of(solution), rating


def large_puzzle(number: int, size: int, clues: int, seed: str) -> Row:
    """A puzzle on a grid of its own, both made of this number's own random numbers. Its rating is the blanks."""
    rng = random.Random(f"{seed}/{number}")
    solution = random_grid(size, rng)
    question = remove_clues(solution, clues or rng.randint(*CLUES[size]), rng)
    return text_of(question), text_of(solution), question.count(0)


def make_one_by_one(args: argparse.Namespace, maker: Callable[[str, str], Callable[[int], Row]]
                    ) -> dict[str, list[Row]]:
    """The rows of each split, each made by `maker(split, seed)` of its number. Unfinished ones lie in
    <output-dir>.part."""
    folder = Path(f"{args.output_dir}.part")
    seed = f"seed {args.seed}, size {args.size}, {args.train} + {args.test}, clues {args.clues or 0}"
    seeds = {split: f"{seed}, {split}" for split in SPLITS}
    with workers(args.num_workers or os.cpu_count() or 1) as map_tasks:
        splits = {split: kept_rows(maker(split, seed), getattr(args, split), f"{seed}; guesses {args.min_guesses or 0}",
                                   folder / f"{split}.txt", map_tasks) for split, seed in seeds.items()}
    for split in splits:
        (folder / f"{split}.txt").unlink()
    folder.rmdir()
    return splits


def make_splits(args: argparse.Namespace) -> dict[str, list[Row]]:
    clues, rng = args.clues or 0, random.Random(args.seed)
    if args.size in LARGE:
        return make_one_by_one(args, lambda _, seed: partial(large_puzzle, size=args.size, clues=clues, seed=seed))
    grids = divide_grids(args.size, args.train, args.test, rng)
    if args.min_guesses:
        return make_one_by_one(args, lambda split, seed: partial(hard_puzzle, grids=grids[split], clues=clues,
                                                                 fewest=args.min_guesses, seed=seed))
    return {split: make_puzzles(grids[split], getattr(args, split), args.clues, rng) for split in grids}


def generate(args: argparse.Namespace) -> None:
    if args.min_guesses and args.size != 9:
        reason = "take hardly any guess" if args.size < 9 else "are made without guesses"
        raise ValueError(f"--min-guesses {args.min_guesses}: {args.size}×{args.size} puzzles {reason}; use --size 9")
    if args.num_workers and not args.min_guesses and args.size not in LARGE:
        raise ValueError(f"--num-workers has no effect with --size {args.size} without --min-guesses; leave it out")
    if args.clues and args.clues >= args.size ** 2:
        raise ValueError(f"--clues {args.clues} leaves no blank; choose 1 to {args.size ** 2 - 1}")
    write_generated(args, f"generated_{args.size}x{args.size}", make_splits(args), "dataset.build_sudoku_dataset")


def main(argv: list[str] | None = None) -> None:
    parser = generator_parser(__doc__, train=4000, test=512)
    parser.add_argument("--size", type=int, choices=tuple(BOXES), default=4,
                        help="number of digits (default: 4)")
    parser.add_argument("--clues", type=at_least(1), help="fewest clues of every puzzle "
                                                          "(default: drawn for each)")
    parser.add_argument("--min-guesses", type=at_least(1),
                        help="only puzzles for which a search tries at least so many digits (default: all)")
    parser.add_argument("--num-workers", type=at_least(1),
                        help="processes for large puzzles and --min-guesses (default: one for each core)")
    generate(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(run(main))
