"""Test-time compute: a puzzle is thought about for longer, several times, or no longer than needed, and one answer is
chosen. Each part is a setting, and any architecture and checkpoint takes them.

    steps           depth: supervision steps, also more than in training
    trajectories    breadth: attempts at each puzzle, made different by noise=σ or init=random
    augment         breadth: symmetric views of each puzzle, the first being the puzzle itself; answers are mapped back
    select          which of the attempts answers (evaluators/selection.py)
    until, budget   further attempts only at puzzles whose answers the rules reject
    early_exit      an attempt ends when it halts, and the next puzzle takes its row

Attempt a at a puzzle is trajectory a // augment of view a % augment. Its random numbers depend on the seed, the number
of the puzzle in its set, and a: neither on the batch nor on the number of ranks. So the first k attempts of a larger
evaluation are those of an evaluation with k.

    python evaluate.py checkpoint=… +tta=ptrm_sudoku                     # presets: config/tta/
    strategy = build_strategy(trajectories=8, noise=0.3, select="q")     # from Python
"""
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from dataset.common import BOARDS
from dataset.example_set import ExampleSet
from dataset.kinds.arc import ARC
from dataset.kinds.kind import Kind, kind_of, on_boards
from dataset.puzzle_dataset import PuzzleDataset
from evaluators.latent_noise import LatentNoise
from evaluators.memory import rows_within
from evaluators.rows import Answers, Result, RowStep
from evaluators.selection import UPPER_BOUND, Rule, Trajectories, choose, confidence, is_confident
from evaluators.strategies import Attempts
from evaluators.views import View, drawn_view, undo
from losses.head import LossHead
from models.act import WEYL, noise_keys
from utils.command_line import CONFIG_DIR, describe_validation
from utils.distributed import all_reduce_sum_

LAST_STEPS = 3  # of which the residual is the mean


class TestTimeConfig(BaseModel):
    """The settings of test-time compute. None: as trained, or off."""

    __test__ = False  # no test class, whatever its name begins with
    model_config = ConfigDict(extra="forbid", strict=True)

    # supervision steps N_sup that each attempt gets, more than in training too; also called halt_max_steps
    steps: int | None = Field(None, gt=0)
    # attempts at each puzzle, or at each view of it; with until=valid: attempts in each further round
    trajectories: int = Field(1, gt=0)
    # σ of the normal noise that is added to a latent before every supervision step
    noise: float = Field(0.0, ge=0)
    # the latent that gets the noise: z_L, the reasoning, or z_H, the answer
    noise_on: Literal["z_L", "z_H"] | None = None
    # where the latents start. learned: the fixed vectors of the checkpoint; random: drawn for each attempt and position
    # from a normal distribution cut at two deviations; null: as trained
    init: Literal["learned", "random"] | None = None
    # symmetric views of each puzzle that are attempted, the puzzle itself included
    augment: int = Field(1, gt=0)
    # which attempt answers: q, vote, residual, first_halt, valid or best_of, an upper bound; null: q; valid with until
    select: Rule | None = None
    # valid: attempt a puzzle again until the rules of its kind accept an answer, or budget attempts are made
    until: Literal["valid"] | None = None
    # most attempts at a puzzle with until=valid
    budget: int | None = Field(None, gt=0)
    # end an attempt as soon as it halts, so that the next puzzle takes its row
    early_exit: bool = False
    # an attempt halts when q_halt, as a logit, is above this; at 0 its answer is as likely right as wrong
    halt_threshold: float = 0.0
    # with early_exit, an attempt also halts when its answer has not changed for this many steps; null: only by q
    patience: int | None = Field(None, gt=0)
    # gigabytes that the rows of a batch may take, which sets how many there are; null: global_batch_size sets it
    memory_gb: float | None = Field(None, gt=0)
    # seed of the noise, the initial latents and the views
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_test_time(self):
        if bool(self.noise) != (self.noise_on is not None):
            raise ValueError("noise=σ and noise_on=z_L|z_H go together; set both or neither")
        if (self.until is None) != (self.budget is None):
            raise ValueError("until=valid and budget=N go together; set both or neither")
        if self.budget is not None and self.budget < self.trajectories:
            raise ValueError(f"budget={self.budget} is less than the first trajectories={self.trajectories}; raise it")
        if self.until and self.select not in (None, "valid"):
            raise ValueError(f"select={self.select} has no effect with until=valid, by which the answer that the rules "
                             "accept is taken; leave select out")
        if self.select and self.attempts == 1:
            raise ValueError(f"select={self.select} has no effect on a single attempt; set trajectories or augment")
        if self.patience is not None and not self.early_exit:
            raise ValueError(f"patience={self.patience} has no effect without early_exit=true; set it")
        if self.early_exit and self.select == "residual":
            raise ValueError("select=residual compares attempts after equally many steps, and early_exit=true ends "
                             "them at different ones; leave early_exit out")
        if self.early_exit and self.select == "first_halt":
            raise ValueError("select=first_halt ends each attempt where it halts; leave early_exit out")
        return self

    @property
    def attempts(self) -> int:
        """Most attempts at a puzzle."""
        return self.budget or self.trajectories * self.augment

    @property
    def rule(self) -> Rule:
        return self.select or ("valid" if self.until else "q")

    @property
    def test_time(self) -> "TestTimeConfig":
        """These settings alone, where they are part of others."""
        return TestTimeConfig(**{name: getattr(self, name) for name in TestTimeConfig.model_fields})

    @property
    def changed(self) -> dict:
        """The settings that are not at their defaults, by name."""
        return {name: getattr(self, name) for name, known in TestTimeConfig.model_fields.items()
                if getattr(self, name) != known.default}

    @property
    def test_time_arch(self) -> dict:
        """The options of the architecture that these settings change, as `Restored.read(arch=…)` takes them."""
        starts = {"learned": {"initial_state_std": 0.0}, "random": {"initial_state_std": 1.0}}
        return ({"halt_max_steps": self.steps} if self.steps else {}) | starts.get(self.init or "", {})


