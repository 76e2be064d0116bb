"""Train a tiny recursive reasoning model: build, then step, log, save and evaluate until the epochs are done.

    python pretrain.py experiment=demo_sudoku4                       # a CPU, minutes; `make demo` makes its data
    python pretrain.py arch=trm data_paths="[data/…]" lr=1e-4 …      # the published command lines
    torchrun --nproc-per-node 4 pretrain.py …                        # the same run on four processes
    python pretrain.py checkpoint.path=DIRECTORY checkpoint.resume=true      # go on with a run, bit for bit

A step takes one global batch through one supervision step (see models/act.py), so gradients come after each of the
N_sup refinements of an answer. What a step changes, and how it is saved, stands in models/train_state.py; what is
promised of a run that is stopped or killed, in docs/durability.md.
"""
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from evaluators.loop import evaluate, refuse_unknown_metric, refuse_unknown_outputs
from evaluators.protocol import build_evaluators
from models.train_state import build_state, to_device, train_step
from utils.best import best_in_doubt, out_of_patience
from utils.command_line import run_script
from utils.curriculum import cycles_at
from utils.distributed import World, any_rank, broadcast_object, decided_by_main, joined_world
from utils.multirun import is_multirun, tell_names_apart
from utils.optim import learning_rate
from utils.plots import plot_train_vs_val
from utils.preemption import Limit, Stopped, StopRequest
from utils.run_directory import evaluations

MOST_SKIPS = 10  # steps in a row that are not finite: then it is not the batch


