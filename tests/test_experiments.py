"""Every file of config/experiment builds and takes a step, at reduced width on random data of its shape."""
from pathlib import Path

import pytest

from config.schema import PretrainConfig
from helpers import ROOT, pretrain_config, write_tiny_dataset, write_tiny_episodes, write_tiny_regression
from pretrain import build_run
from train_state import to_device, train_step
from utils.distributed import World

EXPERIMENTS = sorted(path.stem for path in (ROOT / "config" / "experiment").glob("*.yaml"))
# Cells and tokens by a word in the name of the data, the first that fits.
SHAPES = {"sudoku4": (16, 6), "sudoku": (81, 11), "maze": (900, 6), "arc": (900, 12)}


def write_data_for(config: PretrainConfig, folder: Path) -> Path:
    name = Path(config.data_paths[0]).name
    if config.arch.head_class.TASK == "regression":
        return write_tiny_episodes(folder) if "lorenz" in name else write_tiny_regression(folder)
    cells, tokens = next(shape for word, shape in SHAPES.items() if word in name)
    return write_tiny_dataset(folder, seq_len=cells, vocab_size=tokens, train=[[1]] * 4, test=[[1]] * 2)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_builds_and_takes_a_step(experiment, tmp_path):
    config = pretrain_config(f"experiment={experiment}")
    data = write_data_for(config, tmp_path / "data")
    smaller = [f"data_paths=[{data}]", "global_batch_size=1", "arch.halt_max_steps=2",
               f"arch.hidden_size={8 * config.arch.options['num_heads']}",
               *(["evaluators=[]"] if "arc" in experiment else []),  # whose tasks random data do not have
               *(["micro_batch_size=1"] if config.micro_batch_size else [])]
    run = build_run(pretrain_config(f"experiment={experiment}", *smaller), World(), None)
    before = {name: p.detach().clone() for name, p in run.state.head.named_parameters()}
    batch = to_device(run.state.data.next_batch(), run.world.device)
    metrics = train_step(run.state, batch, run.config, run.total_steps)
    assert metrics["loss"].isfinite()
    assert any(not before[name].equal(p) for name, p in run.state.head.named_parameters())
