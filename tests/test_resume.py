"""A run that is stopped and resumed is the same run, bit for bit; and what may differ when one goes on."""
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import pretrain
from config.resume import named_keys
from evaluators.rows import Rows
from helpers import (
    TINY_ARCH,
    assert_equal,
    assert_same_run,
    metric_lines,
    pretrain_config,
    resume,
    run_script,
    write_tiny_dataset,
)
from pretrain import train
from utils.checkpoint import read_checkpoint
from utils.distributed import World
from utils.preemption import STOPPED, Stopped

# 64 training examples an epoch in batches of 24: 16 steps in 6 epochs, batches that cross epochs, evaluations at steps
# 5, 10 and 16, lines of 3 steps
RUN = [*TINY_ARCH, "global_batch_size=24", "epochs=6", "eval_interval=2", "lr=1e-3", "lr_warmup_steps=4",
       "lr_min_ratio=0.1", "puzzle_emb_lr=1e-2", "log_interval=3", "arch.halt_exploration_prob=0.5", "use_wandb=false",
       "ema=True", "ema_rate=0.9", "evaluators=[]"]
MLP = ["arch.mlp_t=True", "arch.pos_encodings=none"]


@pytest.fixture
def data(tmp_path) -> Path:
    return write_tiny_dataset(tmp_path / "data")


@pytest.fixture
def three_batches(tmp_path) -> Path:
    """Data whose evaluation can be stopped, since it has batches to come."""
    return write_tiny_dataset(tmp_path / "more", test=[[1]] * 60)


def start(data: Path, name: str, *overrides: str) -> Path:
    config = pretrain_config(f"data_paths=[{data}]", f"checkpoint.path={data.parent / name}",
                             f"log_dir={data.parent / 'logs'}", *RUN, *overrides)
    return train(config, World())


@pytest.fixture
def stop_in(monkeypatch):
    """Makes the run get a signal, in a training step or in the evaluation after one."""
    real_step, real_evaluation = pretrain.train_step, Rows.step
    stops: dict[str, list[int]] = {"step": [], "evaluation": []}
    at = [0]

    def signal_once(kind: str) -> None:
        if at[0] in stops[kind]:
            stops[kind].remove(at[0])
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)

    def step(state, *rest):
        at[0] = state.step + 1
        signal_once("step")
        return real_step(state, *rest)

    def evaluation(*args, **kwargs):
        signal_once("evaluation")
        return real_evaluation(*args, **kwargs)

    monkeypatch.setattr(pretrain, "train_step", step)
    monkeypatch.setattr(Rows, "step", evaluation)

    def ask(**where: list[int]) -> None:
        at[0] = 0
        stops.update(where)

    return ask


@pytest.mark.parametrize("architecture", [
    [], MLP, ["optimizer=adamw", "arch.puzzle_emb_ndim=0"], ["optimizer=adam_atan2", "arch.no_ACT_continue=False"],
    ["checkpoint.monitor=val/accuracy", "checkpoint.mode=max", "optimizer=lion", "weight_decay=1.0"],
    ["optimizer=muon", "adamw_lr=1e-3", "grad_clip=0.5", "arch.loss.label_smoothing=0.1"],
    ["optimizer=adamw", "weight_decay_on=matrices", "arch.loss.supervision_decay=0.7",
     "depth_curriculum=[{until: 0.3, H_cycles: 1, L_cycles: 1}, {until: 0.6, H_cycles: 2, L_cycles: 2}]",
     "supervision_curriculum=[{until: 0.4, halt_max_steps: 1}]"],
    ["arch.wta_chains=3", "arch.initial_state_std=1.0", "arch.noise_scale=0.1"]])
def test_a_run_stopped_anywhere_and_resumed_is_the_same_run(data, stop_in, architecture):
    """In the middle of a line and of an epoch (2, 7), where an epoch ends (8), before an evaluation (10), at once again
    (11), and in the last step."""
    whole = start(data, "whole", *architecture)
    stop_in(step=[2, 7, 8, 10, 11, 16])
    with pytest.raises(Stopped, match="stopped after step 2 of 16"):
        start(data, "parts", *architecture)
    for step in (7, 8, 10, 11, 16):
        with pytest.raises(Stopped, match=f"stopped after step {step} of 16"):
            resume(data.parent / "parts")
    parts = resume(data.parent / "parts")
    assert_same_run(whole, parts)
    assert_equal(*({k: v for k, v in read_checkpoint(run / "best.ckpt").items() if k not in ("config", "ranks")}
                   for run in (whole, parts)))
    assert {f.name for f in whole.glob("*.ckpt")} <= {f.name for f in parts.glob("*.ckpt")}
    assert not (parts / "superseded").exists() and (parts / "train_vs_val_loss.png").is_file()
    summaries = [line.partition(" run=")[0] for line in (data.parent / "logs" / "pretrain.log").read_text().splitlines()
                 if line.startswith("EPOCH_SUMMARY")]
    assert summaries[:3] == summaries[3:]


