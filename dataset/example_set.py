"""The base class of sets of examples, which the training stream and the test batches are made from."""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset.arrays import open_npy, open_npz
from dataset.common import SplitMetadata, field_path
from utils.foreign import printable


@dataclass(frozen=True)
class Numbering:
    """Maps the puzzle identifiers of a data set to rows of the puzzle table."""

    # identifier that stands for no particular puzzle; its row is the same number; -1: there is none
    blank: int
    # number that is added to all other identifiers, unless `rows` is given
    offset: int = 0
    # (identifiers,) int32: the row of each identifier, if the rows are not in their order
    rows: np.ndarray | None = None

    def to_rows(self, identifiers: np.ndarray) -> np.ndarray:
        """The int32 rows of identifiers."""
        if self.rows is not None:
            return self.rows[identifiers]
        identifiers = identifiers.astype(np.int32)
        return np.where(identifiers == self.blank, identifiers, identifiers + self.offset)

    def to_identifiers(self, rows: np.ndarray) -> np.ndarray:
        """The int32 identifiers of rows that belong to this data set."""
        if self.rows is None:
            return np.where(rows == self.blank, rows, rows - self.offset)
        order = np.argsort(self.rows)
        return order[np.searchsorted(self.rows, rows, sorter=order)].astype(np.int32)


@dataclass
class ExampleSet:
    """One set of a split: its puzzles, and their examples by number. Subclasses define the fields of an example."""

    path: str
    split_dir: Path
    name: str
    metadata: SplitMetadata
    puzzle_identifiers: np.ndarray  # (puzzles,)
    puzzle_indices: np.ndarray  # (puzzles + 1,)
    group_indices: np.ndarray  # (groups + 1,)
    numbering: Numbering = field(default=Numbering(blank=0), kw_only=True)  # from identifiers to rows
    rating: np.ndarray | None = field(default=None, kw_only=True)  # (groups,) how hard each group is

    ONE_PUZZLE_A_GROUP: ClassVar[bool] = True  # whether an epoch takes one puzzle of each group, or every example

    def __len__(self) -> int:
        return int(self.puzzle_indices[-1])

    def fetch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The fields of the examples with the numbers `rows`. Raises ValueError for impossible values.

        Their `puzzle_identifiers` are rows of the puzzle table.
        """
        puzzles = np.searchsorted(self.puzzle_indices, rows, side="right") - 1
        return self.fields(rows) | {"puzzle_identifiers": self.shared_identifiers(puzzles)}

    def fields(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The fields of the examples with the numbers `rows`, except `puzzle_identifiers`."""
        raise NotImplementedError

    def padding(self) -> dict[str, float]:
        """The value that fills each field where a batch is padded."""
        raise NotImplementedError

    def shared_identifiers(self, puzzles: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The int32 rows of the puzzle table for puzzles of this set, given by number."""
        return self.numbering.to_rows(self.puzzle_identifiers[puzzles])


def field_file(split_dir: Path, set_name: str, field: str) -> Path:
    """The file of a field: `<set>__<field>.npy`, or the `.npz` of that name if only that exists."""
    file = field_path(split_dir, set_name, field)
    npz = file.with_suffix(".npz")
    return npz if npz.is_file() and not file.is_file() else file


def load_field(split_dir: Path, set_name: str, field: str, mapped: bool = False) -> np.ndarray:
    """Load a field from `<set>__<field>.npy`, or from the `.npz` of that name. Raises ValueError if it is missing."""
    file = field_file(split_dir, set_name, field)
    if not file.is_file():
        raise ValueError(f"{file} is missing; build the data set again")
    return open_npy(file, mapped) if file.suffix == ".npy" else open_npz(file, field).load(mapped)


def refuse_field(split_dir: Path, set_name: str, field: str, problem: str):
    raise ValueError(f"{field_file(split_dir, set_name, field)}: {problem}; "
                     "build the data set again")


def count(metadata: SplitMetadata, sets: Sequence[ExampleSet]) -> None:
    """Set the numbers of groups, puzzles and examples in the metadata of a split, by counting them in its sets."""
    metadata.total_groups = sum(len(s.group_indices) - 1 for s in sets)
    metadata.total_puzzles = sum(len(s.puzzle_identifiers) for s in sets)
    metadata.mean_puzzle_examples = sum(map(len, sets)) / metadata.total_puzzles


def first_not_finite(array: np.ndarray) -> tuple[int, ...] | None:
    """The indices of the first NaN or infinity. None if there is none."""
    finite = np.isfinite(array)
    return None if finite.all() else tuple(int(i) for i in np.argwhere(~finite)[0])


def cast_notice(where: str, dtypes: Mapping[str, np.dtype]) -> None:
    """Print a notice, once, that names the fields of a data set that are converted to float32."""
    cast = [f"{field} ({dtype})"
            for field, dtype in dtypes.items() if dtype not in (np.float32, np.float16)]
    if cast:
        say_once(f"notice: {where}: {', '.join(cast)} cast to float32")


@cache
def say_once(line: str) -> None:
    print(printable(line))


def evenly(total: int, at_most: int) -> np.ndarray:
    """At most `at_most` of the numbers 0 to total - 1, evenly spaced."""
    return np.unique(np.linspace(0, total - 1, min(total, at_most)).astype(np.int64))


def evenly_over(sets: Sequence[ExampleSet],
                at_most: int) -> Iterator[tuple[ExampleSet, np.ndarray]]:
    """About `at_most` examples of several sets, evenly spaced in each. Yields (set, numbers of examples).

    The share of a set is proportional to its size.
    """
    total = sum(map(len, sets))
    for example_set in sets:
        yield example_set, evenly(len(example_set), -(-at_most * len(example_set) // total))
