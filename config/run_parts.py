"""The parts of a training run, and its files: directory, log and checkpoints. pretrain.py uses them."""
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

from config.restored import Restored
from config.resume import Resumed
from config.schema import PretrainConfig
from dataset.puzzle_dataset import PuzzleDataset
from dataset.puzzle_rows import row_notices
from evaluators.pictures import draw_first_example
from evaluators.protocol import Evaluator
from models.train_state import TrainState
from utils.checkpoint import Checkpoints
from utils.distributed import World, broadcast_object, decided_by_main
from utils.multirun import name_of_choices
from utils.outlook import outlook
from utils.preemption import Limit
from utils.run_directory import adopt, claimed, restored_best, set_aside_after, set_aside_run
from utils.run_log import RunLog, unique_run_name
from utils.version import VERSION


@dataclass
class RunParts:
    """The parts of a run."""

    config: PretrainConfig
    directory: Path
    world: World
    state: TrainState
    test_data: PuzzleDataset
    held_out: PuzzleDataset | None  # training puzzles that only evaluations see
    evaluators: dict[str, tuple[str, Evaluator]]
    total_steps: int
    limit: Limit
    facts: dict  # what a checkpoint stores besides the state

    def log_example(self, log: RunLog) -> None:
        """Log a picture of the first test example, as the model answers it now, where the log takes pictures."""
        if log.takes_pictures:
            with TemporaryDirectory() as folder:
                picture = draw_first_example(self.state.head, self.test_data, self.world, Path(folder),
                                             self.config.trust_code)
                log.log_picture(self.state.step, "val/first_example", picture)

    @contextmanager
    def claimed(self, resumed: Resumed | None) -> Iterator[None]:
        """A context in which no other process may use the run's directory.

        On entry, files of an earlier run are moved aside, except those that this run resumes from, and the config is
        written.
        """
        config, directory = self.config, self.directory
        with ExitStack() as stack:
            def claim() -> None:
                stack.enter_context(claimed(directory))
                if resumed and resumed.file.parent.resolve() == directory.resolve():
                    adopt(resumed.file, directory, resumed.step)
                    set_aside_after(directory, resumed.step, keep_best=resumed.same_monitor,
                                    repeats=not resumed.changes, known=resumed.file)
                elif config.checkpoint.resume == "auto":  # the directory has no complete checkpoint
                    set_aside_after(directory, step=-1)
                else:
                    set_aside_run(directory, config.checkpoint.overwrite)
                    if resumed:
                        adopt(resumed.file, directory, resumed.step)
                OmegaConf.save(OmegaConf.create(config.model_dump()), directory / "config.yaml")

            decided_by_main(claim)
            yield

    def open_log(self, resumed: Resumed | None) -> RunLog:
        """Open the log, and write to it what the run is going to do."""
        config, state = self.config, self.state
        embedding = state.head.puzzle_embedding
        parameters = {"network": sum(p.numel() for p in state.head.parameters()),
                      "puzzle_embedding": 0 if embedding is None else embedding.weights.numel()}
        log = RunLog(config, self.directory, config.model_dump(), parameters, min(self.total_steps, self.limit.step),
                     writes=self.world.is_main, first_step=state.step)
        evaluated = evaluation_steps(config, state.data) - ({0} if config.load_checkpoint is None else set())
        for line in outlook(self.world, state.head.model.inner.dtype, state.data, self.test_data, config.epochs,
                            sorted(evaluated), self.limit, config.lr_warmup_steps):
            log.say(line)
        scored, there_are = self.test_data.num_puzzles, self.test_data.metadata.total_puzzles
        if scored < there_are:
            log.say(f"evaluations score {scored:,} of {there_are:,} test puzzles (test_puzzles); evaluate.py scores "
                    "all")
        if self.held_out is not None:
            log.say(f"{config.val_puzzles:,} training puzzles are held out, and scored as val/held_out/… "
                    f"({self.held_out.num_examples:,} examples)")
        if state.ema is not None:
            log.say("evaluations score averaged weights, which follow the trained ones some "
                    f"{1 / (1 - config.ema_rate):,.0f} steps behind; evaluate.py use_ema=false "
                    "scores the trained ones")
        of_rows = row_notices(state.data, self.test_data) if embedding is not None else []
        for notice in [*of_rows, *config.notices()]:
            log.say(f"notice: {notice}")
        for line in resumed.notices(self.world.size) if resumed else []:
            log.say(line)
        if resumed and state.step >= self.total_steps:
            log.say("notice: the run is complete; more epochs prolong it")
        return log

    def open_checkpoints(self, log: RunLog, resumed: Resumed | None) -> Checkpoints:
        """The writer of checkpoints. In a resumed run it knows the best value so far."""
        best = None
        if resumed and resumed.same_monitor and self.world.is_main:
            best = restored_best(self.directory, self.config.checkpoint.monitor,
                                 resumed.payload["best_val_metric"])
        return Checkpoints(self.directory, self.config.checkpoint, self.world.is_main,
                           log.say, best)


def name_run(config: PretrainConfig) -> Path:
    """Return the directory of a run. A run without a name first gets a unique, readable one, the same on all ranks."""
    config.project_name = config.project
    config.run_name = broadcast_object(config.run_name or unique_run_name(config.arch.short_name + name_of_choices()))
    directory = config.run_directory
    assert directory is not None  # it has a name
    return directory


def evaluation_steps(config: PretrainConfig, data: PuzzleDataset) -> set[int]:
    """The steps after which a run is evaluated: the end of each interval of epochs, and the last step.

    Step 0 is included, since the weights of `load_checkpoint` are evaluated before training.
    """
    interval = config.eval_interval or config.epochs
    ends = [data.steps_in(epochs) for epochs in range(interval, config.epochs, interval)]
    return {0, *ends[config.min_eval_interval:], data.steps_in(config.epochs)}


def build_head(config: PretrainConfig, data: PuzzleDataset, world: World,
               fresh: bool = True) -> nn.Module:
    """The loss head with its model. A `fresh` run, which is not resumed, loads the weights of `load_checkpoint`."""
    torch.manual_seed(config.seed)  # the same initial weights on every rank
    head = config.arch.build_head(data.metadata, data.local_batch_size, world)
    head.prepare(list(data.sets.values()))
    if config.load_checkpoint is not None and fresh:
        Restored.read(config.load_checkpoint).start(head, config.arch, data, world)
    return head


def run_facts(state: TrainState, world: World) -> dict:
    """What a checkpoint stores besides the state: versions of the software, and facts about the training data."""
    versions = {"tiny_recursive_models": VERSION, "python": platform.python_version(),
                "torch": str(torch.__version__), "numpy": np.__version__}
    facts = {"versions": versions, "data_metadata": state.data.metadata.facts()}
    has_table = state.head.puzzle_embedding is not None
    return facts | (state.data.rows.facts(has_table) if world.is_main else {"data_fingerprints": {}})