@dataclass
class Watched:
    """N rows after a supervision step, in the frame of the puzzles themselves. For pictures and curves."""

    numbers: np.ndarray  # (N,) number of the puzzle in its set
    attempts: np.ndarray  # (N,) number of the attempt at it
    steps: np.ndarray  # (N,) supervision steps that the attempt has taken
    ended: np.ndarray  # (N,) whether the attempt ends with this step
    data: dict[str, Tensor]  # the puzzles, fields (N, …)
    outputs: dict[str, Tensor]  # of the loss head, (N, …)
    score: np.ndarray  # (N,) logit by which it halts: above `halt_threshold`
    residual: np.ndarray | None  # (N,) as `Trajectories.residual`; None: not measured


@dataclass
class Ended:
    """An attempt that has ended."""

    preds: np.ndarray
    q: float
    sure: bool
    halted_at: int
    residual: float
    valid: bool
    right: bool
    steps: Tensor
    outputs: dict[str, Tensor]


@dataclass
class RowMemory:
    """What is remembered of the B rows from step to step."""

    preds: Tensor | None = None  # (B, L) after the step before
    unchanged: Tensor | None = None  # (B,) steps for which the answer has stayed the same
    latents: tuple[Tensor, ...] = ()  # after the step before
    changes: list[Tensor] = field(default_factory=list)  # (B,) ‖z_t − z_{t−1}‖, of the last steps

    def of_rows(self, rows: np.ndarray) -> "RowMemory":
        """What is remembered of some of the rows, by number."""
        def of(value: Tensor) -> Tensor:
            return value[torch.from_numpy(rows).to(value.device)]

        return RowMemory(None if self.preds is None else of(self.preds),
                         None if self.unchanged is None else of(self.unchanged),
                         tuple(of(z) for z in self.latents), [of(change) for change in self.changes])


