"""The depth curriculum: which stage a step is in, that the network recurses so, and what is refused."""
import shutil

import pytest
from torch import nn

from helpers import TINY_ARCH, first_state, metric_lines, pretrain_config, write_tiny_dataset
from models.backbone import Backbone
from models.train_state import train_step
from pretrain import load_data, train
from utils.curriculum import DepthStage, SupervisionStage, options_at
from utils.distributed import World

STAGES = "[{until: 0.25, H_cycles: 1, L_cycles: 1}, {until: 0.5, H_cycles: 1, L_cycles: 3}]"


@pytest.fixture
def config_of(tmp_path):
    """A run of 16 steps, T = 2 and n = 2 in the end."""
    data = write_tiny_dataset(tmp_path / "data")
    return lambda *overrides: pretrain_config(
        f"data_paths=[{data}]", f"checkpoint.path={tmp_path / 'run'}", f"log_dir={tmp_path}", *TINY_ARCH,
        "arch.L_cycles=2", "global_batch_size=16", "epochs=4", "eval_interval=2", "log_interval=1", "evaluators=[]",
        "use_wandb=false", *overrides)


def passes(head) -> list[int]:
    """Counts, from now on, the passes through the network."""
    counted = [0]
    head.model.inner.L_level.register_forward_hook(lambda *_: counted.__setitem__(0, counted[0] + 1))
    return counted


def test_a_stage_ends_at_its_part_of_all_steps():
    stages = [DepthStage(until=0.3, H_cycles=1, L_cycles=2), DepthStage(until=0.6, H_cycles=2, L_cycles=4)]
    assert [options_at(step, 10, stages).get("L_cycles") for step in range(1, 11)] == [2] * 3 + [4] * 3 + [None] * 4
    assert options_at(1, 10, []) == {}
    assert [options_at(step, 7, stages).get("H_cycles") for step in range(1, 8)] == [1, 1, 1, 2, 2, None, None]


def test_of_two_curricula_each_step_gets_the_options_of_both_stages():
    depth = [DepthStage(until=0.5, H_cycles=1, L_cycles=2)]
    supervision = [SupervisionStage(until=0.2, halt_max_steps=1), SupervisionStage(until=0.6, halt_max_steps=4)]
    assert [options_at(step, 5, depth, supervision) for step in range(1, 6)] == [
        {"H_cycles": 1, "L_cycles": 2, "halt_max_steps": 1}, {"H_cycles": 1, "L_cycles": 2, "halt_max_steps": 4},
        {"H_cycles": 1, "L_cycles": 2, "halt_max_steps": 4}, {}, {}]


def test_a_puzzle_gets_as_many_supervision_steps_as_the_stage_says(config_of):
    config = config_of("supervision_curriculum=[{until: 0.25, halt_max_steps: 1}, {until: 0.5, halt_max_steps: 2}]",
                       "arch.halt_max_steps=4", "arch.act_enabled=False")
    stream, _ = load_data(config, World())
    state = first_state(config, stream)
    halted = []
    for _ in range(16):
        metrics = train_step(state, stream.next_batch(), config, total_steps=16)
        halted.append((int(metrics["count"]), int(metrics["steps"])))  # rows that halted, and the steps that they took
    assert halted == [(16, 16)] * 4 + [(0, 0), (16, 32)] * 2 + [(0, 0)] * 3 + [(16, 64)] + [(0, 0)] * 3 + [(16, 64)]
    batch = stream.next_batch()
    assert state.head.eval().steps_known == 4
    assert state.head.initial_carry(batch).halted.all()


def test_training_recurses_as_its_stage_says_and_at_full_depth_otherwise(config_of):
    config = config_of(f"depth_curriculum={STAGES}")
    stream, _ = load_data(config, World())
    state = first_state(config, stream)
    counted, found = passes(state.head), []
    for _ in range(16):
        before = counted[0]
        train_step(state, stream.next_batch(), config, total_steps=16)
        found.append(counted[0] - before)
    assert found == [2] * 4 + [4] * 4 + [6] * 8  # T (n + 1)
    before, batch = counted[0], stream.next_batch()
    state.head.eval()(carry=state.head.initial_carry(batch), batch=batch, return_keys=())
    assert counted[0] - before == 6


