"""Solves puzzles that a user gives, with a checkpoint alone: no data set is needed.

    from evaluate import load_solver

    solver = load_solver("checkpoints/PROJECT/RUN")     # or a file, an export, "hf://owner/name"
    solutions = solver.solve(["1..4..3.........", "..2.1....4.....3"])
    solutions[0].answer, solutions[0].confidence, solutions[0].valid
"""
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from config.adapting import adapted, batch_size, tasks_as_dataset
from config.keywords import settled
from config.puzzle_kind import answers, kind_of_checkpoint, resized, with_metadata
from config.restored import Restored
from config.schema import EvaluateConfig
from dataset.arc_tasks import Task, task_to_solve
from dataset.kinds.arc import ARC
from dataset.kinds.kind import Kind, puzzle_metadata
from dataset.puzzle_dataset import PuzzleDataset
from dataset.questions import Questions, read_objects
from evaluators.arc import ARC as Scores
from evaluators.loop import evaluate
from evaluators.solutions import Predictions, Solutions, arc_solutions, solutions_of
from evaluators.traces import Trace, record, watch
from losses.head import LossHead
from models.compiled import speed_up
from utils.distributed import World, pick_device
from utils.threads import use_threads


class Solver:
    """A model that answers puzzles of one kind, all of a call of one size. It stays in memory, so that only the first
    answer waits for it.

    Not for several threads at once.
    """

    def __init__(self, restored: Restored, config: EvaluateConfig, world: World):
        self.restored = with_metadata(restored, config.kind)
        self.config, self.world = config, world
        self.kind, self.metadata = kind_of_checkpoint(self.restored, config.kind, config.trust_code)
        if isinstance(self.kind, ARC):  # its head is made for each call, with rows for the tasks
            return
        config.refuse_adaptation(f"puzzles of the kind {self.kind}")
        self._heads: dict[int, LossHead] = {}  # by number of cells
        self.head = self.head_for(self.kind)

    def head_for(self, kind: Kind) -> LossHead:
        """The loss head for puzzles of the size of `kind`. It stays."""
        if kind.seq_len not in self._heads:
            head = self.restored.head_for_new_puzzles(resized(self.metadata, kind), self.world, self.config.use_ema)
            speed_up(head.eval(), self.config, self.world.device)
            self._heads[kind.seq_len] = head
        return self._heads[kind.seq_len]

    @classmethod
    def of(cls, config: EvaluateConfig, world: World | None = None) -> "Solver":
        """The solver of a typed config. `world`: None: this process alone, on the device of the config."""
        restored = Restored.read(config.checkpoint, config.trust_code, config.arch_options)
        return cls(restored, config, world or World(device=pick_device(config.device)))

    @property
    def identifier(self) -> int:
        """The row of the head's puzzle table that puzzles get."""
        table = self.head.puzzle_embedding
        return 0 if table is None or len(table.weights) == 1 or self.config.puzzle_identifiers == "blank" else 1

    @property
    def embedding(self) -> str:
        """Which puzzle embedding the puzzles get, for people."""
        if self.head.puzzle_embedding is None:
            return "the model has no puzzle embeddings"
        if len(self.head.puzzle_embedding.weights) == 1:
            return "all puzzles share one embedding, as in training"
        return "the embedding of no puzzle (blank)" if self.identifier == 0 else \
            "the mean of all puzzle embeddings, since these puzzles were not trained on"

    def questions(self, puzzles: Iterable[object]) -> Questions:
        """Read puzzles as `solve` takes them. Raises ValueError that names each one that cannot be read, and why."""
        questions = read_objects(puzzles, self.kind, answers(self.restored, self.metadata))
        if questions.malformed:
            raise ValueError("\n".join(questions.malformed))
        return questions

    def data(self, questions: Questions) -> PuzzleDataset:
        """Questions as test data, which all that is made for evaluation takes."""
        size = self.config.global_batch_size or self.restored.settings["global_batch_size"]
        return questions.as_dataset(resized(self.metadata, questions.kind), self.identifier, size, self.world.rank,
                                    self.world.size)

    def solve(self, puzzles: Iterable[object]) -> Solutions:
        """Answer puzzles. Each is a line of text in the alphabet of the kind; a board, as a list of rows or an array;
        L tokens, as a data set holds them; or {"question": one of these, "answer": the right one}.

        ARC: each is a task, {"train": pairs, "test": pairs}, and there is a solution for each of its tests. The model
        is first trained on the demonstrations (config/adapting.py).

        Raises ValueError for what is none of these.
        """
        if isinstance(self.kind, ARC):
            return self._solve_tasks([task_to_solve(f"task{number}", puzzle) for number, puzzle in enumerate(puzzles)])
        questions = self.questions(puzzles)
        return self.answer(questions) if len(questions) else Solutions()

    def answer(self, questions: Questions) -> Solutions:
        """Answer questions that are read already."""
        data, predictions, head = self.data(questions), Predictions(), self.head_for(questions.kind)
        use_threads(min(len(questions), data.local_batch_size) * questions.kind.seq_len
                    * head.model.config.hidden_size)
        evaluate(head, data, self.world, strategy=self.config.build_strategy(), predictions=predictions)
        head.eval()
        found = predictions.read()
        return solutions_of(found["puzzles"], questions.kind, questions.texts) if found else Solutions()

    def _solve_tasks(self, tasks: list[Task]) -> Solutions:
        with tasks_as_dataset(tasks, self.config.adapt_augmentations, self.config.seed) as folder:
            data = self.restored.open_data([folder], "test", self.world, batch_size(self.restored, self.config))
            (arc_set,) = data.sets.values()
            arc: Any = Scores(folder, puzzle_metadata(arc_set))
            head = adapted(self.restored, folder, self.config, self.world)
            evaluate(head, data, self.world, {"eval/arc": (folder, arc)}, strategy=self.config.build_strategy())
        return arc_solutions(arc.tasks, arc.answers, self.kind, head.model.config.halt_max_steps)

    def trace(self, puzzle: object) -> Trace:
        """What the model holds of one puzzle after each supervision step, in each attempt (evaluators/traces.py)."""
        questions = self.questions([puzzle])
        return record(self.head_for(questions.kind), self.data(questions), [0], self.config.build_strategy(),
                      self.world)[0]

    def watch(self, puzzle: object) -> Iterator[Trace]:
        """The trace of one puzzle so far, after each supervision step, as soon as it is computed."""
        questions = self.questions([puzzle])
        data, head = self.data(questions), self.head_for(questions.kind)
        example_set, = data.sets.values()
        use_threads(questions.kind.seq_len * head.model.config.hidden_size)
        for trace, in watch(head, data, example_set, np.arange(1), self.config.build_strategy(), self.world):
            yield trace


def load_solver(checkpoint: str | Path, **settings: object) -> Solver:
    """A solver from a checkpoint: a run's directory, a file, an export, or hf://owner/name.

    `settings` are those of evaluate.py that say how the model answers, such as kind="sudoku", halt_max_steps=32 or
    device="cpu". Raises ValueError for wrong settings, for damaged files, and where the file does not tell what kind of
    puzzle it answers.

        solver = load_solver("checkpoints/demo/seed0")      # docs/solving.md
    """
    config, _, _ = settled(EvaluateConfig, None, {"checkpoint": str(checkpoint)} | settings)
    return Solver.of(config)
