"""Mazes by their rules, without labels: `evaluators="[{name: maze@Maze}]"`."""
import numpy as np

from evaluators.protocol import RuleCheck

WALL, FREE, START, GOAL, PATH = 1, 2, 3, 4, 5  # tokens of "# SGo"


class Maze(RuleCheck):
    """`map_kept`: only free cells became path; `connected`: the marked cells join start and goal; `solved`: they are
    moreover a shortest way, no cell too many."""

    def names(self) -> tuple[str, ...]:
        return "solved", "connected", "map_kept"

    def check(self, inputs: np.ndarray, preds: np.ndarray) -> dict[str, np.ndarray]:
        shape = (-1, self.side, self.side)
        map_kept = ((preds == inputs) | ((inputs == FREE) & (preds == PATH))).all(-1)
        start, goal = (inputs == START).reshape(shape), (inputs == GOAL).reshape(shape)
        marked = (preds == PATH).reshape(shape)
        connected = map_kept & np.isfinite(distances(start, goal, marked | goal))
        shortest = distances(start, goal, (inputs != WALL).reshape(shape))
        solved = connected & (marked.sum((1, 2)) + 1 == shortest)
        return {"solved": solved, "connected": connected, "map_kept": map_kept}


def distances(start: np.ndarray, goal: np.ndarray, passable: np.ndarray) -> np.ndarray:
    """Moves from start to goal over passable cells, (B,), infinite where there is no way; masks (B, side, side)."""
    reached, moves = start.copy(), np.full(len(start), np.inf)
    for move in range(1, start[0].size):
        grown = reached.copy()
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown[:, :, 1:] |= reached[:, :, :-1]
        grown[:, :, :-1] |= reached[:, :, 1:]
        grown &= passable | start
        moves[np.isinf(moves) & (grown & goal).any((1, 2))] = move
        if (grown == reached).all() or np.isfinite(moves).all():
            break
        reached = grown
    return moves