def test_a_run_logs_its_depth_and_is_evaluated_at_full_depth(config_of, monkeypatch):
    import pretrain
    full = []
    monkeypatch.setattr(pretrain, "evaluate", lambda head, *_: full.append(dict(vars(head.model.config))) or
                        {"val/loss": 1.0})
    lines = metric_lines(train(config_of(f"depth_curriculum={STAGES}"), World()))
    depth = {line["step"]: (line["train/H_cycles"], line["train/L_cycles"]) for line in lines if "train/loss" in line}
    assert not any("train/halt_max_steps" in line for line in lines)
    assert depth == {step: (1, 1) if step <= 4 else (1, 3) if step <= 8 else (2, 2) for step in range(1, 17)}
    assert [(c["H_cycles"], c["L_cycles"]) for c in full] == [(2, 2), (2, 2)]


def test_compiled_it_computes_what_it_does_otherwise(config_of):
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")

    def losses(compiled: bool) -> list[float]:
        config = config_of("depth_curriculum=[{until: 0.5, H_cycles: 1, L_cycles: 1}]", f"compile={compiled}",
                           "optimizer=adamw")
        stream, _ = load_data(config, World())
        state = first_state(config, stream)
        return [train_step(state, stream.next_batch(), config, total_steps=4)["loss"].item() for _ in range(4)]

    assert losses(True) == pytest.approx(losses(False), rel=1e-3)


@pytest.fixture
def one_graph_a_depth(monkeypatch):
    """PyTorch's limit at one graph, so that few are needed to meet it, and meeting it an error. No code is generated,
    which takes long and changes no count."""
    import torch._dynamo
    monkeypatch.setattr(Backbone, "compile",
                        lambda self, **options: nn.Module.compile(self, backend="eager", **options))
    monkeypatch.setattr("models.compiled.GRAPHS_A_DEPTH", 1)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=1):
        yield
    torch.compiler.reset()


def test_every_depth_of_every_run_of_a_process_is_compiled(config_of, one_graph_a_depth):
    for width in (16, 24):
        config = config_of(f"depth_curriculum={STAGES}", "compile=True", f"arch.hidden_size={width}")
        stream, _ = load_data(config, World())
        state = first_state(config, stream)
        for _ in range(4):
            train_step(state, stream.next_batch(), config, total_steps=4)


@pytest.mark.parametrize("overrides, message", [
    ([f"depth_curriculum={STAGES.replace('0.5', '0.25')}"], r"each stage must end later .* until \[0.25, 0.25\]"),
    ([f"depth_curriculum={STAGES.replace('0.5', '1.0')}"], "depth_curriculum.1.until=1.0: "),
    ([f"depth_curriculum={STAGES.replace('H_cycles: 1, L_cycles: 3', 'H_cycles: 0, L_cycles: 3')}"],
     "depth_curriculum.1.H_cycles=0: "),
    ([f"depth_curriculum={STAGES.replace('H_cycles: 1, L_cycles: 3', 'L_cycles: 3')}"], "depth_curriculum.1.H_cycles"),
    ([f"depth_curriculum={STAGES.replace('3}', '3, depth: 1}')}"], "unknown key depth_curriculum.1.depth"),
    ([f"depth_curriculum={STAGES.replace('3}', '7}')}", "arch=trm_hier6"], "depth_curriculum.L_cycles=7: "),
    (["supervision_curriculum=[{until: 0.5, halt_max_steps: 0}]"], "supervision_curriculum.0.halt_max_steps=0: "),
    (["supervision_curriculum=[{until: 0.5, halt_max_steps: 1}, {until: 0.5, halt_max_steps: 2}]"],
     "supervision_curriculum: each stage must end later"),
    ([f"depth_curriculum={STAGES}", "arch=transformers_baseline"], "L_cycles has no effect with arch.name=.*baseline"),
])
def test_a_curriculum_that_cannot_be_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        pretrain_config(*overrides)
