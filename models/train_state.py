"""The state of training, how a checkpoint stores it, and the training step that changes it."""
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from dataset.puzzle_dataset import Batch, PuzzleDataset
from dataset.puzzle_rows import taken_rows
from models.act import Carry
from models.compiled import ComputeConfig, speed_up
from models.ema import EMA
from models.float8 import refuse_without_float8
from models.sparse_embedding import SparseSignSGD
from utils.checkpoint import load_weights, puzzle_table_rows
from utils.curriculum import DepthStage, Stage, SupervisionStage, options_at
from utils.distributed import World, all_reduce_sum_, gather_objects, gather_rows
from utils.metrics import Later, TrainMeter
from utils.optim import (
    OptimConfig,
    build_optimizers,
    remember_peak_rates,
    remembered,
    remembered_step,
    set_learning_rates,
)
from utils.random_state import random_states, set_random_states


class TrainConfig(OptimConfig, ComputeConfig):
    """The settings that a training step reads."""

    # examples in a step, over all processes
    global_batch_size: int = Field(gt=0)
    # examples that a process computes at a time, which saves memory; null: its whole share of a step
    micro_batch_size: int | None = Field(gt=0)
    # stages of shallower recursion at the start of training
    depth_curriculum: list[DepthStage]
    # stages of fewer supervision steps a puzzle at the start of training
    supervision_curriculum: list[SupervisionStage]
    # seed of initial weights, order of the data and exploration
    seed: int = Field(ge=0)

    @property
    def curricula(self) -> tuple[Sequence[Stage], ...]:
        return self.depth_curriculum, self.supervision_curriculum


@dataclass(frozen=True)
class LatestStep:
    """A step that has been made before the host knows whether it was finite, and the way back."""

    norms: Later  # norm of the network's gradient, and of the loss with the puzzle embeddings' gradient
    metrics: dict[str, Tensor]
    carry: Carry  # this and the next: before the step
    skipped: int
    take_back: Sequence[Callable[[], None]]  # what gives the weights, averages and moments before the step


