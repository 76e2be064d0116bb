"""Puzzles that a user types or keeps in a file of text, read for a model that is to answer them.

    puzzles.csv       columns `question` and, if known, `answer`; others, such as `source` and `rating`, are ignored.
                      Without a header: question / question,answer / source,question,answer,rating
    puzzles.jsonl     a line each: a text, a list, or {"question": …, "answer": …}
    puzzles.txt       a line each; of standard input (`-`) and other files the first line tells the format
    53..7…            a puzzle itself

A question is a line in the alphabet of its kind (dataset/kinds/). A list of rows is a board as people write it (of
Sudokus the digits, 0 for a blank), a flat list holds tokens as a data set does. A line that cannot be read is reported
by its number; all others are read.
"""
import csv
import difflib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset.common import IGNORE_LABEL_ID, PuzzleDatasetMetadata
from dataset.kinds.kind import Kind
from dataset.puzzle_dataset import PuzzleDataset
from dataset.puzzle_set import PuzzleSet
from utils.hints import is_there

STDIN = "-"
QUESTION_NAMES = ("question", "questions", "puzzle", "puzzles", "quiz", "quizzes", "input")  # headers of columns
ANSWER_NAMES = ("answer", "answers", "solution", "solutions", "output")
COLUMNS = {1: (0, None), 2: (0, 1), 4: (1, 2)}  # place of question and answer without a header, by number of columns
ENDINGS = (".csv", ".jsonl", ".json", ".txt")

Row = tuple[Any, Any]  # question and answer as written; an answer of None is not known
Answers = Callable[[Kind], bool]


def never(kind: Kind) -> bool:
    """Of a model for one size."""
    return False


@dataclass
class Questions:
    """N questions of one kind, of L cells each, and what could not be read."""

    kind: Kind
    # as written
    texts: list[str] = field(default_factory=list)
    # (L,) int32 tokens each
    tokens: list[np.ndarray] = field(default_factory=list)
    # (L,) int32 labels each, -100 where no answer is known
    labels: list[np.ndarray] = field(default_factory=list)
    # a message for each that could not be read, with its place
    malformed: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, place: str, read: Callable[[], Row], answers: Answers = never) -> None:
        """Read a question and its answer, or note why not. `place`: where they stand, such as "line 7".

        The first question that can be read tells the size of all: that of `kind` or, if it `answers` them, another.
        """
        try:
            question, answer = read()
            kind = self.kind if self.texts else self._sized_for(question, answers)
            text = as_text(kind, question)
            tokens, label = kind.parse(text), np.full(kind.seq_len, IGNORE_LABEL_ID, np.int32)
        except (ValueError, RecursionError, csv.Error) as error:
            self.malformed.append(f"{place}: {error}")
            return
        try:
            if answer not in (None, ""):
                label = kind.parse(as_text(kind, answer))
        except ValueError as error:
            self.malformed.append(f"{place}, its answer: {error}; correct it, or leave it out")
            return
        self.kind = kind
        self.texts.append(text)
        self.tokens.append(tokens)
        self.labels.append(label)

    def _sized_for(self, question: object, answers: Answers) -> Kind:
        """The kind at the size of a question, where it and the model have such a size."""
        cells = count_cells(question)
        if cells == self.kind.seq_len or not self.kind.alphabet:  # of words, shorter lines are padded
            return self.kind
        try:
            kind = self.kind.resized(cells)
        except ValueError:
            return self.kind
        return kind if answers(kind) else self.kind

    def as_dataset(self, metadata: PuzzleDatasetMetadata, identifier: int, global_batch_size: int, rank: int = 0,
                   num_replicas: int = 1) -> PuzzleDataset:
        """The questions as a test set in memory. `metadata`: of data of their size. `identifier`:
        the row of the puzzle table that all of them get. Raises ValueError where there is no question."""
        N = len(self)
        if not N:
            raise ValueError("\n".join(["there is no puzzle to solve", *self.malformed]))
        labels = np.stack(self.labels)
        if metadata.ignore_label_id is not None:
            labels[labels == metadata.ignore_label_id] = IGNORE_LABEL_ID
        own = metadata.model_copy(update={
            "ignore_label_id": IGNORE_LABEL_ID, "total_groups": N, "total_puzzles": N, "mean_puzzle_examples": 1.0,
            "num_puzzle_identifiers": identifier + 1, "sets": ["puzzles"]})
        numbers = np.arange(N + 1, dtype=np.int32)
        puzzles = PuzzleSet("your puzzles", Path("your puzzles"), "puzzles", own, np.full(N, identifier, np.int32),
                            numbers, numbers, np.stack(self.tokens), labels)
        return PuzzleDataset.in_memory(puzzles, global_batch_size, rank, num_replicas)


def count_cells(question: object) -> int:
    """How many cells a question has, whatever its kind; 0 for what is no question."""
    if isinstance(question, str):
        return len(question.strip("\r\n"))
    return np.size(question) if isinstance(question, (list, tuple, np.ndarray)) else 0


