"""The training run: what it leaves, what it depends on and what not, and the published command lines."""
import json
import math
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from config.schema import PretrainConfig
from dataset import build_arc_dataset
from documents import printed
from helpers import (
    ROOT,
    TINY_ARCH,
    first_state,
    metric_lines,
    pretrain_config,
    random_arc_task,
    resume,
    run_process,
    run_script,
    write_arc_source,
    write_tiny_dataset,
)
from models.train_state import train_step
from pretrain import load_data, train
from utils.checkpoint import read_checkpoint, weights_of
from utils.distributed import World

# 64 training examples an epoch in batches of 16: four steps
BASICS = [*TINY_ARCH, "global_batch_size=16", "epochs=3", "eval_interval=1", "lr=1e-3", "lr_warmup_steps=0",
          "puzzle_emb_lr=1e-2", "log_interval=2", "use_wandb=false", "evaluators=[]"]


@pytest.fixture
def data(tmp_path) -> Path:
    return write_tiny_dataset(tmp_path / "data")


def config_of(data: Path, run: str = "run", *overrides: str) -> PretrainConfig:
    return pretrain_config(f"data_paths=[{data}]", f"checkpoint.path={data.parent / run}",
                           f"log_dir={data.parent / 'logs'}", *BASICS, *overrides)


def run(data: Path, name: str = "run", *overrides: str) -> Path:
    return train(config_of(data, name, *overrides), World())


def spoil(data: Path, split: str, field: str, change) -> None:
    """Replace an array of the data set by what `change` makes of it."""
    file = data / split / f"all__{field}.npy"
    np.save(file, change(np.load(file)))


