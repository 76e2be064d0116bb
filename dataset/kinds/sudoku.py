"""Sudoku: every row, column and box holds each digit once. The sizes are those of `BOXES` in dataset/symmetry.py.

Tokens: 0 padding, 1 blank, digit + 1. Text: a character a cell, row by row, `.` for a blank. The digits above 9 are the
letters A to P. Up to 9×9, `0` is a blank as well; beyond, it is refused, since some count such digits from 0 to F.
"""
from collections.abc import Sequence

import numpy as np

from dataset.kinds.kind import Kind, side_of
from dataset.symmetry import BOXES, Symmetries, random_sudoku_symmetries

DIGITS = "123456789ABCDEFGHIJKLMNOP"
BLANK = 1  # token; digit d is token d + 1


class Sudoku(Kind):
    """n×n cells, n digits, n + 2 tokens."""

    blank = BLANK
    box: tuple[int, int]
    evaluator = "sudoku@Sudoku"
    as_text = True
    special = (0, BLANK)  # digits can be exchanged

    def __init__(self, seq_len: int, vocab_size: int, token_names: Sequence[str] | None = None):
        self.size = side_of(seq_len, self)
        if self.size not in BOXES:
            raise ValueError(f"{self} has {', '.join(str(n * n) for n in BOXES)} cells, "
                             f"and these are {seq_len}")
        self.box = BOXES[self.size]
        self.alphabet = "." + DIGITS[:self.size]
        self.also_read = {"0": "."} if self.size <= 9 else {one.lower(): one for one in DIGITS[9:self.size]}
        super().__init__(seq_len, vocab_size, token_names)

    def resized(self, seq_len: int) -> "Sudoku":
        """With as many digits as the board needs."""
        return type(self)(seq_len, side_of(seq_len, self) + 1 + BLANK)

    def format_board(self, rows: Sequence[Sequence[object]]) -> str:
        """Cells are characters or digits, 0 for a blank, which stays 0 where it can be read."""
        characters = ("0" if "0" in self.also_read else ".") + DIGITS
        return "".join(characters[cell] if type(cell) is int and 0 <= cell <= self.size else str(cell)
                       for row in rows for cell in row)

    def rules(self, inputs: np.ndarray, preds: np.ndarray) -> dict[str, np.ndarray]:
        """`valid`: each row, column and box holds every digit; `clues_kept`; `solved`: both."""
        valid, clues_kept = valid_grids(preds - BLANK, self.box), self.clues_kept(inputs, preds)
        return {"solved": valid & clues_kept, "valid": valid, "clues_kept": clues_kept}

    def symmetries(self, count: int, rng: np.random.Generator) -> Symmetries:
        """Digits are relabelled, and bands, stacks, rows of a band and columns of a stack change places."""
        drawn = random_sudoku_symmetries(count, self.box, rng)
        tokens = np.tile(np.arange(self.vocab_size, dtype=np.uint8), (count, 1))
        tokens[:, BLANK:BLANK + self.size + 1] = drawn.tokens + BLANK
        return Symmetries(drawn.positions, tokens)


def digits_of(text: str) -> list[int]:
    """The digits that characters stand for, 0 for a blank."""
    return [0 if character in ".0" else 1 + DIGITS.index(character) for character in text]


def text_of(digits: Sequence[int]) -> str:
    """The characters that stand for digits, `.` for 0, a blank."""
    return "".join(("." + DIGITS)[digit] for digit in digits)


def valid_grids(grids: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """(N,) booleans: does a grid (N, n²) of integers hold each of 1 to n once in every row, column and box?"""
    height, width = box
    size = height * width
    number = np.uint16 if size < 16 else np.uint32  # which has a bit for each digit
    digits = np.where((grids >= 1) & (grids <= size), grids, 0).astype(number)
    bits = np.left_shift(number(1), digits.T)  # cells first: each reduction runs along N
    boxes = bits.reshape(size // height, height, size // width, width, -1).swapaxes(1, 2)
    units = [bits.reshape(size, size, -1), bits.reshape(size, size, -1).swapaxes(0, 1),
             boxes.reshape(size, size, -1)]
    full = (1 << (size + 1)) - 2
    return np.logical_and.reduce([np.bitwise_or.reduce(unit, axis=1) == full
                                  for unit in units]).all(axis=0)