class TestTime:
    """The strategy that the settings make; its parts are described in evaluators/strategies.py."""

    __test__ = False

    def __init__(self, config: TestTimeConfig, trust_code: bool = False):
        self.config, self.trust_code = config, trust_code
        self.noise = LatentNoise(config.noise, config.noise_on) if config.noise_on else None
        self.rows: int | None = None
        # called after each supervision step with the rows in the frame of the puzzles
        self.watch: Callable[[Watched], None] | None = None
        self.watches_residual = False
        self.row_steps = self.attempts_made = self.puzzles = 0

    # What is refused, and what is named

    @property
    def upper_bound(self) -> bool:
        """Whether answers are chosen by looking at labels, so that scores are no scores but upper bounds."""
        return self.config.rule == UPPER_BOUND and self.config.attempts > 1

    def prepare(self, head: LossHead, data: PuzzleDataset) -> None:
        """Look at the model and the data before anything is scored. Raises ValueError for settings that mean nothing
        for them."""
        self.row_steps = self.attempts_made = self.puzzles = 0
        config, model = self.config, head.model
        if self.noise is not None:
            self.noise.places(model)
        if config.early_exit and head.steps_known is None:
            raise ValueError("early_exit=true and arch.act_inference=true both end rows early; leave one of them out")
        if config.augment > 1 and model.GUESSES:
            raise ValueError(f"augment={config.augment}: {type(model).__name__} sees symmetric views of its own in "
                             "every pass; leave augment out, or use strategy chains@Chains")
        is_random = self.noise is not None or model.GUESSES or any(
            getattr(model.config, option) for option in ("initial_state_std", "noise_scale", "eval_dropout"))
        if not is_random and config.attempts > config.augment:
            views = f", or augment={config.attempts}" if config.until else ""
            raise ValueError(f"{config.attempts} attempts would repeat each other: nothing in them is random; set "
                             f"noise=σ noise_on=z_L, or init=random{views}")
        by_answer = {"vote": config.rule == "vote", "augment": config.augment > 1, "until": config.until is not None,
                     "patience": config.patience is not None, "valid": config.select == "valid"}
        if head.TASK != "classification" and any(by_answer.values()):
            asked, *_ = (name for name, is_set in by_answer.items() if is_set)
            raise ValueError(f"{asked} needs answers of tokens, and these data are floats; leave it out")
        for example_set in data.sets.values() if head.TASK == "classification" else ():
            self._check_kind(kind_of(example_set, self.trust_code))
        if config.memory_gb is not None:
            self.rows = rows_within(head, data, config.memory_gb)

    def cost(self, head: LossHead, data: PuzzleDataset) -> str:
        """What an evaluation of these data may take, for people."""
        puzzles, attempts, steps = data.num_examples, self.config.attempts, head.model.config.halt_max_steps
        return (f"{puzzles:,} puzzles, {attempts} attempts at each, {steps} supervision steps an attempt: up to "
                f"{puzzles * attempts * steps:,} row-steps")

    def _check_kind(self, kind: Kind) -> None:
        config = self.config
        if config.rule == "valid" and config.attempts > 1 and not kind.rule_names:
            raise ValueError(f"{'until' if config.until else 'select'}=valid: the kind of puzzle {kind} has no rules; "
                             "use select=q or select=vote")
        if config.augment > 1 and isinstance(kind, ARC):
            raise ValueError("augment: an ARC model knows a task by its puzzle embedding, which belongs to one "
                             "augmentation. Those of the data set vote without this setting; leave it out")
        if config.augment > 1:
            kind.symmetries(1, np.random.default_rng(0))  # raises where there are none

    # The four parts of a strategy

    def begin(self, example_set: ExampleSet, numbers: np.ndarray, batch: int, kind: Kind | None = None) -> None:
        """Begin a set. `kind`: of its puzzles; None: the one that the set names."""
        self.example_set, self.kind = example_set, kind
        if kind is None and hasattr(example_set.metadata, "vocab_size"):
            self.kind = kind_of(example_set, self.trust_code)
        self.waiting = [int(number) for number in numbers][::-1]  # the next one last
        self.queue: list[tuple[int, int]] = []  # attempts to begin: puzzle and attempt
        self.ended: dict[int, dict[int, Ended]] = {}
        self.views: dict[tuple[int, int], View] = {}
        self.begun: dict[int, int] = {}
        self.memory = RowMemory()

    def draw(self, most: int) -> Attempts:
        now, self.queue = self.queue[:most], self.queue[most:]
        while len(now) < most and self.waiting:
            number = self.waiting.pop()
            first = self.config.trajectories if self.config.until else self.config.attempts
            self.begun[number] = first
            new = [(number, attempt) for attempt in range(first)]
            room = most - len(now)
            now, self.queue = now + new[:room], self.queue + new[room:]
        numbers, attempts = (np.array([pair[i] for pair in now], np.int64) for i in (0, 1))
        return Attempts(numbers, attempts, self._seeds(numbers, attempts))

    def _seeds(self, numbers: np.ndarray, attempts: np.ndarray) -> np.ndarray:
        keys = noise_keys(self.config.seed, torch.from_numpy(numbers)).numpy()
        return keys + attempts * WEYL

    def present(self, fields: dict[str, np.ndarray], attempts: Attempts) -> dict[str, np.ndarray]:
        if self.config.augment == 1:
            return fields
        assert self.kind is not None
        shown = {name: fields[name].copy() for name in BOARDS if name in fields}
        for row, (number, attempt) in enumerate(zip(attempts.numbers.tolist(), attempts.attempts.tolist())):
            view = drawn_view(self.kind, number, attempt % self.config.augment, self.config.seed)
            self.views[number, attempt] = view
            for boards in shown.values():
                boards[row:row + 1] = on_boards(view.apply, boards[row:row + 1])
        return fields | shown

    def keep_rows(self, rows: np.ndarray) -> None:
        self.memory = self.memory.of_rows(rows)

    def take(self, step: RowStep) -> list[Answers]:
        self.row_steps += int(step.busy.sum())
        score = self._halting_score(step)
        residual = self._residual(step)
        self._end_early(step, score)
        if self.watch is not None:
            self._show(step, score, residual, self.watch)
        if step.ended.any():
            self._keep(step, np.flatnonzero(step.ended), score, residual)
        return self._answered(step)

    # Ends of attempts

    def _halting_score(self, step: RowStep) -> Tensor:
        """(B,) q_halt, less q_continue where the architecture halts by comparing the two."""
        q = step.outputs["q_halt_logits"]
        return q if step.head.model.config.no_ACT_continue else q - step.outputs["q_continue_logits"]

    @property
    def _has_rules(self) -> bool:
        return self.kind is not None and bool(self.kind.rule_names)

    @property
    def _stops_at_halt(self) -> bool:
        return self.config.early_exit or self.config.rule == "first_halt"

    def _end_early(self, step: RowStep, score: Tensor) -> None:
        """End rows that halt. Without early exit, nothing here waits for the device."""
        if not self._stops_at_halt:
            return
        halts = score > self.config.halt_threshold
        if self.config.patience is not None:
            halts |= self._unchanged(step) >= self.config.patience
        step.ended |= step.busy & halts.cpu().numpy()

    def _unchanged(self, step: RowStep) -> Tensor:
        """(B,) for how many steps each row has had the answer that it has now."""
        preds, memory = step.outputs["preds"], self.memory
        count = torch.zeros(len(preds), dtype=torch.int32, device=preds.device)
        if memory.preds is not None and memory.unchanged is not None and memory.preds.shape == preds.shape:
            goes_on = torch.from_numpy(step.steps > 1).to(preds.device)
            same = (preds == memory.preds).flatten(1).all(1)
            count = torch.where(goes_on & same, memory.unchanged + 1, count)
        memory.preds, memory.unchanged = preds, count
        return count

    def _residual(self, step: RowStep) -> Tensor | None:
        """(B,) mean of ‖z_t − z_{t−1}‖ over the last 3 steps, where z_t is all latents after step t. Infinite after the
        first step. None: nobody asks for it."""
        if self.config.rule != "residual" and not self.watches_residual:
            return None
        memory, latents = self.memory, step.carry.latents
        taken = torch.from_numpy(step.steps).to(latents[0].device)
        if memory.latents and len(memory.latents[0]) == len(latents[0]):
            squares = [(now.float() - before.float()).square().flatten(1).sum(1)
                       for now, before in zip(latents, memory.latents)]
            memory.changes = [*memory.changes, torch.stack(squares).sum(0).sqrt()][-LAST_STEPS:]
        else:
            memory.changes = []
        memory.latents = latents
        total = torch.zeros(len(taken), device=taken.device)
        for back, change in enumerate(reversed(memory.changes)):  # a row has changed steps - 1 times
            total += torch.where(taken - 1 > back, change, 0)
        return torch.where(taken > 1, total / (taken - 1).clamp(1, LAST_STEPS), torch.inf)

    def _keep(self, step: RowStep, rows: np.ndarray, score: Tensor, residual: Tensor | None) -> None:
        """Remember the attempts of the rows that have ended, in the frame of the puzzles."""
        seen = self._watched(step, rows, score, residual)
        right = step.head.is_right(seen.outputs, seen.data).cpu().numpy() if self.upper_bound else None
        preds, q = seen.outputs["preds"].cpu().numpy(), seen.outputs["q_halt_logits"].float().cpu().numpy()
        valid = self._valid(seen.data["inputs"].cpu().numpy(), preds)
        sure = seen.score > self.config.halt_threshold
        for i, (number, attempt) in enumerate(zip(seen.numbers.tolist(), seen.attempts.tolist())):
            self.ended.setdefault(number, {})[attempt] = Ended(
                preds[i], float(q[i]), bool(sure[i]), int(seen.steps[i]) if sure[i] else 0,
                float(seen.residual[i]) if seen.residual is not None else np.nan,
                valid is not None and bool(valid[i]), right is not None and bool(right[i]),
                step.carry.steps[int(rows[i])], {name: value[i] for name, value in seen.outputs.items()})
            self.views.pop((number, attempt), None)
            self.attempts_made += 1

    def _valid(self, inputs: np.ndarray, preds: np.ndarray) -> np.ndarray | None:
        """(N,) whether the rules accept the answers. None: the puzzles have no rules."""
        if self.kind is None or not self._has_rules:
            return None
        return self.kind.rules(inputs, preds)[self.kind.rule_names[0]]

    def _watched(self, step: RowStep, rows: np.ndarray, score: Tensor, residual: Tensor | None) -> Watched:
        places = torch.from_numpy(rows).to(score.device)
        numbers, attempts = step.numbers[rows], step.attempts[rows]
        data = {name: value[places] for name, value in step.data.items()}
        outputs = {name: value[places] for name, value in step.outputs.items()}
        if self.config.augment > 1:
            views = [self.views[pair] for pair in zip(numbers.tolist(), attempts.tolist())]
            outputs |= undo(views, outputs["preds"], outputs["logits"])
            own = self.example_set.fetch(numbers)
            data = {name: torch.from_numpy(own[name]).to(value.device) for name, value in data.items()}
        return Watched(numbers, attempts, step.steps[rows], step.ended[rows], data, outputs,
                       score[places].float().cpu().numpy(),
                       None if residual is None else residual[places].cpu().numpy())

    def _show(self, step: RowStep, score: Tensor, residual: Tensor | None, watch: Callable[[Watched], None]) -> None:
        watch(self._watched(step, np.flatnonzero(step.busy), score, residual))

    # Choice

    def _answered(self, step: RowStep) -> list[Answers]:
        """The answers to puzzles whose attempts have all ended, as one batch; the others get further attempts."""
        done = []
        for number in sorted({int(number) for number in step.numbers[step.ended]}):
            ended = self.ended[number]
            if len(ended) == self.begun[number] and not self._try_again(number, ended):
                done.append((number, self.ended.pop(number)))
        return [self._chosen(done, step)] if done else []

    def _try_again(self, number: int, ended: dict[int, Ended]) -> bool:
        """With until=valid: begin another round of attempts at a puzzle, unless the rules have accepted an answer or
        the budget is spent. The next free rows take it."""
        begun = self.begun[number]
        more = min(self.config.trajectories, self.config.attempts - begun)
        if not self.config.until or not more or any(one.valid for one in ended.values()):
            return False
        self.queue += [(number, attempt) for attempt in range(begun, begun + more)]
        self.begun[number] = begun + more
        return True

    def _chosen(self, done: list[tuple[int, dict[int, Ended]]], step: RowStep) -> Answers:
        numbers = np.array([number for number, _ in done])
        results, chosen = [], []
        for number, ended in done:
            result, one = self._result(number, [ended[attempt] for attempt in sorted(ended)])
            results.append(result)
            chosen.append(one)
        own = self.example_set.fetch(numbers)
        data = {name: torch.from_numpy(own[name]).to(value.device) for name, value in step.data.items()}
        outputs = {name: torch.stack([one.outputs[name] for one in chosen]) for name in step.outputs}
        self.puzzles += len(done)
        return Answers(numbers, data, outputs, torch.stack([one.steps for one in chosen]), results)

    def _result(self, number: int, ended: list[Ended]) -> tuple[Result, Ended]:
        trajectories = self._compared(ended)
        place = choose(self.config.rule, trajectories)
        view = place % self.config.augment
        one = ended[place]
        return Result(number, one.preds, confidence(self.config.rule, trajectories, place),
                      is_confident(self.config.rule, trajectories, place), int(one.steps),
                      place, place // self.config.augment, view,
                      one.valid if self._has_rules else None, len(ended)), one

    def _compared(self, ended: list[Ended]) -> Trajectories:
        """The attempts at one puzzle, in their order, as the rules see them."""
        def of(field: str) -> np.ndarray:
            return np.array([getattr(one, field) for one in ended])

        return Trajectories(of("preds"), of("q"), of("sure"), of("halted_at"), of("residual"),
                            of("valid") if self._has_rules else None, of("right") if self.upper_bound else None)

    def metrics(self) -> dict[str, float]:
        """What the answers cost, by name: row-steps (supervision steps of one row) and attempts for each puzzle. Every
        rank must call it."""
        sums = torch.tensor([self.puzzles, self.row_steps, self.attempts_made], dtype=torch.float64)
        all_reduce_sum_([sums])
        puzzles, row_steps, attempts = sums.tolist()
        return {"compute/row_steps": row_steps / max(puzzles, 1), "compute/attempts": attempts / max(puzzles, 1)}