def last_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    payload = read_checkpoint(run_dir / (run_dir / "latest.txt").read_text().strip())
    return payload["model_state"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


SLOW_TO_IMPORT = ["torch._dynamo", "sympy", "matplotlib", "wandb", "pandas", "scipy", "huggingface_hub"]


@pytest.mark.parametrize("optimizer", ["lion", "muon"])
def test_the_first_step_comes_without_the_slow_imports(data, optimizer):
    """The compiler, plots and services are imported when they are used: they take longer than the rest of the start."""
    words = [f"data_paths=[{data}]", *BASICS, "max_steps=1", f"optimizer={optimizer}", "compile=False",
             *(["adamw_lr=1e-3"] if optimizer == "muon" else [])]
    code = ("import runpy, sys\ntry:\n    runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit:\n"
            f"    print('imported:', *[name for name in {SLOW_TO_IMPORT} if name in sys.modules])")
    command = ["-c", f"import sys; sys.argv[:] = {[str(ROOT / 'pretrain.py'), *words]}\n{code}"]
    done = run_process([os.sys.executable, *command], data.parent, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    assert "stopped after step 1" in done.stderr and done.stdout.splitlines()[-1] == "imported:", done


@pytest.mark.curves
def test_a_run_leaves_its_config_metrics_checkpoints_and_picture(data):
    run_dir = run(data)
    assert {file.name for file in run_dir.iterdir()} == {
        ".lock", "config.yaml", "metrics.jsonl", "step_00000004.ckpt", "step_00000008.ckpt", "step_00000012.ckpt",
        "latest.txt", "best.ckpt", "train_vs_val_loss.png"}
    assert (run_dir / "latest.txt").read_text() == "step_00000012.ckpt\n"
    saved = PretrainConfig.parse(OmegaConf.load(run_dir / "config.yaml"))
    assert saved == config_of(data).model_copy(update={"project_name": "data-trm", "run_name": saved.run_name})
    payload = read_checkpoint(run_dir / "step_00000008.ckpt")
    assert payload["step"] == 8 and payload["epoch"] == 2 and payload["config"]["lr"] == 1e-3
    assert list(payload["data_fingerprints"]) == [str(data)]


def test_metrics_are_lines_of_flat_names_for_every_interval_and_evaluation(data):
    lines = metric_lines(run(data, "run", "log_interval=5", "ema=True"))
    train_lines = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in train_lines] == [5, 10, 12]
    assert {"train/lm_loss", "train/q_halt_loss", "train/lr", "train/examples_per_s"} <= train_lines[0].keys()
    val_lines = [line for line in lines if "val/loss" in line]
    assert [(line["step"], line["epoch"]) for line in val_lines] == [(4, 1), (8, 2), (12, 3)]
    for name in ("loss", "lm_loss", "q_halt_loss", "accuracy", "exact_accuracy", "q_halt_accuracy", "steps"):
        assert f"val/{name}" in val_lines[0] and f"val/all/{name}" not in val_lines[0]  # of one set, it would be twice
    assert val_lines[0]["val/steps"] == 3
    assert all(np.isfinite(value) for line in lines for value in line.values())


def test_a_line_holds_the_means_of_the_steps_since_the_last(data):
    every = metric_lines(run(data, "every", "log_interval=1"))
    some = metric_lines(run(data, "some", "log_interval=5"))
    loss_at = {line["step"]: line["train/loss"] for line in every if "train/loss" in line}
    for line in (line for line in some if "train/loss" in line):
        window = [loss_at[step] for step in range(1 + (line["step"] - 1) // 5 * 5, line["step"] + 1)]
        assert line["train/loss"] == pytest.approx(np.mean(window), rel=1e-6)


def test_a_run_is_a_function_of_its_seed_and_not_of_how_often_it_is_looked_at(data):
    first = last_weights(run(data, "first"))
    assert same(first, last_weights(run(data, "again")))
    assert same(first, last_weights(run(data, "rarely", "eval_interval=3", "log_interval=7", "skip_sanity_checks=True",
                                        "checkpoint.monitor=null")))
    assert not same(first, last_weights(run(data, "other", "seed=1")))


@pytest.mark.parametrize("overrides, expected", [
    (["epochs=5", "eval_interval=2"], [8, 16, 20]), (["epochs=5", "eval_interval=null"], [20]),
    (["epochs=4", "eval_interval=1", "min_eval_interval=2"], [12, 16]), (["epochs=2", "eval_interval=7"], [8])])
def test_evaluations_come_at_intervals_of_epochs_and_at_the_end(data, overrides, expected):
    lines = metric_lines(run(data, "run", *overrides))
    assert [line["step"] for line in lines if "val/loss" in line] == expected


def test_the_checkpoint_of_an_evaluation_that_fails_is_there(data, tmp_path, monkeypatch):
    write_evaluator(tmp_path, monkeypatch, "broken_evaluator",
                    "    def begin_eval(self): raise ValueError('no evaluation today')")
    with pytest.raises(ValueError, match="no evaluation today"):
        run(data, "run", "evaluators=[{name: broken_evaluator@Own}]")
    assert (tmp_path / "run" / "latest.txt").read_text() == "step_00000004.ckpt\n"
    assert read_checkpoint(tmp_path / "run" / "step_00000004.ckpt")["step"] == 4


def test_a_data_set_that_is_not_arc_needs_no_evaluators_and_says_so_to_who_asks_for_arcs(data):
    assert BASICS[-1] == "evaluators=[]"
    lines = [metric_lines(train(pretrain_config(
        f"data_paths=[{data}]", f"checkpoint.path={data.parent / name}", f"log_dir={data.parent}", "epochs=1", *basics),
        World()))[-1] for name, basics in (("default", BASICS[:-1]), ("none", BASICS))]
    assert lines[0] == lines[1] and not any(name.startswith("eval/") for name in lines[0])
    done = run_script("pretrain.py", "data_paths=[data]", *BASICS[:-1], "evaluators=[{name: arc@ARC}]", "run_name=x",
                      cwd=data.parent)
    assert done.returncode == 2
    assert done.stderr == ("error: arc@ARC scores ARC data sets only, and data/test_puzzles.json is missing; use "
                           "evaluators=[] for other puzzles, or build the data set again\n")
    assert not (data.parent / "checkpoints").exists()


@pytest.mark.parametrize("monitor, mode, better", [("val/accuracy", "max", max), ("val/loss", "min", min),
                                                   ("val/q_halt_loss", "max", max)])
def test_best_is_the_checkpoint_with_the_best_monitored_metric(data, monitor, mode, better):
    run_dir = run(data, "run", f"checkpoint.monitor={monitor}", f"checkpoint.mode={mode}", "lr=3e-2")
    values = {line["step"]: line[monitor] for line in metric_lines(run_dir) if monitor in line}
    best_step = better(values, key=values.get)
    assert read_checkpoint(run_dir / "best.ckpt")["step"] == best_step


def write_evaluator(folder: Path, monkeypatch, name: str, body: str) -> None:
    """A module `name` with an evaluator `Own` of these lines, as a user's."""
    (folder / f"{name}.py").write_text(
        "class Own:\n    required_outputs = set()\n    def __init__(self, data_path, eval_metadata): pass\n"
        f"    def update_batch(self, batch, outputs): pass\n{body}\n")
    monkeypatch.syspath_prepend(folder)
    import evaluators
    monkeypatch.setattr(evaluators, "__path__", [*evaluators.__path__, str(folder)])


@pytest.mark.parametrize("monitor, nearest", [
    ("val/acuracy", "val/accuracy"), ("val/al1/loss", "val/all1/loss"), ("val/lss", "val/loss"),
    ("eval/maze/two/solvd", "eval/maze/two/solved"), ("eval/solved", "eval/maze/two/solved")])
def test_a_monitor_that_names_no_metric_is_refused_before_the_first_step(data, monitor, nearest):
    """Of two data sets, whose sets are `all` and `all1`, with an evaluator each."""
    for seed, name in enumerate(("one", "two")):
        write_tiny_dataset(data.parent / name, seq_len=9, vocab_size=6, seed=seed)
    both = f"data_paths=[{data.parent / 'one'},{data.parent / 'two'}]"
    with pytest.raises(ValueError, match=f"checkpoint.monitor={monitor} is no metric of this run; did you mean "
                                         f"{nearest}. There are eval/maze/one/.*, val/q_halt_loss, val/steps"):
        run(data, "run", both, "evaluators=[{name: maze@Maze}]", f"checkpoint.monitor={monitor}")
    assert not (data.parent / "run").exists()
    assert (run(data, "good", both, "evaluators=[{name: maze@Maze}]", f"checkpoint.monitor={nearest}", "epochs=1",
                "checkpoint.mode=max") / "best.ckpt").is_file()


def test_what_an_evaluator_of_the_user_finds_can_be_monitored_and_a_metric_that_fails_to_come_ends_no_run(
        data, monkeypatch, capsys):
    write_evaluator(data.parent, monkeypatch, "moody_evaluator", """
    evaluations = 0
    def begin_eval(self): self.evaluations += 1
    def result(self, save_path, rank, world_size, group): return {"good": 1.0} if self.evaluations == 2 else {}""")
    run_dir = run(data, "run", "evaluators=[{name: moody_evaluator@Own}]", "checkpoint.mode=max",
                  "checkpoint.monitor=eval/moody_evaluator/good")
    assert read_checkpoint(run_dir / "best.ckpt")["step"] == 8 and metric_lines(run_dir)[-1]["step"] == 12
    assert capsys.readouterr().out.count("has no eval/moody_evaluator/good, so best.ckpt is as it was") == 2
    with pytest.raises(ValueError, match="eval/moody/good is no metric of this run"):
        run(data, "other", "evaluators=[{name: moody_evaluator@Own}]", "checkpoint.monitor=eval/moody/good")


def test_a_metric_that_is_no_number_is_null_in_the_log_and_never_the_best(data, monkeypatch, capsys):
    write_evaluator(data.parent, monkeypatch, "failing_evaluator", """
    values = [0.5, float("nan"), 0.4]
    def begin_eval(self): pass
    def result(self, save_path, rank, world_size, group): return {"x": self.values.pop(0)}""")
    run_dir = run(data, "run", "evaluators=[{name: failing_evaluator@Own}]", "checkpoint.mode=max",
                  "checkpoint.monitor=eval/failing_evaluator/x")
    text = (run_dir / "metrics.jsonl").read_text()
    assert "NaN" not in text and text.count('"eval/failing_evaluator/x": null') == 1
    assert read_checkpoint(run_dir / "best.ckpt")["step"] == 4
    assert "eval/failing_evaluator/x is nan at step 8, which is never the best" in capsys.readouterr().out


def test_without_a_monitor_there_is_no_best_and_without_checkpoints_the_picture_is_beside_the_log(data):
    assert not (run(data, "unmonitored", "checkpoint.monitor=null") / "best.ckpt").exists()
    run_dir = run(data, "none", "checkpoint.enabled=False")
    assert {file.name for file in run_dir.iterdir()} == {".lock", "config.yaml", "metrics.jsonl"}
    assert (data.parent / "logs" / "train_vs_val_loss.png").is_file()
    only_last = run(data, "last", "checkpoint_every_eval=False")
    assert [file.name for file in only_last.glob("step_*")] == ["step_00000012.ckpt"]


def test_a_run_s_end_tells_where_another_metric_holds_another_step_for_the_best(data, monkeypatch):
    write_evaluator(data.parent, monkeypatch, "solving_evaluator", """
    values = [0.1, 0.9, 0.5]
    def begin_eval(self): pass
    def result(self, save_path, rank, world_size, group): return {"solved": self.values.pop(0)}""")
    run_dir = run(data, "run", "evaluators=[{name: solving_evaluator@Own}]", "checkpoint.monitor=val/steps")
    last = (data.parent / "logs" / "pretrain.log").read_text().splitlines()[-1].partition(" run=")[0]
    assert last == (
        "notice: best.ckpt is of step 4, the best by checkpoint.monitor=val/steps, but eval/solving_evaluator/solved "
        f"is 0.1 there and 0.9 at step 8; score that step with evaluate.py checkpoint={run_dir}/step_00000008.ckpt, "
        "and choose by that metric with checkpoint.monitor=eval/solving_evaluator/solved checkpoint.mode=max")


def test_a_directory_that_holds_a_run_is_not_written_to(data):
    before = {file.name: file.read_bytes() for file in run(data).iterdir()}
    with pytest.raises(ValueError, match="holds a run already; go on with it by checkpoint.resume=true, choose"):
        run(data)
    assert before == {file.name: file.read_bytes() for file in (data.parent / "run").iterdir()}


def test_runs_without_a_name_get_different_directories(data, monkeypatch):
    monkeypatch.chdir(data.parent)
    directories = {run(data, "unused", "checkpoint.path=null", "epochs=1") for _ in range(2)}
    assert len(directories) == 2 and all(d.parts[:2] == ("checkpoints", "data-trm") for d in directories)


def test_a_run_starts_from_given_weights(data, capsys):
    first = run(data)
    config = config_of(data, "second", f"load_checkpoint={first / 'best.ckpt'}")
    state = first_state(config)
    assert same(state.head.state_dict(), read_checkpoint(first / "best.ckpt")["model_state"])
    assert "notice" not in capsys.readouterr().out


def test_given_weights_are_evaluated_before_the_first_step_and_compete_for_the_best(data):
    first = run(data, "first", "ema=True", "ema_rate=0.5")
    expected = metric_lines(first)[-1]
    words = [f"load_checkpoint={first / 'step_00000012.ckpt'}", "ema=True", "checkpoint.monitor=val/steps"]
    second = run(data, "second", *words)  # all take 3 steps: ties keep the earlier
    (at_start, *others) = [line for line in metric_lines(second) if "val/loss" in line]
    assert at_start == expected | {"step": 0, "epoch": 0} and [line["step"] for line in others] == [4, 8, 12]
    best = read_checkpoint(second / "best.ckpt")
    given = weights_of(read_checkpoint(first / "step_00000012.ckpt"), use_ema=True)
    assert best["step"] == 0 and same(best["model_state"], given)
    summaries = (data.parent / "logs" / "pretrain.log").read_text()
    assert summaries.count("EPOCH_SUMMARY") == 6 and "nan" not in summaries
    assert not (run(data, "third", *words, "checkpoint_every_eval=False") / "step_00000000.ckpt").exists()


def test_a_run_whose_monitor_does_not_improve_ends_with_the_best_kept_and_a_larger_patience_goes_on(data, capsys):
    words = [f"load_checkpoint={run(data, 'first')}", "checkpoint.monitor=val/steps", "epochs=9", "log_interval=4"]
    run_dir = run(data, "run", *words, "early_stop_patience=2")  # all take 3 steps: ties do not improve
    assert [line["step"] for line in metric_lines(run_dir) if "val/loss" in line] == [0, 4, 8]
    told = capsys.readouterr().out
    assert "notice: the run ends at step 8: val/steps has not improved since step 0 (3), for 2 evaluations" in told
    assert read_checkpoint(run_dir / "best.ckpt")["step"] == 0 and (run_dir / "train_vs_val_loss.png").is_file()
    assert (run_dir / "latest.txt").read_text() == "step_00000008.ckpt\n"
    before = metric_lines(run_dir)
    resume(run_dir)  # ends at once again
    assert metric_lines(run_dir) == before
    resume(run_dir, "early_stop_patience=4")
    assert metric_lines(run_dir)[-1]["step"] == 16 and "since step 0" in capsys.readouterr().out
    with pytest.raises(ValueError, match="early_stop_patience=2 keeps the best checkpoint: it needs a "):
        config_of(data, "x", "early_stop_patience=2", "checkpoint.monitor=null")


def test_given_weights_of_another_architecture_are_told_even_where_they_fit(data, capsys):
    first = run(data)
    start = f"load_checkpoint={first / 'best.ckpt'}"
    config = config_of(data, "second", start, "arch.pos_encodings=none", "arch.H_cycles=1")
    first_state(config)
    told = f"notice: {first / 'best.ckpt'} was trained with other settings: arch.H_cycles=2 there and 1 here, " \
        "arch.pos_encodings=rope there and none here\n"
    assert told in capsys.readouterr().out
    config = config_of(data, "third", start, "arch.hidden_size=32")
    with pytest.raises(ValueError, match=r"model.inner.H_init is \(16,\), expected \(32,\)"):
        first_state(config)
    assert "arch.hidden_size=16 there and 32 here" in capsys.readouterr().out


def test_weights_for_other_puzzles_begin_with_the_mean_of_the_table(data):
    first = run(data)
    other = write_tiny_dataset(data.parent / "other", train=[[1]] * 32)
    (other / "identifiers.json").write_text(json.dumps(["<blank>", *(f"other{i}" for i in range(32))]))
    config = config_of(other, "second", f"load_checkpoint={first / 'best.ckpt'}")
    state = first_state(config)
    old = read_checkpoint(first / "best.ckpt")["model_state"]["model.inner.puzzle_emb.weights"]
    assert state.head.puzzle_embedding.weights.shape[0] == 33 != len(old) and old.any()
    assert torch.allclose(state.head.puzzle_embedding.weights[1:], old.mean(0).expand(32, -1))


def test_frozen_weights_leave_all_but_the_puzzle_embeddings(data):
    first = run(data)
    second = run(data, "second", f"load_checkpoint={first / 'best.ckpt'}", "freeze_weights=True", "ema=True")
    before, after = read_checkpoint(first / "best.ckpt")["model_state"], last_weights(second)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["model.inner.puzzle_emb.weights"]


@pytest.mark.parametrize("overrides", [
    ["optimizer=lion", "weight_decay=1.0"], ["optimizer=adamw", "arch.loss.loss_type=softmax_cross_entropy"],
    ["optimizer=adam_atan2", "arch.no_ACT_continue=False"], ["optimizer=muon", "adamw_lr=3e-3", "grad_clip=1"],
    ["arch.mlp_t=True", "arch.pos_encodings=none"],
    ["arch.puzzle_emb_ndim=0", "arch.puzzle_emb_len=0", "arch.pos_encodings=learned"]])
def test_every_choice_learns_to_copy(data, overrides):
    data = write_tiny_dataset(data.parent / "larger", train=[[1]] * 400, identifiers=False)
    for split in ("train", "test"):
        spoil(data, split, "labels", lambda labels: labels[:, ::-1])  # reversed once more: the inputs themselves
    run_dir = run(data, "run", "epochs=15", "eval_interval=15", "global_batch_size=40", "ema=True", "ema_rate=0.9",
                  "arch.H_cycles=1", "lr=3e-3", "lr_warmup_steps=10", "log_interval=20", *overrides)
    lines = metric_lines(run_dir)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < 0.6 * losses[0]
    assert lines[-1]["val/accuracy"] > 0.5  # chance is 1/4


def test_a_step_averages_over_the_global_batch_and_follows_the_schedule(data):
    config = config_of(data, "run", "optimizer=adamw", "lr_warmup_steps=4")
    stream, _ = load_data(config, World())
    state = first_state(config, stream)
    rates = []
    for _ in range(6):
        train_step(state, stream.next_batch(), config, total_steps=12)
        rates.append([group["lr"] for optimizer in state.optimizers for group in optimizer.param_groups])
    assert np.allclose(rates, np.minimum(np.arange(1, 7) / 4, 1)[:, None] * [1e-2, 1e-3])


@pytest.mark.parametrize("overrides", [
    [], ["optimizer=adam_atan2", "arch.no_ACT_continue=False", "arch.noise_scale=0.01"], ["freeze_weights=True"]])
def test_a_step_in_parts_is_the_step(data, overrides):
    """Of several examples of one puzzle, in different parts, the gradients are still one sum."""
    data = write_tiny_dataset(data.parent / "shared", train=[[4]] * 16)
    settings = ["arch.halt_exploration_prob=0.5", "optimizer=adamw", "log_interval=1", *overrides]
    whole, parts = run(data, "whole", *settings), run(data, "parts", *settings, "micro_batch_size=4")
    for name, value in last_weights(whole).items():
        assert torch.allclose(value, last_weights(parts)[name], atol=1e-5), name
    for a, b in zip(metric_lines(whole), metric_lines(parts), strict=True):
        assert all(a[name] == pytest.approx(b[name], abs=1e-4) for name in a if name != "train/examples_per_s")


def test_a_gradient_is_scaled_down_to_the_norm_it_may_have(data):
    def gradients(grad_clip) -> list[torch.Tensor]:
        config = config_of(data, "run", "optimizer=adamw", f"grad_clip={grad_clip}")
        stream, _ = load_data(config, World())
        state = first_state(config, stream)
        train_step(state, stream.next_batch(), config, total_steps=12)
        adamw = state.optimizers[1]  # whose first moment is a tenth of the gradient after a step
        return [adamw.state[p]["exp_avg"] * 10 for p in state.head.parameters()]

    whole = gradients("null")
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in whole))
    for limit in (norm / 4, norm * 4):
        for gradient, clipped in zip(whole, gradients(limit)):
            assert torch.allclose(clipped, gradient * min(1, limit / norm), rtol=1e-4, atol=1e-9)


def test_saved_outputs_lie_in_the_run_directory(data):
    run_dir = run(data, "run", "eval_save_outputs=[inputs, preds]", "epochs=1")
    outputs = torch.load(run_dir / "evaluation_step_00000004" / "outputs.rank0.pt", weights_only=True)
    assert outputs["inputs"].shape == outputs["preds"].shape == (10, 6)


def test_a_run_tests_on_other_data_where_told(data):
    other = write_tiny_dataset(data.parent / "other", test=[[1]] * 3, seed=5)
    lines = metric_lines(run(data, "run", f"data_paths_test=[{other}]", "eval_save_outputs=[labels]", "epochs=1"))
    saved = torch.load(data.parent / "run" / "evaluation_step_00000004" / "outputs.rank0.pt", weights_only=True)
    assert np.array_equal(saved["labels"], np.load(other / "test" / "all__labels.npy"))
    assert "val/loss" in lines[-1]


def too_high(array: np.ndarray) -> np.ndarray:
    array[3, 2] = 77
    return array


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("field, change, message", [
    ("labels", too_high, "all__labels.npy: row 3, position 2 holds 77, but vocab_size is 5"),
    ("inputs", too_high, "all__inputs.npy: row 3, position 2 holds 77"),
    ("labels", lambda a: a[:, :4], r"all__labels.npy: expected shape \(.*, 6\)"),
    ("inputs", lambda a: a.astype(np.float32), "all__inputs.npy: expected integers in 2 dimensions, found float32"),
    ("inputs", lambda a: a[:0], "the split is empty"),
    ("puzzle_identifiers", lambda a: a + 500, "num_puzzle_identifiers="),
])
def test_bad_arrays_end_a_run_before_it_begins(data, split, field, change, message):
    spoil(data, split, field, change)
    with pytest.raises(ValueError, match=message):
        run(data)
    assert not (data.parent / "run").exists()


def test_data_sets_that_do_not_go_together_are_named(data):
    wider = write_tiny_dataset(data.parent / "wider", vocab_size=9)
    longer = write_tiny_dataset(data.parent / "longer", seq_len=8)
    with pytest.raises(ValueError, match=f"vocab_size is 5 in {data} and 9 in {wider}"):
        run(data, "run", f"data_paths=[{data},{wider}]")
    with pytest.raises(ValueError, match="seq_len is 6 in data_paths=.* and 8 in data_paths_test="):
        run(data, "run", f"data_paths_test=[{longer}]")


def test_parts_that_do_not_divide_a_batch_are_refused(data):
    with pytest.raises(ValueError, match="micro_batch_size=5 does not divide the 16 examples of each process"):
        run(data, "run", "micro_batch_size=5")


def test_impossible_batches_are_refused_with_the_remedy(data):
    with pytest.raises(ValueError, match="whole run is shorter than one batch: 3 epochs of 64 examples.*more epochs"):
        run(data, "run", "global_batch_size=193")
    with pytest.raises(ValueError, match="global_batch_size=16 is not divisible by 3 processes; use .*18"):
        load_data(config_of(data), World(rank=0, size=3))


def test_the_compiled_recursion_computes_what_the_plain_one_does(data, monkeypatch):
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")

    def losses(*overrides: str) -> list[float]:
        config = config_of(data, "run", *overrides)
        stream, _ = load_data(config, World())
        state = first_state(config, stream)
        assert (state.head.model.inner._compiled_call_impl is not None) == ("compile=True" in overrides
                                                                           and "DISABLE_COMPILE" not in os.environ)
        return [train_step(state, stream.next_batch(), config, total_steps=12)["loss"].item() for _ in range(3)]

    plain, compiled = losses(), losses("compile=True")
    assert compiled == pytest.approx(plain, rel=1e-3)
    monkeypatch.setenv("DISABLE_COMPILE", "1")
    assert losses("compile=True") == plain


def published_command(run_name: str) -> list[str]:
    """The words of the published command line that has this run name."""
    return shlex.split(printed("docs/recipes.md", f"run_name={run_name} "))


SHRINK = ["epochs=2", "eval_interval=1", "global_batch_size=16", "arch.hidden_size=16", "arch.num_heads=2",
          "arch.halt_max_steps=4", "use_wandb=false"]


def test_the_published_sudoku_command_trains_as_printed(tmp_path):
    write_tiny_dataset(tmp_path / "data" / "sudoku-extreme-1k-aug-1000", identifiers=False)
    python, script, *overrides = published_command("pretrain_mlp_t_sudoku")
    assert (python, script) == ("python", "pretrain.py")
    done = run_script(script, *overrides, *SHRINK, cwd=tmp_path, fresh=True)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "checkpoints" / "sudoku-extreme-1k-aug-1000-trm" / "pretrain_mlp_t_sudoku"
    assert (run_dir / "step_00000008.ckpt").is_file() and (run_dir / "train_vs_val_loss.png").is_file()
    assert re.search(r"step 8/8 epoch 2: loss \d.*gradient norm \d.* left$", done.stdout, re.MULTILINE), done.stdout


def torchrun_as_printed(run_name: str, folder: Path) -> None:
    torchrun, *words = published_command(run_name)
    script = words.index("pretrain.py")
    words[script] = str(ROOT / "pretrain.py")
    launcher = shutil.which(torchrun, path=str(Path(os.sys.executable).parent))
    done = run_process([launcher, *words, *SHRINK], folder, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr


def test_the_published_maze_command_trains_on_four_processes_as_printed(tmp_path):
    write_tiny_dataset(tmp_path / "data" / "maze-30x30-hard-1k", identifiers=False)
    torchrun_as_printed("pretrain_att_maze30x30", tmp_path)
    lines = metric_lines(tmp_path / "checkpoints" / "maze-30x30-hard-1k-trm" / "pretrain_att_maze30x30")
    assert [line["step"] for line in lines if "val/loss" in line] == [4, 8]


@pytest.mark.long
def test_the_published_arc_command_builds_trains_and_submits_as_printed(tmp_path):
    """The evaluator is the default; four processes vote together on every test input of every task."""
    random = np.random.default_rng(0)
    subsets = {subset: {f"{subset}{i}": random_arc_task(random, tests=2) for i in range(4)}
               for subset in ("training", "evaluation", "concept")}
    write_arc_source(tmp_path / "kaggle", subsets)
    build_arc_dataset.main(["--input-file-prefix", str(tmp_path / "kaggle" / "tasks"), "--num-aug", "3", "--subsets",
                            *subsets, "--test-set-name", "evaluation", "--output-dir",
                            str(tmp_path / "data" / "arc1concept-aug-1000")])
    torchrun_as_printed("pretrain_att_arc1concept", tmp_path)
    run_dir = tmp_path / "checkpoints" / "arc1concept-aug-1000-trm" / "pretrain_att_arc1concept"
    evaluated = [line for line in metric_lines(run_dir) if "val/loss" in line]
    assert len(evaluated) == 2 and all({"eval/arc/accuracy", "eval/arc/pass@2"} <= line.keys() for line in evaluated)
    folder = run_dir / f"evaluation_step_{evaluated[-1]['step']:08d}"
    submission = json.loads((folder / "submission.json").read_text())
    assert submission.keys() == subsets["evaluation"].keys() and all(len(tests) == 2 for tests in submission.values())


@pytest.mark.parametrize("settings, tolerance", [
    ([], 1e-4), (["arch.initial_state_std=1.0", "arch.noise_scale=0.01"], 1e-4),
    (["optimizer=muon", "adamw_lr=1e-3", "grad_clip=0.5", "puzzle_emb_lr=1e-4",
      "depth_curriculum=[{until: 0.5, H_cycles: 1, L_cycles: 2}]"], 2e-3)])  # Muon computes in bfloat16: signs may flip
def test_two_processes_train_as_one(data, settings, tolerance):
    """The same stream, exploration, noise and gradients: equal to float tolerance over 24 steps."""
    overrides = [f"data_paths=[{data}]", *BASICS, "epochs=6", "eval_interval=3", "arch.halt_exploration_prob=0.5",
                 "optimizer=adamw", "ema=True", "log_interval=6", *settings]
    for ranks in (1, 2):
        done = run_script("pretrain.py", *overrides, f"checkpoint.path=run{ranks}", cwd=data.parent, ranks=ranks,
                          OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
    one, two = (last_weights(data.parent / f"run{ranks}") for ranks in (1, 2))
    assert one["model.inner.puzzle_emb.weights"].any()
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=tolerance), name
    for a, b in zip(metric_lines(data.parent / "run1"), metric_lines(data.parent / "run2"), strict=True):
        assert a.keys() == b.keys()
        assert all(a[name] == pytest.approx(b[name], abs=tolerance) for name in a if name != "train/examples_per_s")
