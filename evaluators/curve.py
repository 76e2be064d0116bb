"""Accuracy against compute, `curve=true`: every selection rule over steps × trajectories, from one run of the model.

A run with K attempts of T steps holds all smaller ones: attempt a does not depend on how many there are, and step t not
on how many follow. So each puzzle is attempted K times for T steps, and then every rule is asked what it would have
answered with the first k attempts after t steps. It writes

    curve.csv        for each rule, k and t: cost, exact (the recall), precision, spurious, ever
    curve.png        the same as a picture, with other curves and published scores beside it
    confidence.json  what q knows (evaluators/confidence.py), with reliability.png
    oscillation.csv  the course of each attempt

`exact` counts all puzzles that are answered rightly; `precision` those among the answers that the rule is confident of
(`selection.is_confident`), and `spurious` is the share of all puzzles that are answered confidently and wrong. `ever`
is the share for which any of the k attempts was right at any of the t steps. `first_halt` with one attempt is early
exit.
"""
import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from dataset.puzzle_dataset import PuzzleDataset
from evaluators.confidence import Course, calibration_error, fates, halting, reliability
from evaluators.selection import UPPER_BOUND, Rule, Trajectories, choose, is_confident, known_rules
from evaluators.test_time import TestTime, TestTimeConfig, Watched
from losses.head import LossHead
from utils.curve_plots import plot_curves, plot_reliability
from utils.distributed import all_gather_objects
from utils.strict_json import as_json

BOUND_NAME = "best_of (upper bound)"
Task = Literal["sudoku-extreme", "maze-hard"]
# (cells of a puzzle, published scores: name, row-steps a puzzle, exact), trained on 1,000 puzzles
PUBLISHED: dict[Task, tuple[int, list[tuple[str, int, float]]]] = {
    "sudoku-extreme": (81, [
        ("TRM", 16, 0.874), ("SiC", 16, 0.855), ("SiC, 8 views", 128, 0.973), ("PTRM, 25 × 16", 400, 0.985),
        ("PTRM, 100 × 64", 6400, 0.9875), ("EqR", 16, 0.865), ("EqR", 64, 0.932), ("DEC", 16, 0.959),
        ("DEC", 64, 0.9916), ("DEC", 256, 0.996)]),
    "maze-hard": (900, [("HRM", 16, 0.745), ("TRM", 16, 0.853), ("PTRM, 100 × 16", 1600, 0.867)])}


@dataclass(frozen=True)
class Point:
    """A rule with k trajectories of t steps; all but the first three are means over puzzles."""

    rule: str
    trajectories: int
    steps: int
    row_steps: float
    flop: float
    seconds: float
    exact: float
    confident: float
    precision: float | None
    spurious: float
    ever: float


@dataclass
class Puzzle:
    """What the K attempts at one puzzle were like after each of T steps: arrays (K, T)."""

    ids: np.ndarray  # numbers that are equal where answers are
    q: np.ndarray
    score: np.ndarray
    residual: np.ndarray
    known: dict[bytes, int] = field(default_factory=dict)  # the number of each answer
    valid: list[bool] = field(default_factory=list)  # of each answer, whether the rules accept it
    right: list[bool] = field(default_factory=list)
    done: int = 0

    def trajectories(self, k: int, t: int, rule: Rule, threshold: float, has_rules: bool) -> tuple[Trajectories, int]:
        """The first k attempts after t steps as a rule sees them, and how many row-steps they took."""
        sure = self.score[:k, :t] > threshold
        halted_at = np.where(sure.any(1), sure.argmax(1) + 1, 0)
        last = np.where(halted_at > 0, halted_at, t) - 1 if rule == "first_halt" else np.full(k, t - 1)
        ids, rows = self.ids[np.arange(k), last], np.arange(k)
        return Trajectories(ids, self.q[rows, last], sure[rows, last], halted_at, self.residual[rows, last],
                            np.array(self.valid)[ids] if has_rules else None,
                            np.array(self.right)[ids]), int(last.sum() + k)


