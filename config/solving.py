"""What `evaluate.py` works on: the test data of a checkpoint, or with `solve=…` the puzzles of a user; and where the
answers to it go."""
import sys
from dataclasses import dataclass, field
from pathlib import Path

from config.restored import Restored
from config.schema import EvaluateConfig
from config.solver import Solver
from dataset.common import PuzzleDatasetMetadata
from dataset.kinds.kind import kind_of
from dataset.puzzle_dataset import PuzzleDataset
from dataset.questions import Questions, read_questions
from evaluators.solutions import Predictions, refuse_answers_file, solutions_of, told, write_solutions
from losses.head import LossHead
from utils.distributed import World, decided_by_main
from utils.foreign import printable
from utils.hints import is_there

PRINTED = 20  # answers that are printed, where a file has all of them


@dataclass
class Opened:
    """The data to score, and what becomes of the answers."""

    data: PuzzleDataset
    # file of the answers; None: they are printed only, or nobody asked for them
    file: Path | None = None
    # of the user's own puzzles: what was read, and the solver
    questions: Questions | None = None
    solver: Solver | None = None
    predictions: Predictions | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.file is not None or self.questions is not None:
            self.predictions = Predictions()

    def head(self, restored: Restored, config: EvaluateConfig, world: World) -> LossHead:
        return self.solver.head if self.solver else restored.head(self.data, world, config.use_ema)

    def tell(self, trust_code: bool) -> dict[str, float]:
        """Print the answers, and write them to the file. Returns metrics of the reading. Every rank must call it."""
        found = self.predictions.read() if self.predictions else None
        if found is None:
            return {}
        lines = []
        for name, fields in found.items():
            kind = self.solver.kind if self.solver else kind_of(self.data.sets[name], trust_code)
            solutions = solutions_of(fields, kind, self.questions.texts if self.questions else None)
            of_set = {"set": name} if len(found) > 1 else {}
            lines += [of_set | solution.facts() for solution in solutions]
            if self.questions is not None:
                print("\n".join(told(solutions, PRINTED if self.file else len(solutions))))
        if self.file is not None:
            write_solutions(self.file, lines)
            print(f"answers: {self.file}")
        return self.unread()

    def unread(self) -> dict[str, float]:
        """Print which of the user's puzzles could not be read. Returns a metric of it, if there are such."""
        malformed = self.questions.malformed if self.questions else []
        for message in malformed:
            print(printable(f"not solved: {message}"), file=sys.stderr)
        return {"solve/unread": len(malformed)} if malformed else {}


def opened(config: EvaluateConfig, restored: Restored, world: World) -> Opened:
    """Open the data that a config asks for. Raises ValueError for what cannot be read, before anything is computed."""
    file, where = None if config.predictions is None else Path(config.predictions), config.solve
    if where is None:
        data = restored.open_data(config.data_paths or restored.test_paths, "test", world, config.global_batch_size)
        if file is not None and not isinstance(data.metadata, PuzzleDatasetMetadata):
            raise ValueError(f"predictions={file} would have answers to puzzles, and {data.config.folders} holds "
                             f"{data.metadata.KIND}; eval_save_outputs=[preds] saves these")
        if file is not None:
            refuse_answers_file(file)
        return Opened(data, file)
    if file is None and is_there(where) and config.viewer is None:
        file = Path("answers.csv")
    if file is not None:
        refuse_answers_file(file)
    solver = Solver(restored, config, world)
    questions = decided_by_main(lambda: read_questions(where, solver.kind))
    return Opened(solver.data(questions), file, questions, solver)
