"""Data sets of random cells."""
from pathlib import Path

import numpy as np

from dataset.common import write_split


def write_random_data(folder: Path, tokens: int, vocabulary: int, examples: int) -> Path:
    """A data set of random cells whose labels are themselves; every example is a group."""
    each = np.arange(examples + 1, dtype=np.int32)
    cells = np.random.default_rng(0).integers(1, vocabulary, (examples, tokens), dtype=np.uint8)
    for split in ("train", "test"):
        write_split(folder / split, {
            "inputs": cells, "labels": cells, "puzzle_identifiers": np.zeros(examples, dtype=np.int32),
            "puzzle_indices": each, "group_indices": each}, vocabulary, 1)
    (folder / "identifiers.json").write_text('["<blank>"]')
    return folder
