"""The model in a checkpoint: restored from wherever it lies, with other options, with data."""
import json
import shutil
from pathlib import Path

import pytest
import torch

from config.restored import Restored
from evaluate import score
from helpers import TINY_ARCH, evaluate_config, pretrain_config, tiny_batch, write_tiny_dataset
from pretrain import train
from utils.distributed import World

QUICK = [*TINY_ARCH, "evaluators=[]", "global_batch_size=16", "epochs=1", "use_wandb=false", "ema=True", "ema_rate=0.5",
         "lr=1e-2", "lr_warmup_steps=0"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("restored")
    data = write_tiny_dataset(folder / "data")
    return train(pretrain_config(f"data_paths=[{data}]", f"checkpoint.path={folder / 'run'}", f"log_dir={folder}",
                                 *QUICK), World())


def restored_head(restored: Restored, **options) -> torch.nn.Module:
    """The head, for the data of its run."""
    data = restored.open_data(restored.test_paths, "test", World())
    return restored.head(data, World(), **options)


def logits(head: torch.nn.Module, batch: dict) -> torch.Tensor:
    """After one supervision step."""
    head.eval()
    with torch.no_grad():
        return head(carry=head.initial_carry(batch), batch=batch, return_keys=["logits"])[3]["logits"]


def test_an_option_set_otherwise_is_typed_and_used(run_dir):
    restored = Restored.read(run_dir, arch={"H_cycles": 4, "loss": {"halting_weight": 0.0}})
    head, as_trained = restored_head(restored), restored_head(Restored.read(run_dir))
    assert (head.model.config.H_cycles, head.config.halting_weight) == (4, 0.0)
    assert (as_trained.model.config.H_cycles, as_trained.config.halting_weight) == (2, 0.5)
    batch = tiny_batch()
    assert not torch.equal(logits(head, batch), logits(as_trained, batch))
    assert restored.settings["arch"]["H_cycles"] == 2  # what the run was told stays as it is


@pytest.mark.parametrize("arch, message", [
    ({"H_cycels": 4}, "unknown key arch.H_cycels; did you mean arch.H_cycles?"),
    ({"H_cycles": "many"}, "arch.H_cycles='many': Input should be a valid integer"),
    ({"H_cycles": 0}, "arch.H_cycles=0: Input should be greater than 0"),
    ({"seq_len": 4}, "arch.seq_len follows from the data and cannot be set"),
    ({"loss": {"halting_wait": 1.0}}, "unknown key arch.loss.halting_wait; did you mean arch.loss.halting_weight?"),
    ({"loss": "x"}, "arch.loss='x' maps no options to values"),
    ({"mlp_t": True}, "pos_encodings=rope has no effect with mlp_t=True"),
    ({"name": "recursive_reasoning.trm@Nothing"}, "recursive_reasoning.trm has no Nothing; it has TRM")])
def test_a_wrong_option_is_refused_by_its_name(run_dir, arch, message):
    with pytest.raises(ValueError) as error:
        _ = Restored.read(run_dir, arch=arch).arch
    assert message in str(error.value)


def test_evaluate_sets_options_otherwise_and_tells_them(run_dir, tmp_path, capsys):
    for file in ("best.ckpt", "config.yaml"):
        shutil.copy(run_dir / file, tmp_path / file)
    plain = score(evaluate_config(f"checkpoint={tmp_path}"), World())
    deeper = score(evaluate_config(f"checkpoint={tmp_path}", "arch.H_cycles=4", "arch.halt_max_steps=5",
                                   "arch.loss.halting_weight=0.0"), World())
    assert (plain["val/steps"], deeper["val/steps"]) == (3, 5) and plain["val/loss"] != deeper["val/loss"]
    told = {"halt_max_steps": 5, "arch.H_cycles": 4, "arch.loss.halting_weight": 0.0}
    folder = tmp_path / "evaluation_halt_max_steps_5_H_cycles_4_loss.halting_weight_0.0"
    assert json.loads((folder / "metrics.json").read_text()) == told | deeper
    assert "best.ckpt (averaged weights, halt_max_steps=5, arch.H_cycles=4, arch.loss.halting_weight=0.0) on " \
        in capsys.readouterr().out
    short = score(evaluate_config(f"checkpoint={tmp_path}", "halt_max_steps=5", "arch.H_cycles=4",
                                  "arch.loss.halting_weight=0.0"), World())
    assert short == deeper
    with pytest.raises(ValueError, match="halt_max_steps=5 is the short name of arch.halt_max_steps, which is 4"):
        evaluate_config("checkpoint=x", "halt_max_steps=5", "arch.halt_max_steps=4")
    with pytest.raises(ValueError, match="unknown key arch.H_cycels; did you mean arch.H_cycles"):
        score(evaluate_config(f"checkpoint={tmp_path}", "arch.H_cycels=4"), World())


def test_an_option_that_changes_the_shapes_of_weights_does_not_fit(run_dir):
    with pytest.raises(ValueError, match=r"does not fit this model: .* is \(.*\), expected \(.*\)"):
        restored_head(Restored.read(run_dir, arch={"hidden_size": 32}))


def test_16_bits_are_computed_on_a_cpu_only_where_they_are_asked_for(run_dir, capsys):
    restored = Restored.read(run_dir)
    restored.settings["arch"]["forward_dtype"] = "bfloat16"
    assert restored_head(restored).model.inner.dtype == torch.float32
    assert "notice: computing in float32" in capsys.readouterr().out
    asked = Restored.read(run_dir, arch={"forward_dtype": "bfloat16"})
    assert restored_head(asked).model.inner.dtype == torch.bfloat16
    assert "notice: computing" not in capsys.readouterr().out


def test_weights_are_averaged_or_stored_and_their_steps_are_known(run_dir, shared):
    restored = Restored.read(run_dir)
    assert (restored.steps, restored.kind_of_weights(), restored.kind_of_weights(use_ema=False)) == (
        4, "averaged", "stored")
    batch = tiny_batch()
    averaged, stored = (logits(restored_head(restored, use_ema=use_ema), batch) for use_ema in (True, False))
    assert not torch.equal(averaged, stored)
    assert restored.puzzle_names[:2] == ["<blank>", "puzzle1"]
    published = Restored.read(shared / "interop" / "sudoku4" / "checkpoint")
    assert (published.steps, published.kind_of_weights(), published.puzzle_names) == (550, "stored", None)
