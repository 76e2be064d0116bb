"""Sudokus by the candidates of their cells: what singles tell, the guesses that a search takes, grids drawn at random.

A cell's candidates are the bits 1 to n of a number. A naked single is a cell with one candidate, a hidden single a
digit that one cell of a unit (row, column or box) can hold. Both are filled in until there are none; what is left is
guessed, in a cell with the fewest candidates. So 16×16 and 25×25 puzzles take milliseconds, not hours.
"""
import math
import random
from collections.abc import Iterable, Sequence
from functools import cache
from math import isqrt

from dataset.symmetry import BOXES

MOST_GUESSES = 1000  # for a random grid, before it is begun anew; a grid of 25×25 takes some 200


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


@cache
def units_of_cells(size: int) -> tuple[tuple[int, ...], ...]:
    """Each cell's row, column and box among the 3 n units, in this order."""
    found: list[tuple[int, ...]] = [()] * size ** 2
    for number, unit in enumerate(peers_and_units(size)[1]):
        for cell in unit:
            found[cell] += number,
    return tuple(found)


def all_digits(size: int) -> int:
    return (1 << (size + 1)) - 2


def candidates_of(question: Sequence[int]) -> list[int]:
    """The candidates of each cell of n² digits, 0 for a blank, before anything is excluded."""
    everything = all_digits(isqrt(len(question)))
    return [1 << digit if digit else everything for digit in question]


def settled(candidates: Sequence[int]) -> list[int]:
    """The cells with one candidate."""
    return [cell for cell, bits in enumerate(candidates) if not bits & (bits - 1)]


def fill_singles(candidates: list[int], size: int, news: Iterable[int]) -> bool:
    """Take away, in place, what naked and hidden singles exclude. Returns False where a cell has no candidate left, or
    a digit no place in some unit.

    `news`: the cells with one candidate that the others do not know of yet.
    """
    peers, units = peers_and_units(size)
    units_of, everything = units_of_cells(size), all_digits(size)
    singles, changed = list(news), set(range(3 * size))
    while singles or changed:
        if not singles:
            unit = units[changed.pop()]
            once = twice = 0  # digits that some cell may hold, and that several may
            for cell in unit:
                twice |= once & candidates[cell]
                once |= candidates[cell]
            if once != everything:
                return False
            alone = once & ~twice
            for cell in unit:
                bits = candidates[cell] & alone
                if bits & (bits - 1):
                    return False  # two digits have this one place
                if bits and bits != candidates[cell]:
                    candidates[cell] = bits
                    singles.append(cell)
                    changed.update(units_of[cell])
            continue
        single = singles.pop()
        bit = candidates[single]
        for peer in peers[single]:
            if candidates[peer] & bit:
                left = candidates[peer] ^ bit
                if not left:
                    return False
                candidates[peer] = left
                changed.update(units_of[peer])
                if not left & (left - 1):
                    singles.append(peer)
    return True


class Search:
    """Guesses digits until all cells are filled. `tried`: how many it has tried.

    `rng`: of cells with equally few candidates, and of digits, it takes any; None: the first. `most`: guesses after
    which it gives up.
    """

    def __init__(self, rng: random.Random | None = None, most: float = math.inf):
        self.rng, self.most, self.tried = rng, most, 0

    def solve(self, candidates: list[int], size: int, news: Iterable[int]) -> list[int] | None:
        """The candidates of all cells, one each, of a solution. None where there is none, or it gave up. `candidates`
        change, and `news` are those of `fill_singles`."""
        if not fill_singles(candidates, size, news):
            return None
        cell = self._cell_to_guess(candidates)
        if cell is None:
            return candidates
        digits = [digit for digit in range(1, size + 1) if candidates[cell] >> digit & 1]
        if self.rng:
            self.rng.shuffle(digits)
        for digit in digits:
            if self.tried >= self.most:
                break
            self.tried += 1
            guessed = [*candidates]
            guessed[cell] = 1 << digit
            if (found := self.solve(guessed, size, [cell])) is not None:
                return found
        return None

    def _cell_to_guess(self, candidates: list[int]) -> int | None:
        counts = [(bits.bit_count(), cell) for cell, bits in enumerate(candidates) if bits & (bits - 1)]
        if not counts:
            return None
        fewest = min(counts)
        return self.rng.choice([cell for count, cell in counts if count == fewest[0]]) if self.rng else fewest[1]


def guesses(question: Sequence[int]) -> int:
    """Digits that the search tries in cells with several candidates until it has found a solution.

    `question`: n² digits, 0 for a blank. Raises ValueError if it has no solution.
    """
    search, candidates = Search(), candidates_of(question)
    if search.solve(candidates, isqrt(len(question)), settled(candidates)) is None:
        raise ValueError("the question has no solution")
    return search.tried


def random_grid(size: int, rng: random.Random) -> tuple[int, ...]:
    """A solution grid, n² digits row by row."""
    while True:
        found = Search(rng, MOST_GUESSES).solve(candidates_of([0] * size ** 2), size, [])
        if found is not None:
            return tuple(bits.bit_length() - 1 for bits in found)


def is_implied(question: Sequence[int], cell: int) -> bool:
    """Do the other digits of a question prove the one in this cell? They do if singles contradict every other digit
    there. False: it may be so all the same, but took guesses to find out."""
    candidates = candidates_of(question)
    candidates[cell] = all_digits(isqrt(len(question))) ^ candidates[cell]
    return not fill_singles(candidates, isqrt(len(question)), settled(candidates))
