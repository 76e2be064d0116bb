"""Train a tiny recursive reasoning model: build, then step, log, save and evaluate until the epochs are done.

    python pretrain.py experiment=demo_sudoku4                       # a CPU, minutes; `make demo` makes its data
    python pretrain.py arch=trm data_paths="[data/…]" lr=1e-4 …      # the published command lines
    torchrun --nproc-per-node 4 pretrain.py …                        # the same run on four processes
    python pretrain.py checkpoint.path=DIRECTORY checkpoint.resume=true      # go on with a run, bit for bit

A training step takes one global batch through one supervision step (models/act.py). So weights are updated after each
of the up to N_sup steps in which an answer is refined. models/train_state.py has the state that a training step changes
and a checkpoint saves. docs/durability.md tells what is kept of a run that is stopped or killed.
"""
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import utils.threads  # isort: skip  # before PyTorch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from config.help import help_text
from config.keywords import settled
from config.resume import Resumed, refuse_other_data, taken_up
from config.run_data import load_data
from config.run_parts import RunParts, build_head, evaluation_steps, name_run, run_facts
from config.schema import PretrainConfig
from evaluators.loop import HELD_OUT_METRICS, evaluate, refuse_unknown_metric, refuse_unknown_outputs
from evaluators.protocol import build_evaluators
from models.train_state import build_state, to_device, train_step
from utils.best import best_in_doubt, out_of_patience
from utils.command_line import run_script
from utils.curriculum import options_at
from utils.distributed import World, any_rank, broadcast_object, decided_by_main, joined_world
from utils.multirun import is_multirun, tell_names_apart
from utils.optim import learning_rate
from utils.plots import plot_train_vs_val
from utils.preemption import Limit, Stopped, StopRequest
from utils.run_directory import evaluations

MOST_SKIPS = 10  # after this many non-finite steps in a row the cause cannot be the batches, and the run ends


def train(config: PretrainConfig | None = None, world: World | None = None, resumed: Resumed | None = None,
          **settings: object) -> Path:
    """Run a training, new or resumed, and return its directory.

    From Python, give the settings of the command line as keywords, nested ones in dicts. Or give a whole `config`.

        run = train(experiment="demo_sudoku4", epochs=20, arch={"hidden_size": 64})      # docs/python.md

    Raises ValueError for wrong settings and data. Raises Stopped after a signal or at a limit; its `saved` tells if the
    state could be saved. Called from Python, a limit ends the run without an error. `world` and `resumed` are for the
    command line.
    """
    if config is None or world is None or settings:
        config, cfg, words = settled(PretrainConfig, config, settings)
        with joined_world(config.device) as world:
            config, resumed = taken_up(config, cfg, words)
            try:
                return train(config, world, resumed)
            except Stopped as stopped:
                if not (stopped.at_limit and stopped.saved):
                    raise
                return name_run(config)  # its name is settled by now
    run = build_run(config, world, resumed)
    state, pauses = run.state, evaluation_steps(config, run.state.data)
    with run.opened(resumed):
        if state.step in pauses and (resumed or config.load_checkpoint):
            if not resumed and config.checkpoint_every_eval:
                run.save()  # the weights before training may turn out to be the best
            run.evaluate(logged=decided_by_main(lambda: dict(evaluations(run.directory)).get(state.step)))
        run.stop_if_asked()
        while state.step < run.total_steps and not run.ends:
            run.step()
            if state.step % config.log_interval == 0 or state.step == run.total_steps:
                run.log_training()
            saves = state.step in pauses and (config.checkpoint_every_eval or state.step == run.total_steps)
            due, *asked = run.asked(run.checkpoints.due())
            if saves or due:
                run.save()  # before the evaluation, which may fail
            run.stop_if(*asked)
            if state.step in pauses:
                run.evaluate()
    run.finish()
    return run.directory


