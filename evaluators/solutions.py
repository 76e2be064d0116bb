"""Answers to puzzles for people: in the alphabet of the question, with the model's confidence, checked by the rules.

    solutions = solutions_of(predictions.read(world)["puzzles"], kind, texts)
    write_solutions(Path("answers.csv"), [solution.facts() for solution in solutions])

`Predictions` collects the final answers of an evaluation; any strategy may have given them.
"""
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataset.common import IGNORE_LABEL_ID
from dataset.kinds.kind import Kind
from evaluators.arc_votes import Answer
from evaluators.rows import Answers
from utils.board_html import board_html
from utils.distributed import gather_objects
from utils.foreign import printable, spreadsheet_text
from utils.html import Html, tag
from utils.strict_json import as_json

FORMATS = (".csv", ".jsonl")
NO_GRID = [[0]]  # where nothing was predicted
FIELDS = ("inputs", "labels", "preds", "q", "steps")


@dataclass(frozen=True)
class Solution:
    """The answer to one puzzle of L cells."""

    # as the user wrote it
    question: str
    # in the same characters
    answer: str
    # sigmoid(q_halt): how sure the model is that the whole answer is right; 0 of one that says itself it is not solved
    confidence: float
    # supervision steps of the attempt that gave the answer
    steps: int
    # does the answer obey the rules of its kind? None: there are no rules to check
    valid: bool | None
    # is it the answer that was given with the question? None: none was given
    right: bool | None
    # (L,) int32
    question_tokens: np.ndarray = field(repr=False)
    # (L,) int32
    answer_tokens: np.ndarray = field(repr=False)
    kind: Kind = field(repr=False)
    # further answers in their order; of ARC, the second attempt
    others: tuple[str, ...] = ()

    def facts(self) -> dict[str, object]:
        """What is written of it to files. `right` is left out where no answer was given."""
        known = {} if self.right is None else {"right": self.right}
        return {"question": self.question, "answer": self.answer, "confidence": round(self.confidence, 6),
                "steps": self.steps, "valid": self.valid} | known

    def told(self) -> str:
        """Its facts beside the boards, as one line."""
        verdicts = [text for verdict, yes, no in ((self.valid, "obeys the rules", "breaks the rules"),
                                                  (self.right, "right", "wrong"))
                    if verdict is not None for text in [yes if verdict else no]]
        return ", ".join([f"confidence {self.confidence:.1%}", f"{self.steps} steps", *verdicts])

    def _repr_html_(self) -> str:
        """Question and answer as boards, for a notebook. Self-contained; it takes the notebook's colours."""
        look = self.kind.look()
        boards = [board_html(self.question_tokens, look, "question"),
                  board_html(self.answer_tokens, look, "answer", self.question_tokens)]
        return tag("div", *boards, tag("div", self.told(), style="flex-basis:100%"),
                   style="display:flex;flex-wrap:wrap;gap:4px 16px;margin:8px 0")


class Solutions(list[Solution]):
    """Several solutions, which a notebook shows below one another."""

    def _repr_html_(self) -> str:
        return Html("".join(solution._repr_html_() for solution in self))


class Predictions:
    """Collects the final answers of an evaluation on the host, set by set."""

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[np.ndarray, ...]]] = {}

    def add(self, set_name: str, answers: Answers) -> None:
        q = answers.outputs["q_halt_logits"].float().sigmoid()
        q = q * answers.outputs["solved"] if "solved" in answers.outputs else q  # as LDT says it
        values = answers.data["inputs"], answers.data["labels"], answers.outputs["preds"], q, answers.steps
        self.parts.setdefault(set_name, []).append((answers.numbers, *(value.cpu().numpy() for value in values)))

    def read(self) -> dict[str, dict[str, np.ndarray]] | None:
        """On rank 0, for each set its `FIELDS` (N, …) in the order of the examples. None on other ranks. Every rank
        must call it."""
        gathered = gather_objects(self.parts)
        if gathered is None:
            return None
        sets = {}
        for name in dict.fromkeys(name for parts in gathered for name in parts):
            numbers, *values = (np.concatenate(arrays) for arrays in
                                zip(*(part for parts in gathered for part in parts.get(name, []))))
            order = np.argsort(numbers, kind="stable")
            sets[name] = {field: value[order] for field, value in zip(FIELDS, values)}
        return sets


def solutions_of(found: dict[str, np.ndarray], kind: Kind, texts: Sequence[str] | None = None) -> Solutions:
    """The answers `found` (`FIELDS`) to N puzzles. `texts`: the questions as the user wrote them; None: as the kind
    writes them."""
    inputs, labels, preds = found["inputs"], found["labels"], found["preds"]
    valid = kind.rules(inputs, preds)["solved"].tolist() if kind.rule_names else [None] * len(inputs)
    asked = labels != IGNORE_LABEL_ID
    right = ((preds == labels) | ~asked).all(1)
    questions = [kind.format(tokens) for tokens in inputs] if texts is None else texts
    return Solutions(
        Solution(text, kind.format_like(answer, text), float(q), int(steps), is_valid,
                 bool(is_right) if is_asked else None, question, answer, kind)
        for text, question, answer, q, steps, is_valid, is_right, is_asked in zip(
            questions, inputs, preds.astype(np.int32), found["q"], found["steps"], valid, right, asked.any(1)))


def arc_solutions(tasks: dict[str, dict], answers: Sequence[Answer], kind: Kind, steps: int) -> Solutions:
    """The answers to the tests of ARC tasks, each the best candidate of the vote. `steps`: the most of an attempt."""
    solutions = Solutions()
    for answer in answers:
        question = json.dumps(tasks[answer.task]["test"][answer.number]["input"])
        grids = [json.dumps(attempt.grid) for attempt in answer.attempts] or [json.dumps(NO_GRID)]
        solutions.append(Solution(
            question, grids[0], answer.attempts[0].q if answer.attempts else 0.0, steps, None,
            answer.solved_within(1) if answer.truth_known else None, kind.parse(question), kind.parse(grids[0]), kind,
            tuple(grids[1:])))
    return solutions


def refuse_answers_file(file: Path) -> None:
    """Raise ValueError for a file that cannot become one of answers."""
    if file.suffix not in FORMATS:
        raise ValueError(f"predictions={file}: its name must end in {' or '.join(FORMATS)}, which tells the format")
    if file.exists():
        raise ValueError(f"{file} exists already; remove it, or choose another file: predictions=FILE.csv")


def write_solutions(file: Path, facts: Sequence[dict[str, object]]) -> None:
    """Write a line for the facts of each solution, as CSV or JSON lines by the ending of the file's name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(as_json(line) + "\n" for line in facts) if file.suffix == ".jsonl" else as_csv(facts),
                    encoding="utf-8")


def as_csv(lines: Sequence[dict[str, object]]) -> str:
    """The lines as CSV below a header of all their keys. Truth is `true` or `false`; what is not known is empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    table.writeheader()
    table.writerows({key: _cell(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str):
        return spreadsheet_text(value)
    return str(value).lower() if isinstance(value, bool) else value


def told(solutions: Sequence[Solution], most: int) -> list[str]:
    """The first `most` solutions as lines for a terminal."""
    lines = [line for solution in solutions[:most]
             for line in (printable(solution.question), f"{printable(solution.answer)}   {solution.told()}")]
    return lines + [f"… and {len(solutions) - most} more"] * (len(solutions) > most)
