"""Checkpoint files: complete or absent, the best one kept, and strangers' files read without trust."""
import io
import math
import pickle
import time
from pathlib import Path

import pytest
import torch

from helpers import pretrain_config
from utils.checkpoint import (
    FORMAT_VERSION,
    Checkpoints,
    find_checkpoint,
    load_weights,
    read_checkpoint,
    weights_of,
    write_atomically,
)


def settings(*overrides: str):
    return pretrain_config(*overrides).checkpoint


def saved(checkpoints: Checkpoints, payload: dict, step: int) -> Path:
    """The file of a payload, once it is written."""
    checkpoints.save(payload, step)
    checkpoints.wait()
    return checkpoints.directory / f"step_{step:08d}.ckpt"


def table_model(rows: int, bias: float = 0.0) -> torch.nn.Module:
    """A model with a puzzle table of so many rows of 2."""
    model = torch.nn.Module()
    model.puzzle_emb = torch.nn.Module()
    model.puzzle_emb.register_buffer("weights", torch.arange(2.0 * rows).view(rows, 2))
    model.bias = torch.nn.Parameter(torch.full((3,), bias))
    return model


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def dies_halfway(file):
        file.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, dies_halfway)
    assert [file.name for file in tmp_path.iterdir()] == ["file"] and path.read_text() == "old"
    write_atomically(path, lambda file: file.write_text("new"))
    assert [file.name for file in tmp_path.iterdir()] == ["file"] and path.read_text() == "new"


def test_a_payload_comes_back_as_it_went(tmp_path):
    plain = {"ema_state": None, "step": 7, "config": {"lr": 1e-4, "a": [1, "x"]}}
    file = saved(Checkpoints(tmp_path, settings()), {"model_state": {"w": torch.arange(4)}, **plain}, step=7)
    assert (tmp_path / "latest.txt").read_text() == "step_00000007.ckpt\n"
    loaded = read_checkpoint(file)
    assert torch.equal(loaded.pop("model_state")["w"], torch.arange(4))
    assert loaded == {"format_version": FORMAT_VERSION, "best_val_metric": None, **plain}


def test_what_is_written_is_the_state_at_the_time_of_saving(tmp_path):
    weights = torch.zeros(1 << 22)
    checkpoints = Checkpoints(tmp_path, settings())
    for step in range(1, 6):
        weights.fill_(step)
        checkpoints.save({"carry": {"latents": (weights, [weights])}}, step)
        weights.fill_(-1)
    checkpoints.close()
    for step in range(1, 6):
        first, (second,) = read_checkpoint(tmp_path / f"step_{step:08d}.ckpt")["carry"]["latents"]
        assert (first == step).all() and (second == step).all()


@pytest.mark.parametrize("keep_last, kept", [("null", [1, 2, 3, 4, 5]), ("2", [4, 5]), ("1", [5])])
def test_the_newest_files_are_kept_and_always_the_best(tmp_path, keep_last, kept):
    checkpoints = Checkpoints(tmp_path, settings(f"checkpoint.keep_last={keep_last}"))
    for step in range(1, 6):
        checkpoints.save({"step": step}, step)
        checkpoints.keep_if_best(step, {"val/loss": abs(step - 2)})
    checkpoints.close()
    assert sorted(file.name for file in tmp_path.glob("step_*")) == [f"step_{step:08d}.ckpt" for step in kept]
    assert read_checkpoint(tmp_path / "best.ckpt")["step"] == 2


def test_a_save_is_due_after_so_many_minutes(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    never, often = Checkpoints(tmp_path, settings()), Checkpoints(tmp_path, settings("checkpoint.every_minutes=1.5"))
    due = []
    for now[0] in (0.0, 89.0, 90.0, 170.0, 179.0, 180.0):
        assert not never.due()
        due.append(often.due())
        if due[-1]:
            often.save({}, step=int(now[0]))
    assert due == [False, False, True, False, False, True]


def test_a_disk_that_is_full_costs_no_checkpoint_and_is_tried_again(tmp_path, monkeypatch, limited_file_size):
    now, said = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, settings(), say=said.append)
    good = saved(checkpoints, {"w": torch.zeros(10)}, step=1)
    with limited_file_size(1 << 16):
        saved(checkpoints, {"w": torch.zeros(1 << 20)}, step=2)
        checkpoints.keep_if_best(2, {"val/loss": 0.1})
    assert len(said) == 2 and said[0].startswith("warning: the checkpoint could not be written") and "again" in said[0]
    assert "step_00000002.ckpt was not written" in said[1]
    assert {file.name for file in tmp_path.iterdir()} == {good.name, "latest.txt"}
    assert (tmp_path / "latest.txt").read_text() == good.name + "\n" and read_checkpoint(good)
    assert not checkpoints.due()
    now[0] += 60
    assert checkpoints.due()
    assert read_checkpoint(saved(checkpoints, {"w": torch.zeros(1 << 20)}, step=3)) and not checkpoints.due()


