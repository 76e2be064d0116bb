"""Regression: the loss head against sums written out, models of floats, causality, and whole runs."""
import json
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pretrain
from config.schema import PretrainConfig
from dataset.common import RegressionMetadata, dataset_fingerprint
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from dataset.puzzle_rows import unpacked
from dataset.regression_dataset import feature_statistics
from documents import examples, printed, write_examples
from evaluate import inspectors, score
from evaluators.protocol import build_evaluators
from helpers import (
    REGRESSION,
    ROOT,
    TINY_ARCH,
    assert_same_run,
    evaluate_config,
    first_state,
    metric_lines,
    pretrain_config,
    resume,
    run_process,
    run_script,
    tiny_config,
    write_tiny_dataset,
    write_tiny_episodes,
    write_tiny_regression,
)
from losses import ACTRegressionLossHead
from models.recursive_reasoning.trm import TRM
from pretrain import load_data, train
from utils.checkpoint import read_checkpoint
from utils.distributed import World
from utils.metrics import MetricSums, means
from utils.preemption import Stopped

THRESHOLD = 36.0  # below it are the errors of some rows of `float_batch`, not of all
ARCHITECTURES = sorted(path.stem for path in (ROOT / "config" / "arch").glob("*.yaml")
                       if path.stem not in ("dec", "ldt", "ldt_fields", "se_rrm", "sotaku"))  # which are for tokens


def float_config(**changes) -> dict:
    return tiny_config(vocab_size=0, latent_dim=3, output_dim=2, **changes)


