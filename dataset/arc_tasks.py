"""ARC tasks as the ARC Prize and its public repositories lay them out, read and checked.

    <prefix>_<subset>_challenges.json    task id -> "train": input-output pairs, "test": inputs
    <prefix>_<subset>_solutions.json     task id -> the outputs of its "test"; the file may be missing

    <prefix>/<subset>/<task id>.json     "train" and "test": input-output pairs; <prefix> may be that folder itself

A task may also be a bare list of pairs, as in RE-ARC; the last one is its test. Every complaint names the file and the
task. Check: `pytest tests/test_arc_tasks.py`.
"""
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataset.arc import COLOURS, SIDE

KINDS = ("train", "test")
NO_ANSWER = np.zeros((0, 0), np.uint8)  # the output of a test that nobody knows

Pair = tuple[np.ndarray, np.ndarray]  # (h, w) and (h', w') uint8 colours


@dataclass(frozen=True)
class Task:
    id: str
    subset: str
    # as in the file, answers included where they are known
    puzzle: dict[str, list[dict[str, list[list[int]]]]]
    # by the split that they go to, in the order of the file; a task that is not for testing has only "train"
    pairs: dict[str, list[Pair]]

    @property
    def for_testing(self) -> bool:
        return "test" in self.pairs

    @property
    def unanswered(self) -> bool:
        """Is it for testing, and an answer not known?"""
        return not all(answer.size for _, answer in self.pairs.get("test", []))

    def as_training(self) -> "Task":
        """The task with its answered tests in train, too, in the order of the file."""
        return replace(self, pairs={"train": [(question, answer) for kind in self.puzzle
                                              for question, answer in self.pairs.get(kind, []) if answer.size]})

    def all_pairs(self) -> list[Pair]:
        return [pair for pairs in self.pairs.values() for pair in pairs]


def source_files(prefix: str, subset: str) -> list[Path]:
    """The files of a subset, in either layout. ValueError: the subset is missing, or is there in both layouts."""
    combined, by_task = _combined_files(prefix, subset), _task_files(prefix, subset)
    if combined and by_task:
        raise ValueError(f"the subset {subset} is there twice, as {combined[0]} and as the folder "
                         f"{by_task[0].parent}; move one of them away")
    if not combined and not by_task:
        raise ValueError(f"{_challenges(prefix, subset)} does not exist, nor is there a folder "
                         f"{Path(prefix, subset)} with a file a task; subsets with this "
                         "--input-file-prefix: "
                         f"{', '.join(_known_subsets(Path(prefix))) or 'none'}")
    return combined or by_task


def _challenges(prefix: str, subset: str) -> Path:
    return Path(f"{prefix}_{subset}_challenges.json")


def _combined_files(prefix: str, subset: str) -> list[Path]:
    """Challenges and, where they are known, solutions."""
    files = _challenges(prefix, subset), Path(f"{prefix}_{subset}_solutions.json")
    return [file for file in files if file.is_file()] if files[0].is_file() else []


def _task_files(prefix: str, subset: str) -> list[Path]:
    folders = [folder for folder in (Path(prefix, subset), Path(prefix)) if folder.name == subset]
    return next(filter(None, (sorted(folder.glob("*.json")) for folder in folders)), [])


def _known_subsets(prefix: Path) -> list[str]:
    start, end = f"{prefix.name}_", "_challenges.json"
    combined = (file.name.removeprefix(start).removesuffix(end)
                for file in prefix.parent.glob(f"{start}*{end}"))
    folders = {file.parent for pattern in ("*.json", "*/*.json") for file in prefix.glob(pattern)}
    return sorted({*combined, *(folder.name for folder in folders)})


def read_tasks(prefix: str, subset: str, for_testing: bool) -> list[Task]:
    """All tasks of a subset, in the order of the file or by id.

    A test input without a known answer gets `NO_ANSWER` for testing, and is left out for training. A line is printed
    about such inputs, and about bare lists of pairs, whose last pair became the test.
    """
    first = source_files(prefix, subset)[0]
    source = first if first == _challenges(prefix, subset) else first.parent
    tasks = _read(_puzzles(prefix, subset), source, subset, for_testing)
    if not tasks:
        raise ValueError(f"{source} holds no tasks; get the file again, or leave "
                         f"{subset} out of --subsets")
    return tasks


def read_tasks_to_solve(where: Path) -> list[Task]:
    """The tasks, for testing, in the file of one task, in a folder of such files, or in a file of challenges, with the
    solutions beside it where they are known. Raises ValueError where there are none."""
    subset = where.parent.name if where.is_file() else where.name
    if where.is_dir():
        puzzles: list[tuple[str, Any, object, str]] = [
            (file.stem, read_json(file), [], str(file)) for file in sorted(where.glob("*.json"))]
    else:
        content, end = read_json(where), "_challenges.json"
        beside = where.with_name(where.name.removesuffix(end) + "_solutions.json")
        answers = _read_object(beside) if where.name.endswith(end) and beside.is_file() else {}
        many = isinstance(content, dict) and not {*KINDS} & {*content}
        puzzles = [(name, puzzle, answers.get(name, []), f"{where}, task {name}") for name, puzzle in content.items()] \
            if many else [(where.stem, content, [], str(where))]
    if not puzzles:
        raise ValueError(f"{where} holds no tasks; name the file of a task, a folder of them, or a challenges file")
    return _read(puzzles, where, subset, for_testing=True)


