"""What a run says at its start."""
import pytest
import torch

from helpers import pretrain_config, write_tiny_dataset
from pretrain import evaluation_steps, load_data
from utils.distributed import World
from utils.outlook import outlook
from utils.preemption import Limit


@pytest.mark.parametrize("settings, steps, evaluations", [
    (["epochs=5", "eval_interval=2"], 20, "after step 8, every 8 steps from there, and at the end: 3"),
    (["epochs=4", "eval_interval=1", "min_eval_interval=2"], 16, "after step 12, every 4 steps from there, and at the "
     "end: 2"), (["epochs=2", "eval_interval=null"], 8, "at the end: 1"),
    (["epochs=2", "eval_interval=1", "load_checkpoint=x"], 8, "of the loaded weights, after step 4, every 4 steps from "
     "there, and at the end: 3")])
def test_steps_and_evaluations_are_those_that_will_be(tmp_path, settings, steps, evaluations):
    data = write_tiny_dataset(tmp_path / "data")
    config = pretrain_config(f"data_paths=[{data}]", "global_batch_size=16", *settings)
    train, test = load_data(config, World())
    pauses = sorted(evaluation_steps(config, train))[config.load_checkpoint is None:]  # the first is 0
    computing, planned, evaluated, limit = outlook(World(), torch.bfloat16, train, test, config.epochs, pauses,
                                                   Limit(3, None, steps), warmup_steps=steps)
    assert computing.startswith("computing on cpu in bfloat16 (slow on this CPU, which has no AMX), ")
    assert "processes" not in computing
    assert planned == f"64 examples an epoch, {config.epochs} epochs, 16 examples a step: {steps} steps"
    assert evaluated == f"evaluations on 10 examples {evaluations}"
    assert limit == "max_steps=3 ends the run before that, saved, to go on later"


def test_a_warm_up_longer_than_the_run_is_said(tmp_path):
    train, test = load_data(pretrain_config(f"data_paths=[{write_tiny_dataset(tmp_path / 'data')}]",
                                            "global_batch_size=16"), World())
    *_, notice = outlook(World(), torch.float32, train, test, 6, [24], Limit(None, None, 24), warmup_steps=2000)
    assert notice == ("notice: lr_warmup_steps=2000 is longer than the run, so the learning rate ends at 0.012 of lr; "
                      "a tenth of the steps is usual")