def float_batch(rows: int = 4, length: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Row 1 observes half of its targets, row 3 none."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, length, 2, dtype=torch.bool)
    mask[1, ::2], mask[3] = False, False
    return {"inputs": torch.randn(rows, length, 3, generator=random),
            "targets": 5 + torch.randn(rows, length, 2, generator=random), "target_mask": mask,
            "puzzle_identifiers": torch.arange(rows, dtype=torch.int32)}


def head_of(loss: dict | None = None, **changes) -> ACTRegressionLossHead:
    loss = loss or {}
    for_head = ACTRegressionLossHead.model_options(ACTRegressionLossHead.Config(**loss))
    torch.manual_seed(0)
    head = ACTRegressionLossHead(TRM(float_config(**changes) | for_head), **loss)
    head.model.inner.q_head.weight.data.normal_(std=2)
    head.model.inner.q_head.bias.data.zero_()
    return head


def one_step(head: ACTRegressionLossHead, batch: dict):
    return head(carry=head.initial_carry(batch), batch=batch, return_keys=("preds", "q_halt_logits"))


def summed(*metrics: dict) -> dict:
    sums = MetricSums(torch.device("cpu"))
    for one in metrics:
        sums.add(one)
    return sums.read()


@pytest.mark.parametrize("loss", [{}, {"mse_weight": 0.5, "mae_weight": 2.0},
                                  {"keep_act_halting_head": True, "halt_threshold": THRESHOLD}])
def test_the_loss_is_the_sum_over_rows_of_mean_errors_over_observed_targets_and_of_the_halting_loss(loss):
    head, batch = head_of(loss, halt_max_steps=1), float_batch()
    _, total, metrics, outputs, finished = one_step(head.train(), batch)
    expected, errors, squared, absolute = 0.0, [], [], []
    for row in range(4):
        residual = (outputs["preds"][row] - batch["targets"][row])[batch["target_mask"][row]]
        squared.append(residual.square().mean().item() if len(residual) else 0.0)
        absolute.append(residual.abs().mean().item() if len(residual) else 0.0)
        errors.append(loss.get("mse_weight", 1) * squared[-1] + loss.get("mae_weight", 0) * absolute[-1])
        expected += errors[-1]
        if "halt_threshold" in loss:
            good = torch.tensor(float(errors[-1] < THRESHOLD))
            expected += 0.5 * F.binary_cross_entropy_with_logits(outputs["q_halt_logits"][row], good).item()
    assert finished and total.item() == metrics["loss"].item() == pytest.approx(expected, rel=1e-5)
    found = means(summed(metrics))
    assert found["regression_loss"] == pytest.approx(sum(errors) / 3, rel=1e-5)  # row 3 is no example
    assert found["mse"] == pytest.approx(sum(squared) / 3, rel=1e-5)
    assert found["mae"] == pytest.approx(sum(absolute) / 3, rel=1e-5) and found["steps"] == 1
    assert ("q_halt_loss" in found) == ("q_halt_accuracy" in found) == ("halt_threshold" in loss)
    if "halt_threshold" in loss:
        assert 0 < sum(error < THRESHOLD for error in errors[:3]) < 3  # the threshold tells rows apart


@pytest.mark.parametrize("normalize", [False, True])
def test_rmse_and_r2_are_those_of_the_whole_set_however_it_is_cut(normalize):
    head = head_of({"normalize": normalize}, halt_max_steps=1).eval()
    if normalize:
        head.set_normalization({"input_mean": np.ones(3), "input_std": np.full(3, 2.0),
                                "target_mean": np.array([5.0, 4]), "target_std": np.array([1.0, 3])})
    parts = [float_batch(seed=seed) for seed in range(3)]
    sums, residuals, targets = [], [], []
    for batch in parts:
        _, _, metrics, outputs, _ = one_step(head, batch)
        sums.append(metrics)
        seen = batch["target_mask"]
        for feature in range(2):
            where = seen[..., feature]
            residuals.append((feature, (outputs["preds"] - batch["targets"])[..., feature][where]))
            targets.append((feature, batch["targets"][..., feature][where]))
    found = means(summed(*sums))
    errors = torch.cat([r for _, r in residuals]).double()
    assert found["rmse"] == pytest.approx(errors.square().mean().sqrt().item(), rel=1e-5)
    spread = sum((t - t.mean()).square().sum() for t in (torch.cat([t for f, t in targets if f == feature]).double()
                                                         for feature in range(2)))
    assert found["r2"] == pytest.approx(1 - (errors.square().sum() / spread).item(), rel=1e-5)


def test_normalisation_is_undone_in_predictions_and_metrics_and_the_loss_is_in_its_units():
    scale = {"input_mean": np.array([1.0, 2, 3]), "input_std": np.array([2.0, 3, 4]),
             "target_mean": np.array([5.0, -1]), "target_std": np.array([2.0, 0.5])}
    plain, scaled, batch = head_of(halt_max_steps=1), head_of({"normalize": True}, halt_max_steps=1), float_batch()
    scaled.set_normalization(scale)
    mean_x, std_x, mean_y, std_y = (torch.tensor(values) for values in scale.values())
    by_hand = batch | {"inputs": ((batch["inputs"] - mean_x) / std_x).float(),
                       "targets": ((batch["targets"] - mean_y) / std_y).float()}
    (_, loss, metrics, a, _), (_, expected, _, b, _) = one_step(scaled, batch), one_step(plain, by_hand)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    preds = b["preds"].double() * std_y + mean_y
    assert torch.allclose(a["preds"].double(), preds, atol=1e-5)
    residual = (preds - batch["targets"])[:3]
    mask = batch["target_mask"][:3]
    rows = (mask * residual.square()).sum((1, 2)) / mask.sum((1, 2))
    assert metrics["mse"].item() == pytest.approx(rows.sum().item(), rel=1e-5)
    assert {"input_mean", "target_std"} <= scaled.state_dict().keys() - plain.state_dict().keys()


def test_without_the_halting_head_every_example_takes_all_steps_however_sure_the_model_is():
    for loss, steps in (({}, 3), ({"keep_act_halting_head": True, "halt_threshold": 1.0}, 1)):
        head, batch = head_of(loss, halt_max_steps=3).train(), float_batch()
        head.model.inner.q_head.weight.data.zero_()
        head.model.inner.q_head.bias.data.fill_(9.0)
        carry, taken = head.initial_carry(batch), 0
        finished = False
        while not finished:
            carry, *_, finished = head(carry=carry, batch=batch, return_keys=())
            taken += 1
        assert taken == steps


@pytest.mark.parametrize("loss, message", [
    ({"keep_act_halting_head": True}, "needs halt_threshold, the error below which an example is good enough"),
    ({"halt_threshold": 0.1}, "halt_threshold=0.1 has no effect without the halting head; set arch.loss.keep_act"),
    ({"halting_weight": 0.1}, "halting_weight=0.1 has no effect without the halting head; set arch.loss.keep_act"),
    ({"mse_weight": 0.0}, "mse_weight=0 and mae_weight=0 leave nothing to learn"),
    ({"halt_threshold": -1.0, "keep_act_halting_head": True}, "halt_threshold"),
    ({"mse_wait": 1.0}, "mse_wait")])
def test_loss_options_that_make_no_sense_are_named(loss, message):
    with pytest.raises(ValueError, match=message):
        head_of(loss)
    with pytest.raises(ValueError, match="act_inference=True halts by the Q head; train it with arch.loss.keep_act"):
        head_of(act_inference=True)
    with pytest.raises(ValueError, match="halts by its Q head, which this loss does not train; build .*learns_halting"):
        ACTRegressionLossHead(TRM(float_config()))


@pytest.mark.parametrize("arch", ["trm", "hrm", "transformers_baseline"])
@pytest.mark.parametrize("keeps", [False, True])
def test_without_the_halting_head_training_takes_all_steps_and_no_continue_target(arch, keeps):
    """Also where the architecture itself always compares q_halt with q_continue."""
    options = ["arch.loss.keep_act_halting_head=true", "arch.loss.halt_threshold=1e9"] if keeps else []
    arch = pretrain_config(f"arch={arch}", REGRESSION, *TINY_ARCH[:2], "arch.halt_max_steps=3",
                           "arch.halt_exploration_prob=0", *options).arch
    data = RegressionMetadata(task_type="regression", seq_len=6, input_dim=3, target_dim=2, num_puzzle_identifiers=4,
                              sets=["all"])
    head, batch = arch.build_head(data, 4, World()).train(), float_batch()
    head.model.inner.q_head.bias.data = torch.tensor([9.0, 0.0])  # sure enough to halt at once
    carry = head.initial_carry(batch)
    for step in (1, 2, 3):
        carry, outputs = head.model(carry, batch)
        assert carry.halted.all() == (keeps or step == 3)
    assert ("target_q_continue" in outputs) == (keeps and arch.short_name == "hrm")



def test_floats_are_projected_and_predicted_with_a_bias_and_tokens_as_before():
    inner, batch = TRM(float_config()).inner, float_batch()
    x = inner.embed(batch)
    projected = batch["inputs"] @ inner.embed_tokens.weight.T + inner.embed_tokens.bias
    assert torch.allclose(x[:, 1:], 8**0.5 * projected, atol=1e-5)
    assert x[:, 1:].std().item() == pytest.approx(1, abs=0.3)  # as tokens have it
    assert inner.lm_head.weight.shape == (2, 8) and inner.lm_head.bias.shape == (2,)
    assert "lm_head.bias" not in TRM(tiny_config()).inner.state_dict()


@pytest.mark.parametrize("normalize", [False, True])
def test_floats_are_read_and_predicted_in_float32_by_a_network_of_bfloat16(normalize):
    """Whose 8 bits make one number of the years 2021 to 2024."""
    head = head_of({"normalize": normalize}, forward_dtype="bfloat16", hidden_size=64).train()
    mean, std = (2000, 0.25) if normalize else (0, 1)
    if normalize:
        head.set_normalization({"input_mean": np.full(3, mean), "input_std": np.full(3, std),
                                "target_mean": np.full(2, mean), "target_std": np.full(2, std)})
    inner, years = head.model.inner, torch.tensor([2021.0, 2022, 2023, 2024]).view(4, 1, 1).expand(4, 6, 3)
    one_puzzle = torch.zeros(4, dtype=torch.int32)
    inner.lm_head.bias.data.fill_((2021.5 - mean) / std)
    carry, loss, _, outputs, _ = one_step(head, float_batch() | {"inputs": years, "puzzle_identifiers": one_puzzle})
    x = inner.embed({"inputs": carry.current_data["inputs"], "puzzle_identifiers": one_puzzle})
    assert x.dtype == torch.bfloat16 and len(x.flatten(1).unique(dim=0)) == 4
    y = carry.latents[0][:, inner.P:]
    assert y.dtype == torch.bfloat16 and outputs["preds"].dtype == torch.float32
    by_hand = mean + std * (y.float() @ inner.lm_head.weight.T + inner.lm_head.bias)
    assert torch.allclose(outputs["preds"], by_hand, rtol=0, atol=1e-3)
    loss.backward()
    assert inner.embed_tokens.weight.grad.any() and inner.lm_head.weight.grad.any()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_learns_floats_with_all_but_the_untrained_q_head(arch, flat):
    cycles = {"transformers_baseline": [], "fprm": ["arch.L_cycles=2", "arch.grid_conv=false"]}.get(
        arch, ["arch.H_cycles=2", "arch.L_cycles=2"])
    config = pretrain_config(f"arch={arch}", REGRESSION, "arch.hidden_size=16", "arch.num_heads=2",
                             "arch.halt_max_steps=3", *cycles).arch
    batch = float_batch(length=1 if flat else 6)
    if flat:
        batch = {name: value[:, 0] if value.ndim == 3 else value for name, value in batch.items()}
    torch.manual_seed(0)
    model = config.model_class(config.options | {
        "forward_dtype": "float32", "batch_size": 4, "seq_len": 1 if flat else 6, "latent_dim": 3, "output_dim": 2,
        "num_puzzle_identifiers": 4, "learns_halting": False})
    head = ACTRegressionLossHead(model, **config.loss.options).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    carry, losses = head.initial_carry(batch), []
    for _ in range(25):
        carry, loss, _, outputs, _ = head(carry=carry, batch=batch, return_keys=("preds",))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4]) and outputs["preds"].shape == batch["targets"].shape
    without = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert {name for name in without if "q_head" not in name} <= (
        {n for n in without if flat and re.search(r"qkv_proj|conv_weight", n)})


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("positions, prefix", [("rope", 2), ("learned", 2), ("none", 0)])
def test_with_causal_attention_no_prediction_depends_on_a_later_input(arch, positions, prefix):
    """Over several supervision steps, by the gradient of each prediction and by changing the later inputs."""
    fixed = arch in ("hrm", "transformers_baseline")  # their prefix follows from the embedding
    config = pretrain_config(f"arch={arch}", REGRESSION, "arch.hidden_size=16", "arch.num_heads=2", "arch.causal=true",
                             "arch.halt_max_steps=3", f"arch.pos_encodings={positions}",
                             f"arch.puzzle_emb_ndim={16 * prefix}",
                             *([] if fixed else [f"arch.puzzle_emb_len={prefix}"]),
                             *(["arch.grid_conv=false"] if arch == "fprm" else []))
    torch.manual_seed(0)
    model = config.arch.model_class(config.arch.options | {
        "forward_dtype": "float32", "batch_size": 4, "seq_len": 6, "latent_dim": 3, "output_dim": 2,
        "num_puzzle_identifiers": 4, "learns_halting": False})
    head, batch = ACTRegressionLossHead(model, **config.arch.loss.options).eval(), float_batch()
    assert prefix == head.model.inner.P

    def predictions(inputs: torch.Tensor) -> torch.Tensor:
        shown, finished = batch | {"inputs": inputs}, False
        carry = head.initial_carry(shown)
        while not finished:
            carry, _, _, outputs, finished = head(carry=carry, batch=shown, return_keys=("preds",))
        return outputs["preds"]

    with torch.no_grad():
        before = predictions(batch["inputs"])
        for place in range(6):
            changed = batch["inputs"].clone()
            changed[:, place] += 3
            after = predictions(changed)
            assert torch.equal(before[:, :place], after[:, :place])
            assert not torch.allclose(before[:, place:], after[:, place:], atol=1e-3)


