"""Opens and checks a set of puzzles on disk, and reads its examples as tokens."""
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dataset.common import (
    FIELDS,
    IGNORE_LABEL_ID,
    PuzzleDatasetMetadata,
    check_integers,
    check_puzzles,
    first_foreign_token,
)
from dataset.example_set import ExampleSet, field_file, load_field, refuse_field


@dataclass
class PuzzleSet(ExampleSet):
    """The arrays of one set of N examples of L cells. Inputs and labels stay on disk, mapped into memory."""

    metadata: PuzzleDatasetMetadata
    inputs: np.ndarray  # (N, L)
    labels: np.ndarray  # (N, L)

    def fields(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """int32 `inputs` and `labels` (B, L) of the examples with the numbers `rows` (B,). Ignored labels are -100.

        Raises ValueError for a token beyond the vocabulary.
        """
        inputs, labels = self._tokens("inputs", rows), self._tokens("labels", rows)
        if self.metadata.ignore_label_id is not None:
            labels[labels == self.metadata.ignore_label_id] = IGNORE_LABEL_ID
        return {"inputs": inputs, "labels": labels}

    def padding(self) -> dict[str, int]:
        return {"inputs": self.metadata.pad_id, "labels": IGNORE_LABEL_ID,
                "puzzle_identifiers": self.metadata.blank_identifier_id}

    def answered(self) -> bool:
        """Whether any example has an answer."""
        ignored, rows = self.metadata.ignore_label_id, 1024  # rows at a time, since mostly the first rows tell
        return any((self.labels[first:first + rows] != ignored).any()
                   for first in range(0, len(self), rows))

    def _tokens(self, field: str, rows: np.ndarray) -> np.ndarray:
        tokens = getattr(self, field)[rows].astype(np.int32)
        place = first_foreign_token(tokens, self.metadata.vocab_size,
                                    self.metadata.ignore_label_id if field == "labels" else None)
        if place is not None:
            row, column = place
            raise ValueError(f"{field_file(self.split_dir, self.name, field)}: row "
                             f"{rows[row]}, position {column} holds {tokens[row, column]}, "
                             f"but vocab_size is {self.metadata.vocab_size} (tokens 0 to "
                             f"{self.metadata.vocab_size - 1}); mend the array, or "
                             "vocab_size in dataset.json")
        return tokens


def load_puzzle_set(path: str, split: str, name: str, metadata: PuzzleDatasetMetadata) -> PuzzleSet:
    """Open the arrays of one set. Raises ValueError where they are damaged or do not fit together."""
    split_dir = Path(path) / split
    arrays = {field: load_field(split_dir, name, field, mapped=field in ("inputs", "labels"))
              for field in FIELDS}
    for field in ("inputs", "labels"):
        check_integers(arrays[field], 2, partial(refuse_field, split_dir, name, field))
    check_puzzles(arrays, len(arrays["inputs"]), metadata.num_puzzle_identifiers,
                  partial(refuse_field, split_dir, name))
    expected = len(arrays["inputs"]), metadata.seq_len
    for field in ("inputs", "labels"):
        if arrays[field].shape != expected:
            refuse_field(split_dir, name, field, f"expected shape {expected} by inputs and seq_len "
                                                 f"of dataset.json, found {arrays[field].shape}")
    return PuzzleSet(path, split_dir, name, metadata, **arrays)
