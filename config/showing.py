"""What evaluate.py shows in place of scores: a page of puzzles being solved, and a local page for one's own."""
import sys
from collections.abc import Iterator
from pathlib import Path

from config.restored import Restored
from config.schema import EvaluateConfig
from config.solver import Solver
from dataset.example_set import evenly
from dataset.kinds.arc import ARC
from dataset.kinds.kind import Kind
from dataset.puzzle_dataset import PuzzleDataset
from evaluators.serving import Server
from evaluators.viewer import Shown, page, page_data, puzzle_data, watched, write_viewer
from losses.head import LossHead
from utils.distributed import World

EXAMPLES = 12  # puzzles of the run's test data that the local page offers
USUAL_PORT = 8000


def view(config: EvaluateConfig, restored: Restored, head: LossHead, data: PuzzleDataset, world: World) -> dict:
    """Write the page of `viewer=`, which is set. It returns no metrics. Every rank must call it: they work in step, and
    as there are few puzzles, all on the same ones."""
    assert config.viewer is not None
    numbers = config.puzzles_to_view(data.num_examples)
    kind, puzzles = watched(head, data, numbers, config.build_strategy(), world, config.trust_code)
    if world.is_main:
        settings = [f"{key}={value}" for key, value in config.differences.items()]
        file = Path(config.viewer)
        write_viewer(file, kind, puzzles, ", ".join([str(restored.file), *settings]))
        print(f"viewer: {file}, puzzles: {len(puzzles)} of {data.config.folders}; open it in a browser")
    return {}


def serve(config: EvaluateConfig, world: World) -> dict:
    """Serve the page of `serve=true` until Ctrl-C. It returns no metrics. Raises ValueError where the port is taken."""
    if world.size > 1:
        raise ValueError("serve=true is one process's work; start it without torchrun")
    solver = Solver.of(config, world)
    if isinstance(solver.kind, ARC):
        raise ValueError("serve=true is for puzzles that are typed; ARC tasks are files: solve=task.json")

    def solve(puzzle: str) -> Iterator[dict]:
        try:
            for trace in solver.watch(puzzle):
                if len(trace.question) != solver.kind.seq_len:
                    raise ValueError(f"the puzzle has {len(trace.question)} cells, and the boards of this page "
                                     f"{solver.kind.seq_len}; evaluate.py solve=… answers it")
                yield puzzle_data(solver.kind, Shown(trace, "your puzzle"))
        except ValueError as error:
            raise ValueError(str(error).removeprefix("puzzle 0: ")) from error  # there is but one

    settings = [f"{key}={value}" for key, value in config.differences.items()]
    about = ", ".join([str(solver.restored.file), *settings])
    data = page_data(solver.kind, [], f"{solver.kind}: give it a puzzle of yours", about)
    data["serve"], port = editor(solver.kind, examples(solver)), USUAL_PORT if config.port is None else config.port
    try:
        server = Server(page(data, ["view.js", "serve.js"], connects=True), solve, port)
    except OSError as error:
        raise ValueError(f"port={port} cannot be used ({error.strerror}); choose another, or port=0 for any "
                         "free one") from error
    with server:
        print(f"{server.address} solves your puzzles ({solver.kind}); Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended", file=sys.stderr)
    return {}


def editor(kind: Kind, there_are: list[str]) -> dict:
    """What the page has to know so that a puzzle can be typed into it. `there_are`: examples of puzzles, as text."""
    usual = " ".join(filter(None, kind.token_names))
    blank = "" if kind.blank is None or not kind.alphabet else kind.alphabet[kind.blank - 1]
    return {"alphabet": kind.alphabet if blank else "", "also": dict(kind.also_read), "blank": blank,
            "format": f"A line of text, such as {(there_are or [usual])[0][:80]}", "examples": there_are}


def examples(solver: Solver) -> list[str]:
    """Puzzles of the run's test data as text, or none where the data are not there."""
    try:
        data = solver.restored.open_data(solver.restored.test_paths, "test", World(), 1)
        inputs = data.examples(evenly(data.num_examples, EXAMPLES).tolist())["inputs"].numpy()
    except (ValueError, OSError):
        return []
    return [solver.kind.format(tokens) for tokens in inputs]
