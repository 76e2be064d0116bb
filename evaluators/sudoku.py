"""Sudoku by its rules, without labels: `evaluators="[{name: sudoku@Sudoku}]"`."""
import numpy as np

from evaluators.protocol import RuleCheck

BOX_ROWS = {4: 2, 6: 2, 9: 3}  # rows of a box, by side of the grid
BLANK_TOKEN = 1  # digit d is token d + 1


class Sudoku(RuleCheck):
    """`valid`: each row, column and box holds every digit; `clues_kept`; `solved`: both."""

    def names(self) -> tuple[str, ...]:
        return "solved", "valid", "clues_kept"

    def check(self, inputs: np.ndarray, preds: np.ndarray) -> dict[str, np.ndarray]:
        n, rows = self.side, BOX_ROWS[self.side]
        cells = preds.reshape(-1, n, n)
        boxes = cells.reshape(-1, n // rows, rows, rows, n // rows).swapaxes(2, 3).reshape(-1, n, n)
        every_digit = np.arange(n) + BLANK_TOKEN + 1
        units = np.concatenate((cells, cells.swapaxes(1, 2), boxes), axis=1)  # (B, 3n, n)
        valid = (np.sort(units, axis=-1) == every_digit).all((1, 2))
        clues_kept = ((inputs == preds) | (inputs == BLANK_TOKEN)).all(-1)
        return {"solved": valid & clues_kept, "valid": valid, "clues_kept": clues_kept}
