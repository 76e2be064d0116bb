"""The model in a checkpoint: restored from wherever it lies, with data and without, and with other options."""
import json
import resource
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from config.restored import Restored
from config.schema import ArchConfig
from evaluate import score
from helpers import (
    REGRESSION,
    TINY_ARCH,
    evaluate_config,
    pretrain_config,
    resume,
    tiny_batch,
    tiny_metadata,
    write_tiny_dataset,
    write_tiny_episodes,
    write_tiny_regression,
)
from pretrain import train
from test_hub import cached
from utils.checkpoint import read_checkpoint
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
    """The head, for the test data of its run."""
    data = restored.open_data(restored.test_paths, "test", World())
    return restored.head(data, **options)


def logits(head: torch.nn.Module, batch: dict, name: str = "logits") -> torch.Tensor:
    """After one supervision step."""
    head.eval()
    with torch.no_grad():
        return head(carry=head.initial_carry(batch), batch=batch, return_keys=[name])[3][name]


def without_data(restored: Restored, monkeypatch) -> torch.nn.Module:
    """The head, where no data set can be opened."""
    with monkeypatch.context() as patched:
        patched.setattr(Restored, "open_data", None)
        return restored.head()


def written_layouts(run_dir: Path, folder: Path) -> dict[str, Path]:
    """The run, a file of it, and its export."""
    score(evaluate_config(f"checkpoint={run_dir}", "export=safetensors", f"output_dir={folder}"), World())
    return {"run": run_dir, "file": run_dir / "step_00000004.ckpt", "export": folder / "safetensors",
            "file of export": folder / "safetensors" / "model.safetensors"}


def test_a_head_needs_no_data_and_is_the_same_with_them(run_dir, tmp_path, monkeypatch):
    batch = tiny_batch(identifiers=60)
    expected = logits(restored_head(Restored.read(run_dir)), batch)
    for where, path in written_layouts(run_dir, tmp_path).items():
        head = without_data(Restored.read(path), monkeypatch)
        assert torch.equal(logits(head, batch), expected), where
        assert torch.equal(logits(restored_head(Restored.read(path)), batch), expected), where
    stored = without_data(Restored.read(run_dir), monkeypatch).puzzle_embedding.weights
    assert stored.any() and len(stored) == len(Restored.read(run_dir).puzzle_names) == 65


def test_so_it_does_from_the_hub(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    export = written_layouts(run_dir, tmp_path)["export"]
    cached(tmp_path / "cache", {file.name: file for file in export.iterdir()})
    head = without_data(Restored.read("hf://owner/name"), monkeypatch)
    batch = tiny_batch(identifiers=60)
    assert torch.equal(logits(head, batch), logits(restored_head(Restored.read(run_dir)), batch))


def test_a_file_without_sizes_takes_those_of_the_data(run_dir, shared, tmp_path, monkeypatch):
    """Of an older version, and published."""
    old = tmp_path / "old.ckpt"
    payload = read_checkpoint(run_dir / "best.ckpt")
    del payload["data_metadata"]
    torch.save(payload, old)
    batch = tiny_batch(identifiers=60)
    assert torch.equal(logits(Restored.read(old).head(), batch), logits(Restored.read(run_dir).head(), batch))
    score(evaluate_config(f"checkpoint={run_dir}", "export=published", f"output_dir={tmp_path}"), World())
    published = Restored.read(tmp_path / "published")
    assert published.metadata is None and Restored.read(run_dir).metadata.seq_len == 6
    assert torch.equal(logits(published.head(), batch), logits(Restored.read(run_dir).head(), batch))

    theirs = Restored.read((shared / "interop" / "sudoku4" / "checkpoint").resolve())
    monkeypatch.chdir(shared / "interop")  # whose config names the data so
    data = theirs.open_data(["sudoku4"], "test", World())
    batch = data.examples(range(4))
    assert torch.equal(logits(theirs.head(), batch), logits(theirs.head(data), batch))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="step_550 does not tell the sizes of its model, .*: no data set at sudoku4"):
        theirs.head()


def test_a_head_of_regression_and_of_episodes_needs_no_data(tmp_path, monkeypatch):
    for name, write, options in (
            ("sequences", write_tiny_regression, ["arch.loss.normalize=true"]),
            ("flat", lambda path: write_tiny_regression(path, inputs=np.ones((64, 3)), targets=np.ones((64, 2)),
                                                        mask=None), []),
            ("episodes", write_tiny_episodes, ["episode_window=4", "arch.causal=true"])):
        data = write(tmp_path / name)
        run = train(pretrain_config(f"data_paths=[{data}]", f"checkpoint.path={tmp_path / name / 'run'}", REGRESSION,
                                    f"log_dir={tmp_path}", *QUICK, "arch.puzzle_emb_ndim=0", *options), World())
        restored = Restored.read(run)
        batch = restored.open_data([str(data)], "test", World()).first_batch()
        with_data, alone = restored_head(restored), without_data(restored, monkeypatch)
        assert torch.equal(*(logits(head, batch, "preds") for head in (with_data, alone))), name
        assert restored.metadata == restored.open_data([str(data)], "train", World()).metadata, name


