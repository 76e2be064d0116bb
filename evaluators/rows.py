"""Runs puzzles through supervision steps: a row of the batch whose puzzle has ended takes the next puzzle.

    for step in row_steps(head, dataset, example_set, strategy, world):   # a `RowStep` after each supervision step
        answers = strategy.take(step)                                     # may end rows; returns final answers

If every puzzle gets the same number of steps, rows end together, and the host does not wait for the device between
steps. A compiled model always gets a whole batch, so that one graph serves all steps: rows without a puzzle compute as
well. Any other model gets a smaller batch where all rows are free and fewer puzzles are left or, with a strategy that
knows of it (`keep_rows`), where a quarter of the rows is free.
"""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dataset.example_set import ExampleSet
from dataset.puzzle_dataset import Batch, PuzzleDataset
from evaluators.latent_noise import LatentNoise
from evaluators.strategies import NOBODY, Attempts, Strategy
from losses.head import LossHead
from models.act import Carry, noise_keys, where_rows
from utils.distributed import World, any_rank


@dataclass
class RowStep:
    """The rows (B,) after a supervision step."""

    # number of the example that each row works on; NOBODY: none
    numbers: np.ndarray
    # number of the row's attempt at this example, as the strategy counts attempts
    attempts: np.ndarray
    # supervision steps that this attempt has taken
    steps: np.ndarray
    # whether the attempt has ended with this step; a strategy may set more rows to true
    ended: np.ndarray
    # the puzzles as presented, and the outputs of the head, (B, …) on the device
    data: Batch
    outputs: dict[str, Tensor]
    carry: Carry
    head: LossHead

    @property
    def busy(self) -> np.ndarray:
        """Rows (B,) that work on a puzzle."""
        return self.numbers != NOBODY

    def answers(self, rows: np.ndarray) -> "Answers":
        """The current answers of the rows for which `rows` (B,) is true."""
        places = np.flatnonzero(rows)
        first = len(places)
        if np.array_equal(places, np.arange(first)):  # a view, which costs nothing
            taken: slice | Tensor = slice(first)
        else:
            taken = torch.from_numpy(places).to(self.carry.steps.device)
        return Answers(self.numbers[places], {name: value[taken] for name, value in self.data.items()},
                       {name: value[taken] for name, value in self.outputs.items()},
                       self.carry.steps[taken])


@dataclass
class Answers:
    """Answers to N examples of a set: numbers (N,), puzzles and outputs (N, …), and steps taken (N,)."""

    numbers: np.ndarray
    data: Batch
    outputs: dict[str, Tensor]
    steps: Tensor
    # how each answer came about; empty where the strategy does not tell
    results: Sequence["Result"] = ()


@dataclass
class Result:
    """The answer to one puzzle, chosen among the attempts at it, and how it came about."""

    number: int  # of the puzzle in its set
    answer: np.ndarray  # (L,) tokens
    confidence: float  # from 0 to 1
    confident: bool  # whether the rule that chose it holds it for right
    steps: int  # supervision steps of the attempt that answers
    attempt: int  # its number: view + trajectory · number of views
    trajectory: int
    view: int  # 0: the puzzle itself
    valid: bool | None  # whether the rules of the puzzle accept it; None: there are no rules
    attempts: int  # how many were made


