"""Solving by chains: many attempts at a puzzle at once, of which those in conflict start over (arXiv 2605.08605).

    python evaluate.py checkpoint=checkpoints/ldt strategy="{name: chains@Chains, chains: 64, rounds: 1000}"

It is for models that say when they have solved a puzzle, as LDT does (`solved`). They say it without rules or labels;
`accepted` is how often, and `accepted_wrong` how often wrongly. chains.csv has both by rounds: what a shorter search
would have reached.
"""
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from dataset.example_set import ExampleSet
from evaluators.curve import write_rows
from evaluators.rows import Answers, RowStep
from evaluators.strategies import Attempts
from utils.distributed import all_gather_objects

COUNTED = ("deductions", "unsound")  # outputs that are added up over all chains of a puzzle
SEEDS_A_PUZZLE = 1_000_003


@dataclass
class Race:
    """The chains of one puzzle."""

    rounds: int = 0
    # what chains that have ended add to the outputs `COUNTED`
    counted: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0.0))


class Chains:
    """Each puzzle gets `chains` rows at once. The first whose model says "solved" gives the answer; of several in one
    round, that of the lowest number. A chain that ends otherwise, as by a conflict, starts over with other random
    numbers. After `rounds` supervision steps of its chains without an answer a puzzle counts as not solved: what it is
    answered with is its question. `steps` are those of all chains together.

    The numbers of a chain depend on the puzzle, the chain and how often it has started over, but on no other puzzle.
    """

    def __init__(self, chains: int = 64, rounds: int = 1000):
        for name, value in (("chains", chains), ("rounds", rounds)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value} must be a whole number of at least 1")
        self.chains, self.rounds = chains, rounds
        # of each puzzle on this rank: rounds, whether its model calls it solved, whether that is right, if it is known
        self.ends: list[tuple[int, bool, bool | None]] = []
        self.told: list[str] = []

    def begin(self, example_set: ExampleSet, numbers: np.ndarray, batch: int) -> None:
        self.waiting, self.races = numbers, dict[int, Race]()
        self.again: list[tuple[int, int]] = []  # puzzles, and the attempts at them that begin next

    def draw(self, most: int) -> Attempts:
        """Chains that start over, then those of new puzzles, which begin together."""
        if not self.races and len(self.waiting) and most < self.chains:
            raise ValueError(f"strategy chains@Chains works on a puzzle in {self.chains} rows at once, and a process "
                             f"has {most}; set a larger global_batch_size, or fewer chains")
        begun, self.again = self.again[:most], self.again[most:]
        count = (most - len(begun)) // self.chains
        new, self.waiting = self.waiting[:count], self.waiting[count:]
        self.races |= {int(number): Race() for number in new}
        begun += [(int(number), chain) for number in new for chain in range(self.chains)]
        numbers, attempts = np.array(begun, int).reshape(-1, 2).T
        return Attempts(numbers, attempts, numbers * SEEDS_A_PUZZLE + attempts)

    def present(self, fields: dict[str, np.ndarray], attempts: Attempts) -> dict[str, np.ndarray]:
        return fields

    def keep_rows(self, rows: np.ndarray) -> None:
        """It knows rows by the puzzles they work on, not by their places."""

    def take(self, step: RowStep) -> list[Answers]:
        if "solved" not in step.outputs:
            raise ValueError("strategy chains@Chains needs a model that says when it has solved a puzzle, as arch=ldt "
                             "does; leave out strategy")
        solved = step.outputs["solved"].cpu().numpy()
        counts = {name: step.outputs[name].cpu().numpy() for name in COUNTED}
        return [answer for number in list(self.races)
                if (answer := self._answer(number, step, solved, counts)) is not None]

    def _answer(self, number: int, step: RowStep, solved: np.ndarray, counts: dict[str, np.ndarray]) -> Answers | None:
        """The answer of a puzzle after this round, if it has one or its time is over."""
        race, rows = self.races[number], np.flatnonzero(step.numbers == number)
        race.rounds += 1
        rows = rows[np.argsort(step.attempts[rows] % self.chains)]
        over = solved[rows].any() or race.rounds == self.rounds
        for name in COUNTED:
            race.counted[name] += float(counts[name][rows][step.ended[rows] | over].sum())
        if not over:
            self.again += [(number, int(step.attempts[row]) + self.chains) for row in rows[step.ended[rows]]]
            return None
        del self.races[number]
        step.ended[rows] = True
        first = rows[np.argmax(solved[rows])]
        answer = step.answers(np.arange(len(step.numbers)) == first)
        totals = {name: torch.full_like(answer.outputs[name], race.counted[name]) for name in COUNTED}
        if not solved[first]:
            totals["preds"] = answer.data["inputs"].to(answer.outputs["preds"].dtype)
        right = bool(step.head.is_right(answer.outputs | totals, answer.data)) if step.head.asked(answer.data) else None
        self.ends.append((race.rounds, bool(solved[first]), right))
        return replace(answer, outputs=answer.outputs | totals,
                       steps=torch.full_like(answer.steps, race.rounds * self.chains))

    def metrics(self) -> dict[str, float]:
        """None of its own; gathers what `write` writes."""
        self.all_ends = [end for ends in all_gather_objects(self.ends) for end in ends]
        return {}

    def write(self, folder: Path) -> None:
        """Write chains.csv: of all puzzles, the share accepted within so many rounds and, where their answers are
        known, that solved."""
        *told, right = zip(*self.all_ends)
        rounds, accepted, solved = map(np.array, (*told, [one is True for one in right]))
        known = len(right) - right.count(None)
        rows = []
        for most in np.unique(rounds).tolist():
            within = rounds <= most
            row = {"rounds": most, "steps": most * self.chains, "accepted": (within & accepted).mean()}
            rows.append(row | ({"exact": (within & solved).sum() / known} if known else {}))
        write_rows(folder / "chains.csv", rows)
        self.told = [f"accepted by rounds: {folder / 'chains.csv'}"]