def test_the_halting_logits_of_a_causal_model_see_the_whole_sequence():
    head, batch = head_of({"keep_act_halting_head": True, "halt_threshold": 1.0}, causal=True), float_batch()
    last = batch["inputs"].clone()
    last[:, -1] += 1
    a, b = (one_step(head, batch | {"inputs": inputs})[3]["q_halt_logits"] for inputs in (batch["inputs"], last))
    assert (a != b).all()


@pytest.mark.parametrize("changes, message", [
    ({"mlp_t": True, "pos_encodings": "none"}, "mlp_t=True mixes all positions, so nothing in it can be causal"),
    ({"act_inference": True}, "act_inference=True halts by the whole sequence")])
def test_what_cannot_be_causal_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TRM(float_config(causal=True, **changes))


# Runs: 64 training examples an epoch in batches of 16, four steps

RUN = [*TINY_ARCH, "global_batch_size=16", "epochs=3", "eval_interval=1", "lr=1e-3", "lr_warmup_steps=0",
       "log_interval=2", "use_wandb=false"]
WINDOWS = ["arch.causal=true", "episode_window=8", "episode_stride=3"]
NORMALIZED = "arch.loss.normalize=true"


def config_of(data: Path, name: str, *overrides: str) -> PretrainConfig:
    return pretrain_config(f"data_paths=[{data}]", f"checkpoint.path={data.parent / name}",
                           f"log_dir={data.parent / 'logs'}", *RUN, *overrides)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_tiny_regression(tmp_path_factory.mktemp("regression") / "data")


