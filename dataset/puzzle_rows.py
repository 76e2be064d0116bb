"""What each row of the puzzle table means: which puzzle, of which data set, by whatever path it is reached.

A data set is its contents and its identifiers; a path is only where it lies. A row is called

    <blank>                  the row of all puzzles that have none of their own
    <name>                   what identifiers.json calls the puzzle
    <fingerprint>#<name>     the same, where a data set listed before has a puzzle of that name, too
    <fingerprint>#<number>   identifier of a puzzle that has no name, or shares it with others of its data set

Checkpoints and exports hold these names, and by them puzzles find their rows in the table of another run. Of several
data sets in which a name stands, a data set that is none of them finds the one that was listed first.
"""
import json
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.common import (
    BLANK_IDENTIFIER,
    IDENTIFIER_NAMES,
    MOST_IDENTIFIER,
    dataset_files,
    dataset_fingerprint,
    load_metadata,
)
from dataset.example_set import Numbering
from dataset.latent_episodes import SPLITS, episode_records, holds_episodes
from utils.checkpoint import load_weights, puzzle_table_rows
from utils.distributed import decided_by_main

MARK = "#"  # between fingerprint and name
LONGEST_NAME = 1000  # bytes, on average: what unpacks to more is no list of names


class DataFolder:
    """A data set where it lies. What takes time to read is read when it is asked for, once."""

    def __init__(self, path: str):
        self.path = path
        self.identifiers, self.blank = _identifiers_of(path)

    @property
    def has_blank(self) -> bool:
        """Is its first identifier the blank, whose row all data sets share?"""
        return self.blank == 0

    @cached_property
    def fingerprint(self) -> str:
        return dataset_fingerprint(self.path)

    @cached_property
    def names(self) -> list[str | None] | None:
        """By identifier, the name that no other one has; None where there is no identifiers.json."""
        file = Path(self.path) / IDENTIFIER_NAMES
        if not file.is_file():
            return None
        names = read_names(file)[:self.identifiers]
        times = Counter(names)
        return [name if times[name] == 1 and name != BLANK_IDENTIFIER else None for name in names] \
            + [None] * (self.identifiers - len(names))

    def called(self) -> list[str | None]:
        """By identifier, its name, that of the blank included; None where it has none of its own."""
        names = list(self.names or [None] * self.identifiers)
        if 0 <= self.blank < self.identifiers:
            names[self.blank] = BLANK_IDENTIFIER
        return names

    def marked(self, identifier: int) -> str:
        """The name of an identifier, or its number, that no other data set has."""
        name = self.names[identifier] if self.names else None
        return f"{self.fingerprint}{MARK}{identifier if name is None else name}"

    @cached_property
    def sizes(self) -> dict[str, int]:
        return {file.relative_to(self.path).as_posix(): file.stat().st_size for file in dataset_files(self.path)}

    def is_same(self, other: "DataFolder") -> bool:
        """Whether it is the same data set: the same folder, or another one with the same contents."""
        return Path(self.path).samefile(other.path) or (
            self.sizes == other.sizes and self.fingerprint == other.fingerprint)