def task_to_solve(name: str, puzzle: object) -> Task:
    """A task given in Python: {"train": pairs, "test": pairs}, where a test's output may be missing."""
    return _read([(name, puzzle, [], name)], Path(name), "", for_testing=True)[0]


def _read(puzzles: Iterable[tuple[str, Any, object, str]], source: Path, subset: str, for_testing: bool) -> list[Task]:
    """Check tasks and say what is missing. `puzzles` as in `_puzzles`; `source`: where they stand, for people."""
    tasks, lists, unanswered = [], 0, 0
    for task, puzzle, answers, where in puzzles:
        if isinstance(puzzle, list):
            puzzle, lists = {"train": puzzle[:-1], "test": puzzle[-1:]}, lists + 1
        _check_structure(puzzle, where)
        unanswered += _add_answers(puzzle["test"], answers, where)
        tasks.append(_checked_task(task, subset, puzzle, for_testing, where))
    if lists and for_testing:
        print(f"notice: {lists} tasks of {source} are lists of pairs that do not say what is tested; the last pair of "
              "each is, and the others are its demonstrations", file=sys.stderr)
    if unanswered:
        fate = "predicted and not scored" if for_testing else "left out of training"
        print(f"warning: {unanswered} test inputs of {source} have no answer beside "
              f"them; they are {fate}",
              file=sys.stderr)
    return tasks


def read_test_puzzles(file: Path) -> dict[str, dict]:
    """The tasks, by id, in a data set's test_puzzles.json. They are checked like those of a source, so whatever is
    drawn or written of them is a grid of colours."""
    tasks = _read_object(file)
    for task, puzzle in tasks.items():
        _check_structure(puzzle, f"{file}, task {task}")
        _checked_task(task, "", puzzle, for_testing=True, where=f"{file}, task {task}")
    return tasks


def _puzzles(prefix: str, subset: str) -> Iterator[tuple[str, object, object, str]]:
    """For each task: its id, its content, the answers to its tests from the other file, and where it was found."""
    files = source_files(prefix, subset)
    if files[0] != _challenges(prefix, subset):
        for file in files:
            yield file.stem, read_json(file), [], str(file)
        return
    challenges, *solutions = map(_read_object, files)
    for task, puzzle in challenges.items():
        yield task, puzzle, solutions[0].get(task, []) if solutions else [], f"{files[0]}, task {task}"


def _read_object(path: Path) -> dict:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not map task ids to tasks; it must be "
                         "in the combined layout")
    return content


def read_json(path: Path):
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # neither JSON nor text, or nested without end
        raise ValueError(f"{path} is not JSON ({error}); get the file again") from error


def _check_structure(puzzle, where: str) -> None:
    for kind in KINDS:
        pairs = puzzle.get(kind) if isinstance(puzzle, dict) else None
        if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
            raise ValueError(f'{where}: expected a list of pairs under "{kind}"')


def _add_answers(tests: list[dict], answers, where: str) -> int:
    """Give each test input its output. Returns how many have none."""
    if not isinstance(answers, list) or len(answers) > len(tests):
        raise ValueError(f"{where}: the solutions are no list for its {len(tests)} test "
                         "inputs; correct either file")
    for pair, answer in zip(tests, answers):
        pair["output"] = answer
    return sum("output" not in pair for pair in tests)


def _checked_task(task: str, subset: str, puzzle: dict, for_testing: bool, where: str) -> Task:
    pairs: dict[str, list[Pair]] = {split: [] for split in (KINDS if for_testing else ["train"])}
    for kind in filter(KINDS.__contains__, puzzle):  # the file's order is the order of the examples
        for number, pair in enumerate(puzzle[kind], 1):
            grids = [NO_ANSWER if kind == "test" and side not in pair and side == "output" else
                     checked_grid(pair.get(side), f"{where}, {kind} {side} {number}")
                     for side in ("input", "output")]
            if for_testing or grids[1].size:
                pairs[kind if for_testing else "train"].append(tuple(grids))
    for split, listed in pairs.items():
        if not listed:
            raise ValueError(f"{where}: no pairs for the {split} split; add one or remove the task")
    return Task(task, subset, {kind: puzzle[kind] for kind in puzzle if kind in KINDS}, pairs)


def checked_grid(rows, where: str) -> np.ndarray:
    """(h, w) uint8 colours of a list of rows."""
    if not rows or not isinstance(rows, list) or not all(row and isinstance(row, list)
                                                         for row in rows):
        raise ValueError(f"{where}: the grid is missing, empty or no list of rows")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"{where}: the grid's rows differ in length")
    if max(len(rows), len(rows[0])) > SIDE:
        raise ValueError(f"{where}: the grid has {len(rows)} × {len(rows[0])} cells; at "
                         f"most {SIDE} × {SIDE} fit")
    wrong = [cell for row in rows
             for cell in row if type(cell) is not int or cell not in range(COLOURS)]
    if wrong:
        raise ValueError(f"{where}: the grid holds {wrong[0]!r}; colours are the "
                         f"numbers 0 to {COLOURS - 1}")
    return np.array(rows, np.uint8)