def test_an_evaluation_that_was_stopped_is_made_up_for(three_batches, stop_in):
    data = three_batches
    whole = start(data, "whole")
    stop_in(evaluation=[5, 16])
    with pytest.raises(Stopped, match="stopped after step 5 of 16"):
        start(data, "parts")
    assert not [line for line in metric_lines(data.parent / "parts") if "val/loss" in line]
    with pytest.raises(Stopped):
        resume(data.parent / "parts")
    assert_same_run(whole, resume(data.parent / "parts"))


def test_a_stop_in_an_evaluation_without_a_checkpoint_of_its_own_is_saved(three_batches, stop_in):
    """As trained, not as averaged for the evaluation."""
    data = three_batches
    only_last = ["checkpoint_every_eval=False", "checkpoint.monitor=null"]
    whole = start(data, "whole", *only_last)
    stop_in(evaluation=[5])
    with pytest.raises(Stopped) as stopped:
        start(data, "parts", *only_last)
    assert stopped.value.saved and read_checkpoint(data.parent / "parts" / "step_00000005.ckpt")["step"] == 5
    assert_same_run(whole, resume(data.parent / "parts"))


def test_a_stop_in_the_evaluation_before_the_first_step_is_made_up_for(three_batches, stop_in):
    data = three_batches
    given = f"load_checkpoint={start(data, 'given', 'epochs=2')}"
    whole = start(data, "whole", given)
    stop_in(evaluation=[0])
    with pytest.raises(Stopped):
        start(data, "parts", given)
    assert_same_run(whole, resume(data.parent / "parts"))


def test_what_is_not_written_is_not_called_saved(three_batches, stop_in):
    data = three_batches
    stop_in(evaluation=[5])
    with pytest.raises(Stopped) as stopped:
        start(data, "run", "checkpoint.enabled=False")
    assert not stopped.value.saved and not list((data.parent / "run").glob("*.ckpt"))


def test_an_evaluation_in_the_log_is_not_made_again(data, monkeypatch):
    run = start(data, "run")
    before = metric_lines(run)
    monkeypatch.setattr(pretrain, "evaluate", None)  # calling it would fail
    resume(run)
    assert metric_lines(run) == before


def test_going_back_sets_later_files_and_lines_aside_and_loses_none(data):
    run = start(data, "run")
    whole = shutil.copytree(run, data.parent / "whole")
    with open(run / "metrics.jsonl", "a") as f:
        f.write('{"step": 17, "ep')  # a line cut off by a kill
    resume(run, "checkpoint.resume_from=step_00000005.ckpt")
    assert_same_run(whole, run)
    aside = run / "superseded" / "1"
    assert {f.name for f in aside.iterdir()} == {"metrics.jsonl", "best.ckpt", "step_00000010.ckpt",
                                                 "step_00000016.ckpt"}
    kept = [line for line in (whole / "metrics.jsonl").read_text().splitlines() if json.loads(line)["step"] > 5]
    assert (aside / "metrics.jsonl").read_text().splitlines() == [*kept, '{"step": 17, "ep']
    assert read_checkpoint(run / "best.ckpt")["step"] == read_checkpoint(whole / "best.ckpt")["step"]


def test_the_best_of_before_comes_back_when_the_run_goes_back(data):
    """Step 5 was the best when step 10 was saved; the later best goes, step 5 is best again."""
    run = start(data, "run", "lr=1e-4", "epochs=4", "eval_interval=2", "checkpoint.monitor=val/steps")
    assert read_checkpoint(run / "best.ckpt")["step"] == 5  # all take 3 steps: ties keep the earlier
    (run / "best.ckpt").unlink()
    resume(run, "checkpoint.resume_from=step_00000010.ckpt", "epochs=6")
    assert read_checkpoint(run / "best.ckpt")["step"] == 5