@pytest.fixture(scope="module")
def episodes(tmp_path_factory) -> Path:
    return write_tiny_episodes(tmp_path_factory.mktemp("episodes") / "data", train=[40] * 4, test=[40, 30, 7])


def scored(run_dir: Path, *overrides: str) -> dict[str, float]:
    return score(evaluate_config(f"checkpoint={run_dir}", *overrides), World())


def test_the_name_of_the_head_alone_switches_the_task():
    config = pretrain_config("arch.loss.name=losses@ACTRegressionLossHead")
    assert config.arch.loss.options == {"halting_weight": 0.5}
    config = pretrain_config(REGRESSION, "arch.keep_act_halting_head=true", "arch.loss.halt_threshold=0.5")
    assert config.arch.loss.options == {"keep_act_halting_head": True, "halt_threshold": 0.5, "halting_weight": 0.5}
    assert pretrain_config(REGRESSION, "evaluators=[{name: ridge@Ridge}]").evaluators[0].name == "ridge@Ridge"
    with pytest.raises(ValueError, match="unknown key arch.loss.loss_type"):
        pretrain_config(REGRESSION, "arch.loss.loss_type=softmax_cross_entropy")  # set by hand, and without effect


def test_options_that_a_file_has_for_another_head_are_left_out_and_those_not_by_default_are_told():
    sic = ["experiment=sic_sudoku", REGRESSION, "arch.loss.halting_weight=0.5"]
    config = pretrain_config(*sic)
    assert config.arch.loss.options == {"halting_weight": 0.5}
    assert {f"arch.loss.{option} has no effect with {REGRESSION}" for option in (
        "loss_type=softmax_cross_entropy", "label_smoothing=0.2")} <= set(config.arch.notices())
    assert not any("arch.loss" in notice for notice in pretrain_config(REGRESSION).arch.notices())
    with pytest.raises(ValueError, match="halting_weight=0.05 has no effect .*, or arch.loss.halting_weight=0.5"):
        pretrain_config("experiment=sic_sudoku", REGRESSION)
    with pytest.raises(ValueError, match="unknown key arch.loss.label_smoothing"):
        pretrain_config(*sic, "arch.loss.label_smoothing=0.2")
    with pytest.raises(ValueError, match="unknown key arch.loss.mse_wieght; did you mean arch.loss.mse_weight"):
        pretrain_config(*sic, "arch.loss.mse_wieght=2")