class Curve(TestTime):
    """The strategy of the settings, which also keeps what every smaller one would have answered.

    `others`: curve.csv of other evaluations, to be drawn beside it. `published`: the task whose published scores are
    drawn, which only the user knows to be the same.
    """

    def __init__(self, config: TestTimeConfig, trust_code: bool = False, others: Sequence[str] = (),
                 published: Task | None = None):
        super().__init__(config, trust_code)
        refuse_shortened(config)
        self.others, self.published = others, published
        self.watch, self.watches_residual = self.see, True
        self.told: list[str] = []

    def prepare(self, head: LossHead, data: PuzzleDataset) -> None:
        super().prepare(head, data)
        if head.TASK != "classification" or head.steps_known is None:
            raise ValueError("curve=true follows answers of tokens over a fixed number of steps; leave it out for "
                             "floats and with arch.act_inference=true")
        if self.published and PUBLISHED[self.published][0] != data.metadata.seq_len:
            raise ValueError(f"published={self.published}: its puzzles have {PUBLISHED[self.published][0]} cells, and "
                             f"those of {data.config.folders} have {data.metadata.seq_len}; leave it out")
        self.other_curves = {_name_of(Path(file)): read_points(Path(file)) for file in self.others}
        self.depth = int(head.steps_known)
        self.breadths = [*_powers_of_two(self.config.attempts)]
        self.flop = flop_of_row_step(head, data)
        self.open: dict[int, Puzzle] = {}  # puzzles on which attempts are still made, by number
        self.courses: list[Course] = []
        self.sums: dict[Rule, np.ndarray] = {}
        self.ever_sums = np.zeros((len(self.breadths), self.depth))
        self.scored = 0
        self.points: list[Point] = []
        self.began = time.perf_counter()

    # While the model runs

    def see(self, rows: Watched) -> None:
        preds, inputs, labels = (values.cpu().numpy() for values in (
            rows.outputs["preds"], rows.data["inputs"], rows.data["labels"]))
        q = rows.outputs["q_halt_logits"].float().cpu().numpy()
        for i, (number, attempt, step) in enumerate(zip(rows.numbers.tolist(), rows.attempts.tolist(),
                                                        rows.steps.tolist())):
            puzzle = self.open.get(number) or self.open.setdefault(number, self._new())
            place = attempt, step - 1
            puzzle.ids[place] = self._id(puzzle, preds[i], inputs[i], labels[i])
            puzzle.q[place], puzzle.score[place] = q[i], rows.score[i]
            puzzle.residual[place] = rows.residual[i] if rows.residual is not None else np.nan
            puzzle.done += bool(rows.ended[i])
            if puzzle.done == self.config.attempts:
                self._close(number, asked=bool((labels[i] >= 0).any()))

    def _new(self) -> Puzzle:
        shape = self.config.attempts, self.depth
        return Puzzle(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.float32),
                      np.zeros(shape, np.float32))

    def _id(self, puzzle: Puzzle, preds: np.ndarray, inputs: np.ndarray, labels: np.ndarray) -> int:
        number = puzzle.known.setdefault(preds.tobytes(), len(puzzle.known))
        if number == len(puzzle.valid):
            valid = self._valid(inputs[None], preds[None])
            puzzle.valid.append(valid is not None and bool(valid[0]))
            puzzle.right.append(bool(((labels < 0) | (preds == labels)).all()))
        return number

    def _close(self, number: int, asked: bool) -> None:
        """Ask every rule about every part of a puzzle's attempts. Puzzles without a label are left out."""
        puzzle = self.open.pop(number)
        if not asked:
            return
        self.scored += 1
        right = np.array(puzzle.right)[puzzle.ids]
        for rule in known_rules(self._has_rules):
            counts = self.sums.setdefault(rule, np.zeros((len(self.breadths), self.depth, 4)))
            for i, k in enumerate(self.breadths):
                for t in range(1, self.depth + 1):
                    counts[i, t - 1] += self._judged(puzzle, rule, k, t)
        for i, k in enumerate(self.breadths):
            self.ever_sums[i] += np.maximum.accumulate(right[:k].any(0))
        sure = puzzle.score > self.config.halt_threshold
        self.courses += [Course(number, a, puzzle.ids[a], right[a], sure[a], puzzle.q[a])
                         for a in range(self.config.attempts)]

    def _judged(self, puzzle: Puzzle, rule: Rule, k: int, t: int) -> list[float]:
        """Row-steps, whether the rule's answer is right, whether it is confident, and whether both."""
        seen, cost = puzzle.trajectories(k, t, rule, self.config.halt_threshold, self._has_rules)
        chosen = choose(rule, seen)
        assert seen.right is not None
        right, confident = bool(seen.right[chosen]), is_confident(rule, seen, chosen)
        return [cost, right, confident, right and confident]

    # When it has run

    def metrics(self) -> dict[str, float]:
        """Also what q knows after the last step, over all attempts."""
        seconds = time.perf_counter() - self.began
        parts = all_gather_objects((self.sums, self.ever_sums, self.scored, self.courses, self.row_steps, seconds))
        found = super().metrics()
        scored = sum(part[2] for part in parts)
        if not scored:
            return found
        per_row_step = sum(part[5] for part in parts) / sum(part[4] for part in parts)
        sums = {rule: np.sum([part[0][rule] for part in parts if rule in part[0]], axis=0) / scored
                for rule in known_rules(self._has_rules)}
        ever = np.sum([part[1] for part in parts], axis=0) / scored
        self.points = list(self._points(sums, ever, per_row_step))
        self.courses = sorted((course for part in parts for course in part[3]), key=lambda c: (c.number, c.attempt))
        last = halting(self.courses)[-1]
        return found | {f"q/{name}": value for name in ("precision", "recall") if (value := last[name]) is not None} | {
            "q/calibration_error": calibration_error(reliability(self.courses))} | {
            f"attempts/{name}": value for name, value in fates(self.courses).items()}

    def _points(self, sums: dict[Rule, np.ndarray], ever: np.ndarray, per_row_step: float) -> Iterator[Point]:
        for rule, grid in sums.items():
            for i, k in enumerate(self.breadths):
                for t in range(self.depth):
                    cost, exact, confident, both = grid[i, t].tolist()
                    yield Point(BOUND_NAME if rule == UPPER_BOUND else rule, k, t + 1, cost, cost * self.flop,
                                cost * per_row_step, exact, confident, both / confident if confident else None,
                                confident - both, float(ever[i, t]))

    def write(self, folder: Path) -> None:
        """Write the files. Called on rank 0, after `metrics`."""
        if not self.points:
            self.told.append("curve: nothing is scored, since no answer is known")
            return
        write_rows(folder / "curve.csv", [asdict(point) for point in self.points])
        published = PUBLISHED[self.published][1] if self.published else []
        plot_curves({folder.name: self.points} | self.other_curves, published, folder / "curve.png")
        bins = reliability(self.courses)
        (folder / "confidence.json").write_text(as_json({
            "halting": halting(self.courses), "reliability": bins, "calibration_error": calibration_error(bins),
            "fates": fates(self.courses)}, indent=1) + "\n")
        plot_reliability(bins, folder / "reliability.png")
        write_rows(folder / "oscillation.csv", [course.row() for course in self.courses])
        self.told += [f"curve: {folder / 'curve.csv'}, curve.png", f"what q knows: {folder / 'confidence.json'}, "
                      "reliability.png, oscillation.csv", *self._summary()]

    def _summary(self) -> list[str]:
        """For each rule the whole run in a line."""
        ends = [point for point in self.points if point.trajectories == self.breadths[-1] and point.steps == self.depth]
        return [f"  {point.rule:{len(BOUND_NAME)}} exact {point.exact:6.1%}, spurious {point.spurious:6.1%}, "
                f"{point.row_steps:.0f} row-steps a puzzle" for point in ends]


