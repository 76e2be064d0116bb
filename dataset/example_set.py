"""What a set of examples is to the training stream and the test batches, whatever its examples are made of."""
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
    """The rows of the puzzle table that a data set's identifiers stand for."""

    # the identifier of no puzzle in particular, which is its own row; -1: none
    blank: int
    # what is added to the others
    offset: int = 0
    # (identifiers,) int32 row of each, where they do not follow one another
    rows: np.ndarray | None = None

    def to_rows(self, identifiers: np.ndarray) -> np.ndarray:
        """int32 rows of identifiers."""
        if self.rows is not None:
            return self.rows[identifiers]
        identifiers = identifiers.astype(np.int32)
        return np.where(identifiers == self.blank, identifiers, identifiers + self.offset)

    def to_identifiers(self, rows: np.ndarray) -> np.ndarray:
        """int32 identifiers of rows that are theirs."""
        if self.rows is None:
            return np.where(rows == self.blank, rows, rows - self.offset)
        order = np.argsort(self.rows)
        return order[np.searchsorted(self.rows, rows, sorter=order)].astype(np.int32)


@dataclass
class ExampleSet:
    """One set of a split: its puzzles, and their examples by number. Subclasses say what an example holds."""

    path: str
    split_dir: Path
    name: str
    metadata: SplitMetadata
    puzzle_identifiers: np.ndarray  # (puzzles,)
    puzzle_indices: np.ndarray  # (puzzles + 1,)
    group_indices: np.ndarray  # (groups + 1,)
    numbering: Numbering = field(default=Numbering(blank=0), kw_only=True)  # of identifiers, in the puzzle table

    ONE_PUZZLE_A_GROUP: ClassVar[bool] = True  # an epoch takes one puzzle of each group; if not, every example

    def __len__(self) -> int:
        return int(self.puzzle_indices[-1])

    def fetch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Fields of the examples numbered `rows`; raises ValueError for values that cannot be."""
        puzzles = np.searchsorted(self.puzzle_indices, rows, side="right") - 1
        return self.fields(rows) | {"puzzle_identifiers": self.shared_identifiers(puzzles)}

    def fields(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def padding(self) -> dict[str, float]:
        """What fills each field where a batch is padded."""
        raise NotImplementedError

    def shared_identifiers(self, puzzles: np.ndarray | slice = slice(None)) -> np.ndarray:
        """int32 identifiers of puzzles by number, as all data sets together number them."""
        return self.numbering.to_rows(self.puzzle_identifiers[puzzles])


def field_file(split_dir: Path, set_name: str, field: str) -> Path:
    """The file that has a field: `<set>__<field>.npy`, whether it exists or not, unless there is an `.npz` alone."""
    file = field_path(split_dir, set_name, field)
    npz = file.with_suffix(".npz")
    return npz if npz.is_file() and not file.is_file() else file


def load_field(split_dir: Path, set_name: str, field: str, mapped: bool = False) -> np.ndarray:
    """`<set>__<field>.npy`, or what an `.npz` beside it holds under that name or without one."""
    file = field_file(split_dir, set_name, field)
    if not file.is_file():
        raise ValueError(f"{file} is missing; build the data set again")
    return open_npy(file, mapped) if file.suffix == ".npy" else open_npz(file, field).load(mapped)


def refuse_field(split_dir: Path, set_name: str, field: str, problem: str):
    raise ValueError(f"{field_file(split_dir, set_name, field)}: {problem}; build the data set again")


def count(metadata: SplitMetadata, sets: Sequence[ExampleSet]) -> None:
    """Have the metadata of a split say how many groups, puzzles and examples its sets hold."""
    metadata.total_groups = sum(len(s.group_indices) - 1 for s in sets)
    metadata.total_puzzles = sum(len(s.puzzle_identifiers) for s in sets)
    metadata.mean_puzzle_examples = sum(map(len, sets)) / metadata.total_puzzles


def first_not_finite(array: np.ndarray) -> tuple[int, ...] | None:
    """Place of the first NaN or infinity; None where there is none."""
    finite = np.isfinite(array)
    return None if finite.all() else tuple(int(i) for i in np.argwhere(~finite)[0])


def cast_notice(where: str, dtypes: Mapping[str, np.dtype]) -> None:
    """Say, once, which fields of a data set are stored otherwise than they are used."""
    cast = [f"{field} ({dtype})" for field, dtype in dtypes.items() if dtype not in (np.float32, np.float16)]
    if cast:
        say_once(f"notice: {where}: {', '.join(cast)} cast to float32")


@cache
def say_once(line: str) -> None:
    print(printable(line))


def evenly(total: int, at_most: int) -> np.ndarray:
    """Up to so many of `total` numbers, evenly spaced from 0 on."""
    return np.unique(np.linspace(0, total - 1, min(total, at_most)).astype(np.int64))


def evenly_over(sets: Sequence[ExampleSet], at_most: int) -> Iterator[tuple[ExampleSet, np.ndarray]]:
    """The same of the examples of several sets together, each giving in proportion to its size: (set, rows) by set."""
    total = sum(map(len, sets))
    for example_set in sets:
        yield example_set, evenly(len(example_set), -(-at_most * len(example_set) // total))