def test_more_epochs_prolong_a_run_and_what_changes_is_said(data, capsys):
    run = start(data, "run", "epochs=4", "checkpoint.monitor=val/accuracy", "checkpoint.mode=max")
    capsys.readouterr()
    resume(run, "epochs=6", "lr=5e-4", "weight_decay=0.7")
    out = capsys.readouterr().out
    assert f"going on from step 10 ({run}/step_00000010.ckpt)" in out
    assert "notice: epochs=6 from here on (was 4)" in out and "notice: lr=0.0005 from here on (was 0.001)" in out
    last = read_checkpoint(run / "step_00000016.ckpt")
    assert last["config"]["checkpoint"]["monitor"] == "val/accuracy" and last["config"]["global_batch_size"] == 24
    group = last["optimizer_states"][1]["param_groups"][0]
    assert group["lr"] < 5e-4 and group["weight_decay"] == 0.7
    assert "the run is complete" not in out
    resume(run)
    assert "notice: the run is complete; more epochs prolong it" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [[], ["optimizer=muon", "lr=5e-4", "adamw_lr=2e-3", "puzzle_emb_lr=3e-2"]])
def test_a_run_of_a_version_that_kept_no_peak_rates_goes_on_alike_and_at_the_rates_of_its_config(data, changes):
    run = start(data, "run", "optimizer=muon", "adamw_lr=1e-3", "epochs=4")
    older = shutil.copytree(run, data.parent / "older")
    payload = torch.load(older / "step_00000010.ckpt", weights_only=True)
    for optimizer in payload["optimizer_states"]:
        for group in optimizer["param_groups"]:
            del group["initial_lr"]
    torch.save(payload, older / "step_00000010.ckpt")
    resumed = [read_checkpoint(resume(folder, "epochs=6", *changes) / "step_00000016.ckpt")
               for folder in (run, older)]
    assert_equal(*[payload["model_state"] for payload in resumed])
    rates = [float(change.partition("=")[2]) for change in changes[1:]] or [1e-3, 1e-3, 1e-2]
    peaks = [optimizer["param_groups"][0]["initial_lr"] for optimizer in resumed[1]["optimizer_states"]]
    assert peaks == [rates[2], rates[0], rates[1]]  # of the puzzle table, the matrices, and what AdamW trains
    assert [o["param_groups"][0]["lr"] for o in resumed[1]["optimizer_states"]] == pytest.approx(
        [0.1 * peak for peak in peaks])


def test_a_run_goes_on_in_another_directory_and_leaves_the_first_as_it_was(data):
    run = start(data, "run")
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    fork = resume(data.parent / "fork", f"checkpoint.resume_from={run / 'step_00000010.ckpt'}")
    assert fork == data.parent / "fork" and {f.name: f.read_bytes() for f in run.iterdir()} == before
    assert_equal(read_checkpoint(fork / "step_00000016.ckpt")["model_state"],
                 read_checkpoint(run / "step_00000016.ckpt")["model_state"])
    with pytest.raises(ValueError, match="fork holds a run already"):
        resume(data.parent / "fork", f"checkpoint.resume_from={run / 'step_00000010.ckpt'}")


@pytest.mark.parametrize("overrides, message", [
    (["arch.hidden_size=32"],
     "step_00000016.ckpt cannot go on with arch.hidden_size=32 .was 16.*start a new run, under"),
    (["global_batch_size=12", "seed=3"], "global_batch_size=12 .was 24., seed=3 .was 0."),
    (["ema=False"], "ema=False .was True."), (["optimizer=adamw"], "optimizer=adamw .was lion."),
    (["data_paths=[a,b]"], "data_paths="), (["arch=trm"], "arch.hidden_size=512 .was 16."),
])
def test_what_would_be_another_run_is_refused(data, overrides, message):
    run = start(data, "run")
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(ValueError, match=message):
        resume(run, *overrides)
    assert before == {file.name: file.read_bytes() for file in run.iterdir()}


def test_a_data_set_may_move_but_not_change(data):
    run = start(data, "run", "epochs=4")
    moved = data.rename(data.parent / "moved")
    resume(run, f"data_paths=[{moved}]", "epochs=5")
    labels = np.load(moved / "train" / "all__labels.npy")
    labels[0, 0] = labels[0, 0] % 4 + 1
    np.save(moved / "train" / "all__labels.npy", labels)
    with pytest.raises(ValueError, match=f"the contents of {moved} differ from what .* restore the data set"):
        resume(run)


