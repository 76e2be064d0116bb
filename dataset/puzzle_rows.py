"""Which puzzle of which data set each row of the puzzle table belongs to, by names that outlast paths.

A data set is recognised by its contents, not by its path. The name of a row is one of

    <blank>                  the row of all puzzles that have no row of their own
    <name>                   the name of the puzzle in identifiers.json
    <fingerprint>#<name>     the fingerprint of the data set and the name, if an earlier data set has the same name
    <fingerprint>#<number>   the fingerprint and the identifier, if the puzzle has no name, or no unique one

Checkpoints and exports store these names. By them, a puzzle finds its row in the table of another run. If the name
occurs in several data sets of that run, and the puzzle is of none of them, it gets the row of the first one.
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
LONGEST_NAME = 1000  # bytes on average; a list of names that unpacks to more is refused


class DataFolder:
    """A data set in its folder. Names and fingerprint are read once, when they are first needed."""

    def __init__(self, path: str):
        self.path = path
        self.identifiers, self.blank = _identifiers_of(path)

    @property
    def has_blank(self) -> bool:
        """Whether its first identifier is the blank, whose row all data sets share."""
        return self.blank == 0

    @cached_property
    def fingerprint(self) -> str:
        return dataset_fingerprint(self.path)

    @cached_property
    def names(self) -> list[str | None] | None:
        """The name of each identifier, or None in its place if the name is not unique. None without identifiers.json.
        """
        file = Path(self.path) / IDENTIFIER_NAMES
        if not file.is_file():
            return None
        names = read_names(file)[:self.identifiers]
        times = Counter(names)
        return [name if times[name] == 1 and name != BLANK_IDENTIFIER else None for name in names] \
            + [None] * (self.identifiers - len(names))

    def called(self) -> list[str | None]:
        """The name of each identifier, including the blank. None in its place if it has no unique name."""
        names = list(self.names or [None] * self.identifiers)
        if 0 <= self.blank < self.identifiers:
            names[self.blank] = BLANK_IDENTIFIER
        return names

    def marked(self, identifier: int) -> str:
        """The name or the number of an identifier, with the fingerprint, so that no other data set has the same."""
        name = self.names[identifier] if self.names else None
        return f"{self.fingerprint}{MARK}{identifier if name is None else name}"

    @cached_property
    def sizes(self) -> dict[str, int]:
        return {file.relative_to(self.path).as_posix(): file.stat().st_size
                for file in dataset_files(self.path)}

    def is_same(self, other: "DataFolder") -> bool:
        """Whether it is the same data set: the same folder, or another one with the same contents."""
        return Path(self.path).samefile(other.path) or (
            self.sizes == other.sizes and self.fingerprint == other.fingerprint)


class PuzzleRows:
    """The rows of one puzzle table for several data sets, and their names.

    `paths`: data sets with rows of their own, in this order, after the row of the blank.
    `test_paths`: data sets whose puzzles share the row of the puzzle with the same name. A puzzle gets a new row if no
    other puzzle has its name.

    Every rank must make it. Raises ValueError for a path without a data set, and for too many identifiers.
    """

    def __init__(self, paths: Sequence[str], test_paths: Sequence[str] = ()):
        every = {path: DataFolder(path) for path in [*paths, *test_paths]}
        first = decided_by_main(lambda: _first_of_equals(list(every.values())))
        # the data set of each path; paths of equal data sets have the same object
        self.folders = {path: every[first[path]] for path in every}
        self.numberings: dict[str, Numbering] = {}
        # number of rows of the table
        self.total = int(any(folder.has_blank for folder in every.values()))
        for path, folder in self.folders.items():
            is_new = folder.path not in self.numberings
            number = self._number_by_name if path not in paths else self._number
            self.numberings[path] = number(folder) if is_new else self.numberings[folder.path]
        if self.total - 1 > MOST_IDENTIFIER:
            raise ValueError(f"{', '.join(every)}: together the puzzle identifiers go up to "
                             f"{self.total - 1}, and {MOST_IDENTIFIER} is the largest possible "
                             "(int32); number puzzles from 0 on")

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
        """The row (identifiers,) of each identifier of a data set."""
        return self.numberings[folder.path].to_rows(np.arange(folder.identifiers))

    def names(self) -> list[str]:
        """The name of each row."""
        names: list[str | None] = [None] * self.total
        taken: set[str] = set()
        for folder in self.distinct:
            called = folder.called()
            for i, row in enumerate(self.rows_of(folder).tolist()):
                if names[row] is None:
                    is_free = called[i] is not None and called[i] not in taken
                    names[row] = called[i] if is_free else folder.marked(i)
            taken.update(called)
        return names

    def facts(self, has_table: bool) -> dict:
        """What a checkpoint stores of its data sets: fingerprints by path and, with a puzzle table, names of rows."""
        fingerprints = {path: folder.fingerprint for path, folder in self.folders.items()}
        return {"data_fingerprints": fingerprints} | ({"puzzle_names": packed(self.names())} if has_table else {})

    def among(self, names: Sequence[str],
              fingerprints: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
        """Find the puzzle of each row in the table of a checkpoint, from the `names` of the rows there and the
        `fingerprints` of its data sets.

        Returns the row in that table (total,), -1 where it has no such puzzle, and whether this is doubtful (total,):
        the name occurs in several of those data sets, and ours is none of them.
        """
        row_of = dict(zip(reversed(names), range(len(names) - 1, -1, -1)))  # the first row of a name that occurs twice
        again = {name.partition(MARK)[2] for name in names if MARK in name}
        found, doubtful = np.full(self.total, -1), np.zeros(self.total, bool)
        for folder in reversed(self.distinct):  # where data sets share a row, the first one decides
            called, rows = folder.called(), self.rows_of(folder)
            found[rows] = [row_of.get(name, -1) for name in called]
            if again:
                sure = np.array([row_of.get(folder.marked(i), -1) for i in range(len(called))])
                if folder.fingerprint not in fingerprints:
                    doubtful[rows] = (found[rows] >= 0) & (sure < 0) & [name in again
                                                                        for name in called]
                found[rows] = np.where(sure < 0, found[rows], sure)
        return found, doubtful


def _identifiers_of(path: str) -> tuple[int, int]:
    """The number of identifiers in all splits of a data set, and the identifier of the blank (-1: there is none)."""
    if any(holds_episodes(path, split) for split in SPLITS):
        every = [record for records in episode_records(path).values() for record in records]
        return 1 + max((record["puzzle_identifier"] for record in every), default=-1), -1
    there = [split for split in SPLITS if (Path(path) / split / "dataset.json").is_file()]
    splits = [load_metadata(path, split) for split in there or ["train"]]
    return max(split.num_puzzle_identifiers for split in splits), splits[0].blank_identifier_id


def _first_of_equals(folders: Sequence[DataFolder]) -> dict[str, str]:
    """For each path, the first path at which the same data set is."""
    return {folder.path: next(other.path for other in folders if other is folder or other.is_same(folder))
            for folder in folders}


def read_names(file: Path) -> list[str]:
    """The names in an identifiers.json. Raises ValueError if the file does not hold a list of strings."""
    try:
        return _checked(json.loads(file.read_text()))
    except (ValueError, RecursionError) as error:  # of JSON, too
        raise ValueError(f"{file} does not list the names of puzzles "
                         f"({error}); restore or remove it") from error


def _checked(names) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("it is no list of strings")
    return names


def packed(names: Sequence[str]) -> Tensor:
    """Names as compressed bytes (uint8) for a checkpoint. The 876,000 names of ARC take 7 MB."""
    return torch.frombuffer(bytearray(zlib.compress(json.dumps(names).encode(), level=1)),
                            dtype=torch.uint8)


def unpacked(names: Tensor, rows: int, file: Path) -> list[str]:
    """The names that `packed` compressed. `rows`: how many there should be, which limits the memory that is used.

    Raises ValueError, with the name of `file`, if they are not a list of names.
    """
    try:
        unpacking = zlib.decompressobj()
        return _checked(json.loads(unpacking.decompress(names.numpy().tobytes(),
                                                        LONGEST_NAME * (rows + 1))))
    except (zlib.error, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: its puzzle_names are no list of names ({error}); "
                         "use another checkpoint") from error


def names_in(payload: dict, file: Path, rows: int) -> list[str] | None:
    """The name of each row of a checkpoint's puzzle table, from the checkpoint or from an identifiers.json beside it.

    None if neither has them. Raises ValueError if the number of names is not `rows`.
    """
    beside = file.parent / IDENTIFIER_NAMES
    if "puzzle_names" in payload:
        where, names = file, unpacked(payload["puzzle_names"], rows, file)
    elif beside.is_file():
        where, names = beside, read_names(beside)
    else:
        return None
    if len(names) != rows:
        raise ValueError(f"{where} names {len(names)} puzzles, and the puzzle table of {file} has "
                         f"{rows} rows; restore the file that belongs to it")
    return names


def fingerprints_in(payload: dict, file: Path) -> dict[str, str]:
    """The fingerprints of the data sets that a checkpoint was trained on, by path. Empty if it does not tell them."""
    fingerprints = payload.get("data_fingerprints") or {}
    if not isinstance(fingerprints, dict) or not all(isinstance(text, str)
                                                     for pair in fingerprints.items()
                                                     for text in pair):
        raise ValueError(f"{file}: its data_fingerprints do not map paths to texts; "
                         "use another checkpoint")
    return fingerprints


def _names_of_old(fingerprints: dict[str, str], rows: int) -> list[str] | None:
    """The names of rows for a checkpoint of an older version, which stores none, made from its data sets.

    In those versions each path had rows of its own. None if a data set is missing or has changed.
    """
    if any(not Path(path).is_dir() or dataset_fingerprint(path) != then
           for path, then in fingerprints.items()):
        return None
    names: list[str] = []
    taken, seen = set(), set()
    for folder in map(DataFolder, fingerprints):
        # `again`: this is a second path to a data set; its names repeat, and a lookup finds the rows of the first path
        called, again = folder.called(), fingerprints[folder.path] in seen
        own = [name if name is not None and (again or name not in taken) else folder.marked(i)
               for i, name in enumerate(called)]
        names += own[1:] if names and folder.has_blank else own
        taken.update(called)
        seen.add(fingerprints[folder.path])
    return names if len(names) == rows else None


def load_by_name(head, state: dict[str, Tensor], payload: dict, file: Path, data,
                 trains: bool) -> list[str]:
    """Load a checkpoint's weights into the loss head, with the puzzle embeddings that `taken_rows` chooses.

    Returns notices about these.
    """
    table, rows, notices = puzzle_table_rows(state), None, []
    if table is not None and head.puzzle_embedding is not None:
        rows, notices = taken_rows(data, payload, file, table, trains)
    load_weights(head, state, file, rows)
    return notices


def taken_rows(data, payload: dict, file: Path, table: int,
               trains: bool) -> tuple[Tensor | None, list[str]]:
    """Choose the row of a checkpoint's puzzle table that each row of the data's table takes its embedding from.

    `data`: a `PuzzleDataset`. `table`: number of rows in the checkpoint. `trains`: whether the weights will be trained
    further, or scored.

    Returns rows (total,), where -1 stands for the mean of all rows, and notices about rows that the split uses. None in
    place of rows: both tables have the same rows.

    If the checkpoint does not tell whose rows it has, and they cannot be those of the data, then all rows are -1 for
    training. For scoring, this raises ValueError.
    """
    rows, used = data.rows, data.own_rows()
    whose, names = ", ".join(folder.path for folder in rows.distinct), names_in(payload, file, table)
    fingerprints = fingerprints_in(payload, file)
    if names is None and not len(used):
        return torch.zeros(rows.total, dtype=torch.long), []  # all puzzles have the blank row, which is the first
    if names is None and fingerprints:
        names = _names_of_old(fingerprints, table)
    remedy = "put the identifiers.json of its data beside it"
    if names is None:
        fits, then = table == rows.total, list(fingerprints.values())
        if fits and then and then == [folder.fingerprint for folder in rows.distinct]:
            return None, []
        if fits and not then:
            return None, [f"{file} does not say whose puzzle embeddings it holds; they are "
                          f"taken for those of {whose}, in its order. If it was trained on "
                          f"other puzzles, {remedy}"]
        if not trains:
            raise ValueError(f"{file} does not say whose its {table} puzzle embeddings are, and "
                             f"they are not those of {whose}, which has {rows.total}; score the "
                             f"data set that it was trained on, or {remedy}")
    found, doubtful = rows.among(names or [], fingerprints.values())
    notices = []
    missing, in_doubt = int((found[used] < 0).sum()), int(doubtful[used].sum())
    if missing:
        notices.append(f"{missing} of the {len(used)} puzzles of {whose} have no embedding in "
                       f"{file}; theirs {'start at' if trains else 'are'} the mean of those there")
    if in_doubt:
        notices.append(f"{in_doubt} of the {len(used)} puzzles of {whose} have a name "
                       f"that stands in several data sets of {file}; they take the "
                       "embedding of the one listed first")
    return None if np.array_equal(found, np.arange(table)) else torch.from_numpy(found), notices


def row_notices(train, test) -> list[str]:
    """Notices about the rows that the training and the test data (`PuzzleDataset`) of a run have in their table."""
    rows, notices = train.rows, []
    for folder in rows.distinct:
        numbering = rows.numberings[folder.path]
        if numbering.offset:
            notices.append(f"identifiers of {folder.path} are raised by {numbering.offset}, since "
                           "data sets share a table")
        if numbering.rows is not None:
            notices.append(f"puzzles of {folder.path} have the embeddings of the puzzles with the "
                           f"same name in {train.config.folders}")
    used = test.own_rows()
    untrained = len(np.setdiff1d(used, train.own_rows()))
    if untrained:
        notices.append(f"{untrained} of the {len(used)} test puzzles have an embedding that no "
                       "training puzzle has, so it stays as it starts")
    return notices
