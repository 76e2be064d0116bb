"""Train a tiny recursive reasoning model: build, then step, log, save and evaluate until the epochs are done.

    python pretrain.py experiment=demo_sudoku4                       # a CPU, minutes; `make demo` makes its data
    python pretrain.py arch=trm data_paths="[data/…]" lr=1e-4 …      # the published command lines
    torchrun --nproc-per-node 4 pretrain.py …                        # the same run on four processes

A step takes one global batch through one supervision step (see models/act.py), so gradients come after each of the
N_sup refinements of an answer. Everything that changes while training is in `TrainState`.
"""
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from config.schema import PretrainConfig
from dataset.common import IGNORE_LABEL_ID, dataset_fingerprint
from dataset.puzzle_dataset import Batch, PuzzleDataset, PuzzleDatasetConfig
from evaluators.loop import evaluate, needed_outputs
from evaluators.protocol import build_evaluators
from models.act import Carry
from models.ema import EMA
from models.sparse_embedding import SparseSignSGD
from utils.checkpoint import Checkpoints, load_weights, read_checkpoint, set_aside_run, weights_of
from utils.command_line import run_script
from utils.distributed import World, all_reduce_sum_, broadcast_object, joined_world
from utils.metrics import TrainMeter
from utils.optim import build_optimizer, learning_rate
from utils.plots import plot_train_vs_val
from utils.run_log import RunLog, unique_run_name
from utils.sanity import check_batch


@dataclass
class TrainState:
    """All that changes while training."""

    head: nn.Module
    optimizers: list[torch.optim.Optimizer]
    ema: EMA | None
    data: PuzzleDataset
    carry: Carry
    step: int = 0

    @property
    def epoch(self) -> int:
        return self.data.stream.epoch

    def state_dict(self) -> dict:
        """The checkpoint's payload: only tensors and plain values."""
        return {
            "model_state": self.head.state_dict(),
            "ema_state": self.ema and self.ema.state_dict(),
            "optimizer_states": [optimizer.state_dict() for optimizer in self.optimizers],
            "data_position": self.data.stream.state_dict(),
            "carry": asdict(self.carry),
            "step": self.step,
            "epoch": self.epoch}


def load_data(config: PretrainConfig, world: World) -> tuple[PuzzleDataset, PuzzleDataset]:
    """The training stream and the test batches, their first batches looked at."""
    test_paths = config.data_paths_test or config.data_paths
    shared = {"seed": config.seed, "global_batch_size": config.global_batch_size, "rank": world.rank,
              "num_replicas": world.size, "identifier_paths": [*config.data_paths, *test_paths]}
    train = PuzzleDataset(PuzzleDatasetConfig(dataset_paths=config.data_paths, test_set_mode=False, **shared), "train")
    test = PuzzleDataset(PuzzleDatasetConfig(dataset_paths=test_paths, test_set_mode=True, **shared), "test")
    for key in ("seq_len", "vocab_size"):
        if getattr(train.metadata, key) != getattr(test.metadata, key):
            raise ValueError(f"{key} is {getattr(train.metadata, key)} in data_paths={config.data_paths} and "
                             f"{getattr(test.metadata, key)} in data_paths_test={test_paths}; one model cannot do both")
    if not config.skip_sanity_checks:
        for split, data in (("train", train), ("test", test)):
            check_batch(f"first {split} batch of {data.config.dataset_paths}", data.first_batch(),
                        data.metadata.seq_len, data.metadata.vocab_size, data.metadata.num_puzzle_identifiers,
                        IGNORE_LABEL_ID)
    if not train.steps_in(config.epochs):
        raise ValueError(f"the whole run is shorter than one batch: {config.epochs} epochs of "
                         f"{train.stream.examples_per_epoch:g} examples, and "
                         f"global_batch_size={config.global_batch_size}; use more epochs or a smaller batch")
    return train, test


def build_state(config: PretrainConfig, data: PuzzleDataset, world: World) -> TrainState:
    torch.manual_seed(config.seed)  # the same initial weights on every rank
    head = config.arch.build_head(data.metadata, data.local_batch_size, world)
    if config.load_checkpoint is not None:
        load_weights(head, weights_of(read_checkpoint(config.load_checkpoint), use_ema=True), config.load_checkpoint,
                     resize_puzzle_table=True)
    head.requires_grad_(not config.freeze_weights)
    if _should_compile(config, world):
        head.compile_recursion()
    optimizers = []
    if head.puzzle_embedding is not None:
        optimizers.append(SparseSignSGD(head.puzzle_embedding, config.puzzle_emb_lr, config.puzzle_emb_weight_decay))
    if not config.freeze_weights:
        optimizers.append(build_optimizer(head.parameters(), config))
    carry = head.initial_carry(to_device(data.first_batch(), world.device), seed=config.seed,
                               first_row=world.rank * data.local_batch_size)
    ema = EMA(head, config.ema_rate) if config.ema and not config.freeze_weights else None
    return TrainState(head.train(), optimizers, ema, data, carry)


