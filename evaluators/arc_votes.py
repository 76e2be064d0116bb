"""Counts votes on ARC answers: the predictions for many augmentations of a test input.

A prediction becomes a *candidate* for the answer when its augmentation is undone, and votes for it with confidence q. A
prediction whose first cell is not a colour has no grid, and no vote. (In the published code it votes for `[]`.)

Most predictions are never restored, only hashed, which is fast: the hash of a restored grid is a weighted sum over the
cells as predicted, and undoing the augmentation only reorders the weights. One prediction of each candidate is kept.
"""
from dataclasses import dataclass

import numpy as np
import torch

from dataset.arc import COLOURS, FIRST_COLOUR, SIDE, VOCAB_SIZE, crop_sizes, encode_grid
from dataset.symmetry import inverse_dihedral
from utils.distributed import gather_rows, gather_uneven_rows

Grid = list[list[int]]  # rows of colours

# The inverse of each dihedral transform (dataset/symmetry.py) as three steps: reverse the rows, reverse the columns,
# then swap the axes. The arrays say which of the steps the inverse of transform 0 to 7 takes.
SWAPPED = np.array([False, True, False, True, False, False, True, True])
ROWS_REVERSED = np.array([False, True, True, False, False, True, False, True])
COLUMNS_REVERSED = np.array([False, False, True, True, True, False, False, True])

OUTSIDE = SIDE  # index of the weight of cells outside of a grid, which is 0
WEIGHTS = np.zeros((2, SIDE + 1), np.uint64)  # weights of the rows and columns of a restored grid
WEIGHTS[:, :SIDE] = np.random.default_rng(0).integers(2**64, size=(2, SIDE), dtype=np.uint64)
QUESTION_WEIGHT = np.uint64(0x9E3779B97F4A7C15)  # odd, so that a grid has another key for each question

Q_STEP = 2.0**-32  # q is rounded to multiples of it, so that float64 sums of up to 2 million are exact in any order
ORIGINAL = np.zeros(VOCAB_SIZE, np.uint8)  # the value of each token if colours are not permuted: colour + 1, or 0
ORIGINAL[FIRST_COLOUR:] = np.arange(1, COLOURS + 1)

CANDIDATE = np.dtype([("question", np.int32), ("votes", np.int32), ("q", np.float64),
                      ("key", np.uint64)])


