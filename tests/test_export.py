"""Exports: each layout is read back equal, as folder and as file, by evaluate.py and by pretrain.py."""
import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from dataset.common import dataset_fingerprint
from evaluate import score
from helpers import (
    REGRESSION,
    TINY_ARCH,
    assert_equal,
    evaluate_config,
    metric_lines,
    pretrain_config,
    write_tiny_dataset,
)
from pretrain import train
from utils.checkpoint import read_checkpoint, weights_of
from utils.distributed import World
from utils.export import Export, published_name, refuse_unpublished

QUICK = [*TINY_ARCH, "evaluators=[]", "global_batch_size=16", "epochs=1", "use_wandb=false"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    data = write_tiny_dataset(folder / "data")
    return train(pretrain_config(f"data_paths=[{data}]", f"checkpoint.path={folder / 'run'}", f"log_dir={folder}",
                                 *QUICK, "ema=True", "ema_rate=0.5", "lr=1e-2", "lr_warmup_steps=0"), World())


def scored(checkpoint: Path, *overrides: str) -> dict[str, float]:
    return score(evaluate_config(f"checkpoint={checkpoint}", *overrides), World())


@pytest.mark.parametrize("use_ema", [True, False])
@pytest.mark.parametrize("layout, file", [("published", "step_4"), ("safetensors", "model.safetensors")])
def test_an_export_loads_back_equal_and_trains_further(run_dir, tmp_path, layout, file, use_ema):
    weights = weights_of(read_checkpoint(run_dir / "best.ckpt"), use_ema)
    metrics = scored(run_dir, f"export={layout}", f"output_dir={tmp_path}", f"use_ema={use_ema}")
    folder = tmp_path / layout
    assert_equal(weights_of(read_checkpoint(folder / file), True), weights)
    assert scored(folder) == scored(folder / file) == metrics
    further = train(pretrain_config(
        f"data_paths=[{run_dir.parent / 'data'}]", f"checkpoint.path={tmp_path / 'further'}", f"log_dir={tmp_path}",
        *QUICK, f"load_checkpoint={folder}", "lr=1e-30", "weight_decay=0", "puzzle_emb_lr=1e-30"), World())
    assert metric_lines(further)[-1]["val/loss"] == pytest.approx(metrics["val/loss"], rel=1e-5)


def test_the_published_layout_has_published_names(run_dir, tmp_path):
    scored(run_dir, "export=published", f"output_dir={tmp_path}")
    assert sorted(file.name for file in (tmp_path / "published").iterdir()) == [
        "all_config.yaml", "identifiers.json", "step_4"]
    state = torch.load(tmp_path / "published" / "step_4", weights_only=True)
    assert all(name.startswith("_orig_mod.model.inner.") for name in state)
    config = OmegaConf.load(tmp_path / "published" / "all_config.yaml")
    assert config.arch.name == "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1"
    assert config.arch.forward_dtype == "float32"
    assert "checkpoint" not in config and config.ema_rate == 0.5
    by_kind = Export({}, {"arch": read_checkpoint(run_dir / "best.ckpt")["config"]["arch"] | {
        "forward_dtype": "float32"}, "evaluators": None}, 0, "stored", {}, {}, {})
    by_kind.settings["arch"]["forward_dtype"] = "auto"
    by_kind.state["inner.H_init"] = torch.zeros(1, dtype=torch.bfloat16)
    assert by_kind.published_settings()["arch"]["forward_dtype"] == "bfloat16"  # what `auto` stood for
    assert by_kind.published_settings()["evaluators"] == []  # the published class takes no null
    assert set(config.arch.loss) == {"name", "loss_type"}  # the published class takes no others


def test_a_published_checkpoint_comes_back_as_it_was(shared, tmp_path):
    folder = shared / "interop" / "sudoku4"
    few = write_tiny_dataset(tmp_path / "few", seq_len=16, vocab_size=6, identifiers=False)
    scored(folder / "checkpoint", f"data_paths=[{few}]", f"output_dir={tmp_path}", "export=published")
    for name in ("step_550", "all_config.yaml"):
        there, back = (where / name for where in (folder / "checkpoint", tmp_path / "published"))
        if name == "step_550":
            assert_equal(*(torch.load(file, weights_only=True) for file in (there, back)))
        else:
            assert OmegaConf.load(there) == OmegaConf.load(back)


def test_a_checkpoint_of_hrms_own_repository_is_read(run_dir, tmp_path):
    """Which calls its modules, its data and its file otherwise, and writes down fewer settings."""
    data = run_dir.parent / "data"
    ours = train(pretrain_config("arch=hrm", f"data_paths=[{data}]", f"checkpoint.path={tmp_path / 'ours'}",
                                 f"log_dir={tmp_path}", *QUICK, "arch.H_layers=1", "arch.puzzle_emb_len=0"), World())
    metrics = scored(ours)
    payload, theirs = read_checkpoint(ours / "best.ckpt"), tmp_path / "theirs"
    theirs.mkdir()
    torch.save({f"_orig_mod.{name}": value for name, value in payload["model_state"].items()}, theirs / "checkpoint")
    arch = {key: value for key, value in payload["config"]["arch"].items()
            if key not in ("act_enabled", "act_inference", "causal", "glu_norm", "initial_state_std", "mlp_t",
                           "no_ACT_continue", "noise_scale", "puzzle_emb_len", "relaxation")}
    arch |= {"name": "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1", "loss": {
        "name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"}}
    OmegaConf.save({"arch": arch, "data_path": str(data), "global_batch_size": 16}, theirs / "all_config.yaml")
    assert scored(theirs) == scored(theirs / "checkpoint") == metrics


def test_safetensors_are_readable_without_us_and_say_what_they_are(run_dir, tmp_path):
    metrics = scored(run_dir, "export=safetensors", f"output_dir={tmp_path}")
    folder = tmp_path / "safetensors"
    assert_equal(load_file(folder / "model.safetensors"), weights_of(read_checkpoint(run_dir / "best.ckpt"), True))
    fingerprint = {str(run_dir.parent / "data"): dataset_fingerprint(run_dir.parent / "data")}
    assert json.loads((folder / "metadata.json").read_text()) == {
        "step": 4, "data_fingerprints": fingerprint,
        "data_metadata": read_checkpoint(run_dir / "best.ckpt")["data_metadata"],
        "weights": "averaged", "scored_on": fingerprint, "metrics": metrics}
    assert OmegaConf.load(folder / "config.yaml") == OmegaConf.load(run_dir / "config.yaml")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match="model.safetensors cannot be read as a checkpoint"):
        scored(folder)