@dataclass
class TrainState:
    """Everything that changes during training."""

    head: Any  # the loss head (losses/, which models/ does not import)
    optimizers: list[torch.optim.Optimizer]
    ema: EMA | None
    data: PuzzleDataset
    carry: Carry
    meter: TrainMeter
    step: int = 0
    skipped: int = 0  # how many of the latest steps in a row were left out, because they were not finite
    gradient_norm: float = 0.0  # norm of the network's gradient at the last settled step, before clipping
    latest: LatestStep | None = None  # a step that is not settled

    @property
    def epoch(self) -> int:
        return self.data.stream.epoch

    def settle(self) -> bool:
        """Whether the latest step was finite; if not, it is taken back: the state is that before it, bit for bit.

        The host waits for the device here, unless the numbers have arrived. All ranks get the same answer.
        """
        latest, self.latest = self.latest, None
        if latest is None:
            return True
        norms = latest.norms.read()
        self.gradient_norm = norms[0]
        if all(map(math.isfinite, norms)):
            self.meter.add(latest.metrics)
            return True
        for take_back in latest.take_back:
            take_back()
        self.step, self.carry, self.skipped = self.step - 1, latest.carry, latest.skipped
        return False

    def state_dict(self) -> dict:
        """The payload of a checkpoint: tensors and plain values, of a state that is settled.

        Every rank must call it, since it gathers from all. Only rank 0 gets the complete payload.
        """
        assert self.latest is None
        return {
            "model_state": self.head.state_dict(),
            "ema_state": self.ema and self.ema.state_dict(),
            "optimizer_states": [optimizer.state_dict() for optimizer in self.optimizers],
            "data_position": self.data.stream.state_dict(),
            "carry": vars(self.carry.map(gather_rows)),  # the rows of the global batch
            "ranks": gather_objects({"random": random_states(), "meter": self.meter.state_dict()}),
            "step": self.step, "skipped": self.skipped, "epoch": self.epoch}

    def load_state_dict(self, payload: dict, source: Path, world: World) -> None:
        """Take the state from a payload, which another number of ranks may have written.

        Raises ValueError where it does not fit.
        """
        load_weights(self.head, payload["model_state"], source, self._resumed_rows(payload, source))
        if self.ema is not None:
            self.ema.load_state_dict(payload["ema_state"])
        for optimizer, state in zip(self.optimizers, payload["optimizer_states"], strict=True):
            configured = [dict(group) for group in optimizer.param_groups]
            optimizer.load_state_dict(state)
            for group, settings in zip(optimizer.param_groups, configured):
                group.update(settings)  # rates and weight decay come from the config, where they may have changed
        self.data.stream.load_state_dict(payload["data_position"])
        first, rows = world.rank * self.data.local_batch_size, self.data.local_batch_size
        carry = Carry(**payload["carry"]).map(lambda t: t[first:first + rows].to(world.device))
        latents = tuple(z.to(like) for z, like in zip(carry.latents, self.carry.latents))
        self.carry = replace(carry, latents=latents)
        ranks = payload["ranks"]
        if len(ranks) == world.size:
            set_random_states(ranks[world.rank]["random"])
            self.meter.load_state_dict(ranks[world.rank]["meter"])
        elif world.is_main:
            self.meter.load_state_dict(TrainMeter.added([rank["meter"] for rank in ranks]))
        self.step, self.skipped = payload["step"], payload["skipped"]

    def _resumed_rows(self, payload: dict, source: Path) -> Tensor | None:
        """For each row of the puzzle table, the row of the payload's table to load. None: both tables have equal rows.

        They differ only in files of older versions, in which puzzles of test sets had rows of their own.
        """
        table = puzzle_table_rows(payload["model_state"])
        if table in (None, self.data.rows.total):
            return None
        return taken_rows(self.data, payload, source, table, trains=False)[0]

    def averaged(self) -> AbstractContextManager:
        """A context in which the network has its averaged weights, if the run averages them."""
        return self.ema.applied() if self.ema else nullcontext()

    def leave_out_step(self) -> None:
        """Count a step that was left out. All rows take new puzzles, since one of the old ones may be the cause."""
        self.step, self.skipped = self.step + 1, self.skipped + 1
        self.carry = replace(self.carry, halted=torch.ones_like(self.carry.halted))


