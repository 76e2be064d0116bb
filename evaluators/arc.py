"""Scores ARC by its own rules, with a vote among all augmentations of a task: `evaluators="[{name: arc@ARC}]"`.

Each prediction is one vote. The name of its puzzle in identifiers.json tells its augmentation (dataset/arc.py), which
is undone on the input and on the prediction. The restored input is one of the test inputs in test_puzzles.json, and the
restored and cropped prediction is a *candidate* for its answer. Candidates are ranked by their number of votes, then by
the mean of q, the halting probability.

    pass@K      mean over tasks of the fraction of its test inputs whose true answer is among the K best candidates
    accuracy    pass@submission_K, which is what Kaggle scores

Test inputs without a known answer are submitted and not scored. If no answer is known, there are no metrics.

It writes `submission.json` in Kaggle's form, `arc_tasks.csv` with one line for each test input and, if asked for,
`gallery.html`. Its tests are in tests/test_evaluator_arc.py; benchmarks/arc_evaluator.py measures speed and memory.
"""
import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from dataset.arc import COLOURS, FIRST_COLOUR, SEPARATOR, VOCAB_SIZE, decode_grid, encode_grid, parse_augmentation
from dataset.arc_tasks import NO_ANSWER, read_json, read_test_puzzles
from dataset.common import PuzzleDatasetMetadata
from dataset.kinds.arc import SIZES
from evaluators.arc_gallery import write_gallery
from evaluators.arc_votes import ORIGINAL, Answer, Attempt, Grid, Votes, candidate_keys, grid_hashes
from utils.command_line import describe_validation
from utils.distributed import broadcast_object, decided_by_main
from utils.foreign import spreadsheet_text

NO_PREDICTION = [[0, 0], [0, 0]]  # submitted where no grid was predicted
STAND_IN = [[0]]  # the published builder writes this as each answer if it has no solutions


class ARCConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # the values of K for which pass@K is reported
    pass_Ks: list[int] = [1, 2, 5, 10, 100, 1000]
    # attempts at each test input, in the submission and in `accuracy`
    submission_K: int = Field(2, gt=0)
    # how many augmentations of a task vote beside the task itself, in the order of identifiers.json; null: all
    voting_augmentations: int | None = Field(None, ge=0)
    # also count the votes of earlier evaluations of the run, made with older weights; metrics are `aggregated_…`
    aggregated_voting: bool = False
    # tasks to draw in gallery.html
    gallery: int = Field(0, ge=0)


