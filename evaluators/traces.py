"""Records how a model reasons: what each trajectory of a puzzle held after each supervision step.

    traces = record(head, data, [0, 7], strategy)        # a `Trace` for each of the two puzzles
    traces[0].trajectories[0].preds                      # (S, L) its answer after each of S steps

Any strategy can be watched. The puzzles run through the one loop (evaluators/rows.py), under a `Recorder` around the
strategy, so that what is recorded is what would be scored. A *trajectory* is one attempt at a puzzle.

Shapes: S steps of a trajectory, L cells, V tokens, K candidates of a cell.
"""
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.common import IGNORE_LABEL_ID, PuzzleDatasetMetadata
from dataset.example_set import ExampleSet
from dataset.puzzle_dataset import PuzzleDataset
from evaluators.rows import Answers, RowStep, row_steps
from evaluators.strategies import Attempts, Single, Strategy
from losses.head import LossHead
from utils.distributed import World

CANDIDATES = 3  # tokens that are kept of each cell
ALONE = World()  # one process on the CPU
LEVELS = 255  # probabilities are kept in this many equal levels


@dataclass(frozen=True)
class Trajectory:
    """One attempt at a puzzle, of S steps."""

    # its number among the attempts at this puzzle
    attempt: int
    # (S, L, K) int16: the K most probable tokens of each cell after each step, the answer first
    candidates: np.ndarray
    # (S, L, K) uint8: their probabilities, in 1/255
    levels: np.ndarray
    # (S,) float32: sigmoid(q_halt), how sure the model is that the whole answer is right
    q: np.ndarray
    # (S,) float32: ‖z_t − z_{t−1}‖, how far all latents moved since the step before; NaN at the first step
    residual: np.ndarray

    @property
    def preds(self) -> np.ndarray:
        """(S, L) int16: the answer after each step."""
        return self.candidates[..., 0]

    @property
    def confidence(self) -> np.ndarray:
        """(S, L) float: probability of the answer in each cell, to ± 1/510."""
        return self.levels[..., 0] / LEVELS


@dataclass(frozen=True)
class Trace:
    """A puzzle, and all trajectories of it."""

    # number of the example in its data
    number: int
    # (L,) int32: the question
    question: np.ndarray
    # (L,) int32: the right answer, negative where none is asked for; None: not known
    label: np.ndarray | None
    # row of the puzzle table
    identifier: int
    trajectories: list[Trajectory]
    # place in `trajectories` of the one whose answer was taken. Where several gave that answer, the one that is surest
    # of it; None: the strategy gave an answer of its own, or none
    selected: int | None
    # (L,) int32: the answer that the strategy gave; None: it gave none
    answer: np.ndarray | None


