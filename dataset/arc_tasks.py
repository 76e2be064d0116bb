"""ARC tasks in the combined JSON layout of the ARC Prize, read and checked.

    <prefix>_<subset>_challenges.json    task id -> "train": input-output pairs, "test": inputs
    <prefix>_<subset>_solutions.json     task id -> the outputs of its "test"; the file may be missing

Every complaint names the file and the task. Check: `pytest tests/test_arc_tasks.py`.
"""
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.arc import COLOURS, SIDE

KINDS = ("train", "test")
DUMMY_ANSWER = [[0]]  # stands in for an output that nobody knows

Pair = tuple[np.ndarray, np.ndarray]  # (h, w) and (h', w') uint8 colours


@dataclass(frozen=True)
class Task:
    id: str
    subset: str
    # as in the file, answers included
    puzzle: dict[str, list[dict[str, list[list[int]]]]]
    # by the split that they go to, in the order of the file; a task that is not for testing has only "train"
    pairs: dict[str, list[Pair]]

    @property
    def for_testing(self) -> bool:
        return "test" in self.pairs

    def all_pairs(self) -> list[Pair]:
        return [pair for pairs in self.pairs.values() for pair in pairs]


def source_files(prefix: str, subset: str) -> list[Path]:
    """The files there are of a subset, challenges first. ValueError: there is no such subset."""
    challenges, solutions = (Path(f"{prefix}_{subset}_{part}.json") for part in ("challenges", "solutions"))
    if not challenges.is_file():
        start, end = f"{Path(prefix).name}_", "_challenges.json"
        known = sorted(file.name.removeprefix(start).removesuffix(end)
                       for file in Path(prefix).parent.glob(f"{start}*{end}"))
        raise ValueError(f"{challenges} does not exist; subsets with this --input-file-prefix: "
                         f"{', '.join(known) or 'none'}")
    return [challenges] + [solutions] * solutions.is_file()


def read_tasks(prefix: str, subset: str, for_testing: bool) -> list[Task]:
    """All tasks of a subset, in the order of the file. A dummy stands in for a missing answer, with one warning."""
    challenges, *solutions = source_files(prefix, subset)
    answers = {task: answer for file in solutions for task, answer in _read_object(file).items()}
    tasks, unanswered = [], 0
    for task, puzzle in _read_object(challenges).items():
        where = f"{challenges}, task {task}"
        _check_structure(puzzle, where)
        unanswered += _add_answers(puzzle["test"], answers.get(task, []), where)
        tasks.append(_checked_task(task, subset, puzzle, for_testing, where))
    if not tasks:
        raise ValueError(f"{challenges} holds no tasks; get the file again, or leave {subset} out of --subsets")
    if unanswered:
        print(f"warning: {unanswered} test inputs of {challenges} have no answer beside them; a single black cell "
              "stands in for each, so scores on them mean nothing", file=sys.stderr)
    return tasks


def _read_object(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:  # neither JSON nor text
        raise ValueError(f"{path} is not JSON ({error}); get the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not map task ids to tasks; it must be in the combined layout")
    return content


def _check_structure(puzzle, where: str) -> None:
    for kind in KINDS:
        pairs = puzzle.get(kind) if isinstance(puzzle, dict) else None
        if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
            raise ValueError(f'{where}: expected a list of pairs under "{kind}"')


def _add_answers(tests: list[dict], answers, where: str) -> int:
    """Give each test input its output; the number of dummies among them."""
    if not isinstance(answers, list) or len(answers) > len(tests):
        raise ValueError(f"{where}: the solutions are no list for its {len(tests)} test inputs; correct either file")
    for pair, answer in zip(tests, answers):
        pair["output"] = answer
    unanswered = [pair for pair in tests if "output" not in pair]
    for pair in unanswered:
        pair["output"] = DUMMY_ANSWER
    return len(unanswered)


def _checked_task(task: str, subset: str, puzzle: dict, for_testing: bool, where: str) -> Task:
    pairs: dict[str, list[Pair]] = {split: [] for split in (KINDS if for_testing else ["train"])}
    for kind in filter(KINDS.__contains__, puzzle):  # the file's order is the order of the examples
        for number, pair in enumerate(puzzle[kind], 1):
            pairs[kind if for_testing else "train"].append(
                tuple(_checked_grid(pair.get(side), f"{where}, {kind} {side} {number}")
                      for side in ("input", "output")))
    for split, listed in pairs.items():
        if not listed:
            raise ValueError(f"{where}: no pairs for the {split} split; add one or remove the task")
    return Task(task, subset, {kind: puzzle[kind] for kind in puzzle if kind in KINDS}, pairs)


def _checked_grid(rows, where: str) -> np.ndarray:
    """(h, w) uint8 colours of a list of rows."""
    if not rows or not isinstance(rows, list) or not all(row and isinstance(row, list) for row in rows):
        raise ValueError(f"{where}: the grid is missing, empty or no list of rows")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"{where}: the grid's rows differ in length")
    if max(len(rows), len(rows[0])) > SIDE:
        raise ValueError(f"{where}: the grid has {len(rows)} × {len(rows[0])} cells; at most {SIDE} × {SIDE} fit")
    wrong = [cell for row in rows for cell in row if cell not in range(COLOURS)]
    if wrong:
        raise ValueError(f"{where}: the grid holds {wrong[0]!r}; colours are the numbers 0 to {COLOURS - 1}")
    return np.array(rows, np.uint8)
