"""How hard a Sudoku is for a search: the guesses that it takes, and puzzles that take many, made on all cores.

Between guesses all naked and hidden singles are filled in. A guess tries a digit in a cell with the fewest candidates.
"""
import random
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import isqrt
from pathlib import Path

from tqdm import tqdm

from dataset.symmetry import BOXES

Row = tuple[str, str, int]  # question, answer, rating


@cache
def peers_and_units(size: int) -> tuple[list[list[int]], list[list[int]]]:
    """The cells that share a unit with each cell, and the cells of each of the 3 n units."""
    height, width = BOXES[size]
    lines = range(size)
    units = [[row * size + column for column in lines] for row in lines]
    units += [[row * size + column for row in lines] for column in lines]
    units += [[(top + i) * size + left + j for i in range(height) for j in range(width)]
              for top in range(0, size, height) for left in range(0, size, width)]
    peers: list[set[int]] = [set() for _ in range(size * size)]
    for unit in units:
        for cell in unit:
            peers[cell] |= {*unit} - {cell}
    return [sorted(own) for own in peers], units


def guesses(question: Sequence[int]) -> int:
    """Digits that the search tries in cells with several candidates until it has found a solution.

    `question`: n² digits, 0 for a blank. Raises ValueError if it has no solution.
    """
    size = isqrt(len(question))
    tried = [0]
    candidates = [1 << digit if digit else (1 << (size + 1)) - 2 for digit in question]
    if not _search(candidates, size, tried):
        raise ValueError("the question has no solution")
    return tried[0]


def _search(candidates: list[int], size: int, tried: list[int]) -> bool:
    if not _fill_singles(candidates, size):
        return False
    cell = min((cell for cell, bits in enumerate(candidates) if bits & (bits - 1)),
               key=lambda cell: candidates[cell].bit_count(), default=None)
    if cell is None:
        return True
    for digit in range(1, size + 1):
        if candidates[cell] >> digit & 1:
            tried[0] += 1
            if _search([*candidates[:cell], 1 << digit, *candidates[cell + 1:]], size, tried):
                return True
    return False


def _fill_singles(candidates: list[int], size: int) -> bool:
    """Take away, in place, what naked and hidden singles exclude. Returns whether every cell and digit has a place."""
    peers, units = peers_and_units(size)
    settled: set[int] = set()
    while True:
        new = [cell for cell, bits in enumerate(candidates) if not bits & (bits - 1) and cell not in settled]
        for cell in new:
            settled.add(cell)
            for peer in peers[cell]:
                candidates[peer] &= ~candidates[cell]
        if not all(candidates):
            return False
        if not new and not _set_hidden_singles(candidates, units, size):
            return all(any(candidates[cell] >> digit & 1 for cell in unit)
                       for unit in units for digit in range(1, size + 1))


def _set_hidden_singles(candidates: list[int], units: list[list[int]], size: int) -> bool:
    """Whether some cell was the only one of a unit for a digit, and had others still."""
    found = False
    for unit in units:
        once = twice = 0  # digits that one cell may hold, and that several may
        for cell in unit:
            twice |= once & candidates[cell]
            once |= candidates[cell]
        alone = once & ~twice
        for cell in unit:
            bits = candidates[cell] & alone
            if bits and candidates[cell] != bits:
                candidates[cell] = bits & -bits
                found = True
    return found


def hard_puzzle(number: int, make: Callable[[random.Random], tuple[Sequence[int], Sequence[int]]], fewest: int,
                seed: str) -> Row:
    """The first puzzle that takes at least `fewest` guesses, of those that `make` makes from this number's own random
    numbers. Its rating is the guesses."""
    rng = random.Random(f"{seed}/{number}")
    while True:
        question, answer = make(rng)
        rating = guesses(question)
        if rating >= fewest:
            return "".join(map(str, question)).replace("0", "."), "".join(map(str, answer)), rating


def hard_puzzles(make: Callable[[random.Random], tuple[Sequence[int], Sequence[int]]], count: int, fewest: int,
                 seed: str, kept: Path, map_tasks: Callable) -> list[Row]:
    """`count` hard puzzles with distinct questions. Each depends on the seed and its number alone.

    The file `kept` gets each puzzle as soon as it is there; the same call goes on with it. Raises ValueError if it is
    of another call.
    """
    header = f"{seed}; guesses {fewest}"
    rows: dict[str, Row] = {}
    number = 0
    if kept.exists():
        first, *lines = kept.read_text().split("\n")[:-1]  # a line that was not ended may be half of one
        if first != header:
            raise ValueError(f"{kept} holds puzzles of other settings ({first}); remove it, or repeat those settings")
        number = len(lines)
        rows = {line.split(",")[0]: _row(line) for line in lines}
    else:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(header + "\n")
    _end_at_last_line(kept)
    with kept.open("a") as file, tqdm(total=count, initial=len(rows), unit="puzzle", desc=kept.stem) as bar:
        while len(rows) < count:
            numbers = range(number, number + count - len(rows))
            number = numbers.stop
            for row in map_tasks(partial(hard_puzzle, make=make, fewest=fewest, seed=seed), numbers):
                rows.setdefault(row[0], row)
                file.write(f"{row[0]},{row[1]},{row[2]}\n")
                file.flush()
                bar.update(len(rows) - bar.n)
    return list(rows.values())[:count]


def _row(line: str) -> Row:
    question, answer, rating = line.split(",")
    return question, answer, int(rating)


def _end_at_last_line(file: Path) -> None:
    """Cut off half a line at the end of a file, which a stop while it was written may leave."""
    text = file.read_text()
    file.write_text(text[:text.rindex("\n") + 1])

