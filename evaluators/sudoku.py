"""Checks Sudokus by their rules: `evaluators="[{name: sudoku@Sudoku}]"`."""
from dataset.common import PuzzleDatasetMetadata
from evaluators.rules import Rules


class Sudoku(Rules):
    """Metrics `solved`, `valid` and `clues_kept`, which dataset/kinds/sudoku.py explains."""

    def __init__(self, data_path: str, eval_metadata: PuzzleDatasetMetadata):
        super().__init__(data_path, eval_metadata, "sudoku")
