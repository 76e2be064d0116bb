"""What the builders and generators of Sudokus and mazes share: CSV sources, their checks, their options, writing.

A source is `train.csv` and `test.csv` with the columns source,question,answer,rating, from a folder (`--source-dir`)
or from the Hugging Face hub (`--source-repo`). Blocks of whole lines are parsed as byte arrays, so that the 3.8 million
rows of Sudoku-Extreme need no Python object each, and every complaint names the file and the line. Fields are never
stripped: mazes begin and end with blanks.

    python -m dataset.build_sudoku_dataset --source-dir FOLDER --output-dir data/mine
"""
import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.builder import Parser, add_test_fraction, at_least, building
from dataset.common import (
    BLANK_IDENTIFIER,
    OTHER_LABELS,
    RATING,
    new_dataset_directory,
    open_field,
    write_json,
    write_split,
)
from dataset.splitting import rows_for_testing

COLUMNS = ("source", "question", "answer", "rating")
SPLITS = ("train", "test")
BLOCK_BYTES = 1 << 24  # read at a time


@dataclass(frozen=True)
class SourceRows:
    """N rows of one file, each with L characters of question and of answer."""

    path: Path
    # (N,) line numbers in the file; the header is line 1
    lines: np.ndarray
    # (N, L) uint8 characters
    question: np.ndarray
    # (N, L) uint8 characters
    answer: np.ndarray
    # (N,) float64
    rating: np.ndarray

    def require(self, ok: np.ndarray, problem: str) -> None:
        """Raise ValueError with file, line and problem for the first row that is not ok, of (N,) booleans."""
        _require(ok, self.path, self.lines, f"{problem}; correct or remove the row")

    def select(self, rows: np.ndarray) -> "SourceRows":
        """The rows of a boolean mask or of an index array."""
        return SourceRows(self.path, self.lines[rows], self.question[rows], self.answer[rows],
                          self.rating[rows])


def _require(ok: np.ndarray, path: Path, lines: np.ndarray, problem: str) -> None:
    if not ok.all():
        raise ValueError(f"{path}, line {lines[np.argmin(ok)]}: {problem}")


def read_rows(path: Path) -> SourceRows:
    """Read and check a whole file. ValueError: columns, fields, lengths, ratings, or no rows at all."""
    parts: list[SourceRows] = []
    with open(path, "rb") as file:
        _check_header(path, file.readline())
        line, length = 2, None
        for block in _blocks(file):
            parts.append(_parse(path, line, block, length))
            line += len(parts[-1].lines)
            length = parts[0].question.shape[1]
    if not parts:
        raise ValueError(f"{path} holds no puzzles, only a header; a split needs at least one row")
    joined = (np.concatenate([getattr(part, name) for part in parts])
              for name in ("lines", "question", "answer", "rating"))
    return SourceRows(path, *joined)


def _check_header(path: Path, header: bytes) -> None:
    columns = header.decode("utf-8-sig", "replace").strip().replace('"', "")
    if columns != ",".join(COLUMNS):
        raise ValueError(f"{path}, line 1: the columns are '{columns}', expected "
                         f"'{','.join(COLUMNS)}'; rename and reorder them")


def _blocks(file) -> Iterator[bytes]:
    """The rest of a binary file, in blocks of whole lines. Every line ends in a single newline byte."""
    while block := file.read(BLOCK_BYTES):
        block = (block + file.readline()).replace(b"\r\n", b"\n")
        if b'"' in block:
            block = _unquoted(block)
        yield block if block.endswith(b"\n") else block + b"\n"


def _unquoted(block: bytes) -> bytes:
    """Quoted fields without their quotes; a comma inside one becomes a semicolon. Only `source` can hold one."""
    rows = csv.reader(block.decode("latin-1").split("\n"))
    return "\n".join(",".join(field.replace(",", ";") for field in row)
                     for row in rows).encode("latin-1")


def _parse(path: Path, first_line: int, block: bytes, length: int | None) -> SourceRows:
    """Rows of a block whose first line has this number; `length` of a question, if an earlier block set it."""
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    commas = np.flatnonzero(text == ord(","))
    lines = np.arange(first_line, first_line + len(ends))
    fields = np.diff(np.searchsorted(commas, ends), prepend=0) + 1
    _require(fields == len(COLUMNS), path, lines, f"not {len(COLUMNS)} fields separated by "
                                                  "commas; remove or repair it")
    first, second, third = commas.reshape(-1, 3).T
    lengths = second - first - 1
    length = int(lengths[0]) if length is None else length
    _require(third - second == second - first, path, lines, "question and answer differ in "
                                                            "length; repair the row")
    _require(lengths == length, path, lines, f"the puzzle has not {length} characters like the "
             "rows before it; put puzzles of another size into another folder")
    if length == 0:
        raise ValueError(f"{path}, line {first_line}: the question is empty; remove or repair it")
    windows = np.lib.stride_tricks.sliding_window_view(text, length)
    bounds = zip((third + 1).tolist(), ends.tolist())
    rating = np.array([_number(block[start:end]) for start, end in bounds])
    _require(np.isfinite(rating), path, lines, "the rating is not a number; write "
                                               "one, 0 if it is unknown")
    return SourceRows(path, lines, windows[first + 1], windows[second + 1], rating)


