"""The format of data sets on disk, for puzzles the published one: metadata, file names, writing and fingerprints.

    <dataset>/identifiers.json            name of each puzzle identifier; entry 0 is "<blank>"
    <dataset>/test_puzzles.json           ARC: the test tasks by id, as in their files, answers included
    <dataset>/source.json                 what built it: command, source files and their SHA-256, row counts (ours)
    <dataset>/<split>/dataset.json        `PuzzleDatasetMetadata`, or `RegressionMetadata`
    <dataset>/<split>/<set>__<field>.npy  one array for each field of `FIELDS`

A *group* holds puzzles that are augmentations of one another. A *puzzle* holds examples. An *example* is one row of
`inputs` and of `labels`, which are (N, L) integers below the vocabulary size. `group_indices` (groups + 1) holds the
first puzzle of each group, and `puzzle_indices` (puzzles + 1) the first example of each puzzle; the last entry is the
total. `puzzle_identifiers` has one entry for each puzzle.

Puzzles with several solutions, as mazes have, may keep others than the one in `labels`. A field `other_labels`, uint8
(N, K, L), holds K of them for each example, of which some may be equal (ours). They count in the cells that `labels`
has an answer for. dataset.json tells K, as `other_labels`.

A field `rating`, float (groups), may tell how hard the puzzles of each group are (ours); `rating_curriculum` reads it.

Regression data (dataset/regression_dataset.py) hold floats, and `targets` in place of labels. A split of latent
episodes (dataset/latent_episodes.py) has other files.
"""
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FIELDS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
OTHER_LABELS, RATING = "other_labels", "rating"  # fields that puzzles may have besides
BOARDS = ("inputs", "labels", OTHER_LABELS)  # fields of tokens, which symmetries change
MOST_IDENTIFIER = np.iinfo(np.int32).max  # largest puzzle identifier
MOST_POSITIONS = 1 << 20  # longest sequence that a checkpoint may tell, a board of 1024 x 1024
BLANK_IDENTIFIER = "<blank>"
BLOCK_ROWS = 1 << 16  # rows that are checked at a time
IDENTIFIER_NAMES = "identifiers.json"  # in a data set's folder, and beside exported weights
IGNORE_LABEL_ID = -100  # value that ignored labels get when they are loaded (PyTorch's convention)


class SplitMetadata(BaseModel):
    """The metadata that splits of every kind have. Unknown keys, which other software may have written, are ignored."""

    model_config = ConfigDict(extra="ignore")

    KIND: ClassVar[str]  # name of such data in messages
    AGREE: ClassVar[tuple[str, ...]]  # keys in which data sets must agree to be mixed
    MODEL_KEYS: ClassVar[dict[str, str]]  # keys of a model's config that the data decide, and the key here for each

    # identifier shared by all puzzles that have no embedding of their own; -1: there is none
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

    @field_validator("sets")
    @classmethod
    def _are_printable(cls, names: list[str]) -> list[str]:
        """Refuse names that cannot be printed, since names of metrics contain them."""
        for name in names:
            if not name.isprintable():
                raise ValueError(f"the name {name!r} cannot be printed; rename the set")
        return names

    def model_sizes(self) -> dict[str, int]:
        """The values in a model's config that the data decide."""
        return {key: getattr(self, of_data) for key, of_data in self.MODEL_KEYS.items()}

    def facts(self) -> dict[str, Any]:
        """The metadata as plain values, for a checkpoint. `metadata_of` turns them back."""
        return {"holds": self.KIND} | self.model_dump()

    def batch_fields(self) -> dict[str, "BatchField"]:
        """The fields of a batch of such data, by name."""
        raise NotImplementedError


@dataclass(frozen=True)
class BatchField:
    """What a field of a batch may hold."""

    shape: tuple[int, ...]  # of one row
    dtype: str
    below: int | None = None  # integers are from 0 to below this
    ignored: int | None = None  # and this integer is allowed as well, as the absence of a value


