"""Mazes: the answer marks a shortest path from start to goal.

Tokens: 0 padding, 1 to 5 the characters `# SGo`: wall, free, start, goal, path. Text: a character a cell, row by row.
"""
from collections.abc import Sequence

import numpy as np

from dataset.kinds.kind import Kind, side_of
from dataset.symmetry import Symmetries, random_dihedral

CHARACTERS = "# SGo"
WALL, FREE, START, GOAL, PATH = range(1, 6)  # tokens
TOKEN_NAMES = ("padding", "wall", "free", "start", "goal", "path")


class Maze(Kind):
    """A square of cells, six tokens."""

    alphabet = CHARACTERS
    blank = FREE
    names = TOKEN_NAMES
    colours: Sequence[str] = ("#ffffff", "#3b3b3b", "#f2f2f2", "#2ca02c", "#1f77b4", "#ffb000")
    evaluator = "maze@Maze"
    as_text = False

    def __init__(self, seq_len: int, vocab_size: int, token_names: Sequence[str] | None = None):
        self.side = side_of(seq_len, self)
        super().__init__(seq_len, vocab_size, token_names)
        self.colours = [*Maze.colours, *["#cccccc"] * (vocab_size - len(Maze.colours))]

    def rules(self, inputs: np.ndarray, preds: np.ndarray) -> dict[str, np.ndarray]:
        """`path`: the marked cells are one path from start to goal; `map_kept`: only free cells were marked; `valid`:
        both; `solved`: valid, and no path is shorter."""
        grids = (-1, self.side, self.side)
        map_kept = ((preds == inputs) | ((inputs == FREE) & (preds == PATH))).all(-1)
        path = are_paths(preds.reshape(grids))
        moves = (preds == PATH).sum(-1) + 1
        valid = map_kept & path
        return {"solved": valid & (moves == shortest_moves(inputs.reshape(grids))), "valid": valid, "path": path,
                "map_kept": map_kept}

    def symmetries(self, count: int, rng: np.random.Generator) -> Symmetries:
        """Rotations and reflections."""
        return random_dihedral(count, self.side, self.vocab_size, rng)


def are_paths(answers: np.ndarray) -> np.ndarray:
    """(N,) booleans: do the marked cells of an answer (N, H, W) form one 4-connected path from S to G?

    They do if, moving only over them, G is as many moves from S as there are marks, and one.
    """
    marked = np.pad(answers >= START, ((0, 0), (1, 1), (1, 1)))
    reached = np.pad(answers == START, ((0, 0), (1, 1), (1, 1)))
    goal = np.pad(answers == GOAL, ((0, 0), (1, 1), (1, 1)))
    expected = marked.sum(axis=(1, 2)) - 1
    moves = np.zeros(len(answers), int)
    for _ in range(expected.max(initial=0)):
        moves += ~(reached & goal).any(axis=(1, 2))
        near = reached[:, :-2, 1:-1] | reached[:, 2:, 1:-1] | reached[:, 1:-1, :-2] | reached[:, 1:-1, 2:]
        reached[:, 1:-1, 1:-1] |= near & marked[:, 1:-1, 1:-1]
    return (moves == expected) & (reached & goal).any(axis=(1, 2))


def shortest_moves(mazes: np.ndarray) -> np.ndarray:
    """Fewest moves (B,) from start to goal of mazes (B, side, side); infinite where there is no way."""
    goal, passable = mazes == GOAL, mazes != WALL
    reached, moves = mazes == START, np.full(len(mazes), np.inf)
    for move in range(1, passable[0].size):
        grown = reached.copy()
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown[:, :, 1:] |= reached[:, :, :-1]
        grown[:, :, :-1] |= reached[:, :, 1:]
        grown &= passable
        moves[np.isinf(moves) & (grown & goal).any((1, 2))] = move
        if (grown == reached).all() or np.isfinite(moves).all():
            break
        reached = grown
    return moves