def train(config: PretrainConfig | None = None, world: World | None = None, resumed: Resumed | None = None,
          **settings: object) -> Path:
    """The run, from its start or from where a checkpoint left it. Returns its directory.

    From Python, the settings of the command line are keywords, nested ones in dicts. Or give a whole `config`:

        run = train(experiment="demo_sudoku4", epochs=20, arch={"hidden_size": 64})      # docs/python.md

    Only the command line gives `world` and `resumed`. Raises ValueError for wrong settings and data, and Stopped after
    a signal or at a limit, the state saved where the disk takes it. From Python, a limit ends the run without error.
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
                return name_run(config)  # the name that it has got
    run = build_run(config, world, resumed)
    state, pauses = run.state, evaluation_steps(config, run.state.data)
    with run.opened(resumed):
        if state.step in pauses and (resumed or config.load_checkpoint):
            if not resumed and config.checkpoint_every_eval:
                run.save()  # what training starts from competes for the best
            run.evaluate(logged=decided_by_main(lambda: dict(evaluations(run.directory)).get(state.step)))
        run.stop_if(*run.asked())
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
    """A run: its parts, and what `train` does with them."""

    ends: str | None = None  # the reason why it ends before its last step

    @contextmanager
    def opened(self, resumed: Resumed | None) -> Iterator[None]:
        """Hold the directory, open the log and the checkpoints, and take signals as requests to stop."""
        with self.claimed(resumed), StopRequest(self.config.preempt_grace_s) as self.stop:
            self.log = self.open_log(resumed)
            self.checkpoints = self.open_checkpoints(self.log, resumed)
            try:
                yield
            except Stopped as stopped:  # outside of evaluation, so with the trained weights in place
                stopped.saved = self.saved()
                self.log.record(f"{stopped}, {'saved' if stopped.saved else 'not saved'}")
                raise
            finally:
                self.log.close_bar()
                self.checkpoints.close()

    def step(self) -> None:
        """Train on the next batch. Where its loss or gradient is not finite, leave it out, or save the state before it
        and end the run."""
        state, config, before = self.state, self.config, self.state.data.stream.state_dict()
        started = time.perf_counter()
        metrics = train_step(state, to_device(state.data.next_batch(), self.world.device), config, self.total_steps)
        self.log.advance(time.perf_counter() - started)
        if metrics is not None:
            state.meter.add(metrics)
            return
        what = (f"step {state.step + 1}: the loss or its gradient is not finite (epoch {before['epoch']}, the "
                f"{config.global_batch_size} examples from number {before['offset']} of its stream on)")
        if config.on_nonfinite == "stop" or state.skipped == MOST_SKIPS:
            state.data.stream.load_state_dict(before)
            others = f", nor were the {state.skipped} steps before it" if state.skipped else ""
            way_on = f"is saved in {self.directory}; go on from there or" if self.saved() else "is not saved; go on"
            raise ValueError(f"{what}{others}; the state before it {way_on} from an earlier checkpoint, with a smaller "
                             "lr or on_nonfinite=skip")
        self.log.say(f"warning: {what}; the batch is left out")
        state.leave_out_step()

    def log_training(self) -> None:
        step, config = self.state.step, self.config
        rate = learning_rate(step, config.lr, self.total_steps, config)
        norm = {} if config.freeze_weights else {"train/grad_norm": self.state.gradient_norm}
        metrics = self.state.meter.read_window() | {"train/lr": rate} | norm
        if config.depth_curriculum:
            cycles = cycles_at(step, self.total_steps, config.depth_curriculum) or config.arch.options
            metrics |= {f"train/{key}": cycles[key] for key in ("H_cycles", "L_cycles")}
        self.log.log(step, self.state.epoch, metrics)

    def save(self) -> None:
        self.checkpoints.save(self.state.state_dict() | self.facts, self.state.step)

    def saved(self) -> bool:
        """Save the state, unless that is done, and wait. Returns, on all ranks alike, whether a file holds it."""
        if not broadcast_object(self.checkpoints.holds(self.state.step)):
            self.save()
        return broadcast_object(self.checkpoints.holds(self.state.step))

    def asked(self, *others: bool) -> list[bool]:
        """Flags, each set if it is set on any rank: `others`, then a signal, then a limit."""
        return any_rank(*others, self.stop.requested, self.limit.reached(self.state.step))

    def stop_if(self, signalled: bool, at_limit: bool) -> None:
        """Raise Stopped after a signal or at a limit."""
        if signalled or at_limit:
            raise Stopped(f"stopped after step {self.state.step} of {self.total_steps}", at_limit=not signalled)

    def evaluate(self, logged: dict[str, float] | None = None) -> None:
        """Score the test data, with the averaged weights if the run keeps them. `logged`: the metrics, where the log
        has them from before a stop."""
        state, config = self.state, self.config
        with state.meter.paused_clock(), state.averaged():
            validation = logged or evaluate(
                state.head, self.test_data, self.world, self.evaluators, config.eval_save_outputs,
                self.directory / f"evaluation_step_{state.step:08d}",
                lambda: self.stop_if(*self.asked()))
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
        """End the log, and draw the curves of the whole run. Raises OSError where the last checkpoint was not
        written."""
        if self.world.is_main:
            for line in best_in_doubt(self.directory, self.config.checkpoint.monitor, value=self.checkpoints.best):
                self.log.say(line)
        self.log.finish()
        decided_by_main(self.checkpoints.refuse_unwritten)
        if self.world.is_main:
            folder = self.directory if self.config.checkpoint.enabled else Path(self.config.log_dir)
            plot_train_vs_val(self.log.metrics_file, folder / "train_vs_val_loss.png")


def build_run(config: PretrainConfig, world: World, resumed: Resumed | None) -> Run:
    """Load the data, build the model and, where the run goes on, take its state from the checkpoint."""
    data, test_data = load_data(config, world)
    head = build_head(config, data, world, fresh=resumed is None)
    state = build_state(config, head, data, world)
    facts = run_facts(state, world)
    utils.threads.use_threads(state.carry.latents[0].numel())
    if resumed:
        decided_by_main(lambda: refuse_other_data(facts["data_fingerprints"], config, resumed))
        state.load_state_dict(resumed.payload, resumed.file, world)
        for loaded in ("model_state", "ema_state", "optimizer_states", "carry"):
            del resumed.payload[loaded]  # or memory would hold it twice
    evaluators = build_evaluators(config.named_evaluators, test_data, config.trust_code)
    refuse_unknown_outputs(state.head, evaluators, config.eval_save_outputs)  # or the first evaluation would find out
    refuse_unknown_metric(config.checkpoint.monitor, state.head, test_data, evaluators)  # likewise
    directory = name_run(config)
    facts["config"] = config.model_dump()
    steps = data.steps_in(config.epochs)
    limit = Limit(config.max_steps, config.max_minutes, steps)
    return Run(config, directory, world, state, test_data, evaluators, steps, limit, facts)


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
            if not (stopped.at_limit and stopped.saved and is_multirun()):  # the next run of which begins
                sys.exit(stopped.status)


if __name__ == "__main__":
    run_script(main, "cfg_pretrain", help_text)