def _should_compile(config: PretrainConfig, world: World) -> bool:
    if os.environ.get("DISABLE_COMPILE"):
        return False
    return world.device.type == "cuda" if config.compile is None else config.compile


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Pinned memory lets the copy to a GPU run beside the computation."""
    if device.type != "cuda":
        return {name: value.to(device) for name, value in batch.items()}
    return {name: value.pin_memory().to(device, non_blocking=True) for name, value in batch.items()}


def train_step(state: TrainState, batch: Batch, config: PretrainConfig, total_steps: int) -> dict[str, Tensor]:
    """One supervision step and one update by the gradient of the global batch. Returns the metrics' sums."""
    state.step += 1
    state.carry, loss, metrics, _, _ = state.head(carry=state.carry, batch=batch, return_keys=())
    (loss / config.global_batch_size).backward()
    all_reduce_sum_([p.grad for p in state.head.parameters() if p.grad is not None])
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            peak = config.puzzle_emb_lr if isinstance(optimizer, SparseSignSGD) else config.lr
            group["lr"] = learning_rate(state.step, peak, total_steps, config)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update()
    return metrics


def evaluation_steps(config: PretrainConfig, data: PuzzleDataset) -> set[int]:
    """Steps at which an interval of epochs ends, and the last, whatever the interval."""
    interval = config.eval_interval or config.epochs
    ends = [data.steps_in(epochs) for epochs in range(interval, config.epochs, interval)]
    return {step for step in ends[config.min_eval_interval:] if step} | {data.steps_in(config.epochs)}


def train(config: PretrainConfig, world: World) -> Path:
    """The run. Returns its directory."""
    data, test_data = load_data(config, world)
    run_dir = name_run(config)
    state = build_state(config, data, world)
    evaluators = build_evaluators([e.model_dump() for e in config.evaluators], test_data)
    needed_outputs(state.head, evaluators, config.eval_save_outputs)  # or the first evaluation would find out
    total_steps, pauses = data.steps_in(config.epochs), evaluation_steps(config, data)
    log = open_log(config, run_dir, state, total_steps, world)
    checkpoints = Checkpoints(run_dir, config.checkpoint, writes=world.is_main)
    facts = {"config": config.model_dump(), "torch_version": str(torch.__version__),
             "data_fingerprints": {path: dataset_fingerprint(path) for path in config.data_paths if world.is_main}}
    meter = TrainMeter(world.device)

    while state.step < total_steps:
        batch = to_device(data.next_batch(), world.device)
        meter.add(train_step(state, batch, config, total_steps))
        log.advance()

        if state.step % config.log_interval == 0 or state.step == total_steps:
            log.log(state.step, state.epoch, meter.read_window() | {
                "train/lr": learning_rate(state.step, config.lr, total_steps, config)})

        if state.step in pauses:
            with meter.paused_clock():
                saved = None
                if config.checkpoint_every_eval or state.step == total_steps:
                    saved = checkpoints.save(state.state_dict() | facts, state.step)  # before what may fail
                validation = validate(state, test_data, evaluators, config, run_dir, world)
                train_loss = meter.read_loss_since_evaluation()
                if world.is_main:
                    log.log(state.step, state.epoch, validation)
                    log.epoch_summary(state.epoch, train_loss, validation["val/loss"])
                    checkpoints.keep_if_best(saved, validation)
    log.finish()
    if world.is_main:
        picture_dir = run_dir if config.checkpoint.enabled else Path(config.log_dir)
        plot_train_vs_val(log.metrics_file, picture_dir / "train_vs_val_loss.png")
    return run_dir


def name_run(config: PretrainConfig) -> Path:
    """Name a run without a name (readable, unique, the same on all ranks). Returns its directory."""
    arch = config.arch.name.partition("@")[0].rpartition(".")[2]
    config.project_name = config.project_name or f"{Path(config.data_paths[0]).name}-{arch}"
    config.run_name = broadcast_object(config.run_name or unique_run_name(arch))
    return Path(config.checkpoint.path or f"checkpoints/{config.project_name}/{config.run_name}")


def open_log(config: PretrainConfig, run_dir: Path, state: TrainState, total_steps: int, world: World) -> RunLog:
    """Make the run's directory, with the resolved config in it, and the log."""
    settings = config.model_dump()
    if world.is_main:
        set_aside_run(run_dir, config.checkpoint.overwrite)
        run_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(settings), run_dir / "config.yaml")
    embedding = state.head.puzzle_embedding
    parameters = {"network": sum(p.numel() for p in state.head.parameters()),
                  "puzzle_embedding": 0 if embedding is None else embedding.weights.numel()}
    log = RunLog(config, run_dir, settings, parameters, total_steps, writes=world.is_main)
    for key in config.arch.unused_keys():
        log.say(f"notice: {key} has no effect with arch.name={config.arch.name}")
    return log


def validate(state: TrainState, test_data: PuzzleDataset, evaluators: dict, config: PretrainConfig, run_dir: Path,
             world: World) -> dict[str, float]:
    """Metrics of the test data, by the averaged weights where there are such."""
    where = run_dir / f"evaluation_step_{state.step:08d}"
    if state.ema is None:
        return evaluate(state.head, test_data, world, evaluators, config.eval_save_outputs, where)
    with state.ema.applied():
        return evaluate(state.head, test_data, world, evaluators, config.eval_save_outputs, where)


def main(cfg: DictConfig) -> None:
    config = PretrainConfig.parse(cfg)
    with joined_world(config.device) as world:
        train(config, world)


if __name__ == "__main__":
    run_script(main, "cfg_pretrain")