def test_what_is_no_run_is_said_with_the_runs_there_are(data, monkeypatch):
    monkeypatch.chdir(data.parent)
    start(data, "checkpoints/project/one", "epochs=2")
    with pytest.raises(ValueError, match="nothing holds no checkpoint .*; runs there are: checkpoints/project/one"):
        resume(Path("nothing"))
    with pytest.raises(ValueError, match="must know its run: .*runs there are: checkpoints/project/one"):
        resume(Path("x"), "checkpoint.path=null", "checkpoint.resume=auto")
    with pytest.raises(ValueError, match="resume_from=best.ckpt: no such file, nor is there nothing/best.ckpt"):
        resume(Path("nothing"), "checkpoint.resume_from=best.ckpt")
    torch.save({"model_state": {}}, "weights.ckpt")
    with pytest.raises(ValueError, match="weights.ckpt holds weights, but not the state of a run.*load_checkpoint="):
        resume(Path("nothing"), "checkpoint.resume_from=weights.ckpt")
    assert not Path("nothing").exists()


def test_auto_begins_where_there_is_nothing_and_goes_on_where_there_is(data):
    run = data.parent / "run"
    words = ["checkpoint.resume=auto", f"data_paths=[{data}]", f"log_dir={data.parent / 'logs'}", *RUN]
    resume(run, *words, "epochs=4")
    first = metric_lines(run)
    resume(run, *words)
    assert metric_lines(run)[:len(first)] == first and metric_lines(run)[-1]["step"] == 16
    for file in run.glob("step_*"):
        file.write_bytes(b"")
    resume(run, *words)
    assert len(list((run / "superseded" / "1").glob("step_*"))) == 3
    assert_equal([line["step"] for line in metric_lines(run)], [3, 5, 6, 9, 10, 12, 15, 16, 16])


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "remove"])
def test_a_damaged_newest_file_is_named_and_the_one_before_is_taken(data, capsys, harm):
    run = start(data, "run")
    whole = shutil.copytree(run, data.parent / "whole")
    newest = run / "step_00000016.ckpt"
    contents = newest.read_bytes()
    middle = len(contents) // 2
    if harm == "remove":
        newest.unlink()
    else:
        newest.write_bytes({"truncate": contents[:middle], "empty": b"",
                            "flip": contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1:]}[harm])
    resume(run)
    out = capsys.readouterr().out
    named = "latest.txt names step_00000016.ckpt, and the newest checkpoint is step_00000010.ckpt" if harm == "remove" \
        else r"step_00000016.ckpt cannot be read as a checkpoint \(.*\); one of an earlier step may be whole; looking"
    assert re.search(f"warning: .*{named}", out) and "going on from step 10" in out
    assert_same_run(whole, run)


def test_a_stale_latest_is_said_and_the_newest_taken(data, capsys):
    run = start(data, "run")
    (run / "latest.txt").write_text("step_00000005.ckpt\n")
    resume(run)
    out = capsys.readouterr().out
    assert "latest.txt names step_00000005.ckpt, and the newest checkpoint is step_00000016.ckpt" in out
    assert "going on from step 16" in out and (run / "latest.txt").read_text() == "step_00000016.ckpt\n"


def test_keys_that_a_command_line_names(tmp_path):
    assert named_keys(["lr=1", "+run_name=x", "arch.loss.loss_type=y", "experiment=null"]) == [
        "lr", "run_name", "arch.loss.loss_type", "experiment"][:3]
    keys = named_keys(["experiment=sudoku_att", "epochs=3"])
    assert {"epochs", "arch.mlp_t", "arch.L_cycles", "lr", "data_paths"} <= set(keys) and "seed" not in keys
    assert {"arch.hidden_size", "arch.loss.name"} <= set(named_keys(["arch=trm"]))
    assert {"arch.H_layers", "arch.puzzle_emb_len", "optimizer"} <= set(named_keys(["experiment=hrm_sudoku"]))
    assert set(named_keys(["ablation=no_ema"])) == {"ema"}
    assert not [key for key in named_keys(["experiment=ablate_sudoku4"]) if key.startswith("hydra")]


