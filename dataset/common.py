"""The on-disk format of a data set, for puzzles the published one: metadata, names of files, writing, fingerprint.

    <dataset>/identifiers.json            name of each puzzle identifier; entry 0 is "<blank>"
    <dataset>/test_puzzles.json           ARC: the test tasks by id, as in their files, answers included
    <dataset>/source.json                 what built it: command, source files and their SHA-256, row counts (ours)
    <dataset>/<split>/dataset.json        `PuzzleDatasetMetadata`, or `RegressionMetadata`
    <dataset>/<split>/<set>__<field>.npy  one array a field of `FIELDS`

A *group* holds puzzles that are augmentations of one another; a *puzzle* holds examples; an *example* is one row of
`inputs` and `labels`, (N, L) integers below the vocabulary size. `group_indices` (groups + 1) and `puzzle_indices`
(puzzles + 1) hold the first puzzle of each group and the first example of each puzzle; `puzzle_identifiers` has one
entry a puzzle. Regression data (dataset/regression_dataset.py) hold floats, and `targets` in place of labels; a split
of latent episodes (dataset/latent_episodes.py) has files of its own.
"""
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FIELDS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
MOST_IDENTIFIER = np.iinfo(np.int32).max  # of puzzles
BLANK_IDENTIFIER = "<blank>"
IGNORE_LABEL_ID = -100  # what a label becomes, once loaded, where no answer is asked for (PyTorch's convention)


class SplitMetadata(BaseModel):
    """What is known of one split, whatever its task. Keys that we do not know, written by others, are kept out of the
    way."""

    model_config = ConfigDict(extra="ignore")

    KIND: ClassVar[str]  # what the data are, in messages
    AGREE: ClassVar[tuple[str, ...]]  # keys in which data sets must agree to be mixed
    MODEL_KEYS: ClassVar[dict[str, str]]  # keys of a model's config that the data decide, and theirs here

    # puzzle identifier that no puzzle owns, shared by all puzzles that have no embedding of their own; -1: none
    blank_identifier_id: int
    # length L of a sequence
    seq_len: int
    # rows of the puzzle-embedding table, the blank included
    num_puzzle_identifiers: int
    total_groups: int
    # mean number of examples in a puzzle
    mean_puzzle_examples: float
    total_puzzles: int
    # names of the sets in this split
    sets: list[str]

    def model_sizes(self) -> dict[str, int]:
        """What the data decide of a model's config."""
        return {key: getattr(self, of_data) for key, of_data in self.MODEL_KEYS.items()}

    def batch_fields(self) -> dict[str, "BatchField"]:
        """What a batch holds."""
        raise NotImplementedError


@dataclass(frozen=True)
class BatchField:
    """Shape of a row, dtype by name and, of integers, the number that all are below and the one that is no value."""

    shape: tuple[int, ...]
    dtype: str
    below: int | None = None
    ignored: int | None = None


class PuzzleDatasetMetadata(SplitMetadata):
    """`dataset.json` of one split of puzzles."""

    task_type: ClassVar[str] = "classification"
    KIND = "puzzles"
    AGREE = ("vocab_size", "seq_len", "pad_id", "ignore_label_id", "blank_identifier_id")
    MODEL_KEYS = {key: key for key in ("seq_len", "vocab_size", "num_puzzle_identifiers")}

    # token that fills `inputs` where a batch is padded
    pad_id: int
    # label value on disk that means "no answer asked here"; None: every cell counts
    ignore_label_id: int | None
    # number of tokens V; every input and label is below it
    vocab_size: int

    def batch_fields(self) -> dict[str, BatchField]:
        cells = BatchField((self.seq_len,), "int32", self.vocab_size)
        return {"inputs": cells, "labels": replace(cells, ignored=IGNORE_LABEL_ID),
                "puzzle_identifiers": BatchField((), "int32", self.num_puzzle_identifiers)}