def refuse_shortened(config: TestTimeConfig) -> None:
    """Raise ValueError for settings that end attempts before their time, of which there is then no whole grid."""
    shortened = {"until": config.until, "early_exit": config.early_exit,
                 "select=first_halt": config.select == "first_halt"}
    for name in (name for name, is_set in shortened.items() if is_set):
        raise ValueError(f"curve=true needs all steps of all attempts, and {name} ends some before; leave it out: the "
                         "curve has first_halt, also for one attempt, which is early exit")


def flop_of_row_step(head: LossHead, data: PuzzleDataset) -> float:
    """Floating-point operations of the matrix products in one supervision step of one row, as PyTorch counts them."""
    def attention(query, key, value, *_, out_shape=None, **__) -> int:
        return sdpa_flop_count(query, key, value)

    # PyTorch counts attention of a GPU, but not that of a CPU
    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    device = next(head.parameters()).device
    batch = {name: value[:1].to(device) for name, value in data.first_batch().items()}
    was_training = head.training
    counter = FlopCounterMode(display=False, custom_mapping=on_cpu)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), counter:
        head.eval().step(head.initial_carry(batch), batch)
    head.train(was_training)
    return float(counter.get_total_flops())


def write_rows(file: Path, rows: Sequence[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as f:
        table = csv.DictWriter(f, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def read_points(file: Path) -> list[Point]:
    """The points of a curve.csv, or of the one in a folder. Raises ValueError where it is none."""
    file = file / "curve.csv" if file.is_dir() else file
    if not file.is_file():
        raise ValueError(f"curve_with: there is no {file}; an evaluation with curve=true writes it")
    try:
        with open(file, newline="") as f:
            return [_point(row) for row in csv.DictReader(f)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"curve_with: {file} is no curve.csv ({error!r}); an evaluation with curve=true writes "
                         "one") from error


def _point(row: dict[str, str]) -> Point:
    precision = row.pop("precision")
    return Point(row.pop("rule"), int(row.pop("trajectories")), int(row.pop("steps")),
                 precision=float(precision) if precision else None,
                 **{name: float(value) for name, value in row.items()})


def _name_of(file: Path) -> str:
    return "/".join((file if file.suffix != ".csv" else file.parent).parts[-2:])


def _powers_of_two(most: int) -> Iterator[int]:
    """1, 2, 4, … below `most`, and `most`."""
    k = 1
    while k < most:
        yield k
        k *= 2
    yield most
