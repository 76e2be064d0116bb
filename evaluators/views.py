"""Symmetric views of a puzzle for `augment=`: what the model is shown, and its answer mapped back.

A view moves cells and renames tokens. `dataset/kinds` draws it as a `Symmetry`, which maps boards of tokens. Logits are
mapped back as well, so the view is written down as two arrays, which are read off the symmetry by giving it boards.
"""
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataset.kinds.kind import Kind, Symmetry


@dataclass(frozen=True)
class View:
    """One view of a puzzle of L cells and V tokens."""

    symmetry: Symmetry | None  # None: the puzzle itself
    # (L,) the cell of the view at which each cell of the puzzle stands
    cells: np.ndarray
    # (V,) the token of the view that each token of the puzzle is called
    tokens: np.ndarray

    def apply(self, boards: np.ndarray) -> np.ndarray:
        """(N, L) inputs or labels as the model is shown them."""
        if self.symmetry is None:
            return boards
        return np.concatenate([self.symmetry.apply(board[None]) for board in boards])


def drawn_view(kind: Kind, number: int, view: int, seed: int) -> View:
    """View number `view` of a puzzle. View 0 is the puzzle itself; the others depend on puzzle, view and seed alone.
    Raises ValueError where the kind has no symmetries, or where one is more than moving cells and renaming tokens."""
    L, V = kind.seq_len, kind.vocab_size
    if view == 0:
        return View(None, np.arange(L), np.arange(V))
    symmetry = kind.symmetries(1, np.random.default_rng((seed, number, view)))
    own = _undone_names(symmetry, L, V)
    tokens = np.argsort(own)
    if not np.array_equal(own[tokens], np.arange(V)):
        raise ValueError(f"augment: a symmetry of {kind} gives two tokens one name; its answers cannot be mapped back")
    found = View(symmetry, _undone_places(symmetry, L, own), tokens)
    board = np.random.default_rng(view).integers(V, size=(1, L)).astype(np.int32)
    if not np.array_equal(_undone(found, symmetry.apply(board))[0], board[0]):
        raise ValueError(f"augment: a symmetry of {kind} does more than move cells and rename tokens; its answers "
                         "cannot be mapped back")
    return found


def undo(views: list[View], preds: Tensor, logits: Tensor | None = None) -> dict[str, Tensor]:
    """`preds` (B, L) and `logits` (B, L, V) that the model gave for these B views, as those of the puzzles themselves.
    """
    cells = torch.from_numpy(np.stack([view.cells for view in views])).to(preds.device)
    names = torch.from_numpy(np.stack([view.tokens for view in views])).to(preds.device)
    undone = {"preds": names.argsort(1).gather(1, preds.gather(1, cells).long()).to(preds.dtype)}
    if logits is not None:
        moved = logits.gather(1, cells[:, :, None].expand_as(logits))
        undone["logits"] = moved.gather(2, names[:, None].expand_as(logits))
    return undone


def _undone_names(symmetry: Symmetry, L: int, V: int) -> np.ndarray:
    """(V,) which token of the puzzle each token of the view is."""
    return np.array([int(symmetry.invert(np.full((1, L), token, np.int32))[0, 0]) for token in range(V)])


def _undone_places(symmetry: Symmetry, L: int, own: np.ndarray) -> np.ndarray:
    """(L,) the cell of the view that each cell of the puzzle comes from. Boards of two tokens spell the number of each
    cell, digit by binary digit."""
    places = np.zeros(L, np.int64)
    for bit in range(max(L - 1, 1).bit_length()):
        digits = (np.arange(L) >> bit & 1).astype(np.int32)
        places += (symmetry.invert(digits[None])[0] == own[1]).astype(np.int64) << bit
    return places


def _undone(view: View, boards: np.ndarray) -> np.ndarray:
    return undo([view] * len(boards), torch.from_numpy(np.ascontiguousarray(boards)))["preds"].numpy()