class PuzzleRows:
    """One puzzle table for several data sets: which rows are whose, and what they are called.

    `paths`: data sets, each of which has rows of its own, in this order, behind that of the blank. `test_paths`: data
    sets whose puzzles share the row of the puzzle of the same name, and get a new row where there is no such puzzle.
    Every rank must make it. Raises ValueError for a path without a data set, and for too many identifiers.
    """

    def __init__(self, paths: Sequence[str], test_paths: Sequence[str] = ()):
        every = {path: DataFolder(path) for path in [*paths, *test_paths]}
        first = decided_by_main(lambda: _first_of_equals(list(every.values())))
        # the data set of each path; equal ones are one
        self.folders = {path: every[first[path]] for path in every}
        self.numberings: dict[str, Numbering] = {}
        # rows of the table
        self.total = int(any(folder.has_blank for folder in every.values()))
        for path, folder in self.folders.items():
            is_new = folder.path not in self.numberings
            number = self._number_by_name if path not in paths else self._number
            self.numberings[path] = number(folder) if is_new else self.numberings[folder.path]
        if self.total - 1 > MOST_IDENTIFIER:
            raise ValueError(f"{', '.join(every)}: together the puzzle identifiers go up to {self.total - 1}, and "
                             f"{MOST_IDENTIFIER} is the largest possible (int32); number puzzles from 0 on")

    @property
    def distinct(self) -> list[DataFolder]:
        return list({folder.path: folder for folder in self.folders.values()}.values())

    def _number(self, folder: DataFolder) -> Numbering:
        offset = self.total - folder.has_blank
        self.total += folder.identifiers - folder.has_blank
        return Numbering(folder.blank, offset)

    def _number_by_name(self, folder: DataFolder) -> Numbering:
        there_are = [other for other in self.distinct if other.path in self.numberings and other.names]
        if folder.names is None or not there_are:
            return self._number(folder)
        row_of: dict[str, int] = {}
        for other in there_are:
            for name, row in zip(other.names, self.rows_of(other).tolist()):
                row_of.setdefault(name, row)
        rows = np.array([-1 if name is None else row_of.get(name, -1) for name in folder.names])
        if 0 <= folder.blank < folder.identifiers:
            rows[folder.blank] = folder.blank
        new = rows < 0
        rows[new] = self.total + np.arange(new.sum())
        self.total += int(new.sum())
        return Numbering(folder.blank, rows=rows.astype(np.int32))

    def rows_of(self, folder: DataFolder) -> np.ndarray:
        """Row (identifiers,) of each of a data set's identifiers."""
        return self.numberings[folder.path].to_rows(np.arange(folder.identifiers))

    def names(self) -> list[str]:
        """What each row is called."""
        names: list[str | None] = [None] * self.total
        taken: set[str] = set()
        for folder in self.distinct:
            called = folder.called()
            for i, row in enumerate(self.rows_of(folder).tolist()):
                if names[row] is None:
                    names[row] = called[i] if called[i] is not None and called[i] not in taken else folder.marked(i)
            taken.update(called)
        return names

    def facts(self, has_table: bool) -> dict:
        """What a checkpoint says of its data sets and, where the model has a puzzle table, of whose its rows are."""
        fingerprints = {path: folder.fingerprint for path, folder in self.folders.items()}
        return {"data_fingerprints": fingerprints} | ({"puzzle_names": packed(self.names())} if has_table else {})

    def among(self, names: Sequence[str], fingerprints: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
        """For each row, that of the same puzzle (total,) in a table with such names, of data sets of such fingerprints,
        -1 where there is none; and whether (total,) it may be another's, whose name stands in several of them."""
        row_of = dict(zip(reversed(names), range(len(names) - 1, -1, -1)))  # the first of equal names
        again = {name.partition(MARK)[2] for name in names if MARK in name}
        found, doubtful = np.full(self.total, -1), np.zeros(self.total, bool)
        for folder in reversed(self.distinct):  # a row that several have is that of the first
            called, rows = folder.called(), self.rows_of(folder)
            found[rows] = [row_of.get(name, -1) for name in called]
            if again:
                sure = np.array([row_of.get(folder.marked(i), -1) for i in range(len(called))])
                if folder.fingerprint not in fingerprints:
                    doubtful[rows] = (found[rows] >= 0) & (sure < 0) & [name in again for name in called]
                found[rows] = np.where(sure < 0, found[rows], sure)
        return found, doubtful


def _identifiers_of(path: str) -> tuple[int, int]:
    """How many identifiers a data set has in all its splits, and which of them is the blank; -1: none."""
    if any(holds_episodes(path, split) for split in SPLITS):
        every = [record for records in episode_records(path).values() for record in records]
        return 1 + max((record["puzzle_identifier"] for record in every), default=-1), -1
    there = [split for split in SPLITS if (Path(path) / split / "dataset.json").is_file()]
    splits = [load_metadata(path, split) for split in there or ["train"]]
    return max(split.num_puzzle_identifiers for split in splits), splits[0].blank_identifier_id


def _first_of_equals(folders: Sequence[DataFolder]) -> dict[str, str]:
    """The path at which the data set of each path was first met."""
    return {folder.path: next(other.path for other in folders if other is folder or other.is_same(folder))
            for folder in folders}


def read_names(file: Path) -> list[str]:
    """The names in an identifiers.json. Raises ValueError for anything else."""
    try:
        return _checked(json.loads(file.read_text()))
    except (ValueError, RecursionError) as error:  # of JSON, too
        raise ValueError(f"{file} does not list the names of puzzles ({error}); restore or remove it") from error


def _checked(names) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("it is no list of strings")
    return names


def packed(names: Sequence[str]) -> Tensor:
    """Names as bytes (uint8) that a checkpoint can hold: of the 876,000 rows of ARC, 7 MB."""
    return torch.frombuffer(bytearray(zlib.compress(json.dumps(names).encode(), level=1)), dtype=torch.uint8)


def unpacked(names: Tensor, rows: int, file: Path) -> list[str]:
    """The names of so many rows. Raises ValueError where they are anything else, naming the file that they are from."""
    try:
        unpacking = zlib.decompressobj()
        return _checked(json.loads(unpacking.decompress(names.numpy().tobytes(), LONGEST_NAME * (rows + 1))))
    except (zlib.error, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: its puzzle_names are no list of names ({error}); use another checkpoint") from error


def names_in(payload: dict, file: Path, rows: int) -> list[str] | None:
    """The name of each row of a checkpoint's puzzle table: from the checkpoint, else from identifiers.json beside it.
    None where neither tells. Raises ValueError where there are not as many names as rows."""
    beside = file.parent / IDENTIFIER_NAMES
    if "puzzle_names" in payload:
        where, names = file, unpacked(payload["puzzle_names"], rows, file)
    elif beside.is_file():
        where, names = beside, read_names(beside)
    else:
        return None
    if len(names) != rows:
        raise ValueError(f"{where} names {len(names)} puzzles, and the puzzle table of {file} has {rows} rows; "
                         "restore the file that belongs to it")
    return names


def fingerprints_in(payload: dict, file: Path) -> dict[str, str]:
    """Fingerprints by path of the data sets that a checkpoint was trained on; empty where it does not say."""
    fingerprints = payload.get("data_fingerprints") or {}
    if not isinstance(fingerprints, dict) or not all(isinstance(text, str) for pair in fingerprints.items()
                                                     for text in pair):
        raise ValueError(f"{file}: its data_fingerprints are no texts by path; use another checkpoint")
    return fingerprints


def _names_of_old(fingerprints: dict[str, str], rows: int) -> list[str] | None:
    """The names that an older checkpoint of ours, which has none, would give its rows. Each path then had rows of its
    own. They are made from the data sets; None where one is missing or has changed."""
    if any(not Path(path).is_dir() or dataset_fingerprint(path) != then for path, then in fingerprints.items()):
        return None
    names: list[str] = []
    taken, seen = set(), set()
    for folder in map(DataFolder, fingerprints):
        called, again = folder.called(), fingerprints[folder.path] in seen  # again: the rows before it trained
        own = [name if name is not None and (again or name not in taken) else folder.marked(i)
               for i, name in enumerate(called)]
        names += own[1:] if names and folder.has_blank else own
        taken.update(called)
        seen.add(fingerprints[folder.path])
    return names if len(names) == rows else None


def load_by_name(head, state: dict[str, Tensor], payload: dict, file: Path, data, trains: bool) -> list[str]:
    """Load a checkpoint's weights into the loss head, with the puzzle embeddings that `taken_rows` chooses. Returns
    notices about them."""
    table, rows, notices = puzzle_table_rows(state), None, []
    if table is not None and head.puzzle_embedding is not None:
        rows, notices = taken_rows(data, payload, file, table, trains)
    load_weights(head, state, file, rows)
    return notices


def taken_rows(data, payload: dict, file: Path, table: int, trains: bool) -> tuple[Tensor | None, list[str]]:
    """Which row of a checkpoint's puzzle table each row of the table of the data (`PuzzleDataset`) takes.

    Returns rows (total,), where -1 means the mean of all, or None where each takes its own; and notices about the rows
    that the split uses. `table`: rows in the checkpoint. Where the checkpoint does not say whose its rows are, and they
    cannot be those of the data, all rows start at the mean if it is trained further (`trains`). If it is scored, that
    is a ValueError.
    """
    rows, used = data.rows, data.own_rows()
    whose, names = ", ".join(folder.path for folder in rows.distinct), names_in(payload, file, table)
    fingerprints = fingerprints_in(payload, file)
    if names is None and not len(used):
        return torch.zeros(rows.total, dtype=torch.long), []  # none but the blank, which is the first
    if names is None and fingerprints:
        names = _names_of_old(fingerprints, table)
    remedy = "put the identifiers.json of its data beside it"
    if names is None:
        fits, then = table == rows.total, list(fingerprints.values())
        if fits and then and then == [folder.fingerprint for folder in rows.distinct]:
            return None, []
        if fits and not then:
            return None, [f"{file} does not say whose puzzle embeddings it holds; they are taken for those of {whose}, "
                          f"in its order. If it was trained on other puzzles, {remedy}"]
        if not trains:
            raise ValueError(f"{file} does not say whose its {table} puzzle embeddings are, and they are not those of "
                             f"{whose}, which has {rows.total}; score the data set that it was trained on, or {remedy}")
    found, doubtful = rows.among(names or [], fingerprints.values())
    notices = []
    missing, in_doubt = int((found[used] < 0).sum()), int(doubtful[used].sum())
    if missing:
        notices.append(f"{missing} of the {len(used)} puzzles of {whose} have no embedding in {file}; theirs "
                       f"{'start at' if trains else 'are'} the mean of those there")
    if in_doubt:
        notices.append(f"{in_doubt} of the {len(used)} puzzles of {whose} have a name that stands in several data sets "
                       f"of {file}; they take the embedding of the one listed first")
    return None if np.array_equal(found, np.arange(table)) else torch.from_numpy(found), notices


def row_notices(train, test) -> list[str]:
    """What there is to say of the rows that two splits (`PuzzleDataset`) of a run have in their common table."""
    rows, notices = train.rows, []
    for folder in rows.distinct:
        numbering = rows.numberings[folder.path]
        if numbering.offset:
            notices.append(f"identifiers of {folder.path} are those stored there plus {numbering.offset}")
        if numbering.rows is not None:
            notices.append(f"puzzles of {folder.path} have the embeddings of those of the same name in "
                           f"{train.config.folders}")
    used = test.own_rows()
    untrained = len(np.setdiff1d(used, train.own_rows()))
    if untrained:
        notices.append(f"{untrained} of the {len(used)} test puzzles have an embedding that no training puzzle has, so "
                       "it stays as it starts")
    return notices