class RegressionMetadata(SplitMetadata):
    """`dataset.json` of one split of regression data; keys of puzzles may be absent or null."""

    KIND = "regression data"
    AGREE = ("input_dim", "target_dim", "seq_len", "inputs_shape", "input_pad_value", "target_pad_value",
             "blank_identifier_id")
    MODEL_KEYS = {"seq_len": "seq_len", "latent_dim": "input_dim", "output_dim": "target_dim",
                  "num_puzzle_identifiers": "num_puzzle_identifiers"}

    task_type: Literal["regression"]
    # floats at a position of the inputs, and of the targets
    input_dim: int = Field(gt=0)
    target_dim: int = Field(gt=0)
    # what fills inputs where there are none, and targets where they are not observed
    input_pad_value: float = 0.0
    target_pad_value: float = 0.0

    blank_identifier_id: int = 0
    num_puzzle_identifiers: int = 1
    # taken from the arrays: the length where it is absent, the counts always
    seq_len: int = 0
    total_groups: int = 0
    mean_puzzle_examples: float = 0.0
    total_puzzles: int = 0
    # examples are rows (dim,), sequences of length 1; None: not known before an array is opened
    flat: bool | None = Field(None, exclude=True)

    @field_validator("input_pad_value", "target_pad_value")
    @classmethod
    def _fits_float32(cls, value: float) -> float:
        if not abs(value) <= np.finfo(np.float32).max:
            raise ValueError(f"{value} is no finite float32; pad with a number such as 0.0")
        return value

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any):
        return {key: value for key, value in values.items() if value is not None}

    def batch_fields(self) -> dict[str, BatchField]:
        inputs, targets = (self.row_shape(width) for width in (self.input_dim, self.target_dim))
        return {"inputs": BatchField(inputs, "float32"), "targets": BatchField(targets, "float32"),
                "target_mask": BatchField(targets, "bool"),
                "puzzle_identifiers": BatchField((), "int32", self.num_puzzle_identifiers)}

    @property
    def inputs_shape(self) -> str:
        return f"(N, {', '.join(map(str, self.row_shape(self.input_dim)))})"

    def row_shape(self, width: int) -> tuple[int, ...]:
        return (width,) if self.flat else (self.seq_len, width)


class EpisodeMetadata(RegressionMetadata):
    """A split of latent episodes: no file has it, it is read off the episodes. The targets are the next inputs."""

    KIND = "latent episodes"
    AGREE = ("input_dim", "seq_len")
    blank_identifier_id: int = -1


def field_path(split_dir: Path, set_name: str, field: str) -> Path:
    return split_dir / f"{set_name}__{field}.npy"


def write_json(path: Path, value, indent: int | None = 1) -> None:
    path.write_text(json.dumps(value, indent=indent) + "\n")


def open_field(split_dir: Path, field: str, shape: tuple[int, ...], set_name: str = "all") -> np.memmap:
    """A new uint8 array that lives in its file: fill it and hand it to `write_split`, which leaves it there.

    Arrays larger than memory can be written so.
    """
    split_dir.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(field_path(split_dir, set_name, field), "w+", np.uint8, shape)


def write_split(split_dir: Path, arrays: Mapping[str, np.ndarray], vocab_size: int, num_puzzle_identifiers: int = 1,
                set_name: str = "all", ignore_label_id: int | None = 0) -> PuzzleDatasetMetadata:
    """Write one split with one set. `arrays` maps each of `FIELDS` to its array; pad and blank identifier are 0."""
    split_dir.mkdir(parents=True, exist_ok=True)
    puzzles = len(arrays["puzzle_identifiers"])
    examples, seq_len = arrays["inputs"].shape
    metadata = PuzzleDatasetMetadata(
        pad_id=0, ignore_label_id=ignore_label_id, blank_identifier_id=0, vocab_size=vocab_size, seq_len=seq_len,
        num_puzzle_identifiers=num_puzzle_identifiers, total_groups=len(arrays["group_indices"]) - 1,
        mean_puzzle_examples=examples / puzzles, total_puzzles=puzzles, sets=[set_name])
    write_json(split_dir / "dataset.json", metadata.model_dump())
    for field in FIELDS:
        path = field_path(split_dir, set_name, field)
        if not _lives_in(arrays[field], path):
            np.save(path, arrays[field])
    return metadata


def _lives_in(array: np.ndarray, path: Path) -> bool:
    return isinstance(array, np.memmap) and path.exists() and os.path.samefile(array.filename, path)


@contextmanager
def new_dataset_directory(path: str | Path, needed_bytes: int, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that gets the name `path` only when the body ends well.

    An interrupted build thus leaves nothing that looks complete. Raises ValueError if `path` exists and `overwrite`
    is false, or if the disk holds less than `needed_bytes` and a tenth more.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; remove it, pass --overwrite, or choose another --output-dir")
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < 1.1 * needed_bytes:
        raise ValueError(f"{path} needs about {needed_bytes / 1e6:.0f} MB, and {path.parent} has {free / 1e6:.0f} MB "
                         "free; make some space or choose another --output-dir")
    building = Path(tempfile.mkdtemp(prefix=f".{path.name}.building-", dir=path.parent))
    os.chmod(building, 0o755)  # mkdtemp keeps others out; a dataset is for sharing
    try:
        yield building
        if path.exists():
            shutil.rmtree(path)
        building.rename(path)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def dataset_fingerprint(path: str | Path) -> str:
    """SHA-256 over the names and contents of a dataset's files, published ones included; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    files = sorted(p for p in Path(path).rglob("*") if p.suffix in (".npy", ".npz", ".json", ".jsonl")
                   and p.name != "source.json")  # provenance, with paths and dates, is no part of what is learned
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        for file, sha256 in zip(files, pool.map(file_sha256, files)):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256}\0".encode())
    return digest.hexdigest()[:16]
