"""Symmetric views: what is shown, and answers and logits mapped back, against the symmetry itself."""
import numpy as np
import pytest
import torch

from dataset.kinds.kind import find_kind
from dataset.kinds.sudoku import Sudoku
from evaluators.views import drawn_view, undo

SIZES = {"sudoku": [(16, 6), (36, 8), (81, 11)], "maze": [(25, 6), (900, 6)]}


@pytest.mark.parametrize("name, sizes", [(name, sizes) for name, several in SIZES.items() for sizes in several])
def test_answers_and_logits_come_back_as_the_symmetry_has_them(name, sizes):
    kind, random = find_kind(name)(*sizes), np.random.default_rng(0)
    L, V = sizes
    for view in range(4):
        drawn = drawn_view(kind, 7, view, seed=3)
        boards = random.integers(V, size=(2, L)).astype(np.int32)
        shown = drawn.apply(boards)
        logits = torch.nn.functional.one_hot(torch.from_numpy(shown).long(), V).float()
        undone = undo([drawn] * 2, torch.from_numpy(shown), logits)
        assert np.array_equal(undone["preds"], boards) and np.array_equal(undone["logits"].argmax(-1), boards)
        if view == 0:
            assert np.array_equal(shown, boards)
        else:
            assert np.array_equal(drawn.symmetry.invert(shown[:1]), boards[:1])


def test_each_row_is_undone_by_its_own_view():
    kind, board = Sudoku(16, 6), np.arange(16, dtype=np.int32)[None] % 5 + 1
    views = [drawn_view(kind, 0, view, seed=0) for view in (2, 0, 1)]
    shown = np.concatenate([view.apply(board) for view in views])
    assert len({row.tobytes() for row in shown}) == 3
    assert np.array_equal(undo(views, torch.from_numpy(shown))["preds"], np.tile(board, (3, 1)))


def test_a_view_follows_from_puzzle_number_and_seed():
    kind, board = Sudoku(81, 11), np.arange(81, dtype=np.int32)[None] % 10 + 1

    def shown(*asked: int) -> bytes:
        return drawn_view(kind, *asked).apply(board).tobytes()

    assert shown(1, 2, 3) == shown(1, 2, 3)
    assert len({shown(*asked) for asked in [(1, 2, 3), (2, 2, 3), (1, 1, 3), (1, 2, 4)]}) == 4


def test_an_ignored_label_moves_and_stays_ignored():
    view = drawn_view(Sudoku(16, 6), 0, 1, seed=0)
    labels = np.full((1, 16), -100, np.int32)
    labels[0, :3] = 2
    assert sorted(view.apply(labels)[0])[:13] == [-100] * 13


class Masked(Sudoku):
    """Its views hide a cell, which nothing can undo."""

    def symmetries(self, count, rng):
        class Hiding:
            def apply(self, tokens):
                return np.where(np.arange(16) == 0, 1, tokens)

            def invert(self, tokens):
                return tokens

        return Hiding()


class Merging(Sudoku):
    def symmetries(self, count, rng):
        class Same:
            def apply(self, tokens):
                return np.minimum(tokens, 3)

            def invert(self, tokens):
                return np.minimum(tokens, 3)

        return Same()


@pytest.mark.parametrize("kind, said", [(Masked, "does more than move cells"), (Merging, "gives two tokens one name")])
def test_what_cannot_be_undone_is_refused(kind, said):
    with pytest.raises(ValueError, match=said):
        for view in range(1, 20):
            drawn_view(kind(16, 6), 0, view, seed=0)