class PuzzleDatasetMetadata(SplitMetadata):
    """`dataset.json` of one split of puzzles."""

    task_type: ClassVar[str] = "classification"
    KIND = "puzzles"
    AGREE = ("vocab_size", "seq_len", "pad_id", "ignore_label_id", "blank_identifier_id", OTHER_LABELS)
    MODEL_KEYS = {key: key for key in ("seq_len", "vocab_size", "num_puzzle_identifiers")}

    # token that fills `inputs` where a batch is padded
    pad_id: int
    # label on disk that marks a cell without an answer; None: every cell has one
    ignore_label_id: int | None
    # number of tokens V; every input and label is below it
    vocab_size: int
    # solutions of an example besides its labels
    other_labels: int = Field(0, ge=0)
    # kind of puzzle, the name of a file in dataset/kinds/ or module@Class; None: it is recognised from the data
    kind: str | None = None
    # (V,) readable name of each token; "" is an empty cell; None: the names of the kind
    token_names: list[str] | None = None

    @model_validator(mode="after")
    def _names_are_those_of_the_tokens(self):
        names = self.token_names
        if names is not None and len(names) != self.vocab_size:
            raise ValueError(f"token_names has {len(names)} names, and vocab_size is "
                             f"{self.vocab_size}; name every one")
        for name in names or ():
            if not name.isprintable():
                raise ValueError(f"the token name {name!r} cannot be printed; choose another")
        return self

    def batch_fields(self) -> dict[str, BatchField]:
        cells = BatchField((self.seq_len,), "int32", self.vocab_size)
        fields = {"inputs": cells, "labels": replace(cells, ignored=IGNORE_LABEL_ID),
                  "puzzle_identifiers": BatchField((), "int32", self.num_puzzle_identifiers)}
        if self.other_labels:
            fields[OTHER_LABELS] = BatchField((self.other_labels, self.seq_len), "uint8", self.vocab_size)
        return fields


class RegressionMetadata(SplitMetadata):
    """`dataset.json` of one split of regression data. Keys that concern puzzles may be absent or null."""

    KIND = "regression data"
    AGREE = ("input_dim", "target_dim", "seq_len", "inputs_shape", "input_pad_value", "target_pad_value",
             "blank_identifier_id")
    MODEL_KEYS = {"seq_len": "seq_len", "latent_dim": "input_dim", "output_dim": "target_dim",
                  "num_puzzle_identifiers": "num_puzzle_identifiers"}

    task_type: Literal["regression"]
    # floats at a position of the inputs, and of the targets
    input_dim: int = Field(gt=0)
    target_dim: int = Field(gt=0)
    # values that fill missing inputs, and targets that are not observed
    input_pad_value: float = 0.0
    target_pad_value: float = 0.0

    blank_identifier_id: int = 0
    num_puzzle_identifiers: int = 1
    # taken from the arrays: seq_len if dataset.json does not tell it, the counts always
    seq_len: int = 0
    total_groups: int = 0
    mean_puzzle_examples: float = 0.0
    total_puzzles: int = 0
    # true: examples are vectors (dim,), which count as sequences of length 1; None: not known before an array is opened
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

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"flat": self.flat}  # it is in no dataset.json, but follows from the arrays

    @property
    def inputs_shape(self) -> str:
        return f"(N, {', '.join(map(str, self.row_shape(self.input_dim)))})"

    def row_shape(self, width: int) -> tuple[int, ...]:
        return (width,) if self.flat else (self.seq_len, width)


class EpisodeMetadata(RegressionMetadata):
    """The metadata of a split of latent episodes. They come from the episodes, not from a file. Targets are the next
    inputs."""

    KIND = "latent episodes"
    AGREE = ("input_dim", "seq_len")
    blank_identifier_id: int = -1


METADATA: dict[str, type[SplitMetadata]] = {"classification": PuzzleDatasetMetadata,
                                           "regression": RegressionMetadata}  # by task_type