def build_strategy(preset: str | None = None, trust_code: bool = False, **settings: object) -> TestTime:
    """The strategy of these settings, the fields of `TestTimeConfig`; without any, one attempt at each puzzle.

    `preset`: the name of one in config/tta/, whose settings the others replace. `trust_code`: a data set may name a
    kind of puzzle outside this project. Raises ValueError for settings that are unknown, wrong, or without effect.
    The model must be built with `strategy.config.test_time_arch`.
    """
    values = (preset_settings(preset) if preset else {}) | settings
    if "strategy" in values:
        raise ValueError(f"tta={preset} has a strategy of its own, which evaluate(tta=…) and load_solver(tta=…) take")
    try:
        return TestTime(TestTimeConfig(**values), trust_code)
    except ValidationError as error:
        raise ValueError(describe_validation(error, TestTimeConfig.model_fields)) from error


def preset_settings(name: str) -> dict:
    """The settings of a preset. Raises ValueError where there is none of this name."""
    file = CONFIG_DIR / "tta" / f"{name}.yaml"
    if not file.is_file():
        there_are = ", ".join(sorted(file.stem for file in file.parent.glob("*.yaml")))
        raise ValueError(f"tta={name}: there is no such preset; there are {there_are}")
    return {str(key): value for key, value in OmegaConf.load(file).items()}