class Rows:
    """`B` rows of one rank, and the example that each works on."""

    def __init__(self, head: LossHead, dataset: PuzzleDataset, example_set: ExampleSet, B: int,
                 device: torch.device):
        self.head, self.example_set, self.device = head, example_set, device
        self.numbers, self.attempts = np.full(B, NOBODY), np.zeros(B, int)
        self.steps, self.begins = np.zeros(B, int), np.zeros(B, bool)
        self.batch = {name: value[:1].repeat_interleave(B, 0).to(device)
                      for name, value in dataset.padding_batch().items()}
        self.carry = head.initial_carry(self.batch)

    @property
    def free(self) -> np.ndarray:
        return self.numbers == NOBODY

    def place(self, attempts: Attempts, strategy: Strategy) -> None:
        """Give attempts to the first free rows, as the strategy presents them. The seed of an attempt decides the
        random numbers of its row."""
        rows = np.flatnonzero(self.free)[:len(attempts.numbers)]
        if not len(rows):
            return
        self.numbers[rows], self.attempts[rows] = attempts.numbers, attempts.attempts
        self.steps[rows], self.begins[rows] = 0, True
        places = torch.from_numpy(rows).to(self.device)

        def placed(old: Tensor, new: Tensor) -> Tensor:
            return old.index_copy(0, places, new.to(self.device))

        fields = strategy.present(self.example_set.fetch(attempts.numbers), attempts)
        self.batch = {name: placed(value, torch.from_numpy(fields[name]))
                      for name, value in self.batch.items()}
        keys = noise_keys(0, torch.from_numpy(attempts.seeds))
        self.carry = replace(self.carry, noise_key=placed(self.carry.noise_key, keys))

    def step(self, noise: LatentNoise | None = None) -> RowStep:
        """Run one supervision step of all rows, including rows without a puzzle. `noise`: added to latents before."""
        if self.begins.any():
            begins = torch.from_numpy(self.begins.copy()).to(self.device)
            self.carry, self.begins[:] = replace(self.carry, halted=self.carry.halted | begins), False
        if noise is not None:
            self.carry = noise.added(self.head.model, self.carry, self.batch)
        self.carry, outputs = self.head.step(self.carry, self.batch)
        self.steps += 1
        known = self.head.steps_known
        ended = self.steps == known if known else self.carry.halted.cpu().numpy()
        return RowStep(self.numbers.copy(), self.attempts.copy(), self.steps.copy(), ended & ~self.free, self.batch,
                       outputs, self.carry, self.head)

    def leave(self, ended: np.ndarray) -> None:
        """Free the rows for which `ended` (B,) is true."""
        self.numbers[ended] = NOBODY

    def keep(self, rows: np.ndarray) -> None:
        """Go on with these rows alone, given by number."""
        places = torch.from_numpy(rows).to(self.device)
        self.numbers, self.attempts, self.steps, self.begins = (
            values[rows] for values in (self.numbers, self.attempts, self.steps, self.begins))
        self.batch = {name: value[places] for name, value in self.batch.items()}
        self.carry = self.carry.map(lambda tensor: tensor[places])


def row_steps(head: LossHead, dataset: PuzzleDataset, example_set: ExampleSet,
              strategy: Strategy, world: World,
              before_round: Callable[[], None] = lambda: None) -> Iterator[RowStep]:
    """Work on all attempts that a strategy draws from this rank's part of a set.

    A round lasts from one refill of free rows to the next. Ranks begin each round together, so every rank must call
    this. `before_round` is called before each, and may end the work by an exception.
    """
    B = getattr(strategy, "rows", None) or dataset.local_batch_size
    noise = getattr(strategy, "noise", None)
    rows = Rows(head, dataset, example_set, B, world.device)
    while True:
        all_free = rows.free.all()
        attempts = strategy.draw(B if all_free else int(rows.free.sum()))
        count = len(attempts.numbers)
        if all_free and count not in (0, len(rows.numbers)) and not head.is_compiled:
            rows = Rows(head, dataset, example_set, count, world.device)
        rows.place(attempts, strategy)
        if not any_rank(not rows.free.all())[0]:
            return
        busy = np.flatnonzero(~rows.free)
        if hasattr(strategy, "keep_rows") and 0 < len(busy) <= 0.75 * len(rows.free) and not head.is_compiled:
            rows.keep(busy)
            strategy.keep_rows(busy)
        before_round()
        while not rows.free.all():
            step = rows.step(noise)
            yield step
            rows.leave(step.ended)
            if step.ended.any():
                break


def supervision_steps(head: LossHead, batch: Batch, carry: Carry | None = None) -> Iterator[dict[str, Tensor]]:
    """The outputs after each supervision step of a batch, until all rows have halted. A row keeps the outputs of the
    step in which it halted. `carry`: to begin with; None: the initial one."""
    carry = head.initial_carry(batch) if carry is None else carry
    if head.steps_known:
        for _ in range(head.steps_known):
            carry, outputs = head.step(carry, batch)
            yield outputs
        return
    kept: dict[str, Tensor] = {}
    done = torch.zeros_like(carry.halted)
    while not done.all():
        carry, outputs = head.step(carry, batch)
        kept = {name: where_rows(done, kept[name], value) if kept else value
                for name, value in outputs.items()}
        done = done | carry.halted
        yield kept


def trace(head: LossHead, batch: Batch) -> tuple[Tensor, Tensor]:
    """Predictions (steps, B, …) and halting logits (steps, B) after each supervision step."""
    with torch.no_grad():
        steps = list(supervision_steps(head.eval(), batch))
    return torch.stack([s["preds"] for s in steps]), torch.stack([s["q_halt_logits"]
                                                                  for s in steps])