def build_state(config: TrainConfig, head: nn.Module, data: PuzzleDataset,
                world: World) -> TrainState:
    """The state at the start of training, for a head with its initial weights.

    Raises ValueError where `micro_batch_size` does not divide the number of examples of a process.
    """
    if config.micro_batch_size and data.local_batch_size % config.micro_batch_size:
        raise ValueError(f"micro_batch_size={config.micro_batch_size} does not divide the "
                         f"{data.local_batch_size} examples of each process "
                         f"(global_batch_size={config.global_batch_size} over {world.size}); "
                         "choose a divisor of them")
    head.requires_grad_(not config.freeze_weights)
    if config.cuda_graphs and config.micro_batch_size:
        raise ValueError(f"cuda_graphs=True overwrites the gradient of one part of a batch by that of the next, and "
                         f"micro_batch_size={config.micro_batch_size} asks for parts; leave one of them out")
    model: Any = head.model
    refuse_without_float8(model.config.no_grad_dtype, model.inner.dtype, world.device)
    speed_up(head, config, world.device, depths=1 + len(config.depth_curriculum))
    optimizers: list[torch.optim.Optimizer] = []
    if head.puzzle_embedding is not None:
        optimizers.append(SparseSignSGD(head.puzzle_embedding, config.puzzle_emb_lr,
                                        config.puzzle_emb_weight_decay))
    if not config.freeze_weights:
        optimizers += build_optimizers(head.parameters(), head.matrices(), config)
    remember_peak_rates(optimizers)
    carry = head.initial_carry(to_device(data.first_batch(), world.device), seed=config.seed,
                               first_row=world.rank * data.local_batch_size)
    ema = EMA(head, config.ema_rate) if config.ema and not config.freeze_weights else None
    return TrainState(head.train(), optimizers, ema, data, carry, TrainMeter(world.device))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copy a batch to a device. Pinned memory lets the copy to a GPU run while the GPU computes."""
    if device.type != "cuda":
        return {name: value.to(device) for name, value in batch.items()}
    return {name: value.pin_memory().to(device, non_blocking=True) for name, value in batch.items()}


def train_step(state: TrainState, batch: Batch, config: TrainConfig,
               total_steps: int) -> dict[str, Tensor] | None:
    """Run one supervision step and update the weights by the gradient of the global batch.

    Returns the metrics as sums over this rank's rows. Whether the loss and the gradient are finite is read a step late,
    when the device has the next step to compute, so that it never waits for the host. Returns None where the step
    *before* this one was not finite. Then that step has been taken back, and this one is not made.
    """
    random, carry_before = random_states(), state.carry
    options = options_at(state.step + 1, total_steps, *config.curricula)
    with state.head.recursing(**options) if options else nullcontext():
        carry, metrics = _accumulate_gradients(state, batch, config)
    norms = _sum_gradients(state.head, metrics["loss"], config.grad_clip)
    if not state.settle():
        set_random_states(random)
        _forget_gradients(state)
        return None
    state.latest = LatestStep(Later(norms), metrics, carry_before, state.skipped, _update(state, config, total_steps))
    state.carry, state.skipped = carry, 0
    return metrics


def _update(state: TrainState, config: TrainConfig, total_steps: int) -> list[Callable[[], None]]:
    """Count a step, and update weights and averages. Returns what takes the updates back."""
    state.step += 1
    take_back: list[Callable[[], None]] = [remembered(list(state.ema.shadow.values()))] if state.ema else []
    for optimizer in state.optimizers:
        set_learning_rates(optimizer, state.step, total_steps, config)
        take_back.append(optimizer.take_back_step if isinstance(optimizer, SparseSignSGD)
                         else remembered_step(optimizer))
        optimizer.step()
    _forget_gradients(state)
    if state.ema is not None:
        state.ema.update()
    return take_back


def _forget_gradients(state: TrainState) -> None:
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)


def _accumulate_gradients(state: TrainState, batch: Batch,
                          config: TrainConfig) -> tuple[Carry, dict[str, Tensor]]:
    """Compute this rank's part of the gradient, `micro_batch_size` rows at a time.

    The loss is a sum over rows, so the size of the parts affects rounding only. Returns the carry after the step, and
    the metrics as sums over rows.
    """
    rows = config.micro_batch_size or state.data.local_batch_size
    carries, metrics = [], []
    for part in (slice(first, first + rows)
                 for first in range(0, state.data.local_batch_size, rows)):
        carry, loss, sums, _, _ = state.head(carry=state.carry.map(itemgetter(part)),
                                             batch={name: value[part] for name, value in batch.items()}, return_keys=())
        (loss / config.global_batch_size).backward()
        carries.append(carry)
        metrics.append(sums)
    if len(carries) == 1:
        return carry, sums
    return Carry.joined(carries), {name: sum(part[name] for part in metrics) for name in sums}


def _sum_gradients(head: nn.Module, loss: Tensor, largest_norm: float | None) -> Tensor:
    """Sum the gradients over ranks, and scale those of the network down to `largest_norm` if their norm is larger.

    Returns two norms on the device, (2,), which are finite if the loss and all gradients are: that of the network's
    gradient before scaling, and that of the loss with the puzzle embeddings' gradient. All ranks get the same values.
    """
    probes = [loss.clone()]
    if head.puzzle_embedding is not None and head.puzzle_embedding.gradient is not None:
        probes.append(head.puzzle_embedding.gradient.norm())
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    all_reduce_sum_(gradients + probes)
    norm = torch.nn.utils.get_total_norm(gradients).to(loss.device)  # with frozen weights, 0 on the CPU
    if largest_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(head.parameters(), largest_norm, norm)
    return torch.stack([norm, torch.nn.utils.get_total_norm(probes)])