@pytest.mark.parametrize("name, published", [
    ("hrm@HRM", "hrm@HierarchicalReasoningModel_ACTV1"),
    ("trm_hier6@TRMHier6", "trm_hier6@TinyRecursiveReasoningModel_ACTV1"),
    ("transformers_baseline@TransformersBaseline", "transformers_baseline@Model_ACTV2")])
def test_classes_are_exported_under_their_published_names(name, published):
    assert published_name(f"recursive_reasoning.{name}") == f"recursive_reasoning.{published}"


@pytest.mark.parametrize("overrides, unknown", [
    (["arch.glu_norm=True", "arch.noise_scale=0.1"], "arch.glu_norm=True, arch.noise_scale=0.1"),
    (["arch.pos_encodings=rope2d"], "arch.pos_encodings=rope2d"),
    (["arch.rope_base=10"], "arch.rope_base=10"), (["arch.halt_on=residual"], "arch.halt_on=residual"),
    (["arch=eqr"], "arch.initial_state_std=1.0, arch.relaxation=0.95, arch.noise_scale=0.01"),
    (["arch.puzzle_emb_ndim=0"], "arch.puzzle_emb_ndim=0 with puzzle_emb_len=16"),
    (["arch=urm"], "arch.name=recursive_reasoning.urm@URM"), ([REGRESSION], f"{REGRESSION}")])
def test_what_the_published_code_would_not_compute_is_not_exported_for_it(overrides, unknown):
    settings = pretrain_config(*overrides).model_dump()
    with pytest.raises(ValueError, match=f"the published code has no {unknown}; use export=safetensors"):
        refuse_unpublished(settings)


@pytest.mark.parametrize("overrides", [["export=hub"], ["hub_repo=owner/name"], ["export=published", "hub_repo=a/b"]])
def test_a_repository_goes_with_an_export_to_the_hub(overrides):
    with pytest.raises(ValueError, match="export=hub and hub_repo=owner/name go together"):
        evaluate_config("checkpoint=x", *overrides)
    with pytest.raises(ValueError, match="hub_repo='name': String should match"):
        evaluate_config("checkpoint=x", "export=hub", "hub_repo=name")