DESCRIPTIONS = {cls.KIND: cls
                for cls in (PuzzleDatasetMetadata, RegressionMetadata, EpisodeMetadata)}


def metadata_of(facts: object) -> SplitMetadata:
    """The metadata from what `SplitMetadata.facts` returned. Raises ValueError for other values and impossible sizes.
    """
    if not isinstance(facts, dict):
        raise ValueError(f"a {type(facts).__name__} does not describe data")
    found = next((cls for kind, cls in DESCRIPTIONS.items() if kind == facts.get("holds")), None)
    if found is None:
        raise ValueError(f"holds={facts.get('holds')!r}, and there are {', '.join(DESCRIPTIONS)}")
    metadata = found.model_validate(facts)
    for key, size in metadata.model_sizes().items():
        most = MOST_POSITIONS if key == "seq_len" else MOST_IDENTIFIER
        if not 0 < size <= most:
            raise ValueError(f"{key}={size} is not from 1 to {most}")
    return metadata


def load_metadata(path: str | Path, split: str) -> SplitMetadata:
    """Read `dataset.json` of a split. Raises ValueError that names the missing file or the wrong key."""
    file = Path(path) / split / "dataset.json"
    if not Path(path).is_dir():
        raise ValueError(f"no data set at {path}: the folder does not exist; build it first, or tell its folder: "
                         f'data_paths="[FOLDER]"')
    if not file.is_file():
        is_source = (Path(path) / f"{split}.csv").is_file()
        raise ValueError(f"{path} has no {split} split: there is neither {file} nor a folder of latents beside it" + (
            f"; it holds {split}.csv, so build a data set of it: python -m dataset.build_sudoku_dataset (or "
            f"build_maze_dataset) --source-dir {path} --output-dir DIR" if is_source else ""))
    try:
        stored = json.loads(file.read_text())
        task = stored.get("task_type") or "classification"
        if task not in METADATA:
            raise ValueError(f"task_type is {task!r}, and there are {', '.join(METADATA)}")
        return METADATA[task](**stored)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # of JSON and of types, too
        raise ValueError(f"{file} does not describe a data set: {error}") from error


def field_path(split_dir: Path, set_name: str, field: str) -> Path:
    """The file of a field. Raises ValueError for a set's name that would lead to another folder."""
    if not set_name or set_name != Path(set_name).name:
        raise ValueError(f"{split_dir}: set_name={set_name!r} begins the names of files, so it "
                         "cannot be empty or a path; rename the set (`sets` in dataset.json)")
    return split_dir / f"{set_name}__{field}.npy"


def write_json(path: Path, value, indent: int | None = 1) -> None:
    path.write_text(json.dumps(value, indent=indent) + "\n")


def open_field(split_dir: str | Path, field: str, shape: tuple[int, ...],
               set_name: str = "all") -> np.memmap:
    """Make the file of a field as a uint8 array in it, to be filled and then passed to `write_split`.

    So arrays can be written that do not fit in memory.
    """
    Path(split_dir).mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(field_path(Path(split_dir), set_name, field), "w+",
                                     np.uint8, shape)


