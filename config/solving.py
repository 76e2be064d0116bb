"""What `evaluate.py` works on: the test data of a checkpoint or, with `solve=…`, the puzzles of a user; and where the
answers go."""
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from config.adapting import adapted, batch_size, tasks_as_dataset
from config.puzzle_kind import answers, kind_of_checkpoint, with_metadata
from config.restored import Restored
from config.schema import EvaluateConfig
from config.solver import Solver
from dataset.arc_tasks import read_tasks_to_solve
from dataset.common import PuzzleDatasetMetadata
from dataset.kinds.arc import ARC
from dataset.kinds.kind import kind_of
from dataset.puzzle_dataset import PuzzleDataset
from dataset.questions import Questions, read_questions, refuse_missing_file
from evaluators.solutions import Predictions, refuse_answers_file, solutions_of, told, write_solutions
from losses.head import LossHead
from utils.distributed import World, decided_by_main
from utils.foreign import printable
from utils.hints import is_there

PRINTED = 20  # answers that are printed, where a file has all of them
MOST_DRAWN = 50  # ARC tasks in the gallery


@dataclass
class Opened:
    """The data to score, and what becomes of the answers."""

    data: PuzzleDataset
    # makes the loss head for them
    head: Callable[[], LossHead]
    # the evaluators that are asked for; None: those of the kind of puzzle
    evaluators: list[dict] | None
    # file of the answers; None: they are printed only, or nobody asked for them
    file: Path | None = None
    # of the user's own puzzles, what was read
    questions: Questions | None = None
    # the data, for people
    called: str = ""
    predictions: Predictions | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.called = self.called or str(self.data.config.folders)
        if self.file is not None or self.questions is not None:
            self.predictions = Predictions()

    def tell(self, trust_code: bool) -> dict[str, float]:
        """Print the answers, and write them to the file. Returns metrics of the reading. Every rank must call it."""
        found = self.predictions.read() if self.predictions else None
        if found is None:
            return {}
        lines = []
        for name, fields in found.items():
            kind = self.questions.kind if self.questions else kind_of(self.data.sets[name], trust_code)
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


@contextmanager
def opened(config: EvaluateConfig, restored: Restored, world: World) -> Iterator[Opened]:
    """A context with the data that a config asks for. Raises ValueError for what cannot be read, before anything is
    computed. Every rank must enter it."""
    file = None if config.predictions is None else Path(config.predictions)
    if file is not None:
        refuse_answers_file(file)
    if config.solve is None:
        config.refuse_solving()
        yield _test_data(config, restored, world, file)
        return
    restored = with_metadata(restored, config.kind)
    kind, metadata = kind_of_checkpoint(restored, config.kind, config.trust_code)
    if not isinstance(kind, ARC):
        config.refuse_adaptation(f"puzzles of the kind {kind}")
        text, answered = config.solve, answers(restored, metadata)
        questions = decided_by_main(lambda: read_questions(text, kind, answered))
        yield _own_puzzles(config, text, questions, restored, world, file)
        return
    if not is_there(config.solve):
        refuse_missing_file(config.solve)
        raise ValueError(f"solve={config.solve}: there is no such file; name the JSON file of an ARC task, a folder of "
                         "them, or a file of challenges")
    where = Path(config.solve)
    tasks = decided_by_main(lambda: read_tasks_to_solve(where))
    with tasks_as_dataset(tasks, config.adapt_augmentations, config.seed) as folder:
        data = restored.open_data([folder], "test", world, batch_size(restored, config))
        gallery = {"name": "arc@ARC", "gallery": min(len(tasks), MOST_DRAWN)}
        yield Opened(data, lambda: adapted(restored, folder, config, world),
                     [gallery] if config.evaluators is None else config.named_evaluators, file,
                     called=f"{len(tasks)} tasks of {where}")


def _test_data(config: EvaluateConfig, restored: Restored, world: World, file: Path | None) -> Opened:
    data = restored.open_held_out(world, config.global_batch_size) if config.held_out else restored.open_data(
        config.data_paths or restored.test_paths, "test", world, config.global_batch_size)
    if file is not None and not isinstance(data.metadata, PuzzleDatasetMetadata):
        raise ValueError(f"predictions={file} would have answers to puzzles, and {data.config.folders} holds "
                         f"{data.metadata.KIND}; eval_save_outputs=[preds] saves these")
    return Opened(data, lambda: restored.head(data, world, config.use_ema), config.named_evaluators, file)


def _own_puzzles(config: EvaluateConfig, where: str, questions: Questions, restored: Restored, world: World,
                 file: Path | None) -> Opened:
    if file is None and is_there(where) and config.viewer is None:
        file = Path("answers.csv")
        refuse_answers_file(file)
    solver = Solver(restored, config, world)
    return Opened(solver.data(questions), lambda: solver.head_for(questions.kind), config.named_evaluators, file,
                  questions)
