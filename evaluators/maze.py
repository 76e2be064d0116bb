"""Checks mazes by their rules and by their labels: `evaluators="[{name: maze@Maze}]"`."""
from collections.abc import Sequence

import numpy as np

from dataset.common import IGNORE_LABEL_ID, PuzzleDatasetMetadata
from evaluators.rules import Rules


class Maze(Rules):
    """The fraction of the answers that are

    `exact`     the path of the label, of the mazes that have one
    `valid`     a path from start to goal along free cells
    `shortest`  such a path, and none is shorter; also `solved`, as for other kinds

    A maze may have many shortest paths, of which the label is one. So an answer can be shortest and not exact. `path`
    and `map_kept`, which dataset/kinds/maze.py explains, tell what is wrong with answers that are not valid.
    """

    def __init__(self, data_path: str, eval_metadata: PuzzleDatasetMetadata):
        super().__init__(data_path, eval_metadata, "maze")

    def names(self) -> Sequence[str]:
        return "exact", "shortest", *self.kind.rule_names

    def verdicts(self, batch: dict[str, np.ndarray], preds: np.ndarray) -> dict[str, np.ndarray]:
        labels, obeyed = batch["labels"], super().verdicts(batch, preds)
        unknown = labels == IGNORE_LABEL_ID
        exact = ((preds == labels) | unknown).all(-1)[~unknown.all(-1)]
        return {"exact": exact, "shortest": obeyed["solved"]} | obeyed
