"""Opens and checks a set of puzzles on disk, and reads its examples as tokens."""
import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dataset.common import (
    FIELDS,
    IGNORE_LABEL_ID,
    OTHER_LABELS,
    RATING,
    PuzzleDatasetMetadata,
    check_integers,
    check_other_labels,
    check_puzzles,
    check_rating,
    first_foreign_token,
)
from dataset.example_set import ExampleSet, field_file, load_field, refuse_field


@dataclass
class PuzzleSet(ExampleSet):
    """The arrays of one set of N examples of L cells. Those of tokens stay on disk, mapped into memory."""

    metadata: PuzzleDatasetMetadata
    inputs: np.ndarray  # (N, L)
    labels: np.ndarray  # (N, L)
    other_labels: np.ndarray | None = dataclasses.field(default=None, kw_only=True)  # (N, K, L) uint8: other solutions

    def fields(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """int32 `inputs` and `labels` (B, L) of the examples with the numbers `rows` (B,). Ignored labels are -100.
        `other_labels` (B, K, L), uint8, where the set has other solutions.

        Raises ValueError for a token beyond the vocabulary.
        """
        inputs, labels = self._tokens("inputs", rows), self._tokens("labels", rows)
        if self.metadata.ignore_label_id is not None:
            labels[labels == self.metadata.ignore_label_id] = IGNORE_LABEL_ID
        others = {} if self.other_labels is None else {OTHER_LABELS: self._tokens(OTHER_LABELS, rows, np.uint8)}
        return {"inputs": inputs, "labels": labels} | others

    def padding(self) -> dict[str, int]:
        return {"inputs": self.metadata.pad_id, "labels": IGNORE_LABEL_ID, OTHER_LABELS: self.metadata.pad_id,
                "puzzle_identifiers": self.metadata.blank_identifier_id}

    def answered(self) -> bool:
        """Whether any example has an answer."""
        ignored, rows = self.metadata.ignore_label_id, 1024  # rows at a time, since mostly the first rows tell
        return any((self.labels[first:first + rows] != ignored).any()
                   for first in range(0, len(self), rows))

    def _tokens(self, field: str, rows: np.ndarray, dtype: type = np.int32) -> np.ndarray:
        tokens: np.ndarray = np.array(getattr(self, field)[rows], dtype)
        place = first_foreign_token(tokens, self.metadata.vocab_size,
                                    self.metadata.ignore_label_id if field == "labels" else None)
        if place is not None:
            raise ValueError(f"{field_file(self.split_dir, self.name, field)}: row "
                             f"{rows[place[0]]}, position {place[-1]} holds {tokens[place]}, "
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
    others = _other_labels(split_dir, name, metadata)
    rating = _rating(split_dir, name, len(arrays["group_indices"]) - 1)
    return PuzzleSet(path, split_dir, name, metadata, **arrays, other_labels=others, rating=rating)


def _rating(split_dir: Path, name: str, groups: int) -> np.ndarray | None:
    """How hard each group is, where the set tells it."""
    if not field_file(split_dir, name, RATING).is_file():
        return None
    array = load_field(split_dir, name, RATING)
    check_rating(array, groups, partial(refuse_field, split_dir, name, RATING))
    return array


def _other_labels(split_dir: Path, name: str, metadata: PuzzleDatasetMetadata) -> np.ndarray | None:
    """The other solutions of a set. Raises ValueError where dataset.json counts others than there are."""
    file, told = field_file(split_dir, name, OTHER_LABELS), metadata.other_labels
    if not file.is_file() and not told:
        return None
    array, refuse = load_field(split_dir, name, OTHER_LABELS, mapped=True), partial(refuse_field, split_dir, name)
    check_other_labels(array, (len(array), metadata.seq_len), partial(refuse, OTHER_LABELS))
    if array.shape[1] != told:
        refuse(OTHER_LABELS, f"holds {array.shape[1]} solutions of each example, and dataset.json tells "
                             f"{OTHER_LABELS}={told}")
    return array