@pytest.mark.parametrize("mode, best", [("min", [1, 2, 2, 4]), ("max", [1, 1, 3, 3])])
def test_best_follows_the_monitor_and_ties_keep_the_earlier(tmp_path, mode, best):
    checkpoints = Checkpoints(tmp_path, settings("checkpoint.monitor=val/x", f"checkpoint.mode={mode}"))
    for step, value in enumerate([0.5, 0.3, 0.9, 0.1], start=1):
        checkpoints.save({"step": step}, step)
        checkpoints.keep_if_best(step, {"val/x": value})
        assert read_checkpoint(tmp_path / "best.ckpt")["step"] == best[step - 1]
    checkpoints.save({"step": 5}, 5)
    checkpoints.keep_if_best(5, {"val/x": 0.1 if mode == "min" else 0.9})
    assert read_checkpoint(tmp_path / "best.ckpt")["step"] == best[-1]
    assert read_checkpoint(saved(checkpoints, {}, 6))["best_val_metric"] == (0.1 if mode == "min" else 0.9)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_is_no_number_is_said_and_never_the_best(tmp_path, mode):
    said = []
    config = settings("checkpoint.monitor=val/x", f"checkpoint.mode={mode}")
    checkpoints = Checkpoints(tmp_path, config, say=said.append)
    best = []
    worse = 0.9 if mode == "min" else 0.1
    for step, value in enumerate([math.nan, 0.5, math.nan, -math.inf, math.inf, worse], start=1):
        checkpoints.save({"step": step}, step)
        checkpoints.keep_if_best(step, {"val/x": value})
        best.append(read_checkpoint(tmp_path / "best.ckpt")["step"] if (tmp_path / "best.ckpt").exists() else None)
    assert best == [None, 2, 2, 2, 2, 2] and checkpoints.best == 0.5
    assert len(said) == 4
    assert said[0] == "warning: val/x is nan at step 1, which is never the best; best.ckpt is as it was"
    checkpoints.keep_if_best(7, {"val/y": 1.0})
    assert said[4].startswith("warning: the evaluation at step 7 has no val/x, so best.ckpt is as it was")


def test_a_step_is_written_only_when_its_write_has_come_to_an_end(tmp_path, limited_file_size):
    checkpoints = Checkpoints(tmp_path, settings())
    assert not checkpoints.holds(1)
    checkpoints.save({"w": torch.zeros(10)}, 1)
    assert checkpoints.holds(1) and not checkpoints.holds(2)
    checkpoints.refuse_unwritten()
    with limited_file_size(1 << 16):
        checkpoints.save({"w": torch.zeros(1 << 20)}, 2)
        assert not checkpoints.holds(2)
    with pytest.raises(OSError, match="step_00000002.ckpt was not written to .*go on with checkpoint.resume=true"):
        checkpoints.refuse_unwritten()


def test_nothing_is_written_where_checkpoints_are_off_or_the_rank_is_not_the_first(tmp_path):
    for checkpoints in (Checkpoints(tmp_path, settings("checkpoint.enabled=False")),
                        Checkpoints(tmp_path, settings(), writes=False)):
        checkpoints.save({"step": 1}, 1)
        checkpoints.keep_if_best(1, {})
        checkpoints.close()
    assert not list(tmp_path.iterdir())


def test_a_path_means_a_file_the_best_of_a_run_or_its_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path, settings())
    first, second = (saved(checkpoints, {"step": step}, step) for step in (1, 2))
    assert find_checkpoint(str(first)) == first
    assert find_checkpoint(tmp_path) == second
    checkpoints.keep_if_best(1, {"val/loss": 1.0})
    assert find_checkpoint(tmp_path) == tmp_path / "best.ckpt"


def test_where_there_is_no_checkpoint_it_is_said(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at .*/nothing: there is no such file or directory"):
        find_checkpoint(tmp_path / "nothing")
    with pytest.raises(ValueError, match="neither best.ckpt nor a latest.txt that names a checkpoint"):
        find_checkpoint(tmp_path)
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=f"did you mean {tmp_path / 'run'}\\?$"):
        find_checkpoint(tmp_path / "runs")
    (tmp_path / "run" / "latest.txt").write_text("step_00000001.ckpt\n")
    with pytest.raises(ValueError, match=f"is a folder of runs; name one of them: {tmp_path / 'run'}$"):
        find_checkpoint(tmp_path)
    (tmp_path / "run" / "latest.txt").unlink()
    (tmp_path / "latest.txt").write_text("step_00000009.ckpt\n")
    with pytest.raises(ValueError, match="neither best.ckpt nor a latest.txt that names a checkpoint"):
        find_checkpoint(tmp_path)