def test_a_head_for_other_data_is_an_error_that_says_what_to_set(data, episodes, tmp_path):
    puzzles = write_tiny_dataset(tmp_path / "puzzles")
    with pytest.raises(ValueError, match="hold regression data, and arch.loss.name=losses@ACTLossHead is for "
                                         "classification; set arch.loss.name=losses@ACTRegressionLossHead"):
        train(config_of(data, "wrong", "evaluators=[]"), World())
    with pytest.raises(ValueError, match="hold puzzles, and .*ACTRegressionLossHead is for regression; set .*ACTLoss"):
        train(config_of(puzzles, "wrong", REGRESSION), World())
    with pytest.raises(ValueError, match="task_type is regression in data_paths=.* and classification in data_pa"):
        train(config_of(data, "wrong", REGRESSION, f"data_paths_test=[{puzzles}]"), World())
    with pytest.raises(ValueError, match="episode_window=8: without arch.causal=true each prediction sees the latent"):
        train(config_of(episodes, "wrong", REGRESSION, "episode_window=8"), World())
    with pytest.raises(ValueError, match="episode_window=8 has no effect on .*, which hold no latent episodes"):
        train(config_of(data, "wrong", REGRESSION, "episode_window=8", "arch.causal=true"), World())
    with pytest.raises(ValueError, match="cannot be mixed: .* holds regression data, and .* latent episodes"):
        train(config_of(data, "wrong", REGRESSION, f"data_paths=[{data},{episodes}]"), World())
    assert not (data.parent / "wrong").exists()


