"""Sudoku by its rules, without labels: `evaluators="[{name: sudoku@Sudoku}]"`."""
import numpy as np

from dataset.build_sudoku_dataset import valid_grids
from dataset.common import PuzzleDatasetMetadata
from dataset.symmetry import BOXES
from evaluators.protocol import RuleCheck

BLANK_TOKEN = 1  # digit d is token d + 1


class Sudoku(RuleCheck):
    """`valid`: each row, column and box holds every digit; `clues_kept`; `solved`: both."""

    def __init__(self, data_path: str, eval_metadata: PuzzleDatasetMetadata):
        super().__init__(data_path, eval_metadata)
        if self.side not in BOXES:
            raise ValueError(f"Sudoku knows grids of side {', '.join(map(str, BOXES))}; {data_path} has side "
                             f"{self.side}; use evaluators=[]")

    def names(self) -> tuple[str, ...]:
        return "solved", "valid", "clues_kept"

    def check(self, inputs: np.ndarray, preds: np.ndarray) -> dict[str, np.ndarray]:
        valid = valid_grids(preds - BLANK_TOKEN, BOXES[self.side])
        clues_kept = ((inputs == preds) | (inputs == BLANK_TOKEN)).all(-1)
        return {"solved": valid & clues_kept, "valid": valid, "clues_kept": clues_kept}