def grid_hashes(tokens: np.ndarray, transforms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Hashes (B,) uint64 of the grids in (B, 900) uint8 tokens after their augmentation is undone.

    `transforms` (B,): the dihedral transform of each. `values` (B, 12) uint8: the original colour + 1 of each token, or
    0 if it is no colour. The hash is the sum over cells of value · row weight · column weight, modulo 2^64. Two
    different grids have the same hash with a probability of about 2^-56.
    """
    rows, columns = crop_sizes(tokens)
    places = tokens + VOCAB_SIZE * np.arange(len(tokens))[:, None]
    cells = values.ravel()[places].astype(np.uint64).reshape(-1, SIDE, SIDE)
    swapped = SWAPPED[transforms].astype(np.intp)
    row_weights = WEIGHTS[swapped[:, None], _restored_places(rows, ROWS_REVERSED[transforms])]
    column_weights = WEIGHTS[1 - swapped[:, None],
                             _restored_places(columns, COLUMNS_REVERSED[transforms])]
    by_row = (cells @ column_weights[:, :, None])[..., 0]
    return (by_row * row_weights).sum(-1, dtype=np.uint64)


def _restored_places(lengths: np.ndarray, is_reversed: np.ndarray) -> np.ndarray:
    """The place (B, 30) of each of 30 lines after the first `lengths` (B,) are reversed, where `is_reversed` (B,).

    Lines beyond `lengths` go to OUTSIDE.
    """
    lines, lengths = np.arange(SIDE), lengths[:, None]
    return np.where(lines < lengths,
                    np.where(is_reversed[:, None], lengths - 1 - lines, lines), OUTSIDE)


def restored(tokens: np.ndarray, transform: int, values: np.ndarray) -> np.ndarray:
    """Tokens (900,) uint8 of one prediction (900,) after its augmentation is undone."""
    height, width = crop_sizes(tokens)
    grid = values[tokens.reshape(SIDE, SIDE)[:height, :width]] - np.uint8(1)
    return encode_grid(inverse_dihedral(grid, transform))


def candidate_keys(questions: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Keys (B,) uint64 of candidates, from their questions (B,) and the hashes (B,) of their grids."""
    return hashes + questions.astype(np.uint64) * QUESTION_WEIGHT


class Votes:
    """The votes that one rank has seen. A vote takes 12 bytes, a candidate about 1.1 kB."""

    def __init__(self):
        self.numbers: dict[int, int] = {}  # number of each candidate, by its key
        self.candidates: list[tuple[np.ndarray, ...]] = []  # questions, keys, predictions, transforms, values
        self.votes: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int32), np.zeros(0))]  # candidate, q

    def add(self, questions: np.ndarray, tokens: np.ndarray, transforms: np.ndarray,
            values: np.ndarray,
            q: np.ndarray) -> None:
        """Count predictions `tokens` (B, 900) uint8 as answers to `questions` (B,), with q (B,) from 0 to 1.

        `transforms` and `values` are those of `grid_hashes`.
        """
        hashes, known = grid_hashes(tokens, transforms, values), len(self.numbers)
        if not hashes.all():  # a prediction without a grid has the hash 0
            hashes, questions, tokens, transforms, values, q = (
                rows[hashes != 0] for rows in (hashes, questions, tokens, transforms, values, q))
        keys = candidate_keys(questions, hashes)
        numbers = np.array([self.numbers.setdefault(key, len(self.numbers)) for key in keys.tolist()], np.int32)
        self.votes.append((numbers, np.round(q / Q_STEP) * Q_STEP))
        distinct, rows = np.unique(numbers, return_index=True)
        new = rows[distinct >= known]
        self.candidates.append((questions[new], keys[new], tokens[new],
                                transforms[new], values[new]))

    def ranked(self) -> np.ndarray | None:
        """The candidates of all ranks as CANDIDATE rows, by question, best first. On rank 0; None on the others.

        They are ranked by votes, then by mean q, then by key, so that the order is always the same.
        """
        as_bytes = self._table().view(np.uint8).reshape(-1, CANDIDATE.itemsize)
        gathered = gather_uneven_rows(torch.from_numpy(as_bytes))
        if gathered is None:
            return None
        table = gathered.numpy().view(CANDIDATE)[:, 0]
        _, first, owner = np.unique(table["key"], return_index=True, return_inverse=True)
        merged = table[first]
        merged["votes"] = np.bincount(owner, table["votes"], len(first))
        merged["q"] = np.bincount(owner, table["q"], len(first)) / np.maximum(merged["votes"], 1)
        return merged[np.lexsort((merged["key"], -merged["q"], -merged["votes"],
                                  merged["question"]))]

    def _table(self) -> np.ndarray:
        """The candidates of this rank as CANDIDATE rows, in which `q` is the sum over votes."""
        table = np.zeros(len(self.numbers), CANDIDATE)
        numbers, q = (np.concatenate(parts) for parts in zip(*self.votes))
        table["votes"] = np.bincount(numbers, minlength=len(table))
        table["q"] = np.bincount(numbers, q, len(table))
        if self.candidates:
            for field, parts in zip(("question", "key"), zip(*self.candidates)):
                table[field] = np.concatenate(parts)
        return table

    def grids(self, keys: np.ndarray) -> np.ndarray | None:
        """Tokens (n, 900) uint8 of the candidates with these keys, from all ranks. On rank 0; None on the others."""
        found = np.zeros((len(keys), SIDE * SIDE), np.uint8)
        ends = np.cumsum([len(chunk[0]) for chunk in self.candidates])
        for i, number in enumerate(map(self.numbers.get, keys.tolist())):
            if number is not None:
                chunk = int(np.searchsorted(ends, number, side="right"))
                _, _, tokens, transforms, values = self.candidates[chunk]
                row = number - int(ends[chunk])  # negative: counted from the end of the chunk
                found[i] = restored(tokens[row], transforms[row], values[row])
        gathered = gather_rows(torch.from_numpy(found[None]))
        return None if gathered is None else gathered.numpy().max(0)  # the ranks that know a grid agree on it


@dataclass(frozen=True)
class Attempt:
    """A candidate for an answer, with its votes and their mean q."""

    grid: Grid
    votes: int
    q: float


@dataclass(frozen=True)
class Answer:
    """The result of the vote on one test input."""

    task: str
    number: int  # number of the test input in its task, from 0
    attempts: list[Attempt]  # the best candidates, best first
    votes: int
    candidates: int
    truth_rank: int | None  # rank of the true answer among the candidates, from 1; None: it got no vote
    truth_votes: int
    truth_known: bool

    def solved_within(self, attempts: int) -> bool:
        return self.truth_rank is not None and self.truth_rank <= attempts