def write_split(split_dir: str | Path, arrays: Mapping[str, Any], vocab_size: int,
                num_puzzle_identifiers: int = 1,
                set_name: str = "all", ignore_label_id: int | None = 0, overwrite: bool = False,
                kind: str | None = None,
                token_names: Sequence[str] | None = None) -> PuzzleDatasetMetadata:
    """Write one split with one set, and return its metadata.

    `arrays` maps each of `FIELDS` to its array. `inputs` and `labels` are integers (N, L), or N rows of different
    lengths. Shorter rows are filled up at their end, `inputs` with the pad token 0 and `labels` with
    `ignore_label_id`, which is not scored; a notice is printed. The blank identifier is 0. `kind` and `token_names`
    are those of `PuzzleDatasetMetadata`. `other_labels` (N, K, L), uint8, and `rating` (groups,), float, may stand in
    `arrays` besides.

    Raises ValueError, before anything is written, if arrays do not fit together, or if the split exists and
    `overwrite` is false.
    """
    split_dir = Path(split_dir)

    def refuse(field: str, problem: str):
        raise ValueError(f"{split_dir}, {field}: {problem}; nothing was written")

    if {*arrays} - {OTHER_LABELS, RATING} != {*FIELDS}:
        refuse("arrays", f"should be {', '.join(FIELDS)}, and are {', '.join(arrays)}")
    files = {field: field_path(split_dir, set_name, field) for field in (*FIELDS, OTHER_LABELS, RATING)}
    in_place = {field for field, array in arrays.items() if _lives_in(array, files[field])}
    replaced = [file for file in (split_dir / "dataset.json", *(files[field] for field in files
                                                                if field not in in_place)) if file.exists()]
    if replaced and not overwrite:
        raise ValueError(f"{replaced[0]} exists already; remove it, pass overwrite=True, "
                         "or choose another folder")
    arrays = {**arrays, **_of_one_length(split_dir, arrays, ignore_label_id, refuse)}
    arrays = {field: array if field in in_place else np.asarray(array)
              for field, array in arrays.items()}
    check_puzzles(arrays, len(arrays["inputs"]), num_puzzle_identifiers, refuse)
    for field in ("inputs", "labels"):
        _check_tokens(arrays[field], field in in_place, vocab_size, ignore_label_id if field == "labels" else None,
                      partial(refuse, field))
    others = 0
    if OTHER_LABELS in arrays:
        check_other_labels(arrays[OTHER_LABELS], arrays["labels"].shape, partial(refuse, OTHER_LABELS))
        _check_tokens(arrays[OTHER_LABELS], OTHER_LABELS in in_place, vocab_size, None, partial(refuse, OTHER_LABELS))
        others = arrays[OTHER_LABELS].shape[1]
    if RATING in arrays:
        check_rating(arrays[RATING], len(arrays["group_indices"]) - 1, partial(refuse, RATING))
    puzzles = len(arrays["puzzle_identifiers"])
    examples, seq_len = arrays["inputs"].shape
    metadata = PuzzleDatasetMetadata(
        pad_id=0, ignore_label_id=ignore_label_id, blank_identifier_id=0, vocab_size=vocab_size, seq_len=seq_len,
        num_puzzle_identifiers=num_puzzle_identifiers, total_groups=len(arrays["group_indices"]) - 1,
        mean_puzzle_examples=examples / puzzles, total_puzzles=puzzles, sets=[set_name], kind=kind, other_labels=others,
        token_names=None if token_names is None else list(token_names))
    split_dir.mkdir(parents=True, exist_ok=True)
    for file in replaced:  # first: a half-written split then has no dataset.json, and open maps keep the old contents
        file.unlink()
    for field, array in arrays.items():
        if field not in in_place:
            np.save(files[field], array)
    write_json(split_dir / "dataset.json", metadata.model_dump(exclude_defaults=True))  # leaves out `kind: null`
    return metadata


def _lives_in(array: Any, path: Path) -> bool:
    """Whether the array is mapped from this file, and is all of its array."""
    if not isinstance(array, np.memmap) or not path.exists() or not path.samefile(array.filename):
        return False
    return array.flags.c_contiguous and array.shape == np.load(path, mmap_mode="r").shape