@pytest.mark.parametrize("change, message", [
    ({"vocab_size": 2**31 - 1}, r"does not fit this model: .*embed_tokens.embedding_weight is \(5, 16\), expected "
                                r"\(2147483647, 16\)"),
    ({"num_puzzle_identifiers": 10**9}, r"puzzle_emb.weights is \(65, 16\), expected \(1000000000, 16\)"),
    ({"seq_len": 10**9}, "data_metadata .*: seq_len=1000000000 is not from 1 to 1048576"),
    ({"vocab_size": 0}, "vocab_size=0 is not from 1"), ({"holds": "x"}, "holds='x', and there are puzzles, regression"),
    ({"holds": []}, r"holds=\[\]"),
    ({"seq_len": "long"}, "not those of a data set: seq_len='long': Input should be a valid integer"),
    (None, "a NoneType does not describe data"), ([1], "a list does not describe data")])
def test_sizes_in_a_file_that_are_not_those_of_its_tensors_take_no_memory(run_dir, tmp_path, change, message):
    payload = read_checkpoint(run_dir / "best.ckpt")
    payload["data_metadata"] = payload["data_metadata"] | change if isinstance(change, dict) else change
    torch.save(payload, tmp_path / "forged.ckpt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=message):
        Restored.read(tmp_path / "forged.ckpt").head()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB on Linux, bytes elsewhere


def test_a_sequence_that_no_tensor_tells_of_may_be_long_but_not_beyond_measure(run_dir, tmp_path):
    payload = read_checkpoint(run_dir / "best.ckpt")
    payload["config"]["arch"] |= {"hidden_size": 1024, "num_heads": 1}
    payload["data_metadata"]["seq_len"] = 2**20
    planned = ArchConfig.of_file(payload["config"]["arch"], tmp_path).build_head(
        tiny_metadata(num_puzzle_identifiers=65), 1, World())
    torch.save(payload | {"model_state": planned.state_dict(), "ema_state": None}, tmp_path / "forged.ckpt")
    with pytest.raises(ValueError, match="with seq_len=1048576 the model would take 8.6 GB besides its weights"):
        Restored.read(tmp_path / "forged.ckpt").head()


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
    with pytest.raises(ValueError, match="halt_max_steps=5 and arch.halt_max_steps=4: these are names of one number"):
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


@pytest.fixture
def reads(monkeypatch) -> dict[str, Counter]:
    """How often each file was checked by its checksums, and how often loaded, by its name."""
    counted = {"checked": Counter(), "loaded": Counter()}
    real_check, real_load = zipfile.ZipFile.testzip, torch.load

    def check(archive):
        counted["checked"][Path(archive.filename).name] += 1
        return real_check(archive)

    def load(file, **options):
        counted["loaded"][Path(file).name] += 1
        return real_load(file, **options)

    monkeypatch.setattr(zipfile.ZipFile, "testzip", check)
    monkeypatch.setattr(torch, "load", load)
    return counted


@pytest.fixture
def resumable(run_dir, tmp_path, monkeypatch) -> Path:
    """A copy of the run with a newer step file that is damaged."""
    monkeypatch.chdir(tmp_path)  # where the log of a copied run goes
    run = shutil.copytree(run_dir, tmp_path / "run")
    whole = (run / "step_00000004.ckpt").read_bytes()
    (run / "step_00000006.ckpt").write_bytes(whole.replace(b"epoch", b"Epoch"))
    return run


def test_a_resumed_run_reads_each_file_once(resumable, reads):
    resume(resumable, "epochs=2")
    once = {"step_00000004.ckpt": 1, "best.ckpt": 1}
    assert reads["loaded"] == once and reads["checked"] == once | {"step_00000006.ckpt": 1}
    assert read_checkpoint(resumable / "step_00000008.ckpt")["step"] == 8


@pytest.mark.parametrize("name", ["best.ckpt", "step_00000004.ckpt"])
def test_so_does_one_that_goes_on_from_a_file_that_is_named(resumable, reads, name):
    resume(resumable, f"checkpoint.resume_from={name}", "epochs=2")
    assert reads["loaded"] == reads["checked"] == {name: 1} | {"best.ckpt": 1}


def test_a_run_that_is_resumed_does_not_read_what_it_once_started_from(run_dir, tmp_path, reads):
    start = f"load_checkpoint={run_dir / 'step_00000004.ckpt'}"
    first = train(pretrain_config(f"data_paths=[{run_dir.parent / 'data'}]", f"checkpoint.path={tmp_path / 'run'}",
                                  f"log_dir={tmp_path}", *QUICK, start), World())
    assert reads["loaded"] == {"step_00000004.ckpt": 1}
    (first / "step_00000004.ckpt").rename(first / "step_00000003.ckpt")  # so that its name is another
    reads["loaded"].clear()
    resume(first, "epochs=2", start)
    assert reads["loaded"] == {"step_00000003.ckpt": 1, "best.ckpt": 1}


def test_a_look_at_plain_values_takes_no_memory_for_tensors_and_finds_damage(tmp_path):
    file = tmp_path / "best.ckpt"
    torch.save({"step": 7, "model_state": {"w": torch.ones(100_000_000)}}, file)  # 400 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_checkpoint(file, mapped=True)["step"] == 7
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    with open(file, "rb+") as opened:
        opened.seek(200_000_000)
        opened.write(b"\x01")
    with pytest.raises(ValueError, match="the checksum of its part .* is wrong"):
        read_checkpoint(file, mapped=True)