@dataclass
class Run(RunParts):
    """A run: its parts, and the methods that `train` calls."""

    ends: str | None = None  # the reason why it ends before its last step
    position_before: dict[str, int] = field(default_factory=dict)  # of the data stream, before the latest step

    @contextmanager
    def opened(self, resumed: Resumed | None) -> Iterator[None]:
        """A context in which the directory, the log and the checkpoints are open, and signals ask the run to stop."""
        with self.claimed(resumed), StopRequest(self.config.preempt_grace_s) as self.stop:
            self.log = self.open_log(resumed)
            self.checkpoints = self.open_checkpoints(self.log, resumed)
            try:
                yield
            except Stopped as stopped:  # evaluation has ended, so the trained weights are back
                stopped.saved = self.saved()
                self.log.record(f"{stopped}, {'saved' if stopped.saved else 'not saved'}")
                raise
            finally:
                self.log.close_bar()
                self.checkpoints.close()

    def step(self) -> None:
        """Train on the next batch. Whether the step before was finite is read only when a GPU has this one to compute.
        """
        state, started = self.state, time.perf_counter()
        position = state.data.stream.state_dict()
        batch = to_device(state.data.next_batch(), self.world.device)
        if train_step(state, batch, self.config, self.total_steps) is None:
            self.read_from(position)
            self.leave_out_latest()
        else:
            self.position_before = position
            self.log.advance(time.perf_counter() - started)

    def read_from(self, position: dict[str, int]) -> None:
        """Let the next batch be the one from this position of the data stream on."""
        self.state.data.stream.load_state_dict(position)

    def settle(self) -> None:
        """Wait until it is known whether the latest step was finite, as all must that reads the state."""
        if not self.state.settle():
            self.leave_out_latest()

    def leave_out_latest(self) -> None:
        """The loss or gradient of the latest step, which has been taken back, was not finite. Leave its batch out, or
        save the state before it and raise ValueError."""
        state, config, before = self.state, self.config, self.position_before
        what = (f"step {state.step + 1}: the loss or its gradient is not finite (epoch "
                f"{before['epoch']}, the {config.global_batch_size} examples from number "
                f"{before['offset']} of its stream on)")
        if config.on_nonfinite == "stop" or state.skipped == MOST_SKIPS:
            self.read_from(before)
            others = f", nor were the {state.skipped} steps before it" if state.skipped else ""
            way_on = f"is saved in {self.directory}; go on from there or" if self.saved() else "is not saved; go on"
            raise ValueError(f"{what}{others}; the state before it {way_on} from an earlier "
                             "checkpoint, with a smaller lr or on_nonfinite=skip")
        self.log.say(f"warning: {what}; the batch is left out")
        state.leave_out_step()

    def log_training(self) -> None:
        self.settle()
        step, config = self.state.step, self.config
        rate = learning_rate(step, config.lr, self.total_steps, config)
        norm = {} if config.freeze_weights else {"train/grad_norm": self.state.gradient_norm}
        metrics = self.state.meter.read_window() | {"train/lr": rate} | norm
        staged = sorted({key for stages in config.curricula for stage in stages for key in stage.options})
        options = config.arch.options | options_at(step, self.total_steps, *config.curricula)
        metrics |= {f"train/{key}": options[key] for key in staged}
        self.log.log(step, self.state.epoch, metrics)

    def save(self) -> None:
        self.settle()
        self.checkpoints.save(self.state.state_dict() | self.facts, self.state.step)

    def saved(self) -> bool:
        """Save the state, if it is not saved yet, and wait. Returns on all ranks whether a file holds it."""
        if not broadcast_object(self.checkpoints.holds(self.state.step)):
            self.save()
        return broadcast_object(self.checkpoints.holds(self.state.step))

    def asked(self, *others: bool) -> list[bool]:
        """Whether any rank sets each flag. The flags are `others`, then a signal to stop, then a limit reached."""
        return any_rank(*others, self.stop.requested, self.limit.reached(self.state.step))

    def stop_if(self, signalled: bool, at_limit: bool) -> None:
        """Raise Stopped after a signal or at a limit."""
        if signalled or at_limit:
            self.settle()
            raise Stopped(f"stopped after step {self.state.step} of {self.total_steps}", at_limit=not signalled)

    def stop_if_asked(self) -> None:
        self.stop_if(*self.asked())

    def evaluate(self, logged: dict[str, float] | None = None) -> None:
        """Score the test data, with the averaged weights if the run has them.

        `logged`: the metrics of this step, if the log has them from before the run was stopped.
        """
        self.settle()
        state, config = self.state, self.config
        with state.meter.paused_clock(), state.averaged():
            validation = logged or evaluate(
                state.head, self.test_data, self.world, self.evaluators, config.eval_save_outputs,
                self.directory / f"evaluation_step_{state.step:08d}", self.stop_if_asked)
            if self.held_out is not None and not logged:
                validation |= evaluate(state.head, self.held_out, self.world, before_round=self.stop_if_asked,
                                       prefix=HELD_OUT_METRICS)
            if not logged:
                self.log_example(self.log)
        train_loss = state.meter.read_loss_since_evaluation()
        if self.world.is_main:
            if not logged:
                if state.step:
                    self.log.epoch_summary(state.epoch, train_loss, validation.get("val/loss"))
                self.log.log(state.step, state.epoch, validation)
            self.checkpoints.keep_if_best(state.step, validation)
        if config.early_stop_patience and state.step < self.total_steps:
            self.ends = decided_by_main(lambda: out_of_patience(self.directory, config.checkpoint,
                                                                config.early_stop_patience))
            if self.ends:
                self.log.say(self.ends)

    def finish(self) -> None:
        """End the log and draw the curves of the run. Raises OSError if the last checkpoint could not be written."""
        if self.world.is_main:
            for line in best_in_doubt(self.directory, self.config.checkpoint.monitor, value=self.checkpoints.best):
                self.log.say(line)
        self.log.finish()
        decided_by_main(self.checkpoints.refuse_unwritten)
        if self.world.is_main:
            folder = self.directory if self.config.checkpoint.enabled else Path(self.config.log_dir)
            plot_train_vs_val(self.log.metrics_file, folder / "train_vs_val_loss.png", self.state.ema is not None)