def latent_change(latents: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """‖z_t − z_{t−1}‖ (B,): the Euclidean norm over all latents, each (B, …), and all their entries."""
    squares = [(new.float() - old.float()).flatten(1).square().sum(1) for new, old in zip(latents, before)]
    return torch.stack(squares).sum(0).sqrt()


@dataclass
class Recorder:
    """A strategy that does what `strategy` does, and keeps what it sees of every trajectory."""

    strategy: Any
    head: LossHead
    # of trajectories by (number of the example, number of the attempt): what was seen after each step, by name
    seen: dict[tuple[int, int], list[dict[str, np.ndarray]]] = field(default_factory=dict)
    # of examples by number: the answer (L,) that the strategy gave
    answers: dict[int, np.ndarray] = field(default_factory=dict)
    # of examples by number: the attempt whose answer was taken, where the strategy tells
    chosen: dict[int, int] = field(default_factory=dict)
    # of the rows of the step before, by the same key: their latents
    before: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)

    def __getattr__(self, name: str):
        """What else the loop asks a strategy, such as its noise."""
        return getattr(self.strategy, name)

    def begin(self, example_set: ExampleSet, numbers: np.ndarray, batch: int) -> None:
        self.seen, self.answers, self.chosen, self.before = {}, {}, {}, {}
        self.strategy.begin(example_set, numbers, batch)

    def draw(self, most: int) -> Attempts:
        return self.strategy.draw(most)

    def present(self, fields: dict[str, np.ndarray], attempts: Attempts) -> dict[str, np.ndarray]:
        return self.strategy.present(fields, attempts)

    def take(self, step: RowStep) -> list[Answers]:
        busy = np.flatnonzero(step.busy)
        residual = self._residual(step, busy)
        if hasattr(self.strategy, "watch"):  # it tells of answers to other views of a puzzle what they say of itself
            self.strategy.watch = lambda seen: self._keep(seen.numbers, seen.attempts, seen.outputs, residual)
        else:
            places = torch.from_numpy(busy).to(step.carry.steps.device)
            outputs = {name: value[places] for name, value in step.outputs.items()}
            self._keep(step.numbers[busy], step.attempts[busy], outputs, residual)
        taken = self.strategy.take(step)
        for answers in taken:
            preds = answers.outputs["preds"].cpu().numpy().astype(np.int32)
            self.answers |= dict(zip(answers.numbers.tolist(), preds))
            self.chosen |= {result.number: result.attempt for result in answers.results}
        return taken

    def _keep(self, numbers: np.ndarray, attempts: np.ndarray, outputs: dict[str, Tensor],
              residual: dict[tuple[int, int], float]) -> None:
        """Keep what there is of N rows (N,) after a step."""
        fields = self._fields(outputs)
        for i, key in enumerate(zip(numbers.tolist(), attempts.tolist())):
            one = {name: value[i] for name, value in fields.items()} | {"residual": np.float32(residual[key])}
            self.seen.setdefault(key, []).append(one)

    def _fields(self, outputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """What is kept of rows, from their outputs."""
        probabilities = self.head.probabilities(outputs["logits"])  # (B, L, V)
        ranks = probabilities.scatter(-1, outputs["preds"].long().unsqueeze(-1), 2.0)  # the answer is the first
        candidates = ranks.topk(min(CANDIDATES, ranks.shape[-1])).indices
        levels = (probabilities.gather(-1, candidates) * LEVELS).round()
        return {"candidates": _host(candidates, np.int16), "levels": _host(levels, np.uint8),
                "q": _host(outputs["q_halt_logits"].float().sigmoid(), np.float32)}

    def _residual(self, step: RowStep, rows: np.ndarray) -> dict[tuple[int, int], float]:
        """How far the latents of rows moved since the step before, by key. Keeps them for the next step."""
        keys = list(zip(step.numbers[rows].tolist(), step.attempts[rows].tolist()))
        now = [[latent[row] for latent in step.carry.latents] for row in rows.tolist()]
        before = [self.before.get(key, latents) for key, latents in zip(keys, now)]
        self.before = dict(zip(keys, now))
        moved = latent_change(*([torch.stack(parts) for parts in zip(*latents)] for latents in (now, before)))
        return dict(zip(keys, np.where(step.steps[rows] > 1, moved.cpu().numpy(), np.nan).tolist()))

    def trajectories(self, number: int) -> list[Trajectory]:
        """Those of one example, in the order of their attempts."""
        attempts = sorted(attempt for example, attempt in self.seen if example == number)
        return [Trajectory(attempt, **{name: np.stack([step[name] for step in self.seen[number, attempt]])
                                       for name in self.seen[number, attempt][0]}) for attempt in attempts]


def record(head: LossHead, data: PuzzleDataset, numbers: Sequence[int], strategy: Strategy | None = None,
           world: World = ALONE) -> list[Trace]:
    """Work on the examples with these numbers, counted over all sets of test data, and record it.

    `strategy`: as in an evaluation; None: one attempt each. Of several ranks, all must call it, and each works on all
    of these examples. Raises ValueError for data that are no puzzles, and for a number that there is not.
    """
    if not isinstance(data.metadata, PuzzleDatasetMetadata):
        raise ValueError(f"{data.config.folders} holds {data.metadata.KIND}, and reasoning is recorded of puzzles only")
    data.examples(list(numbers))  # refuses numbers that there are not
    alone, first = World(device=world.device), 0
    found: dict[int, Trace] = {}
    for example_set in data.sets.values():
        own = np.unique([n - first for n in numbers if first <= n < first + len(example_set)]).astype(int)
        traces = record_set(head, data, example_set, own, strategy, alone) if len(own) else []
        found |= {first + trace.number: replace(trace, number=first + trace.number) for trace in traces}
        first += len(example_set)
    return [found[number] for number in numbers]


def record_set(head: LossHead, data: PuzzleDataset, example_set: ExampleSet, numbers: np.ndarray,
               strategy: Strategy | None, world: World) -> list[Trace]:
    """`record` of examples of one set, by their numbers in it. `data`: gives the size of a batch."""
    last = deque(watch(head, data, example_set, numbers, strategy, world), maxlen=1)
    return last.pop() if last else []


@torch.no_grad()
def watch(head: LossHead, data: PuzzleDataset, example_set: ExampleSet, numbers: np.ndarray,
          strategy: Strategy | None, world: World) -> Iterator[list[Trace]]:
    """The traces so far, after each supervision step."""
    was_training = head.training
    strategy = strategy or Single()
    recorder, fields = Recorder(strategy, head.eval()), example_set.fetch(numbers)
    if hasattr(strategy, "prepare"):
        strategy.prepare(head, data)
    recorder.begin(example_set, numbers, data.config.global_batch_size)
    try:
        for step in row_steps(head, data, example_set, recorder, world):
            recorder.take(step)
            yield [_trace(recorder, number, {name: value[i] for name, value in fields.items()})
                   for i, number in enumerate(numbers.tolist())]
    finally:
        head.train(was_training)


def _trace(recorder: Recorder, number: int, fields: dict[str, np.ndarray]) -> Trace:
    label = fields["labels"]
    trajectories, answer = recorder.trajectories(number), recorder.answers.get(number)
    return Trace(number, fields["inputs"], label if (label != IGNORE_LABEL_ID).any() else None,
                 int(fields["puzzle_identifiers"]), trajectories,
                 _selected(trajectories, answer, recorder.chosen.get(number)), answer)


def _selected(trajectories: Sequence[Trajectory], answer: np.ndarray | None, chosen: int | None) -> int | None:
    if chosen is not None:
        return [one.attempt for one in trajectories].index(chosen)
    same = [i for i, one in enumerate(trajectories) if answer is not None and (one.preds[-1] == answer).all()]
    return max(same, key=lambda i: trajectories[i].q[-1], default=None)


def _host(values: Tensor, dtype: type) -> np.ndarray:
    return values.cpu().numpy().astype(dtype)