class Harmful:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


def damaged_files(tmp_path):
    whole = io.BytesIO()
    torch.save({"model_state": {"w": torch.ones(1000)}}, whole)
    harmful = io.BytesIO()
    torch.save({"model_state": Harmful(tmp_path / "harm")}, harmful)
    return {"truncated": whole.getvalue()[:-500], "empty": b"", "text": b"no checkpoint", "harmful": harmful.getvalue(),
            "pickle": pickle.dumps(Harmful(tmp_path / "harm"), protocol=2)}


def test_every_flipped_byte_of_the_contents_is_found(tmp_path):
    file = saved(Checkpoints(tmp_path, settings()), {"w": torch.arange(100), "step": 3}, step=1)
    whole = file.read_bytes()
    good = {"w": list(range(100)), "step": 3}
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1:])
        try:
            read = read_checkpoint(file)
        except ValueError as error:
            assert str(file) in str(error)
        else:  # the byte belongs to no content: padding, or a date
            assert {"w": read["w"].tolist(), "step": read["step"]} == good, place


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "harmful", "pickle"])
def test_a_file_that_is_no_checkpoint_is_named_and_runs_no_code(tmp_path, kind):
    (tmp_path / kind).write_bytes(damaged_files(tmp_path)[kind])
    with pytest.raises(ValueError, match=f"{kind} cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / kind)
    assert not (tmp_path / "harm").exists()


def test_a_tensor_or_a_newer_format_is_refused(tmp_path):
    torch.save(torch.ones(2), tmp_path / "tensor")
    with pytest.raises(ValueError, match="tensor holds a Tensor, not a checkpoint"):
        read_checkpoint(tmp_path / "tensor")
    torch.save({"format_version": 99}, tmp_path / "newer")
    with pytest.raises(ValueError, match="newer has format version 99, newer than 2; update"):
        read_checkpoint(tmp_path / "newer")


def test_weights_are_found_in_ours_and_in_published_payloads():
    one, two = torch.ones(1), torch.full((1,), 2.0)
    ours = {"model_state": {"a": one, "b": one}, "ema_state": {"a": two}}
    assert weights_of(ours, use_ema=True) == {"a": two, "b": one}
    assert weights_of(ours, use_ema=False) == {"a": one, "b": one}
    assert weights_of({"model_state": {"a": one}, "ema_state": None}, use_ema=True) == {"a": one}
    for published in ({"_orig_mod.a": one}, {"model_state": {"_orig_mod.a": one}, "step": 3}):
        assert weights_of(published, use_ema=True) == {"a": one}


def test_a_puzzle_table_takes_the_rows_asked_for_and_the_mean_where_there_is_none():
    state = table_model(4, bias=5.0).state_dict()
    same, other = table_model(4), table_model(6)
    load_weights(same, state, "file")
    assert torch.equal(same.puzzle_emb.weights, state["puzzle_emb.weights"])
    load_weights(other, state, "file", torch.tensor([0, -1, 3, 3, -1, 1]))
    assert other.puzzle_emb.weights.tolist() == [[0, 1], [3, 4], [6, 7], [6, 7], [3, 4], [2, 3]]
    assert (other.bias == 5).all()
    with pytest.raises(ValueError, match=r"puzzle_emb.weights is \(4, 2\), expected \(6, 2\)"):
        load_weights(table_model(6), state, "file")


def test_what_does_not_fit_is_listed_and_nothing_is_loaded():
    model = table_model(4, bias=1.0)
    state = {"bias": torch.zeros(9), "puzzle_emb.weights": torch.zeros(4, 5), "old": torch.ones(1)}
    with pytest.raises(ValueError, match=r"x.ckpt does not fit this model: bias is \(9,\), expected \(3,\); old is "
                                         r"unknown to this architecture; puzzle_emb.weights is \(4, 5\), expected "
                                         r"\(4, 2\). Check"):
        load_weights(model, state, "x.ckpt", torch.zeros(4, dtype=torch.long))
    assert (model.bias == 1).all()
    with pytest.raises(ValueError, match="; and 3 more"):
        load_weights(model, {f"unknown{i}": torch.ones(1) for i in range(6)}, "x.ckpt")
