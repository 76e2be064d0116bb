"""Sudoku by its rules, without labels: `evaluators="[{name: sudoku@Sudoku}]"`."""
import numpy as np

from dataset.build_sudoku_dataset import valid_grids
from dataset.symmetry import BOXES
from evaluators.protocol import RuleCheck

BLANK_TOKEN = 1  # digit d is token d + 1


class Sudoku(RuleCheck):
    """`valid`: each row, column and box holds every digit; `clues_kept`; `solved`: both."""

    def names(self) -> tuple[str, ...]:
        return "solved", "valid", "clues_kept"

    def check(self, inputs: np.ndarray, preds: np.ndarray) -> dict[str, np.ndarray]:
        valid = valid_grids(preds - BLANK_TOKEN, BOXES[self.side])
        clues_kept = ((inputs == preds) | (inputs == BLANK_TOKEN)).all(-1)
        return {"solved": valid & clues_kept, "valid": valid, "clues_kept": clues_kept}