def build_run(config: PretrainConfig, world: World, resumed: Resumed | None) -> Run:
    """Load the data, build the model and, if the run is resumed, load its state from the checkpoint."""
    data, test_data = load_data(config, world)
    head = build_head(config, data, world, fresh=resumed is None)
    state = build_state(config, head, data, world)
    facts = run_facts(state, world)
    utils.threads.use_threads(state.carry.latents[0].numel())
    if resumed:
        decided_by_main(lambda: refuse_other_data(facts["data_fingerprints"], config, resumed))
        state.load_state_dict(resumed.payload, resumed.file, world)
        for loaded in ("model_state", "ema_state", "optimizer_states", "carry"):
            del resumed.payload[loaded]  # which would keep a second copy in memory
    evaluators = build_evaluators(config.named_evaluators, test_data, config.trust_code)
    refuse_unknown_outputs(state.head, evaluators, config.eval_save_outputs)  # not only at the first evaluation
    held_out = data.held_out() if config.val_puzzles else None
    refuse_unknown_metric(config.checkpoint.monitor, state.head, test_data, evaluators, held_out)
    directory = name_run(config)
    facts["config"] = config.model_dump()
    steps = data.steps_in(config.epochs)
    limit = Limit(config.max_steps, config.max_minutes, steps)
    return Run(config, directory, world, state, test_data, held_out, evaluators, steps, limit, facts)


def main(cfg: DictConfig) -> None:
    overrides = HydraConfig.get().overrides.task
    tell_names_apart(cfg)
    config = PretrainConfig.parse(cfg, overrides)
    with joined_world(config.device) as world:
        config, resumed = taken_up(config, cfg, overrides)
        try:
            train(config, world, resumed)
        except Stopped as stopped:
            if world.is_main:
                way_on = f"go on with {config.way_on}" if stopped.saved else "it is not saved"
                print(f"{stopped}; {way_on}", file=sys.stderr)
            if not (stopped.at_limit and stopped.saved and is_multirun()):  # of -m, whose next run then begins
                sys.exit(stopped.status)


if __name__ == "__main__":
    run_script(main, "cfg_pretrain", help_text)
