"""The training step: nothing in it waits for the device, and a step that was not finite leaves no trace."""
import itertools

import numpy as np
import pytest
import torch

from config.run_data import load_data
from config.run_parts import build_head
from helpers import TINY_ARCH, assert_equal, first_state, pretrain_config, write_tiny_dataset
from models import train_state
from models.train_state import TrainState, build_state, to_device, train_step
from utils.checkpoint import snapshot
from utils.distributed import World

OPTIMIZERS = {"lion": [], "adamw": ["grad_clip=0.5"], "adam_atan2": ["arch.noise_scale=0.01", "micro_batch_size=8"],
              "muon": ["adamw_lr=1e-3", "arch.initial_state_std=1.0"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("train_state") / "data", train=[[4]] * 16)


def settings(data, *overrides: str):
    return pretrain_config(f"data_paths=[{data}]", *TINY_ARCH, "global_batch_size=16", "epochs=6", "lr=1e-3",
                           "lr_warmup_steps=0", "puzzle_emb_lr=1e-2", "ema=True", "arch.halt_exploration_prob=0.5",
                           "compile=False", *overrides)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_needs_no_value_of_the_device(data, optimizer):
    """Tensors on `meta` have no values: what asks for one (`item`, `tolist`, a mask as index, `unique`) raises."""
    config = settings(data, f"optimizer={optimizer}", *OPTIMIZERS[optimizer])
    nowhere = World(device=torch.device("meta"))
    stream, _ = load_data(config, World())
    state = build_state(config, build_head(config, stream, World()).to("meta"), stream, nowhere)
    for _ in range(2):
        state.carry, metrics = train_state._accumulate_gradients(
            state, to_device(stream.next_batch(), nowhere.device), config)
        norms = train_state._sum_gradients(state.head, metrics["loss"], config.grad_clip)
        assert norms.is_meta and norms.shape == (2,)
        take_back = train_state._update(state, config, total_steps=24)
        state.meter.add(metrics)
    for step in take_back:
        step()


def poisoned(state: TrainState, times: int = 1) -> None:
    """Let the next losses not be numbers."""
    left = itertools.count(1)

    def without_value(module, args, kwargs, output):
        if next(left) == times:
            hook.remove()
        carry, loss, *rest = output
        return carry, loss * torch.nan, *rest

    hook = state.head.register_forward_hook(without_value, with_kwargs=True)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_step_that_was_not_finite_leaves_no_trace(data, optimizer, steps_before):
    """Bit for bit: weights, averages, moments, counts, table, carry, meter, step; found a step later, or at once."""
    config = settings(data, f"optimizer={optimizer}", *OPTIMIZERS[optimizer])
    found = {}
    for late in (False, True):
        state = first_state(config)
        stream = state.data

        def step(batch, state=state):
            return train_step(state, batch, config, total_steps=24)

        for _ in range(steps_before):
            assert step(stream.next_batch()) is not None
        assert state.settle() and state.settle()
        before = snapshot(state.state_dict())
        poisoned(state, times=2 if config.micro_batch_size else 1)
        assert step(stream.next_batch()) is not None  # not known yet
        after_it = stream.stream.state_dict()
        if late:
            np.random.seed(1)
            assert step(stream.next_batch()) is None
            stream.stream.load_state_dict(after_it)
        else:
            assert not state.settle()
        assert np.isnan(state.gradient_norm)
        same = ("random", "data_position", "epoch", "ranks")  # the stream and what users draw went on
        assert_equal(*({key: value for key, value in payload.items() if key not in same}
                       for payload in (before, snapshot(state.state_dict()))))
        state.leave_out_step()
        assert (state.step, state.skipped) == (steps_before + 1, 1) and state.carry.halted.all()
        for _ in range(2):
            assert step(stream.next_batch()) is not None
        assert state.settle() and (state.step, state.skipped) == (steps_before + 3, 0)
        found[late] = {key: value for key, value in snapshot(state.state_dict()).items() if key != "ranks"}
    assert_equal(found[False], found[True])


def test_metrics_count_once_a_step_is_known_to_be_finite(data):
    config = settings(data)
    state = first_state(config)
    seen = [train_step(state, state.data.next_batch(), config, total_steps=24) for _ in range(3)]
    assert state.meter.state_dict()["window"]["rows"] == 32 and state.settle()
    window = state.meter.state_dict()["window"]
    assert window["rows"] == 48 and window["loss"] == pytest.approx(sum(m["loss"].item() for m in seen))