class ARC:
    required_outputs = {"preds", "q_halt_logits"}

    def __init__(self, data_path: str, eval_metadata: PuzzleDatasetMetadata, **options):
        try:
            self.config = ARCConfig(**options)
        except ValidationError as error:
            raise ValueError(describe_validation(error, [f"evaluators.arc@ARC.{key}" for key in ARCConfig.model_fields],
                                                 "evaluators.arc@ARC.")) from error
        self.data_path, self.blank = data_path, eval_metadata.blank_identifier_id
        self.tasks = read_test_puzzles(_file(data_path, "test_puzzles.json"))
        names = read_json(_file(data_path, "identifiers.json"))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{data_path}/identifiers.json is no list of names; "
                             "build the data set again")
        if (eval_metadata.seq_len, eval_metadata.vocab_size) != SIZES:
            raise ValueError(f"{data_path}: ARC has {SIZES[0]} cells and {SIZES[1]} tokens, this "
                             f"data set {eval_metadata.seq_len} and {eval_metadata.vocab_size}; "
                             "score it without arc@ARC")
        self.notices = self._unknown_answers()  # printed at the start
        self._number_test_inputs()
        self._number_identifiers(names)
        self.votes = Votes()
        self.answers: list[Answer] = []  # of the last evaluation, on rank 0
        self.told: list[str] = []  # where its files are

    def _unknown_answers(self) -> list[str]:
        """Notices about test inputs without an answer. Removes the answers if all are stand-ins."""
        tests = [test for puzzle in self.tasks.values() for test in puzzle["test"]]
        if len(self.tasks) > 1 and all(test.get("output") == STAND_IN for test in tests):
            for test in tests:
                del test["output"]
            return [f"{self.data_path} has no solutions: each answer is a single black cell; no "
                    "pass@K is reported, and val/… compares with that cell, so it means nothing; "
                    "build the data set again to avoid it"]
        unknown = sum("output" not in test for test in tests)
        scored = "no pass@K is reported" if unknown == len(tests) else "pass@K is of the others"
        return [f"{self.data_path} has no solutions to {unknown} of its {len(tests)} test inputs, which are submitted "
                f"and not scored; {scored}"] if unknown else []

    def _number_test_inputs(self) -> None:
        """Number the questions. A question is a test input of a task; equal test inputs of one task are one question.
        """
        self.pairs = [(task, number) for task, puzzle in self.tasks.items()
                      for number in range(len(puzzle["test"]))]
        tests = [self.tasks[task]["test"][number] for task, number in self.pairs]
        self.task_numbers = {task: i for i, task in enumerate(self.tasks)}
        tasks = np.array([self.task_numbers[task] for task, _ in self.pairs])
        self.question_keys, self.questions = np.unique(
            candidate_keys(tasks, _hashes([test["input"] for test in tests])), return_inverse=True)
        truths = _hashes([test.get("output", NO_ANSWER) for test in tests])
        self.truths, self.truth_known = candidate_keys(self.questions, truths), truths != 0

    def _number_identifiers(self, names: Sequence[str]) -> None:
        """Read from the name of each identifier its task (-1: not a test task), whether it votes, its transform, and
        for each token the original colour + 1."""
        self.task_of = np.full(len(names), -1)
        self.has_vote, seen, most = np.ones(len(names), bool), Counter(), self.config.voting_augmentations
        self.transforms = np.zeros(len(names), np.uint8)
        self.values = np.zeros((len(names), VOCAB_SIZE), np.uint8)
        for i, name in enumerate(names):
            if name.partition(SEPARATOR)[0] in self.tasks:
                task, self.transforms[i], permutation = parse_augmentation(name)
                self.task_of[i] = self.task_numbers[task]
                self.has_vote[i] = most is None or seen[task] <= most  # the task itself is the first
                seen[task] += 1
                self.values[i, FIRST_COLOUR + permutation] = np.arange(1, COLOURS + 1)

    def names(self) -> list[str]:
        return list(self._attempts_of_metrics())

    def _attempts_of_metrics(self) -> dict[str, int]:
        """How many attempts count for each metric."""
        prefix = "aggregated_" * self.config.aggregated_voting
        Ks = {f"pass@{K}": K for K in self.config.pass_Ks} | {"accuracy": self.config.submission_K}
        return {prefix + name: K for name, K in Ks.items()}

    def begin_eval(self) -> None:
        if not self.config.aggregated_voting:
            self.votes = Votes()

    def update_batch(self, batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        identifiers = batch["puzzle_identifiers"].cpu().numpy()
        real = torch.from_numpy((identifiers != self.blank) & self.has_vote[identifiers])
        identifiers = identifiers[real.numpy()]
        inputs, preds = (tokens[real].to(torch.uint8).cpu().numpy()
                         for tokens in (batch["inputs"], outputs["preds"]))
        transforms, values = self.transforms[identifiers], self.values[identifiers]
        keys = candidate_keys(self.task_of[identifiers], grid_hashes(inputs, transforms, values))
        questions = np.searchsorted(self.question_keys, keys).clip(max=len(self.question_keys) - 1)
        if (self.question_keys[questions] != keys).any():
            raise ValueError(f"{self.data_path}: the test split has inputs that are not in "
                             "test_puzzles.json; build the data set again")
        q = outputs["q_halt_logits"][real].cpu().double().sigmoid().numpy()
        self.votes.add(questions, preds, transforms, values, q)

    def result(self, save_path: str | Path | None, rank: int, world_size: int,
               group) -> dict[str, float] | None:
        candidates = self.votes.ranked()
        best = broadcast_object(None if candidates is None else self._best_keys(candidates))
        grids = self.votes.grids(best)
        folder = None if save_path is None else Path(save_path)
        metrics = decided_by_main(lambda: self._report(candidates, dict(zip(best.tolist(), grids)), folder))
        return metrics if rank == 0 else None

    def _best_keys(self, candidates: np.ndarray) -> np.ndarray:
        """Keys of the candidates that are submitted."""
        starts = np.searchsorted(candidates["question"], candidates["question"])
        return candidates["key"][np.arange(len(candidates)) - starts < self.config.submission_K]

    def _report(self, candidates: np.ndarray, grids: dict[int, np.ndarray],
                save_path: Path | None) -> dict[str, float]:
        """Write the files and return the metrics."""
        starts = np.searchsorted(candidates["question"], np.arange(len(self.question_keys) + 1))
        answers = [self._answer(number, candidates[starts[question]:starts[question + 1]], grids)
                   for number, question in enumerate(self.questions)]
        self.answers = answers
        metrics = {name: _pass_rate(answers, K) for name, K in self._attempts_of_metrics().items()
                   if self.truth_known.any()}
        if save_path is not None:
            save_path.mkdir(parents=True, exist_ok=True)
            self._write_submission(answers, save_path / "submission.json")
            self._write_table(answers, save_path / "arc_tasks.csv")
            if self.config.gallery:
                write_gallery(self.tasks, answers, metrics, self.config.gallery, self.config.submission_K,
                              save_path / "gallery.html")
            files = [save_path / name for name in ("submission.json", "arc_tasks.csv", "gallery.html")]
            self.told = [f"{file.stem}: {file}" for file in files if file.is_file()]
            without = sum(not answer.attempts for answer in answers)
            if without:
                self.told.append(f"notice: {without} of {len(answers)} test inputs got no valid grid from the model; "
                                 "submission.json has a stand-in for each")
        return metrics

    def _answer(self, number: int, candidates: np.ndarray, grids: dict[int, np.ndarray]) -> Answer:
        """The result of the vote on the test input with this number in `pairs`."""
        place = np.flatnonzero(candidates["key"] == self.truths[number])
        best = candidates[:self.config.submission_K]
        return Answer(
            *self.pairs[number],
            [Attempt(decode_grid(grids[int(c["key"])]).tolist(), int(c["votes"]), float(c["q"])) for c in best],
            votes=int(candidates["votes"].sum()), candidates=len(candidates),
            truth_rank=int(place[0]) + 1 if len(place) else None, truth_votes=int(candidates["votes"][place].sum()),
            truth_known=bool(self.truth_known[number]))

    def _write_submission(self, answers: list[Answer], file: Path) -> None:
        """Write the attempts in Kaggle's form. If there are too few candidates, the best one is repeated."""
        submission: dict[str, list[dict[str, Grid]]] = {}
        for answer in answers:
            grids = [attempt.grid for attempt in answer.attempts] or [NO_PREDICTION]
            grids += grids[:1] * (self.config.submission_K - len(grids))
            submission.setdefault(answer.task, []).append(
                {f"attempt_{i}": grid for i, grid in enumerate(grids, start=1)})
        file.write_text(json.dumps(submission) + "\n")

    def _write_table(self, answers: list[Answer], file: Path) -> None:
        with open(file, "w", newline="") as f:
            table = csv.writer(f, lineterminator="\n")
            table.writerow(["task", "test_input", "votes", "candidates", "truth_rank",
                            "truth_votes", "solved"])
            for a in answers:
                of_truth = [a.truth_rank, a.truth_votes,
                            int(a.solved_within(self.config.submission_K))]
                table.writerow([spreadsheet_text(a.task), a.number, a.votes, a.candidates,
                                *(of_truth if a.truth_known else [None] * 3)])


def _pass_rate(answers: list[Answer], attempts: int) -> float:
    """Mean over tasks of the fraction of their test inputs that are solved within this number of attempts.

    Test inputs without a known answer are left out.
    """
    solved: dict[str, list[bool]] = {}
    for answer in filter(lambda answer: answer.truth_known, answers):
        solved.setdefault(answer.task, []).append(answer.solved_within(attempts))
    return float(np.mean([np.mean(task) for task in solved.values()]))


def _hashes(grids: list[Grid]) -> np.ndarray:
    """Hashes of grids that are not augmented."""
    tokens = np.array([encode_grid(np.array(grid)) for grid in grids])
    return grid_hashes(tokens, np.zeros(len(grids), np.uint8), np.tile(ORIGINAL, (len(grids), 1)))


def _file(data_path: str, name: str) -> Path:
    file = Path(data_path) / name
    if not file.is_file():
        raise ValueError(f"arc@ARC scores ARC data sets only, and {file} is missing; use "
                         "evaluators=[] for other puzzles, or build the data set again")
    return file