def _number(field: bytes) -> float:
    try:
        return float(field)
    except ValueError:
        return float("nan")


def source_files(source_dir: str | None, source_repo: str,
                 splits: Sequence[str] = SPLITS) -> dict[str, Path]:
    """The CSV file of each of `splits`, downloaded unless a folder is given. ValueError where one cannot be had."""
    if source_dir is None:
        return {split: _download(source_repo, f"{split}.csv") for split in splits}
    files = {split: Path(source_dir) / f"{split}.csv" for split in splits}
    for file in files.values():
        if not file.is_file():
            raise ValueError(f"{file} does not exist; --source-dir must hold train.csv and test.csv, train.csv "
                             "alone with --test-fraction, or test.csv alone with --test-only")
    return files


def _download(repo: str, name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        return Path(hf_hub_download(repo, name, repo_type="dataset"))
    except Exception as error:  # the hub's client fails in many ways; to the user they are one
        raise ValueError(f"{name} of the hub data set {repo} could not be downloaded "
                         f"({type(error).__name__}); pass --source-dir FOLDER with train.csv and "
                         "test.csv, or check the network") from error


def read_splits(args: argparse.Namespace, check: Callable[[SourceRows], SourceRows],
                tasks_of: Callable[[SourceRows], np.ndarray]) -> tuple[dict[str, Path],
                                                                       dict[str, SourceRows]]:
    """Files and rows of both splits, checked by `check`; the rows of train are then subsampled.

    With `--test-only` it is the test split alone. With `--test-fraction`, train.csv is divided into both. `tasks_of`
    its rows, (N,), are equal for variants of one another, which stay in one split.
    """
    _refuse_for_test_only(args)
    files = source_files(args.source_dir, args.source_repo, SPLITS[1:] if args.test_only else
                         SPLITS if args.test_fraction is None else SPLITS[:1])
    rows = {split: check(read_rows(file)) for split, file in files.items()}
    if args.test_only:
        return files, rows
    if args.test_fraction is not None:
        test = rows_for_testing(tasks_of(rows["train"]), args.test_fraction, args.seed)
        rows = {"train": rows["train"].select(~test), "test": rows["train"].select(test)}
    lengths = {split: checked.question.shape[1] for split, checked in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"puzzles of {files['train']} have {lengths['train']} characters, those "
                         f"of {files['test']} {lengths['test']}; both splits must hold one size")
    return files, {**rows, "train": subsample(rows["train"], args.subsample_size, args.seed)}


def _refuse_for_test_only(args: argparse.Namespace) -> None:
    """Raise ValueError for options of training puzzles where there are none."""
    training = [option for option in ("test_fraction", "subsample_size", "num_aug") if getattr(args, option, None)]
    if args.test_only and training:
        raise ValueError(f"--{training[0].replace('_', '-')} is about training puzzles, and --test-only has none; "
                         "leave out one of them")


def subsample(rows: SourceRows, size: int | None, seed: int) -> SourceRows:
    """`size` random rows, in the order of the file; all where `size` is None."""
    if size is None:
        return rows
    available = len(rows.lines)
    if size > available:
        raise ValueError(f"--subsample-size {size} of {available} usable rows in {rows.path}; "
                         f"choose 1 to {available}, or leave it out for all")
    chosen = np.random.default_rng([seed, 0]).choice(available, size, replace=False)
    return rows.select(np.sort(chosen))


def warn_of_overlap(train: np.ndarray, test: np.ndarray, what: str) -> None:
    """Warn with the number of distinct rows of `test` (M, L) that also stand in `train` (N, L), both uint8."""
    distinct = set(_row_bytes(test))
    shared = len(distinct.intersection(_row_bytes(train)))
    if shared:
        print(f"warning: {shared} of {len(distinct)} distinct test {what} also occur in train; "
              "test scores will partly measure memory", file=sys.stderr)


def _row_bytes(rows: np.ndarray) -> Iterator[bytes]:
    data, length = rows.tobytes(), rows.shape[1]
    return (data[start:start + length] for start in range(0, len(data), length))


def generator_parser(description: str, train: int, test: int) -> argparse.ArgumentParser:
    parser = Parser(description)
    parser.add_argument("--output-dir", required=True, help="folder to make, for "
                                                            "train.csv and test.csv")
    parser.add_argument("--train", type=at_least(1), default=train,
                        help=f"training puzzles (default: {train})")
    parser.add_argument("--test", type=at_least(1), default=test,
                        help=f"test puzzles (default: {test})")
    return parser


def builder_parser(description: str, output_dir: str, source_repo: str) -> argparse.ArgumentParser:
    parser = Parser(description)
    parser.add_argument("--output-dir", default=output_dir,
                        help=f"folder to make (default: {output_dir})")
    parser.add_argument("--source-dir", help="folder with train.csv and test.csv (default: "
                                             "download --source-repo)")
    add_test_fraction(parser, "train.csv", "test.csv is")
    parser.add_argument("--test-only", action="store_true",
                        help="build the test split alone, of a folder or hub data set with test.csv, to be scored by "
                             "evaluate.py data_paths=")
    parser.add_argument("--source-repo", default=source_repo,
                        help=f"hub data set (default: {source_repo})")
    parser.add_argument("--subsample-size", type=at_least(1),
                        help="random rows of train to use (default: all)")
    return parser


@dataclass(frozen=True)
class Split:
    """One split to write: every group holds `copies` puzzles of one example each, the original first."""

    groups: int
    copies: int
    # writes (groups * copies, L) uint8 inputs and labels, group by group
    fill: Callable[[np.ndarray, np.ndarray], None]
    # solutions of each puzzle besides its label, and what writes them, (groups * copies, others, L) uint8
    others: int = 0
    fill_others: Callable[[np.ndarray], None] | None = None
    # (groups,) how hard each puzzle is, to be kept in the data set
    rating: np.ndarray | None = None

    @property
    def puzzles(self) -> int:
        return self.groups * self.copies


def write_dataset(builder: str, args: argparse.Namespace, files: dict[str, Path],
                  splits: dict[str, Split],
                  kind: str, seq_len: int, vocab_size: int) -> None:
    """Write and report a data set of puzzles of a kind, without embeddings of their own (identifier 0, the blank)."""
    needed = sum(split.puzzles * ((2 + split.others) * seq_len + 12)
                 for split in splits.values())  # 12: three int32 a puzzle
    with building(builder, args, files.values(), needed) as (folder, counts):
        for name, split in splits.items():
            _write_split(folder / name, split, kind, seq_len, vocab_size)
            counts[name] = {"groups": split.groups, "puzzles": split.puzzles,
                            "examples": split.puzzles}
        write_json(folder / "identifiers.json", [BLANK_IDENTIFIER])


def _write_split(split_dir: Path, split: Split, kind: str, seq_len: int, vocab_size: int) -> None:
    arrays: dict[str, np.ndarray] = {name: open_field(split_dir, name, (split.puzzles, seq_len))
                                     for name in ("inputs", "labels")}
    split.fill(arrays["inputs"], arrays["labels"])
    if split.fill_others is not None:
        arrays[OTHER_LABELS] = open_field(split_dir, OTHER_LABELS, (split.puzzles, split.others, seq_len))
        split.fill_others(arrays[OTHER_LABELS])
    arrays["puzzle_identifiers"] = np.zeros(split.puzzles, np.int32)
    arrays["puzzle_indices"] = np.arange(split.puzzles + 1, dtype=np.int32)
    arrays["group_indices"] = np.arange(0, split.puzzles + 1, split.copies, dtype=np.int32)
    if split.rating is not None:
        arrays[RATING] = split.rating
    write_split(split_dir, arrays, vocab_size, kind=kind)


def write_csv(path: Path, source: str, rows: Iterable[tuple[str, str, int]]) -> None:
    """Write (question, answer, rating) rows as a source file."""
    lines = [",".join(COLUMNS),
             *(f"{source},{question},{answer},{rating}" for question, answer, rating in rows)]
    path.write_text("\n".join(lines) + "\n")


def write_generated(args: argparse.Namespace, source: str,
                    splits: dict[str, list[tuple[str, str, int]]],
                    next_step: str) -> None:
    """Write both CSV files, then print their row counts and the command that comes next."""
    with new_dataset_directory(args.output_dir, 0, args.overwrite) as folder:
        for split, rows in splits.items():
            write_csv(folder / f"{split}.csv", source, rows)
    for split, rows in splits.items():
        print(f"{split}: {len(rows)} puzzles")
    built = args.output_dir.removesuffix("-csv") if args.output_dir.endswith("-csv") else f"{args.output_dir}-built"
    print(f"next: python -m {next_step} --source-dir {args.output_dir} --output-dir {built}")