def test_the_printed_commands_work(tmp_path):
    """`monitor` stays what it was; `resume_from=best.ckpt` is looked for in the run's directory."""
    write_tiny_dataset(tmp_path / "data" / "arc1concept-aug-1000")
    small = [*TINY_ARCH, "global_batch_size=16", "epochs=2", "eval_interval=1", "use_wandb=false", "evaluators=[]"]
    run = tmp_path / "run_01"

    def pretrain(*overrides: str):
        done = run_script("pretrain.py", f"checkpoint.path={run}", *overrides, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    pretrain("checkpoint.monitor=val/accuracy", "checkpoint.mode=max", *small)
    assert "going on from step 8" in pretrain("checkpoint.resume=true")
    best = read_checkpoint(run / "best.ckpt")["step"]
    out = pretrain("checkpoint.resume_from=best.ckpt", "epochs=3")
    assert f"going on from step {best} ({run}/best.ckpt)" in out and "notice: epochs=3 from here on (was 2)" in out
    assert read_checkpoint(run / "step_00000012.ckpt")["config"]["checkpoint"]["monitor"] == "val/accuracy"


ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def test_two_processes_stop_and_go_on_together_bit_for_bit(tmp_path):
    write_tiny_dataset(tmp_path / "data")
    common = ["data_paths=[data]", *RUN, "optimizer=adamw"]
    done = run_script("pretrain.py", *common, "checkpoint.path=whole", ranks=2, cwd=tmp_path, **ONE_THREAD)
    assert done.returncode == 0, done.stderr
    for fault, status in (("TERM:7", STOPPED), ("", 0)):
        done = run_script("tests/faulty_pretrain.py", "checkpoint.path=parts", "checkpoint.resume=auto", *common,
                          ranks=2, cwd=tmp_path, FAULT_SIGNAL=fault, **ONE_THREAD)
        assert done.returncode == status, done.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_every_kind_of_checkpoint_goes_on_on_another_number_of_processes(data):
    """Written at an evaluation, on time, at a signal, and best.ckpt; the same run up to rounding."""
    whole = start(data, "whole", "optimizer=adamw")
    end, kinds = read_checkpoint(whole / "step_00000016.ckpt"), [10, 7, 12, "best"]
    for ranks, others in ((1, [2]), (2, [1, 3])):
        done = run_script("tests/faulty_pretrain.py", "data_paths=[data]", *RUN, "optimizer=adamw",
                          "checkpoint.every_minutes=1e-9", f"checkpoint.path=of{ranks}", ranks=ranks, cwd=data.parent,
                          FAULT_SIGNAL="TERM:12", **ONE_THREAD)
        assert "stopped after step 12 of 16; go on" in done.stderr
        files = [f"of{ranks}/{'best' if kind == 'best' else f'step_{kind:08d}'}.ckpt" for kind in kinds]
        for count in others:
            done = run_script("pretrain.py", "-m", f"checkpoint.resume_from={','.join(files)}",
                              f"checkpoint.path='on{count}/${{checkpoint.resume_from}}'", ranks=count, cwd=data.parent,
                              seconds=120, **ONE_THREAD)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count(f"notice: {ranks} processes wrote the checkpoint, {count} go on") == len(kinds)
            for file in files:
                assert_same_end(end, metric_lines(whole), data.parent / f"on{count}" / file)


def assert_same_end(end: dict, lines: list[dict], fork: Path) -> None:
    """A fork's last checkpoint and its metric lines are those of the whole run, up to rounding."""
    for name, value in end["model_state"].items():
        assert torch.allclose(value, read_checkpoint(fork / "step_00000016.ckpt")["model_state"][name], atol=1e-4), name
    forked = metric_lines(fork)
    for one, other in zip(lines[-len(forked):], forked, strict=True):
        assert one.keys() == other.keys()
        assert all(one[n] == pytest.approx(other[n], abs=1e-4) for n in one if not n.endswith("_per_s"))


@pytest.mark.parametrize("began_on_amx", [True, False])
def test_a_run_goes_on_in_the_dtype_that_it_began_in(data, monkeypatch, began_on_amx):
    """`auto` is bfloat16 on a CPU with AMX. The run that moves to a CPU of the other sort is the one that stays."""
    def on(amx: bool) -> None:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)

    for name in ("stays", "moves"):
        on(began_on_amx)
        with pytest.raises(Stopped):
            start(data, name, "arch.forward_dtype=auto", "max_steps=4")
        on(began_on_amx == (name == "stays"))
        with pytest.raises(Stopped):
            resume(data.parent / name, "arch.forward_dtype=auto", "max_steps=7")
        run = resume(data.parent / name, "arch.forward_dtype=auto")  # from a checkpoint that names the dtype
    assert_same_run(data.parent / "stays", run)
    latent = read_checkpoint(run / "step_00000016.ckpt")["carry"]["latents"][0]
    assert latent.dtype == (torch.bfloat16 if began_on_amx else torch.float32)