def _of_one_length(split_dir: Path, arrays: Mapping[str, Any], ignore_label_id: int | None, refuse
                   ) -> dict[str, np.ndarray]:
    """`inputs` and `labels` as (N, L) integers. Shorter rows are filled up, and a notice is printed."""
    lengths = {field: lengths_of_rows(arrays[field]) for field in ("inputs", "labels")}
    longest = max(set.union(*lengths.values()), default=0)
    made = {}
    for field, fill, called in (("inputs", 0, "the pad token"),
                                ("labels", ignore_label_id, "the ignored label")):
        made[field], found = arrays[field], lengths[field]
        is_short = bool(found) and found != {longest}
        if is_short:
            if fill is None:
                refuse(field, f"rows have {said_range(found)} cells, and {longest} are "
                              "needed; to fill them up with a label that is not scored, "
                              "give an ignore_label_id")
            try:
                made[field] = filled_up(made[field], longest, fill)
            except ValueError as error:
                refuse(field, str(error))
        check_integers(np.asanyarray(made[field]), 2, partial(refuse, field))
        if is_short:
            print(f"notice: {split_dir}, {field}: rows of {said_range(found)} cells are filled up "
                  f"to {longest} with {called}, {fill}")
    if len(made["labels"]) != len(made["inputs"]):
        refuse("labels", f"{len(made['labels'])} rows for {len(made['inputs'])} of inputs")
    return made


def lengths_of_rows(rows: Any) -> set[int]:
    """The different lengths L among N rows (L, …), which are an array or a list."""
    if isinstance(rows, np.ndarray) and rows.ndim > 1:
        return {rows.shape[1]}
    return {len(row) for row in rows if hasattr(row, "__len__")}


