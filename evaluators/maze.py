"""Mazes by their rules, without labels: `evaluators="[{name: maze@Maze}]"`."""
import numpy as np

from dataset.build_maze_dataset import FREE, GOAL, PATH, START, WALL, are_paths
from evaluators.protocol import RuleCheck


class Maze(RuleCheck):
    """`path`: the marked cells are one path from start to goal; `map_kept`: only free cells were marked; `solved`:
    both, and no path is shorter."""

    def names(self) -> tuple[str, ...]:
        return "solved", "path", "map_kept"

    def check(self, inputs: np.ndarray, preds: np.ndarray) -> dict[str, np.ndarray]:
        grids = (-1, self.side, self.side)
        map_kept = ((preds == inputs) | ((inputs == FREE) & (preds == PATH))).all(-1)
        path = are_paths(preds.reshape(grids))
        moves = (preds == PATH).sum(-1) + 1
        return {"solved": map_kept & path & (moves == shortest_moves(inputs.reshape(grids))), "path": path,
                "map_kept": map_kept}


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
