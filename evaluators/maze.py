"""Checks mazes by their rules: `evaluators="[{name: maze@Maze}]"`."""
from dataset.common import PuzzleDatasetMetadata
from evaluators.rules import Rules


class Maze(Rules):
    """Metrics `solved`, `path` and `map_kept`, which dataset/kinds/maze.py explains."""

    def __init__(self, data_path: str, eval_metadata: PuzzleDatasetMetadata):
        super().__init__(data_path, eval_metadata, "maze")