def said_range(numbers: Collection[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def filled_up(rows: Any, length: int, fill: float) -> np.ndarray:
    """N rows (L, …) of different lengths as one array (N, length, …), filled up with `fill` at the end of each row.

    Raises ValueError for a row whose other dimensions differ from those of the first.
    """
    rows = [(number, np.asarray(row)) for number, row in enumerate(rows)]
    for number, row in rows:
        if row.ndim == 0:
            raise ValueError(f"row {number} is {row.item()!r}, and should be a sequence of numbers")
    there = [(number, row) for number, row in rows if len(row)]
    for number, row in there:
        if row.shape[1:] != there[0][1].shape[1:]:
            raise ValueError(f"row {number} has the shape {row.shape} and row {there[0][0]} "
                             f"{there[0][1].shape}; only their lengths may differ")
    whole = np.full((len(rows), length, *(there[0][1].shape[1:] if there else ())), fill,
                    np.result_type(np.min_scalar_type(fill), *(row.dtype for _, row in there)))
    for number, row in there:
        whole[number, :len(row)] = row
    return whole


def _check_tokens(array: np.ndarray, in_place: bool, vocab_size: int, ignored: int | None,
                  refuse) -> None:
    rows = max(1, BLOCK_ROWS * array.shape[-1] // max(math.prod(array.shape[1:]), 1))
    for start in range(0, len(array), rows):
        # mapped again for each block, because the pages read through one map would stay in this process's memory
        block = (np.load(array.filename, mmap_mode="r") if in_place else array)[start:start + rows]
        place = first_foreign_token(block, vocab_size, ignored)
        if place is not None:
            refuse(f"row {start + place[0]}, position {place[-1]} holds {block[place]}, but "
                   f"vocab_size is {vocab_size} (tokens 0 to {vocab_size - 1})")


def first_foreign_token(tokens: np.ndarray, vocab_size: int,
                        ignored: int | None) -> tuple[int, ...] | None:
    """Where the first of (N, …, L) integers stands that is neither a token nor `ignored`. None if there is none."""
    if tokens.max(initial=0) < vocab_size and tokens.min(initial=0) >= 0:
        return None
    foreign = ((tokens < 0) | (tokens >= vocab_size)) & (True if ignored is None else tokens != ignored)
    return tuple(map(int, np.argwhere(foreign)[0])) if foreign.any() else None


def check_puzzles(arrays: Mapping[str, np.ndarray], examples: int, identifiers: int,
                  refuse: Callable[[str, str], Any]) -> None:
    """Check that groups, puzzles and identifiers fit together, for these numbers of `examples` and `identifiers`.

    Where they do not, it calls `refuse(field, problem)`, which must raise.
    """
    for field in ("puzzle_identifiers", "puzzle_indices", "group_indices"):
        check_integers(arrays[field], 1, partial(refuse, field))
    if not examples:
        refuse("inputs", "the split is empty: it has no examples")
    puzzles = len(arrays["puzzle_identifiers"])
    for field, ends, kind in (("puzzle_indices", examples, "example"),
                              ("group_indices", puzzles, "puzzle")):
        indices = arrays[field]
        if len(indices) < 2 or indices[0] != 0 or indices[-1] != ends or (np.diff(indices) <= 0).any():
            refuse(field, f"must rise from 0 to {ends}, the number of {kind}s")
    if len(arrays["puzzle_indices"]) != puzzles + 1:
        refuse("puzzle_indices", f"has {len(arrays['puzzle_indices'])} entries for {puzzles} "
                                 "puzzles; needs one more")
    low, high = arrays["puzzle_identifiers"].min(), arrays["puzzle_identifiers"].max()
    if low < 0 or high >= identifiers:
        refuse("puzzle_identifiers", f"holds {low} to {high}, but "
                                     f"num_puzzle_identifiers={identifiers}")


def check_other_labels(array: np.ndarray, shape: tuple[int, ...], refuse: Callable[[str], Any]) -> None:
    """Check the other solutions (N, K, L) of labels of the shape (N, L). Calls `refuse(problem)`, which must raise."""
    N, L = shape
    if array.ndim != 3 or array.dtype != np.uint8 or (len(array), array.shape[2]) != (N, L) or not array.shape[1]:
        refuse(f"expected uint8 of shape ({N}, solutions, {L}), found {array.dtype} of shape {array.shape}")


def check_rating(array: np.ndarray, groups: int, refuse: Callable[[str], Any]) -> None:
    """Call `refuse` with the problem unless these are finite floats, one for each group."""
    if array.dtype.kind != "f" or array.shape != (groups,):
        refuse(f"expected {groups} floats, one a group, found {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        refuse("holds a value that is not finite")


def check_integers(array: np.ndarray, dimensions: int, refuse: Callable[[str], Any]) -> None:
    if array.ndim != dimensions or not np.issubdtype(array.dtype, np.integer):
        refuse(f"expected integers in {dimensions} dimensions, found {array.dtype} "
               f"of shape {array.shape}")


@contextmanager
def new_dataset_directory(path: str | Path, needed_bytes: int,
                          overwrite: bool = False) -> Iterator[Path]:
    """A context that gives a temporary directory, and renames it to `path` if no exception is raised.

    So an interrupted build leaves nothing that looks complete. Raises ValueError if `path` exists and `overwrite` is
    false, or if the disk has less free space than `needed_bytes` and a tenth more.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; remove it, pass --overwrite (in Python "
                         "overwrite=True), or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < 1.1 * needed_bytes:
        raise ValueError(f"{path} needs about {needed_bytes / 1e6:.0f} MB, and {path.parent} has "
                         f"{free / 1e6:.0f} MB free; make some space or choose another folder")
    building = Path(tempfile.mkdtemp(prefix=f".{path.name}.building-", dir=path.parent))
    building.chmod(0o755)  # mkdtemp locks other users out, and a data set is for sharing
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


def dataset_files(path: str | Path) -> list[Path]:
    """The files of a data set that decide what is learned from it. Folders may be links."""
    inside = (file for depth in ("*", "*/*", "*/*/*") for file in Path(path).glob(depth))  # `**` follows no links
    return sorted(file for file in inside if file.suffix in (".npy", ".npz", ".json", ".jsonl")
                  and file.name != "source.json")  # which has paths and dates, from which nothing is learned


def dataset_fingerprint(path: str | Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 over the names and contents of a data set's files."""
    digest = hashlib.sha256()
    files = dataset_files(path)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock, so threads hash in parallel
        for file, sha256 in zip(files, pool.map(file_sha256, files)):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256}\0".encode())
    return digest.hexdigest()[:16]