def as_text(kind: Kind, question: object) -> str:
    """The line that a kind reads a question from. Raises ValueError for what is neither text nor a list of numbers."""
    if isinstance(question, str):
        return question
    cells = question.tolist() if hasattr(question, "tolist") else question
    if isinstance(cells, (list, tuple)) and cells:
        if all(isinstance(row, (list, tuple)) for row in cells):
            return kind.format_board(cells)
        if all(type(cell) is int and 0 <= cell < kind.vocab_size for cell in cells) and len(cells) == kind.seq_len:
            return kind.format(np.array(cells))
    raise ValueError(f"{str(question)[:60]!r} is no puzzle; write a line of text, a board as a list of rows, or a list "
                     f"of {kind.seq_len} tokens from 0 to {kind.vocab_size - 1}")


def read_objects(puzzles: Iterable[object], kind: Kind, answers: Answers = never) -> Questions:
    """Questions that are given in Python: text, a board, tokens, or {"question": …, "answer": …}. `kind`: of the size
    that the model was trained on; `answers`: which others it answers."""
    if isinstance(puzzles, str):
        raise ValueError(f"{puzzles!r} is one text; give a list of puzzles, [{puzzles!r}]")
    questions = Questions(kind)
    for number, puzzle in enumerate(puzzles):
        questions.add(f"puzzle {number}", partial(_row_of, puzzle), answers)
    return questions


def read_questions(where: str, kind: Kind, answers: Answers = never) -> Questions:
    """Questions from a file, from standard input, or from the text of one. Raises ValueError where it is none of these,
    and for a file that is no text."""
    if where == STDIN:
        return _read_lines(sys.stdin.read(), "", "standard input", kind, answers)
    if is_there(where):
        file = Path(where)
        if file.is_dir():
            raise ValueError(f"{where} is a folder; name a file of puzzles in it")
        return _read_lines(file.read_text(encoding="utf-8-sig", errors="replace"), file.suffix.lower(), where, kind,
                           answers)
    questions = Questions(kind)
    questions.add("your puzzle", lambda: (where, None), answers)
    if questions.malformed:
        refuse_missing_file(where)
        raise ValueError(f"{questions.malformed[0]} (nor is there a file of that name)")
    return questions


def refuse_missing_file(where: str) -> None:
    """Raise ValueError for text that looks like the name of a file."""
    path = Path(where)
    if "/" not in where and path.suffix.lower() not in ENDINGS:
        return
    there_are = [file.name for file in path.parent.glob("*")] if is_there(str(path.parent)) else []
    near = difflib.get_close_matches(path.name, there_are, n=1)
    raise ValueError(f"there is no file {where}" + (f"; did you mean {path.parent / near[0]}?" if near else
                                                    "; name a file of puzzles, or write one puzzle itself"))


def _read_lines(text: str, ending: str, where: str, kind: Kind, answers: Answers) -> Questions:
    questions = Questions(kind)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip("\r\ufeff")]
    if not lines:
        raise ValueError(f"{where} is empty; write a puzzle a line")
    header, read = _format_of(lines[0][1], ending, kind)
    for number, line in lines[header:]:
        questions.add(f"{where}, line {number}", partial(read, line.strip("\r")), answers)
    return questions


def _format_of(first: str, ending: str, kind: Kind) -> tuple[int, Callable[[str], Row]]:
    """How many lines the header has, and what reads a line, by the ending of the file's name and its first line."""
    names = [cell.strip().lower() for cell in _cells(first)] if ending in (".csv", "") or "," in first else []
    question = next((names.index(name) for name in QUESTION_NAMES if name in names), None)
    if ending == ".jsonl" or (ending not in (".csv", ".txt") and first.lstrip().startswith(("{", '"'))):
        return 0, _json_row
    if question is not None:
        answer = next((names.index(name) for name in ANSWER_NAMES if name in names), None)
        return 1, lambda line: _csv_row(_cells(line), len(names), question, answer)
    if ending == ".csv" or (ending != ".txt" and "," in first and kind.alphabet and "," not in kind.alphabet):
        return 0, _csv_row_without_header
    return 0, lambda line: (line, None)


def _cells(line: str) -> list[str]:
    return next(csv.reader([line.strip("\r")]), [])


def _csv_row_without_header(line: str) -> Row:
    cells = _cells(line)
    if len(cells) not in COLUMNS:
        raise ValueError(f"it has {len(cells)} columns; write a header above, such as question,answer")
    return _csv_row(cells, len(cells), *COLUMNS[len(cells)])


def _csv_row(cells: Sequence[str], columns: int, question: int, answer: int | None) -> Row:
    if len(cells) != columns:
        raise ValueError(f"it has {len(cells)} columns, and the header {columns}; correct or remove it")
    return cells[question], None if answer is None else cells[answer]


def _json_row(line: str) -> Row:
    try:
        return _row_of(json.loads(line))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f'it is not JSON ({error}); write {{"question": "…"}}') from error


def _row_of(value: object) -> Row:
    if not isinstance(value, Mapping):
        return value, None
    if "question" not in value:
        raise ValueError('it has no "question"; write {"question": "…"}, and "answer" if it is known')
    return value["question"], value.get("answer")