@pytest.mark.curves
def test_a_run_learns_selects_by_its_own_metric_and_is_scored_again_in_units_of_the_data(data):
    run_dir = train(config_of(data, "learns", REGRESSION, NORMALIZED, "epochs=40", "eval_interval=10",
                              "optimizer=adamw", "lr=3e-3", "checkpoint.monitor=val/regression_loss", "ema=True",
                              "ema_rate=0.9"), World())
    lines = metric_lines(run_dir)
    val = [line for line in lines if "val/loss" in line]
    assert val[-1]["val/r2"] > 0.3 and val[-1]["val/mse"] < 0.7 * val[0]["val/mse"]
    names = {"loss", "regression_loss", "mse", "mae", "rmse", "r2", "steps"}
    assert {f"val/{name}" for name in names} == val[0].keys() - {"step", "epoch"}
    assert {"train/regression_loss", "train/mse", "train/mae", "train/steps"} <= set().union(*lines)
    best = read_checkpoint(run_dir / "best.ckpt")
    assert best["step"] == min(val, key=lambda line: line["val/regression_loss"])["step"]
    statistics = feature_statistics(list(load_data(config_of(data, "x", REGRESSION), World())[0].sets.values()))
    assert np.allclose(best["model_state"]["target_mean"], statistics["target_mean"])
    metrics = score(evaluate_config(f"checkpoint={run_dir}", "eval_save_outputs=[preds, targets, target_mask]",
                                    "evaluators=[{name: ridge@Ridge}]", "picture=slowest"), World())
    logged = next(line for line in val if line["step"] == best["step"])
    assert {name: metrics[name] for name in metrics if name.startswith("val/")} == pytest.approx(
        {name: value for name, value in logged.items() if name.startswith("val/")}, rel=1e-4)
    saved = torch.load(run_dir / "evaluation" / "outputs.rank0.pt", weights_only=True)
    residual = (saved["preds"] - saved["targets"])[saved["target_mask"]]
    assert metrics["val/rmse"] == pytest.approx(residual.square().mean().sqrt().item(), rel=1e-4)
    assert metrics["eval/ridge/model_rmse"] == pytest.approx(metrics["val/rmse"], rel=1e-4)
    assert (run_dir / "evaluation" / "solution_steps.png").read_bytes()[:4] == b"\x89PNG"
    assert (run_dir / "train_vs_val_loss.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("kind", ["regression", "transitions", "windows"])
def test_a_run_stopped_anywhere_and_resumed_is_the_same_run(data, episodes, kind, monkeypatch):
    path, options = {"regression": (data, [NORMALIZED, "arch.mlp_t=True", "arch.pos_encodings=none",
                                           "arch.loss.keep_act_halting_head=true",
                                           "arch.loss.halt_threshold=0.9", "arch.halt_exploration_prob=0.5"]),
                     "transitions": (episodes, ["optimizer=adamw"]),
                     "windows": (episodes, [*WINDOWS, NORMALIZED])}[kind]
    options += [REGRESSION, "epochs=4", "ema=True", "ema_rate=0.9", "global_batch_size=24"]
    whole = train(config_of(path, f"{kind}_whole", *options), World())
    real_step, stops = pretrain.train_step, {2, 5}

    def step(state, *rest):
        if state.step + 1 in stops:
            stops.remove(state.step + 1)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        return real_step(state, *rest)

    monkeypatch.setattr(pretrain, "train_step", step)
    with pytest.raises(Stopped, match="stopped after step 2 "):
        train(config_of(path, f"{kind}_parts", *options), World())
    with pytest.raises(Stopped, match="stopped after step 5 "):
        resume(path.parent / f"{kind}_parts")
    assert_same_run(resume(path.parent / f"{kind}_parts"), whole)
    if kind == "windows":
        with pytest.raises(ValueError, match="cannot go on with episode_window=5"):
            resume(path.parent / f"{kind}_parts", "episode_window=5")


@pytest.mark.parametrize("kind", ["regression", "windows"])
def test_two_processes_train_and_score_as_one(data, episodes, kind, tmp_path):
    """The second from a real command line, on which options of the head need no plus."""
    path, options, baseline = {"regression": (data, ["evaluators=[{name: ridge@Ridge}]"], "eval/ridge/ridge_rmse"),
                               "windows": (episodes, WINDOWS, "eval/rollout/linear/rmse@25")}[kind]
    options = [*RUN, REGRESSION, "arch.loss.normalize=true", "arch.loss.mae_weight=0.5", "optimizer=adamw", *options]
    scoring = ["picture=1", *(word for word in options if word.startswith("evaluators=[{"))]
    run_dir = train(config_of(path, "alone", *options), World())
    alone = score(evaluate_config(f"checkpoint={run_dir}", *scoring), World())
    for script, words in (("pretrain.py", [f"data_paths=[{path}]", *options, "checkpoint.path=run"]),
                          ("evaluate.py", ["checkpoint=run", *scoring])):
        done = run_script(script, *words, cwd=tmp_path, ranks=2, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
    together = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert baseline in together and together == pytest.approx(alone, rel=1e-3)
    assert len(list((tmp_path / "run" / "evaluation").glob("*.png"))) == len(list(run_dir.glob("evaluation/*.png"))) > 0
    assert read_checkpoint(tmp_path / "run" / "best.ckpt")["config"]["arch"]["loss"] == {
        "name": "losses@ACTRegressionLossHead", "normalize": True, "mae_weight": 0.5, "halting_weight": 0.5}


def test_a_command_prints_the_table_of_rollouts_and_draws_one_by_number(episodes, tmp_path):
    run_dir = train(config_of(episodes, "drawn", REGRESSION, *WINDOWS, "epochs=1"), World())
    done = run_script("evaluate.py", f"checkpoint={run_dir}", "picture=0", f"output_dir={tmp_path}", cwd=tmp_path,
                      fresh=True)
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout[done.stdout.index("  rmse "):].splitlines()
    assert re.findall(r"one step|open loop @\d+", header) == ["one step", *(f"open loop @{h}" for h in (1, 5, 10, 25))]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for line, who in zip(lines, ("model", "repeat_last", "linear")):
        name, *cells = line.replace("repeat last", "repeat_last").split()
        assert name == who and cells[-1] == f"{metrics[f'eval/rollout/{who}/rmse@25']:.5g}"
    assert lines[3] == f"picture: {tmp_path / 'rollouts.png'}"
    assert (tmp_path / "rollouts.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="picture=4: the test episodes of .* give 3 rollouts, numbered from 0"):
        scored(run_dir, "picture=4")


def test_identifiers_over_several_folders_are_told_and_stored(episodes, tmp_path, capsys):
    other = write_tiny_episodes(tmp_path / "other", seed=1)
    run_dir = train(config_of(episodes, "several", REGRESSION, f"data_paths=[{episodes},{other}]", "epochs=1"), World())
    assert f"notice: identifiers of {other} are raised by 7" in capsys.readouterr().out
    payload = read_checkpoint(run_dir / "best.ckpt")
    fingerprints = [dataset_fingerprint(path) for path in (episodes, other)]  # episodes have no names
    assert unpacked(payload["puzzle_names"], 13, run_dir) == [f"{fingerprints[i > 6]}#{i % 7}" for i in range(13)]
    assert len(payload["model_state"]["model.inner.puzzle_emb.weights"]) == 7 + 6
    assert {"val/latentset/mse", "val/latentset1/mse"} <= metric_lines(run_dir)[-1].keys()


@pytest.mark.parametrize("options", [[NORMALIZED], ["arch.loss.keep_act_halting_head=true", "arch.act_inference=True",
                                                     "arch.loss.halt_threshold=100"]])
def test_each_step_scores_as_a_model_of_that_depth_and_a_kept_head_halts_where_it_is_asked_to(data, options):
    """The halting logits of the second are above 0 after the first step in some rows, and in others not."""
    halts = NORMALIZED not in options
    run_dir = train(config_of(data, f"steps{halts}", REGRESSION, *options, "epochs=1"), World())
    payload = read_checkpoint(run_dir / "best.ckpt")
    weight, bias = (payload["model_state"][f"model.inner.q_head.{name}"] for name in ("weight", "bias"))
    weight.normal_(std=3, generator=torch.Generator().manual_seed(0))
    bias.fill_(-19)
    torch.save(payload, run_dir / "best.ckpt")
    metrics = scored(run_dir, "per_step=true", "global_batch_size=4")
    lines = [json.loads(line) for line in (run_dir / "evaluation" / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and len({line["mse"] for line in lines}) == 3
    for line in lines:
        alone = scored(run_dir, f"halt_max_steps={line.pop('step')}", "global_batch_size=4")
        assert {"mse", "mae", "rmse", "r2", "loss"} <= line.keys()
        assert line == pytest.approx({name: alone[f"val/{name}"] for name in line}, rel=1e-5)
    assert lines[-1]["rmse"] == pytest.approx(metrics["val/rmse"], rel=1e-5)
    assert 1 < metrics["val/steps"] < 3 if halts else metrics["val/steps"] == 3


def test_the_first_batches_are_looked_at(data, tmp_path):
    bad = write_tiny_regression(tmp_path / "bad", mask=np.zeros((64, 6, 2), bool), test=64)
    with pytest.raises(ValueError, match="first train batch of .*: target_mask is false everywhere"):
        load_data(config_of(bad, "x", REGRESSION), World())


def test_normalised_weights_come_with_their_statistics(data, tmp_path):
    run_dir = train(config_of(data, "first", REGRESSION, NORMALIZED, "epochs=1"), World())
    other = write_tiny_regression(tmp_path / "other", seed=5)
    config = config_of(other, "second", REGRESSION, NORMALIZED, f"load_checkpoint={run_dir / 'best.ckpt'}")
    state = first_state(config)
    assert torch.equal(state.head.target_mean, read_checkpoint(run_dir / "best.ckpt")["model_state"]["target_mean"])


def test_the_example_of_the_page_runs_as_printed(tmp_path):
    page = "docs/regression-and-latents.md"
    assert len(examples(page)["my_series.py"].splitlines()) <= 20
    write_examples(page, tmp_path, "my_series.py")
    done = run_process([sys.executable, "my_series.py"], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    words = {line.split()[1]: shlex.split(line)[2:] for line in printed(page, "checkpoints/walks").splitlines()}
    paths = [f"data_paths=[{tmp_path}/data/walks]", f"log_dir={tmp_path}", f"checkpoint.path={tmp_path}/walks",
             "epochs=2", "eval_interval=1"]
    run_dir = train(pretrain_config(*words["pretrain.py"], *paths), World())
    metrics = score(evaluate_config(*words["evaluate.py"], f"checkpoint={run_dir}"), World())
    assert metrics["eval/ridge/ridge_rmse"] > 0.1 and metrics["val/r2"] > 0.2
    assert (run_dir / "evaluation" / "solution_steps.png").is_file()


def test_floats_are_not_animated(tmp_path):
    for data in (write_tiny_regression(tmp_path / "floats"), write_tiny_episodes(tmp_path / "episodes")):
        dataset = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(data)], test_set_mode=True,
                                                    global_batch_size=2), "test")
        config = evaluate_config("checkpoint=run", "picture=0", "animation=true")
        with pytest.raises(ValueError, match="animation=true shows puzzles being solved, and .* holds"):
            build_evaluators([], dataset, others=inspectors(config, dataset))
